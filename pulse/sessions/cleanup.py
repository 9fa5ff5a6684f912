"""The clean-up of sessions: the task that everything here began with, as a ready endpoint."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol, cast

from webob import Response

from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.loop import run_async
from pulse.option import shown
from pulse.sessions.cookie import CookieSessionStore
from pulse.sessions.keeper import immediate
from pulse.sessions.memory import InMemorySessionStore, MemorySessionStorage

SECONDS: Final = 300.0  # that a store may take to go through its sessions

log = logging.getLogger(__name__)


class Sweepable(Protocol):
    """A store that can be swept: those of sessions and those of `pulse.state`."""

    def sweep(self) -> Awaitable[int]:
        """Free what has expired; how much that was."""


def cleanup_endpoint(*stores: Sweepable | CookieSessionStore) -> WsgiApp:
    """A WSGI application that removes the expired sessions of *stores*, and says how many they were.

    Whoever reaches it may call it: give its path to a task of a guarded Pulse, or wrap it in
    `pulse.internal_only`.

    Args:
        *stores: Of any kind; signed cookies leave nothing behind that could be swept.

    Raises:
        TypeError: one of them cannot be swept.
    """
    sweeps = [_sweep_of(store) for store in stores]

    def cleanup(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        removed = sum(sweep() for sweep in sweeps)
        if removed:
            log.info("removed %d expired sessions", removed, extra={"pulse_event": "sessions_swept"})
        text = f"removed {removed} expired session{'' if removed == 1 else 's'}\n"
        response = Response(text, content_type="text/plain", charset="utf-8", cache_control="no-store")
        return cast("Iterable[bytes]", response(environ, start_response))

    return cleanup


def _sweep_of(store: Any) -> Callable[[], int]:
    if isinstance(store, CookieSessionStore):
        return lambda: 0
    if not callable(getattr(store, "sweep", None)):
        raise TypeError(f"want stores of sessions, not {shown(store)}")
    if type(store) in (InMemorySessionStore, MemorySessionStorage):
        return lambda: immediate(store.sweep())
    return lambda: run_async(store.sweep(), SECONDS)
