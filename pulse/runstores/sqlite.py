"""The run store of one host: a file that all processes of an application share.

SQLite lets one process write at a time, so a claim is one transaction. With a WAL and
`synchronous = NORMAL` the file survives killed processes; a power cut can cost the last
moments of it.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pulse.errors import StoreUnavailableError
from pulse.model import Outcome, Run, Trigger
from pulse.runstores.base import Totals
from pulse.runstores.ledger import LedgerStore
from pulse.zone import EPOCH

MICROSECOND: Final = timedelta(microseconds=1)
BUSY_SECONDS: Final = 2.0  # how long a step waits for those of others, which take microseconds
TRIM_EVERY: Final = 16  # records of a task from one look at the length of its history to the next
VERSION: Final = 1

# Instants are microseconds since 1970. A run without an outcome is held.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY,
    cursor INTEGER NOT NULL,
    appended INTEGER NOT NULL DEFAULT 0,
    last_finished INTEGER,
    last_success INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
    task TEXT NOT NULL,
    outcome TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (task, outcome)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (
    id TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    due INTEGER NOT NULL,
    trigger TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    owner TEXT NOT NULL,
    started INTEGER NOT NULL,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS held_by_task ON held (task);
CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    task TEXT NOT NULL,
    due INTEGER NOT NULL,
    trigger TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    owner TEXT NOT NULL,
    started INTEGER,
    expires INTEGER,
    finished INTEGER,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    status INTEGER,
    duration REAL,
    body BLOB NOT NULL,
    errors BLOB NOT NULL,
    first_due INTEGER,
    count INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS records_by_task ON records (task, number);
"""

_HELD: Final = "id, task, due, trigger, attempt, owner, started, expires"
_RECORD: Final = f"{_HELD}, finished, outcome, reason, status, duration, body, errors, first_due, count"


