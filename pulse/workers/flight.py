"""Runs on an event loop: what is known of each, and what cuts those whose time is over."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile

from pulse.dispatch import Reply
from pulse.exchange import CUT
from pulse.model import Outcome, Run
from pulse.underway import Active
from pulse.workers.base import say

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Flight:
    """A run on the loop. Thousands may wait: what is kept for one of them is little."""

    active: Active
    promise: Future[Run | None] | None
    land: Callable[["Flight"], None]  # called when it has ended
    task: "asyncio.Task[Reply] | None" = None
    began: float = 0.0  # seconds of the loop
    is_late: bool = False
    is_asked: bool = False  # to stop, by its cancellation
    is_over: bool = False  # its place was given to another one; the lock of `AioWorkers` guards this

    @property
    def run(self) -> Run:
        """What was claimed."""
        return self.active.run

    def cut(self) -> None:
        """Its time is over."""
        assert self.task is not None
        self.is_late = True
        self.task.cancel()

    def __call__(self, _task: "asyncio.Task[Reply]") -> None:
        """Its task has ended."""
        self.land(self)

    def reply(self, now: float) -> Reply:
        """What became of it, when it has ended; *now*: seconds of the loop."""
        assert self.task is not None
        duration = now - self.began
        if self.task.cancelled():  # before it had begun
            return self._answered(Reply(outcome=Outcome.CANCELLED, reason=CUT, duration=duration), duration)
        error = self.task.exception()
        if error is None:
            return self._answered(self.task.result(), duration)
        # A fault of Pulse: a flight that never lands would be renewed, and keep its place, for ever.
        facts = {"pulse_event": "run_broke", "pulse_task": self.run.task, "pulse_run": self.run.id}
        say(log, logging.ERROR, "task=%s broke", self.run.task, extra=facts, exc_info=error)
        reason = f"a fault of Pulse: {type(error).__name__}"
        return Reply(outcome=Outcome.FAILED, reason=reason, duration=duration)

    def _answered(self, reply: Reply, duration: float) -> Reply:
        """*reply*; behind a cancellation an error is only what the endpoint, or its framework, has made of that.

        Then it has lasted for *duration*, by which it was cut: the loop may have come to it late.
        """
        if reply.outcome not in {Outcome.FAILED, Outcome.CANCELLED} or not (self.is_late or self.is_asked):
            return reply
        outcome, reason, timeout = Outcome.CANCELLED, CUT, self.active.task.timeout
        if timeout and not self.is_asked:
            outcome = Outcome.TIMEOUT
            reason = f"cancelled after {timeout.total_seconds():g} s, before it had sent all of its response"
        if reply.outcome is Outcome.FAILED:
            reason += f": {reply.reason}"
        return reply._replace(outcome=outcome, reason=reason, duration=duration)


class TimeLimit:
    """Cuts flights that all have the same time limit, and so come to its end in the order in which they began.

    With one timer for all: one for each would take as much as the rest of a flight. To be used on
    the thread of its loop alone.
    """

    def __init__(self, limit: timedelta, loop: asyncio.AbstractEventLoop) -> None:
        self._seconds = limit.total_seconds()
        self._loop = loop
        self._flights: dict[Flight, None] = {}  # a set does not keep the order
        self._is_set = False

    def begin(self, flight: Flight) -> None:
        """From its beginning on the time of *flight* runs."""
        self._flights[flight] = None
        if not self._is_set:
            self._set(flight)

    def end(self, flight: Flight) -> None:
        """It has ended."""
        self._flights.pop(flight, None)

    def _set(self, first: Flight) -> None:
        self._is_set = True
        self._loop.call_at(first.began + self._seconds, self._ring)

    def _ring(self) -> None:
        self._is_set = False
        last = self._loop.time() - self._seconds
        for flight in list(takewhile(lambda one: one.began <= last, self._flights)):
            self.end(flight)
            flight.cut()
        first = next(iter(self._flights), None)
        if first is not None:
            self._set(first)
