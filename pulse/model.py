"""The words of Pulse: `Task`, `Config`, `Fire`, `Run` and what may be said of them.

All are frozen and validated once, at the door; inside the house they are trusted.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import Enum
from hashlib import sha1
from typing import Final, Literal, NoReturn
from uuid import NAMESPACE_URL, uuid5
from zoneinfo import ZoneInfo

from pulse import address, reader
from pulse.errors import ConfigError, Fault
from pulse.option import option, options_of, read_options, shown, sparse
from pulse.zone import iso

YEAR: Final = timedelta(days=366)
DEFAULT_INTERVAL: Final = timedelta(seconds=300)
SCHEDULES: Final = ("interval", "cron", "at")  # a task has one of these


@sparse
@dataclass(frozen=True, kw_only=True)
class Task:
    """A definition: which endpoint is requested when, and within which limits.

    Values may be given as an ini file would say them (`interval="5m"`) or as Python has
    them (`interval=300`, `timedelta(minutes=5)`).

    Raises:
        ConfigError: (a ValueError) naming every option whose value is refused.
    """

    name: str = ""  # the key in `task={...}`, or of `pulse.task.<name>.*`
    action: str = option(
        "", reader.path, "path, query allowed", "The endpoint: below the context, or as it is when it starts with `/`."
    )
    interval: timedelta | None = option(
        None,
        reader.optional(reader.duration(0.1, YEAR)),
        "duration, 0.1s to 366d",
        "Due at multiples of this since 1970, UTC; 300 when no schedule is given.",
    )
    cron: str | None = option(
        None,
        reader.optional(reader.cron),
        "5 or 6 fields, `@daily`, `@manually`",
        "Due by the clock of the time zone; six fields begin with the seconds.",
    )
    at: datetime | None = option(None, reader.optional(reader.moment), "ISO 8601 date and time", "Due once.")
    timezone: ZoneInfo | None = option(
        None,
        reader.optional(reader.zone),
        "IANA name",
        "For `cron`, `at`, `start_date` and `end_date`; that of `pulse.config.timezone` when not given.",
    )
    start_date: datetime | None = option(
        None, reader.optional(reader.moment), "ISO 8601 date and time", "Nothing is due before it."
    )
    end_date: datetime | None = option(
        None,
        reader.optional(reader.last_moment),
        "ISO 8601 date and time",
        "Nothing is due after it; a date alone includes that day.",
    )
    offset: timedelta | Literal["hash"] = option(
        "0s",
        reader.phase(YEAR),
        "duration or `hash`",
        "Moves the instants of `interval`; `hash` spreads tasks by their names, the same on every host.",
    )
    jitter: timedelta = option(
        "0s",
        reader.duration(0, YEAR),
        "duration",
        "Starts each run up to this much later, by a hash of task and instant; never past the next one.",
    )
    enabled: bool = option(True, reader.boolean, "boolean", "Whether it runs by itself; it stays guarded when not.")
    description: str = option("", reader.text, "text", "Shown wherever the task is.")
    method: str = option("GET", reader.method, "HTTP method", "The method of the request.")
    body: bytes = option("", reader.body, "text", "The body of the request.")
    content_type: str = option("", reader.header_value, "media type", "The `Content-Type` of the body.")
    headers: tuple[tuple[str, str], ...] = option(
        (), reader.headers, "text", "A header of the request, one option a header.", is_secret=True, is_mapping=True
    )
    environ: tuple[tuple[str, str], ...] = option(
        (), reader.environ, "text", "A key of the WSGI environ, one option a key.", is_secret=True, is_mapping=True
    )
    expect_status: frozenset[int] = option(
        "200-299", reader.statuses, "statuses and ranges", "Which answers are a success; any other is a failure."
    )
    timeout: timedelta | None = option(
        "1h", reader.limit(YEAR), "duration, 0 for none", "How long a run may take before it is given up."
    )
    kill_grace: timedelta = option(
        "10s",
        reader.duration(0, timedelta(hours=1)),
        "duration, 0s to 1h",
        "In modes `processing` and `celery`, how long an overdue run may take to stop before it is killed.",
    )
    misfire_grace_time: timedelta | Literal["auto"] | None = option(
        "auto",
        reader.grace(YEAR),
        "duration, `auto`, `none`",
        "How late a run may still start: `auto` until the next instant, `none` at any time.",
    )
    coalesce: bool = option(True, reader.boolean, "boolean", "Whether many missed instants become one run.")
    catchup_limit: int = option(
        10, reader.integer(1, 1000), "whole number", "The most missed instants that are run without `coalesce`."
    )
    overlap: str = option(
        "skip",
        reader.choice("skip", "queue", "allow", "replace"),
        "`skip`, `queue`, `allow`, `replace`",
        "What is due while `max_instances` runs are under way: is skipped, waits for its turn, runs beside them, or "
        "asks them to stop and takes their place.",
    )
    max_instances: int = option(
        1, reader.integer(1, 1000), "whole number", "How many runs may be under way at once over the `scope`."
    )
    scope: str = option(
        "fleet",
        reader.choice("fleet", "host", "process"),
        "`fleet`, `host`, `process`",
        "Each instant is run once in the fleet, once on each host, or once in each process.",
    )
    recover: bool = option(
        False, reader.boolean, "boolean", "Whether a run whose process died or froze is run again by another one."
    )
    lock: str | None = option(
        None,
        reader.optional(reader.word),
        "word",
        "Tasks with the same one exclude each other, as runs of one task do.",
    )
    queue: str | None = option(
        None,
        reader.optional(reader.word),
        "word",
        "In mode `celery`, the queue that its runs wait in; one of this application's own when not given.",
    )
    priority: int | None = option(
        None,
        reader.optional(reader.integer(0, 9)),
        "whole number, 0 to 9",
        "In mode `celery`, the priority of its messages, in the order that the broker gives to it.",
    )
    run_at_startup: bool = option(
        False,
        reader.boolean,
        "boolean",
        "Whether the first start ever runs it at once, instead of at the next instant.",
    )
    retries: int = option(
        0,
        reader.integer(0, 1000),
        "whole number",
        "How often a run that failed is tried again before the next instant.",
    )
    retry_delay: timedelta = option(
        "10s", reader.duration(0, YEAR), "duration", "How long after a failure; a `Retry-After` of the answer wins."
    )
    retry_backoff: float = option(
        "2", reader.number(1, 100), "number, 1 to 100", "By how much the delay grows with each further attempt."
    )
    retry_max_delay: timedelta = option("1h", reader.duration(0, YEAR), "duration", "The most that it grows to.")
    retry_status: frozenset[int] = option(
        "429 500-599",
        reader.statuses,
        "statuses and ranges",
        "Which answers are worth another attempt; a run without an answer always is.",
    )
    pause_on_failure: int = option(
        0, reader.integer(0, 1000), "whole number, 0 for never", "Pauses the task after so many failures in a row."
    )
    grace: timedelta | Literal["auto"] | None = option(
        "auto",
        reader.grace(YEAR),
        "duration, `auto`, `none`",
        "How long after an instant without a success the task is overdue; `auto` at the next instant.",
    )
    on_success: str | None = option(
        None, reader.optional(reader.hook), "path or `module:function`", "Is told of each run that succeeded."
    )
    on_failure: str | None = option(
        None,
        reader.optional(reader.hook),
        "path or `module:function`",
        "Is told of each run that failed for good, was lost or left behind.",
    )
    on_missed: str | None = option(
        None, reader.optional(reader.hook), "path or `module:function`", "Is told of instants that nobody ran in time."
    )
    on_timeout: str | None = option(
        None,
        reader.optional(reader.hook),
        "path or `module:function`",
        "Is told of runs that passed their deadline; `on_failure` is when this is not given.",
    )
    ping_url: str | None = option(
        None,
        reader.optional(reader.url),
        "URL",
        "Is requested when a run succeeds, with `/start` when it begins, and with `/fail` when it fails.",
        is_secret=True,
    )

    def __repr__(self) -> str:
        # Of 45 options most are as in any other task, and the default statuses alone fill a screen.
        values = [(one.name, getattr(self, one.name)) for one in fields(self) if one.repr and one.name in vars(self)]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values)})"

    @property
    def backlog(self) -> int:
        """How many of its instants may wait for a free worker, or be caught up; older ones are missed."""
        return 1 if self.coalesce else self.catchup_limit

    @property
    def path(self) -> str:
        """The path of the request, percent-encoded as it was written."""
        return self.action.partition("?")[0]

    @property
    def query(self) -> str:
        """The query of the request, without its question mark."""
        return self.action.partition("?")[2]

    @property
    def hook_paths(self) -> tuple[str, ...]:
        """The paths of the application that are told of its records."""
        if not (self.on_success or self.on_failure or self.on_missed or self.on_timeout):
            return ()
        hooks = (self.on_success, self.on_failure, self.on_missed, self.on_timeout)
        return tuple(hook.partition("?")[0] for hook in hooks if hook and hook.startswith("/"))

    def _conflicts(self) -> list[Fault]:
        faults = []
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            faults.append(Fault(key="name", shown=shown(self.name), problem=TASK_NAME))
        if self.cron is not None or self.at is not None:
            faults += self._conflicts_of_schedules()
        if self.start_date is not None and self.end_date is not None and self._ends_before_it_starts():
            faults.append(self._conflict("end_date", f"want an instant after start_date ({self.start_date})"))
        return faults

    def _conflicts_of_schedules(self) -> Iterator[Fault]:
        first, *others = (name for name in SCHEDULES if getattr(self, name) is not None)
        for name in others:
            yield self._conflict(name, f"excludes {first}: a task has one schedule")
        if first != "interval" and self.offset != options_of(Task)["offset"].value:
            yield self._conflict("offset", f"goes with interval only, not with {first}")

    def _conflict(self, name: str, problem: str) -> Fault:
        value = getattr(self, name)
        written = reader.spell(value) if isinstance(value, timedelta) else str(value)
        return options_of(Task)[name].fault(written, problem)

    def _ends_before_it_starts(self) -> bool:
        start, end = self.start_date, self.end_date
        if not (isinstance(start, datetime) and isinstance(end, datetime)):
            return False  # one of them is refused already
        zone = self.timezone if isinstance(self.timezone, ZoneInfo) else ZoneInfo("UTC")
        return _aware(end, zone) < _aware(start, zone)


_NAME: Final = re.compile(r"[\w-]*")
TASK_NAME: Final = "want a task name of letters, digits, _ and - (no dots): pulse.task.<name>.<option>"


def _aware(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=zone)


MOST_THREADS: Final = 256
SHARED_STORES: Final = frozenset({"redis", "rediss", "unix", "postgres", "postgresql"})


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
        reader.optional(reader.integer(1, 100_000)),
        "whole number, 1 to 256",
        "Concurrent runs of a process; from 2 on, two quick ones more beside runs that last. If not given 4, in "
        "mode `threading` any number more beside runs that last; in mode `asyncio` 1000, and any number.",
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
        address.store,
        "`auto`, `memory:`, `sqlite:<path>`, `redis://`, `rediss://`, `unix://`, `postgresql://`",
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
        reader.optional(reader.broker),
        "URL",
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
        if scheme.lower() in SHARED_STORES and not self.name:  # an address that is refused wants one as well
            faults.append(
                Fault(key="name", shown="''", problem="want a name: the store may be shared with other applications")
            )
        if refused.isdisjoint({"mode", "workers"}) and self._has_too_many_threads():
            problem = f"want a whole number from 1 to {MOST_THREADS}; only in mode asyncio it may be more"
            faults.append(options_of(Config)["workers"].fault(self.workers, problem))
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


CELERY: Final = "goes with mode celery only"


def _celery_faults(config: Config) -> list[Fault]:
    """What does not go together with mode celery, or without it; options that nobody reads are refused."""
    options = options_of(Config)
    if config.mode != "celery":
        return [options["broker"].fault(config.broker, CELERY)] if config.broker is not None else []
    faults = []
    if config.broker is None:
        problem = "want the address of Celery's broker, such as redis://host:6379/0 or amqp://user:password@host"
        faults.append(Fault(key="broker", shown="''", problem=problem))
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
    return [(task, options[name].fault(value, CELERY)) for task, name, value in said if value is not None]


class Trigger(Enum):
    """Why a run was due."""

    SCHEDULE = "schedule"
    CATCHUP = "catchup"
    MANUAL = "manual"
    STARTUP = "startup"
    RETRY = "retry"
    RECOVER = "recover"


class Outcome(Enum):
    """What became of a due instant; every one ends as exactly one of these."""

    SUCCESS = "success"  # answered with an expected status
    FAILED = "failed"  # another status, an exception, or a breach of WSGI
    TIMEOUT = "timeout"  # its deadline passed, whether it then stopped or was given up
    CANCELLED = "cancelled"  # was asked to stop, and did
    ABANDONED = "abandoned"  # was asked to stop, did not, and was left behind
    LOST = "lost"  # its runner died, or froze for longer than its lease
    MISSED = "missed"  # nobody ran it in time
    SKIPPED = "skipped"  # not run on purpose: the task was still running, or paused


@dataclass(frozen=True, kw_only=True, slots=True)
class Fire:
    """One planned run, before anyone has claimed it.

    Attributes:
        task: The name of the task.
        due: The planned instant, aware UTC.
        latest: The last instant at which a start is useful; None for no such limit.
        trigger: Why it is due. A `MANUAL` fire stands beside the schedule: it moves no
            cursor, and its `due` is the instant of the call.
        run_id: Of the run that it becomes; for a planned instant it is the same in every
            process of the fleet, and for every attempt.
        place: The host or process whose own instant this is; empty for one of the fleet.
        attempt: 1, or which further attempt of the run this is; such a one waits in the store,
            unless somebody has asked for it by hand.
        is_forced: A call by hand that observes no limits.
        is_reserved: It was claimed for a queue (`Run.is_reserved`), and is taken from there.
        is_in_turn: Its instant was missed, as were others that are all to be run: it waits for
            the end of the one before, wherever that is run, whatever the task says of overlaps.
    """

    task: str
    due: datetime
    latest: datetime | None = None
    trigger: Trigger = Trigger.SCHEDULE
    run_id: str = ""
    place: str = ""
    attempt: int = 1
    is_forced: bool = False
    is_reserved: bool = False
    is_in_turn: bool = False

    def __post_init__(self) -> None:
        if not self.run_id:
            object.__setattr__(self, "run_id", _run_id(f"{track_of(self.task, self.place)} {iso(self.due)}"))

    @property
    def track(self) -> str:
        """What has a cursor of its own in the store: the task, or the task at one place."""
        return track_of(self.task, self.place)


def track_of(task: str, place: str) -> str:
    """The name of the cursor of *task* at *place*; a task's own name has no @."""
    return f"{task}@{place}" if place else task


