"""From what people write to `Config`: ini keys, keywords and `task={...}` become one record.

This is the only place where a dict is a task. Every fault of a configuration is collected
and raised together, when the middleware is built and never while it serves.
"""

import configparser
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from pulse.errors import ConfigError, Fault
from pulse.meant import CONFIG, DEFAULT, TASK, allowed_for, meant_by
from pulse.model import DEFAULT_INTERVAL, SCHEDULES, TASK_NAME, Config, Task, misfits
from pulse.option import Option, options_of, said_of, shown

PYTHON: Final = "Python"  # where an option was written that stands in no file

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

    @property
    def is_secret(self) -> bool:
        """Whether the key sounds as if the value must not be shown."""
        return bool(_SECRETIVE.search(self.key))

    def fault(self, problem: str, *, is_secret: bool = False) -> Fault:
        """What is wrong with this setting."""
        value = shown(self.value, is_secret=is_secret or self.is_secret)
        return Fault(key=self.key, shown=value, problem=problem, where=self.where)


def read_config(
    config: Mapping[str, object] | None = None,
    *,
    tasks: Mapping[str, Task | Mapping[str, object]] | None = None,
    options: Mapping[str, object] | None = None,
) -> Config:
    """The configuration of a middleware that is built in Python.

    Args:
        config: Dotted keys, as an ini file has them: `{"pulse.config.guard": "true"}`. In what
            PasteDeploy makes of one, `{**global_conf, **local_conf}`, the keys of others are
            passed over.
        tasks: Tasks by name: `Task` objects, or dicts of task options.
        options: The keywords; they win over *config*, and know the same names.

    Raises:
        ConfigError: naming every fault; none of the arguments is changed.
    """
    given = _mapping("config", config)
    is_of_paste = "__file__" in given
    settings = [
        Setting(key=str(key), value=value)
        for key, value in given.items()
        if not is_of_paste or str(key).lower().startswith("pulse.")
    ]
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
    try:
        config = _Reading(settings, {}, faults=ini.overridden()).config()
    except ConfigError as error:
        place = ini.home(local_conf)
        raise ConfigError(fault if fault.where else replace(fault, where=place) for fault in error.faults) from None
    return replace(config, application=config.application or ini.application(), origin=ini.path)


def option_key(task: str, name: str) -> str:
    """The key of a task's option as an ini file has it."""
    return f"{TASK}{task}.{name}"


def _mapping(name: str, value: object) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError([Fault(key=name, shown=_kind(value), problem=_WANTED[name])])
    return value


_WANTED: Final = {
    "config": "want a mapping such as {'pulse.config.guard': 'true'}; an ini file is read by PasteDeploy's loadapp",
    "task": "want a mapping of tasks by name, such as {'cleanup': Task(action='cleanup', interval=300)}",
}


