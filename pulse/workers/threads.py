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
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from pulse.clock import Clock, Every, processor_time
from pulse.dispatch import Reply
from pulse.errors import ClosedError
from pulse.model import MOST_THREADS, Fire, Outcome, Run
from pulse.runner import Runner
from pulse.underway import Active
from pulse.workers.base import FireQueue, Manner, Workers, say
from pulse.workers.handful import Handful, Taken

log = logging.getLogger(__name__)

IN_TROUBLE: Final = frozenset({Outcome.TIMEOUT, Outcome.ABANDONED})
MOMENT: Final = 0.1  # seconds; a run that lasts longer keeps nobody waiting, and a shorter one is quick
BRISK: Final = 0.0003  # seconds; runs that are over in less are not worth a second thread
BRISK_RUNS: Final = 16  # in a row, after which one thread takes all, until a run takes longer
RELIEF: Final = 2  # threads beyond a bound; a second one, since what is known to be quick may hang this time
STUCK_LIMIT: Final = 2  # threads of one task; a third one would most likely go the same way
CROWD: Final = 32  # threads left behind; with more of them the second one of a task is too many
ABANDONED_LIMIT: Final = 256  # of all tasks; each costs a stack and whatever its endpoint holds
LOOK: Final = 0.05  # seconds; how late the watcher may notice that a run was begun, or lasts
BUSY: Final = 0.5  # of one processor: with so much of it in use a process computes, and does not wait
REPORT: Final = 1.0  # seconds from one look at who is asked to stop to the next
LAST_WORD: Final = 0.6  # seconds that a cancelled run has to say how it ended
LAST_RECORD: Final = 0.9  # seconds after which `close` waits for the store no longer


