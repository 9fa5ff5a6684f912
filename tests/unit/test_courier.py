"""What is handed over to Celery, once, and what becomes of it while the broker is silent."""

from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from bench import Recorder

from pulse.claims import QUEUED
from pulse.config import read_config
from pulse.dispatch import Reply
from pulse.errors import BrokerUnavailableError, ClosedError, StoreUnavailableError
from pulse.missed import Rung
from pulse.model import Fire, Limits, Outcome, Pause, Run, Trigger
from pulse.runner import Runner
from pulse.runstores.ledger import NOT_TAKEN, RECOVERIES
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import schedule_of
from pulse.testing import ManualClock
from pulse.workers.attendant import Attendant
from pulse.workers.courier import TRY_AGAIN, Courier

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=30)


class FakePost:
    """A broker that is there, or is not."""

    def __init__(self) -> None:
        self.sent: list[tuple[Run, datetime]] = []
        self.recalled: list[Run] = []
        self.knocks = 0
        self.is_there = self.takes = True
        self.during = lambda: None  # called while it is asked for something

    def knock(self) -> None:
        self.knocks += 1
        self.during()
        if not self.is_there:
            raise BrokerUnavailableError("the broker is away")

    def send(self, run: Run, until: datetime) -> None:
        self.during()
        if not (self.is_there and self.takes):
            raise BrokerUnavailableError("the broker is away")
        self.sent.append((run, until))

    def recall(self, run: Run) -> None:
        self.recalled.append(run)


class Flaky(MemoryRunStore):
    """A store that does not answer while it is down."""

    is_down = False

    @contextmanager
    def _step(self, *tasks):
        if self.is_down:
            raise StoreUnavailableError("the store is down")
        with super()._step(*tasks):
            yield


class Turns(ManualClock):
    """Time passes when it is waited for; after so many *turns* of a loop *end* is called."""

    def play(self, turns, loop, end):
        self.left, self.end = 2 * turns, end
        loop()

    def wait(self, event, seconds):
        self.advance(seconds)
        self.left -= 1
        if not self.left:
            self.end()
        return event.is_set()


class StandsDown:
    def why_not(self, task: str) -> str:
        return "a newer configuration has changed it"


class Bench:
    """Processes that ring, and one of Celery's, over one store; the task is due every minute."""

    def __init__(self, *, fleet=None, clock=None, store=None, **task) -> None:
        self.clock = clock or ManualClock(NOON)
        self.store = store or MemoryRunStore()
        self.store.register(["a"], NOON)
        self.records: list[Run] = []
        self.post = FakePost()
        self.reply = Reply(outcome=Outcome.SUCCESS, status=200)
        self.task = {"interval": 60, **task}
        self.courier = Courier(self.runner("web:1", fleet), self.post, store=self.store, clock=self.clock)
        self.taker = self.runner("celery:2")

    def runner(self, owner: str, fleet=None) -> Runner:
        tasks = read_config(tasks={"a": self.task}).tasks
        return Runner(
            tasks, {"a": schedule_of(tasks["a"])}, store=self.store, dispatch=lambda *_: self.reply,
            clock=self.clock, owner=owner, lease=LEASE, fleet=fleet, hears=[Recorder(self.records)],
        )  # fmt: skip

    def fire(self, minute: int = 1, *, grace: float | None = 60, **more) -> Fire:
        due = NOON + timedelta(minutes=minute)
        if self.clock.now() < due:
            self.clock.advance(due - self.clock.now())
        return Fire(task="a", due=due, latest=None if grace is None else due + grace * SECOND, **more)

    def take(self, fire: Fire, **more) -> Run | None:
        """What a worker of Celery does with the message about *fire*."""
        said = {"task": fire.task, "due": fire.due, "latest": fire.latest, "run_id": fire.run_id, **more}
        return self.taker.run(Fire(**said, is_reserved=True))

    def ring(self, fire: Fire) -> None:
        self.courier._hand_over_or_hold_back(fire)

    @property
    def recorded(self) -> list[tuple[Outcome | None, str]]:
        return [(run.outcome, run.reason) for run in self.store.history("a")]


