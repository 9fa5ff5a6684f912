"""A line before the connections: commands wait in it for as long as Redis answers others."""

import asyncio
from collections import deque

from pulse.errors import StoreUnavailableError

PATIENCE = 2  # spans without an answer: one may have passed while the event loop itself stood still


class Line:
    """Lets so many commands be under way at once, the others in the order of their coming.

    A burst of commands, of which each is soon answered, takes long as a whole: how long one
    has waited says nothing about Redis. That nobody was answered meanwhile does. Used by one
    event loop.
    """

    def __init__(self, places: int, seconds: float) -> None:
        """A line with all its places free.

        Args:
            places: Commands under way at once.
            seconds: Twice so long after the last answer, those who wait are told that there is none.
        """
        self._free = places
        self._seconds = seconds
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._answers = self._seen = self._spans = 0
        self._watch: asyncio.TimerHandle | None = None

    async def enter(self) -> None:
        """Return when it is the caller's turn, who calls `leave` afterwards.

        Raises:
            StoreUnavailableError: nobody is answered any more.
        """
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if self._watch is None:
            # One for all: thousands of them, each with a time limit of its own, would keep the loop from anything else.
            self._seen, self._spans = self._answers, 0
            self._watch = loop.call_later(self._seconds, self._look, loop)
        try:
            await turn
        except asyncio.CancelledError:
            # It may have been given a place while it was being cancelled.
            if turn.done() and not (turn.cancelled() or turn.exception()):
                self.leave(is_answered=False)
            raise

    def leave(self, *, is_answered: bool) -> None:
        """Give the place to the next one.

        Args:
            is_answered: Whether Redis has said anything.
        """
        self._answers += is_answered
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """See whether anybody was answered in the last span."""
        self._spans = self._spans + 1 if self._answers == self._seen else 0
        self._seen = self._answers
        if self._spans == PATIENCE:
            self._refuse()
        self._watch = loop.call_later(self._seconds, self._look, loop) if self._waiting else None

    def _refuse(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_exception(StoreUnavailableError("Redis did not answer: all connections wait for it"))
