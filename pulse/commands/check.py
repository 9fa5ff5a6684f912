"""`pulse check`: every fault and every danger of a configuration, at once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from pulse.clock import SystemClock
from pulse.commands.brokers import Answer, ask_brokers
from pulse.commands.danger import dangers
from pulse.commands.exits import CommandError, Exit
from pulse.commands.screen import Screen
from pulse.commands.source import NO_FILTER, Filter, IniSource, Source
from pulse.config import read_config
from pulse.errors import ConfigError, Fault
from pulse.meant import TASK
from pulse.middleware import store_of
from pulse.model import Config


class Level(Enum):
    """How bad a finding is."""

    ERROR = "error"  # Pulse refuses to start
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


def check(source: Source, screen: Screen, now: datetime) -> Exit:
    """Say what is wrong with *source*; `USAGE` if anything is an error."""
    filters, findings = _inspect(source)
    for one in filters:
        findings += _findings(one, source.name, now)
    findings += [Finding(level=Level.WARNING, where=one.where, text=one.text) for one in source.suspicions()]
    answers = list(ask_brokers(filters))
    findings += [
        Finding(level=Level.WARNING, where=one.where, text=problem) for one in answers for problem in one.problems
    ]
    findings = list(dict.fromkeys(findings))  # a line of [DEFAULT] is wrong once, not once a filter
    tasks = sum(_count_tasks(one) for one in filters)
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    if screen.is_json:
        screen.document(
            {
                "source": source.name,
                "findings": [{"level": one.level.value, "where": one.where, "text": one.text} for one in findings],
                "tasks": tasks,
                **({"celery": [_document(one) for one in answers]} if answers else {}),
                "errors": counts[Level.ERROR],
                "warnings": counts[Level.WARNING],
            }
        )
    else:
        _show(findings, screen)
        files = {one.where.partition(" [")[0] for one in filters} or {source.name}
        kind = "file" if isinstance(source, IniSource) else "object"
        numbers = [_count(len(files), kind), _count(tasks, "task")]
        numbers += [_count(counts[level], level.value) for level in Level]
        for answer in answers:
            if answer.is_there:
                screen.line(f"Celery's broker answers, {_count(len(answer.takers), 'worker')} of Celery for it")
        screen.line(", ".join(numbers))
    return Exit.USAGE if counts[Level.ERROR] else Exit.OK


def _inspect(source: Source) -> tuple[list[Filter], list[Finding]]:
    try:
        filters, problems = source.filters()
    except CommandError as error:
        return [], [Finding(level=Level.ERROR, where=source.name, text=str(error))]
    findings = [Finding(level=Level.ERROR, where=one.where, text=one.text) for one in problems]
    if not filters and not findings:
        findings.append(Finding(level=Level.ERROR, where=source.name, text=NO_FILTER))
    return filters, findings


def _findings(found: Filter, file: str, now: datetime) -> Iterator[Finding]:
    for fault in found.faults:
        where = fault.where if "[" in fault.where else found.where
        yield Finding(level=Level.ERROR, where=where, text=f"{fault.key} = {fault.shown}: {fault.problem}")
    if found.config and found.config.store != "auto":  # of an automatic one there is nothing to judge
        for fault in _faults_of_store(found.config):
            yield Finding(level=Level.ERROR, where=found.where, text=f"{fault.key} = {fault.shown}: {fault.problem}")
    sound = found.config or _without(found.faults, found)
    if sound:
        written = found.written
        for danger in dangers(sound, written, file, now):
            yield Finding(level=Level.WARNING, where=found.where, text=danger)


def _faults_of_store(config: Config) -> Iterable[Fault]:
    try:
        store_of(config, SystemClock())  # nothing is opened
    except ConfigError as error:
        return error.faults
    return ()


def _document(answer: Answer) -> dict[str, object]:
    return {"where": answer.where, "broker_answers": answer.is_there, "workers": list(answer.takers)}


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


def _show(findings: Iterable[Finding], screen: Screen) -> None:
    where = ""
    for finding in sorted(findings, key=lambda one: (one.where, one.level.value)):
        if finding.where != where:
            where = finding.where
            screen.line(where)
        screen.line(f"  {finding.level.value:<8} {finding.text}", _STYLES[finding.level])


_STYLES: Final = {Level.ERROR: "red", Level.WARNING: "yellow"}


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
