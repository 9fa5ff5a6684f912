"""The ways to keep sessions, alike for all middleware: where a cookie leads, and what it is to be.

A server keeps the data under the key that the cookie holds; a signed cookie holds the data
itself. What a client sends is looked up and never adopted: a key that is not known would be
one that somebody else has chosen (session fixation).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple

from pulse.option import shown
from pulse.sessions.base import Session, SessionStore, new_key
from pulse.sessions.cookie import CookieSessionStore
from pulse.sessions.memory import InMemorySessionStore, MemorySessionStorage
from pulse.sessions.once import close_store, has_init, initialise
from pulse.sessions.state import StateSessionStore, data_of
from pulse.sessions.storage import AnySessionStorage, SessionStorage, StoreSessionStorage, is_storage
from pulse.state.types import UserSession

Change = Callable[[Session], Session]

LONGEST_KEY: Final = 256  # characters of a key that a client may send; those made here have 43


class Found(NamedTuple):
    """A session as it was when the request came.

    Attributes:
        sid: Its id.
        data: Its data; the middleware's to change.
        is_ageing: Whether its cookie is to be sent again though nothing changes.
        record: Whose it is; None where nobody keeps that.
    """

    sid: str
    data: Session
    is_ageing: bool = False
    record: UserSession | None = None


class Keeper(ABC):
    """One way to keep sessions.

    Attributes:
        longest: Characters of a cookie's value that are worth a look.
        is_on_server: Whether a session can still be kept when its cookie was sent.
        is_immediate: Whether no method waits for anything, so that none needs an event loop.
        compares: Whether a session is kept only if it has changed.
    """

    longest: int = LONGEST_KEY
    is_on_server = True
    is_immediate = False
    compares = True

    async def init(self) -> None:  # noqa: B027 - most need none
        """Prepare it; may be awaited before each use."""

    async def close(self) -> None:  # noqa: B027 - most need none
        """Release what `init` has opened."""

    @abstractmethod
    async def find(self, value: str) -> Found | None:
        """The session that the cookie *value* leads to; None if it is not known here."""

    async def begin(self) -> Found:
        """A session that nobody has kept yet, under a new key."""
        return Found(new_key(), {})

    @abstractmethod
    async def add(self, sid: str, data: Session) -> str:
        """Keep a session that is new; the value of its cookie."""

    @abstractmethod
    async def keep(self, sid: str, data: Session, change: Change) -> str | None:
        """Keep a session that was found; the value of its cookie, None if it has ended meanwhile.

        Args:
            sid: Its id.
            data: What it is to hold.
            change: What makes that of what it held, and the same change in what it holds meanwhile.
        """

    @abstractmethod
    async def move(self, old: str, new: str, data: Session, change: Change) -> str:
        """Keep the session *old* under the key *new* from now on; the value of its cookie.

        Args:
            old: Its id.
            new: The id that it is to have.
            data: As of `keep`.
            change: Likewise.
        """

    @abstractmethod
    async def end(self, sid: str) -> None:
        """Keep the session no longer."""


class StoreKeeper(Keeper):
    """Sessions in a `SessionStore`, under the key in the cookie."""

    def __init__(self, store: SessionStore) -> None:
        """Wrap *store*."""
        self._store = store
        # By the class itself: a subclass may wait for something.
        self.is_immediate = type(store) is InMemorySessionStore
        self._has_init = has_init(store)
        self._records = store.store if isinstance(store, StateSessionStore) else None

    async def init(self) -> None:
        if self._has_init:
            await initialise(self._store)

    async def close(self) -> None:
        await close_store(self._store)

    async def find(self, value: str) -> Found | None:
        store = self._store
        if type(store) is StateSessionStore:  # what a subclass makes of the data counts
            known = await store.look_up(value)
            return None if known is None else Found(value, data_of(known), record=known)
        data = await store.get(value)
        if data is None:
            return None
        record = None if self._records is None else await self._records.get_session(value)
        return Found(value, data, record=record)

    async def add(self, sid: str, data: Session) -> str:
        """See `Keeper.add`; what the store gives a new session from the start is kept with it."""
        initial = await self._store.create(sid)
        await self._store.save(sid, {**initial, **data} if initial else data)
        return sid

    async def keep(self, sid: str, data: Session, change: Change) -> str | None:  # noqa: ARG002
        return sid if await self._store.change(sid, change) else None

    async def move(self, old: str, new: str, data: Session, change: Change) -> str:
        kept = await self._store.get(old)
        # One that has ended was renewed by another request, as a rule: two clicks on a login.
        await self._store.rename(old, new, data if kept is None else change(kept))
        return new

    async def end(self, sid: str) -> None:
        await self._store.delete(sid)


class StorageKeeper(Keeper):
    """Sessions in a `SessionStorage`, to which each use is a reason to save, unless it is known to be none."""

    def __init__(self, storage: SessionStorage) -> None:
        """Wrap *storage*."""
        self._storage = storage
        self.is_immediate = self.compares = type(storage) is MemorySessionStorage
        self._has_init = has_init(storage)

    async def init(self) -> None:
        if self._has_init:
            await initialise(self._storage)

    async def close(self) -> None:
        await close_store(self._storage)

    async def find(self, value: str) -> Found | None:
        data = await self._storage.load(value)
        return Found(value, data) if data else None

    async def begin(self) -> Found:
        """See `Keeper.begin`; a storage may have something for every new session."""
        key = new_key()
        data: Session | None = await self._storage.load(key)
        return Found(key, {} if data is None else data)  # None is what the `get` of a dict gives

    async def add(self, sid: str, data: Session) -> str:
        await self._storage.save(sid, data)
        return sid

    async def keep(self, sid: str, data: Session, change: Change) -> str | None:  # noqa: ARG002
        return sid if await self._storage.replace(sid, data) else None

    async def move(self, old: str, new: str, data: Session, change: Change) -> str:  # noqa: ARG002
        await self._storage.rename(old, new, data)
        return new

    async def end(self, sid: str) -> None:
        await self._storage.save(sid, {})


class CookieKeeper(Keeper):
    """Sessions in their cookies."""

    is_on_server = False
    is_immediate = True

    def __init__(self, store: CookieSessionStore) -> None:
        """Sign and read by *store*."""
        self._store = store
        # A cookie that an earlier, more generous configuration has issued is still read.
        self.longest = max(4096, store.max_cookie_bytes)
        self._fresh = None if store.max_age is None else timedelta(seconds=store.max_age / 2)

    async def find(self, value: str) -> Found | None:
        read = self._store.read(value)
        if read is None:
            return None
        sid, data, age = read
        # One that is used is issued anew, or it would end in the middle of its use.
        return Found(sid, data, self._fresh is not None and age > self._fresh)

    async def add(self, sid: str, data: Session) -> str:
        return self._store.encode(sid, data)

    async def keep(self, sid: str, data: Session, change: Change) -> str | None:  # noqa: ARG002
        """See `Keeper.keep`; the last of two cookies is the one that the client has."""
        return self._store.encode(sid, data)

    async def move(self, old: str, new: str, data: Session, change: Change) -> str:  # noqa: ARG002
        """See `Keeper.move`; the old cookie is valid for as long as it is."""
        return self._store.encode(new, data)

    async def end(self, sid: str) -> None:
        """See `Keeper.end`; the client is told to forget the cookie, and more cannot be done."""


def keeper_of(store: object) -> Keeper:
    """The way to keep sessions in *store*: a `SessionStore`, `SessionStorage` or `CookieSessionStore`.

    An object with the methods `load` and `save` is taken for a storage, whatever its class.

    Raises:
        TypeError: it is none of these.
    """
    if type(store) is StoreSessionStorage:
        return StoreKeeper(store.store)
    if isinstance(store, SessionStore):
        return StoreKeeper(store)
    if isinstance(store, SessionStorage):
        return StorageKeeper(store)
    if isinstance(store, CookieSessionStore):
        return CookieKeeper(store)
    if is_storage(store):
        return StorageKeeper(AnySessionStorage(store))
    raise TypeError(f"want a SessionStore, SessionStorage or CookieSessionStore, not {shown(store)}")
