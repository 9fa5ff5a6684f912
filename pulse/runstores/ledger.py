"""The rules of claims and leases, written once over a few primitives.

A backend that can hold a lock or a transaction (memory, SQLite, PostgreSQL) says how it
keeps cursors, held runs and records; what may be claimed, and what is recorded when, is
decided here.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Final

from pulse.errors import StoreUnavailableError
from pulse.instance import is_gone
from pulse.model import QUEUE, Claim, Claimed, Fire, Limits, Outcome, Pause, Progress, Run, Trigger
from pulse.runstores.base import Bid, Passed, RunStore
from pulse.runstores.legible import UnreadableError

RECOVERIES: Final = 3  # attempts of a run that is lost each time; see `RunStore.reap`
# Lost runs in one step: of a process that held a thousand all at once would take a server longer than it is given,
# each time anew, and everybody else would wait for it.
REAPED_AT_ONCE: Final = 50

FORGOTTEN: Final = "the run store did not know the task"
REBORN: Final = "it was due before the run store lost what it knew"
RUNNING: Final = "the task is still running"
REPLACED: Final = "the next run takes its place"
NOT_RENEWED: Final = "its lease was not renewed"
NOT_TAKEN: Final = "no Celery worker took it in time"
PASSED_OVER: Final = "nobody ran it before the next one was due"

_DISMISSED: Final = frozenset({Claim.STALE, Claim.PAUSED, Claim.BUSY})  # there is a record of it


# Each claim makes one of these two. They live no longer, and to freeze them would cost it more than all its rules.
@dataclass(slots=True)
class Standing:
    """What a store knows of a track: how far it has got, whether its task is paused, and has runs that are held."""

    cursor: datetime
    pause: Pause | None = None
    is_held: bool = False


@dataclass(slots=True)
class _Case:
    """A fire that is judged now, and what is known of its track."""

    fire: Fire
    track: str
    now: datetime
    passed: Passed
    standing: Standing


class LedgerStore(RunStore):
    """A `RunStore` over the primitives below, which are only called within `_step`."""

    def claim(
        self, fire: Fire, *, owner: str, now: datetime, lease: timedelta, passed: Passed, limits: Limits
    ) -> Claimed:
        """See `RunStore.claim`."""
        bid = Bid(fire=fire, passed=passed, limits=limits)
        lost: list[Run] = []
        while isinstance(claimed := self._claim_once(bid, owner, now, lease), Run):
            # A step of its own task: one that took the locks of both could wait for another that waits for it.
            lost += self._reap_held([claimed], now)
        return replace(claimed, lost=(*lost, *claimed.lost)) if lost else claimed

    def _claim_once(self, bid: Bid, owner: str, now: datetime, lease: timedelta) -> Claimed | Run:
        """As `_claim`, in a step, with its answer kept."""
        fire = bid.fire
        with self._step(fire.task, *_locks(bid.limits)):
            standing = self._standing(fire.track, fire.task)
            claimed = self._claim(bid, owner, now, lease, standing)
            if isinstance(claimed, Claimed):
                self._keep([(fire, claimed, standing)])
            return claimed

    def claim_all(self, bids: Sequence[Bid], *, owner: str, now: datetime, lease: timedelta) -> list[Claimed]:
        """See `RunStore.claim_all`; all of it happens, or nothing."""
        if not bids:
            return []
        with self._step(*(bid.fire.task for bid in bids)):
            standings = self._standings([bid.fire for bid in bids])
            judged = [self._claim_among(bid, owner, now, lease, standings.get(bid.fire.track)) for bid in bids]
            answers = [one for one in judged if isinstance(one, Claimed)]  # all: none has a lock
            fires = [bid.fire for bid in bids]
            self._keep([(*one, standings.get(one[0].track)) for one in zip(fires, answers, strict=True)])
            return answers

    def _claim_among(
        self, bid: Bid, owner: str, now: datetime, lease: timedelta, standing: Standing | None
    ) -> Claimed | Run:
        """As `_claim`; what cannot be judged is to be asked for again, alone, and keeps the others from nothing."""
        try:
            return self._claim(bid, owner, now, lease, standing)
        except UnreadableError:
            return Claimed(answer=Claim.WAIT)

    def dismiss(self, fire: Fire, *, outcome: Outcome, reason: str, now: datetime, passed: Passed) -> Claimed:
        """See `RunStore.dismiss`."""
        with self._step(fire.task):
            now = self._judged_at(now)
            standing = self._standing(fire.track, fire.task)
            case = self._judge(fire, now, passed, standing)
            claimed = case if isinstance(case, Claimed) else self._dismissed(case, Claim.STALE, outcome, reason)
            self._keep([(fire, claimed, standing)])
            return claimed

    def renew(self, runs: Iterable[Run], until: datetime) -> list[Run]:
        """See `RunStore.renew`."""
        runs, lost = list(runs), []
        if not runs:
            return []
        with self._step(*(run.task for run in runs)):
            for run in runs:
                held = self._find(run)
                if held:
                    self._hold(replace(held, expires=until))
                else:
                    lost.append(run)
        return lost

    def finish_all(self, runs: Sequence[Run]) -> list[bool]:
        """See `RunStore.finish_all`; all of it happens, or nothing."""
        if not runs:
            return []
        with self._step(*(run.task for run in runs)):
            return self._finish_all(runs)

    def finish(self, run: Run, *, again_at: datetime | None = None) -> bool:
        """See `RunStore.finish`."""
        with self._step(run.task):
            is_ours = self._finish(run)
            if is_ours and again_at is not None:
                self._hold(another_attempt(run, again_by(run), again_at))
            return is_ours

    def reap(self, now: datetime) -> list[Run]:
        """See `RunStore.reap`."""
        with self._step():
            now = self._judged_at(now)
            held = self._held(None)
        # Behind the step: processes are looked at, and nobody has to wait for that.
        suspects = [run for run, _ in losses(held, now)]
        lost: list[Run] = []
        for begin in range(0, len(suspects), REAPED_AT_ONCE):
            some = suspects[begin : begin + REAPED_AT_ONCE]
            try:
                lost += self._reap_held(some, now)
            except StoreUnavailableError:
                if not lost:
                    raise
                break  # what is recorded has to be told; the rest is found by the next look
        return lost

    def waiting(self) -> list[Run]:
        """See `RunStore.waiting`."""
        with self._step():
            return sorted((run for run in self._held(None) if run.is_waiting), key=lambda run: run.expires or run.due)

    def adopt(self, run: Run, *, owner: str, now: datetime, lease: timedelta, limits: Limits) -> Run | None:
        """See `RunStore.adopt`."""
        with self._step(run.task, *_locks(limits)):
            now = self._judged_at(now)
            standing = self._standing(run.track, run.task)
            held = self._find(run)
            is_taken_over = held is not None and held.is_reserved and owner != QUEUE
            if held is None or not (held.is_waiting or is_taken_over) or standing is None:
                return None
            born = self._born()
            if born is not None and held.due <= born:  # another one may have begun it before
                self._release(held)
                again = Fire(
                    task=held.task, due=held.due, trigger=held.trigger, run_id=held.id, place=held.place,
                    attempt=held.attempt,
                )  # fmt: skip
                self._append(unclaimed(again, Outcome.MISSED, REBORN, now))
                return None
            if held.is_waiting and standing.pause and standing.pause.holds(now):
                return None
            running = [one for one in self._held(run.track) if one.started]
            if _why_busy(running, limits, self._holder_for(limits)):
                return None
            # What was claimed for a queue keeps the lock that it has: whoever takes it over asks for none.
            lock = limits.lock if held.is_waiting else held.lock
            begun = replace(held, owner=owner, started=now, expires=now + lease, lock=lock)
            self._hold(begun)
            return begun

    def ask_to_stop(self, run_id: str, reason: str) -> bool:
        """See `RunStore.ask_to_stop`."""
        with self._step():
            tasks = {run.task for run in self._named(run_id) if run.started}
        with self._step(*tasks):
            found = [run for run in self._named(run_id) if run.started]
            for run in found:
                self._hold(replace(run, stop=run.stop or reason))
        return bool(found)

    def report(self, owner: str, progress: Mapping[str, Progress]) -> Mapping[str, str]:
        """See `RunStore.report`."""
        if progress:
            with self._step():
                tasks = {run.task for run in self._held_by(owner) if run.id in progress}
            with self._step(*tasks):
                for run in self._held_by(owner):
                    if run.id in progress:
                        self._hold(replace(run, progress=progress[run.id]))
        with self._step():
            return self._stops(owner)

    def running(self) -> list[Run]:
        """See `RunStore.running`."""
        with self._step():
            return sorted((run for run in self._held(None) if run.started), key=lambda run: run.started or run.due)

    # What a backend provides

    @abstractmethod
    def _step(self, *tasks: str) -> AbstractContextManager[object]:
        """One atomic step: all of it happens, or nothing, and no other step of *tasks* in between.

        Without tasks it only reads, or makes tracks known.
        """

    @abstractmethod
    def _standing(self, track: str, task: str) -> Standing | None:
        """What is known of *track*, and of its *task*; None if it is not known.

        That runs are held may be said too often: only that there are none saves a look.
        """

    @abstractmethod
    def _born(self) -> datetime | None:
        """The birth of what the store knows; None if that never was another."""

    @abstractmethod
    def _move_cursor(self, track: str, to: datetime) -> None:
        """Move the cursor forward, and never back, making the track known if it is not."""

    @abstractmethod
    def _held(self, track: str | None) -> list[Run]:
        """The claimed and unfinished runs of *track*, and those that wait; or of all, without what cannot be read."""

    @abstractmethod
    def _held_by(self, owner: str) -> list[Run]:
        """The claimed and unfinished runs of *owner*."""

    @abstractmethod
    def _named(self, run_id: str) -> list[Run]:
        """What is held with that id, one run at the most; of an unknown one nothing."""

    @abstractmethod
    def _holder(self, lock: str) -> Run | None:
        """A run that is under way and has *lock*."""

    @abstractmethod
    def _stops(self, owner: str) -> Mapping[str, str]:
        """The held runs of *owner* that are asked to stop, by id, and why."""

    @abstractmethod
    def _find(self, run: Run) -> Run | None:
        """The held run with the id and the attempt of *run*, as the store has it."""

    @abstractmethod
    def _hold(self, run: Run) -> None:
        """Keep *run* as held, in place of what is held under its id."""

    @abstractmethod
    def _release(self, run: Run) -> bool:
        """Hold the run with the id and the attempt of *run* no more; whether it was held."""

    @abstractmethod
    def _append(self, run: Run) -> None:
        """Add a finished record to the history and to the totals, and trim the history."""

    @abstractmethod
    def _newest_of(self, tasks: Sequence[str]) -> Mapping[str, Run]:
        """The records that were appended last, by task; what the runs wrote may be left out."""

    @abstractmethod
    def _last_attempt(self, task: str, run_id: str) -> int:
        """The highest attempt of a run of *task* that is on record; 0 if there is none."""

    @abstractmethod
    def _extend(self, newest: Run, record: Run) -> None:
        """Put *newest* in place of the record that was appended last, and add *record* to the totals."""

    # What a backend may do for several tasks at once

    def _standings(self, fires: Sequence[Fire]) -> Mapping[str, Standing]:
        """What is known of the tracks of *fires*, each of another task, by track."""
        found = {fire.track: self._standing(fire.track, fire.task) for fire in fires}
        return {track: standing for track, standing in found.items() if standing is not None}

    def _move_all(self, fires: Sequence[Fire]) -> None:
        """Have the instants of *fires* behind the cursors of their tracks."""
        for fire in fires:
            self._move_cursor(fire.track, fire.due)

    def _win_all(self, runs: Sequence[Run]) -> None:
        """Hold *runs*, which are claimed now, and have their instants behind the cursors of their tracks."""
        for run in runs:
            if run.trigger is not Trigger.MANUAL:
                self._move_cursor(run.track, run.due)
            self._hold(run)

    def _append_all(self, runs: Sequence[Run]) -> None:
        """As `_append` for each of *runs*, which are of one task each."""
        for run in runs:
            self._append(run)

    def _finish_all(self, runs: Sequence[Run]) -> list[bool]:
        """Put a record in the place of each of *runs* that is held; for each, whether it was."""
        return [self._finish(run) for run in runs]

    # What a backend with a clock of its own changes

    def _judged_at(self, now: datetime) -> datetime:
        """The instant that counts in this step, for which the caller has *now*."""
        return now

    def _is_early(self, fire: Fire, now: datetime) -> bool:  # noqa: ARG002 - for the backends
        """Whether *fire* is not due yet by the clock of the store."""
        return False

    # The rules

    def _claim(self, bid: Bid, owner: str, now: datetime, lease: timedelta, standing: Standing | None) -> Claimed | Run:
        """The answer to *bid*, which the caller has to `_keep`.

        Or, with nothing changed, the lost run that has the lock: it is to be recorded first.
        """
        fire, limits, now = bid.fire, bid.limits, self._judged_at(now)
        if self._is_early(fire, now):
            return Claimed(answer=Claim.WAIT)
        case = self._judge(fire, now, bid.passed, standing)
        if isinstance(case, Claimed):
            return case
        if fire.latest and now > fire.latest:
            return self._dismissed(case, Claim.STALE, Outcome.MISSED, _late(fire, now))
        lost: tuple[Run, ...] = ()
        if case.standing.is_held or limits.lock or fire.attempt > 1:
            holder = self._holder_for(limits)
            if holder and why_lost(holder, now):
                return holder
            reason, lost = self._make_way(case, limits, holder)
            if reason:
                return replace(self._busy(case, limits, reason), lost=lost)
        missed = self._passed_over(case)
        return Claimed(answer=Claim.WON, run=won(fire, owner, now, lease, limits), missed=missed, lost=lost)

    def _holder_for(self, limits: Limits) -> Run | None:
        """The run that has the lock which *limits* ask for, if they do."""
        return self._holder(limits.lock) if limits.lock else None

    def _make_way(self, case: "_Case", limits: Limits, holder: Run | None) -> tuple[str, tuple[Run, ...]]:
        """Why the fire may not be run beside what is held, empty if it may; and the records of what was lost."""
        fire = case.fire
        held = self._beside(case)
        lost = tuple(self._reap(held, case.now))
        if lost:
            held = self._beside(case)
        # A lost run that recovers goes first: behind the next instant it would be out of order.
        # A call by hand stands beside that: a task that is paused or disabled recovers nothing.
        goes_first = fire.trigger is not Trigger.MANUAL
        running = [run for run in held if run.started or (goes_first and run.trigger is Trigger.RECOVER)]
        reason = _why_busy(running, limits, holder)
        if any(run.started and run.id == fire.run_id for run in held):
            reason = RUNNING  # two attempts of one run are never under way, whatever the limits
        if not reason:
            self._drop_waiting(held, fire)
        return reason, lost

    def _beside(self, case: "_Case") -> list[Run]:
        """What is held of its track and, at whatever place, of the run of which it is another attempt."""
        held = self._held(case.track)
        if case.fire.attempt > 1:
            held += [run for run in self._named(case.fire.run_id) if run.track != case.track]
        return held

    def _finish(self, run: Run) -> bool:
        if not self._release(run):
            return False
        self._append(run)
        return True

    def _known(self, track: str, now: datetime) -> datetime:
        task = track.partition("@")[0]
        standing = self._standing(track, task)
        if standing is not None:
            return standing.cursor
        self._move_cursor(track, now)
        standing = self._standing(track, task)  # another process may have made it known meanwhile
        return standing.cursor if standing else now

    def _judge(self, fire: Fire, now: datetime, passed: Passed, standing: Standing | None) -> "Claimed | _Case":
        """The answer to whoever cannot have *fire* at all; or the case, if it is to be had."""
        if standing is None:
            return self._refuse(fire, now)
        case = _Case(fire, fire.track, now, passed, standing)
        if fire.trigger is Trigger.MANUAL:  # a call by hand stands beside the schedule
            return Claimed(answer=Claim.TAKEN) if fire.attempt > 1 and self._is_made(fire) else case
        if fire.due <= standing.cursor:
            return Claimed(answer=Claim.TAKEN)
        born = self._born()
        if born is not None and fire.due <= born:
            return self._dismissed(case, Claim.STALE, Outcome.MISSED, REBORN)
        if standing.pause and standing.pause.holds(now):
            return self._dismissed(case, Claim.PAUSED, Outcome.SKIPPED, standing.pause.reason)
        return case

    def _is_made(self, fire: Fire) -> bool:
        """Whether the further attempt that *fire* is has begun, or has a record: then nobody makes it again."""
        later = any(run.attempt >= fire.attempt + run.is_waiting for run in self._named(fire.run_id))
        return later or self._last_attempt(fire.task, fire.run_id) >= fire.attempt

    def _waits(self, fire: Fire) -> bool:
        """Whether the attempt that *fire* is waits to be made without anybody's hand: its record is still to come."""
        return fire.attempt > 1 and any(run.attempt == fire.attempt for run in self._named(fire.run_id))

    def _refuse(self, fire: Fire, now: datetime) -> Claimed:
        self._known(fire.track, max(now, fire.due))
        record = unclaimed(fire, Outcome.MISSED, FORGOTTEN, now)
        self._append(record)
        return Claimed(answer=Claim.REFUSED, run=record)

    def _busy(self, case: "_Case", limits: Limits, reason: str) -> Claimed:
        if case.fire.trigger is Trigger.MANUAL or not limits.waits:
            return self._dismissed(case, Claim.BUSY, Outcome.SKIPPED, reason)
        if limits.replaces:
            for run in self._held(case.track):
                if run.started and not run.stop:
                    self._hold(replace(run, stop=REPLACED))
        return Claimed(answer=Claim.WAIT)

    def _dismissed(self, case: "_Case", answer: Claim, outcome: Outcome, reason: str) -> Claimed:
        record = unclaimed(case.fire, outcome, reason, case.now)
        return Claimed(answer=answer, run=record, missed=self._passed_over(case))

    def _passed_over(self, case: "_Case") -> Run | None:
        """The record of what lies between the cursor and the fire, if anything does."""
        fire = case.fire
        span = None if fire.trigger is Trigger.MANUAL else case.passed(case.standing.cursor)
        if span is None:
            return None
        born = self._born()
        reason = REBORN if born is not None and span.last <= born else PASSED_OVER
        first = unclaimed(Fire(task=fire.task, due=span.first, place=fire.place), Outcome.MISSED, reason, case.now)
        return replace(first, due=span.last, first_due=span.first, count=span.count)

    def _keep(self, answers: Sequence[tuple[Fire, Claimed, Standing | None]]) -> None:
        """Hold what is won, and put on record what nobody runs; of tracks that stand as is said.

        At the end of a step, since much of it costs a backend no more for several tasks than for one.
        """
        moved: list[Fire] = []
        notes: list[tuple[Run, datetime]] = []
        for fire, claimed, standing in answers:
            if standing is None:  # it is refused, and that is on record
                continue
            cursor = standing.cursor
            if claimed.missed:
                notes.append((claimed.missed, cursor))
                cursor = claimed.missed.due
            if claimed.answer in _DISMISSED and claimed.run:
                moved += [fire] if fire.trigger is not Trigger.MANUAL else []
                notes += [(claimed.run, cursor)] if not self._waits(fire) else []
        self._move_all(moved)
        self._note_all(notes)
        self._win_all([one.run for _, one, _ in answers if one.answer is Claim.WON and one.run])

    def _note_all(self, notes: Sequence[tuple[Run, datetime]]) -> None:
        """Keep records of instants that nobody ran, each with the cursor, which is the last one before them.

        A task that is paused for a day, or that hangs, would otherwise push the records of
        all its runs out of a history that is bounded.
        """
        while notes:  # those of one task one behind the other
            first: dict[str, tuple[Run, datetime]] = {}
            for note in notes:
                first.setdefault(note[0].task, note)
            self._note_each(list(first.values()))
            notes = [note for note in notes if note is not first[note[0].task]]

    def _note_each(self, notes: Sequence[tuple[Run, datetime]]) -> None:
        """As `_note_all`; each is of another task."""
        newest, new = self._newest_of([record.task for record, _ in notes]), []
        for record, cursor in notes:
            last = newest.get(record.task)
            if last is not None and is_continued_by(last, record, cursor):
                self._extend(joined(last, record), record)
            else:
                new.append(record)
        self._append_all(new)

    def _reap_held(self, suspects: Sequence[Run], now: datetime) -> list[Run]:
        """Record those of *suspects* that are still held, and lost; in a step of their tasks."""
        with self._step(*(run.task for run in suspects)):
            held = [one for run in suspects if (one := self._find(run))]
            return self._reap(held, self._judged_at(now))

    def _reap(self, held: Iterable[Run], now: datetime) -> list[Run]:
        """Record those of *held* whose lease has ended, or whose process has, as lost."""
        lost = [ended_without_a_word(run, now, reason) for run, reason in losses(held, now)]
        for run in lost:
            self._release(run)
            self._append(run)
            if run.recovers and run.attempt < RECOVERIES:
                self._hold(another_attempt(run, Trigger.RECOVER, now))
        return lost

    def _drop_waiting(self, held: Iterable[Run], fire: Fire) -> None:
        """Drop the retries that have not begun by the next instant, and the attempt in whose place *fire* is made.

        The failure before is on record.
        """
        for run in held:
            if run.is_waiting and (run.trigger is Trigger.RETRY or run.id == fire.run_id):
                self._release(run)


