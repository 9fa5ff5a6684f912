"""What is particular to PostgreSQL: a fleet of processes, and everything that befalls servers and networks."""

import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from servers import wait_until
from services import Postgres, postgres

from pulse.errors import ConfigError, StoreUnavailableError
from pulse.model import Claim, Fire, Instance, Limits, Outcome, Span, Trigger
from pulse.runstores import postgres as backend
from pulse.runstores import sql
from pulse.runstores.base import PURGED_AT_ONCE, Bid, Totals
from pulse.runstores.instants import number_of
from pulse.runstores.ledger import REBORN
from pulse.runstores.postgres import _UPGRADES, CONNECTIONS, PostgresRunStore

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def nothing(cursor: datetime) -> None:
    """No instant was passed over."""


def claim_at(store: PostgresRunStore, due: datetime, now: datetime | None = None, passed=nothing, **more):
    limits = Limits(instances=None, lock=more.pop("lock", ""))
    fire = Fire(task=more.pop("task", "a"), due=due, **more)
    terms = {"owner": "me", "lease": 30 * SECOND, "passed": passed, "limits": limits}
    return store.claim(fire, now=now or due, **terms)


def claim(store: PostgresRunStore, second: int, **more):
    return claim_at(store, NOON + second * SECOND, **more)


def execute(address: str, statement: str) -> list[tuple]:
    with psycopg.connect(address, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def opened(address: str, *, name: str | None = None, tolerance: timedelta | None = None) -> Iterator[PostgresRunStore]:
    store = PostgresRunStore(address, name=name or uuid4().hex, history=10, tolerance=tolerance)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def address(postgres_server: Postgres) -> str:
    return postgres_server.url


@pytest.fixture
def store(address: str) -> Iterator[PostgresRunStore]:
    with opened(address) as store:
        store.register(["a", "b"], NOON)
        yield store


@pytest.fixture
def own_database(address: str) -> Iterator[str]:
    """The address of a database that was never used."""
    name = f"fresh_{uuid4().hex}"
    execute(address, f"CREATE DATABASE {name}")
    yield address.replace("/postgres?", f"/{name}?")
    execute(address, f"DROP DATABASE {name} (FORCE)")


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A server that tests may crash; each leaves it running."""
    with postgres() as server:
        yield server


# Many processes

RACER = """
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pulse.model import Claim, Fire, Limits, Outcome
from pulse.runstores.postgres import PostgresRunStore

store = PostgresRunStore(sys.argv[1], name="race", tolerance=None)
terms = {"owner": sys.argv[2], "lease": timedelta(days=1), "passed": lambda cursor: None, "limits": Limits(instances=None)}
noon = datetime(2027, 5, 1, 12, tzinfo=UTC)
print("ready", flush=True)
sys.stdin.readline()
store.register(["a"], noon)
for second in range(1, 151):
    fire = Fire(task="a", due=noon + timedelta(seconds=second))
    claimed = store.claim(fire, now=fire.due, **terms)
    if claimed.answer is Claim.WON:
        print(second, flush=True)
        assert store.finish(replace(claimed.run, outcome=Outcome.SUCCESS, finished=fire.due))
store.close()
"""


@contextmanager
def racers(address: str, count: int) -> Iterator[list[subprocess.Popen]]:
    """Processes that have begun to race; none outlives the block."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, address, str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(count)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        yield processes
    finally:
        for process in processes:
            with process:
                process.kill()


def test_processes_that_are_the_first_ever_and_race_win_each_instant_once(own_database):
    won: list[int] = []
    with racers(own_database, 4) as processes:
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert err == ""
            won += map(int, out.split())

    assert len(won) == len(set(won))
    assert max(won) == 150
    with opened(own_database, name="race") as store:
        assert store.totals("a").counts == {Outcome.SUCCESS: len(won)}


def test_a_racer_that_is_killed_leaves_no_lock_behind(own_database):
    with racers(own_database, 3) as (victim, *others):
        victim.stdout.readline()
        victim.kill()

        for process in others:
            _, err = process.communicate(timeout=60)
            assert err == ""

    with opened(own_database, name="race") as store:
        assert claim(store, 151).answer is Claim.WON


def test_a_process_makes_a_handful_of_connections_however_many_threads_it_has(store, address):
    busy, go = threading.Barrier(CONNECTIONS + 1), threading.Event()

    def wait(cursor: datetime) -> None:
        busy.wait()
        go.wait()

    first = [
        threading.Thread(target=claim, args=(store, n), kwargs={"task": f"t{n}", "passed": wait})
        for n in range(CONNECTIONS)
    ]
    store.register([f"t{n}" for n in range(3 * CONNECTIONS)], NOON - SECOND)
    rest = [
        threading.Thread(target=claim, args=(store, 1), kwargs={"task": f"t{n}"})
        for n in range(CONNECTIONS, 3 * CONNECTIONS)
    ]
    for thread in first:
        thread.start()
    busy.wait()
    for thread in rest:
        thread.start()
    ((count,),) = execute(
        address,
        f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{store._parameters['application_name']}'",
    )
    go.set()
    for thread in (*first, *rest):
        thread.join()

    assert count == CONNECTIONS
    assert len(store.running()) == 3 * CONNECTIONS


def test_a_thread_that_finds_no_free_connection_in_time_is_told_so(store, monkeypatch):
    monkeypatch.setattr(backend, "ANSWER_SECONDS", 0.05)
    for _ in range(CONNECTIONS):
        store._places.acquire()

    with pytest.raises(StoreUnavailableError, match="connections were busy"):
        claim(store, 1)


# Forks


@pytest.mark.parametrize("is_told", [True, False])
def test_after_a_fork_parent_and_child_go_on_with_connections_of_their_own(store, is_told):
    claim(store, 1)
    (inherited,) = store._open
    descriptor = inherited.fileno()

    pid = os.fork()
    if pid == 0:
        if is_told:
            store.after_fork()
        answers = [claim(store, second).answer for second in (1, 2)]
        is_let_go = not stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        store.close()
        os._exit(0 if answers == [Claim.TAKEN, Claim.WON] and is_let_go else 1)
    _, status = os.waitpid(pid, 0)

    assert status == 0
    assert claim(store, 2).answer is Claim.TAKEN
    assert store._open == {inherited}


def test_closing_in_a_forked_child_says_nothing_on_the_connections_of_the_parent(store):
    claim(store, 1)
    (inherited,) = store._open

    pid = os.fork()
    if pid == 0:
        store.close()
        os._exit(0)
    os.waitpid(pid, 0)

    assert not inherited.has_ended()
    assert claim(store, 1).answer is Claim.TAKEN


# Broken connections


def terminate_all(address: str) -> None:
    execute(
        address,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )


def test_a_connection_that_ended_while_it_was_idle_costs_no_claim(store, address):
    claim(store, 1)
    (idle,) = store._open

    terminate_all(address)
    wait_until(idle.has_ended)

    assert claim(store, 2).answer is Claim.WON


def test_a_claim_whose_connection_breaks_is_not_won_and_the_next_call_makes_a_new_one(store, address):
    def passed(cursor: datetime) -> None:
        terminate_all(address)

    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        claim(store, 1, passed=passed)

    assert store.running() == []
    assert claim(store, 1).answer is Claim.WON


def test_a_step_that_fails_leaves_nothing_behind(store):
    def passed(cursor: datetime) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        claim(store, 1, passed=passed)

    assert claim(store, 1).answer is Claim.WON


def test_a_lock_that_somebody_keeps_makes_the_task_unavailable_in_bounded_time_and_no_other(store, address):
    begun = time.monotonic()
    with psycopg.connect(address) as keeper:
        keeper.execute(backend._translated(backend._LOCK), backend._locks(store._app, ["a"]))

        with pytest.raises(StoreUnavailableError, match="lock timeout"):
            claim(store, 1)
        assert claim(store, 1, task="b").answer is Claim.WON

    assert time.monotonic() - begun < 30
    assert claim(store, 1).answer is Claim.WON


class Line:
    """Counts the ways there and back that are made through it to a server on a socket."""

    def __init__(self, folder: str) -> None:
        (self._socket,) = Path(folder).glob(".s.PGSQL.*[0-9]")
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self.ways = 0
        self._is_asked = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._door.accept()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._socket))
            while True:
                for one in select.select([client, server], [], [])[0]:
                    if not (said := one.recv(65_536)):
                        return
                    self._pass_on(said, client, server, is_asked=one is client)

    def _pass_on(self, said: bytes, client: socket.socket, server: socket.socket, *, is_asked: bool) -> None:
        self.ways += is_asked and not self._is_asked
        self._is_asked = is_asked
        (server if is_asked else client).sendall(said)

    def close(self) -> None:
        """Once the client has closed its connection, if there was one."""
        self._thread.join(30)
        self._door.close()


