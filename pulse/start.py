"""When a process rings: armed where it is constructed, Pulse runs tasks where it *serves*.

A filter is built by servers, by masters that only fork, by reloaders, shells and test
runs, and nothing tells which of them this is. But a process that serves listens, or is
given a request, and the others are not; so that is what is waited for.
"""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from weakref import WeakMethod

from pulse.clock import Clock, SystemClock
from pulse.errors import ClosedError, ConfigError, Fault, StoreUnavailableError
from pulse.forks import heed_forks, heed_gevent, heed_uwsgi
from pulse.model import Config
from pulse.option import options_of, shown
from pulse.probes import Probes
from pulse.wsgi.lazy import START_VARIABLE

log = logging.getLogger(__name__)

LOOK: Final = 0.5  # seconds between two looks; what one costs grows with the number of open files
LOOKS: Final = 2  # in a row that must find it listening: many servers bind first, and fork a moment later
RETRY: Final = 5.0  # seconds until what failed is tried again
PATIENCE: Final = 5.0  # seconds that a fork or `close` waits for an engine that is just being built


class StartState(Enum):
    """What a process does about the tasks."""

    WAITING = "waiting"  # until it is seen to serve
    RINGING = "ringing"  # runs them
    MASTER = "master"  # forks the processes that serve; a request would prove that it serves, too
    PARKED = "parked"  # leaves them to another process
    MANUAL = "manual"  # leaves them to whoever calls `start()`
    CLOSED = "closed"  # is done with them


_SETTLED: Final = frozenset({StartState.PARKED, StartState.MANUAL, StartState.CLOSED})


@dataclass(eq=False, slots=True)
class _Watch:
    """A wait for the moment to ring; the one in `StartRule._watch` counts, all others are over."""

    wake: threading.Event = field(default_factory=threading.Event)
    listened: int = 0  # looks in a row
    failures: int = 0
    thread: threading.Thread | None = None


