"""Requests: one that came in, the same whichever door it came by; and those that Pulse sends.

`PulseRequest` is what code sees that must not care about WSGI, ASGI or Socket.IO;
`InternalRequest` makes the WSGI environ that the endpoint of a task sees (PEP 3333).
"""

import io
import re
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_to_bytes

from pulse import __version__
from pulse.gateway import Environ
from pulse.model import Config, Run, Task
from pulse.zone import iso

if TYPE_CHECKING:
    from pulse.control import Control

USER_AGENT: Final = f"Pulse/{__version__}"
PORTS: Final = {"http": "80", "https": "443"}

Address = tuple[str, int]

_ADDRESS: Final = re.compile(r"(?P<name>.+):(?P<port>[0-9]+)")
_QUERY: Final = "%/:?@!$&'()*+,;=~-._[]"  # what stands in a query as it is (RFC 3986, 3.4), and what is encoded already


class PulseRequest:
    """One request, of HTTP or the one that opens a WebSocket, whichever door it came by.

    Attributes:
        headers: By lower-case name; a repeated header has its values joined with a comma.
        cookies: By name; of a repeated one the last counts.
        scheme: `http`, `https`, `ws` or `wss`.
        method: The HTTP method.
        path: As text, not percent-encoded, with the prefix under which the application is mounted.
        query_string: As it was sent, without the `?`.
        client: Host and port (0 if unknown) of the other side; None if there is none.
        auth: What a Socket.IO client sent to prove who it is.
        raw: What the request was made from.
    """

    __slots__ = ("auth", "client", "cookies", "headers", "method", "path", "query_string", "raw", "scheme")

    def __init__(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        scheme: str | None = None,
        method: str | None = None,
        path: str | None = None,
        query_string: str | None = None,
        client: Address | None = None,
        auth: Any | None = None,
        raw: Any | None = None,
    ) -> None:
        """Neither *headers* nor *cookies* is kept: both are copied."""
        self.headers = {name.lower(): value for name, value in (headers or {}).items()}
        self.cookies = dict(cookies or {})
        self.scheme = scheme or ""
        self.method = method or ""
        self.path = path or ""
        self.query_string = query_string or ""
        self.client = client
        self.auth = auth
        self.raw = raw

    @property
    def url(self) -> str:
        """The whole address, percent-encoded; without a `Host` header only path and query."""
        path = quote(self.path, safe=_PATH)
        if host := self.headers.get("host", ""):
            path = f"{self.scheme or 'http'}://{host}{'' if path.startswith('/') or not path else '/'}{path}"
        return f"{path}?{self.query_string}" if self.query_string else path

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any], auth: Any | None = None) -> "PulseRequest":
        """The request of a WSGI environ."""
        headers = dict(_headers_of(environ))
        return cls(
            headers=headers,
            cookies=dict(_cookies(headers.get("cookie", ""))),
            scheme=environ.get("wsgi.url_scheme") or "http",
            method=environ.get("REQUEST_METHOD") or "GET",
            path=_text(f"{environ.get('SCRIPT_NAME') or ''}{environ.get('PATH_INFO') or ''}"),
            query_string=environ.get("QUERY_STRING"),
            client=_client(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT")),
            auth=auth,
            raw=environ,
        )

    @classmethod
    def from_scope(cls, scope: Mapping[str, Any], auth: Any | None = None, raw: Any | None = None) -> "PulseRequest":
        """The request of an ASGI scope, `http` or `websocket`; *raw* is the scope if not given."""
        headers: dict[str, str] = {}
        for key, value in scope.get("headers") or ():
            name, text = key.decode("latin-1").lower(), value.decode("latin-1")
            separator = "; " if name == "cookie" else ", "
            headers[name] = f"{headers[name]}{separator}{text}" if name in headers else text
        path, root = scope.get("path") or "", (scope.get("root_path") or "").rstrip("/")
        return cls(
            headers=headers,
            cookies=dict(_cookies(headers.get("cookie", ""))),
            scheme=scope.get("scheme") or ("ws" if scope.get("type") == "websocket" else "http"),
            method=scope.get("method") or "GET",
            # Servers differ in whether the path of a mounted application has its prefix.
            path=path if path == root or path.startswith(f"{root}/") else root + path,
            query_string=(scope.get("query_string") or b"").decode("latin-1"),
            client=_client(*scope["client"][:2]) if scope.get("client") else None,
            auth=auth,
            raw=scope if raw is None else raw,
        )

    @staticmethod
    def from_fastapi(request: Any) -> "PulseRequest":
        """The request of a Starlette or FastAPI `Request` or `WebSocket`, or of what stands in for one in a test."""
        scope = getattr(request, "scope", None)
        return PulseRequest._of_parts(request) if scope is None else PulseRequest.from_scope(scope, raw=request)

    @classmethod
    def _of_parts(cls, request: Any) -> "PulseRequest":
        client = request.client
        return cls(
            headers=request.headers,
            cookies=request.cookies,
            scheme=request.url.scheme,
            method=getattr(request, "method", "GET"),
            path=request.url.path,
            query_string=request.url.query,
            client=_client(client.host, client.port) if client else None,
            raw=request,
        )

    @staticmethod
    def from_socketio_environ(environ: MutableMapping[str, Any], auth: Any | None) -> "PulseRequest":
        """The request that opened a Socket.IO connection; *auth* is what the client sent with it."""
        scope = environ.get("asgi.scope")
        if scope is None:
            return PulseRequest.from_environ(environ, auth)
        return PulseRequest.from_scope(scope, auth, environ)

    def __repr__(self) -> str:
        # No query, header or cookie: this stands in logs.
        return f"<PulseRequest {self.method} {self.path}>"


_PATH: Final = "/:@!$&'()*+,;=~-._"  # what stands in a path as it is (RFC 3986, 3.3)
_ESCAPE: Final = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")  # in a quoted value, RFC 2109


def _headers_of(environ: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-").lower(), value
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield key.replace("_", "-").lower(), value


def _cookies(header: str) -> Iterator[tuple[str, str]]:
    """The cookies of a `Cookie` header, each on its own: what is wrong with one harms no other.

    As browsers send them. The parsers at hand lose the others (`http.cookies`), or cut values
    that browsers do send (WebOb: JSON, UTF-8).
    """
    for pair in header.split(";"):
        name, separator, value = pair.partition("=")
        if separator and name.strip():
            yield name.strip(), _unquoted(value.strip())


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)) if found[1] else found[2], value[1:-1])


