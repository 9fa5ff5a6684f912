"""Who may look and press: by the token, or by whatever the application knows of its users.

A browser gives the token once, in a form, and gets a cookie that is signed with it: short
in its life, the same for every process of the fleet, and worth nothing when the token is
changed. The cookie that somebody gets for a code is signed as the code was, and is worth
nothing to another application that has the same token. Programs send `Authorization:
Bearer <token>`. There is no rule for loopback addresses: behind a proxy on the same host
everybody has one.
"""

import hashlib
import hmac
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from itsdangerous import BadData, URLSafeSerializer
from webob import Request, Response

from pulse.clock import Clock
from pulse.gateway import Environ
from pulse.guesses import Guesses, given_token
from pulse.request import PORTS
from pulse.sessions.header import CookieForm, cookie_values
from pulse.status.login import read_code

Authenticate = Callable[[Environ], str | None]
Token = Callable[[], str | None]
Spend = Callable[[str, datetime], bool]

COOKIE: Final = "pulse_status"
LIFE: Final = timedelta(hours=8)  # of a login that nobody uses: a working day
RENEW: Final = timedelta(minutes=10)  # a cookie that is older is given anew when it is used
FAILURES: Final = 5  # wrong tokens from one address within WINDOW, before it has to wait
WINDOW: Final = 60.0  # seconds
ADDRESSES: Final = 1024  # that are remembered: an outsider can make them forgotten, but not more
NAME_LENGTH: Final = 40
USER_LENGTH: Final = 200  # of the name of a user, who may have said it to the application themselves
BY_FORM: Final = "somebody with the token"  # who has said no name
BY_LINK: Final = "somebody with a code"
BY_USER: Final = "a user"

