"""`pulse why`: why a task did, or did not, run at some time: one sentence, and the evidence."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from enum import Enum
from typing import Final
from zoneinfo import ZoneInfo

from pulse.clock import Clock
from pulse.commands import record
from pulse.commands.exits import Exit
from pulse.commands.instant import by_second, rough, spoken
from pulse.commands.pause import pause_words
from pulse.commands.screen import Screen, counted
from pulse.commands.source import Source
from pulse.commands.stored import Stored, in_filters, opened
from pulse.commands.workers import why_gone
from pulse.fleet import digest_of
from pulse.instance import short
from pulse.model import Config, Instance, Outcome, Pause, Run, Task, Trigger
from pulse.runstores.base import Totals
from pulse.runstores.ledger import RUNNING, why_lost
from pulse.schedule import Schedule, delay_of, schedule_of
from pulse.zone import instant_of, iso_utc

DAY: Final = timedelta(days=1)


class Verdict(Enum):
    """What is the matter with one instant of a task."""

    NOT_DUE = "not due"
    RAN = "ran"
    RUNNING = "running"
    DIED = "its process died"
    WAITS = "waits"
    SKIPPED = "skipped"
    MISSED = "missed"
    DISABLED = "disabled"
    PAUSED = "paused"
    NOBODY_RINGS = "nobody rings"
    TO_COME = "to come"
    NOT_KEPT = "not kept"
    NOT_KNOWN_YET = "not known yet"
    OTHER_CONFIGURATION = "other configuration"
    NO_TRACE = "no trace"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All that is known about one task.

    Attributes:
        history: The records that are kept, newest first.
        held: Runs of the task that are under way, and attempts that wait.
        instances: The processes that said they ring.
        digests: Of the configurations of the source that share the store.
    """

    task: Task
    config: Config
    now: datetime
    history: Sequence[Run] = ()
    totals: Totals = field(default_factory=Totals)
    pause: Pause | None = None
    held: Sequence[Run] = ()
    instances: Sequence[Instance] = ()
    digests: frozenset[str] = frozenset()

    @property
    def zone(self) -> ZoneInfo:
        """By which the task lives."""
        return self.task.zone

    @property
    def schedule(self) -> Schedule:
        """When it is due."""
        return schedule_of(self.task)

    @property
    def living(self) -> list[Instance]:
        """The processes that ring, as far as anybody knows."""
        return [one for one in self.instances if not why_gone(one, self.config, self.now)]

    @property
    def planned(self) -> list[Run]:
        """The records of due instants; calls by hand stand beside the schedule."""
        return [run for run in self.history if run.trigger is not Trigger.MANUAL]

    @property
    def is_trimmed(self) -> bool:
        """Whether older records are gone: what was counted is more than what is kept."""
        return sum(self.totals.counts.values()) > sum(run.count for run in self.history)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Why.

    Attributes:
        due: The instant in question; None if none is due at the time that was asked for.
        sentence: The answer.
        evidence: What it rests on, a line each.
    """

    due: datetime | None
    verdict: Verdict
    sentence: str
    evidence: tuple[str, ...]


def why(source: Source, screen: Screen, clock: Clock, name: str, *, at: datetime | time | None) -> Exit:
    """Say why the task *name* of *source* did, or did not, run at *at*.

    Args:
        source: Where the task is.
        screen: Where to write.
        clock: That of this host.
        name: Of the task.
        at: Naive by the clock of the task's zone. A whole minute, or second, stands for
            all of it. A time of day is the last one; None is the last due instant.

    Raises:
        ConfigError, CommandError: the filters cannot be read.
        UnknownTaskError: there is no such task.
        StoreUnavailableError: the store does not answer.
    """
    with opened(source, clock) as filters:
        pairs = in_filters(filters, name)
        known = [(one, _facts(filters, one, task, clock)) for one, task in pairs]
        answers = [(one, explain(facts, _meant(at, facts))) for one, facts in known]
    if screen.is_json:
        screen.document({"source": source.name, "task": name, "answers": [_document(*pair) for pair in answers]})
        return Exit.OK
    for one, answer in answers:
        if len(answers) > 1:
            screen.line(one.where)
        screen.line(answer.sentence, "bold")
        for line in answer.evidence:
            screen.line(f"  {line}")
    return Exit.OK


def _meant(at: datetime | time | None, facts: Facts) -> datetime:
    """The instant that is meant by *at*, see `why`."""
    if at is None:
        return facts.schedule.previous_due(facts.now) or facts.now.replace(microsecond=0)
    if isinstance(at, datetime):
        return instant_of(at, facts.zone)
    today = facts.now.astimezone(facts.zone).date()
    instant = instant_of(datetime.combine(today, at), facts.zone)
    return instant if instant <= facts.now else instant_of(datetime.combine(today - DAY, at), facts.zone)


def explain(facts: Facts, at: datetime) -> Answer:
    """Why, by *facts*, the task did or did not run at *at*, aware."""
    due = _due_at(facts.schedule, at)
    if due is None:
        return Answer(
            due=None,
            verdict=Verdict.NOT_DUE,
            sentence=_not_due(facts, at),
            evidence=(*_under_way_at(facts, at), *_evidence(facts, at)),
        )
    for rule in _RULES:
        if found := rule(facts, due):
            verdict, sentence = found
            records = [
                f"record: {run.id[: record.PREFIX]} {record.sentence(run, facts.zone)}"
                for run in _records_of(facts, due)
            ]
            evidence = (*records, *_in_the_way(facts, due), *_evidence(facts, due))
            return Answer(due=due, verdict=verdict, sentence=sentence, evidence=evidence)
    raise AssertionError("the last rule answers always")


def _due_at(schedule: Schedule, at: datetime) -> datetime | None:
    """What is due at *at*; of a whole second or minute, anything that is due in it."""
    if schedule.previous_due(at) == at:
        return at
    if at.microsecond:
        return None
    due = schedule.next_due(at)
    span = timedelta(seconds=1) if at.second else timedelta(minutes=1)
    return due if due and due < at + span else None


# The rules, in the order in which they are asked. Each answers for one state of affairs.

Found = tuple[Verdict, str] | None


def _recorded(facts: Facts, due: datetime) -> Found:
    records = _records_of(facts, due)
    if not records:
        return None
    # The last attempt counts; and of hosts that each have their own run, one that ran.
    run = next((one for one in records if one.started), records[0])
    when, said = spoken(due, facts.zone), record.sentence(run, facts.zone)
    one_of = f" (one of {run.count} instants, {record.due_words(run, facts.zone)})" if run.count > 1 else ""
    reason = record.reason_words(run)
    match run.outcome:
        case Outcome.SKIPPED:
            return Verdict.SKIPPED, f"{facts.task.name} was skipped at {when}{one_of}: {reason}."
        case Outcome.MISSED:
            return Verdict.MISSED, f"{facts.task.name} was missed at {when}{one_of}: {reason}."
        case Outcome.LOST:
            claimer = short(run.owner)
            return Verdict.DIED, f"{facts.task.name} was begun at {when} by {claimer}, and was lost: {reason}."
    return Verdict.RAN, f"{facts.task.name} ran at {when}: {said}."


def _under_way(facts: Facts, due: datetime) -> Found:
    run = next((one for one in facts.held if one.due == due and one.started and not _is_manual(one)), None)
    if run is None:
        return None
    when = spoken(due, facts.zone)
    if run.is_reserved and run.expires:
        until = by_second(run.expires, facts.zone)
        said = f"waits for a worker of Celery to take the run of {when}, which is missed if none does by {until}"
        return Verdict.WAITS, f"{facts.task.name} {said}."
    if lost := why_lost(run, facts.now):
        said = f"was begun at {when} by {short(run.owner)}, which then died or froze: {lost}"
        return Verdict.DIED, f"{facts.task.name} {said}; it is recorded as lost as soon as a process sees to it."
    assert run.started
    lasts = rough(facts.now - run.started)
    return Verdict.RUNNING, f"{facts.task.name} is still running for {when}: since {lasts}, by {short(run.owner)}."


def _waits(facts: Facts, due: datetime) -> Found:
    run = next((one for one in facts.held if one.due == due and one.is_waiting), None)
    if run is None or run.expires is None:
        return None
    begins = by_second(run.expires, facts.zone)
    said = f"waits for attempt {run.attempt} of {spoken(due, facts.zone)}, which may begin from {begins}"
    return Verdict.WAITS, f"{facts.task.name} {said}."


def _not_kept(facts: Facts, due: datetime) -> Found:
    oldest = min((run.first_due or run.due for run in facts.planned), default=None)
    if due > facts.now or not facts.is_trimmed or (oldest and due >= oldest):
        return None
    back = f"the kept history goes back to {spoken(oldest, facts.zone)}" if oldest else "no record of it is kept"
    said = f"what became of {facts.task.name} at {spoken(due, facts.zone)} is not known any more"
    return Verdict.NOT_KEPT, f"{said[0].upper()}{said[1:]}: {back} ({facts.config.history} records)."


def _disabled(facts: Facts, due: datetime) -> Found:
    if facts.config.enabled and facts.task.enabled:
        return None
    option = f"pulse.task.{facts.task.name}.enabled" if facts.config.enabled else "pulse.config.enabled"
    return Verdict.DISABLED, f"{_not_run(facts, due)}: {option} is false, nothing runs it by itself."


def _paused(facts: Facts, due: datetime) -> Found:
    pause = facts.pause
    if pause is None or due < pause.since or not pause.holds(max(due, facts.now)):
        return None
    return Verdict.PAUSED, f"{_not_run(facts, due)}: it is {pause_words(pause, facts.task)}."


def _to_come(facts: Facts, due: datetime) -> Found:
    starts = due + delay_of(facts.task, due, facts.schedule.next_due(due))
    if starts <= facts.now:
        return None
    said = f"is still to come: it starts {spoken(due, facts.zone)}"
    if starts > due:
        said += f", and {rough(starts - due)} later by its jitter"
    said += f", in {rough(starts - facts.now)}"
    if not facts.living:
        said += f"; but {_nobody(facts)}"
    return Verdict.TO_COME, f"{facts.task.name} {said}."


def _never_known(facts: Facts, due: datetime) -> Found:
    if facts.history or facts.totals.counts or facts.held:
        return None
    if not facts.living:
        return Verdict.NOBODY_RINGS, f"{_not_run(facts, due)}: nothing is recorded of it, and {_nobody(facts)}."
    first = min(one.started for one in facts.living)
    if first >= due:
        said = f"no process rang then, the first of those that do began {by_second(first, facts.zone)}"
        return Verdict.NOT_KNOWN_YET, f"{_not_run(facts, due)}: {said}, and nothing was known of the task before."
    return None


def _before_known(facts: Facts, due: datetime) -> Found:
    oldest = min((run.first_due or run.due for run in facts.planned), default=None)
    if oldest is None or due >= oldest:
        return None
    said = f"it was not known yet, the first instant that was recorded is {spoken(oldest, facts.zone)}"
    return Verdict.NOT_KNOWN_YET, f"{_not_run(facts, due)}: {said}."


def _waits_for_its_turn(facts: Facts, due: datetime) -> Found:
    busy = [run for run in facts.held if run.started and run.due < due]
    if (
        facts.task.overlap not in ("queue", "replace")
        or len(busy) < facts.task.max_instances
        or not _is_newest(facts, due)
    ):
        return None
    return Verdict.WAITS, f"{facts.task.name} waits for its turn at {spoken(due, facts.zone)}: it is still running."


def _nobody_rings(facts: Facts, due: datetime) -> Found:
    if facts.living or not _is_newest(facts, due):
        return None
    return Verdict.NOBODY_RINGS, f"{_not_run(facts, due)}: {_nobody(facts)}."


def _rang_later(facts: Facts, due: datetime) -> Found:
    first = min((one.started for one in facts.living), default=None)
    if first is None or first <= due or not _is_newest(facts, due):
        return None
    said = f"no process rang then, the first of those that do began {by_second(first, facts.zone)}"
    return Verdict.NOBODY_RINGS, f"{_not_run(facts, due)}: {said}."


def _other_configuration(facts: Facts, due: datetime) -> Found:
    is_known = any(one.digest in facts.digests for one in facts.living)
    if not facts.living or is_known or not _is_newest(facts, due):
        return None
    said = "the processes that ring have another configuration than this one (pulse workers)"
    return Verdict.OTHER_CONFIGURATION, f"{_not_run(facts, due)}: {said}."


def _no_trace(facts: Facts, due: datetime) -> Found:
    said = "there is no record of it"
    if _is_newest(facts, due):
        said += ", though processes ring: the run store may not have answered, or they have begun to ring since"
    else:
        said += ", though there are later ones: by the configuration of then it was not due, or the task was disabled"
    return Verdict.NO_TRACE, f"{_not_run(facts, due)}: {said}."


_RULES: Final[tuple[Callable[[Facts, datetime], Found], ...]] = (
    _recorded,
    _under_way,
    _waits,
    _not_kept,
    _disabled,
    _paused,
    _to_come,
    _never_known,
    _before_known,
    _waits_for_its_turn,
    _nobody_rings,
    _rang_later,
    _other_configuration,
    _no_trace,
)


# What the rules say


def _not_due(facts: Facts, at: datetime) -> str:
    name, zone, schedule = facts.task.name, facts.zone, facts.schedule
    before, after = schedule.previous_due(at), schedule.next_due(at)
    if before is None and after is None:
        return f"{name} is never due: {schedule.describe()}."
    was = "was" if at <= facts.now else "will"
    said = f"{name} {was} not {'' if was == 'was' else 'be '}due at {spoken(at, zone)}: {schedule.describe()}"
    parts = [f"before it {spoken(before, zone)}"] if before else ["it was never due before"]
    parts.append(f"next {spoken(after, zone)}" if after else "never after it")
    return f"{said}; {', '.join(parts)}."


def _not_run(facts: Facts, due: datetime) -> str:
    return f"{facts.task.name} {'did' if due <= facts.now else 'will'} not run at {spoken(due, facts.zone)}"


def _nobody(facts: Facts) -> str:
    if facts.config.start == "manual":
        return "no process rings (start = manual: none does by itself)"
    return "no process rings"


def _is_newest(facts: Facts, due: datetime) -> bool:
    """Whether no later instant has a record: a claim would have recorded *due*, too."""
    return all(run.due < due for run in facts.planned)


def _is_manual(run: Run) -> bool:
    return run.trigger is Trigger.MANUAL


def _records_of(facts: Facts, due: datetime) -> list[Run]:
    return [run for run in facts.planned if (run.first_due or run.due) <= due <= run.due]


# The evidence


def _in_the_way(facts: Facts, due: datetime) -> Iterator[str]:
    """The runs because of which the instant *due* was skipped."""
    skipped = next((run for run in _records_of(facts, due) if run.reason == RUNNING), None)
    if skipped and skipped.finished:
        yield from _under_way_at(facts, skipped.finished)


def _under_way_at(facts: Facts, at: datetime) -> Iterator[str]:
    for run in (*facts.held, *facts.history):
        if run.started and run.started <= at and (run.finished is None or at <= run.finished):
            by_hand = "called by hand" if _is_manual(run) else f"due {spoken(run.due, facts.zone)}"
            yield f"under way then: {by_hand}, {record.sentence(run, facts.zone)}"


def _evidence(facts: Facts, at: datetime) -> Iterator[str]:
    schedule, zone = facts.schedule, facts.zone
    before, after = schedule.due_before(at), schedule.next_due(at)
    around = [f"before {spoken(before, zone)}"] if before else []
    around += [f"after {spoken(after, zone)}"] if after else []
    yield f"schedule: {schedule.describe()}" + (f" ({', '.join(around)})" if around else "")
    if facts.pause and facts.pause.holds(facts.now):
        yield f"pause: {pause_words(facts.pause, facts.task)}"
    yield f"totals: {record.totals_words(facts.totals, zone)}"
    if facts.history:
        oldest = min(run.first_due or run.due for run in facts.history)
        trimmed = ", older ones are gone" if facts.is_trimmed else ", none is gone"
        count = counted(len(facts.history), "record")
        yield f"history: {count}, back to {by_second(oldest, zone)}{trimmed}"
    yield from _rings(facts)


def _rings(facts: Facts) -> Iterator[str]:
    if not facts.instances:
        yield f"processes: {_nobody(facts)}"
    for one in facts.instances:
        gone = why_gone(one, facts.config, facts.now)
        rings = f"gone, {gone}" if gone else f"rings since {by_second(one.started, facts.zone)}"
        other = "" if one.digest in facts.digests else ", by another configuration"
        yield f"process: {short(one.owner)} {rings}{other}"


def _facts(filters: Sequence[Stored], one: Stored, task: Task, clock: Clock) -> Facts:
    store = one.store
    return Facts(
        task=task,
        config=one.config,
        now=one.now(clock),
        history=store.history(task.name),
        totals=store.totals(task.name),
        pause=store.pauses().get(task.name),
        held=[run for run in (*store.running(), *store.waiting()) if run.task == task.name],
        instances=store.instances(),
        digests=frozenset(digest_of(other.config) for other in filters if other.kept is one.kept),
    )


def _document(one: Stored, answer: Answer) -> dict[str, object]:
    return {
        "due": iso_utc(answer.due),
        "verdict": answer.verdict.value,
        "sentence": answer.sentence,
        "evidence": list(answer.evidence),
        "filter": one.where,
    }
