"""The heart: claim, dispatch, finish, and what happens when one of them goes wrong."""

import logging
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from bench import Recorder

from pulse.config import read_config
from pulse.control import Control
from pulse.dispatch import Reply
from pulse.errors import StoreUnavailableError
from pulse.model import Fire, Limits, Outcome, Progress, Run, Trigger
from pulse.runner import Runner
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import schedule_of
from pulse.testing import ManualClock
from pulse.underway import Active, UnderWay

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)


class Bench:
    """A runner of every-minute tasks, of one if no *names* are given, which `self.during` sees and `self.reply` ends."""

    def __init__(self, *, store=None, clock=None, fleet=None, names="a", **task) -> None:
        self.clock = clock or ManualClock(NOON)
        self.store = store or MemoryRunStore()
        self.store.register(list(names), NOON)
        self.records: list[Run] = []
        self.reply = Reply(outcome=Outcome.SUCCESS, status=200, duration=0.5, body=b"ok")
        self.during = lambda run, cancelled: None
        tasks = read_config(tasks={name: {"interval": 60, **task} for name in names}).tasks
        schedules = {name: schedule_of(task) for name, task in tasks.items()}
        self.runner = Runner(
            tasks, schedules, store=self.store, dispatch=self._dispatch, clock=self.clock,
            owner="here:1", lease=timedelta(seconds=30), fleet=fleet, hears=[Recorder(self.records)],
        )  # fmt: skip

    def _dispatch(self, task, run, cancelled) -> Reply:
        self.during(run, cancelled)
        return self.reply

    def fire(self, minute: int = 1, **more) -> Fire:
        due = NOON + timedelta(minutes=minute)
        if self.clock.now() < due:
            self.clock.advance(due - self.clock.now())
        return Fire(task="a", due=due, **more)


class Clocked(MemoryRunStore):
    """A store with a clock of its own, that nobody sets."""

    def __init__(self, clock) -> None:
        super().__init__()
        self._seconds = clock.monotonic
        self._began = NOON - timedelta(seconds=clock.monotonic())

    def _is_early(self, fire, now) -> bool:
        return fire.due > self._began + timedelta(seconds=self._seconds())


def test_a_won_fire_is_dispatched_and_recorded():
    bench = Bench()

    run = bench.runner.run(bench.fire())

    assert (run.outcome, run.status, run.duration, run.body, run.owner) == (Outcome.SUCCESS, 200, 0.5, b"ok", "here:1")
    assert (run.due, run.lateness) == (NOON + timedelta(minutes=1), timedelta(0))
    assert bench.store.history("a") == [run] == bench.records
    assert bench.store.running() == []


def test_the_record_has_all_that_the_claim_had_and_all_that_the_reply_says():
    bench = Bench()
    said = {
        "reason": "answered 503", "result": "swept 3", "status": 503, "duration": 0.25, "body": b"busy",
        "errors": b"oh", "request": "GET /a", "headers": "Server: x", "log": b"line",
    }  # fmt: skip
    reply = Reply(outcome=Outcome.FAILED, **said)
    minute = timedelta(minutes=1)
    held = Run(
        id="a" * 32, task="a", due=NOON, trigger=Trigger.CATCHUP, attempt=3, owner="here:1", started=NOON + minute,
        expires=NOON + 2 * minute, place="there", recovers=True, lock="printer", stop="enough",
        progress=Progress(done=1, total=2),
    )  # fmt: skip
    assert all(getattr(held, one.name) != one.default for one in fields(Run) if one.name not in _ENDED)

    ended = bench.runner._judged(Active(bench.runner._tasks["a"], held, Control(), None, None), reply)

    assert ended == replace(held, finished=bench.clock.now(), outcome=Outcome.FAILED, **said)


_ENDED = {*Reply._fields, "finished", "first_due", "count", "again_at"}  # no run that is held has these


def test_a_fire_that_somebody_has_taken_is_not_dispatched():
    bench = Bench()
    fire = bench.fire()
    bench.runner.run(fire)
    bench.during = lambda run, cancelled: pytest.fail("dispatched twice")

    assert bench.runner.run(fire) is None


def test_an_attempt_by_hand_that_somebody_else_has_made_is_not_dispatched_and_the_log_says_so(caplog):
    caplog.set_level(logging.INFO)
    bench = Bench()
    bench.reply = Reply(outcome=Outcome.FAILED, status=500)
    failed = bench.runner.run(bench.fire())
    again = Fire(task="a", due=failed.due, trigger=Trigger.MANUAL, run_id=failed.id, attempt=2)
    bench.runner.run(again)
    bench.during = lambda run, cancelled: pytest.fail("dispatched twice")

    assert bench.runner.run(again) is None

    assert [run.attempt for run in bench.store.history("a")] == [2, 1]
    assert caplog.records[-1].pulse_event == "attempt_taken"
    assert "somebody else has made attempt 2 of it" in caplog.text


def test_the_reply_of_a_failure_is_in_the_record_and_its_traceback_in_the_log(caplog):
    bench = Bench()
    bench.reply = Reply(outcome=Outcome.FAILED, reason="ValueError: x", errors=b"Trace", traceback="Traceback...\n")

    run = bench.runner.run(bench.fire())

    assert (run.outcome, run.reason, run.errors) == (Outcome.FAILED, "ValueError: x", b"Trace")
    assert [record.pulse_event for record in caplog.records] == ["run_finished", "raised"]
    assert "Traceback..." in caplog.text


def test_what_a_claim_passed_over_is_counted_by_the_schedule():
    bench = Bench()

    bench.runner.run(bench.fire(5))

    missed = bench.records[0]
    assert (missed.outcome, missed.count) == (Outcome.MISSED, 4)
    assert (missed.first_due, missed.due) == (NOON + timedelta(minutes=1), NOON + timedelta(minutes=4))


def test_a_fire_that_comes_too_late_is_recorded_as_missed_and_not_dispatched():
    bench = Bench()
    fire = bench.fire(1, latest=NOON + timedelta(seconds=90))
    bench.clock.advance(31)
    bench.during = lambda run, cancelled: pytest.fail("dispatched too late")

    run = bench.runner.run(fire)

    assert run.outcome is Outcome.MISSED
    assert bench.records == [run]


def test_lateness_is_judged_again_after_a_claim_that_blocked():
    bench = Bench()
    claim = bench.store.claim

    def slow_claim(*args, **kwargs):
        claimed = claim(*args, **kwargs)
        bench.clock.advance(300)
        return claimed

    bench.store.claim = slow_claim
    bench.during = lambda run, cancelled: pytest.fail("dispatched too late")

    run = bench.runner.run(bench.fire(1, latest=NOON + timedelta(seconds=90)))

    assert (run.outcome, run.reason) == (Outcome.MISSED, "the claim came back too late")
    assert bench.store.history("a") == [run]


def test_what_is_claimed_together_and_comes_back_too_late_is_recorded_together():
    bench = Bench(names="ab")
    claim_all, finish_all, finished = bench.store.claim_all, bench.store.finish_all, []

    def slow_claim(bids, **terms):
        claimed = claim_all(bids, **terms)
        bench.clock.advance(300)
        return claimed

    bench.store.claim_all = slow_claim
    bench.store.finish_all = lambda runs: finished.append([run.task for run in runs]) or finish_all(runs)
    latest = NOON + timedelta(seconds=90)
    fires = [replace(bench.fire(1, latest=latest), task=task, run_id=task) for task in "ab"]

    assert bench.runner.claims.claim_all(fires) == []

    assert finished == [["a", "b"]]
    assert [(run.task, run.reason) for run in bench.records] == [
        ("a", "the claim came back too late"), ("b", "the claim came back too late"),
    ]  # fmt: skip
    assert bench.store.running() == []


