"""`pulse resume`: a paused task is run by its schedule again."""

from pulse.clock import Clock
from pulse.commands.exits import Exit
from pulse.commands.instant import by_second, spoken
from pulse.commands.pause import note_press, pause_document
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import Stored, in_filters, in_stores, opened
from pulse.model import Pause, Task
from pulse.schedule import schedule_of
from pulse.zone import iso_utc


def resume(source: Source, screen: Screen, clock: Clock, name: str) -> Exit:
    """End the pause of the task *name* of *source*, in every filter that has it.

    Raises:
        ConfigError, CommandError: the filters cannot be read.
        UnknownTaskError: there is no such task.
        StoreUnavailableError: the store does not answer.
    """
    said = []
    with opened(source, clock) as filters:  # what is not there yet has no pauses
        pairs = in_stores(in_filters(filters, name))
        # All are looked at before one is changed: a store that is down would leave the others unsaid.
        pauses = [(one, task, one.now(clock), one.store.pauses().get(name)) for one, task in pairs]
        for one, task, now, old in pauses:
            was_paused = one.store.resume(name) and old is not None and old.holds(now)
            note_press(one.store, now, "resume", name, "" if was_paused else "it was not paused")
            due = schedule_of(task).next_due(now) if one.config.enabled and task.enabled else None
            said.append((one, task, old, was_paused, due))
    if screen.is_json:
        documents = [
            {
                "was_paused": was_paused,
                "pause": pause_document(old) if old else None,
                "next_due": iso_utc(due),
                "filter": one.where,
            }
            for one, _, old, was_paused, due in said
        ]
        screen.document({"source": source.name, "task": name, "resumed": documents})
        return Exit.OK
    for one, task, old, was_paused, due in said:
        following = f"; next {spoken(due, task.zone)}" if due else ""
        screen.line(f"{_subject(one, task, len(said))} {_fate(task, old, was_paused=was_paused)}{following}")
    return Exit.OK


def _subject(one: Stored, task: Task, count: int) -> str:
    return f"{task.name} ({one.where})" if count > 1 else task.name


def _fate(task: Task, old: Pause | None, *, was_paused: bool) -> str:
    if was_paused:
        return "runs by its schedule again"
    if old and old.until:
        return f"is not paused: its pause ended by itself {by_second(old.until, task.zone)}"
    return "is not paused"
