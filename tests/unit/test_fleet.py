"""What processes tell each other: who is alive, which configuration is the newest, whose clock is wrong."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from pulse.config import read_config
from pulse.fleet import Fleet, FleetClock, digest_of, fingerprint
from pulse.model import Task
from pulse.runstores.memory import MemoryRunStore
from pulse.testing import ManualClock

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
BEAT = timedelta(seconds=10)


class ClockedStore(MemoryRunStore):
    """A store with a clock of its own, which is ahead of that of this host."""

    def __init__(self, clock: ManualClock, ahead: float) -> None:
        super().__init__()
        self.clock = clock
        self.ahead = timedelta(seconds=ahead)

    def now(self) -> datetime:
        return self.clock.now() + self.ahead


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def store() -> MemoryRunStore:
    return MemoryRunStore()


def member(
    store, clock, monkeypatch, owner, *, beside=tuple, refused=int, errors=int, max_clock_skew="5s", **tasks
) -> Fleet:
    """A process of the fleet that has these tasks, by name and interval, and has joined."""
    config = read_config(
        tasks={name: {"interval": seconds} for name, seconds in tasks.items()},
        options={"max_clock_skew": max_clock_skew},
    )
    more = {"beside": beside, "refused": refused, "errors_beside": errors}
    fleet = Fleet(config, store=store, clock=FleetClock(clock), beat=BEAT, **more)
    with monkeypatch.context() as patch:
        patch.setattr("pulse.fleet.this_instance", lambda: owner)
        fleet.join("test")
    return fleet


def test_a_fingerprint_is_another_one_for_each_other_task_and_the_same_for_the_same():
    tasks = [Task(name="a"), Task(name="a", interval=60), Task(name="a", headers={"X": "1"}), Task(name="a", timeout=1)]

    assert len({fingerprint(task) for task in tasks}) == 4
    assert fingerprint(Task(name="a", expect_status="200-299 404")) == fingerprint(
        Task(name="a", expect_status="404 200-299")
    )
    assert fingerprint(Task(name="a", timeout="60m", enabled="yes")) == fingerprint(Task(name="a"))
    # A set of these is shown in the order in which it was made.
    assert fingerprint(Task(name="a", expect_status=[200, 208])) == fingerprint(
        Task(name="a", expect_status=[208, 200])
    )


def test_processes_of_the_same_configuration_run_all_of_it(store, clock, monkeypatch):
    one = member(store, clock, monkeypatch, "one", a=60)
    two = member(store, clock, monkeypatch, "two", a=60)
    one.beat()

    assert (one.why_not("a"), two.why_not("a")) == ("", "")
    assert {instance.owner for instance in store.instances()} == {"one", "two"}


def test_the_older_process_leaves_what_a_newer_one_has_changed_or_dropped(store, clock, monkeypatch, caplog):
    old = member(store, clock, monkeypatch, "old", same=60, changed=60, dropped=60)
    clock.advance(1)
    new = member(store, clock, monkeypatch, "new", same=60, changed=30, added=60)
    clock.advance(10)
    old.beat()

    assert old.why_not("same") == ""
    assert old.why_not("changed") == "a newer configuration has changed it"
    assert old.why_not("dropped") == "a newer configuration has dropped it"
    assert [new.why_not(task) for task in ("same", "changed", "added")] == ["", "", ""]
    assert {record.pulse_task for record in caplog.records} == {"changed", "dropped"}


def test_an_older_process_stands_down_though_the_log_is_broken(store, clock, monkeypatch):
    old = member(store, clock, monkeypatch, "old", a=60)
    clock.advance(1)
    member(store, clock, monkeypatch, "new", a=30)
    monkeypatch.setattr("pulse.fleet.log.warning", lambda *said, **more: 1 / 0)

    with suppress(ZeroDivisionError):
        old.beat()

    assert old.why_not("a") == "a newer configuration has changed it"


def test_the_older_process_takes_over_when_the_newer_ones_are_gone(store, clock, monkeypatch):
    old = member(store, clock, monkeypatch, "old", a=60)
    clock.advance(1)
    new = member(store, clock, monkeypatch, "new", a=30)
    old.beat()
    assert old.why_not("a")

    new.leave()
    old.beat()

    assert old.why_not("a") == ""


def test_a_newer_process_that_is_not_heard_of_any_more_is_gone_too(store, clock, monkeypatch):
    old = member(store, clock, monkeypatch, "old", a=60)
    clock.advance(1)
    member(store, clock, monkeypatch, "new", a=30)
    clock.advance(29)
    old.beat()
    assert old.why_not("a")

    clock.advance(2)
    old.beat()

    assert old.why_not("a") == ""


def test_nothing_is_kept_of_the_configurations_that_have_come_and_gone(store, clock, monkeypatch):
    old = member(store, clock, monkeypatch, "old", report=60)
    for number in range(5):
        clock.advance(1)
        newer = member(store, clock, monkeypatch, f"new{number}", report=61 + number)
        old.beat()
        assert old.why_not("report")
        newer.leave()

    old.beat()

    assert old.why_not("report") == ""
    assert not old._foreign


def test_a_process_that_is_restarted_with_the_old_configuration_does_not_become_the_newest(store, clock, monkeypatch):
    member(store, clock, monkeypatch, "old", a=60)
    clock.advance(1)
    new = member(store, clock, monkeypatch, "new", a=30)
    clock.advance(1)
    restarted = member(store, clock, monkeypatch, "restarted", a=60)
    new.beat()

    assert restarted.why_not("a")
    assert new.why_not("a") == ""


def test_of_three_configurations_the_newest_decides(store, clock, monkeypatch):
    first = member(store, clock, monkeypatch, "first", a=60)
    clock.advance(1)
    member(store, clock, monkeypatch, "second", a=30)
    clock.advance(1)
    member(store, clock, monkeypatch, "third", a=60, b=60)
    first.beat()

    assert first.why_not("a") == ""


def test_filters_of_one_process_that_share_a_store_do_not_stand_down_for_each_other(store, clock, monkeypatch):
    second = digest_of(read_config(tasks={"b": {"interval": 60}}))
    first = member(store, clock, monkeypatch, "one", beside=lambda: [second], a=60)
    clock.advance(1)
    member(store, clock, monkeypatch, "one-b", b=60)
    first.beat()

    assert first.why_not("a") == ""


def test_each_beat_tells_how_many_requests_were_refused_so_far(store, clock, monkeypatch):
    numbers = iter([2, 5])
    fleet = member(store, clock, monkeypatch, "one", refused=lambda: next(numbers), a=60)
    at_first = store.instances()

    fleet.beat()

    assert [one.refused for one in (*at_first, *store.instances())] == [2, 5]


def test_each_beat_tells_how_many_steps_of_the_store_have_failed_here_and_beside(store, clock, monkeypatch):
    fleet = member(store, clock, monkeypatch, "one", errors=lambda: 30, a=60)
    at_first = store.instances()

    fleet.beat(4)

    assert [one.store_errors for one in (*at_first, *store.instances())] == [30, 34]
    assert fleet.store_errors == 4


def test_the_clock_of_the_store_counts(clock, monkeypatch, caplog):
    store = ClockedStore(clock, ahead=3)
    config = read_config(tasks={"a": {"interval": 60}})
    fleet_clock = FleetClock(clock)

    Fleet(config, store=store, clock=fleet_clock, beat=BEAT).join("test")

    assert fleet_clock.now() == NOON + timedelta(seconds=3)
    assert [record.pulse_event for record in caplog.records] == ["clock_differs"]
    assert "-3.0 s" in caplog.text


def test_a_clock_that_is_right_is_not_worth_a_word(clock, monkeypatch, caplog):
    member(ClockedStore(clock, ahead=0.4), clock, monkeypatch, "one", a=60)

    assert caplog.records == []


@pytest.mark.parametrize("ahead", [6, -6])
def test_a_host_whose_clock_is_too_far_off_runs_nothing_until_it_is_set(clock, monkeypatch, caplog, ahead):
    store = ClockedStore(clock, ahead=ahead)
    fleet = member(store, clock, monkeypatch, "one", a=60)
    assert "clock" in fleet.why_not("a")

    store.ahead = timedelta(0)
    fleet.beat()
    assert fleet.why_not("a")  # it is looked at once a minute
    clock.advance(61)
    fleet.beat()

    assert fleet.why_not("a") == ""
    assert [record.pulse_event for record in caplog.records] == ["clock_skewed", "clock_differs"]


def test_a_clock_that_stays_too_far_off_is_not_said_to_be_right_again(clock, monkeypatch, caplog):
    store = ClockedStore(clock, ahead=60)
    fleet = member(store, clock, monkeypatch, "one", a=60)

    for minute in range(1, 3):
        store.ahead = timedelta(seconds=60 + minute)
        clock.advance(61)
        fleet.beat()

    assert fleet.why_not("a")
    assert [record.pulse_event for record in caplog.records] == ["clock_skewed"]


def test_a_clock_that_somebody_sets_is_looked_at_with_the_next_beat(clock, monkeypatch):
    store = ClockedStore(clock, ahead=0)
    fleet = member(store, clock, monkeypatch, "one", a=60)

    clock.step(3600)
    store.ahead = timedelta(seconds=-3600)
    fleet.beat()
    assert "clock" in fleet.why_not("a")

    clock.step(-3600)
    store.ahead = timedelta(0)
    fleet.beat()
    assert fleet.why_not("a") == ""


def test_a_process_that_never_joined_says_nothing_to_the_fleet(store, clock):
    fleet = Fleet(read_config(tasks={"a": {}}), store=store, clock=FleetClock(clock), beat=BEAT)

    fleet.beat()
    fleet.leave()

    assert store.instances() == []


def test_a_process_that_has_left_makes_itself_known_no_more_by_a_late_beat(store, clock, monkeypatch):
    fleet = member(store, clock, monkeypatch, "a:1", a=60)

    fleet.leave()
    fleet.beat()

    assert store.instances() == []
