"""Four workers as one fleet, two configurations at once, and whatever befalls the file that they share."""

import os
import re
import resource
import shutil
import signal
import sqlite3
import time
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from books import Done, Fleet, twice
from servers import gunicorn, program, wait_until, waitress
from stories import Stories

from pulse.model import Outcome, Run
from pulse.runstores.ledger import REBORN

APP = "fleet_app:application"
OFTEN = {"interval": 0.4}
UNCLAIMED = "nothing is run unclaimed"
LATE = timedelta(seconds=0.4)  # what was due within this before a fault may begin behind it
story = Stories()


# Four workers


@story
def limits_hold_over_all_workers(folder):
    fleet = Fleet(
        folder,
        workers=16,
        task={
            "host": {"interval": 1, "scope": "host"},
            "process": {"interval": 1, "scope": "process"},
            "queue": {"interval": 0.5, "overlap": "queue", "action": "queue?seconds=0.7"},
            "allow": {"interval": 0.5, "overlap": "allow", "action": "allow?seconds=1.3"},
            "two": {"interval": 0.5, "max_instances": 2, "action": "two?seconds=1.7"},
        },
    )
    with gunicorn(APP, "-w", "4", env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: len(fleet.pids("process")) == 4)
        for task, count in {"host": 4, "process": 12, "queue": 4, "allow": 8, "two": 6}.items():
            wait_until(lambda task=task, count=count: len(fleet.ended(task)) >= count)
        assert server.terminate() == 0

    fleet.must_balance("queue", "allow", "two")
    (host,) = {run.place for run in fleet.records("host")}
    assert host
    assert twice([run.due for run in fleet.began("host")]) == []
    assert twice([(run.due, run.pid) for run in fleet.began("process")]) == []
    assert len({run.place for run in fleet.records("process") if run.started}) == 4
    assert most_at_once(fleet, "queue") == 1
    assert most_at_once(fleet, "allow") > 1
    assert most_at_once(fleet, "two") == 2
    assert {run.outcome for run in fleet.records("allow") if run.count == 1} == {Outcome.SUCCESS}
    assert Outcome.SKIPPED in {run.outcome for run in fleet.records("two")}


def most_at_once(fleet: Fleet, task: str) -> int:
    """How many of its runs were under way at the same time, in whatever processes."""
    lines = sorted(fleet.lines(task), key=lambda line: line.at)
    under_way, most = 0, 0
    for line in lines:
        under_way += 1 if line.what == "began" else -1
        most = max(most, under_way)
    return most


@story
def a_run_that_recovers_is_run_again_by_another_worker(folder):
    long = {"interval": 1, "recover": True, "action": f"long?seconds=60&unless={folder}/released"}
    fleet = Fleet(folder, task={"long": long}, lease=3)
    with gunicorn(APP, "-w", "4", env=fleet.env, cwd=fleet.home) as server:
        (first,) = wait_until(lambda: fleet.began("long"))

        os.kill(first.pid, signal.SIGKILL)
        (folder / "released").touch()
        wait_until(lambda: [run.attempt for run in records_of(fleet, first)] == [1, 2])
        assert server.terminate() == 0

    (second,) = [run for run in fleet.began("long") if run.attempt == 2]
    assert (second.due, second.trigger) == (first.due, "recover")
    assert second.pid != first.pid
    assert [run.outcome for run in records_of(fleet, first)] == [Outcome.LOST, Outcome.SUCCESS]
    fleet.must_balance()


@story
def workers_that_are_killed_with_their_hands_full_run_nothing_twice(folder):
    tasks = {f"task{number}": {"interval": 1} for number in range(40)}  # over at once, and all due at once
    fleet = Fleet(folder, workers=2, task=tasks)
    with gunicorn(APP, "-w", "3", env=fleet.env, cwd=fleet.home) as server:
        for turn in range(3):
            begun = len(fleet.began("task7"))
            wait_until(lambda begun=begun, turn=turn: len(fleet.began("task7")) > begun + turn)
            os.kill(fleet.began("task7")[-1].pid, signal.SIGKILL)
        begun = {task: len(fleet.began(task)) for task in tasks}
        wait_until(lambda: all(len(fleet.began(task)) > count for task, count in begun.items()))
        assert server.terminate() == 0

    fleet.must_balance()
    assert {run.outcome for task in tasks for run in fleet.records(task)} <= {
        Outcome.SUCCESS, Outcome.LOST, Outcome.MISSED, Outcome.SKIPPED,
    }  # fmt: skip


def records_of(fleet: Fleet, run: Done) -> list[Run]:
    return [record for record in fleet.records(run.task) if record.due == run.due]


