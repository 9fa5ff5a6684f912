"""The run store of a fleet: a PostgreSQL database that all of its hosts share.

A step is a transaction that first takes the locks of its tasks, so that the steps of a task
follow one another. Pulse keeps its tables in a schema of its own, and makes them itself.

`synchronous_commit` is left as the server has it. Where it is off, a server that crashes
forgets the last claims; that, a restart, a fail-over to another server and a backup that was
restored are all seen as another generation, and nothing that was due before is given out again.
"""

import os
import re
import select
import selectors
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import parse_qsl

from pulse.address import POSTGRES, masked
from pulse.clock import Clock, SystemClock
from pulse.errors import ConfigError, Fault, StoreUnavailableError
from pulse.model import Fire, Run, Trigger
from pulse.runstores.instants import MICROSECOND, instant_of, number_of
from pulse.runstores.rows import BRIEF, record_of
from pulse.runstores.schema import CHANGED, ERRORS, LOCKS, SECRETS, SUMS, TABLES, TALLIES, TRACES
from pulse.runstores.sql import SqlStore

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Conninfo
except ImportError as error:
    raise ImportError("a run store at postgresql:// needs psycopg: pip install pulse[postgres]") from error

CONNECTIONS: Final = 4  # of a process at most: steps are short, and the fleet shares the limit of the server
ANSWER_SECONDS: Final = 3.0  # how long a step may take, whatever the server and the network do
UPGRADE_SECONDS: Final = 60  # to bring the tables up to date; one process does, and the others are told to wait
LANES: Final = 1024  # locks of an application; each of its tasks has one of them, see `_locks`

_COUNTER: Final = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
_SCHEMA: Final = (
    # An update stays in its page, and out of the indexes, where the page has room for it.
    TABLES.format(counter=_COUNTER, bytes="BYTEA", keyed=" WITH (fillfactor = 70)")
    # Unlogged on purpose: the server empties it when it crashed, and replicas and backups have none of it.
    + """
CREATE UNLOGGED TABLE generations (app TEXT PRIMARY KEY, mark TEXT NOT NULL, born BIGINT);
"""
)
# With the task in its key what is held needs no index beside it, which each claim and each finish would write.
_HELD: Final = """
DROP INDEX held_by_task;
ALTER TABLE held DROP CONSTRAINT held_pkey, ADD PRIMARY KEY (app, task, id);
"""
# The tables are the same, only told by another one of them: nothing that they know is lost.
_SAME_GENERATION: Final = """
UPDATE generations SET mark = concat(extract(epoch FROM pg_postmaster_start_time()), '/', pg_relation_filenode('tasks'))
    WHERE mark = concat(extract(epoch FROM pg_postmaster_start_time()), '/', pg_relation_filenode('tracks'));
DROP TABLE tracks
"""
# What brings a schema from the version of its place here to the next one; never changed once released.
_UPGRADES: Final = (
    _SCHEMA,
    SECRETS.format(keyed=""),
    TRACES.format(counter=_COUNTER, bytes="BYTEA"),
    _HELD,
    TALLIES + _SAME_GENERATION,
    LOCKS,
    SUMS,
    ERRORS,
)

_SETTINGS: Final = {
    "search_path": "pulse",
    "statement_timeout": 2000,  # milliseconds, as the next two
    "lock_timeout": 1500,
    "idle_in_transaction_session_timeout": 5000,  # a process that is frozen within a step holds up the fleet no longer
}
_PARAMETERS: Final = {
    "connect_timeout": 2,  # seconds; less is not to be had
    "client_encoding": "UTF8",
    "target_session_attrs": "read-write",  # of several hosts the one that is not a replica
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
}


