"""mode = asyncio: runs are tasks of the process's event loop, so one that waits costs no thread.

Two threads claim, since a store may block; the request is made on the loop, and what became
of it is recorded by the same threads. A run that is overdue, or asked to stop, is cancelled
where it awaits; one that does not let itself be cancelled is given up, and one that blocks
the loop, say by a call that is not asynchronous, keeps all others of this mode waiting.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import Final

from pulse.clock import Clock, Every
from pulse.dispatch import Dispatcher, Reply
from pulse.errors import ClosedError
from pulse.gateway import WsgiApp
from pulse.loop import background_loop, give_up
from pulse.model import Fire, Outcome, Run
from pulse.runner import Runner
from pulse.underway import Active
from pulse.workers.base import FireQueue, Workers, say
from pulse.workers.threads import LAST_RECORD, LAST_WORD, REPORT, STUCK_LIMIT, keep_promise

log = logging.getLogger(__name__)

# Whatever their views are, these answer when they are done.
SYNCHRONOUS: Final = frozenset(
    {
        ("flask.app", "Flask"),
        ("django.core.handlers.wsgi", "WSGIHandler"),
        ("pyramid.router", "Router"),
        ("bottle", "Bottle"),
        ("falcon.app", "App"),
    }
)
LOOK: Final = 0.25  # seconds from one look of the watcher to the next
HOLD: Final = 10.0  # seconds from one look at what was left behind to the next, when the workers are closed
CLAIMERS: Final = 2  # threads; claims and records of a store that answers take a fraction of a millisecond


def is_asynchronous_app(app: object) -> bool:
    """Whether the wrapped application is known to answer asynchronously."""
    if iscoroutinefunction(app) or iscoroutinefunction(getattr(app, "__call__", None)):  # noqa: B004 - which it has
        return True
    return bool(getattr(app, "async_", False))


@dataclass(eq=False, slots=True)
class _Flight:
    """A run on the loop; the lock of `AioWorkers` guards its fields."""

    fire: Fire
    active: Active
    promise: Future[Run | None] | None
    task: "asyncio.Task[None] | None" = None
    is_over: bool = False  # its place was given to another one


class AioWorkers(Workers):
    """Runs at most *workers* fires at once on the event loop of this process."""

    def __init__(self, runner: Runner, dispatcher: Dispatcher, *, workers: int, clock: Clock) -> None:
        """Wire it; `start` makes its threads."""
        self._runner = runner
        self._dispatcher = dispatcher
        self._clock = clock
        self._queue = FireQueue()
        self._room = threading.Semaphore(workers)
        self._flights: set[_Flight] = set()
        self._abandoned: set[_Flight] = set()
        self._landed: deque[tuple[_Flight, Reply]] = deque()
        self._work = threading.Condition()
        self._idle = threading.Event()
        self._idle.set()
        self._ended = threading.Event()
        self._claiming = 0
        self._is_closing = False

    def start(self) -> None:
        """Make the threads and begin to take fires; once."""
        self._loop = background_loop()
        threading.Thread(target=self._watch, name="pulse-watch", daemon=True).start()
        threading.Thread(target=self._record, name="pulse-record", daemon=True).start()
        for _ in range(CLAIMERS):
            threading.Thread(target=self._claim, name="pulse-claim", daemon=True).start()

    def submit(self, fires: Iterable[Fire], *, keep: int = 1) -> None:
        """See `Workers.submit`."""
        self._queue.put(fires, keep=keep)

    def run_apart(self, fire: Fire) -> Future[Run | None]:
        """See `Workers.run_apart`."""
        promise: Future[Run | None] = Future()
        if self._is_closing:
            raise ClosedError("the workers were closed")
        threading.Thread(target=self._begin, args=(fire, promise), name="pulse-apart", daemon=True).start()
        return promise

    def close(self, seconds: float) -> int:
        """See `Workers.close`."""
        until = self._clock.monotonic() + seconds + LAST_RECORD
        with self._work:
            self._is_closing = True
        waiting = self._queue.close()
        if not self._ended.is_set() and not self._clock.wait(self._idle, seconds):
            self._runner.cancel()
            self._cancel_asked()
            self._clock.wait(self._idle, LAST_WORD)
            self._leave_behind(self._runner.abandon())
        self._ended.set()
        with self._work:
            self._work.notify_all()
        self._runner.record_last(max(0.0, until - self._clock.monotonic()))
        return waiting

    @property
    def busy(self) -> int:
        """See `Workers.busy`."""
        with self._work:
            return len(self._flights) + self._claiming

    @property
    def abandoned(self) -> int:
        """How many runs do not let themselves be cancelled."""
        with self._work:
            return len(self._abandoned)

    # Claiming

    def _claim(self) -> None:
        """The outermost frame of a thread that claims."""
        while fires := self._queue.get():
            for fire in fires:
                self._room.acquire()
                if not self._begin(fire, None):
                    self._room.release()

    def _begin(self, fire: Fire, promise: Future[Run | None] | None) -> bool:
        """Claim *fire* and send it to the loop; False if there is nothing to run."""
        with self._work:
            if self._is_closing:
                keep_promise(promise, ClosedError("the workers were closed"))
                return False
            self._claiming += 1
            self._idle.clear()
        try:
            claimed = self._runner.claim(fire) if self._count_stuck(fire) < STUCK_LIMIT else self._dismiss(fire)
        # What arrives here is a fault of Pulse or of the store; the fire stays unrecorded
        # until the next claim passes over it.
        except Exception as error:  # noqa: BLE001 - it is logged
            keep_promise(promise, error)
            facts = {"pulse_event": "run_broke", "pulse_task": fire.task, "pulse_run": fire.run_id}
            say(log, logging.ERROR, "task=%s due=%s was not run", fire.task, fire.due, extra=facts, exc_info=error)
            claimed = None
        flight = _Flight(fire, claimed, promise) if isinstance(claimed, Active) else None
        with self._work:
            self._claiming -= 1
            if flight is not None:
                self._flights.add(flight)
            self._work.notify_all()
        if flight is None:
            keep_promise(promise, claimed if isinstance(claimed, Run) else None)
            self._rest()
            return False
        try:
            self._loop.call_soon_threadsafe(self._take_off, flight)
        except RuntimeError as error:  # the loop was closed, as at the end of the process
            self._land(flight, Reply(outcome=Outcome.FAILED, reason=f"it could not be begun: {error}"))
        return True

    def _dismiss(self, fire: Fire) -> Run | None:
        reason = f"{self._count_stuck(fire)} earlier runs do not let themselves be cancelled"
        return self._runner.claims.dismiss(fire, Outcome.SKIPPED, reason)

    def _count_stuck(self, fire: Fire) -> int:
        with self._work:
            return sum(flight.fire.task == fire.task for flight in self._abandoned)

    # On the loop

    def _take_off(self, flight: _Flight) -> None:
        flight.task = self._loop.create_task(self._fly(flight))
        flight.task.add_done_callback(partial(self._see_to, flight))

    def _see_to(self, flight: _Flight, task: "asyncio.Task[None]") -> None:
        """Land what was cancelled before its first step, of which `_fly` knows nothing."""
        if task.cancelled():
            self._land(flight, Reply(outcome=Outcome.CANCELLED, reason="cancelled before it had begun", duration=0.0))

    async def _fly(self, flight: _Flight) -> None:
        active = flight.active
        seconds = active.task.timeout.total_seconds() if active.task.timeout else None
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(seconds):
                reply = await self._dispatcher.perform(active.task, active.run, active.control)
        except TimeoutError:
            reason = f"cancelled after {seconds:g} s, before it had sent all of its response"
            reply = Reply(outcome=Outcome.TIMEOUT, reason=reason, duration=self._clock.monotonic() - started)
        except asyncio.CancelledError:
            reason = "cancelled before it had sent all of its response"
            reply = Reply(outcome=Outcome.CANCELLED, reason=reason, duration=self._clock.monotonic() - started)
        # A fault of Pulse: a flight that never lands would be renewed, and keep its place, for ever.
        except Exception as error:  # noqa: BLE001 - it is logged
            facts = {"pulse_event": "run_broke", "pulse_task": active.run.task, "pulse_run": active.run.id}
            say(log, logging.ERROR, "task=%s broke", active.run.task, extra=facts, exc_info=error)
            reason = f"a fault of Pulse: {type(error).__name__}"
            reply = Reply(outcome=Outcome.FAILED, reason=reason, duration=self._clock.monotonic() - started)
        self._land(flight, reply)

    def _land(self, flight: _Flight, reply: Reply) -> None:
        """Have *flight* recorded; from any thread."""
        with self._work:
            self._landed.append((flight, reply))
            self._work.notify_all()

    # Recording

    def _record(self) -> None:
        """The outermost frame of the thread that records."""
        while True:
            with self._work:
                while not self._landed and not (self._ended.is_set() and not self._flights):
                    self._work.wait(LOOK)
                    if self._ended.is_set() and not self._landed:
                        return
                if not self._landed:
                    return
                flight, reply = self._landed.popleft()
            try:
                keep_promise(flight.promise, self._runner.finish(flight.active, reply))
            # A fault of Pulse, which must not end the thread that all others need.
            except Exception as error:  # noqa: BLE001 - it is logged
                keep_promise(flight.promise, error)
                facts = {"pulse_event": "run_broke", "pulse_task": flight.fire.task, "pulse_run": flight.fire.run_id}
                message = "task=%s could not be recorded"
                say(log, logging.ERROR, message, flight.fire.task, extra=facts, exc_info=error)
            self._free(flight)

    def _free(self, flight: _Flight) -> None:
        """Give the place of *flight* to another one; once."""
        with self._work:
            self._flights.discard(flight)
            self._abandoned.discard(flight)
            was_over, flight.is_over = flight.is_over, True
        if not was_over and flight.promise is None:
            self._room.release()
        self._rest()

    def _rest(self) -> None:
        with self._work:
            if not self._flights and not self._claiming:
                self._idle.set()

    # The watcher

    def _watch(self) -> None:
        """Renew leases, cancel what is asked to stop, and give up what does not come back."""
        report, renewal = Every(REPORT, self._clock), Every(self._runner.beat, self._clock)
        while not self._ended.is_set():
            try:
                self._leave_behind(self._runner.give_up_overdue())
                for fire in self._runner.due_again():
                    self._queue.put_back(fire, keep=self._runner.keeps(fire.task))
                if report.has_come():
                    self._runner.report()
                    self._cancel_asked()
                if renewal.has_come():
                    self._runner.renew()
            # The store may be out of reach for a while; the deadlines must be watched on.
            except Exception as error:  # noqa: BLE001 - it is logged
                extra = {"pulse_event": "renewal_failed"}
                say(log, logging.ERROR, "leases could not be renewed", extra=extra, exc_info=error)
            self._clock.wait(self._ended, LOOK)
        self._hold_what_is_left()

    def _hold_what_is_left(self) -> None:
        """Stay, and with this frame what does not let itself be cancelled, for as long as there is any.

        The interpreter closes a coroutine that it takes down at its end: one that swallows
        that, too, would run on in there for ever.
        """
        with self._work:
            left = [flight.task for flight in self._abandoned if flight.task]
        while any(not task.done() for task in left):
            self._clock.wait(threading.Event(), HOLD)

    def _cancel_asked(self) -> None:
        """Cancel, where they await, the runs that are asked to stop and take no notice of it."""
        with self._work:
            asked = [flight for flight in self._flights if flight.active.control.reason and flight.task]
        for flight in asked:
            with suppress(RuntimeError):  # the loop was closed at the end of the process
                self._loop.call_soon_threadsafe(flight.task.cancel)  # type: ignore[union-attr]

    def _leave_behind(self, given_up: Iterable[Run]) -> None:
        """Free the places of runs that were given up; what they still do changes nothing."""
        records = {run.id: run for run in given_up}
        if not records:
            return
        with self._work:
            stuck = [flight for flight in self._flights if flight.fire.run_id in records]
        for flight in stuck:
            keep_promise(flight.promise, records[flight.fire.run_id])
            self._free(flight)
            with self._work:
                self._abandoned.add(flight)
            if flight.task is not None:
                give_up(flight.task)
            facts = {"pulse_event": "task_abandoned", "pulse_task": flight.fire.task, "pulse_run": flight.fire.run_id}
            message = "task=%s run=%s does not let itself be cancelled"
            say(log, logging.ERROR, message, flight.fire.task, flight.fire.run_id, extra=facts)


def known_as_synchronous(app: WsgiApp) -> bool:
    """Whether *app* says of itself that it is synchronous, or is of a framework whose applications are."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(app).__mro__}
    is_known = not kinds.isdisjoint(SYNCHRONOUS) and not is_asynchronous_app(app)
    return is_known or getattr(app, "async_", None) is False
