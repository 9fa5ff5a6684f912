"""How a store that speaks SQL keeps cursors, runs and records: the primitives of the ledger.

One set of statements for SQLite and PostgreSQL; what they do differently, the backends say.
Several applications may share a database: each sees the rows of its own name only. Instants
are microseconds since 1970.
"""

import json
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import date, datetime, timedelta
from functools import cache
from itertools import chain
from secrets import token_urlsafe
from typing import Any, Final, TypeVar
from zlib import crc32

from pulse.model import Fire, Instance, Outcome, Pause, Press, Run, Trigger, track_of
from pulse.runstores.base import (
    FORGET_HOST_AFTER,
    FORGET_INSTANCE_AFTER,
    FORGET_PROCESS_AFTER,
    FORGOTTEN_AT_ONCE,
    PRESSES,
    PURGED_AT_ONCE,
    SPENT_FOR,
    Totals,
)
from pulse.runstores.instants import MICROSECOND, number_of
from pulse.runstores.ledger import LedgerStore, Standing, timing
from pulse.runstores.legible import Legible, UnreadableError
from pulse.runstores.rows import (
    BRIEF,
    HELD,
    RECORD,
    held_of,
    held_row,
    name_of,
    pause_of,
    record_of,
    record_row,
    totals_of,
)
from pulse.zone import EPOCH

TOGETHER: Final = 32  # rows of one statement; each number of them is a text of its own, which is kept
TRIM_EVERY: Final = 16  # records of a task, on average, from one look at the length of its history to the next

_PRESS: Final = "at, author, address, action, task, details"
T = TypeVar("T")

_DAY: Final = 86_400_000_000  # microseconds
_INSTANCE: Final = "owner, started, seen, digest, server, version, refused, store_errors"


def _marks(count: int) -> str:
    return ", ".join("?" * count)


# What each run needs is put together once: a text that is made anew is hashed anew, too, to find its statement.
_HOLD: Final = (
    f"INSERT INTO held (app, {HELD}) VALUES ({_marks(14)}) ON CONFLICT (app, task, id) DO UPDATE SET "  # noqa: S608
    "trigger = excluded.trigger, attempt = excluded.attempt, owner = excluded.owner, started = excluded.started, "
    "expires = excluded.expires, lock = excluded.lock, stop = excluded.stop, progress = excluded.progress"
)
_MOVE: Final = (
    "INSERT INTO tasks (app, name, appended, cursor) VALUES (?, ?, ?, ?) ON CONFLICT (app, name) DO UPDATE "
    "SET cursor = CASE WHEN tasks.cursor > excluded.cursor THEN tasks.cursor ELSE excluded.cursor END"
)
_RENEW: Final = "UPDATE held SET expires = ? WHERE app = ? AND task = ? AND id = ? AND attempt = ?"
_TRACKS: Final = "SELECT name FROM tasks WHERE app = ? AND cursor IS NOT NULL"
_HELD_OF: Final = f"SELECT {HELD} FROM held WHERE app = ? AND task = ? AND place = ?"  # noqa: S608
_APPEND: Final = f"INSERT INTO records (app, {RECORD}) VALUES ({_marks(24)})"  # noqa: S608
# What is held stands for the cursor until it ends, so that a claim changes one page: that of what is held. Then the
# cursor is moved with the totals.
_PLANNED: Final = (Trigger.SCHEDULE, Trigger.CATCHUP, Trigger.STARTUP)
_REACHED: Final = (
    f"max(CASE WHEN trigger IN ({', '.join(repr(trigger.value) for trigger in _PLANNED)}) THEN due ELSE 0 END)"
)
_STANDING: Final = (
    "SELECT cursor, (SELECT since FROM pauses WHERE app = tasks.app AND task = ?), "  # noqa: S608
    f"(SELECT {_REACHED} FROM held WHERE app = tasks.app AND task = ? AND place = ?) "
    "FROM tasks WHERE app = ? AND name = ? AND cursor IS NOT NULL"
)
_TOTALS: Final = ", ".join(
    ("last_finished", "last_success", "timed", "seconds", "seconds_late", *(outcome.value for outcome in Outcome))
)
_COUNT: Final = {
    outcome.value: "INSERT INTO tasks "  # noqa: S608
    "(app, name, appended, cursor, last_finished, last_success, ran_on, ran, timed, seconds, seconds_late, "
    f"{outcome.value}) VALUES ({_marks(12)}) "
    "ON CONFLICT (app, name) DO UPDATE SET appended = tasks.appended + 1, "
    "cursor = CASE WHEN excluded.cursor > tasks.cursor THEN excluded.cursor ELSE tasks.cursor END, "
    "last_finished = coalesce(excluded.last_finished, tasks.last_finished), "
    "last_success = coalesce(excluded.last_success, tasks.last_success), "
    "ran = CASE WHEN excluded.ran_on = tasks.ran_on THEN tasks.ran + 1 "
    "WHEN excluded.ran_on > coalesce(tasks.ran_on, 0) THEN 1 ELSE tasks.ran END, "
    "ran_on = CASE WHEN excluded.ran_on > coalesce(tasks.ran_on, 0) THEN excluded.ran_on ELSE tasks.ran_on END, "
    "timed = tasks.timed + excluded.timed, seconds = tasks.seconds + excluded.seconds, "
    "seconds_late = tasks.seconds_late + excluded.seconds_late, "
    f"{outcome.value} = tasks.{outcome.value} + excluded.{outcome.value}"
    for outcome in Outcome
}


