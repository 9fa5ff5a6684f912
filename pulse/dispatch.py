"""The door: one internal request through the wrapped application, and what came of it.

The whole discipline of WSGI (PEP 3333) is kept towards the application: the response is
iterated to its end and closed, whatever it is. Nothing that an endpoint does can do more
than make its own run fail, except to hang: a thread cannot be killed.
"""

import asyncio
import math
import os
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, NamedTuple

from pulse.clock import Clock, SystemClock
from pulse.context import RunContext, activate, restore
from pulse.control import Control
from pulse.errors import ResponseError
from pulse.evidence import RunLog, headers_shown, listen, reset_current, set_current
from pulse.gateway import Environ, WsgiApp
from pulse.hint import hint
from pulse.mark import INTERNAL, Mark, begin_acting, end_acting
from pulse.model import Config, Outcome, Run, Task
from pulse.request import InternalRequest, shared_environ
from pulse.wsgi.bridge.answer import END, LoopReader, Pieces, awaited, close, is_asynchronous, is_whole, readable
from pulse.wsgi.bridge.connection import CFG, CONNECTION, Connection, Settings

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

REASON_LENGTH: Final = 500  # characters; an exception may hold a whole document
RESULT_LENGTH: Final = 200
TRACE_LENGTH: Final = 65_536
NOT_NOW: Final = frozenset({409, 423})  # the endpoint is there, and has a reason to do nothing
LONGEST_WAIT: Final = 366 * 86_400  # seconds

_STATUS: Final = re.compile(r"[1-5][0-9]{2}( .*)?")
_NOTHING: Final[Mapping[str, str]] = {}
_TELLING: Final = frozenset({"allow", "location", "retry-after", "x-pulse-result"})


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

        To be run as a task of its own: what it enters, it never leaves.

        Raises:
            asyncio.CancelledError: it was cancelled; the response is closed before.
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
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            raised = error
        finally:
            mark.live = False
        return self._reply(task, exchange, raised)

    def _prepare(self, task: Task, run: Run, control: Control) -> tuple["_Exchange", Environ, Mark]:
        exchange = _Exchange(self._capture, self._clock, task.timeout, control)
        request = self._requests.get(task.name)
        if request is None:  # ten thousand of them, made beforehand, took most of the time of a start
            request = self._requests[task.name] = InternalRequest(task, self._shared)
        deadline = self._clock.now() + task.timeout if task.timeout else None
        environ = request.environ(run, deadline, exchange.errors, control)
        mark = environ[INTERNAL] = Mark(task=task.name, due=run.due, trigger=run.trigger, path=task.path)
        return exchange, environ, mark

    def _reply(self, task: Task, exchange: "_Exchange", raised: BaseException | None) -> Reply:
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
        result = _brief(said["x-pulse-result"], RESULT_LENGTH) if "x-pulse-result" in said else ""
        request = f"{task.method} {task.action}"
        headers = headers_shown(exchange.headers) if self._capture else ""
        log = exchange.log.close()
        # In their order: to give them by their names takes a twentieth of a dispatch.
        return Reply(
            outcome, reason, exchange.status, duration, body, errors, trace, retry_after, result, request, headers, log
        )


class RunStopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was cancelled, or its time is up; raised into an endpoint that calls `write`."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        """*outcome*: `TIMEOUT` or `CANCELLED`."""
        super().__init__(reason)
        self.outcome = outcome


def _after_fork_in_child() -> None:
    global _forks  # noqa: PLW0603 - asking the system which process this is costs more than the rest of the question
    _forks += 1


_forks = 0  # how many of them lie between the first process and this one
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Capture:
    """Keeps the first bytes of what is written, and forgets the rest at once."""

    __slots__ = ("_parts", "_room")

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._parts: list[bytes] | None = None  # most runs write nothing to `wsgi.errors`

    def add(self, chunk: bytes) -> None:
        if self._room > 0 and chunk:
            if self._parts is None:
                self._parts = []
            self._parts.append(chunk[: self._room])
            self._room -= len(chunk)

    def kept(self) -> bytes:
        return b"".join(self._parts or ())


class _Errors(_Capture):
    """The same as a text stream, `wsgi.errors`: not one of `io`, as every run pays for making it."""

    __slots__ = ()

    closed = False
    encoding = "utf-8"
    errors = "backslashreplace"

    def write(self, text: str) -> int:
        self.add(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Stay open: a logging handler of the application may write long after the run."""

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


