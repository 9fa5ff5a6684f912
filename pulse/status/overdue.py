"""Which tasks are overdue: pure functions of the schedule, of an instant and of what is recorded.

Whoever asks finds the answer from the store, so the alarm does not depend on the scheduler
whose silence it is about.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from pulse.model import Outcome, Run, Task, Trigger
from pulse.schedule import Schedule
from pulse.standing import last_begun

# Between the end of a grace and the alarm: a run that has just ended may not be recorded
# yet, and a bell that slept through a step of the clock rings up to ten seconds late.
MARGIN: Final = timedelta(seconds=15)

# What answers for an instant; a run that was left out on purpose is no alarm.
_ANSWERS: Final = frozenset({Outcome.SUCCESS, Outcome.SKIPPED, Outcome.CANCELLED})


def last_expected(task: Task, schedule: Schedule, now: datetime) -> datetime | None:
    """The last instant whose grace (`Task.grace`) has passed at *now*; None if there is none.

    A grace of `auto` ends at the next instant.
    """
    if task.grace is None:
        return None
    if isinstance(task.grace, timedelta):
        return last_begun(task, schedule, now - task.grace)
    following = schedule.previous_due(now)
    # Of an instant that is the only one there is no next.
    return schedule.due_before(following) if following else None


def overdue_since(
    task: Task,
    schedule: Schedule,
    now: datetime,
    *,
    records: Iterable[Run],
    last_success: datetime | None = None,
    is_trimmed: bool = False,
    under_way: Iterable[Run] = (),
    known_since: datetime | None = None,
) -> datetime | None:
    """The instant for which *task* has no success though its grace has passed; None if it is not overdue.

    Whether the task runs by itself at all, is paused or disabled, is for the caller to know.

    Args:
        task: The task.
        schedule: Its schedule.
        now: The instant of the question.
        records: The newest finished records, in any order.
        last_success: When a run last succeeded, also one that is none of *records*.
        is_trimmed: There are older records than *records*.
        under_way: Its runs that have begun, and its further attempts that wait.
        known_since: When somebody began to ring for it; None if nobody does. A task that is
            new is not overdue for what was due before that.
    """
    expected = last_expected(task, schedule, now - MARGIN)
    if expected is None or any(run.due >= expected for run in under_way):
        return None
    kept = list(records)
    was_known = is_trimmed or any(run.due <= expected for run in kept if run.trigger is not Trigger.MANUAL)
    if not was_known and (known_since is None or expected < known_since):
        return None
    answered = last_success is not None and last_success >= expected
    answered = answered or any(run.due >= expected and run.outcome in _ANSWERS for run in kept)
    return None if answered else expected
