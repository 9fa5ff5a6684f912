"""Who waits, and who is handed out first."""

from datetime import UTC, datetime, timedelta

import pytest

from pulse.errors import ClosedError
from pulse.model import Fire
from pulse.workers.base import FireQueue, Manner

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)


def fire(task: str, minute: int = 0) -> Fire:
    return Fire(task=task, due=NOON + timedelta(minutes=minute))


@pytest.fixture
def queue() -> FireQueue:
    return FireQueue()


def test_the_task_that_waits_longest_is_first(queue):
    for task in ("a", "b"):
        queue.put([fire(task)], keep=1)

    assert [queue.get(), queue.get()] == [[fire("a")], [fire("b")]]


def test_of_a_task_only_the_last_fires_wait(queue):
    queue.put([fire("a", minute) for minute in range(5)], keep=2)

    assert queue.get() == [fire("a", 3), fire("a", 4)]


def test_a_fire_that_had_to_wait_gives_way_to_a_later_one(queue):
    queue.put([fire("a", 2)], keep=1)

    queue.put_back(fire("a", 1), keep=1)

    assert queue.get() == [fire("a", 2)]


def test_a_fire_that_had_to_wait_comes_before_later_ones_where_there_is_room(queue):
    queue.put([fire("a", 2)], keep=2)

    queue.put_back(fire("a", 1), keep=2)

    assert queue.get() == [fire("a", 1), fire("a", 2)]


def test_quick_tasks_and_others_take_turns(queue):
    for task in ("a", "b", "quick 1", "quick 2"):
        queue.mark(task, Manner.QUICK if "quick" in task else Manner.SLOW)
        queue.put([fire(task)], keep=1)

    assert [queue.get()[0].task for _ in range(4)] == ["quick 1", "a", "quick 2", "b"]


@pytest.mark.parametrize("manner", [Manner.QUICK, Manner.SLOW, Manner.UNKNOWN])
def test_tasks_in_trouble_come_last(queue, manner):
    queue.mark("ok", manner)
    queue.mark("hangs", Manner.TROUBLED)
    for task in ("hangs", "ok"):
        queue.put([fire(task)], keep=1)

    assert [queue.get(), queue.get()] == [[fire("ok")], [fire("hangs")]]


def test_what_may_not_be_begun_now_is_passed_over(queue):
    queue.mark("hangs", Manner.TROUBLED)
    queue.mark("quick", Manner.QUICK)
    for task in ("hangs", "new", "quick"):
        queue.put([fire(task)], keep=1)

    assert queue.get(lambda lane: lane is Manner.SLOW) == [fire("new")]
    assert queue.get(lambda lane: lane is not Manner.QUICK) == [fire("hangs")]


def test_a_task_that_waits_goes_on_waiting_in_the_lane_that_fits_it_now(queue):
    queue.put([fire("a")], keep=1)
    assert queue.count(Manner.QUICK, Manner.TROUBLED) == 0

    queue.mark("a", Manner.TROUBLED)

    assert (queue.count(Manner.TROUBLED), queue.count(Manner.SLOW)) == (1, 0)


def test_a_closed_queue_hands_out_and_takes_nothing(queue):
    queue.put([fire("a")], keep=1)

    assert queue.close() == 1

    assert queue.get() == []
    queue.put_back(fire("a"), keep=1)
    with pytest.raises(ClosedError):
        queue.put([fire("a")], keep=1)
