"""mode = processing: runs in child processes, which can be killed.

Each thread of the pool minds the child that runs its fire: it claims, sends the request
over a pipe, waits, and finishes. A child that is overdue is asked to stop (TERM), and then
killed with all that it started; then its successor loads, whether or not there is more to
run. Children are made by `subprocess` and not by `multiprocessing`, whose spawn never
answers under uWSGI.
"""

import logging
import os
import pickle
import pickletools
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, Any, Final

from pulse.clock import Clock
from pulse.control import Control
from pulse.dispatch import Reply
from pulse.errors import ClosedError, ConfigError, Fault
from pulse.gateway import WsgiApp
from pulse.model import Config, Outcome, Run, Task
from pulse.runner import Runner
from pulse.workers.base import say
from pulse.workers.protocol import Answer, Application, Ready, Request, Startup, Told, receive, send
from pulse.workers.threads import ThreadWorkers
from pulse.wsgi.lazy import START_VARIABLE

log = logging.getLogger(__name__)

LOAD_LIMIT: Final = 60.0  # seconds that an application may take to load in a child
LOOK: Final = 0.05  # seconds between two looks whether a run was cancelled
# After a deadline the child has this long to cut a flowing response itself: it keeps what was captured.
PATIENCE: Final = 0.1
LAST_WORD: Final = 0.15  # seconds from TERM to KILL when the process itself is ending
LONGEST_LINE: Final = 65_536  # bytes of output that become one line of the log


class ProcessWorkers(ThreadWorkers):
    """Runs fires in child processes, each minded by a thread of the pool."""

    _is_alone = False

    def __init__(self, runner: Runner, *, workers: int, clock: Clock, children: "Children") -> None:
        """*children*: those that *runner* dispatches to; they are closed with the pool."""
        super().__init__(runner, workers=workers, clock=clock)
        self._children = children

    def close(self, seconds: float) -> int:
        waiting = super().close(seconds)
        self._children.close()
        return waiting

    def _cancel(self) -> None:
        self._children.hurry()
        super()._cancel()


