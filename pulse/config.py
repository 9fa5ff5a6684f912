"""From what people write to `Config`: ini keys, keywords and `task={...}` become one record.

This is the only place where a dict is a task. Every fault of a configuration is collected
and raised together, when the middleware is built and never while it serves.
"""

import configparser
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

from pulse.errors import ConfigError, Fault
from pulse.model import DEFAULT_INTERVAL, SCHEDULES, TASK_NAME, Config, Task, misfits
from pulse.option import Option, options_of, shown

CONFIG: Final = "pulse.config."
DEFAULT: Final = "pulse.config.default."
TASK: Final = "pulse.task."

# The whole configuration table: the key as it is written in an ini file, and its option.
OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {f"{CONFIG}{name}": option for name, option in options_of(Config).items()}
    | {
        f"{TASK}<name>.{name}{'.<Name>' if option.is_mapping else ''}": option
        for name, option in options_of(Task).items()
    }
)

_SECRETIVE: Final = re.compile(
    r"token|secret|passw|pwd|authori|credential|bearer|(api|private).?key|cookie|headers|environ", re.IGNORECASE
)
_COMMENT: Final = re.compile(r"\s[;#]")
_FREE: Final = re.compile(r"\.(headers|environ)\.")  # texts that may well hold a blank and a #


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One option as somebody wrote it: its full key, the raw value, file and section."""

    key: str
    value: object
    where: str = ""

    def fault(self, problem: str, *, is_secret: bool = False) -> Fault:
        """What is wrong with this setting."""
        hidden = is_secret or bool(_SECRETIVE.search(self.key))
        return Fault(key=self.key, shown=shown(self.value, is_secret=hidden), problem=problem, where=self.where)


def read_config(
    config: Mapping[str, object] | None = None,
    *,
    tasks: Mapping[str, Task | Mapping[str, object]] | None = None,
    options: Mapping[str, object] | None = None,
) -> Config:
    """The configuration of a middleware that is built in Python.

    Args:
        config: Dotted keys, as an ini file has them: `{"pulse.config.guard": "true"}`.
        tasks: Tasks by name: `Task` objects, or dicts of task options.
        options: The keywords; they win over *config*, and know the same names.

    Raises:
        ConfigError: naming every fault; none of the arguments is changed.
    """
    settings = [Setting(key=str(key), value=value) for key, value in _mapping("config", config).items()]
    keywords = [_keyword(name, value) for name, value in (options or {}).items()]
    return _Reading([*settings, *keywords], _mapping("task", tasks)).config()


def read_paste_config(global_conf: Mapping[str, str] | None, local_conf: Mapping[str, str]) -> Config:
    """The configuration of a filter in a PasteDeploy ini file.

    Keys of the filter's own section win over those of `[DEFAULT]`; of the latter, those
    that do not begin with `pulse.` belong to others and are passed over.

    Raises:
        ConfigError: naming every fault, with file and section where they are known.
    """
    ini = IniFile.of((global_conf or {}).get("__file__"))
    shared = {key: value for key, value in (global_conf or {}).items() if key.lower().startswith("pulse.")}
    settings = [Setting(key=key, value=value, where=ini.place(key)) for key, value in {**shared, **local_conf}.items()]
    config = _Reading(settings, {}, faults=ini.overridden()).config()
    return replace(config, application=config.application or ini.application(), origin=ini.path)


def option_key(task: str, name: str) -> str:
    """The key of a task's option as an ini file has it."""
    return f"{TASK}{task}.{name}"


def _mapping(name: str, value: object) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError([Fault(key=name, shown=shown(value), problem="want a mapping")])
    return value


def _keyword(name: str, value: object) -> Setting:
    return Setting(key=f"{CONFIG}{name}" if name in options_of(Config) else name, value=value)


