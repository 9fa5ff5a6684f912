"""What is particular to a Redis server: many processes, and everything that befalls servers and what they know."""

import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from services import Valkey, valkey

from pulse.errors import ConfigError, StoreUnavailableError
from pulse.model import Claim, Claimed, Fire, Instance, Limits, Outcome, Pause, Progress, Run, Span, Trigger
from pulse.runstores import redis as redis_store
from pulse.runstores.base import Bid, Totals
from pulse.runstores.instants import number_of
from pulse.runstores.redis import AT_ONCE, RedisRunStore
from pulse.runstores.redis_rules import FORMAT

ODD = 'na\u00efve \u2028 "quoted" \\ / \udcff \x00'
NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
LEASE = 30 * SECOND


def claim(store: RedisRunStore, second: float, task: str = "a", **limits) -> Claimed:
    """Claim by made-up time."""
    return claim_fire(store, Fire(task=task, due=NOON + second * SECOND), **limits)


def claim_fire(
    store: RedisRunStore, fire: Fire, *, now: datetime | None = None, owner: str = "me", **limits
) -> Claimed:
    terms = {"owner": owner, "lease": LEASE, "passed": lambda cursor: None}
    return store.claim(fire, now=now or fire.due, **terms, limits=Limits(**{"instances": None, **limits}))


def claim_all(store: RedisRunStore, second: float, tasks: Iterable[str], owner: str = "me", **limits) -> list[Claimed]:
    """Claim one instant of each of *tasks* by made-up time."""
    return bid_all(store, [Fire(task=task, due=NOON + second * SECOND) for task in tasks], owner=owner, **limits)


def bid_all(
    store: RedisRunStore, fires: list[Fire], *, now: datetime | None = None, owner: str = "me", passed=lambda _: None,
    **limits,
) -> list[Claimed]:  # fmt: skip
    observed = Limits(**{"instances": None, **limits})
    bids = [Bid(fire=fire, passed=passed, limits=observed) for fire in fires]
    return store.claim_all(bids, owner=owner, now=now or fires[0].due, lease=LEASE)


def judged(claimed: Iterable[Claimed]) -> list[Claim]:
    return [one.answer for one in claimed]


def ended(run: Run, **more) -> Run:
    return replace(run, outcome=Outcome.SUCCESS, finished=run.started + SECOND, **more)


def opened(server: Valkey, name: str, **more) -> RedisRunStore:
    return RedisRunStore(server.url, name=name, **{"history": 10, "tolerance": None, **more})


@pytest.fixture
def name() -> str:
    return uuid4().hex


@pytest.fixture
def store(valkey_server: Valkey, name: str) -> Iterator[RedisRunStore]:
    """On the server that tests share, by made-up time."""
    store = opened(valkey_server, name)
    store.register(["a", "b"], NOON)
    yield store
    store.close()


@pytest.fixture
def other(valkey_server: Valkey, name: str) -> Iterator[RedisRunStore]:
    """What another process of the same application has."""
    other = opened(valkey_server, name)
    yield other
    other.close()


@pytest.fixture
def admin(valkey_server: Valkey) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey_server.url) as client:
        yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A server for one test, which may do to it what it likes."""
    with valkey(tmp_path) as server:
        yield server


@pytest.fixture
def kept(server: Valkey, name: str) -> Iterator[RedisRunStore]:
    """On the server of its own, by made-up time."""
    store = opened(server, name)
    store.register(["a", "b"], NOON)
    yield store
    store.close()


def tell(server: Valkey, *words: str) -> object:
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*words)


# Processes


RACER = """
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pulse.model import Claim, Fire, Limits, Outcome
from pulse.runstores.redis import RedisRunStore

store = RedisRunStore(sys.argv[1], name=sys.argv[2], tolerance=None)
terms = {"owner": sys.argv[3], "lease": timedelta(days=1), "passed": lambda cursor: None, "limits": Limits(instances=None)}
noon = datetime(2027, 5, 1, 12, tzinfo=UTC)
print("ready", flush=True)
sys.stdin.readline()
for second in range(1, 301):
    fire = Fire(task="a", due=noon + timedelta(seconds=second))
    claimed = store.claim(fire, now=fire.due, **terms)
    if claimed.answer is Claim.WON:
        print(second, flush=True)
        assert store.finish(replace(claimed.run, outcome=Outcome.SUCCESS, finished=fire.due))
"""


def program(text: str, server: Valkey, name: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", text, server.url, name, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def racers(server: Valkey, name: str, count: int, text: str = RACER, *arguments: str) -> list[subprocess.Popen]:
    processes = [program(text, server, name, str(number), *arguments) for number in range(count)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def test_of_processes_that_race_for_300_instants_each_is_won_once(store, valkey_server, name):
    won: list[int] = []
    for process in racers(valkey_server, name, 3):
        out, err = process.communicate(timeout=120)
        assert err == ""
        won += map(int, out.split())

    assert len(won) == len(set(won))
    assert max(won) == 300
    assert store.totals("a").counts == {Outcome.SUCCESS: len(won)}
    assert store.running() == []


BATCH_RACER = """
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pulse.model import Claim, Fire, Limits, Outcome
from pulse.runstores.base import Bid
from pulse.runstores.redis import RedisRunStore

store = RedisRunStore(sys.argv[1], name=sys.argv[2], tolerance=None)
noon = datetime(2027, 5, 1, 12, tzinfo=UTC)
print("ready", flush=True)
sys.stdin.readline()
for second in range(1, 41):
    now = noon + timedelta(seconds=second)
    limits = Limits(instances=None)
    bids = [Bid(fire=Fire(task=task, due=now), passed=lambda cursor: None, limits=limits) for task in sys.argv[4:]]
    claimed = store.claim_all(bids, owner=sys.argv[3], now=now, lease=timedelta(days=1))
    runs = [one.run for one in claimed if one.answer is Claim.WON]
    assert all(store.finish_all([replace(run, outcome=Outcome.SUCCESS, finished=now) for run in runs]))
    print(*(f"{run.task}-{second}" for run in runs), flush=True)
