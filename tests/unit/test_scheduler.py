"""Due instants become fires: once each, in order, and never a flood."""

from datetime import UTC, datetime, timedelta

import pytest

from pulse.config import read_config
from pulse.errors import ClosedError
from pulse.missed import Missed
from pulse.model import Fire, Trigger
from pulse.schedule import schedule_of
from pulse.scheduler import AT_ONCE, FROZEN, MOST_REST, NAP, WAKING, Scheduler, _Heap
from pulse.testing import ManualClock

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)


class Bench:
    """A scheduler whose timer is the test."""

    def __init__(self, start: datetime = NOON, cursor: datetime | None = None, **tasks) -> None:
        self.clock = ManualClock(start)
        self.fires: list[Fire] = []
        self.keep: dict[str, int] = {}
        self.missed: list[Missed] = []
        known = read_config(tasks=tasks).tasks
        self.scheduler = Scheduler(
            known, {name: schedule_of(task) for name, task in known.items()}, submit=self._submit, clock=self.clock
        )
        self.scheduler.plan(dict.fromkeys(known, cursor or start))

    def _submit(self, rung) -> None:
        for due, keep in rung:
            if isinstance(due, Missed):
                self.missed.append(due)
                self.keep[due.task] = keep
            else:
                self.fires.append(due)

    def pass_time(self, seconds: float) -> list[tuple[str, int]]:
        """Let time pass, ring once, and return what was newly fired: task, seconds after noon."""
        self.clock.advance(seconds)
        return self.ring()

    def ring(self) -> list[tuple[str, int]]:
        before = len(self.fires)
        self.scheduler.ring()
        return [(fire.task, round((fire.due - NOON).total_seconds())) for fire in self.fires[before:]]


def test_nothing_is_fired_before_it_is_due():
    bench = Bench(a={"interval": 60})

    assert bench.ring() == []
    assert bench.pass_time(59.9) == []
    assert bench.pass_time(0.1) == [("a", 60)]
    assert bench.ring() == []


def test_an_interval_does_not_drift_with_late_rings():
    bench = Bench(a={"interval": 10})

    assert [bench.pass_time(13), bench.pass_time(8), bench.pass_time(9)] == [[("a", 10)], [("a", 20)], [("a", 30)]]


def test_tasks_ring_independently():
    bench = Bench(a={"interval": 10}, b={"interval": 15}, c={"cron": "*/1 * * * *"})

    fired = [item for _ in range(60) for item in bench.pass_time(1)]

    assert fired == [("a", 10), ("b", 15), ("a", 20), ("a", 30), ("b", 30), ("a", 40), ("b", 45), ("a", 50), ("a", 60),
                     ("b", 60), ("c", 60)]  # fmt: skip


def test_a_task_by_hand_never_rings():
    bench = Bench(a={"cron": "@manually"})

    assert bench.pass_time(10**8) == []
    assert bench.scheduler.next_ring() is None


def test_many_missed_instants_are_one_fire_for_the_last():
    bench = Bench(a={"interval": 10})

    assert bench.pass_time(3605) == [("a", 3600)]
    assert bench.fires[0].trigger is Trigger.SCHEDULE
    assert bench.pass_time(5) == [("a", 3610)]


def test_a_sleep_of_years_costs_no_time():
    bench = Bench(a={"interval": 0.1}, b={"cron": "* * * * * *", "coalesce": False})

    fired = bench.pass_time(timedelta(days=3 * 366).total_seconds())

    assert len(fired) == 1
    assert [len(missed) for missed in bench.missed] == [3 * 366 * 86_400]


def test_without_coalesce_all_missed_instants_are_handed_over_and_none_is_fired_by_the_ring():
    bench = Bench(a={"interval": 10, "coalesce": False, "catchup_limit": 3, "misfire_grace_time": "none"})

    assert bench.pass_time(65) == []

    (missed,) = bench.missed
    fires = [missed.pop() for _ in range(len(missed))]
    assert [(fire.due - NOON).seconds for fire in fires] == [10, 20, 30, 40, 50, 60]
    assert [fire.trigger for fire in fires] == [Trigger.CATCHUP] * 5 + [Trigger.SCHEDULE]
    assert all(fire.is_in_turn and fire.latest is None for fire in fires)
    assert bench.keep == {"a": 3}
    assert bench.pass_time(5) == [("a", 70)]
    assert not bench.fires[-1].is_in_turn


