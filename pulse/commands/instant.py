"""Instants as people read them: by the clock of a task's zone."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo


def spoken(instant: datetime, zone: ZoneInfo) -> str:
    """*instant* by the clock of *zone*: `Sun 25 Oct 2026 02:30 CEST`; seconds where there are some."""
    local = instant.astimezone(zone)
    return f"{local:%a %d %b %Y} {clock_time(local)} {local:%Z}"


def clock_time(local: datetime) -> str:
    """The time of day that *local* shows: `02:30`, `02:30:15`, `02:30:15.25`."""
    shown = local.strftime("%H:%M:%S.%f").rstrip("0").rstrip(".") if local.microsecond else local.strftime("%H:%M:%S")
    return shown.removesuffix(":00") if shown.count(":") == 2 else shown


def by_second(instant: datetime, zone: ZoneInfo) -> str:
    """As `spoken`, for what is measured and not planned: fractions of a second say nothing."""
    return spoken(instant.replace(microsecond=0), zone)


def rough(span: timedelta) -> str:
    """*span* in its two largest units: `2 d 3 h`, `2 min 22 s`, `3.4 s`, `0.012 s`."""
    seconds = abs(span.total_seconds())
    if seconds < 10:
        return f"{seconds:.{1 if seconds >= 1 else 3}f} s"
    parts, rest = [], round(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append(f"{count} {unit}" if count else "")
    first = next(index for index, part in enumerate(parts) if part)
    return " ".join(part for part in parts[first : first + 2] if part)
