"""A WSGI application without a framework: a page for people, a task for Pulse, and nothing to configure.

    python examples/plain_wsgi.py [seconds]

Or under any server: `gunicorn -w 4 examples.plain_wsgi:application`; the task runs once for all
four, and sweeps the carts of the one that runs it, as they are kept in memory.
"""

import http.client
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import waitress

from pulse import PulseMiddleware, internal_only

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

carts: list[str] = []


def site(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Everything is here: pages for people, and what Pulse requests."""
    page = PAGES.get(environ["PATH_INFO"])
    if page is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no such page\n"]
    return page(environ, start_response)


def visit(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """`/`: each visitor leaves a cart."""
    carts.append(environ["REMOTE_ADDR"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"welcome\n"]


@internal_only
def sweep(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """`/jobs/sweep`, which Pulse requests; whoever else gets here is turned away, guard or not."""
    count = len(carts)
    carts.clear()
    print(f"{environ['pulse.info']['task']}, due {environ['pulse.info']['due']:%H:%M:%S}, found {count} carts")
    # What it says of itself stands in the record of the run, and in the log.
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Pulse-Result", f"swept {count} carts")])
    return [b"swept\n"]


PAGES = {"/": visit, "/jobs/sweep": sweep}
application = PulseMiddleware(site, task={"sweep": {"interval": 1}}, context="jobs", guard=True)


def ask(port: int, path: str) -> str:
    """What a visitor is answered."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as visitor:
        visitor.request("GET", path)
        response = visitor.getresponse()
        return f"{response.status} {response.read().decode().strip()}"


def main(seconds: float = 5.0) -> None:
    """Serve it for a while, and be its first visitor; tasks run as soon as it serves."""
    begun = datetime.now(UTC)
    server = waitress.create_server(application, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    for path in ("/", "/jobs/sweep"):
        print("a visitor of", path, "gets", ask(server.effective_port, path))
    time.sleep(seconds)
    application.close()
    print("the records of its runs:")
    for run in reversed(application.run_store.history("sweep")):
        if run.started and run.started >= begun:  # the run store has those of earlier times, too
            print(f"  {run.due:%H:%M:%S} {run.outcome and run.outcome.value}: {run.result or run.reason}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