def freeze_behind(bench: Bench, step: str, seconds: float = 31, meanwhile=lambda: None) -> None:
    """Have the process freeze when the store has taken that step, and before it is told so."""
    taken = getattr(bench.store, step)

    def freeze(*args, **kwargs):
        answer = taken(*args, **kwargs)
        bench.clock.advance(seconds)
        meanwhile()
        return answer

    setattr(bench.store, step, freeze)


def test_a_run_whose_lease_ended_before_its_claim_came_back_is_not_begun():
    bench = Bench()
    freeze_behind(bench, "claim")
    bench.during = lambda run, cancelled: pytest.fail("dispatched without a lease")

    run = bench.runner.run(bench.fire())

    assert (run.outcome, run.started, run.reason) == (Outcome.MISSED, None, "its lease ended before it could begin")
    assert bench.store.history("a") == [run] == bench.records
    assert bench.store.running() == bench.store.waiting() == []


def test_a_run_that_was_found_lost_before_its_claim_came_back_is_not_begun():
    bench = Bench()
    freeze_behind(bench, "claim", meanwhile=lambda: bench.store.reap(bench.clock.now()))
    bench.during = lambda run, cancelled: pytest.fail("dispatched without a lease")

    assert bench.runner.run(bench.fire()) is None

    assert [run.outcome for run in bench.store.history("a")] == [Outcome.LOST]


def test_a_further_attempt_whose_lease_ended_before_it_was_ours_is_not_begun():
    bench = Bench(recover=True)
    claim = {"owner": "gone:1", "lease": timedelta(seconds=30), "passed": lambda cursor: None}
    bench.store.claim(bench.fire(), now=bench.clock.now(), limits=Limits(recovers=True), **claim)
    bench.clock.advance(31)
    bench.runner.upkeep.renew()
    (again,) = bench.runner.due_again()
    freeze_behind(bench, "adopt")
    bench.during = lambda run, cancelled: pytest.fail("dispatched without a lease")

    assert bench.runner.run(again).outcome is Outcome.MISSED

    assert [run.attempt for run in bench.store.waiting()] == [3]


@pytest.mark.parametrize("latest", [None, NOON + timedelta(seconds=65)])
def test_what_recovers_and_could_not_begin_in_time_waits_for_another_process(latest):
    bench = Bench(recover=True)
    freeze_behind(bench, "claim")
    bench.during = lambda run, cancelled: pytest.fail("dispatched too late")

    run = bench.runner.run(bench.fire(latest=latest))

    (waiting,) = bench.store.waiting()
    assert run.outcome is Outcome.MISSED
    assert (waiting.id, waiting.attempt, waiting.trigger) == (run.id, 2, Trigger.RECOVER)


def test_what_recovers_and_has_not_begun_when_the_process_ends_waits_for_another_one():
    bench = Bench(recover=True)
    freeze_behind(bench, "claim", seconds=0, meanwhile=bench.runner.upkeep.cancel)
    bench.during = lambda run, cancelled: pytest.fail("dispatched at the end")

    bench.runner.run(bench.fire())

    assert [(run.outcome, run.reason) for run in bench.store.history("a")] == [
        (Outcome.MISSED, "it had not begun: the process ends"),
    ]  # fmt: skip
    assert [(run.attempt, run.trigger) for run in bench.store.waiting()] == [(2, Trigger.RECOVER)]


def test_leases_are_renewed_while_a_run_lasts():
    bench = Bench()

    def renew_for_an_hour(run, cancelled):
        for _ in range(360):
            bench.clock.advance(10)
            bench.runner.upkeep.renew()

    bench.during = renew_for_an_hour

    assert bench.runner.run(bench.fire()).outcome is Outcome.SUCCESS


def jump(clock: ManualClock) -> None:
    """The machine is suspended for longer than a lease, or its clock set ahead by more."""
    clock.step(120)


def freeze(clock: ManualClock) -> None:
    """The process stands still for longer than a lease."""
    clock.advance(120)


@pytest.mark.parametrize("happening", [jump, freeze])
@pytest.mark.parametrize("is_together", [False, True])
def test_a_claim_does_not_find_a_run_lost_that_is_under_way_in_this_very_process(happening, is_together):
    bench = Bench()
    seen = []

    def ask_for_the_next_one(run, cancelled):
        bench.during = lambda run, cancelled: pytest.fail("begun beside the one before")
        happening(bench.clock)
        if is_together:
            assert bench.runner.claims.claim_all([bench.fire(2)]) == []
        else:
            seen.append(bench.runner.run(bench.fire(2)))

    bench.during = ask_for_the_next_one

    record = bench.runner.run(bench.fire())

    assert record.outcome is Outcome.SUCCESS
    assert [run.outcome for run in bench.store.history("a")] == [Outcome.SUCCESS, Outcome.SKIPPED]
    assert [run.reason for run in seen] == ["the task is still running"][: len(seen)]


def test_a_process_whose_run_was_found_lost_while_it_was_frozen_runs_the_next_instant():
    bench = Bench()
    seen = []

    def wake_up_too_late(run, cancelled):
        bench.during = lambda run, cancelled: None
        freeze(bench.clock)
        bench.store.reap(bench.clock.now())
        seen.append(bench.runner.run(bench.fire(2)))

    bench.during = wake_up_too_late

    assert bench.runner.run(bench.fire()) is None

    assert [run.outcome for run in seen] == [Outcome.SUCCESS]
    assert [run.outcome for run in bench.store.history("a")] == [Outcome.SUCCESS, Outcome.LOST]


def test_a_run_that_a_claim_finds_lost_is_not_recovered_beside_itself_while_it_is_under_way_here():
    bench = Bench(recover=True)
    seen = []

    def ask_for_the_next_one(run, cancelled):
        bench.store._judged_at = lambda now: now + timedelta(seconds=31)  # the store has a clock of its own
        bench.runner.claim(bench.fire(2))
        seen.extend(run.attempt for run in bench.store.waiting())
        seen.extend(bench.runner.due_again())

    bench.during = ask_for_the_next_one

    assert bench.runner.run(bench.fire()) is None
    bench.clock.advance(31)
    bench.runner.upkeep.renew()

    assert seen == [2]
    assert [fire.attempt for fire in bench.runner.due_again() if fire.trigger is Trigger.RECOVER] == [2]


def test_leases_that_last_are_not_renewed_for_a_claim():
    bench = Bench(max_instances=100)
    renewed = []
    renew, bench.store.renew = bench.store.renew, lambda runs, until: renewed.append(until) or renew(runs, until)

    def ask_for_others(run, cancelled):
        bench.during = lambda run, cancelled: bench.clock.advance(1)
        for minute in range(2, 30):
            bench.runner.run(bench.fire(minute, trigger=Trigger.MANUAL, run_id=f"byhand{minute}"))

    for minute in (100, 200):
        bench.during = ask_for_others
        bench.runner.run(bench.fire(minute))

    assert renewed == []


