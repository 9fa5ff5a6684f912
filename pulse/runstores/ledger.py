"""The rules of claims and leases, written once over a few primitives.

A backend that can hold a lock or a transaction (memory, SQLite, PostgreSQL) says how it
keeps cursors, held runs and records; what may be claimed, and what is recorded when, is
decided here.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta

from pulse.instance import is_gone
from pulse.model import Claim, Claimed, Fire, Outcome, Run, Trigger
from pulse.runstores.base import Passed, RunStore


class LedgerStore(RunStore):
    """A `RunStore` over the primitives below, which are only called within `_step`."""

    def register(self, tasks: Iterable[str], now: datetime) -> Mapping[str, datetime]:
        """See `RunStore.register`."""
        with self._step():
            return {task: self._known(task, now) for task in tasks}

    def claim(
        self, fire: Fire, *, owner: str, now: datetime, lease: timedelta, passed: Passed, limit: int | None = 1
    ) -> Claimed:
        """See `RunStore.claim`."""
        with self._step():
            answer = self._judge(fire)
            if answer is not Claim.WON:
                return self._refused(fire, answer, now)
            if fire.latest and now > fire.latest:
                return self._dismiss(fire, Claim.STALE, Outcome.MISSED, _late(fire, now), now, passed)
            held = self._held(fire.task)
            lost = tuple(self._reap(held, now))
            if limit is not None and len(held) - len(lost) >= limit:
                busy = self._dismiss(fire, Claim.BUSY, Outcome.SKIPPED, "the task is still running", now, passed)
                return replace(busy, lost=lost)
            missed = self._pass_over(fire, now, passed)
            run = Run(
                id=fire.run_id,
                task=fire.task,
                due=fire.due,
                trigger=fire.trigger,
                owner=owner,
                started=now,
                expires=now + lease,
            )
            self._hold(run)
            return Claimed(answer=Claim.WON, run=run, missed=missed, lost=lost)

    def dismiss(self, fire: Fire, *, outcome: Outcome, reason: str, now: datetime, passed: Passed) -> Claimed:
        """See `RunStore.dismiss`."""
        with self._step():
            answer = self._judge(fire)
            if answer is not Claim.WON:
                return self._refused(fire, answer, now)
            return self._dismiss(fire, Claim.STALE, outcome, reason, now, passed)

    def renew(self, runs: Iterable[Run], until: datetime) -> list[Run]:
        """See `RunStore.renew`."""
        lost = []
        with self._step():
            for run in runs:
                held = self._find(run)
                if held:
                    self._hold(replace(held, expires=until))
                else:
                    lost.append(run)
        return lost

    def finish(self, run: Run) -> bool:
        """See `RunStore.finish`."""
        with self._step():
            if not self._find(run):
                return False
            self._release(run)
            self._append(run)
            return True

    def reap(self, now: datetime) -> list[Run]:
        """See `RunStore.reap`."""
        with self._step():
            return self._reap(self._held(None), now)

    def running(self) -> list[Run]:
        """See `RunStore.running`."""
        with self._step():
            return sorted(self._held(None), key=lambda run: run.started or run.due)

    # What a backend provides

    @abstractmethod
    def _step(self) -> AbstractContextManager[object]:
        """One atomic step: all of it happens, or nothing, and no other step in between."""

    @abstractmethod
    def _cursor(self, task: str) -> datetime | None:
        """The cursor of *task*; None if it is not known."""

    @abstractmethod
    def _move_cursor(self, task: str, to: datetime) -> None:
        """Set the cursor, making the task known if it is not."""

    @abstractmethod
    def _held(self, task: str | None) -> list[Run]:
        """The claimed and unfinished runs of *task*, or of all."""

    @abstractmethod
    def _find(self, run: Run) -> Run | None:
        """The held run with the id and the attempt of *run*, as the store has it."""

    @abstractmethod
    def _hold(self, run: Run) -> None:
        """Keep *run* as held, in place of what is held under its id."""

    @abstractmethod
    def _release(self, run: Run) -> None:
        """Hold the run with this id no more."""

    @abstractmethod
    def _append(self, run: Run) -> None:
        """Add a finished record to the history and to the totals, and trim the history."""

    # The rules

    def _known(self, task: str, now: datetime) -> datetime:
        cursor = self._cursor(task)
        if cursor is None:
            cursor = now
            self._move_cursor(task, cursor)
        return cursor

    def _judge(self, fire: Fire) -> Claim:
        """Whether *fire* can be had at all: `WON`, `TAKEN` or `REFUSED`."""
        cursor = self._cursor(fire.task)
        if cursor is None:
            return Claim.REFUSED
        # A call by hand stands beside the schedule.
        return Claim.TAKEN if fire.due <= cursor and fire.trigger is not Trigger.MANUAL else Claim.WON

    def _refused(self, fire: Fire, answer: Claim, now: datetime) -> Claimed:
        if answer is Claim.TAKEN:
            return Claimed(answer=answer)
        self._known(fire.task, now)
        record = _unclaimed(fire, Outcome.MISSED, "the run store did not know the task", now)
        self._append(record)
        return Claimed(answer=answer, run=record)

    def _dismiss(
        self, fire: Fire, answer: Claim, outcome: Outcome, reason: str, now: datetime, passed: Passed
    ) -> Claimed:
        missed = self._pass_over(fire, now, passed)
        record = _unclaimed(fire, outcome, reason, now)
        self._append(record)
        return Claimed(answer=answer, run=record, missed=missed)

    def _pass_over(self, fire: Fire, now: datetime, passed: Passed) -> Run | None:
        """Move the cursor to *fire*; the record of what lies between, if anything does."""
        cursor = self._cursor(fire.task)
        if cursor is None or fire.trigger is Trigger.MANUAL:
            return None
        span = passed(cursor)
        self._move_cursor(fire.task, fire.due)
        if span is None:
            return None
        first = Fire(task=fire.task, due=span.first)
        record = replace(
            _unclaimed(first, Outcome.MISSED, "nobody ran it before the next one was due", now),
            due=span.last,
            first_due=span.first,
            count=span.count,
        )
        self._append(record)
        return record

    def _reap(self, held: Iterable[Run], now: datetime) -> list[Run]:
        """Record those of *held* whose lease has ended, or whose process has, as lost."""
        lost = [
            replace(run, finished=now, outcome=Outcome.LOST, reason=reason)
            for run in held
            if (reason := _why_lost(run, now))
        ]
        for run in lost:
            self._release(run)
            self._append(run)
        return lost


def _why_lost(run: Run, now: datetime) -> str:
    if run.expires and run.expires < now:
        return "its lease was not renewed"
    return "its process has ended" if is_gone(run.owner) else ""


def _late(fire: Fire, now: datetime) -> str:
    return f"{(now - fire.due).total_seconds():.1f} s late, later than its grace allows"


def _unclaimed(fire: Fire, outcome: Outcome, reason: str, now: datetime) -> Run:
    """A finished record of a fire that nobody ran."""
    return Run(
        id=fire.run_id,
        task=fire.task,
        due=fire.due,
        trigger=fire.trigger,
        finished=now,
        outcome=outcome,
        reason=reason,
    )
