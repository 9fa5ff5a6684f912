"""A lock that a fork leaves free in the child, whoever held it in the parent."""

import os
import threading
from types import TracebackType
from typing import Final


class ProcessLock:
    """`with ProcessLock():` as with a `threading.Lock`, of which each process has its own.

    Not every fork is announced (uWSGI's are not), so it goes by the pid.
    """

    def __init__(self) -> None:
        self._locks: Final[dict[int, threading.Lock]] = {}

    def __enter__(self) -> None:
        pid = os.getpid()
        lock = self._locks.get(pid) or self._locks.setdefault(pid, threading.Lock())
        lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locks[os.getpid()].release()
