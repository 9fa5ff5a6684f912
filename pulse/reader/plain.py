"""Readers of plain values: yes or no, numbers, words and lines of text."""

import re
from collections.abc import Iterable
from typing import Final

from pulse.reader.base import CONTROL, NUMBER, Reader, utf8

_TRUE: Final = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "n", "f", "0"})


def boolean(value: object) -> bool:
    """PasteDeploy's words for yes and no, in any case; everything else is refused."""
    if isinstance(value, bool):
        return value
    written = str(value).strip().lower() if isinstance(value, str | int) else ""
    if written in _TRUE:
        return True
    if written in _FALSE:
        return False
    raise ValueError("want true or false")


def choice(*words: str) -> Reader[str]:
    """One of *words*, in any case."""

    def read(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in words:
            return word
        raise ValueError(f"want {_either(words)}")

    return read


def integer(least: int, most: int) -> Reader[int]:
    """A whole number from *least* to *most*."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value.strip()):
            number = int(value)
        else:
            raise ValueError(f"want a whole number from {least} to {most}")
        if not least <= number <= most:
            raise ValueError(f"want a whole number from {least} to {most}")
        return number

    return read


def number(least: float, most: float) -> Reader[float]:
    """A number from *least* to *most*."""

    def read(value: object) -> float:
        written = value.strip() if isinstance(value, str) else ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            found = value
        else:
            found = float(written) if NUMBER.fullmatch(written) else float("nan")
        if not least <= found <= most:  # a comparison with NaN is False, too
            raise ValueError(f"want a number from {least:g} to {most:g}")
        return float(found)  # only now: an int may be too large for one

    return read


def text(value: object) -> str:
    """One line of text."""
    if not isinstance(value, str) or CONTROL.search(value):
        raise ValueError("want one line of text")
    utf8(value)
    return value.strip()


def word(value: object) -> str:
    """A name that several tasks may share."""
    written = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"[\w.-]{1,100}", written):
        raise ValueError("want a word of letters, digits, _, . and -")
    return written


def name(value: object) -> str:
    """What an application is called in its store."""
    if not isinstance(value, str) or not re.fullmatch(r"[^\x00-\x1f\x7f{}]{0,200}", value.strip()):
        raise ValueError("want a name of at most 200 characters, without line breaks and braces")
    utf8(value)
    return value.strip()


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
