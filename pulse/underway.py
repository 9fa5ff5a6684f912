"""The runs that this process has claimed: their deadlines, and who asks them to stop."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pulse.clock import Clock
from pulse.control import Control
from pulse.model import Progress, Run, Task
from pulse.runlog import say

# How long after its deadline a run is given up: a response that is still flowing is cut by
# the dispatcher itself between two chunks, which keeps what was captured.
PATIENCE: Final = 0.5


@dataclass(eq=False, slots=True)
class Active:
    """A run of this process, from its claim to its end."""

    task: Task
    run: Run
    control: Control
    latest: datetime | None  # the last instant at which it is useful to begin it
    expires: datetime | None  # when its lease ends, as far as this process knows
    began: float | None = None  # monotonic seconds, as the next one; None while it waits for its turn
    deadline: float | None = None
    told: Progress | None = None  # what the store knows of its progress
    given_up: Run | None = None  # the record, when it was made before the run came back
    is_lost: bool = False  # it is somebody else's, or on record as lost


class UnderWay:
    """The claimed runs by id; safe to use from many threads at once."""

    def __init__(self, clock: Clock, patience: float = PATIENCE) -> None:
        """No run is under way; one is overdue *patience* seconds after its deadline."""
        self._clock = clock
        self._patience = patience
        self._active: dict[str, Active] = {}
        self._ending = ""
        self._lock = threading.Lock()

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._active

    def __len__(self) -> int:
        return len(self._active)

    def take(self, task: Task, run: Run, latest: datetime | None) -> Active:
        """From here on the lease of *run* is renewed."""
        active = Active(task, run, Control(), latest, run.expires)
        with self._lock:
            if self._ending:  # the claim took its time: nothing begins any more
                active.control.stop(self._ending)
            self._active[run.id] = active
        return active

    def begin(self, active: Active) -> bool:
        """From here on its deadline is watched; False if it was lost, or given up, while it waited for its turn."""
        now, timeout = self._clock.monotonic(), active.task.timeout
        with self._lock:
            if not self._has(active):
                return False
            active.began = now
            if timeout:
                active.deadline = now + timeout.total_seconds()
            return True

    def end(self, active: Active) -> None:
        """The run has come back, or is not to be."""
        with self._lock:
            if self._has(active):
                del self._active[active.run.id]

    def lose(self, active: Active) -> bool:
        """Its lease was lost: what has not begun is not to be; False if that was known, or if it has ended."""
        with self._lock:
            if active.is_lost or not self._has(active):
                return False
            active.is_lost = True
            if active.began is None:
                del self._active[active.run.id]
            return True

    def give_up(self, active: Active, record_of: Callable[[Active], Run]) -> Run | None:
        """Have a record stand for a run that has not come back; None if it has.

        What *record_of* says of its beginning is still so when it is given up.
        """
        with self._lock:
            if not self._has(active):
                return None
            del self._active[active.run.id]
            active.given_up = record_of(active)
            return active.given_up

    def everything(self) -> list[Active]:
        """All that is claimed now, and has not ended."""
        with self._lock:
            return list(self._active.values())

    def lasting(self, seconds: float) -> list[Active]:
        """What has been under way for longer than that."""
        last = self._clock.monotonic() - seconds
        return [active for active in self.everything() if active.began is not None and active.began <= last]

    def overdue(self) -> list[Active]:
        """What is to be given up, since *patience* has passed; what will be PATIENCE later is told to stop."""
        now = self._clock.monotonic()
        warned = now - (self._patience - PATIENCE)  # whose deadline was before that is told, at least
        late = [(one, until) for one in self.everything() if (until := one.deadline) is not None and until < warned]
        for one, _ in late:
            one.control.set()
        return [one for one, until in late if now > until + self._patience]

    def stop(self, active: Active, reason: str) -> None:
        """Ask a run to stop; it is overdue if it does not within `kill_grace`."""
        if active.control.reason:
            return
        active.control.stop(reason)
        last = self._clock.monotonic() + active.task.kill_grace.total_seconds()
        active.deadline = last if active.deadline is None else min(active.deadline, last)
        said = f"task={active.run.task} run={active.run.id} is asked to stop: {reason!r}"
        say(logging.WARNING, said, active.run, "asked_to_stop")

    def stop_all(self, reason: str) -> None:
        """Ask every run to stop, and all that are still to begin."""
        with self._lock:
            self._ending = reason
            active = list(self._active.values())
        for one in active:
            one.control.stop(reason)

    def _has(self, active: Active) -> bool:
        """Whether it is under way; with the lock. Another attempt of its run may be, while it does not come back."""
        return self._active.get(active.run.id) is active