@cache
def _standings_of(count: int) -> str:
    """What `_STANDING` says, of *count* tasks whose tracks have no place."""
    return (
        "SELECT name, cursor, (SELECT since FROM pauses WHERE app = tasks.app AND task = tasks.name), "  # noqa: S608
        f"(SELECT {_REACHED} FROM held WHERE app = tasks.app AND task = tasks.name AND place = '') "
        f"FROM tasks WHERE app = ? AND name IN ({_marks(count)}) AND cursor IS NOT NULL"
    )


@cache
def _newest_of(count: int) -> str:
    """The newest record of each of *count* tasks."""
    return (
        f"SELECT {BRIEF} FROM records WHERE number IN (SELECT (SELECT max(number) FROM records AS one "  # noqa: S608
        "WHERE one.app = tasks.app AND one.task = tasks.name) FROM tasks "
        f"WHERE app = ? AND name IN ({_marks(count)}))"
    )


@cache
def _release_of(count: int) -> str:
    """Lets go of *count* runs, by their tasks and by id and attempt in one word; the ids of those that were held.

    By the tasks they are found. By the words, which no index knows, they are told from other runs of these.
    """
    marks = _marks(count)
    return (
        f"DELETE FROM held WHERE app = ? AND task IN ({marks}) AND id || '/' || attempt IN ({marks}) "  # noqa: S608
        "RETURNING id"
    )


@cache
def _for_rows(statement: str, count: int) -> str:
    """*statement*, which inserts one row, for *count* of them."""
    before, marks, after = statement.partition(f"({_marks(statement.count('?'))})")
    return f"{before}{', '.join([marks] * count)}{after}"


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """*items* in parts of as many as one statement takes."""
    return (items[begin : begin + TOGETHER] for begin in range(0, len(items), TOGETHER))


def _is_gone(track: str, is_old: bool, alive: Collection[str]) -> bool:  # noqa: FBT001 - of a host it has to be
    """Whether the place of *track*, which was not heard of for a while, is gone: a process that is not *alive* is."""
    place = track.partition("@")[2]
    return place not in alive if ":" in place else is_old


