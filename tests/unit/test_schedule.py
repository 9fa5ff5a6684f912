"""When a task is due: every rule as a table, and all of them against a walk through time.

The walk shares no code with what it judges. It steps through UTC, looks at the clock of
the zone at each step, reads expressions by itself, and knows the rule for jumps only as
"what has the clock shown, or gone past, for the first time?".
"""

import calendar
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pulse.model import Task
from pulse.schedule import Schedule, delay_of, latest_start, schedule_of
from pulse.zone import EPOCH, iso_utc

MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def cron(expression: str, zone: str = "UTC", **more) -> Schedule:
    return schedule_of(Task(name="a", cron=expression, timezone=zone, **more))


def cron_if_possible(expression: str, zone: str) -> Schedule | None:
    """None for day fields that exclude each other: those are refused at the door."""
    try:
        return cron(expression, zone)
    except ValueError:
        return None


def dues_of(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    dues = []
    while len(dues) < count and (due := schedule.next_due(after)):
        dues.append(due)
        after = due
    return dues


def clock_of(zone: str, instants: list[datetime]) -> list[str]:
    return [f"{instant.astimezone(ZoneInfo(zone)):%m-%d %H:%M %Z}" for instant in instants]


NEVER = schedule_of(Task(name="a", cron="@manually"))


# A walk through time: the judge of cron

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
NAMES = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])} | {
    name: number for number, name in enumerate(MONTHS, 1)
}


def numbers(field: str, low: int, high: int) -> set[int]:
    """The numbers of a field of lists, ranges, steps and names."""
    found: set[int] = set()
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        begin = NAMES[first] if first in NAMES else int(first)
        end = (NAMES[last] if last in NAMES else int(last)) if last else high if step else begin
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


@dataclass
class Expression:
    """A cron expression as the walk understands it."""

    text: str

    def __post_init__(self) -> None:
        second, minute, hour, self.dom, month, self.dow = ["0", *self.text.split()][-6:]
        self.times = {
            (h, m, s) for h in numbers(hour, 0, 23) for m in numbers(minute, 0, 59) for s in numbers(second, 0, 59)
        }
        self.months = numbers(month, 1, 12)
        self.is_fixed = minute[0] != "*" and hour[0] != "*"
        self.is_day = cache(self._is_day)

    def _is_day(self, day: date) -> bool:
        both = "*" in (self.dom[0], self.dow[0])
        dom, dow = self._is_day_of_month(day), self._is_day_of_week(day)
        return day.month in self.months and ((dom and dow) if both else (dom or dow))

    def _is_day_of_month(self, day: date) -> bool:
        length = calendar.monthrange(day.year, day.month)[1]
        working = [n for n in range(1, length + 1) if calendar.weekday(day.year, day.month, n) < 5]
        special = {"L": length, "LW": working[-1]}
        return any(
            day.day == special[part] if part in special else day.day in numbers(part, 1, 31)
            for part in self.dom.split(",")
        )

    def _is_day_of_week(self, day: date) -> bool:
        names = {day.isoweekday(), day.isoweekday() % 7}  # of Sunday, both
        for part in self.dow.split(","):
            name, _, nth = part.partition("#")
            if nth:
                if numbers(name, 0, 7) & names and (day.day - 1) // 7 + 1 == int(nth):
                    return True
            elif part.endswith("L"):
                if int(part[:-1]) in names and (day + 7 * DAY).month != day.month:
                    return True
            elif numbers(part, 0, 7) & names:
                return True
        return False


Sights = dict[tuple[int, int, int], list[tuple[date, datetime]]]
"""For each time of the day, the days on which it was seen, and when that was: a walk is judged often."""


class Walk(NamedTuple):
    """What the clock has shown at its looks, and what it came past for the first time."""

    shown: Sights
    passed: Sights


