"""The run store of one process: for tests, and for applications of one process."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from secrets import token_urlsafe

from pulse.model import Instance, Outcome, Pause, Press, Run
from pulse.runstores.base import FORGET_INSTANCE_AFTER, PRESSES, SPENT_FOR, Totals
from pulse.runstores.ledger import LedgerStore, Standing, timing
from pulse.zone import EPOCH


@dataclass(kw_only=True, slots=True)
class _Account:
    """All that is kept of one task; guarded by the store's lock."""

    history: deque[Run]
    counts: dict[str, int] = field(default_factory=dict)  # by the names of outcomes: to hash an Enum is a call
    last_finished: datetime | None = None
    last_success: datetime | None = None
    timed: int = 0
    seconds: float = 0.0
    seconds_late: float = 0.0


class MemoryRunStore(LedgerStore):
    """Keeps everything in this process; what it knows ends with it."""

    def __init__(self, *, history: int = 50) -> None:
        """*history*: how many finished records are kept a task."""
        self._history = history
        self._forget()

    def __repr__(self) -> str:
        return "<MemoryRunStore>"

    def tasks(self) -> list[str]:
        """See `RunStore.tasks`."""
        with self._lock:
            return sorted({_task_of(track) for track in self._cursors} | set(self._pauses))

    def history(self, task: str, limit: int | None = None) -> list[Run]:
        """See `RunStore.history`."""
        with self._lock:
            account = self._accounts.get(task)
            return list(account.history)[:limit] if account else []

    def register(
        self, tracks: Iterable[str], now: datetime, *, since: datetime | None = None
    ) -> Mapping[str, datetime]:
        """See `RunStore.register`."""
        with self._lock:
            return {track: self._cursors.setdefault(track, since or now) for track in tracks}

    def find(self, task: str, run_id: str) -> list[Run]:
        """See `RunStore.find`."""
        return [run for run in self.history(task) if run.id == run_id]

    def totals(self, task: str) -> Totals:
        """See `RunStore.totals`."""
        with self._lock:
            account = self._accounts.get(task)
            return _totals_of(account) if account else Totals()

    def clear(self, task: str) -> int:
        """See `RunStore.clear`."""
        with self._lock:
            account = self._accounts.get(task)
            count = len(account.history) if account else 0
            if account:
                account.history.clear()
            return count

    def newest(self) -> Mapping[str, Run]:
        """See `RunStore.newest`."""
        return {task: runs[0] for task, runs in self.brief(list(self._accounts), 1).items() if runs}

    def brief(self, tasks: Iterable[str], limit: int) -> Mapping[str, list[Run]]:
        """See `RunStore.brief`."""
        return {task: [run.without_output() for run in self.history(task, limit)] for task in tasks}

    def all_totals(self) -> Mapping[str, Totals]:
        """See `RunStore.all_totals`."""
        with self._lock:
            return {task: _totals_of(account) for task, account in self._accounts.items()}

    def ran(self, day: date) -> int:
        """See `RunStore.ran`."""
        with self._lock:
            last, count = self._ran
            return count if last == (day - EPOCH.date()).days else 0

    def pause(self, task: str, pause: Pause) -> None:
        """See `RunStore.pause`."""
        with self._lock:
            self._pauses[task] = pause

    def resume(self, task: str) -> bool:
        """See `RunStore.resume`."""
        with self._lock:
            return self._pauses.pop(task, None) is not None

    def pauses(self) -> Mapping[str, Pause]:
        """See `RunStore.pauses`."""
        with self._lock:
            return dict(self._pauses)

    def purge(self, keep: Iterable[str]) -> list[str]:
        """See `RunStore.purge`."""
        with self._lock:
            gone = ({_task_of(track) for track in self._cursors} | set(self._pauses)) - set(keep)
            for track in [track for track in self._cursors if _task_of(track) in gone]:
                del self._cursors[track]
                for run in self._by_track.get(track, ()):
                    self._release(run)
                self._by_track.pop(track, None)
            for task in gone:
                self._accounts.pop(task, None)
                self._pauses.pop(task, None)
        return sorted(gone)

    def beat(self, instance: Instance, fingerprints: Mapping[str, str], alive: timedelta) -> Mapping[str, datetime]:
        """See `RunStore.beat`."""
        with self._lock:
            known = self._instances.get(instance.owner)
            is_new = known is None or known.digest != instance.digest
            # A process that comes with what nobody lives by any more begins it anew, as when a
            # deployment is rolled back; one that was only frozen does not.
            if is_new and instance.digest not in self._living(instance.seen - alive):
                self._configurations.pop(instance.digest, None)
            self._configurations.setdefault(instance.digest, (instance.seen, fingerprints))
            self._instances[instance.owner] = instance
            self._forget_the_gone(instance.seen - FORGET_INSTANCE_AFTER)
            return {digest: self._configurations[digest][0] for digest in self._living(instance.seen - alive)}

    def _forget_the_gone(self, since: datetime) -> None:
        for owner in [one.owner for one in self._instances.values() if one.seen < since]:
            del self._instances[owner]
        known = {one.digest for one in self._instances.values()}
        for digest in self._configurations.keys() - known:
            del self._configurations[digest]

    def _living(self, since: datetime) -> set[str]:
        return {one.digest for one in self._instances.values() if one.seen > since}

    def fingerprints(self, digest: str) -> Mapping[str, str]:
        """See `RunStore.fingerprints`."""
        with self._lock:
            return dict(self._configurations[digest][1]) if digest in self._configurations else {}

    def leave(self, owner: str) -> None:
        """See `RunStore.leave`."""
        with self._lock:
            self._instances.pop(owner, None)

    def instances(self) -> list[Instance]:
        """See `RunStore.instances`."""
        with self._lock:
            return sorted(self._instances.values(), key=lambda one: one.seen, reverse=True)

    def secret(self) -> str:
        """See `RunStore.secret`."""
        return self._secret

    def spend(self, code: str, until: datetime) -> bool:
        """See `RunStore.spend`."""
        with self._lock:
            for ended in [known for known, end in self._spent.items() if end < until - SPENT_FOR]:
                del self._spent[ended]
            is_first = code not in self._spent
            self._spent.setdefault(code, until)
            return is_first

    def keep_press(self, press: Press) -> None:
        """See `RunStore.keep_press`."""
        with self._lock:
            self._presses.appendleft(press)

    def presses(self, limit: int = PRESSES) -> list[Press]:
        """See `RunStore.presses`."""
        with self._lock:
            return list(self._presses)[:limit]

    def after_fork(self) -> None:
        """Begin anew: what the parent knows goes on in the parent."""
        self._forget()

    def close(self) -> None:
        """Nothing is held open; what was kept can still be read."""

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._secret = token_urlsafe(32)
        self._spent: dict[str, datetime] = {}
        self._presses: deque[Press] = deque(maxlen=PRESSES)
        self._ran = (-1, 0)  # the last day on which runs ended, since 1970, and how many
        self._cursors: dict[str, datetime] = {}
        self._by_id: dict[str, Run] = {}
        self._by_track: dict[str, tuple[Run, ...]] = {}  # most have one: a dict for each would be as large as the run
        self._by_lock: dict[str, dict[str, Run]] = {}  # what is held with a lock, by its id
        self._accounts: dict[str, _Account] = {}
        self._pauses: dict[str, Pause] = {}
        self._instances: dict[str, Instance] = {}
        self._configurations: dict[str, tuple[datetime, Mapping[str, str]]] = {}

    # The primitives of LedgerStore

    def _step(self, *_tasks: str) -> threading.Lock:
        return self._lock

    def _standing(self, track: str, task: str) -> Standing | None:
        cursor = self._cursors.get(track)
        return None if cursor is None else Standing(cursor, self._pauses.get(task), bool(self._by_track.get(track)))

    def _born(self) -> None:
        return None

    def _move_cursor(self, track: str, to: datetime) -> None:
        self._cursors[track] = max(to, self._cursors.get(track, to))

    def _held(self, track: str | None) -> list[Run]:
        return list(self._by_id.values() if track is None else self._by_track.get(track, ()))

    def _held_by(self, owner: str) -> list[Run]:
        return [run for run in self._by_id.values() if run.owner == owner]

    def _named(self, run_id: str) -> list[Run]:
        held = self._by_id.get(run_id)
        return [held] if held else []

    def _holder(self, lock: str) -> Run | None:
        return next((run for run in self._by_lock.get(lock, {}).values() if run.started), None)

    def _stops(self, owner: str) -> Mapping[str, str]:
        return {run.id: run.stop for run in self._by_id.values() if run.stop and run.owner == owner}

    def _find(self, run: Run) -> Run | None:
        held = self._by_id.get(run.id)
        return held if held and held.attempt == run.attempt else None

    def _hold(self, run: Run) -> None:
        before = self._by_id.get(run.id)
        if before and before.lock:
            self._unlock(before)
        self._by_id[run.id] = run
        self._by_track[run.track] = (*self._others(run), run)
        if run.lock:
            self._by_lock.setdefault(run.lock, {})[run.id] = run

    def _release(self, run: Run) -> bool:
        held = self._by_id.get(run.id)
        if held is None or held.attempt != run.attempt:
            return False
        del self._by_id[run.id]
        self._by_track[held.track] = self._others(held)
        if held.lock:
            self._unlock(held)
        return True

    def _unlock(self, run: Run) -> None:
        others = self._by_lock[run.lock]
        del others[run.id]
        if not others:
            del self._by_lock[run.lock]

    def _others(self, run: Run) -> tuple[Run, ...]:
        """What is held beside *run* of its track."""
        return tuple(one for one in self._by_track.get(run.track, ()) if one.id != run.id)

    def _append(self, run: Run) -> None:
        account = self._account(run.task)
        account.history.appendleft(run)
        self._count(account, run)

    def _newest_of(self, tasks: Sequence[str]) -> Mapping[str, Run]:
        known = {task: self._accounts.get(task) for task in tasks}
        return {task: account.history[0] for task, account in known.items() if account and account.history}

    def _last_attempt(self, task: str, run_id: str) -> int:
        account = self._accounts.get(task)
        return max((run.attempt for run in account.history if run.id == run_id), default=0) if account else 0

    def _extend(self, newest: Run, record: Run) -> None:
        account = self._account(record.task)
        account.history[0] = newest
        self._count(account, record)

    def _account(self, task: str) -> _Account:
        account = self._accounts.get(task)
        if account is None:
            account = self._accounts[task] = _Account(history=deque(maxlen=self._history))
        return account

    def _count(self, account: _Account, run: Run) -> None:
        assert run.outcome is not None
        name, finished = run.outcome.value, run.finished
        account.counts[name] = account.counts.get(name, 0) + run.count
        if run.started and finished:
            account.last_finished = finished
            day, (last, count) = (finished - EPOCH).days, self._ran
            if day >= last:
                self._ran = (day, count + 1 if day == last else 1)
        if run.outcome is Outcome.SUCCESS:
            account.last_success = finished
        timed, seconds, seconds_late = timing(run)
        account.timed += timed
        account.seconds += seconds
        account.seconds_late += seconds_late


def _totals_of(account: _Account) -> Totals:
    return Totals(
        counts={Outcome(name): count for name, count in account.counts.items()},
        last_finished=account.last_finished,
        last_success=account.last_success,
        timed=account.timed,
        seconds=account.seconds,
        seconds_late=account.seconds_late,
    )


def _task_of(track: str) -> str:
    return track.partition("@")[0]
