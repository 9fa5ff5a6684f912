"""What holds the session of a request: loaded before its handler, saved after it."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Protocol, TypeGuard

from pulse.sessions.base import Session, SessionStore
from pulse.sessions.snapshot import Loaded, change_of


class SessionStorage(ABC):
    """The dict for each request of a session; subclasses implement `load` and `save`.

    An empty dict is no session: a key that gives one is not known, and saving one ends the
    session.
    """

    @abstractmethod
    async def load(self, key: str) -> Session:
        """The data of the session *key*; an empty dict if there is no such session."""

    @abstractmethod
    async def save(self, key: str, session: Session) -> None:
        """Keep *session* as the data of *key*; an empty one ends it."""

    async def replace(self, key: str, session: Session) -> bool:
        """Save *session*, unless *key* has ended meanwhile; whether it was saved."""
        await self.save(key, session)
        return True

    async def rename(self, old: str, new: str, session: Session) -> None:
        """End the session *old* and go on as *new*, with the data *session*."""
        await self.save(new, session)
        await self.save(old, {})

    async def sweep(self) -> int:
        """Free what has expired; how many sessions have since the last call."""
        return 0


class StoreSessionStorage(SessionStorage):
    """A `SessionStorage` over any `SessionStore`.

    Attributes:
        store: Where the sessions are kept.
    """

    def __init__(self, store: SessionStore) -> None:
        """Wrap *store*."""
        self.store = store

    async def load(self, key: str) -> Session:
        return Loaded(key, await self.store.get(key) or {})

    async def save(self, key: str, session: Session) -> None:
        """See `SessionStorage.save`; of what was loaded as *key*, what was changed since then."""
        if not session:
            await self.store.delete(key)
        elif not await self.replace(key, session):
            await self.store.create(key)
            await self.store.save(key, session)

    async def replace(self, key: str, session: Session) -> bool:
        return await self.store.change(key, change_of(key, session))

    async def rename(self, old: str, new: str, session: Session) -> None:
        """See `SessionStorage.rename`; of what was loaded as *old*, what was changed since then."""
        await self.store.rename(old, new, change_of(old, session)(await self.store.get(old)))
        if isinstance(session, Loaded):
            session.key = new

    async def sweep(self) -> int:
        return await self.store.sweep()


class AnyStorage(Protocol):
    """What is taken for a storage, too: an object of any class with these methods."""

    def load(self, key: str) -> Awaitable[Session | None]:
        """See `SessionStorage.load`; None for no session, as of a dict."""

    def save(self, key: str, session: Session) -> Awaitable[object]:
        """See `SessionStorage.save`."""


class AnySessionStorage(SessionStorage):
    """A `SessionStorage` over such an object."""

    def __init__(self, storage: AnyStorage) -> None:
        """Wrap *storage*."""
        self._storage = storage

    async def load(self, key: str) -> Session:
        return await self._storage.load(key) or {}

    async def save(self, key: str, session: Session) -> None:
        await self._storage.save(key, session)


def is_storage(store: object) -> TypeGuard[AnyStorage]:
    """Whether *store* has what a storage must have."""
    if isinstance(store, type):  # somebody forgot to make one
        return False
    return all(callable(getattr(store, name, None)) for name in ("load", "save"))
