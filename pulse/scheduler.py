"""The bell: turns due instants into fires, and hands them to the workers.

APScheduler keeps time. It is given a job store that holds no jobs, but a heap of all tasks:
asked for what is due, it rings for every task that is due by then, and what it says is due
next is the head of the heap. So ten thousand tasks start in milliseconds, and a fire costs a
heap operation instead of a job. The instants themselves come from `pulse.schedule` alone, so
every process of a fleet finds the same.

A task whose instants have passed unrun rings once, for the last of them or, without `coalesce`,
for all: then it hands over from where to where they are (`Missed`), and the workers make each
fire when its turn has come. After an outage every task may be late: these ring behind those
that are on time, `AT_ONCE` of them at a time.
"""

import heapq
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from apscheduler.executors.debug import DebugExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from pulse.clock import Clock
from pulse.errors import ClosedError
from pulse.missed import Missed, Rung
from pulse.model import Fire, Task, Trigger, track_of
from pulse.runstores.base import RunStore
from pulse.schedule import Schedule, delay_of, latest_start

log = logging.getLogger(__name__)
_timer_log = log.getChild("timer")
_timer_log.setLevel(logging.WARNING)  # what it says at INFO is about its stores, not about tasks

# The longest sleep: while a machine is suspended its monotonic clock stands still, and a
# wall clock that steps ahead wakes nobody. Then a task rings at most this much late.
NAP: Final = timedelta(seconds=10)
FROZEN: Final = 2 * NAP  # behind such a pause the machine was suspended or frozen, or its clock set ahead
# Then no bell for a moment: other processes wake up, too, and those that hold a run have to renew its lease before
# anybody claims the next instant of its task, which would find it lost. They look once a second (`Upkeep.report`).
WAKING: Final = timedelta(seconds=2)
STEP: Final = timedelta(seconds=1)  # a step of the wall clock that is worth a line in the log
INSTANT: Final = timedelta(microseconds=1)
# The pause between two rings. Waking up costs more than a fire, so all that becomes due in the
# pause rings together. Behind a ring of many it is longer: each is a little later, and all are cheaper.
LEAST_REST: Final = timedelta(milliseconds=2)
MOST_REST: Final = timedelta(milliseconds=5)
REST_A_FIRE: Final = timedelta(milliseconds=1)
LATE: Final = timedelta(seconds=1)  # behind its time; then a task may wait for those that are on time
AT_ONCE: Final = 100  # tasks handed over in one go, and late ones in one ring: some 5 ms, in which others wait

JOIN: Final = 1.0  # seconds; a ring takes milliseconds, and does nothing once the workers are closed

Submit = Callable[[Sequence[Rung]], None]


class _Planned(NamedTuple):
    """An entry of the heap: when to ring for which due instant of a task."""

    when: datetime
    task: str
    due: datetime


