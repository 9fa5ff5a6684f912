"""The run store of one host: a file that all processes of an application share.

SQLite lets one process write at a time, so a claim is one transaction. With a WAL and
`synchronous = NORMAL` the file survives killed processes; a power cut can cost the last
moments of it.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pulse.clock import Clock, SystemClock
from pulse.errors import StoreUnavailableError
from pulse.model import Instance
from pulse.runstores.instants import MICROSECOND, instant_of, number_of
from pulse.runstores.legible import UnreadableError
from pulse.runstores.schema import CHANGED, ERRORS, LOCKS, SECRETS, SUMS, TABLES, TALLIES, TRACES
from pulse.runstores.sql import SqlStore
from pulse.runstores.whereabouts import Whereabouts
from pulse.zone import EPOCH

log = logging.getLogger(__name__)

BUSY_SECONDS: Final = 2.0  # how long a step waits for those of others, which take microseconds
TURN_SECONDS: Final = 5.0  # and how long for the threads of its own process, of which one may wait for a disk
# Bytes. A commit writes the pages that it has changed, of which a claim and its finish change
# five: with 4096, which SQLite takes by itself, they took a tenth longer.
PAGE: Final = 2048
# Pages of the log, after which it is copied into the file, and whoever has committed waits for the disk: with the
# 1000 that SQLite takes by itself a quarter as many runs lay between. For more the log would have a second index.
CHECKPOINT: Final = 4000
DIGITS: Final = 20  # of the number beside the file; what lies behind them is none of ours

_SCHEMA: Final = (
    TABLES.format(counter="INTEGER PRIMARY KEY", bytes="BLOB", keyed=" WITHOUT ROWID")
    + """
CREATE TABLE birth (device INTEGER NOT NULL, inode INTEGER NOT NULL, born BIGINT);
"""
)
# With the task in its key the held runs of a task lie together, and no index beside them is
# one more page that each claim and each finish write.
_HELD: Final = """
DROP INDEX held_by_task;
ALTER TABLE held RENAME TO held_before;
CREATE TABLE held (
    app TEXT NOT NULL,
    task TEXT NOT NULL,
    id TEXT NOT NULL,
    due BIGINT NOT NULL,
    trigger TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    owner TEXT NOT NULL,
    started BIGINT,
    expires BIGINT,
    place TEXT NOT NULL,
    recovers INTEGER NOT NULL,
    lock TEXT NOT NULL,
    stop TEXT NOT NULL,
    progress TEXT,
    PRIMARY KEY (app, task, id)
) WITHOUT ROWID;
INSERT INTO held SELECT app, task, id, due, trigger, attempt, owner, started, expires, place, recovers, lock, stop,
    progress FROM held_before;