class StartRule:
    """Decides when one process runs tasks, and starts and ends its engine.

    Safe to use from any thread. A forked process begins anew.

    Attributes:
        state: What this process does about the tasks.
        reason: Why, in a few words.
        settled: The pid of the process whose requests need not call `serve` any more.
    """

    def __init__(
        self,
        start: str,
        *,
        ring: Callable[[str], None],
        silence: Callable[[], None],
        forget: Callable[[], None],
        clock: Clock | None = None,
        probes: Probes | None = None,
    ) -> None:
        """Wire the rule; nothing happens before `arm`.

        Args:
            start: `Config.start`.
            ring: Builds and starts the engine of this process, for the given reason. When
                it raises, that is logged, and it is called again.
            silence: Ends the engine in a bounded time; idempotent.
            forget: Drops an engine that was copied by a fork, without touching its locks
                and threads. Called in the middle of the fork: it must neither block nor log.
            clock: What the watcher waits by.
            probes: How it finds out about the process.
        """
        self.state = StartState.WAITING
        self.reason = "until it is armed"
        self.settled = 0
        self._start, self._source = start, "start"
        self._ring = ring
        self._silence = silence
        self._forget = forget
        self._clock = clock or SystemClock()
        self._probes = probes or Probes()
        self._pid = self._probes.pid()
        self._lock = threading.RLock()
        self._arrival = threading.Lock()
        self._watch: _Watch | None = None
        # A request came, or somebody called `start`: this process serves, so what it forks are its helpers.
        self._is_chosen = False

    def arm(self) -> None:
        """Follow the rule from now on; once, at the end of the construction.

        Raises:
            ConfigError: `PULSE_START` is none of the words that it may be, or this is a
                uWSGI whose processes cannot have threads.
        """
        self._source, self._start = _wanted(self._start)
        if self._start != "manual":
            _want_threads(self._probes.uwsgi)
            heed_gevent()
        self._await_service(is_forked=False)
        heed_forks(self)

    def serve(self) -> None:
        """A request from outside has come: ring at once, if this process is to ring at all.

        A request waits for nothing here. The watcher's thread does the work, for which a
        store may have to answer.
        """
        self._notice_fork()
        is_first, self._is_chosen = not self._is_chosen, True
        if not self._lock.acquire(blocking=False):
            return  # the engine is being started or ended; the next request finds out
        try:
            self._settle()
            if self.state not in (StartState.WAITING, StartState.MASTER):
                return
            if self._watch is None:
                self._begin_watch(_Watch())
            elif is_first:
                self._watch.wake.set()
        finally:
            self._lock.release()

    def start(self, reason: str) -> None:
        """Ring in this process whatever the rule says; idempotent.

        Raises:
            ClosedError: (a RuntimeError) `close` was called.
            ConfigError: this is a uWSGI whose processes cannot have threads.
            Exception: what `ring` raised; then nothing has changed.
        """
        self._notice_fork()
        with self._lock:
            if self.state is StartState.CLOSED:
                raise ClosedError("start() after close()")
            if self.state is not StartState.RINGING:
                _want_threads(self._probes.uwsgi)
                self._ring_by_hand(reason)
            self._is_chosen = True
            self._settle()

    def close(self) -> None:
        """Silence this process for good; idempotent. As bounded as `silence` is."""
        self._notice_fork(is_helper=True)
        self._withdraw(StartState.CLOSED, "close() was called")

    # What forks tell

    def before_fork(self) -> None:
        """This process is about to fork others that serve.

        A child gets copies of this process's locks, but not of the threads that would
        release them: what Pulse has started by itself is ended first.
        """
        if not self._is_chosen and self.state in (StartState.WAITING, StartState.RINGING):
            self._withdraw(StartState.MASTER, "this process forks those that serve")

    def after_fork_in_child(self, *, is_helper: bool) -> None:
        """This process was forked, maybe as the application's helper."""
        self._arrival = threading.Lock()  # another thread of the parent may have held it
        self._begin_anew(is_helper=is_helper or self._is_chosen)

    def after_uwsgi_fork(self) -> None:
        """This process was made by uWSGI: a worker, a mule or a spooler."""
        self._notice_fork()
        if self.state is StartState.WAITING and self._watch is None:
            self._await_service(is_forked=True)

    # What gevent tells

    def before_patch(self) -> None:
        """From the next moment on threads and locks are others; end what uses those of today."""
        watch = self._watch
        if watch is not None:
            self._watch = _Watch()  # in its place, until `after_patch`
            _end(watch)

    def after_patch(self) -> None:
        """Go on with those of gevent."""
        self._lock = threading.RLock()
        self._arrival = threading.Lock()
        if self._watch is not None:
            self._begin_watch(_Watch())

    # Processes

    def _notice_fork(self, *, is_helper: bool = False) -> None:
        """Begin anew in a process that was forked without a word, as from C."""
        if self._pid != self._probes.pid():
            with self._arrival:
                if self._pid != self._probes.pid():
                    self._begin_anew(is_helper=is_helper)

    def _begin_anew(self, *, is_helper: bool) -> None:
        self._lock = threading.RLock()
        self._watch = None
        self._is_chosen = False
        self._forget()
        if self.state not in _SETTLED:
            if is_helper:
                self._become(StartState.PARKED, "the application forked this process for itself", is_said=False)
            else:
                self._await_service(is_forked=True)
        self._settle()
        self._pid = self._probes.pid()  # last: until then other threads wait for `_arrival`

    # Waiting for the moment

    def _await_service(self, *, is_forked: bool) -> None:
        uwsgi = self._probes.uwsgi
        is_said = not is_forked
        if self._start == "manual":
            self._become(StartState.MANUAL, f"{self._source} = manual", is_said=is_said)
        elif self._start == "request":
            self._become(StartState.WAITING, "for the first request", is_said=is_said)
        elif uwsgi is not None and not uwsgi.worker_id():
            heed_uwsgi(uwsgi, self)
            self._become(StartState.WAITING, "for uWSGI to make its workers", is_said=is_said)
        else:
            self._become(StartState.WAITING, "until this process listens, or is given a request", is_said=is_said)
            # A fork is no place to build an engine in, so there the thread does that, too.
            self._begin_watch(_Watch(), is_first_look_here=self._start == "now" and not is_forked)

    def _begin_watch(self, watch: _Watch, *, is_first_look_here: bool = False) -> None:
        self._watch = watch
        pause = self._look(watch) if is_first_look_here else 0
        if pause is None:
            return
        # Weak: else the thread would keep alive a middleware that nobody else holds any more.
        arguments = (WeakMethod(self._look), watch, self._clock, pause)
        watch.thread = threading.Thread(target=_keep_watch, args=arguments, name="pulse-start", daemon=True)
        try:
            watch.thread.start()
        except RuntimeError:  # the system has no thread left; a request must not fail for that
            self._watch = None
            log.exception("nothing can be started", extra={"pulse_event": "start_failed"})

    def _look(self, watch: _Watch) -> float | None:
        """Ring if it is time to; else the seconds until the next look, or None for no more looks."""
        try:
            return self._ring_if_serving(watch)
        # The store may be out of reach, and the application is served all the same.
        except Exception as error:
            watch.failures += 1
            event = {"pulse_event": "start_failed"}
            if watch.failures == 1:
                # Of a store that does not answer the message says all; of anything else only the traceback does.
                is_plain = isinstance(error, StoreUnavailableError)
                said = "could not start: %s; trying again every %g s"
                log.error(said, error, RETRY, exc_info=not is_plain, extra=event)  # noqa: TRY400 - as just said
            else:
                log.warning("could not start, attempt %d: %s", watch.failures, error, extra=event)
            return RETRY

    def _ring_if_serving(self, watch: _Watch) -> float | None:
        must_look = self._start == "auto" and not self._is_chosen
        listens = self._probes.is_listening() if must_look else False
        with self._lock:
            if self._watch is watch:
                self._decide(watch, listens=listens)
            return LOOK if self._watch is watch else None

    def _decide(self, watch: _Watch, *, listens: bool | None) -> None:
        watch.listened = watch.listened + 1 if listens else 0
        if self._is_chosen:
            self._ring_out(watch, "a request came")
        elif self._start == "now":
            self._ring_out(watch, f"{self._source} = now")
        elif listens is None:
            self._rest(StartState.WAITING, "for the first request: this system shows no open files")
        elif watch.listened >= LOOKS and self._probes.is_reloader_parent():
            self._rest(StartState.PARKED, "this process only restarts the one that serves")
        elif watch.listened >= LOOKS:
            self._ring_out(watch, "this process listens")

    # Coming to rest

    def _rest(self, state: StartState, reason: str) -> None:
        self._watch = None
        self._become(state, reason)

    def _ring_out(self, watch: _Watch, reason: str) -> None:
        self._ring(reason)
        if self._watch is watch:
            self._rest(StartState.RINGING, reason)
        else:  # a fork or `close` had no more patience, and has decided otherwise
            self._hush()

    def _ring_by_hand(self, reason: str) -> None:
        waiting, own = self._watch, _Watch()
        self._watch = own
        try:
            self._ring_out(own, reason)
        finally:
            if self._watch is own:
                self._watch = waiting
        if self.state is not StartState.RINGING:
            raise ClosedError("close() was called during start()")

    def _withdraw(self, state: StartState, reason: str) -> None:
        """End the watch and the engine; what is being started at this moment ends by itself."""
        watch, self._watch = self._watch, None
        is_held = self._lock.acquire(timeout=PATIENCE)
        try:
            was_ringing = self.state is StartState.RINGING
            self._become(state, reason)
            if was_ringing:
                self._hush()
        finally:
            if is_held:
                self._lock.release()
        if watch is not None:
            _end(watch)

    def _hush(self) -> None:
        try:
            self._silence()
        # A store that does not answer must break neither a fork nor the end of the process.
        except Exception:
            log.exception("the end was not clean", extra={"pulse_event": "silence_failed"})

    def _become(self, state: StartState, reason: str, *, is_said: bool = True) -> None:
        """Take on *state*, and say so, except in the middle of a fork.

        Another thread of the parent may have been writing the log when it forked. The
        child would wait for ever for that thread to release the stream.
        """
        is_news = (state, reason) != (self.state, self.reason)
        self.state, self.reason = state, reason
        self._settle()
        if is_news and is_said:
            # Whoever rings has said so, with more: in the log of every start there would be the same line twice.
            level = logging.DEBUG if state is StartState.RINGING else logging.INFO
            log.log(level, "%s: %s", state.value, reason, extra={"pulse_event": f"start_{state.value}"})

    def _settle(self) -> None:
        # A process that rings because it listens still has to hear of its first request, see `_is_chosen`.
        is_settled = self.state in _SETTLED or (self.state is StartState.RINGING and self._is_chosen)
        self.settled = self._probes.pid() if is_settled else 0


