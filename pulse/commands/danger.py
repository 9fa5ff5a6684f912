"""What a sound configuration may still do to its owner: the warnings of `pulse check`."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from pulse import reader
from pulse.commands.instant import clock_time, spoken
from pulse.config import option_key
from pulse.meant import CONFIG, DEFAULT
from pulse.model import SCHEDULES, Config, Task
from pulse.option import options_of
from pulse.schedule import Schedule, schedule_of
from pulse.zone import Stretch, instant_of, stretches_from

YEAR: Final = timedelta(days=366)
MINUTE: Final = timedelta(minutes=1)
SECOND: Final = timedelta(seconds=1)
GUARD: Final = f"{CONFIG}guard"
TOKEN: Final = f"{CONFIG}token"
SLIPS: Final = 50  # tasks that are compared with all others, which takes each of them 30 us

_DEVELOPMENT: Final = re.compile(r"(^|[^a-z])(dev|test|local)", re.IGNORECASE)


def dangers(config: Config, written: Mapping[str, str], file: str, now: datetime) -> Iterator[str]:
    """What *config* may do that nobody wants, a sentence each.

    Args:
        config: Without faults.
        written: Its options as somebody wrote them.
        file: The name of the file; it tells whether this is for development.
        now: Aware.
    """
    if not config.tasks:
        yield "there are no tasks: nothing will run"
    elif not config.guard and not _is_open_on_purpose(written, file):
        yield f"{GUARD} is off: whoever reaches the server can call the endpoints of the tasks"
    yield from _dead_letters(config, written)
    if TOKEN in written and not str(written[TOKEN]).strip().startswith(("env:", "file:")):
        yield f"{TOKEN} stands in the file itself: write env:NAME or file:/path instead"
    if config.store == "memory:" and not _DEVELOPMENT.search(Path(file).name):
        yield f"{CONFIG}store = memory: is known to one process alone: with several, each runs every task"
    yield from _doubles(config)
    yield from _behind_status(config)
    yield from _likenesses(config, written)
    if config.mode == "celery" and config.store.partition(":")[0] in ("auto", "sqlite"):
        yield f"{CONFIG}store is a file of this host: workers of Celery elsewhere find none of the runs"
    for name, task in config.tasks.items():
        yield from (f"{name}: {danger}" for danger in _dangers_of_request(task))
        if task.enabled:
            said = {option for option in options_of(Task) if _is_said(option, name, written)}
            yield from (f"{name}: {danger}" for danger in _dangers_of(task, now, said))
            yield from (f"{name}: {danger}" for danger in _without_effect(task, said))


def _is_said(option: str, name: str, written: Mapping[str, str]) -> bool:
    """Whether somebody wrote *option* for the task *name*, or for all tasks."""
    return option_key(name, option) in written or DEFAULT + option in written


def _is_open_on_purpose(written: Mapping[str, str], file: str) -> bool:
    return GUARD in written and bool(_DEVELOPMENT.search(Path(file).name))


def _doubles(config: Config) -> Iterator[str]:
    def request(task: Task) -> tuple[str, str, bytes]:
        return task.action, task.method, task.body

    for (action, _, _), tasks in groupby(sorted(config.tasks.values(), key=request), request):
        names = [task.name for task in tasks]
        if len(names) > 1:
            yield f"{' and '.join(names)} request the same path, {action}"


def _behind_status(config: Config) -> Iterator[str]:
    """The status page takes every request from outside that comes below it."""
    mount = (config.status or "").rstrip("/")
    for name, task in config.tasks.items() if config.status else ():
        if task.path == mount or task.path.startswith(f"{mount}/"):
            yield (
                f"{name}: {task.path} lies below the status page at {config.status}: its runs reach it, "
                "and calls with the token do not"
            )


def _dead_letters(config: Config, written: Mapping[str, str]) -> Iterator[str]:
    """Options of the filter that have no effect."""
    if config.tasks and not config.enabled:
        yield f"{CONFIG}enabled is off: nothing will run"
    if TOKEN in written and not config.guard and config.status is None:
        yield f"{TOKEN} opens only what is internal_only: {GUARD} is off, and there is no status page"


def _likenesses(config: Config, written: Mapping[str, str]) -> Iterator[str]:
    """Tasks that may be one, spelt in two ways."""

    def plain(name: str) -> str:
        return name.lower().replace("-", "_")

    for _, names in groupby(sorted(config.tasks, key=plain), plain):
        alike = list(names)
        if len(alike) > 1:
            yield f"{' and '.join(alike)} are different tasks, although their names are alike"
    decided = [
        name
        for name in config.tasks
        if option_key(name, "action") in written or any(_is_said(option, name, written) for option in SCHEDULES)
    ]
    known = {*decided}
    bare = [name for name in config.tasks if name not in known] if written else []
    # A slip of the pen is rare: where many tasks say neither, that is how somebody writes them.
    for name in bare if len(bare) <= SLIPS else ():
        if near := get_close_matches(name, decided, n=1):
            yield f"{name} has neither an action nor a schedule: it is a task of its own, not {near[0]!r}"


def _dangers_of_request(task: Task) -> Iterator[str]:
    if re.search("[{}<>]", task.path):
        yield f"its path {task.path} is requested as it stands: nothing fills in what is in brackets"
    if task.body and task.method in ("GET", "HEAD"):
        yield f"it sends a body with {task.method}, which applications do not read: want method = POST"


def _without_effect(task: Task, said: Collection[str]) -> Iterator[str]:
    """Options of a task that somebody wrote, and that others make void."""
    if task.overlap == "allow" and "max_instances" in said:
        yield "max_instances has no effect with overlap = allow"
    if task.coalesce and "catchup_limit" in said:
        yield "catchup_limit has no effect with coalesce = true: all missed instants are one run"
    if not task.retries:
        idle = [
            option for option in ("retry_delay", "retry_backoff", "retry_max_delay", "retry_status") if option in said
        ]
        if idle:
            yield f"{', '.join(idle)} has no effect without retries"
    if not task.body and "content_type" in said:
        yield "content_type has no effect without a body"


def _steps(task: Task) -> Iterator[str]:
    """Steps that are longer than their field: `*/90` of minutes is each full hour."""
    fields = (task.cron or "").split()
    for field, (unit, most) in zip(reversed(fields), reversed(_FIELDS), strict=False):
        step = re.search(r"\*/([0-9]+)", field)
        if step and int(step[1]) >= most:
            yield f"cron = {task.cron}: {step[0]} is only the first {unit} of each round: want an interval"


_FIELDS: Final = (("second", 60), ("minute", 60), ("hour", 24), ("day", 31), ("month", 12), ("day of the week", 7))


def _dangers_of(task: Task, now: datetime, said: Collection[str]) -> Iterator[str]:
    schedule = schedule_of(task)
    if task.cron == reader.MANUALLY:
        return
    due = schedule.next_due(now)
    if due is None:
        yield _never(task, schedule, now)
        return
    following = schedule.next_due(due)
    if following and "timeout" in said:
        yield from _long_timeout(task, following - due)
    if following and task.retries and task.retry_delay >= following - due:
        yield (
            f"retries have no effect: retry_delay = {reader.spell(task.retry_delay)} ends no sooner than "
            f"the next instant, {reader.spell(following - due)} later"
        )
    yield from _short_graces(task)
    yield from _steps(task)
    if not task.coalesce and task.misfire_grace_time == "auto":
        yield (
            "coalesce = false has no effect with misfire_grace_time = auto: "
            "all missed instants but the last are recorded as missed, and never run"
        )
    if task.cron is not None:
        yield from _clock_changes(task, schedule, now)
    elif remark := schedule.remark(due):
        yield f"at = {spoken(due, task.zone)}: {remark}"


def _short_graces(task: Task) -> Iterator[str]:
    """Times that a sound run may well exceed."""
    if isinstance(task.misfire_grace_time, timedelta) and task.misfire_grace_time < SECOND:
        yield (
            f"misfire_grace_time = {reader.spell(task.misfire_grace_time)}: on a busy host, or with a slow store, "
            "runs begin later, and are recorded as missed"
        )
    if isinstance(task.grace, timedelta) and task.grace < max(task.jitter, MINUTE):
        yield f"grace = {reader.spell(task.grace)}: the task is overdue whenever a run begins or lasts longer"


def _never(task: Task, schedule: Schedule, now: datetime) -> str:
    for option in ("at", "end_date"):
        moment = getattr(task, option)
        if moment is not None and instant_of(moment, task.zone) <= now:
            return f"{option} = {moment.isoformat(' ', 'minutes')} has passed: it is never due again"
    return f"it is never due ({schedule.describe()})"


def _long_timeout(task: Task, gap: timedelta) -> Iterator[str]:
    if task.timeout is None:
        yield "timeout = 0: a run that hangs keeps the task from running ever again"
    elif task.timeout > gap:
        yield (
            f"timeout = {reader.spell(task.timeout)} is longer than the {reader.spell(gap)} from one instant "
            "to the next: what is due while a run lasts is skipped"
        )


def _clock_changes(task: Task, schedule: Schedule, now: datetime) -> Iterator[str]:
    """What the next change to summer time does to a cron task, and what the next one back does.

    A task of every hour follows real time, and has nothing to fear.
    """
    if task.cron is None or task.cron.split()[-4] == "*":
        return
    zone = task.zone
    warned: set[bool] = set()
    for stretch in stretches_from(zone, now, years=1):
        is_forward = stretch.before < stretch.offset
        is_near = now < stretch.begin <= now + YEAR
        if is_near and is_forward not in warned and _is_within(task, stretch.begin, zone):
            danger = _clock_change(task, schedule, stretch, zone)
            warned.update([is_forward] if danger else [])
            yield from danger


def _is_within(task: Task, instant: datetime, zone: ZoneInfo) -> bool:
    is_begun = task.start_date is None or instant_of(task.start_date, zone) <= instant
    return is_begun and (task.end_date is None or instant <= instant_of(task.end_date, zone))


def _clock_change(task: Task, schedule: Schedule, stretch: Stretch, zone: ZoneInfo) -> list[str]:
    """What happens to the times that the clock skips, or shows twice, when *stretch* begins."""
    change, before, after = stretch.begin, stretch.before, stretch.offset
    # The same times by a clock that never jumps: UTC stands for the clock on the wall.
    plain = schedule_of(replace(task, timezone=ZoneInfo("UTC"), start_date=None, end_date=None))
    start, stop = change + min(before, after), change + max(before, after)
    first, last = plain.due_from(start), plain.due_before(stop)
    if first is None or last is None or first >= stop:
        return []
    times = clock_time(first) if first == last else f"{clock_time(first)} to {clock_time(last)}"
    day = f"on {first:%d %b %Y} in {zone}"
    if before < after:
        is_made_up = schedule.previous_due(change) == change
        fate = f"runs at {clock_time(change.astimezone(zone))}" if is_made_up else "does not run then"
        return [f"{times} does not exist {day}, {fate}"]
    span = before - after
    just = timedelta(microseconds=1)
    count = schedule.count(change - span - just, change + span - just)
    is_repeated = count > plain.count(start - just, stop - just)
    return [f"{times} comes twice {day}, {'runs both times' if is_repeated else 'runs once'}"]