def won(fire: Fire, owner: str, now: datetime, lease: timedelta, limits: Limits) -> Run:
    """The run that *fire* becomes when it is claimed."""
    return Run(
        id=fire.run_id,
        task=fire.task,
        due=fire.due,
        trigger=fire.trigger,
        attempt=fire.attempt,
        owner=owner,
        started=now,
        expires=now + lease,
        place=fire.place,
        recovers=limits.recovers,
        lock=limits.lock,
    )


def another_attempt(run: Run, trigger: Trigger, at: datetime) -> Run:
    """The next attempt of *run*, which waits until *at* for somebody to begin it."""
    return Run(
        id=run.id,
        task=run.task,
        due=run.due,
        trigger=trigger,
        attempt=run.attempt + 1,
        expires=at,
        place=run.place,
        recovers=run.recovers,
        lock=run.lock,
    )


def again_by(run: Run) -> Trigger:
    """What another attempt of the ended *run* is: what has not even begun is not tried again, but made up for."""
    return Trigger.RETRY if run.started else Trigger.RECOVER


def ended_without_a_word(run: Run, now: datetime, reason: str) -> Run:
    """The record of a run whose lease has ended: lost, or missed if nobody has ever begun it."""
    if run.is_reserved:
        return replace(run, started=None, finished=now, outcome=Outcome.MISSED, reason=reason)
    return replace(run, finished=now, outcome=Outcome.LOST, reason=reason)