@pytest.fixture
def line(address: str) -> Iterator[Line]:
    line = Line(conninfo_to_dict(address)["host"])
    yield line
    line.close()


@pytest.fixture
def far(line: Line, address: str) -> Iterator[PostgresRunStore]:
    """A store at the other end of *line*."""
    said = conninfo_to_dict(address)
    with opened(f"postgresql://{said['user']}@127.0.0.1:{line.port}/{said['dbname']}") as far:
        far.register(["a", "b"], NOON)
        yield far


def test_a_claim_and_the_end_of_a_run_are_two_ways_there_and_back_each(far, line):
    line.ways = 0

    run = claim(far, 1).run
    assert line.ways == 2
    assert far.finish(replace(run, outcome=Outcome.SUCCESS, finished=NOON))

    assert line.ways == 4


def test_a_handful_costs_no_more_ways_there_and_back_than_one_run(far, line):
    tasks = [f"task{number}" for number in range(20)]
    far.register(tasks, NOON)
    bids = [Bid(fire=Fire(task=task, due=NOON + SECOND), passed=nothing, limits=Limits()) for task in tasks]
    line.ways = 0

    claimed = far.claim_all(bids, owner="me", now=NOON + SECOND, lease=30 * SECOND)
    assert all(far.finish_all([replace(one.run, outcome=Outcome.SUCCESS, finished=NOON) for one in claimed]))

    assert line.ways == 4


