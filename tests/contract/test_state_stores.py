"""The contracts of widgets, connections and user sessions: memory and Redis keep them alike."""

import asyncio
import inspect
import sys
import threading
import time
import uuid
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import wraps
from itertools import pairwise
from typing import Any

import pytest

from pulse.clock import Clock, SystemClock
from pulse.state import UserSession, WidgetData
from pulse.state.memory import MemoryConnectionRouter, MemorySessionStore, MemoryWidgetStore
from pulse.state.redis import create_redis_stores
from pulse.testing import ManualClock

SHORT = 0.2  # seconds that a record lives in tests of its end


@dataclass
class Backend:
    """New stores of one kind each time; `lapse` lets time pass there."""

    url: str | None
    prefix: str
    clock: Clock

    def widgets(self, ttl: float | None = None):
        return self._redis(widget_ttl=ttl)[0] if self.url else MemoryWidgetStore(ttl, clock=self.clock)

    def router(self, ttl: float | None = None):
        return self._redis(connection_ttl=ttl)[2] if self.url else MemoryConnectionRouter(ttl, clock=self.clock)

    def sessions(self, ttl: float | None = None):
        return self._redis(session_ttl=ttl)[3] if self.url else MemorySessionStore(ttl, clock=self.clock)

    async def lapse(self, seconds: float) -> None:
        if self.url:
            await asyncio.sleep(seconds)
        self.clock.advance(seconds)

    def _redis(self, **times: Any):
        return create_redis_stores(self.url, self.prefix, **times)


@pytest.fixture(params=["memory", "redis"])
def backend(request):
    url = request.getfixturevalue("valkey_server").url if request.param == "redis" else None
    return Backend(url, f"test-{uuid.uuid4().hex}", ManualClock())


def run(test):
    """A test that is a coroutine, on a loop of its own."""

    @wraps(test)
    def on_a_loop(*args, **fixtures):
        asyncio.run(test(*args, **fixtures))

    return on_a_loop


ODD_IDS = ["a:b", "a*b", "with blank", "a/b?c#d", "ünïcode-🎉", "%3A", "", "{x}", "x" * 500]


# Widgets


@run
async def test_a_registered_widget_is_found_with_all_that_was_given(backend):
    store = backend.widgets()

    await store.register("w1", "<h1>Hello</h1>", "secret", "worker-1", {"title": "T", "size": (1, 2)})
    widget = await store.get("w1")

    assert widget == WidgetData("w1", "<h1>Hello</h1>", "secret", widget.created_at, "worker-1", {"title": "T", "size": (1, 2)})  # fmt: skip
    assert (await store.get_html("w1"), await store.get_token("w1")) == ("<h1>Hello</h1>", "secret")
    assert abs(widget.created_at - (time.time() if backend.url else backend.clock.now().timestamp())) < 60


@run
async def test_a_widget_needs_no_more_than_its_content(backend):
    store = backend.widgets()

    await store.register("w1", "")
    widget = await store.get("w1")

    assert (widget.html, widget.token, widget.owner_worker_id, widget.metadata) == ("", None, None, {})


@run
async def test_an_unknown_widget_is_nowhere(backend):
    store = backend.widgets()

    assert await store.get("no") is None
    assert await store.get_html("no") is None
    assert await store.get_token("no") is None
    assert await store.exists("no") is False
    assert await store.delete("no") is False
    assert await store.update_html("no", "x") is False
    assert await store.update_token("no", "x") is False
    assert await store.list_active() == []
    assert await store.count() == 0


@run
async def test_a_widget_is_deleted_once(backend):
    store = backend.widgets()
    await store.register("w1", "x")

    assert await store.exists("w1") is True
    assert [await store.delete("w1"), await store.delete("w1")] == [True, False]
    assert await store.exists("w1") is False