class PostgresRunStore(SqlStore):
    """Keeps everything in the schema `pulse` of the database at *address*.

    Safe to use from many threads and, after a fork, from many processes. Every method
    raises StoreUnavailableError when the database does not answer in a few seconds; the
    next call tries anew, and no call is repeated: a claim whose answer was lost may have
    been won.

    Time is that of the server, unless *tolerance* is None: hosts whose clocks differ agree
    on what is due, late, lost and paused.
    """

    def __init__(
        self, address: str, *, name: str, history: int = 50, tolerance: timedelta | None = timedelta(seconds=1)
    ) -> None:
        """Nothing is opened yet.

        Args:
            address: As libpq reads it: `postgresql://user:password@host:port/database`.
            name: Of the application; others may share the database.
            history: How many finished records are kept a task.
            tolerance: How long before it is due by the clock of the server a fire may be
                claimed; None if the instants of the callers count alone.

        Raises:
            ConfigError: the address cannot be read.
        """
        super().__init__(name=name, history=history)
        self._tolerance = tolerance
        self._clock = SystemClock()
        self._parameters = {"application_name": f"pulse {name}"} | _parameters_of(address)
        self._shown = _shown(self._parameters)
        self._here = threading.local()  # the connection of the step of this thread, and how it opened
        self._begin()

    def __repr__(self) -> str:
        return f"<PostgresRunStore {self._shown}>"

    def now(self) -> datetime:
        """See `RunStore.now`: the clock of the server."""
        with self._reading():
            (number,) = self._run(f"SELECT {_NOW}").fetchone()
        return _instant(number)

    def reach(self) -> None:
        """See `RunStore.reach`; also whether the schema can be made if it is not there."""
        try:
            connection = self._connected()
            try:
                _require_schema(connection)
            finally:
                self._drop(connection)
        except (psycopg.Error, OSError) as error:
            raise self._unavailable(error) from error

    def after_fork(self) -> None:
        """See `RunStore.after_fork`; the next call makes a connection of its own."""
        for connection in self._open:
            connection.abandon()
        self._begin()

    def close(self) -> None:
        """Close the connections that are idle; the next call makes one again."""
        if self._pid != os.getpid():
            self.after_fork()
        with suppress(IndexError):
            while True:
                self._drop(self._idle.pop())

    # RunStore

    def register(
        self, tracks: Iterable[str], now: datetime, *, since: datetime | None = None
    ) -> Mapping[str, datetime]:
        """See `RunStore.register`; all at once, since each statement is a way there and back."""
        # Sorted, so that two processes that start at once do not wait for each other.
        names = sorted(tracks)
        with self._step():
            self._forget_places(now, names)
            begin = number_of(since or self._judged_at(now))
            self._run(
                "INSERT INTO tasks (app, name, appended, cursor) SELECT ?, unnest(?::text[]), 0, ? "
                "ON CONFLICT DO NOTHING",
                self._app, names, begin,
            )  # fmt: skip
            self._run(
                "UPDATE tasks SET cursor = ? WHERE app = ? AND name = ANY(?) AND cursor IS NULL",
                begin, self._app, names,
            )  # fmt: skip
            rows = self._run(
                "SELECT name, cursor FROM tasks WHERE app = ? AND name = ANY(?)", self._app, names
            ).fetchall()
            reached = self._reached()
        return {name: _instant(max(cursor, reached.get(name, 0))) for name, cursor in rows}

    def brief(self, tasks: Iterable[str], limit: int) -> Mapping[str, list[Run]]:
        """See `RunStore.brief`; all at once, since each statement is a way there and back."""
        found: dict[str, list[Run]] = {task: [] for task in tasks}
        with self._reading():
            rows = self._run(
                f"SELECT runs.* FROM unnest(?::text[]) AS wanted (name), LATERAL (SELECT {BRIEF}, number FROM records "  # noqa: S608
                "WHERE app = ? AND task = wanted.name ORDER BY number DESC LIMIT ?) AS runs ORDER BY number DESC",
                list(found), self._app, min(limit, self._history),
            ).fetchall()  # fmt: skip
        for row in rows:
            run = record_of(row[:-1])
            found[run.task].append(run)
        return found

    def renew(self, runs: Iterable[Run], until: datetime) -> list[Run]:
        """See `RunStore.renew`; all at once, each for as long as it first had, by the clock of the server."""
        runs = list(runs)
        if not runs:
            return []
        with self._step(*(run.task for run in runs)):
            ends = [self._lease_end(run, until) for run in runs]
            renewed = self._run(
                "UPDATE held SET expires = mine.expires "
                "FROM unnest(?::text[], ?::text[], ?::integer[], ?::bigint[]) AS mine (task, id, attempt, expires) "
                "WHERE app = ? AND held.task = mine.task AND held.id = mine.id AND held.attempt = mine.attempt "
                "RETURNING held.id, held.attempt",
                [run.task for run in runs], [run.id for run in runs], [run.attempt for run in runs],
                [number_of(end) for end in ends], self._app,
            ).fetchall()  # fmt: skip
        rows = set(renewed)  # of a thousand runs each would be looked for among a thousand
        return [run for run in runs if (run.id, run.attempt) not in rows]

    def _lease_end(self, run: Run, until: datetime) -> datetime:
        if self._tolerance is None or run.started is None or run.expires is None:
            return until
        return self._judged_at(until) + (run.expires - run.started)

    # What LedgerStore asks for

    @contextmanager
    def _step(self, *tasks: str) -> Iterator[None]:
        """A transaction that has the locks of *tasks*.

        READ COMMITTED, because there each statement sees what was committed before it began,
        and so all that those did who had the locks before. A stricter transaction would go on
        seeing what there was when it asked for the locks.
        """
        with self._reading():
            # What is sent travels with the next thing that is read: over a network a claim costs two ways there and
            # back instead of five.
            with self._here.connection.pipeline():
                self._run("BEGIN ISOLATION LEVEL READ COMMITTED")
                self._here.opened = self._run(_OPENING, self._app, *_locks(self._app, tasks), self._app)
                self._here.opening = None
                yield
                self._opening()
                committed = self._run("COMMIT")
            if committed.statusmessage != "COMMIT":
                raise psycopg.OperationalError("the transaction was rolled back")

    def _opening(self) -> tuple[int, int | None]:
        """The instant at which this step got its locks, and the birth of what the tables know.

        Read when the step asks for it, or for anything else; at its end at the latest, since another generation has
        to be noted by the first step of it.
        """
        if self._here.opening is None:
            now, is_known, is_used, born = self._here.opened.fetchone()
            if not is_known:
                margin = (self._tolerance or timedelta(0)) // MICROSECOND
                self._run(_ANOTHER_GENERATION, self._app, is_used, margin)
                (born,) = self._run("SELECT born FROM generations WHERE app = ?", self._app).fetchone()
            self._here.opening = now, born
        opening: tuple[int, int | None] = self._here.opening
        return opening

    def _judged_at(self, now: datetime) -> datetime:
        if self._tolerance is None:
            return now
        return _instant(self._opening()[0])

    def _is_early(self, fire: Fire, now: datetime) -> bool:
        return self._tolerance is not None and fire.trigger is not Trigger.MANUAL and fire.due > now + self._tolerance

    def _born(self) -> datetime | None:
        return instant_of(self._opening()[1])

    # What SqlStore asks for

    def _run(self, statement: str, *values: Any) -> Any:
        connection: _Connection = self._here.connection
        return connection.execute(_translated(statement), [_storable(value) for value in values])

    def _changed(self, statement: str, *values: Any) -> int:
        # The number of rows itself is not known before the next answer has been read.
        return len(self._run(f"{statement} RETURNING 1", *values).fetchall())

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A connection for this thread; one on which anything failed is not used again.

        Closing it takes back what was not committed.
        """
        if self._pid != os.getpid():  # a fork that nobody told us of
            self.after_fork()
        deadline = self._clock.monotonic() + ANSWER_SECONDS
        places, connection = self._places, None
        if not places.acquire(timeout=ANSWER_SECONDS):
            raise self._unavailable(f"its {CONNECTIONS} connections were busy for {ANSWER_SECONDS:g} s")
        try:
            connection = self._here.connection = self._take(deadline)
            yield
            self._idle.append(connection)
        except BaseException as error:  # whatever it was, it goes on to the caller
            if connection is not None:
                self._drop(connection)
            if isinstance(error, (psycopg.Error, OSError, OverflowError)):  # the last: an instant of no calendar
                raise self._unavailable((connection and connection.failure) or _said_of(error)) from error
            raise
        finally:
            self._here.connection = None
            places.release()

    def _unavailable(self, why: object) -> StoreUnavailableError:
        return StoreUnavailableError(f"the run store {self._shown} cannot be used: {' '.join(str(why).split())}")

    # Connections

    def _begin(self) -> None:
        """Have no connections, in this process."""
        self._pid = os.getpid()
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()  # the idle ones and those in use
        self._places = threading.BoundedSemaphore(CONNECTIONS)

    def _take(self, deadline: float) -> "_Connection":
        """An idle connection, or another one; no answer on it is awaited behind *deadline*."""
        with suppress(IndexError):
            while (connection := self._idle.pop()).has_ended():
                self._drop(connection)
            connection.deadline = deadline
            return connection
        connection = self._connected()
        try:
            is_upgraded = _prepare(connection)
        except BaseException:
            self._drop(connection)
            raise
        # Whoever has brought the tables up to date, for which there was more time, has that for the step itself.
        connection.deadline = self._clock.monotonic() + ANSWER_SECONDS if is_upgraded else deadline
        return connection

    def _connected(self) -> "_Connection":
        connection = _Connection.connect(**self._parameters, autocommit=True)
        self._open.add(connection)
        connection.clock, connection.deadline = self._clock, self._clock.monotonic() + ANSWER_SECONDS
        return connection

    def _drop(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        connection.close()


_READ: Final = selectors.EVENT_READ  # as psycopg has them, too
_WRITE: Final = selectors.EVENT_WRITE


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no answer is awaited for ever: libpq itself knows no such limit."""

    clock: Clock
    deadline: float  # monotonic seconds
    failure: BaseException | None = None  # why it was given up; what follows from that tells less

    def wait(self, gen: Generator[int, int, Any], *_args: Any, **_kwargs: Any) -> Any:
        """See `psycopg.Connection.wait`: all that is sent and received goes through here."""
        try:
            wanted = next(gen)
            while True:
                try:
                    ready = self._ready(wanted)
                except BaseException as error:  # noqa: BLE001 - it goes on through *gen*
                    self.failure = self.failure or error
                    wanted = gen.throw(error)
                else:
                    wanted = gen.send(ready)
        except StopIteration as end:
            return end.value

    def _ready(self, wanted: int) -> int:
        """What of *wanted*, reading and writing, can be done now.

        Raises:
            psycopg.OperationalError: nothing can until the deadline.
        """
        poll = select.poll()
        poll.register(self.fileno(), (wanted & _READ and select.POLLIN) | (wanted & _WRITE and select.POLLOUT))
        left = max(0.0, self.deadline - self.clock.monotonic())
        for _, events in poll.poll(left * 1000):
            # That it was closed, or failed, shows when it is read or written.
            return wanted & ((events & ~select.POLLOUT and _READ) | (events & ~select.POLLIN and _WRITE))
        raise psycopg.OperationalError(f"no answer in {ANSWER_SECONDS:g} s")

    def has_ended(self) -> bool:
        """Whether this connection, which is idle, is of no use: a server says nothing to it but good-bye."""
        if self.closed:
            return True
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def abandon(self) -> None:
        """In a forked child: let go of the socket without a word on it, since it is the parent's.

        While the child had it open, the server would not notice that the parent died.
        """
        _inherited.append(self)
        with suppress(psycopg.Error, OSError):  # it was closed before
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self.fileno(), inheritable=False)
            os.close(nothing)