"""


def test_of_processes_that_claim_the_same_batches_one_wins_each_instant(store, valkey_server, name):
    tasks = [f"task{number}" for number in range(16)]
    store.register(tasks, NOON)
    won: list[str] = []
    for process in racers(valkey_server, name, 3, BATCH_RACER, *tasks):
        out, err = process.communicate(timeout=120)
        assert err == ""
        won += out.split()

    assert len(won) == len(set(won))
    assert {one for one in won if one.endswith("-40")} == {f"{task}-40" for task in tasks}
    assert sum(one.counts[Outcome.SUCCESS] for one in store.all_totals().values()) == len(won)
    assert store.running() == []


def test_a_racer_that_is_killed_does_not_hinder_the_others(store, valkey_server, name):
    victim, heir = racers(valkey_server, name, 2)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate(timeout=120)
    _, err = heir.communicate(timeout=120)

    assert err == ""
    assert claim(store, 301).answer is Claim.WON


CLAIMER = """
import sys
from datetime import UTC, datetime, timedelta
from pulse.instance import this_instance
from pulse.model import Fire, Limits
from pulse.runstores.redis import RedisRunStore
noon = datetime(2027, 5, 1, 12, tzinfo=UTC)
for task in "ab":
    fire = Fire(task=task, due=noon + timedelta(seconds=1))
    claimed = RedisRunStore(sys.argv[1], name=sys.argv[2], tolerance=None).claim(
        fire, owner=this_instance(), now=fire.due, lease=timedelta(days=1), passed=lambda cursor: None,
        limits=Limits(lock="".join(sys.argv[3:])))
    print(claimed.answer.value, flush=True)
