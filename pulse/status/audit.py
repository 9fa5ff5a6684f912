"""Who pressed what: said in the log, and kept in the run store for the whole fleet."""

import logging

from pulse.errors import StoreUnavailableError
from pulse.model import Press
from pulse.runstores.base import RunStore

log = logging.getLogger(__name__)


def note(store: RunStore, press: Press) -> None:
    """Keep *press* in *store*, and say it in the log.

    What was pressed has been done by now: that the store does not answer takes nothing
    of it back, so it is said in the log, and is no error of whoever pressed.
    """
    said = (press.action, press.task, press.by, press.address, press.details)
    facts = {"pulse_task": press.task, "pulse_action": press.action}
    log.info("%s task=%s by=%r from=%s details=%r", *said, extra={"pulse_event": "pressed", **facts})
    try:
        store.keep_press(press)
    except StoreUnavailableError as error:
        log.warning(
            "%s task=%s by=%r from=%s details=%r stands in this log alone: %s",
            *said, error,
            extra={"pulse_event": "press_unkept", **facts},
        )  # fmt: skip
