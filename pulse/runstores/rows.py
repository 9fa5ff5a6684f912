"""Runs, totals and pauses as rows of the SQL stores, and rows as these."""

import json
from dataclasses import replace
from typing import Any, Final

from pulse.model import Outcome, Pause, Progress, Run, Trigger
from pulse.runstores.base import Totals
from pulse.runstores.instants import MICROSECOND, instant_of, number_of
from pulse.runstores.legible import understood
from pulse.zone import EPOCH

# The columns of a run that is held, and of its record, in the order of the rows here.
RUN: Final = "id, task, due, trigger, attempt, owner, started, expires, place, recovers"
HELD: Final = f"{RUN}, lock, stop, progress"
RECORD: Final = (
    f"{RUN}, finished, outcome, reason, status, duration, body, errors, first_due, count, result, request, headers, log"
)
BRIEF: Final = (  # a record without what its run wrote
    f"{RUN}, finished, outcome, reason, status, duration, NULL AS body, NULL AS errors, first_due, count, result, "
    "request, '' AS headers, NULL AS log"
)


@understood
def totals_of(
    finished: int | None, success: int | None, timed: int, seconds: float, seconds_late: float, *counts: int
) -> Totals:
    """The totals in a row of tasks: the counts are those of all outcomes, in their order."""
    return Totals(
        counts={outcome: count for outcome, count in zip(Outcome, counts, strict=True) if count},
        last_finished=instant_of(finished),
        last_success=instant_of(success),
        timed=timed,
        seconds=seconds,
        seconds_late=seconds_late,
    )


@understood
def pause_of(since: int, until: int | None, note: str, author: str) -> Pause:
    """The pause in its row."""
    return Pause(since=EPOCH + since * MICROSECOND, until=instant_of(until), note=note, by=author)


def _run_of(row: tuple[Any, ...]) -> Run:
    """What the columns `RUN` say."""
    run_id, task, due, trigger, attempt, owner, started, expires, place, recovers = row
    return Run(
        id=run_id,
        task=task,
        due=EPOCH + due * MICROSECOND,
        trigger=Trigger(trigger),
        attempt=attempt,
        owner=owner,
        started=instant_of(started),
        expires=instant_of(expires),
        place=place,
        recovers=bool(recovers),
    )


def name_of(row: tuple[Any, ...]) -> tuple[str, str]:
    """The task and the id in the columns `HELD`, whatever else they say."""
    return str(row[1]), str(row[0])


def held_row(run: Run) -> tuple[Any, ...]:
    """*run* as the columns `HELD`."""
    progress = run.progress
    return (
        run.id,
        run.task,
        number_of(run.due),
        run.trigger.value,
        run.attempt,
        run.owner,
        number_of(run.started),
        number_of(run.expires),
        run.place,
        int(run.recovers),
        run.lock,
        run.stop,
        None if progress is None else json.dumps([progress.done, progress.total, progress.text]),
    )


@understood
def held_of(row: tuple[Any, ...]) -> Run:
    """What the columns `HELD` say."""
    lock, stop, said = row[10:]
    run = _run_of(row[:10])
    if not (lock or stop or said):
        return run
    done, total, text = json.loads(said) if said else (0, None, "")
    progress = Progress(done=done, total=total, text=text) if said else None
    return replace(run, lock=lock, stop=stop, progress=progress)


def record_row(run: Run) -> tuple[Any, ...]:
    """*run*, which has ended, as the columns `RECORD`."""
    assert run.outcome is not None
    return (
        run.id,
        run.task,
        number_of(run.due),
        run.trigger.value,
        run.attempt,
        run.owner,
        number_of(run.started),
        number_of(run.expires),
        run.place,
        int(run.recovers),
        number_of(run.finished),
        run.outcome.value,
        run.reason,
        run.status,
        run.duration,
        run.body,
        run.errors,
        number_of(run.first_due),
        run.count,
        run.result,
        run.request,
        run.headers,
        run.log or None,
    )


@understood
def record_of(row: tuple[Any, ...]) -> Run:
    """The finished run of a row of records."""
    run_id, task, due, trigger, attempt, owner, started, expires, place, recovers = row[:10]
    finished, outcome, reason, status, duration, body, errors, first_due, count, result = row[10:20]
    request, headers, log = row[20:]
    # All at once: a page of many tasks makes thousands of them, and a copy of each would cost as much again.
    return Run(
        id=run_id,
        task=task,
        due=EPOCH + due * MICROSECOND,
        trigger=Trigger(trigger),
        attempt=attempt,
        owner=owner,
        started=instant_of(started),
        expires=instant_of(expires),
        place=place,
        recovers=bool(recovers),
        finished=instant_of(finished),
        outcome=Outcome(outcome),
        reason=reason,
        status=status,
        duration=duration,
        body=bytes(body or b""),
        errors=bytes(errors or b""),
        first_due=instant_of(first_due),
        count=count,
        result=result,
        request=request,
        headers=headers,
        log=bytes(log or b""),
    )