sys.stdin.readline()
"""


def test_the_run_of_a_killed_process_is_lost_at_once_and_that_of_a_live_one_is_not(store, valkey_server, name):
    with program(CLAIMER, valkey_server, name) as claimer:
        assert [claimer.stdout.readline() for _ in "ab"] == ["won\n"] * 2
        assert store.reap(NOON + 2 * SECOND) == []
        assert claim(store, 2, instances=1).answer is Claim.BUSY

        claimer.kill()
        claimer.wait()

        claimed = claim(store, 3, instances=1)
        reaped = store.reap(NOON + 4 * SECOND)

    assert claimed.answer is Claim.WON
    assert [(run.task, run.outcome, run.reason) for run in [*claimed.lost, *reaped]] == [
        ("a", Outcome.LOST, "its process has ended"), ("b", Outcome.LOST, "its process has ended"),
    ]  # fmt: skip
    assert store.running() == [claimed.run]


def test_in_a_batch_too_a_killed_process_is_seen_at_once_in_one_more_way(store, valkey_server, admin, name):
    store.register(["c"], NOON)
    with program(CLAIMER, valkey_server, name) as claimer:
        assert [claimer.stdout.readline() for _ in "ab"] == ["won\n"] * 2
        store.register("abc", NOON)
        assert judged(claim_all(store, 2, "abc", instances=1)) == [Claim.BUSY, Claim.BUSY, Claim.WON]
        claimer.kill()
        claimer.wait()
    admin.config_resetstat()

    claimed = claim_all(store, 3, "abc", instances=1)

    assert judged(claimed) == [Claim.WON, Claim.WON, Claim.BUSY]
    assert [run.reason for one in claimed for run in one.lost] == ["its process has ended"] * 2
    assert calls(admin) == {"evalsha": 2, "eval": 0}


def test_a_forked_child_has_connections_of_its_own(store):
    claim(store, 1)

    pid = os.fork()
    if pid == 0:
        os._exit(0 if claim(store, 1).answer is Claim.TAKEN and claim(store, 2).answer is Claim.WON else 1)
    _, status = os.waitpid(pid, 0)

    assert status == 0
    assert claim(store, 2).answer is Claim.TAKEN


def test_a_forked_child_that_is_told_so_does_not_disturb_its_parent(store):
    claim(store, 1)

    pid = os.fork()
    if pid == 0:
        store.after_fork()
        store.close()
        os._exit(0 if claim(store, 2).answer is Claim.WON else 1)
    _, status = os.waitpid(pid, 0)

    assert status == 0
    assert claim(store, 2).answer is Claim.TAKEN


def test_constructing_connects_to_nothing():
    RedisRunStore("redis://127.0.0.1:1/0", name="a").close()


def test_two_applications_on_one_server_know_nothing_of_each_other(store, valkey_server):
    claim(store, 1)
    foreign = opened(valkey_server, uuid4().hex)
    foreign.register(["a"], NOON)

    assert claim(foreign, 1).answer is Claim.WON
    assert foreign.purge([]) == ["a"]
    assert foreign.running() == []
    foreign.close()

    assert len(store.running()) == 1


def test_all_keys_of_an_application_lie_in_one_slot_of_a_cluster(store, admin, name):
    claim(store, 1)
    store.finish(ended(claim(store, 2).run))
    store.pause("a", Pause(since=NOON))
    beat(store, "one", "digest", NOON)

    keys = admin.keys(f"*{name}*")

    assert len(keys) == 8
    assert all(key.startswith(f"pulse:{{{name}}}:".encode()) for key in keys)
    assert all(admin.ttl(key) == -1 for key in keys)


# What it costs


def calls(admin: "redis.Redis") -> dict[str, int]:
    stats = admin.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")}


def test_a_claim_and_the_finish_of_a_run_are_one_way_to_the_server_each(store, admin):
    store.finish(ended(claim(store, 1, instances=1).run))
    admin.config_resetstat()

    for second in range(2, 12):
        store.finish(ended(claim(store, second, instances=1).run))

    assert calls(admin) == {"evalsha": 20, "eval": 0}


TASKS = [f"task{number}" for number in range(16)]


def test_what_is_claimed_and_finished_in_one_go_is_one_way_to_the_server_each(store, admin):
    store.register(TASKS, NOON)
    store.finish_all([ended(one.run) for one in claim_all(store, 1, TASKS, instances=1)])
    admin.config_resetstat()

    for second in range(2, 5):
        claimed = claim_all(store, second, TASKS, instances=1)
        assert store.finish_all([ended(one.run) for one in claimed]) == [True] * 16

    assert calls(admin) == {"evalsha": 6, "eval": 0}


def test_what_others_have_claimed_meanwhile_is_asked_for_once_more_alone(store, other, admin):
    store.register(TASKS, NOON)
    for task in TASKS[::2]:
        claim(other, 3, task)
    every_second = lambda cursor: Span(first=cursor + SECOND, last=NOON + 4 * SECOND, count=1)  # noqa: E731
    sent: list[int] = []
    admin.config_resetstat()

    with admin.monitor() as monitor:
        claimed = bid_all(store, [Fire(task=task, due=NOON + 5 * SECOND) for task in TASKS], passed=every_second)
        while len(sent) < 2:
            command = monitor.next_command()["command"]
            if command.startswith("EVALSHA"):
                sent.append(sum(f"history:{task} " in command for task in TASKS))

    assert judged(claimed) == [Claim.WON] * 16
    assert [one.missed.first_due for one in claimed] == [NOON + 4 * SECOND, NOON + SECOND] * 8
    assert calls(admin) == {"evalsha": 2, "eval": 0}
    assert sent == [16, 8]


@pytest.mark.parametrize(("owner", "ways"), [("me", 1), ("somebody else", 2)])
def test_a_claim_that_is_refused_because_of_a_lock_asks_once_more_if_another_process_has_it(store, admin, owner, ways):
    store.register(["b"], NOON)
    claim(store, 1, "b", owner=owner, lock="files")
    admin.config_resetstat()

    assert claim(store, 1, lock="files").answer is Claim.BUSY

    assert calls(admin) == {"evalsha": ways, "eval": 0}
    assert claim(store, 1, lock="files").answer is Claim.TAKEN
    assert calls(admin) == {"evalsha": ways + 1, "eval": 0}


def test_a_claim_beside_a_run_of_its_own_process_is_one_way_to_the_server(store, admin):
    claim(store, 1, instances=1)
    admin.config_resetstat()

    assert claim(store, 2, instances=1).answer is Claim.BUSY
    assert calls(admin) == {"evalsha": 1, "eval": 0}


def test_very_many_are_claimed_and_finished_a_bounded_number_at_a_time(store, admin):
    tasks = [f"task{number}" for number in range(2 * AT_ONCE + 1)]
    store.register(tasks, NOON)
    claim_all(store, 1, tasks[:1])
    admin.config_resetstat()

    claimed = claim_all(store, 2, tasks)

    assert [one.run.task for one in claimed] == tasks
    assert calls(admin) == {"evalsha": 3, "eval": 0}
    assert store.finish_all([ended(one.run) for one in claimed]) == [True] * len(tasks)
    assert store.finish_all([ended(one.run) for one in claimed]) == [False] * len(tasks)


def test_a_claim_that_comes_too_late_is_one_way_to_the_server(store, other, admin):
    claim(other, 1)
    claim(store, 1)
    admin.config_resetstat()

    for second in range(2, 12):
        claim(store, second)
        assert claim(other, second).answer is Claim.TAKEN

    assert calls(admin) == {"evalsha": 20, "eval": 0}


def test_the_leases_of_all_runs_are_renewed_in_one_way_to_the_server(store, admin):
    runs = [claim(store, second, task).run for second in (1, 2) for task in "ab"]
    store.renew(runs, NOON)
    store.reap(NOON)
    admin.config_resetstat()

    assert store.renew(runs, NOON + LEASE) == []
    assert store.reap(NOON) == []
    assert calls(admin) == {"evalsha": 2, "eval": 0}


# Connections


def test_a_connection_that_was_cut_is_made_again(store, admin):
    claim(store, 1)
    admin.client_kill_filter(_type="normal", skipme=True)

    assert claim(store, 2).answer is Claim.WON


def test_scripts_that_the_server_has_forgotten_are_sent_again(store, admin):
    admin.script_flush()

    assert claim(store, 1).answer is Claim.WON


def test_batches_survive_that_the_server_forgets_its_scripts(store, admin):
    admin.script_flush()
    claimed = claim_all(store, 1, "ab")
    admin.script_flush()

    assert store.finish_all([ended(one.run) for one in claimed]) == [True, True]
    assert judged(claimed) == [Claim.WON, Claim.WON]
    assert [store.totals(task).counts for task in "ab"] == [{Outcome.SUCCESS: 1}] * 2


def test_nobody_there_is_unavailable_and_said_without_the_password():
    store = RedisRunStore("redis://ada:s%40cret@127.0.0.1:1/0?password=s%40cret", name="a")

    with pytest.raises(StoreUnavailableError, match=r"redis://\*\*\*@127\.0\.0\.1:1/0\S* cannot be used") as raised:
        claim(store, 1)

    assert "cret" not in str(raised.value)


@pytest.mark.parametrize(
    "address", ["redis://localhost:s3cret/0", "redis://h/0?socket_timeout=s3cret", "ftp://s3cret@h"]
)
def test_an_address_that_is_none_is_a_fault_of_the_configuration(address):
    with pytest.raises(ConfigError, match=r"pulse\.config\.store = .*want redis://") as raised:
        RedisRunStore(address, name="a")

    assert raised.value.__suppress_context__


@pytest.mark.parametrize("password", ["", ":wr0ng@"])
def test_a_wrong_password_is_unavailable_and_not_shown(server, name, password):
    tell(server, "CONFIG", "SET", "requirepass", "right")
    store = RedisRunStore(server.url.replace("//", f"//{password}"), name=name)

    for ask in (lambda: store.register(["a"], NOON), store.reach):
        with pytest.raises(StoreUnavailableError) as raised:
            ask()
        assert "wr0ng" not in str(raised.value)
    store.close()


def test_whoever_only_asks_whether_it_can_be_used_makes_no_key(valkey_server, admin, name):
    store = opened(valkey_server, name)

    store.reach()

    assert list(admin.scan_iter(f"*{name}*")) == []
    store.close()


def test_a_socket_of_this_host_leads_to_the_server_too(tmp_path, name):
    with valkey(tmp_path, "--unixsocket", str(tmp_path / "socket")):
        store = RedisRunStore(f"unix://{tmp_path / 'socket'}?db=3", name=name, tolerance=None)
        store.register(["a"], NOON)
        assert claim(store, 1).answer is Claim.WON
        store.close()


def test_a_frozen_server_is_unavailable_in_bounded_time_and_a_claim_that_it_got_is_never_given_out_again(server, kept):
    claim(kept, 1)
    tell(server, "CONFIG", "RESETSTAT")
    server.freeze()
    begun = time.monotonic()

    for ask in (lambda: claim(kept, 2), lambda: kept.history("a")):
        with pytest.raises(StoreUnavailableError):
            ask()
    waited = time.monotonic() - begun
    server.thaw()

    assert waited < 30
    (first, unanswered) = until(lambda: len(kept.running()) == 2 and kept.running())
    assert unanswered.due == NOON + 2 * SECOND
    with redis.Redis.from_url(server.url) as client:
        assert calls(client) == {"evalsha": 1, "eval": 0}
        assert client.info("commandstats").get("cmdstat_lrange", {"calls": 0})["calls"] <= 1
    assert claim(kept, 2).answer is Claim.TAKEN
    assert [run.id for run in kept.reap(NOON + 60 * SECOND)] == [first.id, unanswered.id]


def test_whoever_waits_for_a_frozen_server_when_it_is_closed_is_told_that_it_does_not_answer(server, kept):
    kept.close()
    server.freeze()
    raised = []

    def ask():
        try:
            kept.leave("here:1")
        except Exception as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    clients = kept._clients.values()
    until(lambda: any(one._sock for client in [*clients] for one in [*client.connection_pool._in_use_connections]))
    kept.close()
    asking.join(30)
    server.thaw()

    assert [type(error) for error in raised] == [StoreUnavailableError]


def until(condition, seconds: float = 30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


class Cutter(threading.Thread):
    """Passes connections on to a server, and cuts the first ones when a word comes by.

    Before that it lets some *pass*; where *answers* are cut, the server gets the word.
    """

    def __init__(self, server: Valkey, word: bytes, cuts: int, *, passes: int = 0, answers: bool = False) -> None:
        super().__init__(daemon=True)
        self._target, self._word, self._cuts = server.port, word, cuts
        self._passes, self._answers = passes, answers
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._door.getsockname()[1]}/0"
        self.seen = 0

    def end(self) -> None:
        """Wait for no further connection."""
        self._cuts = -1
        with suppress(OSError), socket.create_connection(self._door.getsockname()):
            pass
        self.join()

    def run(self) -> None:
        with self._door:
            while self._cuts >= 0:
                line, _ = self._door.accept()
                with line, socket.create_connection(("127.0.0.1", self._target)) as server:
                    self._serve(line, server)
                self._cuts -= 1

    def _serve(self, line: socket.socket, server: socket.socket) -> None:
        while ready := select.select([line, server], [], [])[0]:
            words = ready[0].recv(65536)
            is_cut = self._word in words and self.seen >= self._passes and self._cuts > 0
            self.seen += self._word in words
            if is_cut and self._answers:
                server.sendall(words)
                server.recv(1)
            if not words or is_cut:
                return
            (server if ready[0] is line else line).sendall(words)


def test_what_only_reads_is_asked_again_over_another_connection(store, valkey_server, name):
    claim(store, 1)
    cutter = Cutter(valkey_server, b"HVALS", cuts=1)
    cutter.start()
    behind = RedisRunStore(cutter.url, name=name)

    assert len(behind.running()) == 1
    assert cutter.seen == 2
    behind.close()
    cutter.join()


def test_a_claim_is_not_asked_for_again_over_another_connection(store, valkey_server, name):
    cutter = Cutter(valkey_server, b"EVALSHA", cuts=1)
    cutter.start()
    behind = opened(cutter, name)

    with pytest.raises(StoreUnavailableError):
        claim(behind, 1)

    assert cutter.seen == 1
    assert claim(behind, 2).answer is Claim.WON
    behind.close()
    cutter.join()


@pytest.fixture
def cut(valkey_server: Valkey, name: str) -> Iterator:
    """Opens the store behind a `Cutter` of scripts."""
    opened_here = []

    def cut(**more) -> RedisRunStore:
        cutter = Cutter(valkey_server, b"EVALSHA", 1, **more)
        cutter.start()
        opened_here.append((cutter, opened(cutter, name)))
        return opened_here[-1][1]

    yield cut
    for cutter, behind in opened_here:
        behind.close()
        cutter.end()


def test_a_batch_of_claims_whose_answer_is_lost_is_not_sent_again_and_given_out_once(store, cut, admin):
    claim(store, 1)
    behind = cut(answers=True, passes=1)
    behind.register("ab", NOON)
    admin.config_resetstat()

    with pytest.raises(StoreUnavailableError):
        claim_all(behind, 2, "ab")

    assert calls(admin) == {"evalsha": 1, "eval": 0}
    assert judged(claim_all(behind, 2, "ab")) == judged(claim_all(store, 2, "ab")) == [Claim.TAKEN] * 2
    assert [run.outcome for run in store.reap(NOON + 60 * SECOND)] == [Outcome.LOST] * 3
    assert judged(claim_all(behind, 61, "ab")) == [Claim.WON] * 2


def test_a_batch_of_claims_that_never_arrived_gives_nothing_out(store, cut):
    behind = cut()

    with pytest.raises(StoreUnavailableError):
        claim_all(behind, 1, "ab")

    assert store.running() == []
    assert judged(claim_all(store, 1, "ab")) == [Claim.WON] * 2


def test_records_whose_answer_is_lost_are_made_once(store, cut):
    before, runs = [[ended(one.run) for one in claim_all(store, second, "ab")] for second in (1, 2)]
    assert all(store.finish_all(before))  # a server that has not seen the script yet does nothing when it is asked
    behind = cut(answers=True)

    with pytest.raises(StoreUnavailableError):
        behind.finish_all(runs)

    assert behind.finish_all(runs) == [False, False]
    assert [store.history(task) for task in "ab"] == [list(pair) for pair in zip(runs, before, strict=True)]
    assert store.totals("a").counts == {Outcome.SUCCESS: 2}


def test_what_was_won_is_not_lost_with_what_the_store_could_not_settle(store, cut):
    behind = cut(passes=2)
    behind.register("ab", NOON)
    claim(store, 1, "b")

    claimed = claim_all(behind, 2, "ab")

    assert judged(claimed) == [Claim.WON, Claim.WAIT]
    assert store.finish(ended(claimed[0].run)) is True
    assert claim(behind, 2, "b").answer is Claim.WON


def test_a_batch_of_which_nothing_could_be_settled_is_unavailable(store, cut):
    behind = cut(passes=2)
    behind.register("ab", NOON)
    claim_all(store, 1, "ab")

    with pytest.raises(StoreUnavailableError):
        claim_all(behind, 2, "ab")


def test_a_replica_that_may_only_be_read_is_unavailable(server, kept):
    claim(kept, 1)
    tell(server, "REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(StoreUnavailableError):
        claim(kept, 2)
    with pytest.raises(StoreUnavailableError, match="read only replica"):
        kept.reach()


def test_a_server_without_room_for_more_is_unavailable(server, kept):
    kept.reach()
    tell(server, "CONFIG", "SET", "maxmemory", "1")

    for ask in (lambda: claim(kept, 2), kept.reach):
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            ask()


# Servers that forget


def claim_again(server: Valkey, store: RedisRunStore, second: float) -> list[Claim]:
    """Claim what was claimed before, as processes that were there and as new ones."""
    others = [opened(server, store._space[7:-2]) for _ in range(3)]
    fire = Fire(task="a", due=NOON + second * SECOND)
    now = fire.due + SECOND
    answers = [claim_fire(one, fire, now=now).answer for one in (others[0], store)]
    others[1].register(["a"], now)
    answers += [claim_fire(one, fire, now=now).answer for one in (store, *others)]
    for one in others:
        one.close()
    assert Claim.WON not in answers
    return answers


def test_a_server_that_comes_back_empty_gives_no_instant_out_again(server, kept):
    claim(kept, 5)
    server.kill()
    with pytest.raises(StoreUnavailableError):
        claim(kept, 6)
    server.start()

    claim_again(server, kept, 5)
    assert claim(kept, 10).answer is Claim.WON


def test_a_server_that_comes_back_with_its_data_runs_nothing_that_was_due_before(server, kept):
    claim(kept, 5)
    tell(server, "SAVE")
    server.kill()
    server.start()

    late = claim_fire(kept, Fire(task="a", due=NOON + 8 * SECOND), now=NOON + 9 * SECOND)
    claim_again(server, kept, 5)

    assert late.answer is Claim.STALE
    assert (late.run.outcome, late.run.reason) == (Outcome.MISSED, "it was due before the run store lost what it knew")
    assert claim(kept, 10).answer is Claim.WON
    assert [run.due for run in kept.running()] == [NOON + 5 * SECOND, NOON + 10 * SECOND]


def test_a_server_that_comes_back_with_older_data_gives_no_instant_out_again(server, kept, tmp_path):
    claim(kept, 5)
    tell(server, "SAVE")
    shutil.copy(tmp_path / "dump.rdb", tmp_path / "older")
    claim(kept, 6)
    claim(kept, 7)
    server.kill()
    shutil.copy(tmp_path / "older", tmp_path / "dump.rdb")
    server.start()

    fresh = opened(server, kept._space[7:-2])
    answers = [claim_fire(fresh, Fire(task="a", due=NOON + due * SECOND), now=NOON + 8 * SECOND) for due in (6, 7)]
    fresh.close()

    assert [(claimed.answer, claimed.run.outcome) for claimed in answers] == [(Claim.STALE, Outcome.MISSED)] * 2
    claim_again(server, kept, 7)
    assert claim(kept, 20).answer is Claim.WON


def test_a_further_attempt_that_waited_before_a_restart_is_not_begun(server, kept, tmp_path):
    kept.finish(ended(claim(kept, 5).run), again_at=NOON)
    (waiting,) = kept.waiting()
    running = claim(kept, 6, task="b", recovers=True).run
    tell(server, "SAVE")
    server.kill()
    server.start()
    terms = {"owner": "heir", "now": NOON + 90 * SECOND, "lease": LEASE, "limits": Limits()}

    assert kept.adopt(waiting, **terms) is None
    assert kept.waiting() == []
    assert kept.history("a")[0].reason == "it was due before the run store lost what it knew"
    assert [run.attempt for run in kept.history("a")] == [2, 1]
    assert [run.id for run in kept.reap(NOON + 91 * SECOND)] == [running.id]
    assert kept.waiting() == []


def test_a_run_that_goes_on_over_a_restart_with_data_can_be_finished(server, kept):
    run = claim(kept, 5).run
    tell(server, "SAVE")
    server.kill()
    server.start()

    assert kept.renew([run], NOON + DAY) == []
    assert kept.finish(ended(run)) is True


def test_a_server_that_is_emptied_gives_no_instant_out_again(server, kept):
    run = claim(kept, 5).run
    tell(server, "FLUSHALL")

    answers = claim_again(server, kept, 5)

    assert answers[0] is Claim.REFUSED
    assert kept.renew([run], NOON + DAY) == [run]
    assert kept.finish(ended(run)) is False
    assert claim(kept, 10).answer is Claim.WON


def test_a_server_that_is_emptied_and_told_of_its_tasks_again_gives_no_instant_out_again(server, kept):
    claim(kept, 5)
    tell(server, "FLUSHALL")
    kept.register(["a"], NOON)

    assert set(claim_again(server, kept, 5)) == {Claim.STALE, Claim.TAKEN}
    assert claim(kept, 10).answer is Claim.WON


def test_a_batch_for_a_server_that_was_emptied_gives_no_instant_out_again(server, kept):
    runs = [one.run for one in claim_all(kept, 5, "ab")]
    tell(server, "FLUSHALL")

    again = claim_all(kept, 6, "ab")

    assert judged(again) == [Claim.REFUSED] * 2
    assert [one.run.outcome for one in again] == [Outcome.MISSED] * 2
    assert kept.finish_all([ended(run) for run in runs]) == [False, False]
    for task in "ab":
        fire = Fire(task=task, due=NOON + 6 * SECOND)
        assert claim_fire(kept, fire, now=NOON + 7 * SECOND).answer is Claim.TAKEN
    assert judged(claim_all(kept, 10, "ab")) == [Claim.WON] * 2


def test_a_batch_for_a_server_with_older_data_gives_no_instant_out_again(server, kept, tmp_path):
    claim_all(kept, 5, "ab")
    tell(server, "SAVE")
    claim_all(kept, 7, "ab")
    server.kill()
    server.start()
    fresh = opened(server, kept._space[7:-2])

    fires = [Fire(task=task, due=NOON + 7 * SECOND) for task in "ab"]
    again = [claimed for store in (fresh, kept) for claimed in bid_all(store, fires, now=NOON + 8 * SECOND)]
    fresh.close()

    assert judged(again) == [Claim.STALE, Claim.STALE, Claim.TAKEN, Claim.TAKEN]
    assert judged(claim_all(kept, 20, "ab")) == [Claim.WON] * 2


def test_the_latest_cursor_of_a_batch_bounds_what_an_older_server_gives_out(store, admin, name):
    claim(store, 5, "b")
    older = admin.dump(f"pulse:{{{name}}}:ledger")
    claim(store, 9, "b")
    admin.restore(f"pulse:{{{name}}}:ledger", 0, older, replace=True)

    assert judged(bid_all(store, [Fire(task="b", due=NOON + 9 * SECOND)], now=NOON)) == [Claim.STALE]
    assert judged(claim_all(store, 8, "ab")) == [Claim.STALE, Claim.TAKEN]
    assert judged(claim_all(store, 10, "ab")) == [Claim.WON] * 2


@pytest.mark.parametrize(
    "key", ["ledger", "held", "task:a", "history:a", "configurations", "instances", "fingerprints"]
)
def test_a_key_that_is_evicted_brings_no_claim_back(server, kept, key, name):
    beat(kept, "one", "digest", NOON)
    kept.finish(ended(claim(kept, 3).run))
    dismiss(kept, 4)
    claim(kept, 5)

    assert tell(server, "DEL", f"pulse:{{{name}}}:{key}") == 1

    dismiss(kept, 5.5)
    claim_again(server, kept, 5)
    assert claim(kept, 20).answer is Claim.WON
    assert claim(kept, 21).answer is Claim.WON


def dismiss(store: RedisRunStore, second: float) -> None:
    fire = Fire(task="a", due=NOON + second * SECOND)
    store.dismiss(fire, outcome=Outcome.SKIPPED, reason="why", now=fire.due, passed=lambda _: None)


def test_nothing_is_left_of_runs_that_are_over(store, admin, name):
    claim(store, 1, lock="files")
    admin.delete(f"pulse:{{{name}}}:held")
    store.finish(ended(claim(store, 2, lock="files").run))

    assert set(admin.hkeys(f"pulse:{{{name}}}:ledger")) == {
        b"server", b"format", b"cursor a", b"cursor b", b"ran", b"ran_on",
    }  # fmt: skip
    assert admin.exists(f"pulse:{{{name}}}:held") == 0


def test_older_data_that_is_put_in_the_place_of_newer_is_noticed_without_a_restart(store, admin, name):
    claim(store, 5)
    older = admin.dump(f"pulse:{{{name}}}:ledger")
    claim(store, 7)
    admin.restore(f"pulse:{{{name}}}:ledger", 0, older, replace=True)

    answers = [claim_fire(store, Fire(task="a", due=NOON + due * SECOND), now=NOON + 8 * SECOND) for due in (7, 8, 9)]

    assert [claimed.answer for claimed in answers] == [Claim.STALE, Claim.STALE, Claim.WON]


def test_what_was_given_out_before_its_instant_is_not_given_out_again_by_an_emptied_server(server, name):
    stores = [opened(server, name, tolerance=20 * SECOND) for _ in range(3)]
    stores[0].register(["a"], NOON)
    soon = Fire(task="a", due=stores[0].now() + 10 * SECOND)
    first = claim_fire(stores[0], soon)
    tell(server, "FLUSHALL")

    earlier = claim_fire(stores[1], replace(soon, due=soon.due - 5 * SECOND, run_id=""))
    again = [claim_fire(one, soon) for one in reversed(stores)]

    assert first.answer is Claim.WON
    assert earlier.answer is Claim.REFUSED
    assert [claimed.answer for claimed in again] == [Claim.STALE, Claim.TAKEN, Claim.TAKEN]
    for one in stores:
        one.close()


def test_a_server_that_may_evict_is_warned_of_once(tmp_path, name, caplog):
    with valkey(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        store = opened(server, name)
        with caplog.at_level(logging.WARNING):
            store.register(["a"], NOON)
            claim(store, 1)
        store.close()

    assert [record.pulse_event for record in caplog.records] == ["store_may_evict"]
    assert "allkeys-lru" in caplog.text


def test_a_server_that_may_not_evict_is_not_warned_of(store, caplog):
    claim(store, 1)

    assert caplog.records == []


# What others have put there


def test_a_key_of_another_type_is_unavailable_and_gives_nothing_out(store, admin, name):
    admin.delete(f"pulse:{{{name}}}:ledger")
    admin.set(f"pulse:{{{name}}}:ledger", "this is no hash")

    with pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        claim(store, 1)


def test_a_history_that_nothing_can_be_added_to_gives_no_instant_out_twice(store, admin, name):
    admin.set(f"pulse:{{{name}}}:history:a", "this is no list")
    run = claim(store, 1).run

    with pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        store.finish(ended(run))

    assert claim(store, 1).answer is Claim.TAKEN


def test_what_is_no_record_of_pulse_is_unavailable(store, admin, name):
    admin.rpush(f"pulse:{{{name}}}:history:a", "what is this")

    with pytest.raises(StoreUnavailableError, match="not written"):
        store.history("a")


@pytest.fixture
def spoil(admin, name):
    """Has what is held of one task say what no release has written so far."""

    def spoil(task: str, old: str, new: str) -> None:
        key = f"pulse:{{{name}}}:held"
        for run_id, held in admin.hgetall(key).items():
            if f'"task":"{task}"'.encode() in held:
                assert old.encode() in held
                admin.hset(key, run_id, held.replace(old.encode(), new.encode()))

    return spoil


@pytest.mark.parametrize("spoilt", [('"schedule"', '"unheard-of"'), ('"due":"1', '"due":"9999999999999991')])
def test_what_is_held_and_cannot_be_read_keeps_nobody_from_the_rest_and_is_named_once(store, spoil, spoilt, caplog):
    of_a, of_b = claim(store, 1, "a").run, claim(store, 1, "b").run
    spoil("a", *spoilt)

    assert store.running() == [of_b]
    assert store.waiting() == []
    assert store.renew([of_a, of_b], NOON + 40 * SECOND) == []
    assert [run.id for run in store.reap(NOON + 50 * SECOND)] == [of_b.id]

    (told,) = [record for record in caplog.records if record.name == "pulse.runstores.legible"]
    assert (told.pulse_event, told.pulse_task, told.pulse_run) == ("held_unreadable", "a", of_a.id)


def test_what_is_no_run_at_all_is_named_by_what_it_says(store, admin, name, caplog):
    admin.hset(f"pulse:{{{name}}}:held", "x", "what is this")

    assert store.running() == []

    (told,) = [record for record in caplog.records if record.name == "pulse.runstores.legible"]
    assert "what is this" in told.getMessage()


def test_a_claim_beside_what_cannot_be_read_makes_no_other_error_than_a_store_that_does_not_answer(store, spoil):
    claim(store, 1, owner="there:1")
    spoil("a", '"schedule"', '"unheard-of"')

    with pytest.raises(StoreUnavailableError, match="later release"):
        claim(store, 2, instances=1)
    answers = judged(claim_all(store, 3, ["a", "b"], instances=1))

    assert answers == [Claim.WAIT, Claim.WON]


def test_totals_that_cannot_be_read_make_no_other_error_than_a_store_that_does_not_answer(store, admin, name):
    admin.hset(f"pulse:{{{name}}}:task:a", "success", "many")

    for ask in (lambda: store.totals("a"), store.all_totals):
        with pytest.raises(StoreUnavailableError, match="later release"):
            ask()


def test_what_a_later_release_has_made_is_left_to_it_but_for_the_ends_of_runs(store, other, admin, name):
    run = claim(store, 1, owner="dead:1").run
    admin.hset(f"pulse:{{{name}}}:ledger", "format", FORMAT + 1)

    asks = (
        lambda: claim(store, 2),
        lambda: claim_all(store, 2, ["a", "b"]),
        lambda: store.dismiss(
            Fire(task="a", due=NOON + 2 * SECOND),
            outcome=Outcome.SKIPPED,
            reason="",
            now=NOON,
            passed=lambda cursor: None,
        ),
        lambda: store.register(["a"], NOON),
        lambda: store.reap(NOON + DAY),
        other.reach,
        lambda: other.history("a"),
    )
    for ask in asks:
        with pytest.raises(StoreUnavailableError, match=f"made by a later release of Pulse .format {FORMAT + 1}."):
            ask()

    assert store.finish(ended(run))
    assert admin.hget(f"pulse:{{{name}}}:ledger", "cursor a") == str(number_of(run.due)).encode()


def test_what_is_made_says_by_which_format(store, admin, name):
    written = f"pulse:{{{name}}}:ledger"
    assert admin.hget(written, "format") == str(FORMAT).encode()
    admin.delete(written)

    claim(store, 1)

    assert admin.hget(written, "format") == str(FORMAT).encode()


# Time


@pytest.fixture
def timed(valkey_server: Valkey, name: str) -> Iterator[RedisRunStore]:
    """By the server's clock."""
    store = RedisRunStore(valkey_server.url, name=name, tolerance=20 * SECOND)
    store.register(["a"], NOON)
    yield store
    store.close()