@pytest.mark.parametrize(("late", "is_missed"), [(0, False), (0.9, False), (1.1, True), (9, True)])
def test_a_single_instant_is_caught_up_if_it_is_late_without_coalesce(late, is_missed):
    bench = Bench(a={"interval": 10, "coalesce": False})

    fired = bench.pass_time(10 + late)

    assert (fired, len(bench.missed)) == (([], 1) if is_missed else ([("a", 10)], 0))


def test_missed_instants_wait_until_the_jitter_of_the_last_one_has_passed():
    bench = Bench(a={"interval": 60, "jitter": 59, "coalesce": False, "misfire_grace_time": "none"})

    bench.pass_time(600)
    bench.pass_time(59)

    dues = [missed.pop().due for missed in bench.missed for _ in range(len(missed))]
    assert len(bench.missed) == 2
    assert dues == [NOON + minute * timedelta(minutes=1) for minute in range(1, 11)]


def test_who_is_on_time_rings_first_and_of_those_that_are_late_a_bounded_number_rings_at_once():
    late = {f"late{number}": {"interval": 3600} for number in range(2 * AT_ONCE + 1)}
    bench = Bench(**late, prompt={"interval": 3600, "offset": 60})
    bench.pass_time(60)
    bench.clock.advance(3600)

    rung = [bench.ring() for _ in range(4)]

    assert rung[0][0] == ("prompt", 3660)
    assert [len(tasks) for tasks in rung] == [1 + AT_ONCE, AT_ONCE, 1, 0]


def test_what_becomes_due_rings_before_those_that_are_still_late():
    late = {f"late{number}": {"interval": 3600} for number in range(2 * AT_ONCE)}
    bench = Bench(**late, soon={"interval": 7200, "offset": 3661})
    bench.pass_time(3660)

    assert bench.pass_time(1)[0] == ("soon", 3661)
    assert len(bench.fires) == 2 * AT_ONCE + 1


def test_a_ring_with_which_not_all_that_are_late_have_rung_is_followed_by_another_one_at_once():
    bench = Bench(**{f"late{number}": {"interval": 60} for number in range(AT_ONCE + 1)})
    bench.clock.advance(90)

    assert ask(bench) == MOST_REST
    assert len(bench.fires) == AT_ONCE
    assert ask(bench) > timedelta(seconds=5)
    assert len(bench.fires) == AT_ONCE + 1


def test_what_became_due_since_the_cursor_is_fired_at_the_start():
    bench = Bench(cursor=NOON - timedelta(seconds=25), a={"interval": 10})

    assert bench.ring() == [("a", 0)]


@pytest.mark.parametrize(
    ("grace", "latest"), [("auto", 120), ("30s", 90), ("none", None)]
)  # fmt: skip
def test_a_fire_says_until_when_it_is_useful(grace, latest):
    bench = Bench(a={"interval": 60, "misfire_grace_time": grace})

    bench.pass_time(60)

    assert bench.fires[0].latest == (None if latest is None else NOON + timedelta(seconds=latest))


def test_jitter_delays_the_ring_and_not_the_due_instant():
    bench = Bench(a={"interval": 60, "jitter": 50})

    fired = [(second, due) for second in range(1, 601) for _, due in bench.pass_time(1)]

    assert [due for _, due in fired] == [60 * minute for minute in range(1, len(fired) + 1)]
    delays = [second - due for second, due in fired]
    assert len(fired) >= 9
    assert max(delays) <= 51
    assert len(set(delays)) > 3


def test_jitter_holds_for_late_rings_too():
    bench = Bench(a={"interval": 60, "jitter": 59})

    fired = bench.pass_time(600)

    assert fired in ([("a", 600)], [("a", 540)])
    assert bench.pass_time(59) == ([] if fired == [("a", 600)] else [("a", 600)])


def test_the_wall_clock_stepping_ahead_gives_one_run():
    bench = Bench(a={"interval": 10})

    bench.clock.step(90)

    assert bench.ring() == [("a", 90)]


