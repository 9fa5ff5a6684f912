"""The wish to run a fire: what the store is asked, and what its answers bring with them.

Most fires are asked for one by one, when a worker is about to run them. Some are asked for
together, some only reserved for a queue, and some are further attempts, which wait in the
store and are adopted.
"""

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final, TypedDict

from pulse.clock import Clock
from pulse.fleet import Fleet
from pulse.instance import this_place
from pulse.model import QUEUE, Claim, Claimed, Fire, Limits, Outcome, Run, Span, Task, Trigger
from pulse.outage import Outage
from pulse.postponed import Postponed, attempt_of
from pulse.recorder import Recorder
from pulse.runstores.base import Bid, Passed, RunStore
from pulse.runstores.ledger import RECOVERIES
from pulse.schedule import Schedule
from pulse.underway import Active, UnderWay
from pulse.zone import EPOCH

log = logging.getLogger(__name__)

QUEUED: Final = timedelta(days=1)  # that a run may wait in a queue if its task knows no limit

_INSTANT: Final = timedelta(microseconds=1)
_OBSERVED: Final = Limits(instances=None)  # what is taken over has been judged when it was claimed


class _Terms(TypedDict):
    """Of a claim: who asks, when, and for how long."""

    owner: str
    now: datetime
    lease: timedelta


