"""`pulse run`: one task, now, in this process, and what became of it."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Final

from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.pause import note_press
from pulse.commands.record import rough_seconds, show_captured, text_of
from pulse.commands.screen import Screen
from pulse.commands.source import NO_FILTER, Source, find_task
from pulse.instance import this_instance
from pulse.middleware import PulseMiddleware
from pulse.model import Outcome, Run, Task
from pulse.wsgi.lazy import manual_start

EXITS: Final = {
    Outcome.SUCCESS: Exit.OK,
    Outcome.TIMEOUT: Exit.TIMED_OUT,
    Outcome.SKIPPED: Exit.ALREADY_RUNNING,
    Outcome.CANCELLED: Exit.INTERRUPTED,
}


def run(
    source: Source,
    screen: Screen,
    clock: Clock,
    name: str,
    *,
    is_verbose: bool,
    is_forced: bool = False,
    again: str = "",
) -> Exit:
    """Run the task *name* of *source* by hand and show its record.

    Unless it *is_forced*, it does not start beside a run that is under way. With *again*, how
    the id of a run begins, it is another attempt of that run.

    Raises:
        ConfigError, CommandError: the application cannot be built, or the name or the id is
            ambiguous, or there is no such run.
        UnknownTaskError: there is no such task.
        KeyboardInterrupt: the run was interrupted, and asked to stop.
    """
    with _only_the_document(screen), _interrupted_by_sigterm(), manual_start():
        _set_up_logging(source, is_verbose=is_verbose)
        middleware = _middleware_of(source, name)
        task = middleware.config.tasks[name]
        before = _run_to_try_again(middleware, name, again) if again else None
        if not screen.is_json:
            screen.line(f"{name} {task.method} {task.action}")
        press = ("retry", f"run {before.id[:8]}, attempt {before.attempt + 1}") if before else ("run now", "")
        note_press(middleware.run_store, clock.now(), press[0], name, press[1])
        record = middleware.run_now(name, force=is_forced, again=before)
    if record is None or record.outcome is None:
        raise _unrecorded(middleware, name, before)
    if screen.is_json:
        screen.document(_document(task, record))
    else:
        _show(record, screen, middleware.config.capture)
    return EXITS.get(record.outcome, Exit.FAILED)


@contextmanager
def _only_the_document(screen: Screen) -> Iterator[None]:
    """With --json, what an application prints must not stand beside the document."""
    if not screen.is_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does: the run is asked to stop, and its record is made."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _set_up_logging(source: Source, *, is_verbose: bool) -> None:
    if source.set_up_logging():
        return
    if is_verbose:
        logging.basicConfig(level=logging.INFO)
    # The record says all that the runner would log, and somebody has to listen or Python prints it.
    logging.getLogger("pulse").addHandler(logging.NullHandler())


def _middleware_of(source: Source, name: str) -> PulseMiddleware:
    middlewares = source.load().middlewares
    if not middlewares:
        raise CommandError(f"{source.name}: {NO_FILTER}")
    found = find_task(name, ((task, one) for one in middlewares for task in one.config.tasks))
    if len(found) > 1:
        paths = ", ".join(one.config.tasks[name].action for one in found)
        raise CommandError(f"{source.name}: {len(found)} Pulse filters have a task {name!r} ({paths})")
    return found[0]


def _run_to_try_again(middleware: PulseMiddleware, name: str, prefix: str) -> Run:
    """The last attempt of the run of the task *name* whose id begins with *prefix*."""
    kept = [run for run in middleware.run_store.history(name) if run.id.startswith(prefix.lower())]
    ids = {run.id for run in kept}
    if len(ids) != 1:
        count = f"{len(ids)} runs begin" if ids else "no run begins"
        raise CommandError(f"{name}: {count} with {prefix!r}; pulse history {name} shows those that are kept")
    if kept[0].outcome is Outcome.SUCCESS:
        raise CommandError(f"{name}: {kept[0].id} succeeded; without --again the task is run anew")
    return kept[0]


def _unrecorded(middleware: PulseMiddleware, name: str, before: Run | None) -> CommandError:
    """Why there is no record of ours: another process was first, or thinks that this one is dead."""
    made = _made_elsewhere(middleware, before) if before else None
    if made is None:
        return CommandError(f"{name}: its lease was lost, somebody else has recorded the run", Exit.FAILED)
    state = made.outcome.value if made.outcome else "it is under way"
    said = f"attempt {made.attempt} of {made.id} is made by {made.owner} already: {state}"
    return CommandError(f"{name}: {said}", Exit.ALREADY_RUNNING)


def _made_elsewhere(middleware: PulseMiddleware, before: Run) -> Run | None:
    """The attempt after *before*, if it is not our own one that was given up for lost."""
    store = middleware.run_store
    for run in (*store.running(), *store.find(before.task, before.id)):
        is_next = (run.id, run.attempt) == (before.id, before.attempt + 1)
        if is_next and not (run.owner == this_instance() and run.outcome is Outcome.LOST):
            return run
    return None


def _show(run: Run, screen: Screen, capture: int) -> None:
    assert run.outcome is not None
    status = f" {run.status}" if run.status is not None else ""
    duration = "" if run.duration is None else f" in {rough_seconds(run.duration)}"
    is_told = not run.reason or run.reason == f"answered {run.status}"
    reason = "" if is_told else f": {run.reason}"
    style = "green" if run.outcome is Outcome.SUCCESS else "red"
    for name, captured in (("body", run.body), ("wsgi.errors", run.errors)):
        show_captured(screen, name, captured, capture)
    if run.body or run.errors:
        screen.line("---")
    screen.line(f"{run.outcome.value}{status}{duration}{reason}", style)


def _document(task: Task, record: Run) -> dict[str, object]:
    return {
        "task": task.name,
        "run": record.id,
        "due": record.due.isoformat(),
        "method": task.method,
        "path": task.path,
        "query": task.query,
        "outcome": record.outcome.value if record.outcome else None,
        "status": record.status,
        "duration": record.duration,
        "reason": record.reason,
        "body": text_of(record.body),
        "errors": text_of(record.errors),
    }
