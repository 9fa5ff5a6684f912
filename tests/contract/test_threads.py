"""What is particular to threads: they cannot be killed, only left behind, and that is bounded."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import endpoints
import pytest
from bench import Bench, benches, wait_until

from pulse.model import Outcome
from pulse.workers.threads import ABANDONED_LIMIT, STUCK_LIMIT


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


def test_tasks_that_hang_leave_a_worker_to_those_that_do_not(make):
    bench = make(workers=2, timeout=90)
    for task in ("hangs", "tells"):
        bench.workers._queue.mark(task, is_troubled=True)  # as after a run that timed out
    bench.submit("hangs", "tells")
    wait_until(lambda: any(run.task in ("hangs", "tells") for run in bench.store.running()))

    bench.submit("ok")

    wait_until(lambda: bench.outcomes("ok") == [Outcome.SUCCESS])


def test_a_task_that_timed_out_is_known_for_it_until_a_run_of_it_comes_back(make):
    bench = make(timeout=0.3)

    bench.run("hangs")
    wait_until(lambda: "hangs" in bench.workers._queue._troubled)
    bench.release()
    bench.submit("hangs")

    wait_until(lambda: "hangs" not in bench.workers._queue._troubled)
