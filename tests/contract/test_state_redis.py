"""What only Redis can do wrong: connections, indices, outages, and what others write there."""

import asyncio
import gc
import os
import time
import uuid
from contextlib import contextmanager
from functools import wraps

import pytest
import redis
from servers import wait_until
from services import valkey

from pulse.errors import StoreUnavailableError
from pulse.state import EventMessage
from pulse.state.link.redis import RedisLink
from pulse.state.redis import RedisEventBus, RedisWidgetStore, create_redis_stores

LIMIT = 30  # seconds for what should come at once
BOUND = 15  # seconds in which an error must come; no measure of speed
SHORT = 0.2


@pytest.fixture
def prefix():
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def stores(valkey_server, prefix):
    return create_redis_stores(valkey_server.url, prefix)


@pytest.fixture
def server(valkey_server):
    """The server itself, as an operator sees it."""
    with redis.Redis.from_url(valkey_server.url, protocol=2) as client:
        yield client


@pytest.fixture
def own_valkey(tmp_path):
    """A server that a test may kill and freeze."""
    with valkey(tmp_path) as started:
        yield started


def run(test):
    @wraps(test)
    def on_a_loop(*args, **fixtures):
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 3 * LIMIT))

    return on_a_loop


def event(number: int) -> EventMessage:
    return EventMessage("click", "w1", {"number": number}, "worker-1")


async def take(subscription, count: int) -> list[int]:
    return [(await asyncio.wait_for(anext(subscription), LIMIT)).data["number"] for _ in range(count)]


def clients(server) -> set[str]:
    return {client["id"] for client in server.client_list()}


async def until(condition) -> None:
    """Return as soon as *condition* is true; the loop goes on meanwhile."""
    await asyncio.to_thread(wait_until, condition)


@contextmanager
def bounded():
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < BOUND


# Connections


def test_many_operations_share_few_connections(stores, server):
    widgets, bus, router, sessions = stores
    before = clients(server)
    most = 0

    async def scenario():
        nonlocal most
        for number in range(100):
            await widgets.register(f"w{number}", "x")
            await router.register_connection(f"w{number}", "worker")
            await sessions.create_session(f"s{number}", "u")
        await asyncio.gather(*(bus.publish("c", event(number)) for number in range(100)))
        most = len(clients(server) - before)

    asyncio.run(scenario())

    assert 1 <= most <= 10


@run
async def test_subscribers_that_wait_share_a_connection(stores, server):
    before, bus = clients(server), stores[1]
    found: list[int] = []

    async def consume(number):
        async for message in bus.subscribe(f"c{number}"):
            found.append(message.data["number"])
            if message.data["number"] >= 1000:
                return

    waiting = [asyncio.create_task(consume(number)) for number in range(50)]
    await asyncio.sleep(0.05)
    for number in range(50):
        await bus.publish(f"c{number}", event(number))
    await until(lambda: len(found) == 50)
    await asyncio.sleep(0.05)
    most = len(clients(server) - before)
    for number in range(50):
        await bus.publish(f"c{number}", event(1000 + number))
    await asyncio.gather(*waiting)

    assert most <= 12
    assert sorted(found) == [*range(50), *range(1000, 1050)]


@run
async def test_a_newcomer_waits_for_nobody_who_waits_already(stores):
    bus = stores[1]
    waiting = asyncio.create_task(anext(bus.subscribe("quiet")))
    await asyncio.sleep(0.2)

    for number in range(30):  # would take a second each
        subscription = bus.subscribe("busy")
        taking = asyncio.create_task(anext(subscription))
        await subscription.ready()
        await asyncio.sleep(0.02)
        await bus.publish("busy", event(number))
        assert (await asyncio.wait_for(taking, LIMIT)).data["number"] == number
        await subscription.aclose()
    await bus.publish("quiet", event(-1))

    assert (await waiting).data["number"] == -1


