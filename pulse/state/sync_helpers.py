"""How synchronous code, such as a WSGI application in its threads, uses what is asynchronous."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from pulse import loop
from pulse.state.server import get_server_state

T = TypeVar("T")


def run_async(coro: Coroutine[Any, Any, T], timeout: float | None = 5.0) -> T:
    """What *coro* returns or raises; for synchronous code in any thread, also after a fork.

    It is run on the loop of the server state (`ServerStateManager.server_loop`): that of a
    server that has set its own, or the background loop of Pulse.

    Args:
        coro: Closed if it cannot be run.
        timeout: Seconds; then the coroutine is cancelled. None to wait for ever.

    Raises:
        TypeError: *coro* is no coroutine, but perhaps the function that makes one.
        TimeoutError: it did not end in *timeout*.
        RuntimeError: the caller is itself run by that loop, and has to use await.
    """
    return loop.run_async(coro, timeout, loop=get_server_state().server_loop)


def run_async_fire_and_forget(coro: Coroutine[Any, Any, object]) -> None:
    """Run *coro* on the same loop, and go on at once; a failure is logged.

    Raises:
        TypeError: *coro* is no coroutine.
    """
    loop.run_soon(coro, loop=get_server_state().server_loop)
