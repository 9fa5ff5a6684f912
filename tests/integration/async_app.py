"""Handlers for servers of both kinds: `as_wsgi` for waitress and gunicorn, `as_asgi` for uvicorn and hypercorn.

`/sample` is the asynchronous iterable of the specification; `/slow` sends its last chunk
when somebody has requested `/release`; `/broken` fails after its first chunk; `/endless`
never ends, and `/closed` tells how often the bodies of `/endless` and `/broken` were closed.
"""

import asyncio
import threading
from asyncio import Future

from pulse import PulseMiddleware
from pulse.context import PulseContext
from pulse.wsgi import WsgiHandler, as_asgi, as_wsgi

TEXT = [("Content-Type", "text/plain")]
LIMIT = 30  # seconds

released = threading.Event()
closed = []


def simple_async():
    yield b"hello"
    c = Future()
    c.set_result(b" ")
    yield c
    yield b"World!"


class Body:
    """Breaks, or never ends."""

    def __init__(self, is_endless):
        self.is_endless = is_endless

    def __iter__(self):
        yield b"x" * 100_000
        while self.is_endless:
            yield b"x" * 100_000
        raise OSError("disk")

    def close(self):
        closed.append(1)


async def late():
    await asyncio.to_thread(released.wait, LIMIT)
    return b"last"


def slow():
    yield b"first"
    yield late()


def sync_slow():
    yield b"first"
    released.wait(LIMIT)
    yield b"last"


async def handler(environ, start_response):
    """The asynchronous one; it knows its loop."""
    assert environ["pulse.connection"]._loop is asyncio.get_running_loop()
    return answer(environ, start_response, slow)


def sync_app(environ, start_response):
    """The same as an ordinary WSGI application."""
    return answer(environ, start_response, sync_slow)


def answer(environ, start_response, slowly):
    path = environ["PATH_INFO"]
    if path == "/nowhere":
        return None
    start_response("200 OK", TEXT)
    if path == "/slow":
        return slowly()
    if path in ("/broken", "/endless"):
        return Body(path == "/endless")
    if path == "/release":
        released.set()
    bodies = {
        "/echo": lambda: [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))],
        "/closed": lambda: [str(len(closed)).encode()],
        "/told": lambda: [f"{environ['pulse.connection'].kind} {environ['pulse.cfg'].get('context')}".encode()],
        "/context": lambda: [f"{PulseContext.get().route.path} {type(PulseContext.get().app).__name__}".encode()],
        "/sample": simple_async,
        "/release": lambda: [b""],
    }
    return bodies[path]()


def signed(environ, response):
    response.headers["X-Kind"] = environ["pulse.connection"].kind


of_wsgi = as_wsgi(WsgiHandler([handler], [signed]))
of_asgi = as_asgi(WsgiHandler([handler], [signed]))
sync_of_wsgi = as_wsgi(sync_app)
sync_of_asgi = as_asgi(sync_app)
pulse_of_wsgi = PulseMiddleware(as_wsgi(handler), context="jobs", start="manual", store="memory:")
pulse_of_asgi = as_asgi(PulseMiddleware(handler, context="jobs", start="manual", store="memory:"))