def test_a_handful_behind_an_outage_is_four_ways_there_and_back(far, line):
    tasks = [f"task{number}" for number in range(20)]
    far.register(tasks, NOON)
    missed = Span(first=NOON + SECOND, last=NOON + SECOND, count=1)
    fires = [Fire(task=task, due=NOON + 2 * SECOND, latest=NOON if task == "task7" else None) for task in tasks]
    bids = [Bid(fire=fire, passed=lambda _: missed, limits=Limits()) for fire in fires]
    line.ways = 0

    claimed = far.claim_all(bids, owner="me", now=NOON + 2 * SECOND, lease=30 * SECOND)

    assert line.ways == 4  # one more for task7, of which two things are noted
    assert all(one.missed for one in claimed)


def test_the_first_step_of_a_generation_notes_it_though_it_asks_for_nothing(address):
    with opened(address) as store:
        store.register(["a"], NOON, since=NOON - HOUR)

        assert claim_at(store, NOON - HOUR + SECOND, NOON).answer is Claim.WON


def test_a_server_that_freezes_is_unavailable_in_bounded_time_and_usable_after(own_server):
    with opened(own_server.url) as store:
        store.register(["a"], NOON)
        claim(store, 1)
        begun = time.monotonic()
        try:
            with pytest.raises(StoreUnavailableError, match="no answer in 3 s"):
                claim(store, 2, passed=lambda cursor: own_server.freeze())
            with pytest.raises(StoreUnavailableError, match="timeout"):
                claim(store, 3)
            waited = time.monotonic() - begun
        finally:
            own_server.thaw()

        assert waited < 30
        assert claim(store, 3).answer is Claim.WON
        assert claim(store, 2).answer is Claim.TAKEN


def test_nobody_at_the_address_is_unavailable_and_the_password_is_not_shown():
    with (
        opened("postgresql://ada:sesame@127.0.0.1:1/runs?sslpassword=tulip") as store,
        pytest.raises(
            StoreUnavailableError, match=r"postgresql://127\.0\.0\.1:1/runs cannot be used: .*refused"
        ) as caught,
    ):
        claim(store, 1)

    assert "sesame" not in str(caught.value)
    assert "tulip" not in str(caught.value)


