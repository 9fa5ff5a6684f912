"""Sessions for WSGI applications: a filter that puts `pulse.session` into the environ."""

import inspect
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final, TypeVar

from pulse.clock import Clock
from pulse.errors import ResponseError
from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.loop import run_async
from pulse.mark import is_internal
from pulse.sessions.asgi import Storage
from pulse.sessions.base import Session
from pulse.sessions.cleanup import cleanup_endpoint
from pulse.sessions.header import CookieForm, cookie_values
from pulse.sessions.keeper import Keeper, immediate, keeper_of
from pulse.sessions.memory import InMemorySessionStore, MemorySessionStorage
from pulse.sessions.opening import open_session_store
from pulse.sessions.option import SessionOptions, read_filter_options, read_session_options
from pulse.sessions.visit import Visit
from pulse.state.types import UserSession
from pulse.wsgi.bridge.answer import END, Pieces, close

T = TypeVar("T")
Headers = list[tuple[str, str]]

SECONDS: Final = 10.0  # that a store may take to answer before the request fails

log = logging.getLogger(__name__)


class SessionFilter:
    """A WSGI application that gives another one a session in its environ.

    Nothing is looked up before the session is used, nothing is kept or sent unless it was
    changed. It is kept before the response begins, and again at its end if it was changed
    meanwhile; not if the application fails, or answers with a status of 500 or above.

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
            TypeError: *store* is none.
        """
        read = options.pop("options", None)
        if isinstance(store, str):
            options["store"] = store
        self.app = app
        self.options: SessionOptions = read if read is not None else read_session_options(options)
        given = None if isinstance(store, str) else store
        self.store = open_session_store(self.options, clock=clock) if given is None else given
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
        session = WsgiSession(self._keeper, self._form.name, environ.get("HTTP_COOKIE", ""))
        environ[self._key] = session
        answer = _Answer(self, session, environ, start_response)
        body: Any = self.app(environ, answer.start)
        if isinstance(body, list | tuple):
            answer.begin()
            return body
        if inspect.isawaitable(body):
            return answer.awaited(body)  # type: ignore[return-value]
        if hasattr(body, "__aiter__"):
            return _AsyncBody(answer, body)  # type: ignore[return-value]
        return answer.file(body) if answer.is_file(body) else _Body(answer, body)

    def close(self) -> None:
        """Close the store; sessions that were kept are not lost by that, unless they were in memory."""
        _run(self._keeper, self._keeper.close())

    def headers(self, session: "WsgiSession", value: str | None, environ: Environ) -> Headers:
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


class WsgiSession(MutableMapping[str, Any], UserSession):
    """The session of a request, as a mapping: looked up when it is first used.

    It is the caller's `UserSession`, too: who it is and until when comes from stores of
    `pulse.state`; with any other the user is nobody. To be used by the one thread that
    serves the request. Emptying it ends the session.
    """

    __slots__ = ("_header", "_keeper", "_name", "_visit")

    def __init__(self, keeper: Keeper, name: str, header: str) -> None:
        """*header*: the `Cookie` header that came; *name*: that of the cookie in it."""
        self._keeper = keeper
        self._name = name
        self._header = header
        self._visit: Visit | None = None

    # What a dataclass has as fields is asked for here when somebody wants it.

    @property
    def session_id(self) -> str:  # type: ignore[override]
        """The session's id: secret, and not kept anywhere while `is_new`."""
        return self._opened().sid

    @property
    def data(self) -> Session:
        """What it holds, as a plain dict: what is changed there is changed here."""
        return self._data()

    @property
    def user_id(self) -> str:  # type: ignore[override]
        """Whose it is, if its store knows; else empty."""
        return self._record().user_id

    @property
    def roles(self) -> list[str]:  # type: ignore[override]
        """What its user is; none if its store does not know."""
        return self._record().roles

    @property
    def created_at(self) -> float:  # type: ignore[override]
        """When it began, if its store knows; else 0."""
        return self._record().created_at

    @property
    def expires_at(self) -> float | None:  # type: ignore[override]
        """When it ends; None for never, or if its store does not know."""
        return self._record().expires_at

    @property
    def metadata(self) -> dict[str, Any]:  # type: ignore[override]
        """A copy of what stands beside its data; empty if its store does not know."""
        return self._record().metadata

    @property
    def is_new(self) -> bool:
        """Whether it is kept nowhere yet."""
        return self._opened().is_new

    @property
    def is_used(self) -> bool:
        """Whether anybody asked for what it holds; asking this does not count."""
        return self._visit is not None and self._visit.is_used

    def renew(self) -> None:
        """Go on under a new id; for logins, and all that gives more rights.

        Whoever learned or planted the old id is left out.
        """
        self._opened().renew()

    def __getitem__(self, key: str) -> Any:
        return self._data()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._data()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._data()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data())

    def __len__(self) -> int:
        return len(self._data())

    def __repr__(self) -> str:
        return f"<session, {'used' if self.is_used else 'not used'}>"  # environs are printed by debug pages

    def abandon(self) -> None:
        """See `Visit.abandon`."""
        if self._visit is not None:
            self._visit.abandon()

    async def settle(self, *, is_late: bool = False) -> str | None:
        """See `Visit.settle`; of what was not used nothing is kept."""
        return None if self._visit is None else await self._visit.settle(is_late=is_late)

    def settle_now(self, *, is_late: bool = False) -> str | None:
        """As `settle`, while the thread waits."""
        if not self.is_used:
            return None
        return _run(self._keeper, self.settle(is_late=is_late))

    def _data(self) -> Session:
        return self._opened().data

    def _record(self) -> UserSession:
        visit = self._opened()
        record = None if visit.is_new else _run(self._keeper, self._keeper.record(visit.sid))
        return record or UserSession(visit.sid, "")

    def _opened(self) -> Visit:
        if self._visit is None:
            visit = Visit(self._keeper, cookie_values(self._header, self._name))
            _run(self._keeper, visit.open())
            self._visit = visit
        return self._visit


class _Answer:
    """The response to one request, whose head waits until it is known what becomes of the session.

    An application may well change its session after `start_response`, up to the first
    chunk of the body: what it had said until then is sent on together with the cookie.
    """

    __slots__ = ("_environ", "_filter", "_has_begun", "_head", "_session", "_start_response", "_write")

    def __init__(
        self, owner: SessionFilter, session: WsgiSession, environ: Environ, start_response: StartResponse
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
        wrapper = self._environ.get("wsgi.file_wrapper")
        if wrapper is None or self._head is None:
            return False
        # uWSGI's is a function, which gives the file itself.
        return isinstance(body, wrapper) if isinstance(wrapper, type) else hasattr(body, "read")

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
        body = await response
        if isinstance(body, list | tuple):
            await self.begin_async()
            return body
        return _AsyncBody(self, body)

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


def _run(keeper: Keeper, coro: Coroutine[Any, Any, T]) -> T:
    return immediate(coro) if keeper.is_immediate else run_async(coro, SECONDS)


def _close(body: object) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
