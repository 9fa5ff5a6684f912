"""The heart: one fire from claim to record.

    claim -> dispatch -> finish

Read `Runner.run` and you know what Pulse does. Whoever executes it, a thread, a process or
a loop, only decides where the request runs.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypedDict

from pulse.aftermath import Aftermath
from pulse.clock import Clock
from pulse.dispatch import Dispatch, Reply
from pulse.fleet import Fleet
from pulse.instance import this_place
from pulse.model import QUEUE, Claim, Claimed, Fire, Limits, Outcome, Pause, Run, Span, Task, Trigger
from pulse.outage import Outage
from pulse.postponed import Postponed, attempt_of
from pulse.recorder import Listener, Recorder
from pulse.runlog import say
from pulse.runstores.base import Bid, Passed, RunStore
from pulse.schedule import Schedule
from pulse.underway import PATIENCE, Active, UnderWay
from pulse.within import within

log = logging.getLogger(__name__)

RENEWALS: Final = 3  # a lease is renewed this often in its time, so that one late beat loses nothing
LASTING: Final = 1.0  # seconds after which a run is reported to the store
ENDING: Final = "the process ends"
QUEUED: Final = timedelta(days=1)  # that a run may wait in a queue if its task knows no limit

_INSTANT: Final = timedelta(microseconds=1)
_OBSERVED: Final = Limits(instances=None)  # what is taken over has been judged when it was claimed


class _Terms(TypedDict):
    """Of a claim: who asks, when, and for how long."""

    owner: str
    now: datetime
    lease: timedelta


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
        self._limits: dict[str, Limits] = {}  # by task, of what the schedule makes due
        self._hears = tuple(hears)
        self._under_way = UnderWay(clock, patience)
        self._postponed = Postponed(clock)
        self._outage = Outage(clock)
        self._aftermath = Aftermath(tasks, schedules, store, self._paused)
        self._recorder = Recorder(
            store, aftermath=self._aftermath, postponed=self._postponed, outage=self._outage, hears=hears
        )

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
        return self.finish(claimed, self.perform(claimed)) if isinstance(claimed, Active) else claimed

    def claim(self, fire: Fire) -> Active | Run | None:
        """Ask for *fire*, and begin its run; or the record that was made instead; or None, as for `run`."""
        if self._is_left_to_others(fire):
            return None
        claimed = self._taken(fire, self._claim(fire))
        if isinstance(claimed, Active):
            self._begin(claimed)
        return claimed

    def perform(self, active: Active) -> Reply:
        """Request the endpoint of a run that has begun, in this thread, until it has answered."""
        try:
            return self._dispatch(active.task, active.run, active.control)
        except BaseException:  # a fault of Pulse: what is not under way must not be renewed for ever
            self._under_way.end(active)
            raise

    def finish(self, active: Active, reply: Reply) -> Run | None:
        """End a run that has begun, and record it; None if it was lost meanwhile."""
        finished = self._ended(active, reply)
        if finished is None:
            return active.given_up
        recorded = self._recorder.settle(finished)
        self._say_raised(finished, reply)
        return recorded

    # Several at once

    def may_join(self, fire: Fire) -> bool:
        """Whether *fire* may be claimed together with others, and recorded together with them.

        A lock would keep the second of two tasks waiting that are in one hand; and what is to be run
        again when it is lost should not wait for its record behind the runs of others.
        """
        task = self._tasks[fire.task]
        return fire.trigger is Trigger.SCHEDULE and not (task.lock or task.recover)

    def claim_all(self, fires: Iterable[Fire]) -> list[tuple[Fire, Active]]:
        """Ask for *fires* of different tasks in one go; those that were won, whose runs have not begun."""
        wanted = [fire for fire in fires if not self._is_left_to_others(fire)]
        bids = [Bid(fire=fire, passed=self._passed(fire), limits=self._limits_of(fire)) for fire in wanted]
        with self._outage.endured("nothing is run unclaimed"):
            answers = self._store.claim_all(bids, owner=self._owner, now=self._clock.now(), lease=self._lease)
            taken = [
                (fire, self._taken(fire, self._looked_at(fire, one))) for fire, one in zip(wanted, answers, strict=True)
            ]
            return [(fire, one) for fire, one in taken if isinstance(one, Active)]
        return []

    def begin(self, active: Active) -> bool:
        """Begin a run that `claim_all` has won; False if it is not ours any more, or is of no use."""
        now = self._clock.now()
        if active.run.id not in self._under_way:  # it was lost, or given up, while it waited
            return False
        if _is_past(now, active.latest) or _is_past(now, active.expires):
            self._under_way.end(active)
            with self._outage.endured("its instant is found lost by its lease"):
                self._not_begun(active.run, Outcome.MISSED, "its turn came too late")
            return False
        self._begin(active)
        return True

    def finish_all(self, ended: Sequence[tuple[Active, Reply]]) -> None:
        """End runs that have begun, and record them in one go."""
        finished = [(self._ended(active, reply), reply) for active, reply in ended]
        ours = [(run, reply) for run, reply in finished if run is not None]
        self._recorder.settle_all([run for run, _ in ours])
        for run, reply in ours:
            self._say_raised(run, reply)

    # What waits in a queue of others

    def reserve(self, fire: Fire) -> Run | None:
        """Claim *fire* for a queue, for as long as it is useful to begin it.

        From there any process takes it over, as the fire with `is_reserved`. Returns the
        record instead if one was made, or None, as `claim`.
        """
        if self._is_left_to_others(fire):
            return None
        now, until = self._clock.now(), fire.latest
        if fire.trigger is Trigger.RETRY:
            until = self._schedules[fire.task].next_due(fire.due)
        return self._claim(fire, owner=QUEUE, lease=(until or now + QUEUED) - now).run

    def withdraw(self, run: Run, outcome: Outcome, reason: str) -> Run | None:
        """Record that nobody has taken the reserved *run* from its queue; None if somebody has."""
        with self._outage.endured("what waits in a queue stays there"):
            now = self._clock.now()
            taken = self._store.adopt(run, owner=self._owner, now=now, lease=self._lease, limits=_OBSERVED)
            return taken and self._not_begun(taken, outcome, reason)
        return None

    def dismiss(self, fire: Fire, outcome: Outcome, reason: str) -> Run | None:
        """Record that *fire* is not run; None if somebody else has claimed it."""
        return self._recorder.noted(
            self._store.dismiss(fire, outcome=outcome, reason=reason, now=self._clock.now(), passed=self._passed(fire))
        ).run

    def renew(self) -> None:
        """Extend the leases of all runs of this process in one batch, and see to what others left.

        Records what ended while the store did not answer, too.
        """
        now = self._clock.now()
        held = {active.run.id: active for active in self._under_way.everything()}
        until = now + self._lease
        with self._outage.endured("leases are not renewed"):
            for run in self._store.renew([active.run for active in held.values()], until) if held else ():
                lost = held.pop(run.id)
                if run.id in self._under_way:  # not one that has ended meanwhile
                    self._recorder.lost(run)
                if lost.began is None:
                    self._under_way.end(lost)
            for active in held.values():
                active.expires = until
            for run in self._store.reap(now):
                self._recorder.say(run)
            self._look_for_attempts(now)
            if self._fleet:
                self._fleet.beat()
        self.record_late()

    def due_again(self) -> list[Fire]:
        """The fires that had to wait, and whose time to be asked for again has come.

        Further attempts of runs are among them, which any process of the fleet may begin.
        """
        return self._postponed.take()

    @property
    def is_cut_off(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return self._outage.is_on

    @property
    def is_awaited(self) -> bool:
        """Whether there is something for `due_again`, or for `report`, however idle this process is."""
        return bool(self._postponed) or self._recorder.unrecorded > 0

    def keeps(self, task: str) -> int:
        """How many instants of *task* may wait for a free worker."""
        return 1 if self._tasks[task].coalesce else self._tasks[task].catchup_limit

    def lasting(self, seconds: float) -> set[str]:
        """The ids of the runs that have been under way for longer than that."""
        return {active.run.id for active in self._under_way.lasting(seconds)}

    def report(self) -> None:
        """Tell the store how far the runs of this process have got, and stop those that are asked to.

        For runs that take their time: one that is over in a moment costs nothing here. What could
        not be recorded is, as soon as the store answers others: until then its task is not run.
        """
        if not self._outage.is_on:
            self._recorder.catch_up()
        lasting = self._under_way.lasting(LASTING)
        if not lasting:
            return
        told = {active.run.id: active.control.progress for active in lasting}
        news = {active.run.id: told[active.run.id] for active in lasting if told[active.run.id] is not active.told}
        with self._outage.endured("nobody is told how far runs have got"):
            asked = self._store.report(self._owner, {run_id: one for run_id, one in news.items() if one})
            for active in lasting:
                active.told = told[active.run.id]
                if active.run.id in asked:
                    self._under_way.stop(active, asked[active.run.id])

    def record_late(self) -> None:
        """Record what ended while the store did not answer, if it answers now."""
        self._recorder.catch_up()

    def give_up_overdue(self) -> list[Run]:
        """Record the runs that did not come back by their deadline; these records.

        Their threads cannot be ended: whoever executes them has to go on without.
        """
        overdue = self._under_way.overdue()
        asked = [one for one in overdue if one.control.reason]
        late = [one for one in overdue if not one.control.reason]
        return [
            *self._give_up(late, Outcome.TIMEOUT, "it did not come back by its deadline"),
            *self._give_up(asked, Outcome.ABANDONED, "it was asked to stop, and did not"),
        ]

    def cancel(self) -> None:
        """Ask every run of this process to stop, and all that are still to begin.

        Those that answer in chunks will, and those that look at `pulse.cancelled`.
        """
        self._under_way.stop_all(ENDING)

    def abandon(self) -> list[Run]:
        """Give up every run that is still under way; the records, which `record_last` makes."""
        left = self._under_way.everything()
        records = self._without(left, Outcome.ABANDONED, "it did not stop when the process ended")
        for record in records:
            self._recorder.keep(record)
        return records

    def record_last(self, seconds: float) -> None:
        """Record what has ended, within *seconds*, however long the store takes for its answer.

        The store may hang: what is left then is found lost by its lease, and is said in the log.
        """
        if not self._recorder.unrecorded:
            return
        within(seconds, self.record_late, self._clock)
        if left := self._recorder.unrecorded:
            with suppress(Exception):  # a handler of the log may be what is broken
                log.error(
                    "the run store does not answer: %d runs that have ended have no record yet, and are found "
                    "lost by their leases if it does not answer before this process ends",
                    left,
                    extra={"pulse_event": "unrecorded_at_end"},
                )

    # The steps of `run`

    def _claim(self, fire: Fire, *, owner: str = "", lease: timedelta | None = None) -> Claimed:
        limits = self._limits_of(fire)
        terms: _Terms = {"owner": owner or self._owner, "now": self._clock.now(), "lease": lease or self._lease}
        with self._outage.endured("nothing is run unclaimed"):
            if fire.is_reserved:
                return self._take_over(fire, terms)
            if fire.attempt > 1 and fire.trigger is not Trigger.MANUAL:
                return self._adopt(fire, limits, terms)
            return self._looked_at(fire, self._store.claim(fire, passed=self._passed(fire), limits=limits, **terms))
        return Claimed(answer=Claim.REFUSED)

    def _looked_at(self, fire: Fire, claimed: Claimed) -> Claimed:
        """*claimed*, once all is done that the answer of the store asks for."""
        self._recorder.noted(claimed)
        if any(run.recovers for run in claimed.lost):
            self._look_for_attempts(self._clock.now())  # it goes before what is due next
        if claimed.answer is Claim.WAIT:
            self._postponed.put(fire)
        return self._unless_late(fire, claimed)

    def _taken(self, fire: Fire, claimed: Claimed) -> Active | Run | None:
        if claimed.answer is not Claim.WON or claimed.run is None:
            return claimed.run
        return self._under_way.take(self._tasks[fire.task], claimed.run, fire.latest)

    def _adopt(self, fire: Fire, limits: Limits, terms: _Terms) -> Claimed:
        """Begin a further attempt, if nobody else has, and if the task is not running now."""
        following = self._schedules[fire.task].next_due(fire.due)
        if fire.trigger is Trigger.RETRY and following is not None and following <= self._clock.now():
            return Claimed(answer=Claim.TAKEN)  # its time was until the next instant; the next claim drops it
        run = self._store.adopt(_held_as(fire), limits=limits, **terms)
        return Claimed(answer=Claim.WON if run else Claim.TAKEN, run=run)

    def _take_over(self, fire: Fire, terms: _Terms) -> Claimed:
        """Begin what was claimed for a queue, unless that is of no use any more."""
        run = self._store.adopt(_held_as(fire), limits=_OBSERVED, **terms)
        if run is None:
            return Claimed(answer=Claim.TAKEN)
        now, pause = self._clock.now(), self._store.pauses().get(fire.task)
        if run.stop:
            return Claimed(answer=Claim.STALE, run=self._not_begun(run, Outcome.CANCELLED, run.stop))
        if pause and pause.holds(now) and run.trigger is not Trigger.MANUAL:
            return Claimed(answer=Claim.PAUSED, run=self._not_begun(run, Outcome.SKIPPED, pause.reason))
        if fire.latest and now > fire.latest:
            reason = f"taken from the queue {(now - fire.latest).total_seconds():.1f} s after its grace was over"
            return Claimed(answer=Claim.STALE, run=self._not_begun(run, Outcome.MISSED, reason))
        return Claimed(answer=Claim.WON, run=run)

    def _not_begun(self, run: Run, outcome: Outcome, reason: str) -> Run | None:
        """Record that the claimed *run* was not begun."""
        return self._recorder.complete(_not_begun(run, self._clock.now(), outcome, reason))

    def _look_for_attempts(self, now: datetime) -> None:
        """Find the further attempts that wait in the store: whoever was to begin them may be dead."""
        # Whatever the options say now: what an earlier configuration has left waiting, with its
        # `recover`, would keep the task from running for ever.
        for run in self._store.waiting():
            task = self._tasks.get(run.task)
            is_ripe = run.expires is not None and run.expires <= now and run.id not in self._under_way
            if task is not None and task.enabled and is_ripe and run.place in ("", this_place(task.scope)):
                self._postponed.put(attempt_of(run))

    def _unless_late(self, fire: Fire, claimed: Claimed) -> Claimed:
        """*claimed*, judged again: the claim itself may block, or the process may freeze in it."""
        run, now = claimed.run, self._clock.now()
        if claimed.answer is not Claim.WON or run is None or not _is_past(now, fire.latest):
            return claimed
        return Claimed(answer=Claim.STALE, run=self._not_begun(run, Outcome.MISSED, "the claim came back too late"))

    def _limits_of(self, fire: Fire) -> Limits:
        """Those of its task; they are the same for all that the schedule makes due."""
        if fire.trigger is not Trigger.SCHEDULE:
            return Limits.of(self._tasks[fire.task], fire)
        limits = self._limits.get(fire.task)
        if limits is None:
            limits = self._limits[fire.task] = Limits.of(self._tasks[fire.task], fire)
        return limits

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

    def _begin(self, active: Active) -> None:
        self._under_way.begin(active)
        for listener in self._hears:
            listener.began(active.run)

    def _ended(self, active: Active, reply: Reply) -> Run | None:
        """What is to be the record of *active*; None if there is one, since it was given up."""
        self._under_way.end(active)
        run = active.run
        if active.given_up:
            say(logging.WARNING, f"task={run.task} run={run.id} came back after it was given up", run, "came_back")
            return None
        finished = self._judged(active, reply)
        again_at = self._aftermath.again_at(finished, reply.retry_after)
        return finished if again_at is None else replace(finished, again_at=again_at)

    def _say_raised(self, run: Run, reply: Reply) -> None:
        if reply.traceback:
            say(logging.ERROR, f"task={run.task} run={run.id} raised\n{reply.traceback.rstrip()}", run, "raised")

    def _is_left_to_others(self, fire: Fire) -> bool:
        return bool(self._fleet and self._fleet.why_not(fire.task)) and fire.trigger is not Trigger.MANUAL

    def _judged(self, active: Active, reply: Reply) -> Run:
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
            request=reply.request,
            headers=reply.headers,
            log=reply.log,
        )

    def _give_up(self, overdue: Iterable[Active], outcome: Outcome, reason: str) -> list[Run]:
        records = self._without(overdue, outcome, reason)
        for record in records:
            self._recorder.settle(record)
        return records

    def _without(self, given_up: Iterable[Active], outcome: Outcome, reason: str) -> list[Run]:
        """Go on without these runs; what is to be their records, of those that did not come back meanwhile."""
        records = []
        for active in given_up:
            now = self._clock.now()
            if active.began is None:  # it was claimed with others, and was to be the next one
                record = _not_begun(active.run, now, Outcome.MISSED, f"it had not begun: {reason}")
            else:
                duration = (now - (active.run.started or now)).total_seconds()
                record = replace(active.run, finished=now, outcome=outcome, reason=reason, duration=duration)
            if self._under_way.give_up(active, record):
                records.append(record)
        return records

    def _paused(self, task: str, pause: Pause) -> None:
        for listener in self._hears:
            listener.paused(task, pause)


def _is_past(now: datetime, last: datetime | None) -> bool:
    return last is not None and now > last


def _not_begun(run: Run, now: datetime, outcome: Outcome, reason: str) -> Run:
    """The record of a claimed *run* that is not begun."""
    return replace(run, started=None, finished=now, outcome=outcome, reason=reason)


def _held_as(fire: Fire) -> Run:
    """How a store knows the attempt that *fire* is."""
    return Run(id=fire.run_id, task=fire.task, due=fire.due, attempt=fire.attempt, place=fire.place)