# Another generation of the server


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


def known_since_an_hour(server: Postgres, now: datetime) -> str:
    """The name of an application that claimed what was due half an hour ago."""
    name = uuid4().hex
    with opened(server.url, name=name) as store:
        store.register(["a"], now - HOUR)
        assert claim_at(store, now - HOUR / 2).answer is Claim.WON
    return name


def assert_is_another_generation(server: Postgres, name: str, now: datetime) -> None:
    with opened(server.url, name=name) as store:
        claimed = claim_at(store, now - HOUR / 4)

        assert claimed.answer is Claim.STALE
        assert claimed.run.reason == REBORN
        assert claim_at(store, now - HOUR / 4).answer is Claim.TAKEN
        assert claim_at(store, now + HOUR).answer is Claim.WON


def test_the_same_generation_gives_out_what_nobody_claimed(own_server, now):
    with opened(own_server.url, name=known_since_an_hour(own_server, now)) as store:
        assert claim_at(store, now - HOUR / 4).answer is Claim.WON


def test_a_restarted_server_gives_out_nothing_that_was_due_before(own_server, now):
    name = known_since_an_hour(own_server, now)
    own_server.stop()
    own_server.start()

    assert_is_another_generation(own_server, name, now)


def test_a_server_that_crashed_gives_out_nothing_that_was_due_before(own_server, now):
    name = known_since_an_hour(own_server, now)
    own_server.crash()
    own_server.start()

    assert_is_another_generation(own_server, name, now)


def test_a_server_that_recovers_without_a_restart_gives_out_nothing_that_was_due_before(own_server, now):
    name = known_since_an_hour(own_server, now)
    with psycopg.connect(own_server.url) as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)

        def answers() -> bool:
            try:
                return bool(execute(own_server.url, "SELECT 1"))
            except psycopg.OperationalError:
                return False

        with pytest.raises(psycopg.OperationalError):
            victim.execute("SELECT 1")
        wait_until(answers)

    assert_is_another_generation(own_server, name, now)


def test_an_older_copy_of_the_server_gives_out_nothing_again(own_server, now):
    folder = own_server.folder
    copy = folder.with_name("copy")
    name = known_since_an_hour(own_server, now)
    own_server.stop()
    subprocess.run(["cp", "-a", folder, copy], check=True)
    own_server.start()
    with opened(own_server.url, name=name) as store:
        claim_at(store, now - HOUR / 4)  # whatever the answer, the copy knows nothing of it
    own_server.stop()
    subprocess.run(["rm", "-r", folder], check=True)
    copy.rename(folder)
    own_server.start()

    assert_is_another_generation(own_server, name, now)


def test_a_running_server_whose_table_was_filled_from_a_backup_gives_out_nothing_again(own_server, now):
    name = known_since_an_hour(own_server, now)
    with opened(own_server.url, name=name) as store:
        execute(own_server.url, "CREATE TABLE backup AS SELECT * FROM pulse.tasks")
        run = claim_at(store, now - HOUR / 4).run
        assert store.finish(replace(run, finished=now, outcome=Outcome.SUCCESS))
        execute(
            own_server.url,
            "TRUNCATE pulse.tasks; INSERT INTO pulse.tasks SELECT * FROM backup; DROP TABLE backup",
        )

        assert claim_at(store, now - HOUR / 4).answer is Claim.STALE
        assert_is_another_generation(own_server, name, now + SECOND)


def test_a_store_whose_tables_were_dropped_knows_nothing_and_gives_out_nothing_old(own_database):
    with opened(own_database) as store:
        store.register(["a"], NOON)
        claim(store, 1)
        execute(own_database, "DROP SCHEMA pulse CASCADE")

        with pytest.raises(StoreUnavailableError, match="does not exist"):
            claim(store, 1)

        assert claim(store, 1).answer is Claim.REFUSED
        assert claim(store, 1).answer is Claim.TAKEN
        assert claim(store, 2).answer is Claim.WON


# Whose clock counts


