"""`pulse list`: the tasks, what they are called for, when, and how they are doing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.glance import Glance, glances
from pulse.commands.instant import spoken
from pulse.commands.record import document
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import Stored, stored_filters
from pulse.errors import ConfigError, StoreUnavailableError
from pulse.model import Config, Task
from pulse.schedule import schedule_of
from pulse.zone import iso_utc

_HEAD = ("TASK", "STATE", "SCHEDULE", "PATH", "NEXT RUN", "GUARDED")
_LAST = 4  # the place of LAST RUN in it


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One task, as the table has it.

    Attributes:
        seen: What its store knows; None if that cannot be read.
        due: None if it does not run by itself any more.
    """

    where: str
    task: Task
    is_enabled: bool
    is_guarded: bool
    seen: Glance | None
    due: datetime | None

    @property
    def state(self) -> str:
        if self.seen:
            return self.seen.state_words
        return "unknown" if self.is_enabled else "disabled"

    @property
    def schedule(self) -> str:
        return schedule_of(self.task).describe()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What the stores know of the tasks, by filter; and what is wrong with stores."""

    glances: Sequence[tuple[Stored, Mapping[str, Glance]]]
    complaints: Sequence[str]

    def of(self, where: str, config: Config) -> Mapping[str, Glance]:
        """By task; empty if the store of the filter is not known."""
        return next((found for one, found in self.glances if (one.where, one.config) == (where, config)), {})


def list_tasks(source: Source, screen: Screen, clock: Clock) -> Exit:
    """Show the tasks of *source*; a store that cannot be read is said, and is no error.

    Raises:
        ConfigError, CommandError: they cannot be read.
    """
    now, configs = clock.now(), source.configs()
    seen = _look(source, clock)
    lines = [line for where, config in configs for line in _lines(where, config, seen.of(where, config), now)]
    if screen.is_json:
        screen.document(
            {"source": source.name, "tasks": [_document(line) for line in lines], "problems": list(seen.complaints)}
        )
        return Exit.OK
    if lines:
        _show(lines, screen, with_filter=len(configs) > 1)
    else:
        screen.line(f"{source.name}: there are no tasks")
    for complaint in seen.complaints:
        screen.line(complaint, "yellow")
    return Exit.OK


def _look(source: Source, clock: Clock) -> _Seen:
    found, complaints = [], []
    try:
        filters = stored_filters(source, clock)
    except (ConfigError, CommandError) as error:  # the library of the store is not here, say
        return _Seen(glances=(), complaints=[f"states and last runs are not known: {error}"])
    try:
        for one in filters:
            # What is in the memory of another process cannot be seen from here.
            if one.is_private:
                continue
            try:
                found.append((one, {each.task.name: each for each in glances(one, clock)}))
            except StoreUnavailableError as error:
                complaints.append(f"states and last runs are not known: {error}")
    finally:
        for one in filters:
            one.kept.close()
    return _Seen(glances=found, complaints=list(dict.fromkeys(complaints)))


def _show(lines: Sequence[_Line], screen: Screen, *, with_filter: bool) -> None:
    head, rows = list(_HEAD), [_cells(line) for line in lines]
    if any(line.seen for line in lines):
        head.insert(_LAST, "LAST RUN")
        for line, row in zip(lines, rows, strict=True):
            row.insert(_LAST, line.seen.last_words if line.seen else "-")
    if with_filter:
        head.append("FILTER")
        for line, row in zip(lines, rows, strict=True):
            row.append(line.where)
    screen.table(head, rows)


def _lines(where: str, config: Config, seen: Mapping[str, Glance], now: datetime) -> Iterator[_Line]:
    for name, task in config.tasks.items():
        is_enabled, found = config.enabled and task.enabled, seen.get(name)
        due = schedule_of(task).next_due(now) if is_enabled else None
        yield _Line(
            where=where,
            task=task,
            is_enabled=is_enabled,
            is_guarded=config.guard,
            seen=found,
            due=found.due if found else due,
        )


def _cells(line: _Line) -> list[str]:
    never = "never" if line.is_enabled and not (line.seen and line.seen.pause) else "-"
    due = spoken(line.due, line.task.zone) if line.due else never
    return [line.task.name, line.state, line.schedule, line.task.action, due, "yes" if line.is_guarded else "no"]


def _document(line: _Line) -> dict[str, object]:
    task, seen = line.task, line.seen
    return {
        "task": task.name,
        "state": seen.state.value if seen else line.state,
        "schedule": line.schedule,
        "description": task.description,
        "method": task.method,
        "path": task.path,
        "query": task.query,
        "next_due": iso_utc(line.due),
        "timezone": str(task.zone),
        "guarded": line.is_guarded,
        "last_run": document(seen.last, line.where) if seen and seen.last else None,
        "failures": seen.failures if seen else None,
        "running": len(seen.running) if seen else None,
        "paused_until": iso_utc(seen.pause.until) if seen and seen.pause else None,
        "filter": line.where,
    }
