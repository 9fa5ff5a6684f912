"""What is said of a run: in the log one line a record, and to programs a document."""

import logging
from contextlib import suppress
from typing import Final

from pulse.instance import short
from pulse.model import Outcome, Run
from pulse.zone import iso_utc

log = logging.getLogger(__name__)

_QUIET: Final = frozenset({Outcome.SUCCESS, Outcome.CANCELLED})


def log_run(run: Run) -> None:
    """One line a record: what became of which due instant, and why."""
    level = logging.INFO if run.outcome in _QUIET else logging.WARNING
    if not log.isEnabledFor(level):
        return
    line = f"task={run.task} run={run.id} trigger={run.trigger.value} attempt={run.attempt}"
    line += f" outcome={run.outcome.value if run.outcome else '-'}"
    if run.status is not None:
        line += f" status={run.status}"
    if run.duration is not None:
        line += f" duration={run.duration:.3f}"
    if run.started:
        line += f" late={run.lateness.total_seconds():.3f}"
    if run.result:
        line += f" result={run.result!r}"
    if run.again_at is not None:
        line += f" again={run.again_at.isoformat()}"
    if run.place:
        line += f" place={short(run.place)}"
    if run.count > 1 and run.first_due:
        line += f" count={run.count} first={run.first_due.isoformat()}"
    line += f" due={run.due.isoformat()}"
    if run.owner:
        line += f" worker={short(run.owner)}"
    say(level, line + (f" reason={run.reason!r}" if run.reason else ""), run, "run_finished")


def document(run: Run) -> dict[str, object]:
    """*run* for programs, without what its endpoint has answered: hooks, the event bus, the API and commands say it."""
    return {
        "task": run.task,
        "run": run.id,
        "due": iso_utc(run.due),
        "first_due": iso_utc(run.first_due),
        "count": run.count,
        "trigger": run.trigger.value,
        "attempt": run.attempt,
        "outcome": run.outcome.value if run.outcome else None,
        "status": run.status,
        "started": iso_utc(run.started),
        "finished": iso_utc(run.finished),
        "duration": run.duration,
        "reason": run.reason,
        "result": run.result,
    }


def say(level: int, line: str, run: Run, event: str) -> None:
    """Log *line*, about *run*, with the facts that a formatter wants as fields."""
    # A handler may raise, say because an endpoint has closed stderr: what is said must not
    # decide what becomes of a run, or of the thread that it shares with others.
    with suppress(Exception):
        log.log(level, "%s", line, extra=_facts(run, event))


def _facts(run: Run, event: str) -> dict[str, object]:
    return {
        "pulse_event": event,
        "pulse_task": run.task,
        "pulse_run": run.id,
        "pulse_due": run.due,
        "pulse_outcome": run.outcome.value if run.outcome else None,
        "pulse_status": run.status,
        "pulse_duration": run.duration,
    }
