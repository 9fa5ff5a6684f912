"""Asynchronous handlers: chunks that are awaited, under a synchronous server, with a task that awaits too.

    python examples/async_wsgi.py [seconds]

`/` counts slowly, and each number is sent when it is there: `curl -N http://127.0.0.1:8080/`.
Or under any server: `gunicorn -w 4 examples.async_wsgi:application`, and with the loop of an asynchronous
one, `uvicorn examples.async_wsgi:asgi`. With `pip install waitress`.
"""

import asyncio
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import waitress

from pulse import PulseMiddleware
from pulse.context import PulseContext
from pulse.wsgi import GZip, WsgiHandler, as_asgi, as_wsgi

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


async def count(environ: Environ, start_response: StartResponse) -> AsyncIterator[bytes] | None:
    """`/`, number by number."""
    return numbers(start_response) if environ["PATH_INFO"] == "/" else None


async def numbers(start_response: StartResponse) -> AsyncIterator[bytes]:
    """Each is sent while the next one is waited for."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    for number in range(1, 4):
        await asyncio.sleep(0.1)
        yield f"{number}\n".encode()


async def sweep(environ: Environ, start_response: StartResponse) -> list[bytes] | None:
    """`/jobs/sweep`, which Pulse requests: it awaits as well, and knows the run that it is part of."""
    if environ["PATH_INFO"] != "/jobs/sweep":
        return None
    await asyncio.sleep(0.05)
    route = PulseContext.get().route
    run = route and route.task
    print(f"sweep, due {run and run.due:%H:%M:%S}, in an {environ['pulse.connection'].kind} request, has awaited")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"swept\n"]


handler = WsgiHandler([count, sweep], [GZip()])
application = PulseMiddleware(as_wsgi(handler), task={"sweep": {"interval": 1}}, context="jobs", guard=True)
asgi = as_asgi(application)


def main(seconds: float = 3.0) -> None:
    """Serve it for a while, and be its first visitor."""
    server = waitress.create_server(application, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    begun = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.effective_port}/") as response:
        for line in response:
            print(f"after {time.monotonic() - begun:.1f} s a visitor has read", line.decode().strip(), flush=True)
    time.sleep(seconds)
    application.close()


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
