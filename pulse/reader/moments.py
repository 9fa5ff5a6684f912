"""Readers of time zones, and of dates with their time of day."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime, time
from difflib import get_close_matches
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_ABBREVIATION: Final = 4  # letters
# What stands among the zones of many hosts and is none. Each host has its own `localtime`, so two of them
# would find different instants; `right/` counts leap seconds, which zoneinfo does not.
_NO_ZONE: Final = re.compile("localtime|posixrules|Factory|(posix|right)/.*")


def zone(value: object) -> ZoneInfo:
    """A time zone by its IANA name."""
    given = value.key if isinstance(value, ZoneInfo) else value
    name = given.strip() if isinstance(given, str) else ""
    with suppress(ZoneInfoNotFoundError, ValueError, OSError):
        if not _NO_ZONE.fullmatch(name):
            return value if name and isinstance(value, ZoneInfo) else ZoneInfo(name)
    raise ValueError(f"want an IANA time zone such as UTC or Europe/Berlin{_zone_meant(name)}")


@cache
def _zones() -> Mapping[str, str]:
    """The names of all zones, by how they look in small letters."""
    return {name.lower(): name for name in available_timezones() if not _NO_ZONE.fullmatch(name)}


def _zone_meant(written: str) -> str:
    """The zone that was probably meant: in another case, without its continent, or misspelt."""
    name, zones = written.lower().replace(" ", "_")[:100], _zones()
    found = zones.get(name) or next((zones[zone] for zone in sorted(zones) if zone.endswith(f"/{name}")), "")
    if len(name) > _ABBREVIATION and not found:  # CEST is not a misspelt EST
        found = next((zones[zone] for zone in get_close_matches(name, zones, n=1, cutoff=0.8)), "")
    return f"; did you mean {found!r}?" if name and found else ""


def moment(value: object) -> datetime:
    """An ISO 8601 date and time; without an offset it is local time of the task's zone."""
    return _moment(value, time.min)


def last_moment(value: object) -> datetime:
    """As `moment`, but a date alone means its last microsecond: that day still counts."""
    return _moment(value, time.max)


def _moment(value: object, when_only_a_date: time) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, when_only_a_date)
    written = value.strip() if isinstance(value, str) else ""
    # Dates first, in all spellings of ISO 8601: read as a date and time, `20270328` would be
    # the midnight with which the last day begins.
    with suppress(ValueError):
        return datetime.combine(date.fromisoformat(written), when_only_a_date)
    try:
        return datetime.fromisoformat(written)
    except ValueError:
        each_day = re.fullmatch("(0?[0-9]|1[0-9]|2[0-3]):([0-5][0-9])", written)
        hint = f"; each day at {written} is cron = {int(each_day[2])} {int(each_day[1])} * * *" if each_day else ""
        raise ValueError(f"want a date and time as 2027-03-28T02:30 or 2027-03-28T02:30+01:00{hint}") from None
