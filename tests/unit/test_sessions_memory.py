import asyncio
import copy
import gc
import pickle
import threading
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


# Requests of one session that overlap


def kept(*changes, start):
    """What is kept when each of *changes* works on a session that all of them loaded as *start*."""
    storage = MemorySessionStorage()
    do(storage.save("key", start))
    loaded = [do(storage.load("key")) for _ in changes]
    for change, session in zip(changes, loaded, strict=True):
        change(session)
    for session in loaded:
        do(storage.save("key", session))
    return do(storage.load("key"))


def setting(name, value):
    return lambda session: session.update({name: value})


def test_requests_that_overlap_keep_what_each_has_set():
    assert kept(setting("a", 1), setting("b", 2), start={"start": 1}) == {"start": 1, "a": 1, "b": 2}
    assert kept(setting("a", 1), setting("a", 2), start={"start": 1}) == {"start": 1, "a": 2}


def test_requests_that_overlap_keep_what_one_has_deleted_or_changed_within():
    start = {"start": 1, "basket": ["pear"]}

    assert kept(lambda one: one.pop("start"), setting("b", 2), start=start) == {"basket": ["pear"], "b": 2}
    assert kept(lambda one: one["basket"].append("fig"), setting("b", 2), start=start) == {
        "start": 1, "basket": ["pear", "fig"], "b": 2,
    }  # fmt: skip
    assert kept(setting("b", 2), lambda one: one["basket"].append("fig"), start=start) == {
        "start": 1, "basket": ["pear", "fig"], "b": 2,
    }  # fmt: skip


def test_a_session_of_which_all_was_deleted_by_several_has_ended():
    storage = MemorySessionStorage()
    do(storage.save("key", {"a": 1, "b": 2}))
    one, other = do(storage.load("key")), do(storage.load("key"))

    del one["a"], other["b"]
    do(storage.save("key", one))

    assert do(storage.replace("key", other)) is True
    assert len(storage) == 0


def test_a_request_that_saves_again_saves_only_what_it_changed_since():
    storage = MemorySessionStorage()
    do(storage.save("key", {"a": 1, "b": 1}))
    slow, quick = do(storage.load("key")), do(storage.load("key"))
    slow["a"] = 2
    do(storage.save("key", slow))
    quick.update(a=3, b=3, c=3)
    do(storage.save("key", quick))

    slow["d"] = 4
    do(storage.save("key", slow))

    assert do(storage.load("key")) == {"a": 3, "b": 3, "c": 3, "d": 4}


@pytest.mark.parametrize("change", [setting("a", 2), lambda session: session["list"].append(1), dict.clear])
def test_what_is_loaded_and_not_saved_changes_nothing(change):
    storage = MemorySessionStorage()
    given = {"a": 1, "list": []}
    do(storage.save("key", given))

    change(given)
    change(do(storage.load("key")))

    assert do(storage.load("key")) == {"a": 1, "list": []}


def test_what_is_changed_behind_a_save_is_not_kept():
    storage = MemorySessionStorage()
    do(storage.save("key", {"a": 1}))
    session = do(storage.load("key"))
    session["list"] = []
    do(storage.save("key", session))

    session["list"].append(1)

    assert do(storage.load("key")) == {"a": 1, "list": []}


def test_a_session_that_is_renamed_loses_nothing_that_others_set_before_and_after():
    storage = MemorySessionStorage()
    do(storage.save("old", {"start": 1}))
    one, other = do(storage.load("old")), do(storage.load("old"))
    other["basket"] = ["fig"]
    do(storage.save("old", other))

    one["user"] = "anna"
    do(storage.rename("old", "new", one))

    assert do(storage.load("new")) == {"start": 1, "user": "anna", "basket": ["fig"]}
    assert do(storage.load("old")) == {}
    assert len(storage) == 1

    other = do(storage.load("new"))
    other["b"] = 2
    do(storage.save("new", other))
    one["c"] = 3
    do(storage.save("new", one))
    assert do(storage.load("new")) == {"start": 1, "user": "anna", "basket": ["fig"], "b": 2, "c": 3}


def test_what_is_saved_as_another_session_takes_its_place():
    storage = MemorySessionStorage()
    do(storage.save("one", {"a": 1}))
    do(storage.save("other", {"a": 2, "b": 2}))

    session = do(storage.load("one"))
    session["c"] = 3
    do(storage.save("other", session))

    assert do(storage.load("other")) == {"a": 1, "c": 3}
    assert do(storage.load("one")) == {"a": 1}


class Odd:
    """Something that cannot be compared, as the arrays of numpy."""

    def __eq__(self, other):
        raise ValueError("ambiguous")

    __hash__ = None


def test_what_can_be_neither_copied_nor_compared_is_kept_too():
    lock, odd = threading.Lock(), Odd()

    session = kept(setting("b", 2), setting("c", 3), start={"lock": lock, "odd": odd})

    assert session.keys() == {"lock", "odd", "b", "c"}
    assert session["lock"] is lock
    assert isinstance(session["odd"], Odd)


def test_a_copy_of_a_loaded_session_is_a_plain_dict():
    storage = MemorySessionStorage()
    do(storage.save("key", {"a": [1]}))
    session = do(storage.load("key"))

    for copied in (pickle.loads(pickle.dumps(session)), copy.copy(session), copy.deepcopy(session)):
        assert (type(copied), copied) == (dict, {"a": [1]})
    assert copy.deepcopy(session)["a"] is not session["a"]


def test_a_slow_request_does_not_bring_an_ended_session_back():
    storage = MemorySessionStorage()
    do(storage.save("key", {"user": "anna"}))
    slow = do(storage.load("key"))
    do(storage.save("key", {}))

    slow["late"] = True

    assert do(storage.replace("key", slow)) is False
    assert do(storage.load("key")) == {}
