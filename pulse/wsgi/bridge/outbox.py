"""The response of a WSGI application, as messages to an ASGI server."""

import re
from collections.abc import Callable
from typing import Any, Final

from pulse.errors import ResponseError
from pulse.gateway import Send

_STATUS: Final = re.compile(r"[1-5][0-9]{2}( .*)?")
_CONTROL: Final = re.compile(r"[\0\r\n]")  # would begin a header of its own


class Outbox:
    """The messages of one response, from `start_response` to its end; used by one thread or task at a time."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._status: int | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._written: list[bytes] = []
        self._has_begun = False

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """The `start_response` of PEP 3333; the head is sent with the first bytes of the body.

        Raises:
            ResponseError: it was called twice without *exc_info*, or with what cannot be sent.
        """
        if exc_info:
            try:
                if self._has_begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or the frame and the traceback keep each other alive
        elif self._status is not None:
            raise ResponseError("start_response was called twice without exc_info (PEP 3333)")
        if not _STATUS.fullmatch(status):
            raise ResponseError(f"the status is {status!r:.80}; want text such as '200 OK' (PEP 3333)")
        self._headers = [_header(name, value) for name, value in headers]
        self._status = int(status[:3])
        return self._written.append

    async def add(self, chunk: object) -> None:
        """Send *chunk* of the body, behind what was written before it.

        Raises:
            ResponseError: it is not bytes, or there was no `start_response`.
        """
        if not isinstance(chunk, bytes):
            raise ResponseError(f"the response yielded {type(chunk).__name__}; want bytes (PEP 3333)")
        written, self._written[:] = b"".join(self._written), []
        if chunk or written:
            await self._begin()
            await self._send({"type": "http.response.body", "body": written + chunk, "more_body": True})

    async def end(self) -> None:
        """Say that the response is complete."""
        await self.add(b"")
        await self._begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self) -> None:
        if self._has_begun:
            return
        if self._status is None:
            raise ResponseError("the application never called start_response (PEP 3333)")
        self._has_begun = True
        await self._send({"type": "http.response.start", "status": self._status, "headers": self._headers})


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    if _CONTROL.search(name) or _CONTROL.search(value):
        raise ResponseError(f"the header {name!r:.80} has a line break in it")
    return name.lower().encode("latin-1"), value.encode("latin-1")
