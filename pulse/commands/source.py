"""What the first argument of a command names: an ini file, or an object in a module.

The filters of an ini file are read without building, or even importing, its application;
an object has to be imported.
"""

import logging.config
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import Final, TypeVar
from urllib.parse import quote

from paste.deploy import loadapp

from pulse.clock import Clock
from pulse.commands.blueprint import (
    Blueprint,
    Problem,
    blueprints,
    builds,
    sections_of,
    session_blueprints,
    suspicions,
    why_unfound,
)
from pulse.commands.exits import CommandError
from pulse.config import read_paste_config
from pulse.errors import ConfigError, Fault, UnknownTaskError
from pulse.gateway import WsgiApp
from pulse.given import store_of
from pulse.inifile import file_and_section
from pulse.middleware import PulseMiddleware
from pulse.model import Config
from pulse.runstores.base import RunStore
from pulse.wsgi.lazy import collecting, manual_start

T = TypeVar("T")

_OBJECT: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_TASK: Final = re.compile(r"[\w-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """One Pulse filter, read.

    Attributes:
        where: File and section, or the object.
        config: None if there are faults.
        faults: What is wrong with its configuration.
        written: The options as they were written; nothing is known of those of an object.
    """

    where: str
    config: Config | None = None
    faults: tuple[Fault, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """A built application, and the Pulse filters in it."""

    app: WsgiApp
    middlewares: tuple[PulseMiddleware, ...]


class Source(ABC):
    """Where the tasks of a command are found.

    Attributes:
        name: As messages show it.
    """

    name: str

    @abstractmethod
    def filters(self) -> tuple[list[Filter], list[Problem]]:
        """Its Pulse filters, sound or not, and what kept others from being found.

        Raises:
            CommandError: an object cannot be imported.
        """

    def suspicions(self, filters: Sequence[Filter]) -> list[Problem]:  # noqa: ARG002 - of an object there is nothing
        """What is read without complaint, and is hardly meant so, where *filters* are what was found."""
        return []

    def session_filters(self) -> list[Blueprint]:
        """Its session filters; an object that can be imported has built its own."""
        return []

    def set_up_logging(self) -> bool:
        """Configure logging as it says; whether it says anything.

        Raises:
            CommandError: there is no such file, or what it says cannot be done.
        """
        return False

    @abstractmethod
    def load(self) -> Application:
        """Build the application.

        Raises:
            ConfigError: a Pulse filter refuses its configuration.
            CommandError: anything else that keeps it from being built.
        """

    @abstractmethod
    def run_stores(self, clock: Clock) -> list[tuple[str, Config, RunStore]]:
        """Place, configuration and run store of each filter that a server builds; nothing is opened.

        To be asked once in a process: `store = auto` counts how often it was built.

        Raises:
            ConfigError, CommandError: as `configs`.
        """

    def configs(self) -> list[tuple[str, Config]]:
        """Place and configuration of each filter.

        Raises:
            ConfigError: naming all faults of all filters.
            CommandError: there are no filters, or they cannot be read.
        """
        return self._sound(*self.filters())

    def _sound(self, filters: list[Filter], problems: list[Problem]) -> list[tuple[str, Config]]:
        if problems:
            raise CommandError(_in_lines(problems))
        if faults := [fault for one in filters for fault in one.faults]:
            raise ConfigError(dict.fromkeys(faults))
        if not filters:
            raise CommandError(f"{self.name}: {NO_FILTER}")
        return [(one.where, one.config) for one in filters if one.config]


def _in_lines(problems: Iterable[Problem]) -> str:
    return "\n".join(dict.fromkeys(f"{problem.where}: {problem.text}" for problem in problems))


NO_FILTER: Final = "there is no Pulse filter in it (use = egg:pulse; in Python PulseMiddleware)"


def source_of(written: str) -> Source:
    """The source that *written* means: `file.ini`, `file.ini#name` or `module:object`."""
    if _OBJECT.fullmatch(written) and not written.startswith("config:") and not Path(written).exists():
        return ObjectSource(written)
    path, name = file_and_section(written.removeprefix("config:"))
    return IniSource(path, name or None)


def is_task_name(word: str) -> bool:
    """Whether *word* is a task rather than a source, which has a dot, a slash or a colon."""
    return bool(_TASK.fullmatch(word))


class IniSource(Source):
    """An ini file, and which of its applications is meant.

    Attributes:
        path: As it was given.
        section: The name of the application; `main` if none was given.
        uri: As PasteDeploy wants it.
    """

    def __init__(self, path: str, section: str | None) -> None:
        """Nothing is read yet."""
        self.path = path
        self.section = section or "main"
        self.uri = f"config:{quote(str(Path(path).absolute()))}"
        self.name = f"{path}#{section}" if section else path
        self._section = section

    def filters(self) -> tuple[list[Filter], list[Problem]]:
        """See `Source.filters`; without a section those of the whole file."""
        found, problems = blueprints(self.path, self._section)
        return [_read(blueprint) for blueprint in found], problems

    def suspicions(self, filters: Sequence[Filter]) -> list[Problem]:
        """See `Source.suspicions`; those about no filter of the whole file alone."""
        drains = [one.config.shutdown_timeout for one in filters if one.config]
        others = [] if self._section else suspicions(self.path, max(drains, default=timedelta(0)))
        return [*others, *_out_of_reach(filters)]

    def session_filters(self) -> list[Blueprint]:
        """See `Source.session_filters`; without a section those of the whole file."""
        return session_blueprints(self.path, self._section)

    def run_stores(self, clock: Clock) -> list[tuple[str, Config, RunStore]]:
        """See `Source.run_stores`; without a section those of `main`, as `load` has it."""
        found, problems = builds(self.path, self._section)
        filters = self._sound([_read(blueprint) for blueprint in found], problems)
        return [(where, config, store_of(config, clock)) for where, config in filters]

    def load(self) -> Application:
        with collecting() as built:
            try:
                app = attempt(f"{self.name} cannot be loaded", lambda: loadapp(self.uri, name=self.section))
            except CommandError as error:
                _, problems = builds(self.path, self._section)
                if problems:  # in words that say what to do about it
                    raise CommandError(_in_lines(problems)) from error.__cause__
                raise
        return Application(app=app, middlewares=tuple(built))

    def set_up_logging(self) -> bool:
        sections = sections_of(self.path)
        if isinstance(sections, Problem):
            raise CommandError(_in_lines([sections]))
        if "loggers" not in sections:
            return False
        file = Path(self.path).absolute()
        defaults = {"here": str(file.parent), "__file__": str(file)}
        # Loggers that exist by now are those of Pulse itself, and must go on.
        attempt(
            f"{self.path}: the logging configuration",
            lambda: logging.config.fileConfig(file, defaults, disable_existing_loggers=False),
        )
        return True


class ObjectSource(Source):
    """An object in a module: it is a `PulseMiddleware`, or its module builds one when it is imported."""

    def __init__(self, name: str) -> None:
        """Nothing is imported yet."""
        self.name = name
        self._loaded: Application | None = None

    def filters(self) -> tuple[list[Filter], list[Problem]]:
        """See `Source.filters`; imports the module."""
        try:
            with manual_start():
                middlewares = self.load().middlewares
        except ConfigError as error:
            return [Filter(where=self.name, faults=error.faults)], []
        return [Filter(where=self.name, config=one.config) for one in middlewares], []

    def run_stores(self, clock: Clock) -> list[tuple[str, Config, RunStore]]:  # noqa: ARG002 - they have been built
        """See `Source.run_stores`; imports the module."""
        self.configs()
        with manual_start():
            return [(self.name, one.config, one.run_store) for one in self.load().middlewares]

    def load(self) -> Application:
        """See `Source.load`; the same whenever it is asked: a module builds its filters once."""
        if self._loaded is None:
            with collecting() as built:
                app = attempt(f"{self.name} cannot be loaded", lambda: resolve_name(self.name))
            self._loaded = Application(app=app, middlewares=tuple(_chain(app)) or tuple(built))
        return self._loaded


def find_task(name: str, tasks: Iterable[tuple[str, T]]) -> list[T]:
    """What belongs to the task *name* in *tasks*, pairs of a name and anything.

    Raises:
        UnknownTaskError: there is none.
    """
    pairs = list(tasks)
    found = [value for known, value in pairs if known == name]
    if not found:
        raise UnknownTaskError(name, dict.fromkeys(known for known, _ in pairs))
    return found


def attempt(name: str, build: Callable[[], T]) -> T:
    """What *build* returns.

    Raises:
        ConfigError: as *build* raised it.
        CommandError: about *name*, for anything else that *build* raised.
    """
    try:
        return build()
    except ConfigError:
        raise
    # Whatever an application raises while it is built is for its author to read, `sys.exit()` included.
    except (Exception, SystemExit) as error:
        raise CommandError(f"{name}: {type(error).__name__}: {error}") from error


def _out_of_reach(filters: Iterable[Filter]) -> Iterator[Problem]:
    """The applications that child processes will not find: each run fails then, and the start does not."""
    for one in filters:
        if one.config is None or one.config.mode != "processing" or not one.config.application.startswith("config:"):
            continue
        path, name = file_and_section(one.config.application.removeprefix("config:"))
        if problem := why_unfound(path, name):
            said = f"pulse.config.application = {one.config.application}: child processes will not find it"
            yield Problem(where=one.where, text=f"{said}, want config:file.ini#name: {problem}")


def _read(blueprint: Blueprint) -> Filter:
    shared = {key: value for key, value in blueprint.global_conf.items() if key.lower().startswith("pulse.")}
    written = {**shared, **blueprint.local_conf}
    try:
        config = read_paste_config(blueprint.global_conf, blueprint.local_conf)
    except ConfigError as error:
        return Filter(where=blueprint.where, faults=error.faults, written=written)
    return Filter(where=blueprint.where, config=config, written=written)


def _chain(app: object) -> Iterator[PulseMiddleware]:
    """The Pulse filters that stand directly one in another."""
    while isinstance(app, PulseMiddleware):
        yield app
        app = app.app
