"""For tests of applications with tasks, and of Pulse itself: no thread, no sleep, no waiting.

`rehearse` runs the tasks of an application in the caller's thread, on a clock that the test
moves. `assert_guarded` tries to get at their endpoints from outside. `ManualClock` is the
clock, for whatever else takes one.
"""

import copy
import logging
import os
import threading
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Final
from urllib.parse import unquote_to_bytes
from uuid import uuid4
from wsgiref.util import setup_testing_defaults

from pulse.alarms import Alarms
from pulse.clock import Clock
from pulse.dispatch import Dispatcher
from pulse.engine import WORKERS
from pulse.errors import UnknownTaskError
from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.guard import Guard
from pulse.instance import this_instance, this_place
from pulse.middleware import PulseMiddleware
from pulse.model import YEAR, Config, Fire, Outcome, Pause, Run, Trigger
from pulse.reader import duration
from pulse.runner import Runner
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import schedule_of
from pulse.scheduler import Scheduler, starting_points
from pulse.underway import PATIENCE
from pulse.workers.pool import STUCK_LIMIT
from pulse.workers.queue import FireQueue
from pulse.workers.threads import LOOK
from pulse.wsgi.bridge.inward import Inward

log = logging.getLogger(__name__)

Span = float | str | timedelta

CONTAINERS: Final = ("app", "wsgi_app", "application", "middleware_stack", "pulse")  # what is inside is called so
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class ManualClock:
    """A `pulse.clock.Clock` that stands still until it is told to `advance`.

    Safe to use from any thread: a thread that waits on the clock is woken when the time
    that it waits for has come, so a test needs no sleep.
    """

    def __init__(self, start: datetime = datetime(2027, 1, 1, tzinfo=UTC)) -> None:
        """*start*: the first instant, aware.

        Raises:
            ValueError: it has no time zone: it would be another instant on each machine.
        """
        if start.tzinfo is None:
            raise ValueError(f"{start!r}: want an aware datetime, as datetime(2027, 1, 1, tzinfo=UTC)")
        self._now = start.astimezone(UTC)
        self._elapsed = 0.0
        self._changed = threading.Condition()
        self._waiting: list[tuple[threading.Event, float]] = []  # for what, and until when

    def now(self) -> datetime:
        """The instant that the test has set, aware UTC."""
        with self._changed:
            return self._now

    def time(self) -> float:
        """The same as a Unix timestamp."""
        return self.now().timestamp()

    def monotonic(self) -> float:
        """Seconds that the test has advanced; steps of the wall clock do not count."""
        with self._changed:
            return self._elapsed

    def advance(self, span: Span) -> None:
        """Let *span* pass on both clocks: seconds, a timedelta, or as Pulse writes durations (`"1h30m"`)."""
        seconds = _seconds_of(span)
        with self._changed:
            self._elapsed += seconds
            self._now += timedelta(seconds=seconds)
            self._changed.notify_all()

    def step(self, span: Span) -> None:
        """Set the wall clock *span* ahead (or back) while no time passes, as NTP may do."""
        seconds = _seconds_of(span)
        with self._changed:
            self._now += timedelta(seconds=seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until *event* is set or *seconds* have been advanced; whether it is set."""
        with self._changed:
            end = self._elapsed + seconds
            self._waiting.append((event, end))
            self._changed.notify_all()
            try:
                # Nothing tells the condition that the event was set: look again now and then.
                while not event.is_set() and self._elapsed < end:
                    self._changed.wait(0.01)
            finally:
                self._waiting.remove((event, end))
        return event.is_set()

    def wait_until_parked(self, threads: int = 1, limit: float = 30.0) -> None:
        """Block until *threads* threads wait on this clock; one that is to go on does not, though it has not yet.

        Raises:
            TimeoutError: they do not, after *limit* real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._count_parked() >= threads, limit):
                raise TimeoutError(f"{self._count_parked()} of {threads} threads wait on the clock")

    def _count_parked(self) -> int:
        return sum(end > self._elapsed and not event.is_set() for event, end in self._waiting)