@run
async def test_all_widgets_are_listed_and_counted(backend):
    store = backend.widgets()
    for number in range(3):
        await store.register(f"w{number}", "x")
    await store.delete("w1")

    assert sorted(await store.list_active()) == ["w0", "w2"]
    assert await store.count() == 2


@run
async def test_an_update_changes_one_field_only(backend):
    store = backend.widgets()
    await store.register("w1", "old", "t", "worker", {"a": 1})
    before = await store.get("w1")

    assert await store.update_html("w1", "new") is True
    assert await store.update_token("w1", "t2") is True

    before.html, before.token = "new", "t2"
    assert await store.get("w1") == before


@run
async def test_registering_again_replaces_the_whole_widget(backend):
    store = backend.widgets()
    await store.register("w1", "old", "token", "worker", {"a": 1})

    await store.register("w1", "new")
    widget = await store.get("w1")

    assert (widget.html, widget.token, widget.owner_worker_id, widget.metadata) == ("new", None, None, {})
    assert await store.list_active() == ["w1"]


@run
async def test_what_goes_in_and_comes_out_of_a_widget_store_are_copies(backend):
    store = backend.widgets()
    metadata = {"list": [1]}
    await store.register("w1", "x", metadata=metadata)

    metadata["list"].append(2)
    (await store.get("w1")).metadata["list"].append(3)
    (await store.get("w1")).html = "changed"

    assert (await store.get("w1")).metadata == {"list": [1]}
    assert await store.get_html("w1") == "x"


@pytest.mark.parametrize("widget_id", ODD_IDS)
@run
async def test_a_widget_may_have_any_id(backend, widget_id):
    store = backend.widgets()
    await store.register("neighbour", "other")

    await store.register(widget_id, "x")

    assert await store.get_html(widget_id) == "x"
    assert sorted(await store.list_active()) == sorted([widget_id, "neighbour"])
    assert await store.delete(widget_id) is True
    assert await store.list_active() == ["neighbour"]


@run
async def test_a_widget_may_be_large_and_hold_any_text(backend):
    store = backend.widgets()
    html = "grüße \ud800 🎉 \x00" * 100_000

    await store.register("w1", html, token="ü", metadata={"ü": "\ud800"})

    assert await store.get("w1") == WidgetData("w1", html, "ü", (await store.get("w1")).created_at, None, {"ü": "\ud800"})  # fmt: skip


@run
async def test_metadata_that_cannot_be_kept_are_refused(backend):
    store = backend.widgets()

    with pytest.raises(TypeError, match="which cannot be kept"):
        await store.register("w1", "x", metadata={"f": object()})
    assert await store.exists("w1") is False


@run
async def test_after_its_time_to_live_a_widget_is_forgotten_everywhere(backend):
    store = backend.widgets(ttl=SHORT)
    await store.register("w1", "x", "t")

    await backend.lapse(SHORT + 0.05)

    assert await store.get("w1") is None
    assert await store.get_token("w1") is None
    assert await store.exists("w1") is False
    assert await store.list_active() == []
    assert await store.count() == 0


@run
async def test_an_update_neither_revives_nor_prolongs_a_widget(backend):
    store = backend.widgets(ttl=SHORT)
    await store.register("w1", "x")
    await store.update_html("w1", "y")

    await backend.lapse(SHORT + 0.05)

    assert await store.update_html("w1", "z") is False
    assert await store.update_token("w1", "z") is False
    assert await store.exists("w1") is False
    assert await store.delete("w1") is False


@run
async def test_a_sweep_leaves_what_lives(backend):
    store = backend.widgets(ttl=SHORT)
    await store.register("old", "x")
    await backend.lapse(SHORT + 0.05)
    await store.register("new", "x")

    assert await store.sweep() in (0, 1)  # Redis, and memory at the last call, may have been first
    assert await store.list_active() == ["new"]


# Connections


