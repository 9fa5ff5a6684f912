"""The door: one internal request through the wrapped application, and what came of it.

Nothing that an endpoint does can do more than make its own run fail, except to hang: a
thread cannot be killed.
"""

import asyncio
import os
import traceback
from collections.abc import Callable
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from pulse.clock import Clock, SystemClock
from pulse.context import RunContext, activate, restore
from pulse.control import Control
from pulse.evidence import headers_shown, listen, reset_current, set_current
from pulse.exchange import CUT, Exchange, RunStopped, brief, encodable
from pulse.gateway import Environ, WsgiApp
from pulse.mark import INTERNAL, Mark, begin_acting, end_acting
from pulse.model import Config, Outcome, Run, Task
from pulse.request import InternalRequest, shared_environ
from pulse.wsgi.bridge.answer import is_asynchronous, readable
from pulse.wsgi.bridge.connection import CFG, CONNECTION, Connection, Settings

RESULT_LENGTH: Final = 200
TRACE_LENGTH: Final = 65_536
LONGEST_WAIT: Final = 366 * 86_400  # seconds


class Reply(NamedTuple):
    """What became of one internal request; by its names, never by position.

    A tuple, because making a frozen dataclass of twelve fields takes a tenth of a dispatch.

    Attributes:
        outcome: `SUCCESS`, `FAILED`, `TIMEOUT` or `CANCELLED`.
        reason: Why, in a few words; empty for a success.
        status: The HTTP status; None if the endpoint gave none.
        duration: Seconds, monotonic.
        body: The first bytes of the response.
        errors: The first bytes written to `wsgi.errors`, and the traceback of a failure.
        traceback: Of what the endpoint raised, whole; empty if it did not.
        retry_after: When the endpoint wants to be asked again, from now on (`Retry-After`).
        result: What it says of the run (`X-Pulse-Result`).
        request: The method and the path that were requested.
        headers: Those of the response, as `pulse.evidence` shows them.
        log: The last lines that were logged inside the run.
    """

    outcome: Outcome
    reason: str = ""
    status: int | None = None
    duration: float = 0.0
    body: bytes = b""
    errors: bytes = b""
    traceback: str = ""
    retry_after: timedelta | None = None
    result: str = ""
    request: str = ""
    headers: str = ""
    log: bytes = b""


Dispatch = Callable[[Task, Run, Control], Reply]


