"""The server state of one process: alike in local mode, and in deploy mode over memory and over Redis."""

import asyncio
import inspect
import json
import os
import threading
import uuid
from collections import UserDict
from functools import wraps
from types import SimpleNamespace

import pytest
from servers import wait_until

from pulse import state
from pulse.errors import StoreUnavailableError
from pulse.loop import background_loop
from pulse.state import EventMessage, MemoryEventBus, ServerStateManager
from pulse.state.listener import Listener
from pulse.state.lock import ProcessLock
from pulse.testing import ManualClock

LIMIT = 30  # seconds for what should come at once


@pytest.fixture(params=["local", "memory", "redis"])
def manager(request, monkeypatch):
    if request.param != "local":
        monkeypatch.setenv("PULSE_DEPLOY_MODE", "1")
    if request.param == "redis":
        monkeypatch.setenv("PULSE_DEPLOY__STATE_BACKEND", "redis")
        monkeypatch.setenv("PULSE_DEPLOY__REDIS_URL", request.getfixturevalue("valkey_server").url)
        monkeypatch.setenv("PULSE_DEPLOY__REDIS_PREFIX", f"test-{uuid.uuid4().hex}")
    renew()
    yield state.get_server_state()
    renew()


def renew():
    state.reset_server_state()
    state.reset_callback_registry()
    state.clear_state_caches()


def run(test):
    @wraps(test)
    def on_a_loop(*args, **fixtures):
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), LIMIT))

    return on_a_loop


def test_it_follows_the_factories(manager):
    assert manager.deploy_mode is state.is_deploy_mode()
    assert manager.worker_id == state.get_worker_id()
    assert (manager.widgets, manager.widget_tokens, manager.connections, manager.event_queues) == ({}, {}, {}, {})


@run
async def test_a_registered_widget_is_known_here_and_in_the_store(manager):
    await manager.register_widget("w1", "<p>", "secret", {"title": "T"})

    widget = await manager.get_widget("w1")
    assert (widget.html, widget.token, widget.metadata) == ("<p>", "secret", {"title": "T"})
    assert widget.owner_worker_id == manager.worker_id
    assert widget.created_at > 1_700_000_000
    assert await manager.get_widget_html("w1") == "<p>"
    assert await manager.widget_exists("w1") is True
    assert await manager.list_widgets() == ["w1"]
    assert manager.widgets["w1"]["html"] == "<p>"
    assert manager.widget_tokens == {"w1": "secret"}
    assert await state.get_widget_store().get("w1") == widget


@run
async def test_an_update_is_seen_in_both(manager):
    await manager.register_widget("w1", "old")

    assert await manager.update_widget_html("w1", "new") is True
    assert await manager.update_widget_html("no", "new") is False
    assert (manager.widgets["w1"]["html"], await manager.get_widget_html("w1")) == ("new", "new")


@run
async def test_registering_again_without_a_token_drops_the_old_one(manager):
    await manager.register_widget("w1", "x", "secret")

    await manager.register_widget("w1", "y")

    assert manager.widget_tokens == {}
    assert (await manager.get_widget("w1")).token is None


@run
async def test_removing_a_widget_removes_its_callbacks(manager):
    await manager.register_widget("w1", "x", "secret")
    await manager.register_callback("w1", "click", print)

    assert [await manager.remove_widget("w1"), await manager.remove_widget("w1")] == [True, False]
    assert (manager.widgets, manager.widget_tokens) == ({}, {})
    assert await manager.get_callback("w1", "click") is None
    assert await manager.get_widget("w1") is None
    assert await manager.widget_exists("w1") is False


@run
async def test_a_connection_is_held_until_it_is_unregistered(manager):
    socket = object()

    queue = await manager.register_connection("w1", socket)

    assert isinstance(queue, asyncio.Queue)
    assert await manager.get_connection("w1") is socket
    assert await manager.get_event_queue("w1") is queue
    assert (manager.connections, manager.event_queues) == ({"w1": socket}, {"w1": queue})
    assert await state.get_connection_router().get_owner("w1") == manager.worker_id

    await manager.unregister_connection("w1")
    await manager.unregister_connection("w1")

    assert await manager.get_connection("w1") is None
    assert await manager.get_event_queue("w1") is None
    assert await state.get_connection_router().get_owner("w1") is None


@run
async def test_a_viewer_that_came_back_is_not_thrown_out_with_its_old_connection(manager):
    old, new = object(), object()
    await manager.register_connection("w1", old)
    await manager.register_connection("w1", new)

    await manager.unregister_connection("w1", old)

    assert await manager.get_connection("w1") is new


