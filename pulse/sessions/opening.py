"""From the address of a session store to the store."""

from pulse.clock import Clock
from pulse.sessions.base import SessionStore
from pulse.sessions.cookie import CookieSessionStore
from pulse.sessions.memory import InMemorySessionStore
from pulse.sessions.option import SessionOptions
from pulse.sessions.state import StateSessionStore


def open_session_store(options: SessionOptions, *, clock: Clock | None = None) -> SessionStore | CookieSessionStore:
    """The store that *options* describe; nothing is opened before it is first used.

    Raises:
        RuntimeError: it signs cookies, and there is no secret in production.
        ImportError: it is in Redis, and the extra `redis` is not installed.
    """
    if options.store == "memory:":
        return InMemorySessionStore(ttl=options.ttl, max_sessions=options.max_sessions, clock=clock)
    if options.store == "cookie:":
        return CookieSessionStore(
            options.secret, old_secrets=options.old_secrets or (), max_age=options.ttl, clock=clock
        )
    from pulse.state.redis import RedisSessionStore  # noqa: PLC0415 - an extra, which nobody else needs

    records = RedisSessionStore(options.store, prefix=options.prefix)
    return StateSessionStore(records, ttl=options.ttl, clock=clock)
