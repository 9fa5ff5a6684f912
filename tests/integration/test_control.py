"""Runs under control, with real servers: one fleet of two workers for all of it, since much of it is waiting."""

import json
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from servers import Server, gunicorn, is_alive, wait_until

from pulse.model import Outcome, Run
from pulse.runstores.sqlite import SqliteRunStore


class Site:
    """The server, what its endpoints noted, and its run store."""

    def __init__(self, server: Server, notes: Path, store: SqliteRunStore) -> None:
        self.server = server
        self.store = store
        self._notes = notes

    def notes(self, what: str | None = None, task: str | None = None) -> list[dict]:
        lines = [json.loads(line) for line in self._notes.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if what in (None, line["what"]) and task in (None, line.get("task"))]

    def records(self, task: str) -> list[Run]:
        return self.store.history(task)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("control")
    notes, store = folder / "notes", SqliteRunStore(folder / "runs.db", history=1000)
    notes.touch()
    env = {"NOTES": str(notes), "STORE": str(store.path)}
    with gunicorn("control_app:application", "-w", "2", env=env) as server:
        yield Site(server, notes, store)
    store.close()


def test_a_run_of_another_process_is_seen_and_stopped(site):
    wait_until(lambda: any(run.task == "long" and run.progress for run in site.store.running()))
    (running,) = [run for run in site.store.running() if run.task == "long"]
    assert running.progress.text == "half of it"

    assert site.store.ask_to_stop(running.id, "by the test") is True

    wait_until(lambda: site.records("long"))
    assert site.records("long")[0].outcome is Outcome.SUCCESS  # it saw the sign, and came to an end of its own
    assert site.records("long")[0].result == "long said 200"


def test_an_attempt_outlives_the_process_that_was_to_make_it(site):
    wait_until(lambda: site.notes("ended", "flaky"))
    first = site.notes("ended", "flaky")[0]
    wait_until(site.store.waiting)

    os.kill(first["pid"], signal.SIGKILL)

    wait_until(lambda: len(site.notes("ended", "flaky")) == 2)
    second = site.notes("began", "flaky")[1]
    assert (second["attempt"], second["trigger"]) == (2, "retry")
    assert second["pid"] != first["pid"]
    wait_until(lambda: len(site.records("flaky")) == 2)
    assert [(run.outcome, run.attempt) for run in site.records("flaky")] == [
        (Outcome.SUCCESS, 2), (Outcome.FAILED, 1),
    ]  # fmt: skip
    assert len({run.id for run in site.records("flaky")}) == 1
    wait_until(lambda: any(alert["said"]["task"] == "flaky" for alert in site.notes("alert")))


def test_the_first_start_of_a_fleet_runs_a_task_once(site):
    wait_until(lambda: site.records("startup"))

    assert len(site.notes("began", "startup")) == 1
    assert [run.trigger.value for run in site.records("startup")] == ["startup"]


def test_an_endpoint_that_is_gone_pauses_its_task_in_the_whole_fleet(site):
    wait_until(lambda: "gone" in site.store.pauses())
    runs = len(site.notes("began", "gone"))

    wait_until(lambda: site.store.totals("gone").counts.get(Outcome.SKIPPED, 0) > 3)

    assert len(site.notes("began", "gone")) <= runs + 1  # one may just have begun
    assert site.store.pauses()["gone"].by == "pulse"
    alerts = [alert["said"] for alert in site.notes("alert") if alert["said"]["task"] == "gone"]
    assert (alerts[0]["event"], alerts[0]["status"]) == ("failure", 410)


def test_tasks_that_share_a_lock_never_run_at_once(site):
    def held_up(task: str) -> list[Run]:
        return [run for run in site.records(task) if "has the lock 'files'" in run.reason]

    wait_until(lambda: all(len(site.notes("ended", task)) >= 5 for task in ("one", "other")))
    wait_until(lambda: held_up("one") or held_up("other"))

    # As the endpoints themselves said it: records tell when a run was asked for, not when it had the lock.
    lines = [line for line in site.notes() if line.get("task") in ("one", "other")]
    for began, following in pairwise(lines):
        if began["what"] == "began" and is_alive(began["pid"]):  # one was killed, perhaps in the middle of a run
            assert following["what"] == "ended"
            assert (following["pid"], following["task"]) == (began["pid"], began["task"])


def test_the_fleet_ends_in_order(site):
    assert site.server.terminate() == 0
