"""What the pages show of tasks, runs and workers: the store's words, made ready for templates."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from pulse.instance import short, this_instance
from pulse.model import Instance, Pause, Progress, Run, Task
from pulse.runstores.base import RunStore
from pulse.schedule import Schedule, delay_of
from pulse.standing import State, failures, next_due
from pulse.status import picture
from pulse.status.survey import Moment, Survey
from pulse.status.words import (
    DASH,
    clock,
    outcome_words,
    relative,
    rough,
    seconds_words,
    spoken,
    trigger_words,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A task on a page.

    Attributes:
        records: The newest ones.
        state: The word of `State`.
        next: When it is due next; None if it is not.
        progress: Of the oldest run that is under way and says so.
    """

    task: Task
    records: Sequence[Run]
    running: Sequence[Run]
    state: str
    state_words: str
    schedule: str
    zone: ZoneInfo
    bars: picture.Chart
    lane: picture.Lane
    next: datetime | None
    median: str
    pause: Pause | None
    progress: Progress | None
    progress_words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A run in a table."""

    run: Run
    href: str
    when: str
    until: str
    count: int
    kind: str
    outcome: str
    took: str
    late: str
    trigger: str
    worker: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """A due instant to come, and what is special about it."""

    instant: datetime
    words: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A process that rings."""

    host: str
    pid: str
    server: str
    started: datetime
    seen: datetime
    running: int
    digest: str
    version: str
    is_alive: bool
    is_here: bool
    differs: bool


def row_of(task: Task, survey: Survey, records: Sequence[Run], moment: Moment, depth: int) -> Row:
    """The task by its newest *records*, at most *depth* of them, which *survey* is told of, too."""
    survey.note(task.name, records)
    schedule = survey.schedules[task.name]
    running = moment.running(task.name)
    pause = moment.pauses.get(task.name)
    state = survey.state(task, moment) or State.NEW
    rings = survey.rings_for(task)
    progress = next((run.progress for run in running if run.progress), None)
    return Row(
        task=task,
        records=records,
        running=running,
        state=state.value,
        state_words=_state_words(state, task, moment, failures(records), depth),
        schedule=schedule.describe(),
        zone=task.zone,
        bars=picture.bars([*reversed(running), *records]),
        lane=picture.lane(schedule if rings and not pause else None, records, running, picture.minute(moment.now)),
        next=next_due(schedule, pause, moment.now) if rings else None,
        median=seconds_words(picture.typical(records)),
        pause=pause,
        progress=progress,
        progress_words=progress_words(progress) if progress else "",
    )