_inherited: Final[list[_Connection]] = []  # kept from the garbage collector, which would warn of them


# Statements

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# Another one whenever what the tables know may be less than what was once committed: the
# server was started, or the table was made or filled anew.
_MARK: Final = "concat(extract(epoch FROM pg_postmaster_start_time()), '/', pg_relation_filenode('tasks'))"
_LOCK: Final = "SELECT count(pg_advisory_xact_lock(?::integer, lane)) FROM unnest(?::integer[]) AS lane"
# The clock is read behind the locks. What else it sees is what there was when it asked for them: whether a generation
# is known cannot change meanwhile but from no to yes, which the next statement finds.
_OPENING: Final = (
    f"SELECT {_NOW}, mark IS NOT NULL, mark IS NULL AND EXISTS (SELECT FROM tasks WHERE tasks.app = ?), born "  # noqa: S608
    f"FROM ({_LOCK}) AS locked LEFT JOIN generations ON generations.app = ? AND mark = {_MARK}"
)
# Claims were won up to the tolerance ahead of the server's clock.
_ANOTHER_GENERATION: Final = (
    "INSERT INTO generations (app, mark, born) "
    f"SELECT ?, {_MARK}, CASE WHEN ? THEN {_NOW} + ? END "
    "ON CONFLICT (app) DO UPDATE SET mark = excluded.mark, born = excluded.born WHERE generations.mark <> excluded.mark"
)


