"""What is particular to the file of SQLite: many processes, forks, and everything that befalls files."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from servers import wait_until

from pulse.errors import StoreUnavailableError
from pulse.model import Claim, Fire, Instance, Limits, Outcome, Pause, Press, Span
from pulse.runstores import sqlite
from pulse.runstores.base import Bid, Totals
from pulse.runstores.instants import number_of
from pulse.runstores.sql import TRIM_EVERY
from pulse.runstores.sqlite import _UPGRADES, SqliteRunStore
from pulse.testing import ManualClock

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


def claim(store: SqliteRunStore, second: int, task: str = "a", lock: str = ""):
    fire = Fire(task=task, due=NOON + second * SECOND)
    limits = Limits(instances=None, lock=lock)
    terms = {"owner": "me", "lease": 30 * SECOND, "passed": lambda cursor: None, "limits": limits}
    return store.claim(fire, now=fire.due, **terms)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(path: Path):
    store = SqliteRunStore(path, history=10)
    store.register(["a", "b"], NOON)
    yield store
    store.close()


def test_the_file_stays_where_it_was_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = SqliteRunStore("runs.db")
    store.register(["a"], NOON)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert store.register(["a"], NOON + SECOND) == {"a": NOON}
    store.close()


def test_the_file_is_for_its_owner_alone(store, path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_constructing_opens_nothing(path):
    SqliteRunStore(path)

    assert not path.exists()


def test_what_one_process_claimed_another_finds_taken(store, path):
    claim(store, 1)
    other = SqliteRunStore(path)

    assert claim(other, 1).answer is Claim.TAKEN
    assert other.register(["a"], NOON + 9 * SECOND) == {"a": NOON + SECOND}
    other.close()


RACER = """
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pulse.model import Claim, Fire, Limits, Outcome
from pulse.runstores.sqlite import _UPGRADES, SqliteRunStore

store = SqliteRunStore(sys.argv[1])
terms = {"owner": sys.argv[2], "lease": timedelta(days=1), "passed": lambda cursor: None, "limits": Limits(instances=None)}
noon = datetime(2027, 5, 1, 12, tzinfo=UTC)
print("ready", flush=True)
sys.stdin.readline()
for second in range(1, 501):
    fire = Fire(task="a", due=noon + timedelta(seconds=second))
    claimed = store.claim(fire, now=fire.due, **terms)
    if claimed.answer is Claim.WON:
        print(second, flush=True)
        assert store.finish(replace(claimed.run, outcome=Outcome.SUCCESS, finished=fire.due))
"""


def racers(path: Path, count: int) -> list[subprocess.Popen]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path), str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(count)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def test_four_processes_that_race_for_500_instants_win_each_once(store, path):
    won: list[int] = []
    for process in racers(path, 4):
        out, err = process.communicate(timeout=120)
        assert err == ""
        won += map(int, out.split())

    assert len(won) == len(set(won))
    assert max(won) == 500
    assert store.totals("a").counts == {Outcome.SUCCESS: len(won)}


def test_a_racer_that_is_killed_leaves_a_file_that_the_others_use(store, path):
    victim, *others = racers(path, 3)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate(timeout=120)

    for process in others:
        _, err = process.communicate(timeout=120)
        assert err == ""

    assert claim(store, 501).answer is Claim.WON


CLAIMER = """
import sys, time
from datetime import UTC, datetime, timedelta
from pulse.instance import this_instance
from pulse.model import Fire, Limits
from pulse.runstores.sqlite import _UPGRADES, SqliteRunStore
noon = datetime(2027, 5, 1, 12, tzinfo=UTC)
fire = Fire(task="a", due=noon + timedelta(seconds=1))
claimed = SqliteRunStore(sys.argv[1]).claim(
    fire, owner=this_instance(), now=fire.due, lease=timedelta(days=1), passed=lambda cursor: None,
    limits=Limits())
