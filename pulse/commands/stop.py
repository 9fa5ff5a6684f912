"""How a command that runs tasks ends: in order at the first signal, and at once at the second."""

import logging
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

from pulse.middleware import PulseMiddleware

log = logging.getLogger(__name__)

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
PATIENCE: Final = 6  # seconds; waitress itself gives its requests 5


class Stop:
    """Ends the process in order at the first signal, and at once at the second."""

    def __init__(self, middlewares: Sequence[PulseMiddleware]) -> None:
        self.is_asked = False
        # Side by side, or the timeouts of several filters would add up.
        self._closers = [threading.Thread(target=one.close, name="pulse-close", daemon=True) for one in middlewares]

    def listen(self) -> None:
        """Take the signals; in the main thread only.

        The first of them raises SystemExit in whatever that thread does.
        """
        for number in STOPPING:
            signal.signal(number, self._on_signal)

    def finish(self) -> None:
        """Wait for the running tasks, as long as their filters allow."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not self.is_asked:
            self._begin()
        if any(closer.is_alive() for closer in self._closers):
            log.info("stopping: running tasks may end, a second signal cuts them", extra={"pulse_event": "stopping"})
        for closer in self._closers:
            closer.join()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Now and not when the server has ended: it waits for its own requests, and the time
        # that the tasks have must not begin after theirs.
        self._begin()
        # Some servers swallow what is raised in the middle of a request: then it is raised again.
        signal.signal(signal.SIGALRM, _leave)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE, 1)
        _leave()

    def _begin(self) -> None:
        self.is_asked = True
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)
        for closer in self._closers:
            closer.start()


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)
