"""What a thousand endpoints that await something cost in mode asyncio: time, and memory while they wait.

    python benchmarks/awaits.py [--rounds N] [--quick] [--check]

All are due in the same instant, and each awaits a second. The limit calls the application
1,000 times on a loop, with environs by hand; Pulse claims, watches and records each run.
With `--check` the exit code is 1 if a run takes too many times the memory, or all of them
too many times the time, of the limit.
"""

import asyncio
import gc
import logging
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from endpoint import BODY, Environ, StartResponse, environ_of, ignore_response
from measure import Bound, Row, check, column, effort, medians, show, show_heading

from pulse import PulseMiddleware
from pulse.missed import Rung
from pulse.model import Fire

LIMIT: Final = "tasks on a loop, environs by hand (the limit)"
PULSE: Final = "Pulse: mode asyncio"
BOUNDS: Final = [
    Bound(name=PULSE, figure="ratio", most=1.3),
    Bound(name=PULSE, figure="ratio_kb", most=2.8),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting(Row):
    """What runs that wait cost."""

    runs: int | None = column("runs", ",d")
    seconds: float | None = column("s for all", ".2f")
    ratio: float | None = column("x the limit", ".2f")
    kb: float | None = column("KB a run", ".1f")
    ratio_kb: float | None = column("x the limit", ".1f")


class Site:
    """An asynchronous application whose endpoints all await *seconds*."""

    def __init__(self, seconds: float) -> None:
        """*seconds* that each takes."""
        self.seconds = seconds
        self.waiting = 0

    async def __call__(self, _environ: Environ, start_response: StartResponse) -> list[bytes]:
        """The application."""
        self.waiting += 1
        await asyncio.sleep(self.seconds)
        self.waiting -= 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [BODY]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Seconds for all runs, and bytes that they have while all of them wait."""

    seconds: float
    size: int


def main(argv: Sequence[str] | None = None) -> list[Waiting]:
    """Measure and print; the rows of the table."""
    given = effort(__doc__, argv, rounds=5, bounds=BOUNDS)
    show_heading("What runs cost that wait", ["pulse"], given)
    runs = given.choose(real=1000, quick=20)
    site = Site(given.choose(real=1.0, quick=0.05))
    ways: dict[str, Callable[[Watch], None]] = {
        LIMIT: partial(on_a_loop, site, runs),
        PULSE: partial(pulse, site, runs),
    }
    seconds = medians({name: partial(seconds_of, way) for name, way in ways.items()}, given.rounds)
    sizes = {name: size_of(way) / runs / 1024 for name, way in ways.items()}
    rows = [
        Waiting(
            name=name,
            runs=runs,
            seconds=seconds[name],
            ratio=seconds[name] / seconds[LIMIT],
            kb=sizes[name],
            ratio_kb=sizes[name] / sizes[LIMIT],
        )
        for name in ways
    ]
    show("way", rows)
    check(rows, BOUNDS, given)
    return rows


class Watch:
    """Notes when the runs begin, what they have while all wait, and when they have ended."""

    def __init__(self, *, is_weighing: bool) -> None:
        """*is_weighing*: whether memory counts, which makes everything slow."""
        self.is_weighing = is_weighing
        self.seconds = 0.0
        self.size = 0

    def begin(self) -> None:
        """All is wired."""
        gc.collect()
        if self.is_weighing:
            tracemalloc.start()
        self._begun = time.perf_counter()

    def all_wait(self) -> None:
        """Every run awaits now."""
        if self.is_weighing:
            self.size = tracemalloc.get_traced_memory()[0]

    def end(self) -> None:
        """Every run has ended."""
        self.seconds = time.perf_counter() - self._begun
        if self.is_weighing:
            tracemalloc.stop()


def seconds_of(way: Callable[[Watch], None]) -> float:
    """From the first run's begin to the last one's end."""
    watch = Watch(is_weighing=False)
    way(watch)
    return watch.seconds


def size_of(way: Callable[[Watch], None]) -> int:
    """Bytes, while all runs wait."""
    watch = Watch(is_weighing=True)
    way(watch)
    return watch.size


def on_a_loop(site: Site, runs: int, watch: Watch) -> None:
    """The limit."""

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(_called(site, f"/tasks/{number}")) for number in range(runs)]
        while site.waiting < runs:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
        watch.all_wait()
        await asyncio.gather(*tasks)

    watch.begin()
    asyncio.run(all_of_them())
    watch.end()


async def _called(site: Site, path: str) -> bytes:
    return b"".join(await site(environ_of(path), ignore_response))


def pulse(site: Site, runs: int, watch: Watch) -> None:
    """Fires of as many tasks, submitted as the scheduler does it."""
    tasks = {f"task{number}": {"action": f"/tasks/{number}", "interval": 3600} for number in range(runs)}
    middleware = PulseMiddleware(site, task=tasks, mode="asyncio", start="manual", store="memory:")
    middleware.start()
    assert middleware._engine is not None  # noqa: SLF001 - what the scheduler rings for cannot be hurried
    workers, store, due = middleware._engine.workers, middleware.run_store, datetime.now(UTC)  # noqa: SLF001
    watch.begin()
    workers.submit([Rung(Fire(task=name, due=due)) for name in tasks])
    while site.waiting < runs:
        time.sleep(0.001)
    watch.all_wait()
    while workers.busy:
        time.sleep(0.001)
    watch.end()
    assert all(store.history(name, 1)[0].status == 200 for name in tasks)
    middleware.close()


logging.getLogger("pulse").addHandler(logging.NullHandler())

if __name__ == "__main__":
    main()
