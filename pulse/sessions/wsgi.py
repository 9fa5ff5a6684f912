"""Sessions for WSGI applications: a filter that puts `pulse.session` into the environ."""

import inspect
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from pulse.clock import Clock
from pulse.context import is_file
from pulse.errors import ResponseError
from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.mark import is_internal
from pulse.sessions.asgi import Storage
from pulse.sessions.cleanup import cleanup_endpoint
from pulse.sessions.header import CookieForm
from pulse.sessions.keeper import keeper_of
from pulse.sessions.mapping import RequestSession, outcome
from pulse.sessions.memory import InMemorySessionStore, MemorySessionStorage
from pulse.sessions.opening import open_session_store
from pulse.sessions.option import (
    SessionOptions,
    read_filter_options,
    read_session_options,
    refuse_options_of_store,
)
from pulse.wsgi.bridge.answer import END, Pieces, close, is_whole

Headers = list[tuple[str, str]]

log = logging.getLogger(__name__)


class SessionFilter:
    """A WSGI application that gives another one a session in its environ.

    Nothing is looked up before the session is used (for an asynchronous application: before
    it runs, if that takes waiting), nothing is kept or sent unless it was changed. It is kept
    before the response begins, and again at its end if it was changed meanwhile; not if the
    application fails, or answers with a status of 500 or above.

    Attributes:
        app: The wrapped application.
        store: Where sessions are kept.
        options: The effective options.
    """

    def __init__(
        self, app: WsgiApp, store: Storage | str | None = None, *, clock: Clock | None = None, **options: Any
    ) -> None:
        """Wrap *app*.

        Args:
            app: Any WSGI application.
            store: A store, or the address of one.
            clock: For tests: `pulse.testing.ManualClock`.
            **options: Those of `SessionOptions`; or `options=`, one that was read before.

        Raises:
            ConfigError: (a ValueError) naming every fault of the options at once.
            RuntimeError: there is no secret for signed cookies, in production.
            TypeError: *store* is none, or there are others beside `options=`.
        """
        read = options.pop("options", None)
        if isinstance(store, str):
            options["store"], store = store, None
        if read is not None and options:
            raise TypeError(f"options and {next(iter(options))}: want one or the other")
        if store is not None:
            refuse_options_of_store(options)
        self.app = app
        self.options: SessionOptions = read if read is not None else read_session_options(options)
        self.store = open_session_store(self.options, clock=clock) if store is None else store
        self._keeper = keeper_of(self.store)
        self._form = _form_of(self.options)
        self._key = self.options.key
        self._cleanup = self.options.cleanup
        self._endpoint = cleanup_endpoint(self.store)
        self._warns = isinstance(self.store, InMemorySessionStore | MemorySessionStorage)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request (PEP 3333)."""
        if self._cleanup is not None and self._is_cleanup(environ):
            return self._endpoint(environ, start_response)
        session = RequestSession(self._keeper, self._form.name, environ.get("HTTP_COOKIE", ""))
        environ[self._key] = session
        answer = _Answer(self, session, environ, start_response)
        body: Any = self.app(environ, answer.start)
        if is_whole(body):
            answer.begin()
            return body  # type: ignore[no-any-return]
        if inspect.isawaitable(body):
            return answer.awaited(body)  # type: ignore[return-value]
        if hasattr(body, "__aiter__"):
            return _AsyncBody(answer, body)  # type: ignore[return-value]
        return answer.file(body) if answer.is_file(body) else _Body(answer, body)

    def close(self) -> None:
        """Close the store; sessions that were kept are not lost by that, unless they were in memory."""
        outcome(self._keeper, self._keeper.close())

    def headers(self, session: "RequestSession", value: str | None, environ: Environ) -> Headers:
        """What the response to *environ* has to say about *session*, whose cookie is *value*."""
        if self._warns and session.is_used and environ.get("wsgi.multiprocess"):
            self._warns = False
            log.warning(
                "sessions are kept in the memory of one of several processes: the others will not know them "
                "(store = cookie: or redis://...)",
                extra={"pulse_event": "sessions_apart"},
            )
        # A page that depends on the session must not come from a cache for somebody else.
        headers = [("Vary", "Cookie")] if session.is_used else []
        if value is not None:
            is_https = environ.get("wsgi.url_scheme") == "https"
            headers.append(("Set-Cookie", self._form.set_cookie(value, is_https=is_https)))
        return headers

    def _is_cleanup(self, environ: Environ) -> bool:
        path = environ.get("PATH_INFO", "")
        return self._cleanup in (path, environ.get("SCRIPT_NAME", "") + path) and is_internal(environ)


class _Answer:
    """The response to one request, whose head waits until it is known what becomes of the session.

    An application may well change its session after `start_response`, up to the first
    chunk of the body: what it had said until then is sent on together with the cookie.
    """

    __slots__ = ("_environ", "_filter", "_has_begun", "_head", "_session", "_start_response", "_write")

    def __init__(
        self, owner: SessionFilter, session: RequestSession, environ: Environ, start_response: StartResponse
    ) -> None:
        self._filter = owner
        self._session = session
        self._environ = environ
        self._start_response = start_response
        self._head: tuple[Any, ...] | None = None
        self._has_begun = False
        self._write: Any = None

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> Any:
        """The `start_response` of the application."""
        if self._has_begun:
            return self._start_response(status, headers, exc_info)  # which raises: it is too late
        if self._head is not None and exc_info is None:
            raise ResponseError("start_response was called twice without exc_info")
        self._head = (status, headers) if exc_info is None else (status, headers, exc_info)
        return self.write

    def write(self, chunk: bytes) -> None:
        """The `write` of the application."""
        self.begin()
        self._write(chunk)

    def begin(self) -> None:
        """Keep the session, and send the head on, if there is one that was not sent."""
        if self._head is not None and not self._has_begun:
            self._judge()
            self._send_head(self._session.settle_now())

    def end(self) -> None:
        """Keep what was changed while the body was made."""
        if self._has_begun:
            self._session.settle_now(is_late=True)

    def is_file(self, body: object) -> bool:
        """Whether *body* is the server's own file wrapper, and can be sent by the system."""
        return self._head is not None and is_file(body, self._environ)

    def file(self, body: Any) -> Iterable[bytes]:
        """*body* itself, behind its head."""
        try:
            self.begin()
        except BaseException:
            _close(body)
            raise
        return body  # type: ignore[no-any-return]

    async def awaited(self, response: Any) -> Any:
        """The same for an asynchronous application, whose call has given an awaitable."""
        try:
            await self.look_up()
        except BaseException:  # cancelled meanwhile
            _close(response)  # or it would be reported as never awaited, too
            raise
        body = await response
        if is_whole(body):
            await self.begin_async()
            return body
        return _AsyncBody(self, body)

    async def look_up(self) -> None:
        """Before code of the application runs on an event loop."""
        await self._session.look_up()

    async def begin_async(self) -> None:
        """As `begin`, on an event loop."""
        if self._head is not None and not self._has_begun:
            self._judge()
            self._send_head(await self._session.settle())

    async def end_async(self) -> None:
        """As `end`, on an event loop."""
        if self._has_begun:
            await self._session.settle(is_late=True)

    def _judge(self) -> None:
        # Frameworks make a response of an exception; its changes are half of what was to be.
        if self._head is not None and self._head[0][:1] == "5":
            self._session.abandon()

    def _send_head(self, value: str | None) -> None:
        assert self._head is not None
        self._has_begun = True
        status, headers, *error = self._head
        more = self._filter.headers(self._session, value, self._environ)
        self._head = ()  # an exc_info kept here would be a cycle of frames
        self._write = self._start_response(status, [*headers, *more] if more else headers, *error)


