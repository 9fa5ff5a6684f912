"""What follows from the end of a run: another attempt, or a pause."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from pulse.model import FAILURES, Outcome, Pause, Run, Task, Trigger
from pulse.runlog import say
from pulse.runstores.base import RunStore
from pulse.runstores.ledger import RECOVERIES
from pulse.schedule import Schedule

GONE: Final = 410
BUSY: Final = frozenset({429, 503})  # with a Retry-After they ask by themselves for another attempt

_SOON: Final = timedelta(seconds=1)


class Aftermath:
    """Decides what follows, by the options of each task; safe to use from many threads."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        schedules: Mapping[str, Schedule],
        store: RunStore,
        on_paused: Callable[[str, Pause], None],
    ) -> None:
        """The tasks and their schedules by name, the store that keeps pauses, and who is told of them."""
        self._on_paused = on_paused
        self._tasks = tasks
        self._schedules = schedules
        self._store = store

    def again_at(self, run: Run, retry_after: timedelta | None) -> datetime | None:
        """When the ended *run* is tried once more; None if it is not.

        Args:
            run: With its outcome.
            retry_after: What the endpoint has asked for.
        """
        task, ended = self._tasks[run.task], run.finished or run.due
        has_asked = retry_after is not None and run.status in BUSY and run.outcome is Outcome.FAILED
        if run.trigger is Trigger.MANUAL or not (has_asked or (run.attempt <= task.retries and _is_worth(task, run))):
            return None
        # However soon an endpoint wants to be asked again: without end would flood the history.
        delay = _delay(task, run.attempt) if retry_after is None else max(retry_after, _SOON * run.attempt)
        following = self._schedules[run.task].next_due(run.due)
        return None if following is not None and ended + delay >= following else ended + delay

    def see_to(self, run: Run) -> None:
        """Pause the task of the ended *run* if its endpoint is gone, or if it has failed too often in a row.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        task = self._tasks.get(run.task)  # what was found lost may be of another configuration
        if task is None or run.outcome not in FAILURES or _is_tried_again(run):
            return
        if run.status == GONE:
            self._pause(run, "its endpoint answered 410, which means that it is gone")
        elif task.pause_on_failure and self._has_failed(run.task, task.pause_on_failure):
            times = "once" if task.pause_on_failure == 1 else f"{task.pause_on_failure} times in a row"
            self._pause(run, f"it failed {times}, last because: {run.reason}")

    def _has_failed(self, task: str, times: int) -> bool:
        """Whether the last *times* runs of *task* failed; another attempt of the same run is no other run.

        Mostly the last few records tell. To read a long history, and all that its runs wrote, took
        thirty times as long as the run.
        """
        wanted = times
        while True:
            kept = self._store.brief([task], wanted)[task]
            last: dict[str, Run] = {}
            for run in kept:
                if run.started:
                    last.setdefault(run.id, run)
            newest = list(last.values())[:times]
            if len(newest) == times or len(kept) < wanted or any(run.outcome not in FAILURES for run in newest):
                return len(newest) == times and all(run.outcome in FAILURES for run in newest)
            wanted *= 4

    def _pause(self, run: Run, note: str) -> None:
        pause = Pause(since=run.finished or run.due, note=note, by="pulse")
        self._store.pause(run.task, pause)
        self._on_paused(run.task, pause)
        say(logging.ERROR, f"task={run.task} is paused until somebody resumes it: {note!r}", run, "task_paused")


def _is_tried_again(run: Run) -> bool:
    is_recovered = run.outcome is Outcome.LOST and run.recovers and run.attempt < RECOVERIES
    return is_recovered or run.again_at is not None


def _is_worth(task: Task, run: Run) -> bool:
    if run.outcome is Outcome.TIMEOUT:
        return True
    return run.outcome is Outcome.FAILED and (run.status is None or run.status in task.retry_status)


def _delay(task: Task, attempt: int) -> timedelta:
    # A float of such a size is infinite, or no longer one: the most is reached long before.
    growth = task.retry_backoff ** min(attempt - 1, 64)
    seconds = min(task.retry_delay.total_seconds() * growth, task.retry_max_delay.total_seconds())
    return timedelta(seconds=seconds)
