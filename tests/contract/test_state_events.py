"""The contract of the event bus: memory and Redis keep it alike."""

import asyncio
import gc
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import wraps

import pytest

from pulse.state import EventMessage, Subscription
from pulse.state.memory import MemoryEventBus
from pulse.state.redis import RedisEventBus

LIMIT = 30  # seconds for what should come at once


@pytest.fixture(params=["memory", "redis"])
def bus(request):
    if request.param == "memory":
        return MemoryEventBus()
    return RedisEventBus(request.getfixturevalue("valkey_server").url, f"test-{uuid.uuid4().hex}")


def run(test):
    @wraps(test)
    def on_a_loop(*args, **fixtures):
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 3 * LIMIT))

    return on_a_loop


def event(number: int = 0, **more) -> EventMessage:
    return EventMessage("click", "w1", {"number": number}, "worker-1", **more)


async def take(subscription, count: int) -> list[int]:
    """The numbers of the next *count* events."""
    found = []
    for _ in range(count):
        message = await asyncio.wait_for(anext(subscription), LIMIT)
        found.append(message.data["number"])
    return found


async def drain(subscription) -> list[int]:
    """The numbers of all events until it ends."""
    return [message.data["number"] async for message in subscription]


@run
async def test_an_event_arrives_with_all_its_fields(bus):
    subscription = bus.subscribe("c")
    sent = EventMessage("change", "w", {"row": 3, "at": (1, 2)}, "from", "to", 12.5, "id-1")

    await bus.publish("c", sent)

    assert await asyncio.wait_for(anext(subscription), LIMIT) == sent


@run
async def test_events_arrive_in_their_order(bus):
    subscription = bus.subscribe("c")

    for number in range(300):
        await bus.publish("c", event(number))

    assert await take(subscription, 300) == list(range(300))


@run
async def test_every_subscriber_of_the_channel_gets_an_event_and_nobody_else(bus):
    first, second, other = bus.subscribe("c"), bus.subscribe("c"), bus.subscribe("d")

    await bus.publish("c", event(1))
    await bus.publish("d", event(2))

    assert (await take(first, 1), await take(second, 1), await take(other, 1)) == ([1], [1], [2])


@run
async def test_nobody_need_subscribe(bus):
    await bus.publish("c", event())


@run
async def test_a_subscription_begins_when_it_is_made(bus):
    await bus.publish("c", event(1))
    subscription = bus.subscribe("c")

    await bus.publish("c", event(2))

    assert await take(subscription, 1) == [2]


@run
async def test_a_subscription_can_be_iterated_at_once(bus):
    async def consume():
        async for message in bus.subscribe("c"):
            return message.data
        return None

    consumer = asyncio.create_task(consume())
    while not consumer.done():
        await bus.publish("c", event(7))
        await asyncio.wait([consumer], timeout=0.05)

    assert consumer.result() == {"number": 7}


@run
async def test_a_time_and_an_id_are_filled_in_for_the_receivers(bus):
    subscription = bus.subscribe("c")
    sent = event()

    for _ in range(50):
        await bus.publish("c", sent)
    found = [await asyncio.wait_for(anext(subscription), LIMIT) for _ in range(50)]

    assert all(message.timestamp > 0 for message in found)
    assert len({message.message_id for message in found} - {""}) == 50
    assert (sent.timestamp, sent.message_id) == (0.0, "")


@run
async def test_the_time_that_is_filled_in_lies_within_the_publishing(bus):
    subscription = bus.subscribe("c")

    for _ in range(100):
        before = time.time()
        await bus.publish("c", event())
        after = time.time()
        assert before <= (await asyncio.wait_for(anext(subscription), LIMIT)).timestamp <= after


@run
async def test_the_same_event_may_be_published_again(bus):
    subscription = bus.subscribe("c")

    await bus.publish("c", event(1, message_id="one"))
    await bus.publish("c", event(2, message_id="one"))

    assert await take(subscription, 2) == [1, 2]


@run
async def test_subscribers_share_no_object(bus):
    first, second = bus.subscribe("c"), bus.subscribe("c")
    sent = event(1)
    await bus.publish("c", sent)
    sent.data["number"] = 99

    (await anext(first)).data["number"] = 50

    assert await take(second, 1) == [1]


