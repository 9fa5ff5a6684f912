import asyncio
import os
import pickle

import pytest
import webtest

from pulse.sessions import InMemorySessionStore, SessionFilter, SessionStore, StoreSessionStorage, cleanup_endpoint
from pulse.sessions.once import close_store, initialise


class Pool(SessionStore):
    """A store that is of no use before it is initialised."""

    def __init__(self):
        self.inits = 0
        self.is_open = False

    async def init(self):
        self.inits += 1
        await asyncio.sleep(0)
        self.is_open = True

    async def close(self):
        self.is_open = False

    async def get(self, sid):
        assert self.is_open

    async def create(self, sid):
        return {}

    async def delete(self, sid):
        pass

    async def save(self, sid, session):
        assert self.is_open

    async def sweep(self):
        assert self.is_open
        return 3


class Gated(Pool):
    """One whose initialisation takes until the test says so."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()

    async def init(self):
        self.inits += 1
        await self.gate.wait()
        self.is_open = True


def page(environ, start_response):
    environ["pulse.session"]["seen"] = True
    start_response("200 OK", [])
    return [b"ok"]


async def turn():
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_waits_for_an_initialisation_and_goes_away_harms_nobody_else():
    async def story():
        store = Gated()
        first, gone, other = (asyncio.create_task(initialise(store)) for _ in range(3))
        await turn()
        gone.cancel()
        await turn()
        late = asyncio.create_task(initialise(store))
        await turn()
        assert (gone.done(), first.done(), other.done(), late.done()) == (True, False, False, False)

        store.gate.set()
        await asyncio.gather(first, other, late)
        assert store.inits == 1

    asyncio.run(story())


def test_another_initialises_a_store_when_the_one_who_was_about_to_goes_away():
    async def story():
        store = Gated()
        gone, other, third = (asyncio.create_task(initialise(store)) for _ in range(3))
        await turn()
        gone.cancel()
        await turn()
        assert store.inits == 2

        store.gate.set()
        await asyncio.gather(other, third)
        assert store.inits == 2

    asyncio.run(story())


def test_all_who_wait_are_told_of_a_failure_and_the_next_one_tries_again():
    class Failing(Gated):
        async def init(self):
            await super().init()
            if self.inits == 1:
                raise ConnectionError("not there yet")

    async def story():
        store = Failing()
        waiting = [asyncio.create_task(initialise(store)) for _ in range(3)]
        await turn()
        store.gate.set()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in told] == [ConnectionError] * 3

        await initialise(store)
        assert store.inits == 2

    asyncio.run(story())


@pytest.mark.parametrize("adapted", [lambda store: store, StoreSessionStorage], ids=["store", "storage"])
def test_the_clean_up_of_a_process_without_a_visitor_initialises_the_store(adapted):
    store = Pool()

    assert webtest.TestApp(cleanup_endpoint(adapted(store))).get("/").text == "removed 3 expired sessions\n"


def test_all_who_share_a_store_initialise_it_once():
    class Audited(StoreSessionStorage):
        pass

    store = Pool()

    webtest.TestApp(SessionFilter(page, store)).get("/")
    webtest.TestApp(SessionFilter(page, Audited(store))).get("/")
    webtest.TestApp(cleanup_endpoint(store)).get("/")

    assert store.inits == 1


def test_the_store_behind_an_adapter_is_initialised_and_closed():
    class Audited(StoreSessionStorage):
        pass

    store = Pool()
    app = SessionFilter(page, Audited(store))

    webtest.TestApp(app).get("/")
    assert store.is_open
    app.close()
    assert not store.is_open
    webtest.TestApp(app).get("/")
    assert store.inits == 2


def test_a_store_is_initialised_in_each_process(monkeypatch):
    store = Pool()
    asyncio.run(initialise(store))
    sent = pickle.loads(pickle.dumps(store))

    asyncio.run(initialise(sent))
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in a forked child
    asyncio.run(initialise(store))

    assert (sent.inits, store.inits) == (2, 2)


def test_what_has_nothing_to_initialise_stays_as_it_is():
    store = InMemorySessionStore()
    before = dict(vars(store))

    asyncio.run(initialise(store))
    asyncio.run(initialise(object()))
    asyncio.run(close_store(object()))

    assert vars(store) == before
