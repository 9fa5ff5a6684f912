"""The porch: `PulseMiddleware` wires all that is below it, and is what PasteDeploy builds."""

import atexit
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from pulse.clock import Clock, SystemClock
from pulse.config import read_paste_config
from pulse.context import entered
from pulse.engine import Engine, EngineFactory, fit
from pulse.errors import ConfigError
from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.given import all_of, config_of, faults_of, store_of
from pulse.guard import Guard
from pulse.hand import Hand
from pulse.model import Config, Run, Task
from pulse.runstores.automatic import clear_away
from pulse.runstores.base import RunStore
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import Schedules
from pulse.start import StartRule
from pulse.within import within
from pulse.wsgi.lazy import note_built

if TYPE_CHECKING:
    from pulse.status.app import StatusApp
    from pulse.workers.attendant import Attendant

log = logging.getLogger(__name__)


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
        authenticate: Callable[[Environ], str | None] | None = None,
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
            authenticate: For the status page: the name of the user who makes a request, by
                its environ; None for a stranger. Beside the token, or instead of it.
            **options: Those of `pulse.config.*`, without the prefix; they win over *config*.

        Raises:
            ConfigError: (a ValueError) naming every fault of the configuration at once.
        """
        faults = faults_of(app, clock=clock, run_store=run_store, authenticate=authenticate)
        config = config_of(config, task, tasks, options, faults)
        clock = clock or SystemClock()
        (mode, application), store = all_of(partial(fit, app, config), lambda: run_store or store_of(config, clock))
        self.app = app
        self.config = config
        self._clock = clock
        self._given_store = run_store
        self.run_store: RunStore = store
        self._schedules = Schedules(config.tasks)
        self._guard = Guard(config, clock=self._clock)
        self._engines = EngineFactory(
            app,
            config,
            mode=mode,
            application=application,
            schedules=self._schedules,
            store=self.run_store,
            clock=self._clock,
            middleware=self,
        )
        self._engine: Engine | None = None
        self._authenticate = authenticate
        self._window: StatusApp | None = None
        self._seconds = config.shutdown_timeout.total_seconds()  # that running work has when the engine ends
        self._rule = StartRule(
            config.start if config.enabled and config.tasks else "manual",
            ring=self._ring,
            silence=self._silence,
            forget=self._forget,
            clock=self._clock,
        )
        self._hand = Hand(
            config, clock=clock, store=store, engines=self._engines, engine=lambda: self._engine, rule=self._rule
        )
        note_built(self)
        self._rule.arm()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request from outside (PEP 3333)."""
        if os.getpid() != self._rule.settled:
            self._rule.serve()
        mount = self.config.status
        if mount and environ.get("PATH_INFO", "").startswith(mount):
            window = self._open_window()
            if window.answers(environ):
                return window(environ, start_response)
        if not self._guard.admits(environ):
            return self._guard.answer(partial(entered, self.app, self), environ, start_response)
        body: Iterable[bytes] = entered(self.app, self, environ, start_response)
        return body

    def start(self, reason: str = "start() was called") -> None:
        """Run tasks in this process from now on, whatever the start rule says; idempotent.

        Args:
            reason: Why; it stands in the log, and where the processes of a fleet are shown.
        """
        self._rule.start(reason)

    def close(self) -> None:
        """Stop running tasks: let running work end within `shutdown_timeout`, then cancel it.

        Idempotent and final; takes at most a second more than `shutdown_timeout`. Requests
        from outside are served on, and the guard stays on.
        """
        self.close_within(self.config.shutdown_timeout.total_seconds())

    def close_within(self, seconds: float) -> None:
        """As `close`, with another limit for what is running."""
        until = self._clock.monotonic() + seconds + 1.0
        self._seconds = seconds
        self._rule.close()
        self._silence()
        if self._given_store is None:  # its `close` waits for whoever waits for an answer of it
            within(max(0.0, until - self._clock.monotonic()), self.run_store.close, self._clock)

    def run_now(self, name: str, *, force: bool = False, again: Run | None = None) -> Run | None:
        """Run the task *name* by hand, in this process, and wait for what becomes of it.

        It is an internal request like any other, with the trigger `manual`; it stands
        beside the schedule, starts also when the task is paused, and does not start while
        `max_instances` runs of the task are under way anywhere in the fleet.

        Args:
            name: Of the task.
            force: Start whatever is running.
            again: A run of the task that has ended, its last attempt: this is another attempt
                of it, with its id and its due instant.

        Returns:
            The record, `SKIPPED` if the task was running; None if the run store did not
            answer, or has given the run up for lost, or if somebody else has made that
            attempt meanwhile.

        Raises:
            UnknownTaskError: (a LookupError) there is no such task.
            ClosedError: `close` was called meanwhile.
            StoreUnavailableError: the run store does not answer.
        """
        return self._hand.run(name, force=force, again=again)

    def attend(self) -> "Attendant":
        """For `pulse.workers.celery`, in a process of Celery's: what runs the tasks that others hand over."""
        return self._engines.attend()

    def pause(self, name: str, *, until: datetime | None = None, note: str = "", by: str = "") -> None:
        """Run the task *name* by hand only, in the whole fleet, until `resume`.

        Every instant that passes meanwhile is recorded as skipped, with *note*.

        Args:
            name: Of the task.
            until: When it ends by itself, aware; None for never.
            note: Why; shown wherever the task is.
            by: Who pauses it.

        Raises:
            UnknownTaskError: (a LookupError) there is no such task.
            ConfigError: (a ValueError) *until* is no instant.
            StoreUnavailableError: the run store does not answer.
        """
        self._hand.pause(name, until=until, note=note, by=by)

    def resume(self, name: str) -> bool:
        """Run the task *name* by its schedule again, from now on; whether it was paused.

        Raises:
            UnknownTaskError: (a LookupError) there is no such task.
            StoreUnavailableError: the run store does not answer.
        """
        return self._hand.resume(name)

    def _open_window(self) -> "StatusApp":
        """The status page; two threads may each build the first one, of which one stays."""
        window = self._window
        if window is None:
            # Only now: templates and what signs cookies cost a process that never shows the page nothing.
            from pulse.status.app import StatusApp  # noqa: PLC0415

            window = self._window = StatusApp(
                self.config,
                path=self.config.status or "",
                schedules=self._schedules,
                store=self.run_store,
                controls=self._hand,
                clock=self._clock,
                authenticate=self._authenticate,
                is_readonly=self.config.status_readonly,
            )
        return window

    # What the start rule asks for

    def _ring(self, reason: str) -> None:
        if not (self.config.enabled and self.config.tasks):
            why = "pulse.config.enabled = false" if self.config.tasks else "there are no tasks"
            log.info("nothing is run in this process: %s", why, extra={"pulse_event": "nothing_to_run"})
            return  # PULSE_START and start() say when, not whether
        engine = self._engines.build(
            reason,
            beside=partial(_digests_beside, self),
            refused=partial(_refused_in_row, self),
            errors_beside=partial(_store_errors_beside, self),
        )
        engine.start()
        self._engine = engine
        _ringing.add(self)
        count = sum(task.enabled for task in self.config.tasks.values())
        said = (count, "" if count == 1 else "s", self.run_store, reason)
        log.info("ringing for %d task%s, claimed in %s: %s", *said, extra={"pulse_event": "ringing"})
        # A store that was given may lie in a folder where others keep theirs.
        is_own = self._given_store is None and self.config.store == "auto"
        if is_own and (path := getattr(self.run_store, "path", None)):
            clear_away(path.parent)
        if not self.config.guard and "pulse.config.guard" not in self.config.origins:  # else somebody wants it so
            log.warning(
                "guard is off: whoever reaches this server can call the endpoints of the tasks "
                "(pulse.config.guard = true)",
                extra={"pulse_event": "guard_off"},
            )

    @property
    def _row(self) -> object:
        """In which row its store keeps this process; it is the same for filters that share a store and a name."""
        is_own = isinstance(self.run_store, MemoryRunStore) or (self.config.store == "auto" and not self.config.name)
        if is_own or self._given_store is not None:
            return self.run_store
        return self.config.store, self.config.name

    def _ring_no_more(self) -> None:
        """Begin no further run; those that are under way go on until `close`."""
        engine = self._engine
        if engine is not None:
            engine.scheduler.stop()

    def _silence(self) -> None:
        engine, self._engine = self._engine, None
        _ringing.discard(self)
        if engine is not None:
            waiting = engine.stop(self._seconds, self._clock)
            log.info("silent; %d fires had not begun", waiting, extra={"pulse_event": "silent"})

    def _forget(self) -> None:
        """In a forked child: the inherited threads are dead, and their locks may be held."""
        self._engine = self._window = None
        self._engines.after_fork()
        self._hand.after_fork()
        _ringing.discard(self)
        self.run_store.after_fork()