class Claims:
    """Makes the claims of one process; safe to use from many threads at once."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        schedules: Mapping[str, Schedule],
        *,
        store: RunStore,
        clock: Clock,
        owner: str,
        lease: timedelta,
        fleet: Fleet | None,
        under_way: UnderWay,
        recorder: Recorder,
        postponed: Postponed,
        outage: Outage,
    ) -> None:
        """Wire it.

        Args:
            tasks: The tasks by name.
            schedules: Their schedules by name; they tell what a claim passes over.
            store: The referee.
            clock: For the instants of claims.
            owner: The identity of this process in the store.
            lease: How long the right to a run lasts unless it is renewed.
            fleet: Tells which tasks this process has to leave to others.
            under_way: Is given what was won.
            recorder: Is told of the records that claims make.
            postponed: Is given what has to wait.
            outage: The state of the way to *store*.
        """
        self._tasks = tasks
        self._schedules = schedules
        self._store = store
        self._clock = clock
        self._owner = owner
        self._lease = lease
        self._fleet = fleet
        self._under_way = under_way
        self._recorder = recorder
        self._postponed = postponed
        self._outage = outage
        self._limits: dict[str, Limits] = {}  # by task, of what the schedule makes due
        # Claims without an answer, by run, the oldest first: until when it may show that they were won.
        self._unheard: dict[str, float] = {}
        # By track: the run that is to be asked for again; without a lock, as one fire of a track is in turn at a time.
        # Not as many as there are such runs: in an outage each gives way to a later one, and is never asked for again.
        self._to_repeat: dict[str, str] = {}
        self._noting = threading.Lock()
        self._leased_until = EPOCH  # before that no lease of what is under way ends, as far as this process knows

    def claim(self, fire: Fire) -> Active | Run | None:
        """Ask for *fire*; what was won, which has not begun, or the record that was made instead."""
        self._begin_turn(fire)
        return None if self._is_left_to_others(fire) else self._taken(fire, self._claim(fire))

    def claim_all(self, fires: Iterable[Fire]) -> list[tuple[Fire, Active]]:
        """Ask for *fires* of different tasks in one go; those that were won, which have not begun."""
        wanted = [fire for fire in fires if not self._is_left_to_others(fire)]
        bids = [Bid(fire=fire, passed=self._passed(fire), limits=self._limits_of(fire)) for fire in wanted]
        with self._outage.endured("nothing is run unclaimed"):
            answers = self._store.claim_all(bids, owner=self._owner, now=self._now(), lease=self._lease)
            claims = [(fire, self._looked_at(fire, answer)) for fire, answer in zip(wanted, answers, strict=True)]
            won = [(fire, one.run) for fire, one in claims if one.answer is Claim.WON and one.run]
            return self._taken_together(won)
        self._note_unheard(wanted)
        return []

    def may_join(self, fire: Fire) -> bool:
        """Whether *fire* may be claimed together with others, and recorded together with them.

        A lock would keep the second of two tasks waiting that are in one hand; and what is to be run
        again when it is lost should not wait for its record behind the runs of others.
        """
        task = self._tasks[fire.task]
        return fire.trigger is Trigger.SCHEDULE and not (task.lock or task.recover)

    def is_to_repeat(self, fire: Fire) -> bool:
        """Whether *fire*, which is in turn, has to be asked for again before those behind it; see `Fire.is_in_turn`.

        Since the one before is still being run, here or elsewhere, or since the store did not answer.
        """
        return self._to_repeat.get(fire.track) == fire.run_id

    def reserve(self, fire: Fire) -> Run | None:
        """Claim *fire* for a queue, for as long as it is useful to begin it.

        From there any process takes it over, as the fire with `is_reserved`. Returns the
        record instead if one was made, or None, as `claim`.
        """
        self._begin_turn(fire)
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
            return taken and self.give_back(taken, outcome, reason)
        return None

    def dismiss(self, fire: Fire, outcome: Outcome, reason: str) -> Run | None:
        """Record that *fire* is not run; None if somebody else has claimed it.

        Or if the store does not answer: then the next claim that it answers records it as missed.
        """
        self._begin_turn(fire)
        with self._outage.endured("what is not run is recorded later"):
            now = self._clock.now()
            dismissed = self._store.dismiss(fire, outcome=outcome, reason=reason, now=now, passed=self._passed(fire))
            return self._recorder.noted(dismissed).run
        return None

    def give_back(self, run: Run, outcome: Outcome, reason: str) -> Run | None:
        """Record that the claimed *run* is not begun, as soon as the store answers; None if it is not ours any more."""
        return self._recorder.settle(not_begun(run, self._clock.now(), outcome, reason))

    def look_for_attempts(self, now: datetime) -> None:
        """Find the further attempts that wait in the store: whoever was to begin them may be dead."""
        # Whatever the options say now: what an earlier configuration has left waiting, with its
        # `recover`, would keep the task from running for ever.
        for run in self._store.waiting():
            task = self._tasks.get(run.task)
            is_ripe = run.expires is not None and run.expires <= now and run.id not in self._under_way
            if task is not None and task.enabled and is_ripe and run.place in ("", this_place(task.scope)):
                self._postponed.put(attempt_of(run))

    @property
    def is_in_doubt(self) -> bool:
        """Whether there are claims of which nobody knows yet whether they were won."""
        return bool(self._unheard)

    def give_back_unheard(self) -> None:
        """Record what was won without our being told, and so is not begun.

        A server that was frozen executes what it was sent when it goes on. What it gave us
        would be held, and its task be skipped in the whole fleet, until the lease has run out.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        if not self._unheard:
            return
        for run in self._store.running():
            # What recovers is begun again when its lease has ended, and what is tried again would not be any more.
            is_first = run.attempt == 1 and not run.recovers
            if run.id in self._unheard and run.owner == self._owner and is_first and run.id not in self._under_way:
                self.give_back(run, Outcome.MISSED, "the run store did not answer when it was claimed")
        self._note_unheard(())

    def _note_unheard(self, fires: Iterable[Fire]) -> None:
        """Keep *fires* in mind as long as their leases would last; what is older is forgotten."""
        now = self._clock.monotonic()
        with self._noting:
            for fire in fires:
                self._unheard.pop(fire.run_id, None)  # else what is repeated would stay in front of what is older
                self._unheard[fire.run_id] = now + self._lease.total_seconds()
            for run_id in list(takewhile(lambda run_id: self._unheard[run_id] <= now, self._unheard)):
                del self._unheard[run_id]

    # Leases

    @property
    def are_leases_over(self) -> bool:
        """Whether the leases of what is under way here may have ended, as far as this process knows."""
        return bool(self._under_way) and self._clock.now() > self._leased_until

    def renew(self) -> None:
        """Extend the leases of all that is under way here, in one batch.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        until = self._clock.now() + self._lease
        held = {active.run.id: active for active in self._under_way.everything()}
        for run in self._store.renew([active.run for active in held.values()], until) if held else ():
            if self._under_way.lose(held.pop(run.id)):
                self._recorder.lost(run)
        for active in held.values():
            active.expires = until
        self._leased_until = until

    def _now(self) -> datetime:
        """The instant of a claim; what this process holds is seen to before, if leases may have ended.

        They have when it was frozen, its machine suspended, or the clock set ahead. It would find its
        own living runs lost, and run the next instant beside them.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        now = self._clock.now()
        if now <= self._leased_until:
            return now
        if self._under_way or self._recorder.unrecorded:
            self.renew()
            self._recorder.record_kept()
            return self._clock.now()
        self._leased_until = now + self._lease
        return now

    # The steps of a claim

    def _begin_turn(self, fire: Fire) -> None:
        if fire.is_in_turn and self.is_to_repeat(fire):
            del self._to_repeat[fire.track]

    def _is_left_to_others(self, fire: Fire) -> bool:
        return bool(self._fleet and self._fleet.why_not(fire.task)) and fire.trigger is not Trigger.MANUAL

    def _claim(self, fire: Fire, *, owner: str = "", lease: timedelta | None = None) -> Claimed:
        was_unheard = self._is_heard_now(fire)
        with self._outage.endured("nothing is run unclaimed"):
            terms: _Terms = {"owner": owner or self._owner, "now": self._now(), "lease": lease or self._lease}
            claimed = self._asked(fire, terms)
            if was_unheard and claimed.answer is Claim.TAKEN:
                self._note_unheard([fire])  # perhaps by that claim
            return claimed
        self._note_unheard([fire])
        self._repeat(fire)
        return Claimed(answer=Claim.REFUSED)

    def _asked(self, fire: Fire, terms: _Terms) -> Claimed:
        """What the store answers, once all is done that its answer asks for."""
        if fire.is_reserved:
            return self._take_over(fire, terms)
        limits = self._limits_of(fire)
        if fire.attempt > 1 and fire.trigger is not Trigger.MANUAL:
            return self._adopt(fire, limits, terms)
        claimed = self._looked_at(fire, self._store.claim(fire, passed=self._passed(fire), limits=limits, **terms))
        return self._unless_late(fire, claimed) if claimed.answer is Claim.WON else claimed

    def _is_heard_now(self, fire: Fire) -> bool:
        """Whether *fire*, which is asked for now, has been before, without an answer; that counts no more.

        Else the watcher, which looks at the same moment, would take the run that is won now for one
        that was won then, and give it back while it is being run.
        """
        if fire.run_id not in self._unheard:
            return False
        with self._noting:
            return self._unheard.pop(fire.run_id, None) is not None

    def _looked_at(self, fire: Fire, claimed: Claimed) -> Claimed:
        """*claimed*, once all is done that the answer of the store asks for."""
        self._recorder.noted(claimed)
        for run in claimed.lost:
            # It goes before what is due next. If there is no such attempt, nobody gets it; to look for it among all
            # that wait would take a thousand claims a thousand looks. Of another task, or place, is only what had the
            # lock of *fire*, and waits for that now. What is still at work in this very process is not run beside
            # itself: its next attempt is found when it has ended, or elsewhere.
            is_next = run.track == fire.track and run.recovers and run.id not in self._under_way
            if is_next and self._tasks[run.task].enabled:
                self._postponed.put(attempt_of(replace(run, trigger=Trigger.RECOVER, attempt=run.attempt + 1)))
        if claimed.answer is Claim.WAIT:
            if not self._repeat(fire):
                # The clock of this host may have been ahead for a while: what came too early would be asked for in vain
                # many times a second until its time.
                self._postponed.put(fire, max(0.0, (fire.due - self._clock.now()).total_seconds()))
        elif claimed.answer is Claim.TAKEN and fire.trigger is Trigger.MANUAL:  # whoever pressed sees no record of it
            facts = {"pulse_event": "attempt_taken", "pulse_task": fire.task, "pulse_run": fire.run_id}
            said = "task=%s run=%s is not tried again here: somebody else has made attempt %d of it"
            log.info(said, fire.task, fire.run_id, fire.attempt, extra=facts)
        return claimed

    def _repeat(self, fire: Fire) -> bool:
        """Have whoever has *fire* in hand ask again, and hold back what is behind it; False if that may go first."""
        if fire.is_in_turn:
            self._to_repeat[fire.track] = fire.run_id
        return fire.is_in_turn

    def _taken_together(self, won: Iterable[tuple[Fire, Run]]) -> list[tuple[Fire, Active]]:
        """What is to be begun of *won*; what is too late is recorded, all in one go."""
        taken: list[tuple[Fire, Active]] = []
        late: list[Run] = []
        for fire, run in won:
            if reason := self._why_late(fire, run):
                late.append(not_begun(run, self._clock.now(), Outcome.MISSED, reason))
            else:
                taken.append((fire, self._under_way.take(self._tasks[fire.task], run, fire.latest)))
        self._recorder.settle_all(late)
        return taken

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
        return self._unless_late(fire, Claimed(answer=Claim.WON, run=run)) if run else Claimed(answer=Claim.TAKEN)

    def _take_over(self, fire: Fire, terms: _Terms) -> Claimed:
        """Begin what was claimed for a queue, unless that is of no use any more."""
        run = self._store.adopt(_held_as(fire), limits=_OBSERVED, **terms)
        if run is None:
            return Claimed(answer=Claim.TAKEN)
        now, pause = self._clock.now(), self._store.pauses().get(fire.task)
        if run.stop:
            return Claimed(answer=Claim.STALE, run=self.give_back(run, Outcome.CANCELLED, run.stop))
        if pause and pause.holds(now) and run.trigger is not Trigger.MANUAL:
            return Claimed(answer=Claim.PAUSED, run=self.give_back(run, Outcome.SKIPPED, pause.reason))
        if fire.latest and now > fire.latest:
            reason = f"taken from the queue {(now - fire.latest).total_seconds():.1f} s after its grace was over"
            return Claimed(answer=Claim.STALE, run=self.give_back(run, Outcome.MISSED, reason))
        return self._unless_late(fire, Claimed(answer=Claim.WON, run=run))

    def _unless_late(self, fire: Fire, claimed: Claimed) -> Claimed:
        """*claimed*, which was won, judged again."""
        assert claimed.run is not None
        reason = self._why_late(fire, claimed.run)
        if not reason:
            return claimed
        return Claimed(answer=Claim.STALE, run=self.give_back(claimed.run, Outcome.MISSED, reason))

    def _why_late(self, fire: Fire, run: Run) -> str:
        """Why *run*, which was won, is of no use any more: the claim may block, or the process freeze in it."""
        now = self._clock.now()
        if is_past(now, fire.latest):
            return "the claim came back too late"
        # Whoever has seen that may have recorded it as lost, and run it again.
        return "its lease ended before it could begin" if is_past(now, run.expires) else ""

    def _limits_of(self, fire: Fire) -> Limits:
        """Those of its task; they are the same for all that the schedule makes due."""
        if fire.trigger is not Trigger.SCHEDULE or fire.is_in_turn:
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


def is_past(now: datetime, last: datetime | None) -> bool:
    """Whether *last*, if there is such a limit, is over."""
    return last is not None and now > last


def not_begun(run: Run, now: datetime, outcome: Outcome, reason: str) -> Run:
    """The record of a claimed *run* that is not begun.

    If it was missed and recovers, its next attempt waits from now on, as that of a lost one does.
    """
    is_recovered = outcome is Outcome.MISSED and run.recovers and run.attempt < RECOVERIES
    again_at = now if is_recovered else None
    return replace(run, started=None, finished=now, outcome=outcome, reason=reason, again_at=again_at)


def _held_as(fire: Fire) -> Run:
    """How a store knows the attempt that *fire* is."""
    return Run(id=fire.run_id, task=fire.task, due=fire.due, attempt=fire.attempt, place=fire.place)
