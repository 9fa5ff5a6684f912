"""Sessions that the client keeps: signed, bounded, and never emptied in silence."""

import hashlib
import hmac
import logging
import os
import secrets
import zlib
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from typing import Any, Final

from itsdangerous import BadData, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode

from pulse import codec
from pulse.clock import Clock, SystemClock
from pulse.sessions.base import Session, SessionTooLarge, seconds_of
from pulse.state.settings import is_deploy_mode

SECRET: Final = "PULSE_SECRET"  # noqa: S105 - the name of the variable
ENVIRONMENT: Final = "PULSE_ENV"
SKEW: Final = timedelta(seconds=60)  # that the clock of the host which signed may be ahead of this one
SHORT: Final = 512  # bytes that fit as they are: compressing takes as long as all the rest together

_PRODUCTION: Final = frozenset({"prod", "production"})

log = logging.getLogger(__name__)


class CookieSessionStore:
    """Sessions in signed cookies; nothing is kept on the server, so nothing has to be swept.

    The client can read its session, and cannot change it. A cookie that was sent once stays
    valid until its `max_age` ends: give one, and keep what must end at once on the server.
    Safe to use from any thread.

    Attributes:
        salt: What the cookies are for; those of another salt are refused.
        digestmod: The hash of the signature.
        max_cookie_bytes: The longest value that `encode` gives.
        max_age: Seconds for which a cookie is accepted; None for ever.
    """

    def __init__(
        self,
        secret: str | bytes | None = None,
        *,
        salt: str = "pulse.session",
        digestmod: str = "sha256",
        max_cookie_bytes: int = 3800,
        max_age: float | timedelta | None = None,
        old_secrets: Iterable[str | bytes] = (),
        clock: Clock | None = None,
    ) -> None:
        """Wire the store.

        Args:
            secret: What signs; by default that of the environment variable PULSE_SECRET. While
                developing, a random one takes its place, and sessions end with the process.
            salt: Separates the cookies of applications that share a secret.
            digestmod: A hash by its name in `hashlib`.
            max_cookie_bytes: Browsers take 4096 bytes with the name and the attributes.
            max_age: A timedelta, or seconds, for which a cookie is accepted after it was issued.
            old_secrets: Those that cookies may still be signed with: how to change a secret.
            clock: For tests: `pulse.testing.ManualClock`.

        Raises:
            RuntimeError: there is no secret, or one of blanks, in production (PULSE_ENV, PULSE_DEPLOY_MODE).
            TypeError: the secret is neither text nor bytes.
            ValueError: another argument is of no use; the message names it.
        """
        if isinstance(max_cookie_bytes, bool) or not isinstance(max_cookie_bytes, int) or max_cookie_bytes < 1:
            raise ValueError(f"max_cookie_bytes = {max_cookie_bytes!r}: want 1 or more")
        self.salt = salt
        self.digestmod = _known_digest(digestmod)
        self.max_cookie_bytes = max_cookie_bytes
        self.max_age = seconds_of("max_age", max_age)
        self._clock = clock or SystemClock()
        newest = _given(secret) or _given(os.environ.get(SECRET)) or _secret_for_development()
        # From the oldest to the newest, which signs.
        keys = [_signing_key(one, salt, digestmod) for one in (*_texts(old_secrets), newest)]
        self._signer = _Signer(self._clock, keys, digestmod)

    def __repr__(self) -> str:
        return f"CookieSessionStore(salt={self.salt!r}, digestmod={self.digestmod!r}, secret=***)"

    def encode(self, sid: str, session: Session) -> str:
        """The cookie value that carries *session*, which is not changed.

        Raises:
            SessionTooLarge: (a ValueError) it would be longer than `max_cookie_bytes`.
            TypeError: something in *session* cannot be kept; the message says what.
            ValueError: *session* holds itself, or is nested too deeply.
        """
        if not isinstance(sid, str) or not isinstance(session, dict):
            raise TypeError(f"want an id that is text and a dict, not {type(sid).__name__}, {type(session).__name__}")
        value = self._signer.sign(_packed([sid, session])).decode("ascii")
        if len(value) > self.max_cookie_bytes:
            raise SessionTooLarge(len(value), self.max_cookie_bytes)
        return value

    def decode(self, cookie: str) -> tuple[str, Session] | None:
        """The session id and the data in *cookie*; None unless it is, to the letter, one that was issued here."""
        found = self.read(cookie)
        return found and found[:2]

    def read(self, cookie: str) -> tuple[str, Session, timedelta] | None:
        """As `decode`, and how long ago the cookie was issued."""
        if not isinstance(cookie, str) or not _is_canonical(cookie):
            return None
        try:
            packed, issued = self._signer.unsign(cookie, return_timestamp=True)
            payload = _unpacked(packed)
        # What was signed by something else may be anything, its timestamp too.
        except (BadData, ValueError, OverflowError, OSError, zlib.error):
            return None
        age = self._clock.now() - issued
        if not self._is_in_time(age) or not _is_session(payload):
            return None
        return payload[0], payload[1], age

    def _is_in_time(self, age: timedelta) -> bool:
        return self.max_age is None or -SKEW <= age <= timedelta(seconds=self.max_age)