def test_a_fire_that_is_not_due_by_the_clock_of_the_server_waits_without_a_record(address, now):
    with opened(address, tolerance=SECOND) as store:
        store.register(["a"], now - HOUR)
        due = store.now() + 60 * SECOND

        early = claim_at(store, due)
        by_hand = claim_at(store, due, trigger=Trigger.MANUAL, run_id="byhand")

        assert (early.answer, early.run) == (Claim.WAIT, None)
        assert by_hand.answer is Claim.WON
        assert store.history("a") == []


def test_a_fire_that_is_due_within_the_tolerance_is_won(address):
    with opened(address, tolerance=10 * SECOND) as store:
        store.register(["a"], NOON)

        assert claim_at(store, store.now() + 5 * SECOND).answer is Claim.WON


def test_a_first_start_may_run_what_was_due_before_it(address):
    with opened(address, tolerance=10 * SECOND) as store:
        now = store.now()

        assert store.register(["a"], now, since=now - 60 * SECOND) == {"a": now - 60 * SECOND}
        assert store.register(["a"], now) == {"a": now - 60 * SECOND}
        assert claim_at(store, now - 30 * SECOND).answer is Claim.WON


@pytest.mark.parametrize("error", [-HOUR, HOUR])
def test_a_host_whose_clock_is_wrong_begins_leases_by_that_of_the_server(address, error):
    with opened(address, tolerance=SECOND) as store:
        store.register(["a"], NOON)
        before = store.now()

        run = claim_at(store, store.now(), now=before + error).run

        assert before <= run.started <= store.now()
        assert run.expires == run.started + 30 * SECOND
        assert store.register(["late"], before + error)["late"] >= before
        assert store.reap(store.now() + error) == []
        assert store.renew([run], store.now() + error + 30 * SECOND) == []
        (renewed,) = store.running()
        assert before + 29 * SECOND < renewed.expires < before + 60 * SECOND


def test_lateness_is_judged_by_the_clock_of_the_server(address):
    with opened(address, tolerance=SECOND) as store:
        store.register(["a"], NOON)
        due = store.now()

        claimed = claim_at(store, due, now=due - HOUR, latest=due - SECOND)

        assert claimed.answer is Claim.STALE


# One database, many uses


def test_applications_share_a_database_and_see_nothing_of_each_other(address):
    with opened(address) as one, opened(address) as other:
        one.register(["a"], NOON)
        claim(one, 1)

        assert claim(other, 1).answer is Claim.REFUSED
        assert other.running() == []
        assert other.purge([]) == ["a"]
        assert len(one.running()) == 1


def test_texts_that_the_database_has_no_place_for_are_recorded_without_it(store):
    fire = Fire(task="a", due=NOON + SECOND)

    store.dismiss(fire, outcome=Outcome.SKIPPED, reason="nul \0 and half \ud800", now=fire.due, passed=nothing)

    assert store.history("a")[0].reason == "nul \N{REPLACEMENT CHARACTER} and half ?"


def test_what_the_address_says_wins_over_the_limits_of_pulse(address):
    options = "-c%20statement_timeout%3D7000%20-c%20search_path%3Dpulse"
    with opened(f"{address}&options={options}&connect_timeout=9") as store:
        store.register(["a"], NOON)
        with store._reading():
            assert store._run("SHOW statement_timeout").fetchone() == ("7s",)
            assert store._run("SHOW lock_timeout").fetchone() == ("1500ms",)
        assert store._parameters["connect_timeout"] == "9"


def make_as_of(address: str, version: int, *statements: str) -> None:
    """The schema as that version has made it, with what is said in *statements*."""
    execute(address, "CREATE SCHEMA pulse")
    for statement in (*_UPGRADES[:version], f"CREATE TABLE schema_version AS SELECT {version} AS version", *statements):
        execute(address, f"SET search_path = pulse; {statement}")


def test_tables_whose_upgrade_takes_longer_than_any_step_may_are_brought_up_to_date(own_database, monkeypatch):
    monkeypatch.setattr(backend, "_UPGRADES", (*_UPGRADES, f"SELECT pg_sleep({backend.ANSWER_SECONDS + 0.2})"))

    with opened(own_database) as store:
        assert store.register(["a"], NOON) == {"a": NOON}
        with store._reading():
            assert store._run("SHOW statement_timeout").fetchone() == ("2s",)