@run
async def test_a_connection_is_known_with_all_that_was_given(backend):
    router = backend.router()

    await router.register_connection("w1", "worker-1", "user", "session")
    found = await router.get_connection_info("w1")

    assert (found.widget_id, found.worker_id, found.user_id, found.session_id) == ("w1", "worker-1", "user", "session")
    assert found.connected_at == found.last_heartbeat > 0
    assert await router.get_owner("w1") == "worker-1"
    assert await router.list_worker_connections("worker-1") == ["w1"]


@run
async def test_an_unknown_connection_is_nowhere(backend):
    router = backend.router()

    assert await router.get_connection_info("no") is None
    assert await router.get_owner("no") is None
    assert await router.refresh_heartbeat("no") is False
    assert await router.unregister_connection("no") is False
    assert await router.list_worker_connections("no") == []


@run
async def test_a_connection_is_unregistered_once(backend):
    router = backend.router()
    await router.register_connection("w1", "worker-1")

    assert [await router.unregister_connection("w1"), await router.unregister_connection("w1")] == [True, False]
    assert await router.get_owner("w1") is None
    assert await router.list_worker_connections("worker-1") == []


@run
async def test_a_heartbeat_moves_only_the_time_of_the_last_one(backend):
    router = backend.router()
    await router.register_connection("w1", "worker-1", "u", "s")
    before = await router.get_connection_info("w1")

    await backend.lapse(0.02)
    assert await router.refresh_heartbeat("w1") is True
    after = await router.get_connection_info("w1")

    assert after.last_heartbeat > before.last_heartbeat
    after.last_heartbeat = before.last_heartbeat
    assert after == before


@run
async def test_registering_at_another_worker_moves_the_connection(backend):
    router = backend.router()
    await router.register_connection("w1", "worker-1", "old", "old")

    await router.register_connection("w1", "worker-2")

    assert await router.get_owner("w1") == "worker-2"
    assert (await router.get_connection_info("w1")).user_id is None
    assert await router.list_worker_connections("worker-1") == []
    assert await router.list_worker_connections("worker-2") == ["w1"]


@run
async def test_a_connection_without_heartbeats_is_forgotten_everywhere(backend):
    router = backend.router(ttl=SHORT)
    await router.register_connection("w1", "worker-1")

    await backend.lapse(SHORT + 0.05)

    assert await router.get_owner("w1") is None
    assert await router.get_connection_info("w1") is None
    assert await router.list_worker_connections("worker-1") == []
    assert await router.refresh_heartbeat("w1") is False
    assert await router.unregister_connection("w1") is False


@run
async def test_heartbeats_keep_a_connection(backend):
    router = backend.router(ttl=1)
    await router.register_connection("w1", "worker-1")

    for _ in range(3):
        await backend.lapse(0.4)
        assert await router.refresh_heartbeat("w1") is True

    assert await router.list_worker_connections("worker-1") == ["w1"]


@run
async def test_a_connection_that_is_given_out_is_a_copy(backend):
    router = backend.router()
    await router.register_connection("w1", "worker-1")

    (await router.get_connection_info("w1")).worker_id = "stolen"

    assert await router.get_owner("w1") == "worker-1"


# User sessions


@run
async def test_a_session_is_returned_and_stored(backend):
    store = backend.sessions()

    made = await store.create_session("s1", "u1", ["editor"], 60, {"lang": "de"})

    assert (made.session_id, made.user_id, made.roles, made.metadata) == ("s1", "u1", ["editor"], {"lang": "de"})
    assert made.expires_at == made.created_at + 60
    assert await store.get_session("s1") == made
    assert await store.validate_session("s1") is True
    assert await store.list_user_sessions("u1") == [made]


@run
async def test_a_session_without_a_time_to_live_does_not_expire(backend):
    made = await backend.sessions().create_session("s1", "u1")

    assert (made.roles, made.metadata, made.expires_at) == ([], {}, None)


