"""Browser sessions: stores, and a layer for WSGI, for ASGI and for bareASGI over any of them."""

from pulse.sessions.asgi import NoSessionError, SessionMiddleware, renew_session, session_data
from pulse.sessions.bareasgi import add_session_middleware
from pulse.sessions.base import Session, SessionStore, SessionTooLarge
from pulse.sessions.cleanup import cleanup_endpoint
from pulse.sessions.cookie import CookieSessionStore
from pulse.sessions.mapping import RequestSession
from pulse.sessions.memory import InMemorySessionStore, MemorySessionStorage
from pulse.sessions.state import StateSessionStore
from pulse.sessions.storage import SessionStorage, StoreSessionStorage
from pulse.sessions.wsgi import SessionFilter, session_filter_app_factory

__all__ = [
    "CookieSessionStore",
    "InMemorySessionStore",
    "MemorySessionStorage",
    "NoSessionError",
    "RequestSession",
    "Session",
    "SessionFilter",
    "SessionMiddleware",
    "SessionStorage",
    "SessionStore",
    "SessionTooLarge",
    "StateSessionStore",
    "StoreSessionStorage",
    "add_session_middleware",
    "cleanup_endpoint",
    "renew_session",
    "session_data",
    "session_filter_app_factory",
]
