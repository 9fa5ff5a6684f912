"""The door: one internal request through the wrapped application, and what came of it.

The whole discipline of WSGI (PEP 3333) is kept towards the application: the response is
iterated to its end and closed, whatever it is. Nothing that an endpoint does can do more
than make its own run fail, except to hang: a thread cannot be killed.
"""

import io
import os
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutine
from threading import Event
from types import TracebackType
from typing import Final, TextIO, cast

from pulse.clock import Clock, SystemClock
from pulse.errors import ResponseError
from pulse.gateway import Environ, WsgiApp
from pulse.mark import INTERNAL, Mark, acting_for
from pulse.model import Config, Outcome, Run, Task
from pulse.request import InternalRequest

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

REASON_LENGTH: Final = 500  # characters; an exception may hold a whole document
TRACE_LENGTH: Final = 65_536

_STATUS: Final = re.compile(r"[1-5][0-9]{2}( .*)?")
_LOGIN: Final = re.compile(r"log-?in|sign-?in|auth", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What became of one internal request.

    Attributes:
        outcome: `SUCCESS`, `FAILED`, `TIMEOUT` or `CANCELLED`.
        reason: Why, in a few words; empty for a success.
        status: The HTTP status; None if the endpoint gave none.
        duration: Seconds, monotonic.
        body: The first bytes of the response.
        errors: The first bytes written to `wsgi.errors`, and the traceback of a failure.
        traceback: Of what the endpoint raised, whole; empty if it did not.
    """

    outcome: Outcome
    reason: str = ""
    status: int | None = None
    duration: float = 0.0
    body: bytes = b""
    errors: bytes = b""
    traceback: str = ""


Dispatch = Callable[[Task, Run, Event], Reply]


class Dispatcher:
    """Sends internal requests to *app*, in the caller's thread; safe to use from many."""

    def __init__(self, app: WsgiApp, config: Config, *, clock: Clock | None = None) -> None:
        """*app*: the wrapped application; *config*: its host, scheme, capture and tasks."""
        self._app = app
        self._capture = config.capture
        self._clock = clock or SystemClock()
        self._requests = {name: InternalRequest(task, config) for name, task in config.tasks.items()}

    def __call__(self, task: Task, run: Run, cancelled: Event) -> Reply:
        """Request the endpoint of *task* once, and read its response to the end.

        Between two chunks it stops when *cancelled* is set or the timeout of the task has
        passed. Never raises: whatever the endpoint raises is its failure.
        """
        process, started = os.getpid(), self._clock.monotonic()
        seconds = task.timeout.total_seconds() if task.timeout else None
        exchange = _Exchange(self._capture, _Limits(self._clock, started, seconds, cancelled))
        environ = self._requests[task.name].environ(
            run,
            deadline=self._clock.now() + timedelta(seconds=seconds) if seconds else None,
            errors=cast("TextIO", exchange.errors),
            cancelled=cancelled,
        )
        mark = Mark(task=task.name, due=run.due, trigger=run.trigger, path=task.path)
        environ[INTERNAL] = mark
        outcome, reason, raised = Outcome.SUCCESS, "", ""
        try:
            with acting_for(mark):
                exchange.perform(self._app, environ)
        # What leaves an endpoint is the endpoint's, SystemExit included: it becomes the
        # record of this run, and must not end the worker that the other tasks share.
        except BaseException as error:  # noqa: BLE001 - see above
            stop = error if isinstance(error, RunStopped) else error.__context__
            if isinstance(stop, RunStopped):  # perhaps its close() raised then: it is cut all the same
                outcome, reason = stop.outcome, str(stop)
            else:
                outcome, reason, raised = Outcome.FAILED, _say(error), _trace(error)
                exchange.errors.write(raised)
        else:
            if exchange.status not in task.expect_status:
                outcome, reason = Outcome.FAILED, exchange.unexpected()
        if os.getpid() != process:
            # A fork that the endpoint made and that came back instead of ending: the run, the
            # store and the worker are those of the parent.
            os._exit(0)
        return Reply(
            outcome=outcome,
            reason=reason,
            status=exchange.status,
            duration=self._clock.monotonic() - started,
            body=exchange.body.kept(),
            errors=exchange.errors.kept(),
            traceback=raised,
        )


class RunStopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was cancelled, or its time is up; raised into an endpoint that calls `write`."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        """*outcome*: `TIMEOUT` or `CANCELLED`."""
        super().__init__(reason)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class _Limits:
    """When a run has to stop between two chunks."""

    clock: Clock
    started: float
    seconds: float | None
    cancelled: Event

    def check(self) -> None:
        self.check_cancelled()
        if self.seconds is not None and self.clock.monotonic() - self.started > self.seconds:
            raise RunStopped(Outcome.TIMEOUT, f"cut after {self.seconds:g} s, while it was sending its response")

    def check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise RunStopped(Outcome.CANCELLED, "cancelled before it had sent all of its response")


class _Capture(io.TextIOBase):
    """Keeps the first bytes of what is written, and forgets the rest at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        room = self._limit - self._size
        if room > 0 and chunk:
            self._parts.append(chunk[:room])
            self._size += len(self._parts[-1])

    def write(self, text: str) -> int:
        self.add(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Stay open: a logging handler of the application may write long after the run."""

    def kept(self) -> bytes:
        return b"".join(self._parts)


class _Exchange:
    """One call of a WSGI application, from `start_response` to `close()`."""

    def __init__(self, capture: int, limits: _Limits) -> None:
        self.status: int | None = None
        self.body = _Capture(capture)
        self.errors = _Capture(capture)
        self._limits = limits
        self._location = ""
        self._has_sent = False
        self._chunks = 0

    def perform(self, app: WsgiApp, environ: Environ) -> None:
        """Call *app* and read its response to the end; raises what it raises, or `ResponseError`."""
        self._limits.check_cancelled()
        chunks = app(environ, self._start_response)
        try:
            for chunk in _iterate(chunks):
                self._take(chunk)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if self.status is None:
            raise ResponseError("it never called start_response (PEP 3333)")

    def unexpected(self) -> str:
        """Why the status is no success."""
        if self.status is None or self.status // 100 != 3:
            return f"answered {self.status}"
        hint = ": the endpoint asks for a login" if _LOGIN.search(self._location) else ""
        return f"answered {self.status} and pointed to {self._location or 'nowhere'}{hint}"

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info:
            try:
                if self._has_sent and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or the frame and the traceback keep each other alive
        elif self.status is not None:
            raise ResponseError("it called start_response twice without exc_info (PEP 3333)")
        self.status = _code(status)
        self._location = _location(headers)
        return self._write

    def _write(self, chunk: bytes) -> None:
        self._take(chunk)

    def _take(self, chunk: object) -> None:
        if self.status is None:
            raise ResponseError("it sent its body before it called start_response (PEP 3333)")
        if not isinstance(chunk, bytes):
            raise ResponseError(f"its response yielded {type(chunk).__name__}; want bytes (PEP 3333)")
        self._has_sent = self._has_sent or bool(chunk)
        self.body.add(chunk)
        self._chunks += 1
        if self._chunks > 1:  # a response in one piece has come to its end, if late
            self._limits.check()


def _iterate(chunks: object) -> Iterable[object]:
    if iscoroutine(chunks):
        chunks.close()
    if hasattr(chunks, "__await__") or hasattr(chunks, "__aiter__"):
        raise ResponseError(f"it returned {_kind(chunks)}; want a synchronous WSGI application (PEP 3333)")
    if isinstance(chunks, str | bytes | Mapping) or not hasattr(chunks, "__iter__"):
        raise ResponseError(f"it returned {_kind(chunks)}; want an iterable of bytes (PEP 3333)")
    return cast("Iterable[object]", chunks)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _code(status: object) -> int:
    if not isinstance(status, str) or not _STATUS.fullmatch(status):
        raise ResponseError(f"its status is {status!r:.80}; want text such as '200 OK' (PEP 3333)")
    return int(status[:3])


def _location(headers: object) -> str:
    if not isinstance(headers, list):
        raise ResponseError(f"its headers are {_kind(headers)}; want a list of pairs (PEP 3333)")
    for name, value in headers:
        if name.lower() == "location":
            return _brief(str(value))
    return ""


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


def _brief(text: str) -> str:
    """*text* for a record: at most REASON_LENGTH characters."""
    return _encodable(text if len(text) <= REASON_LENGTH else text[:REASON_LENGTH] + "...")


def _encodable(text: str) -> str:
    # Names of files may hold lone surrogates, which no store and no log could take.
    return text.encode("utf-8", "backslashreplace").decode()
