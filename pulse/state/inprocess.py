"""Events between the threads and event loops of one process."""

import asyncio
from collections import deque

from pulse.clock import Clock, SystemClock
from pulse.state.base import EventBus, check_texts
from pulse.state.events import BACKLOG, BACKLOG_SIZE, Listeners, Subscription, decode, encode
from pulse.state.lock import ProcessLock
from pulse.state.types import EventMessage


class MemorySubscription(Subscription):
    """A subscription that a publisher in any thread, with any event loop, can wake."""

    def __init__(self, channel: str) -> None:
        super().__init__(channel)
        self._lock = ProcessLock()
        self._backlog: deque[str] = deque()
        self._size = 0
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._is_ended = False

    async def ready(self) -> None:
        """See `Subscription.ready`: it is from the beginning."""

    def push(self, text: str) -> None:
        """Give it an encoded event; the oldest make room if it does not keep up."""
        with self._lock:
            if self._is_ended:
                return
            self._backlog.append(text)
            self._size += len(text)
            while len(self._backlog) > 1 and (len(self._backlog) > BACKLOG or self._size > BACKLOG_SIZE):
                self._size -= len(self._backlog.popleft())
                self._miss(1)
        self._wake()

    async def __anext__(self) -> EventMessage:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if self._backlog:
                    text = self._backlog.popleft()
                    self._size -= len(text)
                    return decode(text)
                if self._is_ended:
                    raise StopAsyncIteration
                waiter = (loop, loop.create_future())
                self._waiters.append(waiter)
            try:
                await waiter[1]
            finally:
                with self._lock:
                    self._waiters = [one for one in self._waiters if one is not waiter]

    def end(self) -> None:
        """See `Subscription.end`."""
        with self._lock:
            self._is_ended = True
        self._wake()

    async def aclose(self) -> None:
        """See `Subscription.aclose`."""
        with self._lock:
            self._backlog.clear()
        self.end()

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            try:
                loop.call_soon_threadsafe(_set, future)
            except RuntimeError:
                continue  # its loop was closed: nobody waits there any more


class MemoryEventBus(EventBus):
    """An `EventBus` between the threads and event loops of one process."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        """A bus without subscribers."""
        self._clock = clock or SystemClock()
        self._channels: Listeners[MemorySubscription] = Listeners()

    async def publish(self, channel: str, event: EventMessage) -> None:
        """See `EventBus.publish`."""
        check_texts(channel=channel)
        text = encode(event, self._clock)
        for subscription in self._channels.of(channel):
            subscription.push(text)

    def subscribe(self, channel: str) -> MemorySubscription:
        """See `EventBus.subscribe`."""
        subscription = MemorySubscription(channel)
        self._channels.add(subscription)
        return subscription

    async def unsubscribe(self, channel: str) -> None:
        """See `EventBus.unsubscribe`."""
        for subscription in self._channels.take(channel):
            subscription.end()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
