import dataclasses
import inspect
import os
import sys
from typing import Any

import pytest

from pulse import state
from pulse.state import (
    ConnectionInfo,
    ConnectionRouter,
    EventBus,
    EventMessage,
    MemoryConnectionRouter,
    MemoryEventBus,
    MemorySessionStore,
    MemoryWidgetStore,
    SessionStore,
    StateBackend,
    UserSession,
    WidgetData,
    WidgetStore,
)
from pulse.state.memory import create_memory_stores
from pulse.state.redis import RedisConnectionRouter, RedisEventBus, RedisSessionStore, RedisWidgetStore
from pulse.state.stores import widget_seconds

FACTORIES = {
    "get_widget_store": MemoryWidgetStore,
    "get_event_bus": MemoryEventBus,
    "get_connection_router": MemoryConnectionRouter,
    "get_session_store": MemorySessionStore,
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PULSE_DEPLOY", "PYWRY"))]:
        monkeypatch.delenv(name)
    state.clear_state_caches()
    yield
    state.clear_state_caches()


@pytest.fixture
def say(monkeypatch):
    """Sets a variable of the environment by its short name."""
    return lambda name, value: monkeypatch.setenv(f"PULSE_DEPLOY__{name}", value)


def test_memory_is_the_default_backend():
    assert state.get_state_backend() is StateBackend.MEMORY
    assert state.is_deploy_mode() is False


@pytest.mark.parametrize("name", ["redis", "REDIS", " Redis "])
def test_the_backend_is_read_at_each_call_in_any_case(say, name):
    say("STATE_BACKEND", name)
    assert state.get_state_backend() is StateBackend.REDIS
    assert state.is_deploy_mode() is True

    say("STATE_BACKEND", "")
    assert state.get_state_backend() is StateBackend.MEMORY


@pytest.mark.parametrize("ask", ["get_state_backend", "is_deploy_mode", "get_widget_store"])
def test_an_unknown_backend_is_refused(say, ask):
    say("STATE_BACKEND", "postgres")

    with pytest.raises(ValueError, match="PULSE_DEPLOY__STATE_BACKEND = 'postgres': want memory or redis"):
        getattr(state, ask)()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", True),
        ("true", True),
        ("YES", True),
        (" on ", True),
        ("0", False),
        ("no", False),
        ("", False),
        ("2", False),
    ],
)
def test_deploy_mode_can_be_asked_for(monkeypatch, value, expected):
    monkeypatch.setenv("PULSE_DEPLOY_MODE", value)

    assert state.is_deploy_mode() is expected


def test_variables_of_another_name_have_no_effect(monkeypatch):
    monkeypatch.setenv("PYWRY_DEPLOY__STATE_BACKEND", "redis")
    monkeypatch.setenv("PYWRY_DEPLOY_MODE", "1")
    monkeypatch.setenv("PYWRY_DEPLOY__WORKER_ID", "w")

    assert state.get_state_backend() is StateBackend.MEMORY
    assert state.is_deploy_mode() is False
    assert state.get_worker_id() != "w"


def test_every_number_that_cannot_be_read_is_named(say):
    for name in ("REDIS_POOL_SIZE", "WIDGET_TTL", "CONNECTION_TTL", "SESSION_TTL"):
        say(name, "-1")

    with pytest.raises(ValueError, match="4 faults") as raised:
        state.get_widget_store()

    assert "PULSE_DEPLOY__SESSION_TTL = '-1': want a whole number above 0" in str(raised.value)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_gives_one_store_of_its_backend_until_the_caches_are_cleared(name):
    factory = getattr(state, name)
    first = factory()

    assert type(first) is FACTORIES[name]
    assert factory() is first
    state.clear_state_caches()
    assert factory() is not first


def test_redis_stores_are_made_as_the_environment_says(say):
    say("STATE_BACKEND", "redis")
    say("REDIS_URL", "redis://127.0.0.1:1/0")
    say("REDIS_PREFIX", "mine")
    say("WIDGET_TTL", "60")
    say("CONNECTION_TTL", "5")
    say("SESSION_TTL", "7")

    stores = [getattr(state, name)() for name in FACTORIES]
    widgets, bus, router, sessions = stores

    assert [type(store) for store in stores] == [
        RedisWidgetStore, RedisEventBus, RedisConnectionRouter, RedisSessionStore,
    ]  # fmt: skip
    assert {store._keys.prefix for store in stores} == {"mine"}
    assert (widgets._span, router._span, sessions._ttl) == (60_000_000, 5_000_000, 7)
    assert widgets._link is bus._link is router._link is sessions._link
    assert widgets._link._url == "redis://127.0.0.1:1/0"


def test_memory_stores_heed_the_times_of_the_environment(say):
    say("SESSION_TTL", "7")

    assert state.get_session_store()._ttl == 7


def test_a_widget_is_remembered_for_as_long_as_its_store_does(say):
    assert widget_seconds() is None
    say("STATE_BACKEND", "redis")
    assert widget_seconds() == 86_400
    say("WIDGET_TTL", "60")
    assert widget_seconds() == 60


def test_the_worker_id_is_stable_and_can_be_given(say):
    own = state.get_worker_id()
    assert own
    assert state.get_worker_id() == own

    say("WORKER_ID", "web-1")
    assert state.get_worker_id() == "web-1"