@cache
def walk(zone: str, begin: datetime, end: datetime, step: timedelta) -> Walk:
    """A look every *step* from *begin* to before *end*."""
    clock = ZoneInfo(zone)
    # Of a clock that was set back by a day all has been shown before. Jumps are at whole minutes.
    spacing = max(step, MINUTE)
    before = [begin - step - count * spacing for count in range(26 * HOUR // spacing)]
    latest = max(instant.astimezone(clock).replace(tzinfo=None) for instant in before)
    seen = Walk(defaultdict(list), defaultdict(list))
    instant = begin
    while instant < end:
        shown = instant.astimezone(clock).replace(tzinfo=None)
        see(seen.shown, shown, instant)
        while latest < shown:
            latest += step
            see(seen.passed, latest, instant)
        instant += step
    return seen


def see(sights: Sights, wall: datetime, instant: datetime) -> None:
    sights[wall.hour, wall.minute, wall.second].append((wall.date(), instant))


def judged(expression: Expression, seen: Walk) -> list[datetime]:
    """When *expression* is due on a walk."""
    sights = seen.passed if expression.is_fixed else seen.shown
    # A set: of several times that a clock leaps over, the instant is one.
    return sorted(
        {instant for time in expression.times for day, instant in sights.get(time, ()) if expression.is_day(day)}
    )


def assert_agrees(schedule: Schedule, dues: list[datetime], begin: datetime, end: datetime, seed: int) -> None:
    """What *schedule* says from *begin* to before *end* is *dues*, in every way to ask."""
    assert dues_of(schedule, begin - MICROSECOND, len(dues)) == dues
    backwards = end - MICROSECOND
    for due in reversed(dues):
        assert schedule.previous_due(backwards) == due
        backwards = due - MICROSECOND
    following, preceding = schedule.next_due(end - MICROSECOND), schedule.previous_due(begin - MICROSECOND)
    assert following is None or following >= end
    assert preceding is None or preceding < begin
    choice = random.Random(seed)
    for at in [begin + choice.random() * (end - begin) for _ in range(5)] + choice.sample(dues, min(5, len(dues))):
        later = [due for due in dues if due > at]
        earlier = [due for due in dues if due <= at]
        assert schedule.next_due(at) == (later[0] if later else following)
        assert schedule.previous_due(at) == (earlier[-1] if earlier else preceding)
        assert schedule.count(begin - MICROSECOND, at) == len(earlier)
        assert schedule.count(at, end - MICROSECOND) == len(later)


# Two years of six zones, and a few days on which clocks did odd things

YEARS = {
    "UTC": 2026,
    "Europe/Berlin": 2026,
    "America/New_York": 2026,
    "Australia/Lord_Howe": 2026,  # 30 minutes
    "America/Sao_Paulo": 2017,  # at midnight
    "Africa/Casablanca": 2026,  # back for Ramadan
    "Asia/Kathmandu": 2026,  # 5:45
}
ODD_DAYS = [
    ("Pacific/Apia", utc(2011, 12, 30, 10)),  # a day that was not
    ("Pacific/Kwajalein", utc(1993, 8, 21, 12)),  # another, in the night
    ("Asia/Manila", utc(1990, 7, 28, 16)),
    ("Asia/Pyongyang", utc(2015, 8, 14, 15)),  # back by 30 minutes, for years
    ("America/Caracas", utc(2016, 5, 1, 7)),  # and forward
    ("Asia/Beirut", utc(2026, 3, 28, 22)),  # forward at midnight
    ("Africa/Cairo", utc(2026, 4, 23, 22)),
    ("Africa/Cairo", utc(2026, 10, 29, 21)),  # back at midnight: the day before comes again
    ("Antarctica/Troll", utc(2026, 3, 29, 1)),  # 2 hours
    ("Antarctica/Troll", utc(2026, 10, 25, 1)),
    ("America/Scoresbysund", utc(2024, 3, 31, 1)),  # zone and summer time changed at once
]


def jumps(zone: str, year: int) -> list[datetime]:
    """When the clock of *zone* jumps in *year* and the next, to the half hour."""
    clock = ZoneInfo(zone)
    days = [utc(year, 1, 1) + count * 24 * HOUR for count in range(2 * 365 + 1)]
    return [
        time
        for day, following in pairwise(days)
        if day.astimezone(clock).utcoffset() != following.astimezone(clock).utcoffset()
        for time in [day + count * 30 * MINUTE for count in range(1, 49)]
        if time.astimezone(clock).utcoffset() != (time - 30 * MINUTE).astimezone(clock).utcoffset()
    ]


MOMENTS = [
    *[(zone, moment) for zone, year in YEARS.items() for moment in [utc(year, 12, 31, 23), *jumps(zone, year)]],
    *ODD_DAYS,
]


def fields(low: int, high: int, *special: str) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(sorted)
    part = st.one_of(
        number.map(str),
        span.map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.tuples(span, st.integers(1, high)).map(lambda both: f"{both[0][0]}-{both[0][1]}/{both[1]}"),
        st.tuples(number, st.integers(1, high)).map(lambda both: f"{both[0]}/{both[1]}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
        *([st.sampled_from(special)] if special else []),
    )
    return st.one_of(st.just("*"), part, st.lists(part, min_size=2, max_size=3).map(",".join))


DOMS = fields(1, 31, "L", "LW")
DOWS = fields(0, 7, "5L", "0L", "7L", "5#2", "7#1", "mon#5", "sun", "SAT", "sun-tue", "mon-fri", "tue-sat/2")
NIGHT_HOURS = st.sampled_from(
    ["*", "*/2", "*/3", "0", "1", "2", "3", "23", "0-3", "1,2", "2-3", "0,23", "1-5/2", "*,2"]
)
DAYS = st.one_of(st.just(("*", "*", "*")), st.tuples(DOMS, fields(1, 12, "jan", "mar-oct", "DEC"), DOWS))
UNHURRIED = settings(derandomize=True, deadline=None, database=None)


def instants(first_year: int, last_year: int) -> st.SearchStrategy[datetime]:
    span = utc(last_year, 1, 1) - utc(first_year, 1, 1)
    return st.timedeltas(timedelta(0), span).map(lambda passed: utc(first_year, 1, 1) + passed)


def spoken(parts: tuple) -> str:
    *times, (dom, month, dow) = parts
    return " ".join([*times, dom, month, dow])


@settings(UNHURRIED, max_examples=100)
@given(
    expression=st.tuples(fields(0, 59), NIGHT_HOURS | fields(0, 23), DAYS).map(spoken),
    moment=st.sampled_from(MOMENTS),
    seed=st.integers(0, 1000),
)
@example("30 2 * * *", ("Europe/Berlin", utc(2026, 10, 25, 1)), 1)
@example("0,30 2 * * *", ("Europe/Berlin", utc(2026, 3, 29, 1)), 1)
@example("*/20 */2 * * *", ("Australia/Lord_Howe", utc(2026, 4, 4, 15)), 1)
@example("0 0 * * *", ("America/Sao_Paulo", utc(2018, 11, 4, 3)), 1)
@example("30 12 * * *", ("Pacific/Apia", utc(2011, 12, 30, 10)), 1)
def test_around_a_jump_of_the_clock_it_agrees_with_a_walk_minute_by_minute(expression, moment, seed):
    zone, middle = moment
    begin, end = middle - 30 * HOUR, middle + 30 * HOUR

    dues = judged(Expression(expression), walk(zone, begin, end, MINUTE))

    assert_agrees(cron_if_possible(expression, zone) or NEVER, dues, begin, end, seed)


@settings(UNHURRIED, max_examples=50)
@given(
    expression=st.tuples(fields(0, 59), fields(0, 59), NIGHT_HOURS, st.just(("*", "*", "*"))).map(spoken),
    moment=st.sampled_from(MOMENTS),
    seed=st.integers(0, 1000),
)
@example("*/10 30 2 * * *", ("Europe/Berlin", utc(2026, 3, 29, 1)), 1)
@example("* 59 1 * * *", ("Europe/Berlin", utc(2026, 10, 25, 1)), 1)
@example("* * * * * *", ("America/New_York", utc(2026, 11, 1, 6)), 1)
def test_around_a_jump_of_the_clock_it_agrees_with_a_walk_second_by_second(expression, moment, seed):
    zone, middle = moment
    begin, end = middle - 20 * MINUTE, middle + 10 * MINUTE

    dues = judged(Expression(expression), walk(zone, begin, end, SECOND))

    assert_agrees(cron_if_possible(expression, zone) or NEVER, dues, begin, end, seed)


QUARTERS = st.sampled_from(["0", "15", "30", "45", "0,30", "15,45", "*/15", "*/30", "15-45/30", "0-59/15"])


@settings(UNHURRIED, max_examples=20)
@given(
    expression=st.tuples(QUARTERS, NIGHT_HOURS | fields(0, 23), st.tuples(DOMS, fields(1, 12), DOWS)).map(spoken),
    zone=st.sampled_from(sorted(YEARS)),
)
@example("30 2 * * *", "Europe/Berlin")
@example("*/30 * * * *", "Australia/Lord_Howe")
@example("15 */3 * * 1-5", "Africa/Casablanca")
def test_over_two_years_it_agrees_with_a_walk_by_the_quarter_of_an_hour(expression, zone):
    begin, end = utc(YEARS[zone], 1, 1), utc(YEARS[zone] + 2, 1, 1)
    schedule = cron_if_possible(expression, zone) or NEVER

    dues = judged(Expression(expression), walk(zone, begin, end, 15 * MINUTE))

    assert schedule.count(begin - SECOND, end - SECOND) == len(dues)
    for due, following in list(pairwise(dues))[:: len(dues) // 200 + 1]:
        assert schedule.next_due(due) == following
        assert schedule.previous_due(following - SECOND) == due


@settings(UNHURRIED, max_examples=150)
@given(
    expression=st.tuples(fields(0, 59), fields(0, 23), st.tuples(DOMS, fields(1, 12), DOWS)).map(spoken),
    zone=st.sampled_from(sorted(YEARS)),
    at=instants(2015, 2035),
)
def test_next_and_previous_and_count_tell_one_story(expression, zone, at):
    schedule = cron_if_possible(expression, zone) or NEVER

    due = schedule.next_due(at)
    previous = schedule.previous_due(at)

    if due is not None:
        assert due > at
        assert due.tzinfo is UTC
        assert schedule.previous_due(due) == due
        assert schedule.previous_due(due - MICROSECOND) == previous
        assert schedule.count(at, due) == 1
        assert schedule.count(at, due - MICROSECOND) == 0
    if previous is not None:
        assert previous <= at
        assert schedule.next_due(previous - MICROSECOND) == previous
        assert schedule.next_due(previous) == due
        assert schedule.count(previous, at) == 0


# Cron: the days

DATES = [
    ("0 0 * * 0", ["01-04", "01-11", "01-18"]),  # Sunday
    ("0 0 * * 7", ["01-04", "01-11", "01-18"]),
    ("0 0 * * sun", ["01-04", "01-11", "01-18"]),
    ("0 0 * * 1", ["01-05", "01-12"]),
    ("0 0 * * 6", ["01-03", "01-10"]),
    ("0 0 * * 1-5", ["01-01", "01-02", "01-05", "01-06", "01-07", "01-08", "01-09", "01-12"]),
    ("0 0 * * MON-Fri", ["01-01", "01-02", "01-05"]),
    ("0 0 * * sun-tue", ["01-04", "01-05", "01-06", "01-11"]),
    ("0 0 * * 5-7", ["01-02", "01-03", "01-04", "01-09"]),
    ("0 0 * * 6,7", ["01-03", "01-04", "01-10"]),
    ("0 0 * * */2", ["01-01", "01-03", "01-04", "01-06"]),  # 0 2 4 6
    ("0 0 * * 1-5/2", ["01-02", "01-05", "01-07", "01-09"]),
    ("0 0 13 * 5", ["01-02", "01-09", "01-13", "01-16"]),  # either
    ("0 0 */2 * 5", ["01-09", "01-23", "02-13"]),  # both, because of the star
    ("0 0 13 * */5", ["02-13", "03-13", "09-13", "11-13"]),  # 0 and 5
    ("0 0 1-7 * *", ["01-01", "01-02", "01-03", "01-04", "01-05", "01-06", "01-07", "02-01"]),
    ("0 0 L * *", ["01-31", "02-28", "03-31", "04-30"]),
    ("0 0 LW * *", ["01-30", "02-27", "03-31", "04-30", "05-29"]),
    ("0 0 * * 5L", ["01-30", "02-27", "03-27"]),
    ("0 0 * * 0L", ["01-25", "02-22", "03-29"]),
    ("0 0 * * 7L", ["01-25", "02-22", "03-29"]),
    ("0 0 * * 5#2", ["01-09", "02-13", "03-13"]),
    ("0 0 * * 7#1", ["01-04", "02-01", "03-01"]),
    ("0 0 * * mon#1", ["01-05", "02-02"]),
    ("0 0 * * 4#5", ["01-01", "01-29", "04-30"][1:]),
    ("0 0 31 * *", ["01-31", "03-31", "05-31", "07-31", "08-31"]),
    ("0 0 29 2 *", ["02-29", "02-29", "02-29"]),
    ("0 0 30 1-3 *", ["01-30", "03-30", "01-30"]),
    ("0 0 1 jan,JUL *", ["01-01", "07-01", "01-01"]),
    ("0 0 1 */4 *", ["01-01", "05-01", "09-01", "01-01"]),
    ("0 0 1 2-11/3 *", ["02-01", "05-01", "08-01", "11-01", "02-01"]),
    ("0 0 10/10 * *", ["01-10", "01-20", "01-30", "02-10"]),
    ("@yearly", ["01-01", "01-01"]),
    ("@monthly", ["01-01", "02-01"]),
    ("@weekly", ["01-04", "01-11"]),
    ("@daily", ["01-01", "01-02"]),
]


@pytest.mark.parametrize(("expression", "days"), DATES)
def test_an_expression_names_the_days_of_debians_cron(expression, days):
    schedule = cron(expression)

    dues = dues_of(schedule, utc(2025, 12, 31, 23, 59), len(days))

    assert [f"{due:%m-%d}" for due in dues] == days


def test_the_29th_of_february_comes_in_leap_years():
    assert [due.year for due in dues_of(cron("0 0 29 2 *"), utc(2090, 1, 1), 3)] == [2092, 2096, 2104]


def test_the_longest_wait_of_the_calendar_is_waited():
    a_sunday = cron("0 0 29 2 */7")  # both, because of the star

    assert [due.year for due in dues_of(a_sunday, utc(2088, 1, 1), 2)] == [2088, 2128]
    assert a_sunday.previous_due(utc(2128, 2, 28)) == utc(2088, 2, 29)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", ["00:00:00", "00:01:00"]),
        ("*/7 * * * *", ["00:00:00", "00:07:00"]),
        ("50/3 * * * *", ["00:50:00", "00:53:00", "00:56:00", "00:59:00", "01:50:00"]),
        ("5,1,3 4 * * *", ["04:01:00", "04:03:00", "04:05:00", "04:01:00"]),
        ("0 9-17/4 * * *", ["09:00:00", "13:00:00", "17:00:00", "09:00:00"]),
        ("@hourly", ["00:00:00", "01:00:00"]),
        ("*/25 * * * * *", ["00:00:00", "00:00:25", "00:00:50", "00:01:00"]),
        ("15 30 6 * * *", ["06:30:15", "06:30:15"]),
    ],
)
def test_an_expression_names_times_and_six_fields_begin_with_the_seconds(expression, expected):
    dues = dues_of(cron(expression), utc(2025, 12, 31, 23, 59, 59), len(expected))

    assert [f"{due:%H:%M:%S}" for due in dues] == expected


def test_instants_are_counted_over_any_span():
    assert cron("0 0 * * *").count(utc(1950, 1, 1), utc(2050, 1, 1)) == 36_525
    assert cron("* * * * * *", "Europe/Berlin").count(utc(2000, 1, 1), utc(2100, 1, 1)) == 36_525 * 86_400
    assert cron("0 0 * * *").count(utc(2026, 1, 2), utc(2026, 1, 1)) == 0


def test_an_instant_is_due_strictly_after_the_one_that_is_asked_for():
    schedule = cron("0 12 * * *")
    noon = utc(2026, 1, 1, 12)

    assert schedule.next_due(noon - MICROSECOND) == noon
    assert schedule.next_due(noon) == noon + DAY
    assert schedule.next_due(noon + MICROSECOND) == noon + DAY
    assert schedule.previous_due(noon - MICROSECOND) == noon - DAY
    assert schedule.previous_due(noon) == noon
    assert schedule.previous_due(noon + MICROSECOND) == noon


# Cron: the jumps, as a table that needs no walk

JUMPS = [
    ("30 2 * * *", "Europe/Berlin", utc(2026, 3, 28), ["03-28 02:30 CET", "03-29 03:00 CEST", "03-30 02:30 CEST"]),
    ("30 2 * * *", "Europe/Berlin", utc(2026, 10, 24), ["10-24 02:30 CEST", "10-25 02:30 CEST", "10-26 02:30 CET"]),
    ("30 1 * * *", "America/New_York", utc(2026, 10, 31, 6), ["11-01 01:30 EDT", "11-02 01:30 EST"]),
    ("30 2 * * *", "America/New_York", utc(2026, 3, 7, 8), ["03-08 03:00 EDT", "03-09 02:30 EDT"]),
    ("0,30 2 * * *", "Europe/Berlin", utc(2026, 3, 29), ["03-29 03:00 CEST", "03-30 02:00 CEST"]),
    ("0 2,3 * * *", "Europe/Berlin", utc(2026, 3, 29), ["03-29 03:00 CEST", "03-30 02:00 CEST"]),
    ("* 30 2 * * *", "Europe/Berlin", utc(2026, 3, 29), ["03-29 03:00 CEST", "03-30 02:30 CEST"]),
    ("0 30 2 * * *", "Europe/Berlin", utc(2026, 10, 25), ["10-25 02:30 CEST", "10-26 02:30 CET"]),
    ("30 * * * *", "Europe/Berlin", utc(2026, 3, 29), ["03-29 01:30 CET", "03-29 03:30 CEST"]),
    ("30 * * * *", "Europe/Berlin", utc(2026, 10, 25), ["10-25 02:30 CEST", "10-25 02:30 CET", "10-25 03:30 CET"]),
    ("15 */2 * * *", "Europe/Berlin", utc(2026, 10, 24, 23), ["10-25 02:15 CEST", "10-25 02:15 CET"]),
    ("* 2 * * *", "Europe/Berlin", utc(2026, 3, 29), ["03-30 02:00 CEST"]),
    ("15 2 * * *", "Australia/Lord_Howe", utc(2026, 10, 3, 15), ["10-04 02:30 +11", "10-05 02:15 +11"]),
    ("45 1 * * *", "Australia/Lord_Howe", utc(2026, 4, 4), ["04-05 01:45 +11", "04-06 01:45 +1030"]),
    ("0 0 * * *", "America/Sao_Paulo", utc(2018, 11, 3, 12), ["11-04 01:00 -02", "11-05 00:00 -02"]),
    ("0 0 * * 0", "America/Sao_Paulo", utc(2018, 11, 3, 12), ["11-04 01:00 -02", "11-11 00:00 -02"]),
    ("30 23 * * *", "America/Sao_Paulo", utc(2018, 2, 17, 12), ["02-17 23:30 -02", "02-18 23:30 -03"]),
    ("*/30 0 * * *", "America/Sao_Paulo", utc(2018, 11, 4), ["11-05 00:00 -02"]),
    ("0 12 * * *", "Pacific/Apia", utc(2011, 12, 29), ["12-29 12:00 -10", "12-31 00:00 +14", "12-31 12:00 +14"]),
    ("0 * * * *", "Pacific/Apia", utc(2011, 12, 30, 9), ["12-31 00:00 +14", "12-31 01:00 +14"]),
]


@pytest.mark.parametrize(("expression", "zone", "after", "expected"), JUMPS)
def test_where_the_clock_jumps_fixed_times_come_once_and_others_in_real_time(expression, zone, after, expected):
    schedule = cron(expression, zone)

    dues = dues_of(schedule, after, len(expected))

    assert clock_of(zone, dues) == expected
    assert [schedule.previous_due(due) for due in dues] == dues
    assert schedule.count(after, dues[-1]) == len(dues)


def test_a_quarter_hourly_task_keeps_its_real_spacing_through_the_year():
    schedule = cron("*/15 * * * *", "Europe/Berlin")
    night = utc(2026, 10, 24, 20)

    dues = dues_of(schedule, night, 60)

    assert {b - a for a, b in pairwise(dues)} == {15 * MINUTE}
    assert schedule.count(utc(2026, 1, 1), utc(2027, 1, 1)) == 365 * 96


def test_a_fixed_time_comes_once_for_every_day_of_the_clock():
    schedule = cron("30 2 * * *", "Europe/Berlin")

    dues = dues_of(schedule, utc(2026, 1, 1), 365)

    assert len({due.astimezone(ZoneInfo("Europe/Berlin")).date() for due in dues}) == 365


def test_asking_inside_the_repeated_hour_does_not_go_back():
    schedule = cron("30 2 * * *", "Europe/Berlin")
    first, second = utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 1, 30)  # 02:30, twice

    assert schedule.next_due(second - MINUTE) == schedule.next_due(second) == utc(2026, 10, 26, 1, 30)
    assert schedule.previous_due(second) == schedule.previous_due(second - MINUTE) == first


def test_an_instant_of_another_zone_is_taken_for_what_it_is():
    schedule = cron("30 2 * * *", "Europe/Berlin")
    berlin = datetime(2026, 10, 25, 2, 45, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))

    assert schedule.next_due(berlin) == utc(2026, 10, 26, 1, 30)
    assert schedule.previous_due(berlin) == utc(2026, 10, 25, 0, 30)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kathmandu"])
