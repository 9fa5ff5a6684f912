"""The way of an event to a viewer whose connection this process holds."""

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final

from pulse.loop import running_loop

LIMIT: Final = 1000  # events that wait for a viewer; a stalled connection must not take all memory

_log = logging.getLogger(__name__)


class Outlet:
    """A connection and its queue, which any thread may fill.

    Attributes:
        widget_id: The widget that is viewed.
        websocket: The connection, whatever the server calls so.
        queue: Read by the loop that made this; at most `LIMIT` events, the newest.
        user_id: Whose the connection is, if known.
        session_id: Of which user session, if known.
    """

    def __init__(self, widget_id: str, websocket: Any, user_id: str | None, session_id: str | None) -> None:
        """Made on the event loop that will read the queue."""
        self.widget_id = widget_id
        self.websocket = websocket
        self.user_id = user_id
        self.session_id = session_id
        self.queue: asyncio.Queue[Any] = asyncio.Queue(LIMIT)
        self._loop = asyncio.get_running_loop()
        self._has_warned = False

    def put(self, event: Any) -> None:
        """Queue *event*; the oldest one makes room if the viewer does not keep up."""
        if self._loop is running_loop():
            self._put(event)
            return
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:  # it is closed: the event is kept, and whoever waited for it cannot be woken
            with suppress(RuntimeError):
                self._put(event)

    def _put(self, event: Any) -> None:
        if self.queue.full():
            self.queue.get_nowait()
            self._warn()
        self.queue.put_nowait(event)

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "a viewer of widget %s does not keep up and misses events; further ones are missed in silence",
                self.widget_id,
                extra={"pulse_event": "events_missed"},
            )