def test_the_wall_clock_stepping_back_gives_none_twice(caplog):
    bench = Bench(a={"interval": 10})
    bench.pass_time(20)

    bench.clock.step(-15)

    assert bench.ring() == []
    assert [record.pulse_event for record in caplog.records] == ["clock_set_back"]
    assert bench.pass_time(15) == []
    assert bench.pass_time(10) == [("a", 30)]


def test_what_was_planned_by_a_clock_that_was_ahead_is_planned_again_from_what_was_given_out():
    bench = Bench(a={"interval": 10}, daily={"cron": "30 12 * * *"}, once={"at": "2027-05-01T12:40Z"})
    bench.pass_time(10)
    bench.clock.step(3600)
    assert sorted(bench.ring()) == [("a", 3610), ("daily", 1800), ("once", 2400)]
    bench.clock.step(-3600)

    bench.scheduler.plan_again({"a": NOON + timedelta(seconds=10), "daily": NOON, "once": NOON})

    assert bench.pass_time(10) == [("a", 20)]
    assert sorted(bench.pass_time(1780)) == [("a", 1800), ("daily", 1800)]
    assert sorted(bench.pass_time(600)) == [("a", 2400), ("once", 2400)]
    assert bench.ring() == []


def test_what_has_run_or_is_caught_up_is_not_planned_again():
    bench = Bench(a={"interval": 10}, b={"interval": 10, "coalesce": False}, once={"at": "2027-05-01T12:00:30Z"})
    bench.clock.step(100)
    bench.ring()
    assert len(bench.missed) == 1

    bench.scheduler.plan_again({"a": NOON + timedelta(seconds=100), "b": NOON, "once": NOON + timedelta(seconds=30)})

    assert bench.ring() == []
    assert len(bench.missed) == 1
    assert sorted(bench.pass_time(10)) == [("a", 110), ("b", 110)]


def test_who_is_late_keeps_its_turn_when_all_is_planned_again():
    bench = Bench(**{f"task{number}": {"interval": 10} for number in range(AT_ONCE + 5)})
    bench.clock.step(15)
    assert len(bench.ring()) == AT_ONCE

    bench.scheduler.plan_again(dict.fromkeys(bench.scheduler._tasks, NOON))

    assert len(bench.ring()) == 5
    assert bench.ring() == []


def test_a_task_that_cannot_be_submitted_silences_no_other(caplog):
    bench = Bench(a={"interval": 10}, b={"interval": 10})
    submit, bench.scheduler._submit = bench.scheduler._submit, lambda rung: 1 / 0

    bench.pass_time(10)
    bench.scheduler._submit = submit

    assert {record.pulse_event for record in caplog.records} == {"ring_failed"}
    assert sorted(bench.pass_time(10)) == [("a", 20), ("b", 20)]
    assert sorted(bench.pass_time(10)) == [("a", 30), ("b", 30)]


def test_tasks_that_ring_at_once_are_handed_over_a_hundred_at_a_time():
    bench = Bench(**{f"t{number}": {"interval": 60} for number in range(2 * AT_ONCE + 1)})
    handed, submit = [], bench.scheduler._submit
    bench.scheduler._submit = lambda rung: (handed.append(len(rung)), submit(rung))

    assert len(bench.pass_time(60)) == 2 * AT_ONCE + 1

    assert handed == [AT_ONCE, AT_ONCE, 1]


def test_what_cannot_be_handed_over_keeps_nothing_else_from_ringing(caplog):
    bench = Bench(**{f"t{number}": {"interval": 60} for number in range(2 * AT_ONCE)})
    refused = iter([True])

    def submit(rung, submit=bench.scheduler._submit):
        if next(refused, False):
            raise ZeroDivisionError
        submit(rung)

    bench.scheduler._submit = submit

    assert len(bench.pass_time(60)) == AT_ONCE
    assert [record.pulse_event for record in caplog.records] == ["ring_failed"]
    assert len(bench.pass_time(60)) == 2 * AT_ONCE