DROP TABLE held_before
"""
# What brings a file from the version of its place here to the next one; never changed once released.
_UPGRADES: Final = (
    _SCHEMA,
    "ALTER TABLE birth ADD COLUMN generation BIGINT NOT NULL DEFAULT 0",
    SECRETS.format(keyed=" WITHOUT ROWID"),
    TRACES.format(counter="INTEGER PRIMARY KEY", bytes="BLOB"),
    _HELD,
    TALLIES + "DROP TABLE tracks",
    LOCKS,
    SUMS,
    ERRORS,
)


def why_unusable(path: str | Path) -> str:
    """Why nothing can be kept in the file at *path*; empty if nothing speaks against it. Nothing is opened."""
    file = Path(path).absolute()
    try:
        if file.is_dir():
            return f"want the path of a file: {file} is a directory"
        if file.exists():
            is_open = file.is_file() and os.access(file, os.R_OK | os.W_OK)
            return "" if is_open else f"want a file that can be read and written: {file} cannot"
        folder = next(parent for parent in file.parents if parent.exists())
    except OSError as error:  # the name is too long, a folder cannot be looked into, a file is taken for one
        return f"want the path of a file: {error.strerror}"
    if not folder.is_dir():
        return f"want the path of a file: {folder} is no directory"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"want a directory in which a file can be made: {folder} cannot be written"
    return ""


class SqliteRunStore(SqlStore):
    """Keeps everything in the file at *path*, for all processes of this host.

    Safe to use from many threads and, after a fork, from many processes. Every method
    raises StoreUnavailableError when the file cannot be used; the next call tries anew.
    """

    def __init__(self, path: str | Path, *, name: str = "", history: int = 50, clock: Clock | None = None) -> None:
        """Nothing is opened yet.

        Args:
            path: The file; it is made when it is needed, readable by its owner alone.
            name: Of the application, where several share the file.
            history: How many finished records are kept a task.
            clock: For the birth of a file that was put in the place of another one.
        """
        super().__init__(name=name, history=history)
        self.path = Path(path).absolute()  # another one after a chdir would be another store
        self._witness = self.path.with_name(f"{self.path.name}-seen")
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._vain = 0  # steps that waited for those of others, and had no turn
        self._vain_before = 0  # those of them after which another step had one
        self._connection: sqlite3.Connection | None = None
        self._files = Whereabouts(self.path)
        self._birth: datetime | None = None

    def __repr__(self) -> str:
        return f"<SqliteRunStore {self.path}>"

    def after_fork(self) -> None:
        """See `RunStore.after_fork`; the next call opens the file anew."""
        self._lock = threading.Lock()
        # Closing it here would break the locks that the parent holds on the file.
        _inherited.append(self._connection)
        self._connection = None
        self._files.forget()

    def close(self) -> None:
        """Close the file, unless a step has it that does not end; the next call opens it again."""
        if self._lock.acquire(timeout=TURN_SECONDS):
            try:
                self._close()
            finally:
                self._lock.release()

    def reach(self) -> None:
        """See `RunStore.reach`; a file that is not there is made when it is needed."""
        try:
            if self.path.exists() and self.path.stat().st_size:  # an empty one is no database yet
                self._read_as_it_lies()
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailableError(f"the run store {self.path} cannot be used: {error}") from error

    # The file

    def _read_as_it_lies(self) -> None:
        """Refuse what is no database, or one of a later release.

        Immutable: whoever else opens a file with a WAL makes files beside it, and clears
        away those that a killed process has left.
        """
        address = f"{self.path.as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            _require_known(_version(connection))

    def _step(self, *_tasks: str) -> "_Turn":
        """A transaction."""
        return _Turn(self._lock, self._vain, self._begin, self._commit, self._give_up)

    def _reading(self) -> "_Turn":
        return _Turn(self._lock, self._vain, self._look, _nothing, self._give_up)

    def _begin(self, vain: int) -> sqlite3.Connection:
        """Begin as a writer: two transactions that began as readers would fail each other."""
        file = self._look(vain)
        file.execute("BEGIN IMMEDIATE")
        return file

    def _commit(self) -> None:
        self._run("COMMIT")
        self._vain_before = self._vain

    def _look(self, vain: int) -> sqlite3.Connection:
        self._must_be_worth_waiting(vain)
        return self._open()

    def _must_be_worth_waiting(self, vain: int) -> None:
        """Fail with the step that waited in vain before this one: one by one they would keep a request for minutes.

        Raises:
            StoreUnavailableError: *vain*, as it was when this step came, has grown since, and no step had its turn.
        """
        if vain != self._vain != self._vain_before:
            raise StoreUnavailableError(f"the run store {self.path} cannot be used: somebody else has locked it")

    def _give_up(self, error: BaseException) -> None:
        """Close the file: that takes back what was not committed, and the next call inherits nothing of *error*.

        Raises:
            StoreUnavailableError: *error* is one of the file.
        """
        # Of a turn that was not worth waiting for: the file was not used.
        if isinstance(error, StoreUnavailableError) and not isinstance(error, UnreadableError):
            return
        with suppress(sqlite3.Error):
            self._close()
        # A spoilt file has names that are no text, and instants of no calendar.
        if isinstance(error, (sqlite3.Error, OSError, UnicodeDecodeError, OverflowError)):
            # Its low byte is the kind. What fails at once keeps nobody waiting.
            kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
            self._vain += kind == sqlite3.SQLITE_BUSY
            why = f"{error} {CHANGED}" if kind == sqlite3.SQLITE_ERROR else error
            raise StoreUnavailableError(f"the run store {self.path} cannot be used: {why}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._files.are_the_same():
            return self._connection
        if self._files.is_inherited:  # a fork that nobody told us of
            _inherited.append(self._connection)
            self._connection = None
        was_open = self._connection is not None
        self._close()
        self._make_private_file()
        file = self._which_file()
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            _prepare(connection)
            self._birth = self._birth_of(connection)
            self._must_still_be(file)
            self._files.note()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if was_open:
            self._say_replaced()
        return connection

    def _say_replaced(self) -> None:
        log.warning(
            "the run store %s was removed, replaced or written over while it was used: nothing is run that it does "
            "not know, or that was due before",
            self.path,
            extra={"pulse_event": "store_replaced"},
        )

    def register(
        self, tracks: Iterable[str], now: datetime, *, since: datetime | None = None
    ) -> Mapping[str, datetime]:
        """See `RunStore.register`; all at once, and forgets the tracks of hosts and processes that are long gone."""
        names, begin = sorted(tracks), number_of(since or now)
        with self._step() as file:
            self._forget_places(now, names)
            file.executemany(
                "INSERT INTO tasks (app, name, appended, cursor) VALUES (?, ?, 0, ?) "
                "ON CONFLICT (app, name) DO UPDATE SET cursor = excluded.cursor WHERE tasks.cursor IS NULL",
                ((self._app, name, begin) for name in names),
            )
            rows = self._run(
                "SELECT name, cursor FROM tasks WHERE app = ? AND name BETWEEN ? AND ?",
                self._app, min(names, default=""), max(names, default=""),
            ).fetchall()  # fmt: skip
            reached = self._reached()
        known = dict(rows)
        return {name: EPOCH + max(known[name], reached.get(name, 0)) * MICROSECOND for name in names}

    def beat(self, instance: Instance, fingerprints: Mapping[str, str], alive: timedelta) -> Mapping[str, datetime]:
        """See `RunStore.beat`; also looks whether the file is still the one that it was."""
        living = super().beat(instance, fingerprints, alive)
        with self._reading() as file:
            self._files.look_closely()
            before, self._birth = self._birth, self._birth_of(file)
        if self._birth != before:
            self._say_replaced()
        return living

    def _birth_of(self, connection: sqlite3.Connection) -> datetime | None:
        """Since when the file knows everything: an older copy of it knows nothing of what came later.

        One that was put in its place is another file. One that was written over it is not,
        as by `cp` or by the backup of SQLite: so a file beside it remembers the highest
        generation that it had, which grows every few seconds.
        """
        place = self._which_file()
        connection.execute("BEGIN IMMEDIATE")  # whoever calls this closes it when something fails
        row = connection.execute("SELECT device, inode, born, generation FROM birth").fetchone()
        device, inode, born, generation = row or (*place, None, 0)
        seen = self._seen()
        if row is None:
            connection.execute("INSERT INTO birth VALUES (?, ?, NULL, 0)", place)
        if (device, inode) != place or seen > generation:
            born = number_of(self._clock.now())
        generation = max(seen, generation) + 1
        connection.execute(
            "UPDATE birth SET device = ?, inode = ?, born = ?, generation = ?", (*place, born, generation)
        )
        connection.execute("COMMIT")
        # Behind the commit: a process that dies in between must not make the file look like a copy.
        self._remember(generation)
        return instant_of(born)

    def _seen(self) -> int:
        """The highest generation of the file that is known of."""
        try:
            written = self._witness.read_bytes()[:DIGITS]
        except FileNotFoundError:
            return 0
        return int(written) if written.isdigit() else 0  # a spoilt one tells nothing, as one that is not there

    def _remember(self, generation: int) -> None:
        witness = os.open(self._witness, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(witness, f"{generation:0{DIGITS}d}".encode(), 0)  # always as long: at no time is it cut short
        finally:
            os.close(witness)

    def _which_file(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_dev, found.st_ino

    def _must_still_be(self, file: tuple[int, int]) -> None:
        """Refuse what was opened if it may not be what lies there: this process would have a store of its own."""
        if self._which_file() != file:
            raise FileNotFoundError("it was replaced while it was opened")

    def _make_private_file(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._files.forget()
        if connection is not None:
            connection.close()

    # What SqlStore asks for

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values)
        except UnicodeEncodeError:
            return self._connection.execute(statement, [_spelt(value) for value in values])

    def _changed(self, statement: str, *values: Any) -> int:
        return self._run(statement, *values).rowcount

    def _born(self) -> datetime | None:
        return self._birth


class _Turn:
    """The turn that one thread has at the file, in a `with`.

    Each run has two of them: as a generator they would cost it as much as a statement more.
    """

    __slots__ = ("_begin", "_end", "_give_up", "_lock", "_vain")

    def __init__(
        self,
        lock: threading.Lock,
        vain: int,
        begin: Callable[[int], sqlite3.Connection],
        end: Callable[[], None],
        give_up: Callable[[BaseException], None],
    ) -> None:
        self._lock = lock
        self._vain = vain
        self._begin = begin
        self._end = end
        self._give_up = give_up

    def __enter__(self) -> sqlite3.Connection:
        if not self._lock.acquire(timeout=TURN_SECONDS):
            why = f"a step of this process has not ended for {TURN_SECONDS:g} s"
            raise StoreUnavailableError(f"the run store in a file cannot be used: {why}")
        try:
            return self._begin(self._vain)
        except BaseException as error:
            self._fail(error)
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self._fail(error)
            return
        try:
            self._end()
        except BaseException as failure:
            self._fail(failure)
            raise
        self._lock.release()

    def _fail(self, error: BaseException) -> None:
        try:
            self._give_up(error)
        finally:
            self._lock.release()


def _nothing() -> None:
    """What ends a turn that has begun nothing."""


def _spelt(value: Any) -> Any:
    """*value*; of a text without what no encoding has: halves of surrogate pairs, as names of files may have them."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


_inherited: Final[list[Any]] = []  # kept from the garbage collector, which would close them


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables if they are not there, and bring those of an earlier release up to date.

    Raises:
        sqlite3.Error: it is no database, or one of a later release.
    """
    connection.execute(f"PRAGMA page_size = {PAGE}")  # of a new file; one that exists keeps its own
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
    if _version(connection) == len(_UPGRADES):
        return
    connection.execute("BEGIN IMMEDIATE")
    version = _version(connection)  # another process may have done it meanwhile
    _require_known(version)
    for upgrade in _UPGRADES[version:]:
        for statement in upgrade.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(_UPGRADES)}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _require_known(version: int) -> None:
    if version > len(_UPGRADES):
        raise sqlite3.DatabaseError(f"it was made by a later release of Pulse (version {version})")
