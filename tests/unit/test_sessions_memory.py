import asyncio
import gc
import weakref
from datetime import timedelta

import pytest

from pulse.sessions import InMemorySessionStore, MemorySessionStorage
from pulse.testing import ManualClock


class Bulky:
    """Something that can be seen to be freed."""

    def __deepcopy__(self, memo):
        return self


def do(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.mark.parametrize("kind", [InMemorySessionStore, MemorySessionStorage])
def test_an_expired_session_is_freed_without_being_touched(kind, clock):
    store = kind(ttl=60, clock=clock)
    bulky = Bulky()
    gone = weakref.ref(bulky)
    do(store.save("one", {"bulky": bulky}))
    del bulky

    clock.advance(59)
    do(store.save("other", {"a": 1}))
    gc.collect()
    assert gone() is not None
    clock.advance(1)
    do(store.save("other", {"a": 1}))
    gc.collect()

    assert gone() is None
    assert len(store) == 1


@pytest.mark.parametrize("kind", [InMemorySessionStore, MemorySessionStorage])
def test_use_gives_a_session_its_whole_time_again(kind, clock):
    store = kind(ttl=timedelta(minutes=1), clock=clock)
    read = store.get if kind is InMemorySessionStore else store.load
    do(store.save("sid", {"a": 1}))

    for _ in range(5):
        clock.advance(59)
        assert do(read("sid")) == {"a": 1}
    clock.advance(60)

    assert not do(read("sid"))


@pytest.mark.parametrize("kind", [InMemorySessionStore, MemorySessionStorage])
def test_a_sweep_says_how_many_expired_since_the_last_one(kind, clock):
    store = kind(ttl=60, clock=clock)
    for number in range(5):
        do(store.save(str(number), {"n": number}))
    clock.advance(60)
    do(store.save("late", {"n": 0}))  # which frees the others in passing

    assert do(store.sweep()) == 5
    assert do(store.sweep()) == 0
    assert len(store) == 1


@pytest.mark.parametrize("kind", [InMemorySessionStore, MemorySessionStorage])
def test_when_there_are_too_many_those_go_that_rest_longest(kind, clock, caplog):
    store = kind(max_sessions=2, clock=clock)
    read = store.get if kind is InMemorySessionStore else store.load
    do(store.save("a", {"n": 1}))
    do(store.save("b", {"n": 2}))
    do(read("a"))

    do(store.save("c", {"n": 3}))

    assert len(store) == 2
    assert not do(read("b"))
    assert do(read("a"))
    assert any(getattr(record, "pulse_event", "") for record in caplog.records)


@pytest.mark.parametrize("kind", [InMemorySessionStore, MemorySessionStorage])
def test_no_limits_can_be_asked_for(kind, clock):
    store = kind(ttl=None, max_sessions=None, clock=clock)
    for number in range(100):
        do(store.save(str(number), {"n": number}))

    clock.advance(timedelta(days=10_000))

    assert len(store) == 100


@pytest.mark.parametrize("kind", [InMemorySessionStore, MemorySessionStorage])
@pytest.mark.parametrize(
    "limits", [{"ttl": 0}, {"ttl": -1}, {"ttl": "1h"}, {"max_sessions": 0}, {"max_sessions": True}]
)
def test_a_limit_of_no_use_is_refused_by_name(kind, limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        kind(**limits)


def test_what_cannot_be_copied_is_refused_when_it_is_saved():
    store = InMemorySessionStore()

    with pytest.raises(TypeError):
        do(store.save("sid", {"lines": (line for line in ())}))


def test_requests_that_overlap_work_on_one_dict():
    storage = MemorySessionStorage()
    do(storage.save("key", {"start": 1}))
    one, other = do(storage.load("key")), do(storage.load("key"))

    one["a"] = 1
    other["b"] = 2
    do(storage.save("key", one))
    do(storage.save("key", other))

    assert do(storage.load("key")) == {"start": 1, "a": 1, "b": 2}


def test_a_slow_request_does_not_bring_an_ended_session_back():
    storage = MemorySessionStorage()
    do(storage.save("key", {"user": "anna"}))
    slow = do(storage.load("key"))
    do(storage.save("key", {}))

    slow["late"] = True

    assert do(storage.replace("key", slow)) is False
    assert do(storage.load("key")) == {}