class SqliteRunStore(LedgerStore):
    """Keeps everything in the file at *path*, for all processes of this host.

    Safe to use from many threads and, after a fork, from many processes. Every method
    raises StoreUnavailableError when the file cannot be used; the next call tries anew.
    """

    def __init__(self, path: str | Path, *, history: int = 50) -> None:
        """Nothing is opened yet.

        Args:
            path: The file; it is made when it is needed, readable by its owner alone.
            history: How many finished records are kept a task.
        """
        self.path = Path(path).absolute()  # another one after a chdir would be another store
        self._history = history
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened_as: tuple[int, int, int] | None = None  # our pid, and which file it was

    def history(self, task: str, limit: int | None = None) -> list[Run]:
        """See `RunStore.history`."""
        wanted = self._history if limit is None else min(limit, self._history)
        with self._reading() as file:
            rows = file.execute(
                f"SELECT {_RECORD} FROM records WHERE task = ? ORDER BY number DESC LIMIT ?",  # noqa: S608
                (task, wanted),
            )
            return [_run(row) for row in rows]

    def totals(self, task: str) -> Totals:
        """See `RunStore.totals`."""
        with self._reading() as file:
            counts = file.execute("SELECT outcome, count FROM totals WHERE task = ?", (task,)).fetchall()
            last = file.execute("SELECT last_finished, last_success FROM tasks WHERE name = ?", (task,)).fetchone()
        finished, success = last or (None, None)
        return Totals(
            counts={Outcome(outcome): count for outcome, count in counts},
            last_finished=_instant(finished),
            last_success=_instant(success),
        )

    def after_fork(self) -> None:
        """See `RunStore.after_fork`; the next call opens the file anew."""
        self._lock = threading.Lock()
        # Closing it here would break the locks that the parent holds on the file.
        _inherited.append(self._connection)
        self._connection = self._opened_as = None

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            self._close()

    # The file

    @contextmanager
    def _step(self) -> Iterator[sqlite3.Connection]:
        """A transaction that begins as a writer: two that began as readers would fail each other."""
        with self._reading() as file:
            file.execute("BEGIN IMMEDIATE")
            try:
                yield file
            except BaseException:
                file.execute("ROLLBACK")
                raise
            file.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._open()
            except (sqlite3.Error, OSError) as error:
                # Whatever was wrong with the file, the next call shall not inherit it.
                with suppress(sqlite3.Error):
                    self._close()
                raise StoreUnavailableError(f"the run store {self.path} cannot be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._opened_as == self._identity():
            return self._connection
        if self._opened_as and self._opened_as[0] != os.getpid():  # a fork that nobody told us of
            _inherited.append(self._connection)
            self._connection = None
        self._close()
        self._make_private_file()
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._opened_as = connection, self._identity()
        return connection

    def _identity(self) -> tuple[int, int, int] | None:
        """Who uses which file: one that was replaced under its path is another store."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return os.getpid(), found.st_dev, found.st_ino

    def _make_private_file(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def _close(self) -> None:
        connection, self._connection, self._opened_as = self._connection, None, None
        if connection is not None:
            connection.close()

    # The primitives of LedgerStore; all are called within a step

    @property
    def _file(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _cursor(self, task: str) -> datetime | None:
        row = self._file.execute("SELECT cursor FROM tasks WHERE name = ?", (task,)).fetchone()
        return _instant(row[0]) if row else None

    def _move_cursor(self, task: str, to: datetime) -> None:
        self._file.execute(
            "INSERT INTO tasks (name, cursor) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor",
            (task, _number(to)),
        )

    def _held(self, task: str | None) -> list[Run]:
        if task is None:
            rows = self._file.execute(f"SELECT {_HELD} FROM held")  # noqa: S608
        else:
            rows = self._file.execute(f"SELECT {_HELD} FROM held WHERE task = ?", (task,))  # noqa: S608
        return [_held_run(row) for row in rows]

    def _find(self, run: Run) -> Run | None:
        where = "WHERE id = ? AND attempt = ?"
        row = self._file.execute(f"SELECT {_HELD} FROM held {where}", (run.id, run.attempt)).fetchone()  # noqa: S608
        return _held_run(row) if row else None

    def _hold(self, run: Run) -> None:
        self._file.execute(f"INSERT OR REPLACE INTO held ({_HELD}) VALUES ({_marks(8)})", _held_row(run))  # noqa: S608

    def _release(self, run: Run) -> None:
        self._file.execute("DELETE FROM held WHERE id = ?", (run.id,))

    def _append(self, run: Run) -> None:
        assert run.outcome is not None
        self._file.execute(f"INSERT INTO records ({_RECORD}) VALUES ({_marks(17)})", _row(run))  # noqa: S608
        self._file.execute(
            "INSERT INTO totals VALUES (?, ?, ?) "
            "ON CONFLICT (task, outcome) DO UPDATE SET count = count + excluded.count",
            (run.task, run.outcome.value, run.count),
        )
        finished = _number(run.finished) if run.started else None
        success = finished if run.outcome is Outcome.SUCCESS else None
        (appended,) = self._file.execute(
            "UPDATE tasks SET appended = appended + 1, last_finished = coalesce(?, last_finished), "
            "last_success = coalesce(?, last_success) WHERE name = ? RETURNING appended",
            (finished, success, run.task),
        ).fetchone()
        if appended % TRIM_EVERY == 0:
            self._trim(run.task)

    def _trim(self, task: str) -> None:
        self._file.execute(
            "DELETE FROM records WHERE task = ?1 AND number <= "
            "(SELECT number FROM records WHERE task = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
            (task, self._history),
        )


_inherited: Final[list[Any]] = []  # kept from the garbage collector, which would close them


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables if they are not there.

    Raises:
        sqlite3.Error: it is no database, or one of another release.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise sqlite3.DatabaseError(f"it was made by another release of Pulse (version {version})")


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _number(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - EPOCH) // MICROSECOND


def _instant(number: int | None) -> datetime | None:
    return None if number is None else EPOCH + number * MICROSECOND


def _held_row(run: Run) -> tuple[Any, ...]:
    return (
        run.id,
        run.task,
        _number(run.due),
        run.trigger.value,
        run.attempt,
        run.owner,
        _number(run.started),
        _number(run.expires),
    )


def _held_run(row: tuple[Any, ...]) -> Run:
    run_id, task, due, trigger, attempt, owner, started, expires = row
    return Run(
        id=run_id,
        task=task,
        due=EPOCH + due * MICROSECOND,
        trigger=Trigger(trigger),
        attempt=attempt,
        owner=owner,
        started=_instant(started),
        expires=_instant(expires),
    )


def _row(run: Run) -> tuple[Any, ...]:
    assert run.outcome is not None
    return (
        *_held_row(run),
        _number(run.finished),
        run.outcome.value,
        run.reason,
        run.status,
        run.duration,
        run.body,
        run.errors,
        _number(run.first_due),
        run.count,
    )


def _run(row: tuple[Any, ...]) -> Run:
    finished, outcome, reason, status, duration, body, errors, first_due, count = row[8:]
    return replace(
        _held_run(row[:8]),
        finished=_instant(finished),
        outcome=Outcome(outcome),
        reason=reason,
        status=status,
        duration=duration,
        body=body,
        errors=errors,
        first_due=_instant(first_due),
        count=count,
    )
