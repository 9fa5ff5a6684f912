"""`pulse show`: one run whole, with what its endpoint answered and said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pulse.clock import Clock
from pulse.commands import record
from pulse.commands.exits import CommandError, Exit
from pulse.commands.instant import by_second, rough
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import Stored, by_store, in_filters, in_stores, opened
from pulse.instance import short
from pulse.model import Run, Task
from pulse.schedule import schedule_of

SHOWN: Final = 5  # runs that are named when a prefix fits many


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """One attempt of a run, with the task and the filter as they are configured now."""

    filter: Stored
    task: Task
    run: Run


def show(source: Source, screen: Screen, clock: Clock, prefix: str) -> Exit:
    """Show every attempt of the run whose id begins with *prefix*, oldest first.

    Raises:
        ConfigError, CommandError: the filters cannot be read, or there is not exactly one
            such run.
        StoreUnavailableError: a store does not answer.
    """
    with opened(source, clock) as filters:
        found = list(_find(filters, prefix.lower()))
    found.sort(key=lambda one: one.run.attempt)
    _must_be_one(source, found, prefix)
    if screen.is_json:
        screen.document({"source": source.name, "runs": [_document(one) for one in found]})
        return Exit.OK
    for number, one in enumerate(found):
        if number:
            screen.line()
        _show(one, screen)
    return Exit.OK


def _find(filters: Sequence[Stored], prefix: str) -> Iterator[_Found]:
    held = {id(one.kept): [*one.store.running(), *one.store.waiting()] for one in by_store(filters)}
    for one, task in in_stores(in_filters(filters, None)):
        for run in (*one.store.history(task.name), *held[id(one.kept)]):
            if run.task == task.name and run.id.startswith(prefix):
                yield _Found(filter=one, task=task, run=run)


def _must_be_one(source: Source, found: Sequence[_Found], prefix: str) -> None:
    ids = {one.run.id: one for one in found}
    if not ids:
        raise CommandError(f"{source.name}: no run begins with {prefix!r}; pulse history shows those that are kept")
    if len(ids) > 1:
        some = ", ".join(f"{one.run.id} ({one.run.task})" for one in list(ids.values())[:SHOWN])
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        raise CommandError(f"{source.name}: {len(ids)} runs begin with {prefix!r}: {some}{more}")


def _show(one: _Found, screen: Screen) -> None:
    for name, text in _facts(one):
        style = record.STYLES.get(one.run.outcome, "red") if one.run.outcome and name == "outcome" else ""
        screen.line(f"{name:<9} {text}", style)
    capture = one.filter.config.capture
    for name, captured in (("body", one.run.body), ("wsgi.errors", one.run.errors)):
        record.show_captured(screen, name, captured, capture)
    for name, whole in (("headers", one.run.headers.encode()), ("log", one.run.log)):
        record.show_captured(screen, name, whole, len(whole) + 1)
    if one.run.body or one.run.errors or one.run.headers or one.run.log:
        screen.line("---")


def _facts(one: _Found) -> Iterator[tuple[str, str]]:
    run, task, zone = one.run, one.task, one.task.zone
    yield "run", run.id
    yield "task", f"{task.name}, {schedule_of(task).describe()}"
    yield "request", run.request or f"{task.method} {task.action} (as it is configured now)"
    yield "due", record.due_words(run, zone) + (f", {run.count} instants" if run.count > 1 else "")
    yield "trigger", f"{run.trigger.value}, attempt {run.attempt}"
    status = "" if run.status is None else f" {run.status}"
    reason = record.reason_words(run)
    yield "outcome", f"{record.outcome_words(run)}{status}{f': {reason}' if reason else ''}"
    if run.progress:
        yield "progress", record.progress_words(run.progress)
    if run.stop:
        yield "stop", f"it was asked to: {run.stop}"
    if run.started:
        yield "started", f"{by_second(run.started, zone)}, {rough(run.lateness)} late"
    if run.finished:
        took = "" if run.duration is None else f", took {record.rough_seconds(run.duration)}"
        yield ("finished" if run.started else "recorded"), f"{by_second(run.finished, zone)}{took}"
    elif run.expires:
        name = "waits" if run.is_waiting else "lease"
        yield name, f"until {by_second(run.expires, zone)}"
    if run.owner:
        yield "worker", short(run.owner)
    if run.place:
        yield "place", short(run.place)
    yield "filter", one.filter.where


def _document(one: _Found) -> dict[str, object]:
    return {
        **record.document(one.run, one.filter.where),
        "method": one.task.method,
        "path": one.task.path,
        "query": one.task.query,
        "body": record.text_of(one.run.body),
        "errors": record.text_of(one.run.errors),
        "request": one.run.request,
        "headers": one.run.headers,
        "log": record.text_of(one.run.log),
    }
