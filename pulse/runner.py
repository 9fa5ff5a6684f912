"""The heart: one fire from claim to record.

    claim -> dispatch -> finish

Read `Runner.run` and you know what Pulse does. Whoever executes it, a thread, a process or
a loop, only decides where the request runs.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

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
from pulse.upkeep import RENEWALS, Upkeep

log = logging.getLogger(__name__)


class Runner:
    """Runs fires, one a call; safe to use from many threads at once.

    Attributes:
        claims: How it asks for fires; workers may, too, for several at once, or for a queue.
        upkeep: What is done beside the runs: leases, deadlines, and the end of the process.
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
        self._dispatch = dispatch
        self._clock = clock
        self._hears = tuple(hears)
        self._under_way = UnderWay(clock, patience)
        self._postponed = Postponed(clock)
        # After so long, some leases have ended.
        self._outage = Outage(clock, long=(lease - lease / RENEWALS).total_seconds())
        self._aftermath = Aftermath(tasks, schedules, store, self._paused)
        self._recorder = Recorder(
            store, aftermath=self._aftermath, postponed=self._postponed, outage=self._outage, hears=hears,
            unrecorded=unrecorded,
        )  # fmt: skip
        self.claims = Claims(
            tasks, schedules, store=store, clock=clock, owner=owner, lease=lease, fleet=fleet,
            under_way=self._under_way, recorder=self._recorder, postponed=self._postponed, outage=self._outage,
        )  # fmt: skip
        self.upkeep = Upkeep(
            store, clock=clock, owner=owner, lease=lease, fleet=fleet,
            under_way=self._under_way, recorder=self._recorder, claims=self.claims, outage=self._outage,
        )  # fmt: skip

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
        """Request the endpoint of a run that has begun, in this thread, until it has answered.

        What the endpoint raises is a failed reply, and so is a fault of Pulse itself; what
        interrupts the process (KeyboardInterrupt) goes on to the caller.
        """
        try:
            return self._dispatch(active.task, active.run, active.control)
        except Exception:
            # Not of the endpoint, which can raise what it likes. Without a record the run would be held, and its
            # task be skipped, until its lease has ended.
            with suppress(Exception):  # a handler of the log may be what is broken
                facts = {"pulse_event": "run_broke", "pulse_task": active.run.task, "pulse_run": active.run.id}
                log.exception("task=%s run=%s met a fault of Pulse", active.run.task, active.run.id, extra=facts)
            return Reply(outcome=Outcome.FAILED, reason="a fault of Pulse itself, which the log tells")
        except BaseException:  # somebody interrupts: what is not under way must not be renewed for ever
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
        """Whether there is something for `report`, or for `due_again` before the next beat, in however idle a process.

        An attempt that waits for an hour keeps nobody awake as long.
        """
        return self._postponed.is_near(self.upkeep.beat) or self._recorder.unrecorded > 0 or self.claims.is_in_doubt

    def keeps(self, task: str) -> int:
        """How many instants of *task* may wait for a free worker."""
        return self._tasks[task].backlog

    def lasting(self, seconds: float) -> set[str]:
        """The ids of the runs that have been under way for longer than that."""
        return {active.run.id for active in self._under_way.lasting(seconds)}

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

    def _paused(self, task: str, pause: Pause) -> None:
        for listener in self._hears:
            listener.paused(task, pause)
