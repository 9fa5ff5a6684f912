"""What an engine asks of its store before it rings."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from pulse.config import read_config
from pulse.engine import Engine, EngineFactory
from pulse.instance import this_place
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import Schedules
from pulse.testing import ManualClock

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


class Listing(MemoryRunStore):
    """Notes what it is asked to make known at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[set[str]] = []

    def register(
        self, tracks: Iterable[str], now: datetime, *, since: datetime | None = None
    ) -> Mapping[str, datetime]:
        self.asked.append({*tracks})
        return super().register(tracks, now, since=since)


@pytest.fixture
def store() -> Listing:
    return Listing()


def engine(store: MemoryRunStore, **tasks: dict[str, object]) -> Engine:
    """One that is built, and not started."""
    config = read_config(tasks=tasks)
    factory = EngineFactory(
        lambda _environ, _start_response: [],
        config,
        mode="threading",
        application=b"",
        schedules=Schedules(config.tasks),
        store=store,
        clock=ManualClock(NOON),
        middleware=None,
    )
    return factory.build("test", beside=tuple)


def test_all_tasks_are_made_known_at_once(store):
    engine(store, a={}, b={"cron": "@daily"}, c={"enabled": False})

    assert store.asked == [{"a", "b", "c"}]


def test_a_task_of_a_place_is_known_by_its_own_name_and_by_that_of_its_track(store):
    engine(store, everywhere={}, host={"scope": "host"}, process={"scope": "process"})

    assert store.asked == [
        {"everywhere", "host", "process", f"host@{this_place('host')}", f"process@{this_place('process')}"}
    ]


def test_the_cursor_of_a_place_is_the_one_that_counts_there(store):
    store.register(["a"], NOON - timedelta(hours=1))

    rings = engine(store, a={"interval": "5m", "scope": "host"}).scheduler.next_ring()

    assert rings == NOON + timedelta(minutes=5)


def test_tasks_that_run_at_startup_are_made_known_once_for_each_instant(store):
    at_start = {"run_at_startup": True}
    built = engine(
        store,
        a={"interval": "5m", **at_start},
        b={"interval": "10m", **at_start},
        c={"cron": "30 11 * * *", **at_start},
        d={},
    )

    assert store.asked == [{"a", "b"}, {"c"}, {"a", "b", "c", "d"}]
    assert store.register(["a", "c", "d"], NOON) == {
        "a": NOON - INSTANT,
        "c": NOON - timedelta(minutes=30) - INSTANT,
        "d": NOON,
    }
    assert built.scheduler.next_ring() == NOON - timedelta(minutes=30)
