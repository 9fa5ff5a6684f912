"""The ear and the heart of one worker, on the background loop: what others send to it, and that it lives."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from pulse.errors import StoreUnavailableError
from pulse.loop import background_loop
from pulse.state.base import EventBus
from pulse.state.events import Subscription
from pulse.state.types import EventMessage

_log = logging.getLogger(__name__)


class Listener:
    """Calls `deliver` with each event of a channel, and `beat` now and then, until it is stopped."""

    def __init__(
        self,
        bus: EventBus,
        channel: str,
        *,
        deliver: Callable[[EventMessage], None],
        beat: Callable[[], Awaitable[None]],
        beat_seconds: float,
    ) -> None:
        """Begins at once; both functions are called on the background loop."""
        self._bus = bus
        self._channel = channel
        self._deliver = deliver
        self._beat = beat
        self._beat_seconds = beat_seconds
        self._opened: Future[None] = Future()
        self._running = asyncio.run_coroutine_threadsafe(self._run(), background_loop())
        self._running.add_done_callback(self._end)

    async def ready(self) -> None:
        """Return when what is published from now on will be delivered.

        Raises:
            StoreUnavailableError: the event bus did not answer, or this was stopped meanwhile.
        """
        await asyncio.shield(asyncio.wrap_future(self._opened))

    def has_ended(self) -> bool:
        """Whether it does not listen any more."""
        return self._running.done()

    def stop(self) -> None:
        """Listen no more; from any thread."""
        self._running.cancel()

    async def _run(self) -> None:
        subscription = self._bus.subscribe(self._channel)
        if isinstance(subscription, Subscription):
            await subscription.ready()
        with suppress(InvalidStateError):  # stopped by another thread just now
            self._opened.set_result(None)
        beating = asyncio.create_task(self._beat_on())
        try:
            async for message in subscription:
                self._deliver(message)
        finally:
            beating.cancel()

    def _end(self, running: "Future[None]") -> None:
        """It has ended, perhaps before it could begin: nobody shall wait in `ready` for ever."""
        error = None if running.cancelled() else running.exception()
        is_waited_for = not self._opened.done()
        with suppress(InvalidStateError):
            self._opened.set_exception(error or StoreUnavailableError(f"{self._channel} is not listened to any more"))
        if error is not None and not is_waited_for:
            _log.error(
                "what is sent to %s is not received any more",
                self._channel,
                exc_info=error,
                extra={"pulse_event": "listener_failed"},
            )

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(self._beat_seconds)
            try:
                await self._beat()
            # Whatever it is: the next one comes before the connections are forgotten, or makes them known again.
            except Exception as error:  # noqa: BLE001 - see above
                _log.warning("heartbeats could not be sent: %s", error, extra={"pulse_event": "beat_failed"})
