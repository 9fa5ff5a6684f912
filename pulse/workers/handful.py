"""Several fires in one hand: claimed together, run one after the other, and recorded together.

What is due in one instant and is over at once costs more to claim and to record than to run.
A thread that runs what is brisk therefore takes some of it at a time, and asks the store twice
for all of them. What it has claimed and not begun is not lost behind a run that lasts: the
watcher gives it to other threads.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, TypeVar

from pulse.dispatch import Reply
from pulse.model import Fire
from pulse.underway import Active

HANDFUL: Final = 32  # fires; of what a step of a store costs, that leaves each a few microseconds

T = TypeVar("T")
Taken = tuple[Fire, Active]


class Handful:
    """What one thread has claimed; the watcher takes from it, too, if the thread does not come back.

    Safe to use by both at once: each thing is taken in one step of the interpreter, so nothing
    is run or recorded twice.
    """

    def __init__(self, taken: Iterable[Taken]) -> None:
        """*taken*: what has been claimed, in the order in which it is to be run."""
        self._todo = deque(taken)
        self._done: deque[tuple[Active, Reply]] = deque()

    def next(self) -> Taken | None:
        """What is to be run next; None if there is nothing left."""
        return _first(self._todo)

    def rest(self) -> list[Taken]:
        """What has not been begun; it is somebody else's from now on."""
        return _emptied(self._todo)

    def note(self, active: Active, reply: Reply) -> None:
        """A run has come back."""
        self._done.append((active, reply))

    def done(self) -> list[tuple[Active, Reply]]:
        """What has come back, and is to be recorded by whoever asks."""
        return _emptied(self._done)


def _first(items: deque[T]) -> T | None:
    try:
        return items.popleft()
    except IndexError:
        return None


def _emptied(items: deque[T]) -> list[T]:
    taken = []
    while (item := _first(items)) is not None:
        taken.append(item)
    return taken
