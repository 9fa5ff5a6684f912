"""`pulse history`: what became of the due instants, newest first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pulse.clock import Clock
from pulse.commands import record
from pulse.commands.exits import Exit
from pulse.commands.screen import Screen, counted
from pulse.commands.source import Source
from pulse.commands.stored import Stored, in_filters, in_stores, opened
from pulse.model import Outcome, Run, Task
from pulse.runstores.base import Totals
from pulse.zone import instant_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which records are asked for.

    Attributes:
        task: The name of the only task; None for all.
        is_trouble: Only what went wrong.
        limit: At most so many.
        since: Made since then: an instant, naive by the clock of each task's zone, or how
            long ago.
    """

    task: str | None = None
    is_trouble: bool = False
    limit: int
    since: datetime | timedelta | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    filter: Stored
    task: Task
    run: Run


def history(source: Source, screen: Screen, clock: Clock, wanted: Wanted) -> Exit:
    """Show the records of *source* that are *wanted*, and the totals.

    Raises:
        ConfigError, CommandError: the filters cannot be read.
        UnknownTaskError: there is no such task.
        StoreUnavailableError: a store does not answer.
    """
    with opened(source, clock) as filters:
        pairs = in_stores(in_filters(filters, wanted.task))
        entries = _entries(pairs, wanted, clock)
        totals = [(one, task, one.store.totals(task.name)) for one, task in pairs]
    if screen.is_json:
        _write_document(source, screen, entries, totals)
        return Exit.OK
    if entries:
        _show(entries, screen, with_task=wanted.task is None, with_filter=len(filters) > 1)
    else:
        screen.line("no records")
    name = wanted.task or f"all {counted(len(totals), 'task')}"
    zone = pairs[0][1].zone if wanted.task else ZoneInfo("UTC")
    screen.line(f"{name}: {record.totals_words(_sum([each for _, _, each in totals]), zone)}")
    for one in filters:
        if not one.is_there:
            screen.line(f"nothing has run yet: there is no {one.place}")
    return Exit.OK


def _entries(pairs: Sequence[tuple[Stored, Task]], wanted: Wanted, clock: Clock) -> list[_Entry]:
    is_filtered = wanted.is_trouble or wanted.since is not None
    # Without what the runs wrote: of thousands of tasks that is more than a memory holds.
    entries = [
        _Entry(filter=one, task=task, run=run)
        for one, task in pairs
        for run in one.store.brief([task.name], one.config.history if is_filtered else wanted.limit)[task.name]
        if _is_wanted(run, task, wanted, clock)
    ]
    entries.sort(key=lambda entry: entry.run.finished or entry.run.due, reverse=True)
    return entries[: wanted.limit]


def _is_wanted(run: Run, task: Task, wanted: Wanted, clock: Clock) -> bool:
    if wanted.is_trouble and run.outcome not in record.TROUBLE:
        return False
    if wanted.since is None:
        return True
    since = clock.now() - wanted.since if isinstance(wanted.since, timedelta) else instant_of(wanted.since, task.zone)
    return (run.finished or run.due) >= since


def _show(entries: Sequence[_Entry], screen: Screen, *, with_task: bool, with_filter: bool) -> None:
    head, rows = list(record.HEAD), [record.cells(entry.run, entry.task) for entry in entries]
    if with_filter:
        head.insert(-1, "FILTER")
        for entry, row in zip(entries, rows, strict=True):
            row.insert(-1, entry.filter.where)
    if with_task:
        head.insert(0, "TASK")
        for entry, row in zip(entries, rows, strict=True):
            row.insert(0, entry.task.name)
    screen.table(head, rows)


def _write_document(
    source: Source, screen: Screen, entries: Sequence[_Entry], totals: Sequence[tuple[Stored, Task, Totals]]
) -> None:
    screen.document(
        {
            "source": source.name,
            "records": [record.document(entry.run, entry.filter.where) for entry in entries],
            "totals": [
                {"task": task.name, **record.totals_document(each), "filter": one.where} for one, task, each in totals
            ],
        }
    )


def _sum(all_totals: Sequence[Totals]) -> Totals:
    counts: Counter[Outcome] = Counter()
    for totals in all_totals:
        counts.update(totals.counts)
    return Totals(
        counts=counts,
        last_finished=max((one.last_finished for one in all_totals if one.last_finished), default=None),
        last_success=max((one.last_success for one in all_totals if one.last_success), default=None),
    )
