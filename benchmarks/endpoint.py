"""The application that all benchmarks call, in a module that child processes can import.

`request` is the limit of what an internal request can cost: an environ by hand and a
direct call, with nothing between.
"""

import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

import waitress

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

PATH = "/sessions/cleanup"
HANG = "/sessions/hang"
BODY = b"swept 3 sessions\n"


def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """An endpoint that does nothing, so that what is measured is the way to it."""
    if environ["PATH_INFO"] == HANG:
        hang()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]


def environ_of(path: str) -> Environ:
    """What a request that is made by hand consists of."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def request(application: WsgiApp, path: str) -> bytes:
    """The body of the response to a request that is made by hand."""
    return b"".join(application(environ_of(path), ignore_response))


def ignore_response(_status: str, _headers: list[tuple[str, str]], _exc_info: object = None) -> Callable[[bytes], None]:
    """A `start_response` for callers who want the body alone."""
    return _ignore_body


def _ignore_body(_chunk: bytes) -> None:
    """The `write` of PEP 3333."""


def request_here(path: str) -> bytes:
    """`request` to `app`, for pools that send functions to a child process."""
    return request(app, path)


def hang() -> None:
    """What only SIGKILL ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def echo(connection: Connection) -> None:
    """In a child process: answer requests until the connection ends."""
    while True:
        try:
            path = connection.recv()
        except EOFError:
            return
        connection.send(request(app, path))


def serve() -> None:
    """Serve `app` on a free port of 127.0.0.1, which is printed, until stdin ends."""
    server = waitress.create_server(app, host="127.0.0.1", port=0)
    print(server.effective_port, flush=True)
    threading.Thread(target=server.run, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    serve()
