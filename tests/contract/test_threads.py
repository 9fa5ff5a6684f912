"""What is particular to threads: they cannot be killed, only left behind, and that is bounded."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import endpoints
import pytest
from bench import LIMIT, Bench, Recorder, benches, wait_until
from servers import holds_for

from pulse.clock import Effort, SystemClock
from pulse.config import read_config
from pulse.control import Control
from pulse.dispatch import Reply
from pulse.fleet import Fleet, FleetClock
from pulse.missed import Rung
from pulse.model import Fire, Limits, Outcome
from pulse.runner import Runner
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import schedule_of
from pulse.testing import ManualClock
from pulse.workers.handful import Handful
from pulse.workers.pool import ABANDONED_LIMIT, CROWD, STUCK_LIMIT, Worker
from pulse.workers.queue import FireQueue, Manner
from pulse.workers.threads import BRISK_RUNS, BUSY, MOMENT, ThreadWorkers


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setenv(endpoints.RELEASE, str(tmp_path / "release"))
    with benches("threading") as make:
        yield make


def test_a_log_that_cannot_be_written_ends_no_worker(make, monkeypatch):
    class Broken(logging.Handler):
        def emit(self, record):
            raise ValueError("I/O operation on closed file")

    bench = make(workers=1, timeout=60)
    handler = Broken()
    logging.getLogger("pulse").addHandler(handler)
    try:
        for _ in range(3):
            bench.submit("raises", "ok")
            bench.submit("answers_500")
        wait_until(lambda: len(bench.outcomes("ok")) >= 1 and bench.outcomes("answers_500"))
        assert bench.run("where").outcome is Outcome.SUCCESS
    finally:
        logging.getLogger("pulse").removeHandler(handler)


def test_a_run_that_an_idle_process_finds_lost_is_recovered_at_once():
    clock, store, lease, records = ManualClock(), MemoryRunStore(), timedelta(seconds=30), []
    tasks = read_config(tasks={"a": {"interval": "1h", "recover": True}}).tasks
    schedules = {"a": schedule_of(tasks["a"])}
    store.register(["a"], clock.now())
    fire = Fire(task="a", due=clock.now() + timedelta(hours=1))
    recovers = Limits(recovers=True)
    store.claim(fire, owner="dead:1", now=fire.due, lease=lease, passed=lambda _: None, limits=recovers)
    clock.advance(timedelta(hours=1) + 2 * lease)
    runner = Runner(
        tasks, schedules, store=store, dispatch=lambda *_: Reply(outcome=Outcome.SUCCESS), clock=clock, owner="here:1",
        lease=lease, hears=[Recorder(records)],
    )  # fmt: skip
    workers = ThreadWorkers(runner, workers=2, clock=clock)
    workers.start()
    try:
        clock.advance(runner.upkeep.beat)
        wait_until(lambda: [run.outcome for run in records] == [Outcome.LOST])
        next_beat = clock.monotonic() + runner.upkeep.beat

        def is_recovered() -> bool:
            if clock.monotonic() < next_beat - 1:
                clock.advance(0.02)
            return len(records) == 2

        wait_until(is_recovered)
    finally:
        workers.close(0)


def test_hung_runs_are_replaced_up_to_a_limit_and_the_task_recovers_when_they_come_back(make):
    bench = make(workers=1)

    for count in range(1, STUCK_LIMIT + 1):
        bench.submit("hangs")
        wait_until(lambda count=count: bench.outcomes("hangs") == [Outcome.TIMEOUT] * count)
    bench.submit("hangs")

    wait_until(lambda: [run.outcome for run in bench.records].count(Outcome.SKIPPED) == 1)
    assert bench.workers.abandoned == STUCK_LIMIT < ABANDONED_LIMIT
    assert bench.run("ok").outcome is Outcome.SUCCESS
    bench.release()
    wait_until(lambda: bench.workers.abandoned == 0)
    bench.submit("hangs")
    wait_until(lambda: bench.outcomes("hangs")[-1] is Outcome.SUCCESS)


def under_way(bench: Bench) -> set[str]:
    return {run.task for run in bench.store.running()}


def test_tasks_that_hang_leave_a_worker_to_those_that_do_not(make):
    bench = make(workers=2, timeout=90)
    for task in ("hangs", "tells"):
        bench.workers._queue.mark(task, Manner.TROUBLED)  # as after a run that timed out
    bench.submit("hangs", "tells")
    wait_until(lambda: under_way(bench))

    bench.submit("ok")

    wait_until(lambda: bench.outcomes("ok") == [Outcome.SUCCESS])


def test_a_task_that_timed_out_is_known_for_it_until_a_run_of_it_comes_back(make):
    bench = make(timeout=0.3)

    bench.run("hangs")
    wait_until(lambda: bench.workers._queue.manner_of("hangs") is Manner.TROUBLED)
    bench.release()
    bench.submit("hangs")

    wait_until(lambda: bench.workers._queue.manner_of("hangs") in (Manner.QUICK, Manner.SLOW))


def test_a_call_by_hand_for_which_there_is_no_thread_keeps_nobody_waiting(make, monkeypatch):
    bench = make()

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            bench.workers.run_apart(bench.fire("ok"))

    assert bench.workers.busy == 0
    assert not bench.workers._pool._running  # `close` waits for them


def test_who_waits_for_the_sign_to_stop_is_woken_by_it():
    control, woken = Control(), []
    threads = [threading.Thread(target=lambda: woken.append(control.wait(LIMIT))) for _ in range(3)]
    for thread in threads:
        thread.start()

    control.stop("by ada")

    for thread in threads:
        thread.join()
    assert woken == [True] * 3


LASTING = ("hangs", "tells", "polite", "endless")


def test_runs_that_last_keep_nobody_waiting_where_nobody_has_set_a_bound(make):
    bench = make(workers=1, is_bound=False, timeout=90)

    bench.submit(*LASTING, "slow", "ok")

    wait_until(lambda: bench.outcomes("ok") + bench.outcomes("slow") == [Outcome.SUCCESS] * 2)
    assert under_way(bench) == set(LASTING)


def test_the_threads_that_joined_leave_when_they_are_not_needed_any_more(make):
    bench = make(workers=1, is_bound=False, timeout=90)
    bench.submit("hangs", "tells", "slow", "ok")
    wait_until(lambda: bench.outcomes("ok") and len(bench.workers._pool) > 1)

    bench.release()
    wait_until(lambda: not under_way(bench))
    for _ in range(9):  # those that have had nothing to do leave after their first run
        bench.submit("ok")

    def is_as_before() -> bool:
        bench.submit("ok")
        return len(bench.workers._pool) == 1

    wait_until(is_as_before)


def test_a_bound_lets_only_tasks_that_are_known_to_be_quick_pass_by_runs_that_last(make):
    bench = make(workers=2, timeout=90)
    bench.run("ok")
    bench.workers._queue.mark("ok", Manner.QUICK)  # whatever this machine takes for it
    bench.submit("hangs", "tells")
    wait_until(lambda: under_way(bench) == {"hangs", "tells"})

    bench.submit("where", "ok")

    wait_until(lambda: len(bench.outcomes("ok")) == 2)
    assert under_way(bench) == {"hangs", "tells"}
    assert bench.outcomes("where") == []
    bench.release()
    wait_until(lambda: bench.outcomes("where"))


def test_a_bound_is_passed_by_two_runs_at_most_whatever_they_were_known_for(make):
    bench = make(workers=2, timeout=90)
    for task in (*LASTING, "ok"):
        bench.workers._queue.mark(task, Manner.QUICK)
    bench.submit(*LASTING)
    wait_until(lambda: under_way(bench) == set(LASTING))
    wait_until(lambda: all(worker.is_held for worker in bench.workers._pool._usual))

    bench.submit("ok")

    assert holds_for(0.5, lambda: len(bench.workers._pool) == 4 and bench.outcomes("ok") == [])
    bench.release()
    wait_until(lambda: bench.outcomes("ok"))


def test_one_worker_runs_one_after_the_other(make):
    bench = make(workers=1, timeout=90)
    bench.workers._queue.mark("ok", Manner.QUICK)
    bench.submit("hangs")
    wait_until(lambda: any(worker.is_held for worker in bench.workers._pool._usual))

    bench.submit("ok")

    assert holds_for(0.5, lambda: bench.outcomes("ok") == [])
    bench.release()
    wait_until(lambda: bench.outcomes("ok"))


@pytest.mark.parametrize("is_computing", [True, False])
def test_a_process_that_computes_gets_no_more_runs_at_once(make, is_computing):
    bench = make(workers=1, is_bound=False, timeout=90)
    bench.workers._ended.set()  # nobody looks but this test
    bench.submit("hangs")
    wait_until(lambda: bench.workers._runner.lasting(MOMENT))
    bench.submit("tells", "polite")

    bench.workers._relieve(is_computing=is_computing)

    assert len(bench.workers._pool) == (1 if is_computing else 3)


def test_the_effort_of_a_process_is_what_it_has_used_since_the_last_look():
    clock = ManualClock(datetime(2027, 5, 1, tzinfo=UTC))
    effort = Effort(clock)
    sum(range(1_000_000))  # milliseconds of work in no time at all
    assert effort.since_last() > BUSY

    clock.advance(1000)

    assert effort.since_last() < BUSY


def test_in_a_crowd_of_threads_left_behind_a_task_has_one_and_new_tasks_none(make):
    bench = make(workers=1)
    bench.run("hangs")
    wait_until(lambda: bench.workers.abandoned == 1)
    bench.workers._queue.mark("ok", Manner.SLOW)
    crowd = {Worker(fire=bench.fire("raises"), is_abandoned=True) for _ in range(CROWD)}

    bench.workers._pool._abandoned |= crowd
    hung = bench.workers._why_not("hangs")
    bench.workers._pool._abandoned |= {Worker(fire=bench.fire("raises")) for _ in range(ABANDONED_LIMIT)}

    assert hung == "1 earlier runs never came back from their threads"
    assert "no run of this task has yet" in bench.workers._why_not("where")
    assert bench.workers._why_not("ok") == ""


def test_a_brisk_pace_keeps_no_run_waiting_for_one_that_takes_its_time(make, monkeypatch):
    monkeypatch.setattr("pulse.workers.threads.BRISK", LIMIT)  # on a slow machine, too, all that come back are
    bench = make(workers=2, timeout=2 * LIMIT)
    for _ in range(BRISK_RUNS):
        bench.run("ok")
        bench.records.clear()
    assert bench.workers._queue.is_brisk

    bench.submit("hangs", "ok")

    wait_until(lambda: bench.outcomes("ok") == [Outcome.SUCCESS])
    assert not bench.outcomes("hangs")


def test_a_run_that_is_not_over_at_once_ends_a_brisk_pace(make, monkeypatch):
    monkeypatch.setattr("pulse.workers.threads.BRISK", LIMIT)
    bench = make(workers=2, timeout=2 * LIMIT)
    for _ in range(BRISK_RUNS):
        bench.run("ok")
        bench.records.clear()
    monkeypatch.setattr("pulse.workers.threads.BRISK", 0.0)

    bench.run("ok")

    wait_until(lambda: not bench.workers._queue.is_brisk)


def brisk_bench(make, monkeypatch, **more) -> Bench:
    """One whose threads take several tasks at a time."""
    monkeypatch.setattr("pulse.workers.threads.BRISK", LIMIT)
    bench = make(**more)
    for _ in range(BRISK_RUNS):
        bench.run("ok")
        bench.records.clear()
    assert bench.workers._queue.is_brisk
    return bench


def test_only_at_a_brisk_pace_several_tasks_are_claimed_together(make, monkeypatch):
    assert not make().workers._joins(make().fire("ok"))
    assert brisk_bench(make, monkeypatch).workers._joins(make().fire("ok"))


def test_what_was_claimed_with_a_run_that_hangs_is_run_by_others_once(make, monkeypatch):
    bench = brisk_bench(make, monkeypatch, workers=2, timeout=0.5)

    bench.submit("hangs", "ok", "where", "raises")

    wait_until(lambda: len(bench.records) == 4)
    assert {run.task: run.outcome for run in bench.records} == {
        "hangs": Outcome.TIMEOUT, "ok": Outcome.SUCCESS, "where": Outcome.SUCCESS, "raises": Outcome.FAILED,
    }  # fmt: skip
    assert bench.store.running() == []


def test_what_came_back_is_recorded_though_a_later_run_of_the_handful_hangs(make, monkeypatch):
    bench = brisk_bench(make, monkeypatch, workers=2, timeout=2 * LIMIT)

    bench.submit("raises", "where", "hangs")

    wait_until(lambda: {run.task for run in bench.records} == {"raises", "where"})
    assert [run.task for run in bench.store.running()] == ["hangs"]
    bench.release()
    wait_until(lambda: bench.outcomes("hangs") == [Outcome.SUCCESS])
    assert len(bench.records) == 3


def test_one_worker_claims_nothing_behind_a_run_that_hangs(make, monkeypatch):
    bench = brisk_bench(make, monkeypatch, workers=1, timeout=2 * LIMIT)

    bench.submit("hangs", "ok", "where")
    wait_until(lambda: bench.workers._runner.lasting(MOMENT))

    assert under_way(bench) == {"hangs"}  # the others are for whichever process of the fleet is idle


def test_where_runs_hold_all_threads_but_one_it_claims_nothing_behind_another_one(make, monkeypatch):
    bench = brisk_bench(make, monkeypatch, workers=2, timeout=2 * LIMIT)
    for task in LASTING[:3]:
        bench.workers._queue.mark(task, Manner.QUICK)
        bench.submit(task)
    wait_until(lambda: sum(worker.is_held for worker in bench.workers._pool._usual) == 3)

    def joins() -> bool:
        bench.workers._queue.pace(is_brisk=True)  # which a run that lasts ends
        return bench.workers._joins(bench.fire("ok"))

    wait_until(lambda: not joins())
    assert holds_for(0.3, lambda: not joins())
    bench.release()


def test_what_was_claimed_with_a_run_that_hangs_passes_by_the_bound(make):
    bench = make(workers=2, timeout=2 * LIMIT)
    bench.submit("hangs", "tells")
    wait_until(lambda: under_way(bench) == {"hangs", "tells"})

    unknown = [bench.fire("where"), bench.fire("raises")]  # none of which has run before
    bench.workers._queue.give_back(Handful(bench.workers._runner.claims.claim_all(unknown)))

    wait_until(lambda: {run.task for run in bench.records} == {"where", "raises"})
    assert under_way(bench) == {"hangs", "tells"}
    bench.release()


def test_what_a_handful_still_holds_at_the_end_has_its_record(make, monkeypatch):
    monkeypatch.setattr("pulse.workers.threads.LOOK", 2 * LIMIT)  # the watcher has not noticed that the first one hangs
    bench = brisk_bench(make, monkeypatch, workers=2, timeout=2 * LIMIT)
    bench.submit("hangs", "raises", "where")  # none of which has run before, so they go together
    wait_until(lambda: len(bench.store.running()) == 3)

    bench.workers.close(0.1)

    assert bench.outcomes("hangs") == [Outcome.ABANDONED]
    assert {run.task for run in bench.records} == {"hangs", "raises", "where"}
    assert bench.store.running() == []


def test_the_end_waits_for_what_the_watcher_is_recording(make, monkeypatch):
    bench = brisk_bench(make, monkeypatch, workers=2, timeout=2 * LIMIT)
    finish_all, is_recording, goes_on = bench.workers._runner.finish_all, threading.Event(), threading.Event()

    def take_time(ended):
        if threading.current_thread().name == "pulse-watch":
            is_recording.set()
            goes_on.wait(LIMIT)
        finish_all(ended)

    monkeypatch.setattr(bench.workers._runner, "finish_all", take_time)
    bench.submit("raises", "hangs")
    assert is_recording.wait(LIMIT)
    bench.release()
    wait_until(lambda: not bench.workers.busy)

    end = threading.Thread(target=bench.workers.close, args=(LIMIT,))
    end.start()

    assert holds_for(0.3, end.is_alive)
    goes_on.set()
    end.join()
    assert {run.task for run in bench.records} == {"raises", "hangs"}
    assert bench.store.running() == []


def test_what_others_cannot_run_for_want_of_a_store_holds_up_nobody(make, monkeypatch):
    bench = brisk_bench(make, monkeypatch, workers=2)

    def break_down(*_args, **_terms):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "claim_all", break_down)
        bench.submit("ok", "where")
        wait_until(lambda: not bench.workers.busy and not bench.workers._queue.count(Manner.QUICK, Manner.SLOW))

    assert bench.run("where").outcome is Outcome.SUCCESS


@pytest.fixture
def brisk_queue() -> Iterator[FireQueue]:
    queue = FireQueue()
    queue.pace(is_brisk=True)
    yield queue
    queue.close()


def test_at_a_brisk_pace_a_second_thread_leaves_what_waits_to_the_first(brisk_queue):
    put(brisk_queue, "a")
    assert brisk_queue.get()[0].task == "a"
    put(brisk_queue, "b")
    second = Taker(brisk_queue)

    assert brisk_queue.get()[0].task == "b"
    assert not second.taken


def test_at_a_brisk_pace_a_second_thread_goes_on_where_the_first_does_not_come_back(brisk_queue):
    put(brisk_queue, "a")
    brisk_queue.get()
    second = Taker(brisk_queue)
    put(brisk_queue, "b")

    brisk_queue.stir()

    wait_until(lambda: second.taken == ["b"])


def test_at_a_brisk_pace_whoever_waits_is_called_again_after_a_call_that_nobody_heard(brisk_queue):
    put(brisk_queue, "a")
    brisk_queue.get()
    brisk_queue.stir()
    put(brisk_queue, "b")  # which calls, and nobody is there
    brisk_queue.get()
    brisk_queue.stir()
    second = Taker(brisk_queue)

    put(brisk_queue, "c")

    wait_until(lambda: second.taken == ["c"])


class Taker:
    """A thread that takes one task; it has found nothing so far."""

    def __init__(self, queue: FireQueue) -> None:
        self.taken: list[str] = []
        self._queue = queue
        threading.Thread(target=self._take, daemon=True).start()
        wait_until(lambda: queue._changed._waiters)

    def _take(self) -> None:
        self.taken += [fire.task for fire in self._queue.get()]


def put(queue: FireQueue, task: str) -> None:
    queue.put([Rung(Fire(task=task, due=datetime(2027, 5, 1, tzinfo=UTC)), 1)])


class SlowStore(MemoryRunStore):
    """A store that takes its time to hear of a process."""

    def __init__(self):
        super().__init__()
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def beat(self, *said):
        self.is_asked.set()
        self.may_answer.wait(LIMIT)
        return super().beat(*said)


def test_a_process_that_ends_while_it_says_that_it_lives_is_not_known_afterwards():
    store = SlowStore()
    fleet = Fleet(read_config(), store=store, clock=FleetClock(SystemClock()), beat=timedelta(seconds=10))
    store.may_answer.set()
    fleet.join("test")
    store.may_answer.clear()
    store.is_asked.clear()
    beat, leave = threading.Thread(target=fleet.beat), threading.Thread(target=fleet.leave)

    beat.start()
    assert store.is_asked.wait(LIMIT)
    leave.start()
    leave.join(0.1)
    store.may_answer.set()
    for thread in (beat, leave):
        thread.join(LIMIT)

    assert store.instances() == []