PAUSE = "import fleet_app; fleet_app.application.pause('often', note='migration')"
RESUME = "import fleet_app; fleet_app.application.resume('often')"
BY_HAND = "import fleet_app; print('it was', fleet_app.application.run_now('long').outcome.value)"


@story
def another_process_pauses_and_runs_by_hand_for_the_whole_fleet(folder):
    long = {"interval": 1, "action": f"long?seconds=60&unless={folder}/released"}
    fleet = Fleet(folder, task={"often": OFTEN, "long": long})
    with gunicorn(APP, "-w", "4", env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: fleet.began("often") and fleet.began("long"))

        assert "it was skipped" in outside(fleet, BY_HAND)
        outside(fleet, PAUSE)
        paused = fleet.records("often")[-1].due
        wait_until(lambda: sum(run.count for run in fleet.records("often") if run.outcome is Outcome.SKIPPED) > 3)
        assert [run for run in fleet.began("often") if run.due > paused][1:] == []  # one may have been claimed before
        outside(fleet, RESUME)
        wait_until(lambda: fleet.records("often")[-1].outcome is Outcome.SUCCESS)
        (folder / "released").touch()
        assert server.terminate() == 0

    assert "the task is paused: migration" in {run.reason for run in fleet.records("often")}
    assert most_at_once(fleet, "long") == 1
    fleet.must_balance()


@story
def a_run_by_hand_elsewhere_holds_up_the_fleet(folder):
    long = {"interval": 0.5, "action": f"long?seconds=60&unless={folder}/released"}
    fleet = Fleet(folder, task={"long": long})
    with program("-c", BY_HAND, env=fleet.env, cwd=fleet.home) as hand:
        wait_until(lambda: fleet.began("long"))
        with gunicorn(APP, "-w", "4", env=fleet.env, cwd=fleet.home) as server:
            wait_until(lambda: sum(run.count for run in fleet.records("long")) > 2)
            assert {run.outcome for run in fleet.records("long")} <= {Outcome.SKIPPED, Outcome.MISSED}
            assert len(fleet.began("long")) == 1
            (folder / "released").touch()
            assert hand.wait() == 0
            assert "it was success" in hand.output
            wait_until(lambda: len(fleet.ended("long")) > 2)
            assert server.terminate() == 0

    assert most_at_once(fleet, "long") == 1
    fleet.must_balance()


def outside(fleet: Fleet, source: str) -> str:
    """What a process beside the fleet says that does *source* and ends."""
    with program("-c", source, env=fleet.env, cwd=fleet.home) as process:
        assert process.wait() == 0, process.output
        return process.output


# Two configurations


@story
def the_older_of_two_configurations_stands_down_while_the_newer_one_lives(folder):
    tasks = {"same": OFTEN, "changed": OFTEN, "dropped": OFTEN}
    older = Fleet(folder, task=tasks, lease=2)
    newer = Fleet(folder, task={"same": OFTEN, "changed": {"interval": 0.5}, "added": OFTEN}, lease=2)
    with waitress(APP, env=older.env, cwd=older.home) as old:
        wait_until(lambda: all(older.began(task) for task in tasks))
        with waitress(APP, env=newer.env, cwd=newer.home) as new:
            wait_until(lambda: new.pid in newer.pids("added"))
            wait_until(lambda: len(re.findall("task=(changed|dropped) is left to other", old.output)) == 2)
            since = time.time() + 0.2  # what was claimed just before may still begin
            before = len(newer.began("changed"))
            wait_until(lambda: len(newer.began("changed")) > before + 3)
            later = [run for task in ("changed", "dropped") for run in older.began(task) if run.at > since]
            assert {(run.task, run.pid) for run in later} == {("changed", new.pid)}
            new.kill()

        wait_until(lambda: max(run.at for run in older.began("dropped")) > since)
        wait_until(lambda: older.began("changed")[-1].pid == old.pid)

    assert newer.pids("added") == {new.pid}
    assert twice([run.due for run in older.began("changed")]) == []
    older.must_balance("same", "dropped")
    newer.must_balance("added")


# The file fails


@contextmanager
def lock(fleet: Fleet, pids: set[int]):
    with closing(sqlite3.connect(fleet.path, isolation_level=None, timeout=30)) as file:
        file.execute("BEGIN EXCLUSIVE")
        yield
        file.execute("ROLLBACK")


