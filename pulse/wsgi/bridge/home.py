"""Where an ASGI application lives: the event loop on which it was started, and by whom.

What an application makes when it starts (pools, locks, clients) belongs to the loop of the
server, so its internal requests are made there, too, wherever the worker is that sends them.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from pulse.gateway import AsgiApp
from pulse.loop import is_on_background_loop, running_loop
from pulse.wsgi.bridge.lead import Lead

T = TypeVar("T")


class Home:
    """The loop of the server of this process, as soon as it is known.

    Where none leads the application through its life, that is done here.
    """

    def __init__(self, app: AsgiApp, *, is_served: Callable[[], bool] = lambda: False) -> None:
        """Wire it.

        Args:
            app: Whose home it is.
            is_served: Whether this process is one that serves.
        """
        self._app = app
        self._is_served = is_served
        self._lead: Lead | None = None
        self._place: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._starting: asyncio.Event | None = None
        self._state: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # For another process, where the application lives elsewhere.
        return Home, (self._app,)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """That loop; None where there is none, or it has ended. Safe to ask for from any thread."""
        place = self._place
        if place is None or place[0] != os.getpid() or not place[1].is_running():
            return None
        return place[1]

    def is_here(self) -> bool:
        """Whether the caller is run by that loop, and would stop it by waiting."""
        loop = self.loop
        return loop is not None and loop is running_loop()

    def notice(self) -> None:
        """A request has come on the running loop, which is home unless another one is."""
        place = self._place
        # Only now and then another one: the loop of the lifespan stays, as long as it runs.
        if place is None or not place[1].is_running() or place[0] != os.getpid():
            self._place = os.getpid(), asyncio.get_running_loop()

    def start(self, state: dict[str, Any] | None) -> None:
        """The application is started on the running loop: until it has, internal requests wait.

        Args:
            state: What it leaves for its requests, as the scope of its lifespan has it.
        """
        self._place = os.getpid(), asyncio.get_running_loop()
        self._starting = asyncio.Event()
        self._state = state

    def has_started(self) -> None:
        """The application has started, as far as it will."""
        if self._starting is not None:
            self._starting.set()

    def state(self) -> dict[str, Any] | None:
        """What the application has left for its requests, for one of them; None where it cannot."""
        return None if self._state is None else dict(self._state)

    async def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What *call* results in, on the loop of the server; where there is none, on this one.

        Context variables reach it. When this is cancelled, so is *call*, whose end is waited for.
        """
        loop = self.loop
        if loop is None:
            await self._start_here()
            return await call()
        if loop is asyncio.get_running_loop():
            return await self._run_here(call)
        errand = _Errand(lambda: self._run_here(call), loop)
        waiting = asyncio.wrap_future(errand.ended)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not waiting.done():
                errand.cancel()
                await asyncio.wait({waiting})
                if not waiting.cancelled():
                    waiting.exception()  # asked for, or asyncio complains that nobody has
            raise

    async def _start_here(self) -> None:
        """Start the application, if this process has no server that would have done it."""
        if self._place is not None or self._is_served() or not is_on_background_loop():
            return
        if self._lead is None or self._lead.pid != os.getpid() or self._lead.has_failed:
            self._lead = Lead(self._app)
            self._state = self._lead.state
        await self._lead.started()

    async def _run_here(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._starting is not None:
            await self._starting.wait()
        return await call()


class _Errand(Generic[T]):
    """A coroutine that another loop runs; whatever it raises is for who waits, and no matter of that loop."""

    def __init__(self, call: Callable[[], Coroutine[Any, Any, T]], loop: asyncio.AbstractEventLoop) -> None:
        self.ended: Future[T] = Future()
        self._call = call
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """Cancel it where it awaits; safe to call from any thread."""
        self._is_cancelled = True
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._end)
        if self._is_cancelled:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            result = await self._call()
        except asyncio.CancelledError:
            self.ended.cancel()
        # What leaves an endpoint is the endpoint's, SystemExit included, which would end the server.
        except BaseException as error:  # noqa: BLE001 - see above
            self.ended.set_exception(error)
        else:
            self.ended.set_result(result)

    def _end(self, _task: "asyncio.Task[None]") -> None:
        self.ended.cancel()  # it has come to nothing if the server has ended before it could begin