def test_the_clock_of_the_store_is_the_servers(timed):
    assert abs(timed.now() - datetime.now(UTC)) < 30 * SECOND


def test_a_fire_that_is_not_due_by_the_servers_clock_waits_whatever_the_caller_thinks(timed):
    early = Fire(task="a", due=timed.now() + 300 * SECOND)

    assert claim_fire(timed, early, now=early.due + SECOND) == Claimed(answer=Claim.WAIT)
    assert timed.history("a") == []


def test_a_fire_that_is_due_within_the_tolerance_runs(timed):
    soon = Fire(task="a", due=timed.now() + 10 * SECOND)

    assert claim_fire(timed, soon).answer is Claim.WON


def test_a_first_start_may_run_what_was_due_before_it(timed):
    now = timed.now()

    assert timed.register(["new"], now, since=now - 60 * SECOND) == {"new": now - 60 * SECOND}
    assert timed.register(["new"], now) == {"new": now - 60 * SECOND}
    assert claim_fire(timed, Fire(task="new", due=now - 30 * SECOND)).answer is Claim.WON


def test_a_fire_that_is_refused_before_its_instant_is_not_given_out_then(timed):
    soon = Fire(task="a", due=timed.now() + 10 * SECOND)
    timed.purge([])

    assert [claim_fire(timed, soon).answer for _ in range(2)] == [Claim.REFUSED, Claim.TAKEN]


