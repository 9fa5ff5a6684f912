"""What a store holds and this release cannot read: a later one has written it, or the disk has spoilt it.

Whoever needs it is told that the store cannot be used: in doubt nothing is run. Whoever looks
at all that is held does without it: the runs of all other tasks would else be nobody's either.
"""

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from pulse.errors import StoreUnavailableError
from pulse.model import Run

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

MISREAD: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


class UnreadableError(StoreUnavailableError):
    """A store says what this release has no word for."""


def understood(read: Callable[P, T]) -> Callable[P, T]:
    """*read*, which raises UnreadableError: any other error would be a fault of each page, and of each fire."""

    @wraps(read)
    def reader(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except MISREAD as error:
            holds = "the run store holds what Pulse has not written, or a later release of it has"
            raise UnreadableError(f"{holds} ({error})") from error

    return reader


class Legible:
    """Reads all that a store holds; safe to use from many threads, which at worst say the same."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._told: frozenset[tuple[str, str]] = frozenset()

    def runs(self, held: Iterable[T], read: Callable[[T], Run], name_of: Callable[[T], tuple[str, str]]) -> list[Run]:
        """What can be read of *held*; what cannot is named in the log, once while it is there.

        Args:
            held: All of it, as the store has it.
            read: Raises UnreadableError.
            name_of: The task and the run.
        """
        runs: list[Run] = []
        unread: dict[tuple[str, str], UnreadableError] = {}
        for one in held:
            try:
                runs.append(read(one))
            except UnreadableError as error:
                unread[name_of(one)] = error
        for task, run in unread.keys() - self._told:
            facts = {"pulse_event": "held_unreadable", "pulse_task": task, "pulse_run": run}
            said = "task=%s run=%s is held, and cannot be read; while it is, its task may not be run here: %s"
            log.error(said, task, run, unread[task, run], extra=facts)
        self._told = frozenset(unread)
        return runs