def _keep_watch(
    look: "WeakMethod[Callable[[_Watch], float | None]]", watch: _Watch, clock: Clock, pause: float | None
) -> None:
    """The outermost frame of the watcher's thread."""
    while pause is not None:
        clock.wait(watch.wake, pause)
        watch.wake.clear()
        turn = look()
        pause = turn(watch) if turn else None
        del turn


def _end(watch: _Watch) -> None:
    """Wake the thread of a watch that does not count any more, and let it go."""
    watch.wake.set()
    thread = watch.thread
    if thread is not None and thread is not threading.current_thread() and thread.is_alive():
        thread.join(PATIENCE)


def _wanted(start: str) -> tuple[str, str]:
    """Who says when to start, and what."""
    written = os.environ.get(START_VARIABLE, "")
    if not written.strip():
        return "start", start
    try:
        return START_VARIABLE, options_of(Config)["start"].read(written)
    except ValueError as error:
        fault = Fault(key=START_VARIABLE, shown=shown(written), problem=str(error), where="environment")
        raise ConfigError([fault]) from error


def _want_threads(uwsgi: Any) -> None:
    if uwsgi is not None and not getattr(uwsgi, "has_threads", True):
        problem = "want true (or threads = 2, or more): tasks are run by threads, which stand still without it"
        raise ConfigError([Fault(key="enable-threads", shown="false", problem=problem, where="uWSGI")])