def test_times_that_only_ever_fall_into_the_gap_are_never_due(zone):
    schedule = cron("* 2 * 3 7L", zone)  # in Berlin, the hour that the clock skips each spring

    assert (schedule.next_due(utc(2026, 1, 1)) is None) == (zone == "Europe/Berlin")


def test_an_expression_in_words_names_its_zone():
    assert cron("30 2 * * 1-5", "Europe/Berlin").describe() == "At 02:30 on Monday through Friday (Europe/Berlin)"


# Intervals


@settings(UNHURRIED, max_examples=200)
@given(
    interval=st.timedeltas(timedelta(milliseconds=100), timedelta(days=366)),
    offset=st.timedeltas(timedelta(0), timedelta(days=366)),
    at=instants(1950, 2100),
)
def test_an_interval_is_due_at_its_multiples_since_1970_moved_by_the_offset(interval, offset, at):
    schedule = schedule_of(Task(name="a", interval=interval, offset=offset))

    due, previous = schedule.next_due(at), schedule.previous_due(at)

    assert (due - EPOCH - offset) % interval == timedelta(0)
    assert previous <= at < due == previous + interval
    assert due.tzinfo is UTC
    assert schedule.previous_due(due) == due
    assert schedule.count(previous, due) == 1
    assert schedule.count(at, at + 1000 * interval) == 1000
    assert schedule.count(at, at - interval) == 0


