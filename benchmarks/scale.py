"""How far one process goes: what many tasks cost that wait, and how many fires a second it keeps up with.

    python benchmarks/scale.py [--rounds N] [--quick] [--check]

Each figure is taken in a process of its own, so that none pays for what another one has
left behind. It takes some three minutes. With --check it fails when the price of a task
grows with the number of tasks: what is linear for 1,000 has to be linear for 100,000.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from engines import DURABLE, ENGINES, PULSE, Plan
from fires import Site
from measure import Bound, Effort, Row, check, column, effort, show, show_heading

PACKAGES: Final = ("pulse", "APScheduler")
STORES: Final = (PULSE, DURABLE)
LATE: Final = 0.1  # seconds; a p99 above it means that fires come faster than they are run
FEW: Final = 1_000  # with fewer tasks what a process costs by itself counts more than they do

# Measured 0.9 to 1.3; something that looks at every task for each of them would be 100.
BOUNDS: Final = [Bound(name=name, figure="growth", most=3.0) for name in STORES]


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting(Row):
    """What so many tasks cost while nothing is due."""

    tasks: int | None = column("tasks", ",d")
    add_ms: float | None = column("add, ms", ",.1f")
    start_ms: float | None = column("start, ms", ",.1f")
    task_kb: float | None = column("KB a task", ",.2f")
    idle_ms: float | None = column("CPU ms a minute", ",.1f")

    growth: float | None = column("a task, x one of 1,000", ".2f")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace(Row):
    """How late fires are that come so fast."""

    rate: float | None = column("fires/s", ",.0f")
    done: float | None = column("run/s", ",.0f")
    p50_ms: float | None = column("late p50, ms", ",.1f")
    p99_ms: float | None = column("late p99, ms", ",.1f")
    busy: float | None = column("CPU, cores", ".2f")


def main(argv: Sequence[str] | None = None) -> list[Waiting | Pace]:
    """Measure and print; the rows of both tables."""
    given = effort(__doc__, argv, rounds=1, bounds=BOUNDS)
    show_heading("How far one process goes", PACKAGES, given)
    waiting = [row for name in STORES for row in _waiting(name, given)]
    show("nothing due", waiting)
    paces = [pace for name in STORES for pace in _paces(name, given)]
    show(f"{_tasks(given):,} tasks, faster until p99 is over {LATE * 1e3:.0f} ms", paces)
    check(waiting, BOUNDS, given)
    return [*waiting, *paces]


# The steps


def _counts(given: Effort) -> Sequence[int]:
    return given.choose(real=(10, 100, 1_000, 10_000, 100_000), quick=(10,))


def _tasks(given: Effort) -> int:
    return given.choose(real=1_000, quick=10)


def _waiting(name: str, given: Effort) -> list[Waiting]:
    rows: list[Waiting] = []
    few = 0.0
    for count in _counts(given):
        taken = [_apart("wait", name, count, given) for _ in range(given.rounds)]
        add, start, kilobytes, idle = (median(column) for column in zip(*taken, strict=True))
        cost = (add + start) / count
        few = cost if count == FEW else few
        rows.append(
            Waiting(
                name=name,
                tasks=count,
                add_ms=add * 1e3,
                start_ms=start * 1e3,
                task_kb=kilobytes,
                idle_ms=idle * 60e3,
                growth=cost / few if few else None,
            )
        )
    return rows


def _paces(name: str, given: Effort) -> list[Pace]:
    paces: list[Pace] = []
    # Of 1,000 tasks each of these makes an interval of whole microseconds: any other would drift from the plan.
    for rate in given.choose(real=(250, 500, 1_000, 2_000, 4_000, 5_000, 8_000), quick=(100,)):
        taken = [_apart("fire", name, rate, given) for _ in range(given.rounds)]
        done, p50, p99, busy = (median(column) for column in zip(*taken, strict=True))
        paces.append(Pace(name=name, rate=rate, done=done, p50_ms=p50 * 1e3, p99_ms=p99 * 1e3, busy=busy))
        if p99 > LATE:
            break
    return paces


def _apart(what: str, name: str, number: int, given: Effort) -> list[float]:
    """The figures that a process of its own finds."""
    span = given.choose(real=3.0, quick=0.1)
    command = [sys.executable, __file__, what, name, str(number), str(span), str(_tasks(given))]
    # What it logs is about fires that are late, and that is what is measured.
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout  # noqa: S603 - ourselves
    figures: list[float] = json.loads(printed)
    return figures


# In a process of its own


def wait(name: str, count: int, span: float, _tasks: int) -> list[float]:
    """Seconds to add *count* tasks and to start them, kilobytes of each, and the share of a core at rest."""
    now = time.time()
    engine = ENGINES[name](Site(), Plan(count=count, interval=36_000, first=now + 12_000, spread=12_000))
    gc.collect()
    before, begun = _resident_kilobytes(), time.perf_counter()
    engine.add()
    added = time.perf_counter()
    engine.start()
    started = time.perf_counter()
    gc.collect()
    grown = max(_resident_kilobytes() - before, 0.001)
    time.sleep(span / 5)
    used = time.process_time()
    time.sleep(span)
    used = time.process_time() - used
    engine.stop()
    return [added - begun, started - added, grown / count, used / span]


def fire(name: str, rate: int, span: float, count: int) -> list[float]:
    """Runs a second, the p50 and the p99 of how late they were, and the cores that it took."""
    interval, site = count / rate, Site()
    plan = Plan(count=count, interval=interval)
    offsets = {f"/tasks/{number}": plan.offset(number) for number in range(count)}
    engine = ENGINES[name](site, plan)
    engine.add()
    engine.start()
    time.sleep(interval + span / 5)
    begin, used = time.time(), time.process_time()
    time.sleep(span)
    end, used = time.time(), time.process_time() - used
    time.sleep(LATE)
    engine.stop()
    calls = [(path, at) for path, at in site.calls if begin <= at < end]
    # A run that is later than a whole interval passes for one of the next instant: then fewer are run than are due.
    late = [(at - offsets[path]) % interval for path, at in calls]
    done = len(calls) / (end - begin)
    if len(late) < 2 or done < rate * 0.95:
        return [done, max(interval, LATE * 2), max(interval, LATE * 2), used / span]
    cuts = quantiles(late, n=100, method="inclusive")
    return [done, cuts[49], cuts[98], used / span]


def _resident_kilobytes() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


if __name__ == "__main__":
    if sys.argv[1:2] in (["wait"], ["fire"]):
        what, name, number, span, tasks = sys.argv[1:]
        print(json.dumps((wait if what == "wait" else fire)(name, int(number), float(span), int(tasks))))
    else:
        main()