class _Exchange(_Capture):
    """One call of a WSGI application, from `start_response`, which it is, to `close()`; it keeps the body.

    In one object, since thousands may wait.
    """

    __slots__ = (
        "_cancelled",
        "_chunks",
        "_clock",
        "_has_sent",
        "_started",
        "_timeout",
        "errors",
        "headers",
        "log",
        "said",
        "status",
    )

    def __init__(self, capture: int, clock: Clock, timeout: timedelta | None, cancelled: Control) -> None:
        self._room = capture
        self._parts = None
        self.status: int | None = None
        self.errors = _Errors(capture)
        self.log = RunLog(capture)
        self.headers: Sequence[tuple[str, str]] = ()
        self.said: Mapping[str, str] = _NOTHING  # the headers that say something to Pulse
        self._has_sent = False
        self._chunks = 0
        self._clock = clock
        self._started = clock.monotonic()
        self._timeout = timeout
        self._cancelled = cancelled

    def perform(self, app: WsgiApp, environ: Environ) -> None:
        """Call *app* and read its response to the end; raises what it raises, or `ResponseError`."""
        self._check_cancelled()
        answer = app(environ, self)
        if type(answer) is list:
            for chunk in answer:
                self._take(chunk)
        else:
            self._read(answer)
        if self.status is None:
            raise ResponseError("it never called start_response (PEP 3333)")

    def begin(self, app: WsgiApp, environ: Environ) -> Any:
        """What *app* answers, which may have to be awaited."""
        self._check_cancelled()
        return app(environ, self)

    async def read(self, body: Any, *, is_asynchronous: bool) -> None:
        """Read what *app* has answered to its end; raises what it raises, or `ResponseError`.

        Args:
            body: When all of it is awaited.
            is_asynchronous: Whether it had to be, or can be read by `async for`.
        """
        if is_asynchronous:
            await self._read_async(body)
        elif not await self._read_either(body):
            raise ResponseError(
                "it answered without waiting for anything, which on a loop all others wait for: "
                "want mode = threading for a synchronous application"
            )
        if self.status is None:
            raise ResponseError("it never called start_response (PEP 3333)")

    async def _read_async(self, body: Any) -> None:
        if type(body) is list and is_whole(body):  # nothing is left to run, or to be closed
            for piece in body:
                self._take(piece)
            return
        pieces = Pieces(body)
        try:
            while (piece := await pieces.next()) is not END:
                self._take(piece)
        finally:
            await pieces.close()

    async def _read_either(self, body: Iterable[Any]) -> bool:
        """Read a body whose pieces may be awaitable; whether any of them was."""
        was_awaited = False
        try:
            for piece in body:
                was_awaited = was_awaited or hasattr(piece, "__await__")
                self._take(await _settled_piece(piece))
        finally:
            await close(body)
        return was_awaited

    def seconds(self) -> float:
        """How long it has lasted."""
        return self._clock.monotonic() - self._started

    def _read(self, answer: object) -> None:
        chunks = answer
        try:
            if is_asynchronous(answer):
                reader = LoopReader(answer, check=self._check)
                chunks = reader.body()
            for chunk in readable(chunks):
                self._take(chunk)
        finally:
            end = getattr(chunks, "close", None)
            if end is not None:
                end()

    def judged(self, task: Task) -> tuple[Outcome, str]:
        """What a status says of the run that is none of those that are expected, and why."""
        if self.status in NOT_NOW:
            return Outcome.SKIPPED, f"answered {self.status}: not now"
        return Outcome.FAILED, self._unexpected(task)

    def _unexpected(self, task: Task) -> str:
        answer, status = f"answered {self.status}", self.status or 0
        if status // 100 == 3:
            answer += f" and pointed to {_brief(self.said.get('location', '')) or 'nowhere'}"
        remedy = hint(task, status, self.said, self.kept())
        return f"{answer}: {remedy}" if remedy else answer

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """`start_response`."""
        if exc_info:
            try:
                if self._has_sent and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or the frame and the traceback keep each other alive
        elif self.status is not None:
            raise ResponseError("it called start_response twice without exc_info (PEP 3333)")
        self.status = _code(status)
        try:
            self.said = _said(headers)
        except (TypeError, ValueError, AttributeError):
            raise ResponseError("its headers are no list of pairs of texts (PEP 3333)") from None
        self.headers = headers
        return self._write

    def _write(self, chunk: bytes) -> None:
        self._take(chunk)

    def _take(self, chunk: object) -> None:
        if self.status is None:
            raise ResponseError("it sent its body before it called start_response (PEP 3333)")
        if not isinstance(chunk, bytes):
            chunk = self._awaited(chunk)
        if not isinstance(chunk, bytes):
            raise ResponseError(f"its response yielded {type(chunk).__name__}; want bytes (PEP 3333)")
        if chunk:
            self._has_sent = True
        self.add(chunk)
        self._chunks += 1
        if self._chunks > 1:  # a response in one piece has come to its end, if late
            self._check()

    def _check(self) -> None:
        """Stop here, between two chunks, if the run has to."""
        limit = self._timeout.total_seconds() if self._timeout else math.inf
        is_late = self.seconds() > limit
        # Whoever watches the deadline asks the run to stop then, too, and gives no reason.
        if self._cancelled.reason or not is_late:
            self._check_cancelled()
        if is_late:
            raise RunStopped(Outcome.TIMEOUT, f"cut after {limit:g} s, before it had sent all of its response")

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise RunStopped(Outcome.CANCELLED, "cancelled before it had sent all of its response")

    def _awaited(self, chunk: Any) -> object:
        return awaited(chunk, check=self._check) if hasattr(chunk, "__await__") else chunk


