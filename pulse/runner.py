"""The heart: one fire from claim to record.

    claim -> dispatch -> finish

Read `Runner.run` and you know what Pulse does. Whoever executes it, a thread, a process or
a loop, only decides where the request runs.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from pulse.aftermath import Aftermath
from pulse.clock import Clock
from pulse.control import Control
from pulse.dispatch import Dispatch, Reply
from pulse.errors import StoreUnavailableError
from pulse.fleet import Fleet
from pulse.instance import short, this_place
from pulse.model import Claim, Claimed, Fire, Limits, Outcome, Pause, Progress, Run, Span, Task, Trigger
from pulse.outage import Outage
from pulse.runstores.base import Passed, RunStore
from pulse.schedule import Schedule

log = logging.getLogger(__name__)

RENEWALS: Final = 3  # a lease is renewed this often in its time, so that one late beat loses nothing
# How long after its deadline a run is given up: a response that is still flowing is cut by
# the dispatcher itself between two chunks, which keeps what was captured.
PATIENCE: Final = 0.5


LASTING: Final = 1.0  # seconds after which a run is reported to the store
ENDING: Final = "the process ends"
UNRECORDED: Final = 1000  # runs that ended during an outage; older ones are found lost by their leases


class Listener(Protocol):
    """Who is told what happens to runs; it never blocks, and never raises."""

    def began(self, run: Run) -> None:
        """A run has begun."""

    def ended(self, run: Run) -> None:
        """There is a record."""

    def paused(self, task: str, pause: Pause) -> None:
        """A task was paused because of its failures."""


@dataclass(slots=True)
class Active:
    """A run that is under way in this process; the runner's lock guards `given_up`."""

    task: Task
    run: Run
    control: Control
    began: float  # monotonic seconds, as the next one
    deadline: float | None
    told: Progress | None = None  # what the store knows of its progress
    given_up: Run | None = None  # the record, when it was made before the run came back


@dataclass(frozen=True, slots=True)
class _Later:
    """A fire that is to be asked for again."""

    when: float  # monotonic seconds
    fire: Fire