def test_an_interval_does_not_drift_in_a_century():
    schedule = schedule_of(Task(name="a", interval=0.1))

    assert schedule.next_due(utc(2070, 1, 1)) == utc(2070, 1, 1, 0, 0, 0, 100_000)
    assert schedule.count(utc(1970, 1, 1), utc(2070, 1, 1)) == 36_525 * 864_000


def test_a_task_without_a_schedule_is_due_every_five_minutes():
    schedule = schedule_of(Task(name="a"))

    assert schedule.next_due(utc(2026, 1, 1)) == utc(2026, 1, 1, 0, 5)
    assert schedule.describe() == "every 5 min"


@pytest.mark.parametrize(
    ("name", "interval", "offset"),
    [("cleanup", 300, 292.969), ("report", 300, 206.607), ("cleanup", 0.1, 0.069), ("größe", "1d", 68_265.705)],
)
def test_an_offset_by_hash_is_the_same_on_every_host(name, interval, offset):
    schedule = schedule_of(Task(name=name, interval=interval, offset="hash"))

    assert schedule.next_due(EPOCH - MICROSECOND) == EPOCH + timedelta(seconds=offset)


@settings(UNHURRIED, max_examples=100)
@given(name=st.from_regex(r"\A[\w-]{1,20}\Z"), interval=st.timedeltas(timedelta(milliseconds=100), timedelta(days=366)))
def test_an_offset_by_hash_is_below_the_interval(name, interval):
    schedule = schedule_of(Task(name=name, interval=interval, offset="hash"))

    assert EPOCH <= schedule.next_due(EPOCH - MICROSECOND) < EPOCH + interval


