"""Fakes for tests of Pulse and of its users: they pass the same contracts as the real things."""

import threading
from datetime import UTC, datetime, timedelta


class ManualClock:
    """A `pulse.clock.Clock` that stands still until it is told to `advance`.

    Safe to use from any thread: a thread that waits on the clock is woken when the time
    that it waits for has come, so a test needs no sleep.
    """

    def __init__(self, start: datetime = datetime(2027, 1, 1, tzinfo=UTC)) -> None:
        """*start*: the first instant, aware."""
        self._now = start.astimezone(UTC)
        self._elapsed = 0.0
        self._changed = threading.Condition()
        self._parked = 0

    def now(self) -> datetime:
        """The instant that the test has set, aware UTC."""
        with self._changed:
            return self._now

    def monotonic(self) -> float:
        """Seconds that the test has advanced; steps of the wall clock do not count."""
        with self._changed:
            return self._elapsed

    def advance(self, span: float | timedelta) -> None:
        """Let *span* (seconds, or a timedelta) pass on both clocks."""
        seconds = span.total_seconds() if isinstance(span, timedelta) else span
        with self._changed:
            self._elapsed += seconds
            self._now += timedelta(seconds=seconds)
            self._changed.notify_all()

    def step(self, span: float | timedelta) -> None:
        """Set the wall clock *span* ahead (or back) while no time passes, as NTP may do."""
        seconds = span.total_seconds() if isinstance(span, timedelta) else span
        with self._changed:
            self._now += timedelta(seconds=seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until *event* is set or *seconds* have been advanced; whether it is set."""
        with self._changed:
            end = self._elapsed + seconds
            self._parked += 1
            self._changed.notify_all()
            try:
                # Nothing tells the condition that the event was set: look again now and then.
                while not event.is_set() and self._elapsed < end:
                    self._changed.wait(0.01)
            finally:
                self._parked -= 1
        return event.is_set()

    def wait_until_parked(self, threads: int = 1, limit: float = 30.0) -> None:
        """Block until *threads* threads wait on this clock.

        Raises:
            TimeoutError: they do not, after *limit* real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._parked >= threads, limit):
                raise TimeoutError(f"{self._parked} of {threads} threads wait on the clock")
