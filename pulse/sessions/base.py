"""What every store of sessions is: a dict for each session id."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pulse.errors import PulseError

Session = dict[str, Any]


class SessionTooLarge(PulseError, ValueError):  # noqa: N818 - part of the published interface
    """A session that does not fit into its cookie.

    Attributes:
        size: Bytes that the cookie's value would have.
        limit: Bytes that it may have.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the session makes a cookie of {size} bytes, {limit} are allowed; "
            "keep large values on the server, and their keys in the session"
        )


class SessionStore(ABC):
    """Sessions kept on the server: a dict for each session id.

    Subclasses implement `get`, `create`, `delete` and `save`; the other methods have defaults
    that work over these four. All may be called from several event loops, one after the
    other, where a WSGI server and its background loop use one store.
    """

    async def init(self) -> None:  # noqa: B027 - most stores need none
        """Prepare the store; awaited once in a process, before its first use."""

    async def close(self) -> None:  # noqa: B027 - most stores need none
        """Release what `init` has opened."""

    @abstractmethod
    async def get(self, sid: str) -> Session | None:
        """The data of the session *sid*; None if there is no such session, or no longer."""

    @abstractmethod
    async def create(self, sid: str) -> Session:
        """Make the session *sid*, and return its initial data: an empty dict, as a rule."""

    @abstractmethod
    async def delete(self, sid: str) -> None:
        """Forget the session *sid*; no error if there is none."""

    @abstractmethod
    async def save(self, sid: str, session: Session) -> None:
        """Keep *session* as the data of *sid*."""

    async def replace(self, sid: str, session: Session) -> bool:
        """Save *session*, unless *sid* has ended meanwhile; whether it was saved.

        Without this, a slow request would bring a session back that a logout has just ended.
        """
        return await self.change(sid, lambda _kept: session)

    async def change(self, sid: str, change: Callable[[Session], Session]) -> bool:
        """Keep what *change* makes of the data of *sid*, unless that has ended meanwhile; whether it was kept.

        So requests of one session that overlap lose nothing of each other. The stores here do
        it in one step, for which *change* may be called several times; this default does it in two.
        """
        kept = await self.get(sid)
        if kept is None:
            return False
        await self.save(sid, change(kept))
        return True

    async def rename(self, old: str, new: str, session: Session) -> None:
        """End the session *old* and go on as *new*, with the data *session*."""
        await self.create(new)
        await self.save(new, session)
        await self.delete(old)

    async def sweep(self) -> int:
        """Free what has expired; how many sessions have since the last call.

        Stores whose records go by themselves have nothing to do here.
        """
        return 0


def new_key() -> str:
    """A session id that nobody can guess: 256 bits, in characters that every cookie takes."""
    return secrets.token_urlsafe(32)


def seconds_of(name: str, span: float | timedelta | None) -> float | None:
    """*span* in seconds; None is no limit.

    Raises:
        ValueError: it is not a time to live; the message names the argument.
    """
    if span is None:
        return None
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise ValueError(f"{name} = {span!r}: want more than 0 seconds, or None for no limit")
    return float(seconds)