@pytest.mark.parametrize("failure", [StoreUnavailableError("down"), asyncio.CancelledError()])
@run
async def test_a_connection_that_could_not_be_registered_is_not_held(manager, monkeypatch, failure):
    async def fail(*_given):
        raise failure

    first = object()
    await manager.register_connection("w1", first)
    monkeypatch.setattr(type(state.get_connection_router()), "register_connection", fail)

    for widget_id in ("w1", "w2"):
        with pytest.raises(type(failure)):
            await manager.register_connection(widget_id, object())

    assert manager.connections == {"w1": first}


@pytest.mark.parametrize("has_former", [True, False])
@run
async def test_a_connection_that_went_away_while_it_was_registered_is_known_to_nobody(manager, monkeypatch, has_former):
    former = object()
    if has_former:
        await manager.register_connection("w1", former)
    router = state.get_connection_router()
    register, is_known = type(router).register_connection, asyncio.Event()

    async def register_and_wait(*given):
        await register(*given)
        is_known.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(type(router), "register_connection", register_and_wait)
    registering = asyncio.create_task(manager.register_connection("w1", object()))
    await is_known.wait()

    registering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await registering

    assert manager.connections == ({"w1": former} if has_former else {})
    assert await router.get_owner("w1") == (manager.worker_id if has_former else None)


@run
async def test_a_viewer_whose_loop_was_closed_disturbs_nobody_who_sends_to_it(manager):
    def register_and_leave():
        loop = asyncio.new_event_loop()
        queue = loop.run_until_complete(manager.register_connection("w1", object()))
        waiting = loop.create_task(queue.get())
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        return queue, waiting

    queue, waiting = await asyncio.to_thread(register_and_leave)

    assert await manager.send_to_widget("w1", {"n": 1}) is True
    assert await manager.send_to_widget("w1", {"n": 2}) is True
    assert queue.get_nowait() == {"n": 1}
    waiting._log_destroy_pending = False  # it was left behind on purpose


def test_who_waits_for_a_listener_that_was_stopped_before_it_began_is_told_so():
    async def beat():
        pass

    held = threading.Event()
    background_loop().call_soon_threadsafe(held.wait)  # so that it cannot begin
    listener = Listener(MemoryEventBus(), "worker:w", deliver=print, beat=beat, beat_seconds=60)
    listener.stop()
    held.set()

    with pytest.raises(StoreUnavailableError, match="worker:w"):
        asyncio.run(asyncio.wait_for(listener.ready(), LIMIT))
    assert listener.has_ended()


def test_a_heartbeat_that_fails_is_not_the_last_one():
    beats = []

    async def beat():
        beats.append(1)
        raise RuntimeError("odd")

    listener = Listener(MemoryEventBus(), "worker:w", deliver=print, beat=beat, beat_seconds=0.01)

    wait_until(lambda: len(beats) > 1)
    listener.stop()


@run
async def test_events_are_queued_once_and_in_order(manager):
    queue = await manager.register_connection("w1", "socket")

    await manager.broadcast_event("w1", "change", {"n": 1})
    assert await manager.send_to_widget("w1", {"type": "raw"}) is True
    await manager.broadcast_event("w1", "change", {"n": 2})

    got = [await asyncio.wait_for(queue.get(), LIMIT) for _ in range(3)]
    assert got == [{"type": "change", "data": {"n": 1}}, {"type": "raw"}, {"type": "change", "data": {"n": 2}}]
    assert queue.empty()


@run
async def test_a_widget_without_a_viewer_can_be_sent_nothing(manager):
    await manager.broadcast_event("no", "change", {})

    assert await manager.send_to_widget("no", {}) is False


@run
async def test_in_deploy_mode_a_broadcast_is_told_to_subscribers_of_the_widgets_channel(manager):
    subscription = state.get_event_bus().subscribe("widget:w1")

    await manager.broadcast_event("w1", "change", {"n": 1})
    await state.get_event_bus().publish("widget:w1", EventMessage("end", "w1", {}, "me"))

    message = await anext(subscription)
    if manager.deploy_mode:
        assert (message.event_type, message.widget_id, message.data) == ("change", "w1", {"n": 1})
        assert message.source_worker_id == manager.worker_id
        message = await anext(subscription)
    assert message.event_type == "end"


