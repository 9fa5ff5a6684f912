"""When a task is due: pure functions of the task and of an instant.

Every process of every host finds the same instants without asking anybody, because
nothing here depends on when a process was started. All instants are aware UTC; the clocks
of time zones exist only in this module.

Where such a clock jumps, Pulse follows the rule of Debian's cron. An expression with fixed
times (neither its minute nor its hour begins with `*`) takes each time of day once: one
that the clock skips is due when the clock has jumped, one that it shows twice is due the
first time. Any other expression follows real time: it is due whenever the clock shows one
of its times.
"""

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim

from pulse import reader
from pulse.model import DEFAULT_INTERVAL, Task
from pulse.zone import (
    EARLIEST,
    EPOCH,
    FIRST_YEAR,
    HORIZON_YEARS,
    LAST_YEAR,
    LATEST,
    Stretch,
    ahead,
    instant_of,
    is_ambiguous,
    stretches_before,
    stretches_from,
)

_MICROSECOND: Final = timedelta(microseconds=1)
_MILLISECOND: Final = timedelta(milliseconds=1)
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)


class Schedule(ABC):
    """The rule for when a task is due; immutable, safe to use from any thread.

    Instants that are handed in are aware, and in the years 2 to 9998; those that come back
    are aware UTC.
    """

    __slots__ = ()

    @abstractmethod
    def next_due(self, after: datetime) -> datetime | None:
        """The first due instant later than *after*; None if there is none."""

    @abstractmethod
    def previous_due(self, at: datetime) -> datetime | None:
        """The last due instant that is not later than *at*; None if there is none."""

    @abstractmethod
    def count(self, after: datetime, until: datetime) -> int:
        """How many instants are due later than *after* and not later than *until*.

        Exact, without visiting each: for cron it takes some 0.1 ms a year of the span, for
        anything else the same for any span.
        """

    @abstractmethod
    def describe(self) -> str:
        """The rule in words: `every 5 min`, `At 02:30 every day (Europe/Berlin)`."""

    def remark(self, due: datetime) -> str:  # noqa: ARG002 - most schedules have nothing to say
        """What a jump of the clocks does to the instant *due*, in words; mostly empty."""
        return ""

    def due_from(self, instant: datetime) -> datetime | None:
        """The first due instant that is not earlier than *instant*; None if there is none."""
        return self.next_due(instant - _MICROSECOND)

    def due_before(self, instant: datetime) -> datetime | None:
        """The last due instant earlier than *instant*; None if there is none."""
        return self.previous_due(instant - _MICROSECOND)

    def clock_note(self, due: datetime, zone: ZoneInfo) -> str:
        """What a jump of the clock of *zone* does to the instant *due*, or has done since the one before it."""
        if remark := self.remark(due):
            return remark
        previous = self.due_before(due)
        if previous is None or self.remark(previous):  # which has told of the jump
            return ""
        before, after = ahead(zone, previous), ahead(zone, due)
        return "" if before == after else f"the clocks have gone {'forward' if before < after else 'back'}"


def schedule_of(task: Task) -> Schedule:
    """The schedule of *task*, whether it is enabled or not.

    A task without a zone lives by UTC, and without a schedule by the default interval.
    """
    zone = task.zone
    if task.cron is not None:
        if task.cron == reader.MANUALLY:
            return _ByHand()
        schedule: Schedule = _Cron(times=_wall_times(task.cron), zone=zone)
    elif task.at is not None:
        schedule = _Once(due=instant_of(task.at, zone), zone=zone, said=task.at)
    else:
        every = task.interval or DEFAULT_INTERVAL
        schedule = _Interval(every=every, offset=_offset(task, every))
    if task.start_date is None and task.end_date is None:
        return schedule
    first = EARLIEST if task.start_date is None else instant_of(task.start_date, zone)
    last = LATEST if task.end_date is None else instant_of(task.end_date, zone)
    return _Bounded(schedule=schedule, first=first, last=last, zone=zone)


