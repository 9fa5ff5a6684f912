"""Who waits, who is handed out first, and what a pool that hangs leaves free."""

from datetime import UTC, datetime, timedelta

import pytest

from pulse.errors import ClosedError
from pulse.model import Fire
from pulse.workers.base import FireQueue

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


def test_tasks_in_trouble_come_last(queue):
    queue.mark("hangs", is_troubled=True)
    for task in ("hangs", "ok"):
        queue.put([fire(task)], keep=1)

    assert [queue.get(), queue.get()] == [[fire("ok")], [fire("hangs")]]


def test_the_spare_worker_never_takes_a_task_in_trouble(queue):
    queue.mark("hangs", is_troubled=True)
    queue.put([fire("hangs")], keep=1)
    queue.put([fire("ok")], keep=1)
    assert queue.get(is_spare=True) == [fire("ok")]

    queue.mark("hangs", is_troubled=False)

    assert queue.get(is_spare=True) == [fire("hangs")]


def test_a_closed_queue_hands_out_and_takes_nothing(queue):
    queue.put([fire("a")], keep=1)

    assert queue.close() == 1

    assert queue.get() == []
    queue.put_back(fire("a"), keep=1)
    with pytest.raises(ClosedError):
        queue.put([fire("a")], keep=1)