@run
async def test_what_is_no_stream_spoils_nothing_for_other_subscribers(stores, prefix, server):
    bus = stores[1]
    good, bad = bus.subscribe("good"), bus.subscribe("bad")
    taking = [asyncio.create_task(anext(one)) for one in (good, bad)]
    await asyncio.sleep(0.1)

    server.set(f"{prefix}:events:bad", "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await asyncio.wait_for(taking[1], LIMIT)
    await bus.publish("good", event(1))

    assert (await asyncio.wait_for(taking[0], LIMIT)).data["number"] == 1


@run
async def test_two_subscribers_of_one_channel_read_it_from_different_places(stores):
    bus = stores[1]
    slow, quick = bus.subscribe("c"), bus.subscribe("c")
    await slow.ready()
    for number in range(1200):
        await bus.publish("c", event(number))
        assert (await anext(quick)).data["number"] == number

    both = await asyncio.gather(*(numbers(one, 1200) for one in (slow,)), read_on(bus, quick))

    assert both == [list(range(1200)), [5000]]


async def numbers(subscription, count):
    return [(await asyncio.wait_for(anext(subscription), LIMIT)).data["number"] for _ in range(count)]


async def read_on(bus, subscription):
    taking = asyncio.create_task(numbers(subscription, 1))
    await asyncio.sleep(0)
    await bus.publish("c", event(5000))
    return await taking


def test_no_connection_outlives_its_event_loop(stores, server):
    before = clients(server)

    for _ in range(5):
        asyncio.run(stores[0].register("w", "x"))

    wait_until(lambda: not clients(server) - before)


def test_subscribers_leave_nothing_behind(stores, server):
    before = clients(server)
    bus = stores[1]

    async def scenario():
        subscriptions = [bus.subscribe("c") for _ in range(10)]
        await bus.publish("c", event(1))
        for subscription in subscriptions:
            assert await take(subscription, 1) == [1]
        waiting = [asyncio.create_task(take(subscription, 1)) for subscription in subscriptions]
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for subscription in subscriptions:
            await subscription.aclose()

    asyncio.run(scenario())

    assert server.pubsub_channels() == []
    wait_until(lambda: not clients(server) - before)


@run
async def test_a_dropped_store_closes_its_connections(valkey_server, prefix, server):
    before = clients(server)
    store = RedisWidgetStore(valkey_server.url, prefix)
    await store.register("w", "x")

    del store
    gc.collect()

    await until(lambda: not clients(server) - before)


@run
async def test_a_subscriber_that_still_waits_does_not_connect_anew_behind_the_end(valkey_server, prefix, server):
    before = clients(server)
    link = RedisLink(valkey_server.url)
    waiting = asyncio.create_task(link.read(f"{prefix}:stream", b"0-0", f"{prefix}:bell"))
    await until(lambda: any(one["cmd"].startswith("xread") for one in server.client_list()))
    (lines,) = link._lines.values()

    await lines.keeper.aclose()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: not clients(server) - before)


@pytest.mark.parametrize("turns", range(6))
def test_a_store_that_is_dropped_just_before_its_loop_ends_leaves_nothing_open(valkey_server, prefix, server, turns):
    before = clients(server)

    async def scenario():
        bus = RedisEventBus(valkey_server.url, prefix)
        subscription = bus.subscribe("c")
        await bus.publish("c", event(1))
        assert await take(subscription, 1) == [1]
        del bus, subscription
        for _ in range(turns):
            await asyncio.sleep(0)

    asyncio.run(scenario())
    gc.collect()  # what was left open warns, and warnings are errors

    wait_until(lambda: not clients(server) - before)


# Keys


def test_prefixes_isolate_also_where_one_begins_with_the_other(valkey_server, prefix):
    async def scenario():
        outer = create_redis_stores(valkey_server.url, prefix)
        for inner_prefix in (f"{prefix}:widget", f"{prefix}:widget:w", f"{prefix}:", f"{prefix}*"):
            inner = create_redis_stores(valkey_server.url, inner_prefix)
            await inner[0].register("w", "inner")
            await inner[3].create_session("s", "u")
            await inner[3].set_role_permissions("r", {"read"})
        assert await outer[0].list_active() == []
        assert await outer[0].get("w") is None
        assert await outer[0].get("widget:w") is None
        assert await outer[3].list_user_sessions("u") == []
        await outer[3].create_session("s2", "u", ["r"])
        assert await outer[3].check_permission("s2", "a", "b", "read") is False
        for name in ("widgets", "roles"):  # as the indices of the inner ones are called
            await outer[0].register(name, "outer")
        inner = create_redis_stores(valkey_server.url, f"{prefix}:widget")
        assert await inner[0].list_active() == ["w"]
        assert await inner[3].check_permission("s", "a", "b", "read") is False

    asyncio.run(scenario())


@run
async def test_nothing_is_left_when_all_has_expired(valkey_server, prefix, server):
    widgets, _, router, sessions = create_redis_stores(valkey_server.url, prefix, SHORT, SHORT, SHORT)
    for number in range(3):
        await widgets.register(f"w{number}", "x")
        await router.register_connection(f"w{number}", f"worker-{number}")
        await sessions.create_session(f"s{number}", f"u{number}")

    await until(lambda: not server.keys(f"{prefix}*"))