def test_offsets_by_hash_spread_the_tasks():
    tasks = [Task(name=f"task-{number}", interval=60, offset="hash") for number in range(600)]

    seconds = [schedule_of(task).next_due(EPOCH - MICROSECOND).second for task in tasks]

    assert max(seconds.count(second) for second in range(60)) < 30


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"interval": 300}, "every 5 min"),
        ({"interval": 1}, "every second"),
        ({"interval": 60}, "every minute"),
        ({"interval": "1h"}, "every hour"),
        ({"interval": "1d"}, "every day"),
        ({"interval": "1h30m"}, "every 1 h 30 min"),
        ({"interval": 0.25}, "every 0.25 s"),
        ({"interval": "1d", "offset": "2h30m"}, "every day, offset 2 h 30 min"),
    ],
)
def test_an_interval_is_told_in_words(task, words):
    assert schedule_of(Task(name="a", **task)).describe() == words


# Once, and by hand


@pytest.mark.parametrize(
    ("at", "zone", "due"),
    [
        ("2027-05-01T12:00", "Europe/Berlin", utc(2027, 5, 1, 10)),
        ("2027-05-01T12:00+01:00", "Europe/Berlin", utc(2027, 5, 1, 11)),
        ("2027-05-01T12:00Z", "Europe/Berlin", utc(2027, 5, 1, 12)),
        ("2027-05-01T12:00:00.000001", None, utc(2027, 5, 1, 12, 0, 0, 1)),
        ("2027-05-01", "Asia/Kathmandu", utc(2027, 4, 30, 18, 15)),
        ("2026-03-29T02:30", "Europe/Berlin", utc(2026, 3, 29, 1)),  # skipped: right after the gap
        ("2026-03-29T02:00", "Europe/Berlin", utc(2026, 3, 29, 1)),
        ("2026-03-29T02:59:59.999999", "Europe/Berlin", utc(2026, 3, 29, 1)),
        ("2026-03-29T03:00", "Europe/Berlin", utc(2026, 3, 29, 1)),
        ("2011-12-30T12:00", "Pacific/Apia", utc(2011, 12, 30, 10)),
        ("2026-10-25T02:30", "Europe/Berlin", utc(2026, 10, 25, 0, 30)),  # twice: the first
        (utc(2026, 10, 25, 2, 30).replace(tzinfo=None, fold=1), "Europe/Berlin", utc(2026, 10, 25, 0, 30)),
        ("2026-10-25T02:30+01:00", "Europe/Berlin", utc(2026, 10, 25, 1, 30)),
    ],
)
def test_a_task_that_is_due_once_is_due_once(at, zone, due):
    schedule = schedule_of(Task(name="a", at=at, timezone=zone))

    assert dues_of(schedule, due - DAY, 3) == [due]
    assert schedule.next_due(due) is None
    assert schedule.previous_due(due) == schedule.previous_due(due + DAY) == due
    assert schedule.previous_due(due - MICROSECOND) is None
    assert schedule.count(due - MICROSECOND, due) == 1
    assert schedule.count(due, due + DAY) == schedule.count(due - DAY, due - MICROSECOND) == 0


