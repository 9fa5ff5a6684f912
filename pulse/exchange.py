"""One call of a WSGI application: from `start_response`, through its body, to `close()`.

The whole discipline of WSGI (PEP 3333) is kept towards the application: the response is
iterated to its end and closed, whatever it is.
"""

import asyncio
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from types import TracebackType
from typing import Any, Final

from pulse.clock import Clock
from pulse.control import Control
from pulse.errors import ResponseError
from pulse.evidence import RunLog
from pulse.gateway import Environ, WsgiApp
from pulse.hint import hint
from pulse.model import Outcome, Task
from pulse.wsgi.bridge.answer import END, LoopReader, Pieces, awaited, close, is_asynchronous, is_whole, readable

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

REASON_LENGTH: Final = 500  # characters; an exception may hold a whole document
NOT_NOW: Final = frozenset({409, 423})  # the endpoint is there, and has a reason to do nothing
CUT: Final = "cancelled before it had sent all of its response"
_STATUS: Final = re.compile(r"[1-5][0-9]{2}( .*)?")
_NOTHING: Final[Mapping[str, str]] = {}
_TELLING: Final = frozenset({"allow", "location", "retry-after", "x-pulse-result"})


class RunStopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was cancelled, or its time is up; raised into an endpoint that calls `write`."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        """*outcome*: `TIMEOUT` or `CANCELLED`."""
        super().__init__(reason)
        self.outcome = outcome


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


class Exchange(_Capture):
    """One call of a WSGI application, from `start_response`, which it is, to `close()`; it keeps the body.

    One object is all of it, since thousands of runs may wait at once.
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
                await asyncio.sleep(0)  # pieces that are all there would keep every other run waiting
        finally:
            await pieces.close()

    async def _read_either(self, body: Iterable[Any]) -> bool:
        """Read a body whose pieces may be awaitable; whether any of them was."""
        was_awaited = False
        try:
            for piece in body:
                was_awaited = was_awaited or hasattr(piece, "__await__")
                self._take(await _settled_piece(piece))
                await asyncio.sleep(0)  # as above
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
            answer += f" and pointed to {brief(self.said.get('location', '')) or 'nowhere'}"
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
            raise RunStopped(Outcome.CANCELLED, CUT)

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
            said[key] = value
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError  # no server takes them, and who shows them later has to
    return said


def brief(text: str, length: int = REASON_LENGTH) -> str:
    """*text* for a record: at most *length* characters."""
    return encodable(text if len(text) <= length else text[:length] + "...")


def encodable(text: str) -> str:
    """*text* without lone surrogates, as names of files may have them: no store and no log could take these."""
    return text.encode("utf-8", "backslashreplace").decode()
