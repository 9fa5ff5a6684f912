"""Sessions for ASGI applications, and how a handler gets at its own."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from typing import Any, Final

from pulse.context import PulseContext, active
from pulse.errors import PulseError
from pulse.gateway import AsgiApp, Message, Receive, Scope, Send
from pulse.sessions.base import Session, SessionStore
from pulse.sessions.cookie import CookieSessionStore
from pulse.sessions.header import CookieForm
from pulse.sessions.keeper import keeper_of
from pulse.sessions.mapping import RequestSession
from pulse.sessions.memory import MemorySessionStorage
from pulse.sessions.storage import AnyStorage, SessionStorage
from pulse.sessions.visit import Visit

Storage = SessionStorage | SessionStore | CookieSessionStore | AnyStorage

SESSION_KEY: Final = "pulse.session"
COOKIE_NAME: Final = "pulse-session"

# The messages that carry headers; the last refuses a WebSocket with a response.
_STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class NoSessionError(PulseError, LookupError):
    """There is no session middleware with this key around the handler."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"no session middleware with context_key = {key!r} is around this handler")


def session_data(request: Any, *, context_key: str = SESSION_KEY) -> Session:
    """The session of *request*, a dict that is empty at first and kept when the handler returns.

    Emptying it ends the session.

    Args:
        request: A bareASGI request, an ASGI scope, or an object with a `scope` such as Starlette's requests;
            behind a `SessionFilter` an environ, or an object with one such as those of WebOb, Werkzeug and Flask.
        context_key: That of the middleware, or the `key` of the filter, where there are several.

    Raises:
        NoSessionError: (a LookupError) there is no such middleware.
    """
    return _visit_of(request, context_key).data


def renew_session(request: Any, *, context_key: str = SESSION_KEY) -> None:
    """Keep the session of *request* under a new id from now on; for logins, and all that gives more rights.

    Whoever learned or planted the old id is left out. For the arguments see `session_data`.

    Raises:
        NoSessionError: (a LookupError) there is no such middleware.
    """
    _visit_of(request, context_key).renew()


class SessionMiddleware:
    """An ASGI application with a session around each HTTP request and WebSocket of another.

    The application gets at it with `session_data(scope)`. It is kept before the response
    begins, and again at its end if it was changed meanwhile; not if the application fails,
    or answers with a status of 500 or above.
    """

    def __init__(
        self,
        app: AsgiApp,
        storage: Storage | None = None,
        *,
        context_key: str = SESSION_KEY,
        cookie_name: str | bytes = COOKIE_NAME,
        expires: datetime | None = None,
        max_age: float | timedelta | None = None,
        path: str | bytes | None = None,
        domain: str | bytes | None = None,
        secure: bool | None = None,
        http_only: bool = True,
        same_site: str | bytes | None = "lax",
    ) -> None:
        """Wrap *app*; for the other arguments see `add_session_middleware`.

        Raises:
            TypeError: *storage* is none.
            ValueError: an attribute of the cookie is of no use; the message names it.
        """
        self.app = app
        self._sessions = ScopedSessions(
            storage,
            context_key=context_key,
            cookie_name=cookie_name,
            expires=expires,
            max_age=max_age,
            path=path,
            domain=domain,
            secure=secure,
            http_only=http_only,
            same_site=same_site,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._closing(send))
            return
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        session = await self._sessions.open(scope)
        own_scope = {**scope, self._sessions.context_key: session}

        async def send_with_cookie(message: Message) -> None:
            if message["type"] in _STARTS:
                # Frameworks make a response of an exception; its changes are half of what was to be.
                if message.get("status", 200) >= 500:
                    session.abandon()
                headers = await self._sessions.headers(session, scope)
                if headers:
                    message = {**message, "headers": [*(message.get("headers") or ()), *headers]}
            await send(message)

        with self._sessions.told(session):
            await self.app(own_scope, receive, send_with_cookie)
        # Late in any case: a WebSocket that was refused without headers had no place for a cookie.
        await session.settle(is_late=True)

    def _closing(self, send: Send) -> Send:
        """*send*, with the store closed when the application has shut down."""

        async def send_and_close(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._sessions.close()
            await send(message)

        return send_and_close


class ScopedSessions:
    """The sessions of ASGI scopes: what plain ASGI and bareASGI have in common.

    Attributes:
        context_key: Under which a request finds its session.
    """

    def __init__(
        self, storage: Storage | None, *, context_key: str, cookie_name: Any, path: Any, **attributes: Any
    ) -> None:
        """Wire them; for the arguments see `add_session_middleware`.

        Raises:
            TypeError: *storage* is none.
            ValueError: an attribute of the cookie is of no use; the message names it.
        """
        self.context_key = context_key
        self._keeper = keeper_of(MemorySessionStorage() if storage is None else storage)
        self._form = CookieForm(name=cookie_name, path=path or "/", **attributes)

    async def open(self, scope: Mapping[str, Any]) -> RequestSession:
        """The session of a request: it is loaded, as handlers ask for it without waiting."""
        cookies = (header for name, header in scope.get("headers") or () if name.lower() == b"cookie")
        session = RequestSession(self._keeper, self._form.name, b"; ".join(cookies).decode("latin-1"))
        await session.open()
        return session

    def told(self, session: RequestSession) -> AbstractContextManager[object]:
        """Inside, `PulseContext.get().session` is *session*; not under another key, nor in a run, where nobody is."""
        context = active()
        if self.context_key != SESSION_KEY or context is None or (context.route and context.route.internal):
            return nullcontext()
        return PulseContext.update(session=session)

    async def headers(self, session: RequestSession, scope: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
        """Keep the session; the headers to add to the response."""
        value = await session.settle()
        if not session.is_used:
            return []
        # A page that depends on the session must not come from a cache for somebody else.
        headers = [(b"vary", b"Cookie")]
        if value is not None:
            is_https = scope.get("scheme") in ("https", "wss")
            headers.append((b"set-cookie", self._form.set_cookie(value, is_https=is_https).encode("ascii")))
        return headers

    async def close(self) -> None:
        """Close the store."""
        await self._keeper.close()


def _visit_of(request: Any, context_key: str) -> Visit:
    for place in (request, *(getattr(request, name, None) for name in ("context", "scope", "environ"))):
        found = place.get(context_key) if isinstance(place, Mapping) else None
        if isinstance(found, RequestSession):
            return found.visit()
    raise NoSessionError(context_key)
