"""What scheduling tells the event bus."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest
from servers import wait_until

from pulse import announce
from pulse.announce import CHANNEL, Announcer
from pulse.middleware import PulseMiddleware
from pulse.model import Outcome, Pause, Run
from pulse.state import clear_state_caches, get_event_bus

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
RUN = Run(id="ab" * 16, task="cleanup", due=NOON, started=NOON, outcome=Outcome.SUCCESS, status=200)


@pytest.fixture(autouse=True)
def fresh_bus():
    clear_state_caches()
    yield
    clear_state_caches()


def heard(count: int, act) -> list:
    """The first *count* events after *act* was called, in another thread as a run would."""

    async def listen() -> list:
        events = get_event_bus().subscribe(CHANNEL)
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)  # from here on it is subscribed
        threading.Thread(target=act).start()
        found = [await asyncio.wait_for(first, 30)]
        while len(found) < count:
            found.append(await asyncio.wait_for(anext(events), 30))
        await events.aclose()
        return found

    return asyncio.run(listen())


def test_the_bus_hears_of_runs_and_pauses_in_their_order():
    def act() -> None:
        announcer = Announcer()
        announcer.began(RUN)
        announcer.ended(RUN)
        announcer.paused("cleanup", Pause(since=NOON, note="because", by="ada"))

    events = heard(3, act)

    assert [event.event_type for event in events] == ["run.started", "run.finished", "task.paused"]
    assert (events[1].data["run"], events[1].data["outcome"]) == (RUN.id, "success")
    assert (events[2].data["task"], events[2].data["note"], events[2].data["by"]) == ("cleanup", "because", "ada")


def test_a_middleware_tells_the_bus_when_it_is_asked_to():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b""]

    middleware = PulseMiddleware(app, task={"cleanup": {"interval": 3600}}, events=True, store="memory:")

    events = heard(2, lambda: middleware.run_now("cleanup"))

    assert [(event.event_type, event.data["trigger"]) for event in events] == [
        ("run.started", "manual"), ("run.finished", "manual"),
    ]  # fmt: skip


def test_events_do_not_overtake_each_other(monkeypatch):
    published = []

    class UnsteadyBus:
        async def publish(self, channel, message) -> None:
            await asyncio.sleep(0.05 if message.event_type == "run.started" else 0)
            published.append(message.event_type)

    monkeypatch.setattr(announce, "get_event_bus", UnsteadyBus)
    announcer = Announcer()

    announcer.began(RUN)
    announcer.ended(RUN)
    wait_until(lambda: len(published) == 2)

    assert published == ["run.started", "run.finished"]


def test_a_bus_that_does_not_keep_up_costs_nothing_but_its_events(monkeypatch, caplog):
    monkeypatch.setattr(announce, "UNDER_WAY", 2)
    release = threading.Event()
    published = []

    class SlowBus:
        async def publish(self, channel, message) -> None:
            await asyncio.to_thread(release.wait, 60)
            published.append(message)

    monkeypatch.setattr(announce, "get_event_bus", SlowBus)
    announcer = Announcer()

    for _ in range(5):
        announcer.began(RUN)
    release.set()
    wait_until(lambda: len(published) == 2)

    assert [record.pulse_event for record in caplog.records] == ["events_dropped"]
