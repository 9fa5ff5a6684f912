"""Calls that may block, made so that whoever makes them does not: at the end of a process nobody waits for ever."""

import logging
import threading
from collections.abc import Callable

from pulse.clock import Clock

log = logging.getLogger(__name__)


def within(seconds: float, call: Callable[[], object], clock: Clock) -> bool:
    """Make *call* in a daemon thread, and wait for it; whether it has come back in *seconds*.

    What it raises is logged. If it has not come back it goes on, as long as the process does.
    """
    return clock.wait(begun(call), seconds)


def begun(call: Callable[[], object]) -> threading.Event:
    """Begin *call* in a daemon thread; set when it has come back. What it raises is logged."""
    ended = threading.Event()

    def work() -> None:
        try:
            call()
        # Nobody else would ever say it.
        except Exception:
            log.exception("a last call failed", extra={"pulse_event": "last_call_failed"})
        finally:
            ended.set()

    try:
        threading.Thread(target=work, name="pulse-last", daemon=True).start()
    except RuntimeError:  # the system has no thread left: late is better than never
        work()
    return ended
