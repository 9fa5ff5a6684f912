"""What holds for every session store, and for every way to reach one."""

import asyncio
import functools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from threading import Lock
from uuid import uuid4

import pytest

from pulse import state
from pulse.sessions import (
    CookieSessionStore,
    InMemorySessionStore,
    MemorySessionStorage,
    SessionFilter,
    SessionStorage,
    SessionStore,
    StateSessionStore,
    StoreSessionStorage,
)
from pulse.state.memory import MemorySessionStore
from pulse.testing import ManualClock

RICH = {
    "when": datetime(2027, 3, 28, 2, 30, tzinfo=UTC),
    "naive": datetime(2027, 3, 28, 2, 30, 0, 123456),
    "day": date(2027, 3, 28),
    "span": timedelta(days=-1, microseconds=5),
    "bytes": b"\x00\xff",
    "set": {1, 2},
    "tuple": (1, (2,)),
    "nested": {"list": [1, {"ü": "☃"}]},
    "nothing": None,
}


class SimpleStore(SessionStore):
    """The least that a store of somebody else's may be: the six methods, over a dict."""

    def __init__(self):
        self.kept = {}

    async def init(self):
        self.is_open = True

    async def close(self):
        self.is_open = False

    async def get(self, sid):
        return self.kept.get(sid)

    async def create(self, sid):
        self.kept[sid] = {}
        return {}

    async def delete(self, sid):
        self.kept.pop(sid, None)

    async def save(self, sid, session):
        self.kept[sid] = dict(session)


class SimpleStorage(SessionStorage):
    """The least that a storage of somebody else's may be."""

    def __init__(self):
        self.kept = {}

    async def load(self, key):
        return dict(self.kept.get(key, {}))

    async def save(self, key, session):
        self.kept[key] = dict(session)


