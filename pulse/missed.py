"""What rings of a task: an instant, or those that it has to catch up, which have passed unrun."""

from bisect import bisect_left
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from pulse.model import Fire
from pulse.schedule import Schedule

_INSTANT: Final = timedelta(microseconds=1)


class FireOf(Protocol):
    """Makes the fire of a missed instant."""

    def __call__(self, due: datetime, following: datetime | None, *, is_last: bool) -> Fire:
        """That of *due*, behind which *following* is due; *is_last*: nothing else of the task is to be caught up."""


class Missed:
    """The instants from one to another of one task, the oldest first; for one thread at a time.

    No fire is made before its turn has come. After a day of silence hundreds of tasks may have a
    thousand instants each: to make all their fires would take seconds, in which nothing else rings.
    """

    def __init__(self, task: str, schedule: Schedule, first: datetime, last: datetime, fire_of: FireOf) -> None:
        """*first* and *last* are both due by the *schedule* of *task*, and belong to what was missed."""
        self.task = task
        self._schedule = schedule
        self._next = first
        self._last = last
        self._count = schedule.count(first - _INSTANT, last)
        self._dropped = 0  # so many from `_next` on
        self._fire_of = fire_of

    def __len__(self) -> int:
        return self._count

    @property
    def last(self) -> datetime:
        """The newest of them."""
        return self._last

    def reach(self, last: datetime) -> None:
        """What has become due since, until *last*, joins them."""
        # When the clock was set back some of them ring again. Counted twice, others would be run before their time.
        if last > self._last:
            self._count += self._schedule.count(self._last, last)
            self._last = last

    def drop(self, count: int) -> None:
        """The oldest are not run; so the claim of the next one will record it."""
        self._dropped += count
        self._count -= count

    def pop(self) -> Fire:
        """The fire of the oldest one, which is none of them any more."""
        due = self._after_the_dropped()
        following = self._schedule.next_due(due)
        self._count -= 1
        if following is not None:
            self._next = following
        return self._fire_of(due, following, is_last=not self._count)

    def _after_the_dropped(self) -> datetime:
        if not self._dropped:
            return self._next
        wanted, self._dropped = self._dropped + 1, 0
        before = self._next - _INSTANT

        def count_until(step: int) -> int:
            return self._schedule.count(before, before + step * _INSTANT)

        # Not from one to the next: a task that was due each second has missed a million in a fortnight.
        return before + bisect_left(range((self._last - before) // _INSTANT), wanted, key=count_until) * _INSTANT


class Rung(NamedTuple):
    """What the bell has rung for, of one task.

    Attributes:
        due: An instant, or all that are to be caught up.
        keep: How many instants of the task may wait for a free worker.
    """

    due: Fire | Missed
    keep: int = 1
