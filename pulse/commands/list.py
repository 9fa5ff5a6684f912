"""`pulse list`: the tasks, what they are called for, and when."""

from dataclasses import dataclass
from datetime import UTC, datetime

from pulse.commands.exits import Exit
from pulse.commands.instant import spoken, zone_of
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.model import Config, Task
from pulse.schedule import schedule_of

_HEAD = ("TASK", "STATE", "SCHEDULE", "PATH", "NEXT RUN", "GUARDED")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One task, as the table has it; `due` is None if it does not run by itself any more."""

    where: str
    task: Task
    is_enabled: bool
    is_guarded: bool
    due: datetime | None

    @property
    def state(self) -> str:
        return "ok" if self.is_enabled else "disabled"

    @property
    def schedule(self) -> str:
        return schedule_of(self.task).describe()


def list_tasks(source: Source, screen: Screen, now: datetime) -> Exit:
    """Show the tasks of *source*.

    Raises:
        ConfigError, CommandError: they cannot be read.
    """
    configs = source.configs()
    lines = [_line(where, config, task, now) for where, config in configs for task in config.tasks.values()]
    if screen.is_json:
        screen.document({"source": source.name, "tasks": [_document(line) for line in lines]})
    elif not lines:
        screen.line(f"{source.name}: there are no tasks")
    elif len(configs) > 1:
        screen.table([*_HEAD, "FILTER"], [[*_cells(line), line.where] for line in lines])
    else:
        screen.table(_HEAD, [_cells(line) for line in lines])
    return Exit.OK


def _line(where: str, config: Config, task: Task, now: datetime) -> _Line:
    is_enabled = config.enabled and task.enabled
    return _Line(
        where=where,
        task=task,
        is_enabled=is_enabled,
        is_guarded=config.guard,
        due=schedule_of(task).next_due(now) if is_enabled else None,
    )


def _cells(line: _Line) -> list[str]:
    never = "never" if line.is_enabled else "-"
    due = spoken(line.due, zone_of(line.task)) if line.due else never
    return [line.task.name, line.state, line.schedule, line.task.action, due, "yes" if line.is_guarded else "no"]


def _document(line: _Line) -> dict[str, object]:
    task = line.task
    return {
        "task": task.name,
        "state": line.state,
        "schedule": line.schedule,
        "description": task.description,
        "method": task.method,
        "path": task.path,
        "query": task.query,
        "next_due": line.due.astimezone(UTC).isoformat() if line.due else None,
        "timezone": str(zone_of(task)),
        "guarded": line.is_guarded,
        "filter": line.where,
    }
