"""Who is told what became of runs: hooks, which are endpoints or functions, and pings.

Telling is never in the way: it is done in threads of its own, few and short-lived, and
whatever goes wrong in it is a line in the log.
"""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pkgutil import resolve_name
from typing import Final
from uuid import UUID

from pulse import __version__
from pulse.clock import Clock
from pulse.control import Control
from pulse.dispatch import Dispatcher
from pulse.gateway import WsgiApp
from pulse.model import FAILURES, Config, Outcome, Pause, Run, Task
from pulse.runlog import document

log = logging.getLogger(__name__)

THREADS: Final = 4  # that tell; if all of them hang in hooks and pings that do not come back, the others wait
WAITING: Final = 1000  # what is to be told; the oldest is dropped, with a line in the log
PING_SECONDS: Final = 10.0
HOOK_TIME: Final = timedelta(seconds=60)  # in which the endpoint of a hook has to send its response


Telling = Callable[[], object]


class Alarms:
    """Tells hooks and ping addresses of the runs of one process; safe to use from any thread."""

    def __init__(self, app: WsgiApp, config: Config, *, clock: Clock) -> None:
        """Wire it; nothing is started before there is something to tell.

        Args:
            app: The wrapped application, which has the endpoints of hooks.
            config: With the tasks, and how internal requests look.
            clock: For the deadlines of hooks.
        """
        self._app = app
        self._config = config
        self._clock = clock
        self._waiting: deque[tuple[str, Telling]] = deque()
        self._threads = 0
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()

    def began(self, run: Run) -> None:
        """A run has begun."""
        task = self._config.tasks.get(run.task)
        if task and task.ping_url:
            self._put(f"ping of {run.task}", _ping(task.ping_url, "/start", run))

    def ended(self, run: Run) -> None:
        """There is a record; one that is tried once more is no news yet."""
        task = self._config.tasks.get(run.task)
        if task is None or run.again_at is not None:
            return
        event, hook = _hook_of(task, run)
        if hook:
            self._put(f"on_{event} of {run.task}", lambda: self._tell(task, hook, event, run))
        if task.ping_url and run.started and (run.outcome is Outcome.SUCCESS or run.outcome in FAILURES):
            way = "" if run.outcome is Outcome.SUCCESS else "/fail"
            self._put(f"ping of {run.task}", _ping(task.ping_url, way, run))

    def paused(self, task: str, pause: Pause) -> None:
        """A task was paused because of its failures: each of them was told."""

    def close(self, seconds: float) -> None:
        """Let what is to be told be told, within *seconds*; what is left is dropped, with a line in the log."""
        if self._clock.wait(self._idle, seconds):
            return
        with self._lock:
            left, self._waiting = len(self._waiting) + self._threads, deque()  # each thread has one in hand
        log.warning("%d hooks and pings were not told any more", left, extra={"pulse_event": "alarms_dropped"})

    # The threads

    def _put(self, what: str, telling: Telling) -> None:
        with self._lock:
            self._waiting.append((what, telling))
            is_full = len(self._waiting) > WAITING
            if is_full:
                self._waiting.popleft()
            is_needed = self._threads < THREADS
            if is_needed:
                self._threads += 1
                self._idle.clear()
        if is_needed:
            self._begin()
        if is_full:
            with suppress(Exception):  # a handler of the log may be what is broken, and runs end all the same
                facts = {"pulse_event": "alarms_dropped"}
                log.error("a hook or ping was dropped: %d are waiting", WAITING, extra=facts)

    def _begin(self) -> None:
        try:
            threading.Thread(target=self._work, name="pulse-alarm", daemon=True).start()
        except RuntimeError:  # the system has no thread left: the next one tells this, too
            with self._lock:
                self._end_thread()
            with suppress(Exception):  # as above
                log.exception("a hook could not be told", extra={"pulse_event": "alarm_failed"})

    def _work(self) -> None:
        """The outermost frame of a thread: tells what waits, and ends."""
        while True:
            with self._lock:
                if not self._waiting:  # in one step: what is put now must find that this thread is gone
                    self._end_thread()
                    return
                what, telling = self._waiting.popleft()
            try:
                telling()
            # A hook is the application's, and an address anybody's: neither may end what tells the others, which
            # SystemExit would, without a word, and so would the CancelledError of an event loop.
            except BaseException:
                with suppress(Exception):  # as above
                    log.exception("%s: could not be told", what, extra={"pulse_event": "alarm_failed"})

    def _end_thread(self) -> None:
        self._threads -= 1
        if not self._threads and not self._waiting:
            self._idle.set()

    # What is told

    def _tell(self, task: Task, hook: str, event: str, run: Run) -> None:
        if not hook.startswith("/"):
            _function(hook)(run)
            return
        body = json.dumps({"event": event, "owner": run.owner, **document(run)}).encode()
        request = replace(
            task, action=hook, method="POST", body=body, content_type="application/json", timeout=HOOK_TIME,
            environ=(), headers=(),
        )  # fmt: skip
        config = replace(self._config, tasks={task.name: request})
        reply = Dispatcher(self._app, config, clock=self._clock)(request, run, Control())
        if reply.outcome is not Outcome.SUCCESS:
            facts = {"pulse_event": "alarm_failed", "pulse_task": task.name, "pulse_run": run.id}
            log.error("on_%s of %s: %s %s", event, task.name, hook, reply.reason, extra=facts)


def _hook_of(task: Task, run: Run) -> tuple[str, str | None]:
    if run.outcome is Outcome.SUCCESS:
        return "success", task.on_success
    if run.outcome is Outcome.MISSED:
        return "missed", task.on_missed
    if run.outcome is Outcome.TIMEOUT and task.on_timeout:
        return "timeout", task.on_timeout
    return "failure", task.on_failure if run.outcome in FAILURES else None


def _ping(url: str, way: str, run: Run) -> Telling:
    def ping() -> None:
        # Only now: with `http.client` and `ssl` it costs each start of a process 20 ms, and few tasks have a ping.
        import urllib.request  # noqa: PLC0415

        request = urllib.request.Request(  # noqa: S310 - the reader of the option lets http and https pass
            f"{url}{way}?rid={UUID(run.id)}",
            data=run.reason.encode(),
            method="POST",
            headers={"User-Agent": f"Pulse/{__version__}", "Content-Type": "text/plain; charset=utf-8"},
        )
        with urllib.request.urlopen(request, timeout=PING_SECONDS):  # noqa: S310 - as above
            pass

    return ping


def _function(place: str) -> Callable[[Run], object]:
    """The function at `module:name`.

    Raises:
        ImportError: the module is not there.
        AttributeError: the name in it is not.
        TypeError: it cannot be called.
    """
    function: object = resolve_name(place)
    if not callable(function):
        raise TypeError(f"{place} cannot be called")
    return function
