"""Where `store = auto` keeps an application's runs: a file of its own that all its processes on this host find.

An application that moves, as one that is deployed to another folder each time, leaves its file
behind; those that nobody has used for a year are cleared away.
"""

import logging
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Final

from pulse.errors import StoreUnavailableError
from pulse.model import Config

log = logging.getLogger(__name__)

UNUSED: Final = timedelta(days=366)  # after which a file is cleared away: some tasks run once a year

_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")
# What `_file_of` makes, and what lies beside it.
_OURS: Final = re.compile(r"([A-Za-z0-9._-]+-[0-9a-f]{12}\.db)(?:-seen|-wal|-shm|-journal)?")
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


def clear_away(folder: Path) -> list[str]:
    """Remove the stores in *folder* that nobody has used for a year; their names.

    A process that rings writes to its own every few minutes at the least. The time is that of
    the file which was used last but one: a clock that was set wrong, and went on to write the
    files of one application, must not make those of all others look old. What cannot be
    removed stays.
    """
    try:
        stores = _stores_in(folder)
        used = {name: max(file.lstat().st_mtime for file in files) for name, files in stores.items()}
    except OSError:  # somebody else is clearing away just now
        return []
    reference = sorted(used.values())[-2:][0] if used else 0.0
    unused = [name for name, at in used.items() if reference - at > UNUSED.total_seconds()]
    removed = [name for name in unused if _remove(stores[name])]
    for name in removed:
        what = "%s/%s is removed: no application has used it for a year"
        log.info(what, folder, name, extra={"pulse_event": "store_removed"})
    return removed


def _remove(files: Sequence[Path]) -> bool:
    """Remove as many of *files* as can be; whether none is left."""
    for file in files:
        with suppress(OSError):
            file.unlink()
    return not any(os.path.lexists(file) for file in files)


def _stores_in(folder: Path) -> Mapping[str, Sequence[Path]]:
    """The files of each store by its name, the store itself first: a log without it is no store, and shows that."""
    found = defaultdict(list)
    for file in sorted(folder.iterdir()):
        if ours := _OURS.fullmatch(file.name):
            found[ours[1]].append(file)
    return found


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
    try:
        home = Path(os.environ.get("XDG_STATE_HOME", "")).expanduser()
        if not home.is_absolute():  # processes that are in other folders would have other stores, and run all twice
            home = Path("~/.local/state").expanduser()
        folder = home / "pulse"
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