@dataclass(eq=False, slots=True)
class _Worker:
    """One thread; the lock of `ThreadWorkers` guards its fields."""

    fire: Fire | None = None
    begun: float = 0.0  # monotonic seconds
    lane: Manner | None = None  # of the task that it has been handed
    is_held: bool = False  # by a run that has lasted for more than a moment
    is_abandoned: bool = False
    handful: Handful | None = None  # what it has claimed together
    promise: Future[Run | None] | None = None  # of a thread beside the pool


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
        self._size = workers
        self._is_bound = is_bound
        self._clock = clock
        self._queue = FireQueue()
        self._brisk_runs = 0  # in a row; of two that end in one moment it does not matter which one counts
        self._pool: set[_Worker] = set()
        self._apart: set[_Worker] = set()
        self._abandoned: set[_Worker] = set()
        self._running: set[_Worker] = set()  # those of the first two that have a fire
        self._lock = threading.Lock()  # taken within that of the queue, never the other way round
        self._begun = threading.Event()  # something is being run: the watcher has to look
        self._idle = threading.Event()  # nothing is being run any more; only whoever closes the pool is told
        self._ended = threading.Event()
        self._is_closing = False
        self._is_handing_on = False  # the watcher, what other threads have claimed or run
        self._spare = self._most  # threads that no run holds up, as the watcher has last found

    def start(self) -> None:
        """Make the threads and begin to take fires; once."""
        threading.Thread(target=self._watch, name="pulse-watch", daemon=True).start()
        self._fill()

    def submit(self, fires: Iterable[Fire], *, keep: int = 1) -> None:
        """See `Workers.submit`."""
        self._queue.put(fires, keep=keep)

    def run_apart(self, fire: Fire) -> Future[Run | None]:
        """See `Workers.run_apart`."""
        promise: Future[Run | None] = Future()
        worker = _Worker(promise=promise)
        with self._lock:
            self._apart.add(worker)
        try:
            if not self._begin(worker, fire):
                raise ClosedError("the workers were closed")
            threading.Thread(target=self._work_apart, args=(worker, fire), name="pulse-apart", daemon=True).start()
        except RuntimeError:  # closed, or the system has no thread left
            self._retire(worker)
            raise
        return promise

    def close(self, seconds: float) -> int:
        """See `Workers.close`."""
        until = self._clock.monotonic() + seconds + LAST_RECORD
        with self._lock:  # from here on nothing begins: what has begun has marked itself as busy
            self._is_closing = True
            self._rest()
        waiting = self._queue.close()
        if not self._ended.is_set() and not self._clock.wait(self._idle, seconds):
            self._cancel()
            self._clock.wait(self._idle, LAST_WORD)
            self._ended.set()  # the places of those that are left behind now are not filled
            self._leave_behind(self._runner.abandon())
        self._ended.set()
        self._begun.set()
        self._runner.record_last(max(0.0, until - self._clock.monotonic()))
        return waiting

    @property
    def busy(self) -> int:
        """See `Workers.busy`."""
        with self._lock:
            return len(self._running)

    @property
    def abandoned(self) -> int:
        """How many threads were left behind and have not come back."""
        with self._lock:
            return len(self._abandoned)

    def _cancel(self) -> None:
        self._runner.cancel()

    # The pool

    @property
    def _most(self) -> int:
        """How many threads the pool may have; each holds a run."""
        if not self._is_bound:
            return max(self._size, MOST_THREADS)
        return self._size + RELIEF if self._size > 1 else 1

    def _fill(self, wanted: int = 0) -> None:
        """Make the threads that are missing, to *wanted* of them or at least the usual number."""
        with self._lock:
            missing = 0 if self._is_closing else max(self._size, min(wanted, self._most)) - len(self._pool)
            workers = [_Worker() for _ in range(missing)]
            self._pool.update(workers)
        for worker in workers:
            try:
                threading.Thread(target=self._work, args=(worker,), name="pulse-worker", daemon=True).start()
            except RuntimeError:  # the system has no thread left: the pool is smaller until it has
                self._retire(worker)
                say(log, logging.ERROR, "a worker could not be started", extra={"pulse_event": "worker_failed"})

    def _relieve(self, *, is_computing: bool) -> None:
        """Have threads join the pool for what waits for runs that last.

        Args:
            is_computing: Whether this process has kept a processor busy. Then runs wait for
                that, as requests do, and more of them at once would make it worse.
        """
        self._watch_the_pace()
        lasting = self._runner.lasting(MOMENT)
        with self._lock:
            for worker in self._pool:
                worker.is_held = worker.fire is not None and worker.fire.run_id in lasting
            held = self._count_held()
        self._spare = self._most - held
        if not held:
            return
        if not (self._is_bound or is_computing):
            # All in one step: hundreds of endpoints may hang from one instant on, and what is
            # due in the same instant, behind them, is not to miss it.
            self._fill(held + max(self._size, self._queue.count(Manner.QUICK, Manner.SLOW)))
        elif self._queue.count(Manner.QUICK):
            self._fill(held + self._size)

    def _watch_the_pace(self) -> None:
        """Have the others go on where the one that takes all has not come back: it, or the store, takes its time."""
        latest = self._clock.monotonic() - LOOK / 10
        with self._lock:
            kept = [worker for worker in self._pool if worker.fire is not None and worker.begun < latest]
            handfuls = [worker.handful for worker in kept if worker.handful is not None]
            self._is_handing_on = bool(handfuls)
        if kept and self._brisk_runs:
            self._note_pace(None)
            self._queue.stir()
        try:
            for handful in handfuls:
                self._queue.give_back(handful)
                self._runner.finish_all(handful.done())
        finally:
            with self._lock:
                self._is_handing_on = False
                self._rest()

    def _admits(self, worker: _Worker, lane: Manner) -> bool:
        """Hand *worker* a task of that lane, if there may be one more of them."""
        with self._lock:
            if lane is Manner.QUICK:
                worker.lane = lane
                return True
            handed = [one.lane for one in self._pool if one.lane is not None]
            if self._is_bound and len(handed) >= self._size:
                return False
            # Many that hang must not keep out the others: one thread is left to these.
            if lane is Manner.TROUBLED and handed.count(lane) >= max(1, self._size - 1):
                return False
            worker.lane = lane
            return True

    def _work(self, worker: _Worker) -> None:
        """The outermost frame of a worker thread."""
        admits = partial(self._admits, worker)
        try:
            while not self._is_surplus(worker) and (turn := self._queue.take(admits, self._joins)):
                if isinstance(turn, Handful):
                    self._run_handful(worker, turn)
                elif turn[0].task != turn[-1].task:
                    self._run_together(worker, turn)
                else:
                    self._run_in_turn(worker, turn)
        finally:
            self._retire(worker)
            self._fill()
            self._queue.stir()

    def _joins(self, fire: Fire) -> bool:
        # Without another thread, what is claimed behind a run that hangs would wait for as long: the whole fleet would.
        has_help = self._spare > 1 and not self._abandoned
        return self._queue.is_brisk and has_help and self._runner.claims.may_join(fire)

    def _run_in_turn(self, worker: _Worker, fires: Iterable[Fire]) -> None:
        """Run *fires* of one task; what is left of them is recorded as missed when a later instant is claimed."""
        for fire in fires:
            if worker.is_abandoned or not self._begin(worker, fire):
                return
            self._run(worker, fire)

    def _run_together(self, worker: _Worker, fires: list[Fire]) -> None:
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

    def _run_handful(self, worker: _Worker, handful: Handful) -> None:
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
            self._end(worker)

    def _run_taken(self, worker: _Worker, handful: Handful, fire: Fire, active: Active) -> None:
        with self._lock:
            self._mark_as_busy(worker, fire)
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

    def _is_surplus(self, worker: _Worker) -> bool:
        """Whether *worker* is not needed any more; if it is, it has nothing in hand."""
        with self._lock:
            worker.lane = None
            self._rest()
            is_needed = len(self._pool) <= self._size or len(self._pool) - self._count_held() <= self._size
        return worker.is_abandoned or not (is_needed or self._queue.count(Manner.QUICK, Manner.SLOW))

    def _work_apart(self, worker: _Worker, fire: Fire) -> None:
        """The outermost frame of a thread beside the pool."""
        try:
            self._run(worker, fire)
        finally:
            self._retire(worker)

    def _retire(self, worker: _Worker) -> None:
        with self._lock:
            for workers in (self._pool, self._apart, self._abandoned, self._running):
                workers.discard(worker)
            self._rest()

    def _begin(self, worker: _Worker, fire: Fire) -> bool:
        """Mark *worker* as busy with *fire*; False if the pool is closing."""
        with self._lock:
            if self._is_closing:
                return False
            self._mark_as_busy(worker, fire)
        if not self._begun.is_set():  # the watcher looks for what runs after it has cleared it, so nothing is missed
            self._begun.set()
        return True

    def _mark_as_busy(self, worker: _Worker, fire: Fire) -> None:
        worker.fire = fire
        worker.begun = self._clock.monotonic()
        self._running.add(worker)

    def _run(self, worker: _Worker, fire: Fire) -> None:
        try:
            why_not = self._why_not(fire.task)
            if why_not:
                run = self._runner.claims.dismiss(fire, Outcome.SKIPPED, why_not)
            else:
                run = self._runner.run(fire)
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
            self._end(worker)

    def _end(self, worker: _Worker) -> None:
        with self._lock:
            worker.fire = None
            worker.is_held = False
            self._running.discard(worker)
            self._rest()

    def _note_pace(self, seconds: float | None) -> None:
        """A run took so many *seconds*; None for one that takes its time."""
        is_brisk = self._is_alone and seconds is not None and seconds < BRISK
        self._brisk_runs = self._brisk_runs + 1 if is_brisk else 0
        self._queue.pace(is_brisk=self._brisk_runs >= BRISK_RUNS)

    def _why_not(self, task: str) -> str:
        """Why a run of *task* would only be one more that is left behind; empty if it would not."""
        if not self._abandoned:
            return ""
        with self._lock:
            stuck, left = self._count_stuck(task), len(self._abandoned)
        if stuck >= (STUCK_LIMIT if left < CROWD else 1):
            return f"{stuck} earlier runs never came back from their threads"
        if left >= ABANDONED_LIMIT and self._queue.manner_of(task) in (Manner.TROUBLED, Manner.UNKNOWN):
            return f"{left} runs never came back from their threads, and no run of this task has yet"
        return ""

    # With the lock

    def _rest(self) -> None:
        is_at_work = self._running or self._is_handing_on or any(one.lane for one in self._pool)
        if self._is_closing and not (is_at_work or self._queue.is_owed):
            self._idle.set()

    def _count_held(self) -> int:
        return sum(worker.is_held for worker in self._pool)

    def _count_stuck(self, task: str) -> int:
        return sum(worker.fire is not None and worker.fire.task == task for worker in self._abandoned)

    # The watcher

    def _watch(self) -> None:
        """The outermost frame of the watcher."""
        report, renewal = Every(REPORT, self._clock), Every(self._runner.beat, self._clock)
        effort = Effort(self._clock)
        while not self._ended.is_set():
            if self._clock.wait(self._begun, self._runner.beat):
                self._begun.clear()
                # Most runs are over by then: to look at once would only keep them waiting for the interpreter.
                self._clock.wait(self._ended, LOOK)
            is_needed = bool(self.busy or self._queue.is_owed or self._runner.is_awaited)
            if is_needed:
                self._begun.set()  # stay awake as long as there is a deadline to watch, or somebody waits
            if is_needed or renewal.is_due:
                self._look(report, renewal, effort)

    def _look(self, report: Every, renewal: Every, effort: "Effort") -> None:
        """Renew leases, see to runs that last, and replace the threads whose runs were given up."""
        try:
            self._relieve(is_computing=effort.since_last() > BUSY)
            self._leave_behind(self._runner.give_up_overdue())
            self._fill()
            for fire in self._runner.due_again():
                self._queue.put_back(fire, keep=self._runner.keeps(fire.task))
            if report.has_come():
                self._runner.report()
            if renewal.has_come():
                self._runner.renew()
        # The store may be out of reach for a while; the deadlines must be watched on.
        except Exception as error:  # noqa: BLE001 - it is logged
            extra = {"pulse_event": "renewal_failed"}
            say(log, logging.ERROR, "leases could not be renewed", extra=extra, exc_info=error)

    def _leave_behind(self, given_up: Iterable[Run]) -> None:
        """Take the threads of runs that were given up out of the pool, and fill their places."""
        records = {run.id: run for run in given_up}
        with self._lock:
            working = [worker for worker in self._pool | self._apart if worker.fire]
            stuck = {worker: worker.fire for worker in working if worker.fire and worker.fire.run_id in records}
            for worker in stuck:
                worker.is_abandoned = True
            self._pool.difference_update(stuck)
            self._apart.difference_update(stuck)
            self._running.difference_update(stuck)
            self._abandoned.update(stuck)
            self._rest()
        for worker, fire in stuck.items():
            self._queue.mark(fire.task, Manner.TROUBLED)
            keep_promise(worker.promise, records[fire.run_id])
            self._say_left_behind(fire)
        if stuck:
            self._fill()
            self._queue.stir()

    def _say_left_behind(self, fire: Fire) -> None:
        with self._lock:
            stuck = self._count_stuck(fire.task)
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


