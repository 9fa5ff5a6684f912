"""What is said when the run store does not answer: once a minute, not once a fire."""

import logging
import threading
from types import TracebackType
from typing import Final

from pulse.clock import Clock
from pulse.errors import StoreUnavailableError

log = logging.getLogger(__name__)

SILENCE: Final = 60.0  # seconds between two lines about the same outage


class Outage:
    """The state of the way to a store; safe to use from any thread."""

    def __init__(self, clock: Clock) -> None:
        """Nothing is wrong yet."""
        self._clock = clock
        self._since: float | None = None
        self._said = 0.0
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return self._since is not None

    def failed(self, error: Exception, consequence: str) -> None:
        """The store did not answer; *consequence* is what that means, in a few words."""
        now = self._clock.monotonic()
        with self._lock:
            is_news = self._since is None or now - self._said >= SILENCE
            if self._since is None:
                self._since = now
            if is_news:
                self._said = now
        if is_news:
            log.error("%s: %s", error, consequence, extra={"pulse_event": "store_unavailable"})

    def ended(self) -> None:
        """The store answered."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            seconds = self._clock.monotonic() - since
            log.warning("the run store answers again, after %.1f s", seconds, extra={"pulse_event": "store_back"})

    def endured(self, consequence: str) -> "_Endured":
        """Go on behind this block when the store does not answer in it, and say so now and then."""
        return _Endured(self, consequence)


class _Endured:
    """No generator: each run enters three of these blocks, and they would take a thirtieth of it."""

    __slots__ = ("_consequence", "_outage")

    def __init__(self, outage: Outage, consequence: str) -> None:
        self._outage = outage
        self._consequence = consequence

    def __enter__(self) -> None:
        """The store is asked within the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, StoreUnavailableError):
            self._outage.failed(error, self._consequence)
            return True
        if error is None:
            self._outage.ended()
        return False