@run
async def test_an_event_that_is_changed_and_sent_again_leaves_the_one_that_waits_as_it_was(manager):
    queue = await manager.register_connection("w1", object())
    event = {"n": 0, "list": [0]}

    for number in (1, 2):
        event["n"] = event["list"][0] = number
        await manager.send_to_widget("w1", event)
        await manager.broadcast_event("w1", "click", event)
    event["list"].append(3)

    sent = [{"n": number, "list": [number]} for number in (1, 2)]
    assert [await queue.get() for _ in range(4)] == [
        message for one in sent for message in (one, {"type": "click", "data": one})
    ]


@run
async def test_what_cannot_be_copied_reaches_a_viewer_of_the_same_process_as_it_is(manager):
    queue = await manager.register_connection("w1", object())
    event = {"lock": threading.Lock()}

    await manager.send_to_widget("w1", event)

    assert (await queue.get())["lock"] is event["lock"]


def test_a_thread_with_its_own_loop_reaches_a_queue_of_another_loop(manager):
    async def view():
        queue = await manager.register_connection("w1", "socket")
        sender = threading.Thread(target=lambda: asyncio.run(manager.broadcast_event("w1", "change", {})))
        sender.start()
        got = await asyncio.wait_for(queue.get(), LIMIT)
        await asyncio.to_thread(sender.join)
        return got

    assert asyncio.run(view()) == {"type": "change", "data": {}}


@run
async def test_a_stalled_viewer_keeps_the_newest_events_only(manager, monkeypatch, caplog):
    monkeypatch.setattr("pulse.state.outlet.LIMIT", 3)
    queue = await manager.register_connection("w1", "socket")

    for number in range(6):
        await manager.send_to_widget("w1", {"n": number})

    assert [queue.get_nowait()["n"] for _ in range(3)] == [3, 4, 5]
    assert [record.pulse_event for record in caplog.records] == ["events_missed"]


@run
async def test_callbacks_are_kept_and_called(manager):
    def callback(data, widget_id, event_type):
        return [data, widget_id, event_type]

    await manager.register_callback("w1", "click", callback)

    assert await manager.get_callback("w1", "click") is callback
    assert await manager.invoke_callback("w1", "click", {"x": 1}) == (True, [{"x": 1}, "w1", "click"])
    assert await manager.invoke_callback("w1", "other", {}) == (False, None)


@run
async def test_a_session_has_an_id_that_cannot_be_guessed_and_views_by_default(manager):
    first = await manager.create_session("u1")
    second = await manager.create_session("u1", ["admin"], {"a": 1})

    assert len({first, second}) == 2
    assert min(len(first), len(second)) >= 32
    assert (await manager.get_session(first)).roles == ["viewer"]
    assert (await manager.get_session(second)).metadata == {"a": 1}
    assert await manager.get_session("no") is None


@run
async def test_cleaning_up_ends_what_is_local_and_leaves_what_is_shared(manager):
    await manager.register_widget("w1", "x", "t")
    await manager.register_callback("w1", "click", print)
    await manager.register_connection("w1", "socket")
    session = await manager.create_session("u1")

    await manager.cleanup()

    assert (manager.widgets, manager.widget_tokens, manager.connections, manager.event_queues) == ({}, {}, {}, {})
    assert await manager.get_callback("w1", "click") is None
    assert await state.get_connection_router().get_owner("w1") is None
    assert await manager.widget_exists("w1") is manager.deploy_mode
    assert await manager.get_session(session) is not None

    queue = await manager.register_connection("w2", "socket")
    await manager.broadcast_event("w2", "again", {})
    assert (await asyncio.wait_for(queue.get(), LIMIT))["type"] == "again"


@run
async def test_cleaning_up_while_the_backend_is_away_leaves_nothing_here_either(manager, monkeypatch):
    for name in ("w1", "w2"):
        await manager.register_widget(name, "x", "t")
        await manager.register_callback(name, "click", print)
        await manager.register_connection(name, "socket")

    async def fail(*_given):
        raise StoreUnavailableError("down")

    monkeypatch.setattr(type(state.get_connection_router()), "get_owner", fail)
    with pytest.raises(StoreUnavailableError):
        await manager.cleanup()

    assert (manager.widgets, manager.widget_tokens, manager.connections, manager.event_queues) == ({}, {}, {}, {})
    assert await state.get_callback_registry().list_widgets() == []


def test_a_thread_that_is_slow_to_notice_a_fork_forgets_nothing_of_the_child(monkeypatch):
    class Slow(ProcessLock):
        """One that the first thread gets when another one has long been done."""

        is_first = True

        def __enter__(self):
            if self.is_first:
                self.is_first = False
                asyncio.run(manager.register_connection("w1", "socket"))
            super().__enter__()

    renew()
    manager = ServerStateManager()
    manager._lock = Slow()
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in a forked child

    assert manager.connections == {"w1": "socket"}


