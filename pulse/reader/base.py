"""What all readers share: what one is, and what texts it may not hold."""

import re
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final, TypeVar

T = TypeVar("T")
Reader = Callable[[object], T]

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_SHORT: Final = 100  # characters; a thousand longer ones from the status page would be kept for ever


def remembering(read: Reader[T]) -> Reader[T]:
    """*read*, but short texts and numbers that it has read lately are not read again.

    Thousands of tasks say `5m` or `0 3 * * *`: they are read once, and share what that means.
    Other values are not remembered, since equal ones may differ: an instant in two time zones.
    """
    known = lru_cache(maxsize=1024, typed=True)(read)  # `typed`: 200 is a status, and 200.0 is none

    @wraps(read)
    def look_up(value: object) -> T:
        is_plain = len(value) <= _SHORT if type(value) is str else type(value) in (int, float)
        return known(value) if is_plain else read(value)

    return look_up


def optional(read: Reader[T]) -> Reader[T | None]:
    """*read*, but None stays None: not said."""
    return lambda value: None if value is None else read(value)


def utf8(written: str) -> bytes:
    """*written* as it is sent and kept; half a character, as JSON may spell it, can be neither."""
    try:
        return written.encode()
    except UnicodeEncodeError:
        raise ValueError("want text that UTF-8 can spell, without surrogates") from None