class _Reading:
    """One pass over everything that was written; `config()` gives the result or all faults."""

    def __init__(
        self,
        settings: Iterable[Setting],
        tasks: Mapping[str, Task | Mapping[str, object]],
        faults: Iterable[Fault] = (),
    ) -> None:
        self._faults = list(faults)
        self._config: dict[str, Setting] = {}
        self._defaults: dict[str, Setting] = {}
        self._tasks: dict[str, dict[str, Setting]] = {}
        self._objects: dict[str, Task] = {}
        for setting in settings:
            self._sort(setting)
        for name, task in tasks.items():
            self._sort_task(name, task)

    def config(self) -> Config:
        """The configuration.

        Raises:
            ConfigError: anything at all was wrong.
        """
        sound = self._record(Config, self._config)
        config = sound or Config()
        self._drop_bad_defaults()
        tasks = [self._declared(name, said) for name, said in self._tasks.items()]
        tasks += [self._given(name, task) for name, task in self._objects.items()]
        if sound:
            self._faults += dict.fromkeys(self._misfits(config, filter(None, tasks)))
        if self._faults:
            raise ConfigError(self._faults)
        placed = [_place(task, config) for task in tasks if task]
        return replace(config, tasks=MappingProxyType({task.name: task for task in placed}))

    # What belongs where

    def _sort(self, setting: Setting) -> None:
        if isinstance(setting.value, str) and _is_commented(setting):
            self._faults.append(setting.fault(_INLINE_COMMENT))
        elif setting.key.startswith(DEFAULT):
            self._keep(self._defaults, Task, setting.key.removeprefix(DEFAULT), setting)
        elif setting.key.startswith(CONFIG):
            self._keep(self._config, Config, setting.key.removeprefix(CONFIG), setting)
        elif setting.key.startswith(TASK) and "." in setting.key.removeprefix(TASK):
            name, _, option = setting.key.removeprefix(TASK).partition(".")
            self._keep(self._tasks.setdefault(name, {}), Task, option, setting)
        else:
            self._unknown(setting)

    def _keep(self, kept: dict[str, Setting], record: type, name: str, setting: Setting) -> None:
        option = options_of(record).get(name.partition(".")[0])
        if option and option.is_mapping == ("." in name) and not name.endswith("."):
            kept[name] = setting
        elif option and option.is_mapping:
            self._faults.append(setting.fault(f"want one key an entry, {setting.key}.<Name>", is_secret=True))
        elif "." in name and name.rpartition(".")[2] in options_of(Task) and setting.key.startswith(TASK):
            self._faults.append(setting.fault(TASK_NAME))
        else:
            self._unknown(setting)

    def _unknown(self, setting: Setting) -> None:
        nearest = _nearest(setting.key) or ""
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        # A misspelt secret is still one: the value of `tokn` must not be shown either.
        name = nearest.removeprefix(DEFAULT) if nearest.startswith(DEFAULT) else ".".join(nearest.split(".")[3:])
        meant = OPTIONS.get(nearest) or options_of(Task).get(name.partition(".")[0])
        is_secret = meant is not None and meant.is_secret
        self._faults.append(setting.fault(f"unknown option{hint}", is_secret=is_secret))

    def _sort_task(self, name: str, task: Task | Mapping[str, object]) -> None:
        if name in self._tasks:
            problem = "want a task once: it has keys in the configuration, too"
            self._faults.append(Setting(key=f"task[{name!r}]", value=task).fault(problem))
        elif isinstance(task, Task):
            self._objects[name] = task
        elif not isinstance(task, Mapping):
            self._faults.append(
                Setting(key=f"task[{name!r}]", value=task).fault("want a Task, or a dict of its options")
            )
        else:
            said = self._tasks.setdefault(name, {})
            for option, value in task.items():
                for full, entry in _flat(str(option), value).items():
                    self._keep(said, Task, full, Setting(key=option_key(name, full), value=entry))

    # From settings to records

    def _record(self, record: type, said: Mapping[str, Setting], **more: object) -> Any:
        """The record that *said* describes; None if it has faults, which are noted."""
        values, sound = self._values(record, said)
        try:
            made = record(**values, **more)
        except ConfigError as error:
            self._faults.extend(_said_as(fault, said, record, more) for fault in error.faults)
            return None
        return made if sound else None

    def _values(self, record: type, said: Mapping[str, Setting]) -> tuple[dict[str, Any], bool]:
        values: dict[str, Any] = {}
        sound = True
        for name, setting in said.items():
            option, dot, entry = name.partition(".")
            if not dot:
                values[option] = setting.value
                continue
            try:
                options_of(record)[option].read({entry: setting.value})
                values.setdefault(option, {})[entry] = setting.value
            except ValueError as error:
                sound = False
                self._faults.append(setting.fault(str(error)))
        return values, sound

    def _drop_bad_defaults(self) -> None:
        """Say once what is wrong with a default, not once a task."""
        for name, setting in list(self._defaults.items()):
            if self._record(Task, {name: setting}) is None:
                del self._defaults[name]

    def _declared(self, name: str, said: Mapping[str, Setting]) -> Task | None:
        task = self._record(Task, {**self._defaults_beside(said), **said}, name=_named(name))
        return task if isinstance(task, Task) else None

    def _defaults_beside(self, said: Mapping[str, Setting]) -> dict[str, Setting]:
        """The defaults, without another schedule for a task that names its own."""
        own = [name for name in SCHEDULES if name in said]
        barred = {*SCHEDULES} if own else set()
        if own and own != ["interval"]:
            barred.add("offset")
        return {name: setting for name, setting in self._defaults.items() if name not in barred}

    def _misfits(self, config: Config, tasks: Iterable[Task]) -> Iterator[Fault]:
        for task, fault in misfits(config, tasks):
            said = {**self._defaults, **self._tasks.get(task.name, {})}
            yield _said_as(fault, said, Task, {"name": task.name})

    def _given(self, name: str, task: Task) -> Task | None:
        """A `Task` object under its key; where it says nothing, the defaults hold for it too."""
        options = options_of(Task)
        said = {
            option.name: Setting(key=option_key(name, option.name), value=getattr(task, option.name))
            for option in options.values()
            if getattr(task, option.name) != option.value
        }
        inherited = {
            full: setting for full, setting in self._defaults_beside(said).items() if full.partition(".")[0] not in said
        }
        values, _ = self._values(Task, inherited)
        try:
            return replace(task, name=_named(name), **values)
        except ConfigError as error:
            self._faults.extend(_said_as(fault, said, Task, {"name": name}) for fault in error.faults)
            return None


