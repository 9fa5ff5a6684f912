"""A FastAPI application with a task that is one of its own routes, with its dependencies.

    python examples/fastapi_app.py [seconds]

Or under any server: `uvicorn examples.fastapi_app:app --workers 4`; the task runs once for all of
them. With `pip install fastapi uvicorn`. `internal_only` stands below the route, next to the function.
"""

import asyncio
import http.client
import sys
from contextlib import closing
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header, Response

from pulse import AsgiPulse, internal_only

api = FastAPI()
carts: list[str] = []


def open_carts() -> list[str]:
    """A dependency, as the session of a database would be."""
    return carts


@api.get("/")
async def visit(carts: Annotated[list[str], Depends(open_carts)]) -> str:
    """Each visitor leaves a cart."""
    carts.append("a cart")
    return "welcome"


@api.get("/jobs/sweep", include_in_schema=False)
@internal_only
async def sweep(
    response: Response, carts: Annotated[list[str], Depends(open_carts)], x_pulse_due: Annotated[str, Header()]
) -> int:
    """Pulse requests this; what it says of the run is in headers, which nobody outside can send."""
    found = len(carts)
    carts.clear()
    print(f"sweep, due {x_pulse_due[11:19]}, found {found} carts")
    response.headers["X-Pulse-Result"] = f"swept {found} carts"
    return found


app = AsgiPulse(api, task={"sweep": {"interval": 1}}, context="jobs", guard=True)


def ask(port: int, path: str) -> str:
    """What a visitor is answered."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as visitor:
        visitor.request("GET", path)
        response = visitor.getresponse()
        return f"{response.status} {response.read().decode().strip()}"


async def main(seconds: float = 5.0) -> None:
    """Serve it for a while, and be its first visitor."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    for path in ("/", "/jobs/sweep"):
        print("a visitor of", path, "gets", await asyncio.to_thread(ask, port, path))
    await asyncio.sleep(seconds)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main(*map(float, sys.argv[1:2])))
