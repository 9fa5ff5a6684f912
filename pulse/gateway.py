"""The words of the gateway interfaces (PEP 3333, ASGI 3), as types; and what is none of their applications."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# Whatever their views are, these answer when they are done.
SYNCHRONOUS: Final = frozenset(
    {
        ("flask.app", "Flask"),
        ("django.core.handlers.wsgi", "WSGIHandler"),
        ("pyramid.router", "Router"),
        ("bottle", "Bottle"),
        ("falcon.app", "App"),
    }
)


def is_asynchronous_app(app: object) -> bool:
    """Whether the wrapped application is known to answer asynchronously."""
    ways = (app, getattr(app, "__call__", None))  # noqa: B004 - which it has
    return any(map(inspect.iscoroutinefunction, ways)) or bool(getattr(app, "async_", False))


def known_as_synchronous(app: WsgiApp) -> bool:
    """Whether *app* says of itself that it is synchronous, or is of a framework whose applications are."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(app).__mro__}
    is_known = not kinds.isdisjoint(SYNCHRONOUS) and not is_asynchronous_app(app)
    return is_known or getattr(app, "async_", None) is False


def is_asgi(app: object) -> bool:
    """Whether *app* is called with scope, receive and send."""
    call = app if inspect.isroutine(app) else type(app).__call__
    if not inspect.iscoroutinefunction(call):
        return False
    names = [name for name in inspect.signature(call).parameters if name != "self"]
    return len(names) == 3  # a handler that awaits has two, as any WSGI application


def why_not_wsgi(app: object) -> str:
    """Why *app* is no WSGI application, as far as that can be seen; else empty."""
    if not callable(app):
        return "want a WSGI application, which is callable"
    if _takes(app, 2):
        return ""
    if is_asgi(app) or _takes(app, 3):
        return "want a WSGI application; for one of ASGI there is AsgiPulse, in pulse.asgi"
    return f"want a WSGI application, which is called with environ and start_response{_FACTORY}"


def why_not_asgi(app: object) -> str:
    """Why *app* is no ASGI application, as far as that can be seen; else empty."""
    if not callable(app):
        return "want an ASGI application, which is callable"
    if _takes(app, 3):
        return ""
    if _takes(app, 2):
        return "want an ASGI application; for one of WSGI there is PulseMiddleware, in pulse.middleware"
    return f"want an ASGI application, which is called with scope, receive and send{_FACTORY}"


_FACTORY = "; what makes one, such as create_app, has to be called first"


def _takes(app: Callable[..., Any], count: int) -> bool:
    """Whether *app* can be called with *count* arguments; True where nobody can tell."""
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):  # it is written in C, or says something odd of itself
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