class SqlStore(LedgerStore):
    """The primitives of `LedgerStore` in SQL, over `_run`."""

    def __init__(self, *, name: str, history: int) -> None:
        """*name*: of the application; *history*: how many finished records are kept a task."""
        self._app = name
        self._history = history
        self._legible = Legible()

    # What a backend provides

    @abstractmethod
    def _run(self, statement: str, *values: Any) -> Any:
        """Execute *statement*, with a `?` for each of *values*; a cursor that can be fetched from."""

    @abstractmethod
    def _changed(self, statement: str, *values: Any) -> int:
        """Execute *statement*; how many rows it has changed."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[object]:
        """A way to the database for statements that only read, or of which each stands for itself."""

    # RunStore

    def renew(self, runs: Iterable[Run], until: datetime) -> list[Run]:
        """See `RunStore.renew`; without a look at each of them, since nobody else writes meanwhile."""
        runs, expires = list(runs), number_of(until)
        if not runs:
            return []
        with self._step(*(run.task for run in runs)):
            return [run for run in runs if not self._changed(_RENEW, expires, self._app, run.task, run.id, run.attempt)]

    def history(self, task: str, limit: int | None = None) -> list[Run]:
        """See `RunStore.history`."""
        wanted = self._history if limit is None else min(limit, self._history)
        with self._reading():
            rows = self._run(
                f"SELECT {RECORD} FROM records WHERE app = ? AND task = ? ORDER BY number DESC LIMIT ?",  # noqa: S608
                self._app, task, wanted,
            ).fetchall()  # fmt: skip
        return [record_of(row) for row in rows]

    def find(self, task: str, run_id: str) -> list[Run]:
        """See `RunStore.find`."""
        with self._reading():
            rows = self._run(
                f"SELECT {RECORD} FROM records WHERE app = ? AND task = ? AND id = ? ORDER BY number DESC",  # noqa: S608
                self._app, task, run_id,
            ).fetchall()  # fmt: skip
        return [record_of(row) for row in rows][: self._history]

    def clear(self, task: str) -> int:
        """See `RunStore.clear`."""
        with self._step(task):
            gone = self._run("DELETE FROM records WHERE app = ? AND task = ? RETURNING number", self._app, task)
            return min(len(gone.fetchall()), self._history)  # what was not trimmed so far nobody could see

    def newest(self) -> Mapping[str, Run]:
        """See `RunStore.newest`."""
        with self._reading():
            rows = self._run(
                f"SELECT {BRIEF} FROM records WHERE number IN (SELECT (SELECT max(number) FROM records AS one "  # noqa: S608
                "WHERE one.app = tasks.app AND one.task = tasks.name) FROM tasks WHERE app = ?)",
                self._app,
            ).fetchall()
        return {run.task: run for run in map(record_of, rows)}

    def brief(self, tasks: Iterable[str], limit: int) -> Mapping[str, list[Run]]:
        """See `RunStore.brief`."""
        wanted = min(limit, self._history)
        with self._reading():
            rows = {
                task: self._run(
                    f"SELECT {BRIEF} FROM records WHERE app = ? AND task = ? ORDER BY number DESC LIMIT ?",  # noqa: S608
                    self._app, task, wanted,
                ).fetchall()
                for task in tasks
            }  # fmt: skip
        return {task: [record_of(row) for row in found] for task, found in rows.items()}

    def all_totals(self) -> Mapping[str, Totals]:
        """See `RunStore.all_totals`."""
        with self._reading():
            rows = self._run(
                f"SELECT name, {_TOTALS} FROM tasks WHERE app = ? AND appended > 0",  # noqa: S608
                self._app,
            ).fetchall()
        return {task: totals_of(*row) for task, *row in rows}

    def ran(self, day: date) -> int:
        """See `RunStore.ran`."""
        with self._reading():
            (count,) = self._run(
                "SELECT coalesce(sum(ran), 0) FROM tasks WHERE app = ? AND ran_on = ?",
                self._app, (day - EPOCH.date()).days,
            ).fetchone()  # fmt: skip
        return int(count)

    def totals(self, task: str) -> Totals:
        """See `RunStore.totals`."""
        with self._reading():
            row = self._run(
                f"SELECT {_TOTALS} FROM tasks WHERE app = ? AND name = ?",  # noqa: S608
                self._app, task,
            ).fetchone()  # fmt: skip
        return totals_of(*row) if row else Totals()

    def pause(self, task: str, pause: Pause) -> None:
        """See `RunStore.pause`."""
        with self._reading():
            self._run(
                "INSERT INTO pauses (app, task, since, until, note, author) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (app, task) DO UPDATE SET since = excluded.since, until = excluded.until, "
                "note = excluded.note, author = excluded.author",
                self._app, task, number_of(pause.since), number_of(pause.until), pause.note, pause.by,
            )  # fmt: skip

    def resume(self, task: str) -> bool:
        """See `RunStore.resume`."""
        with self._reading():
            return bool(self._run("DELETE FROM pauses WHERE app = ? AND task = ?", self._app, task).rowcount)

    def pauses(self) -> Mapping[str, Pause]:
        """See `RunStore.pauses`."""
        with self._reading():
            rows = self._run("SELECT task, since, until, note, author FROM pauses WHERE app = ?", self._app).fetchall()
        return {task: pause_of(*row) for task, *row in rows}

    def tasks(self) -> list[str]:
        """See `RunStore.tasks`."""
        with self._reading():
            tracks = self._run(_TRACKS, self._app).fetchall()
            pauses = self._run("SELECT task FROM pauses WHERE app = ?", self._app).fetchall()
        return sorted({name.partition("@")[0] for (name,) in [*tracks, *pauses]})

    def purge(self, keep: Iterable[str]) -> list[str]:
        """See `RunStore.purge`."""
        gone = sorted(set(self.tasks()) - set(keep))
        with self._reading():
            known = [track for (track,) in self._run(_TRACKS, self._app).fetchall()]
        for begin in range(0, len(gone), PURGED_AT_ONCE):
            some = set(gone[begin : begin + PURGED_AT_ONCE])
            with self._step(*some):
                for name in (*some, *(track for track in known if track.partition("@")[0] in some)):
                    self._run("DELETE FROM tasks WHERE app = ? AND name = ?", self._app, name)
                for task in some:
                    for table in ("held", "pauses", "records"):
                        self._run(f"DELETE FROM {table} WHERE app = ? AND task = ?", self._app, task)  # noqa: S608
        return gone

    def beat(self, instance: Instance, fingerprints: Mapping[str, str], alive: timedelta) -> Mapping[str, datetime]:
        """See `RunStore.beat`."""
        seen, still = number_of(instance.seen), number_of(instance.seen - alive)
        forgotten = number_of(instance.seen - FORGET_INSTANCE_AFTER)
        with self._step():
            # A process that comes with what nobody lives by any more begins it anew, as when a
            # deployment is rolled back; one that was only frozen does not.
            self._run(
                "DELETE FROM configurations WHERE app = ? AND digest = ? AND NOT EXISTS "
                "(SELECT 1 FROM instances WHERE app = ? AND digest = ? AND (seen > ? OR owner = ?))",
                self._app, instance.digest, self._app, instance.digest, still, instance.owner,
            )  # fmt: skip
            self._run(
                f"INSERT INTO instances (app, {_INSTANCE}) VALUES ({_marks(9)}) "  # noqa: S608
                "ON CONFLICT (app, owner) DO UPDATE SET seen = excluded.seen, digest = excluded.digest, "
                "started = excluded.started, server = excluded.server, refused = excluded.refused, "
                "store_errors = excluded.store_errors",
                self._app, instance.owner, number_of(instance.started), seen, instance.digest, instance.server,
                instance.version, instance.refused, instance.store_errors,
            )  # fmt: skip
            self._run("DELETE FROM instances WHERE app = ? AND seen < ?", self._app, forgotten)
            self._run(
                "DELETE FROM configurations WHERE app = ? AND digest NOT IN "
                "(SELECT digest FROM instances WHERE app = ?)",
                self._app, self._app,
            )  # fmt: skip
            living = self._living(still)
            if instance.digest not in living:
                # Only now: of ten thousand tasks to write them down takes longer than all the rest.
                self._run(
                    "INSERT INTO configurations (app, digest, first_seen, fingerprints) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (app, digest) DO NOTHING",
                    self._app, instance.digest, seen, json.dumps(dict(fingerprints)),
                )  # fmt: skip
                living = self._living(still)
        return living

    def _living(self, still: int) -> Mapping[str, datetime]:
        """When each configuration was first seen by which a process lives that was heard of after *still*."""
        rows = self._run(
            "SELECT digest, first_seen FROM configurations WHERE app = ? AND digest IN "
            "(SELECT digest FROM instances WHERE app = ? AND seen > ?)",
            self._app, self._app, still,
        ).fetchall()  # fmt: skip
        return {digest: EPOCH + first_seen * MICROSECOND for digest, first_seen in rows}

    def fingerprints(self, digest: str) -> Mapping[str, str]:
        """See `RunStore.fingerprints`."""
        with self._reading():
            row = self._run(
                "SELECT fingerprints FROM configurations WHERE app = ? AND digest = ?", self._app, digest
            ).fetchone()
        return dict(json.loads(row[0])) if row else {}

    def leave(self, owner: str) -> None:
        """See `RunStore.leave`."""
        with self._reading():
            self._run("DELETE FROM instances WHERE app = ? AND owner = ?", self._app, owner)

    def instances(self) -> list[Instance]:
        """See `RunStore.instances`."""
        with self._reading():
            rows = self._run(
                f"SELECT {_INSTANCE} FROM instances WHERE app = ? ORDER BY seen DESC",  # noqa: S608
                self._app,
            ).fetchall()
        return [
            Instance(
                owner=owner, started=EPOCH + started * MICROSECOND, seen=EPOCH + seen * MICROSECOND, digest=digest,
                server=server, version=version, refused=refused, store_errors=store_errors,
            )
            for owner, started, seen, digest, server, version, refused, store_errors in rows
        ]  # fmt: skip

    def secret(self) -> str:
        """See `RunStore.secret`."""
        with self._step():
            self._run(
                "INSERT INTO secrets (app, secret) VALUES (?, ?) ON CONFLICT (app) DO NOTHING",
                self._app, token_urlsafe(32),
            )  # fmt: skip
            (secret,) = self._run("SELECT secret FROM secrets WHERE app = ?", self._app).fetchone()
        return str(secret)

    def spend(self, code: str, until: datetime) -> bool:
        """See `RunStore.spend`."""
        with self._step():
            self._run("DELETE FROM spent WHERE app = ? AND until < ?", self._app, number_of(until - SPENT_FOR))
            row = self._run(
                "INSERT INTO spent (app, code, until) VALUES (?, ?, ?) ON CONFLICT (app, code) DO NOTHING "
                "RETURNING code",
                self._app, code, number_of(until),
            ).fetchone()  # fmt: skip
        return row is not None

    def keep_press(self, press: Press) -> None:
        """See `RunStore.keep_press`."""
        with self._step():
            self._run(
                f"INSERT INTO presses (app, {_PRESS}) VALUES ({_marks(7)})",  # noqa: S608
                self._app, number_of(press.at), press.by, press.address, press.action, press.task, press.details,
            )  # fmt: skip
            self._run(
                "DELETE FROM presses WHERE app = ? AND number <= "
                "(SELECT number FROM presses WHERE app = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                self._app, self._app, PRESSES,
            )  # fmt: skip

    def presses(self, limit: int = PRESSES) -> list[Press]:
        """See `RunStore.presses`."""
        with self._reading():
            rows = self._run(
                f"SELECT {_PRESS} FROM presses WHERE app = ? ORDER BY number DESC LIMIT ?",  # noqa: S608
                self._app, limit,
            ).fetchall()  # fmt: skip
        return [
            Press(at=EPOCH + at * MICROSECOND, by=by, address=address, action=action, task=task, details=details)
            for at, by, address, action, task, details in rows
        ]

    # The primitives of LedgerStore; all are called within a step

    def _forget_places(self, now: datetime, tracks: Iterable[str]) -> None:
        """Forget the tracks of hosts and processes that are long gone but *tracks*, and attempts that wait there."""
        rows = self._run(
            "SELECT name, cursor FROM tasks WHERE app = ? AND name LIKE ? AND cursor < ?",
            self._app, "%@%", number_of(now - FORGET_PROCESS_AFTER),
        ).fetchall()  # fmt: skip
        if not rows:
            return
        here, hosts_since = frozenset(tracks), number_of(now - FORGET_HOST_AFTER)
        alive = {owner for (owner,) in self._run("SELECT owner FROM instances WHERE app = ?", self._app).fetchall()}
        gone = [name for name, cursor in rows if name not in here and _is_gone(name, cursor < hosts_since, alive)]
        for some in _parts(gone[:FORGOTTEN_AT_ONCE]):
            marks = _marks(len(some))
            self._run(
                f"DELETE FROM held WHERE app = ? AND started IS NULL AND task || '@' || place IN ({marks})",  # noqa: S608
                self._app, *some,
            )  # fmt: skip
            self._run(
                f"DELETE FROM tasks WHERE app = ? AND name IN ({marks}) "  # noqa: S608
                "AND name NOT IN (SELECT task || '@' || place FROM held WHERE app = ?)",
                self._app, *some, self._app,
            )  # fmt: skip

    def _standing(self, track: str, task: str) -> Standing | None:
        row = self._run(_STANDING, task, task, track.partition("@")[2], self._app, track).fetchone()
        return self._standing_in(task, *row) if row else None

    def _standing_in(self, task: str, cursor: int, paused: int | None, reached: int | None) -> Standing:
        if reached is not None:
            cursor = max(cursor, reached)
        pause = None if paused is None else self._pause(task)
        return Standing(EPOCH + cursor * MICROSECOND, pause, reached is not None)

    def _pause(self, task: str) -> Pause | None:
        row = self._run(
            "SELECT since, until, note, author FROM pauses WHERE app = ? AND task = ?", self._app, task
        ).fetchone()
        return pause_of(*row) if row else None

    def _reached(self) -> dict[str, int]:
        """The instants that are held, by track: cursors may be behind them."""
        rows = self._run(f"SELECT task, place, {_REACHED} FROM held WHERE app = ? GROUP BY task, place", self._app)  # noqa: S608
        return {track_of(task, place): reached for task, place, reached in rows.fetchall()}

    def _move_cursor(self, track: str, to: datetime) -> None:
        self._run(_MOVE, self._app, track, 0, number_of(to))

    def _standings(self, fires: Sequence[Fire]) -> Mapping[str, Standing]:
        if any(fire.place for fire in fires):
            return super()._standings(fires)
        known: dict[str, Standing] = {}
        for some in _parts([fire.task for fire in fires]):
            rows = self._run(_standings_of(len(some)), self._app, *some).fetchall()
            known |= {name: self._standing_in(name, *row) for name, *row in rows}
        return known

    def _win_all(self, runs: Sequence[Run]) -> None:
        self._insert(_HOLD, [(self._app, *held_row(run)) for run in runs if run.trigger in _PLANNED])
        super()._win_all([run for run in runs if run.trigger not in _PLANNED])

    def _move_all(self, fires: Sequence[Fire]) -> None:
        self._insert(_MOVE, [(self._app, fire.track, 0, number_of(fire.due)) for fire in fires])

    def _held(self, track: str | None) -> list[Run]:
        if track is None:
            rows = self._run(f"SELECT {HELD} FROM held WHERE app = ?", self._app)  # noqa: S608
            return self._legible.runs(rows.fetchall(), held_of, name_of)
        task, _, place = track.partition("@")
        return [held_of(row) for row in self._run(_HELD_OF, self._app, task, place).fetchall()]

    def _held_by(self, owner: str) -> list[Run]:
        rows = self._run(f"SELECT {HELD} FROM held WHERE app = ? AND owner = ?", self._app, owner)  # noqa: S608
        return [held_of(row) for row in rows.fetchall()]

    def _named(self, run_id: str) -> list[Run]:
        rows = self._run(f"SELECT {HELD} FROM held WHERE app = ? AND id = ?", self._app, run_id)  # noqa: S608
        return [held_of(row) for row in rows.fetchall()]

    def _holder(self, lock: str) -> Run | None:
        row = self._run(
            # Without the last words the index would not be used, in which no empty lock is.
            f"SELECT {HELD} FROM held WHERE app = ? AND lock = ? AND started IS NOT NULL AND lock <> '' LIMIT 1",  # noqa: S608
            self._app, lock,
        ).fetchone()  # fmt: skip
        return held_of(row) if row else None

    def _stops(self, owner: str) -> Mapping[str, str]:
        rows = self._run("SELECT id, stop FROM held WHERE app = ? AND owner = ? AND stop <> ''", self._app, owner)
        return dict(rows.fetchall())

    def _find(self, run: Run) -> Run | None:
        row = self._run(
            f"SELECT {HELD} FROM held WHERE app = ? AND task = ? AND id = ? AND attempt = ?",  # noqa: S608
            self._app, run.task, run.id, run.attempt,
        ).fetchone()  # fmt: skip
        return held_of(row) if row else None

    def _hold(self, run: Run) -> None:
        self._run(_HOLD, self._app, *held_row(run))

    def _finish_all(self, runs: Sequence[Run]) -> list[bool]:
        if len({run.task for run in runs}) < len(runs) or any(run.place for run in runs):
            return super()._finish_all(runs)
        ours: set[str] = set()
        for some in _parts(runs):
            tasks, keys = [run.task for run in some], [f"{run.id}/{run.attempt}" for run in some]
            ours.update(row[0] for row in self._run(_release_of(len(some)), self._app, *tasks, *keys).fetchall())
        self._append_all([run for run in runs if run.id in ours])
        return [run.id in ours for run in runs]

    def _release(self, run: Run) -> bool:
        released = self._changed(
            "DELETE FROM held WHERE app = ? AND task = ? AND id = ? AND attempt = ?",
            self._app, run.task, run.id, run.attempt,
        )  # fmt: skip
        if released and run.place and run.trigger in _PLANNED:
            self._move_cursor(run.track, run.due)
        return bool(released)

    def _append(self, run: Run) -> None:
        self._run(_APPEND, self._app, *record_row(run))
        self._count(run)
        self._trim_at_times(run)

    def _append_all(self, runs: Sequence[Run]) -> None:
        self._insert(_APPEND, [(self._app, *record_row(run)) for run in runs])
        for outcome in dict.fromkeys(run.outcome for run in runs if run.outcome):
            self._insert(_COUNT[outcome.value], [self._count_row(run) for run in runs if run.outcome is outcome])
        for run in runs:
            self._trim_at_times(run)

    def _insert(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Execute *statement*, which inserts one row, for each of *rows*."""
        for some in _parts(rows):
            self._run(_for_rows(statement, len(some)), *chain.from_iterable(some))

    def _newest_of(self, tasks: Sequence[str]) -> Mapping[str, Run]:
        newest: dict[str, Run] = {}
        for some in _parts(tasks):
            for row in self._run(_newest_of(len(some)), self._app, *some).fetchall():
                with suppress(UnreadableError):  # nothing continues it; nor does it keep a handful from being run
                    run = record_of(row)
                    newest[run.task] = run
        return newest

    def _last_attempt(self, task: str, run_id: str) -> int:
        (attempt,) = self._run(
            "SELECT coalesce(max(attempt), 0) FROM records WHERE app = ? AND task = ? AND id = ?",
            self._app, task, run_id,
        ).fetchone()  # fmt: skip
        return int(attempt)

    def _extend(self, newest: Run, record: Run) -> None:
        self._run(
            "UPDATE records SET due = ?, finished = ?, first_due = ?, count = ? WHERE number = "
            "(SELECT max(number) FROM records WHERE app = ? AND task = ?)",
            number_of(newest.due), number_of(newest.finished), number_of(newest.first_due), newest.count,
            self._app, newest.task,
        )  # fmt: skip
        self._count(record)

    def _count(self, run: Run) -> None:
        """Add *run* to the totals, and move the cursor to it."""
        assert run.outcome is not None
        self._run(_COUNT[run.outcome.value], *self._count_row(run))

    def _count_row(self, run: Run) -> tuple[Any, ...]:
        reached = number_of(run.due) if run.trigger in _PLANNED and not run.place else None
        finished = number_of(run.finished) if run.started else None
        success = finished if run.outcome is Outcome.SUCCESS else None
        day = None if finished is None else finished // _DAY
        ran = 0 if finished is None else 1
        return self._app, run.task, 1, reached, finished, success, day, ran, *timing(run), run.count

    def _trim_at_times(self, run: Run) -> None:
        # By the id, which is as good as chance: a count would have to be asked for, or would begin anew with each
        # process, and of ten thousand tasks that are due at once all would be trimmed in the same moment.
        if (crc32(run.id.encode()) + run.attempt) % TRIM_EVERY == 0:
            self._trim(run.task)

    def _trim(self, task: str) -> None:
        self._run(
            "DELETE FROM records WHERE app = ? AND task = ? AND number <= "
            "(SELECT number FROM records WHERE app = ? AND task = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
            self._app, task, self._app, task, self._history,
        )  # fmt: skip