# Handing over


def test_a_fire_is_claimed_for_the_queue_until_its_grace_is_over_and_sent():
    bench = Bench()

    run = bench.courier.hand_over(bench.fire())

    assert run.is_reserved
    assert run.expires == run.due + 60 * SECOND
    assert bench.post.sent == [(run, run.expires)]
    assert bench.store.running() == [run]
    assert bench.store.history("a") == []


def test_of_two_that_ring_one_sends():
    bench = Bench()
    other = Courier(bench.runner("web:2"), bench.post, store=bench.store, clock=bench.clock)
    fire = bench.fire()

    runs = [courier.hand_over(fire) for courier in (bench.courier, other)]

    assert [run is not None for run in runs] == [True, False]
    assert len(bench.post.sent) == 1


def test_a_missed_instant_is_handed_over_when_the_one_before_has_been_run():
    bench = Bench()
    fires = [bench.fire(minute, grace=None, is_in_turn=True) for minute in (1, 2)]
    for one in fires:
        bench.courier.submit([Rung(one, 9)])

    bench.ring(bench.courier._queue.poll())
    second = bench.courier._queue.poll()
    bench.ring(second)
    assert [run.due for run, _ in bench.post.sent] == [fires[0].due]
    assert bench.courier._queue.is_resting
    bench.take(fires[0])
    bench.courier._queue.wake()
    bench.ring(bench.courier._queue.poll())

    assert [run.due for run, _ in bench.post.sent] == [fire.due for fire in fires]
    assert bench.recorded == [(Outcome.SUCCESS, "")]


def test_missed_instants_wait_one_behind_the_other_for_a_broker_that_is_away():
    bench = Bench()
    fires = [bench.fire(minute, grace=None, is_in_turn=True) for minute in (1, 2)]
    for one in fires:
        bench.courier.submit([Rung(one, 9)])
    bench.courier._queue.poll()
    bench.post.is_there = False
    bench.courier._note_silence(BrokerUnavailableError("the broker is away"))

    bench.ring(fires[0])
    assert bench.courier._queue.poll() is None
    assert not bench.courier._held_back
    bench.post.is_there = True
    bench.clock.advance(10)
    bench.courier._queue.wake()
    bench.ring(bench.courier._queue.poll())

    assert [run.due for run, _ in bench.post.sent] == [fires[0].due]


def test_a_missed_instant_whose_grace_ends_while_the_broker_is_away_says_that_it_was_the_broker():
    bench = Bench()
    fires = [bench.fire(1, grace=60, is_in_turn=True), bench.fire(2, grace=None, is_in_turn=True)]
    for one in fires:
        bench.courier.submit([Rung(one, 9)])
    bench.post.is_there = False
    bench.courier._note_silence(BrokerUnavailableError("the broker is away"))

    bench.ring(bench.courier._queue.poll())
    bench.clock.advance(61)
    bench.courier._queue.wake()
    bench.ring(bench.courier._queue.poll())

    assert bench.recorded == [(Outcome.MISSED, "the broker is away")]
    assert bench.courier._queue.poll() == fires[1]


def test_a_fire_without_a_limit_waits_for_a_day():
    bench = Bench()

    run = bench.courier.hand_over(bench.fire(grace=None))

    assert run.expires - run.due == QUEUED


def test_a_process_with_an_older_configuration_hands_nothing_over():
    bench = Bench(fleet=StandsDown())

    assert bench.courier.hand_over(bench.fire()) is None
    assert bench.post.sent == bench.store.running() == []


def test_what_the_store_refuses_is_not_sent():
    bench = Bench()
    bench.store.pause("a", Pause(since=NOON, note="migration"))

    bench.ring(bench.fire())

    assert bench.recorded == [(Outcome.SKIPPED, "the task is paused: migration")]
    assert bench.post.sent == []


# Taking over


def test_a_worker_takes_the_run_over_and_finishes_it():
    bench = Bench()
    fire = bench.fire()
    bench.ring(fire)
    bench.clock.advance(5 * SECOND)

    run = bench.take(fire)

    assert (run.outcome, run.owner, run.lateness) == (Outcome.SUCCESS, "celery:2", 5 * SECOND)
    assert bench.store.history("a") == [run] == bench.records
    assert bench.store.running() == []


