"""An answer of the run store that strangers may have asked for: kept for a while, and asked for by one thread.

A store that is frozen takes seconds to say nothing. If each request waited for that, some
strangers could hold all threads of a server that serves others as well.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pulse.clock import Clock

T = TypeVar("T")


class Recent(Generic[T]):
    """The newest answer; safe to use from any thread."""

    def __init__(self, ask: Callable[[], tuple[T, float]], clock: Clock, *, stale: float) -> None:
        """Wire it.

        Args:
            ask: The answer of this moment, and for how many seconds it is as good as a new one.
            clock: By which it grows old.
            stale: For how many seconds after that it will do while another thread is asking.
        """
        self._ask = ask
        self._clock = clock
        self._stale = stale
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None

    def get(self) -> T:
        """The answer that is kept, or a new one; only who would be told nothing waits for another thread.

        Raises:
            Exception: what asking raises.
        """
        kept = self._kept
        if kept is not None and self._clock.monotonic() < kept[0]:
            return kept[1]
        will_do = kept is not None and self._clock.monotonic() < kept[0] + self._stale
        if not self._lock.acquire(blocking=not will_do):
            return kept[1]  # type: ignore[index]  # only what will do is not waited for
        try:
            kept = self._kept
            if kept is not None and self._clock.monotonic() < kept[0]:
                return kept[1]  # found by the thread that was waited for
            answer, seconds = self._ask()
            # From the end of asking: of a store that took longer than that nothing would be kept.
            self._kept = self._clock.monotonic() + seconds, answer
            return answer
        finally:
            self._lock.release()
