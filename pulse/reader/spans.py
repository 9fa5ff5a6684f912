"""Readers of durations: `300`, `90s`, `1h30m`, and the words that stand for some."""

import re
from datetime import timedelta
from typing import Final, Literal

from pulse.reader.base import NUMBER, Reader, remembering

_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SPANS: Final = re.compile("".join(rf"(?:(?P<{unit}>{NUMBER.pattern}){unit})?" for unit in _UNITS))


def spell(span: timedelta) -> str:
    """*span* in the words that `duration` reads: `1h30m`, `0.25s`, `0s`."""
    rest = span
    words = ""
    for unit, seconds in list(_UNITS.items())[:-1]:
        count, rest = divmod(rest, timedelta(seconds=seconds))
        words += f"{count}{unit}" if count else ""
    if rest or not words:
        words += f"{rest.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
    return words


def seconds_of(value: object) -> float:
    """The seconds that *value* says; NaN for what is no duration at all."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    text = value.strip().lower() if isinstance(value, str) else ""
    if NUMBER.fullmatch(text):
        return float(text)
    if text and (parts := _SPANS.fullmatch(text)):
        return sum(float(parts[unit] or 0) * seconds for unit, seconds in _UNITS.items())
    return float("nan")


def duration(least: float, most: timedelta) -> Reader[timedelta]:
    """A `timedelta` from seconds (`300`, `0.25`) or `90s 5m 1h30m 1d`.

    Args:
        least: The smallest one allowed, in seconds.
        most: The largest one allowed.
    """
    wanted = (
        f"want {spell(timedelta(seconds=least))} to {spell(most)}, as seconds (300) or with units (90s 5m 1h30m 1d)"
    )

    shortest, longest = timedelta(seconds=least), most.total_seconds()

    @remembering
    def read_anew(value: object) -> timedelta:
        seconds = seconds_of(value)
        # A comparison with NaN is False: what is no duration is refused here too.
        if not least <= seconds <= longest:
            raise ValueError(wanted + _span_meant(value))
        return timedelta(seconds=seconds)

    def read(value: object) -> timedelta:
        return value if type(value) is timedelta and shortest <= value <= most else read_anew(value)

    return read


_LONG_UNIT: Final = re.compile(
    # No `s` behind a single letter: `500ms` would be `500m`.
    r"([0-9]+(?:\.[0-9]+)?) *(s|m|h|d|(?:sec|min|hr|second|minute|hour|day)s?)(?![a-z])",
    re.IGNORECASE,
)
_BETWEEN: Final = re.compile(r"[ ,]*|,? and ", re.IGNORECASE)


def _span_meant(value: object) -> str:
    """What was probably meant by *value*, which is no duration."""
    written = value.strip() if isinstance(value, str) else ""
    plain = "".join(count + unit[0].lower() for count, unit in _LONG_UNIT.findall(written))
    is_spoken = all(map(_BETWEEN.fullmatch, _LONG_UNIT.sub("\n", written).split("\n")))
    if is_spoken and plain != written.lower() and seconds_of(plain) > 0:
        return f"; did you mean {plain!r:.40}?"
    is_cron = len(written.split()) in (5, 6) and "*" in written
    if is_cron or written.startswith("@"):
        return f"; did you mean cron = {written:.40}?"
    return ""


def limit(most: timedelta) -> Reader[timedelta | None]:
    """A duration of 0.1 s to *most*, or 0 (None in Python) for no limit at all."""
    within = _or(duration(0.1, most), "0 for no limit")
    return lambda value: None if value is None or seconds_of(value) == 0 else within(value)


def phase(most: timedelta) -> Reader[timedelta | Literal["hash"]]:
    """A duration of 0 to *most*, or `hash` for one that is derived from the task's name."""
    within = _or(duration(0, most), "hash")
    return lambda value: "hash" if _word(value) == "hash" else within(value)


def grace(most: timedelta) -> Reader[timedelta | Literal["auto"] | None]:
    """How late is still useful: a duration, `auto` (until the next due), `none` (any time)."""
    within = _or(duration(0.1, most), "auto, or none")

    def read(value: object) -> timedelta | Literal["auto"] | None:
        word = _word(value)
        if word == "auto":
            return "auto"
        return None if value is None or word == "none" else within(value)

    return read


def _or(read: Reader[timedelta], words: str) -> Reader[timedelta]:
    """*read*, which names *words* too when it refuses."""

    def read_or_say(value: object) -> timedelta:
        try:
            return read(value)
        except ValueError as error:
            raise ValueError(f"{error}, or {words}") from None

    return read_or_say


def _word(value: object) -> str:
    return value.strip().lower() if isinstance(value, str) else ""
