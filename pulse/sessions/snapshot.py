"""Whether session data changed: a copy from before, and a comparison that is strict about types."""

from copy import deepcopy
from typing import Any, Final

# What cannot be changed in place needs no copy.
_ATOMS: Final = frozenset({str, int, float, bool, bytes, type(None)})


def copied(data: dict[str, Any]) -> dict[str, Any]:
    """A copy of *data* that shares nothing with it that could be changed.

    Raises:
        TypeError: something in it cannot be copied.
    """
    if all(type(value) in _ATOMS for value in data.values()):
        return dict(data)  # a tenth of the time
    return deepcopy(data)


def is_same(one: Any, other: Any) -> bool:
    """Whether both are equal and of the same types throughout: True is not 1 here."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)