def test_a_message_that_comes_twice_is_run_once():
    bench = Bench()
    fire = bench.fire()
    bench.ring(fire)

    assert [bench.take(fire) is None for _ in range(2)] == [False, True]
    assert len(bench.store.history("a")) == 1


def test_a_message_about_a_run_that_nobody_claimed_is_nothing():
    bench = Bench()

    assert bench.take(bench.fire()) is None
    assert bench.recorded == []


def test_a_message_that_comes_after_its_grace_is_missed():
    bench = Bench()
    fire = bench.fire(grace=90)
    bench.ring(fire)
    bench.clock.advance(92 * SECOND)

    assert bench.take(fire).started is None
    assert bench.recorded == [(Outcome.MISSED, "taken from the queue 2.0 s after its grace was over")]


def test_a_worker_that_froze_while_it_took_a_run_over_does_not_begin_it():
    bench = Bench()
    fire = bench.fire(grace=600)
    bench.ring(fire)
    adopt = bench.store.adopt

    def freeze(*args, **kwargs):
        taken = adopt(*args, **kwargs)
        bench.clock.advance(LEASE + SECOND)
        return taken

    bench.store.adopt = freeze

    assert bench.take(fire).started is None
    assert bench.recorded == [(Outcome.MISSED, "its lease ended before it could begin")]


def test_a_task_that_was_paused_meanwhile_is_skipped_but_not_when_it_was_called_by_hand():
    bench = Bench(max_instances=2)
    fire, by_hand = bench.fire(), bench.fire(trigger=Trigger.MANUAL, run_id="hand")
    for one in (fire, by_hand):
        bench.ring(one)
    bench.store.pause("a", Pause(since=NOON, note="migration"))

    assert bench.take(fire).outcome is Outcome.SKIPPED
    assert bench.take(by_hand, trigger=Trigger.MANUAL).outcome is Outcome.SUCCESS
    assert bench.recorded[1] == (Outcome.SKIPPED, "the task is paused: migration")


def test_what_was_cancelled_meanwhile_is_not_begun():
    bench = Bench()
    fire = bench.fire()
    bench.ring(fire)
    bench.store.ask_to_stop(fire.run_id, "enough")

    assert bench.take(fire).started is None
    assert bench.recorded == [(Outcome.CANCELLED, "enough")]


def test_a_run_that_failed_is_handed_over_again_by_the_process_that_ran_it():
    bench = Bench(retries=1, retry_delay=5)
    fire = bench.fire()
    bench.ring(fire)
    bench.reply = Reply(outcome=Outcome.FAILED, status=500)
    attendant = Attendant(bench.taker, bench.post, fleet=None, clock=bench.clock, at_end=lambda: None)

    bench.take(fire)
    attendant._hand_over_attempts()
    too_early = len(bench.post.sent)
    bench.clock.advance(5 * SECOND)
    attendant._hand_over_attempts()

    assert too_early == 1
    again, until = bench.post.sent[1]
    assert (again.id, again.attempt, again.trigger) == (fire.run_id, 2, Trigger.RETRY)
    assert until == fire.due + 60 * SECOND  # of a further attempt it is the next instant
    assert bench.take(fire, attempt=2, trigger=Trigger.RETRY).attempt == 2


def test_while_the_broker_is_silent_a_further_attempt_waits_in_the_store_for_those_that_ring():
    bench = Bench(retries=1, retry_delay=5)
    fire = bench.fire()
    bench.ring(fire)
    bench.reply = Reply(outcome=Outcome.FAILED, status=500)
    attendant = Attendant(bench.taker, bench.post, fleet=None, clock=bench.clock, at_end=lambda: None)
    bench.take(fire)
    bench.post.is_there = False

    bench.clock.advance(5 * SECOND)
    attendant._hand_over_attempts()

    assert [run.attempt for run in bench.store.waiting()] == [2]
    bench.courier._runner.upkeep.renew()
    assert [(one.run_id, one.attempt) for one in bench.courier._runner.due_again()] == [(fire.run_id, 2)]