def test_a_runner_that_lost_its_lease_records_nothing(caplog):
    bench = Bench()
    bench.during = lambda run, cancelled: bench.store.reap(NOON + timedelta(hours=1))

    assert bench.runner.run(bench.fire()) is None

    assert [run.outcome for run in bench.store.history("a")] == [Outcome.LOST]
    assert [record.pulse_event for record in caplog.records] == ["lease_lost"]


def test_that_a_run_lost_its_lease_is_said_once_however_long_it_goes_on(caplog):
    bench = Bench()
    seen = []

    def go_on_for_an_hour(run, cancelled):
        bench.store.reap(NOON + timedelta(hours=1))
        for _ in range(360):
            bench.clock.advance(10)
            bench.runner.upkeep.renew()
        seen.extend(record.pulse_event for record in caplog.records)

    bench.during = go_on_for_an_hour

    bench.runner.run(bench.fire())

    assert seen == ["lease_lost"]


def doze(clock: ManualClock) -> None:
    """The process stands still for a while in which some leases end."""
    clock.advance(22)


@pytest.mark.parametrize("happening", [jump, freeze, doze])
def test_who_wakes_up_with_all_others_leaves_them_time_to_say_that_they_live(happening):
    bench = Bench()
    other = Bench(store=bench.store, clock=bench.clock)

    def freeze_together(run, cancelled):
        bench.clock.advance(9)
        other.runner.upkeep.renew()
        happening(bench.clock)
        other.runner.upkeep.renew()
        bench.runner.upkeep.renew()
        for _ in range(4):
            bench.clock.advance(10)
            bench.runner.upkeep.renew()
            other.runner.upkeep.renew()

    bench.during = freeze_together

    assert bench.runner.run(bench.fire()).outcome is Outcome.SUCCESS
    assert other.records == []


@pytest.mark.parametrize("happening", [jump, freeze, doze])
def test_who_holds_a_run_renews_it_by_the_next_look_behind_a_freeze_and_not_at_its_next_beat(happening):
    bench = Bench()
    other = Bench(store=bench.store, clock=bench.clock)
    seen = []

    def freeze_together(run, cancelled):
        bench.clock.advance(9)
        happening(bench.clock)
        bench.runner.upkeep.report()
        seen.append(other.runner.run(other.fire(2)))

    bench.during = freeze_together

    assert bench.runner.run(bench.fire()).outcome is Outcome.SUCCESS
    assert [run.outcome for run in seen] == [Outcome.SKIPPED]


def test_leases_that_last_are_not_renewed_by_a_look():
    bench = Bench()
    renewed = []
    renew, bench.store.renew = bench.store.renew, lambda runs, until: renewed.append(until) or renew(runs, until)

    def last_for_a_lease(run, cancelled):
        for _ in range(30):
            bench.clock.advance(1)
            bench.runner.upkeep.report()

    bench.during = last_for_a_lease

    bench.runner.run(bench.fire())

    assert renewed == []


def test_who_does_not_say_so_by_the_next_beat_is_found_lost():
    bench = Bench()
    bench.runner.upkeep.renew()
    die_in_a_run(bench, 1)

    seen = []
    for _ in range(2):
        bench.runner.upkeep.renew()
        seen.append([run.outcome for run in bench.records])
        bench.clock.advance(10)

    assert seen == [[], [Outcome.LOST]]


def test_a_process_whose_beats_are_always_late_looks_for_the_lost_runs_of_others_all_the_same():
    bench = Bench()
    bench.runner.upkeep.renew()
    die_in_a_run(bench, 1)

    for _ in range(2):
        bench.clock.advance(25)
        bench.runner.upkeep.renew()

    assert [run.outcome for run in bench.records] == [Outcome.LOST]


def test_renewing_records_the_lost_runs_of_others():
    bench = Bench()
    fire = bench.fire()
    bench.store.claim(
        fire, owner="dead:2", now=fire.due, lease=timedelta(seconds=30), passed=lambda cursor: None, limits=Limits()
    )
    bench.clock.advance(31)

    bench.runner.upkeep.renew()

    assert [run.outcome for run in bench.records] == [Outcome.LOST]


def test_a_run_that_does_not_come_back_by_its_deadline_is_given_up(caplog):
    bench = Bench(timeout=10)
    seen = []

    def hang(run, cancelled):
        bench.clock.advance(10)
        assert bench.runner.upkeep.give_up_overdue() == []
        bench.clock.advance(0.4)
        assert bench.runner.upkeep.give_up_overdue() == []  # asked to stop, and given a moment
        seen.append(cancelled.is_set())
        bench.clock.advance(0.2)
        seen.extend(bench.runner.upkeep.give_up_overdue())

    bench.during = hang

    run = bench.runner.run(bench.fire())

    assert seen[0] is True
    assert seen[1].outcome is Outcome.TIMEOUT
    assert seen[1].duration == pytest.approx(10.6)
    assert run == seen[1]
    assert bench.store.history("a") == [seen[1]]
    assert "came_back" in [record.pulse_event for record in caplog.records]


def test_a_task_without_a_timeout_is_never_given_up():
    bench = Bench(timeout=0)

    def hang(run, cancelled):
        bench.clock.advance(10**7)
        assert bench.runner.upkeep.give_up_overdue() == []

    bench.during = hang

    bench.runner.run(bench.fire())


def test_what_does_not_stop_at_the_end_is_recorded_as_abandoned():
    bench = Bench()

    def hang(run, cancelled):
        bench.runner.upkeep.cancel()
        assert cancelled.is_set()
        assert [one.outcome for one in bench.runner.upkeep.abandon()] == [Outcome.ABANDONED]
        bench.runner.upkeep.record_late()

    bench.during = hang

    assert bench.runner.run(bench.fire()).outcome is Outcome.ABANDONED
    assert [run.outcome for run in bench.store.history("a")] == [Outcome.ABANDONED]


def test_a_dismissed_fire_is_recorded_once():
    bench = Bench()
    fire = bench.fire()

    assert bench.runner.claims.dismiss(fire, Outcome.SKIPPED, "because").reason == "because"
    assert bench.runner.claims.dismiss(fire, Outcome.SKIPPED, "because") is None
    assert len(bench.records) == 1


def test_each_run_is_one_line_in_the_log(caplog):
    caplog.set_level(logging.INFO)
    bench = Bench()
    fire = bench.fire()
    bench.clock.advance(0.25)

    run = bench.runner.run(fire)

    assert caplog.messages == [
        f"task=a run={run.id} trigger=schedule attempt=1 outcome=success status=200 duration=0.500 late=0.250 "
        "due=2027-05-01T12:01:00+00:00 worker=here:1"
    ]
    assert caplog.records[0].pulse_outcome == "success"


def test_a_missed_instant_is_a_warning_with_its_reason(caplog):
    bench = Bench()
    bench.runner.run(bench.fire(3))

    assert caplog.records[0].levelno == logging.WARNING
    assert "outcome=missed" in caplog.messages[0]
    assert "count=2" in caplog.messages[0]
    assert "reason=" in caplog.messages[0]


# Runs that wait


def test_a_fire_that_waits_for_its_turn_is_asked_for_again_until_it_has_it():
    bench = Bench(overlap="queue")
    first = bench.store.claim(
        bench.fire(1), owner="other", now=bench.clock.now(), lease=timedelta(hours=1), passed=lambda cursor: None,
        limits=Limits(),
    )  # fmt: skip
    waiting = bench.fire(2)

    assert bench.runner.run(waiting) is None
    assert bench.runner.due_again() == [waiting]
    assert bench.runner.run(waiting) is None
    bench.store.finish(replace(first.run, outcome=Outcome.SUCCESS, finished=bench.clock.now()))
    (again,) = bench.runner.due_again()

    assert bench.runner.run(again).outcome is Outcome.SUCCESS
    assert bench.runner.due_again() == []
    assert bench.store.totals("a").counts == {Outcome.SUCCESS: 2}