def asynchronous(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


def redis_store(request, **options):
    from pulse.state.redis import RedisSessionStore  # noqa: PLC0415 - an extra

    url = request.getfixturevalue("valkey_server").url
    return RedisSessionStore(url, prefix=uuid4().hex, **options)


STORES = {
    "memory": lambda _request: InMemorySessionStore(),
    "state memory": lambda _request: StateSessionStore(MemorySessionStore()),
    "state redis": lambda request: StateSessionStore(redis_store(request)),
    "somebody else's": lambda _request: SimpleStore(),
}
STORAGES = {
    "live memory": lambda _request: MemorySessionStorage(),
    "somebody else's": lambda _request: SimpleStorage(),
} | {f"over {name}": lambda request, make=make: StoreSessionStorage(make(request)) for name, make in STORES.items()}


@pytest.fixture(params=STORES)
def store(request):
    return STORES[request.param](request)


@pytest.fixture(params=STORAGES)
def storage(request):
    return STORAGES[request.param](request)


def setting(**values):
    """A page that uses its session, waits for the rest of the world, and then sets *values*; None deletes."""

    def app(environ, start_response):
        session = environ["pulse.session"]
        dict(session)
        environ["meanwhile"]()
        for name, value in values.items():
            if value is None:
                session.pop(name)
            else:
                session[name] = value
        start_response("200 OK", [])
        return [b""]

    return app


def visit(store, sid, app, meanwhile=lambda: None):
    environ = {"HTTP_COOKIE": f"pulse-session={sid}", "wsgi.url_scheme": "http", "meanwhile": meanwhile}
    SessionFilter(app, store)(environ, lambda *head: None)


# A dict for each session id


def test_requests_of_one_session_that_overlap_lose_nothing_of_each_other(store):
    asyncio.run(store.save("sid", {"user": "anna", "cart": [1], "count": 1}))

    # While a slow page is made, anna logs out, and something else is put into her cart.
    visit(store, "sid", setting(seen=True, count=2), lambda: visit(store, "sid", setting(user=None, cart=[1, 2])))

    assert asyncio.run(store.get("sid")) == {"cart": [1, 2], "count": 2, "seen": True}


def test_the_same_for_users_whose_roles_change_meanwhile(records):
    asyncio.run(records.create_session("sid", "anna", ["viewer"], metadata={"pulse.data": {"a": 1}}))
    store = StateSessionStore(records)

    def promote():
        asyncio.run(records.create_session("sid", "anna", ["admin"], metadata={"pulse.data": {"b": 1}}))

    visit(store, "sid", setting(c=1), promote)

    record = asyncio.run(records.get_session("sid"))
    assert (record.roles, record.data) == (["admin"], {"b": 1, "c": 1})


def login(environ, start_response):
    """A page that looks a user up, which takes a while, and renews the session."""
    session = environ["pulse.session"]
    session["user"] = "anna"
    environ["meanwhile"]()
    session.renew()
    start_response("200 OK", [])
    return [b""]


def visited(store, sid, app, meanwhile):
    """What the session holds that the client has behind *app*."""
    heads = []
    environ = {"HTTP_COOKIE": f"pulse-session={sid}", "wsgi.url_scheme": "http", "meanwhile": meanwhile}
    SessionFilter(app, store)(environ, lambda *head: heads.append(head))
    cookie = dict(heads[0][1])["Set-Cookie"].partition(";")[0]
    found = {}

    def whole(environ, start_response):
        found.update(environ["pulse.session"])
        start_response("200 OK", [])
        return [b""]

    SessionFilter(whole, store)({"HTTP_COOKIE": cookie}, lambda *head: None)
    return found


@pytest.fixture(params=[*STORES, "live memory"])
def shared(request):
    """What merges the changes of requests that overlap."""
    return (STORAGES | STORES)[request.param](request)


def test_a_renewal_loses_nothing_of_the_requests_that_it_overlaps(shared):
    asyncio.run(shared.save("sid", {"cart": [1], "count": 1}))

    found = visited(shared, "sid", login, lambda: visit(shared, "sid", setting(cart=[1, 2], count=None)))

    assert found == {"cart": [1, 2], "user": "anna"}


def test_two_renewals_at_once_both_go_on_with_the_session(shared):
    asyncio.run(shared.save("sid", {"cart": [1]}))

    found = visited(shared, "sid", login, lambda: visit(shared, "sid", login))

    assert found == {"cart": [1], "user": "anna"}


@asynchronous
async def test_changes_at_once_are_all_kept(records):
    store = StateSessionStore(records)
    await store.save("sid", {"start": 1})

    kept = await asyncio.gather(
        *(store.change("sid", lambda before, name=name: {**before, name: 1}) for name in map(str, range(20)))
    )

    assert all(kept)
    assert (await store.get("sid")).keys() == {"start", *map(str, range(20))}


@asynchronous
async def test_a_change_brings_no_session_back(store):
    assert not await store.change("nobody", lambda before: {**before, "a": 1})
    assert await store.get("nobody") is None


@asynchronous
async def test_what_cannot_be_kept_of_a_change_leaves_the_session_as_it_was(store):
    if isinstance(store, SimpleStore):
        pytest.skip("it keeps anything")
    await store.save("sid", {"a": 1})

    with pytest.raises(TypeError):
        await store.change("sid", lambda before: {**before, "odd": Lock()})

    assert await store.get("sid") == {"a": 1}


@asynchronous
async def test_an_unknown_session_is_none(store):
    assert await store.get("nobody") is None
    assert await store.get("") is None


@asynchronous
async def test_a_created_session_is_empty_and_found(store):
    assert await store.create("sid") == {}
    assert await store.get("sid") == {}


@asynchronous
async def test_what_is_saved_is_found(store):
    await store.create("sid")
    await store.save("sid", RICH)

    assert await store.get("sid") == RICH


@asynchronous
async def test_a_session_may_be_saved_without_having_been_created(store):
    await store.save("sid", {"a": 1})

    assert await store.get("sid") == {"a": 1}


@asynchronous
async def test_saving_replaces_all_that_was_saved_before(store):
    await store.save("sid", {"a": 1, "b": 2})
    await store.save("sid", {"c": 3})

    assert await store.get("sid") == {"c": 3}


@asynchronous
async def test_a_deleted_session_is_forgotten_and_deleting_it_again_no_error(store):
    await store.save("sid", {"a": 1})

    await store.delete("sid")
    await store.delete("sid")
    await store.delete("nobody")

    assert await store.get("sid") is None


@asynchronous
async def test_sessions_are_isolated(store):
    shared = {"a": 1}
    await store.save("one", shared)
    await store.save("other", shared)
    shared["a"] = 2
    await store.save("one", shared)

    assert await store.get("one") == {"a": 2}
    assert await store.get("other") == {"a": 1}


@asynchronous
async def test_what_is_given_out_is_a_copy():
    for store in (InMemorySessionStore(), StateSessionStore(MemorySessionStore())):
        await store.save("sid", {"list": [1]})
        found = await store.get("sid")
        found["list"].append(2)
        found["more"] = True

        assert await store.get("sid") == {"list": [1]}


@asynchronous
async def test_odd_ids_are_ids(store):
    ids = ["a:b", "a*", "a b", "ü", "a/b", "x" * 200]
    for sid in ids:
        await store.save(sid, {"is": sid})

    assert [await store.get(sid) for sid in ids] == [{"is": sid} for sid in ids]


@asynchronous
async def test_an_ended_session_is_not_replaced(store):
    await store.save("sid", {"a": 1})
    assert await store.replace("sid", {"a": 2}) is True
    await store.delete("sid")

    assert await store.replace("sid", {"a": 3}) is False
    assert await store.get("sid") is None


@asynchronous
async def test_a_renamed_session_is_only_known_by_its_new_id(store):
    await store.save("old", {"a": 1})

    await store.rename("old", "new", {"a": 2})

    assert await store.get("old") is None
    assert await store.get("new") == {"a": 2}


@asynchronous
async def test_init_sweep_and_close_work_without_being_asked_for(store):
    assert await store.init() is None
    assert await store.sweep() == 0
    assert await store.close() is None


@asynchronous
async def test_a_session_of_ten_thousand_entries_is_kept(store):
    data = {str(number): number for number in range(10_000)}
    await store.save("sid", data)

    assert await store.get("sid") == data


@pytest.mark.parametrize("missing", ["get", "create", "delete", "save"])
def test_a_store_without_one_of_the_four_methods_cannot_be_built(missing):
    methods = {name: getattr(SimpleStore, name) for name in ("get", "create", "delete", "save") if name != missing}

    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (SessionStore,), methods)()


