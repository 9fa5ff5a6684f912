"""The clocks of time zones, and when they jump.

A zone is cut into stretches in which its clock runs evenly. What is due by a clock is
worked out within a stretch, where adding and comparing mean what they say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Nothing looks further for an instant: 40 years is the longest wait of the calendar, from one
# 29 February on a given weekday to the next across 2100.
HORIZON_YEARS: Final = 50
# Zones shift instants by up to a day: without this margin the year 9999, as which people
# write "for ever", would overflow.
FIRST_YEAR: Final = 2
LAST_YEAR: Final = 9998
EARLIEST: Final = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(LAST_YEAR, 12, 31, tzinfo=UTC)

_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A time, from *begin* to before *end*, in which the clock of a zone runs evenly.

    Attributes:
        begin: Its first instant, aware UTC.
        end: The first instant behind it, aware UTC.
        offset: How far the clock is ahead of UTC.
        before: How far it was ahead until *begin*.
    """

    begin: datetime
    end: datetime
    offset: timedelta
    before: timedelta

    def clock(self, instant: datetime) -> datetime:
        """What the clock shows at *instant*: naive."""
        return instant.replace(tzinfo=None) + self.offset

    def opening(self, *, is_fixed: bool) -> datetime:
        """The first wall time that belongs here.

        Fixed times go on where the clock stood before it jumped: what it skips belongs
        here, what it repeats belongs to the stretch before.
        """
        return self.begin.replace(tzinfo=None) + (self.before if is_fixed else self.offset)

    def instant(self, wall: datetime) -> datetime:
        """When *wall* is due: the begin if the clock skipped it."""
        return max(self.begin, (wall - self.offset).replace(tzinfo=UTC))


def stretches_from(zone: ZoneInfo, since: datetime, years: int = HORIZON_YEARS) -> Iterator[Stretch]:
    """The stretches that end after *since*, until the end of the year that is *years* later."""
    for year in range(max(since.year, FIRST_YEAR), min(since.year + years, LAST_YEAR) + 1):
        for stretch in _stretches(zone, year):
            if stretch.end > since:
                yield stretch


def stretches_before(zone: ZoneInfo, until: datetime) -> Iterator[Stretch]:
    """The stretches that begin before *until*, latest first, back to the horizon."""
    for year in range(min(until.year, LAST_YEAR), max(until.year - HORIZON_YEARS, FIRST_YEAR) - 1, -1):
        for stretch in reversed(_stretches(zone, year)):
            if stretch.begin < until:
                yield stretch


# Since 1970 a zone has kept its clock for a week at least (the north-east of Brazil, in
# October 2000): this step passes over no jump.
_STEP: Final = timedelta(days=4)


@lru_cache(maxsize=4096)
def _stretches(zone: ZoneInfo, year: int) -> tuple[Stretch, ...]:
    """The stretches of one year of UTC: new year divides, whether the clock jumps or not."""
    begin, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    steps = [begin + count * _STEP for count in range((end - begin) // _STEP + 1)]
    jumps = [
        _jump(zone, low, high)
        for low, high in pairwise([*steps, end - _SECOND])
        if ahead(zone, low) != ahead(zone, high)
    ]
    return tuple(
        Stretch(begin=low, end=high, offset=ahead(zone, low), before=ahead(zone, low - _SECOND))
        for low, high in pairwise([begin, *jumps, end])
    )


def _jump(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """When the clock jumps between *low* and *high*: the first second after it."""
    while high - low > _SECOND:
        middle = low + (high - low) // (2 * _SECOND) * _SECOND
        if ahead(zone, middle) == ahead(zone, low):
            low = middle
        else:
            high = middle
    return high


def ahead(zone: ZoneInfo, instant: datetime) -> timedelta:
    """How far the clock of *zone* is ahead of UTC."""
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def instant_of(moment: datetime, zone: ZoneInfo) -> datetime:
    """*moment* in UTC; if it is naive, when the clock of *zone* shows it.

    For the first time, if that is twice; right after the jump, if the clock skips it.
    """
    if moment.year < FIRST_YEAR:
        return EARLIEST
    if moment.year > LAST_YEAR:
        return LATEST
    if moment.tzinfo:
        return moment.astimezone(UTC)
    instant = moment.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != moment:
        # Python reads a skipped time with the offset before the jump: that is after it.
        return next(stretches_from(zone, instant)).begin
    return instant


def is_ambiguous(instant: datetime, zone: ZoneInfo) -> bool:
    """Whether the clock of *zone* shows twice what it shows at *instant*."""
    local = instant.astimezone(zone)
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def iso(due: datetime) -> str:
    """What `due.isoformat()` gives; what many tasks are due at is one text in all runs that wait."""
    # Equal instants of two zones have one hash, and two texts.
    return _utc_iso(due) if due.tzinfo is UTC else due.isoformat()


def iso_utc(instant: datetime | None) -> str | None:
    """*instant* for programs: ISO 8601 in UTC, whatever its zone; None for none."""
    return instant.astimezone(UTC).isoformat() if instant else None


@lru_cache(maxsize=256)
def _utc_iso(due: datetime) -> str:
    if due.microsecond or due.year < 1000:
        return due.isoformat()
    day = f"{due.year}-{_TWO[due.month]}-{_TWO[due.day]}"  # in a third of its time
    return f"{day}T{_TWO[due.hour]}:{_TWO[due.minute]}:{_TWO[due.second]}+00:00"


_TWO: Final = [f"{number:02}" for number in range(60)]