print(claimed.answer.value, flush=True)
time.sleep(600)
"""


def test_the_run_of_a_killed_process_is_lost_at_once_and_that_of_a_live_one_is_not(store, path):
    with subprocess.Popen([sys.executable, "-c", CLAIMER, str(path)], stdout=subprocess.PIPE, text=True) as claimer:
        assert claimer.stdout.readline() == "won\n"
        assert store.reap(NOON + 2 * SECOND) == []

        claimer.kill()
        claimer.wait()

    assert [(run.outcome, run.reason) for run in store.reap(NOON + 2 * SECOND)] == [
        (Outcome.LOST, "its process has ended")
    ]


def test_a_forked_child_opens_the_file_anew(store):
    claim(store, 1)

    pid = os.fork()
    if pid == 0:
        os._exit(0 if claim(store, 1).answer is Claim.TAKEN and claim(store, 2).answer is Claim.WON else 1)
    _, status = os.waitpid(pid, 0)

    assert status == 0
    assert claim(store, 2).answer is Claim.TAKEN


def test_the_history_of_every_task_is_trimmed_in_the_file_too(store, path):
    for second in range(1, 20 * TRIM_EVERY):
        for task in ("a", "b"):
            fire = Fire(task=task, due=NOON + second * SECOND)
            store.dismiss(fire, outcome=Outcome.SKIPPED, reason=str(second), now=fire.due, passed=lambda cursor: None)

    with sqlite3.connect(path) as file:
        rows = dict(file.execute("SELECT task, count(*) FROM records GROUP BY task"))
    file.close()

    assert max(rows.values()) <= 10 + 5 * TRIM_EVERY
    assert len(store.history("a")) == 10


def test_the_history_is_trimmed_by_many_attempts_of_one_run(store, path):
    run = claim(store, 1).run
    for attempt in range(2, 8 * TRIM_EVERY):
        store.finish(replace(run, finished=run.due, outcome=Outcome.FAILED), again_at=run.due)
        run = store.adopt(store.waiting()[0], owner="me", now=run.due, lease=SECOND, limits=Limits())
        assert run.attempt == attempt

    with closing(sqlite3.connect(path)) as file:
        (rows,) = file.execute("SELECT count(*) FROM records").fetchone()

    assert rows <= 10 + TRIM_EVERY


def test_the_history_is_trimmed_by_processes_that_live_too_briefly_to_fill_it(store, path):
    store.close()
    for second in range(1, 8 * TRIM_EVERY):
        brief = SqliteRunStore(path, history=10)
        brief.finish(replace(claim(brief, second).run, finished=NOON + second * SECOND, outcome=Outcome.SUCCESS))
        brief.close()

    with sqlite3.connect(path) as file:
        (rows,) = file.execute("SELECT count(*) FROM records").fetchone()
    file.close()

    assert rows <= 10 + 5 * TRIM_EVERY


def test_a_step_that_breaks_leaves_nothing_behind(store):
    def broken(_cursor):
        raise ZeroDivisionError("a fault of Pulse")

    fire = Fire(task="a", due=NOON + SECOND)
    with pytest.raises(ZeroDivisionError):
        store.dismiss(fire, outcome=Outcome.SKIPPED, reason="", now=fire.due, passed=broken)

    assert store.history("a") == []
    assert claim(store, 1).answer is Claim.WON


def test_a_file_that_an_earlier_version_has_written_keeps_what_is_held(path):
    make_as_of(path, 3, "INSERT INTO tracks VALUES ('', 'a', 0)")
    _hold_as_before(path, task="a", run_id="r1")

    later = SqliteRunStore(path)
    (held,) = later.running()

    assert (held.id, held.task, held.owner, held.attempt) == ("r1", "a", "me", 1)
    assert later.finish(replace(held, finished=NOON, outcome=Outcome.SUCCESS))
    assert later.running() == []
    later.close()


def make_as_of(path: Path, version: int, *statements: str) -> None:
    """A file as that version has made it, with what is said in *statements*."""
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA page_size = {sqlite.PAGE}")
        for upgrade in _UPGRADES[:version]:
            file.executescript(upgrade)
        for statement in statements:
            file.execute(statement)
        file.execute(f"PRAGMA user_version = {version}")
        file.commit()


def test_a_lock_that_an_earlier_version_has_given_is_kept(path):
    later = number_of(NOON + DAY)
    make_as_of(
        path,
        6,
        "INSERT INTO tasks (app, name, appended, cursor) VALUES ('', 'a', 0, 0), ('', 'b', 0, 0)",
        f"INSERT INTO held VALUES ('', 'a', 'r1', 0, 'schedule', 1, 'me', 0, {later}, '', 0, 'files', '', NULL)",
    )
    store = SqliteRunStore(path)

    assert claim(store, 1, "b", lock="files").run.reason == "a is running, and has the lock 'files', too"
    assert store.finish(replace(store.running()[0], finished=NOON, outcome=Outcome.SUCCESS))
    assert claim(store, 2, "b", lock="files").answer is Claim.WON
    store.close()


@pytest.mark.parametrize("is_free", [True, False])
def test_a_claim_with_a_lock_looks_at_no_run_without_one(store, is_free):
    claim(store, 1, lock="" if is_free else "files")
    asked: list[str] = []
    with store._reading() as file:
        file.set_trace_callback(asked.append)

    answer = claim(store, 1, "b", lock="files").answer

    with store._reading() as file:
        file.set_trace_callback(None)
        plans = [file.execute(f"EXPLAIN QUERY PLAN {one}").fetchall() for one in asked if " held " in one]
    steps = [detail for plan in plans for *_, detail in plan if " held " in detail]
    assert answer is (Claim.WON if is_free else Claim.BUSY)
    assert [step for step in steps if "held_by_lock" in step] == [
        "SEARCH held USING INDEX held_by_lock (lock=? AND app=?)"
    ]
    assert [step for step in steps if "SCAN" in step or "(app=?)" in step] == []


def _hold_as_before(path: Path, *, task: str, run_id: str) -> None:
    instant = 1_800_000_000_000_000
    row = ("", run_id, task, instant, "schedule", 1, "me", instant, instant, "", 0, "", "", None)
    with sqlite3.connect(path) as file:
        file.execute(f"INSERT INTO held VALUES ({', '.join('?' * len(row))})", row)
    file.close()


def test_a_file_that_vanished_or_was_replaced_knows_nothing_and_gives_out_nothing_old(store, path):
    claim(store, 1)
    for leftover in path.parent.glob("runs.db*"):
        leftover.unlink()

    assert claim(store, 1).answer is Claim.REFUSED
    assert claim(store, 1).answer is Claim.TAKEN
    assert claim(store, 2).answer is Claim.WON


def test_a_file_that_vanished_or_was_replaced_while_it_was_open_is_told_of_once(store, path, caplog):
    claim(store, 1)
    store.close()
    claim(store, 2)
    assert caplog.records == []
    for leftover in path.parent.glob("runs.db*"):
        leftover.unlink()

    for task in ("a", "b"):
        assert claim(store, 1, task).answer is Claim.REFUSED

    (told,) = caplog.records
    assert told.pulse_event == "store_replaced"
    assert str(path) in told.getMessage()


def test_an_older_copy_that_is_written_over_the_file_is_told_of_once(store, path, tmp_path, caplog):
    instance = Instance(owner="me", started=NOON, seen=NOON, digest="new", server="", version="1")
    store.beat(instance, {}, DAY)
    with closing(sqlite3.connect(tmp_path / "copy")) as copy, closing(sqlite3.connect(path)) as file:
        file.backup(copy)
        store.beat(instance, {}, DAY)
        copy.backup(file)
    assert caplog.records == []

    for _ in range(2):
        store.beat(instance, {}, DAY)

    assert [told.pulse_event for told in caplog.records] == ["store_replaced"]


def test_an_older_copy_in_the_place_of_the_file_gives_out_nothing_that_may_have_run(path, tmp_path):
    clock = ManualClock(NOON)
    store = SqliteRunStore(path, clock=clock)
    store.register(["a"], NOON)
    claim(store, 1)
    store.close()
    shutil.copy(path, tmp_path / "copy")
    for second in (2, 3):
        claim(store, second)
    store.close()

    (tmp_path / "copy").replace(path)
    clock.advance(5)

    assert [claim(store, second).answer for second in (2, 3, 5, 6)] == [
        Claim.STALE,
        Claim.STALE,
        Claim.STALE,
        Claim.WON,
    ]
    assert store.totals("a").counts == {Outcome.MISSED: 3}
    assert {run.reason for run in store.history("a")} == {"it was due before the run store lost what it knew"}
    store.close()


def test_an_older_copy_gives_no_further_attempt_out_again(path, tmp_path):
    clock = ManualClock(NOON)
    store = SqliteRunStore(path, clock=clock)
    store.register(["a"], NOON)
    run = claim(store, 1).run
    store.finish(replace(run, outcome=Outcome.FAILED, finished=run.due), again_at=NOON + 2 * SECOND)
    (waiting,) = store.waiting()
    store.close()
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").replace(path)
    clock.advance(5)

    terms = {"owner": "heir", "now": clock.now(), "lease": 30 * SECOND, "limits": Limits()}
    assert store.adopt(waiting, **terms) is None

    assert store.waiting() == []
    assert store.history("a")[0].reason == "it was due before the run store lost what it knew"
    assert [run.attempt for run in store.history("a")] == [2, 1]  # or one instant would be in two first records
    store.close()


def test_applications_that_share_a_file_know_nothing_of_each_other(path):
    one, two = SqliteRunStore(path, name="one"), SqliteRunStore(path, name="two")
    for store in (one, two):
        store.register(["a"], NOON)
    one.pause("a", Pause(since=NOON))

    assert claim(one, 1).answer is Claim.PAUSED
    assert claim(two, 1).answer is Claim.WON
    assert two.purge([]) == ["a"]
    assert len(one.history("a")) == 1
    one.close()
    two.close()


@pytest.mark.parametrize(("place", "days"), [("there", 401), ("there:7/5.ab-cd.3", 31)])
def test_the_tracks_of_places_that_are_long_gone_are_forgotten(store, place, days):
    store.register([f"a@{place}"], NOON - days * DAY)

    assert store.register(["a@here"], NOON) == {"a@here": NOON}

    assert store.register([f"a@{place}"], NOON) == {f"a@{place}": NOON}


def test_an_attempt_that_waits_for_a_process_that_is_long_gone_is_forgotten(store):
    place, terms = "there:7/5.ab-cd.3", {"owner": "me", "lease": 30 * SECOND, "passed": lambda cursor: None}
    store.register([f"a@{place}"], NOON - 40 * DAY)
    fire = Fire(task="a", due=NOON - 39 * DAY, place=place)
    run = store.claim(fire, now=fire.due, limits=Limits(), **terms).run
    store.finish(replace(run, outcome=Outcome.FAILED, finished=fire.due), again_at=fire.due + SECOND)
    assert [one.attempt for one in store.waiting()] == [2]

    store.register(["a@here"], NOON)

    assert store.waiting() == []
    assert [one.outcome for one in store.history("a")] == [Outcome.FAILED]


def test_the_track_of_a_place_where_something_is_under_way_is_kept(store):
    track = "a@there:7/5.ab-cd.3"
    store.register([track], NOON - 40 * DAY)
    fire = Fire(task="a", due=NOON - 31 * DAY, place="there:7/5.ab-cd.3")
    terms = {"owner": "me", "lease": 30 * SECOND, "passed": lambda cursor: None, "limits": Limits()}
    assert store.claim(fire, now=fire.due, **terms).answer is Claim.WON

    store.register(["a@here"], NOON)

    assert store.register([track], NOON) == {track: fire.due}
    assert [run.due for run in store.running()] == [fire.due]


def test_a_corrupt_file_is_unavailable_and_never_claimed(store, path):
    store.close()
    for leftover in path.parent.glob("runs.db-*"):
        leftover.unlink()
    path.write_bytes(b"this is no database, whatever its name says" * 100)

    for ask in (lambda: claim(store, 1), store.reach):
        with pytest.raises(StoreUnavailableError, match=r"runs\.db cannot be used"):
            ask()

    path.unlink()
    assert store.register(["a"], NOON) == {"a": NOON}


@pytest.mark.parametrize("spoilt", ["outcome = 'unheard-of'", "trigger = 7", "due = 9000000000000000000"])
def test_a_record_that_cannot_be_read_makes_no_other_error_than_a_store_that_does_not_answer(store, path, spoilt):
    store.finish(replace(claim(store, 1).run, outcome=Outcome.SUCCESS, finished=NOON))
    execute(path, f"UPDATE records SET {spoilt}")

    for ask in (lambda: store.history("a"), store.newest, lambda: store.brief(["a"], 5)):
        with pytest.raises(StoreUnavailableError, match="has not written"):
            ask()

    assert store.clear("a") == 1
    assert claim(store, 2).answer is Claim.WON


@pytest.mark.parametrize(
    "spoilt", ["held SET trigger = 'unheard-of'", "tasks SET cursor = 9000000000000000000 WHERE name = 'a'"]
)
def test_a_step_that_cannot_read_what_it_needs_keeps_nobody_waiting(store, path, spoilt):
    claim(store, 1)
    execute(path, f"UPDATE {spoilt}")

    with pytest.raises(StoreUnavailableError):
        claim(store, 2)

    other = SqliteRunStore(path)
    assert claim(other, 2, "b").answer is Claim.WON
    other.close()


def test_what_is_held_and_cannot_be_read_keeps_nobody_from_the_rest_and_is_named_once(store, path, caplog):
    of_a, of_b = claim(store, 1, "a").run, claim(store, 1, "b").run
    execute(path, "UPDATE held SET trigger = 'unheard-of' WHERE task = 'a'")

    assert store.running() == [of_b]
    assert store.waiting() == []
    assert store.renew([of_a, of_b], NOON + 40 * SECOND) == []
    assert [run.id for run in store.reap(NOON + 50 * SECOND)] == [of_b.id]

    (told,) = caplog.records
    assert (told.pulse_event, told.pulse_task, told.pulse_run) == ("held_unreadable", "a", of_a.id)
    assert "'unheard-of' is not a valid Trigger" in told.getMessage()


def test_what_could_not_be_read_is_named_again_when_it_was_gone_meanwhile(store, path, caplog):
    claim(store, 1)
    for trigger in ("unheard-of", "schedule", "unheard-of"):
        execute(path, f"UPDATE held SET trigger = '{trigger}'")
        store.running()

    assert [told.pulse_event for told in caplog.records] == ["held_unreadable"] * 2


def test_a_task_of_which_something_cannot_be_read_is_left_out_of_a_handful(store, path):
    claim(store, 1, "a")
    execute(path, "UPDATE held SET trigger = 'unheard-of' WHERE task = 'a'")
    fires = [Fire(task=task, due=NOON + 2 * SECOND) for task in ("a", "b")]
    bids = [Bid(fire=fire, passed=lambda cursor: None, limits=Limits()) for fire in fires]

    claims = store.claim_all(bids, owner="me", now=NOON + 2 * SECOND, lease=30 * SECOND)

    assert [claimed.answer for claimed in claims] == [Claim.WAIT, Claim.WON]
    assert store.running() == [claims[1].run]


def test_a_record_that_cannot_be_read_keeps_nothing_from_being_run(store, path):
    for task in "ab":
        store.finish(replace(claim(store, 1, task).run, outcome=Outcome.SUCCESS, finished=NOON + SECOND))
    execute(path, "UPDATE records SET trigger = 'unheard-of' WHERE task = 'a'")
    missed = Span(first=NOON + 2 * SECOND, last=NOON + 2 * SECOND, count=1)
    fires = [Fire(task=task, due=NOON + 3 * SECOND) for task in "ab"]
    bids = [Bid(fire=fire, passed=lambda cursor: missed, limits=Limits()) for fire in fires]

    claims = store.claim_all(bids, owner="me", now=NOON + 3 * SECOND, lease=30 * SECOND)

    assert [claimed.answer for claimed in claims] == [Claim.WON, Claim.WON]
    assert [run.outcome for run in store.history("a", 1)] == [Outcome.MISSED]


def test_a_file_whose_schema_is_spoilt_is_unavailable(store, path):
    store.close()
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE tasks", b"CREATE \xff\xfe\xfd\xfc\xfb tasks"))

    with pytest.raises(StoreUnavailableError):
        claim(store, 1)


def test_who_finds_what_a_later_release_has_changed_says_that_it_was_one(store, path):
    execute(path, "DROP TABLE held", f"PRAGMA user_version = {len(_UPGRADES) + 1}")

    with pytest.raises(StoreUnavailableError, match=r"no such table: held.*later release"):
        claim(store, 1)
    with pytest.raises(StoreUnavailableError, match="made by a later release"):
        claim(store, 1)


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for statement in statements:
            file.execute(statement)


def test_a_file_of_a_later_release_is_not_touched(path):
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 99")
    file.close()

    for ask in (lambda: SqliteRunStore(path).register(["a"], NOON), SqliteRunStore(path).reach):
        with pytest.raises(StoreUnavailableError, match="later release"):
            ask()


RECORD = """
INSERT INTO records (app, id, task, due, trigger, attempt, owner, place, recovers, outcome, reason, body, errors, count,
                     result)