def is_production() -> bool:
    """Whether a secret must be given: PULSE_ENV says so, or this is a deployment of many workers."""
    return os.environ.get(ENVIRONMENT, "").strip().lower() in _PRODUCTION or is_deploy_mode()


def _given(secret: object) -> str | bytes | None:
    """*secret*, if it is one; None for one that is empty, or of blanks."""
    if secret is None:
        return None
    if not isinstance(secret, str | bytes):
        raise TypeError(f"secret: want text or bytes, not {type(secret).__name__}")  # which may be secret itself
    return secret if secret.strip() else None


def _known_digest(name: str) -> str:
    try:
        hmac.digest(b"key", b"", name)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"digestmod = {name!r}: want a hash of hashlib, such as sha256 or blake2b") from None
    return name


def _secret_for_development() -> str:
    """A secret for this process alone.

    Raises:
        RuntimeError: this is production, where another process must read the same cookies.
    """
    if is_production():
        raise RuntimeError(f"{SECRET} is not set: sessions in signed cookies want a secret in production")
    log.warning(
        "%s is not set: sessions are signed with a random secret, and end with this process",
        SECRET,
        extra={"pulse_event": "random_secret"},
    )
    return _random_secret()


@cache
def _random_secret() -> str:
    # One for all stores of a process and of its forks: two of them must read each other's cookies.
    return secrets.token_urlsafe(32)


def _texts(old_secrets: Iterable[str | bytes]) -> tuple[str | bytes, ...]:
    if isinstance(old_secrets, str | bytes):
        return (old_secrets,)  # not its letters, each of which would be a valid secret
    known = tuple(old_secrets) if isinstance(old_secrets, Iterable) else None
    if known is None or not all(isinstance(one, str | bytes) and one.strip() for one in known):
        raise ValueError("old_secrets: want texts that are not empty")
    return known


def _signing_key(secret: str | bytes, salt: str, digestmod: str) -> bytes:
    """The key for *secret* and *salt*, which are kept apart: neither can borrow letters from the other."""
    own = secret.encode() if isinstance(secret, str) else secret
    # Hashed first: HMAC takes a key with zero bytes behind it for the same key.
    return hmac.digest(hashlib.sha256(own).digest(), salt.encode(), digestmod)


class _Signer(TimestampSigner):
    """Takes the time from the clock of its store."""

    def __init__(self, clock: Clock, keys: list[bytes], digestmod: str) -> None:
        super().__init__(keys, key_derivation="none", digest_method=digestmod)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock.now().timestamp())


def _packed(payload: object) -> bytes:
    """*payload* in characters that a cookie takes; behind a dot if it is compressed."""
    text = codec.dumps(payload).encode()
    if len(text) >= SHORT:
        compressed = zlib.compress(text)
        if len(compressed) < len(text):
            return b"." + base64_encode(compressed)
    return base64_encode(text)


def _unpacked(packed: bytes) -> Any:
    """What `_packed` was given.

    Raises:
        BadData, ValueError, zlib.error: something else has made it.
    """
    if packed.startswith(b"."):
        return codec.loads(zlib.decompress(base64_decode(packed[1:])))
    return codec.loads(base64_decode(packed))


def _is_canonical(cookie: str) -> bool:
    """Whether the signature is spelt as it is issued: base64 has several spellings for the same bytes."""
    _, dot, signature = cookie.rpartition(".")
    if not dot or not cookie.isascii():
        return False
    try:
        return base64_encode(base64_decode(signature)) == signature.encode()
    except BadData:
        return False


def _is_session(payload: Any) -> bool:
    match payload:
        case [str(), dict()]:
            return True
    return False