class Effort:
    """How much of a processor this process uses."""

    def __init__(self, clock: Clock) -> None:
        """Begin to measure."""
        self._clock = clock
        self._now = clock.monotonic()
        self._used = processor_time()

    def since_last(self) -> float:
        """Processors that were busy, since this was last asked."""
        now, used = self._clock.monotonic(), processor_time()
        share = (used - self._used) / max(now - self._now, 0.001)
        self._now, self._used = now, used
        return share


def keep_promise(promise: Future[Run | None] | None, result: Run | BaseException | None) -> None:
    """Resolve *promise*; a run that was given up may come back to one that is resolved."""
    if promise is None:
        return
    with suppress(InvalidStateError):
        if isinstance(result, BaseException):
            promise.set_exception(result)
        else:
            promise.set_result(result)


def _manner_of(ended: Run | Reply) -> Manner:
    if ended.outcome in IN_TROUBLE:
        return Manner.TROUBLED
    return Manner.QUICK if (ended.duration or 0.0) <= MOMENT else Manner.SLOW


def _say_broke(fire: Fire, error: BaseException) -> None:
    facts = _facts(fire, "run_broke")
    say(log, logging.ERROR, "task=%s due=%s was not run", fire.task, fire.due, extra=facts, exc_info=error)


def _facts(fire: Fire, event: str) -> dict[str, object]:
    return {"pulse_event": event, "pulse_task": fire.task, "pulse_run": fire.run_id, "pulse_due": fire.due}
