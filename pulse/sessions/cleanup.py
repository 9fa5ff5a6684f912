"""The clean-up of sessions: the task that everything here began with, as a ready endpoint."""

import logging
from collections.abc import Awaitable, Iterable
from typing import Any, Final, Protocol, cast

from webob import Response

from pulse.gateway import Environ, StartResponse
from pulse.loop import immediate, run_async
from pulse.option import shown
from pulse.sessions.cookie import CookieSessionStore
from pulse.sessions.memory import InMemorySessionStore, MemorySessionStorage
from pulse.sessions.once import initialise
from pulse.sessions.storage import AnyStorage, is_storage

SECONDS: Final = 300.0  # that a store may take to go through its sessions

log = logging.getLogger(__name__)


class Sweepable(Protocol):
    """A store that can be swept: those of sessions and those of `pulse.state`."""

    def sweep(self) -> Awaitable[int]:
        """Free what has expired; how much that was."""


def cleanup_endpoint(*stores: Sweepable | CookieSessionStore | AnyStorage) -> "CleanupEndpoint":
    """A WSGI application that removes the expired sessions of *stores*, and says how many they were.

    Whoever reaches it may call it: give its path to a task of a guarded Pulse, or wrap it in
    `pulse.internal_only`. It pickles if the stores do.

    Args:
        *stores: Of any kind; signed cookies leave nothing behind that could be swept.

    Raises:
        TypeError: one of them cannot be swept.
    """
    return CleanupEndpoint(stores)


class CleanupEndpoint:
    """See `cleanup_endpoint`."""

    def __init__(self, stores: Iterable[Sweepable | CookieSessionStore | AnyStorage]) -> None:
        self._stores = [store for store in stores if _is_sweepable(store)]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request (PEP 3333)."""
        removed = sum(_swept(store) for store in self._stores)
        if removed:
            log.info("removed %d expired sessions", removed, extra={"pulse_event": "sessions_swept"})
        text = f"removed {removed} expired session{'' if removed == 1 else 's'}\n"
        response = Response(text, content_type="text/plain", charset="utf-8", cache_control="no-store")
        return cast("Iterable[bytes]", response(environ, start_response))


def _is_sweepable(store: object) -> bool:
    if isinstance(store, CookieSessionStore):
        return False
    if callable(getattr(store, "sweep", None)) and not isinstance(store, type):
        return True
    if is_storage(store):
        return False  # one of the user's, who sees to it
    raise TypeError(f"want stores of sessions, not {shown(store)}")


def _swept(store: Any) -> int:
    if type(store) in (InMemorySessionStore, MemorySessionStorage):
        return cast("int", immediate(store.sweep()))
    return run_async(_sweep(store), SECONDS)


async def _sweep(store: Any) -> int:
    await initialise(store)  # a process that has had no visitor yet may be asked for this first
    return cast("int", await store.sweep())