def test_a_log_that_is_broken_takes_no_task_from_the_plan(monkeypatch):
    bench = Bench(a={"interval": 10}, b={"interval": 10})
    submit, bench.scheduler._submit = bench.scheduler._submit, lambda rung: 1 / 0
    monkeypatch.setattr("pulse.scheduler.log.error", lambda *said, **more: 1 / 0)

    bench.pass_time(10)
    bench.scheduler._submit = submit

    assert sorted(bench.pass_time(10)) == [("a", 20), ("b", 20)]


def test_a_log_that_is_broken_keeps_nothing_from_ringing_when_the_clock_was_set_back(monkeypatch):
    bench = Bench(a={"interval": 10})
    bench.pass_time(9)
    monkeypatch.setattr("pulse.scheduler.log.warning", lambda *said, **more: 1 / 0)

    bench.clock.step(-5)
    bench.scheduler.ring()

    assert bench.pass_time(6) == [("a", 10)]


def test_closed_workers_end_the_ring_in_silence(caplog):
    bench = Bench(a={"interval": 10})

    def closed(rung):
        raise ClosedError("closed")

    bench.scheduler._submit = closed
    bench.pass_time(10)

    assert caplog.records == []


def test_ten_thousand_tasks_are_planned_and_fired_once_each():
    bench = Bench(**{f"t{number}": {"interval": 60} for number in range(10_000)})

    fired = bench.pass_time(60)

    assert len(fired) == len({task for task, _ in fired}) == 10_000
    assert bench.scheduler.next_ring() == NOON + timedelta(seconds=120)


# What APScheduler asks

AHEAD = timedelta(hours=3)  # of the fleet's clock is that of the machine


def ask(bench: Bench) -> timedelta:
    """Have APScheduler's round ring; how long it is to sleep then."""
    heap, now = _Heap(bench.scheduler, bench.clock), bench.clock.now() + AHEAD
    assert heap.get_due_jobs(now) == []
    return heap.get_next_run_time() - now


def test_the_timer_sleeps_until_the_next_instant_by_whatever_clock_it_has():
    bench = Bench(a={"interval": 8})

    assert ask(bench) == timedelta(seconds=8)


def test_the_timer_never_sleeps_longer_than_a_nap():
    assert ask(Bench(a={"interval": 3600})) == NAP
    assert ask(Bench(a={"cron": "@manually"})) == NAP


def test_who_was_frozen_rings_a_moment_later_when_those_who_hold_a_run_have_said_so():
    bench = Bench(a={"interval": 20})
    heap = _Heap(bench.scheduler, bench.clock)
    heap.get_due_jobs(bench.clock.now())
    bench.clock.advance(FROZEN)

    heap.get_due_jobs(bench.clock.now())

    assert bench.fires == []
    assert heap.get_next_run_time() - bench.clock.now() == WAKING
    bench.clock.advance(WAKING)
    heap.get_due_jobs(bench.clock.now())
    assert [fire.task for fire in bench.fires] == ["a"]


def test_who_only_napped_rings_at_once():
    bench = Bench(a={"interval": 19})
    heap = _Heap(bench.scheduler, bench.clock)
    heap.get_due_jobs(bench.clock.now())
    bench.clock.advance(19)

    heap.get_due_jobs(bench.clock.now())

    assert [fire.task for fire in bench.fires] == ["a"]


@pytest.mark.parametrize(("count", "rest"), [(1, 2), (2, 2), (4, 4), (5, 5), (100, 5)])
def test_the_timer_rests_the_longer_the_more_has_rung(count, rest):
    due = {f"task{number}": {"interval": 60} for number in range(count)}
    bench = Bench(**due, next={"interval": 60, "offset": 0.0001})
    assert bench.pass_time(1) == [("next", 0)]
    bench.clock.advance(59)

    assert ask(bench) == timedelta(milliseconds=rest)
    assert len(bench.fires) == 1 + count


def test_what_is_due_later_than_the_rest_is_waited_for():
    bench = Bench(**{f"task{number}": {"interval": 60} for number in range(9)}, next={"interval": 60, "offset": 0.02})
    assert bench.pass_time(1) == [("next", 0)]
    bench.clock.advance(59)

    assert ask(bench) == timedelta(milliseconds=20)