def test_a_schema_that_an_earlier_version_has_made_keeps_what_is_held(own_database):
    row = "'name', 'r1', 'a', 1, 'schedule', 1, 'me', 1, 1, '', 0, '', '', NULL"
    make_as_of(own_database, 2, f"INSERT INTO held VALUES ({row})")

    with opened(own_database, name="name") as later:
        (held,) = later.running()
        assert (held.id, held.task, held.attempt) == ("r1", "a", 1)
        assert later.finish(replace(held, finished=NOON, outcome=Outcome.SUCCESS))


def test_a_lock_that_an_earlier_version_has_given_is_kept(own_database, now):
    values = "'name', 'r1', 'a', 0, 'schedule', 1, 'me', 0, 4000000000000000, '', 0, 'files', '', NULL"
    make_as_of(own_database, 5, f"INSERT INTO held VALUES ({values})")

    with opened(own_database, name="name") as store:
        store.register(["b"], now)
        assert claim_at(store, now + SECOND, task="b", lock="files").answer is Claim.BUSY
        assert store.finish(replace(store.running()[0], finished=now, outcome=Outcome.SUCCESS))
        assert claim_at(store, now + 2 * SECOND, task="b", lock="files").answer is Claim.WON


def test_who_has_a_lock_is_found_without_a_look_at_runs_without_one(own_database):
    with opened(own_database, name="name") as store:
        store.register(["a"], NOON)
        claim(store, 1, lock="files")
        row = "'name', 't' || n, 'r' || n, 0, 'schedule', 1, 'me', 0, 0, '', 0, '', '', NULL"
        columns = "app, task, id, due, trigger, attempt, owner, started, expires, place, recovers, lock, stop, progress"
        many = f"INSERT INTO held ({columns}) SELECT {row} FROM generate_series(1, 8000) AS n"
        for statement in (many, "ANALYZE held"):
            execute(own_database, f"SET search_path = pulse; {statement}")
        asked: list[tuple[str, tuple]] = []
        run = store._run
        store._run = lambda *said: asked.append(said) or run(*said)

        with store._step("a"):
            assert store._holder("files").task == "a"

        store._run = run
        statement, *values = next(said for said in asked if "held" in said[0])
        with store._reading():
            plan = store._run(f"EXPLAIN {statement}", *values).fetchall()
    assert "held_by_lock" in str(plan)


def test_a_schema_of_a_later_release_is_not_touched(own_database):
    with opened(own_database) as store:
        store.register(["a"], NOON)
    execute(own_database, "UPDATE pulse.schema_version SET version = 99")

    with opened(own_database) as store:
        for ask in (lambda: claim(store, 1), store.reach):
            with pytest.raises(StoreUnavailableError, match="later release"):
                ask()


def test_who_finds_what_a_later_release_has_changed_says_that_it_may_be_one(own_database):
    with opened(own_database) as store:
        store.register(["a"], NOON)
        execute(own_database, "ALTER TABLE pulse.held RENAME TO held_before")

        with pytest.raises(StoreUnavailableError, match=r"held.* later release"):
            claim(store, 1)


@pytest.mark.parametrize("spoilt", ["held SET trigger = 'unheard-of'", "tasks SET cursor = 9000000000000000000"])
def test_a_step_that_cannot_read_what_it_needs_keeps_nobody_waiting(own_database, spoilt):
    with opened(own_database) as store:
        store.register(["a"], NOON)
        claim(store, 1)
        execute(own_database, f"UPDATE pulse.{spoilt}")

        with pytest.raises(StoreUnavailableError):
            claim(store, 2)

        store.register(["b"], NOON)
        assert claim(store, 2, task="b").answer is Claim.WON


def test_whoever_only_asks_whether_it_can_be_used_makes_no_schema(own_database):
    with opened(own_database) as store:
        store.reach()
        assert execute(own_database, "SELECT to_regnamespace('pulse') IS NULL") == [(True,)]

        store.register(["a"], NOON)
        store.reach()
        assert claim(store, 1).answer is Claim.WON


