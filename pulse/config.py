"""From what people write to `Config`: ini keys, keywords and `task={...}` become one record.

This is the only place where a dict is a task. Every fault of a configuration is collected
and raised together, when the middleware is built and never while it serves.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from pulse.errors import ConfigError, Fault
from pulse.inifile import IniFile, Setting, sounds_secret, swallowed
from pulse.meant import CONFIG, DEFAULT, TASK, allowed_for, meant_by
from pulse.model import DEFAULT_INTERVAL, SCHEDULES, TASK_NAME, Config, Task, misfits
from pulse.option import Option, made_of, options_of, said_of, shown

PYTHON: Final = "Python"  # where an option was written that stands in no file

# The whole configuration table: the key as it is written in an ini file, and its option.
OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {f"{CONFIG}{name}": option for name, option in options_of(Config).items()}
    | {
        f"{TASK}<name>.{name}{'.<Name>' if option.is_mapping else ''}": option
        for name, option in options_of(Task).items()
    }
)


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
        (str(key), value) for key, value in given.items() if not is_of_paste or str(key).lower().startswith("pulse.")
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
    ini = IniFile((global_conf or {}).get("__file__") or "")
    shared = {key: value for key, value in (global_conf or {}).items() if key.lower().startswith("pulse.")}
    settings = [*{**shared, **local_conf}.items()]
    try:
        return _Reading(settings, {}, place=ini.place, faults=ini.overridden() if shared else ()).config(ini)
    except ConfigError as error:
        place = ini.home(local_conf)
        raise ConfigError(fault if fault.where else replace(fault, where=place) for fault in error.faults) from None


def complete(config: Config) -> Config:
    """*config* that somebody has built in Python, with its tasks as `read_config` makes them.

    Raises:
        ConfigError: in the time zone of *config* a task ends before it starts.
    """
    if all(map(_is_placed, config.tasks.values())):
        return config
    tasks: dict[str, Task] = {}
    faults: list[Fault] = []
    for name, task in config.tasks.items():
        try:
            tasks[name] = _place(replace(task), config)
        except ConfigError as error:
            faults += [fault.under(option_key(name, "")) for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return replace(config, tasks=tasks)


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


def _keyword(name: str, value: object) -> tuple[str, object]:
    return f"{CONFIG}{name}" if name in options_of(Config) else name, value


def _nowhere(_key: str) -> str:
    return ""


class _Reading:
    """One pass over everything that was written; `config()` gives the result or all faults.

    Values are kept as they were written, by the names of their options (`headers.<Name>` is one).
    A `Setting`, with the full key and where that stands, is made for a message alone.
    """

    def __init__(
        self,
        settings: Iterable[tuple[str, object]],
        tasks: Mapping[str, Task | Mapping[str, object]],
        *,
        place: Callable[[str], str] = _nowhere,
        faults: Iterable[Fault] = (),
    ) -> None:
        self._place = place
        self._faults = list(faults)
        self._names = tuple(tasks)
        self._config: dict[str, object] = {}
        self._defaults: dict[str, object] = {}
        self._objects: dict[str, Task] = {}
        self._of_ini: dict[str, dict[str, object]] = {}
        for key, value in settings:
            self._sort(key, value)
        self._tasks: dict[str, Mapping[str, object]] = {**self._of_ini}
        for name, task in tasks.items():
            self._sort_task(name, task)

    def config(self, ini: IniFile | None = None) -> Config:
        """The configuration, that was read from *ini* if from any file.

        Raises:
            ConfigError: anything at all was wrong.
        """
        sound: Config | None = self._record(Config, self._config)
        self._drop_bad_defaults()
        tasks = [self._declared(name, said) for name, said in self._tasks.items()]
        tasks += [self._given(name, task) for name, task in self._objects.items()]
        # Whatever else is wrong, these two decide what is to be said about the tasks.
        mode, zone = self._readable("mode"), self._readable("timezone")
        if mode:
            self._faults += dict.fromkeys(self._misfits(mode, filter(None, tasks)))
        config = sound or (Config(timezone=zone) if zone else Config())
        placed = [self._placed(task, config) for task in tasks if task] if zone else []
        if self._faults:
            raise ConfigError(self._faults)
        if self._objects:  # they were read behind the dicts: back to the order in which somebody wrote them
            order = {name: place for place, name in enumerate(self._names)}
            placed.sort(key=lambda task: order.get(task.name, -1))
        return replace(
            config,
            tasks={task.name: task for task in placed},
            application=config.application or (ini.application() if ini else ""),
            origin=ini.path if ini else "",
            origins=self._origins(),
        )

    def _origins(self) -> "_Origins":
        return _Origins({CONFIG: self._config, DEFAULT: self._defaults, **self._tasks}, self._place)

    # What belongs where

    def _sort(self, key: str, value: object) -> None:
        if problem := swallowed(key, value):
            self._faults.append(self._setting(key, value).fault(problem))
        elif key.startswith(TASK):
            name, dot, option = key.removeprefix(TASK).partition(".")
            if dot:
                self._keep(self._of_ini.setdefault(name, {}), Task, option, key, value)
            else:
                self._unknown(self._setting(key, value))
        elif key.startswith(DEFAULT):
            self._keep(self._defaults, Task, key.removeprefix(DEFAULT), key, value)
        elif key.startswith(CONFIG):
            self._keep(self._config, Config, key.removeprefix(CONFIG), key, value)
        else:
            self._unknown(self._setting(key, value))

    def _setting(self, key: str, value: object) -> Setting:
        return Setting(key=key, value=value, where=self._place(key))

    def _keep(self, kept: dict[str, object], record: type, name: str, key: str, value: object) -> None:
        if name in _PLAIN[record]:  # as nearly all are
            kept[name] = value
            return
        option = options_of(record).get(name.partition(".")[0])
        if option and option.is_mapping and "." in name and not name.endswith("."):
            kept[name] = value
        elif option and option.is_mapping:
            is_of_texts = not isinstance(value, Mapping) or all(isinstance(one, str) for one in value)
            wanted = f"want one key an entry, {key.rstrip('.')}.<Name>" if is_of_texts else "want names that are text"
            self._faults.append(self._setting(key, value).fault(wanted, is_secret=True))
        elif "." in name and name.rpartition(".")[2] in options_of(Task) and key.startswith(TASK):
            self._faults.append(self._setting(key, value).fault(TASK_NAME))
        else:
            self._unknown(self._setting(key, value))

    def _unknown(self, setting: Setting) -> None:
        nearest = meant_by(setting.key) or ""
        hint = f"; did you mean {nearest!r}?" if nearest else f"; {allowed_for(setting.key)}"
        # A misspelt secret is still one: the value of `tokn` must not be shown either.
        name = nearest.removeprefix(DEFAULT) if nearest.startswith(DEFAULT) else ".".join(nearest.split(".")[3:])
        meant = OPTIONS.get(nearest) or options_of(Task).get(name.partition(".")[0])
        is_secret = (meant is not None and meant.is_secret) or sounds_secret(setting.key)
        self._faults.append(setting.fault(f"unknown option{hint}", is_secret=is_secret))

    def _sort_task(self, name: str, task: Task | Mapping[str, object]) -> None:
        if name in self._tasks:
            problem = "want a task once: it has keys in the configuration, too"
            self._faults.append(Fault(key=f"task[{name!r}]", shown=_kind(task), problem=problem))
        elif isinstance(task, Task):
            self._objects[name or ""] = task
        elif type(task) is not dict and not isinstance(task, Mapping):  # to ask an abstract class takes its time
            problem = "want a Task, or a dict of its options"
            self._faults.append(Fault(key=f"task[{name!r}]", shown=_kind(task), problem=problem))
        elif _PLAIN[Task].issuperset(task):  # as nearly all are: nothing is to be copied
            self._tasks[name or ""] = task
        else:
            said: dict[str, object] = {}
            self._tasks[name or ""] = said
            for option, value in task.items():
                for full, entry in _flat(str(option), value).items():
                    self._keep_once(said, full, option_key(name, full), entry)

    def _keep_once(self, said: dict[str, object], full: str, key: str, value: object) -> None:
        if full in said:
            problem = "want it once: it is given twice, in two spellings"
            self._faults.append(self._setting(key, value).fault(problem, is_secret=True))
        elif full == "name":
            problem = "want no name here: the key of the dict is the name of the task"
            self._faults.append(self._setting(key, value).fault(problem))
        else:
            self._keep(said, Task, full, key, value)

    # From settings to records

    def _record(self, record: type, said: Mapping[str, object], task: str | None = None) -> Any:
        """The record that *said* describes, of *task* if that is one; None if it has faults, which are noted."""
        values, sound = (said, True) if _PLAIN[record].issuperset(said) else self._values(record, said, task)
        try:
            made = record(**values) if task is None else made_of(record, values, task or _NAMELESS)
        except ConfigError as error:
            self._faults.extend(self._said_as(fault, said, record, task) for fault in error.faults)
            return None
        return made if sound else None

    def _values(self, record: type, said: Mapping[str, object], task: str | None) -> tuple[dict[str, Any], bool]:
        """*said*, with all entries of a mapping in one value; and whether each of them is sound."""
        values: dict[str, Any] = {}
        sound = True
        for name, value in said.items():
            option, dot, entry = name.partition(".")
            if not dot:
                values[option] = value
                continue
            try:
                options_of(record)[option].read({entry: value})
                values.setdefault(option, {})[entry] = value
            except ValueError as error:
                sound = False
                self._faults.append(self._setting(self._key_of(name, record, task), value).fault(str(error)))
        return values, sound

    def _said_as(self, fault: Fault, said: Mapping[str, object], record: type, task: str | None) -> Fault:
        """*fault* of a field, under the key that somebody wrote and at its place."""
        if fault.key in said:
            # The value as it was written: by now it may have been read, `@daily` as `0 0 * * *`.
            setting = self._setting(self._key_of(fault.key, record, task), said[fault.key])
            return setting.fault(fault.problem, is_secret=options_of(record)[fault.key].is_secret)
        if record is Config:
            return fault.under(CONFIG)
        key = f"{TASK}{task}"
        where = next((self._place(option_key(str(task), name)) for name in self._own(task)), "")
        if fault.key == "name":
            return replace(fault, key=key, where=where, shown=fault.shown if task else "''")
        return replace(fault.under(f"{key}."), where=where)

    def _key_of(self, name: str, record: type, task: str | None) -> str:
        """The key under which somebody wrote an option: of *task*, or of the defaults."""
        if record is Config:
            return f"{CONFIG}{name}"
        return option_key(str(task), name) if name in self._own(task) else f"{DEFAULT}{name}"

    def _own(self, task: str | None) -> Mapping[str, object]:
        return {} if task is None else self._tasks[task]

    def _drop_bad_defaults(self) -> None:
        """Say once what is wrong with a default, not once a task."""
        for name, value in list(self._defaults.items()):
            if self._record(Task, {name: value}) is None:
                del self._defaults[name]

    def _declared(self, name: str, own: Mapping[str, object]) -> Task | None:
        said = {**self._defaults_beside(own), **own} if self._defaults else own
        task: Task | None = self._record(Task, said, name)
        return task

    def _defaults_beside(self, said: Container[str]) -> dict[str, object]:
        """The defaults, without another schedule for a task that names its own."""
        own = [name for name in SCHEDULES if name in said]
        barred = {*SCHEDULES} if own else set()
        if own and own != ["interval"]:
            barred.add("offset")
        return {name: value for name, value in self._defaults.items() if name not in barred}

    def _placed(self, task: Task, config: Config) -> Task:
        try:
            return _place(task, config)
        except ConfigError as error:
            said = {**self._defaults, **self._own(task.name)}
            self._faults.extend(self._said_as(fault, said, Task, task.name) for fault in error.faults)
            return task

    def _readable(self, name: str) -> Any:
        """The value of the option *name* of the filter; None if it is refused."""
        option = options_of(Config)[name]
        try:
            return option.read(self._config.get(name, option.value))
        except ValueError:
            return None

    def _misfits(self, mode: str, tasks: Iterable[Task]) -> Iterator[Fault]:
        for task, fault in misfits(mode, tasks):
            yield self._said_as(fault, {**self._defaults, **self._own(task.name)}, Task, task.name)

    def _given(self, name: str, task: Task) -> Task | None:
        """A `Task` object under its key; where it says nothing, the defaults hold for it too."""
        own = self._tasks[name] = _said_by(task)
        inherited = self._defaults_beside(own) if self._defaults else {}
        rest = {full: value for full, value in inherited.items() if full.partition(".")[0] not in own}
        values, _ = self._values(Task, rest, name)
        if task.name and task.name != name:
            problem = f"want no name, or that of its key, {name!r}"
            self._faults.append(Fault(key=option_key(name, "name"), shown=shown(task.name), problem=problem))
            return None
        try:
            return made_of(Task, {**own, **values}, name or _NAMELESS)
        except ConfigError as error:
            self._faults.extend(self._said_as(fault, own, Task, name) for fault in error.faults)
            return None


_NAMELESS: Final = " "  # stands for an empty name, which `Task` itself would accept: it may get its key later

# The options that are one value each, which nearly all are.
_PLAIN: Final[Mapping[type, frozenset[str]]] = {
    record: frozenset(name for name, option in options_of(record).items() if not option.is_mapping)
    for record in (Config, Task)
}


class _Origins(Mapping[str, str]):
    """Where each option that somebody wrote stands, by its key, without the name of an entry.

    Worked out when somebody asks, which is the status page: what was said of ten thousand tasks
    is few different lists of names, and would be tens of thousands of keys.
    """

    def __init__(self, said: Mapping[str, Iterable[str]], place: Callable[[str], str]) -> None:
        """*said*: the names of options by their task, and those of no task by the beginning of their keys."""
        self._said: dict[str, tuple[str, ...]] = {}
        alike: dict[tuple[str, ...], tuple[str, ...]] = {}
        for owner, options in said.items():
            names = tuple(options)
            self._said[owner] = alike.setdefault(names, names)
        self._place = place

    def __getitem__(self, key: str) -> str:
        owner, option = _owned(key)
        for name in reversed(self._said.get(owner, ())):
            if name.partition(".")[0] == option:
                return self._place(f"{_prefix_of(owner)}{name}") or PYTHON
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        for owner, names in self._said.items():
            yield from dict.fromkeys(f"{_prefix_of(owner)}{name.partition('.')[0]}" for name in names)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _prefix_of(owner: str) -> str:
    return owner if owner in (CONFIG, DEFAULT) else f"{TASK}{owner}."


def _owned(key: str) -> tuple[str, str]:
    """The owner of the option at *key*, and its name; no task's name ends with a dot."""
    prefix, dot, option = key.rpartition(".")
    return prefix.removeprefix(TASK) if prefix.startswith(TASK) else f"{prefix}{dot}", option