# The broker is silent


def test_what_cannot_be_sent_is_sent_when_the_broker_answers_again():
    bench = Bench()
    bench.post.is_there = False
    fire = bench.fire()
    bench.ring(fire)
    assert [run.is_reserved for run in bench.store.running()] == [True]  # it was claimed before that was known

    bench.post.is_there = True
    bench.clock.advance(TRY_AGAIN)
    bench.courier._offer_again()

    assert [run.id for run, _ in bench.post.sent] == [fire.run_id]
    assert bench.courier._unsent == {}


def test_while_the_broker_is_known_to_be_silent_nothing_is_claimed():
    bench = Bench()
    bench.post.is_there = False
    bench.ring(bench.fire())
    bench.clock.advance(60 * SECOND)

    bench.ring(bench.fire(2))

    assert [run.due for run in bench.store.running()] == [NOON + 60 * SECOND]


def test_what_is_held_back_goes_to_the_senders_when_the_broker_answers_again():
    bench = Bench()
    bench.post.is_there = False
    bench.ring(bench.fire(1, grace=600))
    bench.clock.advance(TRY_AGAIN)
    fire = bench.fire(2, grace=600)
    bench.ring(fire)

    bench.post.is_there = True
    bench.clock.advance(TRY_AGAIN)
    bench.courier._offer_again()

    assert bench.courier._queue.get() == [fire]
    assert bench.courier._held_back == {}


def test_what_is_late_by_then_is_missed_and_the_record_says_that_it_was_the_broker():
    bench = Bench()
    bench.post.is_there = False
    bench.ring(bench.fire(1, grace=5))
    bench.ring(bench.fire(2, grace=5))

    bench.clock.advance(6 * SECOND)
    bench.courier._offer_again()

    assert (Outcome.MISSED, "the broker is away") in bench.recorded
    assert bench.courier._held_back == {}
    assert sum(run.count for run in bench.store.history("a")) == 2


def test_an_instant_that_the_next_one_overtakes_is_missed_with_the_same_reason():
    bench = Bench()
    bench.post.is_there = False
    bench.ring(bench.fire(1, grace=1))
    for minute in (2, 3, 4):
        bench.ring(bench.fire(minute, grace=600))
    bench.courier._drop_what_is_late("the broker is away")

    assert {reason for _, reason in bench.recorded} == {"the broker is away"}
    assert sum(run.count for run in bench.store.history("a")) == 3
    assert [fire.due.minute for fire in bench.courier._held_back["a"]] == [4]


def test_the_broker_is_asked_now_and_then_and_complained_of_once(caplog):
    bench = Bench()
    bench.post.is_there = False
    fire = bench.fire(1, grace=600)
    for _ in range(5):
        for _ in range(3):
            bench.ring(fire)
        bench.clock.advance(TRY_AGAIN)
    knocks = bench.post.knocks
    bench.post.is_there = True
    bench.courier._offer_again()

    assert knocks == 4  # the first fire found it out, and then it was asked once each time
    events = [one.pulse_event for one in caplog.records if one.pulse_event.startswith("broker")]
    assert events == ["broker_unavailable", "broker_back"]


def break_the_log(monkeypatch, module):
    def write(*said, **more):
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(f"pulse.workers.{module}.log._log", write)


def test_what_could_not_be_sent_is_sent_again_though_the_log_is_broken(monkeypatch):
    bench = Bench()
    bench.post.is_there = False
    fire = bench.fire()
    break_the_log(monkeypatch, "courier")
    bench.ring(fire)

    bench.post.is_there = True
    bench.clock.advance(TRY_AGAIN)
    bench.courier._offer_again()

    assert [run.id for run, _ in bench.post.sent] == [fire.run_id]


