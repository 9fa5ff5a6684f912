"""How a task is doing, at a glance: its state in a word, its last run, and what is under way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from itertools import takewhile
from typing import Final

from pulse.commands.instant import by_second, rough
from pulse.commands.record import progress_words, rough_seconds
from pulse.commands.stored import Stored
from pulse.model import Config, Outcome, Pause, Run, Task, Trigger
from pulse.runstores.base import Totals
from pulse.schedule import Schedule, delay_of, schedule_of

RECENT: Final = 20  # records of a task that are looked at
# From the instant at which a run was to start until somebody is told that it has not: claims
# take milliseconds, but the machine may be busy.
PATIENCE: Final = timedelta(seconds=10)

_FAILURES: Final = frozenset({Outcome.FAILED, Outcome.TIMEOUT, Outcome.ABANDONED, Outcome.LOST})


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


STYLES: Final = {
    State.OK: "green",
    State.RUNNING: "cyan",
    State.PAUSED: "yellow",
    State.LATE: "red",
    State.FAILING: "red",
    State.LOST: "red",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """One task of one filter, as its store knows it.

    Attributes:
        state: In a word.
        last: The last run that was begun, and has ended.
        running: What is under way, the oldest first.
        failures: How many of the last runs failed one after the other, up to `RECENT`.
        pause: If it holds.
        due: When it is run next by itself; None for never.
    """

    task: Task
    state: State
    last: Run | None
    running: tuple[Run, ...]
    failures: int
    pause: Pause | None
    due: datetime | None

    @property
    def state_words(self) -> str:
        """The state, and what there is to know about it: `failing x4`, `paused until ...`."""
        match self.state:
            case State.FAILING:
                return f"failing x{self.failures}{'+' if self.failures == RECENT else ''}"
            case State.PAUSED if self.pause and self.pause.until:
                return f"paused until {by_second(self.pause.until, self.task.zone)}"
            case State.RUNNING if len(self.running) > 1:
                return f"running x{len(self.running)}"
            case State.RUNNING if self.running[0].progress:
                return f"running {progress_words(self.running[0].progress)}"
        return str(self.state.value)

    @property
    def last_words(self) -> str:
        """The last run: `Fri 01 Jan 2027 12:05 UTC 200 in 0.412 s`."""
        if self.last is None or self.last.outcome is None:
            return "-"
        answer = self.last.status if self.last.outcome in (Outcome.SUCCESS, Outcome.FAILED) else None
        words = f"{by_second(self.last.started or self.last.due, self.task.zone)} "
        words += self.last.outcome.value if answer is None else str(answer)
        return words if self.last.duration is None else f"{words} in {rough_seconds(self.last.duration)}"

    def running_words(self, now: datetime) -> str:
        """For how long what is under way has been: `12 s`."""
        return ", ".join(rough(now - run.started) for run in self.running if run.started) or "-"


def glances(one: Stored, now: datetime) -> list[Glance]:
    """Every task of the filter *one*.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    store = one.store
    pauses, running = store.pauses(), store.running()
    return [
        glance(
            one.config,
            task,
            now,
            history=store.history(task.name, RECENT),
            totals=store.totals(task.name),
            pauses=pauses,
            running=[run for run in running if run.task == task.name],
        )
        for task in one.config.tasks.values()
    ]


def glance(
    config: Config,
    task: Task,
    now: datetime,
    *,
    history: Sequence[Run],
    totals: Totals,
    pauses: Mapping[str, Pause],
    running: Sequence[Run],
) -> Glance:
    """What *history* (newest first), *totals*, *pauses* and *running* say of *task*."""
    pause = pauses.get(task.name)
    ended = [run for run in history if run.started and run.outcome is not Outcome.CANCELLED]
    failures = sum(1 for _ in takewhile(lambda run: run.outcome in _FAILURES, ended))
    seen = Glance(
        task=task,
        state=State.OK,
        last=next((run for run in history if run.started), None),
        running=tuple(running),
        failures=failures,
        pause=pause if pause and pause.holds(now) else None,
        due=_next_due(task, pause, now) if config.enabled and task.enabled else None,
    )
    state = _state(seen, is_enabled=config.enabled and task.enabled, is_new=not totals.counts and not history)
    if state is State.OK and _is_late(task, history, now):
        state = State.LATE
    elif state is State.OK and failures:
        state = State.LOST if ended[0].outcome is Outcome.LOST else State.FAILING
    return replace(seen, state=state)


def _state(seen: Glance, *, is_enabled: bool, is_new: bool) -> State:
    """What is plain to see; `OK` if the records have to decide."""
    if seen.running:
        return State.RUNNING
    if not is_enabled:
        return State.DISABLED
    if seen.pause:
        return State.PAUSED
    return State.NEW if is_new else State.OK


def _is_late(task: Task, history: Sequence[Run], now: datetime) -> bool:
    """Whether the last instant that should have begun by now has no record, or was missed."""
    schedule = schedule_of(task)
    due = _last_expected(task, schedule, now)
    by_schedule = [run for run in history if run.trigger is not Trigger.MANUAL]
    if due is None or not by_schedule:
        return False
    newest = max(by_schedule, key=lambda run: run.due)
    return newest.due < due or newest.outcome is Outcome.MISSED


def _last_expected(task: Task, schedule: Schedule, now: datetime) -> datetime | None:
    due = schedule.previous_due(now - PATIENCE)
    while due is not None and due + delay_of(task, due, schedule.next_due(due)) > now - PATIENCE:
        due = schedule.previous_due(due - _MICROSECOND)
    return due


def _next_due(task: Task, pause: Pause | None, now: datetime) -> datetime | None:
    if pause and pause.holds(now):
        return schedule_of(task).next_due(pause.until - _MICROSECOND) if pause.until else None
    return schedule_of(task).next_due(now)


_MICROSECOND: Final = timedelta(microseconds=1)