@pytest.mark.parametrize("missing", ["load", "save"])
def test_a_storage_without_one_of_the_two_methods_cannot_be_built(missing):
    methods = {name: getattr(SimpleStorage, name) for name in ("load", "save") if name != missing}

    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (SessionStorage,), methods)()


# The dict for a request


@asynchronous
async def test_an_unknown_key_has_an_empty_dict_and_is_not_remembered(storage):
    assert await storage.load("nobody") == {}
    found = await storage.load("nobody")
    found["a"] = 1

    assert await storage.load("nobody") == {}


@asynchronous
async def test_what_is_saved_is_loaded(storage):
    await storage.save("key", RICH)

    assert await storage.load("key") == RICH


@asynchronous
async def test_keys_are_isolated(storage):
    await storage.save("one", {"a": 1})
    await storage.save("other", {"a": 2})

    assert await storage.load("one") == {"a": 1}
    assert await storage.load("other") == {"a": 2}


@asynchronous
async def test_two_that_are_loaded_at_once_keep_what_either_has_changed(storage):
    if isinstance(storage, SimpleStorage):
        pytest.skip("it keeps the last one")
    await storage.save("key", {"user": "anna", "a": 1, "list": [1]})
    one, other = await storage.load("key"), await storage.load("key")

    one["b"] = 2
    one["list"].append(2)
    await storage.save("key", one)
    del other["user"]
    other["c"] = 3
    await storage.save("key", other)
    one["d"] = 4
    await storage.save("key", one)

    assert await storage.load("key") == {"a": 1, "b": 2, "c": 3, "d": 4, "list": [1, 2]}