@pytest.mark.parametrize("process", ["courier", "attendant"])
def test_a_log_that_is_broken_ends_no_watcher(monkeypatch, process):
    bench = Bench(clock=Turns(NOON))
    attendant = Attendant(bench.taker, bench.post, fleet=None, clock=bench.clock, at_end=lambda: None)
    watched = {"courier": bench.courier, "attendant": attendant}[process]
    break_the_log(monkeypatch, process)
    looks = []
    monkeypatch.setattr(watched._runner, "due_again", lambda: looks.append(1) or 1 / 0)

    bench.clock.play(4, watched._watch, watched._ended.set)

    assert len(looks) == 4


def test_a_call_by_hand_does_not_wait_for_the_broker():
    bench = Bench()
    bench.post.takes = False

    bench.courier.hand_over(bench.fire(trigger=Trigger.MANUAL, run_id="hand"))

    assert bench.recorded == [(Outcome.MISSED, "the broker is away")]
    assert bench.store.running() == []


# What waits in the queue


def test_what_is_cancelled_while_it_waits_is_ended_and_its_message_recalled():
    bench = Bench()
    fire = bench.fire()
    bench.ring(fire)
    bench.store.ask_to_stop(fire.run_id, "enough")

    bench.courier._look_at_the_queue()

    assert bench.recorded == [(Outcome.CANCELLED, "cancelled in the queue: enough")]
    assert [run.id for run in bench.post.recalled] == [fire.run_id]
    assert bench.take(fire) is None


def test_what_is_cancelled_while_it_waits_is_not_recovered():
    bench = Bench(recover=True)
    fire = bench.fire()
    bench.ring(fire)
    bench.store.ask_to_stop(fire.run_id, "enough")

    bench.courier._look_at_the_queue()

    assert bench.store.running() == bench.store.waiting() == []


def test_what_recovers_and_could_not_be_sent_in_time_is_sent_when_the_broker_answers_again():
    bench = Bench(recover=True)
    bench.post.is_there = False
    fire = bench.fire(1, grace=5)
    bench.ring(fire)
    bench.clock.advance(60 * SECOND)
    bench.courier._offer_again()
    bench.post.is_there = True
    bench.clock.advance(TRY_AGAIN)

    (again,) = bench.courier._runner.due_again()
    bench.ring(again)

    assert bench.recorded == [(Outcome.MISSED, "the broker is away")]
    assert [(run.id, run.attempt, run.trigger) for run, _ in bench.post.sent] == [(fire.run_id, 2, Trigger.RECOVER)]


def test_what_a_worker_has_taken_is_not_ended_in_the_queue():
    bench = Bench()
    fire = bench.fire()
    run = bench.courier.hand_over(fire)
    terms = {"owner": "celery:2", "now": bench.clock.now(), "lease": LEASE, "limits": Limits(instances=None)}
    taken = bench.store.adopt(run, **terms)

    assert bench.courier._runner.claims.withdraw(run, Outcome.CANCELLED, "enough") is None
    assert bench.store.running() == [taken]


def test_what_nobody_takes_is_missed():
    bench = Bench()
    bench.ring(bench.fire())
    bench.clock.advance(61 * SECOND)

    bench.courier._runner.upkeep.renew()

    assert bench.recorded == [(Outcome.MISSED, NOT_TAKEN)]


def test_what_nobody_takes_is_handed_over_again_if_it_recovers():
    bench = Bench(recover=True)
    fire = bench.fire()
    bench.ring(fire)
    bench.clock.advance(61 * SECOND)

    bench.courier._runner.upkeep.renew()
    (again,) = bench.courier._runner.due_again()
    bench.ring(again)

    run, until = bench.post.sent[1]
    assert (run.id, run.attempt, run.trigger) == (fire.run_id, 2, Trigger.RECOVER)
    assert until - bench.clock.now() == QUEUED


# The store is silent


def test_while_the_store_does_not_answer_that_is_said_once_and_the_watcher_goes_on(caplog):
    bench = Bench(clock=Turns(NOON), store=Flaky())
    fire = bench.fire()
    bench.ring(fire)
    bench.store.ask_to_stop(fire.run_id, "enough")
    watch, end = bench.courier._watch, bench.courier._ended

    bench.store.is_down = True
    bench.clock.play(4, watch, end.set)
    while_down = [one.pulse_event for one in caplog.records]
    bench.store.is_down = False
    end.clear()
    bench.clock.play(4, watch, end.set)

    assert while_down == ["store_unavailable"]
    assert "store_back" in [one.pulse_event for one in caplog.records]
    assert bench.recorded == [(Outcome.CANCELLED, "cancelled in the queue: enough")]


