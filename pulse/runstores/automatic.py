"""Where `store = auto` keeps an application's runs: a file of its own that all its processes on this host find."""

import logging
import os
import re
import sys
import tempfile
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Final

from pulse.errors import StoreUnavailableError
from pulse.model import Config

log = logging.getLogger(__name__)

_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")
_BUILDERS: Final = frozenset({"pulse", "paste"})  # packages that build a middleware for somebody else

_built: Final[Counter[str]] = Counter()  # how many of the same identity this process has built


def automatic_store(config: Config) -> str:
    """The address of the store of the application that *config* is for.

    It is `memory:` for what lives in one process alone: what is typed at a prompt, and what
    tests build.
    """
    identity = config.name or _identity(config)
    if not identity:
        return "memory:"
    try:
        return f"sqlite:{_file_of(identity)}"
    except StoreUnavailableError as error:
        log.warning("%s: each process runs every task by itself", error, extra={"pulse_event": "store_in_memory"})
        return "memory:"


def _identity(config: Config) -> str:
    """What tells this application from all others of its user; empty if it lives in this process alone.

    That is the ini file, or the file of the code that builds the middleware and the
    directory of the process, and the context. Whoever builds several alike has several, and
    each runs its own tasks: the processes of a server build them in the same order.
    """
    if "_pytest" in sys.modules:
        return ""  # what one test has left behind must not run in the next one
    where = config.origin or _builder()
    if not where:
        return ""
    identity = f"{where}:{config.context}"
    _built[identity] += 1
    return identity if _built[identity] == 1 else f"{identity}:{_built[identity]}"


def _builder() -> str:
    """The file of the code that builds a middleware in Python, and where its process is; empty at a prompt."""
    frame = sys._getframe()  # noqa: SLF001 - `inspect` would read the source files
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BUILDERS:
        frame = frame.f_back
    file = frame.f_globals.get("__file__")
    return f"{Path.cwd()}:{Path(file).absolute()}" if file else ""


def _file_of(identity: str) -> Path:
    """The file of the application called *identity*, in the user's state directory.

    Where that cannot be written, as for many users that only run services, it is a
    directory of the user's in that for temporary files: whatever else it is, it must be
    the same for all processes of the application.

    Raises:
        StoreUnavailableError: there is no directory that only this user can write.
    """
    readable = _ODD.sub("-", identity.rpartition("/")[2]).strip("-.")[:40] or "application"
    digest = blake2b(identity.encode(), digest_size=6).hexdigest()
    return _folder() / f"{readable}-{digest}.db"


def _folder() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        folder = Path(home).expanduser() / "pulse"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: nobody knows where the home is
        return _temporary()
    return folder if os.access(folder, os.W_OK | os.X_OK) else _temporary()


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"pulse-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise StoreUnavailableError(f"there is no place for the run store: {error}") from error
    # In a directory that everybody can write, somebody else may have been first.
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StoreUnavailableError(f"there is no place for the run store: {folder} belongs to somebody else")
    return folder
