"""Applications that look at their PulseContext at each step of a request, and remember each time that it is not theirs.

`/wrong`, which no Pulse sees, tells what was wrong so far in this process.
"""

import asyncio
import random
import time

from pulse import PULSE_CONTEXT, PulseContext, PulseMiddleware
from pulse.asgi import AsgiPulse

PAUSE = 0.01  # seconds at most, in which other requests get their turn
TASKS = {"store": "memory:", "task": {"tick": {"action": "/whole/tick", "interval": 0.2}}}

wrong = []


def look(path, where):
    """Inside of a request of *path* its own context is active."""
    context = PULSE_CONTEXT.get()
    if context is None or context.route.path != path:
        wrong.append(f"{where} of {path}: {context}")


def look_outside(where):
    """Outside of requests none is."""
    if PULSE_CONTEXT.get() is not None:
        wrong.append(f"{where}: {PULSE_CONTEXT.get()}")


def application(environ, start_response):
    path = environ["PATH_INFO"]
    look(path, "call")
    time.sleep(random.uniform(0, PAUSE))
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path.startswith("/raise"):
        raise RuntimeError("an error that is wanted")
    if path.startswith("/left"):
        PulseContext.update(session=path).__enter__()  # and never left
    if path.startswith("/nested") and not path.endswith("/inner"):
        inner = sync({**environ, "PATH_INFO": f"{path}/inner"}, lambda *head: None)
        for _ in inner:
            look(path, "between the chunks of another request")
        inner.close()
    return steps(path) if path.startswith(("/chunks", "/nested")) else [b"whole"]


def steps(path):
    try:
        with PulseContext.update(session=path):
            for _ in range(4):
                look(path, "chunk")
                if PulseContext.get().session != path:
                    wrong.append(f"session of {path}")
                yield b"x" * 100
                time.sleep(random.uniform(0, PAUSE))
    finally:
        look(path, "close")


class Outside:
    """The server's side: nothing is active there before, between and behind the steps of a request."""

    def __init__(self, app):
        self._app = app

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/wrong":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return ["\n".join(wrong).encode()]
        look_outside("before the call")
        try:
            body = self._app(environ, start_response)
        finally:
            look_outside("behind the call")
        return self._around(body)

    def _around(self, body):
        try:
            for chunk in body:
                look_outside("behind a chunk")
                yield chunk
        finally:
            getattr(body, "close", lambda: None)()
            look_outside("behind the close")


async def asgi_application(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    look(path, "call")
    child = asyncio.create_task(look_later(path))
    await asyncio.sleep(random.uniform(0, PAUSE))
    if path.startswith("/raise"):
        raise RuntimeError("an error that is wanted")
    await asyncio.to_thread(look, path, "a thread")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(4):
        with PulseContext.update(session=path):
            await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
            await asyncio.sleep(random.uniform(0, PAUSE))
            look(path, "chunk")
    await send({"type": "http.response.body"})
    await child
    look(path, "end")


async def look_later(path):
    await asyncio.sleep(PAUSE)
    look(path, "a task")


async def outside(scope, receive, send):
    if scope.get("path") == "/wrong":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": "\n".join(wrong).encode()})
        return
    look_outside("before the call")
    try:
        await asgi_pulse(scope, receive, send)
    finally:
        look_outside("behind the call")


sync = PulseMiddleware(application, **TASKS)
asgi_pulse = AsgiPulse(asgi_application, **TASKS)
served = Outside(sync)
