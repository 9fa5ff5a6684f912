"""`pulse check`: every fault and every danger of a configuration, at once."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from importlib import import_module
from typing import Final

from pulse.clock import SystemClock
from pulse.commands.blueprint import Blueprint
from pulse.commands.brokers import Answer, ask_brokers
from pulse.commands.danger import dangers
from pulse.commands.exits import CommandError, Exit
from pulse.commands.reach import Reached, ask_stores
from pulse.commands.screen import Screen, counted
from pulse.commands.source import NO_FILTER, Filter, IniSource, Source
from pulse.config import read_config
from pulse.errors import ConfigError, Fault
from pulse.given import store_of
from pulse.meant import TASK
from pulse.model import Config


class Level(Enum):
    """How bad a finding is."""

    ERROR = "error"  # Pulse refuses to start, or nothing runs until it is mended
    WARNING = "warning"  # it starts, and may surprise


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing to look at.

    Attributes:
        level: Error or warning.
        where: File and section.
        text: What is wrong.
    """

    level: Level
    where: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Report:
    """All that is said of a source.

    Attributes:
        filters: The Pulse filters that were found.
        findings: What is wrong, and what is dangerous.
        brokers: What Celery's brokers answer.
        stores: What the run stores answer; None if they were not asked.
    """

    filters: Sequence[Filter]
    findings: Sequence[Finding]
    brokers: Sequence[Answer]
    stores: Sequence[Reached] | None

    @property
    def tasks(self) -> int:
        return sum(_count_tasks(one) for one in self.filters)

    def count(self, level: Level) -> int:
        return sum(finding.level is level for finding in self.findings)


def check(source: Source, screen: Screen, now: datetime, *, is_connecting: bool = False) -> Exit:
    """Say what is wrong with *source*.

    Args:
        source: What is looked at.
        screen: Where it is said.
        now: Of what lies ahead, some is dangerous.
        is_connecting: Whether the run stores are asked, too.

    Returns:
        `USAGE` if anything in the configuration is an error, else `NO_STORE` if a run store is out of reach.
    """
    # The warnings of what is built to be judged are not about this process, and Python would print them.
    logging.getLogger("pulse").addHandler(_SILENCE)
    filters, findings = _inspect(source)
    for one in filters:
        findings += _findings(one, source.name, now)
    for blueprint in source.session_filters():
        findings += _findings_of_sessions(blueprint)
    findings += [_warning(one.where, one.text) for one in source.suspicions(filters)]
    brokers = list(ask_brokers(filters))
    findings += [_refusal(fault, one.where) for one in brokers for fault in one.faults]
    findings += [_warning(one.where, problem) for one in brokers for problem in one.problems]
    is_sound = not any(finding.level is Level.ERROR for finding in findings)
    stores = list(ask_stores(filters)) if is_connecting else None
    findings += [_error(one.where, one.problem) for one in stores or () if one.problem]
    # A line of [DEFAULT] is wrong once, not once a filter.
    report = _Report(filters=filters, findings=list(dict.fromkeys(findings)), brokers=brokers, stores=stores)
    if screen.is_json:
        screen.document({"source": source.name, **_document(report)})
    else:
        _show(report, source, screen)
    if not is_sound:
        return Exit.USAGE
    return Exit.NO_STORE if report.count(Level.ERROR) else Exit.OK


def _error(where: str, text: str) -> Finding:
    return Finding(level=Level.ERROR, where=where, text=text)


def _warning(where: str, text: str) -> Finding:
    return Finding(level=Level.WARNING, where=where, text=text)


def _refusal(fault: Fault, where: str) -> Finding:
    """*fault* in the words of the start, at its own place or else at *where*."""
    return _error(fault.where if "[" in fault.where else where, str(replace(fault, where="")))


def _inspect(source: Source) -> tuple[list[Filter], list[Finding]]:
    try:
        filters, problems = source.filters()
    except CommandError as error:
        return [], [_error(source.name, str(error))]
    findings = [_error(one.where, one.text) for one in problems]
    if not filters and not findings:
        findings.append(_error(source.name, NO_FILTER))
    return filters, findings