class Children:
    """A `Dispatch` into child processes, made when they are needed and kept for the next run.

    Safe to use from many threads; each call has a child of its own.
    """

    def __init__(self, application: bytes, *, clock: Clock) -> None:
        """Wire the pool; nothing is started. *application*: of `application_for_children`."""
        script = _started_script() if _is_of_script(application) else {}
        startup = Startup(
            sys_path=tuple(sys.path),
            argv=tuple(sys.argv),
            python_path=os.environ.get("PYTHONPATH"),
            body=application,
            **script,
        )
        self._startup = pickle.dumps(startup)
        self._clock = clock
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._lock = threading.Lock()
        self._is_closed = False
        self._is_hurried = False

    def __call__(self, task: Task, run: Run, control: Control) -> Reply:
        """Request the endpoint of *task* in a child, and kill it when it is overdue."""
        try:
            child = self._take()
        except (OSError, RuntimeError) as error:  # no process, thread or descriptor left, or the pool is closed
            return Reply(outcome=Outcome.FAILED, reason=f"no process could be started for it: {error}")
        end = self._clock.monotonic() + LOAD_LIMIT
        try:
            while (problem := child.problem(self._clock, end, control)) is None:
                child = self._another_for(child)
            if not problem:
                return self._ask(child, task, run, control)
            child.kill()
            outcome = Outcome.CANCELLED if control.is_set() else Outcome.FAILED
            return Reply(outcome=outcome, reason=_last_line(problem), traceback=problem)
        finally:
            self._give_back(child)

    def hurry(self) -> None:
        """The process ends: whoever is asked to stop from now on has no time for it."""
        self._is_hurried = True

    def close(self) -> None:
        """End all children, also those that still answer; idempotent."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for child in busy:
            child.signal(signal.SIGKILL)  # the thread that minds it sees its end, and clears up
        for child in idle:
            child.kill()

    # The children

    def _take(self) -> "_Child":
        with self._lock:
            if self._is_closed:
                raise ClosedError("the workers were closed")
            child = self._pop_loaded() or (self._idle.pop() if self._idle else None)
        while child is not None and not child.is_alive():
            child.kill()  # it has ended, and left what it was held by
            with self._lock:
                child = self._idle.pop() if self._idle else None
        child = child or self._make()
        with self._lock:
            self._busy.add(child)
        return child

    def _another_for(self, child: "_Child") -> "_Child":
        """One that is free by now, in place of *child*, which goes on loading; or *child* itself."""
        with self._lock:
            free = self._pop_loaded()
            if free is None:
                return child
            self._busy ^= {child, free}
            self._idle.append(child)
            return free

    def _pop_loaded(self) -> "_Child | None":
        """One that is idle and can answer at once; the lock is held, so nobody else looks at those that are idle."""
        for child in reversed(self._idle):
            if child.has_loaded() and child.is_alive():
                self._idle.remove(child)
                return child
        return None

    def _make(self) -> "_Child":
        child = _Child(self._startup)
        try:
            threading.Thread(target=_copy_output, args=(child,), name="pulse-output", daemon=True).start()
        except BaseException:  # the system has no thread left: nobody else would end it, or close what it writes to
            child.kill()
            child.output.close()
            raise
        return child

    def _give_back(self, child: "_Child") -> None:
        """Keep *child* for the next run, or begin to make its successor."""
        kept = child if child.is_usable else self._successor()
        with self._lock:
            self._busy.discard(child)
            if kept is not None and not self._is_closed:
                self._idle.append(kept)
                return
        if kept is not None:
            kept.kill()

    def _successor(self) -> "_Child | None":
        if self._is_closed:
            return None
        try:
            return self._make()
        except (OSError, RuntimeError):  # the next run tries again, and fails if that does
            say(
                log,
                logging.ERROR,
                "a child process could not be started",
                extra={"pulse_event": "child_failed"},
                exc_info=True,
            )
            return None

    # One request

    def _ask(self, child: "_Child", task: Task, run: Run, control: Control) -> Reply:
        started = self._clock.monotonic()
        child.run = run
        try:
            send(child.connection, Request(run=run))
            outcome = self._wait(child, task, run, started, control)
            if isinstance(outcome, Reply):
                return outcome
            return self._stop(child, task, run, outcome, started)
        except (EOFError, OSError):
            reason = child.ending()
        # Anything else that comes out of the pipe, an endpoint has put there.
        except Exception as error:  # noqa: BLE001
            child.kill()
            reason = f"its process spoilt the pipe to Pulse, and was killed: {type(error).__name__}"
        return Reply(outcome=Outcome.FAILED, reason=reason, duration=self._clock.monotonic() - started)

    def _wait(self, child: "_Child", task: Task, run: Run, started: float, control: Control) -> Reply | Outcome:
        """The answer of *child*, or why it is not waited for any longer."""
        seconds = task.timeout.total_seconds() + PATIENCE if task.timeout else float("inf")
        while True:
            left = seconds - (self._clock.monotonic() - started)
            if reply := child.answer(min(LOOK, left), run, control):
                return reply
            if control.is_set():
                return Outcome.CANCELLED
            if left <= 0:
                return Outcome.TIMEOUT

    def _stop(self, child: "_Child", task: Task, run: Run, outcome: Outcome, started: float) -> Reply:
        """End *child*, with what it still has to say about its run."""
        child.ask_to_stop()
        said = self._last_word(child, run, LAST_WORD if self._is_hurried else task.kill_grace.total_seconds())
        child.kill()
        what = "timed out" if outcome is Outcome.TIMEOUT else "was cancelled"
        how = "its process stopped when it was asked to" if said else "its process was killed"
        duration = self._clock.monotonic() - started
        last = said or Reply(outcome=outcome)
        return last._replace(outcome=outcome, reason=f"{what}: {how}", duration=duration, traceback="")

    def _last_word(self, child: "_Child", run: Run, seconds: float) -> Reply | None:
        """What *child* still answers within *seconds*; None if it does not."""
        end = self._clock.monotonic() + seconds
        with suppress(Exception):  # what it can still say is welcome, and no more than that
            while True:
                left = end - self._clock.monotonic()
                if (reply := child.answer(min(LOOK, left), run, Control())) or left <= 0:
                    return reply
        return None


class _Child:
    """One child process; used by one thread at a time."""

    def __init__(self, startup: bytes) -> None:
        """Start it; it loads the application while the parent goes on."""
        self.run: Run | None = None  # what it is doing, for those who read its output
        self.connection, theirs = Pipe()
        self._ear = select.poll()  # kept: `Connection.poll` makes one each time, which costs more than the look
        self._ear.register(self.connection, select.POLLIN)
        # No plain descriptors: if there are none left for one of them, the others close with what is dropped here.
        their_lifeline, self._lifeline = Pipe(duplex=False)
        their_stopper, self._stopper = Pipe(duplex=False)
        passed = [theirs.fileno(), their_lifeline.fileno(), their_stopper.fileno()]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                # Nothing that lies in the current directory is to pass for a module of Python's.
                [_python(), "-P", "-m", "pulse.workers.child", *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=passed,
                env=_environment(),
                start_new_session=True,  # so that it can be killed with all that it started
            )
        finally:
            for end in (theirs, their_lifeline, their_stopper):
                end.close()
        self._is_ready = False
        with suppress(OSError):  # it died at once: `problem` will say so
            self.connection.send_bytes(startup)

    @property
    def output(self) -> IO[bytes]:
        """What it writes to its stdout and stderr."""
        assert self._process.stdout is not None
        return self._process.stdout

    def has_loaded(self) -> bool:
        """Whether it has loaded the application, or has failed to."""
        return self._is_ready or self.has_said(0)

    def problem(self, clock: Clock, end: float, control: Control) -> str | None:
        """Why it cannot be asked, empty if it can; None if it is still loading the application.

        It is waited for a moment each time, and has until *end*, by the monotonic clock.
        """
        if self._is_ready:
            return ""
        try:
            ready: Ready | None = self._said(LOOK)
        except (EOFError, OSError):
            return f"the application could not be loaded: {self.ending()}"
        if ready is None:
            if control.is_set():
                return "it was cancelled while its process was loading the application"
            is_late = clock.monotonic() > end
            return f"the application was not loaded in its process after {LOAD_LIMIT:g} s" if is_late else None
        self._is_ready = not ready.problem
        return ready.problem

    def has_said(self, seconds: float) -> bool:
        """Whether there is something to receive, now or within *seconds*."""
        return bool(self._ear.poll(max(0.0, seconds) * 1000))

    def answer(self, seconds: float, run: Run, control: Control) -> Reply | None:
        """Its answer to the request of *run* if it comes within *seconds*; a word about its progress is for *control*.

        Raises:
            EOFError, OSError: it died.
            ValueError: that is the answer of another run.
            Exception: that is no answer at all.
        """
        said: Answer | Told | None = self._said(seconds)
        if said is None:
            return None
        if (said.run_id, said.attempt) != (run.id, run.attempt):
            raise ValueError("an answer of another run")
        if isinstance(said, Told):
            control.progress = said.progress
            return None
        return said.reply

    def _said(self, seconds: float) -> Any:
        if self.has_said(seconds):
            return receive(self.connection)
        # What it has forked may live on, and hold its end of the pipe open.
        if not self.is_alive() and not self.has_said(0):
            raise EOFError
        return None

    def ask_to_stop(self) -> None:
        """Send SIGTERM, with the sign that it is from here."""
        self._stopper.close()
        self.signal(signal.SIGTERM)

    @property
    def is_usable(self) -> bool:
        """Whether it was not killed."""
        return not self.connection.closed

    def is_alive(self) -> bool:
        """Whether it runs and can be asked."""
        return self.is_usable and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End it at once, with all that it started; idempotent."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        for end in (self.connection, self._lifeline, self._stopper):
            end.close()

    def ending(self) -> str:
        """How it ended, in words; it is killed if it only closed its pipe."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        if code is None:
            return "its process closed the pipe to Pulse, and was killed"
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"


