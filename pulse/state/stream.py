"""Events between processes: each channel is a capped stream in Redis that its subscribers read on from.

Not Redis Pub/Sub: that forgets what is published while a connection is down. A subscriber
knows the last entry that it has read, and reads on from there over any connection.
"""

import asyncio
import logging
import uuid
from collections import OrderedDict, deque
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from pulse.clock import Clock, SystemClock
from pulse.errors import StoreUnavailableError
from pulse.loop import running_loop
from pulse.state.base import EventBus, check_texts
from pulse.state.events import BACKLOG, BACKLOG_SIZE, Listeners, Subscription, decode, encode
from pulse.state.keys import Keys
from pulse.state.link.reader import START, Entry, order
from pulse.state.link.redis import RedisLink
from pulse.state.lua import LAST, PUBLISH
from pulse.state.types import EventMessage

UNUSED_SECONDS: Final = 600  # after the last event of a channel; a subscriber may be cut off for so long
REPEATS: Final = 1024  # events back in which a repeated one is known again
RECONNECT_SECONDS: Final = 0.1, 2.0  # the first pause between attempts, and the longest

_log = logging.getLogger(__name__)


class RedisEventBus(EventBus):
    """An `EventBus` between processes and hosts."""

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379/0",
        prefix: str = "pulse",
        pool_size: int = 10,
        *,
        link: RedisLink | None = None,
        clock: Clock | None = None,
    ) -> None:
        """A bus; nothing is connected yet.

        Args:
            redis_url: `redis://`, `rediss://` or `unix://`.
            prefix: What all keys begin with.
            pool_size: Connections an event loop that publish; all subscribers that wait share one more.
            link: The connections of another store, instead.
            clock: For tests.
        """
        self._link = link or RedisLink(redis_url, pool_size)
        self._keys = Keys(prefix)
        self._clock = clock or SystemClock()
        self._bell = self._keys.bell(uuid.uuid4().hex)
        self._listeners: Listeners[RedisSubscription] = Listeners()

    async def publish(self, channel: str, event: EventMessage) -> None:
        """See `EventBus.publish`."""
        check_texts(channel=channel)
        text = encode(event, self._clock)
        for subscription in self._listeners.of(channel):
            # What was subscribed to here before this call gets this event, too.
            await subscription.opened()
        length = min(BACKLOG, max(1, BACKLOG_SIZE // len(text)))
        # The link may send it twice; subscribers know it again by the token.
        token = uuid.uuid4().hex
        await self._link.run(PUBLISH, [self._keys.stream(channel)], token, text, length, UNUSED_SECONDS * 1000)

    def subscribe(self, channel: str) -> "RedisSubscription":
        """See `EventBus.subscribe`."""
        stream = self._keys.stream(channel)
        subscription = RedisSubscription(channel, self._link, stream, self._bell, self._listeners)
        self._listeners.add(subscription)
        return subscription

    async def unsubscribe(self, channel: str) -> None:
        """See `EventBus.unsubscribe`."""
        for subscription in self._listeners.take(channel):
            subscription.end()


class RedisSubscription(Subscription):
    """A place in a stream; it is read only while somebody waits for the next event."""

    def __init__(
        self, channel: str, link: RedisLink, stream: str, bell: str, listeners: Listeners["RedisSubscription"]
    ) -> None:
        """Looks up at once where the stream ends now, if an event loop is running here."""
        super().__init__(channel)
        self._link = link
        self._stream = stream
        self._bell = bell
        self._listeners = listeners
        self._arrived: deque[EventMessage] = deque()
        self._last: bytes | None = None
        self._number = 0
        self._tokens: OrderedDict[bytes, None] = OrderedDict()
        self._reading: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._is_ended = False
        loop = running_loop()  # without one, it is looked up by the first `await`
        self._opening = None if loop is None else _begin(loop, self._try_to_open())

    async def ready(self) -> None:
        """See `Subscription.ready`."""
        await self.opened()
        if self._last is None:
            await self._open()

    async def opened(self) -> None:
        """Return when the look-up that the constructor has begun is over, if this loop runs it."""
        opening = self._opening
        if opening is not None and not opening.done() and opening.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([opening])

    async def __anext__(self) -> EventMessage:
        while not self._arrived:
            if self._is_ended:
                raise StopAsyncIteration
            await self._receive()
        return self._arrived.popleft()

    def end(self) -> None:
        """See `Subscription.end`."""
        self._is_ended = True
        reading = self._reading
        if reading is None:
            return
        loop, task = reading
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:
            return  # its loop was closed: nobody reads there any more

    async def aclose(self) -> None:
        """See `Subscription.aclose`."""
        self._arrived.clear()
        self._listeners.remove(self)
        self.end()

    async def _receive(self) -> None:
        """Wait until something has arrived, or the subscription is ended."""
        # A task of its own, so that it can be ended without cancelling who waits here.
        loop = asyncio.get_running_loop()
        task = _begin(loop, self._read())
        self._reading = loop, task
        if self._is_ended:  # by another thread, which did not see the task yet
            task.cancel()
        try:
            await asyncio.wait([task])
        finally:
            self._reading = None
            if not task.done():  # who waits here was cancelled
                task.cancel()
                await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _read(self) -> None:
        await self.ready()
        pause, longest = RECONNECT_SECONDS
        is_lost, task = False, asyncio.current_task()
        while not self._arrived and not self._is_ended:
            try:
                if is_lost:
                    await self._find_place()
                    is_lost = False
                entries = await self._link.read(self._stream, self._last or START, self._bell)
                self._take(entries)
                if not entries:  # also after an outage so short that the link got over it
                    await self._find_place()
            except StoreUnavailableError as error:
                if not is_lost:
                    _log.warning(
                        "events of %s cannot be read: %s; trying again until they can",
                        self.channel,
                        error,
                        extra={"pulse_event": "events_lost_line"},
                    )
                is_lost = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
            if task is not None and task.cancelling():
                # The end of a time limit in the client was taken for it: it must not get lost.
                raise asyncio.CancelledError

    async def _try_to_open(self) -> None:
        try:
            await self._open()
        except StoreUnavailableError:
            return  # `ready` tries again, for whom this is an error

    async def _open(self) -> None:
        self._last, self._number = await self._end_of_stream()

    async def _find_place(self) -> None:
        """In a server that lost its memory, or part of it, new entries may have lower ids than the last one read."""
        last, _ = await self._end_of_stream()
        if self._last is None or order(last) >= order(self._last):
            return
        place = START
        for entry_id, fields in await self._link.newest(self._stream, REPEATS):
            if fields.get(b"t") in self._tokens:  # read before: what comes behind it is new
                place = entry_id
                break
        self._last = place

    async def _end_of_stream(self) -> tuple[bytes, int]:
        """Id and number of the last entry."""
        last, number = await self._link.run(LAST, [self._stream])
        return last, _whole(number)

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry_id, fields in entries:
            self._last = entry_id
            self._count(_whole(fields.get(b"n", b"")))
            if not self._is_repeated(fields.get(b"t", entry_id)):
                self._decode(fields.get(b"e", b""))

    def _decode(self, text: bytes) -> None:
        try:
            self._arrived.append(decode(text.decode("utf-8", "surrogatepass")))
        except ValueError as error:
            # Somebody else's: the events behind it are still good.
            _log.warning(
                "skipped what is no event in %s: %s", self.channel, error, extra={"pulse_event": "event_malformed"}
            )

    def _count(self, number: int) -> None:
        if not number:
            return  # not one of ours
        # Lower ones: the stream ended, unused, and was begun again.
        if number > self._number + 1:
            self._miss(number - self._number - 1)
        self._number = number

    def _is_repeated(self, token: bytes) -> bool:
        if token in self._tokens:
            return True
        self._tokens[token] = None
        if len(self._tokens) > REPEATS:
            self._tokens.popitem(last=False)
        return False


# asyncio refers to its tasks weakly, and a bus may be dropped while its last subscriber is being cancelled.
_tasks: Final[set[asyncio.Task[None]]] = set()


def _begin(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = loop.create_task(coro)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


def _whole(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
