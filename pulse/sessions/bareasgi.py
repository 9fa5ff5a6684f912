"""Sessions for bareASGI applications: the way of bareASGI-session, with the import line changed.

bareASGI itself is not imported: its applications, requests and responses are taken as they come.
"""

import copy
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pulse.sessions.asgi import COOKIE_NAME, SESSION_KEY, ScopedSessions, Storage

A = TypeVar("A")


def add_session_middleware(
    app: A,
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
) -> A:
    """Give each HTTP request of a bareASGI application a session; handlers get it with `session_data`.

    Args:
        app: What has `middlewares`, a list.
        storage: Where sessions are kept; by default in memory.
        context_key: Under which requests find their session; another one for each middleware.
        cookie_name: Another one for each middleware, too.
        expires: When browsers drop the cookie; naive instants are UTC.
        max_age: A timedelta, or seconds, after which browsers drop the cookie; by default when they are closed.
        path: Below which the cookie is sent; by default everywhere.
        domain: For which the cookie is sent; by default for the host of the request alone.
        secure: Whether the cookie is only sent over https; by default if it was set over https.
        http_only: Whether scripts in the page cannot read the cookie.
        same_site: `lax`, `strict`, `none` (which wants *secure*), or None to leave it out.

    Returns:
        *app*.

    Raises:
        TypeError: *storage* is none.
        ValueError: an attribute of the cookie is of no use; the message names it.
    """
    sessions = ScopedSessions(
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
    bare: Any = app
    bare.middlewares.append(BareSessionMiddleware(sessions))
    return app


class BareSessionMiddleware:
    """A middleware of bareASGI: called with a request and the handler behind it."""

    def __init__(self, sessions: ScopedSessions) -> None:
        """Give requests those *sessions*."""
        self._sessions = sessions

    async def __call__(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """The handler's response, with the cookie if one is due; what the handler raises is passed on."""
        session = await self._sessions.open(request.scope)
        request.context[self._sessions.context_key] = session
        with self._sessions.told(session):
            response = await handler(request)
        headers = await self._sessions.headers(session, request.scope)
        if not headers:
            return response
        # A copy: responses may be shared, as that of "not found" is.
        own = copy.copy(response)
        own.headers = [*(response.headers or ()), *headers]
        return own
