"""The books of a fleet under test: what its endpoints have done, and what its run store says.

fleet = Fleet(tmp_path, task={"cleanup": {"interval": 0.5}})
with gunicorn("fleet_app:application", "-w", "4", env=fleet.env, cwd=fleet.home):
    wait_until(lambda: len(fleet.began("cleanup")) > 3)
fleet.must_balance()
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from servers import wait_until

from pulse.config import read_config
from pulse.errors import StoreUnavailableError
from pulse.model import Outcome, Run
from pulse.runstores.sqlite import SqliteRunStore
from pulse.schedule import schedule_of

INSTANT = timedelta(microseconds=1)
SELDOM = "365d"  # an interval of which no instant comes while a test runs: at a full hour CI may well be at work
EXECUTED = {Outcome.SUCCESS, Outcome.FAILED, Outcome.TIMEOUT, Outcome.CANCELLED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A line that an endpoint has written."""

    task: str
    what: str
    due: datetime
    attempt: int
    trigger: str
    pid: int
    at: float


class Fleet:
    """The files of an application that any number of processes of this host run.

    Attributes:
        home: The folder in which its servers have to be started: by it and by the file of
            the application they find their store, when none is configured.
        env: Their environment.
    """

    def __init__(self, folder: Path, *, home: Path | None = None, **config: Any) -> None:
        """*config*: arguments of `PulseMiddleware`; *home*: that of another configuration of the same application."""
        self.config = {"history": 10_000, **config}
        self.home = home or folder / "home"
        self.done, self.state = folder / "done", folder / "state"
        for one in (self.home, self.done, self.state):
            one.mkdir(exist_ok=True)
        self.env = {
            "FLEET": json.dumps(self.config),
            "DONE": str(self.done),
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.state),
        }
        tasks: Mapping[str, Any] = self.config["task"]
        options = {name: value for name, value in self.config.items() if name != "task"}
        self._schedules = {
            name: schedule_of(task) for name, task in read_config(tasks=tasks, options=options).tasks.items()
        }

    # What the endpoints say

    def lines(self, task: str) -> list[Done]:
        path = self.done / task
        text = path.read_text(encoding="ascii") if path.exists() else ""
        text = text[: text.rfind("\n") + 1]  # where a page ends, half of a line may be seen
        return [_done(task, *line.split()) for line in text.splitlines()]

    def began(self, task: str, pid: int | None = None) -> list[Done]:
        return [one for one in self.lines(task) if one.what == "began" and pid in (None, one.pid)]

    def ended(self, task: str) -> list[Done]:
        return [one for one in self.lines(task) if one.what == "ended"]

    def pids(self, task: str) -> set[int]:
        """The processes that have run it."""
        return {one.pid for one in self.began(task)}

    # What the store says

    @property
    def path(self) -> Path:
        """The file of the store."""
        address = self.config.get("store", "auto")
        return Path(address.removeprefix("sqlite:")) if address != "auto" else next(self.state.glob("pulse/*.db"))

    def open(self) -> SqliteRunStore:
        return SqliteRunStore(self.path, name=self.config.get("name", ""), history=10_000)

    def records(self, task: str) -> list[Run]:
        """Those of *task*, oldest first; none while the store does not answer."""
        with suppress(StoreUnavailableError, StopIteration), closing(self.open()) as store:
            return store.history(task)[::-1]
        return []

    def running(self) -> list[Run]:
        with closing(self.open()) as store:
            return store.running()

    def recorded(self, task: str, place: str = "") -> list[datetime]:
        """The instants of the records, oldest first; a further attempt and a call by hand are none."""
        return self._planned(self.records(task), place)

    def held(self, task: str) -> list[datetime]:
        """The instants that are claimed, oldest first, by whoever runs them or was killed at it."""
        return self._planned([run for run in self.running() if run.task == task], "")

    def _planned(self, runs: list[Run], place: str) -> list[datetime]:
        planned = [run for run in runs if run.attempt == 1 and run.trigger.value != "manual" and run.place == place]
        return sorted(instant for run in planned for instant in self._instants(run))

    def _instants(self, run: Run) -> Iterator[datetime]:
        due = self._schedules[run.task].next_due((run.first_due or run.due) - INSTANT)
        while due is not None and due <= run.due:
            yield due
            due = self._schedules[run.task].next_due(due)

    def wait_for_run(self, task: str, pids: set[int], count: int = 1) -> None:
        """Wait until *task* was run *count* times more, by each of *pids* that live at all."""
        before = len(self.began(task))
        wait_until(lambda: pids <= self.pids(task) and len(self.began(task)) >= before + count)

    # The balance

    def must_balance(self, *tasks: str) -> None:
        """No instant was run twice, none is in two records, and none in none.

        Of all *tasks*, or those of the configuration; when all processes have ended, or have
        recorded what they ran. What a process was killed at has no record until somebody looks
        after it, while instants that came up meanwhile were skipped and have theirs.
        """
        for task in tasks or self.config["task"]:
            began = [one.due for one in self.began(task) if one.attempt == 1 and one.trigger != "manual"]
            assert twice(began) == []
            assert self.recorded(task), f"{task} has no record"
            known = sorted([*self.recorded(task), *self.held(task)])
            assert twice(known) == []
            assert self._between(task, known[0], known[-1]) == known
            assert set(began) <= set(known), "what was run is in no record"
            says = [run.due for run in self.records(task) if run.outcome in EXECUTED and run.trigger.value != "manual"]
            assert set(says) <= {one.due for one in self.began(task)}, "what is recorded was not run"

    def _between(self, task: str, first: datetime, last: datetime) -> list[datetime]:
        due, found = first, []
        while due is not None and due <= last:
            found.append(due)
            due = self._schedules[task].next_due(due)
        return found


def twice(values: list[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _done(task: str, what: str, due: str, *words: str) -> Done:
    attempt, trigger, pid, at = words
    return Done(
        task=task, what=what, due=datetime.fromisoformat(due), attempt=int(attempt), trigger=trigger, pid=int(pid),
        at=float(at),
    )  # fmt: skip
