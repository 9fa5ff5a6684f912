"""Runs on the event bus: what scheduling tells the shared state (`pulse.config.events`).

Subscribers of the channel `pulse:runs`, in whatever process, learn when a run begins, when
there is a record, and when a task is paused. Whoever misses an event finds the record in
the run store: the bus is for what is shown live.
"""

import asyncio
import logging
import threading
from typing import Any, Final
from weakref import WeakKeyDictionary

from pulse.loop import run_soon
from pulse.model import Pause, Run
from pulse.runlog import document
from pulse.state import EventMessage, get_event_bus, get_worker_id

log = logging.getLogger(__name__)

CHANNEL: Final = "pulse:runs"
UNDER_WAY: Final = 1000  # events on their way to a bus that does not take them; more are dropped


class Announcer:
    """Publishes events of this process, in order; safe to use from any thread, and never in the way."""

    def __init__(self) -> None:
        """The bus is asked for when there is something to say."""
        self._room = threading.BoundedSemaphore(UNDER_WAY)
        self._is_full = False
        # One event after the other: two connections to a server could overtake each other. By
        # loop, since a forked child has another one.
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def began(self, run: Run) -> None:
        """A run has begun: `run.started`."""
        self._publish("run.started", {"owner": run.owner, **document(run)})

    def ended(self, run: Run) -> None:
        """There is a record: `run.finished`."""
        self._publish("run.finished", {"owner": run.owner, **document(run)})

    def paused(self, task: str, pause: Pause) -> None:
        """A task is paused: `task.paused`."""
        until = pause.until.isoformat() if pause.until else None
        said = {"task": task, "since": pause.since.isoformat(), "until": until, "note": pause.note, "by": pause.by}
        self._publish("task.paused", said)

    def _publish(self, event_type: str, data: dict[str, Any]) -> None:
        if not self._room.acquire(blocking=False):
            if not self._is_full:
                facts = {"pulse_event": "events_dropped"}
                log.error("the event bus does not keep up: events of runs are dropped", extra=facts)
            self._is_full = True
            return
        self._is_full = False
        message = EventMessage(event_type=event_type, widget_id="", data=data, source_worker_id=get_worker_id())
        run_soon(self._send(message))

    async def _send(self, message: EventMessage) -> None:
        turn = self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        try:
            async with turn:
                await get_event_bus().publish(CHANNEL, message)
        finally:
            self._room.release()