def _digests_beside(own: PulseMiddleware) -> list[str]:
    """Of the configurations by which other filters of this process ring."""
    engines = [other._engine for other in list(_ringing) if other is not own]  # noqa: SLF001 - one of us
    return [engine.fleet.digest for engine in engines if engine]


def _refused_in_row(own: PulseMiddleware) -> int:
    """How many requests were refused by the guard of *own*, and by those of the filters that share its row.

    Were each to fill it with its own number, a scraper would see it go up and down.
    """
    return sum(one._guard.denied for one in (own, *_sharing_row(own)))  # noqa: SLF001 - one of us


def _store_errors_beside(own: PulseMiddleware) -> int:
    """How many steps of the store have failed for the filters that share the row of *own*."""
    engines = [other._engine for other in _sharing_row(own)]  # noqa: SLF001 - one of us
    return sum(engine.fleet.store_errors for engine in engines if engine)


def _sharing_row(own: PulseMiddleware) -> list[PulseMiddleware]:
    return [other for other in list(_ringing) if other is not own and other._row == own._row]  # noqa: SLF001 - one of us


def pulse_filter_app_factory(app: WsgiApp, global_conf: Mapping[str, str] | None, **local_conf: str) -> PulseMiddleware:
    """The `paste.filter_app_factory`: `use = egg:pulse` in a `[filter:]` or `[filter-app:]`.

    Raises:
        ConfigError: (a ValueError) naming every fault with its file and section.
    """
    config = read_paste_config(global_conf, local_conf)
    try:
        middleware = PulseMiddleware(app, config)
    except ConfigError as error:  # what is found only now knows its key, and not the file
        places = config.origins
        found = [replace(one, where=one.where or places.get(one.key, "")) for one in error.faults]
        raise ConfigError(found) from error.__cause__
    if not middleware.config.tasks:
        log.warning("there are no tasks: nothing will run", extra={"pulse_event": "no_tasks"})
    return middleware


# Held here as long as they ring: threads run for them, and at exit they have to be drained.
_ringing: Final[set[PulseMiddleware]] = set()


@atexit.register
def _drain_at_exit() -> None:
    """Let running work end before the interpreter does: its threads are daemons."""
    clock = SystemClock()
    begun = clock.monotonic()
    ringing = list(_ringing)
    for middleware in ringing:  # first of all: the last one would go on to begin runs while the others are closed
        middleware._ring_no_more()  # noqa: SLF001 - one of us
    for middleware in ringing:  # one after the other, and all within the longest of their times
        left = middleware.config.shutdown_timeout.total_seconds() - (clock.monotonic() - begun)
        try:
            middleware.close_within(max(0.0, left))
        except KeyboardInterrupt:  # with a traceback, Python would only say that it ignores this
            log.warning(
                "interrupted: what is still running is cut, and found lost by whoever rings next",
                extra={"pulse_event": "drain_interrupted"},
            )
            return
