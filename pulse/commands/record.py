"""Records as people and programs read them: what became of a due instant."""

from codecs import getincrementaldecoder
from dataclasses import asdict
from typing import Final
from zoneinfo import ZoneInfo

from pulse import runlog
from pulse.commands.instant import by_second, clock_time, rough, spoken
from pulse.commands.screen import Screen
from pulse.instance import short
from pulse.model import FAILURES, Outcome, Progress, Run, Task, Trigger
from pulse.runstores.base import Totals
from pulse.zone import iso_utc

# What a user has to look at; the others went well, or are what somebody wanted.
TROUBLE: Final = FAILURES | {Outcome.MISSED}
STYLES: Final = {Outcome.SUCCESS: "green", Outcome.SKIPPED: "yellow", Outcome.CANCELLED: "yellow"}  # else red
PREFIX: Final = 8  # characters of a run's id that tell it from the others of a history

HEAD: Final = ("RUN", "DUE", "TRIGGER", "TRY", "OUTCOME", "STATUS", "TOOK", "LATE", "WORKER", "REASON")


def cells(run: Run, task: Task) -> list[str]:
    """The row of a table below `HEAD`."""
    return [
        run.id[:PREFIX],
        due_words(run, task.zone),
        run.trigger.value,
        str(run.attempt),
        outcome_words(run),
        "-" if run.status is None else str(run.status),
        "-" if run.duration is None else rough_seconds(run.duration),
        rough(run.lateness) if run.started else "-",
        short(run.owner or run.place) or "-",
        reason_words(run),
    ]


def due_words(run: Run, zone: ZoneInfo) -> str:
    """When *run* was due: of a call by hand when it was called, of a span its first and last instant."""
    if run.trigger is Trigger.MANUAL:
        return by_second(run.due, zone)
    if run.first_due is None or run.count == 1:
        return spoken(run.due, zone)
    first, last = run.first_due.astimezone(zone), run.due.astimezone(zone)
    end = clock_time(last) if first.date() == last.date() else spoken(run.due, zone)
    return f"{spoken(run.first_due, zone)} to {end}"


def outcome_words(run: Run) -> str:
    """`success`, `missed x12`; of what is not finished where it stands."""
    if run.outcome is None:
        return "waiting" if run.is_waiting else "queued" if run.is_reserved else "running"
    return f"{run.outcome.value} x{run.count}" if run.count > 1 else run.outcome.value


def reason_words(run: Run) -> str:
    """The reason, unless the status has said it already, and what the endpoint said of its result."""
    reason = "" if run.reason == f"answered {run.status}" else run.reason
    return "; ".join(part for part in (reason, run.result) if part)


def progress_words(progress: Progress) -> str:
    """How far a run has got: `62 % (310 of 500) building pages`."""
    count = f"{progress.done:g}"
    if progress.total:
        count = f"{100 * progress.done / progress.total:.0f} % ({count} of {progress.total:g})"
    return f"{count} {progress.text}".strip()


def rough_seconds(seconds: float) -> str:
    """As `rough`, of a duration."""
    return f"{seconds:.{1 if seconds >= 1 else 3}f} s"


def sentence(run: Run, zone: ZoneInfo) -> str:
    """*run* in one line: `success 200 in 0.412 s, 0.003 s late, by web1:4711 (attempt 2)`."""
    words = outcome_words(run)
    if run.status is not None:
        words += f" {run.status}"
    if run.duration is not None:
        words += f" in {rough_seconds(run.duration)}"
    if run.started:
        words += f", begun {by_second(run.started, zone)}, {rough(run.lateness)} late"
    if run.owner:
        words += f", by {short(run.owner)}"
    if run.attempt > 1:
        words += f" (attempt {run.attempt})"
    reason = reason_words(run)
    return f"{words}: {reason}" if reason else words


def totals_words(totals: Totals, zone: ZoneInfo) -> str:
    """`300 success, 11 failed; last success Fri 01 Jan 2027 12:05 UTC`; what is zero is left out."""
    counts = ", ".join(f"{totals.counts[outcome]} {outcome.value}" for outcome in Outcome if totals.counts.get(outcome))
    if not counts:
        return "nothing is recorded"
    return f"{counts}; last success {by_second(totals.last_success, zone) if totals.last_success else 'never'}"


def show_captured(screen: Screen, name: str, captured: bytes, capture: int) -> None:
    """Write what was captured of *name*, of which at most *capture* bytes are kept."""
    if captured:
        cut = f", the first {capture} bytes" if len(captured) >= capture else ""
        screen.line(f"--- {name}{cut}")
        screen.text(text_of(captured).rstrip("\n"))


def text_of(captured: bytes) -> str:
    """What was captured, if it is text; the cut may have gone through a character."""
    try:
        return getincrementaldecoder("utf-8")().decode(captured).replace("\r\n", "\n")
    except UnicodeDecodeError:
        return f"({len(captured)} bytes that are no text)"


def document(run: Run, where: str) -> dict[str, object]:
    """*run* of the filter at *where* for programs, without what was captured."""
    return {
        **runlog.document(run),
        "first_due": iso_utc(run.first_due or run.due),
        "lateness": run.lateness.total_seconds() if run.started else None,
        "worker": short(run.owner),
        "place": short(run.place),
        "stop": run.stop,
        "progress": asdict(run.progress) if run.progress else None,
        "filter": where,
    }


def totals_document(totals: Totals) -> dict[str, object]:
    """*totals* for programs; every outcome is there."""
    return {
        "counts": {outcome.value: totals.counts.get(outcome, 0) for outcome in Outcome},
        "last_finished": iso_utc(totals.last_finished),
        "last_success": iso_utc(totals.last_success),
    }