@run
async def test_nothing_is_left_when_all_was_removed(stores, prefix, server):
    widgets, _, router, sessions = stores
    await widgets.register("w", "x")
    await router.register_connection("w", "a")
    await router.register_connection("w", "b")
    await sessions.create_session("s", "u1")
    await sessions.create_session("s", "u2")

    await widgets.delete("w")
    await router.unregister_connection("w")
    await sessions.move_session("s", "moved", {})
    await sessions.delete_session("moved")

    assert server.keys(f"{prefix}*") == []


@run
async def test_a_renewal_that_was_sent_twice_is_one(stores):
    _, _, _, sessions = stores
    await sessions.create_session("old", "anna")

    assert await sessions.move_session("old", "new", {"a": 1}) is True
    assert await sessions.move_session("old", "new", {"a": 1}) is True  # as the client does when it lost the answer
    assert (await sessions.get_session("new")).user_id == "anna"
    assert await sessions.move_session("old", "other", {"a": 1}) is False


@run
async def test_a_session_whose_index_was_evicted_is_renewed_all_the_same(stores, prefix, server):
    _, _, _, sessions = stores
    await sessions.create_session("old", "anna")
    server.delete(f"{prefix}:user:anna")

    assert await sessions.move_session("old", "new", {"a": 1}) is True
    assert (await sessions.get_session("new")).data == {"a": 1}


@run
async def test_a_sweep_frees_what_points_at_expired_records(valkey_server, prefix, server):
    widgets, _, router, sessions = create_redis_stores(valkey_server.url, prefix, SHORT, SHORT, None)
    lasting = create_redis_stores(valkey_server.url, prefix)
    for number in range(3):
        await widgets.register(f"w{number}", "x")
        await router.register_connection(f"w{number}", "worker")
        await sessions.create_session(f"s{number}", "u", ttl=SHORT)
    await lasting[0].register("lasting", "x")
    await lasting[2].register_connection("lasting", "worker")
    await lasting[3].create_session("lasting", "u")

    await asyncio.sleep(SHORT + 0.05)

    assert [await widgets.sweep(), await router.sweep(), await sessions.sweep()] == [3, 3, 3]
    assert [await widgets.sweep(), await router.sweep(), await sessions.sweep()] == [0, 0, 0]
    assert server.zcard(f"{prefix}:index:widgets") == 1


@run
async def test_the_events_of_a_channel_do_not_stay_for_ever(stores, prefix, server):
    await stores[1].publish("c", event(1))

    assert 0 < server.ttl(f"{prefix}:events:c") <= 600


@run
async def test_large_events_do_not_fill_redis(stores, prefix, server, monkeypatch):
    monkeypatch.setattr("pulse.state.stream.BACKLOG_SIZE", 1_000_000)

    for _ in range(300):
        await stores[1].publish("c", EventMessage("t", "w", {"text": "x" * 100_000}, "me"))

    assert server.xlen(f"{prefix}:events:c") < 200


# Outages


@run
async def test_a_script_that_redis_forgot_is_sent_again(stores, server):
    await stores[0].register("w", "x")

    server.script_flush()

    assert await stores[0].delete("w") is True


@run
async def test_killed_connections_are_replaced_without_an_error(stores, server):
    widgets = stores[0]
    await asyncio.gather(*(widgets.register(f"w{number}", "x") for number in range(20)))

    for client in server.client_list():
        if client["id"] != str(server.client_id()):
            server.client_kill_filter(_id=client["id"])

    assert await widgets.count() == 20


def test_a_redis_that_is_not_there_is_an_error_in_bounded_time(prefix):
    widgets, bus, _, sessions = create_redis_stores("redis://127.0.0.1:1/0", prefix)

    for call in (
        lambda: widgets.get("w"),
        lambda: sessions.create_session("s", "u"),
        lambda: bus.publish("c", event(1)),
        lambda: anext(bus.subscribe("c")),
    ):
        with bounded(), pytest.raises(StoreUnavailableError, match="Redis did not answer") as raised:
            asyncio.run(_await(call))
        assert isinstance(raised.value, ConnectionError)


async def _await(call):
    return await call()


@run
async def test_a_store_recovers_when_redis_returns(own_valkey, prefix):
    store = RedisWidgetStore(own_valkey.url, prefix)
    await store.register("w", "x")

    own_valkey.kill()
    with bounded(), pytest.raises(StoreUnavailableError):
        await store.get("w")
    own_valkey.start()

    await store.register("w", "y")
    assert await store.get_html("w") == "y"