def test_a_call_by_hand_waits_for_no_clock(timed):
    now = timed.now() + 300 * SECOND

    assert claim_fire(timed, Fire(task="a", due=now, trigger=Trigger.MANUAL, run_id="byhand")).answer is Claim.WON


def test_a_task_begins_by_the_servers_clock(timed):
    (cursor,) = timed.register(["b"], NOON + 9999 * DAY).values()

    assert abs(cursor - timed.now()) < 30 * SECOND


def test_lateness_is_by_the_servers_clock(timed):
    before = timed.now()
    due = before + SECOND

    stale = claim_fire(timed, Fire(task="a", due=due, latest=before), now=before - DAY)
    won = claim_fire(timed, Fire(task="a", due=due + SECOND, latest=due + 300 * SECOND), now=due + DAY)

    assert stale.answer is Claim.STALE
    assert won.answer is Claim.WON
    assert before <= won.run.started <= timed.now()
    assert won.run.expires == won.run.started + LEASE


def test_leases_last_by_the_servers_clock(timed):
    run = claim_fire(timed, Fire(task="a", due=timed.now() + SECOND)).run

    assert timed.reap(run.started + DAY) == []
    assert timed.renew([run], run.started - DAY) == []
    assert timed.reap(run.started + DAY) == []
    (renewed,) = timed.running()
    assert run.expires <= renewed.expires <= timed.now() + LEASE


