"""mode = asyncio: runs are tasks of the process's event loop, so one that waits costs no thread.

Two threads claim, since a store may block; the request is made on the loop, and what became
of it is recorded by the same threads. A run that is overdue, or asked to stop, is cancelled
where it awaits; one that does not let itself be cancelled is given up, and one that blocks
the loop, say by a call that is not asynchronous, keeps all others of this mode waiting.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from typing import Final

from pulse.clock import Clock, Every
from pulse.dispatch import Dispatcher, Reply
from pulse.errors import ClosedError
from pulse.loop import background_loop, give_up
from pulse.missed import Rung
from pulse.model import Fire, Outcome, Run
from pulse.runner import Runner
from pulse.underway import Active
from pulse.workers.base import LAST_RECORD, LAST_WORD, REPORT, Workers, keep_promise, say
from pulse.workers.flight import Flight, TimeLimit
from pulse.workers.handful import HANDFUL
from pulse.workers.pool import STUCK_LIMIT
from pulse.workers.queue import FireQueue

log = logging.getLogger(__name__)

LOOK: Final = 0.25  # seconds from one look of the watcher to the next
HOLD: Final = 10.0  # seconds from one look at what was left behind to the next, when the workers are closed
CLAIMERS: Final = 2  # threads; claims and records of a store that answers take a fraction of a millisecond


class AioWorkers(Workers):
    """Runs at most *workers* fires at once on the event loop of this process."""

    def __init__(self, runner: Runner, dispatcher: Dispatcher, *, workers: int, clock: Clock) -> None:
        """Wire it; `start` makes its threads."""
        self._runner = runner
        self._dispatcher = dispatcher
        self._clock = clock
        self._queue = FireQueue()
        self._room = threading.Semaphore(workers)
        self._flights: set[Flight] = set()
        self._abandoned: set[Flight] = set()
        self._leaving: list[Flight] = []  # for the loop
        self._landed: list[tuple[Flight, Reply]] = []  # to be recorded
        self._limits: dict[timedelta, TimeLimit] = {}  # the loop's
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

    def submit(self, rung: Sequence[Rung]) -> None:
        """See `Workers.submit`."""
        self._queue.put(rung)

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
            self._runner.upkeep.cancel()
            self._cancel_asked()
            self._clock.wait(self._idle, LAST_WORD)
            self._leave_behind(self._runner.upkeep.abandon())
        self._ended.set()
        with self._work:
            self._work.notify_all()
        self._runner.upkeep.record_last(max(0.0, until - self._clock.monotonic()))
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
            if len(fires) > 1:
                self._begin_all(fires)
            elif not self._begin(fires[0], None):
                self._room.release()
                self._end_turn(fires[0])

    def _end_turn(self, fire: Fire) -> None:
        """Nothing was begun: what is behind *fire* waits with it, or not for it."""
        if self._runner.claims.is_to_repeat(fire):
            self._queue.rest(fire)
        else:
            self._queue.over(fire.task, fire.run_id)

    def _queued(self) -> list[Fire]:
        """What is to be begun next: one fire, or one each of several tasks that are claimed together."""
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
        self._send([Flight(active, None, self._landing) for active in begun], of=len(fires))
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
            self._queue.begun(fire.task, fire.run_id, may_overlap=claimed.task.overlap == "allow")
            self._send([Flight(claimed, promise, self._landing)], of=1)
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

    def _send(self, flights: list[Flight], *, of: int) -> None:
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

    def _take_off(self, flight: Flight) -> None:
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

    def _limit(self, timeout: timedelta) -> TimeLimit:
        limit = self._limits.get(timeout)
        if limit is None:
            limit = self._limits[timeout] = TimeLimit(timeout, self._loop)
        return limit

    def _leave(self) -> list[Flight]:
        with self._work:
            leaving, self._leaving = self._leaving, []
        return leaving

    def _land(self, flight: Flight) -> None:
        if timeout := flight.active.task.timeout:
            self._limit(timeout).end(flight)
        self._hand_in(flight, flight.reply(self._loop.time()))

    def _hand_in(self, flight: Flight, reply: Reply) -> None:
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

    def _settle_all(self, landed: list[tuple[Flight, Reply]]) -> None:
        try:
            self._runner.finish_all([(flight.active, reply) for flight, reply in landed])
        except Exception as error:  # noqa: BLE001 - as in `_settle`
            for flight, _ in landed:
                _say_unrecorded(flight.run, error)
        for flight, _ in landed:
            self._free(flight)

    def _settle(self, flight: Flight, reply: Reply) -> None:
        try:
            keep_promise(flight.promise, self._runner.finish(flight.active, reply))
        # A fault of Pulse, which must not end the thread that all others need.
        except Exception as error:  # noqa: BLE001 - it is logged
            keep_promise(flight.promise, error)
            _say_unrecorded(flight.run, error)
        self._free(flight)

    def _free(self, flight: Flight) -> None:
        """It has landed, and is recorded."""
        with self._work:
            self._flights.discard(flight)
            self._abandoned.discard(flight)
        self._give_place(flight)

    def _give_place(self, flight: Flight) -> None:
        """Give the place of *flight* to another one; once."""
        with self._work:
            was_over, flight.is_over = flight.is_over, True
        if not was_over and flight.promise is None:
            self._room.release()
            self._queue.over(flight.run.task, flight.run.id)
        self._rest()

    def _rest(self) -> None:
        with self._work:
            if not self._flights and not self._claiming:
                self._idle.set()

    # The watcher

    def _watch(self) -> None:
        """Renew leases, cancel what is asked to stop, and give up what does not come back."""
        report, renewal = Every(REPORT, self._clock), Every(self._runner.upkeep.beat, self._clock)
        while not self._ended.is_set():
            try:
                self._leave_behind(self._runner.upkeep.give_up_overdue())
                for fire in self._runner.due_again():
                    self._queue.put_back(fire, keep=self._runner.keeps(fire.task))
                if report.has_come():
                    self._queue.wake()
                    self._runner.upkeep.report()
                    self._cancel_asked()
                if renewal.has_come():
                    self._runner.upkeep.renew()
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
        """Cancel, where they await, the runs that are asked to stop."""
        with self._work:  # each once, or what it awaits to tidy up would be cancelled, too
            asked = [one for one in self._flights if one.active.control.reason and one.task and not one.is_asked]
            for flight in asked:
                flight.is_asked = True
        for flight in asked:
            with suppress(RuntimeError):  # the loop was closed at the end of the process
                self._loop.call_soon_threadsafe(flight.task.cancel)  # type: ignore[union-attr]

    def _leave_behind(self, given_up: Iterable[Run]) -> None:
        """Free the places of runs that were given up; what they still do changes nothing."""
        records = {run.id: run for run in given_up}
        if not records:
            return
        with self._work:  # in one step: what lands from now on is not behind any more
            stuck = [flight for flight in self._flights if flight.run.id in records]
            self._flights.difference_update(stuck)
            self._abandoned.update(stuck)
        for flight in stuck:
            keep_promise(flight.promise, records[flight.run.id])
            self._give_place(flight)
            if flight.task is not None:
                give_up(flight.task)
            facts = {"pulse_event": "task_abandoned", "pulse_task": flight.run.task, "pulse_run": flight.run.id}
            message = "task=%s run=%s does not let itself be cancelled"
            say(log, logging.ERROR, message, flight.run.task, flight.run.id, extra=facts)


def _not_begun(error: Exception) -> Reply:
    return Reply(outcome=Outcome.FAILED, reason=f"it could not be begun: {error}")


def _say_broke(fire: Fire, error: Exception) -> None:
    facts = {"pulse_event": "run_broke", "pulse_task": fire.task, "pulse_run": fire.run_id}
    say(log, logging.ERROR, "task=%s due=%s was not run", fire.task, fire.due, extra=facts, exc_info=error)


def _say_unrecorded(run: Run, error: Exception) -> None:
    facts = {"pulse_event": "run_broke", "pulse_task": run.task, "pulse_run": run.id}
    say(log, logging.ERROR, "task=%s could not be recorded", run.task, extra=facts, exc_info=error)
