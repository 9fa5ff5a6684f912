"""Pulse under real servers: it rings in each process that serves, drains, and leaves nothing behind."""

import os
import signal
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from servers import children_of, gunicorn, is_alive, wait_until, waitress
from stories import Stories

from pulse.model import Run
from pulse.runstores.sqlite import SqliteRunStore

INTERVAL = timedelta(seconds=0.3)
story = Stories()


class Notes:
    """What the site under test has noted."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "notes"
        self.env = {"NOTES": str(self._path)}

    def lines(self) -> list[tuple[int, str, str]]:
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        return [(int(pid), what, path) for pid, what, path in (line.split() for line in text.splitlines())]

    def dues(self, path: str = "/sessions/cleanup") -> list[str]:
        return [what for _, what, called in self.lines() if called == path and what[0].isdigit()]

    def workers(self, path: str = "/sessions/cleanup") -> set[int]:
        return {pid for pid, what, called in self.lines() if (what, called) == ("ended", path)}


@story.each(sync=(), preload=("--preload",), gthread=("--threads", "2"), gevent=("-k", "gevent", "--preload"))
def every_gunicorn_worker_runs_tasks_without_any_request_and_the_master_does_not(folder, options):
    notes = Notes(folder)
    with gunicorn("housekeeping:application", "-w", "2", *options, env=notes.env) as server:
        wait_until(lambda: len(server.children()) == 2 and notes.workers() == server.children())

        assert server.pid not in notes.workers()
        assert server.get("/") == (200, b"page")
        assert server.get("/sessions/cleanup")[0] == 404
        assert server.terminate() == 0


@story
def a_killed_gunicorn_worker_has_a_successor_that_runs_tasks(folder):
    notes = Notes(folder)
    with gunicorn("housekeeping:application", "-w", "2", "--preload", env=notes.env) as server:
        wait_until(lambda: len(server.children()) == 2 and notes.workers() == server.children())
        killed = min(server.children())

        os.kill(killed, signal.SIGKILL)

        wait_until(lambda: killed not in server.children() and len(server.children()) == 2)
        wait_until(lambda: server.children() <= notes.workers())


@story
def a_gunicorn_worker_that_is_told_to_stop_lets_its_run_end(folder):
    notes = Notes(folder)
    with gunicorn("housekeeping:application", "-w", "1", env=notes.env) as server:
        wait_until(lambda: any(path == "/sessions/slow" for _, _, path in notes.lines()))

        assert server.terminate() == 0

        begun = [pid for pid, what, path in notes.lines() if (what, path) == ("began", "/sessions/slow")]
        ended = [pid for pid, what, path in notes.lines() if (what, path) == ("ended", "/sessions/slow")]
        assert begun == ended != []


@story
def four_workers_that_share_a_file_run_each_instant_once_also_when_they_are_killed(folder):
    notes = Notes(folder)
    store = SqliteRunStore(folder / "runs.db", history=1000)
    env = {**notes.env, "STORE": f"sqlite:{store.path}"}
    with gunicorn("housekeeping:application", "-w", "4", env=env) as server:
        for runs in (5, 10, 15):
            wait_until(lambda runs=runs: len(notes.dues()) >= runs and len(server.children()) == 4)
            os.kill(max(server.children()), signal.SIGKILL)
        wait_until(lambda: len(notes.dues()) >= 20)
        assert server.terminate() == 0

    dues = notes.dues()
    assert len(dues) == len(set(dues))
    recorded = sorted(store.history("cleanup") + store.running(), key=lambda run: run.due)
    store.close()
    instants = [run.first_due or run.due for run in recorded if run.task == "cleanup"]
    counts = [run.count for run in recorded if run.task == "cleanup"]
    assert sum(counts) == round((recorded_last(recorded) - instants[0]) / INTERVAL) + 1


def recorded_last(recorded: list[Run]) -> datetime:
    return max(run.due for run in recorded if run.task == "cleanup")


@story
def waitress_runs_tasks_without_any_request(folder):
    notes = Notes(folder)
    with waitress("housekeeping:application", env=notes.env) as server:
        wait_until(lambda: notes.workers() == {server.pid})


@story
def child_processes_of_a_gunicorn_worker_die_with_it(folder):
    notes = Notes(folder)
    env = {**notes.env, "MODE": "processing"}
    with gunicorn("housekeeping:application", "-w", "1", env=env) as server:
        wait_until(notes.workers)
        (worker,) = server.children()
        children = children_of(worker)
        assert notes.workers() <= children

        os.kill(worker, signal.SIGKILL)

        wait_until(lambda: not any(is_alive(pid) for pid in children))


@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    with story.told(request, tmp_path_factory) as told:
        yield told


@pytest.mark.parametrize("name", story)
def test_under_a_real_server(told, name):
    told(name)