def rehearse(app: object, *, clock: ManualClock | None = None) -> "Rehearsal":
    """A rehearsal of the tasks of *app*: they run when the test says so, in its thread.

        from pulse.testing import rehearse

        def test_sessions_are_swept_every_five_minutes():
            rehearsal = rehearse(make_app())

            runs = rehearsal.advance("1h")

            assert [run.outcome.value for run in runs] == ["success"] * 12

    Args:
        app: A `PulseMiddleware`, `App` or `AsgiPulse`, or what has one inside: in `app` (a
            test client, most middleware), `wsgi_app` (Flask) or `application`; what Starlette
            is given by `add_middleware` is there after its first request. It is neither
            started nor changed, and its own run store is not touched.
        clock: What time it is; midnight of 2027-01-01, UTC, if not given.

    Raises:
        TypeError: there is none in *app*.
    """
    return Rehearsal(_middleware_of(app), clock=clock)


class Rehearsal:
    """The tasks of one middleware on a clock and a run store of their own; see `rehearse`.

    What becomes of an instant is decided by what decides it in production: schedules, claims,
    limits, retries, pauses, hooks. Only threads are missing, and pings, which would leave the
    machine. An endpoint that is to take its time calls `advance` itself: what is due meanwhile
    is skipped, waits or runs beside it as its task wants, and its timeout is watched. (An
    asynchronous application is called on an event loop that has a thread.)

    To be used from one thread at a time.

    Attributes:
        clock: The time of the rehearsal. What moves it without `advance` is a time in which
            nobody was there to run anything.
        run_store: Where its claims, runs and pauses are: `run_store.pauses()`, `resume(name)`.
        runs: Every record so far, in the order in which they were made.
    """

    def __init__(self, middleware: PulseMiddleware, *, clock: ManualClock | None = None) -> None:
        """Wire it; the tasks are due from the time of *clock* on."""
        config = middleware.config
        self.clock = clock or ManualClock()
        self.run_store = MemoryRunStore(history=config.history)
        self.runs: list[Run] = []
        self._app = middleware.app
        self._tasks = config.tasks
        self._workers = min(config.workers or WORKERS, WORKERS)  # each run inside a run takes a piece of the stack
        self._places = {name: this_place(task.scope) for name, task in config.tasks.items()}
        self._schedules = {name: schedule_of(task) for name, task in config.tasks.items()}
        self._queue = FireQueue()
        self._depth = 0  # of runs inside runs
        self._deadlines: dict[str, datetime] = {}  # of the runs that are under way; `_NEVER` where there is none
        self._stuck: dict[str, str] = {}  # the runs that were given up and have not come back, and their tasks
        self._retries: dict[str, tuple[datetime, datetime]] = {}  # when to ask for further attempts, by run
        self._has_to_wait = False
        self._runner = Runner(
            config.tasks,
            self._schedules,
            store=self.run_store,
            dispatch=Dispatcher(middleware.app, config, clock=self.clock, middleware=middleware),
            clock=self.clock,
            owner=this_instance(),
            lease=config.lease,
            hears=[self, _Hooks(middleware.app, config, clock=self.clock)],
        )
        self._scheduler = Scheduler(
            {name: task for name, task in config.tasks.items() if task.enabled and config.enabled},
            self._schedules,
            submit=self._queue.put,
            clock=self.clock,
            places=self._places,
        )
        self._plan()

    def advance(self, span: Span) -> list[Run]:
        """Let *span* pass, and run everything that becomes due, each at its own instant, in order.

            rehearsal.advance("1d")

        Args:
            span: As Pulse writes durations (`"90s"`, `"1h30m"`, `"1d"`), seconds, or a timedelta.

        Returns:
            The records that were made: of runs, and of instants that were missed or skipped.

        Raises:
            ValueError: that is no duration.
            RuntimeError: this is the event loop on which an ASGI application would be called.
        """
        self._must_not_block()
        told, end = len(self.runs), self.clock.now() + _duration(span)
        while True:
            self._work_until(end)
            now = self.clock.now()
            if now >= end:
                return self.runs[told:]
            self.clock.advance(min(self._next_step(now), end) - now)

    def run_due(self) -> list[Run]:
        """Run what is due now, with what is late; the records that were made.

            rehearsal.clock.advance("3h")  # the application was down
            assert [run.outcome.value for run in rehearsal.run_due()] == ["missed", "success"]

        Raises:
            RuntimeError: this is the event loop on which an ASGI application would be called.
        """
        return self.advance(0)

    def run(self, name: str, *, force: bool = False) -> Run:
        """Run the task *name* by hand, now; its record.

            run = rehearsal.run("cleanup")
            assert (run.status, run.body) == (200, b"swept 3 sessions")

        What the endpoint raised is in `run.errors`, with its traceback.

        Args:
            name: Of the task; it may be paused or not enabled.
            force: Start it even if it is running, as from inside its own endpoint.

        Raises:
            UnknownTaskError: (a LookupError) there is no such task.
            RuntimeError: the run lost its lease, and so has no record; or this is the event
                loop on which an ASGI application would be called.
        """
        if name not in self._tasks:
            raise UnknownTaskError(name, self._tasks)
        self._must_not_block()
        fire = Fire(
            task=name,
            due=self.clock.now(),
            trigger=Trigger.MANUAL,
            run_id=uuid4().hex,
            place=self._places[name],
            is_forced=force,
        )
        run = self._run(fire)
        if run is None:
            raise RuntimeError(f"the run of {name} lost its lease: it was recorded as lost, or purged, meanwhile")
        return run

    @property
    def next_due(self) -> datetime | None:
        """When the schedule rings next, aware UTC; None if it never does."""
        return self._scheduler.next_ring()

    def _plan(self) -> None:
        places = {name: place for name, place in self._places.items() if place}
        points = starting_points(self._tasks, self._schedules, places, store=self.run_store, now=self.clock.now())
        self._scheduler.plan(*points)

    # One step

    def _work_until(self, end: datetime) -> None:
        """Do everything that is due now; not what becomes due when an endpoint moves the clock past *end*."""
        self._watch()
        while self._scheduler.ring():  # not for all that are late in one go
            pass
        self._wake()
        while self._depth < self._workers and self.clock.now() <= end and (fire := self._queue.poll()):
            self._run(fire)
            # Not at all times: an endpoint that asks to be tried again at once, for ever, would be.
            if self._has_to_wait and not self._depth:
                self._has_to_wait = False
                self._wake()

    def _wake(self) -> None:
        """Have what had to wait be asked for again."""
        self._queue.wake()
        for fire in self._runner.due_again():
            self._queue.put_back(fire, keep=self._runner.keeps(fire.task))

    def _watch(self) -> None:
        """What a thread does in production while runs are under way: here, when one moves the clock."""
        if not self._depth:
            return
        self._stuck |= {run.id: run.task for run in self._runner.upkeep.give_up_overdue()}
        self._runner.upkeep.report()
        self._runner.upkeep.renew()

    def _next_step(self, now: datetime) -> datetime:
        """The next instant at which there is something to do."""
        retries = (retry for both in self._retries.values() for retry in both)
        steps = [*retries, *self._deadlines.values(), self._scheduler.next_ring() or _NEVER]
        if self._deadlines:
            # For the leases, and for who is asked to stop.
            steps.append(now + timedelta(seconds=min(self._runner.upkeep.beat, 1.0)))
        return min((step for step in steps if step > now), default=_NEVER)

    def _run(self, fire: Fire) -> Run | None:
        run = self._run_or_dismiss(fire)
        if self._runner.claims.is_to_repeat(fire):
            self._queue.rest(fire)
        else:
            self._queue.over(fire.task, fire.run_id)
        return run

    def _run_or_dismiss(self, fire: Fire) -> Run | None:
        stuck = sum(task == fire.task for task in self._stuck.values())
        if stuck >= STUCK_LIMIT:
            return self._runner.claims.dismiss(fire, Outcome.SKIPPED, f"{stuck} earlier runs have not come back")
        self._depth += 1
        try:
            run = self._runner.run(fire)
        finally:
            self._depth -= 1
            self._stuck.pop(fire.run_id, None)
        self._has_to_wait = self._has_to_wait or run is None
        return run

    # What the runner tells

    def began(self, run: Run) -> None:
        """A run has begun; told by the runner."""
        self._retries.pop(run.id, None)
        task = self._tasks[run.task]
        self._queue.begun(run.task, run.id, may_overlap=task.overlap == "allow")
        timeout = task.timeout
        self._deadlines[run.id] = self.clock.now() + timeout + _GIVEN_UP if timeout else _NEVER

    def ended(self, run: Run) -> None:
        """There is a record; told by the runner."""
        self.runs.append(run)
        self._deadlines.pop(run.id, None)
        self._retries.pop(run.id, None)
        if run.again_at is not None:
            retry = max(run.again_at, self.clock.now() + timedelta(seconds=LOOK))
            # The runner counts in binary seconds, which may say that it is not quite time yet.
            self._retries[run.id] = retry, retry + timedelta(milliseconds=1)

    def paused(self, task: str, pause: Pause) -> None:
        """A task was paused because of its failures; told by the runner. See `run_store.pauses()`."""

    def _must_not_block(self) -> None:
        """Refuse to wait for the event loop that the caller keeps busy by waiting.

        Raises:
            RuntimeError: it would.
        """
        app = self._app
        if isinstance(app, Inward) and app._home.is_here():  # noqa: SLF001 - nobody else asks
            problem = "the application lives on this event loop, which would wait for itself"
            raise RuntimeError(f"{problem}; use await asyncio.to_thread(rehearsal.advance, ...)")


