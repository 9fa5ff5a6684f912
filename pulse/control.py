"""The line between a run and who watches it: in one direction `stop`, in the other progress."""

from math import isfinite
from threading import Event
from typing import Final

from pulse.model import Progress

LARGEST: Final = 2**53  # above it whole numbers and floats are no longer the same


class Control(Event):
    """Set when the run is to stop; an endpoint finds it as `pulse.cancelled`.

    Safe to use from any thread.

    Attributes:
        reason: Why it is to stop; empty if it is not.
        progress: What the run last told of itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        self.progress: Progress | None = None

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