@run
async def test_a_store_may_have_a_time_to_live_for_sessions_that_say_nothing(backend):
    store = backend.sessions(ttl=100)

    silent = await store.create_session("s1", "u1")
    spoken = await store.create_session("s2", "u1", ttl=5)

    assert silent.expires_at == silent.created_at + 100
    assert spoken.expires_at == spoken.created_at + 5


@run
async def test_an_unknown_session_is_nowhere(backend):
    store = backend.sessions()

    assert await store.get_session("no") is None
    assert await store.validate_session("no") is False
    assert await store.delete_session("no") is False
    assert await store.refresh_session("no") is False
    assert await store.refresh_session("no", 60) is False
    assert await store.list_user_sessions("no") == []
    assert await store.check_permission("no", "widget", "w", "read") is False


@run
async def test_a_session_is_deleted_once(backend):
    store = backend.sessions()
    await store.create_session("s1", "u1")

    assert [await store.delete_session("s1"), await store.delete_session("s1")] == [True, False]
    assert await store.list_user_sessions("u1") == []


@run
async def test_an_expired_session_is_forgotten_everywhere(backend):
    store = backend.sessions()
    await store.create_session("s1", "u1", ["admin"], SHORT)
    await store.create_session("s2", "u1")

    await backend.lapse(SHORT + 0.05)

    assert await store.get_session("s1") is None
    assert await store.validate_session("s1") is False
    assert await store.refresh_session("s1") is False
    assert await store.refresh_session("s1", 60) is False
    assert await store.check_permission("s1", "widget", "w", "read") is False
    assert [session.session_id for session in await store.list_user_sessions("u1")] == ["s2"]
    assert await store.delete_session("s1") is False


@run
async def test_a_refreshed_session_lasts_as_long_again(backend):
    store = backend.sessions()
    made = await store.create_session("s1", "u1", ttl=50)

    await backend.lapse(0.05)
    assert await store.refresh_session("s1") is True
    again = await store.get_session("s1")

    assert made.expires_at + 0.04 < again.expires_at < made.expires_at + 30
    assert again.created_at == made.created_at


@run
async def test_refreshing_does_not_change_how_long_a_session_was_created_for(backend):
    store = backend.sessions()
    made = await store.create_session("s1", "u1", ttl=50)

    await store.refresh_session("s1", 5000)
    extended = await store.get_session("s1")
    for _ in range(3):
        await backend.lapse(0.02)
        await store.refresh_session("s1")
    again = await store.get_session("s1")

    assert extended.expires_at > made.created_at + 4990
    assert made.created_at + 50 < again.expires_at < made.created_at + 80


@run
async def test_a_session_may_be_refreshed_to_end_sooner(backend):
    store = backend.sessions()
    await store.create_session("s1", "u1", ttl=1000)

    await store.refresh_session("s1", SHORT)
    await backend.lapse(SHORT + 0.05)

    assert await store.get_session("s1") is None


@run
async def test_a_session_that_never_expires_stays_so_unless_it_is_told_otherwise(backend):
    store = backend.sessions()
    await store.create_session("s1", "u1")

    assert await store.refresh_session("s1") is True
    assert (await store.get_session("s1")).expires_at is None

    assert await store.refresh_session("s1", 60) is True
    assert (await store.get_session("s1")).expires_at is not None


@pytest.mark.parametrize("ttl", [0, -1, -0.5, float("nan"), float("inf")])
@run
async def test_a_time_to_live_must_be_more_than_nothing(backend, ttl):
    store = backend.sessions()
    await store.create_session("s1", "u1")

    with pytest.raises(ValueError, match="want more than 0 seconds"):
        await store.create_session("s2", "u1", ttl=ttl)
    with pytest.raises(ValueError, match="want more than 0 seconds"):
        await store.refresh_session("s1", ttl)
    for make in (backend.sessions, backend.widgets, backend.router):
        with pytest.raises(ValueError, match="want more than 0 seconds"):
            make(ttl)
    assert await store.get_session("s2") is None


