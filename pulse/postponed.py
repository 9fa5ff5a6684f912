"""Fires that are to be asked for again: what waits at a limit, and further attempts."""

import threading
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from pulse.clock import Clock
from pulse.model import Fire, Run


class _Later(NamedTuple):
    when: float  # monotonic seconds
    number: int  # of two that wait for one moment the first comes first
    key: str
    fire: Fire


class Postponed:
    """Fires of this process; safe to use from many threads at once.

    As many may wait as there are tasks, which all fail or all are held up in one moment: so
    nothing here looks at all of them.
    """

    def __init__(self, clock: Clock) -> None:
        """Nothing waits."""
        self._clock = clock
        self._later: dict[str, _Later] = {}  # by the track, and further attempts by their run
        self._heap: list[_Later] = []  # those, and what they have taken the place of
        self._numbers = count()
        self._lock = threading.Lock()

    def is_near(self, seconds: float) -> bool:
        """Whether the time of one of them comes within so many *seconds*."""
        last = self._clock.monotonic() + seconds
        with self._lock:
            return bool(self._later) and self._heap[0].when <= last

    def put(self, fire: Fire, seconds: float = 0.0) -> None:
        """Have *fire* be asked for again; of a task that waits only the last one is."""
        key = fire.track if fire.attempt == 1 else fire.run_id
        with self._lock:
            later = _Later(self._clock.monotonic() + seconds, next(self._numbers), key, fire)
            self._later[key] = later
            heappush(self._heap, later)

    def take(self) -> list[Fire]:
        """Those whose time has come; they wait no longer."""
        if not self._later:
            return []
        now, taken = self._clock.monotonic(), []
        with self._lock:
            while self._heap and self._heap[0].when <= now:
                later = heappop(self._heap)
                if self._later.get(later.key) is later:
                    taken.append(self._later.pop(later.key).fire)
        return taken


def attempt_of(run: Run) -> Fire:
    """The fire of a further attempt that waits in the store."""
    return Fire(task=run.task, due=run.due, trigger=run.trigger, run_id=run.id, place=run.place, attempt=run.attempt)