VALUES ('', 'old', 'a', 0, 'schedule', 1, 'me', '', 0, 'missed', 'why', '', '', 1, '')
"""


@pytest.mark.parametrize("version", range(1, len(_UPGRADES)))
def test_a_file_of_an_earlier_release_is_brought_up_to_date_with_all_that_it_knows(path, version):
    make_as_of(path, version, RECORD, "INSERT INTO tasks (app, name, appended, last_finished) VALUES ('', 'a', 1, 0)")
    store = SqliteRunStore(path, history=10)
    store.register(["a"], NOON)
    press = Press(at=NOON, by="mara", address="", action="pause", task="a")

    run = claim(store, 1).run
    store.finish(replace(run, outcome=Outcome.SUCCESS, finished=NOON, log=b"said"))
    store.keep_press(press)

    assert [(one.id, one.reason, one.log) for one in store.history("a")] == [(run.id, "", b"said"), ("old", "why", b"")]
    assert store.presses() == [press]
    assert store.ran(NOON.date()) == 1
    store.close()


def test_what_an_earlier_version_knew_of_each_task_is_known_in_one_row(path):
    noon, later = (number_of(NOON + more) for more in (timedelta(0), SECOND))
    make_as_of(
        path,
        5,
        f"INSERT INTO tracks VALUES ('', 'a', {later}), ('', 'b@here', {later}), ('', 'new', {noon})",
        f"INSERT INTO tasks VALUES ('', 'a', 7, {noon}, {noon}, {noon // 86_400_000_000}, 3), "
        "('', 'b', 40, NULL, NULL, NULL, 0)",
        "INSERT INTO totals VALUES ('', 'a', 'success', 5), ('', 'a', 'failed', 2), ('', 'b', 'missed', 40)",
        "INSERT INTO held SELECT '', 'a', 'r1', cursor, 'schedule', 1, 'me', cursor, cursor, '', 0, '', '', NULL "
        "FROM tracks WHERE name = 'a'",
    )
    store = SqliteRunStore(path, history=10)

    known = {"a": Totals(counts={Outcome.SUCCESS: 5, Outcome.FAILED: 2}, last_finished=NOON, last_success=NOON)}
    assert store.all_totals() == known | {"b": Totals(counts={Outcome.MISSED: 40})}
    assert store.tasks() == ["a", "b", "new"]
    assert store.ran(NOON.date()) == 3
    assert store.register(["a", "b", "b@here", "new"], NOON + DAY) == {
        "a": NOON + SECOND, "b": NOON + DAY, "b@here": NOON + SECOND, "new": NOON,
    }  # fmt: skip
    (held,) = store.running()
    assert store.finish(replace(held, finished=NOON + SECOND, outcome=Outcome.SUCCESS))
    assert store.totals("a").counts == {Outcome.SUCCESS: 6, Outcome.FAILED: 2}
    assert [claim(store, second).answer for second in (1, 2)] == [Claim.TAKEN, Claim.WON]
    store.close()


def test_the_sums_of_an_earlier_version_begin_with_nothing_and_its_processes_have_refused_nothing(path):
    noon, later = (number_of(NOON + more) for more in (timedelta(0), SECOND))
    make_as_of(
        path,
        7,
        f"INSERT INTO tasks (app, name, appended, cursor, last_finished, last_success, success) VALUES ('', 'a', 5, {noon}, "
        f"{noon}, {noon}, 5)",
        f"INSERT INTO held VALUES ('', 'a', 'r1', {noon}, 'schedule', 1, 'me', {later}, {later}, '', 0, '', '', NULL)",
        f"INSERT INTO instances VALUES ('', 'old', {noon}, {noon}, 'd', 'test', '1')",
    )
    store = SqliteRunStore(path)

    before, (old,) = store.totals("a"), store.instances()
    assert store.finish(replace(store.running()[0], finished=NOON, outcome=Outcome.SUCCESS, duration=0.25))
    store.beat(replace(old, refused=3), {}, DAY)

    assert before == Totals(counts={Outcome.SUCCESS: 5}, last_finished=NOON, last_success=NOON)
    assert old == Instance(owner="old", started=NOON, seen=NOON, digest="d", server="test", version="1")
    assert store.totals("a") == replace(before, counts={Outcome.SUCCESS: 6}, timed=1, seconds=0.25, seconds_late=1.0)
    assert store.instances() == [replace(old, refused=3)]
    store.close()


def test_a_file_that_somebody_locks_is_unavailable_in_bounded_time_and_usable_after(store, path):
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    begun = time.monotonic()

    with pytest.raises(StoreUnavailableError, match="locked"):
        claim(store, 1)
    waited = time.monotonic() - begun
    locker.execute("ROLLBACK")
    locker.close()

    assert waited < 20
    assert claim(store, 1).answer is Claim.WON


class CountedLock:
    """A lock that knows how many threads have come to it."""

    def __init__(self):
        self.came = 0
        self._lock = threading.Lock()

    def acquire(self, timeout):
        self.came += 1
        return self._lock.acquire(timeout=timeout)

    def release(self):
        self._lock.release()


def test_who_waits_behind_a_step_that_waited_in_vain_does_not_wait_again(store, path, monkeypatch):
    lock, begun = CountedLock(), []
    store.close()
    store._lock = lock
    opened = store._open
    monkeypatch.setattr(store, "_open", lambda: begun.append(1) or opened())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        with ThreadPoolExecutor(6) as pool:
            first = pool.submit(claim, store, 1)
            wait_until(lambda: begun)
            behind = [pool.submit(store.pauses) for _ in range(3)] + [pool.submit(claim, store, 1) for _ in range(2)]
            wait_until(lambda: lock.came == 6)
            errors = [future.exception() for future in (first, *behind)]

        assert [type(error) for error in errors] == [StoreUnavailableError] * 6
        assert {str(error) for error in errors[1:]} == {
            f"the run store {path} cannot be used: somebody else has locked it"
        }
        assert begun == [1]
        other.execute("ROLLBACK")
    assert claim(store, 2).answer is Claim.WON


def test_who_waits_behind_a_step_that_does_not_end_is_told_so_in_bounded_time(store, monkeypatch):
    monkeypatch.setattr(sqlite, "TURN_SECONDS", 0.05)

    with store._lock:  # as a thread has it for which a disk does not answer
        for ask in (lambda: claim(store, 1), store.tasks):
            with pytest.raises(StoreUnavailableError, match="has not ended"):
                ask()
        store.close()

    assert claim(store, 1).answer is Claim.WON


def test_who_waits_behind_a_step_that_had_its_turn_has_one_too(store):
    lock = store._lock

    class Crowd:
        """While somebody waits for the lock, one step waits in vain, and then one has its turn."""

        def acquire(self, timeout):
            with lock:
                store._vain += 1
            store._lock = lock
            assert claim(store, 1).answer is Claim.WON
            store._lock = self
            return lock.acquire(timeout=timeout)

        def release(self):
            lock.release()

    store._lock = Crowd()
    late = claim(store, 1)
    store._lock = lock

    assert late.answer is Claim.TAKEN


def lying_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_whoever_only_asks_whether_it_can_be_used_makes_no_file(tmp_path):
    SqliteRunStore(tmp_path / "folder" / "runs.db").reach()

    assert lying_in(tmp_path) == {}


def test_whoever_only_asks_leaves_every_file_as_it_lies_whether_somebody_has_it_open_or_not(store, path):
    claim(store, 1)
    for is_open in (True, False):
        before = lying_in(path.parent)
        SqliteRunStore(path).reach()
        assert lying_in(path.parent) == before
        assert claim(store, 2 + is_open).answer in (Claim.WON, Claim.TAKEN)
        store.close()


def test_a_store_that_is_asked_whether_it_can_be_used_keeps_the_locks_that_it_has(store, path):
    with store._step():
        SqliteRunStore(path).reach()
        with (
            closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")


def test_a_file_without_anything_in_it_is_no_fault(path):
    path.touch()

    SqliteRunStore(path).reach()


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreUnavailableError):
        SqliteRunStore(tmp_path / "file" / "runs.db").register(["a"], NOON)


def test_a_witness_that_cannot_be_read_any_more_is_written_anew(store, path):
    witness = path.with_name("runs.db-seen")
    store.close()
    witness.write_bytes(b"\xff\xfe spoilt" * 10)

    assert claim(store, 1).answer is Claim.WON

    assert store._seen() > 1


def test_a_file_that_is_replaced_while_it_is_opened_is_not_taken_for_the_one_in_its_place(store, path, monkeypatch):
    prepare, place = sqlite._prepare, path.with_name("elsewhere")
    with closing(SqliteRunStore(place)) as other:
        other.register(["a"], NOON)
    store.close()

    def prepare_late(connection):
        prepare(connection)
        if place.exists():  # as when a disk is mounted at this moment
            place.replace(path)

    monkeypatch.setattr(sqlite, "_prepare", prepare_late)
    with pytest.raises(StoreUnavailableError, match="replaced while it was opened"):
        claim(store, 1)

    with closing(SqliteRunStore(path)) as other:
        answers = [claim(other, 1).answer, claim(store, 1).answer]
    assert answers == [Claim.WON, Claim.TAKEN]


@pytest.mark.parametrize("suffixes", [("-shm",), ("-wal", "-shm")], ids=" ".join)
def test_who_uses_a_file_whose_companions_were_removed_sees_what_others_claim_with_new_ones(store, path, suffixes):
    store.close()
    store.register(["a"], NOON)  # opens it again, and the rest lies in the file itself
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()

    with subprocess.Popen([sys.executable, "-c", CLAIMER, str(path)], stdout=subprocess.PIPE, text=True) as claimer:
        try:
            assert claimer.stdout.readline() == "won\n"
            assert claim(store, 1).answer is not Claim.WON
            assert claim(store, 2).answer is Claim.WON
        finally:
            claimer.kill()


def test_who_uses_a_file_whose_log_was_removed_writes_another_one(store, path):
    store.close()
    store.register(["a"], NOON)  # opens it again
    path.with_name("runs.db-wal").unlink()

    assert claim(store, 1).answer is Claim.WON

    with closing(SqliteRunStore(path)) as other:
        assert claim(other, 1).answer is Claim.TAKEN


@pytest.mark.parametrize("suffixes", [("",), ("-shm",), ("", "-wal", "-shm")], ids=" ".join)
def test_a_file_that_goes_from_a_folder_that_was_calm_for_long_is_missed_at_once(store, path, suffixes):
    store.close()
    store.register(["a"], NOON)  # opens it again, and the rest lies in the file itself
    _calm_down(path)
    assert [claim(store, second).answer for second in (1, 2)] == [Claim.WON] * 2  # by now the folder alone is looked at
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()

    with closing(SqliteRunStore(path)) as other:
        other.register(["a"], NOON)
        assert claim(other, 3).answer is Claim.WON
        assert claim(store, 3).answer is Claim.TAKEN


def test_a_file_that_goes_in_the_moment_in_which_its_folder_has_changed_is_missed_at_once(store, path):
    assert claim(store, 1).answer is Claim.WON
    changed = path.parent.stat().st_mtime_ns
    for leftover in path.parent.glob("runs.db*"):
        leftover.unlink()
    os.utime(path.parent, ns=(changed, changed))

    assert claim(store, 2).answer is Claim.REFUSED


def test_a_file_that_is_a_link_is_looked_at_itself(path, tmp_path):
    place = tmp_path / "there" / "runs.db"
    place.parent.mkdir()
    path.symlink_to(place)
    with closing(SqliteRunStore(path)) as store, closing(SqliteRunStore(place)) as other:
        other.register(["a"], NOON)
        store.register(["a"], NOON)
        _calm_down(path)
        assert [claim(store, second).answer for second in (1, 2)] == [Claim.WON] * 2
        for leftover in place.parent.glob("runs.db*"):
            leftover.unlink()
        other.register(["a"], NOON)
        assert claim(other, 3).answer is Claim.WON
        assert claim(store, 3).answer is Claim.TAKEN


def _calm_down(path: Path) -> None:
    """As if nothing had changed for a year in the folder in which *path* lies."""
    long_ago = path.stat().st_mtime - 31_000_000.5
    os.utime(path.parent, (long_ago, long_ago))


# Heartbeats


class Counted(UserDict):
    """Fingerprints that know how often they were written down."""

    written = 0

    def keys(self):
        self.written += 1
        return super().keys()


def test_what_a_process_lives_by_is_written_when_it_comes_and_again_when_it_was_forgotten(store, path):
    known = Counted(a="x")
    me = Instance(owner="me", started=NOON, seen=NOON, digest="mine")
    for second in range(3):
        store.beat(replace(me, seen=NOON + second * SECOND), known, 30 * SECOND)
    assert known.written == 1

    with closing(sqlite3.connect(path)) as other:
        other.execute("DELETE FROM configurations")
        other.commit()
    living = store.beat(replace(me, seen=NOON + 9 * SECOND), known, 30 * SECOND)

    assert (known.written, living) == (2, {"mine": NOON + 9 * SECOND})
    assert store.fingerprints("mine") == {"a": "x"}