def _findings(found: Filter, file: str, now: datetime) -> Iterator[Finding]:
    yield from (_refusal(fault, found.where) for fault in found.faults)
    if found.config and found.config.store != "auto":  # of an automatic one there is nothing to judge
        yield from (_refusal(fault, found.where) for fault in _faults_of_store(found.config))
    sound = found.config or _without(found.faults, found)
    if sound:
        written = found.written
        for danger in dangers(sound, written, file, now):
            yield _warning(found.where, danger)


def _findings_of_sessions(found: Blueprint) -> Iterator[Finding]:
    """What keeps a session filter from being built; nothing is opened."""
    # Only now: most files have none, and all that sessions need takes 0.1 s to import.
    option, opening = import_module("pulse.sessions.option"), import_module("pulse.sessions.opening")
    try:
        opening.open_session_store(option.read_filter_options(found.global_conf, found.local_conf))
    except ConfigError as error:
        yield from (_refusal(fault, found.where) for fault in error.faults)
    except (ImportError, RuntimeError) as error:  # there is no library for its store, or no secret in production
        yield _error(found.where, str(error))


def _faults_of_store(config: Config) -> Iterable[Fault]:
    try:
        store_of(config, SystemClock())  # nothing is opened
    except ConfigError as error:
        return error.faults
    return ()


def _without(faults: Iterable[Fault], found: Filter) -> Config | None:
    """The configuration without the tasks that have faults; None if nothing can be said about the rest.

    If something else is wrong too, its dangers would be guesses.
    """
    faulty = {_task_of(fault.key) for fault in faults}
    if "" in faulty:
        return None
    try:
        rest = read_config({key: value for key, value in found.written.items() if _task_of(key) not in faulty})
    except ConfigError:
        return None
    return rest if rest.tasks else None


def _task_of(key: str) -> str:
    """The task that the option *key* belongs to; empty if it is no task's."""
    return key.removeprefix(TASK).partition(".")[0] if key.startswith(TASK) else ""


def _count_tasks(found: Filter) -> int:
    if found.config:
        return len(found.config.tasks)
    return len({_task_of(key) for key in found.written} - {""})


def _document(report: _Report) -> dict[str, object]:
    found = report.findings
    said: dict[str, object] = {
        "findings": [{"level": one.level.value, "where": one.where, "text": one.text} for one in found],
        "tasks": report.tasks,
    }
    if report.brokers:
        said["celery"] = [
            {"where": one.where, "broker_answers": one.is_there, "workers": list(one.takers)} for one in report.brokers
        ]
    if report.stores is not None:
        said["stores"] = [
            {"where": one.where, "store": one.place, "is_usable": not one.problem} for one in report.stores
        ]
    return {**said, "errors": report.count(Level.ERROR), "warnings": report.count(Level.WARNING)}


def _show(report: _Report, source: Source, screen: Screen) -> None:
    _show_findings(report.findings, screen)
    for broker in report.brokers:
        if broker.is_there:
            screen.line(f"Celery's broker answers, {counted(len(broker.takers), 'worker')} of Celery for it")
    if report.stores == []:
        screen.line("there is no run store to ask: auto and memory: are made by whoever needs them")
    for store in report.stores or ():
        if not store.problem:
            screen.line(f"the run store {store.place} can be used")
    files = {one.where.partition(" [")[0] for one in report.filters} or {source.name}
    kind = "file" if isinstance(source, IniSource) else "object"
    numbers = [counted(len(files), kind), counted(report.tasks, "task")]
    numbers += [counted(report.count(level), level.value) for level in Level]
    screen.line(", ".join(numbers))


def _show_findings(findings: Iterable[Finding], screen: Screen) -> None:
    where = ""
    for finding in sorted(findings, key=lambda one: (one.where, one.level.value)):
        if finding.where != where:
            where = finding.where
            screen.line(where)
        screen.line(f"  {finding.level.value:<8} {finding.text}", _STYLES[finding.level])


_SILENCE: Final = logging.NullHandler()  # one and the same: what checks often would add one each time
_STYLES: Final = {Level.ERROR: "red", Level.WARNING: "yellow"}