def test_a_fire_that_came_while_the_clock_was_ahead_is_asked_for_again_at_its_time():
    clock = ManualClock(NOON)
    bench = Bench(store=Clocked(clock), clock=clock)
    early = Fire(task="a", due=NOON + timedelta(hours=1))
    clock.step("1h")
    assert bench.runner.run(early) is None
    clock.step(-3600)
    (again,) = bench.runner.due_again()

    assert bench.runner.run(again) is None
    assert bench.runner.due_again() == []
    clock.advance("1h")
    assert bench.runner.due_again() == [early]


def test_of_a_task_one_fire_waits_and_the_one_before_is_recorded_as_missed():
    bench = Bench(overlap="queue")
    running = bench.store.claim(
        bench.fire(1), owner="other", now=bench.clock.now(), lease=timedelta(hours=1), passed=lambda cursor: None,
        limits=Limits(),
    ).run  # fmt: skip
    for minute in (2, 3):
        bench.runner.run(bench.fire(minute))
    bench.store.finish(replace(running, outcome=Outcome.SUCCESS, finished=bench.clock.now()))

    (fire,) = bench.runner.due_again()
    bench.runner.run(fire)

    assert [(record.outcome, record.due) for record in bench.records] == [
        (Outcome.MISSED, bench.fire(2).due), (Outcome.SUCCESS, bench.fire(3).due),
    ]  # fmt: skip


def test_a_lost_run_that_recovers_is_run_again_as_the_next_attempt():
    bench = Bench(recover=True)
    lost = bench.store.claim(
        bench.fire(1), owner="dead", now=bench.clock.now(), lease=timedelta(seconds=30), passed=lambda cursor: None,
        limits=Limits(recovers=True),
    ).run  # fmt: skip
    bench.clock.advance(31)

    bench.runner.upkeep.renew()
    (fire,) = bench.runner.due_again()
    run = bench.runner.run(fire)

    assert (run.id, run.attempt, run.trigger, run.outcome) == (lost.id, 2, Trigger.RECOVER, Outcome.SUCCESS)
    assert [record.outcome for record in bench.records] == [Outcome.LOST, Outcome.SUCCESS]
    bench.runner.upkeep.renew()
    assert bench.runner.due_again() == []


def test_a_call_by_hand_that_finds_a_run_lost_recovers_nothing_of_a_task_that_is_disabled():
    bench = Bench(enabled=False)
    bench.store.claim(
        bench.fire(1), owner="dead", now=bench.clock.now(), lease=timedelta(seconds=30), passed=lambda cursor: None,
        limits=Limits(recovers=True),
    )  # fmt: skip
    bench.clock.advance(31)

    bench.runner.run(Fire(task="a", due=bench.clock.now(), trigger=Trigger.MANUAL, run_id="x"))

    assert [(record.outcome, record.attempt) for record in bench.records] == [(Outcome.LOST, 1), (Outcome.SUCCESS, 1)]
    assert bench.runner.due_again() == []


def test_a_run_that_is_lost_with_the_lock_is_told_and_waits_for_whoever_knows_its_task():
    bench = Bench(lock="files")
    bench.store.register(["unknown here"], NOON)
    lost = bench.store.claim(
        Fire(task="unknown here", due=bench.fire(1).due), owner="dead", now=bench.clock.now(),
        lease=timedelta(seconds=30), passed=lambda cursor: None, limits=Limits(recovers=True, lock="files"),
    ).run  # fmt: skip
    bench.clock.advance(31)

    run = bench.runner.run(Fire(task="a", due=bench.clock.now(), trigger=Trigger.MANUAL, run_id="x"))

    assert run.outcome is Outcome.SUCCESS
    assert [(record.id, record.outcome) for record in bench.records] == [(lost.id, Outcome.LOST), ("x", run.outcome)]
    assert [one.id for one in bench.store.waiting()] == [lost.id]
    assert bench.runner.due_again() == []


def test_what_is_lost_with_the_lock_on_another_host_is_recovered_on_that_host():
    bench = Bench(lock="files", scope="host", recover=True)
    there, here = bench.fire(1, place="there"), bench.fire(2, place="here")
    bench.store.register([there.track, here.track], NOON)
    lost = bench.store.claim(
        there, owner="dead", now=bench.clock.now(), lease=timedelta(seconds=30), passed=lambda cursor: None,
        limits=Limits(recovers=True, lock="files"),
    ).run  # fmt: skip
    bench.clock.advance(31)

    bench.runner.run(here)

    assert [(run.id, run.place) for run in bench.store.waiting()] == [(lost.id, "there")]
    assert bench.runner.due_again() == []


def test_a_further_attempt_that_somebody_else_has_begun_is_left_to_them():
    bench = Bench(recover=True)
    bench.store.claim(
        bench.fire(1), owner="dead", now=bench.clock.now(), lease=timedelta(seconds=30), passed=lambda cursor: None,
        limits=Limits(recovers=True),
    )  # fmt: skip
    bench.clock.advance(31)
    bench.runner.upkeep.renew()
    (fire,) = bench.runner.due_again()
    (waiting,) = bench.store.waiting()
    bench.store.adopt(waiting, owner="other", now=bench.clock.now(), lease=timedelta(hours=1), limits=Limits())
    bench.during = lambda run, cancelled: pytest.fail("dispatched twice")

    assert bench.runner.run(fire) is None


def test_a_call_by_hand_that_is_forced_runs_beside_the_others():
    bench = Bench()
    bench.store.claim(
        bench.fire(1), owner="other", now=bench.clock.now(), lease=timedelta(hours=1), passed=lambda cursor: None,
        limits=Limits(),
    )  # fmt: skip
    by_hand = {"trigger": Trigger.MANUAL, "task": "a", "due": bench.clock.now()}

    refused = bench.runner.run(Fire(**by_hand, run_id="x"))
    forced = bench.runner.run(Fire(**by_hand, run_id="y", is_forced=True))

    assert (refused.outcome, forced.outcome) == (Outcome.SKIPPED, Outcome.SUCCESS)


# Attempts, and what else follows from a failure


def failing(bench: Bench, **reply) -> None:
    bench.reply = Reply(**{"outcome": Outcome.FAILED, "status": 500, "reason": "answered 500", **reply})


def test_a_failed_run_is_tried_again_with_growing_delays_as_the_same_run():
    bench = Bench(interval=3600, retries=2, retry_delay=10, retry_backoff=3)
    failing(bench)
    first = bench.runner.run(bench.fire(60))

    delays = []
    for _ in range(2):
        for seconds in range(1, 61):
            bench.clock.advance(1)
            if again := bench.runner.due_again():
                delays.append(seconds)
                last = bench.runner.run(again[0])
                break

    assert delays == [10, 30]
    assert (last.id, last.attempt, last.trigger) == (first.id, 3, Trigger.RETRY)
    bench.clock.advance(600)
    assert bench.runner.due_again() == []
    assert [run.attempt for run in bench.store.history("a")] == [3, 2, 1]