_FRESH: Final = timedelta(seconds=60)  # that the clock of another host may be ahead of this one

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Somebody who may look.

    Attributes:
        name: Shown beside what they press.
        session: What their forms are bound to; empty for a program, which has no forms.
        is_program: They sent the token with this very request, which no other site can have done.
        is_user: The application itself knows them.
        is_by_code: They came with a code, and need not know the token.
        is_renewed: Their cookie is to be given anew.
    """

    name: str
    session: str = ""
    is_program: bool = False
    is_user: bool = False
    is_by_code: bool = False
    is_renewed: bool = False

    @property
    def said_name(self) -> str:
        """The name that they have said themselves; empty if none."""
        return "" if self.name in (BY_FORM, BY_LINK) else self.name


PROGRAM: Final = Visitor(name="a program with the token", is_program=True)


class Access:
    """Tells visitors from strangers; safe to use from any thread, and after a fork."""

    def __init__(
        self,
        token: Token,
        authenticate: Authenticate | None,
        clock: Clock,
        *,
        has_form: bool,
        code_key: Token,
        spend: Spend,
    ) -> None:
        """Wire it.

        Args:
            token: Gives the token, or None if there is none.
            authenticate: Gives the name of the user who makes a request; None for a stranger.
            clock: For the life of cookies, and of what is remembered of wrong tokens.
            has_form: Whether people know the token, and may give it in a form.
            code_key: Gives what codes are signed with, or None if it is not known.
            spend: Whether a code for one login is spent for the first time.
        """
        self._token = token
        self._authenticate = authenticate
        self._clock = clock
        self._has_form = has_form
        self._code_key = code_key
        self._spend = spend
        self._attempts = Attempts(clock)
        self._guesses = Guesses("requests to the status page", clock)

    @property
    def token_failures(self) -> int:
        """How many requests of programs had another token."""
        return self._guesses.count

    @property
    def has_login(self) -> bool:
        """Whether there is a token to give in the form."""
        return self._has_form and bool(self._token())

    def log_in_once(self, request: Request, written: str) -> Visitor | None:
        """The visitor who comes with a code that nobody has used before."""
        key = self._code_key()
        code = read_code(key, written, self._clock.now()) if key else None
        if code is None or not self._spend(code.name, code.until):
            self._attempts.failed(request.remote_addr or "")
            log.warning("a wrong code was given at the status page", extra={"pulse_event": "login_refused"})
            return None
        log.info("somebody logged in to the status page by a code", extra={"pulse_event": "logged_in"})
        return Visitor(name=BY_LINK, session=secrets.token_urlsafe(24), is_by_code=True, is_renewed=True)

    def visitor(self, request: Request) -> Visitor | None:
        """Who makes *request*; None for a stranger."""
        if self._authenticate is not None and (name := self._authenticate(request.environ)):
            session = _cookie_of(request)
            made = session or secrets.token_urlsafe(24)
            said = _one_line(str(name), USER_LENGTH) or BY_USER
            return Visitor(name=said, session=made, is_user=True, is_renewed=not session)
        token = self._token()
        if not token:
            return None
        given = given_token(request.environ)
        if given is not None:
            return self._program(given.strip(), token)
        cookie = _cookie_of(request)
        return self._logged_in(cookie, token, is_by_code=False) or self._came_by_code(cookie)

    def may_try(self, request: Request) -> bool:
        """Whether the address of *request* may try a token now."""
        return self._attempts.may_try(request.remote_addr or "")

    def log_in(self, request: Request, given: str, name: str) -> Visitor | None:
        """The visitor who gave the right token in the form, under the *name* that they say."""
        token = self._token()
        address = request.remote_addr or ""
        if not token or not _is_same(given.strip(), token):
            self._attempts.failed(address)
            log.warning("a wrong token was given at the status page", extra={"pulse_event": "login_refused"})
            return None
        self._attempts.forget(address)
        said = _one_line(name, NAME_LENGTH)
        log.info("somebody logged in to the status page", extra={"pulse_event": "logged_in"})
        return Visitor(name=said or BY_FORM, session=secrets.token_urlsafe(24), is_renewed=True)

    def give_cookie(self, response: Response, request: Request, visitor: Visitor, path: str) -> None:
        """Have the browser of *visitor* show who they are, below *path*."""
        until = int((self._clock.now() + LIFE).timestamp())
        signed = [visitor.session, visitor.name, until]
        # Of a user the cookie proves nothing: it only ties their forms to their browser.
        key = self._code_key() if visitor.is_by_code else self._token()
        value = visitor.session if visitor.is_user else str(_serializer(key or "").dumps(signed))
        self._set(response, request, value, path)

    def take_cookie(self, response: Response, request: Request, path: str) -> None:
        """Have the browser forget."""
        self._set(response, request, "", path)

    def form_token(self, visitor: Visitor) -> str:
        """What proves that a form was made for *visitor*; other sites cannot know their session."""
        key = hashlib.sha256((self._token() or "").encode()).digest()
        return hmac.new(key, f"form {visitor.session}".encode(), "sha256").hexdigest()

    def may_press(self, request: Request, visitor: Visitor, given: str) -> bool:
        """Whether *request* was meant by *visitor*, and not made by a page of somebody else."""
        if not is_same_origin(request):
            return False
        return visitor.is_program or _is_same(given, self.form_token(visitor))

    def _program(self, given: str, token: str) -> Visitor | None:
        if _is_same(given, token):
            return PROGRAM
        self._guesses.note()
        return None

    def _came_by_code(self, cookie: str) -> Visitor | None:
        # The store may have to be asked for the key: not for everybody who has no cookie.
        key = self._code_key() if cookie else None
        return self._logged_in(cookie, key, is_by_code=True) if key else None

    def _logged_in(self, cookie: str, key: str, *, is_by_code: bool) -> Visitor | None:
        serializer = _serializer(key)
        try:
            session, name, until = serializer.loads(cookie)
            ends = datetime.fromtimestamp(until, self._clock.now().tzinfo)
        # What was signed is a list of these three; anything else was signed by somebody else.
        except (BadData, ValueError, TypeError, OverflowError, OSError):
            return None
        # Base64 has several spellings for the same bytes: only the one that was given counts.
        if serializer.dumps([session, name, until]) != cookie:
            return None
        rest = ends - self._clock.now()
        if not timedelta(0) < rest <= LIFE + _FRESH:
            return None
        return Visitor(name=name, session=session, is_by_code=is_by_code, is_renewed=rest < LIFE - RENEW)

    def _set(self, response: Response, request: Request, value: str, path: str) -> None:
        form = CookieForm(name=COOKIE, path=path or "/", same_site="strict", max_age=LIFE)
        response.headers.add("Set-Cookie", form.set_cookie(value, is_https=request.scheme == "https"))


class Attempts:
    """Wrong tokens by address, of which a bounded number is remembered; nobody is made to wait in a thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def may_try(self, address: str) -> bool:
        """Whether *address* has failed less than `FAILURES` times within `WINDOW`."""
        failed = self._failed.get(address)
        return failed is None or len(failed) < FAILURES or self._clock.monotonic() - failed[0] > WINDOW

    def failed(self, address: str) -> None:
        """*address* gave a wrong token."""
        self._failed.setdefault(address, deque(maxlen=FAILURES)).append(self._clock.monotonic())
        while len(self._failed) > ADDRESSES:
            self._failed.popitem(last=False)

    def forget(self, address: str) -> None:
        """*address* gave the right one."""
        self._failed.pop(address, None)


def is_same_origin(request: Request) -> bool:
    """Whether *request* comes from a page of this very site, as far as the browser says.

    The scheme is not compared: behind a proxy that ends TLS the application does not know
    it. A proxy may also ask for another host, and say so; no page of another site can add
    that header to a form. What is no browser says nothing.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return bool(site == "same-origin")
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    # Of several proxies each adds the host that it was asked for.
    hosts = f"{request.host},{request.headers.get('X-Forwarded-Host', '')}".lower().split(",")
    return not _hosts_of(origin).isdisjoint(host.strip() for host in hosts)


def _hosts_of(origin: str) -> set[str]:
    """The host of *origin* as proxies tell it: a browser leaves out the port that its scheme has."""
    try:
        scheme, host, *_ = urlsplit(origin.lower())
    except ValueError:
        return set()
    return {host, f"{host}:{PORTS.get(scheme, '')}"} if host else set()


def _cookie_of(request: Request) -> str:
    """The cookie of this page; empty for none. Of several the first: browsers begin with the longest path."""
    # By WebOb's own way one odd cookie of another application is an error of the whole request.
    return next(cookie_values(request.headers.get("Cookie", ""), COOKIE), "")


def _one_line(name: str, length: int) -> str:
    """*name* as it can stand in a table and in a log."""
    return "".join(letter for letter in name if letter.isprintable()).strip()[:length]


def _serializer(key: str) -> URLSafeSerializer:
    return URLSafeSerializer(key, salt="pulse.status", signer_kwargs={"digest_method": hashlib.sha256})


def _is_same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())
