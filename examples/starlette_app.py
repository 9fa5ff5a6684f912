"""A Starlette application with a task of its own, which uses what the application made when it started.

    python examples/starlette_app.py [seconds]

Or under any server: `uvicorn examples.starlette_app:app --workers 4`; the task runs once
for all of them. With `pip install starlette uvicorn`.
"""

import asyncio
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pulse import PulseContext, internal_only
from pulse.asgi import AsgiPulse


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """A queue stands for the pool of a database: it belongs to the loop of the server."""
    print("the application starts")
    yield {"carts": asyncio.Queue()}
    print("the application ends")


async def visit(request: Request) -> PlainTextResponse:
    """`/`: each visitor leaves a cart."""
    await request.state.carts.put("a cart")
    return PlainTextResponse("welcome\n")


@internal_only
async def sweep(request: Request) -> PlainTextResponse:
    """`/jobs/sweep`, which Pulse requests: it knows the run that it is part of."""
    route = PulseContext.get().route
    run = route and route.task
    carts = request.state.carts
    print(f"sweep, due {run and run.due:%H:%M:%S}, found {carts.qsize()} carts")
    while not carts.empty():
        carts.get_nowait()
    return PlainTextResponse("swept\n")


starlette = Starlette(lifespan=lifespan, routes=[Route("/", visit), Route("/jobs/sweep", sweep)])
app = AsgiPulse(starlette, task={"sweep": {"interval": 1}}, context="jobs", guard=True)


def ask(url: str) -> str:
    """What a visitor is answered."""
    try:
        with urllib.request.urlopen(url) as response:  # noqa: S310 - this example's own server
            return f"{response.status} {response.read().decode().strip()}"
    except urllib.error.HTTPError as refusal:
        with refusal:
            return f"{refusal.code} {refusal.reason}"


async def main(seconds: float = 3.0) -> None:
    """Serve it for a while, and be its first visitor."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    for path in ("/", "/jobs/sweep"):
        print("a visitor of", path, "gets", await asyncio.to_thread(ask, f"http://127.0.0.1:{port}{path}"))
    await asyncio.sleep(seconds)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main(*map(float, sys.argv[1:2])))
