"""Instants as people read them: by the clock of a task's zone."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pulse.model import Task


def zone_of(task: Task) -> ZoneInfo:
    """The zone by which *task* lives."""
    return task.timezone or ZoneInfo("UTC")


def spoken(instant: datetime, zone: ZoneInfo) -> str:
    """*instant* by the clock of *zone*: `Sun 25 Oct 2026 02:30 CEST`; seconds where there are some."""
    local = instant.astimezone(zone)
    return f"{local:%a %d %b %Y} {clock_time(local)} {local:%Z}"


def clock_time(local: datetime) -> str:
    """The time of day that *local* shows: `02:30`, `02:30:15`, `02:30:15.25`."""
    shown = local.strftime("%H:%M:%S.%f").rstrip("0").rstrip(".") if local.microsecond else local.strftime("%H:%M:%S")
    return shown.removesuffix(":00") if shown.count(":") == 2 else shown


def offset_at(instant: datetime, zone: ZoneInfo) -> timedelta:
    """How far the clock of *zone* is ahead of UTC."""
    return instant.astimezone(zone).utcoffset() or timedelta(0)
