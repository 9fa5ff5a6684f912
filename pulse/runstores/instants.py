"""Instants as all stores keep them: whole microseconds since 1970."""

from datetime import datetime, timedelta
from typing import Final, overload

from pulse.zone import EPOCH

MICROSECOND: Final = timedelta(microseconds=1)


@overload
def number_of(instant: datetime) -> int: ...
@overload
def number_of(instant: datetime | None) -> int | None: ...
def number_of(instant: datetime | None) -> int | None:
    """*instant* as a store keeps it."""
    return None if instant is None else (instant - EPOCH) // MICROSECOND


def instant_of(number: int | None) -> datetime | None:
    """The reverse of `number_of`."""
    return None if number is None else EPOCH + number * MICROSECOND
