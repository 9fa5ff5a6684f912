"""What every kind of worker offers: take fires, run them, stop in time.

Workers never claim by themselves: the `Runner` does, just before a fire, or a handful of what is
over at once, is dispatched. What waits in a queue holds no lease, and the idle process wins.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final

from pulse.missed import Rung
from pulse.model import Fire, Run

REPORT: Final = 1.0  # seconds from one look at who is asked to stop to the next
LAST_WORD: Final = 0.6  # seconds that a cancelled run has to say how it ended
LAST_RECORD: Final = 0.9  # seconds after which `close` waits for the store no longer


class Workers(ABC):
    """Executes fires in this process; all methods may be called from any thread."""

    @abstractmethod
    def start(self) -> None:
        """Begin to take fires."""

    @abstractmethod
    def submit(self, rung: Sequence[Rung]) -> None:
        """Run what has *rung* as soon as workers are free: all fires of a task one after the other.

        Never blocks. If fires of a task are waiting already, only the last `Rung.keep` of all
        stay: the others are recorded as missed when a later one is claimed.

        Raises:
            ClosedError: the workers were closed.
        """

    @abstractmethod
    def run_apart(self, fire: Fire) -> Future[Run | None]:
        """Run *fire* at once beside the queue, as a call by hand wants it.

        Returns:
            Resolves to what `Runner.run` returns, or to the record of a run that was given
            up; raises what kept the run from being recorded.
        """

    @abstractmethod
    def close(self, seconds: float) -> int:
        """Let running work end within *seconds*, then cancel it; how many fires still waited.

        Takes at most a second more than that; idempotent. What waited holds no claim: it
        belongs to whichever process asks next.
        """

    @property
    @abstractmethod
    def busy(self) -> int:
        """How many fires are being run."""

    @property
    def abandoned(self) -> int:
        """How many threads were left behind and have not come back."""
        return 0


def say(log: logging.Logger, level: int, message: str, *args: object, **more: Any) -> None:
    """`log.log`, but for what a handler raises: it must not end a thread that all tasks share."""
    with suppress(Exception):
        log.log(level, message, *args, **more)


def keep_promise(promise: Future[Run | None] | None, result: Run | BaseException | None) -> None:
    """Resolve *promise*; a run that was given up may come back to one that is resolved."""
    if promise is None:
        return
    with suppress(InvalidStateError):
        if isinstance(result, BaseException):
            promise.set_exception(result)
        else:
            promise.set_result(result)