def test_once_is_told_by_the_clock_of_the_zone():
    assert schedule_of(Task(name="a", at="2027-05-01T12:00Z")).describe() == "once at 2027-05-01 12:00 UTC"
    assert (
        schedule_of(Task(name="a", at="2027-05-01T12:00:30Z", timezone="Europe/Berlin")).describe()
        == "once at 2027-05-01 14:00:30 CEST"
    )


def test_a_manual_task_is_never_due():
    schedule = schedule_of(Task(name="a", cron="@manually", start_date="2026-01-01"))

    assert schedule.next_due(utc(2026, 1, 1)) is None
    assert schedule.previous_due(utc(2026, 1, 1)) is None
    assert schedule.count(utc(2000, 1, 1), utc(2100, 1, 1)) == 0
    assert schedule.describe() == "by hand only"


# Bounds


@pytest.mark.parametrize("rule", [{"cron": "0 12 * * *"}, {"interval": "1d", "offset": "12h"}])
def test_bounds_are_included(rule):
    noon = utc(2026, 1, 1, 12)
    schedule = schedule_of(Task(name="a", start_date=noon, end_date=noon + 2 * DAY, **rule))

    assert dues_of(schedule, utc(2000, 1, 1), 9) == [noon, noon + DAY, noon + 2 * DAY]
    assert schedule.next_due(noon + 2 * DAY) is None
    assert schedule.previous_due(utc(2050, 1, 1)) == noon + 2 * DAY
    assert schedule.previous_due(noon) == noon
    assert schedule.previous_due(noon - MICROSECOND) is None
    assert schedule.count(utc(2000, 1, 1), utc(2050, 1, 1)) == 3
    assert schedule.count(noon, noon + DAY) == 1


