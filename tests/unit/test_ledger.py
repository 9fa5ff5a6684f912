"""What a look at all that runs costs: the rules of the ledger, counted in steps and looks instead of seconds."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pulse.errors import StoreUnavailableError
from pulse.model import Fire, Limits, Outcome, Progress, Run
from pulse.runstores import ledger
from pulse.runstores.ledger import REAPED_AT_ONCE
from pulse.runstores.memory import MemoryRunStore

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)
LATER = NOON + 2 * LEASE
MANY = 3 * REAPED_AT_ONCE


class CountingStore(MemoryRunStore):
    """Notes of how many tasks each step is, and which runs it has written or read."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.read: list[str] = []
        self.steps_left = 1_000_000

    @contextmanager
    def _step(self, *tasks: str):
        self.steps_left -= 1
        if self.steps_left < 0:
            raise StoreUnavailableError("the store is away")
        self.steps.append(len(tasks))
        with super()._step(*tasks):
            yield

    def _held(self, track: str | None) -> list[Run]:
        held = super()._held(track)
        self.read += [run.id for run in held]
        return held


@pytest.fixture
def store() -> CountingStore:
    """Holds many runs of one process that has not renewed them since noon."""
    store = CountingStore()
    names = [f"task{number}" for number in range(MANY)]
    store.register(names, NOON - LEASE)
    for name in names:
        claim(store, name)
    store.steps.clear()
    store.read.clear()
    return store


def claim(store: CountingStore, task: str, owner: str = "there:1", lock: str = "") -> Run:
    limits = Limits(recovers=True, lock=lock)
    fire = Fire(task=task, due=NOON)
    run = store.claim(fire, owner=owner, now=NOON, lease=LEASE, passed=lambda cursor: None, limits=limits).run
    assert run is not None
    return run


def test_what_a_process_with_many_runs_leaves_is_recorded_a_few_runs_a_step(store):
    lost = store.reap(LATER)

    assert len(lost) == MANY
    assert {run.outcome for run in lost} == {Outcome.LOST}
    assert max(store.steps) == REAPED_AT_ONCE
    assert len(store.read) == MANY  # each once, not once more in each of the steps


def test_what_was_recorded_as_lost_is_told_though_the_store_goes_away_behind_it(store):
    store.steps_left = 2  # the look, and the first few

    told = store.reap(LATER)
    store.steps_left = 1_000_000

    assert len(told) == REAPED_AT_ONCE
    assert len(store.reap(LATER)) == MANY - REAPED_AT_ONCE


def test_a_store_that_is_away_before_anything_is_recorded_says_so(store):
    store.steps_left = 1

    with pytest.raises(StoreUnavailableError):
        store.reap(LATER)


def test_a_run_whose_lease_was_renewed_behind_the_look_is_not_lost(store, monkeypatch):
    run = store.running()[7]
    losses = ledger.losses
    renewed: list[Run] = []

    def renew_first(held, now):
        found = losses(held, now)
        if not renewed:
            renewed.append(run)
            store.renew([run], LATER + LEASE)
        return found

    monkeypatch.setattr(ledger, "losses", renew_first)

    assert run.id not in {one.id for one in store.reap(LATER)}
    assert [one.id for one in store.running()] == [run.id]


def test_a_process_is_looked_at_once_however_many_runs_it_has(store, monkeypatch):
    looked_at: list[str] = []
    monkeypatch.setattr(ledger, "is_gone", lambda owner: bool(looked_at.append(owner)))

    assert store.reap(NOON) == []

    assert looked_at == ["there:1"]


class NotLookedThrough(dict):
    """All that is held, of which one is asked for by its id."""

    def values(self):
        pytest.fail("every run was looked at")


def test_a_claim_with_a_lock_looks_at_no_run_without_one(store):
    store.register(["first", "second"], NOON - LEASE)
    store._by_id = NotLookedThrough(store._by_id)

    won, busy = (claim(store, task, lock="files") for task in ("first", "second"))

    assert won.outcome is None
    assert busy.reason == "first is running, and has the lock 'files', too"


def test_of_locks_that_nobody_has_any_more_nothing_is_kept(store):
    store.register(["first", "second"], NOON - LEASE)
    for task in ("first", "second"):
        claim(store, task, lock=f"of {task}")
    store.purge([task for task in store.tasks() if task != "second"])
    store.reap(LATER)
    (waiting,) = [run for run in store.waiting() if run.task == "first"]
    limits = Limits(lock="another")

    begun = store.adopt(waiting, owner="here:1", now=LATER, lease=LEASE, limits=limits)
    store.finish(replace(begun, outcome=Outcome.SUCCESS, finished=LATER))

    assert store._by_lock == {}


def test_to_ask_one_run_to_stop_reads_no_other(store):
    run = store.running()[7]
    store.read.clear()

    assert store.ask_to_stop(run.id, "enough") is True

    assert store.read == []
    assert store.report("there:1", {}) == {run.id: "enough"}


def test_what_a_process_says_of_its_runs_needs_no_look_at_those_of_others(store):
    store.register(["own"], NOON - LEASE)
    run = claim(store, "own", owner="here:1")
    store.read.clear()

    store.report("here:1", {run.id: Progress(done=1)})

    assert store.read == []
    assert [one.progress for one in store.running() if one.owner == "here:1"] == [Progress(done=1)]


def test_codes_that_ended_long_ago_are_kept_in_memory_no_longer(store):
    for day in range(10):
        assert store.spend(f"code {day}", NOON + timedelta(days=day))

    assert len(store._spent) == 2
    assert not store.spend("code 9", NOON + timedelta(days=9))
