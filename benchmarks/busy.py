"""What requests pay for an engine in the same process, which competes with them for the interpreter.

    python benchmarks/busy.py [--rounds N] [--quick] [--check]

Four threads answer requests of a millisecond of Python each, one after the other, as those of
a server do that has more to answer than it can. Beside them an engine calls endpoints 200
times a second. The limit is what these threads answer without one. What is counted are the
requests in a second of processor time: the threads use as much of that as the interpreter can.
An engine whose steps turn to the interpreter often gets to it late, and is behind with its fires:
each statement of SQLite is such a turn, of which a run needs a dozen. How late a fire is counts
from the last due instant of its task: whole instants that were left out show in the fires alone.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Final

from engines import APSCHEDULER, DURABLE, ENGINES, PULSE, Plan, path_of
from fires import Site, started
from measure import Bound, Effort, Row, check, column, effort, series, show, show_heading

PACKAGES: Final = ("pulse", "APScheduler")

ALONE: Final = "no engine (the limit)"
THREADS: Final = 4
WORK: Final = 20_000  # steps of the interpreter: about a millisecond
BOUNDS: Final = [
    Bound(name=PULSE, figure="of_apscheduler", least=0.9),
    Bound(name=DURABLE, figure="of_apscheduler", least=0.9),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy(Row):
    """How many requests a process answers, and how late its tasks are meanwhile."""

    requests: float | None = column("requests a CPU second", ",.0f")
    of_limit: float | None = column("of the limit", ".3f")
    of_apscheduler: float | None = column("of what APScheduler leaves", ".3f")
    fires: float | None = column("fires/s", ",.0f")
    p50_ms: float | None = column("late p50, ms", ",.1f")
    p99_ms: float | None = column("late p99, ms", ",.1f")


def main(argv: Sequence[str] | None = None) -> list[Busy]:
    """Measure and print; the rows of the table."""
    given = effort(__doc__, argv, rounds=5, bounds=BOUNDS)
    show_heading("What requests pay for an engine beside them", PACKAGES, given)
    rows = _rows(given)
    show("requests of a millisecond, and 200 fires/s", rows)
    check(rows, BOUNDS, given)
    return rows


def _rows(given: Effort) -> list[Busy]:
    span = given.choose(real=3.0, quick=0.2)
    late: dict[str, list[float]] = {name: [] for name in ENGINES}
    figures = {name: partial(_beside, name, given, span, late[name]) for name in ENGINES}
    found = {
        name: median(values) for name, values in series({ALONE: partial(_alone, span), **figures}, given.rounds).items()
    }
    return [
        Busy(
            name=name,
            requests=requests,
            of_limit=requests / found[ALONE],
            of_apscheduler=requests / found[APSCHEDULER],
            fires=len(late[name]) / (span * given.rounds) if name in late else None,
            p50_ms=_percentile(late.get(name, ()), 50),
            p99_ms=_percentile(late.get(name, ()), 99),
        )
        for name, requests in found.items()
    ]


def _alone(span: float) -> float:
    with _requests() as count:
        return _rate(count, span)


def _beside(name: str, given: Effort, span: float, late: list[float]) -> float:
    """Requests in a second of processor time beside the engine; how late its fires are is appended to *late*."""
    plan = given.choose(real=Plan(count=100, interval=0.5), quick=Plan(count=20, interval=0.1))
    numbers = {path_of(number): number for number in range(plan.count)}
    site = Site()
    with started(name, site, plan), _requests() as count:
        time.sleep(plan.interval)
        begun = len(site.calls)
        rate = _rate(count, span)
        calls = site.calls[begun:]
    late += [at - (plan.next_due(numbers[path], at) - plan.interval) for path, at in calls]
    return rate


@contextmanager
def _requests() -> Iterator[list[int]]:
    """Threads that answer without a pause; the list has what each of them has answered so far."""
    answered, ended = [0] * THREADS, threading.Event()

    def answer(place: int) -> None:
        while not ended.is_set():
            _work()
            answered[place] += 1

    threads = [threading.Thread(target=answer, args=(place,)) for place in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _work() -> None:
    """One request; the interpreter may turn to another thread in it, as in any function of Python."""
    for _ in range(WORK):
        pass


def _rate(answered: Sequence[int], span: float) -> float:
    """Requests in a second of processor time, over *span* seconds by the clock."""
    before, begun = sum(answered), time.process_time()
    time.sleep(span)
    return (sum(answered) - before) / (time.process_time() - begun)


def _percentile(late: Sequence[float], percent: int) -> float | None:
    """Milliseconds; None where too few fires came."""
    return quantiles(late, n=100, method="inclusive")[percent - 1] * 1e3 if len(late) > 1 else None


if __name__ == "__main__":
    main()
