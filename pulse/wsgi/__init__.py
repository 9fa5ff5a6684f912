"""Asynchronous and lazy WSGI: how an application is reached, here and in other processes.

A handler is a WSGI application (PEP 3333) that may be asynchronous: it may give back an
awaitable which results in the iterable, and chunks may be awaitables which result in bytes.
The names below are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pulse.wsgi.bridge.asgi import as_asgi as as_asgi
    from pulse.wsgi.bridge.connection import Connection as Connection
    from pulse.wsgi.bridge.sync import as_wsgi as as_wsgi
    from pulse.wsgi.handlers import WsgiHandler as WsgiHandler
    from pulse.wsgi.lazy import LazyWsgi as LazyWsgi
    from pulse.wsgi.response import AccessControl as AccessControl
    from pulse.wsgi.response import GZip as GZip
    from pulse.wsgi.response import WsgiResponse as WsgiResponse

_HOMES = {
    "AccessControl": "pulse.wsgi.response",
    "Connection": "pulse.wsgi.bridge.connection",
    "GZip": "pulse.wsgi.response",
    "LazyWsgi": "pulse.wsgi.lazy",
    "WsgiHandler": "pulse.wsgi.handlers",
    "WsgiResponse": "pulse.wsgi.response",
    "as_asgi": "pulse.wsgi.bridge.asgi",
    "as_wsgi": "pulse.wsgi.bridge.sync",
}

__all__ = [
    "AccessControl",
    "Connection",
    "GZip",
    "LazyWsgi",
    "WsgiHandler",
    "WsgiResponse",
    "as_asgi",
    "as_wsgi",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pulse.wsgi' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