def unclaimed(fire: Fire, outcome: Outcome, reason: str, now: datetime) -> Run:
    """A finished record of a fire that nobody ran."""
    return Run(
        id=fire.run_id,
        task=fire.task,
        due=fire.due,
        trigger=fire.trigger,
        attempt=fire.attempt,
        finished=now,
        outcome=outcome,
        reason=reason,
        place=fire.place,
    )


def is_continued_by(newest: Run, record: Run, cursor: datetime) -> bool:
    """Whether *record* says of the instants behind *cursor* what *newest* says of the ones up to it."""
    said = (newest.outcome, newest.reason, newest.trigger, newest.place)
    return (
        newest.started is None
        and said == (record.outcome, record.reason, record.trigger, record.place)
        and record.trigger is not Trigger.MANUAL
        and newest.due == cursor  # else an instant between them was claimed, and its run has not ended
    )


def joined(newest: Run, record: Run) -> Run:
    """One record for both."""
    return replace(
        newest,
        first_due=newest.first_due or newest.due,
        due=record.due,
        finished=record.finished,
        count=newest.count + record.count,
    )


def timing(run: Run) -> tuple[int, float, float]:
    """What *run* adds to `Totals.timed`, `seconds` and `seconds_late`.

    Never less than nothing: a fire may be claimed a little before its instant, and sums that
    go back look to whoever watches them as if they had begun anew.
    """
    if run.started is None or run.duration is None:
        return 0, 0.0, 0.0
    late = (run.started - run.due).total_seconds()
    # Each run pays for this, and `max` would take as long again as all the rest.
    return 1, run.duration if run.duration > 0.0 else 0.0, late if late > 0.0 else 0.0  # noqa: FURB136 - see above


