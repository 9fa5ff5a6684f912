"""What is said when the run store does not answer: once a minute, not once a fire."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

    @contextmanager
    def endured(self, consequence: str) -> Iterator[None]:
        """Go on behind this block when the store does not answer in it, and say so now and then."""
        try:
            yield
        except StoreUnavailableError as error:
            self.failed(error, consequence)
        else:
            self.ended()
