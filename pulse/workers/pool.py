"""The threads of `mode = threading`, and what each of them has in hand.

How many there may be, how many may be left behind with runs that do not come back, and when
nothing is at work any more: decided here; who makes the threads is `pulse.workers.threads`.
"""

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from pulse.model import MOST_THREADS, Fire, Run
from pulse.workers.handful import Handful
from pulse.workers.queue import Manner

RELIEF: Final = 2  # threads beyond a bound; a second one, since what is known to be quick may hang this time
STUCK_LIMIT: Final = 2  # threads of one task; a third one would most likely go the same way
CROWD: Final = 32  # threads left behind; with more of them the second one of a task is too many
ABANDONED_LIMIT: Final = 256  # of all tasks; each costs a stack and whatever its endpoint holds


@dataclass(eq=False, slots=True)
class Worker:
    """One thread; the lock of its `Pool` guards its fields."""

    fire: Fire | None = None
    begun: float = 0.0  # monotonic seconds
    lane: Manner | None = None  # of the task that it has been handed
    is_held: bool = False  # by a run that has lasted for more than a moment
    is_abandoned: bool = False
    handful: Handful | None = None  # what it has claimed together
    promise: Future[Run | None] | None = None  # of a thread beside the pool


class Pool:
    """Keeps the books of the threads; safe to use from many of them at once.

    Attributes:
        size: How many threads there usually are.
        is_bound: Whether there may be but `RELIEF` more; else up to `MOST_THREADS`.
        spare: Threads that no run holds up, as was last found.
        idle: Set when nothing begins any more, and nothing is being run; for whoever closes it.
    """

    def __init__(self, size: int, *, is_bound: bool, is_owed: Callable[[], bool]) -> None:
        """Keep books of no thread.

        Args:
            size: How many there usually are.
            is_bound: Whether there may be but `RELIEF` more.
            is_owed: Whether something is claimed, and waits for a thread. Asked with the lock of
                the pool, which is taken within that of the queue, never the other way round.
        """
        self.size = size
        self.is_bound = is_bound
        self.spare = self.most
        self.idle = threading.Event()
        self._is_owed = is_owed
        self._lock = threading.Lock()
        self._usual: set[Worker] = set()
        self._apart: set[Worker] = set()
        self._abandoned: set[Worker] = set()
        self._running: set[Worker] = set()  # those of the first two that have a fire
        self._is_handing_on = False  # somebody hands on, and records, what other threads have claimed or run
        self._is_closing = False

    def __len__(self) -> int:
        return len(self._usual)

    @property
    def most(self) -> int:
        """How many threads there may be; each holds a run."""
        if not self.is_bound:
            return max(self.size, MOST_THREADS)
        return self.size + RELIEF if self.size > 1 else 1

    @property
    def busy(self) -> int:
        """How many threads have a run in hand."""
        with self._lock:
            return len(self._running)

    @property
    def abandoned(self) -> int:
        """How many threads were left behind and have not come back."""
        return len(self._abandoned)

    def close(self) -> None:
        """From here on nothing begins: what has begun has marked itself as busy."""
        with self._lock:
            self._is_closing = True
            self._rest()

    # Coming and going

    def add(self, wanted: int) -> list[Worker]:
        """New ones, for the threads that are missing to *wanted* of them or at least the usual number."""
        with self._lock:
            missing = 0 if self._is_closing else max(self.size, min(wanted, self.most)) - len(self._usual)
            workers = [Worker() for _ in range(missing)]
            self._usual.update(workers)
        return workers

    def add_apart(self, worker: Worker) -> None:
        """A thread beside the pool."""
        with self._lock:
            self._apart.add(worker)

    def retire(self, worker: Worker) -> None:
        """Its thread ends."""
        with self._lock:
            for workers in (self._usual, self._apart, self._abandoned, self._running):
                workers.discard(worker)
            self._rest()

    def spares(self, worker: Worker) -> bool:
        """Whether there are enough without *worker*, which has nothing in hand."""
        with self._lock:
            worker.lane = None
            self._rest()
            count = len(self._usual)
            return worker.is_abandoned or (count > self.size and count - self._count_held() > self.size)

    # What they have in hand

    def admits(self, worker: Worker, lane: Manner) -> bool:
        """Hand *worker* a task of that lane, if there may be one more of them."""
        with self._lock:
            if lane is Manner.QUICK:
                worker.lane = lane
                return True
            handed = [one.lane for one in self._usual if one.lane is not None]
            if self.is_bound and len(handed) >= self.size:
                return False
            # Many that hang must not keep out the others: one thread is left to these.
            if lane is Manner.TROUBLED and handed.count(lane) >= max(1, self.size - 1):
                return False
            worker.lane = lane
            return True

    def begin(self, worker: Worker, fire: Fire, now: float) -> bool:
        """Mark *worker* as busy with *fire*; False if the pool is closing."""
        with self._lock:
            if self._is_closing:
                return False
            self._mark_as_busy(worker, fire, now)
            return True

    def go_on(self, worker: Worker, fire: Fire, now: float) -> None:
        """Mark *worker* as busy with *fire*, which is claimed: whether the pool is closing or not."""
        with self._lock:
            self._mark_as_busy(worker, fire, now)

    def end(self, worker: Worker) -> None:
        """It has nothing in hand any more."""
        with self._lock:
            worker.fire = None
            worker.is_held = False
            self._running.discard(worker)
            self._rest()

    # What lasts, and what does not come back

    def hold(self, lasting: Collection[str]) -> int:
        """Note which threads are held by the runs *lasting*, by id; how many."""
        with self._lock:
            for worker in self._usual:
                worker.is_held = worker.fire is not None and worker.fire.run_id in lasting
            held = self._count_held()
        self.spare = self.most - held
        return held

    def hand_on(self, latest: float) -> tuple[bool, list[Handful]]:
        """Whether any thread has had its fire since before *latest*, and what such threads have claimed together.

        Until `handed_on` is called the pool is not idle.
        """
        with self._lock:
            kept = [worker for worker in self._usual if worker.fire is not None and worker.begun < latest]
            handfuls = [worker.handful for worker in kept if worker.handful is not None]
            self._is_handing_on = bool(handfuls)
        return bool(kept), handfuls

    def handed_on(self) -> None:
        """What `hand_on` gave has been handed on, and recorded."""
        with self._lock:
            self._is_handing_on = False
            self._rest()

    def leave_behind(self, run_ids: Collection[str]) -> list[tuple[Worker, Fire]]:
        """Go on without the threads of these runs; they, and what they have in hand."""
        with self._lock:
            working = [(worker, worker.fire) for worker in self._usual | self._apart if worker.fire]
            stuck = [(worker, fire) for worker, fire in working if fire.run_id in run_ids]
            for worker, _ in stuck:
                worker.is_abandoned = True
                for workers in (self._usual, self._apart, self._running):
                    workers.discard(worker)
                self._abandoned.add(worker)
            self._rest()
        return stuck

    def count_stuck(self, task: str) -> int:
        """How many threads of *task* were left behind and have not come back."""
        with self._lock:
            return _count_of(task, self._abandoned)

    def why_not(self, task: str, manner: Manner) -> str:
        """Why a run of *task*, whose last one came back in that manner, would only be one more that is left behind.

        Empty if it would not.
        """
        if not self._abandoned:
            return ""
        with self._lock:
            stuck, left = _count_of(task, self._abandoned), len(self._abandoned)
        if stuck >= (STUCK_LIMIT if left < CROWD else 1):
            return f"{stuck} earlier runs never came back from their threads"
        if left >= ABANDONED_LIMIT and manner in (Manner.TROUBLED, Manner.UNKNOWN):
            return f"{left} runs never came back from their threads, and no run of this task has yet"
        return ""

    # With the lock

    def _mark_as_busy(self, worker: Worker, fire: Fire, now: float) -> None:
        worker.fire = fire
        worker.begun = now
        self._running.add(worker)

    def _rest(self) -> None:
        is_at_work = self._running or self._is_handing_on or any(one.lane for one in self._usual)
        if self._is_closing and not (is_at_work or self._is_owed()):
            self.idle.set()

    def _count_held(self) -> int:
        return sum(worker.is_held for worker in self._usual)


def _count_of(task: str, workers: Iterable[Worker]) -> int:
    return sum(worker.fire is not None and worker.fire.task == task for worker in workers)
