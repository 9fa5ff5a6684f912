"""mode = threading: a bounded pool of daemon threads, and one that watches their deadlines.

A thread cannot be killed. A run that does not come back by its deadline is given up: its
record says `timeout`, its thread is left behind and replaced, so that the other tasks go
on. How many may be left behind is bounded, a task and altogether. The threads are daemons,
and are no `concurrent.futures`: neither may ever keep the interpreter from ending.
"""

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pulse.clock import Clock
from pulse.errors import ClosedError
from pulse.model import Fire, Outcome, Run
from pulse.runner import Runner
from pulse.workers.base import FireQueue, Workers

log = logging.getLogger(__name__)

IN_TROUBLE: Final = frozenset({Outcome.TIMEOUT, Outcome.ABANDONED})
STUCK_LIMIT: Final = 2  # of one task; a third thread would most likely go the same way
ABANDONED_LIMIT: Final = 32  # of all tasks; each costs a stack and whatever its endpoint holds
LOOK: Final = 0.25  # seconds; how late the watcher may notice that a run was begun
REPORT: Final = 1.0  # seconds from one look at who is asked to stop to the next
LAST_WORD: Final = 0.9  # seconds that a cancelled run has to say how it ended


@dataclass(eq=False, slots=True)
class _Worker:
    """One thread; the lock of `ThreadWorkers` guards its fields."""

    fire: Fire | None = None
    is_spare: bool = False  # of each pool one thread is kept free for tasks whose runs come back
    is_abandoned: bool = False
    promise: Future[Run | None] | None = None  # of a thread beside the pool