@run
async def test_the_sessions_of_a_user_are_listed_the_oldest_first(backend):
    store = backend.sessions()
    for name, user in [("b", "u1"), ("a", "u1"), ("c", "u2")]:
        await store.create_session(name, user)
        await backend.lapse(0.005)

    assert [session.session_id for session in await store.list_user_sessions("u1")] == ["b", "a"]


@run
async def test_a_session_may_last_longer_than_anybody_can_count(backend):
    store = backend.sessions()

    made = await store.create_session("s1", "u1", ttl=sys.maxsize)

    assert made.expires_at == made.created_at + sys.maxsize
    assert await store.list_user_sessions("u1") == [made]
    assert await store.refresh_session("s1", sys.maxsize) is True
    assert await store.validate_session("s1") is True


@run
async def test_using_a_session_does_not_make_it_a_younger_one(backend):
    store = backend.sessions()
    for name in ("b", "a"):
        await store.create_session(name, "")
        await backend.lapse(0.005)

    await store.keep_data("b", {"seen": True}, 60)

    assert [session.session_id for session in await store.list_user_sessions("")] == ["b", "a"]


@run
async def test_a_session_id_that_another_user_takes_over_leaves_the_first_users_list(backend):
    store = backend.sessions()
    await store.create_session("s1", "u1", ["admin"], 60, {"a": 1})

    await store.create_session("s1", "u2")

    assert await store.list_user_sessions("u1") == []
    (session,) = await store.list_user_sessions("u2")
    assert (session.roles, session.metadata, session.expires_at) == ([], {}, None)


@pytest.mark.parametrize(
    ("role", "rights"),
    [("admin", {"read", "write", "admin"}), ("editor", {"read", "write"}), ("viewer", {"read"}), ("unknown", set())],
)
@run
async def test_roles_grant_what_they_are_known_for(backend, role, rights):
    store = backend.sessions()
    await store.create_session("s1", "u1", [role])

    granted = {
        right for right in ("read", "write", "admin", "fly") if await store.check_permission("s1", "widget", "w", right)
    }

    assert granted == rights


@run
async def test_what_a_role_may_do_can_be_said_anew(backend):
    store = backend.sessions()
    await store.create_session("s1", "u1", ["pilot", "viewer"])
    rights = {"fly"}

    for role, given in (("pilot", rights), ("viewer", set())):
        done = store.set_role_permissions(role, given)
        if inspect.isawaitable(done):
            await done
    rights.add("crash")

    assert await store.check_permission("s1", "plane", "p", "fly") is True
    assert await store.check_permission("s1", "plane", "p", "crash") is False
    assert await store.check_permission("s1", "plane", "p", "read") is False


@run
async def test_metadata_may_grant_rights_to_single_resources(backend):
    store = backend.sessions()
    await store.create_session(
        "s1",
        "u1",
        metadata={"permissions": {"widget:w1": ["read"], "user:w1": ("write",), "app:a": frozenset({"read"})}},
    )

    assert await store.check_permission("s1", "widget", "w1", "read") is True
    assert await store.check_permission("s1", "widget", "w1", "write") is False
    assert await store.check_permission("s1", "widget", "w2", "read") is False
    assert await store.check_permission("s1", "user", "w1", "write") is True
    assert await store.check_permission("s1", "app", "a", "read") is True


@pytest.mark.parametrize("permissions", ["read", ["read"], {"widget:w": "read-only"}, {"widget:w": 1}, None])
@run
async def test_rights_of_another_form_grant_nothing(backend, permissions):
    store = backend.sessions()
    await store.create_session("s1", "u1", metadata={"permissions": permissions})

    assert await store.check_permission("s1", "widget", "w", "read") is False


@run
async def test_what_an_application_keeps_in_a_session_grants_nothing(backend):
    store = backend.sessions()
    session = UserSession("s1", "u1")
    session.data["permissions"] = {"widget:w": ["read"]}
    await store.create_session("s1", "u1", metadata=session.metadata)

    assert (await store.get_session("s1")).data == {"permissions": {"widget:w": ["read"]}}
    assert await store.check_permission("s1", "widget", "w", "read") is False


