"""The line between a run and who watches it: in one direction `stop`, in the other progress."""

from math import isfinite
from threading import Condition, Event, Lock
from typing import Final

from pulse.model import Progress

LARGEST: Final = 2**53  # above it whole numbers and floats are no longer the same


class Control(Event):
    """Set when the run is to stop; an endpoint finds it as `pulse.cancelled`.

    Safe to use from any thread. All that an `Event` does is done here, since it makes a
    lock and a condition at once, for which every run would pay; few are ever waited for.

    Attributes:
        reason: Why it is to stop; empty if it is not.
        progress: What the run last told of itself.
    """

    # Those of the class, until a run has its own: of most runs nobody asks anything.
    reason = ""
    progress: Progress | None = None
    _is_set = False
    _changed: Condition | None = None  # once somebody waits
    _making: Final = Lock()

    def __init__(self) -> None:
        """Nobody has asked for anything yet."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'set' if self._is_set else 'unset'}>"

    def is_set(self) -> bool:
        """Whether the run is to stop."""
        return self._is_set

    def set(self) -> None:
        """Ask the run to stop, without a reason."""
        self._is_set = True
        changed = self._changed
        if changed is not None:
            with changed:
                changed.notify_all()

    def clear(self) -> None:
        """Take that back."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the run is to stop, at most *timeout* seconds; whether it is."""
        if self._is_set:
            return True
        with self._making:
            changed = self._changed = self._changed or Condition()
        with changed:  # `set` may have come before it was there: so look again
            return changed.wait_for(self.is_set, timeout)

    def stop(self, reason: str) -> None:
        """Ask the run to stop; the first reason stays."""
        self.reason = self.reason or reason
        self.set()

    def tell(self, done: float, total: float | None = None, text: str = "") -> None:
        """How far the run has got; an endpoint finds this as `pulse.progress`.

        It costs next to nothing, so it may be called for every item; what is shown is the
        last word of each second. It does not prolong the time that the run has.

        Args:
            done: How much is done, in whatever unit.
            total: How much there is to do; None if that is not known.
            text: What is being done now, one line.

        Raises:
            TypeError: *done* or *total* is no number, or *text* no text.
            ValueError: one of the numbers is not finite.
        """
        _must_be_finite(done)
        if total is not None:
            _must_be_finite(total)
        if not isinstance(text, str):
            raise TypeError(f"want one line of text, not {text!r:.80}")
        self.progress = Progress(done=done, total=total, text=" ".join(text.split())[:200])


def _must_be_finite(number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"want numbers of what is done and of the total, not {number!r:.80}")
    if (isinstance(number, int) and abs(number) > LARGEST) or not isfinite(number):
        raise ValueError(f"want finite numbers of what is done and of the total, not {number!r}")