@run
async def test_a_sweep_forgets_what_this_process_holds_of_widgets_that_are_gone(manager):
    await manager.register_widget("old", "x", "t")
    await manager.register_widget("new", "x")
    await manager.register_callback("old", "click", print)
    await state.get_widget_store().delete("old")

    assert await manager.sweep() == 1
    assert (list(manager.widgets), manager.widget_tokens) == (["new"], {})
    assert await manager.get_callback("old", "click") is None


@run
async def test_a_widget_that_ends_by_itself_is_not_kept_here_either(manager, monkeypatch):
    monkeypatch.setenv("PULSE_DEPLOY__WIDGET_TTL", "60")
    clock = ManualClock()
    manager = ServerStateManager(clock=clock)
    for name in ("old", "again"):
        await manager.register_widget(name, "x", "t")
        await manager.register_callback(name, "click", print)
    clock.advance(59)
    await manager.register_widget("again", "y")
    assert list(manager.widgets) == ["old", "again"]

    clock.advance(2)
    assert (list(manager.widgets), manager.widget_tokens) == (["again"], {})
    await manager.register_widget("new", "z")
    assert await state.get_callback_registry().list_widgets() == ["again"]

    clock.advance(60)
    assert await manager.sweep() == 2
    assert (manager.widgets, await state.get_callback_registry().list_widgets()) == ({}, [])


@run
async def test_cleaning_up_forgets_the_callbacks_of_widgets_that_ended_by_themselves(manager, monkeypatch):
    monkeypatch.setenv("PULSE_DEPLOY__WIDGET_TTL", "60")
    clock = ManualClock()
    manager = ServerStateManager(clock=clock)
    await manager.register_widget("old", "x")
    await manager.register_callback("old", "click", print)

    clock.advance(61)
    await manager.cleanup()

    assert await state.get_callback_registry().list_widgets() == []


@run
async def test_what_a_process_says_of_its_widgets_is_a_copy(manager):
    given = {"tags": ["a"]}
    await manager.register_widget("w1", "x", metadata=given)

    given["tags"].append("b")
    manager.widgets["w1"]["metadata"]["tags"].append("c")

    assert manager.widgets == {"w1": {"html": "x", "metadata": {"tags": ["a"]}}}


def test_the_sweeping_endpoint_answers_with_counts(manager):
    asyncio.run(state.get_session_store().create_session("s1", "u1", ttl=0.05))
    asyncio.run(asyncio.sleep(0.1))
    started = []

    body = b"".join(state.sweep_endpoint({}, lambda *response: started.append(response)))

    assert started[0][0] == "200 OK"
    assert dict(started[0][1]) == {"Content-Type": "application/json", "Content-Length": str(len(body))}
    swept = json.loads(body)
    assert set(swept) == {"sessions", "connections", "widgets"}
    if type(state.get_session_store()).__name__.startswith("Memory"):
        assert swept == {"sessions": 1, "connections": 0, "widgets": 0}


@run
async def test_a_sweep_may_be_given_stores(manager):
    async def three():
        return 3

    swept = await state.sweep(sessions=SimpleNamespace(sweep=three))

    assert (swept.sessions, swept.connections, swept.widgets) == (3, 0, 0)


@run
async def test_a_store_that_is_empty_is_swept_instead_of_that_of_the_environment_too(manager):
    class Empty(UserDict):
        async def sweep(self):
            return 3

    swept = await state.sweep(sessions=Empty(), connections=Empty(), widgets=Empty())

    assert (swept.sessions, swept.connections, swept.widgets) == (3, 3, 3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("register_widget", ["widget_id", "html", "token", "metadata"]),
        ("update_widget_html", ["widget_id", "html"]),
        ("register_connection", ["widget_id", "websocket"]),
        ("register_callback", ["widget_id", "event_type", "callback"]),
        ("invoke_callback", ["widget_id", "event_type", "data"]),
        ("broadcast_event", ["widget_id", "event_type", "data"]),
        ("send_to_widget", ["widget_id", "event"]),
        ("create_session", ["user_id", "roles", "metadata"]),
        ("get_session", ["session_id"]),
        ("cleanup", []),
    ],
)
def test_methods_take_what_they_are_known_for(name, parameters):
    method = getattr(ServerStateManager, name)
    positional = [
        one.name
        for one in inspect.signature(method).parameters.values()
        if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]

    assert positional == ["self", *parameters]
    assert inspect.iscoroutinefunction(method)
