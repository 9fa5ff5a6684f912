"""The end of a run: its record, what follows from it, and who is told.

A record that the store cannot take now is kept, and made as soon as it answers.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, takewhile
from typing import Final, Protocol

from pulse.aftermath import Aftermath
from pulse.model import Claimed, Pause, Run
from pulse.outage import Outage
from pulse.postponed import Postponed, attempt_of
from pulse.runlog import log_run, say
from pulse.runstores.base import RunStore
from pulse.runstores.ledger import again_by

UNRECORDED: Final = 1000  # runs that ended during an outage, and some; older ones are found lost by their leases
TOGETHER: Final = 32  # of them in one step of the store: one by one, leases would wait for seconds to be renewed


class Listener(Protocol):
    """Who is told what happens to runs; it never blocks, and never raises."""

    def began(self, run: Run) -> None:
        """A run has begun."""

    def ended(self, run: Run) -> None:
        """There is a record."""

    def paused(self, task: str, pause: Pause) -> None:
        """A task was paused because of its failures."""


class Recorder:
    """Makes the records of one process; safe to use from many threads at once."""

    def __init__(
        self,
        store: RunStore,
        *,
        aftermath: Aftermath,
        postponed: Postponed,
        outage: Outage,
        hears: Sequence[Listener] = (),
        unrecorded: int = UNRECORDED,
    ) -> None:
        """Wire a recorder.

        Args:
            store: Takes the records.
            aftermath: Says whether a task is paused because of what is recorded.
            postponed: Is given the further attempts.
            outage: The state of the way to *store*.
            hears: Told of each record that is made here, in its thread.
            unrecorded: How many records are kept while the store does not answer.
        """
        self._store = store
        self._aftermath = aftermath
        self._postponed = postponed
        self._outage = outage
        self._hears = tuple(hears)
        self._unrecorded: deque[Run] = deque(maxlen=unrecorded)
        self._recording = threading.Lock()
        self._settling: set[str] = set()  # by run; without a lock, as each change is one step of the interpreter

    @property
    def unrecorded(self) -> int:
        """How many runs have ended without a record so far."""
        return len(self._settling) + len(self._unrecorded)

    def settle(self, ended: Run) -> Run | None:
        """Record *ended* now, or as soon as the store answers; None if it is not ours any more."""
        return self._settled([ended])[0]

    def settle_all(self, ended: Sequence[Run]) -> list[Run | None]:
        """The same for several runs, with one step of the store for all that are not tried again."""
        together = [run for run in ended if run.again_at is None]
        records = dict(zip([run.id for run in together], self._settled(together), strict=True)) if together else {}
        return [records[run.id] if run.id in records else self.settle(run) for run in ended]

    def _settled(self, ended: Sequence[Run]) -> list[Run | None]:
        if not self._outage.is_on:  # else each would wait for the store again, and its worker with it
            ids = [run.id for run in ended]
            self._settling.update(ids)
            try:
                with self._outage.endured("what ends now is recorded later"):
                    if len(ended) == 1:
                        return [self.complete(ended[0])]
                    answers = self._store.finish_all(ended)
                    return [self._completed(run, is_ours) for run, is_ours in zip(ended, answers, strict=True)]
            finally:
                self._settling.difference_update(ids)
        for run in ended:
            self.keep(run)
        return list(ended)

    def keep(self, ended: Run) -> None:
        """Record *ended* when it is time for `catch_up`."""
        self._unrecorded.append(ended)

    def complete(self, ended: Run) -> Run | None:
        """Record *ended*; None if it is not ours any more.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        return self._completed(ended, self._finish(ended))

    def _finish(self, ended: Run) -> bool:
        record = ended if ended.again_at is None else replace(ended, again_at=None)
        return self._store.finish(record, again_at=ended.again_at)

    def _is_on_record(self, ended: Run) -> bool:
        """Whether *ended* was recorded before, and the answer was lost: nobody has been told of it."""
        known = self._store.find(ended.task, ended.id)
        said = (ended.attempt, ended.outcome, ended.finished, ended.owner)
        return any((run.attempt, run.outcome, run.finished, run.owner) == said for run in known)

    def _completed(self, ended: Run, is_ours: bool) -> Run | None:  # noqa: FBT001 - what the store has answered
        if not is_ours:
            self.lost(ended)
            return None
        if ended.again_at is not None and ended.finished is not None:
            self._postponed.put(
                attempt_of(replace(ended, trigger=again_by(ended), attempt=ended.attempt + 1)),
                (ended.again_at - ended.finished).total_seconds(),
            )
        return self.tell(ended)

    def catch_up(self) -> None:
        """Record what ended while the store did not answer, if it answers now."""
        if self._unrecorded:
            with self._outage.endured("what has ended is recorded later"):
                self.record_kept()

    def record_kept(self) -> None:
        """Record what ended while the store did not answer.

        Raises:
            StoreUnavailableError: it still does not.
        """
        # The watcher and `close` may both be here: each has to take another record.
        with self._recording:
            while self._unrecorded:
                some = self._first_few()
                answers = [self._finish(some[0])] if len(some) == 1 else self._store.finish_all(some)
                # All are looked for before any is told: what is told is not to be told again.
                ours = [is_ours or self._is_on_record(run) for run, is_ours in zip(some, answers, strict=True)]
                for run, is_ours in zip(some, ours, strict=True):
                    self._completed(run, is_ours)
                for run in some:
                    # Else it has made room for what has ended meanwhile.
                    if self._unrecorded and self._unrecorded[0] is run:
                        self._unrecorded.popleft()

    def _first_few(self) -> list[Run]:
        """What is to be recorded next, in one go if it is not tried once more."""
        some = list(islice(self._unrecorded, TOGETHER))  # in one step of the interpreter: others may append
        return list(takewhile(lambda run: run.again_at is None, some)) or some[:1]

    def noted(self, claimed: Claimed) -> Claimed:
        """Tell what the store has recorded on the occasion of a claim."""
        for record in (*claimed.lost, claimed.missed, claimed.run):
            if record and record.outcome:
                self.tell(record)
        return claimed

    def tell(self, run: Run) -> Run:
        """Tell the log and the listeners that there is a record; and pause its task, if that is what follows."""
        with self._outage.endured("its task is not paused"):
            self._aftermath.see_to(run)
        log_run(run)
        for listener in self._hears:
            listener.ended(run)
        return run

    def lost(self, run: Run) -> None:
        """Say that somebody else has taken *run* over."""
        said = f"task={run.task} run={run.id} lost its lease: its result changes nothing any more"
        say(logging.WARNING, said, run, "lease_lost")
