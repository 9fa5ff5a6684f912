"""What an engine asks of its store before it rings."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from pulse.config import read_config
from pulse.dispatch import Reply
from pulse.engine import Engine, EngineFactory
from pulse.errors import StoreUnavailableError
from pulse.instance import this_place
from pulse.model import Fire, Outcome
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


def engine(
    store: MemoryRunStore,
    *,
    mode: str = "threading",
    options: Mapping[str, object] | None = None,
    clock: ManualClock | None = None,
    **tasks: dict[str, object],
) -> Engine:
    """One that is built, and not started."""
    config = read_config(tasks=tasks, options={"mode": mode, **(options or {})})
    factory = EngineFactory(
        lambda _environ, _start_response: [],
        config,
        mode=mode,
        application=b"",
        schedules=Schedules(config.tasks),
        store=store,
        clock=clock or ManualClock(NOON),
        middleware=None,
    )
    return factory.build("test", beside=tuple)


class Flaky(MemoryRunStore):
    """A store that does not answer while it is down."""

    is_down = False

    @contextmanager
    def _step(self, *tasks: str) -> Iterator[None]:
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        with super()._step(*tasks):
            yield

    def register(
        self, tracks: Iterable[str], now: datetime, *, since: datetime | None = None
    ) -> Mapping[str, datetime]:
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        return super().register(tracks, now, since=since)


def test_as_many_runs_as_there_are_workers_may_end_while_the_store_is_away():
    store, many = Flaky(), 1500
    built = engine(store, mode="asyncio", options={"workers": many}, a={"interval": 1, "overlap": "allow"})
    runner = built.workers._runner
    fires = [Fire(task="a", due=NOON + timedelta(seconds=number + 1)) for number in range(many)]
    claimed = [runner.claim(fire) for fire in fires]

    store.is_down = True
    for active in claimed:
        runner.finish(active, Reply(outcome=Outcome.SUCCESS, status=200))
    store.is_down = False
    runner.upkeep.record_late()

    assert store.running() == []
    assert store.totals("a").counts == {Outcome.SUCCESS: many}


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


def test_a_clock_that_was_ahead_for_a_while_keeps_no_task_from_ringing_when_it_is_right_again(store):
    clock = ManualClock(NOON)
    built = engine(store, clock=clock, a={"interval": "5m"})
    built.workers.submit = lambda rung: None  # a store whose clock is right refuses them: they are too early

    clock.step(3600)
    built.scheduler.ring()
    clock.step(-3600)
    built.scheduler.ring()
    assert built.scheduler.next_ring() == NOON + timedelta(minutes=65)

    built.fleet.beat()
    built.scheduler.ring()

    assert built.scheduler.next_ring() == NOON + timedelta(minutes=5)
    asked = len(store.asked)
    built.fleet.beat()
    assert len(store.asked) == asked


def test_what_is_to_be_planned_again_is_when_the_store_answers():
    clock, store = ManualClock(NOON), Flaky()
    built = engine(store, clock=clock, a={"interval": "5m"})
    built.workers.submit = lambda rung: None
    clock.step(3600)
    built.scheduler.ring()
    clock.step(-3600)
    built.scheduler.ring()

    store.is_down = True
    with pytest.raises(StoreUnavailableError):
        built.fleet.beat()
    store.is_down = False
    built.fleet.beat()
    built.scheduler.ring()

    assert built.scheduler.next_ring() == NOON + timedelta(minutes=5)