_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_GIVEN_UP: Final = timedelta(seconds=PATIENCE + 0.001)  # after its deadline, a run is
_read_span: Final = duration(0, 100 * YEAR)


class _Hooks(Alarms):
    """Hooks are told at once, in the thread of the test; pings are not sent."""

    def __init__(self, app: WsgiApp, config: Config, *, clock: Clock) -> None:
        tasks = {name: replace(task, ping_url=None) for name, task in config.tasks.items()}
        super().__init__(app, replace(config, tasks=tasks), clock=clock)

    def _put(self, what: str, telling: Callable[[], object]) -> None:
        # As in production: a hook that fails is a line in the log, and no matter of the run.
        try:
            telling()
        except (Exception, SystemExit, CancelledError):
            log.exception("%s: could not be told", what, extra={"pulse_event": "alarm_failed"})


def assert_guarded(app: object, *paths: str) -> None:
    """Assert that nobody outside gets at *paths*: each request is answered 404 and not passed on.

        from pulse.testing import assert_guarded

        def test_the_endpoints_of_tasks_are_closed_to_visitors():
            assert_guarded(make_app())

    They are tried in many spellings, with all usual methods, below a prefix, in the headers of
    proxies, and with the marks of an internal request forged. The requests go to the middleware
    itself, over a stand-in for the wrapped application: nothing of that is called. What stands
    in front of the middleware is not asked.

    Args:
        app: As for `rehearse`.
        *paths: As a task has them (`/sessions/cleanup`); the paths of all tasks if none are given.

    Raises:
        AssertionError: some request came through; or there is nothing to guard.
        TypeError: there is no Pulse in *app*.
    """
    __tracebackhide__ = True
    middleware = _middleware_of(app)
    config = middleware.config
    guarded = sorted({task.path for task in config.tasks.values()})
    wanted = paths or guarded
    if not wanted:
        raise AssertionError("there is no task whose path could be guarded")
    door = _Door(middleware)
    open_ones = [said for path in wanted for request in _attempts(path) if (said := door.fault(request))]
    if open_ones:
        shown = [*open_ones[:_SHOWN], f"and {len(open_ones) - _SHOWN} more"][: len(open_ones)]
        raise AssertionError("outsiders get in:\n  " + "\n  ".join(shown) + _hint(config, wanted, guarded))


