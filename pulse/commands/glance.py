"""How a task is doing, at a glance: its state in a word, its last run, and what is under way."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pulse.clock import Clock
from pulse.commands.instant import by_second, rough
from pulse.commands.record import progress_words, rough_seconds
from pulse.commands.stored import Stored
from pulse.model import Outcome, Pause, Run, Task
from pulse.schedule import schedule_of
from pulse.standing import State, failures, next_due
from pulse.status.survey import Moment, Survey

RECENT: Final = 20  # records of a task that are looked at
READ_AT_ONCE: Final = 200  # tasks; one by one each would be a way to a store that is elsewhere


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


def glances(one: Stored, clock: Clock) -> list[Glance]:
    """Every task of the filter *one*; its state is that of the status page, which asks the same questions.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    tasks = one.config.tasks
    survey = Survey(one.config, {name: schedule_of(task) for name, task in tasks.items()}, one.store, clock)
    moment = survey.moment()
    # Of a history that was cleared the totals stay: who ran in time is not late.
    totals = one.store.all_totals()
    seen: list[Glance] = []
    for begin in range(0, len(tasks), READ_AT_ONCE):
        some = list(tasks.values())[begin : begin + READ_AT_ONCE]
        # Without what the runs wrote, of which the last ones of all tasks would be kept here.
        histories = one.store.brief([task.name for task in some], RECENT)
        for task in some:
            last = totals.get(task.name)
            survey.note(task.name, histories[task.name], last.last_success if last else None)
            seen.append(_glance(task, histories[task.name], survey, moment))
    return seen


def _glance(task: Task, history: Sequence[Run], survey: Survey, moment: Moment) -> Glance:
    pause = moment.pauses.get(task.name)
    return Glance(
        task=task,
        state=survey.state(task, moment) or State.NEW,
        last=next((run for run in history if run.started), None),
        running=tuple(moment.running(task.name)),
        failures=failures(history),
        pause=pause,
        due=next_due(survey.schedules[task.name], pause, moment.now) if survey.rings_for(task) else None,
    )