def test_a_schema_of_an_earlier_release_is_brought_up_to_date_with_all_that_it_knows(own_database):
    make_as_of(own_database, 2)
    columns = (
        "app, id, task, due, trigger, attempt, owner, place, recovers, outcome, reason, body, errors, count, result"
    )
    values = "'old', 'a', 0, 'schedule', 1, 'me', '', 0, 'missed', 'why', '', '', 1, ''"
    with opened(own_database) as store:
        execute(own_database, f"INSERT INTO pulse.records ({columns}) VALUES ('{store._app}', {values})")
        store.register(["a"], NOON)
        run = claim(store, 1).run
        store.finish(replace(run, outcome=Outcome.SUCCESS, finished=NOON, log=b"said"))

        assert [(one.id, one.reason, one.log) for one in store.history("a")] == [
            (run.id, "", b"said"), ("old", "why", b""),
        ]  # fmt: skip
        assert store.ran(NOON.date()) == 1


def test_what_an_earlier_version_knew_of_each_task_is_known_in_one_row(own_database, now):
    hour_ago = number_of(now - HOUR)
    mark = "concat(extract(epoch FROM pg_postmaster_start_time()), '/', pg_relation_filenode('tracks'))"
    make_as_of(
        own_database,
        4,
        f"INSERT INTO tracks VALUES ('name', 'a', {hour_ago}), ('name', 'b@here', {hour_ago})",
        f"INSERT INTO tasks VALUES ('name', 'a', 7, {hour_ago}, {hour_ago}, NULL, 0), "
        "('name', 'b', 40, NULL, NULL, NULL, 0)",
        "INSERT INTO totals VALUES ('name', 'a', 'success', 5), ('name', 'a', 'failed', 2), "
        "('name', 'b', 'missed', 40)",
        f"INSERT INTO generations SELECT 'name', {mark}, NULL",
    )

    with opened(own_database, name="name") as store:
        assert store.totals("a").counts == {Outcome.SUCCESS: 5, Outcome.FAILED: 2}
        assert store.totals("b").counts == {Outcome.MISSED: 40}
        assert store.tasks() == ["a", "b"]
        assert store.register(["a", "b", "b@here"], now) == {"a": now - HOUR, "b": now, "b@here": now - HOUR}
        assert claim_at(store, now - HOUR).answer is Claim.TAKEN
        assert claim_at(store, now - HOUR / 2).answer is Claim.WON  # it is the same generation


def test_the_sums_of_an_earlier_version_begin_with_nothing_and_its_processes_have_refused_nothing(own_database):
    noon, later = number_of(NOON), number_of(NOON + SECOND)
    make_as_of(
        own_database,
        6,
        "INSERT INTO tasks (app, name, appended, cursor, last_finished, last_success, success) "
        f"VALUES ('name', 'a', 5, {noon}, {noon}, {noon}, 5)",
        f"INSERT INTO held VALUES ('name', 'r1', 'a', {noon}, 'schedule', 1, 'me', {later}, {later}, '', 0, '', '', NULL)",
        f"INSERT INTO instances VALUES ('name', 'old', {noon}, {noon}, 'd', 'test', '1')",
    )

    with opened(own_database, name="name") as store:
        before, (old,) = store.totals("a"), store.instances()
        assert store.finish(replace(store.running()[0], finished=NOON, outcome=Outcome.SUCCESS, duration=0.25))
        store.beat(replace(old, refused=3), {}, HOUR)

        assert before == Totals(counts={Outcome.SUCCESS: 5}, last_finished=NOON, last_success=NOON)
        assert old == Instance(owner="old", started=NOON, seen=NOON, digest="d", server="test", version="1")
        assert store.totals("a") == replace(
            before, counts={Outcome.SUCCESS: 6}, timed=1, seconds=0.25, seconds_late=1.0
        )
        assert store.instances() == [replace(old, refused=3)]