def try_again_beside_a_run_that_was_given_up(bench: Bench) -> tuple[Active, Active]:
    """The attempt that did not come back by its deadline, and the next one of the same run, by hand."""
    stuck = bench.runner.claim(bench.fire())
    bench.clock.advance(100)
    (record,) = bench.runner.upkeep.give_up_overdue()
    again = Fire(task="a", due=record.due, trigger=Trigger.MANUAL, run_id=record.id, attempt=2)
    return stuck, bench.runner.claim(again)


def test_an_attempt_that_comes_back_after_it_was_given_up_takes_nothing_from_the_one_behind_it():
    bench = Bench(timeout=90)
    stuck, again = try_again_beside_a_run_that_was_given_up(bench)

    assert bench.runner.finish(stuck, bench.reply).outcome is Outcome.TIMEOUT
    for _ in range(4):
        bench.clock.advance(10)
        bench.runner.upkeep.renew()

    assert bench.runner.finish(again, bench.reply).outcome is Outcome.SUCCESS
    assert [(run.attempt, run.outcome) for run in bench.store.history("a")] == [
        (2, Outcome.SUCCESS), (1, Outcome.TIMEOUT),
    ]  # fmt: skip


def test_what_has_come_back_is_not_given_up():
    bench = Bench()
    under_way = UnderWay(bench.clock)
    active = under_way.take(bench.runner._tasks["a"], Run(id="x", task="a", due=NOON), None)
    under_way.end(active)

    assert under_way.give_up(active, lambda _: pytest.fail("given up")) is None


def test_an_attempt_behind_one_that_came_back_too_late_has_its_deadline_watched():
    bench = Bench(timeout=90)
    stuck, _ = try_again_beside_a_run_that_was_given_up(bench)

    bench.runner.finish(stuck, bench.reply)
    bench.clock.advance(100)

    assert [(run.attempt, run.outcome) for run in bench.runner.upkeep.give_up_overdue()] == [(2, Outcome.TIMEOUT)]


def test_nobody_has_to_stay_awake_for_an_attempt_that_is_more_than_a_beat_away():
    bench = Bench(interval=3600, retries=1, retry_delay=600)
    failing(bench)
    bench.runner.run(bench.fire(60))

    seen = []
    for seconds in (0, 589, 1, 10):
        bench.clock.advance(seconds)
        seen.append(bench.runner.is_awaited)

    assert seen == [False, False, True, True]
    assert len(bench.runner.due_again()) == 1


def test_a_retry_that_succeeds_is_the_last():
    bench = Bench(interval=3600, retries=5)
    failing(bench)
    bench.runner.run(bench.fire(60))
    bench.reply = Reply(outcome=Outcome.SUCCESS, status=200)
    bench.clock.advance(10)

    (again,) = bench.runner.due_again()

    assert bench.runner.run(again).outcome is Outcome.SUCCESS
    assert bench.store.waiting() == []


@pytest.mark.parametrize(
    "reply",
    [
        {"status": 404}, {"outcome": Outcome.CANCELLED}, {"outcome": Outcome.SKIPPED, "status": 409},
        {"outcome": Outcome.SUCCESS, "status": 429, "retry_after": timedelta(seconds=5)},
        {"outcome": Outcome.CANCELLED, "status": 503, "retry_after": timedelta(seconds=5)},
    ],
)  # fmt: skip
def test_what_is_not_worth_another_attempt_has_none(reply):
    bench = Bench(interval=3600, retries=2)
    failing(bench, **reply)

    run = bench.runner.run(bench.fire(60))

    assert run.again_at is None
    assert bench.store.waiting() == []


@pytest.mark.parametrize("reply", [{"status": None}, {"outcome": Outcome.TIMEOUT, "status": 200}, {"status": 429}])
def test_a_run_without_an_answer_is_worth_another_attempt(reply):
    bench = Bench(interval=3600, retries=1)
    failing(bench, **reply)

    assert bench.runner.run(bench.fire(60)).again_at == bench.clock.now() + timedelta(seconds=10)
    assert bench.store.history("a")[0].again_at is None  # that it is tried again, the store holds beside its record


def test_an_attempt_that_would_come_after_the_next_instant_is_not_made():
    bench = Bench(interval=60, retries=2, retry_delay=60)
    failing(bench)

    assert bench.runner.run(bench.fire(1)).again_at is None


def test_a_retry_that_nobody_made_before_the_next_instant_is_not_made_any_more():
    bench = Bench(interval=60, retries=1, retry_delay=5)
    failing(bench)
    bench.runner.run(bench.fire(1))
    bench.clock.advance(70)
    (again,) = bench.runner.due_again()
    bench.during = lambda run, control: pytest.fail("dispatched too late")

    assert bench.runner.run(again) is None


def test_a_recovery_is_made_also_by_a_configuration_that_does_not_recover():
    bench = Bench()
    bench.store.claim(
        bench.fire(1), owner="dead", now=bench.clock.now(), lease=timedelta(seconds=30), passed=lambda cursor: None,
        limits=Limits(recovers=True),
    )  # fmt: skip
    bench.clock.advance(31)

    bench.runner.upkeep.renew()

    assert [fire.attempt for fire in bench.runner.due_again()] == [2]


def test_an_endpoint_that_is_always_busy_is_not_asked_without_a_pause():
    bench = Bench(interval=3600)
    failing(bench, status=503, retry_after=timedelta(0))

    assert bench.runner.run(bench.fire(60)).again_at == bench.clock.now() + timedelta(seconds=1)


def test_a_busy_endpoint_is_asked_again_when_it_says_so_even_without_retries():
    bench = Bench(interval=3600)
    failing(bench, status=503, retry_after=timedelta(seconds=120))
    bench.runner.run(bench.fire(60))
    bench.reply = Reply(outcome=Outcome.SUCCESS, status=200)

    bench.clock.advance(119)
    assert bench.runner.due_again() == []
    bench.clock.advance(1)
    (again,) = bench.runner.due_again()

    assert bench.runner.run(again).outcome is Outcome.SUCCESS


def test_a_call_by_hand_is_not_repeated():
    bench = Bench(interval=3600, retries=2)
    failing(bench)

    assert bench.runner.run(bench.fire(60, trigger=Trigger.MANUAL, run_id="byhand")).again_at is None


def test_the_attempt_of_a_process_that_died_is_found_in_the_store_by_another():
    bench = Bench(interval=3600, retries=1)
    failing(bench)
    bench.runner.run(bench.fire(60))
    heir = Bench(interval=3600, retries=1, store=bench.store, clock=bench.clock)

    heir.runner.upkeep.renew()
    assert heir.runner.due_again() == []  # its time has not come
    bench.clock.advance(11)
    heir.runner.upkeep.renew()
    (again,) = heir.runner.due_again()

    assert heir.runner.run(again).attempt == 2
    assert bench.runner.run(bench.runner.due_again()[0]) is None


def test_the_attempt_of_a_task_that_was_switched_off_is_not_made():
    bench = Bench(interval=3600, retries=1)
    failing(bench)
    bench.runner.run(bench.fire(60))
    bench.clock.advance(11)
    off = Bench(interval=3600, retries=1, enabled=False, store=bench.store, clock=bench.clock)

    off.runner.upkeep.renew()

    assert off.runner.due_again() == []


