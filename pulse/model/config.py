"""What holds for all tasks of one filter."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NoReturn
from zoneinfo import ZoneInfo

from pulse import address, reader
from pulse.errors import ConfigError, Fault
from pulse.model.task import TASK_NAME, Task
from pulse.option import option, options_of, read_options, shown

MOST_THREADS: Final = 256
MOST_WORKERS: Final = 100_000  # of mode asyncio
WORKER_COUNT: Final = f"want a whole number from 1 to {MOST_THREADS}, in mode asyncio to {MOST_WORKERS}"
_SHARED_STORES: Final = frozenset({"redis", "rediss", "unix", "postgres", "postgresql"})
_CELERY: Final = "goes with mode celery only"


def _workers(value: object) -> int:
    try:
        return reader.integer(1, MOST_WORKERS)(value)
    except ValueError:  # what is wanted depends on the mode
        raise ValueError(WORKER_COUNT) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What holds for all tasks of one filter, and the tasks themselves.

    Raises:
        ConfigError: (a ValueError) naming every option whose value is refused.
    """

    context: str = option(
        "pulse", reader.context, "path", "The base path: a task is requested at `/<context>/<action>`."
    )
    mode: str = option(
        "threading",
        reader.choice("threading", "processing", "asyncio", "celery", "auto"),
        "`threading`, `processing`, `asyncio`, `celery`, `auto`",
        "What executes runs; `auto` is `asyncio` for an application that is known to be asynchronous, else "
        "`threading`.",
    )
    guard: bool = option(
        False, reader.boolean, "boolean", "Whether requests from outside to the paths of tasks get 404."
    )
    guard_scope: str = option(
        "tasks",
        reader.choice("tasks", "context"),
        "`tasks`, `context`",
        "Guards the paths of tasks and all below them, or everything below the context.",
    )
    token: str | None = option(
        None,
        reader.optional(reader.token),
        "text, `env:NAME`, `file:/path`",
        "With `Authorization: Bearer <token>` a call by hand passes the guard; 16 characters at least.",
        is_secret=True,
    )
    enabled: bool = option(True, reader.boolean, "boolean", "Whether anything runs; the guard stays on when not.")
    start: str = option(
        "auto",
        reader.choice("auto", "now", "request", "manual"),
        "`auto`, `now`, `request`, `manual`",
        "When a process begins to run tasks; the environment variable `PULSE_START` wins.",
    )
    timezone: ZoneInfo = option("UTC", reader.zone, "IANA name", "The time zone of tasks that name none.")
    workers: int | None = option(
        None,
        reader.optional(_workers),
        "whole number, 1 to 256; in mode `asyncio` to 100000",
        "How many runs a process has under way at once; from 2 on, two quick ones more may pass runs that last. If "
        "not given it is 4, and in mode `threading` any number more beside runs that last; in mode `asyncio` 1000.",
    )
    host: str = option("localhost", reader.host, "host", "`Host` and `SERVER_NAME` of internal requests.")
    scheme: str = option("http", reader.choice("http", "https"), "`http`, `https`", "Their URL scheme.")
    shutdown_timeout: timedelta = option(
        "30s",
        reader.duration(0, timedelta(hours=1)),
        "duration, 0s to 1h",
        "How long running work may take at the end of the process before it is cancelled.",
    )
    history: int = option(
        50, reader.integer(1, 10_000), "whole number, 1 to 10000", "Runs that are kept a task; totals stay for ever."
    )
    capture: int = option(
        4096,
        reader.integer(0, 1_048_576),
        "bytes, 0 to 1048576",
        "How much of a response, of `wsgi.errors` and of what is logged is kept with a run; 0 keeps nothing.",
    )
    name: str = option(
        "",
        reader.name,
        "text",
        "The application's name in its store; the ini file and the context when not given. Required for Redis "
        "and PostgreSQL.",
    )
    store: str = option(
        "auto",
        reader.from_environment(address.store),
        "`auto`, `memory:`, `sqlite:<path>`, `redis://`, `rediss://`, `unix://`, `postgresql://`, `env:NAME`",
        "Where claims, runs and pauses are kept; `auto` is a file of this application that all processes of "
        "the host share.",
        is_shown=False,
    )
    lease: timedelta = option(
        "30s",
        reader.duration(1, timedelta(hours=1)),
        "duration, 1s to 1h",
        "How long the right to a run lasts unless it is renewed, which is done each third; then the run is lost.",
    )
    max_clock_skew: timedelta = option(
        "5s",
        reader.duration(0, timedelta(hours=1)),
        "duration, 0s to 1h",
        "How far the clock of a host may be from that of the store before the host runs nothing.",
    )
    application: str = option(
        "",
        reader.specification,
        "`config:file.ini#name`, `module:object`",
        "Where a child process finds the application; the ini file itself when not given.",
    )
    status: str | None = option(
        None,
        reader.optional(reader.mount),
        "path",
        "Where the status page is, `/_pulse`, with its API, health and metrics; seen with the `token` alone.",
    )
    status_readonly: bool = option(
        False, reader.boolean, "boolean", "Whether nothing can be pressed on the status page."
    )
    broker: str | None = option(
        None,
        reader.optional(reader.from_environment(reader.broker)),
        "URL, `env:NAME`",
        "In mode `celery`, the broker through which Celery's workers are given their runs, as Celery writes it.",
        is_secret=True,
    )
    events: bool = option(
        False, reader.boolean, "boolean", "Whether runs are told on the event bus, on the channel `pulse:runs`."
    )
    tasks: Mapping[str, Task] = field(default_factory=dict)
    origin: str = ""  # the ini file that it was read from
    # Where each option was written, by its key: `development.ini [filter:pulse]`, or `Python`.
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        faults = read_options(self)
        if found := _faults_of(self.tasks):
            raise ConfigError([*faults, *found])
        object.__setattr__(self, "tasks", _Tasks(self.tasks))
        refused = {fault.key for fault in faults}
        scheme = self.store.partition(":")[0] if isinstance(self.store, str) else ""
        if scheme.lower() in _SHARED_STORES and not self.name:  # an address that is refused wants one as well
            faults.append(
                Fault(key="name", shown="''", problem="want a name: the store may be shared with other applications")
            )
        if refused.isdisjoint({"mode", "workers"}) and self._has_too_many_threads():
            faults.append(options_of(Config)["workers"].fault(self.workers, WORKER_COUNT))
        if "mode" not in refused:
            faults += _celery_faults(self)
            faults += [
                fault.under(f"pulse.task.{task.name}.") for task, fault in misfits(self.mode, self.tasks.values())
            ]
        if "guard_scope" not in refused and self.guard_scope == "context" and not self.context:
            problem = "want a context that is not the root: the guard would refuse every request"
            faults.append(options_of(Config)["guard_scope"].fault(self.guard_scope, problem))
        if faults:
            raise ConfigError(faults)

    def _has_too_many_threads(self) -> bool:
        return self.mode in ("threading", "processing") and self.workers is not None and self.workers > MOST_THREADS


