"""`pulse run`: one task, now, in this process, and what became of it."""

import logging
import signal
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Final

from pulse.commands.exits import CommandError, Exit
from pulse.commands.screen import Screen
from pulse.commands.source import NO_FILTER, IniSource, Source, find_task, manual_start
from pulse.middleware import PulseMiddleware
from pulse.model import Outcome, Run, Task

EXITS: Final = {
    Outcome.SUCCESS: Exit.OK,
    Outcome.TIMEOUT: Exit.TIMED_OUT,
    Outcome.SKIPPED: Exit.ALREADY_RUNNING,
    Outcome.CANCELLED: Exit.INTERRUPTED,
}


def run(source: Source, screen: Screen, name: str, *, is_verbose: bool) -> Exit:
    """Run the task *name* of *source* by hand and show its record.

    Raises:
        ConfigError, CommandError: the application cannot be built, or the name is ambiguous.
        UnknownTaskError: there is no such task.
        KeyboardInterrupt: the run was interrupted, and asked to stop.
    """
    with _only_the_document(screen), _interrupted_by_sigterm(), manual_start():
        _set_up_logging(source, is_verbose=is_verbose)
        middleware = _middleware_of(source, name)
        task = middleware.config.tasks[name]
        if not screen.is_json:
            screen.line(f"{name} {task.method} {task.action}")
        record = middleware.run_now(name)
    if record is None or record.outcome is None:
        raise CommandError(f"{name}: its lease was lost, somebody else has recorded the run", Exit.FAILED)
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
    if isinstance(source, IniSource):
        source.must_exist()
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


def _show(record: Run, screen: Screen, capture: int) -> None:
    assert record.outcome is not None
    status = f" {record.status}" if record.status is not None else ""
    duration = "" if record.duration is None else f" in {record.duration:.{1 if record.duration >= 1 else 3}f} s"
    is_told = not record.reason or record.reason == f"answered {record.status}"
    reason = "" if is_told else f": {record.reason}"
    style = "green" if record.outcome is Outcome.SUCCESS else "red"
    for name, captured in (("body", record.body), ("wsgi.errors", record.errors)):
        if captured:
            cut = f", the first {capture} bytes" if len(captured) >= capture else ""
            screen.line(f"--- {name}{cut}")
            screen.line(_text(captured).rstrip("\n"))
    if record.body or record.errors:
        screen.line("---")
    screen.line(f"{record.outcome.value}{status}{duration}{reason}", style)


def _text(captured: bytes) -> str:
    """What was captured, if it is text; the cut may have gone through a character."""
    try:
        return getincrementaldecoder("utf-8")().decode(captured).replace("\r\n", "\n")
    except UnicodeDecodeError:
        return f"({len(captured)} bytes that are no text)"


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
        "body": _text(record.body),
        "errors": _text(record.errors),
    }
