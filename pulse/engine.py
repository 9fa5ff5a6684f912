"""What runs tasks in one process: a scheduler that rings, and workers that run what it rings for."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from pulse.alarms import Alarms
from pulse.clock import Clock
from pulse.control import Control
from pulse.dispatch import Dispatch, Dispatcher, Reply
from pulse.errors import ConfigError, Fault, StoreUnavailableError
from pulse.fleet import Fleet, FleetClock
from pulse.gateway import WsgiApp, is_asynchronous_app, known_as_synchronous
from pulse.instance import this_instance, this_place
from pulse.model import MOST_THREADS, WORKER_COUNT, Config, Fire, Run, Task
from pulse.option import shown
from pulse.recorder import UNRECORDED, Listener
from pulse.runner import Runner
from pulse.runstores.base import RunStore
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import Schedule
from pulse.scheduler import Scheduler, starting_points
from pulse.underway import PATIENCE
from pulse.upkeep import RENEWALS
from pulse.within import begun
from pulse.workers.base import Workers
from pulse.workers.threads import ThreadWorkers

if TYPE_CHECKING:  # what only one mode needs is imported where that mode is chosen
    from pulse.workers.attendant import Attendant
    from pulse.workers.courier import Post

WORKERS: Final = 4  # threads, or child processes, if `pulse.config.workers` does not say
AIO_WORKERS: Final = 1000  # runs on the event loop
ALARMS_SECONDS: Final = 5.0  # that hooks and pings have at the end
CHILD_PATIENCE: Final = 70.0  # seconds beyond `kill_grace`: a minute of it is for loading the application


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs tasks in one process; a new one is built after a fork."""

    workers: Workers
    scheduler: Scheduler
    fleet: Fleet
    alarms: Alarms

    def start(self) -> None:
        """Ring from now on.

        Raises:
            RuntimeError: the system has no thread left; nothing that was started stays.
        """
        try:
            self.workers.start()
            self.scheduler.start()
        except BaseException:
            self.workers.close(0)
            raise

    def stop(self, seconds: float, clock: Clock) -> int:
        """Let running work end within *seconds*, then cancel it; how many fires had not begun."""
        until = clock.monotonic() + seconds + 1.0
        self.scheduler.stop()
        waiting = self.workers.close(seconds)
        left = begun(self._leave)  # the store may hang, and whoever closes is promised not to
        self.alarms.close(max(0.0, min(ALARMS_SECONDS, until - clock.monotonic())))
        clock.wait(left, max(0.0, until - clock.monotonic()))
        return waiting

    def _leave(self) -> None:
        with suppress(StoreUnavailableError):  # then the others will notice that it is not heard of any more
            self.fleet.leave()