def test_a_pause_ends_by_the_servers_clock(timed):
    timed.pause("a", Pause(since=NOON, until=timed.now() - SECOND))

    assert claim_fire(timed, Fire(task="a", due=timed.now() + SECOND), now=NOON - 9999 * DAY).answer is Claim.WON


# What is kept


def test_records_come_back_as_they_were(store):
    run = claim(store, 1).run
    record = replace(
        run, finished=run.started, outcome=Outcome.FAILED, status=500, duration=0.1 + 0.2, body=bytes(range(256)),
        errors=b"\xff\x00", reason=ODD, recovers=True, lock="files", stop=ODD, result=ODD,
        progress=Progress(done=0.1 + 0.2, total=2**60, text=ODD),
    )  # fmt: skip

    assert store.finish(record) is True
    skipped = store.dismiss(
        Fire(task="a", due=NOON + 2 * SECOND), outcome=Outcome.SKIPPED, reason=ODD, now=NOON, passed=lambda _: None
    ).run

    assert store.history("a") == [skipped, record]
    assert skipped.reason == ODD


def test_a_run_that_is_won_is_what_the_server_holds(store):
    store.register(["a@here"], NOON)
    fire = Fire(task="a", due=NOON + SECOND, place="here", trigger=Trigger.CATCHUP)

    claimed = claim_fire(store, fire, owner=ODD, now=NOON + 2 * SECOND, recovers=True, lock=ODD)

    assert (claimed.run.owner, claimed.run.lock, claimed.run.place) == (ODD, ODD, "here")
    assert store.running() == [claimed.run]