@asynchronous
@pytest.mark.parametrize("kind", ["live memory", "over memory", "over state memory"])
async def test_a_storage_renames_a_session_with_what_others_have_changed_since_it_was_loaded(request, kind):
    storage = STORAGES[kind](request)
    await storage.save("old", {"cart": [1]})
    session, other = await storage.load("old"), await storage.load("old")
    other["cart"] = [1, 2]
    await storage.save("old", other)

    session["user"] = "anna"
    await storage.rename("old", "new", session)
    assert (await storage.load("old"), await storage.load("new")) == ({}, {"cart": [1, 2], "user": "anna"})

    session["more"] = True  # behind the headers of its response
    await storage.save("new", session)
    assert await storage.load("new") == {"cart": [1, 2], "user": "anna", "more": True}


@asynchronous
async def test_saving_an_empty_dict_ends_a_session(storage):
    await storage.save("key", {"a": 1})
    await storage.save("key", {})

    assert await storage.load("key") == {}


# Over the stores of `pulse.state`


def state_memory(_request, clock):
    return MemorySessionStore(clock=clock)


def state_redis(request, _clock):
    return redis_store(request)


@pytest.fixture(params=[state_memory, state_redis], ids=["memory", "redis"])
def records(request):
    return request.param(request, ManualClock())


@asynchronous
async def test_nothing_that_is_kept_in_a_session_grants_a_right(records):
    await records.create_session("sid", "anna", ["viewer"])
    rights = {"permissions": {"widget:w1": ["write", "admin"]}, "roles": ["admin"], "user_id": "root"}

    await StateSessionStore(records).save("sid", rights)
    await StoreSessionStorage(StateSessionStore(records)).save("sid", rights)

    assert await records.check_permission("sid", "widget", "w1", "read")
    assert not await records.check_permission("sid", "widget", "w1", "write")
    assert (await records.get_session("sid")).roles == ["viewer"]


@asynchronous
async def test_who_somebody_is_outlasts_what_is_kept_about_them(records):
    rights = {"permissions": {"widget:w1": ["write"]}, "device": "phone"}
    await records.create_session("sid", "anna", ["viewer"], metadata=rights)
    store = StateSessionStore(records)

    assert await store.get("sid") == {}
    await store.save("sid", {"cart": [1]})
    await store.rename("sid", "new", {"cart": [2]})

    record = await records.get_session("new")
    assert (record.user_id, record.roles) == ("anna", ["viewer"])
    assert record.metadata["device"] == "phone"
    assert record.data == {"cart": [2]}
    assert await records.check_permission("new", "widget", "w1", "write")
    assert await records.get_session("sid") is None


@asynchronous
async def test_what_is_kept_about_somebody_changes_nothing_else(records):
    made = await records.create_session("sid", "anna", ["viewer"], ttl=1000, metadata={"device": "phone"})
    await records.refresh_session("sid", 500)
    before = await records.get_session("sid")

    await StateSessionStore(records).save("sid", {"cart": [1]})
    after = await records.get_session("sid")
    await records.refresh_session("sid")
    refreshed = await records.get_session("sid")

    assert after.data == {"cart": [1]}
    assert after.metadata.pop("pulse.data")
    assert after == before
    assert after.created_at == made.created_at
    assert refreshed.expires_at - refreshed.created_at > 900  # as long as it was created for


