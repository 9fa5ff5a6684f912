"""The only place that reads the time, and the only one that waits for it.

Time is an argument everywhere else: what can be a function of an instant takes the
instant, and only loops hold a `Clock`.
"""

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What a loop needs to know about time; safe to use from any thread."""

    def now(self) -> datetime:
        """The wall clock, aware UTC. It may step in either direction."""

    def time(self) -> float:
        """The same as a Unix timestamp, as exact as the clock is: a datetime has no less than microseconds."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps back. For durations and deadlines."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until *event* is set, at most *seconds*; whether it is set."""


def processor_time() -> float:
    """Seconds for which this process has had a processor, with all its threads."""
    return time.process_time()


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """The wall clock, aware UTC."""
        return datetime.now(UTC)

    # The functions themselves: each run asks for the time a dozen times.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until *event* is set, at most *seconds*; whether it is set."""
        return event.wait(seconds)


class Every:
    """Tells a loop that does several things, each at its own pace, when one of them is to be done again."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        """The first time is *seconds* from now."""
        self._seconds = seconds
        self._clock = clock
        self._last = clock.monotonic()

    @property
    def is_due(self) -> bool:
        """What `has_come` would say now."""
        return self._clock.monotonic() - self._last >= self._seconds

    def has_come(self) -> bool:
        """Whether that long has passed since it was last so."""
        if not self.is_due:
            return False
        self._last = self._clock.monotonic()
        return True


class Effort:
    """How much of a processor this process uses."""

    def __init__(self, clock: Clock) -> None:
        """Begin to measure."""
        self._clock = clock
        self._now = clock.monotonic()
        self._used = processor_time()

    def since_last(self) -> float:
        """Processors that were busy, since this was last asked."""
        now, used = self._clock.monotonic(), processor_time()
        share = (used - self._used) / max(now - self._now, 0.001)
        self._now, self._used = now, used
        return share