@contextmanager
def fill_the_disk(fleet: Fleet, pids: set[int]):
    """No file of the workers grows any more: their system calls fail as they do when the disk is full."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (8192, hard))
    yield
    for pid, limits in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def take_it_away(fleet: Fleet, pids: set[int]):
    """As when the disk under it is not mounted for a while."""
    folder = fleet.path.parent
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("no folder")
    yield
    folder.unlink()
    aside.rename(folder)


@story.each(locked=lock, disk_full=fill_the_disk, not_mounted=take_it_away)
def a_file_that_cannot_be_used_costs_no_request_and_every_instant_is_recorded_later(folder, fault):
    fleet = Fleet(folder, task={"often": OFTEN})
    with gunicorn(APP, "-w", "2", env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: fleet.began("often") and server.children() <= fleet.pids("often"))
        workers = server.children()

        with fault(fleet, workers):
            broken = datetime.now(UTC)
            wait_until(lambda: UNCLAIMED in server.output)
            assert [server.get()[0] for _ in range(50)] == [200] * 50  # each would take two seconds if it waited
            wait_until(lambda: datetime.now(UTC) > broken + 5 * LATE)  # several instants are refused
            mended = datetime.now(UTC)
        wait_until(lambda: fleet.began("often")[-1].due > mended)
        assert server.children() == workers
        assert server.output.count("cannot be used") <= len(workers)
        assert server.terminate() == 0

    assert [run.due for run in fleet.began("often") if broken < run.due < mended - LATE] == []
    fleet.must_balance()


@story
def a_file_that_cannot_be_used_at_the_start_is_used_when_it_can(folder):
    store = folder / "runs.db"
    fleet = Fleet(folder, task={"often": OFTEN}, store=f"sqlite:{store}")
    store.write_bytes(b"garbage" * 1000)
    with gunicorn(APP, "-w", "2", env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: server.output.count("could not start") == 2)
        assert server.get() == (200, b"page")
        assert fleet.began("often") == []

        store.rename(folder / "spoilt")
        wait_until(lambda: fleet.began("often"))
        assert server.terminate() == 0

    fleet.must_balance()


def remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def spoil_and_remove(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
    time.sleep(1)
    remove(path)


@story.each(deleted=remove, corrupt=spoil_and_remove)
def what_a_lost_file_knew_is_not_run_again(folder, lose):
    fleet = Fleet(folder, task={"often": OFTEN})
    with gunicorn(APP, "-w", "2", env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: len(fleet.began("often")) > 3 and server.children() <= fleet.pids("often"))
        workers = server.children()

        lose(fleet.path)
        lost = datetime.now(UTC)
        wait_until(lambda: len([run for run in fleet.began("often") if run.due > lost]) > 3)
        assert server.children() == workers
        assert server.get() == (200, b"page")
        assert server.terminate() == 0

    assert twice([run.due for run in fleet.began("often")]) == []
    recorded = fleet.recorded("often")
    assert {run.due for run in fleet.began("often") if run.due >= recorded[0]} <= set(recorded)
    assert all(later - earlier == timedelta(seconds=0.4) for earlier, later in pairwise(recorded))
    assert recorded[0] < lost + LATE  # the rest went with the file


def put_in_its_place(copy: Path, path: Path) -> None:
    remove(path)
    copy.rename(path)


def write_over_it(copy: Path, path: Path) -> None:
    shutil.copyfile(copy, path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@story.each(
    put_in_its_place_while_it_is_used=(put_in_its_place, True),
    put_in_its_place_between_two_starts=(put_in_its_place, False),
    written_over_it_between_two_starts=(write_over_it, False),
)
def an_older_copy_of_the_file_has_nothing_run_again(folder, how):
    restore, is_used = how
    task = {"often": {**OFTEN, "coalesce": False, "misfire_grace_time": 3600}}
    fleet = Fleet(folder, task=task, lease=1)
    with ExitStack() as stack:
        server = stack.enter_context(gunicorn(APP, "-w", "2", env=fleet.env, cwd=fleet.home))
        wait_until(lambda: len(fleet.began("often")) > 1)
        copy = copy_of(fleet.path)
        wait_until(lambda: len(fleet.began("often")) > 5)

        if is_used:
            restore(copy, fleet.path)
        else:
            assert server.terminate() == 0
            restore(copy, fleet.path)
            server = stack.enter_context(gunicorn(APP, "-w", "2", env=fleet.env, cwd=fleet.home))
        restored = datetime.now(UTC)
        wait_until(lambda: len([run for run in fleet.began("often") if run.due > restored]) > 3)
        assert server.terminate() == 0

    assert twice([run.due for run in fleet.began("often")]) == []
    # Those that use it at the time ask for later instants only, and pass over the others.
    assert is_used or REBORN in {run.reason for run in fleet.records("often")}
    recorded = fleet.recorded("often")
    assert twice(recorded) == []
    assert all(later - earlier == timedelta(seconds=0.4) for earlier, later in pairwise(recorded))


def copy_of(path: Path) -> Path:
    copy = path.parent.with_name("copy")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    with story.told(request, tmp_path_factory) as told:
        yield told


@pytest.mark.parametrize("name", story)
def test_in_a_fleet(told, name):
    told(name)
