"""How late a healthy task is beside endpoints that hang, compared with the same task alone.

    python benchmarks/hangs.py [--rounds N] [--quick] [--check]

All tasks are new to the process, and due in the same instant for the first time: nobody can
know then which of them hang. Only where `workers` is set, past which go at most two runs of
what is known to be quick, the healthy one begins earlier. What hangs has a timeout of 1 to 2 s
and is due every 2 s. With `--check` the exit code is 1 if the healthy task has missed more than
the first instant, or is usually later beside them than alone.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median, quantiles
from typing import Final

from endpoint import BODY, Environ, StartResponse
from measure import Bound, Effort, Row, check, column, effort, show, show_heading

from pulse import PulseMiddleware
from pulse.model import Run

HANGING: Final = 200
INTERVAL: Final = 0.25  # seconds, of the healthy task
ENOUGH: Final = 4  # records, to say anything
ALONE: Final = "Pulse: alone"
BESIDE: Final = f"Pulse: beside {HANGING} that hang"
WITH_WORKERS: Final = f"Pulse: beside {HANGING} that hang, with workers = 4"
BOUNDS: Final = [
    Bound(name=BESIDE, figure="missed", most=1),  # the first one, on a busy machine: 200 runs begin before it
    Bound(name=BESIDE, figure="p50", most=20.0),  # milliseconds, as alone
    Bound(name=WITH_WORKERS, figure="missed", most=1),
    Bound(name=WITH_WORKERS, figure="p50", most=20.0),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lateness(Row):
    """How late the runs of the healthy task began."""

    first: float | None = column("first, ms", ",.1f")
    p50: float | None = column("p50, ms", ",.1f")
    p99: float | None = column("p99, ms", ",.1f")
    worst: float | None = column("max, ms", ",.1f")
    missed: int | None = column("missed", "d")
    threads: int | None = column("threads", "d")


class Site:
    """Answers at once, but for `/hang...`, where it waits for the end of the benchmark."""

    def __init__(self) -> None:
        """Nothing hangs yet."""
        self.end = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """A WSGI application."""
        if environ["PATH_INFO"].startswith("/hang"):
            self.end.wait()
        start_response("200 OK", [])
        return [BODY]


def main(argv: Sequence[str] | None = None) -> list[Lateness]:
    """Measure and print; the rows of the table."""
    given = effort(__doc__, argv, rounds=2, bounds=BOUNDS)
    show_heading("How late a healthy task is", ["pulse"], given)
    ways = {
        ALONE: partial(lateness, 0, None),
        BESIDE: partial(lateness, HANGING, None),
        WITH_WORKERS: partial(lateness, HANGING, 4),
    }
    measured: dict[str, list[Lateness]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            measured[name].append(way(name, given))
    rows = [_median(rows) for rows in measured.values()]
    show("the healthy task", rows)
    check(rows, BOUNDS, given)
    return rows


def lateness(hanging: int, workers: int | None, name: str, given: Effort) -> Lateness:
    """Run the healthy task beside *hanging* others for a while."""
    site, seconds = Site(), given.choose(real=6.0, quick=0.6)
    begin = datetime.now(UTC) + timedelta(seconds=3 if workers else 0)
    hang = {"interval": 2, "start_date": begin}
    tasks = {
        f"hang{number}": {**hang, "action": f"/hang{number}", "timeout": 1 + number / HANGING}
        for number in range(hanging)
    }
    healthy = {"healthy": {"action": "/healthy", "interval": INTERVAL}}
    more = {} if workers is None else {"workers": workers}
    # After what hangs: it comes last in the first instant that all have in common.
    pulse = PulseMiddleware(site, task=tasks | healthy, start="manual", store="memory:", shutdown_timeout=0, **more)
    time.sleep((1.9 - time.time()) % 2)  # that instant is 0.1 s from here
    pulse.start()
    try:
        time.sleep(seconds)
        while len(pulse.run_store.history("healthy")) < ENOUGH:
            time.sleep(INTERVAL)
        threads = threading.active_count()
        records = pulse.run_store.history("healthy")[::-1]
        missed = sum(run.count for run in records if not run.started)
        return _row(name, [run for run in records if run.started], missed, threads)
    finally:
        site.end.set()
        pulse.close()


def _row(name: str, runs: Sequence[Run], missed: int, threads: int) -> Lateness:
    late = [(run.lateness or timedelta(0)).total_seconds() * 1000 for run in runs]
    cuts = quantiles(late, n=100, method="inclusive")
    return Lateness(
        name=name, first=late[0], p50=median(late), p99=cuts[-1], worst=max(late), missed=missed, threads=threads
    )


def _median(rows: Sequence[Lateness]) -> Lateness:
    """The row in the middle by p99, with the worst of all."""
    middle = sorted(rows, key=lambda row: row.p99 or 0.0)[len(rows) // 2]
    return replace(middle, worst=max(row.worst or 0.0 for row in rows), missed=max(row.missed or 0 for row in rows))


# Each run that is given up has its line: that is measured, and need not be said.
logging.getLogger("pulse").addHandler(logging.NullHandler())

if __name__ == "__main__":
    main()