_RUNS: Final = uuid5(NAMESPACE_URL, "urn:pulse:run")
_HASH: Final = sha1(_RUNS.bytes, usedforsecurity=False)
_VARIANT: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


def _run_id(name: str) -> str:
    """`uuid5(_RUNS, name).hex`, in a third of its time: each process makes one for each of its fires."""
    known = _HASH.copy()
    known.update(name.encode())
    digits = known.hexdigest()
    return f"{digits[:12]}5{digits[13:16]}{_VARIANT[digits[16]]}{digits[17:32]}"


QUEUE: Final = "celery queue"  # the owner of what nobody has taken from there; no host's name has a blank


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One claimed fire and what became of it, or a span of instants that nobody ran.

    Attributes:
        id: `Fire.run_id`.
        task: The name of the task.
        due: The planned instant; of a span, the last one.
        trigger: Why it was due.
        attempt: 1, and one more for each time the same fire is run again.
        owner: The process that claimed it; empty for a span.
        started: When it was claimed, just before the request; None for a span.
        expires: When its lease ends unless renewed; None for a span.
        finished: When it ended; None while it runs.
        outcome: None while it runs.
        reason: Why the outcome is what it is, in a few words.
        status: The HTTP status of the answer; None if there was none.
        duration: Seconds from request to the end of the response, monotonic.
        body: The first bytes of the response.
        errors: The first bytes that were written to `wsgi.errors`, and the traceback.
        first_due: Of a span, the first instant; else None.
        count: How many instants this record stands for.
        place: `Fire.place`.
        recovers: Whether it is run again when it is lost.
        lock: The word that its task shares with others; empty for none.
        stop: Why it was asked to stop; empty if it was not.
        progress: How far it has got, if it says so.
        result: What the endpoint said of it, in `X-Pulse-Result`.
        again_at: When it is tried once more, if it is.
        request: The method and the path that were requested; empty if nothing was.
        headers: Those of the response, a line each; secrets are masked.
        log: The last lines that were logged inside the run, a bounded number.
    """

    id: str
    task: str
    due: datetime
    trigger: Trigger = Trigger.SCHEDULE
    attempt: int = 1
    owner: str = ""
    started: datetime | None = None
    expires: datetime | None = None
    finished: datetime | None = None
    outcome: Outcome | None = None
    reason: str = ""
    status: int | None = None
    duration: float | None = None
    body: bytes = b""
    errors: bytes = b""
    first_due: datetime | None = None
    count: int = 1
    place: str = ""
    recovers: bool = False
    lock: str = ""
    stop: str = ""
    progress: "Progress | None" = None
    result: str = ""
    again_at: datetime | None = None
    request: str = ""
    headers: str = ""
    log: bytes = b""

    def without_output(self) -> "Run":
        """The same without what it wrote, which is for whoever opens this one run."""
        return replace(self, body=b"", errors=b"", headers="", log=b"")

    @property
    def track(self) -> str:
        """`Fire.track`."""
        return track_of(self.task, self.place)

    @property
    def is_waiting(self) -> bool:
        """Whether this is a further attempt that nobody has begun; its time comes at `expires`."""
        return self.started is None and self.outcome is None

    @property
    def is_reserved(self) -> bool:
        """Whether it is claimed for a queue, and nobody has taken it from there; until `expires` somebody may."""
        return self.owner == QUEUE and self.outcome is None

    @property
    def lateness(self) -> timedelta:
        """How long after its due instant it started."""
        return (self.started or self.due) - self.due


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run has got, in its own words: *done* of *total*, if it knows how much there is."""

    done: float
    total: float | None = None
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Consecutive due instants of one task: from *first* to *last*, *count* of them."""

    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a claim has to observe beside the schedule.

    Attributes:
        instances: How many runs of the task may be under way at once; None for any.
        waits: At the limit the fire is to wait for its turn, and not to be skipped.
        replaces: The runs that are under way are to be asked to stop.
        recovers: A lost run is to be run again.
        lock: Only one run of all tasks with this word may be under way; empty for none.
    """

    instances: int | None = 1
    waits: bool = False
    replaces: bool = False
    recovers: bool = False
    lock: str = ""

    @classmethod
    def of(cls, task: Task, fire: Fire) -> "Limits":
        """What *task* says about the run of *fire*."""
        return cls(
            instances=None if task.overlap == "allow" or fire.is_forced else task.max_instances,
            waits=fire.is_in_turn or task.overlap in ("queue", "replace"),
            replaces=task.overlap == "replace" and not (fire.is_forced or fire.is_in_turn),
            recovers=task.recover and fire.trigger is not Trigger.MANUAL,
            lock="" if fire.is_forced else task.lock or "",
        )


