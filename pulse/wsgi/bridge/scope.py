"""The scope of an ASGI server as the environ of a WSGI application (PEP 3333)."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pulse.gateway import Environ

Scope = Mapping[str, Any]

PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def environ_of(scope: Scope, body: object) -> Environ:
    """The environ of the request of *scope*, whose `wsgi.input` is *body*; see PEP 3333.

    `asgi.scope` is in it, too. A header with an underscore in its name is passed over: it
    could not be told from one with a hyphen, which a proxy may have set or removed.
    """
    root = scope.get("root_path", "").rstrip("/")
    path = scope["path"]
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    server = scope.get("server") or ("localhost", None)
    scheme = scope.get("scheme") or "http"
    environ: Environ = {
        "REQUEST_METHOD": scope.get("method", "GET"),
        "SCRIPT_NAME": _bytes(root),
        "PATH_INFO": _bytes(path),
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or PORTS.get(scheme, 80)),
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": body,
        "wsgi.input_terminated": True,  # it ends where the body does, whether or not its length was sent
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "asgi.scope": scope,
    }
    if scope.get("client"):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = scope["client"][0], str(scope["client"][1])
    if scope.get("raw_path"):
        target = scope["raw_path"].decode("latin-1")
        environ["REQUEST_URI"] = f"{target}?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else target
    _add_headers(environ, scope.get("headers", ()))
    return environ


def _add_headers(environ: Environ, headers: Iterable[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if b"_" in name:
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text


def _bytes(path: str) -> str:
    """*path* with its bytes as characters, as an environ has them."""
    return path.encode("utf-8", "surrogateescape").decode("latin-1")