def _client(host: str | None, port: object) -> Address | None:
    if not host:
        return None
    text = str(port)
    return host, int(text) if text.isascii() and text.isdigit() else 0


def _text(path: str) -> str:
    """*path* of an environ, whose characters are bytes, as text."""
    try:
        return path.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:  # text already, from a caller who does not know PEP 3333
        return path


def shared_environ(config: Config, more: Mapping[str, object] | None = None) -> Environ:
    """What stands in the environ of every internal request, whatever the task: of *config*, and *more*."""
    address = _ADDRESS.fullmatch(config.host)
    name, port = (address["name"], address["port"]) if address else (config.host, None)
    return {
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": name,
        "SERVER_PORT": port or PORTS[config.scheme],
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": USER_AGENT,
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": config.host,
        "HTTP_USER_AGENT": USER_AGENT,
        "CONTENT_LENGTH": "0",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": config.scheme,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **(more or {}),
    }


class InternalRequest:
    """The request of one task; `environ` gives a fresh environ for each run.

    What is the same for all runs is worked out once. Safe to use from any thread.
    """

    __slots__ = ("_interval", "_more", "_name", "_path", "_shared", "_task")

    def __init__(self, task: Task, shared: Environ) -> None:
        """Work it out.

        Args:
            task: With its whole path, as `pulse.config` places it.
            shared: The `shared_environ` of its application.
        """
        self._task = task
        self._shared = shared
        self._path = _bytes_of(task.path)
        self._name = _wire(task.name)
        self._interval = task.interval.total_seconds() if task.interval else None
        self._more = _more_of(task)

    def environ(self, run: Run, deadline: datetime | None, errors: object, control: "Control") -> Environ:
        """What the endpoint sees of *run*: it may change or clear it, nobody else looks again.

        Args:
            run: The claimed run.
            deadline: When the run will be given up; None for never.
            errors: The text stream that receives what the endpoint writes to `wsgi.errors`.
            control: Set when the run is asked to stop; takes what it tells of its progress.
        """
        task, trigger = self._task, run.trigger.value
        # Key by key into a copy: writing all of them into one display takes twice as long.
        environ = self._shared.copy()
        environ["REQUEST_METHOD"] = task.method
        environ["PATH_INFO"] = self._path
        environ["HTTP_X_PULSE_TASK"] = self._name
        if self._more:
            environ.update(self._more)
        environ["wsgi.input"] = io.BytesIO(task.body)
        environ["wsgi.errors"] = errors
        environ["HTTP_X_PULSE_RUN"] = run.id
        environ["HTTP_X_PULSE_DUE"] = iso(run.due)
        environ["HTTP_X_PULSE_ATTEMPT"] = _number(run.attempt)
        environ["HTTP_X_PULSE_TRIGGER"] = trigger
        # W3C trace context: the run is the trace, so its log lines are found by its id.
        environ["HTTP_TRACEPARENT"] = f"00-{run.id}-{run.id[16:]}-01"
        environ["pulse.info"] = {
            "context": self._path,  # 2009's name for the path
            "interval": self._interval,
            "task": task.name,
            "action": task.action,
            "run_id": run.id,
            "due": run.due,
            "attempt": run.attempt,
            "trigger": trigger,
            "deadline": deadline,
        }
        environ["pulse.cancelled"] = control
        environ["pulse.progress"] = control.tell
        return environ


def _more_of(task: Task) -> Environ | None:
    """What few tasks have in their environ, in place of what `shared_environ` says; None for nothing."""
    environ: Environ = {}
    if task.query:
        environ["QUERY_STRING"] = quote(task.query, safe=_QUERY)
    if task.body:
        environ["CONTENT_LENGTH"] = str(len(task.body))
    if task.content_type:
        environ["CONTENT_TYPE"] = task.content_type
    environ.update({f"HTTP_{name.upper().replace('-', '_')}": text for name, text in task.headers})
    environ.update({key: _wire(text) if key.startswith("HTTP_") else text for key, text in task.environ})
    return environ or None


def _wire(text: str) -> str:
    """*text* of a header as a server hands it over: the bytes of its UTF-8, each as a character (PEP 3333).

    A character beyond latin-1 raises in whatever makes bytes of its headers again.
    """
    return text if text.isascii() else text.encode().decode("latin-1")


def _bytes_of(path: str) -> str:
    """*path*, percent-decoded, as an environ has it: each character is a byte (PEP 3333)."""
    is_plain = path.isascii() and "%" not in path  # of most tasks: one text stands for both
    return path if is_plain else unquote_to_bytes(path).decode("latin-1")


_number: Final = lru_cache(maxsize=64)(str)
