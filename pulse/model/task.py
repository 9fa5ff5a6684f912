"""What a task is: its options, each with its reader, default and sentence."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from pulse import reader
from pulse.errors import Fault
from pulse.option import option, options_of, shown, sparse

YEAR: Final = timedelta(days=366)
DEFAULT_INTERVAL: Final = timedelta(seconds=300)
SCHEDULES: Final = ("interval", "cron", "at")  # a task has one of these
_NAME: Final = re.compile(r"[\w-]{0,200}")  # an index of PostgreSQL takes no text of some thousand
TASK_NAME: Final = "want a task name of at most 200 letters, digits, _ and - (no dots): pulse.task.<name>.<option>"


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
        "duration, 0s to 366d, or `hash`",
        "Moves the instants of `interval`; `hash` spreads tasks by their names, the same on every host.",
    )
    jitter: timedelta = option(
        "0s",
        reader.duration(0, YEAR),
        "duration, 0s to 366d",
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
        "1h", reader.limit(YEAR), "duration, 0.1s to 366d, 0 for none", "How long a run may take before it is given up."
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
        "duration, 0.1s to 366d, `auto`, `none`",
        "How late a run may still start: `auto` until the next instant, `none` at any time.",
    )
    coalesce: bool = option(True, reader.boolean, "boolean", "Whether many missed instants become one run.")
    catchup_limit: int = option(
        10,
        reader.integer(1, 1000),
        "whole number, 1 to 1000",
        "The most missed instants that are run without `coalesce`.",
    )
    overlap: str = option(
        "skip",
        reader.choice("skip", "queue", "allow", "replace"),
        "`skip`, `queue`, `allow`, `replace`",
        "What is due while `max_instances` runs are under way: is skipped, waits for its turn, runs beside them, or "
        "asks them to stop and takes their place.",
    )
    max_instances: int = option(
        1,
        reader.integer(1, 1000),
        "whole number, 1 to 1000",
        "How many runs may be under way at once over the `scope`.",
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
        "whole number, 0 to 1000",
        "How often a run that failed is tried again before the next instant.",
    )
    retry_delay: timedelta = option(
        "10s",
        reader.duration(0, YEAR),
        "duration, 0s to 366d",
        "How long after a failure; a `Retry-After` of the answer wins.",
    )
    retry_backoff: float = option(
        "2", reader.number(1, 100), "number, 1 to 100", "By how much the delay grows with each further attempt."
    )
    retry_max_delay: timedelta = option(
        "1h", reader.duration(0, YEAR), "duration, 0s to 366d", "The most that it grows to."
    )
    retry_status: frozenset[int] = option(
        "429 500-599",
        reader.statuses,
        "statuses and ranges",
        "Which answers are worth another attempt; a run without an answer always is.",
    )
    pause_on_failure: int = option(
        0,
        reader.integer(0, 1000),
        "whole number, 1 to 1000, 0 for never",
        "Pauses the task after so many failures in a row.",
    )
    grace: timedelta | Literal["auto"] | None = option(
        "auto",
        reader.grace(YEAR),
        "duration, 0.1s to 366d, `auto`, `none`",
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
        reader.optional(reader.from_environment(reader.url)),
        "URL, `env:NAME`",
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
    def zone(self) -> ZoneInfo:
        """The zone by which it lives."""
        return self.timezone or ZoneInfo("UTC")

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


def _aware(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=zone)