class Scheduler:
    """Rings for the tasks of one process; a new object is needed after a fork."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        schedules: Mapping[str, Schedule],
        *,
        submit: Submit,
        clock: Clock,
        places: Mapping[str, str] | None = None,
    ) -> None:
        """Wire a scheduler; `plan` fills it, and `start` makes its thread.

        Args:
            tasks: Those that are to ring, by name.
            schedules: Their schedules by name.
            submit: Takes what has rung.
            clock: For what counts as due; APScheduler itself sleeps by the system's clock.
            places: `Fire.place` by task, of those that are not the fleet's.
        """
        self._tasks = tasks
        self._schedules = schedules
        self._submit = submit
        self._clock = clock
        self._places = places or {}
        self._heap: list[_Planned] = []
        self._late: deque[_Planned] = deque()  # taken from the heap, and not rung for yet
        self._first_dues: dict[str, datetime] = {}
        self._lock = threading.Lock()
        self._last_ring: datetime | None = None
        self._reached: Mapping[str, datetime] | None = None  # the cursors, while `plan_again` waits for a ring
        self._was_set_back = False
        self._timer: BackgroundScheduler | None = None

    def plan(self, cursors: Mapping[str, datetime], first_dues: Mapping[str, datetime] | None = None) -> None:
        """Note what is due after the cursor of each task; before `start`.

        What became due between a cursor and now is handled as any other late ring.

        Args:
            cursors: By task.
            first_dues: Instants, by task, that are run however late it is, if nobody has
                claimed them: those of a first start.
        """
        self._first_dues = dict(first_dues or {})
        for name, task in self._tasks.items():
            due = self._schedules[name].next_due(cursors[name])
            if due is not None:
                self._heap.append(self._entry(task, due))
        heapq.heapify(self._heap)

    @property
    def was_set_back(self) -> bool:
        """Whether the wall clock was set back since `plan_again` was last called: it is wanted."""
        return self._was_set_back

    def plan_again(self, cursors: Mapping[str, datetime]) -> None:
        """Have the next ring plan by *cursors* what is planned too late, since the clock was ahead for a while.

        A store with a clock of its own has given out nothing of what rang meanwhile: it was too early.
        Left alone, a task would not ring before the clock has come again to where it was. Safe to
        call from any thread.
        """
        with self._lock:  # else a ring that looks at this moment could drop them unread
            self._was_set_back = False
            self._reached = cursors

    def start(self) -> None:
        """Ring for everything that is planned, from now on."""
        timer = _Timer(timezone=UTC, daemon=True, logger=_timer_log)
        timer.add_executor(DebugExecutor())  # which makes no threads; there is nothing for it to execute
        timer.add_jobstore(_Heap(self, self._clock))
        timer.start()
        self._timer = timer

    def stop(self) -> None:
        """Ring no more; idempotent. Fires that were submitted are not taken back."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.shutdown(wait=False)

    def next_ring(self) -> datetime | None:
        """When the next task is due; None if none ever is."""
        with self._lock:
            head = self._late or self._heap
            return head[0].when if head else None

    def ring(self) -> int:
        """Submit the fires of every task whose time has come, but not of all that are late; for how many tasks."""
        now = self._clock.now()
        self._watch_the_wall_clock(now)
        self._plan_what_is_too_late(now)
        due = self._take(now)
        for begin in range(0, len(due), AT_ONCE):
            some = [rung for one in due[begin : begin + AT_ONCE] if (rung := self._rung(one, now))]
            try:
                self._submit(some)
            except ClosedError:
                break
            # The others are to be handed over; what is lost here, the next claims record.
            except Exception as error:  # noqa: BLE001 - it is logged
                _say_failed(error, "%d tasks could not ring", len(some))
        return len(due)

    # What is due

    def _rung(self, planned: _Planned, now: datetime) -> Rung | None:
        """What rings of the task, which is planned anew; None if it cannot be: it must not silence the others."""
        try:
            return self._ring_for(planned, now)
        except Exception as error:  # noqa: BLE001 - it is logged
            _say_failed(error, "task=%s could not ring", planned.task)
            self._put(planned._replace(when=now + NAP))
            return None

    def _ring_for(self, planned: _Planned, now: datetime) -> Rung:
        task, schedule = self._tasks[planned.task], self._schedules[planned.task]
        last, following = planned.due, schedule.next_due(planned.due)
        is_late = planned.when < now - LATE
        if following is not None and following <= now:  # more than one instant has passed
            last, is_late = self._last_passed(task, planned.due, now), True
            following = schedule.next_due(last)
        due: Fire | Missed
        if is_late and not task.coalesce:
            due = Missed(task.name, schedule, planned.due, last, partial(self._missed_fire, task))
        else:
            due = self._fire(task, last, following)
        if following is not None:
            self._put(self._entry(task, following))
        return Rung(due, task.backlog)

    def _last_passed(self, task: Task, first: datetime, now: datetime) -> datetime:
        """The last instant from *first* on whose time has come."""
        schedule = self._schedules[task.name]
        last = schedule.previous_due(now) or first
        if self._entry(task, last).when > now:  # its jitter has not passed yet
            last = schedule.due_before(last) or first
        return last

    def _missed_fire(self, task: Task, due: datetime, following: datetime | None, *, is_last: bool) -> Fire:
        """That of an instant that is caught up; made in a thread of the workers."""
        fire = self._fire(task, due, following)
        trigger = fire.trigger if is_last or fire.trigger is Trigger.STARTUP else Trigger.CATCHUP
        return replace(fire, trigger=trigger, is_in_turn=True)

    def _fire(self, task: Task, due: datetime, following: datetime | None) -> Fire:
        if self._first_dues.get(task.name) == due:
            return Fire(task=task.name, due=due, trigger=Trigger.STARTUP, place=self._places.get(task.name, ""))
        return Fire(
            task=task.name,
            due=due,
            latest=latest_start(task, due, following),
            place=self._places.get(task.name, ""),
        )

    def _entry(self, task: Task, due: datetime) -> _Planned:
        when = due
        if task.jitter:
            when += delay_of(task, due, self._schedules[task.name].next_due(due))
        return _Planned(when, task.name, due)

    # The heap

    def _take(self, now: datetime) -> list[_Planned]:
        """Everything whose time has come, earliest first, but of what is late only some, and last."""
        taken: list[_Planned] = []
        late = now - LATE
        with self._lock:
            while self._heap and self._heap[0].when <= now:
                planned = heapq.heappop(self._heap)
                (self._late if planned.when < late else taken).append(planned)
            return taken + [self._late.popleft() for _ in range(min(len(self._late), AT_ONCE))]

    def _plan_what_is_too_late(self, now: datetime) -> None:
        """See `plan_again`; here, since a ring has tasks in hand that are in no heap."""
        if self._reached is None:
            return
        with self._lock:
            cursors, self._reached = self._reached, None
            known = {entry.task: entry for entry in (*self._heap, *self._late)}
            again: dict[str, _Planned] = {}
            for name, task in self._tasks.items():
                entry, following = known.get(name), self._schedules[name].next_due(now)
                if entry is None or (following is not None and entry.due > following):
                    due = self._schedules[name].next_due(cursors[name])
                    if due is not None:
                        again[name] = self._entry(task, due)
            self._late = deque(entry for entry in self._late if entry.task not in again)
            self._heap = [entry for entry in self._heap if entry.task not in again] + [*again.values()]
            heapq.heapify(self._heap)

    def _put(self, planned: _Planned) -> None:
        with self._lock:
            heapq.heappush(self._heap, planned)

    def _watch_the_wall_clock(self, now: datetime) -> None:
        last, self._last_ring = self._last_ring, now
        if last is not None and now < last - STEP:
            self._was_set_back = True
            with suppress(Exception):  # a handler of the log may be what is broken
                log.warning(
                    "the wall clock was set back by %.1f s: what has run does not run again",
                    (last - now).total_seconds(),
                    extra={"pulse_event": "clock_set_back"},
                )


