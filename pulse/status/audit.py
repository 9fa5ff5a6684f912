"""Who pressed what: said in the log for ever, and remembered by this process for a while."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

KEPT: Final = 200  # presses; the log has all of them

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Press:
    """Something that somebody had done.

    Attributes:
        at: When.
        by: Who, as far as they said.
        address: From where; behind a proxy that is the proxy's.
        action: `run now`, `cancel`, `pause` or `resume`.
        task: Of which task.
        details: What else they said, in words.
    """

    at: datetime
    by: str
    address: str
    action: str
    task: str
    details: str = ""


class Audit:
    """The last presses in this process; safe to use from any thread."""

    def __init__(self) -> None:
        self._presses: deque[Press] = deque(maxlen=KEPT)

    def note(self, press: Press) -> None:
        """Keep *press*, and say it in the log."""
        self._presses.appendleft(press)
        said = (press.action, press.task, press.by, press.address)
        log.info(
            "%s task=%s by=%r from=%s",
            *said,
            extra={"pulse_event": "pressed", "pulse_task": press.task, "pulse_action": press.action},
        )

    def presses(self) -> Sequence[Press]:
        """The last ones, newest first."""
        return tuple(self._presses)