@asynchronous
async def test_a_renewed_session_is_as_old_and_lasts_as_long_as_it_did(records):
    made = await records.create_session("old", "anna", ["viewer"], ttl=1000, metadata={"device": "phone"})
    await records.refresh_session("old", 500)
    before = await records.get_session("old")

    await StateSessionStore(records, ttl=60).rename("old", "new", {"cart": [1]})
    after = await records.get_session("new")
    assert after == replace(before, session_id="new", metadata={"device": "phone", "pulse.data": {"cart": [1]}})
    assert after.created_at == made.created_at
    assert await records.list_user_sessions("anna") == [after]
    assert await records.get_session("old") is None

    await records.refresh_session("new")
    refreshed = await records.get_session("new")
    assert refreshed.expires_at - refreshed.created_at > 900  # as long as it was created for


@asynchronous
async def test_a_session_without_a_user_rests_anew_when_it_is_renewed(records):
    store = StateSessionStore(records, ttl=1000)
    await records.create_session("old", "", ttl=10)

    await store.rename("old", "new", {"cart": [1]})

    renewed = await records.get_session("new")
    assert 990 < renewed.expires_at - renewed.created_at < 1010
    assert [session.session_id for session in await records.list_user_sessions("")] == ["new"]


@asynchronous
async def test_a_session_may_be_moved_to_its_own_id_and_to_that_of_another(records):
    await records.create_session("one", "anna")
    await records.create_session("other", "bob")

    assert await records.move_session("one", "one", {"a": 1}) is True
    assert (await records.get_session("one")).data == {"a": 1}
    assert await records.move_session("one", "other", {"a": 2}) is True
    assert await records.move_session("one", "other", {"a": 3}) is False

    assert (await records.get_session("other")).user_id == "anna"
    assert await records.list_user_sessions("bob") == []
    assert [session.data for session in await records.list_user_sessions("anna")] == [{"a": 2}]


@asynchronous
@pytest.mark.parametrize(
    ("new_id", "data", "ttl", "error"),
    [(5, {}, None, TypeError), ("new", {"a": object()}, None, TypeError), ("new", {}, "5", TypeError),
     ("new", {}, 0, ValueError)],
)  # fmt: skip
async def test_what_cannot_be_moved_stays_as_it_is(records, new_id, data, ttl, error):
    made = await records.create_session("old", "anna")

    with pytest.raises(error):
        await records.move_session("old", new_id, data, ttl)

    assert await records.list_user_sessions("anna") == [made]


@asynchronous
async def test_a_renewal_undoes_no_change_of_roles(records):
    for number in range(50):
        await records.create_session(f"old-{number}", "anna", ["admin"])

        await asyncio.gather(
            StateSessionStore(records).rename(f"old-{number}", f"new-{number}", {}),
            records.create_session(f"old-{number}", "anna", []),
        )

        moved = await records.get_session(f"new-{number}")
        left = await records.get_session(f"old-{number}")
        assert (moved.roles, left) == ([], None) or left.roles == []


@asynchronous
async def test_a_save_that_overlaps_others_neither_ends_a_logout_nor_undoes_a_change_of_roles(records):
    store = StateSessionStore(records)
    for number in range(50):
        left, promoted = f"left-{number}", f"promoted-{number}"
        await store.save(left, {"a": 1})
        await records.create_session(promoted, "anna", ["viewer"])

        await asyncio.gather(
            store.replace(left, {"a": 2}),
            store.replace(promoted, {"a": 2}),
            store.delete(left),
            records.create_session(promoted, "anna", ["admin"]),
            store.replace(left, {"a": 3}),
            store.replace(promoted, {"a": 3}),
        )

        assert await store.get(left) is None
        assert (await records.get_session(promoted)).roles == ["admin"]


class OthersStore(MemorySessionStore):
    """One that knows no more than it must."""

    keep_data = state.SessionStore.keep_data
    change_data = state.SessionStore.change_data
    move_session = state.SessionStore.move_session


