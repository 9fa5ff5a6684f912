"""What one internal request costs, compared with other ways to call an application's own endpoint.

    python benchmarks/dispatch.py [--rounds N] [--quick] [--check]

The server of the ways that need one is waitress in a process of its own, on 127.0.0.1.
"""

import http.client
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import truediv
from statistics import median
from typing import Final

import endpoint
import webob
from endpoint import BODY, PATH, app
from measure import Bound, Effort, Row, Timed, check, column, effort, installed, repeated, series, show, show_heading

from pulse.config import read_config
from pulse.control import Control
from pulse.dispatch import Dispatcher
from pulse.model import Fire, Run

PACKAGES: Final = ("pulse", "WebOb", "webtest", "werkzeug", "httpx", "waitress", "requests")

LIMIT: Final = "environ by hand and a direct call (the limit)"
PULSE: Final = "Pulse: Dispatcher"
KEPT_ALIVE: Final = "HTTP to waitress: http.client, kept alive"


@dataclass(frozen=True, kw_only=True, slots=True)
class Way(Row):
    """What one request costs in one way."""

    us: float | None = column("us", ",.1f")
    ratio: float | None = column("x the limit", ",.1f")
    ratio_pulse: float | None = column("x Pulse", ",.2f")


Call = Callable[[], bytes]
"""Sends the request once; the body of the response."""


def main(argv: Sequence[str] | None = None) -> list[Way]:
    """Measure and print; the rows of the table."""
    given = effort(__doc__, argv, rounds=101, bounds=BOUNDS)
    show_heading("What one internal request costs", PACKAGES, given)
    with waitress_process() as port, closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        rows = measure(given, connection)
    show("way", rows)
    check(rows, BOUNDS, given)
    return rows


def measure(given: Effort, connection: http.client.HTTPConnection) -> list[Way]:
    """A row for each of `WAYS`, and for those to the server of *connection*."""
    ways: dict[str, Callable[[], Call]] = {**WAYS, KEPT_ALIVE: partial(by_http_client, connection)}
    ways |= {name: partial(way, f"http://127.0.0.1:{connection.port}{PATH}") for name, way in WAYS_BY_URL.items()}
    calls = installed(ways)
    for name, call in calls.items():
        assert call() == BODY, name
    span = given.choose(real=0.004, quick=0.0005)
    found = series({name: Timed(repeated(call), span) for name, call in calls.items()}, given.rounds)
    return [
        Way(
            name=name,
            us=median(found[name]) * 1e6,
            ratio=median_ratio(found[name], found[LIMIT]),
            ratio_pulse=median_ratio(found[name], found[PULSE]),
        )
        if name in found
        else Way(name=name, is_installed=False)
        for name in ways
    ]


def median_ratio(way: Sequence[float], other: Sequence[float]) -> float:
    """By the rounds: a machine that is busy now and then slows both of a round."""
    return median(map(truediv, way, other))


@contextmanager
def waitress_process() -> Iterator[int]:
    """A server of the endpoint, as long as this lasts; its port."""
    command = [sys.executable, endpoint.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        yield int(process.stdout.readline())  # the end of `with` closes its stdin, and that ends it


# Without a server


def by_hand() -> Call:
    """The limit."""
    return partial(endpoint.request, app, PATH)


def by_pulse() -> Call:
    """What the worker of a run calls, with its captured output, its limits and its proof."""
    config = read_config(tasks={"cleanup": {"action": PATH}})
    dispatch = Dispatcher(app, config)
    task = config.tasks["cleanup"]
    due = datetime(2027, 1, 1, tzinfo=UTC)
    run = Run(id=Fire(task="cleanup", due=due).run_id, task="cleanup", due=due)
    control = Control()
    return lambda: dispatch(task, run, control).body


def by_webob() -> Call:
    """WebOb's `get_response`."""
    return lambda: webob.Request.blank(PATH).get_response(app).body


def by_webtest() -> Call:
    """WebTest as it comes, with its checks."""
    from webtest import TestApp

    client = TestApp(app)
    return lambda: client.get(PATH).body


def by_werkzeug() -> Call:
    """Werkzeug's test client."""
    from werkzeug.test import Client

    client = Client(app)
    return lambda: client.get(PATH).data


def by_httpx() -> Call:
    """The WSGI transport of httpx."""
    import httpx

    client = httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://localhost")
    return lambda: client.get(PATH).content


# Over HTTP


def by_http_client(connection: http.client.HTTPConnection) -> Call:
    """One connection that is kept alive."""

    def call() -> bytes:
        connection.request("GET", PATH)
        return connection.getresponse().read()

    return call


def by_urllib(url: str) -> Call:
    """A connection a request."""

    def call() -> bytes:
        with urllib.request.urlopen(url) as response:  # noqa: S310 - our own server's
            body: bytes = response.read()
        return body

    return call


def by_requests(url: str) -> Call:
    """`requests.get`, which makes a session a request."""
    import requests

    return lambda: requests.get(url, timeout=30).content


def by_curl(url: str) -> Call:
    """What a crontab does, less cron."""
    curl = shutil.which("curl")
    if curl is None:
        raise ImportError("curl")
    return lambda: subprocess.check_output([curl, "--silent", url])  # noqa: S603


WAYS: Final[dict[str, Callable[[], Call]]] = {
    LIMIT: by_hand,
    PULSE: by_pulse,
    "WebOb: Request.blank().get_response()": by_webob,
    "webtest: TestApp": by_webtest,
    "werkzeug: test.Client": by_werkzeug,
    "httpx: WSGITransport": by_httpx,
}
WAYS_BY_URL: Final[dict[str, Callable[[str], Call]]] = {
    "HTTP to waitress: urllib": by_urllib,
    "HTTP to waitress: requests.get": by_requests,
    "HTTP to waitress: curl, process start included": by_curl,
}

BOUNDS: Final = (Bound(name=PULSE, figure="ratio", most=14), Bound(name=KEPT_ALIVE, figure="ratio_pulse", least=20))


if __name__ == "__main__":
    main()
