"""An asynchronous handler under a synchronous server: waitress, gunicorn, or inside Pulse."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from pulse.context import is_file
from pulse.gateway import Environ, StartResponse
from pulse.loop import background_loop
from pulse.wsgi.bridge.answer import LoopReader, SyncReader, is_asynchronous, is_whole
from pulse.wsgi.bridge.connection import Connection, introduce, settings_of
from pulse.wsgi.bridge.current import CurrentLoop
from pulse.wsgi.bridge.intake import read_ahead


def as_wsgi(handler: Any) -> "WsgiDoor":
    """A WSGI application that any server can run, of a handler that may be asynchronous.

    What the handler gives back may be awaitable, an asynchronous iterable, or an iterable
    with awaitable chunks. It is run on the event loop of the process (`pulse.loop`), while
    the server's thread waits for the next chunk, and sends each as it comes. A synchronous
    application runs in the server's thread, as ever; that loop is the current one of its
    thread meanwhile, so that it may answer with a Future.

    Args:
        handler: Called with environ and `start_response`. The result pickles if it does.
    """
    return WsgiDoor(handler)


class WsgiDoor:
    """See `as_wsgi`.

    Attributes:
        app: The handler.
    """

    async_: Final = False  # whoever calls it waits: nothing for an event loop

    def __init__(self, handler: Any) -> None:
        self.app = handler
        self._settings = settings_of(handler)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request (PEP 3333)."""
        host, port = environ.get("REMOTE_ADDR"), str(environ.get("REMOTE_PORT") or 0)
        peer = (host, int(port) if port.isascii() and port.isdigit() else 0) if host else None
        loop = background_loop()
        introduce(environ, Connection("wsgi", peer=peer, loop=loop), self._settings)
        with CurrentLoop(loop):
            answer: Any = self.app(environ, start_response)
        if is_asynchronous(answer):
            return _read(answer, environ)
        is_readable = hasattr(answer, "__iter__") and not isinstance(answer, str | bytes)
        if is_whole(answer) or not is_readable or is_file(answer, environ):
            return answer  # type: ignore[no-any-return]
        return SyncReader(answer, loop)


def _read(answer: Any, environ: Environ) -> Iterable[bytes]:
    forget = read_ahead(environ)
    try:
        body = LoopReader(answer).body()
    except BaseException:
        forget()
        raise
    if isinstance(body, LoopReader):
        return _Body(body, forget)
    forget()
    return body  # type: ignore[no-any-return]


class _Body:
    """The body of an asynchronous answer, with which the input of its request is given back."""

    __slots__ = ("_forget", "_reader")

    def __init__(self, reader: LoopReader, forget: Callable[[], None]) -> None:
        self._reader = reader
        self._forget = forget

    def __iter__(self) -> Iterator[bytes]:
        return self._reader

    def close(self) -> None:
        """End the answer, whether or not all of it was read."""
        try:
            self._reader.close()
        finally:
            self._forget()