def application_for_children(wrapped: WsgiApp, config: Config) -> bytes:
    """How children get at the application: by its specification, or the object itself, pickled.

    Raises:
        ConfigError: there is no specification, and the object cannot be pickled.
    """
    config = replace(config, token=None, tasks=dict(config.tasks))
    if config.application:
        return pickle.dumps(Application(specification=config.application, config=config))
    try:
        body = pickle.dumps(Application(wrapped=wrapped, config=config))
        if not _is_of_script(body) or _started_script():
            return body
        problem = "it is defined at a prompt, which is not there in another process"
    except Exception as error:  # noqa: BLE001 - an object may refuse in any way it likes
        problem = str(error)
    wanted = "set pulse.config.application = module:object or config:file.ini, or wrap a LazyWsgi"
    raise ConfigError(
        [
            Fault(
                key="pulse.config.mode",
                shown="'processing'",
                problem=f"the application cannot be sent ({problem}); {wanted}",
            )
        ]
    )


def _is_of_script(pickled: bytes) -> bool:
    """Whether something in it is defined in what was started, which is `__main__` only here."""
    return any(name == "__main__" for _, name, _ in pickletools.genops(pickled))


def _started_script() -> dict[str, str]:
    """What was started, as another process can load it: a module, a file; nothing at a prompt."""
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):  # python -m
        return {"module": spec.name}
    path = Path(getattr(main, "__file__", None) or "")
    return {"script": str(path.absolute())} if path.is_file() else {}


def _copy_output(child: _Child) -> None:
    """The thread that copies what *child* writes into the log, with the run it belongs to."""
    with child.output as output:
        for line in iter(lambda: output.readline(LONGEST_LINE), b""):
            text, run = line.decode("utf-8", "backslashreplace").rstrip(), child.run
            facts = {"pulse_event": "child_output", "pulse_task": run and run.task, "pulse_run": run and run.id}
            if run is None:  # while it loads the application, or ends
                say(log, logging.INFO, "a child says: %s", text, extra=facts)
            else:
                say(log, logging.INFO, "task=%s run=%s says: %s", run.task, run.id, text, extra=facts)


def _python() -> str:
    """The interpreter: under uWSGI and other embedding servers `sys.executable` is the server."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    return str(Path(sys.prefix) / "bin" / "python3")


def _environment() -> dict[str, str]:
    """That of this process; the child never rings, and finds Pulse where this process did."""
    home = str(Path(__file__).parents[2])
    paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, START_VARIABLE: "manual", "PYTHONPATH": os.pathsep.join(paths)}


def _last_line(problem: str) -> str:
    return problem.strip().rpartition("\n")[2]