@run
async def test_a_frozen_redis_is_an_error_in_bounded_time_also_for_many_at_once(own_valkey, prefix):
    store = RedisWidgetStore(own_valkey.url, prefix)
    await store.register("w", "x")

    own_valkey.freeze()
    with bounded():
        answers = await asyncio.gather(*(store.get("w") for _ in range(30)), return_exceptions=True)
    own_valkey.thaw()

    assert {type(answer) for answer in answers} == {StoreUnavailableError}
    assert await store.get_html("w") == "x"


@pytest.mark.parametrize(("query", "pool_size"), [("", 1), ("?max_connections=1", 10)])
@run
async def test_who_waits_long_for_a_connection_is_served_where_others_are(valkey_server, prefix, query, pool_size):
    link = RedisLink(f"{valkey_server.url}{query}", pool_size)
    pause = 0.8  # seconds for each command, of three more than an answer may take

    answers = await asyncio.gather(*(link.ask("BLPOP", f"{prefix}:nothing", pause) for _ in range(4)))

    assert answers == [None] * 4


@run
async def test_a_server_that_is_full_is_an_outage_that_subscribers_outlast(own_valkey, prefix):
    with redis.Redis.from_url(own_valkey.url, protocol=2) as operator:
        widgets, bus, _, sessions = create_redis_stores(own_valkey.url, prefix)
        taking = [asyncio.create_task(anext(bus.subscribe("c")))]
        await asyncio.sleep(0.1)
        operator.config_set("maxmemory", 1)

        for step in (
            widgets.register("w", "x"),
            sessions.create_session("s", "u"),
            bus.publish("c", event(1)),
            sessions.set_role_permissions("r", {"read"}),
        ):
            with pytest.raises(StoreUnavailableError, match="maxmemory"):
                await step
        taking.append(asyncio.create_task(anext(bus.subscribe("c"))))  # who rings for those who wait already
        await asyncio.sleep(0.5)
        operator.config_set("maxmemory", 0)
        await bus.publish("c", event(2))

        for one in taking:
            assert (await asyncio.wait_for(one, LIMIT)).data["number"] == 2


@run
async def test_a_server_that_became_a_replica_is_an_outage_and_its_lines_are_left(own_valkey, prefix):
    with redis.Redis.from_url(own_valkey.url, protocol=2) as operator:
        widgets, bus, *_ = create_redis_stores(own_valkey.url, prefix)
        await widgets.register("w", "x")
        before = clients(operator)
        operator.execute_command("REPLICAOF", "127.0.0.1", "1")

        with pytest.raises(StoreUnavailableError, match="read only"):
            await widgets.register("w", "y")
        assert clients(operator) <= {str(operator.client_id())}
        assert before != clients(operator)
        with pytest.raises(StoreUnavailableError):
            await bus.publish("c", event(1))
        operator.execute_command("REPLICAOF", "NO", "ONE")
        await widgets.register("w", "z")

        assert await widgets.get_html("w") == "z"


@run
async def test_a_wrong_address_is_refused_at_once(prefix):
    with pytest.raises(ValueError, match="redis://"):
        create_redis_stores("http://localhost", prefix)


# Events


@run
async def test_killed_connections_lose_no_event_and_double_none(stores, server):
    bus = stores[1]
    subscription = bus.subscribe("c")
    reading = asyncio.create_task(take(subscription, 400))

    for number in range(400):
        await bus.publish("c", event(number))
        if number % 40 == 20:
            for client in server.client_list():
                if client["id"] != str(server.client_id()):
                    server.client_kill_filter(_id=client["id"])

    assert await reading == list(range(400))


@run
async def test_a_subscriber_goes_on_when_redis_returns_with_nothing_in_it_and_its_clock_behind(
    own_valkey, prefix, caplog
):
    bus = RedisEventBus(own_valkey.url, prefix)
    subscription = bus.subscribe("c")
    await bus.publish("c", event(1))
    with redis.Redis.from_url(own_valkey.url, protocol=2) as server:
        ((_, fields),) = server.xrange(f"{prefix}:events:c")
        tomorrow = round(time.time() + 86_400) * 1000
        server.xadd(f"{prefix}:events:c", {**fields, b"n": 2, b"t": "another"}, id=f"{tomorrow}-0")
    assert await take(subscription, 2) == [1, 1]
    reading = asyncio.create_task(take(subscription, 2))

    own_valkey.kill()
    with pytest.raises(StoreUnavailableError):
        await bus.publish("c", event(2))
    await until(lambda: caplog.records)
    own_valkey.start()
    with redis.Redis.from_url(own_valkey.url, protocol=2) as server:
        server.xadd(f"{prefix}:events:c", fields, id="5-1")  # all that this server remembers
    await bus.publish("c", event(3))
    await bus.publish("c", event(4))

    assert await reading == [3, 4]
    assert "events_lost_line" in {record.pulse_event for record in caplog.records}


