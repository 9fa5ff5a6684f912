"""What is said when the run store does not answer: once a minute, not once a fire."""

import logging
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final

from pulse.clock import Clock
from pulse.errors import StoreUnavailableError

log = logging.getLogger(__name__)

SILENCE: Final = 60.0  # seconds between two lines about the same outage
# Seconds behind its end, in which calls that began before still give up one by one while others are answered: of a
# server that was frozen, or is overrun when it is back, each would be an outage of its own, and two lines.
LINGERS: Final = 5.0


class Outage:
    """The state of the way to a store; safe to use from any thread.

    Attributes:
        errors: How many steps of the store have failed.
    """

    def __init__(self, clock: Clock, *, long: float) -> None:
        """Nothing is wrong yet; *long*: seconds from which on an outage is felt behind its end."""
        self.errors = 0
        self._clock = clock
        self._long = long
        self._since: float | None = None
        self._said: float | None = None  # when it was last said that it is on; None since it was said to be over
        self._over = float("-inf")  # when that was
        # When the last long one ended, said or not. A shorter one behind it does not hide it: see LINGERS.
        self._long_over = float("-inf")
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return self._since is not None

    def is_felt(self, seconds: float) -> bool:
        """Whether a long outage is on, or ended less than *seconds* ago."""
        now = self._clock.monotonic()
        with self._lock:  # else one that ends at this moment would neither be on nor over
            is_on = self._since is not None and now - self._since >= self._long
            return is_on or now - self._long_over < seconds

    def failed(self, error: Exception, consequence: str) -> None:
        """The store did not answer; *consequence* is what that means, in a few words."""
        now = self._clock.monotonic()
        with self._lock:
            self.errors += 1
            is_news = now - self._over >= LINGERS if self._said is None else now - self._said >= SILENCE
            if self._since is None:
                self._since = now
            if is_news:
                self._said = now
        if is_news:
            with suppress(Exception):  # a handler of the log may be what is broken, and runs end all the same
                log.error("%s: %s", error, consequence, extra={"pulse_event": "store_unavailable"})

    def ended(self) -> None:
        """The store answered; that is said if it was that it did not."""
        if self._since is None:
            return
        now = self._clock.monotonic()
        with self._lock:
            since, self._since = self._since, None
            was_said, self._said = self._said is not None, None
            if was_said:
                self._over = now
            if since is not None and now - since >= self._long:
                self._long_over = now
        if since is not None and was_said:
            with suppress(Exception):  # as above
                facts = {"pulse_event": "store_back"}
                log.warning("the run store answers again, after %.1f s", now - since, extra=facts)

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