def attempts_of(store: RunStore, task: Task, run_id: str) -> list[Run]:
    """What is known of one run, its last attempt first.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    held = [run for run in (*store.waiting(), *store.running()) if run.task == task.name and run.id == run_id]
    return [*held, *store.find(task.name, run_id)]


def progress_words(progress: Progress) -> str:
    """`62 %, building pages`, or what is done where no total is known."""
    share = f"{progress.done / progress.total:.0%}".replace("%", " %") if progress.total else f"{progress.done:g} done"
    return f"{share}, {progress.text}" if progress.text else share


def line_of(run: Run, base: str, zone: ZoneInfo, now: datetime) -> Line:
    """*run* as a table shows it."""
    attempt = f"?attempt={run.attempt}"  # without one it is the last, which may be another by then
    took = run.duration
    if run.outcome is None and run.started:
        took = (now - run.started).total_seconds()
    return Line(
        run=run,
        href=f"{base}/tasks/{run.task}/runs/{run.id}{attempt}",
        when=clock(run.first_due or run.due, zone, now),
        until=clock(run.due, zone, now),
        count=run.count,
        kind=run.outcome.value if run.outcome else "running",
        outcome=outcome_words(run),
        took=seconds_words(took),
        late=seconds_words(run.lateness.total_seconds()) if run.started else DASH,
        trigger=trigger_words(run),
        worker=short(run.owner or run.place),
        reason=reason_of(run, zone, now),
    )


def reason_of(run: Run, zone: ZoneInfo, now: datetime) -> str:
    """Why the outcome is what it is, and what the endpoint and its run said beside it."""
    words = [] if run.reason == f"answered {run.status}" else [run.reason]
    words.append(run.result)
    if run.stop and run.outcome is None:
        words.append(f"is asked to stop: {run.stop}")
    if run.progress and run.outcome is None:
        words.append(progress_words(run.progress))
    if run.again_at:
        words.append(f"tried again at {clock(run.again_at, zone, now)}")
    return "; ".join(word for word in words if word)


def dues_of(task: Task, schedule: Schedule, now: datetime, count: int) -> Iterator[Due]:
    """The next *count* due instants, with what jumps of the clock and the jitter do to them."""
    zone, due = task.zone, schedule.next_due(now)
    while due is not None and count:
        following = schedule.next_due(due)
        notes = [schedule.clock_note(due, zone)]
        if task.jitter:
            delay = delay_of(task, due, following).total_seconds()
            notes.append(f"starts {seconds_words(delay)} later, by its jitter")
        yield Due(instant=due, words=spoken(due, zone), note="; ".join(filter(None, notes)))
        due, count = following, count - 1


def workers_of(moment: Moment, digest: str) -> list[Worker]:
    """The processes that said that they ring, and those that were not heard of lately."""
    running = Counter(run.owner for held in moment.held.values() for run in held if run.started)
    living = {id(one) for one in moment.alive}
    return [
        _worker(one, running[one.owner], digest, is_alive=id(one) in living) for one in (*moment.alive, *moment.gone)
    ]


def facts_of(run: Run, zone: ZoneInfo, now: datetime) -> Iterator[tuple[str, str]]:
    """All that is recorded of *run*, but for what it wrote."""
    line = line_of(run, "", zone, now)
    facts: Mapping[str, str] = {
        "Id": run.id,
        "Due": spoken(run.due, zone) + (f", the last of {run.count} instants" if run.count > 1 else ""),
        "First due": spoken(run.first_due, zone) if run.first_due and run.count > 1 else "",
        "Trigger": line.trigger,
        "Started": spoken(run.started, zone) if run.started else "",
        "Late": line.late if run.started else "",
        "Finished": f"{spoken(run.finished, zone)}, {relative(run.finished, now)}" if run.finished else "",
        "Duration": line.took if run.started else "",
        "Outcome": line.outcome,
        "Reason": run.reason,
        "Status": str(run.status or ""),
        "Said": run.result,
        "Progress": progress_words(run.progress) if run.progress else "",
        "Asked to stop": run.stop,
        "Tried again": spoken(run.again_at, zone) if run.again_at else "",
        "Not before": spoken(run.expires, zone) if run.expires and run.is_waiting else "",
        "Lease ends": f"in {rough(run.expires - now)}" if run.expires and not (run.outcome or run.is_waiting) else "",
        "Worker": short(run.owner),
        "Place": run.place,
    }
    return ((word, value) for word, value in facts.items() if value)


def _state_words(state: State, task: Task, moment: Moment, failed: int, depth: int) -> str:
    """*state*, and what there is to know about it; if all of *depth* records have failed, older ones may have too."""
    pause, running = moment.pauses.get(task.name), moment.running(task.name)
    match state:
        case State.FAILING if failed > 1:
            return f"failing \N{MULTIPLICATION SIGN}{failed}{'+' if failed == depth else ''}"
        case State.PAUSED if pause and pause.until:
            return f"paused \N{RIGHTWARDS ARROW} {clock(pause.until, task.zone, moment.now)}"
        case State.RUNNING if len(running) > 1:
            return f"running \N{MULTIPLICATION SIGN}{len(running)}"
    return str(state.value)


def _worker(one: Instance, running: int, digest: str, *, is_alive: bool) -> Worker:
    host, _, pid = short(one.owner).rpartition(":")
    return Worker(
        host=host,
        pid=pid,
        server=one.server,
        started=one.started,
        seen=one.seen,
        running=running,
        digest=one.digest,
        version=one.version,
        is_alive=is_alive,
        is_here=one.owner == this_instance(),
        differs=one.digest != digest,
    )