@lru_cache(maxsize=256)
def _translated(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")


def _storable(value: Any) -> Any:
    """*value*; of a text without what PostgreSQL has no place for: NUL and halves of surrogate pairs."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return value


def _instant(number: int) -> datetime:
    instant = instant_of(number)
    assert instant is not None
    return instant


def _locks(app: str, tasks: Iterable[str]) -> tuple[int, list[int]]:
    """The locks of *tasks*, for `_LOCK`, in one order for all, so that no two steps block each other.

    They need no rows, and end with the transaction. The tasks of an application share
    lanes: a step of 100,000 tasks would otherwise use up the lock table of the server.
    """
    return _hash(f"pulse {app}"), sorted({_hash(task) % LANES for task in tasks})


@lru_cache(maxsize=4096)
def _hash(text: str) -> int:
    """32 bits, the same in every process."""
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=4).digest(), signed=True)


# The schema


def _prepare(connection: _Connection) -> bool:
    """Make the schema if it is not there, and bring that of an earlier release up to date; whether it was not.

    Raises:
        psycopg.Error: it is one of a later release, or cannot be made.
    """
    if _version(connection) == len(_UPGRADES):
        return False
    try:
        _upgrade(connection)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidSchemaName) as error:
        raise _without_schema(connection, error.diag.message_primary) from error
    return True


_CHANGES: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidColumnReference,  # a primary key is another one
)


def _said_of(error: BaseException) -> str:
    return f"{error} {CHANGED}" if isinstance(error, _CHANGES) else str(error)


def _require_schema(connection: _Connection) -> None:
    """Refuse what `_prepare` would, without making anything.

    Raises:
        psycopg.Error: the schema is of a later release, or is not there and cannot be made.
    """
    _require_known(version := _version(connection))
    if version == 0 and not _answer(connection, _MAY_BE_MADE):
        raise _without_schema(connection, "there is no schema of Pulse, and this role may not make one")


_MAY_BE_MADE: Final = (
    "SELECT CASE WHEN to_regnamespace('pulse') IS NULL THEN has_database_privilege(current_database(), 'CREATE') "
    "ELSE has_schema_privilege('pulse', 'CREATE') END"
)


def _without_schema(connection: _Connection, why: str | None) -> psycopg.Error:
    who = connection.info.user
    return psycopg.OperationalError(f"{why}; have its owner run: CREATE SCHEMA pulse AUTHORIZATION {who}")


def _require_known(version: int) -> None:
    if version > len(_UPGRADES):
        raise psycopg.OperationalError(f"it was made by a later release of Pulse (version {version})")


def _upgrade(connection: _Connection) -> None:
    # Before the transaction, not within it: one that had waited for the lock would not see the
    # tables that were made meanwhile, since a session learns of those when a transaction begins.
    connection.execute(f"SELECT pg_advisory_lock({_hash('pulse')}, 0)")
    connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    # What is cut short each time would never be done, and no task be run any more.
    connection.deadline = connection.clock.monotonic() + UPGRADE_SECONDS
    connection.execute(f"SET LOCAL statement_timeout = '{UPGRADE_SECONDS}s'")
    version = _version(connection)  # another process may have done it meanwhile
    _require_known(version)
    if version == 0:
        # Not IF NOT EXISTS: that asks for the right to create, even where there is nothing to.
        if not _answer(connection, "SELECT to_regnamespace('pulse') IS NOT NULL"):
            connection.execute("CREATE SCHEMA pulse")
        connection.execute("CREATE TABLE schema_version AS SELECT 0 AS version")
    for upgrade in _UPGRADES[version:]:
        connection.execute(upgrade)
    connection.execute("UPDATE schema_version SET version = %s", [len(_UPGRADES)])
    connection.execute("COMMIT")
    connection.execute(f"SELECT pg_advisory_unlock({_hash('pulse')}, 0)")


def _version(connection: _Connection) -> int:
    """The version of the schema; 0 if there is none, or none that this role may see."""
    is_there = _answer(connection, "SELECT to_regclass('schema_version') IS NOT NULL")
    return int(_answer(connection, "SELECT version FROM schema_version")) if is_there else 0


def _answer(connection: _Connection, statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


# The address


def _parameters_of(address: str) -> dict[str, Any]:
    """What *address* says, and what holds where it says nothing."""
    try:
        said = conninfo_to_dict(address)
    except psycopg.Error:
        # The error of libpq may show the password, and so would its traceback.
        raise _refused(address, _unknown_settings(address)) from None
    for name, read in _JUDGED.items():
        if said.get(name) and not read(str(said[name])):
            raise _refused(address, f": {name} cannot be what it is")
    settings = " ".join(f"-c {setting}={value}" for setting, value in _SETTINGS.items())
    return {**_PARAMETERS, **said, "options": f"{settings} {said.get('options') or ''}".strip()}


def _refused(address: str, why: str) -> ConfigError:
    return ConfigError([Fault(key="pulse.config.store", shown=repr(masked(address)), problem=f"{POSTGRES}{why}")])


def _unknown_settings(address: str) -> str:
    """Which settings libpq does not know, by their names alone."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"ssl"}
    names = [name for name, _ in parse_qsl(address.partition("?")[2], keep_blank_values=True)]
    unknown = [name for name in names if name not in known]
    return f": libpq does not know {', '.join(unknown)}" if unknown else ""


def _is_number(text: str) -> bool:
    return re.fullmatch("-?[0-9]{1,9}", text) is not None


def _are_ports(text: str) -> bool:
    return all(not port or (_is_number(port) and 1 <= int(port) <= 65_535) for port in text.split(","))


# Of the settings that libpq judges only when it connects, those that are often written.
_JUDGED: Final = {
    "port": _are_ports,
    "sslmode": frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}).__contains__,
    "gssencmode": frozenset({"disable", "prefer", "require"}).__contains__,
    "channel_binding": frozenset({"disable", "prefer", "require"}).__contains__,
    "target_session_attrs": frozenset(
        {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}
    ).__contains__,
    **dict.fromkeys(
        ("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"), _is_number
    ),
    "tcp_user_timeout": _is_number,
}


def _shown(parameters: Mapping[str, Any]) -> str:
    """The address, without the user and without the secrets that it may hold."""
    host, database = parameters.get("host") or parameters.get("hostaddr") or "", parameters.get("dbname") or ""
    if host.startswith("/"):
        return f"postgresql:///{database}?host={host}"
    port = f":{parameters['port']}" if parameters.get("port") else ""
    return f"postgresql://{host}{port}/{database}"
