"""What a request from outside pays for what stands in front of the application.

    python benchmarks/request_path.py [--rounds N] [--quick] [--check]

The figures are those of a call, less those of calling the application alone. Every call
has an environ of its own with the keys that gunicorn makes behind a proxy; its path is a
new string each time, as it is in a server.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from operator import sub
from statistics import median
from typing import Any, Final

from endpoint import PATH, Environ, StartResponse, WsgiApp, app, ignore_response
from measure import (
    Bound,
    Effort,
    Figure,
    Row,
    Timed,
    Work,
    check,
    column,
    effort,
    installed,
    series,
    show,
    show_heading,
)
from webob import Request, Response
from webob.dec import wsgify
from webob.exc import HTTPNotFound

from pulse import PulseMiddleware

PACKAGES: Final = ("pulse", "WebOb", "werkzeug", "beaker")

ORDINARY: Final = (b"/reports/2027/summary",)
MANY: Final = tuple(b"/reports/%d/summary" % number for number in range(10_000))
GUARDED: Final = (PATH.encode(),)

# As servers hand them on, which have decoded them once: SCRIPT_NAME and PATH_INFO.
SPELLINGS: Final = (
    ("", "/sessions/cleanup"),
    ("", "/sessions/cleanup/"),
    ("", "//sessions/cleanup"),
    ("", "/sessions//cleanup"),
    ("", "/sessions/./cleanup"),
    ("", "/sessions/x/../cleanup"),
    ("", "/sessions/cleanup/extra"),
    ("", "/sessions/cleanup;v=1"),
    ("", "/sessions/%63leanup"),
    ("", "/Sessions/CLEANUP"),
    ("", "/sessions\\cleanup"),
    ("/sessions", "/cleanup"),
)

LIMIT: Final = "empty passthrough __call__ (the limit)"
SAME: Final = "Pulse, guard on: the same path again"
TURNS: Final = "Pulse, guard on: 10,000 paths in turn"
PROXY_FIX: Final = "werkzeug ProxyFix"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer(Row):
    """What one layer adds to a call, and which spellings of a guarded path it stops."""

    added_ns: float | None = column("added ns a call", ",.0f")
    ratio: float | None = column("x the limit", ".1f")
    ratio_proxy: float | None = column("x ProxyFix", ".2f")
    stopped: int | None = column(f"spellings stopped, of {len(SPELLINGS)}", "d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A layer, and what is asked of it."""

    name: str
    wrap: Callable[[], WsgiApp]
    targets: Sequence[bytes] = ORDINARY
    is_guard: bool = False


def main(argv: Sequence[str] | None = None) -> list[Layer]:
    """Measure and print; the rows of the table."""
    given = effort(__doc__, argv, rounds=201, bounds=BOUNDS)
    show_heading("What a request from outside pays", PACKAGES, given)
    rows = measure(given)
    show("what stands in front of the application", rows)
    check(rows, BOUNDS, given)
    return rows


def measure(given: Effort) -> list[Layer]:
    """A row for each of `CASES`."""
    layers = installed({case.name: case.wrap for case in CASES})
    cases = [case for case in CASES if case.name in layers]
    span = given.choose(real=0.002, quick=0.0002)
    figures: dict[object, Figure] = {case.targets: Timed(requests_to(app, case.targets), span) for case in CASES}
    figures |= {case.name: Timed(requests_to(layers[case.name], case.targets), span) for case in cases}
    found = series(figures, given.rounds)
    added = {case.name: median_added(found[case.name], found[case.targets]) for case in cases}
    return [
        Layer(
            name=case.name,
            added_ns=added[case.name] * 1e9,
            ratio=added[case.name] / added[LIMIT],
            ratio_proxy=added[case.name] / added[PROXY_FIX] if PROXY_FIX in added else None,
            stopped=count_stopped(layers[case.name]) if case.is_guard else None,
        )
        if case.name in layers
        else Layer(name=case.name, is_installed=False)
        for case in CASES
    ]


def median_added(layered: Sequence[float], alone: Sequence[float]) -> float:
    """What a layer adds, by the rounds: a machine that is busy now and then slows both of a round."""
    # Noise can make it negative where hardly anything is measured.
    return max(median(map(sub, layered, alone)), 1e-9)


def requests_to(application: WsgiApp, targets: Sequence[bytes]) -> Work:
    """Requests to *targets* in turn."""
    environ = _environ()
    rest = cycle(targets)

    def work(count: int) -> None:
        for target in islice(rest, count):
            own = environ.copy()
            own["PATH_INFO"] = target.decode("latin-1")
            own["RAW_URI"] = target.decode("latin-1")
            application(own, ignore_response)

    return work