class EngineFactory:
    """Builds the engines of one middleware, each for the process that it is built in."""

    def __init__(
        self,
        app: WsgiApp,
        config: Config,
        *,
        mode: str,
        application: bytes,
        schedules: Mapping[str, Schedule],
        store: RunStore,
        clock: Clock,
        middleware: object,
    ) -> None:
        """Nothing is built yet.

        Args:
            app: What the requests go to.
            config: With the tasks.
            mode: What executes runs, from `fit`.
            application: What children load, from `fit` as well.
            schedules: Of the tasks, by name.
            store: Where claims and runs are kept.
            clock: Of this process.
            middleware: What endpoints find as the application of their context.
        """
        self._app = app
        self._config = config
        self._schedules = schedules
        self._store = store
        self._clock = clock
        self._middleware = middleware
        self.mode = mode
        self._workers = config.workers or (AIO_WORKERS if self.mode == "asyncio" else WORKERS)
        self._application = application
        if mode == "celery":
            must_reach_workers(config, store)
        self.announcers = _announcers(config)

    def after_fork(self) -> None:
        """In a forked child: what announces has threads of its own, which are not here."""
        self.announcers = _announcers(self._config)

    def build(
        self,
        reason: str,
        beside: Callable[[], Collection[str]],
        refused: Callable[[], int] = int,
        errors_beside: Callable[[], int] = int,
    ) -> Engine:
        """An engine whose process has joined the fleet, and whose tasks are planned; it has not been started.

        Args:
            reason: Why this process rings.
            beside: Digests of the configurations by which others in this process ring.
            refused: How many requests the guard has refused, for the fleet to know.
            errors_beside: How many steps of the store have failed for others that share its row.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        clock = FleetClock(self._clock)
        beat = self._config.lease / RENEWALS
        alarms = Alarms(self._app, self._config, clock=clock)
        places = self._places()

        def points() -> tuple[Mapping[str, datetime], Mapping[str, datetime]]:
            return starting_points(self._config.tasks, self._schedules, places, store=self._store, now=clock.now())

        def plan_again() -> None:
            if scheduler.was_set_back:
                scheduler.plan_again(points()[0])

        fleet = Fleet(
            self._config, store=self._store, clock=clock, beat=beat, beside=beside, refused=refused,
            errors_beside=errors_beside, plan_again=plan_again,
        )  # fmt: skip
        workers = self._build_workers(clock, alarms, fleet)
        scheduler = Scheduler(
            {name: task for name, task in self._config.tasks.items() if task.enabled},
            self._schedules,
            submit=workers.submit,
            clock=clock,
            places=places,
        )
        fleet.join(reason)
        scheduler.plan(*points())
        return Engine(workers, scheduler, fleet, alarms)

    def run_alone(self, fire: Fire) -> Run | None:
        """Run *fire* in a process that does not ring."""
        alarms = Alarms(self._app, self._config, clock=self._clock)
        workers = self._build_workers(self._clock, alarms)
        self._store.register([fire.track], self._clock.now())
        workers.start()
        try:
            return workers.run_apart(fire).result()
        except KeyboardInterrupt:
            if self.mode == "celery":  # it runs elsewhere; in this process `close` asks it to stop
                self._store.ask_to_stop(fire.run_id, "whoever called it by hand has interrupted it")
            raise
        finally:
            workers.close(0)
            alarms.close(ALARMS_SECONDS)

    def attend(self) -> "Attendant":
        """What runs, in a process of Celery's, what processes that ring have handed over; it has not been started."""
        from pulse.workers.attendant import Attendant  # noqa: PLC0415 - other modes have no use for it

        clock = FleetClock(self._clock)
        alarms = Alarms(self._app, self._config, clock=clock)
        fleet = Fleet(self._config, store=self._store, clock=clock, beat=self._config.lease / RENEWALS)
        runner = self._build_runner(self._build_dispatcher(clock), clock, alarms, fleet)
        at_end = partial(alarms.close, ALARMS_SECONDS)
        return Attendant(runner, self._build_post(), fleet=fleet, clock=clock, at_end=at_end)

    def _places(self) -> Mapping[str, str]:
        """`Fire.place` by task, of those that are not the fleet's."""
        here = {scope: this_place(scope) for scope in ("host", "process")}
        return {name: here[task.scope] for name, task in self._config.tasks.items() if task.scope in here}

    def _build_workers(self, clock: Clock, alarms: Alarms, fleet: Fleet | None = None) -> Workers:
        if self.mode == "processing":
            return self._build_processes(clock, alarms, fleet)
        if self.mode == "celery":
            from pulse.workers.courier import Courier  # noqa: PLC0415 - as above

            runner = self._build_runner(_nothing_runs_here, clock, alarms, fleet)
            return Courier(runner, self._build_post(), store=self._store, clock=clock)
        dispatcher = self._build_dispatcher(clock)
        runner = self._build_runner(dispatcher, clock, alarms, fleet)
        if self.mode == "asyncio":
            from pulse.workers.aio import AioWorkers  # noqa: PLC0415 - as above

            return AioWorkers(runner, dispatcher, workers=self._workers, clock=clock)
        return ThreadWorkers(runner, workers=self._workers, clock=clock, is_bound=self._config.workers is not None)

    def _build_processes(self, clock: Clock, alarms: Alarms, fleet: Fleet | None) -> Workers:
        from pulse.workers.processes import Children, ProcessWorkers  # noqa: PLC0415 - as above

        children = Children(self._application, clock=clock)
        # Children are killed when they are overdue; if one is even so not heard of, as when half
        # an answer is in its pipe, the thread that waits for it is given up like any other.
        grace = max((task.kill_grace for task in self._config.tasks.values()), default=timedelta(0))
        patience = grace.total_seconds() + CHILD_PATIENCE
        runner = self._build_runner(children, clock, alarms, fleet, patience=patience)
        return ProcessWorkers(runner, workers=self._workers, clock=clock, children=children)

    def _build_post(self) -> "Post":
        # Celery takes a while to import, and is an extra.
        post: Post = import_module("pulse.workers.celery").Post(self._config, self._store)
        return post

    def _build_dispatcher(self, clock: Clock) -> Dispatcher:
        return Dispatcher(self._app, self._config, clock=clock, middleware=self._middleware)

    def _build_runner(
        self, dispatch: Dispatch, clock: Clock, alarms: Alarms, fleet: Fleet | None, *, patience: float = PATIENCE
    ) -> Runner:
        return Runner(
            self._config.tasks,
            self._schedules,
            store=self._store,
            dispatch=dispatch,
            clock=clock,
            owner=this_instance(),
            lease=self._config.lease,
            fleet=fleet,
            patience=patience,
            hears=[alarms, *self.announcers],
            unrecorded=self._workers + UNRECORDED,  # else some that end in an outage were found lost behind it
        )


