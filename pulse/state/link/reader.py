"""One connection for all of an event loop who wait for entries of streams: their reads travel together."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final

from pulse.errors import StoreUnavailableError

Entry = tuple[bytes, dict[bytes, bytes]]
"""One of a stream: its id and its fields."""

Fetch = Callable[[Mapping[str, bytes]], Awaitable[dict[str, list[Entry]]]]
"""Is given streams, each with an id; waits a while for the entries that come after it."""

START: Final = b"0-0"
LOOKS: Final = 64  # subscribers that look at Redis at once: thousands would keep those who publish waiting
TURNS: Final = 10  # of the loop, in which a subscriber has taken an event and waits for the next one


@dataclass(eq=False, slots=True)
class _Wish:
    stream: str
    after: bytes
    since: float
    found: asyncio.Future[list[Entry]]


class Reader:
    """Reads for many at once; used by one event loop.

    Who comes while a read is under way rings a bell: a stream of its own, which every read
    waits for as well, so that it returns at once and the next one has the newcomer's stream.
    """

    def __init__(self, fetch: Fetch, ring: Callable[[str], Awaitable[object]], bell: str, seconds: float) -> None:
        """Wire it; a task runs while anybody waits.

        Args:
            fetch: Raises StoreUnavailableError if there is no answer.
            ring: Adds an entry to the stream of the bell.
            bell: The name of that, known to this reader alone or to few.
            seconds: After which who waits gets an empty answer, to look whether Redis is still the
                same; where many wait, so many of them as do no harm, and the others later.
        """
        self._fetch = fetch
        self._ring = ring
        self._bell = bell
        self._seconds = seconds
        self._heard = START
        self._wishes: dict[_Wish, None] = {}  # in the order of their coming
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # also those that are cancelled, and have not ended yet
        self._is_away = False
        self._next_look = 0.0

    async def read(self, stream: str, after: bytes) -> list[Entry]:
        """The entries of *stream* after an id; none when there were none for a while.

        Raises:
            StoreUnavailableError: there was no answer.
        """
        loop = asyncio.get_running_loop()
        wish = _Wish(stream, after, loop.time(), loop.create_future())
        self._wishes[wish] = None
        try:
            if self._task is None:
                self._is_away = False
                self._task = loop.create_task(self._serve())
                self._tasks.add(self._task)
                self._task.add_done_callback(self._tasks.discard)
                self._task.add_done_callback(self._end)
            elif self._is_away:
                self._is_away = False  # one bell will do for all who come now
                await self._ring(self._bell)
            return await wish.found
        finally:
            self._forget(wish)

    def close(self) -> set[asyncio.Task[None]]:
        """Read no more, and cancel those who still wait; the tasks that are to end now."""
        for task in self._tasks:
            task.cancel()
        return set(self._tasks)

    def _forget(self, wish: _Wish) -> None:
        self._wishes.pop(wish, None)  # it is still there if who waited was cancelled
        if wish.found.done() and not wish.found.cancelled():
            wish.found.exception()  # or asyncio complains that nobody saw it
        if not self._wishes and self._is_away and self._task is not None:
            self._task.cancel()
            self._task = None

    def _end(self, task: asyncio.Task[None]) -> None:
        if self._task is not task:
            return
        self._task = None
        error = None if task.cancelled() else task.exception()
        for wish in list(self._wishes):
            if error is not None:
                self._refuse(wish, error)
            else:
                wish.found.cancel()

    async def _serve(self) -> None:
        answered = 1
        while await self._is_wanted(len(self._wishes) + answered):
            wishes = list(self._wishes)
            await self._round(wishes)
            answered = sum(wish not in self._wishes for wish in wishes)

    async def _is_wanted(self, expected: int) -> bool:
        """Whether anybody waits; those who have just been answered get the time to come back."""
        for _ in range(TURNS):
            if len(self._wishes) >= expected:
                break
            await asyncio.sleep(0)
        return bool(self._wishes)

    async def _round(self, wishes: list[_Wish]) -> None:
        places = {self._bell: self._heard}
        for wish in wishes:
            # Two may read one stream from different places: the later one leaves out what it has.
            places[wish.stream] = min(wish.after, places.get(wish.stream, wish.after), key=order)
        self._is_away = True
        try:
            found = await self._fetch(places)
        except StoreUnavailableError as error:
            self._is_away = False
            for wish in wishes:
                self._refuse(wish, StoreUnavailableError(*error.args))
            return
        except Exception as error:  # noqa: BLE001 - goes to whoever asked for what is no stream
            self._is_away = False
            if len(wishes) > 1:
                # One of them spoils the answer for all: each alone.
                await asyncio.gather(*(self._round([wish]) for wish in wishes))
            else:
                self._refuse(wishes[0], error)
            return
        self._is_away = False
        if found.get(self._bell):
            self._heard = found[self._bell][-1][0]
        late = self._late()
        for wish in wishes:
            self._answer(wish, found.get(wish.stream, []), is_late=wish in late)

    def _late(self) -> set[_Wish]:
        """Those who have waited for long enough and may look now, from the oldest on."""
        now = asyncio.get_running_loop().time()
        if now < self._next_look:
            return set()
        late = set(islice(takewhile(lambda wish: now - wish.since >= self._seconds, self._wishes), LOOKS))
        if late:
            self._next_look = now + self._seconds
        return late

    def _answer(self, wish: _Wish, entries: list[Entry], *, is_late: bool) -> None:
        new = [entry for entry in entries if order(entry[0]) > order(wish.after)]
        if (new or is_late) and wish in self._wishes and not wish.found.done():
            del self._wishes[wish]
            wish.found.set_result(new)

    def _refuse(self, wish: _Wish, error: BaseException) -> None:
        if wish in self._wishes and not wish.found.done():
            del self._wishes[wish]
            wish.found.set_exception(error)


def order(entry_id: bytes) -> tuple[int, int]:
    """What the ids of entries are sorted by."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
