"""Responses of asynchronous WSGI, and what may be done to them on their way out."""

import gzip
import logging
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from webob import Response
from webob.acceptparse import create_accept_encoding_header

from pulse.gateway import Environ
from pulse.wsgi.bridge.answer import is_whole

log = logging.getLogger(__name__)


class WsgiResponse(Response):  # type: ignore[misc]  # WebOb has no types
    """A `webob.Response` whose content may also be an asynchronous iterable.

    It is a WSGI application itself, and may be given back by a middleware of a
    `WsgiHandler` in place of the iterable.
    """

    @property
    def content(self) -> Any:
        """The body: bytes when it is whole, else the iterable it is read from. May be set to text, too."""
        body = self.app_iter
        return b"".join(body) if is_whole(body) else body

    @content.setter
    def content(self, content: Any) -> None:
        if isinstance(content, str):
            content = content.encode(self.charset or "utf-8")
        if isinstance(content, bytes):
            self.body = content
        else:
            self.app_iter = content  # this removes the Content-Length, which was that of another body


def error_response(error: BaseException | int) -> Response:
    """The response to *error*, an exception or a status; it tells its status and nothing more.

    A `webob.exc` is its own response. Other exceptions may carry a status, as
    `status_code`, `status` or `code`, a number or text such as `409 Conflict`; those that do
    not are 500, and are logged.
    """
    if isinstance(error, Response):
        return error
    status = error if isinstance(error, int) else _status_of(error)
    if isinstance(error, BaseException) and status >= 500:
        log.error("a handler failed: %s", type(error).__name__, exc_info=error, extra={"pulse_event": "handler_failed"})
    reason = HTTPStatus(status).phrase if status in _KNOWN else "Error"
    return WsgiResponse(f"{reason}\n", status=f"{status} {reason}", content_type="text/plain", charset="utf-8")


class GZip:
    """A response middleware that compresses what is whole, worth it, and asked for.

    A body that is sent chunk by chunk is left alone: compressed, its chunks would wait for
    each other. `Vary` is set where another client might get another body.
    """

    TYPES: Final = ("text/", "application/json", "application/javascript", "application/xml", "image/svg+xml")

    def __init__(self, *, smallest: int = 500, level: int = 6) -> None:
        """Compress bodies of at least *smallest* bytes, at *level* 1 (fast) to 9."""
        self.smallest = smallest
        self.level = level

    def __call__(self, environ: Environ, response: Response) -> None:
        """Compress the body of *response*, if that is right."""
        body = response.content if isinstance(response, WsgiResponse) else None
        if not isinstance(body, bytes) or len(body) < self.smallest or not self._may_encode(response):
            return
        response.vary = (*(response.vary or ()), "Accept-Encoding")
        if not _accepts_gzip(environ):
            return
        response.body = gzip.compress(body, self.level, mtime=0)  # the same for the same body
        response.content_encoding = "gzip"
        response.content_md5 = None
        if response.etag:
            response.etag = (response.etag, False)  # equal in meaning, no more byte for byte

    def _may_encode(self, response: Response) -> bool:
        kind = (response.content_type or "").lower()
        return (
            response.content_encoding is None
            and response.status_code not in (204, 206, 304)
            and (kind.startswith(self.TYPES) or kind.endswith(("+json", "+xml")))
            and not response.cache_control.no_transform
        )


class AccessControl:
    """A response middleware that lets pages of other origins read the responses (CORS).

    Preflight requests (`OPTIONS`) are answered by the application; this gives their
    response its headers as well.
    """

    def __init__(
        self,
        origins: str | Iterable[str] = "*",
        *,
        methods: Iterable[str] = (),
        headers: Iterable[str] = (),
        expose: Iterable[str] = (),
        credentials: bool = False,
        max_age: int | None = None,
    ) -> None:
        """What is allowed.

        Args:
            origins: `*` for every one, or those that are: `https://example.org`.
            methods: Beside GET, HEAD and POST.
            headers: That requests may have, beside the usual ones.
            expose: That pages may read, beside the usual ones.
            credentials: Whether requests may carry cookies; then the origins must be named.
            max_age: Seconds that a browser may keep the answer to a preflight request.

        Raises:
            ValueError: *credentials* for every origin: any page could act for the user.
        """
        self.origins = frozenset([origins] if isinstance(origins, str) else origins)
        if credentials and "*" in self.origins:
            raise ValueError("credentials = True: want the origins by name, as any page could act for its visitor")
        self.credentials = credentials
        self._preflight = {
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": ", ".join(headers),
            "Access-Control-Max-Age": "" if max_age is None else str(max_age),
        }
        self._expose = ", ".join(expose)

    def __call__(self, environ: Environ, response: Response) -> None:
        """Set the headers of *response*."""
        if "*" in self.origins:
            origin = "*"
        else:
            response.vary = (*(response.vary or ()), "Origin")
            origin = environ.get("HTTP_ORIGIN", "")
            if origin not in self.origins:
                return
        headers = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": self._expose}
        if self.credentials:
            headers["Access-Control-Allow-Credentials"] = "true"
        if environ.get("REQUEST_METHOD") == "OPTIONS":
            headers |= self._preflight
        response.headers.update({name: value for name, value in headers.items() if value})


_KNOWN: Final = frozenset(HTTPStatus)
_STATUS: Final = re.compile("[45][0-9]{2}( .*)?", re.DOTALL)  # a longer number is the code of a database


def _status_of(error: BaseException) -> int:
    for name in ("status_code", "status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, str) and _STATUS.fullmatch(status):
            return int(status[:3])
        if isinstance(status, int) and 400 <= status <= 599:
            return int(status)
    return 500


def _accepts_gzip(environ: Environ) -> bool:
    accepted = create_accept_encoding_header(environ.get("HTTP_ACCEPT_ENCODING") or "identity")
    # WebOb takes a header that it cannot read as one that accepts everything.
    return accepted.parsed is not None and bool(accepted.acceptable_offers(["gzip"]))
