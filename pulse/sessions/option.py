"""The options of the session filter, in the same kind of table as those of tasks."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Final, Literal, cast

from pulse import reader
from pulse.address import require_redis
from pulse.errors import ConfigError, Fault
from pulse.inifile import IniFile
from pulse.option import option, options_of, read_options, shown
from pulse.sessions.header import prefix_faults

_ADDRESS: Final = re.compile(r"memory:|cookie:|(rediss?|unix)://[^\s\x00-\x1f]+")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")  # a token of RFC 9110
_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_SECRETIVE: Final = re.compile(r"secret|passw|pwd|key|token", re.IGNORECASE)


def address(value: object) -> str:
    """The address of a session store."""
    text = value.strip() if isinstance(value, str) else ""
    if not _ADDRESS.fullmatch(text):
        raise ValueError("want memory:, cookie:, redis://host, rediss://host, unix:///path/to/socket or env:NAME")
    if "//" in text:
        require_redis(text)
    return text


def environ_key(value: object) -> str:
    """A key of the environ that an application can ask for."""
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+\.[\w.-]+", value.strip()):
        raise ValueError("want a key with a dot in it, such as pulse.session")
    return value.strip()


def cookie_name(value: object) -> str:
    """The name of a cookie."""
    if not isinstance(value, str) or not _NAME.fullmatch(value.strip()):
        raise ValueError("want a cookie's name: letters, digits and !#$%&'*+.^_`|~-")
    return value.strip()


def domain(value: object) -> str:
    """The name of a host, without a port: with one, browsers drop the cookie."""
    if not isinstance(value, str) or not _DOMAIN.fullmatch(value.strip()):
        raise ValueError("want a host such as example.org, without a port")
    return value.strip()


def cookie_path(value: object) -> str:
    """The path below which a cookie is sent."""
    path = reader.path(value)
    if not path.startswith("/") or "?" in path or ";" in path:
        raise ValueError("want a path that begins with a slash, without a query")
    return path


def cleanup_path(value: object) -> str:
    """The path of the clean-up."""
    path = cookie_path(value).rstrip("/")
    if not path:
        raise ValueError("want a path of its own, such as /sessions/cleanup")
    return path


def secure(value: object) -> bool | Literal["auto"]:
    """A boolean, or `auto` for "as the request came"."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return reader.boolean(value)
    except ValueError:
        raise ValueError("want auto, true or false") from None


