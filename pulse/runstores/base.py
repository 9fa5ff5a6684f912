"""The contract of a run store: the referee that gives each fire to exactly one runner.

A store keeps, for each task, a *cursor*: the last due instant that was claimed or
recorded. It only moves forward, so an instant at or before it can never be claimed again,
whatever dies. The claim is the first half of a run's record and `finish` the second;
whatever a claim passes over is recorded as missed in the same atomic step. A run is held
by a *lease* that its runner renews; a lease that ran out means that the runner is dead or
frozen, and the run is recorded as lost by whoever sees it first; on the same host a
process that has ended is seen at once (`pulse.instance`).

A store that lost what it knew must not give an instant out again. A task that it does not
know is refused, and known from then on; and a store that was emptied, restored or replaced
by another one has a later *birth*, and whatever was due before is recorded as missed.

Every method is atomic and may be called from any thread; each raises StoreUnavailableError
when the store does not answer in a few seconds. All instants are aware UTC.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

from pulse.model import Claimed, Fire, Instance, Limits, Outcome, Pause, Press, Progress, Run, Span

PRESSES: Final = 1000  # that are kept of an application: a year of a busy one, or more
PURGED_AT_ONCE: Final = 100  # tasks; their steps, and those of all others in a file, wait as long as it takes
SPENT_FOR: Final = timedelta(days=1)  # codes that ended so long before another one are forgotten
FORGET_INSTANCE_AFTER: Final = timedelta(days=1)  # a process that was not heard of so long is not shown any more
FORGET_PROCESS_AFTER: Final = timedelta(days=30)  # one that is gone, and has claimed nothing so long, has no cursors
FORGET_HOST_AFTER: Final = timedelta(days=400)  # the same; a host may come back, and some tasks run once a year
# Tracks that one start forgets. Processes that come and go leave thousands behind, and a start that forgot all of
# them would be cut short where a store answers in a few seconds, each time anew.
FORGOTTEN_AT_ONCE: Final = 10_000

Passed = Callable[[datetime], Span | None]
"""The due instants after the given cursor and before the fire that is being claimed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bid:
    """A claim that is made together with others; its fields are arguments of `RunStore.claim`."""

    fire: Fire
    passed: Passed
    limits: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What became of all due instants of a task, also of those whose records are gone.

    Attributes:
        counts: How many instants ended in each outcome.
        last_finished: When a run last ended, whatever its outcome.
        last_success: When a run last succeeded.
        timed: How many runs have begun, and have ended with a duration.
        seconds: How long these took, all together.
        seconds_late: How long after they were due these began, all together; none counts as
            less than zero. An earlier release has counted none of the three.
    """

    counts: Mapping[Outcome, int] = field(default_factory=dict)
    last_finished: datetime | None = None
    last_success: datetime | None = None
    timed: int = 0
    seconds: float = 0.0
    seconds_late: float = 0.0

    @property
    def mean_duration(self) -> float | None:
        """How many seconds a run took, on average of all that were ever timed; None if none was."""
        return self.seconds / self.timed if self.timed else None

    @property
    def mean_lateness(self) -> float | None:
        """How many seconds after it was due a run began, on the same average."""
        return self.seconds_late / self.timed if self.timed else None


class RunStore(ABC):
    """Where claims, runs, pauses and totals are kept; see the module for the rules."""

    @abstractmethod
    def register(
        self, tracks: Iterable[str], now: datetime, *, since: datetime | None = None
    ) -> Mapping[str, datetime]:
        """Make *tracks* known (`Fire.track`, mostly the names of tasks); the cursor of each.

        One that the store does not know yet begins at *now*, by its own clock if it has one:
        nothing that was due before is ever run, so a first start catches up nothing. Where it
        is to, the new ones begin at *since* instead, which lies before *now*.
        """

    @abstractmethod
    def claim(
        self, fire: Fire, *, owner: str, now: datetime, lease: timedelta, passed: Passed, limits: Limits
    ) -> Claimed:
        """Ask for the exclusive right to run *fire*.

        Args:
            fire: The planned run.
            owner: Who asks: the identity of this process.
            now: The instant of the claim, by the store's clock as far as it is known.
            lease: How long the right lasts unless it is renewed.
            passed: Tells which due instants lie between the cursor and the fire.
            limits: What is to be observed beside the schedule.

        Returns:
            `WON` with the run; `TAKEN` without a record, there is one already, or will be (of all
            that claim the same further attempt of a run by hand one makes it); `BUSY`,
            `PAUSED` or `STALE` with the record that was made instead of a run (of an attempt by
            hand it is not kept where the same one waits for its time, and will have it); `WAIT` if
            it is to be asked for again: the task is running (or another one that has its
            lock) and *limits* has it wait, perhaps after it has asked the running ones to
            stop; or it is not due yet by the clock of the store; `REFUSED` if the task is unknown:
            it is then registered from *now* on, and the fire is recorded as missed,
            because a store that forgot a task cannot know who ran what.
        """

    def claim_all(self, bids: Sequence[Bid], *, owner: str, now: datetime, lease: timedelta) -> list[Claimed]:
        """Make several claims in one go, as `claim` makes each; the answers in the same order.

        Args:
            bids: Of one task each, none with a lock: each is judged as if it came alone.
            owner: As for `claim`, as the next two.
            now: The instant of the claims.
            lease: How long the rights last unless they are renewed.
        """
        return [
            self.claim(bid.fire, owner=owner, now=now, lease=lease, passed=bid.passed, limits=bid.limits)
            for bid in bids
        ]

    @abstractmethod
    def dismiss(self, fire: Fire, *, outcome: Outcome, reason: str, now: datetime, passed: Passed) -> Claimed:
        """Record that *fire* will not be run, unless it was claimed before.

        Returns:
            `STALE` with the record, or `TAKEN` or `REFUSED` as for `claim`.
        """

    @abstractmethod
    def renew(self, runs: Iterable[Run], until: datetime) -> list[Run]:
        """Extend the leases of *runs* to *until*; those that were lost meanwhile.

        Losing a lease is no error: somebody has recorded the run as lost; its runner may
        not finish it any more.
        """

    @abstractmethod
    def finish(self, run: Run, *, again_at: datetime | None = None) -> bool:
        """Complete the record of a claimed run; False if it is not held any more.

        The store compares id and attempt: a runner that lost its lease changes nothing.

        Args:
            run: With its outcome.
            again_at: When the same run is to be tried once more, or recovered if it has not
                even begun; it waits in the store from then on, whatever becomes of this process.
        """

    def finish_all(self, runs: Sequence[Run]) -> list[bool]:
        """Complete the records of *runs*, of which none is tried once more, in one go; for each, as `finish`."""
        return [self.finish(run) for run in runs]

    @abstractmethod
    def reap(self, now: datetime) -> list[Run]:
        """Record every run whose lease ended before *now*, or whose process has, as lost; these records.

        Those that recover wait for another attempt, as long as they have had fewer than
        `RECOVERIES`: what kills each process that runs it is not tried for ever.
        """

    @abstractmethod
    def waiting(self) -> list[Run]:
        """The further attempts that nobody has begun, the earliest first; see `Run.is_waiting`."""

    @abstractmethod
    def adopt(self, run: Run, *, owner: str, now: datetime, lease: timedelta, limits: Limits) -> Run | None:
        """Begin the further attempt *run*; None if it is somebody else's, or the task is running or paused.

        Or take over what is claimed for a queue (`Run.is_reserved`), whether the task is
        paused or not; of all that try, one does.
        """

    @abstractmethod
    def ask_to_stop(self, run_id: str, reason: str) -> bool:
        """Have the process that runs *run_id* stop it (`Run.stop`); whether such a run is under way.

        The first reason stays.
        """

    @abstractmethod
    def report(self, owner: str, progress: Mapping[str, Progress]) -> Mapping[str, str]:
        """Keep how far runs of *owner* have got, by id; which of its runs are asked to stop, and why."""

    @abstractmethod
    def running(self) -> list[Run]:
        """The runs that are claimed and not finished, oldest first."""

    @abstractmethod
    def history(self, task: str, limit: int | None = None) -> list[Run]:
        """The finished records of *task*, newest first; at most *limit*.

        Instants one after the other that nobody ran, all for the same reason, share one.
        """

    @abstractmethod
    def find(self, task: str, run_id: str) -> list[Run]:
        """The finished records of one run of *task*: of its last attempt, and of those before."""

    @abstractmethod
    def totals(self, task: str) -> Totals:
        """What became of all instants of *task*, also of trimmed ones."""

    @abstractmethod
    def clear(self, task: str) -> int:
        """Forget the finished records of *task*; how many there were.

        Its totals stay: they are counters, which never go back, and without the last success
        the task would count as overdue.
        """

    # Many tasks at once; of no run what it wrote (`Run.without_output`)

    @abstractmethod
    def newest(self) -> Mapping[str, Run]:
        """The newest finished record of every task that has one."""

    @abstractmethod
    def brief(self, tasks: Iterable[str], limit: int) -> Mapping[str, list[Run]]:
        """The finished records of each of *tasks*, newest first; at most *limit* of each."""

    @abstractmethod
    def all_totals(self) -> Mapping[str, Totals]:
        """The totals of every task of which anything became."""

    @abstractmethod
    def ran(self, day: date) -> int:
        """How many runs of all tasks have ended on *day*, in UTC; of the last such day alone it is known."""

    # What people say about tasks

    @abstractmethod
    def pause(self, task: str, pause: Pause) -> None:
        """Run *task* by hand only, in the whole fleet; takes the place of an earlier pause."""

    @abstractmethod
    def resume(self, task: str) -> bool:
        """End the pause of *task*; whether there was one. What was due meanwhile stays unrun."""

    @abstractmethod
    def pauses(self) -> Mapping[str, Pause]:
        """The pauses by task, also those that have ended by themselves and were not noticed yet."""

    @abstractmethod
    def tasks(self) -> list[str]:
        """The names of all tasks of which anything is known, sorted; a pause counts."""

    @abstractmethod
    def purge(self, keep: Iterable[str]) -> list[str]:
        """Forget every task but *keep*; the names of those that were known."""

    # Who is there

    @abstractmethod
    def beat(self, instance: Instance, fingerprints: Mapping[str, str], alive: timedelta) -> Mapping[str, datetime]:
        """Note that *instance* rings, as of its `seen`.

        Args:
            instance: This process.
            fingerprints: Of its tasks by name, for `fingerprints`.
            alive: For how long after it was seen an instance counts as alive.

        Returns:
            The digests of the configurations of all instances that are alive, and when
            each of them was first seen.
        """

    @abstractmethod
    def fingerprints(self, digest: str) -> Mapping[str, str]:
        """The tasks of a configuration that was seen, and their fingerprints; empty if it was not."""

    @abstractmethod
    def leave(self, owner: str) -> None:
        """Note that *owner* rings no more."""

    @abstractmethod
    def instances(self) -> list[Instance]:
        """The instances that were seen and have not left, the last seen first."""

    # What the status page needs

    @abstractmethod
    def keep_press(self, press: Press) -> None:
        """Keep what somebody did, for `presses`; of very many the oldest are forgotten."""

    @abstractmethod
    def presses(self, limit: int = PRESSES) -> list[Press]:
        """What people did in the whole fleet, newest first; at most *limit*."""

    @abstractmethod
    def secret(self) -> str:
        """A random secret of the application, made when it is first asked for; the same in every process."""

    @abstractmethod
    def spend(self, code: str, until: datetime) -> bool:
        """Whether *code* is spent now for the first time; that is remembered until *until*."""

    # The store itself

    def now(self) -> datetime | None:
        """The store's own clock; None if it is that of this host."""
        return None

    def reach(self) -> None:
        """Ask whether the store can be used; nothing is made in it, not even what is missing.

        Raises:
            StoreUnavailableError: it cannot.
        """
        self.now()

    @abstractmethod
    def after_fork(self) -> None:
        """In a forked child: use nothing that the parent has open or locked; never blocks."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what the store holds open; idempotent."""
