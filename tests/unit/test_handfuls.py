"""Fires of several tasks that one thread claims together, runs one after the other, and records together."""

from collections import deque
from datetime import UTC, datetime, timedelta

import pytest
from bench import Recorder

from pulse.config import read_config
from pulse.dispatch import Reply
from pulse.errors import StoreUnavailableError
from pulse.model import Fire, Limits, Outcome, Pause, Run, Trigger
from pulse.runner import Runner
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import schedule_of
from pulse.testing import ManualClock
from pulse.workers.handful import Handful

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)


class Store(MemoryRunStore):
    """Counts the steps, and does not answer where it is out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []
        self.is_out_of_reach = False

    def away(self):
        raise StoreUnavailableError("the store is away")

    def _step(self, *tasks: str):
        if self.is_out_of_reach:
            self.away()
        self.steps.append(" ".join(tasks))
        return super()._step(*tasks)


class Bench:
    """A runner of tasks that are due each minute, and answer at once."""

    def __init__(self, *names: str, **options) -> None:
        self.clock = ManualClock(NOON + timedelta(minutes=1))
        self.store = Store()
        self.store.register(names, NOON)
        self.records: list[Run] = []
        tasks = read_config(tasks={name: {"interval": 60, **options} for name in names}).tasks
        self.replies = dict.fromkeys(names, Reply(outcome=Outcome.SUCCESS, status=200, duration=0.001))
        self.runner = Runner(
            tasks, {name: schedule_of(task) for name, task in tasks.items()}, store=self.store,
            dispatch=lambda task, run, control: self.replies[task.name], clock=self.clock,
            owner="here:1", lease=LEASE, hears=[Recorder(self.records)],
        )  # fmt: skip
        self.fires = [Fire(task=name, due=self.clock.now(), latest=self.clock.now() + LEASE) for name in names]
        self.store.steps.clear()

    def run(self) -> None:
        """As a worker does."""
        done = []
        for _, active in self.runner.claims.claim_all(self.fires):
            if self.runner.begin(active):
                done.append((active, self.runner.perform(active)))
        self.runner.finish_all(done)


def test_several_runs_are_claimed_in_one_step_and_recorded_in_one_step():
    bench = Bench("a", "b", "c")

    bench.run()

    assert [(run.task, run.outcome) for run in bench.records] == [
        ("a", Outcome.SUCCESS), ("b", Outcome.SUCCESS), ("c", Outcome.SUCCESS),
    ]  # fmt: skip
    assert bench.store.steps == ["a b c", "a b c"]
    assert bench.store.running() == []
    assert [bench.store.history(task)[0] for task in "abc"] == bench.records


def test_what_is_not_won_is_recorded_and_not_run():
    bench = Bench("a", "b", "c")
    bench.store.pause("b", Pause(since=NOON, note="for now"))

    won = bench.runner.claims.claim_all(bench.fires)

    assert [fire.task for fire, _ in won] == ["a", "c"]
    assert [(run.task, run.outcome) for run in bench.records] == [("b", Outcome.SKIPPED)]


def test_a_run_that_is_tried_again_is_recorded_with_its_next_attempt():
    bench = Bench("a", "b", retries=1, retry_delay=5)
    bench.replies["a"] = Reply(outcome=Outcome.FAILED, reason="answered 500", status=500, duration=0.001)

    bench.run()

    assert {run.task: run.outcome for run in bench.records} == {"a": Outcome.FAILED, "b": Outcome.SUCCESS}
    assert [(run.task, run.attempt) for run in bench.store.waiting()] == [("a", 2)]


def test_what_an_endpoint_raised_is_in_the_log(caplog):
    bench = Bench("a", "b")
    bench.replies["b"] = Reply(outcome=Outcome.FAILED, reason="ValueError: x", traceback="Traceback...\n")

    bench.run()

    assert "task=b" in caplog.text
    assert "Traceback..." in caplog.text


def test_while_the_store_is_out_of_reach_nothing_is_run_unclaimed():
    bench = Bench("a", "b")
    bench.store.is_out_of_reach = True

    assert bench.runner.claims.claim_all(bench.fires) == []
    assert bench.runner.is_cut_off
    assert bench.records == []


def lose_the_answer(bench: Bench, claim_all) -> None:
    """Have *claim_all* be the step of the next claims, of which no answer comes back."""

    def lost(*bids, **terms):
        claim_all(*bids, **terms)
        bench.store.away()

    before, bench.store.claim_all = bench.store.claim_all, lost
    assert bench.runner.claims.claim_all(bench.fires) == []
    bench.store.claim_all = before


@pytest.mark.parametrize("beat", ["renew", "report"])
def test_what_was_won_unheard_is_recorded_as_soon_as_the_store_answers_again(beat):
    bench = Bench("a", "b", "c")
    lose_the_answer(bench, bench.store.claim_all)
    assert {run.task for run in bench.store.running()} == {"a", "b", "c"}
    assert bench.runner.is_awaited
    bench.runner.upkeep.report()
    assert bench.records == []  # as long as it has answered nothing else
    bench.runner.upkeep.record_late()
    bench.runner.claims.claim(Fire(task="a", due=NOON))

    getattr(bench.runner.upkeep, beat)()

    assert [(run.task, run.outcome, run.started) for run in bench.records] == [
        ("a", Outcome.MISSED, None), ("b", Outcome.MISSED, None), ("c", Outcome.MISSED, None),
    ]  # fmt: skip
    assert {run.reason for run in bench.records} == {"the run store did not answer when it was claimed"}
    assert bench.store.running() == []


def test_what_was_not_won_unheard_stays_with_whoever_has_won_it():
    bench = Bench("a", "b")
    lose_the_answer(bench, lambda *bids, **terms: None)
    terms = {"now": bench.clock.now(), "lease": LEASE, "passed": lambda cursor: None}
    bench.store.claim(bench.fires[0], owner="there:1", limits=Limits(), **terms)
    bench.store.claim(bench.fires[1], owner="here:1", limits=Limits(recovers=True), **terms)

    bench.runner.upkeep.renew()

    assert {run.task for run in bench.store.running()} == {"a", "b"}  # the second one is begun again by its lease
    assert bench.records == []


def test_what_another_thread_is_just_told_that_it_has_won_is_not_given_back():
    bench = Bench("a", "b")
    won = bench.fires.pop()
    lose_the_answer(bench, bench.store.claim_all)
    terms = {"owner": "here:1", "now": bench.clock.now(), "lease": LEASE, "passed": lambda cursor: None}
    bench.store.claim(won, limits=Limits(), **terms)

    bench.runner.upkeep.renew()

    assert [run.task for run in bench.records] == ["a"]
    assert [run.task for run in bench.store.running()] == ["b"]


def test_what_may_have_been_won_unheard_is_looked_for_as_long_as_its_lease_would_last():
    bench = Bench("a")
    lose_the_answer(bench, lambda *bids, **terms: None)
    bench.clock.advance(LEASE.total_seconds() / 2)
    bench.runner.upkeep.renew()
    assert bench.runner.is_awaited

    bench.clock.advance(LEASE.total_seconds())
    bench.runner.upkeep.renew()

    assert not bench.runner.is_awaited


def in_turn(bench: Bench, *minutes: int) -> list[Fire]:
    return [Fire(task="a", due=NOON + timedelta(minutes=minute), is_in_turn=True) for minute in minutes]


def test_a_run_that_is_won_when_it_is_asked_for_again_is_not_given_back_as_one_that_was_won_unheard():
    bench = Bench("a")
    [fire] = in_turn(bench, 1)
    bench.store.is_out_of_reach = True
    assert bench.runner.claims.claim(fire) is None
    bench.store.is_out_of_reach = False
    claim = bench.store.claim

    def look_meanwhile(*bid, **terms):
        claimed = claim(*bid, **terms)
        bench.runner.claims.give_back_unheard()  # as the watcher does, when nobody here has heard of it yet
        return claimed

    bench.store.claim = look_meanwhile
    active = bench.runner.claims.claim(fire)
    bench.runner.upkeep.record_late()

    assert bench.records == []
    assert [run.id for run in bench.store.running()] == [active.run.id]


def test_what_was_won_unheard_and_is_asked_for_again_is_given_back():
    bench = Bench("a")
    [fire] = in_turn(bench, 1)
    claim = bench.store.claim

    def lost(*bid, **terms):
        claim(*bid, **terms)
        bench.store.away()

    bench.store.claim = lost
    assert bench.runner.claims.claim(fire) is None
    bench.store.claim = claim
    assert bench.runner.claims.claim(fire) is None

    bench.runner.upkeep.renew()

    assert [(run.id, run.outcome) for run in bench.records] == [(fire.run_id, Outcome.MISSED)]
    assert bench.store.running() == []


def test_what_is_repeated_for_as_long_as_an_outage_lasts_does_not_keep_the_others_in_mind():
    bench = Bench("a", "b")
    [fire], others = in_turn(bench, 1), []
    bench.store.is_out_of_reach = True

    for minute in range(5):
        bench.runner.claims.claim(fire)
        others.append(Fire(task="b", due=NOON + timedelta(minutes=minute)))
        bench.runner.claims.claim(others[-1])
        bench.clock.advance(LEASE.total_seconds())
    bench.runner.claims.claim(fire)

    assert set(bench.runner.claims._unheard) == {fire.run_id}


def test_of_a_task_that_waits_for_the_store_one_run_is_to_be_repeated_however_many_gave_way():
    bench = Bench("a")
    fires = in_turn(bench, 1, 2, 3)
    bench.store.is_out_of_reach = True

    for fire in fires:
        bench.runner.claims.claim(fire)

    assert [bench.runner.claims.is_to_repeat(fire) for fire in fires] == [False, False, True]


def test_what_had_to_be_repeated_and_is_not_to_be_run_any_more_keeps_nothing_waiting():
    bench = Bench("a")
    [fire] = in_turn(bench, 1)
    bench.store.is_out_of_reach = True
    bench.runner.claims.claim(fire)
    assert bench.runner.claims.is_to_repeat(fire)
    bench.store.is_out_of_reach = False

    bench.runner.claims.dismiss(fire, Outcome.SKIPPED, "earlier runs do not come back")

    assert not bench.runner.claims.is_to_repeat(fire)


def test_what_was_won_begins_though_the_store_is_gone_when_another_one_of_them_is_given_back():
    bench = Bench("a", "b", "c")
    latest = bench.clock.now() + timedelta(seconds=1)
    bench.fires[1] = Fire(task="b", due=bench.clock.now(), latest=latest)
    claim_all = bench.store.claim_all

    def take_time(*bids, **terms):
        answers = claim_all(*bids, **terms)
        bench.clock.advance(2)
        bench.store.is_out_of_reach = True
        return answers

    bench.store.claim_all = take_time
    won = bench.runner.claims.claim_all(bench.fires)
    bench.store.is_out_of_reach = False
    bench.runner.upkeep.record_late()

    assert [fire.task for fire, _ in won] == ["a", "c"]
    assert [(run.task, run.outcome) for run in bench.records] == [("b", Outcome.MISSED)]
    assert {run.task for run in bench.store.running()} == {"a", "c"}


def test_what_recovers_is_asked_for_again_without_a_look_at_all_that_waits():
    bench = Bench("a", "b")
    earlier = Fire(task="a", due=NOON + timedelta(seconds=1))
    terms = {"owner": "there:1", "now": NOON + timedelta(seconds=1), "lease": timedelta(seconds=1)}
    bench.store.claim(earlier, **terms, passed=lambda cursor: None, limits=Limits(recovers=True))
    bench.store.waiting = bench.store.away

    won = bench.runner.claims.claim_all(bench.fires)

    assert [fire.task for fire, _ in won] == ["b"]
    assert [(fire.task, fire.attempt) for fire in bench.runner.due_again()] == [("a", 2)]
    assert [(run.task, run.outcome) for run in bench.records] == [("a", Outcome.LOST), ("a", Outcome.SKIPPED)]


def test_what_has_ended_in_an_outage_is_recorded_when_the_store_answers_again():
    bench = Bench("a", "b")
    claimed = [active for _, active in bench.runner.claims.claim_all(bench.fires)]
    done = [(active, bench.runner.perform(active)) for active in claimed if bench.runner.begin(active)]
    bench.store.is_out_of_reach = True
    bench.runner.finish_all(done)
    assert bench.runner.is_awaited

    bench.store.is_out_of_reach = False
    bench.runner.upkeep.record_late()

    assert [(run.task, run.outcome) for run in bench.records] == [("a", Outcome.SUCCESS), ("b", Outcome.SUCCESS)]
    assert not bench.runner.is_awaited


def finish_in_an_outage(bench: Bench) -> None:
    claimed = [active for _, active in bench.runner.claims.claim_all(bench.fires)]
    done = [(active, bench.runner.perform(active)) for active in claimed if bench.runner.begin(active)]
    bench.store.is_out_of_reach = True
    bench.runner.finish_all(done)
    bench.store.is_out_of_reach = False
    bench.store.steps.clear()


def test_many_runs_that_have_ended_in_an_outage_are_recorded_in_a_few_steps():
    names = [f"t{number}" for number in range(100)]
    bench = Bench(*names)
    finish_in_an_outage(bench)

    bench.runner.upkeep.record_late()

    assert [run.task for run in bench.records] == names
    assert [len(step.split()) for step in bench.store.steps] == [32, 32, 32, 4]


def test_what_is_tried_once_more_is_recorded_alone():
    bench = Bench("a", "b", "c", "d", "e", retries=1, retry_delay=1)
    for name in "ce":
        bench.replies[name] = Reply(outcome=Outcome.FAILED, status=500, duration=0.001)
    finish_in_an_outage(bench)

    bench.runner.upkeep.record_late()

    assert [run.task for run in bench.records] == ["a", "b", "d", "c", "e"]
    assert bench.store.steps == ["a b d", "c", "e"]
    assert {(run.task, run.attempt) for run in bench.store.waiting()} == {("c", 2), ("e", 2)}
    assert not bench.runner.is_cut_off


def test_of_runs_that_ended_in_an_outage_what_was_found_lost_meanwhile_stays_so(caplog):
    bench = Bench("a", "b", "c")
    finish_in_an_outage(bench)
    (lost,) = (run for run in bench.store.running() if run.task == "b")
    bench.store._release(lost)

    bench.runner.upkeep.record_late()

    assert [run.task for run in bench.records] == ["a", "c"]
    assert "lease_lost" in [record.pulse_event for record in caplog.records]


def test_what_ends_while_others_are_recorded_late_is_not_lost_though_there_is_no_room():
    bench = Bench("a", "b", "c", "d")
    finish_in_an_outage(bench)
    recorder = bench.runner._recorder
    recorder._unrecorded, last = deque(list(recorder._unrecorded)[:3], maxlen=3), recorder._unrecorded[3]
    finish_all = bench.store.finish_all

    def be_late(runs):
        if len(runs) == 3:
            recorder.keep(last)
        return finish_all(runs)

    bench.store.finish_all = be_late

    bench.runner.upkeep.record_late()

    assert [run.task for run in bench.records] == ["a", "b", "c", "d"]
    assert not bench.store.running()


def test_an_outage_that_goes_on_loses_nothing_of_what_has_ended():
    names = [f"t{number}" for number in range(40)]
    bench = Bench(*names)
    finish_in_an_outage(bench)
    bench.store.is_out_of_reach = True
    bench.runner.upkeep.record_late()
    bench.store.is_out_of_reach = False

    bench.runner.upkeep.record_late()

    assert [run.task for run in bench.records] == names
    assert not bench.runner.is_awaited


@pytest.mark.parametrize(
    ("options", "trigger", "may_join"),
    [
        ({}, Trigger.SCHEDULE, True),
        ({}, Trigger.MANUAL, False),
        ({}, Trigger.CATCHUP, False),
        ({}, Trigger.STARTUP, False),
        ({"lock": "printer"}, Trigger.SCHEDULE, False),
        ({"recover": True}, Trigger.SCHEDULE, False),
    ],
)
def test_what_would_keep_others_waiting_or_run_again_is_claimed_alone(options, trigger, may_join):
    bench = Bench("a", **options)

    assert bench.runner.claims.may_join(Fire(task="a", due=NOON, trigger=trigger)) is may_join


def test_the_deadline_of_a_run_begins_with_its_turn():
    bench = Bench("a", "b", timeout=10)
    (_, first), (_, second) = bench.runner.claims.claim_all(bench.fires)
    bench.runner.begin(first)
    bench.clock.advance(9)
    bench.runner.begin(second)

    bench.clock.advance(5)

    assert [run.task for run in bench.runner.upkeep.give_up_overdue()] == ["a"]
    assert bench.runner.lasting(0) == {second.run.id}


def test_a_run_whose_turn_comes_after_its_grace_is_missed():
    bench = Bench("a", "b")
    (_, first), (_, second) = bench.runner.claims.claim_all(bench.fires)
    bench.runner.begin(first)
    for _ in range(4):
        bench.clock.advance(LEASE / 3)
        bench.runner.upkeep.renew()

    assert not bench.runner.begin(second)

    assert [(run.task, run.outcome, run.started) for run in bench.records] == [("b", Outcome.MISSED, None)]
    assert [run.task for run in bench.store.running()] == ["a"]


def test_a_run_whose_lease_ended_before_its_turn_is_not_begun():
    bench = Bench("a", "b")
    fires = [Fire(task=fire.task, due=fire.due) for fire in bench.fires]  # which it is never too late for
    (_, first), (_, second) = bench.runner.claims.claim_all(fires)
    bench.runner.begin(first)
    bench.clock.advance(LEASE + timedelta(seconds=1))  # frozen meanwhile

    assert not bench.runner.begin(second)

    assert [(run.task, run.outcome) for run in bench.records] == [("b", Outcome.MISSED)]


def test_the_lease_of_a_run_that_waits_for_its_turn_is_renewed():
    bench = Bench("a", "b")
    fires = [Fire(task=fire.task, due=fire.due) for fire in bench.fires]
    (_, first), (_, second) = bench.runner.claims.claim_all(fires)
    bench.runner.begin(first)
    for _ in range(6):
        bench.clock.advance(LEASE / 3)
        bench.runner.upkeep.renew()

    assert bench.runner.begin(second)


def test_a_run_that_somebody_has_found_lost_before_its_turn_is_not_begun():
    bench = Bench("a", "b")
    fires = [Fire(task=fire.task, due=fire.due) for fire in bench.fires]
    (_, _), (_, second) = bench.runner.claims.claim_all(fires)
    bench.store.reap(bench.clock.now() + 2 * LEASE)
    bench.runner.upkeep.renew()

    assert not bench.runner.begin(second)


def test_at_the_end_of_the_process_what_has_not_begun_is_missed_and_not_abandoned():
    bench = Bench("a", "b")
    (_, first), (_, second) = bench.runner.claims.claim_all(bench.fires)
    bench.runner.begin(first)

    bench.runner.upkeep.abandon()
    bench.runner.upkeep.record_last(1)

    assert {run.task: (run.outcome, run.started is None) for run in bench.records} == {
        "a": (Outcome.ABANDONED, False),
        "b": (Outcome.MISSED, True),
    }
    assert not bench.runner.begin(second)


def test_what_is_claimed_and_has_not_begun_when_all_are_asked_to_stop_is_missed():
    bench = Bench("a", "b")
    (_, first), (_, second) = bench.runner.claims.claim_all(bench.fires)
    bench.runner.begin(first)

    bench.runner.upkeep.cancel()

    assert not bench.runner.begin(second)
    assert [(run.task, run.outcome, run.reason) for run in bench.records] == [
        ("b", Outcome.MISSED, "it had not begun: the process ends")
    ]
    assert [run.task for run in bench.store.running()] == ["a"]


def test_what_is_taken_out_of_a_handful_is_there_for_nobody_else():
    bench = Bench("a", "b", "c")
    handful = Handful(bench.runner.claims.claim_all(bench.fires))
    fire, active = handful.next()
    handful.note(active, bench.replies["a"])

    assert fire.task == "a"
    assert [fire.task for fire, _ in handful.rest()] == ["b", "c"]
    assert handful.next() is None
    assert handful.done() == [(active, bench.replies["a"])]
    assert handful.done() == []