def fit(app: WsgiApp, config: Config) -> tuple[str, bytes]:
    """What executes runs of *app*, and what child processes need to load it.

    Raises:
        ConfigError: the mode does not fit the application.
    """
    mode = mode_of(app, config)
    if mode != "processing":
        return mode, b""
    # Only now: other modes have no use for pipes and pickles.
    from pulse.workers.processes import application_for_children  # noqa: PLC0415

    # Worked out before anything starts: an application that cannot reach a child process must not start.
    return mode, application_for_children(app, config)


def mode_of(app: WsgiApp, config: Config) -> str:
    """What executes runs of *app*.

    Raises:
        ConfigError: the mode does not fit the application, or the number of workers the mode.
    """
    mode = config.mode
    if mode == "auto":
        mode = "asyncio" if is_asynchronous_app(app) else "threading"
    if mode == "asyncio" and known_as_synchronous(app):
        problem = "the application is synchronous, and would keep all others waiting: want threading or processing"
        raise ConfigError([Fault(key="pulse.config.mode", shown="'asyncio'", problem=problem)])
    if mode != "asyncio" and config.workers and config.workers > MOST_THREADS:
        raise ConfigError([Fault(key="pulse.config.workers", shown=str(config.workers), problem=WORKER_COUNT)])
    return mode


def must_reach_workers(config: Config, store: RunStore) -> None:
    """Refuse what would never come to a worker of Celery, or back.

    Raises:
        ConfigError: the store is of this process alone, or a library is missing.
    """
    if isinstance(store, MemoryRunStore):
        problem = "Celery's workers do not see what this process alone keeps: want redis:// or postgresql://"
        raise ConfigError([Fault(key="pulse.config.store", shown=shown(config.store), problem=problem)])
    try:
        import_module("pulse.workers.celery").must_be_reachable(config)
    except ImportError as error:
        problem = f"it needs an extra ({error}): pip install 'pulse[celery]'"
        raise ConfigError([Fault(key="pulse.config.mode", shown="'celery'", problem=problem)]) from error


def _nothing_runs_here(task: Task, run: Run, control: Control) -> Reply:
    raise AssertionError(f"{run.id} of {task.name} is for a worker of Celery, which has a {control!r} of its own")


def _announcers(config: Config) -> list[Listener]:
    """Who tells the event bus, where somebody wants it to be told."""
    # The bus is the shared state's, which a process that only schedules has no use for.
    return [import_module("pulse.announce").Announcer()] if config.events else []