class Schedules(Mapping[str, Schedule]):
    """The schedules of tasks, by their names; safe to use from any thread.

    Each is made when it is asked for: a process that does not ring, as the master of a server
    or one that shows the status page alone, needs few of them.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = tasks
        self._made: dict[str, Schedule] = {}

    def __getitem__(self, name: str) -> Schedule:
        made = self._made.get(name)
        if made is None:  # two threads may each make one: they are the same
            made = self._made[name] = schedule_of(self._tasks[name])
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def delay_of(task: Task, due: datetime, next_due: datetime | None) -> timedelta:
    """How long after *due* the run starts: 0 to the task's jitter, and before *next_due*.

    A hash of task and instant, so that it is the same wherever it is computed.
    """
    if not task.jitter:
        return timedelta(0)
    spread = task.jitter if next_due is None else min(task.jitter, next_due - due - _MICROSECOND)
    return _hash(f"{task.name} {(due - EPOCH) // _MICROSECOND}") % (spread // _MICROSECOND + 1) * _MICROSECOND


def latest_start(task: Task, due: datetime, next_due: datetime | None) -> datetime | None:
    """The last instant at which it is useful to start the run of *due*; None for no limit."""
    grace = task.misfire_grace_time
    if isinstance(grace, timedelta):
        # From the delayed start on: a jitter above the grace would make each run a missed one.
        return due + delay_of(task, due, next_due) + grace
    return next_due if grace == "auto" else None


def _offset(task: Task, every: timedelta) -> timedelta:
    if task.offset == "hash":
        # Whole milliseconds: more digits only clutter every place where an instant is shown.
        return _hash(task.name) % (every // _MILLISECOND) * _MILLISECOND
    return task.offset


def _hash(text: str) -> int:
    """A number that is the same on every host, unlike `hash`."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Interval(Schedule):
    """Due *offset* after the Unix epoch, and every *every* before and after that.

    Restarts and deploys move nothing. Integers of microseconds: nothing drifts either.
    """

    every: timedelta
    offset: timedelta

    def next_due(self, after: datetime) -> datetime:
        anchor = EPOCH + self.offset
        return anchor + ((after - anchor) // self.every + 1) * self.every

    def previous_due(self, at: datetime) -> datetime:
        anchor = EPOCH + self.offset
        return anchor + (at - anchor) // self.every * self.every

    def count(self, after: datetime, until: datetime) -> int:
        anchor = EPOCH + self.offset
        return max(0, (until - anchor) // self.every - (after - anchor) // self.every)

    def describe(self) -> str:
        every = _spoken(self.every)
        return f"every {_ONE.get(every, every)}" + (f", offset {_spoken(self.offset)}" if self.offset else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cron(Schedule):
    """Due when the clock of *zone* shows one of *times*; see the module for its jumps."""

    times: "_WallTimes"
    zone: ZoneInfo

    def next_due(self, after: datetime) -> datetime | None:
        since = _second_after(after)
        for stretch in stretches_from(self.zone, since):
            start, stop = self._walls(stretch, since, stretch.end)
            wall = self.times.first(start)
            if wall is None:
                return None
            if wall < stop:
                return stretch.instant(wall)
        return None

    def previous_due(self, at: datetime) -> datetime | None:
        until = _second_after(at)
        for stretch in stretches_before(self.zone, until):
            start, stop = self._walls(stretch, stretch.begin, until)
            wall = self.times.last(stop)
            if wall is None:
                return None
            if wall >= start:
                return stretch.instant(wall)
        return None

    def count(self, after: datetime, until: datetime) -> int:
        since, end = _second_after(after), _second_after(until)
        total = 0
        for stretch in stretches_from(self.zone, since, years=end.year - since.year):
            if stretch.begin >= end:
                break
            start, stop = self._walls(stretch, since, end)
            landing = stretch.clock(stretch.begin) + _SECOND
            if start < landing:
                # Whatever the clock skipped is one instant, with the time to which it jumped.
                total += 1 if self.times.count(start, landing) else 0
                start = landing
            total += self.times.count(start, stop)
        return total

    def describe(self) -> str:
        return f"{self.times.pattern.explain()} ({self.zone})"

    def remark(self, due: datetime) -> str:
        if not self.times.is_fixed:
            return ""
        stretch = next(stretches_from(self.zone, due))
        skipped = self.times.first(stretch.opening(is_fixed=True))
        if due == stretch.begin and skipped and skipped < stretch.clock(due):
            return _skipped(skipped)
        return _REPEATED if is_ambiguous(due, self.zone) else ""

    def _walls(self, stretch: "Stretch", since: datetime, until: datetime) -> tuple[datetime, datetime]:
        """The wall times, from the first to before the second, that are due in *stretch*.

        Only what is due from *since* to before *until* counts.
        """
        start = stretch.opening(is_fixed=self.times.is_fixed)
        if since > stretch.begin:
            start = max(start, stretch.clock(since))
        return start, stretch.clock(min(until, stretch.end))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Once(Schedule):
    """Due at one instant; *said* is how it was written, perhaps by the clock of *zone*."""

    due: datetime
    zone: ZoneInfo
    said: datetime

    def next_due(self, after: datetime) -> datetime | None:
        return self.due if after < self.due else None

    def previous_due(self, at: datetime) -> datetime | None:
        return self.due if self.due <= at else None

    def count(self, after: datetime, until: datetime) -> int:
        return int(after < self.due <= until)

    def describe(self) -> str:
        return f"once at {_shown(self.due, self.zone)}"

    def remark(self, due: datetime) -> str:
        is_shown = FIRST_YEAR <= self.said.year <= LAST_YEAR  # what is not is due at the end of all instants
        if due != self.due or self.said.tzinfo or not is_shown:
            return ""
        if due.astimezone(self.zone).replace(tzinfo=None) != self.said:
            return _skipped(self.said)
        return _REPEATED if is_ambiguous(due, self.zone) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ByHand(Schedule):
    """Never due by itself."""

    def next_due(self, after: datetime) -> None:  # noqa: ARG002
        return None

    def previous_due(self, at: datetime) -> None:  # noqa: ARG002
        return None

    def count(self, after: datetime, until: datetime) -> int:  # noqa: ARG002
        return 0

    def describe(self) -> str:
        return "by hand only"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bounded(Schedule):
    """What is due by *schedule* from *first* to *last*, both of them included."""

    schedule: Schedule
    first: datetime
    last: datetime
    zone: ZoneInfo

    def next_due(self, after: datetime) -> datetime | None:
        due = self.schedule.next_due(max(after, self.first - _MICROSECOND))
        return due if due and due <= self.last else None

    def previous_due(self, at: datetime) -> datetime | None:
        due = self.schedule.previous_due(min(at, self.last))
        return due if due and due >= self.first else None

    def count(self, after: datetime, until: datetime) -> int:
        return self.schedule.count(max(after, self.first - _MICROSECOND), min(until, self.last))

    def describe(self) -> str:
        words = self.schedule.describe()
        if self.first > EARLIEST:
            words += f", from {_shown(self.first, self.zone)}"
        if self.last < LATEST:
            words += f", until {_shown(self.last, self.zone)}"
        return words

    def remark(self, due: datetime) -> str:
        return self.schedule.remark(due)


@dataclass(frozen=True, kw_only=True, slots=True)
class _WallTimes:
    """The times that a cron expression names, on a clock that never jumps.

    CronSim reads the expression and judges dates, but it does not search for them here:
    asked across a jump of the clock it may answer with an instant that has passed, or pass
    over one (two hours of `*/2` in Australia/Lord_Howe, each autumn).
    """

    pattern: CronSim
    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...]
    is_fixed: bool

    def first(self, start: datetime) -> datetime | None:
        """The first one from *start* on; None if no date matches within the horizon."""
        day = start.date()
        if self._matches(day) and (passed := self._passed(start.time())) < self._a_day:
            return self._at(day, passed)
        found = self._day_from(day + _DAY)
        return None if found is None else self._at(found, 0)

    def last(self, stop: datetime) -> datetime | None:
        """The last one before *stop*; None if no date matches within the horizon."""
        day = stop.date()
        if self._matches(day) and (passed := self._passed(stop.time())) > 0:
            return self._at(day, passed - 1)
        found = self._day_until(day - _DAY)
        return None if found is None else self._at(found, self._a_day - 1)

    def count(self, start: datetime, stop: datetime) -> int:
        """How many there are from *start* to before *stop*."""
        if start >= stop:
            return 0
        day, last = start.date(), stop.date()
        total = -self._passed(start.time()) if self._matches(day) else 0
        while day < last:
            total += self._a_day if self._matches(day) else 0
            day += _DAY
        return total + (self._passed(stop.time()) if self._matches(day) else 0)

    @property
    def _a_day(self) -> int:
        return len(self.hours) * len(self.minutes) * len(self.seconds)

    def _passed(self, at: time) -> int:
        """How many times of a day are before *at*."""
        hours, minutes = bisect_left(self.hours, at.hour), bisect_left(self.minutes, at.minute)
        seconds = bisect_left(self.seconds, at.second)
        if at.hour not in self.pattern.hours:
            minutes = seconds = 0
        elif at.minute not in self.pattern.minutes:
            seconds = 0
        return (hours * len(self.minutes) + minutes) * len(self.seconds) + seconds

    def _at(self, day: date, index: int) -> datetime:
        """The time of *day* before which *index* others are."""
        rest, second = divmod(index, len(self.seconds))
        hour, minute = divmod(rest, len(self.minutes))
        return datetime.combine(day, time(self.hours[hour], self.minutes[minute], self.seconds[second]))

    def _matches(self, day: date) -> bool:
        return day.month in self.pattern.months and self.pattern.match_day(day)

    def _day_from(self, day: date) -> date | None:
        horizon = min(day.year + HORIZON_YEARS, LAST_YEAR)
        while day.year <= horizon:
            if day.month not in self.pattern.months:
                day = (day.replace(day=28) + 4 * _DAY).replace(day=1)
            elif self.pattern.match_day(day):
                return day
            else:
                day += _DAY
        return None

    def _day_until(self, day: date) -> date | None:
        horizon = max(day.year - HORIZON_YEARS, FIRST_YEAR)
        while day.year >= horizon:
            if day.month not in self.pattern.months:
                day = day.replace(day=1) - _DAY
            elif self.pattern.match_day(day):
                return day
            else:
                day -= _DAY
        return None


@lru_cache(maxsize=1024)  # they weigh 8 KB, and many tasks say the same
def _wall_times(expression: str) -> _WallTimes:
    """The times of an expression that `reader.cron` has accepted."""
    pattern = CronSim(expression, datetime(2001, 1, 1, tzinfo=UTC))
    minute, hour = expression.split()[-5:-3]
    return _WallTimes(
        pattern=pattern,
        hours=tuple(sorted(pattern.hours)),
        minutes=tuple(sorted(pattern.minutes)),
        seconds=tuple(sorted(pattern.seconds)),
        is_fixed=not minute.startswith("*") and not hour.startswith("*"),
    )


def _second_after(instant: datetime) -> datetime:
    """The first whole second later than *instant*."""
    return instant.astimezone(UTC).replace(microsecond=0) + _SECOND


_REPEATED: Final = "the clocks go back: it runs once"


def _skipped(wall: datetime) -> str:
    return f"the clocks go forward past {wall:%H:%M}"


def _shown(instant: datetime, zone: ZoneInfo) -> str:
    local = instant.astimezone(zone)
    return local.strftime("%Y-%m-%d %H:%M:%S %Z" if local.second else "%Y-%m-%d %H:%M %Z")


_WORDS: Final = {"d": "d", "h": "h", "m": "min", "s": "s"}
_ONE: Final = {"1 d": "day", "1 h": "hour", "1 min": "minute", "1 s": "second"}


def _spoken(span: timedelta) -> str:
    """*span* in words: `1 h 30 min`."""
    return " ".join(f"{count} {_WORDS[unit]}" for count, unit in re.findall("([0-9.]+)([dhms])", reader.spell(span)))
