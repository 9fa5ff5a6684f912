"""`pulse next`: the next due instants, as the clock of each task's zone will show them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice

from pulse import reader
from pulse.commands.exits import Exit
from pulse.commands.instant import spoken
from pulse.commands.screen import Screen
from pulse.commands.source import Source, find_task
from pulse.model import Task
from pulse.schedule import Schedule, delay_of, schedule_of
from pulse.zone import instant_of, iso_utc


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """A task, and whether it runs by itself."""

    task: Task
    is_enabled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Instant:
    """One due instant of a task.

    Attributes:
        starts: When its run starts: later than it is due, if the task has a jitter.
        notes: What is special about it.
    """

    task: Task
    due: datetime
    starts: datetime
    notes: tuple[str, ...]


def next_dues(
    source: Source, screen: Screen, now: datetime, *, name: str | None, count: int, since: datetime | None
) -> Exit:
    """Show the next *count* due instants of the task *name*, or of all enabled tasks together.

    Args:
        source: Where the tasks are.
        screen: Where to write.
        now: Aware.
        name: None for all.
        count: How many instants, altogether.
        since: The first instant to look at, *now* when not given; a naive one is by the
            clock of each task's zone.

    Raises:
        ConfigError, CommandError: the tasks cannot be read.
        UnknownTaskError: there is no such task.
    """
    plans = _plans(source, name)
    streams = [_instants(plan, since or now) for plan in plans]
    instants = list(islice(merge(*streams, key=lambda instant: instant.due), count))
    if screen.is_json:
        screen.document({"source": source.name, "instants": [_document(instant) for instant in instants]})
    elif instants:
        _show(instants, screen, with_names=name is None)
    elif name is None:
        screen.line("no task is due any more")
    else:
        screen.line(f"{name} is never due: {schedule_of(plans[0].task).describe()}")
    return Exit.OK


def _plans(source: Source, name: str | None) -> list[_Plan]:
    plans = [
        _Plan(task=task, is_enabled=config.enabled and task.enabled)
        for _, config in source.configs()
        for task in config.tasks.values()
    ]
    if name is None:
        return [plan for plan in plans if plan.is_enabled]
    return find_task(name, ((plan.task.name, plan) for plan in plans))


def _instants(plan: _Plan, since: datetime) -> Iterator[_Instant]:
    """The due instants of one task from *since* on, without end if it has none."""
    task, schedule = plan.task, schedule_of(plan.task)
    due = schedule.due_from(instant_of(since, task.zone))
    while due is not None:
        following = schedule.next_due(due)
        starts = due + delay_of(task, due, following)
        yield _Instant(task=task, due=due, starts=starts, notes=tuple(_notes(plan, schedule, due, starts)))
        due = following


def _notes(plan: _Plan, schedule: Schedule, due: datetime, starts: datetime) -> Iterator[str]:
    if not plan.is_enabled:
        yield "disabled: it does not run by itself"
    if note := schedule.clock_note(due, plan.task.zone):
        yield note
    if plan.task.jitter:
        yield f"starts {(starts - due).total_seconds():.1f} s later, of a jitter of {reader.spell(plan.task.jitter)}"


def _show(instants: list[_Instant], screen: Screen, *, with_names: bool) -> None:
    times = [spoken(instant.due, instant.task.zone) for instant in instants]
    names = [instant.task.name if with_names else "" for instant in instants]
    times_width, names_width = max(map(len, times)), max(map(len, names))
    for instant, when, name in zip(instants, times, names, strict=True):
        notes = f"({'; '.join(instant.notes)})" if instant.notes else ""
        columns = [when.ljust(times_width), name.ljust(names_width), notes]
        screen.line("   ".join(column for column in columns if column.strip()).rstrip())


def _document(instant: _Instant) -> dict[str, object]:
    return {
        "task": instant.task.name,
        "due": iso_utc(instant.due),
        "local": instant.due.astimezone(instant.task.zone).isoformat(),
        "starts": iso_utc(instant.starts),
        "notes": list(instant.notes),
    }