def _said_by(task: Task) -> dict[str, Any]:
    """The options of *task* that are not at their defaults, with their values."""
    return {option.name: value for option, value in said_of(task) if value != option.value}


def _flat(option: str, value: object) -> dict[str, object]:
    """`headers={"Accept": ...}` as an ini file writes it: `headers.Accept`."""
    known = options_of(Task).get(option)
    if known and known.is_mapping and isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {f"{option}.{name}": entry for name, entry in value.items()}
    return {option: value}


def _place(task: Task, config: Config) -> Task:
    """*task* with what follows from the configuration: its whole path, its zone, its schedule.

    It was made here and nobody has seen it yet, so it is completed as `__post_init__` would, without
    all of it being read once more.
    """
    placed: dict[str, Any] = {}
    if not task.action.startswith("/") or task.action.endswith("?"):
        path, mark, query = task.action.partition("?")
        action = (path or task.name) + (mark + query if query else "")
        below = f"/{config.context}/" if config.context else "/"
        placed["action"] = action if action.startswith("/") else below + action
    if task.interval is None and task.cron is None and task.at is None:
        placed["interval"] = DEFAULT_INTERVAL
    if task.timezone is None:
        placed["timezone"] = config.timezone
    if task.start_date and task.end_date:  # which of them comes first may depend on the zone
        return replace(task, **placed)
    for name, value in placed.items():
        object.__setattr__(task, name, value)
    return task


def _is_placed(task: Task) -> bool:
    has_schedule = not (task.interval is None and task.cron is None and task.at is None)
    return has_schedule and task.timezone is not None and task.action.startswith("/")
