"""Whether all is well, found from the store by whichever process is asked.

`/health` is for whoever wakes people up, `/live` for whoever restarts processes: a task
that is overdue is no reason to restart a web server, or to send it no visitors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from pulse.model import Config
from pulse.status.controls import Ringing
from pulse.status.survey import Moment, Survey
from pulse.status.words import iso

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
    """The state of the fleet; it is well without faults."""

    faults: Sequence[Fault] = ()

    @property
    def status(self) -> int:
        """The HTTP status."""
        return 503 if self.faults else 200

    def document(self, *, is_detailed: bool) -> dict[str, object]:
        """What is said about it."""
        said: dict[str, object] = {"status": "failing" if self.faults else "ok"}
        said["reasons"] = [fault.reason for fault in self.faults]
        if is_detailed:
            said["details"] = {fault.reason: dict(fault.details) for fault in self.faults}
        return said


STORE_UNAVAILABLE: Final = Health(faults=[Fault(reason="the run store does not answer")])


def health_of(config: Config, survey: Survey, moment: Moment, ringing: Ringing) -> Health:
    """What the records, the heartbeats and the scheduler of this process say."""
    return Health(
        faults=[*_heartbeat(config, survey, moment), *_scheduler(ringing, moment), *_tasks(config, survey, moment)]
    )


def _heartbeat(config: Config, survey: Survey, moment: Moment) -> Sequence[Fault]:
    if moment.alive or not any(survey.rings_for(task) for task in config.tasks.values()):
        return []
    seen = max((one.seen for one in moment.gone), default=None)
    return [Fault(reason="no process rings", details={"last_heard_of": iso(seen)})]


def _scheduler(ringing: Ringing, moment: Moment) -> Sequence[Fault]:
    faults = []
    if ringing.next_ring is not None and ringing.next_ring < moment.now - STUCK:
        faults.append(Fault(reason="the scheduler is stuck", details={"next_ring": iso(ringing.next_ring)}))
    if ringing.abandoned:
        faults.append(Fault(reason="threads were left behind", details={"threads": ringing.abandoned}))
    return faults


def _tasks(config: Config, survey: Survey, moment: Moment) -> Sequence[Fault]:
    found = {task.name: survey.overdue(task, moment) for task in config.tasks.values()}
    overdue = {name: iso(since) for name, since in found.items() if since}
    if not overdue:
        return []
    shown = dict(list(overdue.items())[:TASKS_SHOWN])
    return [Fault(reason="tasks are overdue", details={"count": len(overdue), "tasks": shown})]