def test_a_run_that_is_won_is_what_the_server_holds_by_its_clock_too(timed):
    fires = [Fire(task=task, due=timed.now() + SECOND) for task in timed.register("ab", NOON)]

    claimed = bid_all(timed, fires, now=NOON)

    assert timed.running() == [one.run for one in claimed]


def test_runs_that_end_on_several_days_in_one_go_count_for_the_last(store):
    store.register("abcd", NOON)
    runs = [ended(one.run) for one in claim_all(store, 1, "abcd")]
    days = [replace(run, finished=NOON + days * DAY) for run, days in zip(runs, (0, 1, 1, 0), strict=True)]

    assert store.finish_all(days) == [True] * 4

    assert store.ran((NOON + DAY).date()) == 2
    assert store.ran(NOON.date()) == 0


def test_a_run_is_not_continued_by_instants_that_nobody_ran(store):
    run = replace(ended(claim(store, 1).run), outcome=Outcome.SKIPPED, reason="why")
    store.finish(run)

    for second in (2, 3):
        dismiss(store, second)

    assert [(one.started is None, one.count) for one in store.history("a")] == [(True, 2), (False, 1)]


def test_of_two_bids_for_one_instant_in_one_go_one_wins(store):
    assert judged(claim_all(store, 1, "aba")) == [Claim.WON, Claim.WON, Claim.TAKEN]
    assert len(store.running()) == 2


def test_a_call_by_hand_moves_no_cursor_that_this_process_has_seen(store, admin):
    claim(store, 1)
    byhand = Fire(task="a", due=NOON + 9 * SECOND, trigger=Trigger.MANUAL, run_id="byhand")
    assert claim_fire(store, byhand).answer is Claim.WON
    admin.config_resetstat()

    assert claim(store, 2).answer is Claim.WON
    assert calls(admin) == {"evalsha": 1, "eval": 0}


