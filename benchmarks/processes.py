"""What a request in a child process costs, and how soon a hung child is replaced.

    python benchmarks/processes.py [--rounds N] [--quick] [--check]

A child is ready and waiting when its round trips are measured. A replacement is measured
from the moment at which the hung request should have ended (its deadline, and the grace
between SIGTERM and SIGKILL) to the answer of the next child, which is a new interpreter.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from endpoint import BODY, HANG, PATH, app, echo, request_here
from measure import Bound, Effort, Row, Timed, check, column, effort, medians, repeated, show, show_heading

from pulse.clock import SystemClock
from pulse.config import read_config
from pulse.control import Control
from pulse.dispatch import Reply
from pulse.model import Fire, Outcome, Run
from pulse.workers.processes import Children, application_for_children

PACKAGES: Final = ("pulse", "pebble")
SPAWN: Final = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads


TIMEOUT: Final = 0.2  # seconds that the hung request may take
GRACE: Final = 0.1  # seconds between SIGTERM and SIGKILL

LIMIT: Final = "a child behind a pipe (the limit)"
PULSE: Final = "Pulse: Children"
A_TRIP: Final = Bound(name=PULSE, figure="ratio", most=6.0)
A_SUCCESSOR: Final = Bound(name=PULSE, figure="ratio", most=1.5)
EXECUTOR: Final = "ProcessPoolExecutor"
PEBBLE: Final = "pebble: ProcessPool"
NAMES: Final = (LIMIT, PULSE, EXECUTOR, PEBBLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTrip(Row):
    """What one request in a child costs."""

    us: float | None = column("us a round trip", ",.0f")
    ratio: float | None = column("x the limit", ".1f")


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacement(Row):
    """How long after a hung request should have ended the next child has answered."""

    seconds: float | None = column("s to the successor's answer", ".2f")
    ratio: float | None = column("x the limit", ".1f")


Call = Callable[[], bytes]
"""Sends a request to the child, and returns the body of the response."""

Hang = Callable[[], float]
"""Sends a request that hangs, then one that does not; `time.monotonic` when the first one began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One way to have children; without `hang` it cannot kill one."""

    call: Call
    hang: Hang | None = None


def main(argv: Sequence[str] | None = None) -> list[RoundTrip | Replacement]:
    """Measure and print; the rows of both tables."""
    given = effort(__doc__, argv, rounds=51, bounds=[A_TRIP, A_SUCCESSOR])
    show_heading("What a child process costs", PACKAGES, given)
    with ExitStack() as stack:
        peers = {}
        for name, way in zip(NAMES, (raw_child, pulse, executor, pebble), strict=True):
            with suppress(ImportError):
                peers[name] = stack.enter_context(way())
        trips = round_trips(given, peers)
        show("a request in a child", trips)
        replaced = replacements(given, peers)
        show("a child that hangs", replaced)
    check(trips, [A_TRIP], given)
    check(replaced, [A_SUCCESSOR], given)
    return [*trips, *replaced]


def round_trips(given: Effort, peers: Mapping[str, Peer]) -> list[RoundTrip]:
    """A row for each of `NAMES`."""
    for name, peer in peers.items():
        assert peer.call() == BODY, name
    span = given.choose(real=0.02, quick=0.002)
    found = medians({name: Timed(repeated(peer.call), span) for name, peer in peers.items()}, given.rounds)
    return [
        RoundTrip(name=name, us=found[name] * 1e6, ratio=found[name] / found[LIMIT])
        if name in found
        else RoundTrip(name=name, is_installed=False)
        for name in NAMES
    ]


def replacements(given: Effort, peers: Mapping[str, Peer]) -> list[Replacement]:
    """A row for each of `NAMES` that can kill a child, or could if it were installed."""
    rounds = min(given.rounds, 9)  # each takes a second
    figures = {name: partial(_seconds_to_successor, peer.hang) for name, peer in peers.items() if peer.hang}
    found = medians(figures, rounds)
    return [
        Replacement(name=name, seconds=found[name], ratio=found[name] / found[LIMIT])
        if name in found
        else Replacement(name=name, is_installed=False)
        for name in NAMES
        if name in found or name not in peers
    ]


def _seconds_to_successor(hang: Hang) -> float:
    begun = hang()
    return time.monotonic() - begun - TIMEOUT - GRACE


# The children


@contextmanager
def raw_child() -> Iterator[Peer]:
    """A child that answers one message after another, and is killed by hand."""
    child = RawChild()
    try:
        yield Peer(call=child.call, hang=child.hang)
    finally:
        child.kill()


class RawChild:
    """What any pool of children consists of: a process and a pipe."""

    def __init__(self) -> None:
        """Start it."""
        self._start()

    def call(self) -> bytes:
        """One round trip."""
        self._connection.send(PATH)
        body: bytes = self._connection.recv()
        return body

    def hang(self) -> float:
        """Hang, be killed, and have a successor."""
        begun = time.monotonic()
        self._connection.send(HANG)
        self._connection.poll(TIMEOUT)
        self._process.terminate()
        self._connection.poll(GRACE)
        self.kill()
        self._start()
        self.call()
        return begun

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()

    def _start(self) -> None:
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=echo, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()


@contextmanager
def pulse() -> Iterator[Peer]:
    """The children of mode `processing`, without the runner's claim and record."""
    tasks = {
        "cleanup": {"action": PATH, "timeout": 60},
        "hang": {"action": HANG, "timeout": TIMEOUT, "kill_grace": GRACE},
    }
    config = read_config(tasks=tasks)
    children = Children(application_for_children(app, config), clock=SystemClock())
    control = Control()
    due = datetime(2027, 1, 1, tzinfo=UTC)
    runs = {name: Run(id=Fire(task=name, due=due).run_id, task=name, due=due) for name in tasks}

    def request(name: str) -> Reply:
        return children(config.tasks[name], runs[name], control)

    def hang() -> float:
        begun = time.monotonic()
        assert request("hang").outcome is Outcome.TIMEOUT
        assert request("cleanup").body == BODY
        return begun

    try:
        yield Peer(call=lambda: request("cleanup").body, hang=hang)
    finally:
        children.close()


@contextmanager
def executor() -> Iterator[Peer]:
    """The standard library's pool; a hung child of it stays."""
    with ProcessPoolExecutor(max_workers=1, mp_context=SPAWN) as pool:
        yield Peer(call=lambda: pool.submit(request_here, PATH).result())


@contextmanager
def pebble() -> Iterator[Peer]:
    """The pool that kills what is overdue."""
    import pebble as library

    library.CONSTS.term_timeout = GRACE

    with library.ProcessPool(max_workers=1, context=SPAWN) as pool:

        def call(path: str = PATH, **more: Any) -> bytes:
            body: bytes = pool.schedule(request_here, args=[path], **more).result()
            return body

        def hang() -> float:
            begun = time.monotonic()
            with suppress(TimeoutError):
                call(HANG, timeout=TIMEOUT)
            call()
            return begun

        yield Peer(call=call, hang=hang)


if __name__ == "__main__":
    main()
