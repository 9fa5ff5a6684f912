"""Sessions in the memory of one process: bounded, and freed when they expire."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from pulse.clock import Clock, SystemClock
from pulse.sessions.base import Session, SessionStore, seconds_of
from pulse.sessions.snapshot import Loaded, change_of, copied
from pulse.sessions.storage import SessionStorage
from pulse.state.lock import ProcessLock
from pulse.state.shelf import LIMIT, Shelf

TTL: Final = timedelta(days=14)  # as long as people expect to be remembered


class Drawer:
    """Dicts by key, each for as long as it rests unused; safe to use from any thread, and after a fork."""

    def __init__(self, ttl: float | timedelta | None, most: int | None, clock: Clock | None) -> None:
        """See `_InMemory`.

        Raises:
            ValueError: *ttl* or *most* is of no use.
        """
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ValueError(f"max_sessions = {most!r}: want 1 or more, or None for no limit")
        self._ttl = seconds_of("ttl", ttl)
        self._now = (clock or SystemClock()).monotonic
        self._shelf: Shelf[Session] = Shelf(self._now, limit=sys.maxsize if most is None else most)
        self._expired = 0
        self._lock = ProcessLock()

    def __len__(self) -> int:
        with self._step():
            return len(self._shelf)

    def use(self, key: str) -> Session | None:
        """The dict itself that is kept as *key*, whose time begins anew; None if there is none."""
        with self._step():
            session = self._shelf.get(key)
            if session is not None:
                self._put(key, session)
            return session

    def put(self, key: str, session: Session, *, only_known: bool = False) -> bool:
        """Keep *session* itself as *key*; whether it is kept, which an unknown one may not be."""
        with self._step():
            if only_known and key not in self._shelf:
                return False
            self._put(key, session)
            return True

    def change(self, key: str, change: Callable[[Session | None], Session], *, only_known: bool = False) -> bool:
        """Keep as *key* what *change* makes of its dict, in one step; as `put`, and what becomes empty is forgotten."""
        with self._step():
            kept = self._shelf.get(key)
            if only_known and kept is None:
                return False
            self._put_or_drop(key, change(kept))
            return True

    def move(self, old: str, new: str, change: Callable[[Session | None], Session]) -> None:
        """The same, kept as *new* from now on."""
        with self._step():
            self._put_or_drop(new, change(self._shelf.pop(old)))

    def drop(self, key: str) -> None:
        """Forget *key*; no error if it is not known."""
        with self._step():
            self._shelf.pop(key)

    def sweep(self) -> int:
        """Free what has expired; how many have since the last call."""
        with self._step():
            expired, self._expired = self._expired, 0
            return expired

    def _put_or_drop(self, key: str, session: Session) -> None:
        if session:
            self._put(key, session)
        else:
            self._shelf.pop(key)

    def _put(self, key: str, session: Session) -> None:
        # Put anew and not prolonged: the shelf makes room by dropping what was put first.
        self._shelf.put(key, session, None if self._ttl is None else self._now() + self._ttl)

    @contextmanager
    def _step(self) -> Iterator[None]:
        """One step, before which all that has expired is freed and counted."""
        with self._lock:
            self._expired += self._shelf.sweep()
            yield


class _InMemory:
    """What the two ways to keep sessions in memory have in common."""

    def __init__(
        self,
        *,
        ttl: float | timedelta | None = TTL,
        max_sessions: int | None = LIMIT,
        clock: Clock | None = None,
    ) -> None:
        """Nothing is kept yet.

        Args:
            ttl: A timedelta, or seconds, that a session rests unused before it expires.
            max_sessions: When there are more, the one that has rested longest is dropped.
            clock: For tests: `pulse.testing.ManualClock`.

        Raises:
            ValueError: *ttl* or *max_sessions* is of no use.
        """
        self._drawer = Drawer(ttl, max_sessions, clock)

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._drawer)

    async def sweep(self) -> int:
        """Free what has expired; how many sessions have since the last call."""
        return self._drawer.sweep()


class InMemorySessionStore(_InMemory, SessionStore):
    """Sessions in the memory of this process: lost on restart, and not seen by other workers.

    What is saved is copied, and what is given out too. Each use of a session gives it its
    whole time again. Expired ones are freed by whatever is done next with the store.
    """

    async def get(self, sid: str) -> Session | None:
        session = self._drawer.use(sid)
        return None if session is None else copied(session)

    async def create(self, sid: str) -> Session:
        self._drawer.put(sid, {})
        return {}

    async def delete(self, sid: str) -> None:
        self._drawer.drop(sid)

    async def save(self, sid: str, session: Session) -> None:
        """See `SessionStore.save`.

        Raises:
            TypeError: something in *session* cannot be copied.
        """
        self._drawer.put(sid, copied(session))

    async def replace(self, sid: str, session: Session) -> bool:
        """See `SessionStore.replace`; in one step."""
        return self._drawer.put(sid, copied(session), only_known=True)

    async def change(self, sid: str, change: Callable[[Session], Session]) -> bool:
        """See `SessionStore.change`; in one step. What becomes empty is forgotten."""
        return self._drawer.change(sid, lambda kept: copied(change(kept or {})), only_known=True)


class MemorySessionStorage(_InMemory, SessionStorage):
    """Sessions in the memory of this process.

    Each request works on a copy, and what it has set and deleted when it is saved is merged
    into what is kept: requests of one session that overlap lose nothing of each other, and
    one that fails leaves nothing behind. What cannot be copied is shared by all of them.
    """

    async def load(self, key: str) -> Session:
        return Loaded(key, self._drawer.use(key) or {})

    async def save(self, key: str, session: Session) -> None:
        """See `SessionStorage.save`; what was not loaded as *key* takes the place of what is kept."""
        if session:
            self._drawer.change(key, change_of(key, session))
        else:
            self._drawer.drop(key)

    async def replace(self, key: str, session: Session) -> bool:
        """See `SessionStorage.replace`; in one step."""
        return self._drawer.change(key, change_of(key, session), only_known=True)

    async def rename(self, old: str, new: str, session: Session) -> None:
        """See `SessionStorage.rename`; in one step."""
        self._drawer.move(old, new, change_of(old, session))
        if isinstance(session, Loaded):
            session.key = new
