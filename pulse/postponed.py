"""Fires that are to be asked for again: what waits at a limit, and further attempts."""

import threading
from dataclasses import dataclass

from pulse.clock import Clock
from pulse.model import Fire, Run


@dataclass(frozen=True, slots=True)
class _Later:
    when: float  # monotonic seconds
    fire: Fire


class Postponed:
    """Fires of this process by run; safe to use from many threads at once."""

    def __init__(self, clock: Clock) -> None:
        """Nothing waits."""
        self._clock = clock
        self._later: dict[str, _Later] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._later)

    def put(self, fire: Fire, seconds: float = 0.0) -> None:
        """Have *fire* be asked for again; of a task that waits only the last one is."""
        with self._lock:
            for run_id, later in list(self._later.items()):
                if later.fire.track == fire.track and later.fire.attempt == fire.attempt == 1:
                    del self._later[run_id]
            self._later[fire.run_id] = _Later(self._clock.monotonic() + seconds, fire)

    def take(self) -> list[Fire]:
        """Those whose time has come; they wait no longer."""
        if not self._later:
            return []
        now = self._clock.monotonic()
        with self._lock:
            due = [run_id for run_id, later in self._later.items() if later.when <= now]
            return [self._later.pop(run_id).fire for run_id in due]


def attempt_of(run: Run) -> Fire:
    """The fire of a further attempt that waits in the store."""
    return Fire(task=run.task, due=run.due, trigger=run.trigger, run_id=run.id, place=run.place, attempt=run.attempt)
