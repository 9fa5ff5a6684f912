"""Who waits, and who is handed out first."""

from datetime import UTC, datetime, timedelta

import pytest

from pulse.errors import ClosedError
from pulse.model import Fire
from pulse.workers.handful import Handful
from pulse.workers.queue import FireQueue, Manner

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

    assert queue.take(lambda lane: lane is Manner.SLOW) == [fire("new")]
    assert queue.take(lambda lane: lane is not Manner.QUICK) == [fire("hangs")]


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


# Several tasks in one hand

HAND = 3


@pytest.fixture
def brisk(queue, monkeypatch) -> FireQueue:
    monkeypatch.setattr("pulse.workers.queue.HANDFUL", HAND)
    queue.pace(is_brisk=True)
    return queue


def put_all(queue: FireQueue, *tasks: str) -> None:
    for task in tasks:
        queue.put([fire(task)], keep=1)


def tasks_of(turn) -> list[str]:
    return [one.task for one in turn]


def anything(_lane) -> bool:
    return True


def goes_along(one: Fire) -> bool:
    return one.task != "alone"


def test_several_tasks_that_go_together_are_taken_at_a_time(brisk):
    put_all(brisk, "a", "b", "c", "d")

    assert tasks_of(brisk.take(anything, goes_along)) == ["a", "b", "c"]
    assert tasks_of(brisk.take(anything, goes_along)) == ["d"]


def test_one_task_is_taken_at_a_time_by_who_does_not_say_what_goes_together(queue):
    put_all(queue, "a", "b")

    assert tasks_of(queue.take()) == ["a"]


def test_a_task_that_goes_along_with_none_is_taken_alone_in_its_turn(brisk):
    put_all(brisk, "a", "alone", "b")

    turns = [brisk.take(anything, goes_along) for _ in range(3)]

    assert [tasks_of(turn) for turn in turns] == [["a"], ["alone"], ["b"]]


def test_a_task_with_several_fires_is_taken_alone(brisk):
    put_all(brisk, "a")
    brisk.put([fire("b", 1), fire("b", 2)], keep=2)

    assert [brisk.take(anything, goes_along) for _ in range(2)] == [[fire("a")], [fire("b", 1), fire("b", 2)]]


def test_a_task_that_lasted_is_not_taken_along(brisk):
    brisk.mark("slow", Manner.SLOW)
    put_all(brisk, "a", "slow", "b")

    turns = [tasks_of(brisk.take(anything, goes_along)) for _ in range(3)]

    assert turns == [["a"], ["slow"], ["b"]]


def test_what_is_given_back_goes_first_one_at_a_time_to_whoever_may_begin_what_is_quick(brisk):
    brisk.mark("quick", Manner.QUICK)
    put_all(brisk, "a", "quick")
    brisk.give_back(Handful([(fire("c"), "active c"), (fire("quick", 1), "active quick")]))
    brisk.stir()

    def only_quick(lane):
        return lane is Manner.QUICK

    assert brisk.count(Manner.QUICK) == 3
    assert brisk.count(Manner.SLOW) == 1
    assert brisk.take(only_quick, goes_along).rest() == [(fire("c"), "active c")]
    brisk.pace(is_brisk=False)
    assert brisk.take(anything, goes_along).rest() == [(fire("quick", 1), "active quick")]
    assert not brisk.is_owed


def test_what_is_claimed_is_handed_out_when_the_queue_is_closed_and_nothing_else_is(brisk):
    put_all(brisk, "a")
    brisk.give_back(Handful([(fire("b"), "active")]))

    assert brisk.close() == 1

    assert brisk.is_owed
    assert brisk.take(anything, goes_along).rest() == [(fire("b"), "active")]
    assert brisk.take(anything, goes_along) == []
