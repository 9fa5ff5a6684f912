"""The contract of a run store: the referee that gives each fire to exactly one runner.

A store keeps, for each task, a *cursor*: the last due instant that was claimed or
recorded. It only moves forward, so an instant at or before it can never be claimed again,
whatever dies. The claim is the first half of a run's record and `finish` the second;
whatever a claim passes over is recorded as missed in the same atomic step. A run is held
by a *lease* that its runner renews; a lease that ran out means that the runner is dead or
frozen, and the run is recorded as lost by whoever sees it first; on the same host a
process that has ended is seen at once (`pulse.instance`).

Every method is atomic and may be called from any thread. All instants are aware UTC.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pulse.model import Claimed, Fire, Outcome, Run, Span

Passed = Callable[[datetime], Span | None]
"""The due instants after the given cursor and before the fire that is being claimed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What became of all due instants of a task, also of those whose records are gone.

    Attributes:
        counts: How many instants ended in each outcome.
        last_finished: When a run last ended, whatever its outcome.
        last_success: When a run last succeeded.
    """

    counts: Mapping[Outcome, int] = field(default_factory=dict)
    last_finished: datetime | None = None
    last_success: datetime | None = None


class RunStore(ABC):
    """Where claims, runs and totals are kept; see the module for the rules."""

    @abstractmethod
    def register(self, tasks: Iterable[str], now: datetime) -> Mapping[str, datetime]:
        """Make *tasks* known, and return the cursor of each.

        A task that the store does not know yet begins at *now*: nothing that was due
        before is ever run, so a first start catches up nothing.
        """

    @abstractmethod
    def claim(
        self, fire: Fire, *, owner: str, now: datetime, lease: timedelta, passed: Passed, limit: int | None = 1
    ) -> Claimed:
        """Ask for the exclusive right to run *fire*.

        Args:
            fire: The planned run.
            owner: Who asks: the identity of this process.
            now: The instant of the claim.
            lease: How long the right lasts unless it is renewed.
            passed: Tells which due instants lie between the cursor and the fire.
            limit: How many runs of the task may be under way at once; None for any.

        Returns:
            `WON` with the run; `TAKEN` without a record, there is one already; `BUSY` or
            `STALE` with the record that was made instead of a run; `REFUSED` if the task
            is unknown: it is then registered from *now* on, and the fire is recorded as
            missed, because a store that forgot a task cannot know who ran what.
        """

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
    def finish(self, run: Run) -> bool:
        """Complete the record of a claimed run; False if it is not held any more.

        The store compares id and attempt: a runner that lost its lease changes nothing.
        """

    @abstractmethod
    def reap(self, now: datetime) -> list[Run]:
        """Record every run whose lease ended before *now*, or whose process has, as lost; these records."""

    @abstractmethod
    def running(self) -> list[Run]:
        """The runs that are claimed and not finished, oldest first."""

    @abstractmethod
    def history(self, task: str, limit: int | None = None) -> list[Run]:
        """The finished records of *task*, newest first; at most *limit*."""

    @abstractmethod
    def totals(self, task: str) -> Totals:
        """What became of all instants of *task*, also of trimmed ones."""

    @abstractmethod
    def after_fork(self) -> None:
        """In a forked child: use nothing that the parent has open or locked; never blocks."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what the store holds open; idempotent."""
