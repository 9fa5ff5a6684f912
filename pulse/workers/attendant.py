"""What a process of Celery's that executes runs has of Pulse: it takes them over, and minds them.

The run is executed in the thread that Celery calls in, so that Celery's own time limits
reach it. Beside it one thread renews leases, watches deadlines and passes on who is asked
to stop, as in every process that runs tasks.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pulse.clock import Clock, Every
from pulse.errors import BrokerUnavailableError, StoreUnavailableError
from pulse.fleet import Fleet
from pulse.model import Fire, Outcome, Run
from pulse.runner import Runner
from pulse.workers.base import REPORT, say
from pulse.workers.courier import Post

log = logging.getLogger(__name__)

LOOK: Final = 0.25  # seconds; how late a deadline may be noticed
LAST_RECORDS: Final = 5.0  # seconds that the store has at the end: Celery waits for its processes, which may be many


class Attendant:
    """Runs what was claimed for the queue; safe to use from many threads at once."""

    def __init__(self, runner: Runner, post: Post, *, fleet: Fleet, clock: Clock, at_end: Callable[[], object]) -> None:
        """Wire it; `start` makes its thread.

        Args:
            runner: Executes.
            post: Takes the further attempts of runs.
            fleet: Sets the clock right; this process does not ring.
            clock: Of this process.
            at_end: Called by `close`.
        """
        self._runner = runner
        self._post = post
        self._fleet = fleet
        self._clock = clock
        self._at_end = at_end
        self._busy = 0
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._ended = threading.Event()

    def start(self) -> None:
        """Mind what is run from now on; once.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        self._fleet.watch_the_clock()
        threading.Thread(target=self._watch, name="pulse-watch", daemon=True).start()

    def run(self, fire: Fire) -> Run | None:
        """Take *fire* over, and bring it to its record; None if it is somebody else's.

        Raises:
            StoreUnavailableError: the store does not answer: nothing was run.
        """
        with self._lock:
            self._busy += 1
        self._begun.set()
        try:
            record = self._runner.run(fire)
        finally:
            with self._lock:
                self._busy -= 1
        if record is None and self._runner.is_cut_off:
            raise StoreUnavailableError("the run store does not answer")
        return record

    def close(self) -> None:
        """End the thread, and record what is not recorded yet, or say that it could not be; idempotent."""
        self._ended.set()
        self._begun.set()
        self._runner.upkeep.record_last(LAST_RECORDS)
        self._at_end()

    def _watch(self) -> None:
        report, renewal = Every(REPORT, self._clock), Every(self._runner.upkeep.beat, self._clock)
        while not self._ended.is_set():
            self._clock.wait(self._begun, self._runner.upkeep.beat)
            self._begun.clear()
            try:
                self._runner.upkeep.give_up_overdue()
                self._hand_over_attempts()
                if report.has_come():
                    self._runner.upkeep.report()
                if renewal.has_come():
                    self._runner.upkeep.renew()
                    with suppress(StoreUnavailableError):  # the runner says so, which asks it at each beat
                        self._fleet.watch_the_clock()
            # A fault of Pulse; the deadlines must be watched on.
            except Exception as error:  # noqa: BLE001 - it is logged
                extra = {"pulse_event": "renewal_failed"}
                say(log, logging.ERROR, "leases could not be renewed", extra=extra, exc_info=error)
            if self._busy or self._runner.is_awaited:
                self._begun.set()  # stay awake as long as there is a deadline to watch
            self._clock.wait(self._ended, LOOK)

    def _hand_over_attempts(self) -> None:
        for fire in self._runner.due_again():
            try:
                self._post.knock()
            except BrokerUnavailableError as error:  # it waits in the store for a process that rings
                facts = {"pulse_event": "broker_unavailable", "pulse_task": fire.task, "pulse_run": fire.run_id}
                say(log, logging.WARNING, "%s: run %s waits", error, fire.run_id, extra=facts)
                continue
            run = self._runner.claims.reserve(fire)
            if run is not None and run.is_reserved:
                self._hand_over(run)

    def _hand_over(self, run: Run) -> None:
        try:
            self._post.send(run, run.expires or run.due)
        except BrokerUnavailableError as error:  # nobody would send it until its time is over
            self._runner.claims.withdraw(run, Outcome.MISSED, str(error))