class Claim(Enum):
    """How a store answers the wish to run a fire."""

    WON = "won"  # it is yours: run it
    TAKEN = "taken"  # this instant, or a later one, has been claimed or recorded already
    BUSY = "busy"  # the task is still running: recorded as skipped
    PAUSED = "paused"  # the task is paused: recorded as skipped
    STALE = "stale"  # its latest useful start has passed: recorded as missed
    WAIT = "wait"  # not now, and not for ever: ask again; there is no record
    REFUSED = "refused"  # the store does not know the task, so it may have lost its memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """The answer to a claim.

    Attributes:
        answer: One of `Claim`.
        run: The run that was won, or the record that was made instead; None if there is none.
        missed: The record of the instants that this claim passed over, if there were any.
        lost: The records of runs of the task whose leases it found to have ended.
    """

    answer: Claim
    run: Run | None = None
    missed: Run | None = None
    lost: tuple[Run, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """A task is not run by the schedule for a while; calls by hand go on.

    Attributes:
        since: When it was paused.
        until: When it ends by itself; None for never.
        note: Why.
        by: Who did it.
    """

    since: datetime
    until: datetime | None = None
    note: str = ""
    by: str = ""

    def holds(self, now: datetime) -> bool:
        """Whether it has not ended by itself."""
        return self.until is None or now < self.until

    @property
    def reason(self) -> str:
        """What the records of instants say that it took."""
        return f"the task is paused: {self.note}" if self.note else "the task is paused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Press:
    """Something that somebody had done to a task.

    Attributes:
        at: When.
        by: Who, as far as they said.
        address: From where; behind a proxy that is the proxy's, and of a command it is `command line`.
        action: In words: `run now`, `pause`.
        task: Of which task.
        details: What else they said, in words.
    """

    at: datetime
    by: str
    address: str
    action: str
    task: str
    details: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A process that rings, as it tells the others of its fleet.

    Attributes:
        owner: Its identity (`pulse.instance`).
        started: When it began to ring.
        seen: When it was last heard of.
        digest: The fingerprint of its whole configuration.
        server: What serves in it, or why it rings, in a few words.
        version: Of Pulse.
    """

    owner: str
    started: datetime
    seen: datetime
    digest: str
    server: str = ""
    version: str = ""
