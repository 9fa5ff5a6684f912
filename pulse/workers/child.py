"""What runs in a child process: `python -m pulse.workers.child`.

It loads the application, and then answers one request after another over the connection
that its parent gave it. It never rings, and it dies with its parent, whatever it is doing.
"""

import fcntl
import os
import pickle
import runpy
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import TextIOWrapper
from multiprocessing.connection import Connection
from types import FrameType, ModuleType
from typing import Final

from pulse.clock import SystemClock
from pulse.control import Control
from pulse.dispatch import Dispatcher
from pulse.errors import ApplicationError
from pulse.gateway import WsgiApp
from pulse.model import Config, Run
from pulse.workers.protocol import Answer, Application, Ready, Startup, Told, receive, send
from pulse.wsgi.lazy import collecting, load_application

LOOK: Final = 1.0  # seconds between two looks at who the parent is
TELL_EVERY: Final = 0.25  # seconds from one word about the progress of a run to the next


def main(connection: Connection, lifeline: int, stopper: int) -> int:
    """Answer requests until the connection ends; the exit code of the process."""
    for descriptor in (connection.fileno(), lifeline, stopper):
        os.set_inheritable(descriptor, False)  # what an endpoint starts is not to hold them open
    _die_with_parent(lifeline)
    assert isinstance(sys.stdout, TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # a pipe's would come late, or never, and under another run's name
    stop = _Stop(stopper)
    _handle({signal.SIGTERM: stop.now, signal.SIGINT: _leave_to_parent, signal.SIGQUIT: _leave_to_parent})
    try:
        application, dispatch = _loaded(receive(connection))
    # The parent tells: whatever keeps an application from loading is a fault of its runs.
    except BaseException:  # noqa: BLE001 - see above
        send(connection, Ready(problem=traceback.format_exc()))
        return 1
    send(connection, Ready())
    line = _Line(connection)
    while not stop.is_asked:
        try:
            run: Run = receive(connection).run
        except (EOFError, ConnectionResetError):
            return 0
        stop.control = control = _Control(line, run)
        reply = dispatch(application.config.tasks[run.task], run, control)
        control.answer(Answer(run_id=run.id, attempt=run.attempt, reply=reply))
    return 0


class _Line:
    """The way to the parent, which all threads of an endpoint share."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.clock = SystemClock()
        self.lock = threading.Lock()


class _Control(Control):
    """The control of one run, which passes on to the parent what the endpoint tells."""

    def __init__(self, line: _Line, run: Run) -> None:
        super().__init__()
        self._line = line
        self._run = run
        self._told = -TELL_EVERY

    def tell(self, done: float, total: float | None = None, text: str = "") -> None:
        super().tell(done, total, text)
        assert self.progress is not None
        with self._line.lock:
            now = self._line.clock.monotonic()
            if now - self._told >= TELL_EVERY:
                self._told = now
                told = Told(run_id=self._run.id, attempt=self._run.attempt, progress=self.progress)
                send(self._line.connection, told)

    def answer(self, answer: Answer) -> None:
        """Send the answer; what is told later stays here."""
        with self._line.lock:
            self._told = float("inf")
            send(self._line.connection, answer)


class _Stop:
    """What SIGTERM does: it tells the endpoint, and unwinds it, so that its `finally` runs.

    Only if the parent has sent it, which closes *stopper* first. A service manager sends
    it to every process of a service; then it is the parent that drains, and decides.
    """

    def __init__(self, stopper: int) -> None:
        self.control: Control | None = None  # of the run that is under way
        self.is_asked = False
        self._stopper = stopper

    def now(self, _signal: int, _frame: FrameType | None) -> None:
        if not _is_closed_elsewhere(self._stopper, 0):
            return
        self.is_asked = True
        if self.control is not None:
            self.control.set()
        raise SystemExit("stopped by Pulse")


def _leave_to_parent(_signal: int, _frame: FrameType | None) -> None:
    """It drains, and decides. Not SIG_IGN: what an endpoint starts would ignore the signal, too."""


def _handle(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> None:
    """Handle signals in this process, and not in what an endpoint forks: a pool of its own is ended by SIGTERM."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def hold() -> None:  # what comes at once: Python forgets in a fork what it has not handled yet
        signal.pthread_sigmask(signal.SIG_BLOCK, handlers)

    def let_come() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)

    def give_back() -> None:
        for number, handler in handlers.items():
            if signal.getsignal(number) == handler:  # not one of the application's
                signal.signal(number, before[number])
        let_come()

    os.register_at_fork(before=hold, after_in_parent=let_come, after_in_child=give_back)


def _loaded(startup: Startup) -> tuple[Application, Dispatcher]:
    sys.path[:], sys.argv[:] = startup.sys_path, startup.argv
    os.environ.pop("PYTHONPATH", None)
    if startup.python_path is not None:
        os.environ["PYTHONPATH"] = startup.python_path
    if startup.module or startup.script:
        _load_script(startup)
    application: Application = pickle.loads(startup.body)  # noqa: S301 - from the parent that made this process
    if application.wrapped is not None:
        return application, Dispatcher(application.wrapped, application.config)
    wrapped, middleware = _load(application)
    return application, Dispatcher(wrapped, application.config, middleware=middleware)


def _load_script(startup: Startup) -> None:
    """Load what was started in the parent, as `multiprocessing` does: as a module of another name.

    Hence what stands behind `if __name__ == "__main__"` is left out.
    """
    main = ModuleType("__mp_main__")
    if startup.module:
        main.__dict__.update(runpy.run_module(startup.module, run_name=main.__name__, alter_sys=True))
    else:
        main.__dict__.update(runpy.run_path(startup.script, run_name=main.__name__))
    sys.modules["__main__"] = sys.modules[main.__name__] = main


def _load(application: Application) -> tuple[WsgiApp, object]:
    """The application inside the Pulse filter that has the tasks, and that; without one, as it is loaded."""
    with collecting() as built:
        loaded = load_application(application.specification)
    built = built or [loaded]
    for candidate in built:
        config = getattr(candidate, "config", None)
        if isinstance(config, Config) and config.tasks == application.config.tasks:
            return candidate.app, candidate
    if any(isinstance(getattr(candidate, "config", None), Config) for candidate in built):
        raise ApplicationError(application.specification, "none of its Pulse filters has the tasks of this one")
    return loaded, None


def _die_with_parent(lifeline: int) -> None:
    """End this process and all that it started when the other end of *lifeline* is closed, or the parent is another.

    The system does it, by a signal: an endpoint may hold the interpreter in a loop that is
    not Python's, and no thread would ever run. The thread is for other systems, and for a
    parent whose forked children hold the other end open. A daemon: an endpoint that hangs
    must not keep the process alive.
    """
    parent, group = os.getppid(), os.getpgrp()  # of its own: see `processes`
    if sys.platform == "linux":
        with suppress(OSError):  # what only looks like Linux, say a sandbox, may refuse
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, -group)
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        while os.getppid() == parent and not _is_closed_elsewhere(lifeline, LOOK):
            pass
        os.killpg(group, signal.SIGKILL)

    threading.Thread(target=watch, name="pulse-lifeline", daemon=True).start()


def _is_closed_elsewhere(descriptor: int, seconds: float) -> bool:
    """Whether the other end of a pipe was closed, or is within *seconds*; nothing is ever written to it."""
    ear = select.poll()  # `select` refuses descriptors above 1023, of which a busy server has many
    ear.register(descriptor, select.POLLIN)
    return bool(ear.poll(seconds * 1000))


if __name__ == "__main__":
    sys.exit(main(Connection(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])))