async def _settled_piece(piece: Any) -> Any:
    while not isinstance(piece, bytes) and hasattr(piece, "__await__"):
        piece = await piece
    return piece


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _code(status: object) -> int:
    if isinstance(status, str) and (code := _code_of(status)):
        return code
    raise ResponseError(f"its status is {status!r:.80}; want text such as '200 OK' (PEP 3333)")


@lru_cache(maxsize=128)  # an application has few of them
def _code_of(status: str) -> int | None:
    return int(status[:3]) if _STATUS.fullmatch(status) else None


def _said(headers: object) -> dict[str, str]:
    """Those of *headers* that say something to Pulse, by their names in small letters."""
    if not isinstance(headers, list):
        raise ResponseError(f"its headers are {_kind(headers)}; want a list of pairs (PEP 3333)")
    said = {}
    for name, value in headers:
        key = name.lower()
        if key in _TELLING:
            said[key] = str(value)
    return said


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
    except Exception:  # noqa: BLE001 - an endpoint may raise anything, from there too
        text = "<exception str() failed>"
    return _brief(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _trace(error: BaseException) -> str:
    """The traceback of *error*, its end if it is very long."""
    try:
        lines = traceback.format_exception(error)
    except Exception:  # noqa: BLE001 - its notes may be anything
        lines = ["Traceback (that cannot be shown)\n", _say(error)]
    return _encodable("".join(lines)[-TRACE_LENGTH:])


def _brief(text: str, length: int = REASON_LENGTH) -> str:
    """*text* for a record: at most *length* characters."""
    return _encodable(text if len(text) <= length else text[:length] + "...")


def _encodable(text: str) -> str:
    # Names of files may hold lone surrogates, which no store and no log could take.
    return text.encode("utf-8", "backslashreplace").decode()
