"""What a middleware is given: read, and refused together with all else that is wrong with it."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from pulse.clock import Clock
from pulse.config import complete, read_config
from pulse.errors import ConfigError, Fault
from pulse.gateway import why_not_wsgi
from pulse.model import Config
from pulse.option import shown
from pulse.runstores import open_run_store
from pulse.runstores.automatic import automatic_store
from pulse.runstores.base import RunStore


def faults_of(app: object, *, clock: object, run_store: object, authenticate: object) -> list[Fault]:
    """What is wrong with what is given beside the options."""
    faults = []
    if problem := why_not_wsgi(app):
        faults.append(Fault(key="app", shown=shown(app), problem=problem))
    if clock is not None and not hasattr(clock, "monotonic"):
        problem = "want a clock such as pulse.testing.ManualClock"
        faults.append(Fault(key="clock", shown=shown(clock), problem=problem))
    if run_store is not None and not isinstance(run_store, RunStore):
        problem = "want a RunStore, such as pulse.testing.MemoryRunStore; an address is given as store=..."
        faults.append(Fault(key="run_store", shown=shown(run_store), problem=problem))
    if authenticate is not None and not callable(authenticate):
        problem = "want a function that takes the environ and returns the name of a user, or None"
        faults.append(Fault(key="authenticate", shown=shown(authenticate), problem=problem))
    return faults


def config_of(config: Any, task: Any, tasks: Any, options: Mapping[str, object], faults: list[Fault]) -> Config:
    """The configuration, unless there are *faults* already, which are raised with its own."""
    if isinstance(config, Config):
        if task is not None or tasks is not None or options:
            problem = "want it alone: what stands beside it would have no effect"
            faults.append(Fault(key="config", shown="Config(...)", problem=problem))
        build = partial(complete, config)
    else:
        build = partial(read_config, config, tasks=_merged(task, tasks), options=options)
    (read,) = all_of(build, faults=faults)
    return cast("Config", read)


def all_of(*builds: Callable[[], Any], faults: Iterable[Fault] = ()) -> list[Any]:
    """What each of *builds* returns; what they have against the configuration is raised together, behind *faults*."""
    made: list[Any] = []
    found = [*faults]
    for build in builds:
        try:
            made.append(build())
        except ConfigError as error:
            found += error.faults
    if found:
        raise ConfigError(found)
    return made


def store_of(config: Config, clock: Clock) -> RunStore:
    """The run store that *config* asks for; nothing is opened.

    Raises:
        ConfigError: the library that it needs is not there.
    """
    address = automatic_store(config) if config.store == "auto" else config.store
    try:
        return open_run_store(address, name=config.name, history=config.history, clock=clock)
    except ImportError as error:
        raise ConfigError([Fault(key="pulse.config.store", shown=shown(config.store), problem=str(error))]) from error


def _merged(task: Any, tasks: Any) -> Any:
    """What was given as `task=` and as `tasks=`, which are two words for one thing."""
    if task is None or tasks is None:
        return tasks if task is None else task
    for given in (task, tasks):
        if not isinstance(given, Mapping):
            return given  # which is refused
    if twice := sorted(str(name) for name in task if name in tasks):
        problem = "want each task once: these are in tasks=, too"
        raise ConfigError([Fault(key="task", shown=", ".join(twice), problem=problem)])
    return {**task, **tasks}