def test_an_endpoint_that_is_gone_pauses_its_task(caplog):
    bench = Bench()
    failing(bench, status=410, reason="answered 410")

    bench.runner.run(bench.fire(1))

    assert bench.store.pauses()["a"].by == "pulse"
    assert "410" in bench.store.pauses()["a"].note
    assert "task_paused" in [record.pulse_event for record in caplog.records]


def test_a_task_is_paused_after_so_many_failures_in_a_row():
    bench = Bench(pause_on_failure=3)
    for minute, outcome in enumerate([Outcome.FAILED, Outcome.SUCCESS, *[Outcome.FAILED] * 3], 1):
        assert bench.store.pauses() == {}
        failing(bench, outcome=outcome)
        bench.runner.run(bench.fire(minute))

    assert "3 times in a row" in bench.store.pauses()["a"].note


def die_in_a_run(bench: Bench, minute: int) -> None:
    """Another process claims what is due then, and does not live longer than its lease."""
    fire = bench.fire(minute)
    limits, lease = Limits.of(bench.runner._tasks["a"], fire), timedelta(seconds=30)
    bench.store.claim(fire, owner="dead:1", now=fire.due, lease=lease, passed=lambda _: None, limits=limits)
    bench.clock.advance(31)


def test_runs_that_are_lost_in_a_row_pause_their_task_as_other_failures_do():
    bench = Bench(pause_on_failure=3)
    for minute in (1, 2):
        die_in_a_run(bench, minute)
        bench.runner.upkeep.renew()
        bench.runner.upkeep.renew()  # the first one leaves them time
        assert bench.store.pauses() == {}
    die_in_a_run(bench, 3)

    bench.runner.run(bench.fire(4, trigger=Trigger.MANUAL, run_id="byhand"))

    assert bench.store.pauses()["a"].note == "it failed 3 times in a row, last because: its lease was not renewed"


def test_a_lost_run_that_recovers_pauses_nothing_before_its_last_attempt():
    bench = Bench(pause_on_failure=1, recover=True, interval=3600)
    die_in_a_run(bench, 60)
    for _ in range(2):
        bench.runner.upkeep.renew()
        bench.runner.upkeep.renew()
        assert bench.store.pauses() == {}
        (waiting,) = bench.store.waiting()
        lease = timedelta(seconds=30)
        bench.store.adopt(waiting, owner="dead:1", now=bench.clock.now(), lease=lease, limits=Limits(recovers=True))
        bench.clock.advance(31)

    for _ in range(2):
        bench.runner.upkeep.renew()

    assert [run.attempt for run in bench.store.history("a")] == [3, 2, 1]
    assert "it failed once" in bench.store.pauses()["a"].note


def test_a_lost_run_of_a_task_of_another_configuration_is_told_and_pauses_nothing():
    bench = Bench(pause_on_failure=1)
    bench.store.register(["b"], NOON)
    fire, lease = Fire(task="b", due=NOON + timedelta(minutes=1)), timedelta(seconds=30)
    bench.store.claim(fire, owner="dead:1", now=NOON, lease=lease, passed=lambda _: None, limits=Limits())
    bench.clock.advance(31)

    bench.runner.upkeep.renew()

    assert [(run.task, run.outcome) for run in bench.records] == [("b", Outcome.LOST)]
    assert bench.store.pauses() == {}


def test_whether_a_task_is_paused_is_found_in_its_last_records_however_many_are_kept(monkeypatch):
    bench = Bench(pause_on_failure=3)
    for minute in range(1, 31):
        bench.runner.run(bench.fire(minute))
    failing(bench)
    read: list[int] = []
    brief = bench.store.brief
    monkeypatch.setattr(bench.store, "brief", lambda *given: read.append(given[-1]) or brief(*given))

    bench.runner.run(bench.fire(31))

    assert read == [3]
    assert bench.store.pauses() == {}


def test_failures_are_counted_behind_any_number_of_instants_that_nobody_ran():
    bench = Bench(pause_on_failure=2)
    failing(bench)
    bench.runner.run(bench.fire(1))
    for minute in range(2, 12):
        dismissed = {"outcome": Outcome.SKIPPED, "reason": f"reason {minute}"}
        bench.store.dismiss(bench.fire(minute), **dismissed, now=bench.clock.now(), passed=lambda cursor: None)

    bench.runner.run(bench.fire(12))

    assert "2 times in a row" in bench.store.pauses()["a"].note


def test_the_attempts_of_one_run_are_one_failure():
    bench = Bench(interval=3600, retries=1, pause_on_failure=2)
    failing(bench)
    bench.runner.run(bench.fire(60))
    bench.clock.advance(10)
    bench.runner.run(bench.runner.due_again()[0])
    assert bench.store.pauses() == {}

    bench.runner.run(bench.fire(120))
    bench.clock.advance(10)
    bench.runner.run(bench.runner.due_again()[0])

    assert "2 times in a row" in bench.store.pauses()["a"].note


def test_what_the_endpoint_said_of_its_run_is_in_the_record_and_in_the_log(caplog):
    bench = Bench()
    caplog.set_level(logging.INFO)
    bench.reply = Reply(outcome=Outcome.SUCCESS, status=200, result="swept 3 sessions")

    assert bench.runner.run(bench.fire()).result == "swept 3 sessions"

    assert "result='swept 3 sessions'" in caplog.text


# Runs that are watched from afar


def test_a_run_that_lasts_reports_its_progress_and_learns_that_it_is_to_stop():
    bench = Bench()

    def work(run, control):
        control.tell(1, 2, "half")
        bench.runner.upkeep.report()
        assert bench.store.running()[0].progress is None  # a short run costs the store nothing
        bench.clock.advance(1)
        bench.runner.upkeep.report()
        assert bench.store.running()[0].progress == Progress(done=1, total=2, text="half")
        bench.store.ask_to_stop(run.id, "by ada")
        bench.runner.upkeep.report()
        assert (control.is_set(), control.reason) == (True, "by ada")

    bench.during = work
    bench.reply = Reply(outcome=Outcome.CANCELLED, reason="cancelled before it had sent all of its response")

    run = bench.runner.run(bench.fire())

    assert (run.outcome, run.reason) == (
        Outcome.CANCELLED, "cancelled before it had sent all of its response: by ada",
    )  # fmt: skip


def test_a_run_that_does_not_stop_when_it_is_asked_to_is_given_up():
    bench = Bench(timeout=3600, kill_grace=5)

    def work(run, control):
        bench.clock.advance(1)
        bench.store.ask_to_stop(run.id, "by ada")
        bench.runner.upkeep.report()
        bench.clock.advance(5)
        assert bench.runner.upkeep.give_up_overdue() == []
        bench.clock.advance(1)
        (given_up,) = bench.runner.upkeep.give_up_overdue()
        assert given_up.outcome is Outcome.ABANDONED

    bench.during = work

    assert bench.runner.run(bench.fire()).outcome is Outcome.ABANDONED


class StandsDown:
    """A fleet in which this process has to leave a task to others."""

    def why_not(self, task: str) -> str:
        return "a newer configuration has changed it"

    def beat(self) -> None:
        pass


def test_what_a_newer_configuration_has_changed_is_left_to_it_without_a_claim():
    bench = Bench(fleet=StandsDown())

    assert bench.runner.run(bench.fire(1)) is None

    assert bench.store.history("a") == []
    assert bench.store.register(["a"], NOON) == {"a": NOON}
    assert bench.runner.run(bench.fire(2, trigger=Trigger.MANUAL)).outcome is Outcome.SUCCESS


