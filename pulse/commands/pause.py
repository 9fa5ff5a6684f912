"""`pulse pause`: a task is run by hand only, in the whole fleet, for a while or until `pulse resume`."""

import os
import socket
from datetime import datetime, timedelta
from getpass import getuser

from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.instant import by_second, rough
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import Stored, in_filters, in_stores, opened
from pulse.model import Pause, Press, Task
from pulse.runstores.base import RunStore
from pulse.schedule import schedule_of
from pulse.status import audit
from pulse.zone import instant_of, iso_utc


def pause(
    source: Source, screen: Screen, clock: Clock, name: str, *, until: datetime | timedelta | None, note: str
) -> Exit:
    """Pause the task *name* of *source*, in every filter that has it.

    Args:
        source: Where the task is.
        screen: Where to write.
        clock: That of this host; a store with a clock of its own goes by that.
        name: Of the task.
        until: When the pause ends by itself: an instant, naive by the clock of the task's
            zone, or how long it lasts; None for never.
        note: Why.

    Raises:
        ConfigError, CommandError: the filters cannot be read, or *until* has passed.
        UnknownTaskError: there is no such task.
        StoreUnavailableError: the store does not answer.
    """
    with opened(source, clock, is_changing=True) as filters:
        # First what may fail, for all of them: an instant may have passed in one zone alone, a store be down.
        said = []
        for one, task in in_stores(in_filters(filters, name)):
            now = one.now(clock)
            old = one.store.pauses().get(name)
            new = Pause(since=now, until=_until(until, task, now), note=note, by=author())
            said.append((one, task, new, old if old and old.holds(now) else None))
        for one, task, new, _ in said:
            one.store.pause(name, new)
            note_press(one.store, new.since, "pause", name, _details(new, task))
    if screen.is_json:
        documents = [_document(one, new, replaced) for one, _, new, replaced in said]
        screen.document({"source": source.name, "task": name, "pauses": documents})
        return Exit.OK
    for one, task, new, replaced in said:
        place = f" ({one.where})" if len(said) > 1 else ""
        screen.line(f"{name}{place} is {pause_words(new, task)}", "yellow")
        if replaced:
            screen.line(f"this replaces: {pause_words(replaced, task)}")
        if not (one.config.enabled and task.enabled and schedule_of(task).next_due(new.since)):
            screen.line("it does not run by itself anyway")
    return Exit.OK


def pause_words(pause: Pause, task: Task) -> str:
    """`paused until Sat 02 Jan 2027 08:00 UTC (1 h), by ada@web1 since ...: feed is down`."""
    zone = task.zone
    if pause.until:
        end = f"until {by_second(pause.until, zone)} ({rough(pause.until - pause.since)})"
    else:
        end = "until somebody resumes it"
    author = f", by {pause.by}" if pause.by else ""
    return f"paused {end}{author} since {by_second(pause.since, zone)}" + (f": {pause.note}" if pause.note else "")


def pause_document(pause: Pause) -> dict[str, object]:
    """*pause* for programs."""
    return {"since": iso_utc(pause.since), "until": iso_utc(pause.until), "note": pause.note, "by": pause.by}


def author() -> str:
    """Who is at work: the login name, and the host."""
    try:
        name = getuser()
    except (KeyError, OSError):  # a container may run as a user that has no name
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def note_press(store: RunStore, now: datetime, action: str, task: str, details: str = "") -> None:
    """Enter in the audit of the fleet what somebody has done from the command line."""
    press = Press(at=now, by=author(), address="command line", action=action, task=task, details=details)
    audit.note(store, press)


def _details(pause: Pause, task: Task) -> str:
    end = f"until {by_second(pause.until, task.zone)}" if pause.until else "until it is resumed"
    return f"{end}: {pause.note}" if pause.note else end


def _until(until: datetime | timedelta | None, task: Task, now: datetime) -> datetime | None:
    if until is None:
        return None
    end = now + until if isinstance(until, timedelta) else instant_of(until, task.zone)
    if end <= now:
        raise CommandError(f"{by_second(end, task.zone)} has passed: a pause that has ended pauses nothing")
    return end


def _document(one: Stored, new: Pause, replaced: Pause | None) -> dict[str, object]:
    return {**pause_document(new), "replaced": pause_document(replaced) if replaced else None, "filter": one.where}