def secrets(value: object) -> tuple[str, ...]:
    """Tokens, each as `pulse.reader.token` reads it, with blanks between them."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple):
        raise ValueError("want secrets, as text with blanks between them or as a list")  # noqa: TRY004 - by the contract of readers
    return tuple(reader.token(one) for one in value)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionOptions:
    """How sessions are kept, and what their cookies look like; see the sentence of each option."""

    store: str = option(
        "cookie:",
        reader.from_environment(address),
        "`cookie:`, `memory:`, `redis://`, `rediss://`, `unix://`, `env:NAME`",
        "Where sessions are kept; `cookie:` is the client.",
    )
    secret: str | None = option(
        None,
        reader.optional(reader.token),
        "text, `env:NAME`, `file:/path`",
        "Signs the cookies of `store = cookie:`; by default that of PULSE_SECRET.",
        is_secret=True,
    )
    old_secrets: tuple[str, ...] | None = option(
        None,
        reader.optional(secrets),
        "secrets with blanks between them",
        "With these, cookies may still be signed: how to change a secret.",
        is_secret=True,
    )
    prefix: str = option("pulse", reader.text, "text", "What the keys in Redis begin with.")
    ttl: timedelta = option(  # noqa: RUF009 - option() makes a field
        "14d",
        reader.duration(1, timedelta(days=3650)),
        "duration, 1s to 3650d",
        "How long a session lives that is not used.",
    )
    max_sessions: int = option(
        100_000,
        reader.integer(1, 10**9),
        "whole number, 1 to 1000000000",
        "With `store = memory:`, the most sessions; the one that has rested longest makes room.",
    )
    key: str = option("pulse.session", environ_key, "text", "The key of the environ that holds the session.")
    cookie_name: str = option("pulse-session", cookie_name, "text", "The name of the cookie.")
    cookie_path: str = option("/", cookie_path, "path", "Below which path the cookie is sent.")
    cookie_domain: str | None = option(
        None, reader.optional(domain), "host", "For which domain the cookie is sent; by default the host itself."
    )
    cookie_secure: bool | Literal["auto"] = option(
        "auto", secure, "boolean or `auto`", "Whether only over https; `auto` when it is set over https."
    )
    cookie_http_only: bool = option(
        default=True, read=reader.boolean, unit="boolean", sentence="Whether scripts in the page cannot read it."
    )
    cookie_same_site: str = option(
        "lax", reader.choice("lax", "strict", "none"), "`lax`, `strict`, `none`", "With which requests of other sites."
    )
    cookie_max_age: timedelta | None = option(  # noqa: RUF009 - option() makes a field
        None,
        reader.optional(reader.duration(1, timedelta(days=400))),  # browsers keep none longer
        "duration, 1s to 400d",
        "How long a browser keeps it; by default until it is closed.",
    )
    cleanup: str | None = option(
        None,
        reader.optional(cleanup_path),
        "path",
        "Where the filter removes expired sessions when Pulse requests it; everybody else passes.",
    )

    def __post_init__(self) -> None:
        """Read what was written.

        Raises:
            ConfigError: (a ValueError) naming every fault.
        """
        faults = read_options(self)
        named = options_of(SessionOptions)
        if self.store != "cookie:":
            faults += [
                named[name].fault(getattr(self, name), "want it with store = cookie: only, where it signs the cookies")
                for name in ("secret", "old_secrets")
                if getattr(self, name) is not None
            ]
        if self.cookie_same_site == "none" and self.cookie_secure is not True:
            faults.append(
                named["cookie_same_site"].fault(
                    "none", "want cookie_secure = true with it, or browsers drop the cookie"
                )
            )
        if not faults:
            faults += self._prefix_faults()
        if faults:
            raise ConfigError(faults)

    def _prefix_faults(self) -> list[Fault]:
        named = options_of(SessionOptions)
        is_secure = None if self.cookie_secure == "auto" else self.cookie_secure
        wants = prefix_faults(self.cookie_name, is_secure=is_secure, domain=self.cookie_domain, path=self.cookie_path)
        return [
            named[f"cookie_{attribute}"].fault(
                getattr(self, f"cookie_{attribute}"),
                f"want {wanted} with cookie_name = {self.cookie_name}, or browsers drop the cookie",
            )
            for attribute, wanted in wants
        ]


def read_session_options(
    written: Mapping[str, object], *, where: Callable[[str], str] = lambda _: ""
) -> SessionOptions:
    """The options that were written.

    Args:
        written: Values by the name of their option, as in an ini file or in Python.
        where: File and section of an option, for messages.

    Raises:
        ConfigError: (a ValueError) naming every fault.
    """
    known = options_of(SessionOptions)
    found = [_unknown(name, value) for name, value in written.items() if name not in known]
    try:
        read = SessionOptions(
            **cast("dict[str, Any]", {name: value for name, value in written.items() if name in known})
        )
    except ConfigError as error:
        found += error.faults
    if found:
        raise ConfigError([_placed(fault, where) for fault in found])
    return read


def refuse_options_of_store(written: Mapping[str, object]) -> None:
    """Refuse what says how a store is made, where a store is given that was made before: it would be ignored.

    Raises:
        ConfigError: (a ValueError) naming every such option.
    """
    named = options_of(SessionOptions)
    unused = [name for name in ("secret", "old_secrets", "prefix", "ttl", "max_sessions") if name in written]
    if unused:
        raise ConfigError([named[name].fault(written[name], "want it where the store is made") for name in unused])


def read_filter_options(global_conf: Mapping[str, str] | None, local_conf: Mapping[str, str]) -> SessionOptions:
    """The options of a filter's own section; those of `[DEFAULT]` are meant for others.

    Raises:
        ConfigError: (a ValueError) naming every fault, with file and section where they are known.
    """
    ini = IniFile((global_conf or {}).get("__file__") or "")
    return read_session_options(local_conf, where=ini.place)


def _unknown(name: str, value: object) -> Fault:
    close = get_close_matches(name, options_of(SessionOptions), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; want one of {', '.join(options_of(SessionOptions))}"
    # A misspelt secret is still one.
    return Fault(key=name, shown=shown(value, is_secret=bool(_SECRETIVE.search(name))), problem=f"unknown option{hint}")


def _placed(fault: Fault, where: Callable[[str], str]) -> Fault:
    return Fault(key=fault.key, shown=fault.shown, problem=fault.problem, where=fault.where or where(fault.key))