@asynchronous
async def test_a_store_of_somebody_elses_keeps_data_too():
    records = OthersStore()
    store = StateSessionStore(records, ttl=60)
    await records.create_session("sid", "anna", ["viewer"], ttl=1000, metadata={"device": "phone"})
    await records.create_session("stays", "anna")

    for sid in ("sid", "stays", "new"):
        await store.save(sid, {"a": 1})
        await store.save(sid, {"a": 2})
    known, stays, new = [await records.get_session(sid) for sid in ("sid", "stays", "new")]

    assert (known.user_id, known.roles, known.metadata["device"], known.data) == ("anna", ["viewer"], "phone", {"a": 2})
    assert 900 < known.expires_at - known.created_at <= 1000
    assert stays.expires_at is None
    assert (new.user_id, new.expires_at - new.created_at) == ("", 60)
    assert not await store.replace("unknown", {})

    await store.rename("sid", "moved", {"a": 3})
    moved = await records.get_session("moved")
    assert (moved.user_id, moved.roles, moved.metadata["device"], moved.data) == ("anna", ["viewer"], "phone", {"a": 3})
    assert await records.get_session("sid") is None


@asynchronous
async def test_a_session_with_a_user_ends_when_its_maker_has_said():
    clock = ManualClock()
    records = MemorySessionStore(clock=clock)
    await records.create_session("sid", "anna", ttl=60)
    store = StateSessionStore(records, ttl=3600, clock=clock)

    for _ in range(5):
        clock.advance(10)
        await store.save("sid", {"at": clock.now()})
        assert await store.get("sid")
    clock.advance(10)

    assert await store.get("sid") is None


def states(*, ttl, clock):
    return StateSessionStore(MemorySessionStore(clock=clock), ttl=ttl, clock=clock)


@pytest.mark.parametrize("used", [1, 20, 45, 60, 99])
@pytest.mark.parametrize("make", [InMemorySessionStore, states])
@asynchronous
async def test_a_session_rests_for_its_time_whenever_it_was_used_last(make, used):
    clock = ManualClock()
    store = make(ttl=100, clock=clock)
    await store.save("sid", {"a": 1})

    clock.advance(used)
    await store.get("sid")
    clock.advance(89)
    assert await store.get("sid") == {"a": 1}
    clock.advance(100)

    assert await store.get("sid") is None


@asynchronous
async def test_reading_does_not_prolong_a_session_with_a_user():
    clock = ManualClock()
    records = MemorySessionStore(clock=clock)
    await records.create_session("sid", "anna", ttl=60)
    store = StateSessionStore(records, ttl=3600, clock=clock)

    clock.advance(50)
    assert await store.get("sid") == {}
    clock.advance(10)

    assert await store.get("sid") is None


@asynchronous
async def test_a_session_without_a_user_lives_as_long_as_it_is_used():
    clock = ManualClock()
    records = MemorySessionStore(clock=clock)
    store = StateSessionStore(records, ttl=60, clock=clock)
    await store.save("sid", {"a": 1})

    for _ in range(10):
        clock.advance(45)
        assert await store.get("sid") == {"a": 1}
    clock.advance(60)

    assert await store.get("sid") is None


@asynchronous
async def test_expired_records_are_swept():
    clock = ManualClock()
    store = StateSessionStore(MemorySessionStore(clock=clock), ttl=60, clock=clock)
    await store.save("sid", {"a": 1})
    clock.advance(61)

    assert await store.sweep() == 1


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_a_time_to_live_of_no_use_is_refused(ttl):
    with pytest.raises(ValueError, match="ttl"):
        StateSessionStore(MemorySessionStore(), ttl=ttl)


def test_the_two_kinds_of_stores_are_not_one():
    from pulse.state.base import SessionStore as StateStore  # noqa: PLC0415 - the same name

    assert StateStore is not SessionStore


def test_a_signed_cookie_keeps_every_kind_of_value():
    store = CookieSessionStore("a secret")

    assert store.decode(store.encode("sid", RICH)) == ("sid", RICH)
