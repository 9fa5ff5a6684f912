"""mode = celery: hands what is due over to Celery, whose workers run it.

Of all processes that ring one wins the fire. It claims it for the queue
(`Claims.reserve`), and sends one message; the run then belongs to whichever worker takes it
over. Nothing of a queue is kept here: what Celery does not deliver is found by its lease.

While the broker does not answer nothing is claimed. What is due is held back, and tried
again as long as its grace lasts; no task waits for another one's message.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Final, Protocol

from pulse.claims import is_past
from pulse.clock import Clock
from pulse.errors import BrokerUnavailableError, ClosedError, StoreUnavailableError
from pulse.missed import Rung
from pulse.model import Fire, Outcome, Run, Trigger
from pulse.runner import Runner
from pulse.runstores.base import RunStore
from pulse.within import within
from pulse.workers.base import LAST_RECORD, Workers, keep_promise, say
from pulse.workers.queue import FireQueue

log = logging.getLogger(__name__)

SENDERS: Final = 2  # threads: while one waits for the store the other one sends
LOOK: Final = 0.25  # seconds between two looks for the record that somebody waits for
REPORT: Final = 1.0  # seconds between two looks at what waits in the queue
TRY_AGAIN: Final = 1.0  # seconds until a broker that did not answer is asked again
SILENCE: Final = 60.0  # seconds between two lines about the same outage
JOIN: Final = 1.0  # seconds; a sender that waits for the broker longer is a daemon
ENDED: Final = "the process ended while it was being sent to Celery"


class Post(Protocol):
    """The way to Celery's workers; safe to use from many threads at once, and never blocks for long."""

    def knock(self) -> None:
        """See whether the broker answers.

        Raises:
            BrokerUnavailableError: it does not.
        """

    def send(self, run: Run, until: datetime) -> None:
        """Have a worker take over the reserved *run*, of which it is useful to begin until *until*.

        Raises:
            BrokerUnavailableError: the broker did not take it, as far as is known.
        """

    def recall(self, run: Run) -> None:
        """Have no worker look at the message about *run*, if that can be done."""