def _say_failed(error: Exception, said: str, *facts: object) -> None:
    with suppress(Exception):  # a handler of the log may be what is broken
        log.error(said, *facts, extra={"pulse_event": "ring_failed"}, exc_info=error)


def starting_points(
    tasks: Mapping[str, Task],
    schedules: Mapping[str, Schedule],
    places: Mapping[str, str],
    *,
    store: RunStore,
    now: datetime,
) -> tuple[Mapping[str, datetime], Mapping[str, datetime]]:
    """From where on to ring, for `Scheduler.plan`; makes what *store* does not know yet known to it.

    Args:
        tasks: All of them, by name.
        schedules: Their schedules by name.
        places: `Fire.place` by task, of those that are not the fleet's.
        store: Keeps the cursors.
        now: From where on what is new is due.

    Returns:
        The cursors by task, and the instants that tasks which run at startup are run for.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    tracks = {name: track_of(name, place) for name, place in places.items()}
    wanted = [name for name, task in tasks.items() if task.run_at_startup and task.enabled]
    firsts = {name: due for name in wanted if (due := schedules[name].previous_due(now))}
    new: defaultdict[datetime, list[str]] = defaultdict(list)
    for name, first in firsts.items():
        new[first].append(tracks.get(name, name))
    for first, names in new.items():
        store.register(names, now, since=first - INSTANT)
    # A task of a place is known by its own name, too, since that is what people pause and purge.
    cursors = store.register({*tasks, *tracks.values()}, now)
    return {**cursors, **{name: cursors[track] for name, track in tracks.items()}}, firsts


class _Timer(BackgroundScheduler):  # type: ignore[misc]  # APScheduler has no types
    """APScheduler's own, but for its end, which waits for its thread without a limit.

    Under gevent the thread may be of a kind whose end nobody is ever told of.
    """

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        super(BackgroundScheduler, self).shutdown(*args, **kwargs)
        self._thread.join(JOIN)


class _Heap(MemoryJobStore):  # type: ignore[misc]  # as above
    """The heap, as what APScheduler asks for the time of its next job; it never has one."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        super().__init__()
        self._tasks = scheduler
        self._clock = clock
        self._now: datetime | None = None

    def get_due_jobs(self, now: datetime) -> list[Any]:
        """Ring, in the timer's own thread; this never blocks."""
        last, self._now = self._now, now
        # By APScheduler's clock, which may be another one than the fleet's.
        self._ahead = now - self._clock.now()
        if last is not None and now - last >= FROZEN:
            self._rest = WAKING
        else:
            self._rest = min(max(LEAST_REST, self._tasks.ring() * REST_A_FIRE), MOST_REST)
        return []

    def get_next_run_time(self) -> datetime:
        """When to ring again: for the head of the heap, but not at once, and not too late."""
        assert self._now is not None
        ring = self._tasks.next_ring()
        latest = self._now + NAP
        return latest if ring is None else max(self._now + self._rest, min(ring + self._ahead, latest))
