"""Workers of either mode with a task for each endpoint of `endpoints`, on the real clock."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import endpoints
from servers import wait_until

from pulse.clock import SystemClock
from pulse.config import read_config
from pulse.dispatch import Dispatcher
from pulse.missed import Rung
from pulse.model import Fire, Outcome, Pause, Run
from pulse.runner import Runner
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import schedule_of
from pulse.workers.processes import Children, ProcessWorkers, application_for_children
from pulse.workers.threads import ThreadWorkers

LIMIT = 30.0  # seconds; for a slow machine, nothing waits for as long as that


class Recorder:
    """Keeps the records that a runner makes."""

    def __init__(self, records: list[Run]) -> None:
        self.records = records

    def began(self, run: Run) -> None:
        pass

    def ended(self, run: Run) -> None:
        self.records.append(run)

    def paused(self, task: str, pause: Pause) -> None:
        pass


class Bench:
    """Workers of one mode, with a task for each endpoint."""

    def __init__(self, mode: str, *, workers: int = 2, is_bound: bool = True, options=None, **task) -> None:
        task = {"interval": 3600, "timeout": 0.3, **task}
        config = read_config(
            tasks={name.rpartition("/")[2]: task for name in endpoints.ENDPOINTS},
            options={"workers": workers, **(options or {})},
        )
        self.mode = mode
        self.clock = SystemClock()
        self.store = MemoryRunStore()
        self.start = self.clock.now()
        self.store.register(config.tasks, self.start)
        self.records: list[Run] = []
        schedules = {name: schedule_of(task) for name, task in config.tasks.items()}
        more = {"store": self.store, "clock": self.clock, "owner": "test", "hears": [Recorder(self.records)]}
        more["lease"] = timedelta(seconds=30)
        if mode == "threading":
            runner = Runner(
                config.tasks, schedules, dispatch=Dispatcher(endpoints.app, config, clock=self.clock), **more
            )
            self.workers = ThreadWorkers(runner, workers=workers, clock=self.clock, is_bound=is_bound)
        else:
            children = Children(application_for_children(endpoints.app, config), clock=self.clock)
            runner = Runner(config.tasks, schedules, dispatch=children, patience=60.0, **more)
            self.workers = ProcessWorkers(runner, workers=workers, clock=self.clock, children=children)
        self.workers.start()
        self._dues = 0

    def fire(self, task: str, **more) -> Fire:
        self._dues += 1
        return Fire(task=task, due=self.start + timedelta(milliseconds=self._dues), **more)

    def submit(self, *tasks: str) -> None:
        self.workers.submit([Rung(self.fire(task)) for task in tasks])

    def outcomes(self, task: str) -> list[Outcome]:
        return [run.outcome for run in self.records if run.task == task and run.started]

    def run(self, task: str) -> Run:
        self.submit(task)
        wait_until(lambda: any(run.task == task for run in self.records))
        return next(run for run in self.records if run.task == task)

    def release(self) -> None:
        """Let those who hang go on."""
        Path(os.environ[endpoints.RELEASE]).touch()


@contextmanager
def benches(mode: str) -> Iterator[Callable[..., Bench]]:
    """Make benches of *mode*; all are closed at the end."""
    made: list[Bench] = []

    def make(**more) -> Bench:
        made.append(Bench(mode, **more))
        return made[-1]

    try:
        yield make
    finally:
        for bench in made:
            bench.release()
            bench.workers.close(0)
