"""The scope of an ASGI server as the environ of a WSGI application (PEP 3333), and the other way round."""

import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

from pulse.gateway import Environ, Scope

PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# What stands in a scope under another name, or has no meaning there.
_TRANSLATED: Final = re.compile(
    r"HTTP_.*|CONTENT_(TYPE|LENGTH)|REQUEST_METHOD|SCRIPT_NAME|PATH_INFO|QUERY_STRING|SERVER_\w+|REMOTE_(ADDR|PORT)|wsgi\..*"
)
_PATH: Final = "/:@!$&'()*+,;=~-._"  # what stands in a path as it is (RFC 3986, 3.3)


def environ_of(scope: Scope, body: object) -> Environ:
    """The environ of the request of *scope*, whose `wsgi.input` is *body*; see PEP 3333.

    `asgi.scope` is in it, too. A header with an underscore in its name is passed over: it
    could not be told from one with a hyphen, which a proxy may have set or removed.
    """
    root, path = mount_of(scope)
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


def mount_of(scope: Scope) -> tuple[str, str]:
    """Where the application of *scope* is mounted, and the path below that, which a server may have sent as one."""
    root, path = (scope.get("root_path") or "").rstrip("/"), scope["path"]
    has_both = root and (path == root or path.startswith(f"{root}/"))
    return root, path[len(root) :] if has_both else path


def scope_of(environ: Environ) -> dict[str, Any]:
    """The HTTP scope of the request of *environ*; what only an environ has is in it by its own name."""
    root, way = (_text(environ.get(key, "")) for key in ("SCRIPT_NAME", "PATH_INFO"))
    port = environ.get("SERVER_PORT", "")
    own = {key: value for key, value in environ.items() if not _TRANSLATED.fullmatch(key)}
    return own | {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": environ.get("SERVER_PROTOCOL", "HTTP/1.1").rpartition("/")[2],
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "path": root + way,
        "raw_path": quote(root + way, safe=_PATH, errors="surrogateescape").encode("ascii"),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "root_path": root,
        "headers": list(_headers(environ)),
        "client": (environ["REMOTE_ADDR"], 0) if environ.get("REMOTE_ADDR") else None,
        "server": (environ["SERVER_NAME"], int(port) if port.isdecimal() else None),
        "extensions": {},
    }


def _headers(environ: Environ) -> Iterator[tuple[bytes, bytes]]:
    for key, value in environ.items():
        if key.startswith("HTTP_") or (key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value):
            name = key.removeprefix("HTTP_").replace("_", "-").lower()
            yield name.encode("latin-1"), _wire(value)


def _wire(text: str) -> bytes:
    """*text* of a header as it is sent: latin-1 as in any environ, or what somebody has configured."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


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


def _text(path: str) -> str:
    """*path*, whose characters are bytes, as text; what is no UTF-8 stays what it is."""
    return path.encode("latin-1").decode("utf-8", "surrogateescape")
