import asyncio
import gc
import weakref

import pytest

from pulse.state.memory import MemoryConnectionRouter, MemorySessionStore, MemoryWidgetStore
from pulse.state.shelf import Shelf
from pulse.testing import ManualClock


class Thing:
    """Something of which it can be seen whether it is still there."""


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def shelf(clock):
    return Shelf(clock.monotonic, limit=100)


def test_what_expires_is_freed_though_nobody_asks_for_it(shelf, clock):
    thing = Thing()
    shelf.put("old", thing, 10)
    seen = weakref.ref(thing)
    del thing

    clock.advance(10)
    shelf.put("other", Thing(), 100)
    gc.collect()

    assert seen() is None
    assert list(shelf) == ["other"]


def test_what_has_no_end_stays(shelf, clock):
    shelf.put("a", "x")

    clock.advance(10**9)

    assert shelf.get("a") == "x"


@pytest.mark.parametrize(("ends", "at", "there"), [([10, 20], 15, True), ([20, 10], 15, False), ([10, None], 99, True)])
def test_the_last_end_counts(shelf, clock, ends, at, there):
    shelf.put("a", "x", ends[0])
    shelf.expire("a", ends[1])

    clock.advance(at)

    assert ("a" in shelf) is there


def test_a_value_that_is_put_again_has_its_own_end(shelf, clock):
    shelf.put("a", "x", 10)
    shelf.put("a", "y", 20)

    clock.advance(15)

    assert shelf.get("a") == "y"


def test_putting_off_again_and_again_does_not_grow_without_bound(shelf):
    shelf.put("a", "x", 1)

    for end in range(2, 5000):
        shelf.expire("a", end)

    assert len(shelf._ends) <= 70


def test_the_oldest_makes_room_and_that_is_said_once(clock, caplog):
    dropped = []
    shelf = Shelf(clock.monotonic, limit=3, on_drop=lambda key, value: dropped.append((key, value)))

    for number in range(5):
        shelf.put(str(number), number)

    assert list(shelf) == ["2", "3", "4"]
    assert dropped == [("0", 0), ("1", 1)]
    assert [record.pulse_event for record in caplog.records] == ["state_full"]


def test_dropping_is_told_once_for_each(clock):
    dropped = []
    shelf = Shelf(clock.monotonic, on_drop=lambda key, value: dropped.append(key))
    shelf.put("a", 1, 10)
    shelf.put("b", 2)
    shelf.put("b", 3)

    clock.advance(10)
    shelf.pop("b")
    shelf.pop("b")
    shelf.clear()

    assert dropped == ["b", "a", "b"]


def test_a_sweep_says_how_much_it_freed(shelf, clock):
    for number in range(10):
        shelf.put(str(number), number, number + 1)

    clock.advance(4)

    assert [shelf.sweep(), shelf.sweep(), len(shelf)] == [4, 0, 6]


def test_the_indices_of_memory_stores_forget_what_expired(clock):
    async def scenario():
        sessions, router = MemorySessionStore(clock=clock), MemoryConnectionRouter(5, clock=clock)
        for number in range(20):
            await sessions.create_session(f"s{number}", f"u{number}", ttl=5)
            await router.register_connection(f"w{number}", f"worker-{number}")

        clock.advance(6)

        assert [await sessions.sweep(), await router.sweep()] == [20, 20]
        assert (sessions._user_sessions, router._worker_connections) == ({}, {})

    asyncio.run(scenario())


def test_a_memory_store_keeps_no_more_than_its_limit(clock):
    async def scenario():
        store = MemoryWidgetStore(limit=2, clock=clock)
        for number in range(5):
            await store.register(f"w{number}", "x")
        return await store.list_active()

    assert asyncio.run(scenario()) == ["w3", "w4"]
