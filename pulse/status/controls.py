"""What the window may do to the scheduler, and ask it: the one seam between the two."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pulse.model import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Ringing:
    """The scheduler of the process that is asked.

    Attributes:
        state: In a word: a value of `pulse.start.StartState`.
        reason: Why, in a few words.
        busy: How many fires it is running.
        abandoned: How many of its threads were left behind and have not come back.
        next_ring: When it is to ring next; None if it does not ring, or never will.
        digest: The fingerprint of the configuration by which it rings; empty if it does not.
    """

    state: str
    reason: str = ""
    busy: int = 0
    abandoned: int = 0
    next_ring: datetime | None = None
    digest: str = ""


class Controls(Protocol):
    """What a visitor of the window can have done; all of it returns at once.

    Each raises `UnknownTaskError` for a task that is not there, `StoreUnavailableError`, and
    `ClosedError` after the end of the process was announced, or if it has enough to do.
    """

    def start_run(self, name: str, *, force: bool, by: str) -> str:
        """Run the task *name* by hand, in the background; the id of the run that it may become."""

    def retry(self, run: Run, *, by: str) -> None:
        """Begin another attempt of *run*, the last attempt of it, by hand and in the background."""

    def pause(self, name: str, *, until: datetime | None, note: str, by: str) -> None:
        """Run *name* by hand only, in the whole fleet, until *until* or `resume`."""

    def resume(self, name: str) -> bool:
        """Run *name* by its schedule again; whether it was paused."""

    def ringing(self) -> Ringing:
        """The scheduler of this process."""
