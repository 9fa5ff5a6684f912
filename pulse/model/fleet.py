"""What processes and people leave in the store for each other, beside claims and runs."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """A task is not run by the schedule for a while; calls by hand go on.

    Attributes:
        since: When it was paused.
        until: When it ends by itself; None for never.
        note: Why.
        by: Who did it.
    """

    since: datetime
    until: datetime | None = None
    note: str = ""
    by: str = ""

    def holds(self, now: datetime) -> bool:
        """Whether it has not ended by itself."""
        return self.until is None or now < self.until

    @property
    def reason(self) -> str:
        """What the records of instants say that it took."""
        return f"the task is paused: {self.note}" if self.note else "the task is paused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Press:
    """Something that somebody had done to a task.

    Attributes:
        at: When.
        by: Who, as far as they said.
        address: From where; behind a proxy that is the proxy's, and of a command it is `command line`.
        action: In words: `run now`, `pause`.
        task: Of which task.
        details: What else they said, in words.
    """

    at: datetime
    by: str
    address: str
    action: str
    task: str
    details: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A process that rings, as it tells the others of its fleet.

    Attributes:
        owner: Its identity (`pulse.instance`).
        started: When it began to ring.
        seen: When it was last heard of.
        digest: The fingerprint of its whole configuration.
        server: What serves in it, or why it rings, in a few words.
        version: Of Pulse.
        refused: How many requests its guards had refused when it was last heard of.
        store_errors: How many steps of the run store had failed in it by then.
    """

    owner: str
    started: datetime
    seen: datetime
    digest: str
    server: str = ""
    version: str = ""
    refused: int = 0
    store_errors: int = 0
