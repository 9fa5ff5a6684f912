"""Spans, instants and values as people read them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final
from zoneinfo import ZoneInfo

from pulse import reader
from pulse.model import Run, Trigger

DASH: Final = "\N{EN DASH}"


def seconds_words(seconds: float | None) -> str:
    """A duration: `3 ms`, `0.41 s`, `48 s`, `2 min 5 s`; a dash for none."""
    if seconds is None:
        return DASH
    if seconds < 0.1:
        return f"{seconds * 1000:.{1 if seconds < 0.01 else 0}f} ms"
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 1 else 1 if seconds < 10 else 0}f} s"
    return rough(timedelta(seconds=seconds))


def rough(span: timedelta) -> str:
    """The two largest units of *span*: `48 s`, `2 min 5 s`, `7 h 45 min`, `3 d 4 h`; never less than 0 s."""
    rest = max(0, round(span.total_seconds()))
    parts = []
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, seconds)
        parts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count or unit == "s") or "0 s"


def relative(instant: datetime, now: datetime) -> str:
    """How far *instant* is from *now*: `in 2 min 5 s`, `3 h ago`, `now`."""
    span = instant - now
    if abs(span) < timedelta(seconds=1):
        return "now"
    return f"in {rough(span)}" if span > timedelta(0) else f"{rough(-span)} ago"


def spoken(instant: datetime, zone: ZoneInfo) -> str:
    """*instant* by the clock of *zone*: `Sun 25 Oct 2026 02:30:00 CEST`."""
    return f"{instant.astimezone(zone):%a %d %b %Y %H:%M:%S %Z}"


def clock(instant: datetime, zone: ZoneInfo, now: datetime) -> str:
    """*instant* as short as it is clear: the time of day, and the date if that is not today's."""
    local = instant.astimezone(zone)
    is_today = local.date() == now.astimezone(zone).date()
    return f"{local:%H:%M:%S}" if is_today else f"{local:%d %b %H:%M}"


def outcome_words(run: Run) -> str:
    """`success`, `missed x12`; of what is not finished where it stands."""
    if run.outcome is None:
        return "waiting" if run.is_waiting else "queued" if run.is_reserved else "running"
    return f"{run.outcome.value} \N{MULTIPLICATION SIGN}{run.count}" if run.count > 1 else run.outcome.value


def trigger_words(run: Run) -> str:
    """Why it ran, and which attempt it was if not the first."""
    words = "by hand" if run.trigger is Trigger.MANUAL else run.trigger.value
    return f"{words}, attempt {run.attempt}" if run.attempt > 1 else words


def value_words(value: Any) -> str:
    """The value of an option as one would write it; empty for none."""
    if value in (None, "", b"", ()):
        return ""
    known = (spell for kind, spell in _SPELLED if isinstance(value, kind))
    return next(known, str)(value)


def ranges(numbers: Iterable[int]) -> str:
    """`200-299 429`: consecutive numbers together."""
    runs = groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    groups = [[number for _, number in group] for _, group in runs]
    return " ".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)


def file_name(origin: str) -> str:
    """*origin*, `/srv/site.ini [filter:pulse]`, without the folders."""
    path, bracket, section = origin.partition(" [")
    return f"{path.rpartition('/')[2]}{bracket}{section}"


def text_of(captured: bytes) -> str:
    """*captured* as text; what is no UTF-8, or is cut in two at the end, shows as a sign of its own."""
    return captured.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


_SPELLED: Final[Sequence[tuple[type, Callable[[Any], str]]]] = (
    (bool, lambda value: str(value).lower()),
    (timedelta, reader.spell),
    (bytes, text_of),
    (frozenset, ranges),
    (datetime, lambda value: value.isoformat(sep=" ")),
)