@run
async def test_the_data_of_an_event_may_hold_a_subclass_of_what_can_be_sent(bus):
    subscription = bus.subscribe("c")

    await bus.publish("c", replace(event(), data={"by": defaultdict(int, anna=2)}))

    assert (await asyncio.wait_for(anext(subscription), LIMIT)).data == {"by": {"anna": 2}}


@run
async def test_what_an_application_adds_to_its_events_stays_there_and_disturbs_no_subscriber(bus):
    @dataclass
    class Noted(EventMessage):
        note: str = "mine"

    subscription = bus.subscribe("c")

    await bus.publish("c", Noted("click", "w1", {}, "worker-1", "to", 1.0, "id"))
    await bus.publish("c", event(2))

    received = await asyncio.wait_for(anext(subscription), LIMIT)
    assert received == EventMessage("click", "w1", {}, "worker-1", "to", 1.0, "id")
    assert await take(subscription, 1) == [2]


@run
async def test_an_object_in_the_data_of_an_event_is_refused_and_not_turned_into_something_else(bus):
    with pytest.raises(TypeError, match=r"value\[2\]\['sent'\] is of type EventMessage, which cannot be kept"):
        await bus.publish("c", replace(event(), data={"sent": event()}))


@run
async def test_data_that_cannot_be_sent_are_refused(bus):
    with pytest.raises(TypeError, match="which cannot be kept"):
        await bus.publish("c", EventMessage("click", "w", {"f": object()}, "me"))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("data", ["a"]),
        ("data", None),
        ("event_type", 1),
        ("widget_id", ["w"]),
        ("widget_id", None),
        ("source_worker_id", None),
        ("target_worker_id", 5),
        ("timestamp", "now"),
        ("message_id", 7),
    ],
)
@run
async def test_an_event_with_a_field_of_another_type_is_refused_where_it_is_published(bus, field, wrong):
    subscription = bus.subscribe("c")

    with pytest.raises(TypeError, match=field):
        await bus.publish("c", replace(event(), **{field: wrong}))
    await bus.publish("c", event(2))

    assert await take(subscription, 1) == [2]


@pytest.mark.parametrize("wrong", [None, 5, b"c"], ids=repr)
@run
async def test_a_channel_that_is_no_text_and_an_event_that_is_none_are_refused(bus, wrong):
    with pytest.raises(TypeError, match=r"channel is of type .*: want text"):
        await bus.publish(wrong, event(1))
    with pytest.raises(TypeError, match=r"channel is of type .*: want text"):
        bus.subscribe(wrong)
    with pytest.raises(TypeError, match=r"event is of type .*: want an EventMessage"):
        await bus.publish("c", wrong)


@run
async def test_closing_one_iterator_ends_that_one_only(bus):
    first, second = bus.subscribe("c"), bus.subscribe("c")
    await first.aclose()
    await first.aclose()

    await bus.publish("c", event(1))

    assert await drain(first) == []
    assert await take(second, 1) == [1]


@run
async def test_closing_an_iterator_wakes_who_waits_for_it(bus):
    subscription = bus.subscribe("c")
    waiting = asyncio.create_task(drain(subscription))
    await subscription.ready()
    await asyncio.sleep(0.02)

    await subscription.aclose()

    assert await asyncio.wait_for(waiting, LIMIT) == []


@run
async def test_breaking_out_of_one_iterator_ends_that_one_only(bus):
    other = bus.subscribe("c")

    async def first_of():
        subscription = bus.subscribe("c")
        await bus.publish("c", event(1))
        async for message in subscription:
            return message.data["number"]
        return None

    assert await first_of() == 1
    gc.collect()
    await bus.publish("c", event(2))

    assert await take(other, 2) == [1, 2]
    assert len(bus_listeners(bus).of("c")) == 1


@run
async def test_who_comes_and_goes_where_nobody_publishes_leaves_nothing_behind(bus):
    staying = [bus.subscribe("quiet") for _ in range(3)]
    for _ in range(500):
        subscription = bus.subscribe("quiet")
        await subscription.aclose()
        del subscription

    kept = bus_listeners(bus)._channels["quiet"]

    assert len(kept) < 200
    assert set(staying) <= set(bus_listeners(bus).of("quiet"))


def bus_listeners(bus):
    return bus._channels if isinstance(bus, MemoryEventBus) else bus._listeners