def test_what_a_worker_of_celery_cannot_record_when_it_ends_is_said(caplog):
    bench = Bench(store=Flaky())
    fire = bench.fire()
    bench.ring(fire)
    ended = []
    attendant = Attendant(bench.taker, bench.post, fleet=None, clock=bench.clock, at_end=lambda: ended.append(1))
    perform = bench.taker.perform
    bench.taker.perform = lambda active: (perform(active), setattr(bench.store, "is_down", True))[0]

    assert bench.take(fire).outcome is Outcome.SUCCESS
    attendant.close()

    assert [one.pulse_event for one in caplog.records] == ["store_unavailable", "unrecorded_at_end"]
    assert ended == [1]


# The end


def test_what_could_not_be_sent_by_the_end_of_the_process_is_missed():
    bench = Bench()
    bench.post.is_there = False
    bench.ring(bench.fire())

    assert bench.courier.close(1) == 0

    assert bench.recorded == [(Outcome.MISSED, "the broker is away")]


def test_what_is_held_back_at_the_end_belongs_to_whoever_asks_next():
    bench = Bench()
    bench.post.is_there = False
    bench.ring(bench.fire(1, grace=600))
    bench.ring(bench.fire(2, grace=600))

    assert bench.courier.close(1) == 1

    assert bench.store.register(["a"], NOON)["a"] == NOON + 60 * SECOND
    with pytest.raises(ClosedError):
        bench.courier.submit([Rung(bench.fire(3))])
    with pytest.raises(ClosedError):
        bench.courier.run_apart(bench.fire(3))


def test_what_is_being_sent_at_the_end_of_the_process_is_missed_and_its_message_is_nothing():
    bench = Bench()
    bench.post.during = lambda: bench.courier.close(0)
    fire = bench.fire()

    bench.ring(fire)

    assert bench.recorded == [(Outcome.MISSED, "the process ended while it was being sent to Celery")]
    assert bench.store.running() == bench.store.waiting() == []
    assert [run.id for run, _ in bench.post.sent] == [fire.run_id]
    assert bench.take(fire) is None
    assert bench.store.history("a")[0].started is None


def test_what_was_taken_while_the_process_that_sends_it_ended_is_run_once():
    bench = Bench()
    fire = bench.fire()

    def arrive_and_end() -> None:
        bench.take(fire)
        bench.courier.close(0)

    bench.post.during = arrive_and_end
    bench.ring(fire)

    assert bench.recorded == [(Outcome.SUCCESS, "")]
    assert bench.take(fire) is None


def test_what_the_broker_refuses_while_the_process_ends_has_one_record():
    bench = Bench()
    bench.post.takes = False
    bench.post.during = lambda: bench.courier.close(0)

    bench.ring(bench.fire())

    assert bench.courier._unsent == {}
    assert bench.courier.close(0) == 0
    assert bench.recorded == [(Outcome.MISSED, "the process ended while it was being sent to Celery")]


def test_what_waits_for_its_turn_to_be_sent_when_the_process_ends_is_missed_too():
    bench = Bench(max_instances=2)
    bench.post.takes = False
    for minute in (1, 2):
        bench.ring(bench.fire(minute, grace=600))
    assert len(bench.courier._unsent) == 2
    bench.post.takes = True
    bench.clock.advance(TRY_AGAIN)

    def end_with_the_first_message() -> None:
        bench.post.during = lambda: None
        bench.courier.close(0)
        at_the_end.extend(bench.recorded)

    at_the_end: list[tuple[Outcome | None, str]] = []
    bench.courier._must_answer()
    bench.post.during = end_with_the_first_message
    bench.courier._offer_again()

    assert [outcome for outcome, _ in at_the_end] == [Outcome.MISSED, Outcome.MISSED]
    assert bench.recorded == at_the_end
    assert bench.store.running() == []


