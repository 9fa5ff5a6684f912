"""What an ASGI server sends: the body of a request, bounded on its way, and the news that the client has gone."""

import asyncio
import io
from collections import deque
from typing import Any, Final

from pulse.gateway import Receive
from pulse.wsgi.bridge.intake import new_spool

WAITING: Final = 1 << 18  # bytes of a body that were received and are not read; then the client has to wait


class ClientGoneError(ConnectionAbortedError):
    """The client went away while its request was read or its response was sent."""


class Inbox:
    """The messages of one request; `listen` has to run beside whoever reads them."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._is_complete = False
        self._is_over = False
        self._is_unwanted = False
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def listen(self) -> None:
        """Take what the server sends, until the client goes away."""
        try:
            while (message := await self._receive())["type"] != "http.disconnect":
                if not self._is_unwanted and (chunk := message.get("body", b"")):
                    self._chunks.append(chunk)
                    self._size += len(chunk)
                self._is_complete = not message.get("more_body", False)
                self._has_news.set()
                if self._size >= WAITING:
                    self._has_room.clear()
                    await self._has_room.wait()
        finally:  # also when this is cancelled: a thread may wait for the body
            self._is_over = True
            self._has_news.set()

    def discard(self) -> None:
        """Nobody reads any more: what still comes is taken and not kept.

        Otherwise a server whose own queue is full, such as hypercorn, would wait at the end of
        the response for somebody to read the request.
        """
        self._is_unwanted = True
        self._chunks.clear()
        self._size = 0
        self._has_room.set()

    async def read(self) -> bytes:
        """The next bytes of the body; empty at its end.

        Raises:
            ClientGoneError: it will not be completed.
        """
        while not (self._chunks or self._is_complete or self._is_over):
            self._has_news.clear()
            await self._has_news.wait()
        if self._chunks:
            chunk = self._chunks.popleft()
            self._size -= len(chunk)
            self._has_room.set()
            return chunk
        if not self._is_complete:
            raise ClientGoneError("the client went away before it had sent its whole request")
        return b""

    async def read_all(self) -> Any:
        """The whole body as a file, to be closed by the caller.

        Raises:
            ClientGoneError: it will not be completed.
        """
        spool = new_spool()
        try:
            while chunk := await self.read():
                spool.write(chunk)
        except BaseException:
            spool.close()
            raise
        spool.seek(0)
        return spool


class InboxFile(io.RawIOBase):
    """The body of a request as a file for a thread, which waits for the client as it reads."""

    def __init__(self, inbox: Inbox, loop: asyncio.AbstractEventLoop) -> None:
        """*loop*: that of the server."""
        self._inbox = inbox
        self._loop = loop
        self._rest = b""
        self._whole: Any = None

    def fill(self, whole: Any) -> None:
        """Read on from the file *whole*, in which all is that was not read: nobody has to wait for it."""
        self._whole = whole

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer* with what is there, or wait until something is; 0 at the end of the body."""
        if not self._rest and self._whole is not None:
            return int(self._whole.readinto(buffer))
        if not self._rest:
            self._rest = asyncio.run_coroutine_threadsafe(self._inbox.read(), self._loop).result()
        portion = self._rest[: len(buffer)]
        self._rest = self._rest[len(portion) :]
        buffer[: len(portion)] = portion
        return len(portion)