class ThreadWorkers(Workers):
    """Runs at most *workers* fires at once in threads of this process."""

    def __init__(self, runner: Runner, *, workers: int, clock: Clock) -> None:
        """Wire the pool; `start` makes its threads."""
        self._runner = runner
        self._size = workers
        self._clock = clock
        self._queue = FireQueue()
        self._pool: set[_Worker] = set()
        self._apart: set[_Worker] = set()
        self._abandoned: set[_Worker] = set()
        self._lock = threading.Lock()
        self._begun = threading.Event()  # something is being run: the watcher has to look
        self._idle = threading.Event()
        self._idle.set()
        self._ended = threading.Event()
        self._is_closing = False

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
        with self._lock:  # from here on nothing begins: what has begun has marked itself as busy
            self._is_closing = True
        waiting = self._queue.close()
        if not self._ended.is_set() and not self._clock.wait(self._idle, seconds):
            self._cancel()
            self._clock.wait(self._idle, LAST_WORD)
            self._ended.set()  # the places of those that are left behind now are not filled
            self._leave_behind(self._runner.abandon())
        self._ended.set()
        self._begun.set()
        self._runner.record_late()
        return waiting

    @property
    def busy(self) -> int:
        """See `Workers.busy`."""
        with self._lock:
            return self._count_busy()

    @property
    def abandoned(self) -> int:
        """How many threads were left behind and have not come back."""
        with self._lock:
            return len(self._abandoned)

    def _cancel(self) -> None:
        self._runner.cancel()

    # The pool

    def _fill(self) -> None:
        """Make the threads that are missing, as far as the abandoned ones leave room."""
        with self._lock:
            missing = 0 if self._is_closing else self._size - len(self._pool)
            # Past the limit the pool shrinks instead: the number of threads stays bounded.
            missing = min(missing, ABANDONED_LIMIT + self._size - len(self._abandoned) - len(self._pool))
            workers = [_Worker() for _ in range(missing)]
            if workers and self._size > 1 and not any(worker.is_spare for worker in self._pool):
                workers[0].is_spare = True
            self._pool.update(workers)
        for worker in workers:
            try:
                threading.Thread(target=self._work, args=(worker,), name="pulse-worker", daemon=True).start()
            except RuntimeError:  # the system has no thread left: the pool is smaller until it has
                self._retire(worker)
                log.exception("a worker could not be started", extra={"pulse_event": "worker_failed"})

    def _work(self, worker: _Worker) -> None:
        """The outermost frame of a worker thread."""
        try:
            while not worker.is_abandoned and (fires := self._queue.get(is_spare=worker.is_spare)):
                for fire in fires:
                    if worker.is_abandoned or not self._begin(worker, fire):
                        break  # the rest is recorded as missed when a later instant is claimed
                    self._run(worker, fire)
        finally:
            self._retire(worker)
            self._fill()

    def _work_apart(self, worker: _Worker, fire: Fire) -> None:
        """The outermost frame of a thread beside the pool."""
        try:
            self._run(worker, fire)
        finally:
            self._retire(worker)

    def _retire(self, worker: _Worker) -> None:
        with self._lock:
            for workers in (self._pool, self._apart, self._abandoned):
                workers.discard(worker)

    def _begin(self, worker: _Worker, fire: Fire) -> bool:
        """Mark *worker* as busy with *fire*; False if the pool is closing."""
        with self._lock:
            if self._is_closing:
                return False
            worker.fire = fire
            self._idle.clear()
        self._begun.set()
        return True

    def _run(self, worker: _Worker, fire: Fire) -> None:
        with self._lock:
            stuck = self._count_stuck(fire.task)
        try:
            if stuck < STUCK_LIMIT:
                run = self._runner.run(fire)
                # What comes back from the dead says nothing of how the task is doing now.
                if run is not None and run.started and not worker.is_abandoned:
                    self._queue.mark(fire.task, is_troubled=run.outcome in IN_TROUBLE)
            else:
                reason = f"{stuck} earlier runs never came back from their threads"
                run = self._runner.dismiss(fire, Outcome.SKIPPED, reason)
            keep_promise(worker.promise, run)
        # The endpoint's exceptions are its run's; what arrives here is a fault of Pulse or of
        # the store. The fire stays unrecorded until the next claim passes over it.
        except BaseException as error:
            keep_promise(worker.promise, error)
            with suppress(Exception):  # a handler of the log may be what is broken
                log.exception("task=%s due=%s was not run", fire.task, fire.due, extra=_facts(fire, "run_broke"))
        finally:
            with self._lock:
                worker.fire = None
                if not self._count_busy():
                    self._idle.set()

    def _count_busy(self) -> int:
        return sum(worker.fire is not None for worker in self._pool | self._apart)

    def _count_stuck(self, task: str) -> int:
        return sum(worker.fire is not None and worker.fire.task == task for worker in self._abandoned)

    # The watcher

    def _watch(self) -> None:
        """Renew leases, and replace the threads whose runs were given up."""
        renewed = reported = self._clock.monotonic()
        while not self._ended.is_set():
            self._clock.wait(self._begun, self._runner.beat)
            self._begun.clear()
            if self.busy or self._runner.is_awaited:
                self._begun.set()  # stay awake as long as there is a deadline to watch, or somebody waits
            try:
                self._leave_behind(self._runner.give_up_overdue())
                self._fill()
                for fire in self._runner.due_again():
                    self._queue.put_back(fire, keep=self._runner.keeps(fire.task))
                if self._clock.monotonic() - reported >= REPORT:
                    reported = self._clock.monotonic()
                    self._runner.report()
                if self._clock.monotonic() - renewed >= self._runner.beat:
                    renewed = self._clock.monotonic()
                    self._runner.renew()
            # The store may be out of reach for a while; the deadlines must be watched on.
            except Exception:
                log.exception("leases could not be renewed", extra={"pulse_event": "renewal_failed"})
            self._clock.wait(self._ended, LOOK)

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
            self._abandoned.update(stuck)
            if not self._count_busy():
                self._idle.set()
        for worker, fire in stuck.items():
            self._queue.mark(fire.task, is_troubled=True)
            keep_promise(worker.promise, records[fire.run_id])
            self._say_left_behind(fire)
        self._fill()

    def _say_left_behind(self, fire: Fire) -> None:
        with self._lock:
            stuck = self._count_stuck(fire.task)
        what = "the task is suspended until one comes back" if stuck >= STUCK_LIMIT else "its thread is replaced"
        log.error(
            "task=%s run=%s did not come back, %d of its runs did not: %s",
            fire.task,
            fire.run_id,
            stuck,
            what,
            extra=_facts(fire, "thread_abandoned"),
        )


def keep_promise(promise: Future[Run | None] | None, result: Run | BaseException | None) -> None:
    """Resolve *promise*; a run that was given up may come back to one that is resolved."""
    if promise is None:
        return
    with suppress(InvalidStateError):
        if isinstance(result, BaseException):
            promise.set_exception(result)
        else:
            promise.set_result(result)


def _facts(fire: Fire, event: str) -> dict[str, object]:
    return {"pulse_event": event, "pulse_task": fire.task, "pulse_run": fire.run_id, "pulse_due": fire.due}
