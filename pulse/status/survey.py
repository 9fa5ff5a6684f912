"""How all tasks are doing, without asking the store about all of them each time.

The newest record of a task can only change when the task was due, when a run of it has
ended, or when somebody ran it by hand. So a task is looked at again when its next instant
has come, and once a minute; and the store is asked about many at once. Ten thousand tasks
cost a page some milliseconds.
"""

import heapq
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final

from pulse.clock import Clock
from pulse.fleet import digest_of
from pulse.instance import is_gone
from pulse.model import Config, Instance, Outcome, Pause, Run, Task, Trigger
from pulse.runstores.base import RunStore, Totals
from pulse.schedule import Schedule
from pulse.standing import State, state_by
from pulse.status.overdue import overdue_since

LOOK_AGAIN: Final = timedelta(seconds=60)  # a run by hand may begin and end between two looks
PENDING: Final = timedelta(seconds=1)  # what was due has no record yet
DEPTH: Final = 10  # records of a task whose newest one does not tell how it is doing
BATCH: Final = 500  # tasks that the store is asked about at once, between two looks at the clock
MANY: Final = 20  # tasks whose totals are asked for one by one; of more, those of all come at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """What the store says of the whole fleet at one instant.

    Attributes:
        now: The instant, by the store's clock if it has one.
        held: Runs under way and attempts that wait, by task.
        pauses: Those that hold, by task.
        alive: The instances that were heard of lately.
        gone: Those that were not, and have not said that they leave.
    """

    now: datetime
    held: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    alive: Sequence[Instance] = ()
    gone: Sequence[Instance] = ()

    def running(self, task: str) -> list[Run]:
        """The runs of *task* that have begun."""
        return [run for run in self.held.get(task, ()) if run.started]

    def rung_since(self, digest: str) -> datetime | None:
        """Since when somebody rings by the configuration *digest* without a break; None if nobody does."""
        return min((one.started for one in self.alive if one.digest == digest), default=None)


@dataclass(slots=True)
class _Seen:
    """What was last read of a task."""

    records: tuple[Run, ...] = ()
    last_success: datetime | None = None
    is_read: bool = False


class Survey:
    """The newest records of all tasks of a filter; safe to use from any thread.

    Attributes:
        config: Of the filter.
        schedules: Of its tasks, by name.
        store: Where the records are.
    """

    def __init__(
        self,
        config: Config,
        schedules: Mapping[str, Schedule],
        store: RunStore,
        clock: Clock,
        known_digest: Callable[[], str] = str,
    ) -> None:
        """Wire it; nothing is read before `refresh`. *known_digest*: the fingerprint of *config*, or nothing."""
        self._known_digest = known_digest
        self.config = config
        self.schedules = schedules
        self.store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = {name: _Seen() for name in self.config.tasks}
        self._looks: list[tuple[datetime, str]] = []
        self._next_look: dict[str, datetime] = {}
        self._unread = list(self.config.tasks)[::-1]
        self._busy: frozenset[str] = frozenset()
        self._is_begun = False
        self._totals: Mapping[str, Totals] | None = None  # while it looks

    @cached_property
    def digest(self) -> str:
        """The fingerprint of the configuration by which this process lives."""
        # Of many tasks it takes a while, which the scheduler of this process has spent already.
        return self._known_digest() or digest_of(self.config)

    @property
    def unread(self) -> int:
        """Of how many tasks nothing is known yet."""
        return len(self._unread)

    def moment(self) -> Moment:
        """What the store says of the fleet now.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        now = self.store.now() or self._clock.now()
        held: dict[str, list[Run]] = {}
        for run in (*self.store.running(), *self.store.waiting()):
            if run.task in self.config.tasks and run not in held.setdefault(run.task, []):
                held[run.task].append(run)
        instances = self.store.instances()
        # Each says that it is alive three times in a lease; of one on this host it is seen at once.
        alive = [one for one in instances if now - one.seen <= self.config.lease and not is_gone(one.owner)]
        living = {one.owner for one in alive}
        return Moment(
            now=now,
            held=held,
            pauses={name: pause for name, pause in self.store.pauses().items() if pause.holds(now)},
            alive=alive,
            gone=[one for one in instances if one.owner not in living],
        )

    def refresh(self, moment: Moment, seconds: float) -> None:
        """Look at the tasks of which there may be news, for about *seconds* at the most.

        What is left is looked at by the next call. If another thread is looking just now,
        what it has found so far is taken.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            end = self._clock.monotonic() + seconds
            busy = frozenset(name for name in moment.held if name in self._seen)
            self._look(self._busy - busy, moment)
            self._busy = busy
            if not self._is_begun:
                self._look_at_newest(moment)
                self._is_begun = True
                if self._clock.monotonic() >= end:
                    return
            while names := self._next(moment.now):
                self._look(names, moment)
                if self._clock.monotonic() >= end:
                    return
        finally:
            self._totals = None
            self._lock.release()

    def note(self, name: str, records: Sequence[Run], last_success: datetime | None = None) -> None:
        """Take what was read of the task *name* elsewhere, newest first, and without what its runs wrote."""
        kept = tuple(records[:DEPTH])
        known = [last_success, self._seen[name].last_success]
        known += [run.finished for run in records if run.outcome is Outcome.SUCCESS]
        newest = max((instant for instant in known if instant), default=None)
        self._seen[name] = _Seen(kept, newest, is_read=True)

    def records(self, name: str) -> tuple[Run, ...]:
        """The newest records of *name*, as far as they were looked at: one at least, if there is one."""
        return self._seen[name].records

    def state(self, task: Task, moment: Moment) -> State | None:
        """How *task* is doing; None if it was not looked at yet."""
        seen = self._seen[task.name]
        plain = self._plain_state(task, moment)
        if plain is not None or not seen.is_read:
            return plain
        if not seen.records:
            return State.LATE if self.overdue(task, moment) else State.NEW
        return state_by(seen.records, task, self.schedules[task.name], moment.now)

    def overdue(self, task: Task, moment: Moment) -> datetime | None:
        """The instant since which *task* is overdue; see `pulse.status.overdue`."""
        seen = self._seen[task.name]
        if not seen.is_read or task.name in moment.pauses or not self.rings_for(task):
            return None
        is_trimmed = len(seen.records) >= DEPTH
        # Of many tasks the fingerprint takes its time, and mostly the records tell enough.
        is_plain = is_trimmed or bool(seen.records and _tells(seen.records[0]))
        return overdue_since(
            task,
            self.schedules[task.name],
            moment.now,
            records=seen.records,
            last_success=seen.last_success,
            under_way=moment.held.get(task.name, ()),
            is_trimmed=is_trimmed,
            known_since=None if is_plain else moment.rung_since(self.digest),
        )

    def rings_for(self, task: Task) -> bool:
        """Whether *task* is to run by itself, as far as the configuration goes."""
        return self.config.enabled and task.enabled

    def misses_ringing(self, moment: Moment) -> bool:
        """Whether no process rings though some task is to run by itself."""
        return not moment.alive and any(map(self.rings_for, self.config.tasks.values()))

    # What is plain to see

    def _plain_state(self, task: Task, moment: Moment) -> State | None:
        if moment.running(task.name):
            return State.RUNNING
        if not self.rings_for(task):
            return State.DISABLED
        return State.PAUSED if task.name in moment.pauses else None

    # Looking

    def _next(self, now: datetime) -> list[str]:
        """Some tasks to look at next: those that were never looked at, and those whose time has come."""
        names, self._unread = self._unread[:BATCH], self._unread[BATCH:]
        while len(names) < BATCH and self._looks and self._looks[0][0] <= now:
            when, name = heapq.heappop(self._looks)
            if self._next_look[name] == when:  # else another look has come between
                names.append(name)
        return names

    def _plan(self, name: str, when: datetime) -> None:
        self._next_look[name] = when
        heapq.heappush(self._looks, (when, name))

    def _look(self, names: Collection[str], moment: Moment) -> None:
        """Read what is newest of *names*, and note when to look again."""
        if not names:
            return
        try:
            found = self._read(names)
        except BaseException:
            for name in names:
                self._plan(name, moment.now)  # or nobody would ever look again
            raise
        self._take(found, moment)

    def _look_at_newest(self, moment: Moment) -> None:
        """Read the newest record of every task; those of which it does not tell enough stay unread."""
        newest = self.store.newest()
        plain = [name for name in self._unread if name in newest and _tells(newest[name])]
        self._take({name: ([newest[name]], None) for name in plain}, moment)
        self._unread = [name for name in self._unread if not self._seen[name].is_read]

    def _take(self, found: Mapping[str, tuple[Sequence[Run], datetime | None]], moment: Moment) -> None:
        for name, (records, last_success) in found.items():
            self.note(name, records, last_success)
            self._plan(name, self._look_again(name, records, moment))

    def _read(self, names: Collection[str]) -> Mapping[str, tuple[Sequence[Run], datetime | None]]:
        """The newest records of each of *names*, and its last success where they do not tell."""
        newest = dict(self.store.brief(names, 1))
        silent = [name for name in names if not (newest.get(name) and _tells(newest[name][0]))]
        deeper = [name for name in silent if newest.get(name)]
        newest |= self.store.brief(deeper, DEPTH) if deeper else {}
        successes = self._last_successes(silent)
        return {name: (newest.get(name, ()), successes.get(name)) for name in names}

    def _last_successes(self, names: Iterable[str]) -> Mapping[str, datetime | None]:
        wanted = list(names)
        if len(wanted) > MANY:
            # Those of all tasks: once for all that this look asks about, and not once for each few hundred of them.
            if self._totals is None:
                self._totals = self.store.all_totals()
            return {name: totals.last_success for name, totals in self._totals.items()}
        return {name: self.store.totals(name).last_success for name in wanted}

    def _look_again(self, name: str, records: Collection[Run], moment: Moment) -> datetime:
        now, schedule = moment.now, self.schedules[name]
        due = schedule.previous_due(now)
        is_pending = due is not None and due > now - LOOK_AGAIN and not any(run.due >= due for run in records)
        if is_pending and name not in moment.held:
            return now + PENDING
        following = schedule.next_due(now)
        return min(following or now + LOOK_AGAIN, now + LOOK_AGAIN)


def _tells(newest: Run) -> bool:
    """Whether the newest record alone says how its task is doing."""
    return newest.trigger is not Trigger.MANUAL and newest.outcome is Outcome.SUCCESS
