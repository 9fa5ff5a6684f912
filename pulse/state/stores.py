"""The stores that the environment asks for, made once a process."""

import os
import secrets
from typing import Final

from pulse.state.base import ConnectionRouter, EventBus, SessionStore, WidgetStore
from pulse.state.lock import ProcessLock
from pulse.state.memory import create_memory_stores
from pulse.state.settings import CONNECTION_TTL, WIDGET_TTL, get_state_backend, given_worker_id, settings
from pulse.state.types import StateBackend

Stores = tuple[WidgetStore, EventBus, ConnectionRouter, SessionStore]

_lock: Final = ProcessLock()
_cached: Final[dict[str, Stores]] = {}
_worker_ids: Final[dict[int, str]] = {}


def get_widget_store() -> WidgetStore:
    """The widget store of this process: memory, or Redis where the environment says so.

    Raises:
        ConfigError: (a ValueError) the environment says something that cannot be.
        ImportError: it asks for Redis, and the redis package is not installed.
    """
    return _stores()[0]


def get_event_bus() -> EventBus:
    """The event bus of this process; see `get_widget_store`."""
    return _stores()[1]


def get_connection_router() -> ConnectionRouter:
    """The connection router of this process; see `get_widget_store`."""
    return _stores()[2]


def get_session_store() -> SessionStore:
    """The session store of this process; see `get_widget_store`."""
    return _stores()[3]


def clear_state_caches() -> None:
    """Let the next calls make new stores, as the environment then says; what Redis holds stays there."""
    with _lock:
        _cached.clear()


def get_worker_id() -> str:
    """Who this process is to other workers: `PULSE_DEPLOY__WORKER_ID`, or an id of its own.

    The variable is for processes that are started one by one: workers that a server forks
    would all inherit the same.
    """
    pid = os.getpid()
    return given_worker_id() or _worker_ids.get(pid) or _worker_ids.setdefault(pid, _new_worker_id(pid))


def widget_seconds() -> int | None:
    """After how many seconds that widget store forgets a widget; None for never."""
    return settings().widget_ttl or (WIDGET_TTL if get_state_backend() is StateBackend.REDIS else None)


def _new_worker_id(pid: int) -> str:
    return f"worker-{pid}-{secrets.token_hex(6)}"


def _stores() -> Stores:
    found = _cached.get("stores")
    if found is None:
        with _lock:
            found = _cached.get("stores") or _make()
            _cached["stores"] = found
    return found


def _make() -> Stores:
    chosen = settings()
    if get_state_backend() is StateBackend.REDIS:
        # Only here: memory works without the redis package.
        from pulse.state.redis import create_redis_stores  # noqa: PLC0415

        return create_redis_stores(
            chosen.redis_url,
            chosen.redis_prefix,
            widget_seconds(),
            chosen.connection_ttl or CONNECTION_TTL,
            chosen.session_ttl,
            chosen.redis_pool_size,
        )
    return create_memory_stores(
        widget_ttl=chosen.widget_ttl, connection_ttl=chosen.connection_ttl, session_ttl=chosen.session_ttl
    )