def losses(held: Iterable[Run], now: datetime) -> list[tuple[Run, str]]:
    """Those of *held* that are lost, and why: a process is looked at once, however many runs it has."""
    has_ended = cache(is_gone)
    return [(run, reason) for run in held if run.started and (reason := why_lost(run, now, has_ended))]


def why_lost(run: Run, now: datetime, has_ended: Callable[[str], bool] = is_gone) -> str:
    """Why the runner of *run* is dead or frozen; empty if it may be alive."""
    if run.expires and run.expires < now:
        return NOT_TAKEN if run.is_reserved else NOT_RENEWED
    return "its process has ended" if has_ended(run.owner) else ""


def _locks(limits: Limits) -> tuple[str, ...]:
    """What a step has to keep others from, beside its task; no task has such a name."""
    return (f"lock:{limits.lock}",) if limits.lock else ()


def _why_busy(running: Sequence[Run], limits: Limits, holder: Run | None) -> str:
    """Why another run may not begin beside those that are *running*, and the *holder* of its lock; empty if it may."""
    if limits.instances is not None and len(running) >= limits.instances:
        return RUNNING
    return f"{holder.task} is running, and has the lock {limits.lock!r}, too" if holder else ""


def _late(fire: Fire, now: datetime) -> str:
    return f"{(now - fire.due).total_seconds():.1f} s late, later than its grace allows"