class _Body:
    """The body of a response, with its head before the first chunk."""

    __slots__ = ("_answer", "_body", "_chunks", "_has_failed")

    def __init__(self, answer: _Answer, body: Iterable[bytes]) -> None:
        self._answer = answer
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._has_failed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
            self._answer.begin()
        except StopIteration:
            self._answer.begin()
            self._answer.end()
            raise
        except BaseException:  # the server's to deal with; what a failed application has changed is not kept
            self._has_failed = True
            raise
        return chunk

    def close(self) -> None:
        """Close the application's body, once however often this is called, and keep what it changed last."""
        body, self._body = self._body, ()
        _close(body)
        if not self._has_failed:
            self._answer.end()


class _AsyncBody:
    """The same for an asynchronous response, or one with awaitable chunks."""

    __slots__ = ("_answer", "_body", "_has_failed", "_pieces")

    def __init__(self, answer: _Answer, body: Any) -> None:
        self._answer = answer
        self._body = body
        self._pieces: Pieces | None = None
        self._has_failed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            if self._pieces is None:
                await self._answer.look_up()
                self._pieces = Pieces(self._body)
            chunk = await self._pieces.next()
            await self._answer.begin_async()
        except BaseException:  # as above
            self._has_failed = True
            await self.aclose()
            raise
        if chunk is END:
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """As `close` of the synchronous one."""
        body, self._body = self._body, None
        await close(body)
        if not self._has_failed:
            await self._answer.end_async()


def session_filter_app_factory(app: WsgiApp, global_conf: Mapping[str, str] | None, **local_conf: str) -> SessionFilter:
    """The `paste.filter_app_factory`: `use = egg:pulse#sessions` in a `[filter:]` or `[filter-app:]`.

    Raises:
        ConfigError: (a ValueError) naming every fault with its file and section.
    """
    return SessionFilter(app, options=read_filter_options(global_conf, local_conf))


def _form_of(options: SessionOptions) -> CookieForm:
    return CookieForm(
        name=options.cookie_name,
        path=options.cookie_path,
        domain=options.cookie_domain,
        secure=None if options.cookie_secure == "auto" else options.cookie_secure,
        http_only=options.cookie_http_only,
        same_site=options.cookie_same_site,
        max_age=options.cookie_max_age,
    )


def _close(body: object) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
