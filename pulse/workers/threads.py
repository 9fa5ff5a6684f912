"""mode = threading: a bounded pool of daemon threads, and one that watches their deadlines.

A thread cannot be killed. A run that does not come back by its deadline is given up: its
record says `timeout`, its thread is left behind and replaced, so that the other tasks go
on. How many may be left behind is bounded, a task and altogether. The threads are daemons,
and are no `concurrent.futures`: neither may ever keep the interpreter from ending.

Until its deadline nobody knows whether a run hangs or only takes its time. So one that has
lasted for more than a `MOMENT` keeps nobody waiting: threads join the pool for what is not
known to last, too.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final

from pulse.clock import Clock, Effort, Every
from pulse.dispatch import Reply
from pulse.errors import ClosedError
from pulse.missed import Rung
from pulse.model import Fire, Outcome, Run
from pulse.runner import Runner
from pulse.underway import Active
from pulse.workers.base import LAST_RECORD, LAST_WORD, REPORT, Workers, keep_promise, say
from pulse.workers.handful import Handful, Taken
from pulse.workers.pool import Pool, Worker
from pulse.workers.queue import FireQueue, Manner

log = logging.getLogger(__name__)

IN_TROUBLE: Final = frozenset({Outcome.TIMEOUT, Outcome.ABANDONED})
MOMENT: Final = 0.1  # seconds; a run that lasts longer keeps nobody waiting, and a shorter one is quick
BRISK: Final = 0.0003  # seconds; runs that are over in less are not worth a second thread
BRISK_RUNS: Final = 16  # in a row, after which one thread takes all, until a run takes longer
LOOK: Final = 0.05  # seconds; how late the watcher may notice that a run was begun, or lasts
BUSY: Final = 0.5  # of one processor: with so much of it in use a process computes, and does not wait


class ThreadWorkers(Workers):
    """Runs fires in threads of this process: *workers* at once, and more as long as these last.

    Who has set *workers* wants a bound: then only tasks that are known to be quick pass by
    runs that last, at most `RELIEF` at once, and none at all where *workers* is 1. Else any
    task does whose last run came back, up to `MOST_THREADS` runs at once.
    """

    _is_alone = True  # runs compute in this process, where one keeps the others waiting

    def __init__(self, runner: Runner, *, workers: int, clock: Clock, is_bound: bool = True) -> None:
        """Wire the pool; `start` makes its threads. *is_bound*: whether somebody has set *workers*."""
        self._runner = runner
        self._clock = clock
        self._queue = FireQueue()
        self._pool = Pool(workers, is_bound=is_bound, is_owed=lambda: self._queue.is_owed)
        self._brisk_runs = 0  # in a row; of two that end in one moment it does not matter which one counts
        self._begun = threading.Event()  # something is being run: the watcher has to look
        self._ended = threading.Event()

    def start(self) -> None:
        """Make the threads and begin to take fires; once."""
        threading.Thread(target=self._watch, name="pulse-watch", daemon=True).start()
        self._fill()

    def submit(self, rung: Sequence[Rung]) -> None:
        """See `Workers.submit`."""
        self._queue.put(rung)

    def run_apart(self, fire: Fire) -> Future[Run | None]:
        """See `Workers.run_apart`."""
        promise: Future[Run | None] = Future()
        worker = Worker(promise=promise)
        self._pool.add_apart(worker)
        try:
            if not self._begin(worker, fire):
                raise ClosedError("the workers were closed")
            threading.Thread(target=self._work_apart, args=(worker, fire), name="pulse-apart", daemon=True).start()
        except RuntimeError:  # closed, or the system has no thread left
            self._pool.retire(worker)
            raise
        return promise

    def close(self, seconds: float) -> int:
        """See `Workers.close`."""
        until = self._clock.monotonic() + seconds + LAST_RECORD
        self._pool.close()
        waiting = self._queue.close()
        if not self._ended.is_set() and not self._clock.wait(self._pool.idle, seconds):
            self._cancel()
            self._clock.wait(self._pool.idle, LAST_WORD)
            self._ended.set()  # the places of those that are left behind now are not filled
            self._leave_behind(self._runner.upkeep.abandon())
        self._ended.set()
        self._begun.set()
        self._runner.upkeep.record_last(max(0.0, until - self._clock.monotonic()))
        return waiting

    @property
    def busy(self) -> int:
        """See `Workers.busy`."""
        return self._pool.busy

    @property
    def abandoned(self) -> int:
        """See `Workers.abandoned`."""
        return self._pool.abandoned

    def _cancel(self) -> None:
        self._runner.upkeep.cancel()

    # The threads

    def _fill(self, wanted: int = 0) -> None:
        """Make the threads that are missing, to *wanted* of them or at least the usual number."""
        for worker in self._pool.add(wanted):
            try:
                threading.Thread(target=self._work, args=(worker,), name="pulse-worker", daemon=True).start()
            except RuntimeError:  # the system has no thread left: the pool is smaller until it has
                self._pool.retire(worker)
                say(log, logging.ERROR, "a worker could not be started", extra={"pulse_event": "worker_failed"})

    def _relieve(self, *, is_computing: bool) -> None:
        """Have threads join the pool for what waits for runs that last.

        Args:
            is_computing: Whether this process has kept a processor busy. Then runs wait for
                that, as requests do, and more of them at once would make it worse.
        """
        self._watch_the_pace()
        held = self._pool.hold(self._runner.lasting(MOMENT))
        if not held:
            return
        if not (self._pool.is_bound or is_computing):
            # All in one step: hundreds of endpoints may hang from one instant on, and what is
            # due in the same instant, behind them, is not to miss it.
            self._fill(held + max(self._pool.size, self._queue.count(Manner.QUICK, Manner.SLOW)))
        elif self._queue.count(Manner.QUICK):
            self._fill(held + self._pool.size)

    def _watch_the_pace(self) -> None:
        """Have the others go on where the one that takes all has not come back: it, or the store, takes its time."""
        is_kept, handfuls = self._pool.hand_on(self._clock.monotonic() - LOOK / 10)
        try:
            if is_kept and self._brisk_runs:
                self._note_pace(None)
                self._queue.stir()
            for handful in handfuls:
                self._queue.give_back(handful)
                self._runner.finish_all(handful.done())
        finally:
            if handfuls:
                self._pool.handed_on()

    def _work(self, worker: Worker) -> None:
        """The outermost frame of a worker thread."""
        admits = partial(self._pool.admits, worker)
        try:
            while not self._is_surplus(worker) and (turn := self._queue.take(admits, self._joins)):
                if isinstance(turn, Handful):
                    self._run_handful(worker, turn)
                elif turn[0].task != turn[-1].task:
                    self._run_together(worker, turn)
                else:
                    self._run_alone(worker, turn[0])
        finally:
            self._pool.retire(worker)
            self._fill()
            self._queue.stir()

    def _joins(self, fire: Fire) -> bool:
        # Without another thread, what is claimed behind a run that hangs would wait for as long: the whole fleet would.
        has_help = self._pool.spare > 1 and not self._pool.abandoned
        return self._queue.is_brisk and has_help and self._runner.claims.may_join(fire)

    def _run_alone(self, worker: Worker, fire: Fire) -> None:
        """Run *fire*; if it has to wait for a run elsewhere, what is behind it does, too."""
        if self._begin(worker, fire):
            self._run(worker, fire)
        if worker.is_abandoned:
            return  # whoever has left it behind has gone on
        if self._runner.claims.is_to_repeat(fire):
            self._queue.rest(fire)
            self._begun.set()  # the watcher has to wake it
        else:
            self._queue.over(fire.task, fire.run_id)

    def _run_together(self, worker: Worker, fires: list[Fire]) -> None:
        """Run one fire each of several tasks, which are claimed together and recorded together."""
        if not self._begin(worker, fires[0]):
            return
        taken: list[Taken] = []
        try:
            taken = self._runner.claims.claim_all(fires)
        except BaseException as error:  # noqa: BLE001 - as in `_run`
            for fire in fires:
                _say_broke(fire, error)
        finally:
            self._run_handful(worker, Handful(taken))

    def _run_handful(self, worker: Worker, handful: Handful) -> None:
        """Run what is claimed, whether the pool is closing or not."""
        worker.handful = handful
        try:
            while taken := handful.next():
                self._run_taken(worker, handful, *taken)
            self._runner.finish_all(handful.done())
        except BaseException as error:  # noqa: BLE001 - as in `_run`
            say(log, logging.ERROR, "runs could not be recorded", extra={"pulse_event": "run_broke"}, exc_info=error)
        finally:
            worker.handful = None
            self._pool.end(worker)

    def _run_taken(self, worker: Worker, handful: Handful, fire: Fire, active: Active) -> None:
        self._pool.go_on(worker, fire, self._clock.monotonic())
        try:
            if not self._runner.begin(active):
                return
            reply = self._runner.perform(active)
            handful.note(active, reply)
            if not worker.is_abandoned:
                self._queue.mark(fire.task, _manner_of(reply))
                self._note_pace(reply.duration)
        except BaseException as error:  # noqa: BLE001 - as in `_run`
            _say_broke(fire, error)

    def _is_surplus(self, worker: Worker) -> bool:
        """Whether *worker* is not needed any more; if it is, it has nothing in hand."""
        is_spare = self._pool.spares(worker)
        return worker.is_abandoned or (is_spare and not self._queue.count(Manner.QUICK, Manner.SLOW))

    def _work_apart(self, worker: Worker, fire: Fire) -> None:
        """The outermost frame of a thread beside the pool."""
        try:
            self._run(worker, fire)
        finally:
            self._pool.retire(worker)

    def _begin(self, worker: Worker, fire: Fire) -> bool:
        """Mark *worker* as busy with *fire*; False if the pool is closing."""
        if not self._pool.begin(worker, fire, self._clock.monotonic()):
            return False
        if not self._begun.is_set():  # the watcher looks for what runs after it has cleared it, so nothing is missed
            self._begun.set()
        return True

    def _run(self, worker: Worker, fire: Fire) -> None:
        try:
            why_not = self._why_not(fire.task)
            if why_not:
                run = self._runner.claims.dismiss(fire, Outcome.SKIPPED, why_not)
            else:
                run = self._claimed_and_run(fire)
                # What comes back from the dead says nothing of how the task is doing now.
                if run is not None and run.started and not worker.is_abandoned:
                    self._queue.mark(fire.task, _manner_of(run))
                    self._note_pace(run.duration)
            keep_promise(worker.promise, run)
        # The endpoint's exceptions are its run's; what arrives here is a fault of Pulse or of
        # the store. The fire stays unrecorded until the next claim passes over it.
        except BaseException as error:  # noqa: BLE001 - it is told and logged
            keep_promise(worker.promise, error)
            _say_broke(fire, error)
        finally:
            self._pool.end(worker)

    def _claimed_and_run(self, fire: Fire) -> Run | None:
        claimed = self._runner.claim(fire)
        if not isinstance(claimed, Active):
            return claimed
        self._queue.begun(fire.task, fire.run_id, may_overlap=claimed.task.overlap == "allow")
        return self._runner.finish(claimed, self._runner.perform(claimed))

    def _note_pace(self, seconds: float | None) -> None:
        """A run took so many *seconds*; None for one that takes its time."""
        is_brisk = self._is_alone and seconds is not None and seconds < BRISK
        self._brisk_runs = self._brisk_runs + 1 if is_brisk else 0
        self._queue.pace(is_brisk=self._brisk_runs >= BRISK_RUNS)

    def _why_not(self, task: str) -> str:
        """Why a run of *task* would only be one more that is left behind; empty if it would not."""
        return self._pool.why_not(task, self._queue.manner_of(task))

    # The watcher

    def _watch(self) -> None:
        """The outermost frame of the watcher."""
        report, renewal = Every(REPORT, self._clock), Every(self._runner.upkeep.beat, self._clock)
        effort = Effort(self._clock)
        while not self._ended.is_set():
            if self._clock.wait(self._begun, self._runner.upkeep.beat):
                self._begun.clear()
                # Most runs are over by then: to look at once would only keep them waiting for the interpreter.
                self._clock.wait(self._ended, LOOK)
            if self._is_needed or renewal.is_due:
                self._look(report, renewal, effort)
            if self._is_needed:  # also since a look has found what others have left
                self._begun.set()

    @property
    def _is_needed(self) -> bool:
        """Whether the watcher has to stay awake: there is a deadline to watch, or somebody waits."""
        return bool(self.busy or self._queue.is_owed or self._queue.is_resting or self._runner.is_awaited)

    def _look(self, report: Every, renewal: Every, effort: Effort) -> None:
        """Renew leases, see to runs that last, and replace the threads whose runs were given up."""
        try:
            self._relieve(is_computing=effort.since_last() > BUSY)
            self._leave_behind(self._runner.upkeep.give_up_overdue())
            self._fill()
            for fire in self._runner.due_again():
                self._queue.put_back(fire, keep=self._runner.keeps(fire.task))
            if report.has_come():
                self._queue.wake()
                self._runner.upkeep.report()
            if renewal.has_come():
                self._runner.upkeep.renew()
        # The store may be out of reach for a while; the deadlines must be watched on.
        except Exception as error:  # noqa: BLE001 - it is logged
            extra = {"pulse_event": "renewal_failed"}
            say(log, logging.ERROR, "leases could not be renewed", extra=extra, exc_info=error)

    def _leave_behind(self, given_up: Iterable[Run]) -> None:
        """Take the threads of runs that were given up out of the pool, and fill their places."""
        records = {run.id: run for run in given_up}
        stuck = self._pool.leave_behind(records)
        for worker, fire in stuck:
            self._queue.mark(fire.task, Manner.TROUBLED)
            self._queue.over(fire.task, fire.run_id)
            keep_promise(worker.promise, records[fire.run_id])
            self._say_left_behind(fire)
        if stuck:
            self._fill()
            self._queue.stir()

    def _say_left_behind(self, fire: Fire) -> None:
        stuck = self._pool.count_stuck(fire.task)
        what = "the task is suspended until one comes back" if self._why_not(fire.task) else "its thread is replaced"
        say(
            log,
            logging.ERROR,
            "task=%s run=%s did not come back, %d of its runs did not: %s",
            fire.task,
            fire.run_id,
            stuck,
            what,
            extra=_facts(fire, "thread_abandoned"),
        )


def _manner_of(ended: Run | Reply) -> Manner:
    if ended.outcome in IN_TROUBLE:
        return Manner.TROUBLED
    return Manner.QUICK if (ended.duration or 0.0) <= MOMENT else Manner.SLOW


def _say_broke(fire: Fire, error: BaseException) -> None:
    facts = _facts(fire, "run_broke")
    say(log, logging.ERROR, "task=%s due=%s was not run", fire.task, fire.due, extra=facts, exc_info=error)


def _facts(fire: Fire, event: str) -> dict[str, object]:
    return {"pulse_event": event, "pulse_task": fire.task, "pulse_run": fire.run_id, "pulse_due": fire.due}
