"""`pulse worker`: the tasks of an application, without a server: for a host that runs nothing else.

The first SIGTERM or SIGINT ends it; running tasks then have their `shutdown_timeout`, and
the process ends with 0. A second one ends it at once.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from threading import Event
from typing import Final

from pulse import __version__
from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.screen import Screen, counted
from pulse.commands.serve import set_up_logging
from pulse.commands.source import NO_FILTER, Source
from pulse.commands.stop import Stop
from pulse.commands.stored import place_of
from pulse.middleware import PulseMiddleware
from pulse.runstores.memory import MemoryRunStore

LONG: Final = 3600.0  # seconds from one turn to the next of a wait without end


def worker(source: Source, screen: Screen, clock: Clock, *, lifetime: timedelta | None) -> Exit:
    """Run the tasks of *source* until a signal comes, or *lifetime* is over.

    Raises:
        ConfigError, CommandError: the application cannot be built, or has no Pulse filter.
        StoreUnavailableError: the store does not answer.
    """
    set_up_logging(source)
    middlewares = source.load().middlewares
    if not middlewares:
        raise CommandError(f"{source.name}: {NO_FILTER}")
    stop = Stop(middlewares)
    stop.listen()
    try:
        for one in middlewares:
            one.start("pulse worker")
        for line in _banner(source, middlewares, lifetime):
            screen.line(line)
        _wait(clock, lifetime)
    except SystemExit:
        if not stop.is_asked:
            raise  # it was not a signal: an application may end its process as it likes
    finally:
        stop.finish()
    return Exit.OK


def _wait(clock: Clock, lifetime: timedelta | None) -> None:
    end = None if lifetime is None else clock.monotonic() + lifetime.total_seconds()
    never = Event()
    while end is None or clock.monotonic() < end:
        clock.wait(never, LONG if end is None else max(0.0, end - clock.monotonic()))


def _banner(source: Source, middlewares: Sequence[PulseMiddleware], lifetime: timedelta | None) -> Iterator[str]:
    ends = "" if lifetime is None else f", for {lifetime.total_seconds():g} s"
    yield f"Pulse {__version__} · {source.name} · worker without a server{ends}"
    for one in middlewares:
        tasks = [task for task in one.config.tasks.values() if task.enabled] if one.config.enabled else []
        rings = f"{counted(len(tasks), 'task')}, store {place_of(one.config, one.run_store)}"
        yield rings if tasks else "nothing is enabled: nothing will run"
        if tasks and isinstance(one.run_store, MemoryRunStore):
            yield "warning: store = memory: is this process alone: others that ring run every task as well"