@pytest.mark.parametrize("rule", [{"cron": "0 12 * * *"}, {"interval": "1d", "offset": "12h"}])
def test_bounds_leave_out_what_is_a_microsecond_beyond(rule):
    noon = utc(2026, 1, 1, 12)
    task = Task(name="a", start_date=noon + MICROSECOND, end_date=noon + 2 * DAY - MICROSECOND, **rule)

    schedule = schedule_of(task)

    assert dues_of(schedule, utc(2000, 1, 1), 9) == [noon + DAY]
    assert schedule.previous_due(utc(2050, 1, 1)) == noon + DAY
    assert schedule.count(utc(2000, 1, 1), utc(2050, 1, 1)) == 1


def test_bounds_hold_for_a_task_that_is_due_once():
    at = {"name": "a", "at": "2026-01-01T12:00"}

    assert schedule_of(Task(**at, start_date="2026-01-02")).next_due(EPOCH) is None
    assert schedule_of(Task(**at, end_date="2025-12-31")).previous_due(utc(2050, 1, 1)) is None
    assert schedule_of(Task(**at, end_date="2026-01-01")).next_due(EPOCH) == utc(2026, 1, 1, 12)


def test_naive_bounds_are_local_time_of_the_zone():
    task = Task(name="a", interval="1h", timezone="Asia/Kathmandu", start_date="2026-01-01", end_date="2026-01-01")

    schedule = schedule_of(task)

    assert schedule.next_due(EPOCH) == utc(2025, 12, 31, 19)  # 00:45 there
    assert schedule.previous_due(utc(2050, 1, 1)) == utc(2026, 1, 1, 18)  # 23:45


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("rule", [{"cron": "*/5 * * * *"}, {"interval": 300}])
def test_bounds_at_the_ends_of_the_calendar_mean_for_ever(zone, rule):
    task = Task(name="a", timezone=zone, start_date="0001-01-01", end_date="9999-12-31", **rule)

    schedule = schedule_of(task)

    assert schedule.next_due(utc(2026, 1, 1)) == utc(2026, 1, 1, 0, 5)
    assert schedule.previous_due(utc(2026, 1, 1)) == utc(2026, 1, 1)
    assert "until" not in schedule.describe()


