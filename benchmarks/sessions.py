"""What a session costs a request, beside Beaker's and Starlette's.

    python benchmarks/sessions.py [--rounds N] [--quick]

The figures are those of a call, less those of the application alone: one that takes no
notice of its session, one that reads it and one that changes it, each time as the same
visitor. Those of WSGI and those of ASGI have tables of their own, each with its own limit:
a layer that does nothing.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from http.cookies import SimpleCookie
from itertools import repeat
from typing import Any, Final

from endpoint import Environ, StartResponse, WsgiApp, ignore_response
from measure import Effort, Row, Timed, Work, column, effort, installed, medians, show, show_heading

from pulse.sessions import CookieSessionStore, InMemorySessionStore, SessionFilter, SessionMiddleware, session_data

PACKAGES: Final = ("pulse", "beaker", "starlette", "itsdangerous")
SECRET: Final = "the-secret-of-the-benchmark"  # noqa: S105
LIMIT: Final = "empty passthrough (the limit)"
USES: Final = ("/", "/read", "/change")

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer(Row):
    """What one layer adds to a call."""

    untouched_ns: float | None = column("not used, added ns", ",.0f")
    untouched: float | None = column("x the limit", ".1f")
    read_ns: float | None = column("read, added ns", ",.0f")
    changed_ns: float | None = column("changed, added ns", ",.0f")


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """One kind of application: its layers, and how it is called."""

    title: str
    ways: dict[str, Callable[[], Any]]
    app: Any
    work: Callable[[Any, str, str], Work]
    cookie: Callable[[Any], str]


def main(argv: Sequence[str] | None = None) -> list[Layer]:
    """Measure and print; the rows of both tables."""
    given = effort(__doc__, argv, rounds=101)
    show_heading("What a session costs a request", PACKAGES, given)
    rows: list[Layer] = []
    for door in (WSGI, ASGI):
        measured = measure(door, given)
        show(door.title, measured)
        rows += measured
    return rows


def measure(door: Door, given: Effort) -> list[Layer]:
    """A row for each of the layers of *door*."""
    layers = installed(door.ways)
    span = given.choose(real=0.005, quick=0.0005)
    figures: dict[tuple[str, str], Timed] = {}
    for name, layer in {**layers, "": door.app}.items():
        cookie = door.cookie(layer)
        figures |= {(name, use): Timed(door.work(layer, use, cookie), span) for use in USES}
    found = medians(figures, given.rounds)

    def added(name: str, use: str) -> float:
        # Noise can make the difference of two medians negative where hardly anything is measured.
        return max(found[name, use] - found["", use], 1e-9)

    return [
        Layer(
            name=name,
            untouched_ns=added(name, "/") * 1e9,
            untouched=added(name, "/") / added(LIMIT, "/"),
            read_ns=None if name == LIMIT else added(name, "/read") * 1e9,
            changed_ns=None if name == LIMIT else added(name, "/change") * 1e9,
        )
        if name in layers
        else Layer(name=name, is_installed=False)
        for name in door.ways
    ]


def use(session: Any, path: str) -> None:
    """What the applications do with a session; None stands for none."""
    if session is None or path == "/":
        return
    count = session.get("count", 0)
    if path == "/change":
        session["count"] = count + 1


# WSGI


def wsgi_site(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Uses its session as its path says."""
    use(environ.get("pulse.session", environ.get("beaker.session")), environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


class Passthrough:
    """A middleware that does nothing."""

    def __init__(self, application: WsgiApp) -> None:
        """Wrap *application*."""
        self.app = application

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Call what it wraps."""
        return self.app(environ, start_response)


def beaker(kind: str) -> Any:
    """Beaker's sessions; saved where they were changed, as those of Pulse are."""
    from beaker.middleware import SessionMiddleware as Beaker

    options = {"session.type": kind, "session.auto": True, "session.data_serializer": "json"}
    options |= {"session.validate_key": SECRET} if kind == "cookie" else {}
    return Beaker(wsgi_site, options)


def wsgi_environ(path: str, cookie: str) -> Environ:
    """The least that all of them can work with."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "HTTP_HOST": "www.example.org",
        "HTTP_COOKIE": cookie,
        "wsgi.url_scheme": "http",
    }


def wsgi_work(layer: Any, path: str, cookie: str) -> Work:
    """Requests of one visitor."""
    environ = wsgi_environ(path, cookie)

    def work(count: int) -> None:
        for own in map(dict, repeat(environ, count)):
            layer(own, ignore_response)

    return work


def wsgi_cookie(layer: Any) -> str:
    """What a browser sends after a first visit."""
    sent: list[str] = []

    def note(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], None]:
        sent.extend(text for name, text in headers if name.lower() == "set-cookie")
        return ignore_response(status, headers, exc_info)

    layer(wsgi_environ("/change", ""), note)
    return as_sent(sent)


# ASGI


async def asgi_site(scope: Any, _receive: Any, send: Any) -> None:
    """Uses its session as its path says."""
    if "pulse.session" in scope and scope["path"] != "/":
        use(session_data(scope), scope["path"])
    else:
        use(scope.get("session"), scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


def passthrough(app: AsgiApp) -> AsgiApp:
    """A middleware that does nothing."""

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return layer


def starlette() -> Any:
    """Starlette's sessions, which are signed cookies."""
    from starlette.middleware.sessions import SessionMiddleware as Starlette

    return Starlette(asgi_site, secret_key=SECRET)


def asgi_scope(path: str, cookie: str) -> dict[str, Any]:
    """The least that all of them can work with."""
    headers = [(b"host", b"www.example.org"), (b"cookie", cookie.encode())]
    return {"type": "http", "method": "GET", "scheme": "http", "path": path, "root_path": "", "headers": headers}


def asgi_work(layer: Any, path: str, cookie: str) -> Work:
    """Requests of one visitor."""
    scope = asgi_scope(path, cookie)

    async def ignore(_message: Any) -> None:
        pass

    def work(count: int) -> None:
        for own in map(dict, repeat(scope, count)):
            finish(layer(own, None, ignore))

    return work


def asgi_cookie(layer: Any) -> str:
    """What a browser sends after a first visit."""
    sent: list[str] = []

    async def note(message: Any) -> None:
        headers = message.get("headers", ())
        sent.extend(text.decode() for name, text in headers if name.lower() == b"set-cookie")

    asyncio.run(layer(asgi_scope("/change", ""), None, note))
    return as_sent(sent)


def finish(coroutine: Any) -> None:
    """Run a coroutine that waits for nothing: an event loop around it would cost more than it does."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("it waits for something")


def as_sent(set_cookies: Iterable[str]) -> str:
    """The `Cookie` header of a browser that was sent *set_cookies*."""
    jar: SimpleCookie = SimpleCookie()
    for text in set_cookies:
        jar.load(re.sub("; *(httponly|secure)", "", text, flags=re.IGNORECASE))
    return "; ".join(f"{name}={morsel.coded_value}" for name, morsel in jar.items())


WSGI: Final = Door(
    title="WSGI",
    ways={
        LIMIT: lambda: Passthrough(wsgi_site),
        "Pulse, in memory": lambda: SessionFilter(wsgi_site, InMemorySessionStore()),
        "Pulse, signed cookie": lambda: SessionFilter(wsgi_site, CookieSessionStore(SECRET)),
        "beaker, in memory": lambda: beaker("memory"),
        "beaker, signed cookie": lambda: beaker("cookie"),
    },
    app=wsgi_site,
    work=wsgi_work,
    cookie=wsgi_cookie,
)
ASGI: Final = Door(
    title="ASGI",
    ways={
        LIMIT: lambda: passthrough(asgi_site),
        "Pulse, in memory": lambda: SessionMiddleware(asgi_site),
        "Pulse, signed cookie": lambda: SessionMiddleware(asgi_site, CookieSessionStore(SECRET)),
        "starlette, signed cookie": starlette,
    },
    app=asgi_site,
    work=asgi_work,
    cookie=asgi_cookie,
)


if __name__ == "__main__":
    main()
