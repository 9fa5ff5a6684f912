"""The lifespan of an ASGI application in a process that has no server: a command, a process worker.

There the application is started before its first internal request, on the loop of the
process, and shut down when the process ends.
"""

import asyncio
import atexit
import logging
import os
from contextvars import Context
from typing import Any, Final

from pulse.errors import ResponseError
from pulse.gateway import AsgiApp, Message
from pulse.loop import run_async

GOODBYE: Final = 5.0  # seconds that an application has to shut down when the process ends

log = logging.getLogger(__name__)


class Lead:
    """One lifespan, as a server would lead it; all of it on one loop.

    Attributes:
        pid: Of its process.
        state: What the application leaves for its requests.
    """

    def __init__(self, app: AsgiApp) -> None:
        """Begin; to be called on the loop."""
        self.pid = os.getpid()
        self.state: dict[str, Any] = {}
        self._app = app
        self._said: asyncio.Queue[str] = asyncio.Queue()
        self._said.put_nowait("lifespan.startup")
        self._asked = self._answered = ""
        self._has_started = asyncio.Event()
        self._failure: str | None = None
        # In a context of its own: what the first run may do, what runs behind it must not.
        self._life = asyncio.create_task(self._live(), context=Context())
        _leads.add(self)

    @property
    def has_failed(self) -> bool:
        """Whether the application did not start."""
        return self._failure is not None

    async def started(self) -> None:
        """Wait until the application has started.

        Raises:
            ResponseError: it has not, and says why.
        """
        await self._has_started.wait()
        if self._failure is not None:
            raise ResponseError(f"the application did not start: {self._failure}")

    async def end(self) -> None:
        """Have the application shut down, if it takes part in its lifespan."""
        self._said.put_nowait("lifespan.shutdown")
        await asyncio.wait({self._life})

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:
            if self._answered:
                log.exception("the application ended with an error", extra={"pulse_event": "lifespan_failed"})
            elif self._asked:
                self._failure = f"{type(error).__name__}: {error}"
            # Else it takes no part in a lifespan.
        finally:
            self._has_started.set()
            _leads.discard(self)

    async def _receive(self) -> Message:
        self._asked = await self._said.get()
        return {"type": self._asked}

    async def _send(self, message: Message) -> None:
        self._answered = message["type"]
        if self._answered == "lifespan.startup.failed":
            self._failure = message.get("message") or "it gave no reason"
        self._has_started.set()


_leads: Final[set[Lead]] = set()


@atexit.register  # behind that of `pulse.loop`, so that it comes before it
def _end_all() -> None:
    for lead in [lead for lead in _leads if lead.pid == os.getpid()]:
        try:
            run_async(lead.end(), GOODBYE)
        # The process ends whatever the application does about it.
        except Exception:
            log.exception("the application was not shut down", extra={"pulse_event": "lifespan_failed"})
