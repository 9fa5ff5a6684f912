"""What kind of process this is: whether it serves, reloads, or forks a helper."""

import inspect
import os
import socket
import stat
import sys
import threading
from _socket import socket as plain_socket  # gevent replaces the other one, and makes what it is given non-blocking
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

# Who forks from these modules wants a helper for its own work, and no process that serves.
HELPERS: Final = frozenset(
    {
        *("multiprocessing", "concurrent", "subprocess", "socketserver", "pty"),
        *("billiard", "joblib", "loky", "multiprocess", "pexpect", "ptyprocess", "sh"),
    }
)
PATCHES: Final = frozenset({__name__.partition(".")[0], "gevent"})  # may stand between them and `os.fork`


def is_listening() -> bool | None:
    """Whether this process holds a listening socket; None where that cannot be seen.

    Raises:
        OSError: it could not be seen this time: no file descriptor was left to look with.
    """
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            descriptors = [int(path.name) for path in Path(folder).iterdir()]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        return any(map(_is_listener, descriptors))
    return None


def is_reloader_parent() -> bool:
    """Whether this process listens, but only restarts the one that serves: of Werkzeug, or of hypercorn."""
    return _is_of_werkzeug() or _is_of_hypercorn()


def find_uwsgi() -> Any:
    """The module by which uWSGI talks to the processes that it makes; None in all others."""
    module = sys.modules.get("uwsgi")
    return module if hasattr(module, "worker_id") else None  # a folder of that name is not it


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """How a process finds out what it is."""

    pid: Callable[[], int] = os.getpid
    is_listening: Callable[[], bool | None] = is_listening
    is_reloader_parent: Callable[[], bool] = is_reloader_parent
    uwsgi: Any = field(default_factory=find_uwsgi)


def forks_a_helper() -> bool:
    """Whether the fork that is under way is the application's, and not a server's.

    Only the caller of `os.fork` counts. Further out there may be, say, the multiprocessing
    that has started the whole server.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return True
    frame = inspect.currentframe()
    while frame is not None and _top(frame.f_globals) in PATCHES:
        frame = frame.f_back
    return frame is not None and _top(frame.f_globals) in HELPERS


def _is_of_werkzeug() -> bool:
    # It imports that module when it is about to reload, and only then.
    return "werkzeug._reloader" in sys.modules and os.environ.get("WERKZEUG_RUN_MAIN") != "true"


def _is_of_hypercorn() -> bool:
    """Whether the main thread is in the part of hypercorn that makes those who serve, and does not serve itself.

    With `--reload` that loads the application too, to know which files to watch.
    """
    if "hypercorn.run" not in sys.modules:
        return False
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - there is no other way
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("hypercorn.") and module.endswith(".run"):
            return module == "hypercorn.run"  # that of asyncio and of trio, further in, serves
        frame = frame.f_back
    return False


def _top(names: dict[str, Any]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]


def _is_listener(descriptor: int) -> bool:
    """Whether it is a listening socket; nothing about it is changed, nor is a copy made.

    A copy might be inherited by a process that is forked at this moment, and there keep
    a connection or a port open for ever.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        # The family does not matter; a non-blocking type keeps `socket.setdefaulttimeout` from being applied.
        kind = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)
        borrowed = plain_socket(socket.AF_UNIX, kind, 0, descriptor)
    except OSError:
        return False  # it was closed since the folder was read
    try:
        return bool(borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        borrowed.detach()