@run
async def test_what_goes_in_and_comes_out_of_a_session_store_are_copies(backend):
    store = backend.sessions()
    roles, metadata = ["viewer"], {"permissions": {"widget:w": []}}
    made = await store.create_session("s1", "u1", roles, metadata=metadata)

    for session in (made, await store.get_session("s1"), *await store.list_user_sessions("u1")):
        session.roles.append("admin")
        session.metadata["permissions"]["widget:w"].append("write")
    roles.append("admin")
    metadata["permissions"]["widget:w"].append("write")

    assert await store.check_permission("s1", "widget", "w", "write") is False
    assert (await store.get_session("s1")).roles == ["viewer"]


@pytest.mark.parametrize("name", ODD_IDS)
@run
async def test_sessions_and_users_may_have_any_id(backend, name):
    sessions, router = backend.sessions(), backend.router()

    made = await sessions.create_session(name, name)
    await router.register_connection(name, name)

    assert await sessions.list_user_sessions(name) == [made]
    assert await router.list_worker_connections(name) == [name]
    assert await sessions.delete_session(name) is True
    assert await router.unregister_connection(name) is True


# All of them


def test_many_threads_use_a_store_at_once_each_with_its_own_loop(backend):
    widgets, sessions = backend.widgets(), backend.sessions()
    start = threading.Barrier(6)
    failures = []

    def use(name: str) -> None:
        async def scenario() -> None:
            start.wait(30)
            for number in range(20):
                await widgets.register(f"{name}-{number}", name)
                assert await widgets.get_html(f"{name}-{number}") == name
                await sessions.create_session(f"{name}-{number}", "u1")
                await sessions.list_user_sessions("u1")

        try:
            asyncio.run(scenario())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(f"t{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert asyncio.run(widgets.count()) == 120
    assert len(asyncio.run(sessions.list_user_sessions("u1"))) == 120


def test_a_store_serves_one_loop_after_the_other(backend):
    store = backend.widgets()

    for number in range(5):
        asyncio.run(store.register(f"w{number}", "x"))

    assert asyncio.run(store.count()) == 5


@run
async def test_concurrent_updates_of_many_tasks_all_count(backend):
    store = backend.widgets()
    await asyncio.gather(*(store.register(f"w{number}", "x") for number in range(100)))

    changed = await asyncio.gather(*(store.update_html(f"w{number}", "y") for number in range(100)))

    assert all(changed)
    assert await store.count() == 100


# What is no text, and what is refused


@pytest.mark.parametrize("nobodys", [None, b"w", 5], ids=repr)
@run
async def test_an_id_that_is_no_text_such_as_that_of_a_cookie_that_was_not_sent_is_unknown(backend, nobodys):
    widgets, router, sessions = backend.widgets(), backend.router(), backend.sessions()
    for name in ("w", "5", "None", "%", "b'w'"):
        await widgets.register(name, "x", "t")
        await router.register_connection(name, "w")
        await sessions.create_session(name, "w", ["admin"])

    answers = [
        [await look(nobodys) for look in (widgets.get, widgets.get_html, widgets.get_token)],
        [await widgets.exists(nobodys), await widgets.delete(nobodys)],
        [await widgets.update_html(nobodys, "y"), await widgets.update_token(nobodys, "y")],
        [await router.get_owner(nobodys), await router.get_connection_info(nobodys)],
        [await router.refresh_heartbeat(nobodys), await router.unregister_connection(nobodys)],
        [await sessions.get_session(nobodys), await sessions.validate_session(nobodys)],
        [await sessions.delete_session(nobodys), await sessions.keep_data(nobodys, {"a": 1})],
        [await sessions.refresh_session(nobodys), await sessions.refresh_session(nobodys, 5)],
        [await sessions.check_permission(nobodys, "widget", "w", "read")],
    ]

    assert not any(answer for row in answers for answer in row)
    assert await router.list_worker_connections(nobodys) == []
    assert await sessions.list_user_sessions(nobodys) == []
    assert len(await widgets.list_active()) == len(await router.list_worker_connections("w")) == 5
    assert len(await sessions.list_user_sessions("w")) == 5


@pytest.mark.parametrize("wrong", ["60", True, b"1", [60]], ids=repr)
@run
async def test_a_time_to_live_that_is_no_number_is_refused_by_its_name(backend, wrong):
    store = backend.sessions()
    await store.create_session("s1", "u1", ttl=60)

    with pytest.raises(TypeError, match=r"^ttl is of type .*: want a number of seconds, or None"):
        await store.create_session("s2", "u1", ttl=wrong)
    with pytest.raises(TypeError, match=r"^extend_ttl is of type .*: want a number of seconds, or None"):
        await store.refresh_session("s1", wrong)
    with pytest.raises(TypeError, match=r"^session_ttl is of type "):
        backend.sessions(wrong)

    assert [session.session_id for session in await store.list_user_sessions("u1")] == ["s1"]


@pytest.mark.parametrize("wrong", [None, b"x", 5, ["x"]], ids=repr)
@run
async def test_what_is_no_text_is_refused_as_text_of_a_widget(backend, wrong):
    store = backend.widgets()
    await store.register("w", "x", "t")
    before = await store.get("w")

    with pytest.raises(TypeError, match=r"widget_id is of type .*: want text"):
        await store.register(wrong, "y")
    with pytest.raises(TypeError, match=r"html is of type .*: want text"):
        await store.register("w", wrong)
    with pytest.raises(TypeError, match=r"html is of type .*: want text"):
        await store.update_html("w", wrong)
    with pytest.raises(TypeError, match=r"token is of type .*: want text"):
        await store.update_token("w", wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match=r"token is of type .*: want text, or None"):
            await store.register("w", "y", wrong)
        with pytest.raises(TypeError, match=r"owner_worker_id is of type .*: want text, or None"):
            await store.register("w", "y", None, wrong)

    assert await store.get("w") == before
    assert await store.list_active() == ["w"]


@pytest.mark.parametrize("wrong", [None, b"x", 5], ids=repr)
@run
async def test_what_is_no_text_is_refused_as_text_of_a_connection(backend, wrong):
    router = backend.router()

    with pytest.raises(TypeError, match=r"widget_id is of type .*: want text"):
        await router.register_connection(wrong, "worker")
    with pytest.raises(TypeError, match=r"worker_id is of type .*: want text"):
        await router.register_connection("w", wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match=r"user_id is of type .*: want text, or None"):
            await router.register_connection("w", "worker", wrong)
        with pytest.raises(TypeError, match=r"session_id is of type .*: want text, or None"):
            await router.register_connection("w", "worker", None, wrong)

    assert await router.get_owner("w") is None


@pytest.mark.parametrize("wrong", [None, b"x", 5], ids=repr)
@run
async def test_what_is_no_text_is_refused_as_text_of_a_session(backend, wrong):
    store = backend.sessions()

    with pytest.raises(TypeError, match=r"session_id is of type .*: want text"):
        await store.create_session(wrong, "u")
    with pytest.raises(TypeError, match=r"user_id is of type .*: want text"):
        await store.create_session("s", wrong)

    assert await store.get_session("s") is None


@pytest.mark.parametrize("roles", ["admin", b"admin", 5, [5], [None], [["admin"]]], ids=repr)
@run
async def test_roles_that_are_no_list_of_texts_are_refused(backend, roles):
    store = backend.sessions()

    with pytest.raises(TypeError, match=r"roles = .*: want a list of texts"):
        await store.create_session("s", "u", roles)

    assert await store.get_session("s") is None


@pytest.mark.parametrize("permissions", ["read", b"read", 5, [5], None], ids=repr)
@run
async def test_permissions_of_a_role_that_are_no_set_of_texts_are_refused(backend, permissions):
    store = backend.sessions()
    await store.create_session("s", "u", ["viewer"])

    with pytest.raises(TypeError, match=r"permissions = .*: want a set of texts"):
        await settled(store.set_role_permissions("viewer", permissions))
    with pytest.raises(TypeError, match=r"role is of type .*: want text"):
        await settled(store.set_role_permissions(5, {"read"}))

    assert await store.check_permission("s", "widget", "w", "read") is True


async def settled(done):
    """Synchronous in memory, awaited on Redis."""
    if inspect.isawaitable(done):
        await done


@run
async def test_roles_may_come_as_any_collection_of_texts(backend):
    for roles in (("admin", "viewer"), iter(["admin", "viewer"]), {"admin": 1, "viewer": 2}.keys()):
        made = await backend.sessions().create_session("s", "u", roles)

        assert made.roles == ["admin", "viewer"]


@run
async def test_metadata_keep_what_programs_put_there(backend):
    metadata = {"id": uuid.UUID(int=5), "price": Decimal("12.50"), "tags": frozenset({"a", ("b", 1)}), "at": {1}}
    widgets, sessions = backend.widgets(), backend.sessions()

    await widgets.register("w", "x", metadata=metadata)
    await sessions.create_session("s", "u", metadata=metadata)

    for found in (await widgets.get("w"), await sessions.get_session("s")):
        assert found.metadata == metadata
        assert [type(value) for value in found.metadata.values()] == [uuid.UUID, Decimal, frozenset, set]


@run
async def test_metadata_with_keys_that_are_no_text_are_refused(backend):
    with pytest.raises(TypeError, match="has the key 1; want text as keys"):
        await backend.widgets().register("w", "x", metadata={"by": {1: "x"}})
    with pytest.raises(TypeError, match="has the key 1; want text as keys"):
        await backend.sessions().create_session("s", "u", metadata={1: "x"})


# Times


@run
async def test_the_times_of_records_lie_within_the_calls_that_set_them(backend):
    backend = replace(backend, clock=SystemClock())
    widgets, router, sessions = backend.widgets(), backend.router(), backend.sessions()

    for _ in range(100):
        moments = [time.time()]
        await widgets.register("w", "x")
        moments += [(await widgets.get("w")).created_at, time.time()]
        await router.register_connection("w", "worker")
        moments += [(await router.get_connection_info("w")).connected_at, time.time()]
        assert await router.refresh_heartbeat("w")
        moments += [(await router.get_connection_info("w")).last_heartbeat, time.time()]
        moments += [(await sessions.create_session("s", "u")).created_at, time.time()]

        assert moments == sorted(moments)


@run
async def test_a_second_heartbeat_is_later_than_the_first(backend):
    router = replace(backend, clock=SystemClock()).router()
    await router.register_connection("w", "worker")
    beats = [(await router.get_connection_info("w")).last_heartbeat]

    for _ in range(100):
        await router.refresh_heartbeat("w")
        beats.append((await router.get_connection_info("w")).last_heartbeat)

    assert all(earlier < later for earlier, later in pairwise(beats))


@pytest.mark.parametrize("ttl", [60, 70.0725, 50.0004])
@run
async def test_a_session_lasts_no_less_than_it_was_told_to(backend, ttl):
    sessions = replace(backend, clock=SystemClock()).sessions()

    for _ in range(30):
        before = time.time()
        made = await sessions.create_session("s", "u", ttl=ttl)
        between = time.time()
        assert await sessions.refresh_session("s")
        again = await sessions.get_session("s")

        assert made.expires_at == made.created_at + ttl
        assert before + ttl <= made.expires_at <= between + ttl <= again.expires_at <= time.time() + ttl