@run
async def test_a_stream_that_begins_again_with_lower_ids_is_noticed_without_any_outage(stores, prefix, server):
    bus = stores[1]
    subscription = bus.subscribe("c")
    await bus.publish("c", event(1))
    ((_, fields),) = server.xrange(f"{prefix}:events:c")
    tomorrow = round(time.time() + 86_400) * 1000
    server.xadd(f"{prefix}:events:c", {**fields, b"n": 2, b"t": "another"}, id=f"{tomorrow}-0")
    assert await take(subscription, 2) == [1, 1]

    server.delete(f"{prefix}:events:c")
    await bus.publish("c", event(2))

    assert await take(subscription, 1) == [2]


@run
async def test_an_outage_that_lasts_is_told_once(own_valkey, prefix, caplog):
    bus = RedisEventBus(own_valkey.url, prefix)
    subscription = bus.subscribe("c")
    await subscription.ready()
    reading = asyncio.create_task(take(subscription, 1))

    own_valkey.kill()
    await until(lambda: caplog.records)
    await asyncio.sleep(0.5)

    assert [record.pulse_event for record in caplog.records] == ["events_lost_line"]
    reading.cancel()


@run
async def test_what_is_no_event_is_skipped(stores, prefix, server, caplog):
    bus = stores[1]
    subscription = bus.subscribe("c")
    await bus.publish("c", event(1))
    shaped = '["click",["w1"],{},"worker-1",null,0.0,"id"]'
    for fields in (
        {"e": "nonsense"},
        {"other": "1"},
        {"n": "x", "t": "1", "e": b"\xff\xfe"},
        {"e": "[1]"},
        {"e": "5"},
        {"e": shaped},
    ):
        server.xadd(f"{prefix}:events:c", fields)
    await bus.publish("c", event(2))

    assert await take(subscription, 2) == [1, 2]
    assert {record.pulse_event for record in caplog.records} == {"event_malformed"}


@run
async def test_an_event_that_was_sent_twice_arrives_once(stores, prefix, server):
    bus = stores[1]
    subscription = bus.subscribe("c")
    await bus.publish("c", event(1))
    ((_, fields),) = server.xrange(f"{prefix}:events:c")
    server.xadd(f"{prefix}:events:c", {**fields, b"n": 2})
    await bus.publish("c", event(2))

    assert await take(subscription, 2) == [1, 2]


@run
async def test_a_channel_that_ended_unused_and_began_again_misses_nothing(stores, prefix, server):
    bus = stores[1]
    subscription = bus.subscribe("c")
    for number in range(3):
        await bus.publish("c", event(number))
    assert await take(subscription, 3) == [0, 1, 2]

    server.delete(f"{prefix}:events:c")
    await bus.publish("c", event(3))

    assert await take(subscription, 1) == [3]
    assert subscription.missed == 0


def test_a_forked_child_uses_the_stores_of_its_parent_and_does_not_disturb_it(stores):
    widgets, bus = stores[:2]

    async def scenario():
        subscription = bus.subscribe("c")
        await widgets.register("w", "parent")
        await subscription.ready()
        reading = asyncio.create_task(take(subscription, 1))
        await asyncio.sleep(0.05)
        child = os.fork()
        if not child:
            _end_child(lambda: asyncio.run(_in_child(widgets, bus)))
        status = (await asyncio.to_thread(os.waitpid, child, 0))[1]
        assert os.waitstatus_to_exitcode(status) == 0
        assert await reading == [7]
        assert await widgets.get_html("w") == "child"

    asyncio.run(scenario())


async def _in_child(widgets, bus):
    assert await widgets.get_html("w") == "parent"
    await widgets.update_html("w", "child")
    await bus.publish("c", event(7))


def _end_child(work):
    """Never returns: the tests go on in the parent alone."""
    try:
        work()
    except BaseException as error:
        os.write(2, f"in the child: {error!r}\n".encode())
        os._exit(1)
    os._exit(0)