def _named(name: Any) -> Any:
    """*name* as the door of `Task` judges it: there an empty one is a task without a key."""
    return name or " "


def _flat(option: str, value: object) -> dict[str, object]:
    """`headers={"Accept": ...}` as an ini file writes it: `headers.Accept`."""
    known = options_of(Task).get(option)
    if known and known.is_mapping and isinstance(value, Mapping):
        return {f"{option}.{name}": entry for name, entry in value.items()}
    return {option: value}


_INLINE_COMMENT: Final = "an ini file keeps '; ...' behind a value as part of it: give the comment a line of its own"


def _is_commented(setting: Setting) -> bool:
    """Whether the value ends in what was meant as a comment.

    A blank and a semicolon is one in every value but a body, which is taken as it is; a
    blank and a # only where no text is free to have it.
    """
    option = setting.key.rpartition(".")[2]
    if not setting.key.startswith("pulse.") or option == "body":
        return False
    found = _COMMENT.search(str(setting.value))
    is_free = option in ("description", "token") or bool(_FREE.search(setting.key))
    return found is not None and (found.group().endswith(";") or not is_free)


def _said_as(fault: Fault, said: Mapping[str, Setting], record: type, more: Mapping[str, object]) -> Fault:
    """*fault* of a field, under the key that somebody wrote and at its place."""
    if fault.key in said:
        return replace(fault, key=said[fault.key].key, where=said[fault.key].where)
    if record is Task:
        task = f"{TASK}{str(more.get('name')).strip()}"
        return replace(fault, key=task) if fault.key == "name" else fault.under(f"{task}.")
    return fault.under(CONFIG)


def _place(task: Task, config: Config) -> Task:
    """*task* with what follows from the configuration: its whole path, its zone, its schedule."""
    action = f"{task.path or task.name}?{task.query}" if task.query else task.path or task.name
    if not action.startswith("/"):
        action = f"/{config.context}/{action}" if config.context else f"/{action}"
    interval = task.interval or (None if task.cron or task.at else DEFAULT_INTERVAL)
    return replace(task, action=action, timezone=task.timezone or config.timezone, interval=interval)


def _nearest(key: str) -> str | None:
    """The key that was most likely meant by *key*."""
    if "." not in key:  # `guard = true` in the section: its prefix is missing
        close = get_close_matches(key, options_of(Config), n=1)
        return f"{CONFIG}{close[0]}" if close else None
    parts = key.split(".")
    if key.startswith(TASK) and len(parts) == 3:
        return f"{key}.<option>"
    known = [known.replace("<name>", parts[2]) if len(parts) > 3 else known for known in OPTIONS]
    known += [f"{DEFAULT}{option}" for option in options_of(Task)]
    return next(iter(get_close_matches(key, known, n=1)), None)


class IniFile:
    """What stands where in an ini file; only for messages, PasteDeploy does the reading."""

    def __init__(self, path: str, sections: Mapping[str, Mapping[str, str]]) -> None:
        """*path*, empty for no file; *sections* with the lines that each has itself."""
        self.path = path
        relative = os.path.relpath(path) if path else ""
        self._name = path if relative.startswith("..") else relative
        self._sections = sections

    @classmethod
    def of(cls, path: str | None) -> "IniFile":
        """The file at *path*; without one, or if it cannot be read, nothing is known."""
        # No section is the default one here: what stands in [DEFAULT] must not show up in all.
        parser = configparser.RawConfigParser(default_section="", strict=False, delimiters=("=", ":"))
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        try:
            parser.read(path or [], encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            return cls(path or "", {})
        return cls(path or "", {name: dict(parser[name]) for name in parser.sections()})

    def application(self) -> str:
        """The specification of its application, for other processes; empty without a file."""
        return f"config:{self.path}" if self.path else ""

    def place(self, key: str) -> str:
        """File and section of *key*, as far as they are known."""
        homes = [
            name
            for name, lines in self._sections.items()
            if name != "DEFAULT" and (key in lines or f"set {key}" in lines)
        ]
        if not homes and key in self._sections.get("DEFAULT", {}):
            homes = ["DEFAULT"]
        return f"{self._name} [{homes[0]}]" if len(homes) == 1 else self._name

    def overridden(self) -> list[Fault]:
        """Lines that have no effect: PasteDeploy drops a plain key that stands in [DEFAULT] too."""
        shared = self._sections.get("DEFAULT", {})
        return [
            Setting(key=key, value=value, where=f"{self._name} [{section}]").fault(
                f"has no effect, because [DEFAULT] has this key too; write 'set {key} = ...'"
            )
            for section, lines in self._sections.items()
            for key, value in lines.items()
            if section != "DEFAULT" and key.startswith("pulse.") and shared.get(key, value) != value
        ]