class Runner:
    """Runs fires, one a call; safe to use from many threads at once."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        schedules: Mapping[str, Schedule],
        *,
        store: RunStore,
        dispatch: Dispatch,
        clock: Clock,
        owner: str,
        lease: timedelta,
        fleet: Fleet | None = None,
        patience: float = PATIENCE,
        hears: Sequence[Listener] = (),
    ) -> None:
        """Wire a runner; it does nothing by itself.

        Args:
            tasks: The tasks by name.
            schedules: Their schedules by name; they tell what a claim passes over.
            store: The referee.
            dispatch: Performs the request of a run.
            clock: For the instants of records, and the deadlines.
            owner: The identity of this process in the store.
            lease: How long the right to a run lasts unless it is renewed.
            fleet: Tells which tasks this process has to leave to others; none if there are no others.
            patience: Seconds after its deadline at which a run is given up; PATIENCE before
                that it is asked to stop.
            hears: Told of each run that begins and of each record that is made here, in its thread.
        """
        self._tasks = tasks
        self._schedules = schedules
        self._store = store
        self._dispatch = dispatch
        self._clock = clock
        self._owner = owner
        self._lease = lease
        self._fleet = fleet
        self._patience = patience
        self._hears = tuple(hears)
        self._active: dict[str, Active] = {}
        self._later: dict[str, _Later] = {}  # by run
        self._aftermath = Aftermath(tasks, schedules, store, self._paused)
        self._unrecorded: deque[Run] = deque(maxlen=UNRECORDED)
        self._outage = Outage(clock)
        self._is_ending = False
        self._lock = threading.Lock()
        self._recording = threading.Lock()

    @property
    def beat(self) -> float:
        """Seconds from one call of `renew` to the next."""
        return self._lease.total_seconds() / RENEWALS

    def run(self, fire: Fire) -> Run | None:
        """Bring *fire* from claim to record.

        None if it, or its record, is somebody else's, or has to wait (`due_again`), or if the
        store did not answer: then nothing runs, and the next claim that it answers records
        the instant as missed.
        """
        claimed = self.claim(fire)
        if not isinstance(claimed, Active):
            return claimed
        try:
            reply = self._dispatch(claimed.task, claimed.run, claimed.control)
        except BaseException:  # a fault of Pulse: what is not under way must not be renewed for ever
            self._let_go(claimed)
            raise
        return self.finish(claimed, reply)

    def claim(self, fire: Fire) -> Active | Run | None:
        """Ask for *fire*, and begin its run; or the record that was made instead; or None, as for `run`."""
        task = self._tasks[fire.task]
        if self._fleet and self._fleet.why_not(fire.task) and fire.trigger is not Trigger.MANUAL:
            return None
        claimed = self._claim(fire)
        if claimed.answer is not Claim.WON or claimed.run is None:
            return claimed.run
        return self._begin(task, claimed.run)

    def finish(self, active: Active, reply: Reply) -> Run | None:
        """End a run that `claim` has begun, and record it; None if it was lost meanwhile."""
        self._let_go(active)
        run = active.run
        if active.given_up:
            _say(logging.WARNING, f"task={run.task} run={run.id} came back after it was given up", run, "came_back")
            return active.given_up
        finished = self._ended(active, reply)
        recorded = self._settle(replace(finished, again_at=self._aftermath.again_at(finished, reply.retry_after)))
        if reply.traceback:
            _say(logging.ERROR, f"task={run.task} run={run.id} raised\n{reply.traceback.rstrip()}", finished, "raised")
        return recorded

    def dismiss(self, fire: Fire, outcome: Outcome, reason: str) -> Run | None:
        """Record that *fire* is not run; None if somebody else has claimed it."""
        return self._noted(
            self._store.dismiss(fire, outcome=outcome, reason=reason, now=self._clock.now(), passed=self._passed(fire))
        ).run

    def renew(self) -> None:
        """Extend the leases of all runs of this process in one batch, and see to what others left.

        Records what ended while the store did not answer, too.
        """
        now = self._clock.now()
        with self._lock:
            runs = [active.run for active in self._active.values()]
        with self._store_in_doubt("leases are not renewed"):
            for run in self._store.renew(runs, now + self._lease) if runs else ():
                if run.id in self._active:  # not one that has ended meanwhile
                    self._lost(run)
            for run in self._store.reap(now):
                self._record(run)
            self._look_for_attempts(now)
            if self._fleet:
                self._fleet.beat()
        self.record_late()

    def due_again(self) -> list[Fire]:
        """The fires that had to wait, and whose time to be asked for again has come.

        Further attempts of runs are among them, which any process of the fleet may begin.
        """
        if not self._later:
            return []
        now = self._clock.monotonic()
        with self._lock:
            due = [run_id for run_id, later in self._later.items() if later.when <= now]
            return [self._later.pop(run_id).fire for run_id in due]

    @property
    def is_awaited(self) -> bool:
        """Whether there is something for `due_again`."""
        return bool(self._later)

    def keeps(self, task: str) -> int:
        """How many instants of *task* may wait for a free worker."""
        return 1 if self._tasks[task].coalesce else self._tasks[task].catchup_limit

    def report(self) -> None:
        """Tell the store how far the runs of this process have got, and stop those that are asked to.

        For runs that take their time: one that is over in a moment costs nothing here.
        """
        now = self._clock.monotonic()
        with self._lock:
            lasting = [active for active in self._active.values() if now - active.began >= LASTING]
        if not lasting:
            return
        told = {active.run.id: active.control.progress for active in lasting}
        news = {active.run.id: told[active.run.id] for active in lasting if told[active.run.id] is not active.told}
        with self._store_in_doubt("nobody is told how far runs have got"):
            asked = self._store.report(self._owner, {run_id: one for run_id, one in news.items() if one})
            for active in lasting:
                active.told = told[active.run.id]
                if active.run.id in asked:
                    self._stop(active, asked[active.run.id])

    def record_late(self) -> None:
        """Record what ended while the store did not answer, if it answers now."""
        if not self._unrecorded:
            return
        # The watcher and `close` may both be here: each has to take another record.
        with self._recording, self._store_in_doubt("what has ended is recorded later"):
            while self._unrecorded:
                self._complete(self._unrecorded[0])
                self._unrecorded.popleft()

    def give_up_overdue(self) -> list[Run]:
        """Record the runs that did not come back by their deadline; these records.

        Their threads cannot be ended: whoever executes them has to go on without.
        """
        now, last_call = self._clock.monotonic(), self._patience - PATIENCE
        with self._lock:
            timed = [(one, one.deadline) for one in self._active.values() if one.deadline is not None]
        overdue = [(one, deadline) for one, deadline in timed if now > deadline + last_call]
        for one, _ in overdue:
            one.control.set()
        patient = [one for one, deadline in overdue if now > deadline + self._patience]
        asked = [one for one in patient if one.control.reason]
        late = [one for one in patient if not one.control.reason]
        return [
            *self._give_up(late, Outcome.TIMEOUT, "it did not come back by its deadline"),
            *self._give_up(asked, Outcome.ABANDONED, "it was asked to stop, and did not"),
        ]

    def cancel(self) -> None:
        """Ask every run of this process to stop, and all that are still to begin.

        Those that answer in chunks will, and those that look at `pulse.cancelled`.
        """
        with self._lock:
            self._is_ending = True
            active = list(self._active.values())
        for one in active:
            one.control.stop(ENDING)

    def abandon(self) -> list[Run]:
        """Record every run that is still under way as left behind; these records."""
        with self._lock:
            active = list(self._active.values())
        reason = "it did not stop when the process ended"
        return self._give_up(active, Outcome.ABANDONED, reason)

    # The steps of `run`

    def _claim(self, fire: Fire) -> Claimed:
        task = self._tasks[fire.task]
        terms: dict[str, Any] = {"owner": self._owner, "now": self._clock.now(), "lease": self._lease}
        terms["limits"] = Limits.of(task, fire)
        with self._store_in_doubt("nothing is run unclaimed"):
            if fire.attempt > 1:
                return self._adopt(fire, terms)
            claimed = self._noted(self._store.claim(fire, passed=self._passed(fire), **terms))
            if any(run.recovers for run in claimed.lost):
                self._look_for_attempts(self._clock.now())  # it goes before what is due next
            if claimed.answer is Claim.WAIT:
                self._put_off(fire)
            return self._unless_late(fire, claimed)
        return Claimed(answer=Claim.REFUSED)

    def _adopt(self, fire: Fire, terms: Mapping[str, Any]) -> Claimed:
        """Begin a further attempt, if nobody else has, and if the task is not running now."""
        following = self._schedules[fire.task].next_due(fire.due)
        if fire.trigger is Trigger.RETRY and following is not None and following <= self._clock.now():
            return Claimed(answer=Claim.TAKEN)  # its time was until the next instant; the next claim drops it
        waiting = Run(id=fire.run_id, task=fire.task, due=fire.due, attempt=fire.attempt, place=fire.place)
        run = self._store.adopt(waiting, **terms)
        return Claimed(answer=Claim.WON if run else Claim.TAKEN, run=run)

    def _put_off(self, fire: Fire, seconds: float = 0.0) -> None:
        """Have *fire* be asked for again; of a task that waits only the last one does."""
        with self._lock:
            for run_id, later in list(self._later.items()):
                if later.fire.track == fire.track and later.fire.attempt == fire.attempt == 1:
                    del self._later[run_id]
            self._later[fire.run_id] = _Later(self._clock.monotonic() + seconds, fire)

    def _look_for_attempts(self, now: datetime) -> None:
        """Find the further attempts that wait in the store: whoever was to begin them may be dead."""
        # Whatever the options say now: what an earlier configuration has left waiting, with its
        # `recover`, would keep the task from running for ever.
        for run in self._store.waiting():
            task = self._tasks.get(run.task)
            is_ripe = run.expires is not None and run.expires <= now and run.id not in self._active
            if task is not None and task.enabled and is_ripe and run.place in ("", this_place(task.scope)):
                self._put_off(_attempt(run))

    def _unless_late(self, fire: Fire, claimed: Claimed) -> Claimed:
        """*claimed*, judged again: the claim itself may block, or the process may freeze in it."""
        run, now = claimed.run, self._clock.now()
        if claimed.answer is not Claim.WON or run is None or fire.latest is None or now <= fire.latest:
            return claimed
        late = replace(run, started=None, finished=now, outcome=Outcome.MISSED, reason="the claim came back too late")
        return Claimed(answer=Claim.STALE, run=self._complete(late))

    def _passed(self, fire: Fire) -> Passed:
        """What the schedule says about the instants between a cursor and *fire*."""
        schedule = self._schedules[fire.task]

        def passed(cursor: datetime) -> Span | None:
            first = schedule.next_due(cursor)
            if first is None or first >= fire.due:
                return None
            last = schedule.previous_due(fire.due - _INSTANT) or first
            return Span(first=first, last=last, count=schedule.count(cursor, last))

        return passed

    def _begin(self, task: Task, run: Run) -> Active:
        """From here on the lease of *run* is renewed, and its deadline watched."""
        seconds = task.timeout.total_seconds() if task.timeout else None
        now = self._clock.monotonic()
        active = Active(task, run, Control(), now, None if seconds is None else now + seconds)
        with self._lock:
            if self._is_ending:  # the claim took its time: nothing begins any more
                active.control.stop(ENDING)
            self._active[run.id] = active
        for listener in self._hears:
            listener.began(run)
        return active

    def _let_go(self, active: Active) -> None:
        with self._lock:
            self._active.pop(active.run.id, None)

    def _ended(self, active: Active, reply: Reply) -> Run:
        why = active.control.reason if reply.outcome is Outcome.CANCELLED else ""
        return replace(
            active.run,
            finished=self._clock.now(),
            outcome=reply.outcome,
            reason=f"{reply.reason}: {why}" if why else reply.reason,
            result=reply.result,
            status=reply.status,
            duration=reply.duration,
            body=reply.body,
            errors=reply.errors,
        )

    def _settle(self, ended: Run) -> Run | None:
        """Record *ended* now, or as soon as the store answers; None if it is not ours any more."""
        if not self._outage.is_on:  # else each would wait for the store again, and the end of the process with it
            with self._store_in_doubt("what ends now is recorded later"):
                return self._complete(ended)
        self._unrecorded.append(ended)
        return ended

    def _complete(self, ended: Run) -> Run | None:
        if not self._store.finish(replace(ended, again_at=None), again_at=ended.again_at):
            self._lost(ended)
            return None
        if ended.again_at is not None and ended.finished is not None:
            self._put_off(
                _attempt(replace(ended, trigger=Trigger.RETRY, attempt=ended.attempt + 1)),
                (ended.again_at - ended.finished).total_seconds(),
            )
        with self._store_in_doubt("its task is not paused"):
            self._aftermath.see_to(ended)
        return self._record(ended)

    def _stop(self, active: Active, reason: str) -> None:
        """Ask a run to stop; if it does not within `kill_grace`, it is given up."""
        if active.control.reason:
            return
        active.control.stop(reason)
        last = self._clock.monotonic() + active.task.kill_grace.total_seconds()
        active.deadline = last if active.deadline is None else min(active.deadline, last)
        said = f"task={active.run.task} run={active.run.id} is asked to stop: {reason!r}"
        _say(logging.WARNING, said, active.run, "asked_to_stop")

    def _give_up(self, overdue: Iterable[Active], outcome: Outcome, reason: str) -> list[Run]:
        given_up = []
        for active in overdue:
            now = self._clock.now()
            duration = (now - (active.run.started or now)).total_seconds()
            record = replace(active.run, finished=now, outcome=outcome, reason=reason, duration=duration)
            with self._lock:
                if self._active.pop(active.run.id, None) is not active:
                    continue  # it came back meanwhile
                active.given_up = record
            self._settle(record)
            given_up.append(record)
        return given_up

    @contextmanager
    def _store_in_doubt(self, consequence: str) -> Iterator[None]:
        """Go on behind this block when the store does not answer in it, and say so now and then."""
        try:
            yield
        except StoreUnavailableError as error:
            self._outage.failed(error, consequence)
        else:
            self._outage.ended()

    # What is said about it

    def _noted(self, claimed: Claimed) -> Claimed:
        for record in (*claimed.lost, claimed.missed, claimed.run):
            if record and record.outcome:
                self._record(record)
        return claimed

    def _record(self, run: Run) -> Run:
        _log_run(run)
        for listener in self._hears:
            listener.ended(run)
        return run

    def _paused(self, task: str, pause: Pause) -> None:
        for listener in self._hears:
            listener.paused(task, pause)

    def _lost(self, run: Run) -> None:
        said = f"task={run.task} run={run.id} lost its lease: its result changes nothing any more"
        _say(logging.WARNING, said, run, "lease_lost")


def _attempt(run: Run) -> Fire:
    """The fire of a further attempt that waits in the store."""
    return Fire(task=run.task, due=run.due, trigger=run.trigger, run_id=run.id, place=run.place, attempt=run.attempt)


_INSTANT: Final = timedelta(microseconds=1)
_QUIET: Final = frozenset({Outcome.SUCCESS, Outcome.CANCELLED})


def _log_run(run: Run) -> None:
    """One line a record: what became of which due instant, and why."""
    level = logging.INFO if run.outcome in _QUIET else logging.WARNING
    if not log.isEnabledFor(level):
        return
    line = f"task={run.task} run={run.id} trigger={run.trigger.value} attempt={run.attempt}"
    line += f" outcome={run.outcome.value if run.outcome else '-'}"
    if run.status is not None:
        line += f" status={run.status}"
    if run.duration is not None:
        line += f" duration={run.duration:.3f}"
    if run.started:
        line += f" late={run.lateness.total_seconds():.3f}"
    if run.result:
        line += f" result={run.result!r}"
    if run.again_at is not None:
        line += f" again={run.again_at.isoformat()}"
    if run.place:
        line += f" place={short(run.place)}"
    if run.count > 1 and run.first_due:
        line += f" count={run.count} first={run.first_due.isoformat()}"
    line += f" due={run.due.isoformat()}"
    if run.owner:
        line += f" worker={short(run.owner)}"
    _say(level, line + (f" reason={run.reason!r}" if run.reason else ""), run, "run_finished")


def _say(level: int, line: str, run: Run, event: str) -> None:
    # A handler may raise, say because an endpoint has closed stderr: what is said must not
    # decide what becomes of a run, or of the thread that it shares with others.
    with suppress(Exception):
        log.log(level, "%s", line, extra=_facts(run, event))


def _facts(run: Run, event: str) -> dict[str, object]:
    return {
        "pulse_event": event,
        "pulse_task": run.task,
        "pulse_run": run.id,
        "pulse_due": run.due,
        "pulse_outcome": run.outcome.value if run.outcome else None,
        "pulse_status": run.status,
        "pulse_duration": run.duration,
    }