@run
async def test_cancelling_who_waits_ends_that_one_only(bus):
    other = bus.subscribe("c")
    waiting = asyncio.create_task(drain(bus.subscribe("c")))
    await asyncio.sleep(0.05)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await bus.publish("c", event(1))

    assert await take(other, 1) == [1]


@run
async def test_no_event_is_lost_when_waiting_for_it_times_out(bus):
    subscription = bus.subscribe("c")
    await subscription.ready()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(subscription), 0.03)
    for number in range(3):
        await bus.publish("c", event(number))

    assert await take(subscription, 3) == [0, 1, 2]


@run
async def test_unsubscribing_ends_all_subscriptions_of_the_channel_and_no_other(bus):
    ended = [asyncio.create_task(drain(bus.subscribe("c"))) for _ in range(3)]
    other = bus.subscribe("d")
    await asyncio.sleep(0.05)

    await bus.unsubscribe("c")
    await bus.publish("d", event(1))

    assert await asyncio.wait_for(asyncio.gather(*ended), LIMIT) == [[], [], []]
    assert await take(other, 1) == [1]


@run
async def test_a_channel_can_be_subscribed_to_again_after_it_was_ended(bus):
    bus.subscribe("c")
    await bus.unsubscribe("c")

    again = bus.subscribe("c")
    await bus.publish("c", event(1))

    assert await take(again, 1) == [1]


@run
async def test_unsubscribing_from_an_unknown_channel_is_no_error(bus):
    await bus.unsubscribe("nobody")


@pytest.mark.parametrize("channel", ["widget:a:b", "worker *", "", "ü/🎉", "%3A"])
@run
async def test_a_channel_may_have_any_name(bus, channel):
    subscription, other = bus.subscribe(channel), bus.subscribe("%253A")

    await bus.publish(channel, event(1))
    await bus.publish("%253A", event(2))

    assert (await take(subscription, 1), await take(other, 1)) == ([1], [2])


@run
async def test_a_stalled_subscriber_disturbs_nobody_and_what_it_misses_is_counted(bus, monkeypatch, caplog):
    for module in ("pulse.state.inprocess", "pulse.state.stream"):
        monkeypatch.setattr(f"{module}.BACKLOG", 100)
    stalled, quick = bus.subscribe("c"), bus.subscribe("c")

    for number in range(1500):
        await bus.publish("c", event(number))
        assert await take(quick, 1) == [number]
    (first,) = await take(stalled, 1)
    rest = await take(stalled, 1499 - first)

    assert first > 1000
    assert rest == list(range(first + 1, 1500))
    assert (stalled.missed, quick.missed) == (first, 0)
    assert [record.pulse_event for record in caplog.records] == ["events_missed"]


def test_threads_with_their_own_loops_publish_to_each_other(bus):
    found: dict[str, list[int]] = {}
    ready = threading.Barrier(3)

    def work(own: str, other: str) -> None:
        async def scenario() -> None:
            subscription = bus.subscribe(own)
            await subscription.ready()
            await asyncio.to_thread(ready.wait, LIMIT)
            reading = asyncio.create_task(take(subscription, 100))
            for number in range(100):
                await bus.publish(other, event(number))
            found[own] = await reading

        asyncio.run(scenario())

    threads = [threading.Thread(target=work, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    ready.wait(LIMIT)
    for thread in threads:
        thread.join(LIMIT)

    assert found == {"a": list(range(100)), "b": list(range(100))}


def test_a_subscription_may_be_made_where_no_loop_runs(bus):
    subscription = bus.subscribe("c")

    async def scenario():
        await subscription.ready()
        await bus.publish("c", event(1))
        return await take(subscription, 1)

    assert isinstance(subscription, Subscription)
    assert asyncio.run(scenario()) == [1]


def test_unsubscribing_from_another_thread_ends_a_subscription(bus):
    waiting = threading.Event()
    ended = []

    def consume():
        async def scenario():
            subscription = bus.subscribe("c")
            await subscription.ready()
            waiting.set()
            return await drain(subscription)

        ended.append(asyncio.run(scenario()))

    thread = threading.Thread(target=consume)
    thread.start()
    assert waiting.wait(LIMIT)
    asyncio.run(bus.unsubscribe("c"))
    thread.join(LIMIT)

    assert ended == [[]]