def test_a_process_with_another_pid_has_another_worker_id(monkeypatch):
    own = state.get_worker_id()
    pid = os.getpid()

    monkeypatch.setattr(os, "getpid", lambda: pid + 1)

    assert state.get_worker_id() != own


def test_memory_stores_are_new_each_time():
    first, second = create_memory_stores(), create_memory_stores()

    assert [type(store) for store in first] == [
        MemoryWidgetStore, MemoryEventBus, MemoryConnectionRouter, MemorySessionStore,
    ]  # fmt: skip
    assert not set(map(id, first)) & set(map(id, second))


def test_the_server_state_is_one_until_it_is_reset():
    first = state.get_server_state()

    assert state.get_server_state() is first
    state.reset_server_state()
    assert state.get_server_state() is not first


def test_without_the_redis_package_memory_works_and_redis_says_what_is_missing(say, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "redis" or name.endswith(".redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)

    assert isinstance(state.get_widget_store(), MemoryWidgetStore)
    state.clear_state_caches()
    say("STATE_BACKEND", "redis")
    with pytest.raises(ImportError, match=r"pip install 'pulse\[redis\]'"):
        state.get_widget_store()
    with pytest.raises(ImportError, match=r"pulse\[redis\]"):
        state.RedisWidgetStore  # noqa: B018 - looking it up imports it


def test_redis_names_are_found_at_the_package():
    assert state.RedisEventBus is RedisEventBus
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        state.Nonsense  # noqa: B018


# The shape of things

DATACLASSES: dict[type, list[tuple[str, Any]]] = {
    WidgetData: [("widget_id", ...), ("html", ...), ("token", None), ("created_at", 0.0), ("owner_worker_id", None), ("metadata", {})],
    EventMessage: [("event_type", ...), ("widget_id", ...), ("data", ...), ("source_worker_id", ...), ("target_worker_id", None), ("timestamp", 0.0), ("message_id", "")],
    ConnectionInfo: [("widget_id", ...), ("worker_id", ...), ("connected_at", 0.0), ("last_heartbeat", 0.0), ("user_id", None), ("session_id", None)],
    UserSession: [("session_id", ...), ("user_id", ...), ("roles", []), ("created_at", 0.0), ("expires_at", None), ("metadata", {})],
}  # fmt: skip


@pytest.mark.parametrize("kind", DATACLASSES)
def test_a_dataclass_has_its_fields_in_order_with_fresh_defaults(kind):
    required = [name for name, default in DATACLASSES[kind] if default is ...]
    first, second = kind(*required), kind(*required)

    assert [field.name for field in dataclasses.fields(kind)] == [name for name, _ in DATACLASSES[kind]]
    for name, default in DATACLASSES[kind]:
        assert getattr(first, name) == (name if default is ... else default)
        if isinstance(default, dict | list):
            assert getattr(first, name) is not getattr(second, name)


ABSTRACT = {
    WidgetStore: {
        "register": {"widget_id": ..., "html": ..., "token": None, "owner_worker_id": None, "metadata": None},
        "get": {"widget_id": ...}, "get_html": {"widget_id": ...}, "get_token": {"widget_id": ...},
        "exists": {"widget_id": ...}, "delete": {"widget_id": ...}, "list_active": {},
        "update_html": {"widget_id": ..., "html": ...}, "update_token": {"widget_id": ..., "token": ...}, "count": {},
    },
    EventBus: {
        "publish": {"channel": ..., "event": ...}, "subscribe": {"channel": ...}, "unsubscribe": {"channel": ...},
    },
    ConnectionRouter: {
        "register_connection": {"widget_id": ..., "worker_id": ..., "user_id": None, "session_id": None},
        "get_connection_info": {"widget_id": ...}, "get_owner": {"widget_id": ...},
        "refresh_heartbeat": {"widget_id": ...}, "unregister_connection": {"widget_id": ...},
        "list_worker_connections": {"worker_id": ...},
    },
    SessionStore: {
        "create_session": {"session_id": ..., "user_id": ..., "roles": None, "ttl": None, "metadata": None},
        "get_session": {"session_id": ...}, "validate_session": {"session_id": ...},
        "delete_session": {"session_id": ...}, "refresh_session": {"session_id": ..., "extend_ttl": None},
        "list_user_sessions": {"user_id": ...},
        "check_permission": {"session_id": ..., "resource_type": ..., "resource_id": ..., "permission": ...},
    },
}  # fmt: skip


@pytest.mark.parametrize("contract", ABSTRACT)
def test_a_contract_has_exactly_its_methods(contract):
    expected = ABSTRACT[contract]

    assert contract.__abstractmethods__ == set(expected)
    for name, parameters in expected.items():
        method = getattr(contract, name)
        found = {
            parameter.name: ... if parameter.default is inspect.Parameter.empty else parameter.default
            for parameter in list(inspect.signature(method).parameters.values())[1:]
        }
        assert found == parameters
        assert inspect.iscoroutinefunction(method) is (name != "subscribe")


@pytest.mark.parametrize("contract", ABSTRACT)
def test_an_incomplete_implementation_cannot_be_made(contract):
    for missing in ABSTRACT[contract]:
        rest = {name: lambda *_: None for name in ABSTRACT[contract] if name != missing}
        with pytest.raises(TypeError, match="abstract"):
            type("Incomplete", (contract,), rest)()


def test_backends_are_text():
    assert (StateBackend.MEMORY, StateBackend.REDIS) == ("memory", "redis")
    assert StateBackend("redis") is StateBackend.REDIS