class Courier(Workers):
    """Claims fires for the queue and sends them; `run_apart` waits for the record, wherever it is made."""

    def __init__(self, runner: Runner, post: Post, *, store: RunStore, clock: Clock) -> None:
        """Wire it; `start` makes its threads.

        Args:
            runner: Claims; nothing is run by it.
            post: To the workers.
            store: Where the records are that somebody waits for.
            clock: Of this process.
        """
        self._runner = runner
        self._post = post
        self._store = store
        self._clock = clock
        self._queue = FireQueue()
        self._held_back: dict[str, deque[Fire]] = {}
        self._in_hand: dict[str, Run] = {}  # claimed, and being sent
        self._unsent: dict[str, Run] = {}  # claimed when the broker ceased to answer
        self._sent: set[str] = set()  # what was in the queue when it was last looked at, or was sent since
        self._promises: dict[str, tuple[Run, Future[Run | None]]] = {}
        self._problem = ""  # why the broker did not answer
        self._asked = self._said = float("-inf")  # monotonic seconds: when it was last asked, and last complained of
        self._lock = threading.Lock()
        self._begun = threading.Event()  # there is something to look after
        self._ended = threading.Event()
        self._is_cleared = False  # what is claimed from now on, nobody gives back but who has claimed it
        self._senders: list[threading.Thread] = []
        self._sending = 0

    def start(self) -> None:
        """Make the threads; once."""
        threading.Thread(target=self._watch, name="pulse-watch", daemon=True).start()
        for _ in range(SENDERS):
            sender = threading.Thread(target=self._work, name="pulse-send", daemon=True)
            sender.start()
            self._senders.append(sender)

    def submit(self, rung: Sequence[Rung]) -> None:
        """See `Workers.submit`."""
        self._queue.put(rung)

    def run_apart(self, fire: Fire) -> Future[Run | None]:
        """See `Workers.run_apart`; it is run by a worker of Celery, like any other."""
        promise: Future[Run | None] = Future()
        if self._ended.is_set():
            raise ClosedError("the workers were closed")
        threading.Thread(target=self._send_apart, args=(fire, promise), name="pulse-apart", daemon=True).start()
        return promise

    def close(self, seconds: float) -> int:
        """See `Workers.close`; what was handed over goes on without this process."""
        waiting = self._queue.close()
        self._ended.set()
        self._begun.set()
        end = self._clock.monotonic() + min(seconds, JOIN)
        for sender in self._senders:
            sender.join(max(0.0, end - self._clock.monotonic()))
        with self._lock:
            waiting += sum(map(len, self._held_back.values()))
            self._is_cleared = True
            left = [*self._unsent.values(), *self._in_hand.values()]
            self._unsent, self._in_hand = {}, {}
            promises, self._promises = self._promises, {}
        if left or self._runner.is_awaited:
            within(LAST_RECORD, lambda: self._give_back(left), self._clock)
        for run, promise in promises.values():
            keep_promise(promise, _not_awaited(run))
        return waiting

    def _give_back(self, left: Iterable[Run]) -> None:
        """Record what nobody will send; what has come to a worker even so is the worker's."""
        for run in left:
            self._runner.claims.withdraw(run, Outcome.MISSED, self._problem or ENDED)
        self._runner.upkeep.record_late()

    @property
    def busy(self) -> int:
        """How many fires are being sent."""
        return self._sending

    def hand_over(self, fire: Fire) -> Run | None:
        """Claim *fire* for the queue and send it; the record instead if one was made, or None.

        Raises:
            BrokerUnavailableError: nothing was claimed.
            ClosedError: likewise; the process ends.
        """
        self._must_answer()
        if self._ended.is_set():  # while the broker was asked
            raise ClosedError("the workers were closed")
        run = self._runner.claims.reserve(fire)
        if run is not None and run.is_reserved:
            self._send(run)
        return run

    # The broker

    def _must_answer(self) -> None:
        """Raise if the broker is known to be silent.

        It is asked now and then, and not for each fire: each would wait for it.
        """
        if not self._problem:
            return
        if self._clock.monotonic() - self._asked < TRY_AGAIN:
            raise BrokerUnavailableError(self._problem)
        try:
            self._post.knock()
        except BrokerUnavailableError as error:
            self._note_silence(error)
            raise
        self._note_answer()

    def _note_silence(self, error: BrokerUnavailableError) -> None:
        with self._lock:
            self._problem, self._asked = str(error), self._clock.monotonic()
            is_news = self._asked - self._said >= SILENCE
            if is_news:
                self._said = self._asked
        if is_news:
            extra = {"pulse_event": "broker_unavailable"}
            say(log, logging.ERROR, "%s: nothing is handed over", error, extra=extra)

    def _note_answer(self) -> None:
        with self._lock:
            was_silent, self._problem, self._said = bool(self._problem), "", float("-inf")
        if was_silent:
            say(log, logging.WARNING, "Celery's broker answers again", extra={"pulse_event": "broker_back"})

    def _send(self, run: Run) -> None:
        if not self._take_in_hand(run):
            self._give_back([run])
            return
        try:
            self._post.send(run, run.expires or run.due)
        except BrokerUnavailableError as error:
            self._note_silence(error)
            self._note_unsent(run, str(error))
        else:
            self._note_sent(run)
        self._begun.set()

    def _take_in_hand(self, run: Run) -> bool:
        """Whether *run* may be sent; what is in hand when the process ends is given back by `close`."""
        with self._lock:
            if not self._is_cleared:
                self._in_hand[run.id] = run
            return not self._is_cleared

    def _note_sent(self, run: Run) -> None:
        with self._lock:
            if self._in_hand.pop(run.id, None) is None:
                return  # it was given back: its message is about nothing
            self._sent.add(run.id)
        facts = {"pulse_event": "handed_over", "pulse_task": run.task, "pulse_run": run.id}
        say(log, logging.DEBUG, "task=%s run=%s waits for a worker of Celery", run.task, run.id, extra=facts)

    def _note_unsent(self, run: Run, problem: str) -> None:
        by_hand = run.trigger is Trigger.MANUAL  # whoever calls would wait for the broker, too
        with self._lock:
            if self._in_hand.pop(run.id, None) is None:
                return
            if not by_hand:
                self._unsent[run.id] = run
        if by_hand:
            self._runner.claims.withdraw(run, Outcome.MISSED, problem)

    # The senders

    def _work(self) -> None:
        """The outermost frame of a sender."""
        while fires := self._queue.get():
            for fire in fires:
                if self._ended.is_set():
                    return  # what is not claimed belongs to whichever process asks next
                self._hand_over_or_hold_back(fire)

    def _hand_over_or_hold_back(self, fire: Fire) -> None:
        with self._lock:
            self._sending += 1
        try:
            self.hand_over(fire)
            is_over = not self._runner.claims.is_to_repeat(fire)
        except BrokerUnavailableError as error:
            is_over = self._put_off(fire, str(error))
        except ClosedError:
            return  # what is not claimed belongs to whichever process asks next
        # A fault of Pulse or of the store: the fire stays unrecorded until the next claim passes over it.
        except Exception as error:  # noqa: BLE001 - it is logged
            facts = {"pulse_event": "run_broke", "pulse_task": fire.task, "pulse_run": fire.run_id}
            said = "task=%s due=%s was not handed over"
            say(log, logging.ERROR, said, fire.task, fire.due, extra=facts, exc_info=error)
            is_over = True
        finally:
            with self._lock:
                self._sending -= 1
        if is_over:
            self._queue.over(fire.task, fire.run_id)
        else:
            self._queue.rest(fire)
            self._begun.set()  # the watcher has to wake it

    def _put_off(self, fire: Fire, problem: str) -> bool:
        """Have *fire* wait for the broker; whether those behind it do not wait with it."""
        if not fire.is_in_turn:
            self._hold_back(fire, problem)
        elif is_past(self._clock.now(), fire.latest):
            self._dismiss(fire, problem)  # who asks why shall read that it was the broker
        else:
            return False
        return True

    def _hold_back(self, fire: Fire, problem: str) -> None:
        with self._lock:
            held = self._held_back.setdefault(fire.track, deque())
            if fire not in held:
                held.append(fire)
            passed = [held.popleft() for _ in range(len(held) - self._runner.keeps(fire.task))]
        for older in passed:
            self._dismiss(older, problem)
        self._begun.set()

    def _send_apart(self, fire: Fire, promise: Future[Run | None]) -> None:
        """The outermost frame of the thread of a call by hand."""
        try:
            run = self.hand_over(fire)
            if run is None or not run.is_reserved:
                keep_promise(promise, run)
                return
            with self._lock:
                self._promises[run.id] = (run, promise)  # the watcher looks for its record
            self._begun.set()
            if self._ended.is_set():
                keep_promise(promise, _not_awaited(run))
        except BrokerUnavailableError as error:
            keep_promise(promise, self._dismiss(fire, str(error)))
        except Exception as error:  # noqa: BLE001 - whoever called it by hand is told
            keep_promise(promise, error)

    def _dismiss(self, fire: Fire, problem: str) -> Run | None:
        return self._runner.claims.dismiss(fire, Outcome.MISSED, problem)

    # The watcher

    def _watch(self) -> None:
        renewed = looked = self._clock.monotonic()
        while not self._ended.is_set():
            self._clock.wait(self._begun, self._runner.upkeep.beat)
            self._begun.clear()
            if self._is_busy():
                self._begun.set()  # stay awake as long as there is something to look after
            try:
                now = self._clock.monotonic()
                if now - renewed >= self._runner.upkeep.beat:  # first: it says that the store is away, the others raise
                    renewed = now
                    self._runner.upkeep.renew()
                self._offer_again()
                self._keep_promises()
                is_waited_for = self._sent or self._queue.is_resting
                if (is_waited_for and now - looked >= REPORT) or now - looked >= self._runner.upkeep.beat:
                    looked = now
                    self._queue.wake()
                    self._look_at_the_queue()
            except StoreUnavailableError as error:
                extra = {"pulse_event": "store_unavailable"}
                say(log, logging.DEBUG, "%s: the queue is looked after later", error, extra=extra)
            # A fault of Pulse, which must not end the thread.
            except Exception as error:  # noqa: BLE001 - it is logged
                extra = {"pulse_event": "renewal_failed"}
                say(log, logging.ERROR, "the queue could not be looked after", extra=extra, exc_info=error)
            self._clock.wait(self._ended, LOOK)

    def _is_busy(self) -> bool:
        waits = self._held_back or self._unsent or self._sent or self._promises
        return bool(waits or self._queue.is_resting or self._runner.is_awaited)

    def _offer_again(self) -> None:
        """Submit what had to wait, and send what was claimed, if the broker answers now."""
        for fire in self._runner.due_again():
            self._queue.put_back(fire, keep=self._runner.keeps(fire.task))
        if not (self._held_back or self._unsent):
            return
        try:
            self._must_answer()
        except BrokerUnavailableError as error:
            self._drop_what_is_late(str(error))
            return
        with self._lock:
            unsent, self._unsent = self._unsent, {}
            self._in_hand |= unsent  # while one is sent, the process may end
            held_back, self._held_back = self._held_back, {}
        for run in unsent.values():
            self._send(run)
        for fires in held_back.values():
            for fire in reversed(fires):
                self._queue.put_back(fire, keep=self._runner.keeps(fire.task))

    def _drop_what_is_late(self, problem: str) -> None:
        """Record what it is of no use to begin any more: who asks why shall read that it was the broker."""
        now = self._clock.now()
        with self._lock:
            fires = [fire for held in self._held_back.values() for fire in held if fire.latest and fire.latest < now]
            for fire in fires:
                self._held_back[fire.track].remove(fire)
            self._held_back = {track: held for track, held in self._held_back.items() if held}
            late = [run for run in self._unsent.values() if run.expires and run.expires < now]
            for run in late:
                del self._unsent[run.id]
        for fire in fires:
            self._dismiss(fire, problem)
        for run in late:
            self._runner.claims.withdraw(run, Outcome.MISSED, problem)

    def _look_at_the_queue(self) -> None:
        """End what is asked to stop while it waits: there is no process yet that could."""
        queued = [run for run in self._store.running() if run.is_reserved]
        with self._lock:
            self._sent &= {run.id for run in queued}
        for run in queued:
            if run.stop and self._runner.claims.withdraw(run, Outcome.CANCELLED, f"cancelled in the queue: {run.stop}"):
                self._post.recall(run)

    def _keep_promises(self) -> None:
        """Look for the records that are waited for, which a worker of Celery makes."""
        with self._lock:
            awaited = list(self._promises.values())
        if not awaited:
            return
        under_way = {run.id for run in self._store.running()}
        for run, promise in awaited:
            if run.id not in under_way:
                records = (record for record in self._store.history(run.task) if record.id == run.id)
                keep_promise(promise, next(records, None))
                with self._lock:
                    self._promises.pop(run.id, None)


def _not_awaited(run: Run) -> ClosedError:
    return ClosedError(f"this process ends; what becomes of run {run.id} of {run.task} stands in its record")
