"""Shared state: what many workers of an application must see alike.

Widgets (live pieces of a page), events, connections of viewers, user sessions and what they
may do: in the memory of one process, or in Redis for all workers of all hosts, as
`PULSE_DEPLOY__STATE_BACKEND` says. It knows nothing of scheduling.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pulse.state.base import ConnectionRouter, EventBus, SessionStore, WidgetStore
from pulse.state.callbacks import (
    CallbackRegistration,
    CallbackRegistry,
    get_callback_registry,
    reset_callback_registry,
)
from pulse.state.events import Subscription
from pulse.state.housekeeping import Swept, sweep, sweep_endpoint
from pulse.state.memory import (
    MemoryConnectionRouter,
    MemoryEventBus,
    MemorySessionStore,
    MemoryWidgetStore,
    create_memory_stores,
)
from pulse.state.server import ServerStateManager, get_server_state, reset_server_state
from pulse.state.settings import get_state_backend, is_deploy_mode
from pulse.state.stores import (
    clear_state_caches,
    get_connection_router,
    get_event_bus,
    get_session_store,
    get_widget_store,
    get_worker_id,
)
from pulse.state.sync_helpers import run_async, run_async_fire_and_forget
from pulse.state.types import ConnectionInfo, EventMessage, StateBackend, UserSession, WidgetData

if TYPE_CHECKING:
    from pulse.state.redis import RedisConnectionRouter as RedisConnectionRouter
    from pulse.state.redis import RedisEventBus as RedisEventBus
    from pulse.state.redis import RedisSessionStore as RedisSessionStore
    from pulse.state.redis import RedisWidgetStore as RedisWidgetStore
    from pulse.state.redis import create_redis_stores as create_redis_stores

# Loaded when they are used: the redis package is an extra.
_OF_REDIS = (
    "RedisConnectionRouter",
    "RedisEventBus",
    "RedisSessionStore",
    "RedisWidgetStore",
    "create_redis_stores",
)

__all__ = [
    "CallbackRegistration",
    "CallbackRegistry",
    "ConnectionInfo",
    "ConnectionRouter",
    "EventBus",
    "EventMessage",
    "MemoryConnectionRouter",
    "MemoryEventBus",
    "MemorySessionStore",
    "MemoryWidgetStore",
    "ServerStateManager",
    "SessionStore",
    "StateBackend",
    "Subscription",
    "Swept",
    "UserSession",
    "WidgetData",
    "WidgetStore",
    "clear_state_caches",
    "create_memory_stores",
    "get_callback_registry",
    "get_connection_router",
    "get_event_bus",
    "get_server_state",
    "get_session_store",
    "get_state_backend",
    "get_widget_store",
    "get_worker_id",
    "is_deploy_mode",
    "reset_callback_registry",
    "reset_server_state",
    "run_async",
    "run_async_fire_and_forget",
    "sweep",
    "sweep_endpoint",
]


def __getattr__(name: str) -> object:
    if name not in _OF_REDIS:
        raise AttributeError(f"module 'pulse.state' has no attribute {name!r}")
    return getattr(import_module("pulse.state.redis"), name)
