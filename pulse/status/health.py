"""Whether all is well, found from the store by whichever process is asked.

`/health` is for whoever wakes people up, `/live` for whoever restarts processes: a task
that is overdue is no reason to restart a web server, or to send it no visitors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from pulse.errors import StoreUnavailableError
from pulse.runstores.base import RunStore
from pulse.status.controls import Ringing
from pulse.status.survey import Moment, Survey
from pulse.zone import iso_utc

STUCK: Final = timedelta(seconds=30)  # a bell sleeps ten seconds at most
TASKS_SHOWN: Final = 100  # of those that are overdue


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One reason for not being well.

    Attributes:
        reason: A few words that anybody may read.
        details: For visitors alone: names of tasks, numbers.
    """

    reason: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The state of the fleet; it is well without faults.

    Attributes:
        faults: Why it is not.
        is_store_there: Whether the run store answers, and can be written; if not, nothing below is known.
        heartbeat_age: Seconds since a process that rings was last heard of; None if none ever was, or if
            all have said that they leave.
        late_tasks: How many tasks are overdue; None if that is not known.
    """

    faults: Sequence[Fault] = ()
    is_store_there: bool = True
    heartbeat_age: float | None = None
    late_tasks: int | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return 503 if self.faults else 200

    def document(self, *, is_detailed: bool) -> dict[str, object]:
        """What is said about it."""
        said: dict[str, object] = {
            "status": "failing" if self.faults else "ok",
            "reasons": [fault.reason for fault in self.faults],
            "store": "ok" if self.is_store_there else "unavailable",
            "heartbeat_age": self.heartbeat_age,
            "late_tasks": self.late_tasks,
        }
        if is_detailed:
            said["details"] = {fault.reason: dict(fault.details) for fault in self.faults}
        return said


STORE_UNAVAILABLE: Final = Health(faults=[Fault(reason="the run store does not answer")], is_store_there=False)


def health_of(survey: Survey, moment: Moment, ringing: Ringing) -> Health:
    """What the records, the heartbeats and the scheduler of this process say."""
    silence = _heartbeat(survey, moment)
    # A store that can only be read answers whoever asks, and takes nobody's beat.
    if silence and (problem := _why_unusable(survey.store)):
        reason = "the run store cannot be used"
        return Health(faults=[Fault(reason=reason, details={"error": problem})], is_store_there=False)
    overdue = _overdue(survey, moment)
    return Health(
        faults=[*silence, *_scheduler(ringing, moment), *_tasks(overdue)],
        heartbeat_age=_heartbeat_age(moment),
        late_tasks=len(overdue),
    )


def _why_unusable(store: RunStore) -> str:
    try:
        store.reach()
    except StoreUnavailableError as error:
        return str(error)
    return ""


def _heartbeat_age(moment: Moment) -> float | None:
    seen = max((one.seen for one in (*moment.alive, *moment.gone)), default=None)
    # Of a host whose clock is a little ahead the last beat is yet to come.
    return None if seen is None else round(max((moment.now - seen).total_seconds(), 0.0), 1)


def _heartbeat(survey: Survey, moment: Moment) -> Sequence[Fault]:
    if not survey.misses_ringing(moment):
        return []
    seen = max((one.seen for one in moment.gone), default=None)
    return [Fault(reason="no process rings", details={"last_heard_of": iso_utc(seen)})]


def _scheduler(ringing: Ringing, moment: Moment) -> Sequence[Fault]:
    faults = []
    if ringing.next_ring is not None and ringing.next_ring < moment.now - STUCK:
        faults.append(Fault(reason="the scheduler is stuck", details={"next_ring": iso_utc(ringing.next_ring)}))
    if ringing.abandoned:
        faults.append(Fault(reason="threads were left behind", details={"threads": ringing.abandoned}))
    return faults


def _overdue(survey: Survey, moment: Moment) -> Mapping[str, str | None]:
    """Since when each task is overdue that is."""
    found = {task.name: survey.overdue(task, moment) for task in survey.config.tasks.values()}
    return {name: iso_utc(since) for name, since in found.items() if since}


def _tasks(overdue: Mapping[str, str | None]) -> Sequence[Fault]:
    if not overdue:
        return []
    shown = dict(list(overdue.items())[:TASKS_SHOWN])
    return [Fault(reason="tasks are overdue", details={"count": len(overdue), "tasks": shown})]
