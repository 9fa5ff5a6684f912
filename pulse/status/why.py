"""Why a task did, or did not, run at some instant: the records that are nearest to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pulse.model import Run, Task
from pulse.schedule import Schedule
from pulse.status.words import outcome_words, relative, spoken


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is known about one instant.

    Attributes:
        sentence: In words.
        nearest: The record before it, or of it, and the one after it.
    """

    sentence: str
    nearest: Sequence[Run] = ()


def explain(task: Task, schedule: Schedule, records: Sequence[Run], at: datetime, now: datetime) -> Answer:
    """What *records*, newest first, say about *task* at *at*, a minute that somebody typed."""
    due = schedule.due_before(at + timedelta(minutes=1))
    nearest = _nearest(records, at)
    if due is None or due < at:
        following = schedule.next_due(at)
        then = f"; the next instant after it is {spoken(following, task.zone)}" if following else ""
        return Answer(sentence=f"It was not due then{then}.", nearest=nearest)
    if due > now:
        return Answer(sentence=f"It is due then, {relative(due, now)}.", nearest=nearest)
    record = next((run for run in records if (run.first_due or run.due) <= due <= run.due), None)
    when = spoken(due, task.zone)
    if record is not None:
        reason = f": {record.reason}" if record.reason else ""
        said = f"It was due at {when}, and is recorded as {outcome_words(record)}{reason}."
        return Answer(sentence=said, nearest=[record])
    if records and due < min(run.first_due or run.due for run in records):
        return Answer(sentence=f"It was due at {when}; what is recorded of so long ago is not kept.", nearest=nearest)
    return Answer(sentence=f"It was due at {when}, and nothing is recorded of it.", nearest=nearest)


def _nearest(records: Sequence[Run], at: datetime) -> Sequence[Run]:
    after = [run for run in records if run.due > at][-1:]
    before = [run for run in records if run.due <= at][:1]
    return [*after, *before]