def test_what_is_said_of_a_run_that_is_under_way_comes_back_as_it_was(store):
    run = claim(store, 1, lock=ODD).run
    progress = Progress(done=0.1 + 0.2, total=2**60, text=ODD)
    store.report("me", {run.id: progress})
    store.report("somebody else", {run.id: Progress(done=1)})
    store.ask_to_stop(run.id, ODD)

    assert store.running() == [replace(run, progress=progress, stop=ODD)]
    assert store.report("me", {}) == {run.id: ODD}
    assert store.report("m", {}) == {}


def test_a_lock_is_free_when_the_process_that_had_it_has_ended(store, valkey_server, name):
    with program(CLAIMER, valkey_server, name, "files") as claimer:
        assert [claimer.stdout.readline() for _ in "ab"] == ["won\n", "busy\n"]
        claimer.kill()
        claimer.wait()

        claimed = claim(store, 2, lock="files")

    assert claimed.answer is Claim.WON
    assert [run.reason for run in claimed.lost] == ["its process has ended"]


def test_an_instant_keeps_its_microsecond(store):
    due = NOON + timedelta(microseconds=123_457)
    run = claim_fire(store, Fire(task="a", due=due)).run

    assert (run.due, run.started, run.expires) == (due, due, due + LEASE)
    assert store.register(["a"], NOON) == {"a": due}


def test_the_history_is_trimmed_on_the_server_too(store, admin, name):
    for second in range(1, 30):
        store.finish(ended(claim(store, second).run))

    assert admin.llen(f"pulse:{{{name}}}:history:a") == 10
    assert store.history("a", 0) == []


def beat(store: RedisRunStore, owner: str, digest: str, seen: datetime):
    instance = Instance(owner=owner, started=NOON, seen=seen, digest=digest, server="test", version="1")
    return store.beat(instance, {"a": digest}, LEASE)


def test_the_sums_of_an_earlier_version_begin_with_nothing_and_its_processes_have_refused_nothing(store, admin, name):
    noon = str(number_of(NOON))
    admin.hset(f"pulse:{{{name}}}:task:a", mapping={"success": 5, "last_finished": noon, "last_success": noon})
    said = {"owner": "old", "started": noon, "seen": noon, "digest": "d", "server": "test", "version": "1"}
    admin.hset(f"pulse:{{{name}}}:instances", "old", json.dumps(said))

    before, in_all, (old,) = store.totals("a"), store.all_totals(), store.instances()
    store.finish(ended(claim(store, 1).run, duration=0.25))
    beat(store, "old", "d", NOON)

    assert before == Totals(counts={Outcome.SUCCESS: 5}, last_finished=NOON, last_success=NOON)
    assert in_all == {"a": before}
    assert old == Instance(owner="old", started=NOON, seen=NOON, digest="d", server="test", version="1")
    assert (store.totals("a").timed, store.totals("a").seconds) == (1, 0.25)
    assert store.instances() == [old]


def test_processes_and_configurations_that_are_long_gone_are_forgotten(store):
    beat(store, "old", "old", NOON)
    beat(store, "new", "new", NOON + DAY / 2)
    assert store.fingerprints("old") == {"a": "old"}

    assert beat(store, "new", "new", NOON + 1.2 * DAY) == {"new": NOON + DAY / 2}

    assert [one.owner for one in store.instances()] == ["new"]
    assert store.fingerprints("old") == {}
    assert store.fingerprints("new") == {"a": "new"}


def test_the_leases_of_many_runs_are_renewed_by_several_scripts(store, monkeypatch):
    monkeypatch.setattr("pulse.runstores.redis.RECORDS_AT_ONCE", 2)
    tasks = [f"task{number}" for number in range(5)]
    store.register(tasks, NOON)
    runs = [one.run for one in claim_all(store, 1, tasks)]
    store.finish(ended(runs[1]))
    store.finish(ended(runs[4]))
    sent = []
    step = store._step
    monkeypatch.setattr(store, "_step", lambda *given: sent.append(len(given[2]["runs"])) or step(*given))

    lost = store.renew(runs, NOON + DAY)

    assert lost == [runs[1], runs[4]]
    assert sent == [2, 2, 1]
    assert {run.expires for run in store.running()} == {NOON + DAY}


def test_more_tasks_than_one_script_can_name_are_purged(store):
    tasks = [f"task{number}" for number in range(4_100)]
    store.register([*tasks, "kept"], NOON)

    gone = store.purge(["a", "b", "kept"])

    assert sorted(set(tasks) - set(gone)) == []
    assert "kept" in store.tasks()
    assert not set(tasks) & set(store.tasks())


@pytest.mark.parametrize(("place", "days"), [("gone", 401), ("gone:7/5.ab-cd.3", 31)])
def test_places_that_are_long_gone_are_forgotten(store, admin, name, place, days):
    track = f"a@{place}"
    store.register([track], NOON)
    run = claim_fire(store, Fire(task="a", due=NOON + SECOND, place=place)).run
    store.finish(replace(ended(run), outcome=Outcome.FAILED), again_at=NOON + 2 * SECOND)
    assert [one.attempt for one in store.waiting()] == [2]

    begin = NOON + (days + 1) * DAY
    store.register(["a@here"], begin)

    assert store.waiting() == []
    assert f"held {track}".encode() not in admin.hkeys(f"pulse:{{{name}}}:ledger")
    later = begin + DAY
    assert store.register([track, "a@here", "a"], later) == {track: later, "a@here": begin, "a": NOON}


def test_very_many_places_that_are_long_gone_keep_nobody_from_starting(store, admin, name, monkeypatch):
    monkeypatch.setattr(redis_store, "FORGOTTEN_AT_ONCE", 1000)
    store.register([f"a@there:{number}/5.ab-cd.3" for number in range(1500)], NOON)

    left = []
    for _ in range(2):
        store.register(["a"], NOON + 31 * DAY)
        left.append(sum(b"@" in field for field in admin.hkeys(f"pulse:{{{name}}}:ledger")))

    assert left == [500, 0]


def test_a_place_where_something_is_under_way_is_kept(store):
    track = "a@there:7/5.ab-cd.3"
    store.register([track], NOON)
    fire = Fire(task="a", due=NOON + SECOND, place="there:7/5.ab-cd.3")
    claim_fire(store, fire)

    store.register(["a@here"], NOON + 40 * DAY)

    assert store.register([track], NOON + 40 * DAY) == {track: fire.due}
    assert [run.due for run in store.running()] == [fire.due]


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "pulse.runstores.redis")

    with pytest.raises(ImportError, match=r"pip install pulse\[redis\]"):
        __import__("pulse.runstores.redis")
