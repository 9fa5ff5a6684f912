"""Cookies as they stand in headers: what a client sent, and what it is to keep."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.cookies import Morsel
from typing import Any, Final

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 6265, section 4.1.1
_VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")
_ATTRIBUTE: Final = re.compile(r"[\x20-\x3a\x3c-\x7e]*")  # no semicolon, no control character
_BLANK: Final = " \t"
_SAME_SITE: Final = {"lax": "Lax", "strict": "Strict", "none": "None"}

_HOST: Final = "__host-"

GONE: Final = "Thu, 01 Jan 1970 00:00:00 GMT"


def cookie_values(header: str, name: str) -> Iterator[str]:
    """The values of the cookie *name* in a `Cookie` header, as they stand there; odd ones are passed over.

    A name may stand there repeatedly: a parent domain and a longer path each have a cookie of
    their own.
    """
    if name not in header:
        return
    for pair in header.split(";"):
        key, _, value = pair.partition("=")
        # Blanks and tabs alone (RFC 6265, 5.2): what else is a space to Python makes another name to a browser,
        # which lets any host below the same domain set that cookie, also where this name has a prefix.
        text = value.strip(_BLANK)
        if len(text) >= 2 and text[0] == text[-1] == '"':
            text = text[1:-1]
        if key.strip(_BLANK) == name and _VALUE.fullmatch(text):
            yield text


def prefix_faults(
    name: str, *, is_secure: bool | None, domain: str | None, path: str | None
) -> Iterator[tuple[str, str]]:
    """What a browser has against a cookie by the prefix of its *name*: attribute by attribute, what it wants."""
    if is_prefixed(name) and is_secure is False:
        yield "secure", "true"
    if name.lower().startswith(_HOST) and domain is not None:
        yield "domain", "none"
    if name.lower().startswith(_HOST) and path != "/":
        yield "path", "/"


def is_prefixed(name: str) -> bool:
    """Whether browsers take a cookie of this *name* only if it is `Secure`."""
    return name.lower().startswith((_HOST, "__secure-"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CookieForm:
    """How a cookie is set: its name and attributes, which may be given as bytes too.

    Attributes:
        name: A token of RFC 6265.
        path: Below which it is sent.
        domain: For which it is sent, with all below it; None for this very host.
        secure: Whether only over https; None for "as the request came", and for a name that wants it always.
        http_only: Whether scripts in the page cannot read it.
        same_site: `lax`, `strict`, `none` (which wants `secure`) or None.
        max_age: How long a browser keeps it; None until the browser is closed.
        expires: The same as an instant; naive ones are UTC.
    """

    name: str
    path: str | None = "/"
    domain: str | None = None
    secure: bool | None = None
    http_only: bool = True
    same_site: str | None = "lax"
    max_age: float | timedelta | None = None
    expires: datetime | None = None
    _plain: str = field(init=False, repr=False, default="")
    _secure: str = field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        for attribute in ("name", "path", "domain", "same_site"):
            value = getattr(self, attribute)
            object.__setattr__(self, attribute, value.decode("latin-1") if isinstance(value, bytes) else value)
        self._refuse_faults()
        if self.secure is None and is_prefixed(self.name):
            object.__setattr__(self, "secure", True)  # behind a proxy that does not tell of https, too
        # All but the value is the same each time.
        object.__setattr__(self, "_plain", self._attributes(is_secure=False))
        object.__setattr__(self, "_secure", self._attributes(is_secure=True))

    def set_cookie(self, value: str, *, is_https: bool) -> str:
        """The value of a `Set-Cookie` header with *value*; an empty one makes the client forget it."""
        is_secure = is_https if self.secure is None else self.secure
        attributes = self._secure if is_secure else self._plain
        if value:
            return f"{self.name}={value}{attributes}"
        kept = [part for part in attributes.split("; ") if not part.startswith(("expires=", "Max-Age="))]
        return f"{self.name}={'; '.join(kept)}; Max-Age=0; expires={GONE}"

    def _refuse_faults(self) -> None:
        """Say what no browser would take.

        Raises:
            ValueError: an attribute; the message names it.
        """
        if not isinstance(self.name, str) or not _TOKEN.fullmatch(self.name):
            raise ValueError(f"cookie_name = {self.name!r}: want letters, digits and !#$%&'*+.^_`|~-")
        for attribute in ("path", "domain"):
            value = getattr(self, attribute)
            if value is not None and not (isinstance(value, str) and _ATTRIBUTE.fullmatch(value)):
                raise ValueError(f"{attribute} = {value!r}: want ASCII text without semicolons")
        if self.path is not None and not self.path.startswith("/"):
            raise ValueError(f"path = {self.path!r}: want it to begin with a slash, or browsers take another")
        if self.domain is not None and (":" in self.domain or not self.domain):
            raise ValueError(f"domain = {self.domain!r}: want a host without a port; None for the host of the request")
        for attribute, wanted in prefix_faults(self.name, is_secure=self.secure, domain=self.domain, path=self.path):
            shown = f"{attribute} = {getattr(self, attribute)!r}"
            raise ValueError(f"{shown}: want {wanted} with cookie_name = {self.name!r}, or browsers drop the cookie")
        self._refuse_spans()
        if self.same_site is not None and str(self.same_site).lower() not in _SAME_SITE:
            raise ValueError(f"same_site = {self.same_site!r}: want lax, strict, none, or None to leave it out")
        if str(self.same_site).lower() == "none" and self.same_site is not None and not self.secure:
            raise ValueError("same_site = 'none': want secure = True with it, or browsers drop the cookie")

    def _refuse_spans(self) -> None:
        if self._seconds is not None and not 1 <= self._seconds < float("inf"):
            raise ValueError(f"max_age = {self.max_age!r}: want 1 second or more, or browsers drop the cookie at once")
        if self.expires is not None and not isinstance(self.expires, datetime):
            raise ValueError(f"expires = {self.expires!r}: want a datetime, or None")

    @property
    def _seconds(self) -> float | None:
        """The greatest age; not a number if it is none."""
        age = self.max_age.total_seconds() if isinstance(self.max_age, timedelta) else self.max_age
        if age is None or (isinstance(age, int | float) and not isinstance(age, bool)):
            return age
        return float("nan")

    def _attributes(self, *, is_secure: bool) -> str:
        morsel: Morsel[str] = Morsel()
        morsel.set(self.name, "", "")
        for key, value in self._pairs(is_secure=is_secure):
            morsel[key] = value
        return morsel.OutputString().partition("=")[2]

    def _pairs(self, *, is_secure: bool) -> Iterator[tuple[str, Any]]:
        if self.path is not None:
            yield "path", self.path
        if self.domain is not None:
            yield "domain", self.domain
        if self._seconds is not None:
            yield "max-age", int(self._seconds)
        if self.expires is not None:
            at = self.expires if self.expires.tzinfo else self.expires.replace(tzinfo=UTC)
            yield "expires", format_datetime(at.astimezone(UTC), usegmt=True)
        if self.same_site is not None:
            yield "samesite", _SAME_SITE[self.same_site.lower()]
        yield "httponly", self.http_only
        yield "secure", is_secure
