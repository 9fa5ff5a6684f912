"""The run store of one process: for tests, and for applications of one process."""

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime

from pulse.model import Outcome, Run
from pulse.runstores.base import Totals
from pulse.runstores.ledger import LedgerStore


@dataclass(kw_only=True, slots=True)
class _Account:
    """All that is kept of one task; guarded by the store's lock."""

    cursor: datetime
    history: deque[Run]
    held: dict[str, Run] = field(default_factory=dict)
    counts: Counter[Outcome] = field(default_factory=Counter)
    last_finished: datetime | None = None
    last_success: datetime | None = None


class MemoryRunStore(LedgerStore):
    """Keeps everything in this process; what it knows ends with it."""

    def __init__(self, *, history: int = 50) -> None:
        """*history*: how many finished records are kept a task."""
        self._history = history
        self._accounts: dict[str, _Account] = {}
        self._lock = threading.Lock()

    def history(self, task: str, limit: int | None = None) -> list[Run]:
        """See `RunStore.history`."""
        with self._lock:
            account = self._accounts.get(task)
            return list(account.history)[:limit] if account else []

    def totals(self, task: str) -> Totals:
        """See `RunStore.totals`."""
        with self._lock:
            account = self._accounts.get(task)
            if not account:
                return Totals()
            return Totals(
                counts=dict(account.counts), last_finished=account.last_finished, last_success=account.last_success
            )

    def after_fork(self) -> None:
        """Begin anew: what the parent knows goes on in the parent."""
        self._accounts = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Nothing is held open; what was kept can still be read."""

    # The primitives of LedgerStore

    def _step(self) -> threading.Lock:
        return self._lock

    def _cursor(self, task: str) -> datetime | None:
        account = self._accounts.get(task)
        return account.cursor if account else None

    def _move_cursor(self, task: str, to: datetime) -> None:
        account = self._accounts.get(task)
        if account:
            account.cursor = to
        else:
            self._accounts[task] = _Account(cursor=to, history=deque(maxlen=self._history))

    def _held(self, task: str | None) -> list[Run]:
        if task is not None:
            return list(self._accounts[task].held.values())
        return [run for account in self._accounts.values() for run in account.held.values()]

    def _find(self, run: Run) -> Run | None:
        account = self._accounts.get(run.task)
        held = account.held.get(run.id) if account else None
        return held if held and held.attempt == run.attempt else None

    def _hold(self, run: Run) -> None:
        self._accounts[run.task].held[run.id] = run

    def _release(self, run: Run) -> None:
        del self._accounts[run.task].held[run.id]

    def _append(self, run: Run) -> None:
        assert run.outcome is not None
        account = self._accounts[run.task]
        account.history.appendleft(run)
        account.counts[run.outcome] += run.count
        if run.started:
            account.last_finished = run.finished
        if run.outcome is Outcome.SUCCESS:
            account.last_success = run.finished