def _hint(config: Config, wanted: Iterable[str], guarded: Sequence[str]) -> str:
    """What closes the doors that are open, if it is plain; a line of its own."""
    if not config.guard:
        return "\nthe guard is off; want pulse.config.guard = true"
    strange = [path for path in wanted if path not in guarded]
    return f"\nno task has {', '.join(strange)}; those of tasks: {', '.join(guarded)}" if strange else ""


_SHOWN: Final = 10  # of the requests that came through: the rest says the same


class _Door:
    """A copy of a middleware, around a stand-in for its application: it starts and counts nothing."""

    def __init__(self, middleware: PulseMiddleware) -> None:
        self._door = copy.copy(middleware)
        silent = SimpleNamespace(settled=os.getpid())  # no request makes it ring
        vars(self._door).update(app=self._pass, _guard=Guard(middleware.config), _window=None, _rule=silent)
        self._has_passed = False

    def fault(self, environ: Environ) -> str:
        """What is wrong with the answer to the request of *environ*; empty if nothing is."""
        self._has_passed = False
        statuses: list[str] = []
        request = _shown(environ)
        body = self._door(environ, lambda status, _headers, _exc_info=None: statuses.append(status))
        for _ in body:
            pass
        getattr(body, "close", lambda: None)()
        if self._has_passed:
            return f"{request} reached the application"
        return "" if statuses[-1].startswith("404 ") else f"{request} was answered {statuses[-1]}"

    def _pass(self, _environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._has_passed = True
        start_response("200 OK", [])
        return []


def _attempts(path: str) -> Iterator[Environ]:
    """Requests by which an outsider might get at *path*."""
    plain = unquote_to_bytes(path.partition("?")[0]).decode("latin-1")
    way = "/" + plain.strip("/")
    for spelling in _spellings(way):
        for method in METHODS:
            yield _environ(method, spelling)
    head, _, last = way.rpartition("/")
    yield _environ("GET", f"/{last}", script=head)
    yield _environ("GET", way, script="/prefix")
    for header in ("HTTP_X_ORIGINAL_URL", "HTTP_X_REWRITE_URL", "HTTP_X_FORWARDED_PATH"):
        yield _environ("GET", "/", **{header: way})
    yield _environ("GET", way, **_FORGED)


_FORGED: Final = {
    "HTTP_AUTHORIZATION": "Bearer x",
    "HTTP_X_PULSE_TASK": "x",
    "HTTP_X_PULSE_TRIGGER": "manual",
    "HTTP_X_FORWARDED_FOR": "127.0.0.1",
}


def _spellings(way: str) -> list[str]:
    head, _, last = way.rpartition("/")
    escaped = "".join(f"%{ord(character):02x}" for character in last)
    spellings = [
        way,
        f"{way}/",
        f"/{way}",
        f"{head}//{last}",
        f"/.{way}",
        f"{head}/./{last}",
        f"/x/..{way}",
        f"{head}/x/../{last}",
        f"{way}/extra",
        f"{way};v=1",
        f"{head}/{escaped}",
        f"{head}/{escaped.replace('%', '%25')}",
        way.replace("/", "\\"),
        way.upper(),
    ]
    return list(dict.fromkeys(spellings))


def _environ(method: str, path: str, *, script: str = "", **more: str) -> Environ:
    environ: Environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": script, **more}
    setup_testing_defaults(environ)
    return environ


def _shown(environ: Environ) -> str:
    headers = sorted(name for name in environ if name.startswith("HTTP_") and name != "HTTP_HOST")
    shown = f"{environ['REQUEST_METHOD']} {environ['SCRIPT_NAME']}{environ['PATH_INFO']}"
    return f"{shown} with {', '.join(headers)}" if headers else shown


def _middleware_of(app: object) -> PulseMiddleware:
    """The outermost Pulse in *app*.

    Raises:
        TypeError: there is none.
    """
    layers, seen = deque([app]), 0
    while layers and seen < _MOST_LAYERS:
        layer, seen = layers.popleft(), seen + 1
        if isinstance(layer, PulseMiddleware):
            return layer
        layers.extend(inner for name in CONTAINERS if (inner := getattr(layer, name, None)) is not None)
    raise TypeError(f"there is no Pulse in {app!r:.80}: want a PulseMiddleware, or what has one in `app`")


_MOST_LAYERS: Final = 100  # some objects have an attribute of every name


def _seconds_of(span: Span) -> float:
    match span:
        case str():
            return _duration(span).total_seconds()
        case timedelta():
            return span.total_seconds()
    return span


def _duration(span: Span) -> timedelta:
    try:
        return _read_span(span)
    except ValueError as error:
        raise ValueError(f"{span!r}: {error}") from None
