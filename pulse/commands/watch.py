"""`pulse watch`: how the tasks are doing, again and again, until Ctrl-C.

On a terminal the table is drawn anew. Anywhere else a line is written for each task at
first, and then for each that has changed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event
from typing import Final
from zoneinfo import ZoneInfo

from pulse.clock import Clock
from pulse.commands.exits import Exit
from pulse.commands.glance import Glance, glances
from pulse.commands.instant import by_second, rough
from pulse.commands.record import document
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import Stored, opened
from pulse.errors import StoreUnavailableError
from pulse.zone import iso_utc

_HEAD: Final = ("TASK", "STATE", "LAST RUN", "NEXT IN", "RUNNING FOR")


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """All tasks at one instant.

    Attributes:
        rows: Each with its filter, in the order of the configuration.
        problem: Why a store could not be read; empty if all could.
    """

    now: datetime
    rows: tuple[tuple[Stored, Glance], ...]
    problem: str


def watch(source: Source, screen: Screen, clock: Clock, *, every: timedelta, is_once: bool) -> Exit:
    """Show the tasks of *source* every *every*, or only once; Ctrl-C is how it ends.

    Once begun, it outlasts a store that does not answer.

    Raises:
        ConfigError, CommandError: the filters cannot be read.
        StoreUnavailableError: a store does not answer, and it was to be read once.
    """
    never = Event()
    try:
        with opened(source, clock) as filters, _shown(source, screen, is_once=is_once) as show:
            while True:
                view = _look(filters, clock)
                if is_once and view.problem:
                    raise StoreUnavailableError(view.problem)
                show(view)
                if is_once:
                    return Exit.OK
                clock.wait(never, every.total_seconds())
    except KeyboardInterrupt:
        return Exit.OK


def _shown(source: Source, screen: Screen, *, is_once: bool) -> AbstractContextManager[Callable[[_View], None]]:
    """What shows a view in the way that fits *screen*."""
    if screen.is_json:
        return nullcontext(lambda view: screen.document(_document(source, view), is_line=not is_once))
    if is_once:
        return nullcontext(lambda view: screen.table(_HEAD, [_cells(glance, view.now) for _, glance in view.rows]))
    return _redrawn(screen) if screen.can_redraw else nullcontext(_Lines(screen))


@contextmanager
def _redrawn(screen: Screen) -> Iterator[Callable[[_View], None]]:
    """What draws each view in the place of the one before."""
    with screen.redrawn() as draw:

        def show(view: _View) -> None:
            below = view.problem or f"{by_second(view.now, ZoneInfo('UTC'))}   Ctrl-C ends"
            draw(_HEAD, [_cells(glance, view.now) for _, glance in view.rows], below)

        yield show


class _Lines:
    """Writes a line for each task that is not as it was."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._before: dict[tuple[int, str], object] = {}
        self._problem = ""

    def __call__(self, view: _View) -> None:
        when = f"{view.now:%H:%M:%S}"
        if view.problem != self._problem:
            self._screen.line(f"{when} {view.problem or 'the run store answers again'}")
            self._problem = view.problem
        for number, (_, glance) in enumerate(view.rows):
            key = (number, glance.task.name)
            seen = (glance.state_words, glance.last, glance.running)
            if self._before.get(key) != seen:
                self._before[key] = seen
                self._screen.line(f"{when} {_line(glance, view.now)}")


def _look(filters: Sequence[Stored], clock: Clock) -> _View:
    now, rows, problem = clock.now(), [], ""
    for one in filters:
        try:
            now = one.now(clock)
            rows += [(one, glance) for glance in glances(one, clock)]
        except StoreUnavailableError as error:
            problem = str(error)
    return _View(now=now, rows=tuple(rows), problem=problem)


def _cells(glance: Glance, now: datetime) -> list[str]:
    return [
        glance.task.name,
        glance.state_words,
        glance.last_words,
        rough(glance.due - now) if glance.due else "-",
        glance.running_words(now),
    ]


def _line(glance: Glance, now: datetime) -> str:
    return ", ".join(_parts(glance, now))


def _parts(glance: Glance, now: datetime) -> Iterator[str]:
    yield f"{glance.task.name} {glance.state_words}"
    if glance.running:
        yield f"for {glance.running_words(now)}"
    if glance.last:
        yield f"last {glance.last_words}"
    if glance.due:
        yield f"next in {rough(glance.due - now)}"


def _document(source: Source, view: _View) -> dict[str, object]:
    return {
        "source": source.name,
        "now": iso_utc(view.now),
        "problem": view.problem,
        "tasks": [
            {
                "task": glance.task.name,
                "state": glance.state.value,
                "failures": glance.failures,
                "last_run": document(glance.last, one.where) if glance.last else None,
                "running": [document(run, one.where) for run in glance.running],
                "paused_until": iso_utc(glance.pause.until) if glance.pause else None,
                "next_due": iso_utc(glance.due),
                "filter": one.where,
            }
            for one, glance in view.rows
        ],
    }