def test_what_is_claimed_while_the_process_ends_is_not_sent():
    bench = Bench()
    reserve = bench.courier._runner.claims.reserve

    def end_and_reserve(fire: Fire) -> Run | None:
        bench.courier.close(0)
        return reserve(fire)

    bench.courier._runner.claims.reserve = end_and_reserve
    bench.ring(bench.fire())

    assert bench.post.sent == []
    assert bench.recorded == [(Outcome.MISSED, "the process ended while it was being sent to Celery")]
    assert bench.store.running() == []


def test_what_is_not_claimed_when_the_process_ends_belongs_to_whoever_asks_next():
    bench = Bench()
    bench.post.is_there = False
    bench.ring(bench.fire(1, grace=600))
    bench.post.is_there = True
    bench.clock.advance(TRY_AGAIN)
    bench.post.during = lambda: bench.courier.close(0)
    fire = bench.fire(2)

    bench.ring(fire)

    assert bench.store.register(["a"], NOON)["a"] == NOON + 60 * SECOND
    with pytest.raises(ClosedError):
        bench.courier.hand_over(fire)
    heir = Courier(bench.runner("web:2"), FakePost(), store=bench.store, clock=bench.clock)
    assert heir.hand_over(fire).is_reserved


def test_what_is_being_sent_at_the_end_is_handed_over_by_another_process_if_it_recovers():
    bench = Bench(recover=True)
    bench.post.during = lambda: bench.courier.close(0)
    fire = bench.fire()
    bench.ring(fire)
    bench.post.during = lambda: None
    heir = Courier(bench.runner("web:2"), bench.post, store=bench.store, clock=bench.clock)

    heir._runner.upkeep.renew()
    (again,) = heir._runner.due_again()
    heir.hand_over(again)

    assert bench.recorded == [(Outcome.MISSED, "the process ended while it was being sent to Celery")]
    run, _ = bench.post.sent[1]
    assert (run.id, run.attempt, run.trigger) == (fire.run_id, 2, Trigger.RECOVER)
    assert bench.take(fire) is None
    assert bench.take(fire, attempt=2, trigger=Trigger.RECOVER).outcome is Outcome.SUCCESS


def test_what_recovers_is_not_handed_over_without_end():
    bench = Bench(recover=True)
    bench.post.is_there = False
    bench.ring(bench.fire(1, grace=600))
    attempts = 1
    for number in range(5):
        bench.courier.close(0)
        bench.courier = Courier(bench.runner(f"web:{number}"), bench.post, store=bench.store, clock=bench.clock)
        bench.courier._runner.upkeep.renew()
        for again in bench.courier._runner.due_again():
            attempts += 1
            bench.ring(again)

    assert attempts == RECOVERIES
    assert bench.store.running() == bench.store.waiting() == []


def test_a_call_by_hand_that_is_being_sent_at_the_end_is_told_so():
    bench = Bench()
    bench.post.during = lambda: bench.courier.close(0)
    promise: Future[Run | None] = Future()

    bench.courier._send_apart(bench.fire(trigger=Trigger.MANUAL, run_id="hand"), promise)

    with pytest.raises(ClosedError, match="run hand of a"):
        promise.result(0)
    assert bench.recorded == [(Outcome.MISSED, "the process ended while it was being sent to Celery")]


def test_a_further_attempt_that_the_broker_does_not_take_is_missed_at_once():
    bench = Bench(retries=1, retry_delay=5)
    fire = bench.fire()
    bench.ring(fire)
    bench.reply = Reply(outcome=Outcome.FAILED, status=500)
    attendant = Attendant(bench.taker, bench.post, fleet=None, clock=bench.clock, at_end=lambda: None)
    bench.take(fire)
    bench.post.takes = False

    bench.clock.advance(5 * SECOND)
    attendant._hand_over_attempts()

    assert bench.recorded[0] == (Outcome.MISSED, "the broker is away")
    assert bench.store.running() == bench.store.waiting() == []
