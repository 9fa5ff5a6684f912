"""mode = asyncio: runs are tasks of the process's event loop, so one that waits costs no thread.

Two threads claim, since a store may block; the request is made on the loop, and what became
of it is recorded by the same threads. A run that is overdue, or asked to stop, is cancelled
where it awaits; one that does not let itself be cancelled is given up, and one that blocks
the loop, say by a call that is not asynchronous, keeps all others of this mode waiting.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutinefunction
from itertools import takewhile
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
from pulse.workers.handful import HANDFUL
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
    """A run on the loop. Thousands may wait: what is kept for one of them is little."""

    active: Active
    promise: Future[Run | None] | None
    land: Callable[["_Flight"], None]  # called when it has ended
    task: "asyncio.Task[Reply] | None" = None
    began: float = 0.0  # seconds of the loop
    is_late: bool = False
    is_over: bool = False  # its place was given to another one; the lock of `AioWorkers` guards this

    @property
    def run(self) -> Run:
        """What was claimed."""
        return self.active.run

    def cut(self) -> None:
        """Its time is over."""
        assert self.task is not None
        self.is_late = True
        self.task.cancel()

    def __call__(self, _task: "asyncio.Task[Reply]") -> None:
        """Its task has ended."""
        self.land(self)

    def reply(self, now: float) -> Reply:
        """What became of it, when it has ended; *now*: seconds of the loop."""
        assert self.task is not None
        if self.task.cancelled():
            return self._cancelled(self.task.cancelling(), now - self.began)
        error = self.task.exception()
        if error is None:
            return self.task.result()
        # A fault of Pulse: a flight that never lands would be renewed, and keep its place, for ever.
        facts = {"pulse_event": "run_broke", "pulse_task": self.run.task, "pulse_run": self.run.id}
        say(log, logging.ERROR, "task=%s broke", self.run.task, extra=facts, exc_info=error)
        reason = f"a fault of Pulse: {type(error).__name__}"
        return Reply(outcome=Outcome.FAILED, reason=reason, duration=now - self.began)

    def _cancelled(self, requests: int, duration: float) -> Reply:
        timeout = self.active.task.timeout
        if timeout and self.is_late and requests == 1:  # nobody else wanted it
            reason = f"cancelled after {timeout.total_seconds():g} s, before it had sent all of its response"
            return Reply(outcome=Outcome.TIMEOUT, reason=reason, duration=duration)
        reason = "cancelled before it had sent all of its response"
        return Reply(outcome=Outcome.CANCELLED, reason=reason, duration=duration)


class _TimeLimit:
    """Cuts flights that all have the same time limit, and so come to its end in the order in which they began.

    With one timer for all: one for each would take as much as the rest of a flight.
    """

    def __init__(self, limit: timedelta, loop: asyncio.AbstractEventLoop) -> None:
        self._seconds = limit.total_seconds()
        self._loop = loop
        self._flights: dict[_Flight, None] = {}  # a set does not keep the order
        self._is_set = False

    def begin(self, flight: _Flight) -> None:
        """From its beginning on the time of *flight* runs."""
        self._flights[flight] = None
        if not self._is_set:
            self._set(flight)

    def end(self, flight: _Flight) -> None:
        """It has ended."""
        self._flights.pop(flight, None)

    def _set(self, first: _Flight) -> None:
        self._is_set = True
        self._loop.call_at(first.began + self._seconds, self._ring)

    def _ring(self) -> None:
        self._is_set = False
        last = self._loop.time() - self._seconds
        for flight in list(takewhile(lambda one: one.began <= last, self._flights)):
            self.end(flight)
            flight.cut()
        first = next(iter(self._flights), None)
        if first is not None:
            self._set(first)


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
        self._leaving: list[_Flight] = []  # for the loop
        self._landed: list[tuple[_Flight, Reply]] = []  # to be recorded
        self._limits: dict[timedelta, _TimeLimit] = {}  # the loop's
        self._landing = self._land  # made once, not for each flight; so is the context of what their tasks call
        self._around = Context()
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
        while True:
            self._room.acquire()  # before it takes something: what waits in the queue gives way to what is due later
            fires = self._queued()
            if not fires:
                self._room.release()
                return
            if fires[0].task != fires[-1].task:
                self._begin_all(fires)
            else:
                self._begin_in_turn(fires)

    def _begin_in_turn(self, fires: list[Fire]) -> None:
        """Claim *fires* of one task; there is room for the first one."""
        for number, fire in enumerate(fires):
            if number:
                self._room.acquire()
            if not self._begin(fire, None):
                self._room.release()

    def _queued(self) -> list[Fire]:
        """What is to be begun next: fires of one task, or one each of several that are claimed together."""
        fires = self._queue.take(joins=self._joins)
        assert isinstance(fires, list)
        return fires

    def _joins(self, fire: Fire) -> bool:
        return not self._abandoned and self._runner.claims.may_join(fire)

    def _begin_all(self, fires: list[Fire]) -> None:
        """Claim *fires* of different tasks together, as many as there is room for; for the first one there is."""
        room = 1
        while room < len(fires) and self._room.acquire(blocking=False):
            room += 1
        for fire in fires[room:]:
            self._queue.put_back(fire, keep=self._runner.keeps(fire.task))
        begun = self._claim_all(fires[:room])
        for _ in range(room - begun):
            self._room.release()

    def _claim_all(self, fires: list[Fire]) -> int:
        """How many of *fires* were won, and are sent to the loop."""
        if not self._enter(len(fires)):
            return 0
        begun: list[Active] = []
        try:
            begun = [active for _, active in self._runner.claims.claim_all(fires) if self._runner.begin(active)]
        except Exception as error:  # noqa: BLE001 - as in `_begin`
            for fire in fires:
                _say_broke(fire, error)
        self._send([_Flight(active, None, self._landing) for active in begun], of=len(fires))
        return len(begun)

    def _begin(self, fire: Fire, promise: Future[Run | None] | None) -> bool:
        """Claim *fire* and send it to the loop; False if there is nothing to run."""
        if not self._enter(1):
            keep_promise(promise, ClosedError("the workers were closed"))
            return False
        claimed: Active | Run | None = None
        try:
            claimed = self._runner.claim(fire) if self._count_stuck(fire) < STUCK_LIMIT else self._dismiss(fire)
        # What arrives here is a fault of Pulse or of the store; the fire stays unrecorded
        # until the next claim passes over it.
        except Exception as error:  # noqa: BLE001 - it is logged
            keep_promise(promise, error)
            _say_broke(fire, error)
        if isinstance(claimed, Active):
            self._send([_Flight(claimed, promise, self._landing)], of=1)
            return True
        keep_promise(promise, claimed)
        self._send([], of=1)
        return False

    def _enter(self, count: int) -> bool:
        """So many claims begin; False if the workers are closing."""
        with self._work:
            if self._is_closing:
                return False
            self._claiming += count
            self._idle.clear()
        return True

    def _send(self, flights: list[_Flight], *, of: int) -> None:
        """Claims have ended, *of* them, and *flights* are for the loop."""
        with self._work:
            self._claiming -= of
            is_called = bool(self._leaving)  # the loop, and has not come yet
            self._flights.update(flights)
            self._leaving += flights
        if not flights:
            self._rest()
        elif not is_called:
            self._call_loop()

    def _call_loop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._take_off_all)
        except RuntimeError as error:  # the loop was closed, as at the end of the process
            for flight in self._leave():
                self._hand_in(flight, _not_begun(error))

    def _dismiss(self, fire: Fire) -> Run | None:
        reason = f"{self._count_stuck(fire)} earlier runs do not let themselves be cancelled"
        return self._runner.claims.dismiss(fire, Outcome.SKIPPED, reason)

    def _count_stuck(self, fire: Fire) -> int:
        with self._work:
            return sum(flight.run.task == fire.task for flight in self._abandoned)

    # On the loop

    def _take_off_all(self) -> None:
        for flight in self._leave():
            self._take_off(flight)

    def _take_off(self, flight: _Flight) -> None:
        task = flight.active.task
        request = self._dispatcher.perform(task, flight.run, flight.active.control)
        flight.began = self._loop.time()
        try:
            flight.task = self._loop.create_task(request, name=task.name)  # without a name, it makes up one for each
        # Of the loop's own making of tasks; what comes behind it must not stay on the ground.
        except Exception as error:  # noqa: BLE001 - it is recorded
            request.close()
            self._hand_in(flight, _not_begun(error))
            return
        flight.task.add_done_callback(flight, context=self._around)
        if task.timeout:
            self._limit(task.timeout).begin(flight)

    def _limit(self, timeout: timedelta) -> _TimeLimit:
        limit = self._limits.get(timeout)
        if limit is None:
            limit = self._limits[timeout] = _TimeLimit(timeout, self._loop)
        return limit

    def _leave(self) -> list[_Flight]:
        with self._work:
            leaving, self._leaving = self._leaving, []
        return leaving

    def _land(self, flight: _Flight) -> None:
        if timeout := flight.active.task.timeout:
            self._limit(timeout).end(flight)
        self._hand_in(flight, flight.reply(self._loop.time()))

    def _hand_in(self, flight: _Flight, reply: Reply) -> None:
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
                landed, self._landed = self._landed, []
            if not landed:
                return
            for flight, reply in landed:
                if flight.promise is not None:
                    self._settle(flight, reply)
            alone = [one for one in landed if one[0].promise is None]
            for begin in range(0, len(alone), HANDFUL):
                self._settle_all(alone[begin : begin + HANDFUL])

    def _settle_all(self, landed: list[tuple[_Flight, Reply]]) -> None:
        try:
            self._runner.finish_all([(flight.active, reply) for flight, reply in landed])
        except Exception as error:  # noqa: BLE001 - as in `_settle`
            for flight, _ in landed:
                _say_unrecorded(flight.run, error)
        for flight, _ in landed:
            self._free(flight)

    def _settle(self, flight: _Flight, reply: Reply) -> None:
        try:
            keep_promise(flight.promise, self._runner.finish(flight.active, reply))
        # A fault of Pulse, which must not end the thread that all others need.
        except Exception as error:  # noqa: BLE001 - it is logged
            keep_promise(flight.promise, error)
            _say_unrecorded(flight.run, error)
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
            stuck = [flight for flight in self._flights if flight.run.id in records]
        for flight in stuck:
            keep_promise(flight.promise, records[flight.run.id])
            self._free(flight)
            with self._work:
                self._abandoned.add(flight)
            if flight.task is not None:
                give_up(flight.task)
            facts = {"pulse_event": "task_abandoned", "pulse_task": flight.run.task, "pulse_run": flight.run.id}
            message = "task=%s run=%s does not let itself be cancelled"
            say(log, logging.ERROR, message, flight.run.task, flight.run.id, extra=facts)


def _not_begun(error: Exception) -> Reply:
    return Reply(outcome=Outcome.FAILED, reason=f"it could not be begun: {error}")


def known_as_synchronous(app: WsgiApp) -> bool:
    """Whether *app* says of itself that it is synchronous, or is of a framework whose applications are."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(app).__mro__}
    is_known = not kinds.isdisjoint(SYNCHRONOUS) and not is_asynchronous_app(app)
    return is_known or getattr(app, "async_", None) is False


def _say_broke(fire: Fire, error: Exception) -> None:
    facts = {"pulse_event": "run_broke", "pulse_task": fire.task, "pulse_run": fire.run_id}
    say(log, logging.ERROR, "task=%s due=%s was not run", fire.task, fire.due, extra=facts, exc_info=error)


def _say_unrecorded(run: Run, error: Exception) -> None:
    facts = {"pulse_event": "run_broke", "pulse_task": run.task, "pulse_run": run.id}
    say(log, logging.ERROR, "task=%s could not be recorded", run.task, extra=facts, exc_info=error)
