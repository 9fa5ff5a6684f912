"""One planned run, before anybody has claimed it, and what became of it."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from hashlib import sha1
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from pulse.zone import iso

QUEUE: Final = "celery queue"  # the owner of what nobody has taken from there; no host's name has a blank
_RUNS: Final = uuid5(NAMESPACE_URL, "urn:pulse:run")
_HASH: Final = sha1(_RUNS.bytes, usedforsecurity=False)
_VARIANT: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


class Trigger(Enum):
    """Why a run was due."""

    SCHEDULE = "schedule"
    CATCHUP = "catchup"
    MANUAL = "manual"
    STARTUP = "startup"
    RETRY = "retry"
    RECOVER = "recover"


class Outcome(Enum):
    """What became of a due instant; every one ends as exactly one of these."""

    SUCCESS = "success"  # answered with an expected status
    FAILED = "failed"  # another status, an exception, or a breach of WSGI
    TIMEOUT = "timeout"  # its deadline passed, whether it then stopped or was given up
    CANCELLED = "cancelled"  # was asked to stop, and did
    ABANDONED = "abandoned"  # was asked to stop, did not, and was left behind
    LOST = "lost"  # its runner died, or froze for longer than its lease
    MISSED = "missed"  # nobody ran it in time
    SKIPPED = "skipped"  # not run on purpose: the task was still running, or paused


FAILURES: Final = frozenset({Outcome.FAILED, Outcome.TIMEOUT, Outcome.ABANDONED, Outcome.LOST})  # of what was begun


@dataclass(frozen=True, kw_only=True, slots=True)
class Fire:
    """One planned run, before anyone has claimed it.

    Attributes:
        task: The name of the task.
        due: The planned instant, aware UTC.
        latest: The last instant at which a start is useful; None for no such limit.
        trigger: Why it is due. A `MANUAL` fire stands beside the schedule: it moves no
            cursor, and its `due` is the instant of the call.
        run_id: Of the run that it becomes; for a planned instant it is the same in every
            process of the fleet, and for every attempt.
        place: The host or process whose own instant this is; empty for one of the fleet.
        attempt: 1, or which further attempt of the run this is; such a one waits in the store,
            unless somebody has asked for it by hand.
        is_forced: A call by hand that observes no limits.
        is_reserved: It was claimed for a queue (`Run.is_reserved`), and is taken from there.
        is_in_turn: Its instant was missed, as were others that are all to be run: it waits for
            the end of the one before, wherever that is run, whatever the task says of overlaps.
    """

    task: str
    due: datetime
    latest: datetime | None = None
    trigger: Trigger = Trigger.SCHEDULE
    run_id: str = ""
    place: str = ""
    attempt: int = 1
    is_forced: bool = False
    is_reserved: bool = False
    is_in_turn: bool = False

    def __post_init__(self) -> None:
        if not self.run_id:
            object.__setattr__(self, "run_id", _run_id(f"{track_of(self.task, self.place)} {iso(self.due)}"))

    @property
    def track(self) -> str:
        """What has a cursor of its own in the store: the task, or the task at one place."""
        return track_of(self.task, self.place)


def track_of(task: str, place: str) -> str:
    """The name of the cursor of *task* at *place*; a task's own name has no @."""
    return f"{task}@{place}" if place else task


def _run_id(name: str) -> str:
    """`uuid5(_RUNS, name).hex`, in a third of its time: each process makes one for each of its fires."""
    known = _HASH.copy()
    known.update(name.encode())
    digits = known.hexdigest()
    return f"{digits[:12]}5{digits[13:16]}{_VARIANT[digits[16]]}{digits[17:32]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run has got, in its own words: *done* of *total*, if it knows how much there is."""

    done: float
    total: float | None = None
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One claimed fire and what became of it, or a span of instants that nobody ran.

    Attributes:
        id: `Fire.run_id`.
        task: The name of the task.
        due: The planned instant; of a span, the last one.
        trigger: Why it was due.
        attempt: 1, and one more for each time the same fire is run again.
        owner: The process that claimed it; empty for a span.
        started: When it was claimed, just before the request; None for a span.
        expires: When its lease ends unless renewed; None for a span.
        finished: When it ended; None while it runs.
        outcome: None while it runs.
        reason: Why the outcome is what it is, in a few words.
        status: The HTTP status of the answer; None if there was none.
        duration: Seconds from request to the end of the response, monotonic.
        body: The first bytes of the response.
        errors: The first bytes that were written to `wsgi.errors`, and the traceback.
        first_due: Of a span, the first instant; else None.
        count: How many instants this record stands for.
        place: `Fire.place`.
        recovers: Whether it is run again when it is lost.
        lock: The word that its task shares with others; empty for none.
        stop: Why it was asked to stop; empty if it was not.
        progress: How far it has got, if it says so.
        result: What the endpoint said of it, in `X-Pulse-Result`.
        again_at: When it is tried once more, if it is.
        request: The method and the path that were requested; empty if nothing was.
        headers: Those of the response, a line each; secrets are masked.
        log: The last lines that were logged inside the run, a bounded number.
    """

    id: str
    task: str
    due: datetime
    trigger: Trigger = Trigger.SCHEDULE
    attempt: int = 1
    owner: str = ""
    started: datetime | None = None
    expires: datetime | None = None
    finished: datetime | None = None
    outcome: Outcome | None = None
    reason: str = ""
    status: int | None = None
    duration: float | None = None
    body: bytes = b""
    errors: bytes = b""
    first_due: datetime | None = None
    count: int = 1
    place: str = ""
    recovers: bool = False
    lock: str = ""
    stop: str = ""
    progress: Progress | None = None
    result: str = ""
    again_at: datetime | None = None
    request: str = ""
    headers: str = ""
    log: bytes = b""

    def without_output(self) -> "Run":
        """The same without what it wrote, which is for whoever opens this one run."""
        return replace(self, body=b"", errors=b"", headers="", log=b"")

    @property
    def track(self) -> str:
        """`Fire.track`."""
        return track_of(self.task, self.place)

    @property
    def is_waiting(self) -> bool:
        """Whether this is a further attempt that nobody has begun; its time comes at `expires`."""
        return self.started is None and self.outcome is None

    @property
    def is_reserved(self) -> bool:
        """Whether it is claimed for a queue, and nobody has taken it from there; until `expires` somebody may."""
        return self.owner == QUEUE and self.outcome is None

    @property
    def lateness(self) -> timedelta:
        """How long after its due instant it started."""
        return (self.started or self.due) - self.due
