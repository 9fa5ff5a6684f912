"""The heart: one fire from claim to record.

    claim -> dispatch -> finish

Read `Runner.run` and you know what Pulse does. Whoever executes it, a thread, a process or
a loop, only decides where the request runs.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final

from pulse.aftermath import Aftermath
from pulse.claims import Claims, is_past, not_begun
from pulse.clock import Clock
from pulse.dispatch import Dispatch, Reply
from pulse.fleet import Fleet
from pulse.model import Fire, Outcome, Pause, Run, Task
from pulse.outage import Outage
from pulse.postponed import Postponed
from pulse.recorder import UNRECORDED, Listener, Recorder
from pulse.runlog import say
from pulse.runstores.base import RunStore
from pulse.schedule import Schedule
from pulse.underway import PATIENCE, Active, UnderWay
from pulse.within import within

log = logging.getLogger(__name__)

RENEWALS: Final = 3  # a lease is renewed this often in its time, so that one late beat loses nothing
LASTING: Final = 1.0  # seconds after which a run is reported to the store
ENDING: Final = "the process ends"


class Runner:
    """Runs fires, one a call; safe to use from many threads at once.

    Attributes:
        claims: How it asks for fires; workers may, too, for several at once, or for a queue.
    """

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
        unrecorded: int = UNRECORDED,
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
            unrecorded: How many runs that have ended are kept while the store does not answer.
        """
        self._tasks = tasks
        self._store = store
        self._dispatch = dispatch
        self._clock = clock
        self._owner = owner
        self._lease = lease
        self._fleet = fleet
        self._hears = tuple(hears)
        self._under_way = UnderWay(clock, patience)
        self._postponed = Postponed(clock)
        self._outage = Outage(clock, long=lease.total_seconds() - self.beat)  # after that, some leases have ended
        self._aftermath = Aftermath(tasks, schedules, store, self._paused)
        self._recorder = Recorder(
            store, aftermath=self._aftermath, postponed=self._postponed, outage=self._outage, hears=hears,
            unrecorded=unrecorded,
        )  # fmt: skip
        self.claims = Claims(
            tasks, schedules, store=store, clock=clock, owner=owner, lease=lease, fleet=fleet,
            under_way=self._under_way, recorder=self._recorder, postponed=self._postponed, outage=self._outage,
        )  # fmt: skip

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
        claimed = self.claims.claim(fire)
        if not isinstance(claimed, Active) or self._begin(claimed):
            return claimed
        return claimed.given_up

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

    def begin(self, active: Active) -> bool:
        """Begin a run that was claimed together with others; False if it is not ours any more, or is of no use."""
        now = self._clock.now()
        if is_past(now, active.latest) or is_past(now, active.expires):
            return self._leave_out(active, "its turn came too late")
        return self._begin(active)

    def finish_all(self, ended: Sequence[tuple[Active, Reply]]) -> None:
        """End runs that have begun, and record them in one go."""
        finished = [(self._ended(active, reply), reply) for active, reply in ended]
        ours = [(run, reply) for run, reply in finished if run is not None]
        self._recorder.settle_all([run for run, _ in ours])
        for run, reply in ours:
            self._say_raised(run, reply)

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
            self._recorder.record_kept()  # before their leases are looked at, which have ended if the outage was long
            if not self._are_leases_spoilt():
                for run in self._store.reap(now):
                    self._recorder.say(run)
            self.claims.look_for_attempts(now)
            self.claims.give_back_unheard()
            if self._fleet:
                self._fleet.beat(self._outage.errors)
        if not self._outage.is_on:
            self.record_late()  # what was just given back

    def _are_leases_spoilt(self) -> bool:
        """Whether leases have ended because nobody could renew them: whoever lives has a lease's time to do so."""
        return self._outage.is_felt(self._lease.total_seconds())

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
        return bool(self._postponed) or self._recorder.unrecorded > 0 or self.claims.is_in_doubt

    def keeps(self, task: str) -> int:
        """How many instants of *task* may wait for a free worker."""
        return self._tasks[task].backlog

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
            with self._outage.endured("what was won unheard is held until its lease has ended"):
                self.claims.give_back_unheard()
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

    def _begin(self, active: Active) -> bool:
        if active.control.reason:  # it was asked to stop before, as all are when the process ends
            return self._leave_out(active, f"it had not begun: {active.control.reason}")
        if not self._under_way.begin(active):
            return False
        for listener in self._hears:
            listener.began(active.run)
        return True

    def _leave_out(self, active: Active, reason: str) -> bool:
        """Record that the claimed run is not begun, unless it is not ours any more; that it is not."""
        missed = not_begun(active.run, self._clock.now(), Outcome.MISSED, reason)
        if self._under_way.give_up(active, lambda _: missed):
            self._recorder.settle(missed)
        return False

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

    def _judged(self, active: Active, reply: Reply) -> Run:
        why = active.control.reason if reply.outcome is Outcome.CANCELLED else ""
        run = active.run
        # `replace` would ask for each of the fields by its name: a twentieth of what a fire costs.
        return Run(
            id=run.id,
            task=run.task,
            due=run.due,
            trigger=run.trigger,
            attempt=run.attempt,
            owner=run.owner,
            started=run.started,
            expires=run.expires,
            finished=self._clock.now(),
            outcome=reply.outcome,
            reason=f"{reply.reason}: {why}" if why else reply.reason,
            status=reply.status,
            duration=reply.duration,
            body=reply.body,
            errors=reply.errors,
            place=run.place,
            recovers=run.recovers,
            lock=run.lock,
            stop=run.stop,
            progress=run.progress,
            result=reply.result,
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
        now = self._clock.now()

        def record_of(active: Active) -> Run:
            if active.began is None:  # it was claimed with others, and was to be the next one
                return not_begun(active.run, now, Outcome.MISSED, f"it had not begun: {reason}")
            duration = (now - (active.run.started or now)).total_seconds()
            return replace(active.run, finished=now, outcome=outcome, reason=reason, duration=duration)

        records = (self._under_way.give_up(active, record_of) for active in given_up)
        return [record for record in records if record is not None]

    def _paused(self, task: str, pause: Pause) -> None:
        for listener in self._hears:
            listener.paused(task, pause)
