"""The initialisation of session stores: once in a process, whoever uses one first."""

import asyncio
import os
from concurrent.futures import Future
from typing import Any, Final

from pulse.sessions.base import SessionStore
from pulse.sessions.storage import StoreSessionStorage


def has_init(kept: object) -> bool:
    """Whether anything of *kept* has to be initialised: a store that says how, or one such behind an adapter."""
    store = _store_of(kept)
    return store is not None and type(store).init is not SessionStore.init


async def initialise(kept: object) -> None:
    """Initialise *kept*, if it has to be and that was not done in this process yet.

    However many threads and event loops come first, one of them does it, and the others wait.
    """
    store = _store_of(kept)
    if store is not None and has_init(store):
        # With the store itself: several middleware and a clean-up may share it.
        await vars(store).setdefault(_ONCE, _Once()).run(store)


async def close_store(kept: object) -> None:
    """Close it; the next use initialises it again."""
    store = _store_of(kept)
    if store is not None:
        await store.close()
        vars(store).pop(_ONCE, None)


def _store_of(kept: object) -> SessionStore | None:
    store = kept.store if isinstance(kept, StoreSessionStorage) else kept
    return store if isinstance(store, SessionStore) else None


class _Once:
    """Whether a store was initialised, in each process that has it."""

    def __init__(self) -> None:
        self._begun: dict[int, Future[bool]] = {}  # by the pid: a forked child begins anew

    async def run(self, store: SessionStore) -> None:
        while not await self._has_run(store):
            pass  # whoever was about to do it was cancelled: one of those who waited does it

    async def _has_run(self, store: SessionStore) -> bool:
        begun = self._begun.get(os.getpid())
        if begun is None:
            own: Future[bool] = Future()
            begun = self._begun.setdefault(os.getpid(), own)
            if begun is own:
                await self._begin(store, own)
                return True
        if begun.done():
            return begun.result()
        # Shielded: who is cancelled here must not cancel what the others wait for.
        return await asyncio.shield(asyncio.wrap_future(begun))

    async def _begin(self, store: SessionStore, own: "Future[bool]") -> None:
        try:
            await store.init()
        except BaseException as error:
            del self._begun[os.getpid()]  # whoever comes next tries again
            if isinstance(error, Exception):
                own.set_exception(error)
            else:
                own.set_result(False)
            raise
        own.set_result(True)

    def __reduce__(self) -> tuple[Any, ...]:
        # For another process, where the store is not initialised.
        return _Once, ()


_ONCE: Final = "_pulse_once"
