"""Pulse: Paste-configurable scheduling WSGI middleware.

The names below are loaded when they are first used, so that `import pulse` starts and
imports nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "1.0.0.dev0"

if TYPE_CHECKING:
    from pulse.app import App as App
    from pulse.asgi import AsgiPulse as AsgiPulse
    from pulse.context import PULSE_CONTEXT as PULSE_CONTEXT
    from pulse.context import PulseContext as PulseContext
    from pulse.mark import internal_only as internal_only
    from pulse.mark import is_internal as is_internal
    from pulse.middleware import PulseMiddleware as PulseMiddleware
    from pulse.model import Run as Run
    from pulse.model import Task as Task
    from pulse.request import PulseRequest as PulseRequest
    from pulse.sessions import CookieSessionStore as CookieSessionStore
    from pulse.sessions import InMemorySessionStore as InMemorySessionStore
    from pulse.sessions import SessionStore as SessionStore
    from pulse.wsgi import LazyWsgi as LazyWsgi
    from pulse.wsgi import WsgiHandler as WsgiHandler

_HOMES = {
    "AsgiPulse": "pulse.asgi",
    "App": "pulse.app",
    "CookieSessionStore": "pulse.sessions",
    "InMemorySessionStore": "pulse.sessions",
    "LazyWsgi": "pulse.wsgi",
    "PULSE_CONTEXT": "pulse.context",
    "PulseContext": "pulse.context",
    "PulseMiddleware": "pulse.middleware",
    "PulseRequest": "pulse.request",
    "Run": "pulse.model",
    "SessionStore": "pulse.sessions",
    "Task": "pulse.model",
    "WsgiHandler": "pulse.wsgi",
    "internal_only": "pulse.mark",
    "is_internal": "pulse.mark",
}

__all__ = [
    "PULSE_CONTEXT",
    "App",
    "AsgiPulse",
    "CookieSessionStore",
    "InMemorySessionStore",
    "LazyWsgi",
    "PulseContext",
    "PulseMiddleware",
    "PulseRequest",
    "Run",
    "SessionStore",
    "Task",
    "WsgiHandler",
    "internal_only",
    "is_internal",
]


_ROOMS = ("logs", "sessions", "state", "testing", "wsgi")  # `ps.sessions` after `import pulse as ps`


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f"pulse.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'pulse' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_ROOMS})
