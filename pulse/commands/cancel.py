"""`pulse cancel`: the runs of a task that are under way are asked to stop, wherever they run."""

import re
from collections.abc import Collection
from typing import Final

from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.instant import rough
from pulse.commands.pause import author, note_press
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import by_store, opened
from pulse.errors import PulseError, UnknownTaskError
from pulse.instance import short
from pulse.model import Run

SHORTEST: Final = 4  # letters of an id that may stand for it
_ID: Final = re.compile(f"[0-9a-f]{{{SHORTEST},32}}", re.IGNORECASE)


def cancel(source: Source, screen: Screen, clock: Clock, what: str, *, note: str) -> Exit:
    """Ask the runs of the task *what* to stop, or the run whose id begins with that.

    A run that does not stop within `kill_grace` is killed in a child process, and given up
    in a thread.

    Raises:
        ConfigError, CommandError: the filters cannot be read, or nothing is under way.
        UnknownTaskError: there is no such task, and no such run.
        StoreUnavailableError: a store does not answer.
    """
    reason = f"cancelled by {author()}" + (f": {note}" if note else "")
    asked: list[tuple[Run, str]] = []
    with opened(source, clock) as filters:
        known = {name for one in filters for name in one.config.tasks}
        # All that is meant before any of it is asked: a store that is down would leave the rest unsaid.
        stores = by_store(filters)
        meant = [(one, run) for one in stores for run in one.store.running() if run.task == what or _is_id(what, run)]
        for one, run in meant:
            now = one.now(clock)
            if one.store.ask_to_stop(run.id, reason):
                asked.append((run, rough(now - (run.started or now))))
                note_press(one.store, now, "cancel", run.task, f"run {run.id[:8]}" + (f"; {note}" if note else ""))
    if not asked and what not in known:
        raise _unknown(what, known)
    if not asked:
        raise CommandError(f"{what}: nothing is under way", Exit.FAILED)
    if screen.is_json:
        runs = [{"task": run.task, "run": run.id, "worker": short(run.owner)} for run, _ in asked]
        screen.document({"source": source.name, "asked": runs})
        return Exit.OK
    for run, lasted in asked:
        screen.line(f"{run.task} {run.id[:8]} on {short(run.owner)} is asked to stop, after {lasted}", "yellow")
    return Exit.OK


def _unknown(what: str, known: Collection[str]) -> PulseError:
    """Nothing is called *what*: of the id of a run, that this has ended is the likely reason."""
    if not _ID.fullmatch(what):
        return UnknownTaskError(what, sorted(known))
    said = f"no run that is under way begins with {what!r}, and no task is called so"
    return CommandError(f"{said}; pulse show {what} tells of one that has ended", Exit.UNKNOWN_TASK)


def _is_id(what: str, run: Run) -> bool:
    return len(what) >= SHORTEST and run.id.startswith(what.lower())
