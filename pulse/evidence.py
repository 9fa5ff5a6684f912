"""What a run leaves behind for whoever looks at it later: response headers, and its log lines.

Log records are taken where Python makes them, not by a handler: a handler at the root would
keep `logging.basicConfig` from doing anything and silence the warnings of applications that
have set up no logging, and is dropped by `logging.config`. A record is put into words when the
next one comes: by then the filters of the application, which may remove secrets from it, have
had it. Code that runs outside of runs pays for a look at a context variable per record.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

LINES: Final = 200  # of a run that are kept: the last ones, which tell how it ended
BYTES: Final = 16_384  # that they have together
HEADER_BYTES: Final = 4096
MASK: Final = "\N{BULLET}" * 6

_SECRETIVE: Final = re.compile(r"cookie|token|secret|passw|authori|credential|api.?key|signature", re.IGNORECASE)


class RunLog:
    """The last lines that are logged inside one run.

    Without a lock, which a fork could leave held: of threads that log at the very same moment
    a line may be lost.
    """

    __slots__ = ("_dropped", "_lines", "_newest", "_room")

    def __init__(self, room: int) -> None:
        """*room*: bytes that are kept, at most BYTES; nothing is taken if there are none."""
        self._room = room if room < BYTES else BYTES  # noqa: FURB136 - `min` takes as long as all the rest of this
        self._newest: logging.LogRecord | None = None
        self._lines: deque[str] | None = None  # most runs log nothing
        self._dropped = 0

    def take(self, record: logging.LogRecord) -> None:
        """Take *record*, which its logger has just made; never raises."""
        if not self._room:
            return
        before, self._newest = self._newest, record
        # Twice the same: somebody has put a factory around ours, and we have put ours around that.
        if before is not None and before is not record:
            self._add(before)

    def close(self) -> bytes:
        """What was logged, as UTF-8; what is logged from now on, by a task that goes on, is not taken."""
        if self._newest is None:  # nothing was logged
            self._room = 0
            return b""
        self._room, room = 0, self._room
        newest, self._newest = self._newest, None
        if newest is not None:
            self._add(newest)
        lines, self._lines = self._lines, None
        return _last(lines, room, self._dropped) if lines else b""

    def _add(self, record: logging.LogRecord) -> None:
        if self._lines is None:
            self._lines = deque(maxlen=LINES)
        for line in _worded(record).splitlines()[-LINES:]:
            self._dropped += len(self._lines) == LINES
            self._lines.append(line[:BYTES])


_current: Final[ContextVar[RunLog | None]] = ContextVar("pulse_run_log", default=None)
set_current: Final = _current.set
reset_current: Final = _current.reset


def listen() -> None:
    """Have the records of this process looked at as they are made; idempotent."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _Factory):
        logging.setLogRecordFactory(_Factory(make))


class _Factory:
    """Makes log records as the factory before it does, and shows them to the run that they belong to."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *said: Any, **more: Any) -> logging.LogRecord:
        record = self._make(*said, **more)
        log = _current.get()
        if log is not None and record.name:  # without one it is made of another record
            log.take(record)
        return record


def headers_shown(headers: Iterable[tuple[str, str]]) -> str:
    """*headers* of a response, a line each, as somebody may read them."""
    try:
        text = "\n".join([f"{name}: {MASK if _is_secretive(name) else value}" for name, value in headers])
    # The list is the endpoint's, which may have done anything to it since; its run has a result all the same.
    except Exception as error:  # noqa: BLE001 - see above
        return f"(headers that cannot be shown: {type(error).__name__})"
    if len(text) > HEADER_BYTES:
        text = text[:HEADER_BYTES] + "\n..."
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


@lru_cache(maxsize=256)
def _is_secretive(name: str) -> bool:
    return bool(_SECRETIVE.search(name))


def _worded(record: logging.LogRecord) -> str:
    try:
        # What a formatter of the application has made of it already is the same, and is there.
        message = vars(record).get("message") or record.getMessage()
        time = datetime.fromtimestamp(record.created, UTC)
        text = f"{time:%H:%M:%S},{record.msecs:03.0f} {record.levelname} {record.name} {message}"
        return f"{text}\n{_FORMATTER.formatException(record.exc_info)}" if record.exc_info else text
    # The handlers of the application say it better, and have done so: logging must not break a run.
    except Exception as error:  # noqa: BLE001 - arguments may be anything
        return f"{record.levelname} {record.name} (a record that cannot be shown: {type(error).__name__})"


_FORMATTER: Final = logging.Formatter()


def _last(lines: Iterable[str], room: int, dropped: int) -> bytes:
    """The last of *lines* for which there is *room*, and how many came before."""
    kept: deque[bytes] = deque()
    for line in reversed(list(lines)):
        text = line.encode("utf-8", "backslashreplace")
        if kept and len(text) > room:
            room, dropped = -1, dropped + 1  # nor is one before it, not even an empty one
        else:
            kept.appendleft(text[:room])
            room -= len(text) + 1
    if dropped:
        kept.appendleft(f"({dropped} earlier {'line is' if dropped == 1 else 'lines are'} not kept)".encode())
    return b"\n".join(kept)
