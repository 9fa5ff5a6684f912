"""How a run is asked for, and what a store answers."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from pulse.model.run import Fire, Run, Trigger
from pulse.model.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Consecutive due instants of one task: from *first* to *last*, *count* of them."""

    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a claim has to observe beside the schedule.

    Attributes:
        instances: How many runs of the task may be under way at once; None for any.
        waits: At the limit the fire is to wait for its turn, and not to be skipped.
        replaces: The runs that are under way are to be asked to stop.
        recovers: A lost run is to be run again.
        lock: Only one run of all tasks with this word may be under way; empty for none.
    """

    instances: int | None = 1
    waits: bool = False
    replaces: bool = False
    recovers: bool = False
    lock: str = ""

    @classmethod
    def of(cls, task: Task, fire: Fire) -> "Limits":
        """What *task* says about the run of *fire*."""
        return cls(
            instances=None if task.overlap == "allow" or fire.is_forced else task.max_instances,
            waits=fire.is_in_turn or task.overlap in ("queue", "replace"),
            replaces=task.overlap == "replace" and not (fire.is_forced or fire.is_in_turn),
            recovers=task.recover and fire.trigger is not Trigger.MANUAL,
            lock="" if fire.is_forced else task.lock or "",
        )


class Claim(Enum):
    """How a store answers the wish to run a fire."""

    WON = "won"  # it is yours: run it
    TAKEN = "taken"  # this instant, or a later one, has been claimed or recorded already
    BUSY = "busy"  # the task is still running: recorded as skipped
    PAUSED = "paused"  # the task is paused: recorded as skipped
    STALE = "stale"  # its latest useful start has passed: recorded as missed
    WAIT = "wait"  # not now, and not for ever: ask again; there is no record
    REFUSED = "refused"  # the store does not know the task, so it may have lost its memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """The answer to a claim.

    Attributes:
        answer: One of `Claim`.
        run: The run that was won, or the record that was made instead; None if there is none.
        missed: The record of the instants that this claim passed over, if there were any.
        lost: The records of runs, of the task or with its lock, that it found to be lost.
    """

    answer: Claim
    run: Run | None = None
    missed: Run | None = None
    lost: tuple[Run, ...] = ()
