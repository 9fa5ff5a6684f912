"""An ASGI application under Pulse, which writes down what it does: to be served by uvicorn or hypercorn.

SITE, a JSON object, has the arguments of `AsgiPulse`; NOTES is the file to write to.
"""

import asyncio
import json
import os
from contextlib import asynccontextmanager

from guard_app import PATH, TOKEN, reached
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from pulse import PulseContext, internal_only, is_internal
from pulse.asgi import AsgiPulse
from pulse.wsgi.bridge.scope import environ_of

LIMIT = 30  # seconds


def note(*words):
    """Append a line in one step."""
    file = os.open(os.environ.get("NOTES", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, " ".join(map(str, (os.getpid(), *words))).encode() + b"\n")
    os.close(file)


class Pool:
    """What belongs to the loop on which it was made."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.released = asyncio.Event()

    def take(self):
        assert asyncio.get_running_loop() is self.loop
        return self


@asynccontextmanager
async def lifespan(app):
    note("starting")
    await asyncio.sleep(0.01)
    note("up")
    yield {"pool": Pool()}
    note("down")


def told():
    context = PulseContext.get()
    route = context.route
    return f"{type(context.app).__name__} {route.path} {route.internal} {route.task and route.task.task}"


@internal_only
async def tick(request):
    request.state.pool.take()
    note("tick", request.scope["pulse.info"]["due"].isoformat(), told(), is_internal(request.scope))
    return PlainTextResponse("ticked")


async def long(request):
    note("began")
    await asyncio.sleep(1)
    request.state.pool.take()
    note("ended")
    return PlainTextResponse("done")


async def page(request):
    return PlainTextResponse(told())


async def stream(request):
    pool = request.state.pool.take()

    async def chunks():
        yield b"first"
        await asyncio.wait_for(pool.released.wait(), LIMIT)
        yield b"last"

    return StreamingResponse(chunks())


async def release(request):
    request.state.pool.released.set()
    return PlainTextResponse("released")


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(f"{told()} {await websocket.receive_text()}")
    await websocket.close()


starlette = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/jobs/tick", tick),
        Route("/jobs/long", long),
        Route("/page", page),
        Route("/stream", stream),
        Route("/release", release),
        WebSocketRoute("/ws", echo),
        WebSocketRoute("/jobs/tick", echo),
    ],
)


async def routers(scope, receive, send):
    """What `guard_app` is, for ASGI."""
    found = reached(environ_of(scope, None))
    said = "internal" if is_internal(scope) else f"ran: {'|'.join(found)}" if found else "open"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said.encode()})


guarded = AsgiPulse(
    routers,
    task={"cleanup": {"action": PATH, "interval": 3600}},
    guard=True,
    token=TOKEN,
    start="manual",
    store="memory:",
)


def site(app):
    """*app* under Pulse, as SITE says."""
    usual = {"context": "jobs", "guard": True, "store": "memory:"}
    return AsgiPulse(app, **{**usual, **json.loads(os.environ["SITE"])})


if "SITE" in os.environ:
    application = site(starlette)
