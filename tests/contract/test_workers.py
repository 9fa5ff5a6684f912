"""The contract of `Workers`: every mode runs, bounds and survives the same endpoints."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import endpoints
import pytest
from bench import LIMIT, Bench, benches, wait_until

from pulse.errors import ClosedError
from pulse.middleware import PulseMiddleware
from pulse.missed import Rung
from pulse.model import Fire, Outcome, Progress, Trigger


@pytest.fixture(params=["threading", "processing"])
def make(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setenv(endpoints.RELEASE, str(tmp_path / "release"))
    # Else whoever asks a run to stop, or how far it has got, is heard after a second.
    monkeypatch.setattr("pulse.workers.threads.REPORT", 0.1)
    monkeypatch.setattr("pulse.upkeep.LASTING", 0.1)
    with benches(request.param) as make:
        yield make


def test_a_fire_is_run_and_recorded(make):
    run = make().run("ok")

    assert (run.outcome, run.status, run.body) == (Outcome.SUCCESS, 200, b"ok ok")


def test_the_endpoint_sees_its_run_and_what_it_says_is_captured(make):
    run = make().run("sees")

    assert run.body.decode() == f"GET /pulse/sees sees {run.id} schedule {run.id} True True"
    assert (run.status, run.errors) == (202, b"a complaint\n")


def test_what_was_sent_answered_and_logged_comes_with_the_record(make):
    run = make().run("logs")

    assert run.request == "GET /pulse/logs"
    assert (
        run.headers
        == "Content-Type: text/plain\nSet-Cookie: \N{BULLET}\N{BULLET}\N{BULLET}\N{BULLET}\N{BULLET}\N{BULLET}"
    )
    assert run.log.endswith(b"WARNING shop the feed of logs is slow")


def test_with_a_capture_of_0_nothing_of_the_response_and_of_the_log_is_kept(make):
    run = make(options={"capture": 0}).run("logs")

    assert (run.body, run.headers, run.log) == (b"", "", b"")
    assert run.request == "GET /pulse/logs"


@pytest.mark.parametrize(
    ("task", "outcome", "reason"),
    [
        ("raises", Outcome.FAILED, "ValueError: bad day"),
        ("exits", Outcome.FAILED, "SystemExit: 3"),
        ("answers_500", Outcome.FAILED, "answered 500"),
        ("no_answer", Outcome.FAILED, "it returned None"),
        ("endless", Outcome.TIMEOUT, "cut after 0.3 s"),
        ("hangs", Outcome.TIMEOUT, ""),
        ("clears", Outcome.SUCCESS, ""),
        ("threads", Outcome.SUCCESS, ""),
        ("forks", Outcome.SUCCESS, ""),
        ("says_a_surrogate", Outcome.FAILED, "ValueError: no such file: \\udcff"),
    ],
)
def test_a_faulty_endpoint_fails_alone_and_the_worker_goes_on(make, task, outcome, reason):
    bench = make(workers=1)

    run = bench.run(task)

    assert run.outcome is outcome
    assert reason in run.reason
    assert bench.run("ok").outcome is Outcome.SUCCESS


def test_a_response_of_a_gibibyte_is_read_to_its_end(make):
    run = make(timeout=60).run("huge")

    assert (run.outcome, len(run.body)) == (Outcome.SUCCESS, 4096)


def test_as_many_runs_as_there_are_workers_go_on_at_once(make):
    bench = make(workers=2, timeout=60)

    bench.submit("hangs", "polite", "ok")

    wait_until(lambda: bench.workers.busy == 2)
    assert bench.outcomes("ok") == []
    bench.release()
    wait_until(lambda: bench.outcomes("ok") == [Outcome.SUCCESS])


def test_a_task_never_overlaps_itself(make):
    bench = make(workers=2, timeout=60)

    bench.submit("hangs")
    wait_until(lambda: bench.workers.busy == 1)
    bench.submit("hangs")

    wait_until(lambda: [run.outcome for run in bench.records] == [Outcome.SKIPPED])
    bench.release()
    wait_until(lambda: bench.outcomes("hangs") == [Outcome.SUCCESS])


def test_of_fires_that_wait_only_the_last_is_run_and_the_others_are_recorded(make):
    bench = make(workers=1, timeout=60, interval=0.1)
    bench.submit("hangs")
    wait_until(lambda: bench.workers.busy == 1)

    fires = [Fire(task="ok", due=bench.start + timedelta(seconds=number)) for number in (1, 2, 3)]
    for fire in fires:
        bench.workers.submit([Rung(fire)])
    bench.release()

    wait_until(lambda: bench.outcomes("ok") == [Outcome.SUCCESS])
    ran, missed = [run for run in bench.records if run.task == "ok"][::-1]
    assert ran.due == fires[2].due
    assert missed.outcome is Outcome.MISSED
    assert missed.count >= 29


def test_fires_that_are_in_turn_run_one_after_the_other(make):
    bench = make(workers=2, timeout=60)
    fires = [bench.fire("slow", is_in_turn=True) for _ in range(2)]

    for one in fires:
        bench.workers.submit([Rung(one, 2)])

    wait_until(lambda: len(bench.outcomes("slow")) == 2)
    assert bench.outcomes("slow") == [Outcome.SUCCESS] * 2


def test_a_fire_that_does_not_come_back_keeps_those_behind_it_waiting_until_it_is_given_up(make):
    bench = make(workers=2)
    fires = [bench.fire("hangs", is_in_turn=True) for _ in range(2)]

    for one in fires:
        bench.workers.submit([Rung(one, 2)])

    wait_until(lambda: bench.outcomes("hangs") == [Outcome.TIMEOUT] * 2)
    assert [run.due for run in bench.records] == [fire.due for fire in fires]


def test_a_call_by_hand_runs_beside_a_full_pool(make):
    bench = make(workers=1, timeout=60)
    bench.submit("hangs")
    wait_until(lambda: bench.workers.busy == 1)

    run = bench.workers.run_apart(bench.fire("ok", trigger=Trigger.MANUAL)).result(LIMIT)

    assert (run.outcome, run.trigger) == (Outcome.SUCCESS, Trigger.MANUAL)


def test_a_call_by_hand_that_hangs_resolves_at_its_deadline(make):
    bench = make()

    run = bench.workers.run_apart(bench.fire("hangs", trigger=Trigger.MANUAL)).result(LIMIT)

    assert run.outcome is Outcome.TIMEOUT


def test_closing_lets_running_work_end(make):
    bench = make(timeout=60)
    bench.submit("slow")
    wait_until(lambda: bench.workers.busy == 1)

    assert bench.workers.close(LIMIT) == 0

    assert bench.outcomes("slow") == [Outcome.SUCCESS]
    assert bench.workers.busy == 0


def test_closing_cancels_what_does_not_end_in_time(make):
    bench = make(workers=3, timeout=60)
    bench.submit("endless", "polite", "hangs")
    wait_until(lambda: bench.workers.busy == 3)
    begun = time.monotonic()

    bench.workers.close(0.1)

    assert time.monotonic() - begun < 0.1 + 1 + 5  # the promise is a second; a slow machine may add to it
    stopped = {Outcome.CANCELLED, Outcome.SUCCESS}
    left_behind = {Outcome.ABANDONED}
    assert set(bench.outcomes("polite")) <= stopped
    if bench.mode == "threading":
        assert set(bench.outcomes("endless")) == {Outcome.CANCELLED}
        assert set(bench.outcomes("hangs")) == left_behind
    else:  # both are killed; on a slow machine their threads may hear of it a moment too late
        assert set(bench.outcomes("endless") + bench.outcomes("hangs")) <= stopped | left_behind


def test_draining_makes_no_threads(make, monkeypatch):
    bench = make(workers=4, timeout=60)
    bench.submit("slow")
    wait_until(lambda: bench.workers.busy == 1)
    made = []
    monkeypatch.setattr(threading.Thread, "start", made.append)

    bench.workers.close(LIMIT)

    assert made == []


@contextmanager
def silent(store, *names: str) -> Iterator[threading.Event]:
    """Calls of *store* do not come back in this block; set when one is waited for."""
    asked, answer = threading.Event(), threading.Event()

    def blocking(call):
        def wait(*args, **more):
            asked.set()
            answer.wait(LIMIT)
            return call(*args, **more)

        return wait

    for name in names:
        setattr(store, name, blocking(getattr(store, name)))
    try:
        yield asked
    finally:
        answer.set()


@pytest.mark.parametrize("task", ["hangs", "polite"])
def test_closing_does_not_wait_for_a_store_that_hangs(make, caplog, task):
    bench = make(workers=2, timeout=60)
    bench.submit(task)
    wait_until(lambda: bench.workers._runner.lasting(0))  # begun, and not only claimed

    with silent(bench.store, "finish", "renew", "reap"):
        bench.workers.close(0)

        assert bench.outcomes(task) == []
        (line,) = [line for line in caplog.records if getattr(line, "pulse_event", "") == "unrecorded_at_end"]
        assert "1 runs that have ended have no record yet" in line.getMessage()

    wait_until(lambda: bench.outcomes(task))  # it answers while the process still lives


def test_a_caller_does_not_wait_for_a_store_that_hangs_at_the_end(make):
    bench = make(workers=1, timeout=60)
    promise = bench.workers.run_apart(bench.fire("hangs", trigger=Trigger.MANUAL))
    wait_until(lambda: bench.workers._runner.lasting(0))  # begun, and not only claimed

    with silent(bench.store, "finish"):
        bench.workers.close(0)

        if (
            bench.mode == "threading"
        ):  # a child is killed, so that it comes back: then it is its record that is waited for
            assert promise.result(0).outcome is Outcome.ABANDONED


def test_a_middleware_closes_beside_a_store_that_hangs():
    middleware = PulseMiddleware(
        endpoints.app, task={"ok": {"interval": 3600}}, start="manual", store="memory:", shutdown_timeout=0
    )
    middleware.start()
    wait_until(middleware.run_store.instances)

    with silent(middleware.run_store, "leave", "close") as asked:
        middleware.close()

        assert asked.is_set()
        assert middleware.run_store.instances()

    wait_until(lambda: not middleware.run_store.instances())


def test_what_was_taken_from_the_queue_before_it_was_closed_is_drained_or_not_run(make):
    for _ in range(20):
        bench = make(workers=2, timeout=60)
        bench.submit("ok")

        bench.workers.close(LIMIT)

        ended = len(bench.records)
        assert bench.workers.busy == 0
        assert bench.store.running() == []
        assert len(bench.records) == ended


def test_what_waited_when_it_was_closed_is_counted_and_not_run(make):
    bench = make(workers=1, timeout=60)
    bench.submit("polite")
    wait_until(lambda: bench.workers.busy == 1)
    bench.submit("ok", "where")

    assert bench.workers.close(0) == 2

    assert bench.outcomes("ok") == []
    assert bench.workers.close(0) == 2


def test_closed_workers_take_nothing(make):
    bench = make()
    bench.workers.close(0)

    with pytest.raises(ClosedError):
        bench.submit("ok")
    with pytest.raises(ClosedError):
        bench.workers.run_apart(bench.fire("ok"))


def test_a_fault_of_the_store_does_not_end_the_worker(make, caplog):
    bench = make(workers=1)
    claim, bench.store.claim = bench.store.claim, lambda *args, **kwargs: 1 / 0

    bench.submit("ok")
    wait_until(lambda: "run_broke" in [getattr(record, "pulse_event", "") for record in caplog.records])
    bench.store.claim = claim

    assert bench.run("where").outcome is Outcome.SUCCESS


def under_way(bench: Bench, task: str):
    """The run of *task* as the store has it, once it is under way."""
    bench.submit(task)
    wait_until(lambda: any(run.task == task for run in bench.store.running()))
    return next(run for run in bench.store.running() if run.task == task)


def test_how_far_a_run_has_got_is_seen_while_it_lasts(make):
    bench = make(timeout=60)

    under_way(bench, "tells")

    wait_until(lambda: bench.store.running()[0].progress)
    assert bench.store.running()[0].progress == Progress(done=31, total=50, text="building pages")
    bench.release()
    wait_until(lambda: bench.outcomes("tells") == [Outcome.SUCCESS])


@pytest.mark.parametrize("task", ["endless", "polite"])
def test_a_run_is_stopped_by_whoever_asks_the_store_for_it(make, task):
    bench = make(timeout=60, kill_grace=20)
    run = under_way(bench, task)

    bench.store.ask_to_stop(run.id, "by ada")

    wait_until(lambda: bench.outcomes(task))
    record = bench.store.history(task)[0]
    if bench.mode == "threading" and task == "polite":
        assert record.outcome is Outcome.SUCCESS  # it saw the sign, and came to an end of its own
    else:
        assert record.outcome is Outcome.CANCELLED
        assert record.reason.endswith("by ada")
    assert bench.run("ok").outcome is Outcome.SUCCESS


def test_a_run_that_does_not_stop_is_left_behind_or_killed(make):
    bench = make(workers=1, timeout=60, kill_grace=0.2)
    run = under_way(bench, "hangs")

    bench.store.ask_to_stop(run.id, "by ada")

    wait_until(lambda: bench.outcomes("hangs"))
    expected = Outcome.ABANDONED if bench.mode == "threading" else Outcome.CANCELLED
    assert bench.outcomes("hangs") == [expected]
    assert bench.run("ok").outcome is Outcome.SUCCESS
