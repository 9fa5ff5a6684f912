"""What is asked for again: once its time has come, and of a task that waits the last instant alone."""

from datetime import UTC, datetime, timedelta

import pytest

from pulse.model import Fire, Trigger
from pulse.postponed import Postponed
from pulse.testing import ManualClock

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def postponed(clock) -> Postponed:
    return Postponed(clock)


def fire(task: str = "a", second: int = 0, *, attempt: int = 1, place: str = "") -> Fire:
    trigger = Trigger.SCHEDULE if attempt == 1 else Trigger.RETRY
    return Fire(task=task, due=NOON + timedelta(seconds=second), attempt=attempt, place=place, trigger=trigger)


def test_what_waits_is_asked_for_once(postponed):
    postponed.put(fire())

    assert postponed.is_near(0)
    assert postponed.take() == [fire()]
    assert postponed.take() == []
    assert not postponed.is_near(3600)


def test_of_a_task_that_waits_the_last_instant_stays(postponed):
    for second in (1, 2, 3):
        postponed.put(fire(second=second))
    postponed.put(fire("b", 1))

    assert postponed.take() == [fire(second=3), fire("b", 1)]


def test_the_same_task_waits_at_each_place_and_with_each_further_attempt(postponed):
    waiting = [fire(), fire(place="host-1"), fire(attempt=2), fire(second=1, attempt=3)]
    for one in waiting:
        postponed.put(one)

    assert postponed.take() == waiting


def test_a_further_attempt_that_is_put_off_again_waits_for_its_new_time(postponed, clock):
    postponed.put(fire(attempt=2), 1.0)
    postponed.put(fire(attempt=2), 5.0)

    clock.advance(2)
    assert postponed.take() == []
    clock.advance(3)
    assert postponed.take() == [fire(attempt=2)]


def test_what_was_due_first_comes_first_and_the_rest_waits(postponed, clock):
    for task, seconds in [("late", 9.0), ("second", 2.0), ("first", 1.0)]:
        postponed.put(fire(task, attempt=2), seconds)

    clock.advance(3)
    assert [one.task for one in postponed.take()] == ["first", "second"]
    assert not postponed.is_near(5.9)
    assert postponed.is_near(6)
    clock.advance(6)
    assert [one.task for one in postponed.take()] == ["late"]
    assert not postponed.is_near(3600)


def test_a_hundred_thousand_may_wait(postponed):
    tasks = [f"task{number}" for number in range(100_000)]
    for task in tasks:  # if each were looked for among all others, this would take an hour
        postponed.put(fire(task))

    assert [one.task for one in postponed.take()] == tasks
