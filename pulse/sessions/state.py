"""Sessions of any `pulse.state` store, memory or Redis: who it is, and what an application keeps about them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from pulse.clock import Clock, SystemClock
from pulse.sessions.base import Session, SessionStore, seconds_of
from pulse.sessions.memory import TTL
from pulse.state import base as state
from pulse.state.types import SESSION_DATA, UserSession

PROLONGED: Final = 0.1  # of its time to live has to be over before a use prolongs a session; so much it may end early
NOBODY = ""  # the user of a session that nobody has logged in to


class StateSessionStore(SessionStore):
    """A `pulse.SessionStore` over a `pulse.state.SessionStore`.

    The data lies in the record of the session under one private metadata key, so that
    nothing in it can grant a right. Sessions without a user are made here and live as long as
    they are used; how long one with a user lives is for those who made it to say.

    Attributes:
        store: The store of `pulse.state`.
    """

    def __init__(
        self, store: state.SessionStore, *, ttl: float | timedelta | None = TTL, clock: Clock | None = None
    ) -> None:
        """Wrap *store*.

        Args:
            store: Where the records are.
            ttl: A timedelta, or seconds, that a session without a user rests unused before it
                expires, or up to a tenth less; None for what *store* was built with.
            clock: For tests: that of *store*.

        Raises:
            ValueError: *ttl* is of no use.
        """
        self.store = store
        self._ttl = seconds_of("ttl", ttl)
        self._clock = clock or SystemClock()

    async def get(self, sid: str) -> Session | None:
        record = await self.look_up(sid)
        return None if record is None else data_of(record)

    async def look_up(self, sid: str) -> UserSession | None:
        """The record of the session *sid*, prolonged as by `get`; None if there is none, or no longer."""
        record = await self.store.get_session(sid)
        if record is not None and self._is_ageing(record):
            await self.store.refresh_session(sid)
        return record

    async def create(self, sid: str) -> Session:
        """See `SessionStore.create`; who somebody is outlasts it."""
        await self.save(sid, {})
        return {}

    async def delete(self, sid: str) -> None:
        await self.store.delete_session(sid)

    async def save(self, sid: str, session: Session) -> None:
        """See `SessionStore.save`.

        Raises:
            TypeError: something in *session* cannot be kept.
        """
        if not await self.replace(sid, session):
            await self._write(sid, session)

    async def replace(self, sid: str, session: Session) -> bool:
        """See `SessionStore.replace`; in one step."""
        return await self.store.keep_data(sid, session, self._ttl)

    async def change(self, sid: str, change: Callable[[Session], Session]) -> bool:
        """See `SessionStore.change`; in one step."""
        return await self.store.change_data(sid, change, self._ttl)

    async def rename(self, old: str, new: str, session: Session) -> None:
        """See `SessionStore.rename`; who it is goes along. In one step."""
        if not await self.store.move_session(old, new, session, self._ttl):
            await self._write(new, session)

    async def sweep(self) -> int:
        return await self.store.sweep()

    async def _write(self, sid: str, session: Session) -> None:
        """Keep *session* in a record of nobody's."""
        seconds: Any = self._ttl
        await self.store.create_session(sid, NOBODY, ttl=seconds, metadata={SESSION_DATA: session})

    def _is_ageing(self, record: UserSession) -> bool:
        if record.user_id != NOBODY or self._ttl is None or record.expires_at is None:
            return False
        # Only now and then: each time would be a write for each request that reads.
        return record.expires_at - self._clock.now().timestamp() < self._ttl * (1 - PROLONGED)


def data_of(record: UserSession) -> Session:
    """What an application keeps in *record*; the very dict that is in it, if there is one."""
    data = record.metadata.get(SESSION_DATA)
    return data if isinstance(data, dict) else {}