def count_stopped(application: WsgiApp) -> int:
    """How many of `SPELLINGS` are answered with 404."""
    statuses: list[str] = []

    def note(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], None]:
        statuses.append(status)
        return ignore_response(status, headers, exc_info)

    for script, path in SPELLINGS:
        target = (script + path).replace("%", "%25").replace("\\", "%5C")
        application({**_environ(), "SCRIPT_NAME": script, "PATH_INFO": path, "RAW_URI": target}, note)
    return sum(status.startswith("404") for status in statuses)


def _environ() -> Environ:
    """The keys of gunicorn behind a proxy, for a browser's request."""
    return {
        "wsgi.errors": None,
        "wsgi.version": (1, 0),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": None,
        "wsgi.input_terminated": True,
        "wsgi.input": None,
        "wsgi.early_hints": None,
        "wsgi.url_scheme": "https",
        "SERVER_SOFTWARE": "gunicorn",
        "gunicorn.socket": None,
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "",
        "RAW_URI": "/",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "HTTP_HOST": "www.example.org",
        "HTTP_CONNECTION": "close",
        "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "HTTP_ACCEPT_LANGUAGE": "en-GB,en;q=0.5",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate, br",
        "HTTP_COOKIE": "sid=0123456789abcdef0123456789abcdef",
        "HTTP_REFERER": "https://www.example.org/reports",
        "HTTP_UPGRADE_INSECURE_REQUESTS": "1",
        "HTTP_SEC_FETCH_DEST": "document",
        "HTTP_X_REAL_IP": "203.0.113.7",
        "HTTP_X_FORWARDED_FOR": "203.0.113.7",
        "HTTP_X_FORWARDED_PROTO": "https",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "45130",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
    }


# The layers


class Passthrough:
    """A middleware that does nothing: what any of them pays at least."""

    def __init__(self, application: WsgiApp) -> None:
        """Wrap *application*."""
        self.app = application

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Call what it wraps."""
        return self.app(environ, start_response)


class SetGuard:
    """A middleware that compares paths as they are written."""

    def __init__(self, application: WsgiApp) -> None:
        """Wrap *application*."""
        self.app = application
        self._guarded = frozenset({PATH})

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer 404 for a guarded path."""
        if environ["PATH_INFO"] in self._guarded:
            start_response("404 Not Found", [("Content-Length", "0")])
            return []
        return self.app(environ, start_response)


@wsgify.middleware
def wsgify_guard(request: Request, application: WsgiApp) -> Response:
    """The same, as WebOb has middleware written."""
    if request.path_info == PATH:
        return HTTPNotFound()
    return request.get_response(application)


def pulse(*, guard: bool) -> PulseMiddleware:
    """Pulse as it stands in a process that serves."""
    return PulseMiddleware(app, task={"cleanup": {"action": PATH}}, guard=guard, start="manual")


def proxy_fix() -> Any:
    """Werkzeug's layer for what a proxy says."""
    from werkzeug.middleware.proxy_fix import ProxyFix

    return ProxyFix(app)


def dispatcher() -> Any:
    """Werkzeug's layer for applications below prefixes."""
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    return DispatcherMiddleware(app, {"/admin": app})


def sessions() -> Any:
    """Beaker's sessions, of which the application takes no notice."""
    from beaker.middleware import SessionMiddleware

    return SessionMiddleware(app, {"session.type": "memory"})


CASES: Final = (
    Case(name=LIMIT, wrap=lambda: Passthrough(app)),
    Case(name="one test in a frozenset", wrap=lambda: SetGuard(app), is_guard=True),
    Case(name="Pulse, guard off", wrap=lambda: pulse(guard=False)),
    Case(name=SAME, wrap=lambda: pulse(guard=True), is_guard=True),
    Case(name=TURNS, wrap=lambda: pulse(guard=True), targets=MANY),
    Case(name="Pulse, guard on: a guarded path, answered 404", wrap=lambda: pulse(guard=True), targets=GUARDED),
    Case(name=PROXY_FIX, wrap=proxy_fix),
    Case(name="werkzeug DispatcherMiddleware", wrap=dispatcher),
    Case(name="beaker SessionMiddleware", wrap=sessions),
    Case(name="WebOb wsgify middleware", wrap=lambda: wsgify_guard(app), is_guard=True),
)

# Beside the peer, not the limit: what an empty call adds is 50 to 260 ns, by the minute.
BOUNDS: Final = (
    Bound(name=SAME, figure="ratio_proxy", most=0.5),
    Bound(name=SAME, figure="stopped", least=len(SPELLINGS)),
    Bound(name=TURNS, figure="ratio_proxy", most=1.2),
)


if __name__ == "__main__":
    main()