def test_a_role_that_may_not_create_the_schema_is_told_what_to_ask_for_and_works_when_it_is_there(own_database):
    role = f"guest_{uuid4().hex}"
    execute(own_database, f"CREATE ROLE {role} LOGIN")
    guest = own_database.replace("postgres@", f"{role}@").replace("postgres:@", f"{role}@")
    with opened(guest) as store:
        for ask in (lambda: claim(store, 1), store.reach):
            with pytest.raises(StoreUnavailableError, match=f"CREATE SCHEMA pulse AUTHORIZATION {role}"):
                ask()

        execute(own_database, "CREATE SCHEMA pulse")
        for ask in (lambda: claim(store, 1), store.reach):
            with pytest.raises(StoreUnavailableError, match=f"CREATE SCHEMA pulse AUTHORIZATION {role}"):
                ask()

        execute(own_database, f"ALTER SCHEMA pulse OWNER TO {role}")
        store.reach()
        assert claim(store, 1).answer is Claim.REFUSED
        assert claim(store, 2).answer is Claim.WON


def test_a_role_that_may_use_the_tables_needs_no_right_to_make_them(own_database):
    role = f"guest_{uuid4().hex}"
    execute(own_database, f"CREATE ROLE {role} LOGIN")
    with opened(own_database) as owner:
        owner.register(["a"], NOON)
    execute(own_database, f"GRANT USAGE ON SCHEMA pulse TO {role}")
    execute(own_database, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pulse TO {role}")

    with opened(own_database.replace("postgres@", f"{role}@").replace("postgres:@", f"{role}@")) as guest:
        assert claim(guest, 1).answer is Claim.REFUSED
        assert claim(guest, 2).answer is Claim.WON
        assert guest.purge([]) == ["a"]


@pytest.mark.parametrize(("place", "days"), [("there", 401), ("there:7/5.ab-cd.3", 31)])
def test_the_tracks_of_places_that_are_long_gone_are_forgotten(address, place, days):
    track = f"a@{place}"
    with opened(address) as store:
        store.register(["a", track], NOON - timedelta(days=days))
        run = claim_at(store, NOON - timedelta(days=days - 1), place=place).run
        store.finish(replace(run, outcome=Outcome.FAILED, finished=run.due), again_at=run.due)
        assert [one.attempt for one in store.waiting()] == [2]

        store.register(["a@here"], NOON + 2 * timedelta(days=1))

        assert store.waiting() == []
        assert store.register(["a", track], NOON) == {"a": NOON - timedelta(days=days), track: NOON}


def test_very_many_places_that_are_long_gone_keep_nobody_from_starting(address, monkeypatch):
    monkeypatch.setattr(sql, "FORGOTTEN_AT_ONCE", 1000)
    with opened(address) as store:
        store.register([f"a@there:{number}/5.ab-cd.3" for number in range(1500)], NOON - timedelta(days=31))

        left = []
        for _ in range(2):
            store.register(["a"], NOON)
            left.append(execute(address, f"SELECT count(*) FROM pulse.tasks WHERE app = '{store._app}'"))

    assert left == [[(501,)], [(1,)]]


def test_purging_many_tasks_forgets_them_all(address):
    tasks = [f"t{number}" for number in range(2 * PURGED_AT_ONCE + 1)]
    with opened(address) as store:
        store.register([*tasks, "kept", "t1@host"], NOON)

        assert store.purge(["kept"]) == sorted(tasks)

        assert store.register(["t1@host", "kept"], NOON + SECOND) == {"t1@host": NOON + SECOND, "kept": NOON}


# Before anything is opened


def test_constructing_connects_to_nothing():
    with opened("postgresql://127.0.0.1:1/runs"):
        pass


def test_an_address_that_cannot_be_read_is_refused_without_showing_it():
    with pytest.raises(ConfigError, match="want postgresql://user:password@host:port/database") as caught:
        PostgresRunStore("postgresql://ada:sesame@[host/runs", name="x")

    assert "sesame" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgres://ada:sesame@db.example:5433/runs", "postgresql://db.example:5433/runs"),
        ("postgresql://ada@/runs?host=/run/postgresql&password=sesame", "postgresql:///runs?host=/run/postgresql"),
        ("postgresql://db.example", "postgresql://db.example/"),
    ],
)
def test_messages_name_the_address_without_its_secrets(address, shown):
    with opened(address) as store:
        assert str(store._unavailable("why")) == f"the run store {shown} cannot be used: why"


def test_without_psycopg_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "pulse.runstores.postgres")

    with pytest.raises(ImportError, match=r"pip install pulse\[postgres\]"):
        import_module("pulse.runstores.postgres")