class Dispatcher:
    """Sends internal requests to *app*, in the caller's thread; safe to use from many.

    An asynchronous application is awaited on the event loop of the process, while the
    thread waits; at its time limit it is cancelled.
    """

    def __init__(
        self, app: WsgiApp, config: Config, *, clock: Clock | None = None, middleware: object | None = None
    ) -> None:
        """Wire it.

        Args:
            app: The wrapped application.
            config: Its host, scheme, capture and tasks.
            clock: That of the machine if not given.
            middleware: The `PulseMiddleware`, for `PulseContext.app`; *app* itself where there is none.
        """
        self._app = app
        self._middleware = app if middleware is None else middleware
        self._context = config.context
        self._capture = config.capture
        self._clock = clock or SystemClock()
        self._shared = shared_environ(config, {CONNECTION: Connection("internal"), CFG: Settings(config)})
        self._requests: dict[str, InternalRequest] = {}  # of the tasks that have run
        listen()

    def __call__(self, task: Task, run: Run, control: Control) -> Reply:
        """Request the endpoint of *task* once, and read its response to the end.

        Between two chunks it stops when *control* is set or the timeout of the task has
        passed. Never raises: whatever the endpoint raises is its failure.
        """
        forks = _forks
        exchange, environ, mark = self._prepare(task, run, control)
        entered = activate(RunContext(self._middleware, environ, self._context, run))
        acting = begin_acting(mark)
        logged = set_current(exchange.log)
        raised: BaseException | None = None
        try:
            exchange.perform(self._app, environ)
        # What leaves an endpoint is the endpoint's, SystemExit included: it becomes the
        # record of this run, and must not end the worker that the other tasks share.
        except BaseException as error:  # noqa: BLE001 - see above
            raised = error
        finally:
            reset_current(logged)
            end_acting(mark, acting)
            restore(entered)
        if _forks != forks:
            # A fork that the endpoint made and that came back instead of ending: the run, the
            # store and the worker are those of the parent.
            os._exit(0)
        return self._reply(task, exchange, raised)

    async def perform(self, task: Task, run: Run, control: Control) -> Reply:
        """The same on an event loop: whatever the application awaits is awaited here.

        To be run as a task of its own: what it enters, it never leaves. When it is cancelled the
        response is closed, and what it has said until then is in the reply.
        """
        exchange, environ, mark = self._prepare(task, run, control)
        activate(RunContext(self._middleware, environ, self._context, run))
        begin_acting(mark)
        set_current(exchange.log)
        raised: BaseException | None = None
        try:
            answer = body = exchange.begin(self._app, environ)
            while hasattr(body, "__await__"):  # here: a coroutine further in would cost each run that waits
                body = await body
            await exchange.read(readable(body), is_asynchronous=is_asynchronous(answer))
        except asyncio.CancelledError:
            raised = RunStopped(Outcome.CANCELLED, CUT)
        except BaseException as error:  # noqa: BLE001 - as above
            raised = error
        finally:
            mark.live = False
        return self._reply(task, exchange, raised)

    def _prepare(self, task: Task, run: Run, control: Control) -> tuple[Exchange, Environ, Mark]:
        exchange = Exchange(self._capture, self._clock, task.timeout, control)
        request = self._requests.get(task.name)
        if request is None:  # ten thousand of them, made beforehand, took most of the time of a start
            request = self._requests[task.name] = InternalRequest(task, self._shared)
        deadline = self._clock.now() + task.timeout if task.timeout else None
        environ = request.environ(run, deadline, exchange.errors, control)
        mark = environ[INTERNAL] = Mark(task=task.name, due=run.due, trigger=run.trigger, path=task.path)
        return exchange, environ, mark

    def _reply(self, task: Task, exchange: Exchange, raised: BaseException | None) -> Reply:
        trace, said = "", exchange.said
        outcome, reason = Outcome.SUCCESS, ""
        if raised is None:
            if exchange.status not in task.expect_status:
                outcome, reason = exchange.judged(task)
        else:
            stop = raised if isinstance(raised, RunStopped) else raised.__context__
            if isinstance(stop, RunStopped):  # perhaps its close() raised then: it is cut all the same
                outcome, reason = stop.outcome, str(stop)
            else:
                outcome, reason, trace = Outcome.FAILED, _say(raised), _trace(raised)
                exchange.errors.write(trace)
        duration, body, errors = exchange.seconds(), exchange.kept(), exchange.errors.kept()
        retry_after = _retry_after(said["retry-after"], self._clock) if "retry-after" in said else None
        result = brief(said["x-pulse-result"], RESULT_LENGTH) if "x-pulse-result" in said else ""
        request = f"{task.method} {task.action}"
        headers = headers_shown(exchange.headers) if self._capture else ""
        log = exchange.log.close()
        # By position, in the order of the fields: by name they take a twentieth of a dispatch.
        return Reply(
            outcome, reason, exchange.status, duration, body, errors, trace, retry_after, result, request, headers, log
        )


def _after_fork_in_child() -> None:
    global _forks  # noqa: PLW0603 - asking the system which process this is costs more than the rest of the question
    _forks += 1


_forks = 0  # how many of them lie between the first process and this one
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _retry_after(said: str, clock: Clock) -> timedelta | None:
    """The time that a `Retry-After` asks for (RFC 9110, 10.2.3); None for what cannot be read."""
    said = said.strip()
    if said.isdecimal() and said.isascii():
        return timedelta(seconds=min(int(said[:12]), LONGEST_WAIT))
    try:
        moment = parsedate_to_datetime(said)
        wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - clock.now()
    except (ValueError, OverflowError):  # a year or an offset of twenty digits
        return None
    return min(max(timedelta(0), wait), timedelta(seconds=LONGEST_WAIT))


def _say(error: BaseException) -> str:
    """`ValueError: text`, also for an exception that cannot say itself."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - an endpoint may raise anything, from there too
        text = "<exception str() failed>"
    return brief(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _trace(error: BaseException) -> str:
    """The traceback of *error*, its end if it is very long."""
    try:
        lines = traceback.format_exception(error)
    except Exception:  # noqa: BLE001 - its notes may be anything
        lines = ["Traceback (that cannot be shown)\n", _say(error)]
    return encodable("".join(lines)[-TRACE_LENGTH:])
