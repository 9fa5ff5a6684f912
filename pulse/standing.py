"""How a task is doing, by what is recorded of it; the command line and the status page say the same."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from itertools import takewhile
from typing import Final

from pulse.model import FAILURES, Outcome, Pause, Run, Task, Trigger
from pulse.schedule import Schedule, delay_of

# From the instant at which a run was to start until somebody is told that it has not: claims
# take milliseconds, but the machine may be busy.
PATIENCE: Final = timedelta(seconds=10)


class State(Enum):
    """How a task is doing."""

    NEW = "new"  # nothing is recorded of it
    OK = "ok"
    LATE = "late"  # it was due, and nobody ran it
    RUNNING = "running"
    FAILING = "failing"
    PAUSED = "paused"
    LOST = "lost"  # the process of the last run died
    DISABLED = "disabled"


def state_by(records: Sequence[Run], task: Task, schedule: Schedule, now: datetime) -> State:
    """What *records*, newest first, say of *task*: `LATE`, `LOST`, `FAILING` or `OK`."""
    if _is_late(task, schedule, records, now):
        return State.LATE
    if failures(records):
        return State.LOST if _ended(records)[0].outcome is Outcome.LOST else State.FAILING
    return State.OK


def failures(records: Sequence[Run]) -> int:
    """How many of the last runs among *records*, newest first, went wrong one after the other."""
    return sum(1 for _ in takewhile(lambda run: run.outcome in FAILURES, _ended(records)))


def next_due(schedule: Schedule, pause: Pause | None, now: datetime) -> datetime | None:
    """When *schedule* is due next, or first after *pause*, which holds; None for never."""
    if pause is None:
        return schedule.next_due(now)
    return schedule.due_from(pause.until) if pause.until else None


def last_begun(task: Task, schedule: Schedule, now: datetime) -> datetime | None:
    """The last instant whose run was to start by *now*, its jitter included; None if there is none."""
    due = schedule.previous_due(now)
    while due is not None and task.jitter and due + delay_of(task, due, schedule.next_due(due)) > now:
        due = schedule.due_before(due)
    return due


def _ended(records: Sequence[Run]) -> list[Run]:
    """The runs among *records* that have said how the task is doing."""
    return [run for run in records if run.started and run.outcome is not Outcome.CANCELLED]


def _is_late(task: Task, schedule: Schedule, records: Sequence[Run], now: datetime) -> bool:
    """Whether the last instant that should have begun by now has no record, or was missed."""
    planned = [run for run in records if run.trigger is not Trigger.MANUAL]
    due = last_begun(task, schedule, now - PATIENCE)
    if due is None or not planned:
        return False
    newest = max(planned, key=lambda run: run.due)
    return newest.due < due or newest.outcome is Outcome.MISSED
