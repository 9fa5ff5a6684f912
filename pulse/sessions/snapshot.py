"""What changed in session data: copies from before, and a comparison that is strict about types."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final, NamedTuple

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


def copied_as_far(data: dict[str, Any]) -> dict[str, Any]:
    """The same, in which what cannot be copied (a lock, a connection) is what it was."""
    try:
        return copied(data)
    # An object may refuse in any way it likes.
    except Exception:  # noqa: BLE001 - see above
        return {name: _copy(value) for name, value in data.items()}


def is_same(one: Any, other: Any) -> bool:
    """Whether both are equal and of the same types throughout: True is not 1 here."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return is_same_session(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays are not to be compared; they count as changed
        return False


def is_same_session(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both dicts hold the same; of which kind they are themselves is all one."""
    return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())


class Loaded(dict[str, Any]):
    """The data of a session for one request, and what of it was changed there.

    Copies of it are plain dicts.

    Attributes:
        key: As which it was kept.
    """

    __slots__ = ("_before", "key")

    def __init__(self, key: str, kept: dict[str, Any]) -> None:
        """A copy of *kept*, which nobody may change."""
        super().__init__(copied_as_far(kept))
        self.key = key
        self._before = kept

    def changes(self) -> "Changes":
        """What was changed here since this was last called."""
        before = self._before
        self._before = {
            # What is unchanged is the very object from before.
            name: before[name] if name in before and is_same(before[name], value) else _copy(value)
            for name, value in self.items()
        }
        return Changes(before, self._before)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class Changes(NamedTuple):
    """What one request made of a session.

    Attributes:
        before: What it was.
        now: What it is; nobody may change either.
    """

    before: dict[str, Any]
    now: dict[str, Any]

    def merged_into(self, kept: dict[str, Any] | None) -> dict[str, Any]:
        """*kept*, changed in the same way; None is kept nowhere, and gives all of what it is now."""
        before, now = self
        if kept is None:
            return now
        left = {name: value for name, value in kept.items() if name in now or name not in before}
        return left | {name: value for name, value in now.items() if name not in before or value is not before[name]}


def changes_of(before: dict[str, Any], now: dict[str, Any]) -> Changes:
    """What makes *now* of *before*."""
    unchanged = {name: before[name] for name, value in now.items() if name in before and is_same(before[name], value)}
    return Changes(before, now | unchanged)


def change_of(key: str, session: dict[str, Any]) -> Callable[[dict[str, Any] | None], dict[str, Any]]:
    """What makes of what is kept as *key* what is to be kept, which nobody can change later on."""
    if isinstance(session, Loaded) and session.key == key:
        return session.changes().merged_into
    own = copied_as_far(session)
    return lambda _kept: own


def _copy(value: Any) -> Any:
    if type(value) in _ATOMS:
        return value
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001 - as above
        return value
