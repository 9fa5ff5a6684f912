"""Who waits, and who is handed out first."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pulse.config import read_config
from pulse.errors import ClosedError
from pulse.missed import Missed, Rung
from pulse.model import Fire, Trigger
from pulse.schedule import schedule_of
from pulse.workers.handful import Handful
from pulse.workers.queue import FireQueue, Manner

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)


def fire(task: str, minute: int = 0) -> Fire:
    return Fire(task=task, due=NOON + timedelta(minutes=minute))


@pytest.fixture
def queue() -> FireQueue:
    return FireQueue()


def turns(queue: FireQueue, count: int) -> list[Fire]:
    """What is handed out one after the other, each when the turn of the one before is over."""
    taken = []
    for _ in range(count):
        (one,) = queue.get()
        taken.append(one)
        queue.over(one.task, one.run_id)
    return taken


EACH_MINUTE = schedule_of(read_config(tasks={"a": {"interval": 60}}).tasks["a"])


def missed(task: str, first: int, last: int) -> Missed:
    """The instants of a task that is due each minute."""
    return Missed(
        task,
        EACH_MINUTE,
        NOON + timedelta(minutes=first),
        NOON + timedelta(minutes=last),
        lambda due, _following, is_last: Fire(task=task, due=due, is_in_turn=True),
    )


def late(task: str, minute: int) -> Fire:
    return replace(fire(task, minute), is_in_turn=True)


def test_the_task_that_waits_longest_is_first(queue):
    for task in ("a", "b"):
        queue.put([Rung(fire(task), 1)])

    assert [queue.get(), queue.get()] == [[fire("a")], [fire("b")]]


def test_of_a_task_only_the_last_fires_wait(queue):
    for minute in range(5):
        queue.put([Rung(fire("a", minute), 2)])

    assert turns(queue, 2) == [fire("a", 3), fire("a", 4)]


def test_a_fire_that_had_to_wait_gives_way_to_a_later_one(queue):
    queue.put([Rung(fire("a", 2), 1)])

    queue.put_back(fire("a", 1), keep=1)

    assert queue.get() == [fire("a", 2)]


def test_a_fire_that_had_to_wait_comes_before_later_ones_where_there_is_room(queue):
    queue.put([Rung(fire("a", 2), 2)])

    queue.put_back(fire("a", 1), keep=2)

    assert turns(queue, 2) == [fire("a", 1), fire("a", 2)]


def test_quick_tasks_and_others_take_turns(queue):
    for task in ("a", "b", "quick 1", "quick 2"):
        queue.mark(task, Manner.QUICK if "quick" in task else Manner.SLOW)
        queue.put([Rung(fire(task), 1)])

    assert [queue.get()[0].task for _ in range(4)] == ["quick 1", "a", "quick 2", "b"]


@pytest.mark.parametrize("manner", [Manner.QUICK, Manner.SLOW, Manner.UNKNOWN])
def test_tasks_in_trouble_come_last(queue, manner):
    queue.mark("ok", manner)
    queue.mark("hangs", Manner.TROUBLED)
    for task in ("hangs", "ok"):
        queue.put([Rung(fire(task), 1)])

    assert [queue.get(), queue.get()] == [[fire("ok")], [fire("hangs")]]


def test_what_may_not_be_begun_now_is_passed_over(queue):
    queue.mark("hangs", Manner.TROUBLED)
    queue.mark("quick", Manner.QUICK)
    for task in ("hangs", "new", "quick"):
        queue.put([Rung(fire(task), 1)])

    assert queue.take(lambda lane: lane is Manner.SLOW) == [fire("new")]
    assert queue.take(lambda lane: lane is not Manner.QUICK) == [fire("hangs")]


def test_a_task_that_waits_goes_on_waiting_in_the_lane_that_fits_it_now(queue):
    queue.put([Rung(fire("a"), 1)])
    assert queue.count(Manner.QUICK, Manner.TROUBLED) == 0

    queue.mark("a", Manner.TROUBLED)

    assert (queue.count(Manner.TROUBLED), queue.count(Manner.SLOW)) == (1, 0)


def test_a_closed_queue_hands_out_and_takes_nothing(queue):
    queue.put([Rung(fire("a"), 1)])

    assert queue.close() == 1

    assert queue.get() == []
    queue.put_back(fire("a"), keep=1)
    with pytest.raises(ClosedError):
        queue.put([Rung(fire("a"), 1)])


# Several fires of one task


def test_the_next_fire_of_a_task_is_handed_out_when_the_turn_of_the_one_before_is_over(queue):
    for one in (fire("a", 1), fire("a", 2)):
        queue.put([Rung(one, 5)])
    queue.put([Rung(fire("b"), 1)])

    assert [queue.poll() for _ in range(3)] == [fire("a", 1), fire("b"), None]
    queue.put([Rung(fire("a", 3), 5)])
    assert queue.poll() is None

    queue.over("a", fire("a", 1).run_id)
    assert [queue.poll() for _ in range(2)] == [fire("a", 2), None]


def test_only_who_has_the_turn_may_end_it(queue):
    for one in (fire("a", 1), fire("a", 2)):
        queue.put([Rung(one, 5)])
    queue.poll()

    for run_id in ("another", fire("a", 2).run_id):
        queue.over("a", run_id)
    queue.over("b", fire("a", 1).run_id)
    queue.rest(fire("a", 2))

    assert queue.poll() is None
    assert not queue.is_resting


def test_a_single_fire_keeps_no_later_one_waiting(queue):
    queue.put([Rung(fire("a", 1), 1)])
    assert queue.poll() == fire("a", 1)

    queue.put([Rung(fire("a", 2), 1)])

    assert queue.poll() == fire("a", 2)


def test_what_was_missed_is_handed_out_in_order_and_only_the_last_of_it(queue):
    queue.put([Rung(missed("a", 1, 60), 3)])

    assert turns(queue, 3) == [late("a", 58), late("a", 59), late("a", 60)]
    assert queue.poll() is None


def test_those_that_catch_up_take_turns_with_each_other_and_with_those_that_do_not(queue):
    for task in ("late 1", "late 2"):
        queue.put([Rung(missed(task, 1, 3), 5)])
    for task in ("a", "b", "c"):
        queue.put([Rung(fire(task), 1)])

    assert [one.task for one in turns(queue, 9)] == ["a", "late 1", "b", "late 2", "c", "late 1", "late 2", "late 1", "late 2"]  # fmt: skip


def test_what_becomes_due_joins_what_is_caught_up_and_takes_the_place_of_the_oldest(queue):
    queue.put([Rung(missed("a", 1, 5), 3)])
    assert queue.poll() == late("a", 3)

    queue.put([Rung(fire("a", 6), 3)])
    queue.put([Rung(fire("a", 7), 3)])

    assert queue.poll() is None
    queue.over("a", fire("a", 3).run_id)
    assert turns(queue, 3) == [late("a", 5), late("a", 6), late("a", 7)]


def test_what_is_missed_while_others_are_caught_up_joins_them(queue):
    queue.put([Rung(missed("a", 1, 2), 9)])
    queue.put([Rung(missed("a", 3, 4), 9)])

    assert turns(queue, 4) == [late("a", minute) for minute in (1, 2, 3, 4)]


def test_a_fire_that_waits_goes_before_what_was_missed_behind_it(queue):
    queue.put([Rung(fire("a", 1), 9)])
    queue.put([Rung(missed("a", 2, 3), 9)])

    assert turns(queue, 3) == [fire("a", 1), late("a", 2), late("a", 3)]


def test_with_the_last_one_begun_what_becomes_due_waits_no_longer(queue):
    queue.put([Rung(missed("a", 1, 2), 9)])
    queue.poll()
    queue.begun("a", fire("a", 1).run_id)
    queue.put([Rung(fire("a", 3), 9)])
    assert queue.poll() is None

    queue.over("a", fire("a", 1).run_id)
    assert turns(queue, 1) == [late("a", 2)]
    assert queue.poll() == late("a", 3)
    queue.put([Rung(fire("a", 4), 9)])
    assert queue.poll() is None
    queue.over("a", fire("a", 3).run_id)
    assert queue.poll() == late("a", 4)

    queue.begun("a", fire("a", 4).run_id)
    queue.put([Rung(fire("a", 5), 9)])

    assert queue.poll() == fire("a", 5)


def attempt(task: str, minute: int) -> Fire:
    return replace(fire(task, minute), attempt=2, trigger=Trigger.RECOVER)


def test_a_further_attempt_goes_before_all_that_waits_however_much_that_is(queue):
    queue.put([Rung(missed("a", 2, 3), 2)])
    queue.put_back(attempt("a", 1), keep=2)
    queue.put_back(attempt("a", 1), keep=2)  # found in the store once more
    queue.put([Rung(missed("a", 4, 4), 2)])

    assert turns(queue, 3) == [attempt("a", 1), late("a", 3), late("a", 4)]
    assert queue.poll() is None


def test_what_has_to_be_asked_for_again_lets_a_further_attempt_go_first(queue):
    queue.put([Rung(missed("a", 2, 3), 2)])
    waits = queue.poll()
    queue.put_back(attempt("a", 1), keep=2)
    queue.rest(waits)
    queue.wake()

    assert turns(queue, 3) == [attempt("a", 1), waits, late("a", 3)]


def test_a_further_attempt_is_joined_by_nothing(queue):
    queue.put([Rung(fire("a", 1), 1)])
    queue.put_back(attempt("b", 1), keep=1)
    queue.put([Rung(fire("c", 1), 1)])

    assert [queue.take(joins=lambda one: one.attempt == 1) for _ in "abc"] == [
        [fire("a", 1)], [attempt("b", 1)], [fire("c", 1)],
    ]  # fmt: skip


def test_where_runs_may_overlap_the_next_one_does_not_wait_for_the_end(queue):
    queue.put([Rung(missed("a", 1, 2), 9)])
    queue.poll()
    assert queue.poll() is None

    queue.begun("a", fire("a", 1).run_id, may_overlap=True)
    assert queue.poll() == late("a", 2)
    queue.over("a", fire("a", 1).run_id)  # its end is not that of the one behind it
    queue.put([Rung(fire("a", 3), 9)])

    assert queue.poll() is None


def test_what_has_to_be_asked_for_again_keeps_those_behind_it_waiting_until_it_is_woken(queue):
    queue.put([Rung(missed("a", 1, 3), 9)])
    first = queue.poll()

    queue.rest(first)
    queue.over("a", first.run_id)
    queue.put([Rung(fire("a", 4), 9)])
    assert queue.is_resting
    assert queue.poll() is None

    queue.wake()
    assert not queue.is_resting
    assert turns(queue, 4) == [late("a", minute) for minute in (1, 2, 3, 4)]
    queue.wake()
    assert queue.poll() is None


def test_a_further_attempt_goes_before_what_is_caught_up_and_waits_for_the_turn(queue):
    queue.put([Rung(missed("a", 2, 3), 9)])
    queue.poll()

    queue.put_back(fire("a", 1), keep=9)
    assert queue.poll() is None
    queue.over("a", fire("a", 2).run_id)

    assert turns(queue, 2) == [fire("a", 1), late("a", 3)]


def test_a_task_that_catches_up_goes_on_in_the_lane_that_fits_it_now(queue):
    queue.put([Rung(missed("a", 1, 3), 9)])
    queue.mark("a", Manner.TROUBLED)
    assert (queue.count(Manner.TROUBLED), queue.count(Manner.SLOW)) == (1, 0)
    queue.poll()
    queue.mark("a", Manner.QUICK)

    queue.over("a", fire("a", 1).run_id)

    assert (queue.count(Manner.TROUBLED), queue.count(Manner.QUICK)) == (0, 1)


def test_all_that_waits_is_counted_when_the_queue_is_closed(queue):
    for task in ("waits", "runs", "rests"):
        queue.put([Rung(missed(task, 1, 10), 5)])
    for task in ("waits", "runs", "rests"):
        assert queue.poll().task == task
    queue.over("waits", fire("waits", 6).run_id)
    queue.rest(fire("rests", 6))

    assert queue.close() == 4 + 4 + 5
    queue.over("runs", fire("runs", 6).run_id)
    queue.wake()
    assert queue.get() == []


# Several tasks in one hand

HAND = 3


@pytest.fixture
def brisk(queue, monkeypatch) -> FireQueue:
    monkeypatch.setattr("pulse.workers.queue.HANDFUL", HAND)
    queue.pace(is_brisk=True)
    return queue


def put_all(queue: FireQueue, *tasks: str) -> None:
    for task in tasks:
        queue.put([Rung(fire(task), 1)])


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
    for one in (fire("b", 1), fire("b", 2)):
        brisk.put([Rung(one, 2)])

    assert [brisk.take(anything, goes_along) for _ in range(2)] == [[fire("a")], [fire("b", 1)]]
    brisk.over("b", fire("b", 1).run_id)
    put_all(brisk, "c")
    assert brisk.take(anything, goes_along) == [fire("b", 2), fire("c")]


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