def test_bounds_are_told_in_words():
    task = Task(name="a", interval=300, timezone="Europe/Berlin", start_date="2026-01-01", end_date="2026-07-01T12:00")

    words = schedule_of(task).describe()

    assert words == "every 5 min, from 2026-01-01 00:00 CET, until 2026-07-01 12:00 CEST"


# What the jumps do to an instant


@pytest.mark.parametrize(
    ("task", "due", "remark"),
    [
        ({"cron": "30 2 * * *"}, utc(2026, 3, 29, 1), "the clocks go forward past 02:30"),
        ({"cron": "30 2 * * *"}, utc(2026, 10, 25, 0, 30), "the clocks go back: it runs once"),
        ({"cron": "30 2 * * *"}, utc(2026, 3, 28, 1, 30), ""),
        ({"cron": "0 3 * * *"}, utc(2026, 3, 29, 1), ""),
        ({"cron": "30 * * * *"}, utc(2026, 10, 25, 0, 30), ""),
        ({"at": "2026-03-29T02:30"}, utc(2026, 3, 29, 1), "the clocks go forward past 02:30"),
        ({"at": "2026-10-25T02:30"}, utc(2026, 10, 25, 0, 30), "the clocks go back: it runs once"),
        ({"at": "2026-03-29T02:30", "end_date": "2027-01-01"}, utc(2026, 3, 29, 1), "the clocks go forward past 02:30"),
        ({"at": "2026-10-25T02:30+02:00"}, utc(2026, 10, 25, 0, 30), ""),
        ({"at": "9999-12-31"}, utc(9998, 12, 31), ""),
        ({"at": "0001-01-01"}, utc(2, 1, 1), ""),
        ({"interval": "30m"}, utc(2026, 10, 25, 0, 30), ""),
    ],
)  # fmt: skip
def test_an_instant_that_a_jump_moves_or_repeats_says_so(task, due, remark):
    schedule = schedule_of(Task(name="a", timezone="Europe/Berlin", **task))

    assert schedule.previous_due(due) == due
    assert schedule.remark(due) == remark


# Jitter and grace


@settings(UNHURRIED, max_examples=200)
@given(
    jitter=st.timedeltas(timedelta(0), timedelta(days=366)),
    gap=st.none() | st.timedeltas(MICROSECOND, 5 * MICROSECOND) | st.timedeltas(MICROSECOND, timedelta(days=366)),
    due=instants(1970, 2100),
)
def test_jitter_delays_up_to_itself_and_never_to_the_next_due(jitter, gap, due):
    task = Task(name="a", jitter=jitter)

    delay = delay_of(task, due, None if gap is None else due + gap)

    assert timedelta(0) <= delay <= jitter
    assert gap is None or due + delay < due + gap


def test_jitter_is_a_hash_of_task_and_instant_that_is_the_same_everywhere():
    task = Task(name="cleanup", jitter=60)

    assert delay_of(task, utc(2027, 1, 1), None) == timedelta(microseconds=47_897_412)
    assert delay_of(task, utc(2027, 1, 1, 0, 5), None) == timedelta(microseconds=2_616_704)
    assert delay_of(Task(name="report", jitter=60), utc(2027, 1, 1), None) == timedelta(microseconds=32_381_351)


def test_jitter_uses_the_whole_of_its_span():
    task = Task(name="a", jitter=1)
    dues = [EPOCH + count * HOUR for count in range(1000)]

    delays = [delay_of(task, due, None) / SECOND for due in dues]

    assert min(delays) < 0.01
    assert max(delays) > 0.99
    assert 0.45 < sum(delays) / len(delays) < 0.55


GRACES: list[tuple[object, Callable[[datetime, datetime | None], datetime | None]]] = [
    ("auto", lambda due, following: following),
    ("none", lambda due, following: None),
    (90, lambda due, following: due + 90 * SECOND),
]


@pytest.mark.parametrize("following", [utc(2027, 1, 1, 0, 5), None])
@pytest.mark.parametrize(("grace", "expected"), GRACES)
def test_a_start_is_useful_until_grace_has_passed(grace, expected, following):
    task = Task(name="a", misfire_grace_time=grace)
    due = utc(2027, 1, 1)

    assert latest_start(task, due, following) == expected(due, following)


def test_grace_counts_from_the_delayed_start():
    task = Task(name="a", misfire_grace_time=1, jitter=60)
    due = utc(2027, 1, 1)

    assert latest_start(task, due, None) == due + delay_of(task, due, None) + SECOND


def test_programs_are_told_instants_in_utc_whatever_their_zone():
    assert iso_utc(datetime(2027, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))) == "2027-07-01T10:00:00+00:00"
    assert iso_utc(None) is None
