"""Codes that log in once: for whoever may start the server, and need not know a token.

`pulse serve` prints one, and `pulse login-code` makes another. A code is signed with the
secret of the application in its run store, and with its token if it has one: another
application that was given the same token takes no code for its own. It opens the status
page only, within ten minutes, and is spent in the store of the whole fleet.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from itsdangerous import BadData, URLSafeSerializer

LIFE: Final = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """What a sound code says: its name, under which it is spent, and when it ends."""

    name: str
    until: datetime


def code_key(token: str | None, secret: str) -> str:
    """What the codes of a status page are signed with: its *token*, and the *secret* of its run store."""
    return f"{token or ''}{secret}"


def make_code(key: str, now: datetime) -> str:
    """A new code, for the status page whose `code_key` is *key*."""
    return str(_serializer(key).dumps([secrets.token_urlsafe(12), int((now + LIFE).timestamp())]))


def read_code(key: str, written: str, now: datetime) -> Code | None:
    """The code that was *written*; None for what is none, or has ended."""
    try:
        name, until = _serializer(key).loads(written)
        code = Code(name=str(name), until=datetime.fromtimestamp(until, UTC))
    # What was signed is a list of these two; anything else was signed by somebody else.
    except (BadData, ValueError, TypeError, OverflowError, OSError):
        return None
    return code if now < code.until else None


def _serializer(key: str) -> URLSafeSerializer:
    return URLSafeSerializer(key, salt="pulse.login-code", signer_kwargs={"digest_method": hashlib.sha256})
