"""The porch: `PulseMiddleware` wires all that is below it, and is what PasteDeploy builds."""

import atexit
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from pulse.clock import Clock, SystemClock
from pulse.config import read_config, read_paste_config
from pulse.dispatch import Dispatch, Dispatcher
from pulse.errors import ConfigError, Fault, UnknownTaskError
from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.guard import Guard
from pulse.instance import this_instance
from pulse.model import Config, Fire, Run, Task, Trigger
from pulse.option import shown
from pulse.runner import Runner
from pulse.runstores import open_run_store
from pulse.runstores.base import RunStore
from pulse.schedule import schedule_of
from pulse.scheduler import Scheduler
from pulse.start import StartRule
from pulse.workers.base import Workers
from pulse.workers.processes import Children, ProcessWorkers, application_for_children
from pulse.workers.threads import ThreadWorkers
from pulse.wsgi.lazy import note_built

log = logging.getLogger(__name__)

CHILD_PATIENCE: Final = 70.0  # seconds beyond `kill_grace`: a minute of it is for loading the application


@dataclass(frozen=True, slots=True)
class _Engine:
    """What runs tasks in one process; a new one is built after a fork."""

    workers: Workers
    scheduler: Scheduler


class PulseMiddleware:
    """A WSGI application that runs the endpoints of the one it wraps on a schedule.

    Constructing it starts nothing: tasks run in each process that serves, from the first
    due instant after it does (`pulse.config.start`), or after `start()`. Requests from
    outside pass unchanged, but for the paths of tasks when the guard is on.

    Attributes:
        app: The wrapped application; internal requests go straight to it.
        config: The effective configuration, with its tasks by name.
        run_store: Where claims and runs are kept.
    """

    def __init__(
        self,
        app: WsgiApp,
        config: Mapping[str, object] | Config | None = None,
        *,
        task: Mapping[str, Task | Mapping[str, object]] | None = None,
        tasks: Mapping[str, Task | Mapping[str, object]] | None = None,
        clock: Clock | None = None,
        run_store: RunStore | None = None,
        **options: object,
    ) -> None:
        """Wrap *app*; neither *config* nor *task* is changed.

        Args:
            app: Any WSGI application.
            config: Dotted keys as in an ini file, `{"pulse.config.guard": "true"}`; or a
                whole `Config`, and then no tasks or options beside it.
            task: `Task` objects, or dicts of their options, by name.
            tasks: Another word for *task*.
            clock: For tests: `pulse.testing.ManualClock`.
            run_store: Where claims and runs are kept; by default where `store` says.
            **options: Those of `pulse.config.*`, without the prefix; they win over *config*.

        Raises:
            ConfigError: (a ValueError) naming every fault of the configuration at once.
        """
        if not isinstance(config, Config):
            config = read_config(config, tasks=_merged(task, tasks), options=options)
        elif task is not None or tasks is not None or options:
            problem = "want it alone: what stands beside it would have no effect"
            raise ConfigError([Fault(key="config", shown="Config(...)", problem=problem)])
        if not callable(app):
            raise ConfigError(
                [Fault(key="app", shown=shown(app), problem="want a WSGI application, which is callable")]
            )
        self.app = app
        self.config = config
        self._clock = clock or SystemClock()
        self._given_store = run_store
        self.run_store = run_store or open_run_store(config.store, history=config.history)
        self._schedules = {name: schedule_of(one) for name, one in config.tasks.items()}
        self._guard = Guard(config, clock=self._clock)
        # Worked out now: an application that cannot reach a child process must not start.
        self._application = application_for_children(app, config) if config.mode == "processing" else b""
        self._engine: _Engine | None = None
        self._seconds = config.shutdown_timeout.total_seconds()  # that running work has when the engine ends
        self._rule = StartRule(
            config.start if config.enabled and config.tasks else "manual",
            ring=self._ring,
            silence=self._silence,
            forget=self._forget,
            clock=self._clock,
        )
        note_built(self)
        self._rule.arm()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request from outside (PEP 3333)."""
        if os.getpid() != self._rule.settled:
            self._rule.serve()
        if not self._guard.admits(environ):
            return self._guard.answer(self.app, environ, start_response)
        return self.app(environ, start_response)

    def start(self) -> None:
        """Run tasks in this process from now on, whatever the start rule says; idempotent."""
        self._rule.start("start() was called")

    def close(self) -> None:
        """Stop running tasks: let running work end within `shutdown_timeout`, then cancel it.

        Idempotent and final; takes at most a second more than `shutdown_timeout`. Requests
        from outside are served on, and the guard stays on.
        """
        self.close_within(self.config.shutdown_timeout.total_seconds())

    def close_within(self, seconds: float) -> None:
        """As `close`, with another limit for what is running."""
        self._seconds = seconds
        self._rule.close()
        self._silence()
        if self._given_store is None:
            self.run_store.close()

    def run_now(self, name: str) -> Run | None:
        """Run the task *name* by hand, in this process, and wait for what becomes of it.

        It is an internal request like any other, with the trigger `manual`; it stands
        beside the schedule, and does not start while the task is running.

        Returns:
            The record, `SKIPPED` if the task was running; None if the run store did not
            answer, or has given the run up for lost.

        Raises:
            UnknownTaskError: (a LookupError) there is no such task.
            ClosedError: `close` was called meanwhile.
            StoreUnavailableError: the run store does not answer.
        """
        if name not in self.config.tasks:
            raise UnknownTaskError(name, self.config.tasks)
        now = self._clock.now()
        fire = Fire(task=name, due=now, trigger=Trigger.MANUAL, run_id=uuid4().hex)
        engine = self._engine
        if engine is not None:
            return engine.workers.run_apart(fire).result()
        workers = self._build_workers()
        self.run_store.register([name], now)
        workers.start()
        try:
            return workers.run_apart(fire).result()
        finally:
            workers.close(0)

    # What the start rule asks for

    def _ring(self, reason: str) -> None:
        if not (self.config.enabled and self.config.tasks):
            return  # PULSE_START and start() say when, not whether
        engine = self._build_engine()
        names = [name for name, task in self.config.tasks.items() if task.enabled]
        engine.scheduler.plan(self.run_store.register(self.config.tasks, self._clock.now()))
        try:
            engine.workers.start()
            engine.scheduler.start()
        except BaseException:  # the system has no thread left; what was started must not stay
            engine.workers.close(0)
            raise
        self._engine = engine
        _ringing.add(self)
        log.info("ringing for %d tasks: %s", len(names), reason, extra={"pulse_event": "ringing"})
        if not self.config.guard:
            log.warning(
                "guard is off: whoever reaches this server can call the endpoints of the tasks "
                "(pulse.config.guard = true)",
                extra={"pulse_event": "guard_off"},
            )

    def _silence(self) -> None:
        engine, self._engine = self._engine, None
        _ringing.discard(self)
        if engine is None:
            return
        engine.scheduler.stop()
        waiting = engine.workers.close(self._seconds)
        log.info("silent; %d fires had not begun", waiting, extra={"pulse_event": "silent"})

    def _forget(self) -> None:
        """In a forked child: the inherited threads are dead, and their locks may be held."""
        self._engine = None
        _ringing.discard(self)
        self.run_store.after_fork()

    def _build_engine(self) -> _Engine:
        workers = self._build_workers()
        scheduler = Scheduler(
            {name: task for name, task in self.config.tasks.items() if task.enabled},
            self._schedules,
            submit=lambda fires, keep: workers.submit(fires, keep=keep),
            clock=self._clock,
        )
        return _Engine(workers, scheduler)

    def _build_workers(self) -> Workers:
        if self.config.mode != "processing":
            dispatch = Dispatcher(self.app, self.config, clock=self._clock)
            return ThreadWorkers(self._build_runner(dispatch), workers=self.config.workers, clock=self._clock)
        children = Children(self._application, clock=self._clock)
        # Children are killed when they are overdue; if one is even so not heard of, as when half
        # an answer is in its pipe, the thread that waits for it is given up like any other.
        grace = max((task.kill_grace for task in self.config.tasks.values()), default=timedelta(0))
        runner = self._build_runner(children, patience=grace.total_seconds() + CHILD_PATIENCE)
        return ProcessWorkers(runner, workers=self.config.workers, clock=self._clock, children=children)

    def _build_runner(self, dispatch: Dispatch, **more: Any) -> Runner:
        return Runner(
            self.config.tasks,
            self._schedules,
            store=self.run_store,
            dispatch=dispatch,
            clock=self._clock,
            owner=this_instance(),
            **more,
        )


def _merged(task: object, tasks: object) -> Any:
    """What was given as `task=` and as `tasks=`, which are two words for one thing."""
    if isinstance(task, Mapping) and isinstance(tasks, Mapping):
        return {**task, **tasks}
    return tasks if task is None else task


def pulse_filter_app_factory(app: WsgiApp, global_conf: Mapping[str, str] | None, **local_conf: str) -> PulseMiddleware:
    """The `paste.filter_app_factory`: `use = egg:pulse` in a `[filter:]` or `[filter-app:]`.

    Raises:
        ConfigError: (a ValueError) naming every fault with its file and section.
    """
    return PulseMiddleware(app, read_paste_config(global_conf, local_conf))


# Held here as long as they ring: threads run for them, and at exit they have to be drained.
_ringing: Final[set[PulseMiddleware]] = set()


@atexit.register
def _drain_at_exit() -> None:
    """Let running work end before the interpreter does: its threads are daemons."""
    clock = SystemClock()
    begun = clock.monotonic()
    for middleware in list(_ringing):  # one after the other, and all within the longest of their times
        left = middleware.config.shutdown_timeout.total_seconds() - (clock.monotonic() - begun)
        middleware.close_within(max(0.0, left))