def _kind(value: object) -> str:
    """*value* as a message may show it: what is no plain word may hold secrets anywhere."""
    return shown(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


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
        return replace(
            config, tasks=MappingProxyType({task.name: task for task in placed}), origins=dict(self._origins())
        )

    def _origins(self) -> Iterator[tuple[str, str]]:
        """The key of each option that somebody wrote, without the name of an entry, and where."""
        yield from ((f"{CONFIG}{name}", setting.where or PYTHON) for name, setting in self._config.items())
        for name, setting in self._defaults.items():
            yield f"{DEFAULT}{name.partition('.')[0]}", setting.where or PYTHON
        for task, said in self._tasks.items():
            for name, setting in said.items():
                yield option_key(task, name.partition(".")[0]), setting.where or PYTHON
        for name, given in self._objects.items():
            yield from ((option_key(name, option), PYTHON) for option in _said_by(given))

    # What belongs where

    def _sort(self, setting: Setting) -> None:
        if problem := _swallowed(setting):
            self._faults.append(setting.fault(problem))
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
            wanted = f"want one key an entry, {setting.key.rstrip('.')}.<Name>"
            self._faults.append(setting.fault(wanted, is_secret=True))
        elif "." in name and name.rpartition(".")[2] in options_of(Task) and setting.key.startswith(TASK):
            self._faults.append(setting.fault(TASK_NAME))
        else:
            self._unknown(setting)

    def _unknown(self, setting: Setting) -> None:
        nearest = meant_by(setting.key) or ""
        hint = f"; did you mean {nearest!r}?" if nearest else f"; {allowed_for(setting.key)}"
        # A misspelt secret is still one: the value of `tokn` must not be shown either.
        name = nearest.removeprefix(DEFAULT) if nearest.startswith(DEFAULT) else ".".join(nearest.split(".")[3:])
        meant = OPTIONS.get(nearest) or options_of(Task).get(name.partition(".")[0])
        is_secret = meant is not None and meant.is_secret
        self._faults.append(setting.fault(f"unknown option{hint}", is_secret=is_secret))

    def _sort_task(self, name: str, task: Task | Mapping[str, object]) -> None:
        if name in self._tasks:
            problem = "want a task once: it has keys in the configuration, too"
            self._faults.append(Fault(key=f"task[{name!r}]", shown=_kind(task), problem=problem))
        elif isinstance(task, Task):
            self._objects[name] = task
        elif not isinstance(task, Mapping):
            problem = "want a Task, or a dict of its options"
            self._faults.append(Fault(key=f"task[{name!r}]", shown=_kind(task), problem=problem))
        else:
            said, known = self._tasks.setdefault(name, {}), options_of(Task)
            for option, value in task.items():
                if option in known and not known[option].is_mapping:  # as nearly all are
                    said[option] = Setting(key=option_key(name, option), value=value)
                    continue
                for full, entry in _flat(str(option), value).items():
                    self._keep_once(said, full, Setting(key=option_key(name, full), value=entry))

    def _keep_once(self, said: dict[str, Setting], full: str, setting: Setting) -> None:
        if full in said:
            self._faults.append(setting.fault("want it once: it is given twice, in two spellings", is_secret=True))
        elif full == "name":
            self._faults.append(setting.fault("want no name here: the key of the dict is the name of the task"))
        else:
            self._keep(said, Task, full, setting)

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
        own = _said_by(task)
        said = {option: Setting(key=option_key(name, option), value=value) for option, value in own.items()}
        inherited = {
            full: setting for full, setting in self._defaults_beside(said).items() if full.partition(".")[0] not in said
        }
        values, _ = self._values(Task, inherited)
        if task.name and task.name != name:
            problem = f"want no name, or that of its key, {name!r}"
            self._faults.append(Fault(key=option_key(name, "name"), shown=shown(task.name), problem=problem))
            return None
        try:
            return Task(name=_named(name), **own, **values)
        except ConfigError as error:
            self._faults.extend(_said_as(fault, said, Task, {"name": name}) for fault in error.faults)
            return None


def _said_by(task: Task) -> dict[str, Any]:
    """The options of *task* that are not at their defaults, with their values."""
    said = ((option, getattr(task, option.name)) for option in said_of(task))
    return {option.name: value for option, value in said if value != option.value}


def _named(name: Any) -> Any:
    """*name* as the door of `Task` judges it: there an empty one is a task without a key."""
    return name or _NAMELESS


_NAMELESS: Final = " "


def _flat(option: str, value: object) -> dict[str, object]:
    """`headers={"Accept": ...}` as an ini file writes it: `headers.Accept`."""
    known = options_of(Task).get(option)
    if known and known.is_mapping and isinstance(value, Mapping):
        return {f"{option}.{name}": entry for name, entry in value.items()}
    return {option: value}


_INLINE_COMMENT: Final = "an ini file keeps '{} ...' behind a value as part of it: give the comment a line of its own"
_QUOTED: Final = re.compile(r"""(["']).*\1""", re.DOTALL)
_LINE: Final = re.compile(r"\n[^\S\n]*((?:set )?pulse\.[\w.-]+)\s*[=:]")


def _swallowed(setting: Setting) -> str:
    """What is wrong where a value holds a comment or a line that was meant to be none of it; else empty.

    A blank and a semicolon is a comment in every value but a body, which is taken as it is; a
    blank and a # only where no text is free to have it.
    """
    option = setting.key.rpartition(".")[2]
    if not isinstance(setting.value, str) or not setting.key.startswith("pulse."):
        return ""
    if found := _LINE.search(setting.value):
        return f"an ini file takes an indented line as part of the one before: move {found[1]!r} to the left margin"
    if option == "body":
        return ""
    if not _FREE.search(setting.key) and option != "description" and _QUOTED.fullmatch(setting.value.strip()):
        return "quotes are taken as part of the value: leave them out"
    mark = _COMMENT.search(setting.value)
    is_free = option in ("description", "token") or bool(_FREE.search(setting.key))
    if mark is None or (is_free and not mark[0].endswith(";")):
        return ""
    return _INLINE_COMMENT.format(mark[0][-1])


def _said_as(fault: Fault, said: Mapping[str, Setting], record: type, more: Mapping[str, object]) -> Fault:
    """*fault* of a field, under the key that somebody wrote and at its place."""
    if fault.key in said:
        # The value as it was written: by now it may have been read, `@daily` as `0 0 * * *`.
        option = options_of(record)[fault.key]
        return said[fault.key].fault(fault.problem, is_secret=option.is_secret)
    if record is Task:
        name = more.get("name")
        task = f"{TASK}{'' if name == _NAMELESS else name}"
        where = next((setting.where for setting in said.values() if setting.key.startswith(TASK)), "")
        if fault.key == "name":
            return replace(fault, key=task, where=where, shown="''" if name == _NAMELESS else fault.shown)
        return replace(fault.under(f"{task}."), where=where)
    return fault.under(CONFIG)


def _place(task: Task, config: Config) -> Task:
    """*task* with what follows from the configuration: its whole path, its zone, its schedule.

    It was made here and nobody has seen it yet, so it is completed as `__post_init__` would, without
    all of it being read once more.
    """
    action = f"{task.path or task.name}?{task.query}" if task.query else task.path or task.name
    if not action.startswith("/"):
        action = f"/{config.context}/{action}" if config.context else f"/{action}"
    interval = task.interval or (None if task.cron or task.at else DEFAULT_INTERVAL)
    placed: dict[str, Any] = {"action": action, "interval": interval, "timezone": task.timezone or config.timezone}
    if task.start_date and task.end_date:  # which of them comes first may depend on the zone
        return replace(task, **placed)
    for name, value in placed.items():
        object.__setattr__(task, name, value)
    return task


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

    def home(self, keys: Iterable[str]) -> str:
        """File and section in which most of *keys* stand, for a fault of what stands nowhere."""
        places = Counter(place for place in map(self.place, keys) if place != self._name)
        return next((place for place, _ in places.most_common(1)), self._name)

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