class Flaky(MemoryRunStore):
    """A store that does not answer while it is down."""

    is_down = False

    @contextmanager
    def _step(self, *tasks):
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        with super()._step():
            yield


@pytest.fixture
def flaky():
    return Bench(store=Flaky())


def test_without_an_answer_of_the_store_nothing_runs(flaky, caplog):
    flaky.during = lambda run, cancelled: pytest.fail("dispatched unclaimed")
    flaky.store.is_down = True

    assert flaky.runner.run(flaky.fire()) is None

    assert [record.pulse_event for record in caplog.records] == ["store_unavailable"]


def test_the_steps_that_failed_are_told_with_the_first_beat_that_does_not():
    bench = Bench(store=Flaky(), fleet=(fleet := Beats()))
    bench.runner.upkeep.renew()
    bench.store.is_down = True
    for minute in (1, 2):
        bench.runner.run(bench.fire(minute))
    bench.runner.upkeep.renew()
    bench.store.is_down = False

    bench.runner.upkeep.renew()

    assert fleet.told == [0, 3]


class Beats:
    """A fleet that nobody is left anything by, and that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def why_not(self, task: str) -> str:
        return ""

    def beat(self, store_errors: int) -> None:
        self.told.append(store_errors)


def test_what_is_not_run_while_the_store_does_not_answer_is_missed_later(flaky, caplog):
    flaky.store.is_down = True
    assert flaky.runner.claims.dismiss(flaky.fire(1), Outcome.SKIPPED, "2 earlier runs never came back") is None
    flaky.store.is_down = False
    flaky.runner.run(flaky.fire(2))

    assert caplog.records[0].pulse_event == "store_unavailable"
    assert [run.outcome for run in flaky.records] == [Outcome.MISSED, Outcome.SUCCESS]


def test_what_could_not_be_recorded_is_as_soon_as_others_are_answered(flaky):
    def lose(run, cancelled):
        flaky.store.is_down = True

    flaky.during = lose
    first = flaky.runner.run(flaky.fire())
    assert flaky.runner.is_awaited
    flaky.store.is_down = False

    flaky.runner.upkeep.report()  # nobody was answered since
    assert flaky.store.history("a") == []
    assert flaky.runner.run(flaky.fire(trigger=Trigger.MANUAL, run_id="byhand")).outcome is Outcome.SKIPPED
    flaky.runner.upkeep.report()

    assert first in flaky.store.history("a")
    assert flaky.store.running() == []
    assert not flaky.runner.is_awaited


def deaf_for_once(bench: Bench, step: str):
    """Have the store take that step, and its answer be lost."""
    take = getattr(bench.store, step)

    def lose_the_answer(*args, **kwargs):
        take(*args, **kwargs)
        setattr(bench.store, step, take)
        raise StoreUnavailableError("the answer was lost")

    setattr(bench.store, step, lose_the_answer)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_record_that_was_made_though_the_answer_was_lost_is_told_like_any_other(caplog, retries):
    bench = Bench(retries=retries, retry_delay=5)
    bench.reply = Reply(outcome=Outcome.FAILED, status=500)
    deaf_for_once(bench, "finish")

    bench.runner.run(bench.fire())
    bench.runner.upkeep.record_late()
    bench.clock.advance(5)

    (record,) = bench.store.history("a")
    assert [(run.id, run.outcome) for run in bench.records] == [(record.id, Outcome.FAILED)]
    assert "lease_lost" not in {one.pulse_event for one in caplog.records}
    assert [fire.attempt for fire in bench.runner.due_again()] == [2] * retries


def test_several_records_that_were_made_though_the_answer_was_lost_are_told(caplog):
    bench = Bench(max_instances=3)
    active = [bench.runner.claim(bench.fire(trigger=Trigger.MANUAL, run_id=run_id)) for run_id in ("x", "y")]
    deaf_for_once(bench, "finish_all")

    bench.runner.finish_all([(one, bench.reply) for one in active])
    bench.runner.upkeep.record_late()

    assert bench.records == bench.store.history("a")[::-1]
    assert len(bench.records) == 2
    assert "lease_lost" not in {one.pulse_event for one in caplog.records}


def test_a_run_that_was_found_lost_in_an_outage_is_not_told_as_if_it_were_ours(flaky, caplog):
    def lose(run, cancelled):
        flaky.store.is_down = True

    flaky.during = lose
    flaky.runner.run(flaky.fire())
    flaky.store.is_down = False
    flaky.store.reap(flaky.clock.now() + timedelta(seconds=31))

    flaky.runner.upkeep.record_late()

    assert flaky.records == []
    assert caplog.records[-1].pulse_event == "store_back"
    assert "lease_lost" in {one.pulse_event for one in caplog.records}


def test_an_outage_is_said_once_a_minute_and_when_it_is_over(flaky, caplog):
    flaky.store.is_down = True
    for minute in range(1, 4):
        flaky.runner.run(flaky.fire(minute))
        flaky.runner.upkeep.renew()
    flaky.store.is_down = False
    flaky.runner.run(flaky.fire(4))

    events = [record.pulse_event for record in caplog.records]
    assert events.count("store_unavailable") == 3
    assert events.count("store_back") == 1


def test_instants_of_an_outage_are_recorded_as_missed_when_it_is_over(flaky):
    flaky.store.is_down = True
    flaky.runner.run(flaky.fire(1))
    flaky.runner.run(flaky.fire(2))
    flaky.store.is_down = False

    flaky.runner.run(flaky.fire(3))

    assert [(run.outcome, run.count) for run in flaky.records] == [(Outcome.MISSED, 2), (Outcome.SUCCESS, 1)]


def test_what_ended_during_an_outage_longer_than_its_lease_is_not_lost_to_the_process_itself(flaky):
    def lose(run, cancelled):
        flaky.store.is_down = True

    flaky.during = lose
    flaky.runner.run(flaky.fire())
    flaky.runner.upkeep.renew()
    flaky.clock.advance(120)
    flaky.runner.upkeep.renew()
    flaky.store.is_down = False

    flaky.runner.upkeep.renew()

    assert [run.outcome for run in flaky.store.history("a")] == [Outcome.SUCCESS]


def test_what_ended_during_an_outage_longer_than_its_lease_is_recorded_before_the_next_instant_is_claimed(flaky):
    def lose(run, cancelled):
        flaky.during = lambda run, cancelled: None
        flaky.store.is_down = True

    flaky.during = lose
    flaky.runner.run(flaky.fire(1))
    flaky.fire(2)
    flaky.store.is_down = False

    flaky.runner.run(flaky.fire(3))

    assert [run.outcome for run in flaky.store.history("a")] == [Outcome.SUCCESS, Outcome.MISSED, Outcome.SUCCESS]


def test_leases_that_could_not_be_renewed_are_as_soon_as_others_are_answered(flaky):
    heir = Bench(store=flaky.store, clock=flaky.clock)

    def last_longer_than_the_outage(run, cancelled):
        flaky.store.is_down = True
        for _ in range(2):
            flaky.clock.advance(10)
            flaky.runner.upkeep.renew()
        flaky.store.is_down = False
        flaky.clock.advance(1)
        flaky.runner.upkeep.report()  # is the first that is answered
        flaky.runner.upkeep.report()
        flaky.clock.advance(10)
        heir.runner.upkeep.renew()

    flaky.during = last_longer_than_the_outage

    assert flaky.runner.run(flaky.fire()).outcome is Outcome.SUCCESS
    assert heir.records == []


def test_leases_that_were_renewed_are_not_before_the_next_beat():
    bench = Bench()
    renewed = []
    renew, bench.store.renew = bench.store.renew, lambda runs, until: renewed.append(until) or renew(runs, until)

    def last(run, cancelled):
        for beat in range(6):
            bench.clock.advance(10)
            bench.runner.upkeep.renew()
            bench.runner.upkeep.report()
            bench.runner.run(bench.fire(trigger=Trigger.MANUAL, run_id=f"byhand{beat}"))

    bench.during = last
    bench.runner.run(bench.fire())

    assert len(renewed) == 6


def test_what_ended_in_a_short_outage_is_recorded_before_who_is_dead_is_looked_for(flaky):
    def end_late_in_its_lease(run, cancelled):
        flaky.clock.advance(20)
        flaky.store.is_down = True

    flaky.during = end_late_in_its_lease
    ended = flaky.runner.run(flaky.fire())
    flaky.clock.advance(15)
    flaky.store.is_down = False

    flaky.runner.upkeep.renew()

    assert flaky.records == [ended] == flaky.store.history("a")


def test_behind_an_outage_those_who_live_have_time_to_say_so(flaky):
    other = Bench(store=flaky.store, clock=flaky.clock, recover=True)

    def last_longer_than_the_store(run, cancelled):
        flaky.store.is_down = True
        other.runner.upkeep.renew()
        flaky.clock.advance(120)
        flaky.store.is_down = False
        for _ in range(4):
            other.runner.upkeep.renew()
            flaky.clock.advance(9)
        flaky.runner.upkeep.renew()

    flaky.during = last_longer_than_the_store
    record = flaky.runner.run(flaky.fire())

    assert record.outcome is Outcome.SUCCESS
    assert other.records == []


def test_behind_an_outage_who_is_dead_is_found_when_the_others_had_their_time(flaky):
    flaky.store.claim(
        flaky.fire(), owner="dead:1", now=NOON, lease=timedelta(seconds=30), passed=lambda _: None, limits=Limits()
    )
    flaky.store.is_down = True
    flaky.runner.upkeep.renew()
    flaky.clock.advance(120)
    flaky.store.is_down = False

    flaky.runner.upkeep.renew()
    at_once = list(flaky.records)
    for _ in range(3):
        flaky.clock.advance(10)
        flaky.runner.upkeep.renew()

    assert at_once == []
    assert [run.outcome for run in flaky.records] == [Outcome.LOST]


def test_an_outage_that_leases_outlast_keeps_nobody_from_finding_what_is_lost(flaky):
    flaky.store.claim(
        flaky.fire(), owner="dead:1", now=NOON, lease=timedelta(seconds=30), passed=lambda _: None, limits=Limits()
    )
    flaky.clock.advance(120)
    flaky.store.is_down = True
    flaky.runner.upkeep.renew()
    flaky.clock.advance(5)
    flaky.store.is_down = False

    flaky.runner.upkeep.renew()

    assert [run.outcome for run in flaky.records] == [Outcome.LOST]


def test_what_it_cannot_record_yet_the_process_does_not_find_lost_itself(flaky):
    def silent(run, **more):
        raise StoreUnavailableError("the store goes on behind this call")

    finish, flaky.store.finish = flaky.store.finish, silent
    flaky.runner.run(flaky.fire())
    flaky.clock.advance(120)

    flaky.runner.upkeep.renew()
    before = flaky.store.history("a")
    flaky.store.finish = finish
    flaky.runner.upkeep.renew()

    assert before == []
    assert [run.outcome for run in flaky.store.history("a")] == [Outcome.SUCCESS]


def test_in_an_outage_the_end_of_many_runs_does_not_wait_for_the_store_each_time(flaky):
    in_vain = []
    finish = flaky.store.finish
    flaky.store.finish = lambda run, **more: in_vain.extend([run] * flaky.store.is_down) or finish(run, **more)

    def hang(run, cancelled):
        flaky.store.is_down = True
        flaky.runner.upkeep.abandon()
        flaky.runner.upkeep.record_late()

    flaky.during = hang
    for minute in (1, 2, 3):
        flaky.store.is_down = False
        flaky.runner.run(flaky.fire(minute))
    flaky.runner.run(flaky.fire(4))

    assert len(in_vain) <= 3 + 1  # once an outage, and once in the place of the last claim


def test_nothing_is_dispatched_after_the_runner_was_told_to_end():
    bench = Bench()
    seen = []
    bench.during = lambda run, cancelled: seen.append(run)
    bench.runner.upkeep.cancel()

    record = bench.runner.run(bench.fire())

    assert seen == []
    assert (record.outcome, record.started) == (Outcome.MISSED, None)
    assert record.reason == "it had not begun: the process ends"
    assert bench.store.history("a") == [record]


class Broken(logging.Handler):
    """The log of an application whose endpoint has closed stderr."""

    def emit(self, record):
        raise ValueError("I/O operation on closed file")


@pytest.fixture
def broken_log():
    handler = Broken()
    logging.getLogger("pulse").addHandler(handler)
    yield
    logging.getLogger("pulse").removeHandler(handler)


@pytest.mark.usefixtures("broken_log")
def test_what_ended_during_an_outage_is_recorded_though_the_log_is_broken(flaky):
    def go_down(run, cancelled):
        flaky.store.is_down = True

    flaky.during = go_down
    ended = flaky.runner.run(flaky.fire())
    flaky.store.is_down = False
    flaky.runner.upkeep.renew()

    assert flaky.records == [ended] == flaky.store.history("a")


@pytest.mark.usefixtures("broken_log")
def test_a_task_is_paused_and_its_run_told_though_the_log_is_broken():
    bench = Bench(pause_on_failure=1)
    failing(bench)

    bench.runner.run(bench.fire())

    assert list(bench.store.pauses()) == ["a"]
    assert bench.records == bench.store.history("a")


def test_what_ended_during_an_outage_is_recorded_when_it_is_over(flaky):
    def go_down(run, cancelled):
        flaky.store.is_down = True

    flaky.during = go_down
    ended = flaky.runner.run(flaky.fire())
    flaky.runner.upkeep.renew()
    assert flaky.records == []
    flaky.store.is_down = False

    flaky.runner.upkeep.renew()

    assert flaky.records == [ended] == flaky.store.history("a")
    assert ended.outcome is Outcome.SUCCESS


def test_a_run_that_pulse_itself_fails_to_dispatch_is_recorded_and_keeps_no_other_one_waiting(caplog):
    bench = Bench()

    def fall_over(run, cancelled):
        raise RuntimeError("what no endpoint raised")

    bench.during = fall_over
    failed = bench.runner.run(bench.fire())
    bench.during = lambda run, cancelled: None

    assert (failed.outcome, failed.reason) == (Outcome.FAILED, "a fault of Pulse itself, which the log tells")
    assert bench.store.running() == []
    assert "what no endpoint raised" in caplog.text
    assert bench.runner.run(bench.fire(2)).outcome is Outcome.SUCCESS


def test_whoever_interrupts_a_run_goes_on_and_the_run_is_not_renewed_for_ever():
    bench = Bench()

    def interrupt(run, cancelled):
        raise KeyboardInterrupt

    bench.during = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.runner.run(bench.fire())

    assert bench.runner.lasting(-1) == set()