class _Tasks(dict[str, Task]):
    """The tasks of a configuration: nobody changes them, and whatever copies a dict copies these.

    A `MappingProxyType` can be neither pickled nor copied, and so neither could a `Config`.
    """

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the tasks of a configuration cannot be changed: build another one")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[str, Task]]]:
        return _Tasks, (dict(self),)  # else they would be put into an empty one, which refuses them


def _faults_of(tasks: object) -> list[Fault]:
    """What is no mapping of tasks by their names."""
    if not isinstance(tasks, Mapping):
        return [Fault(key="tasks", shown=f"a {type(tasks).__name__}", problem="want a mapping of Task objects by name")]
    faults = []
    for name, task in tasks.items():
        if not isinstance(task, Task):
            problem = "want a Task; dicts of options are given as task=... of the middleware"
            faults.append(Fault(key=f"tasks[{shown(name)}]", shown=f"a {type(task).__name__}", problem=problem))
        elif not name or task.name != name:
            problem = f"want the name of its key, {TASK_NAME.removeprefix('want ')}"
            faults.append(Fault(key=f"tasks[{shown(name)}].name", shown=shown(task.name), problem=problem))
    return faults


def _celery_faults(config: Config) -> list[Fault]:
    """What does not go together with mode celery, or without it; options that nobody reads are refused."""
    options = options_of(Config)
    if config.mode != "celery":
        return [options["broker"].fault(config.broker, _CELERY)] if config.broker is not None else []
    faults = []
    if config.broker is None:
        faults.append(Fault(key="broker", shown="''", problem=reader.BROKER))
    if isinstance(config.store, str) and config.store.startswith("memory:"):
        problem = "Celery's workers are other processes: want a store that they reach, redis:// or postgresql://"
        faults.append(options["store"].fault(config.store, problem))
    if config.workers is not None:
        problem = "does not go with mode celery: its workers say how many runs they take at once (--concurrency)"
        faults.append(options["workers"].fault(config.workers, problem))
    return faults


def misfits(mode: str, tasks: Iterable[Task]) -> list[tuple[Task, Fault]]:
    """The options of *tasks* that do not go with *mode*, with the task that each belongs to."""
    options = options_of(Task)
    if mode == "celery":
        problem = "want fleet: in mode celery nobody knows which host or process takes a run"
        return [(task, options["scope"].fault(task.scope, problem)) for task in tasks if task.scope != "fleet"]
    queued = [task for task in tasks if task.queue is not None or task.priority is not None]
    said = [(task, name, getattr(task, name)) for task in queued for name in ("queue", "priority")]
    return [(task, options[name].fault(value, _CELERY)) for task, name, value in said if value is not None]
