"""The contract of `RunStore`: every backend passes it, so every backend is the same referee."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pulse.model import Claim, Claimed, Fire, Outcome, Run, Span, Trigger
from pulse.runstores.base import RunStore
from pulse.runstores.memory import MemoryRunStore
from pulse.runstores.sqlite import SqliteRunStore

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LEASE = timedelta(seconds=30)
HISTORY = 5


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunStore]:
    if request.param == "memory":
        store: RunStore = MemoryRunStore(history=HISTORY)
    else:
        store = SqliteRunStore(tmp_path / "state" / "runs.db", history=HISTORY)
    store.register(["cleanup"], NOON)
    yield store
    store.close()


def fire(minutes: int, task: str = "cleanup", **more) -> Fire:
    """The fire of an every-minute task, so many minutes after noon."""
    return Fire(task=task, due=NOON + minutes * MINUTE, **more)


def every_minute(before: Fire):
    """What an every-minute schedule passes over on the way to a fire."""

    def passed(cursor: datetime) -> Span | None:
        count = round((before.due - cursor) / MINUTE) - 1
        return Span(first=cursor + MINUTE, last=before.due - MINUTE, count=count) if count > 0 else None

    return passed


def claim(store: RunStore, planned: Fire, *, owner: str = "one", late: float = 0, **more) -> Claimed:
    now = planned.due + timedelta(seconds=late)
    return store.claim(planned, owner=owner, now=now, lease=LEASE, passed=every_minute(planned), **more)


def ended(run: Run | None, outcome: Outcome = Outcome.SUCCESS) -> Run:
    assert run is not None
    return replace(run, outcome=outcome, finished=run.due + timedelta(seconds=1), status=200, duration=1.0, body=b"x")


def test_the_first_claim_of_a_fire_wins_and_holds_a_lease(store):
    claimed = claim(store, fire(1), late=2)

    assert claimed.answer is Claim.WON
    assert claimed.missed is None
    assert claimed.run == Run(
        id=fire(1).run_id, task="cleanup", due=fire(1).due, owner="one",
        started=fire(1).due + timedelta(seconds=2), expires=fire(1).due + timedelta(seconds=32),
    )  # fmt: skip
    assert store.running() == [claimed.run]


def test_a_fire_is_won_once_for_ever(store):
    run = claim(store, fire(1)).run
    store.finish(ended(run))

    again = claim(store, fire(1), owner="two", late=3600)

    assert (again.answer, again.run) == (Claim.TAKEN, None)


def test_an_instant_before_the_cursor_is_taken(store):
    store.finish(ended(claim(store, fire(3)).run))

    assert claim(store, fire(2)).answer is Claim.TAKEN


def test_what_was_due_before_a_task_was_known_is_never_run(store):
    assert claim(store, fire(0)).answer is Claim.TAKEN


def test_registering_again_keeps_the_cursor(store):
    store.finish(ended(claim(store, fire(2)).run))

    assert store.register(["cleanup", "other"], NOON + 9 * MINUTE) == {
        "cleanup": NOON + 2 * MINUTE,
        "other": NOON + 9 * MINUTE,
    }


def test_instants_that_a_claim_passes_over_are_recorded_as_missed_in_the_same_step(store):
    claimed = claim(store, fire(4))

    assert claimed.answer is Claim.WON
    assert claimed.missed is not None
    assert claimed.missed.outcome is Outcome.MISSED
    assert (claimed.missed.first_due, claimed.missed.due, claimed.missed.count) == (
        NOON + MINUTE, NOON + 3 * MINUTE, 3,
    )  # fmt: skip
    assert store.history("cleanup") == [claimed.missed]
    assert store.totals("cleanup").counts == {Outcome.MISSED: 3}


def test_a_running_task_is_busy_and_the_instant_is_recorded_as_skipped(store):
    claim(store, fire(1))

    busy = claim(store, fire(2), owner="two", late=-40)

    assert busy.answer is Claim.BUSY
    assert busy.run is not None
    assert (busy.run.outcome, busy.run.due) == (Outcome.SKIPPED, fire(2).due)
    assert "running" in busy.run.reason
    assert claim(store, fire(2), owner="two", late=-40).answer is Claim.TAKEN


def test_as_many_runs_as_the_limit_allows_may_be_under_way(store):
    answers = [claim(store, fire(minute), late=-60 * minute, limit=2).answer for minute in (1, 2, 3)]

    assert answers == [Claim.WON, Claim.WON, Claim.BUSY]


def test_no_limit_lets_all_run(store):
    answers = [claim(store, fire(minute), late=-60 * minute, limit=None).answer for minute in (1, 2, 3)]

    assert answers == [Claim.WON] * 3


def test_a_fire_past_its_latest_start_is_stale_and_recorded_as_missed(store):
    late = fire(1, latest=NOON + 2 * MINUTE)

    claimed = claim(store, late, late=61)

    assert claimed.answer is Claim.STALE
    assert claimed.run is not None
    assert claimed.run.outcome is Outcome.MISSED
    assert "61.0 s late" in claimed.run.reason
    assert store.history("cleanup") == [claimed.run]
    assert claim(store, late).answer is Claim.TAKEN


def test_an_unknown_task_is_refused_and_known_from_then_on(store):
    unknown = fire(5, task="other")

    refused = claim(store, unknown, late=1)

    assert refused.answer is Claim.REFUSED
    assert refused.run is not None
    assert refused.run.outcome is Outcome.MISSED
    assert claim(store, unknown).answer is Claim.TAKEN
    assert claim(store, fire(6, task="other")).answer is Claim.WON


def test_finishing_completes_the_record(store):
    run = ended(claim(store, fire(1)).run)

    assert store.finish(run) is True

    assert store.history("cleanup") == [run]
    assert store.running() == []
    assert store.totals("cleanup").last_success == run.finished


def test_a_run_can_be_finished_once(store):
    run = claim(store, fire(1)).run
    store.finish(ended(run))

    assert store.finish(ended(run, Outcome.FAILED)) is False

    assert [record.outcome for record in store.history("cleanup")] == [Outcome.SUCCESS]


def test_a_killed_workers_run_is_lost_after_its_lease_and_the_next_fire_goes_to_an_heir(store):
    run = claim(store, fire(1), owner="killed").run
    assert store.reap(fire(1).due + timedelta(seconds=30)) == []

    lost = store.reap(fire(1).due + timedelta(seconds=31))

    assert [(record.id, record.outcome) for record in lost] == [(run.id, Outcome.LOST)]
    assert store.history("cleanup") == lost
    assert claim(store, fire(1), owner="heir").answer is Claim.TAKEN
    assert claim(store, fire(2), owner="heir").answer is Claim.WON


def test_a_claim_sees_that_the_lease_of_the_run_before_has_ended(store):
    claim(store, fire(1), owner="killed")

    claimed = claim(store, fire(2), owner="heir")

    assert claimed.answer is Claim.WON
    assert [record.outcome for record in claimed.lost] == [Outcome.LOST]
    assert store.history("cleanup") == list(claimed.lost)


def test_a_runner_that_lost_its_lease_changes_nothing(store):
    run = claim(store, fire(1)).run
    lost = store.reap(NOON + 5 * MINUTE)

    assert store.renew([run], NOON + 9 * MINUTE) == [run]
    assert store.finish(ended(run)) is False

    assert store.history("cleanup") == lost


def test_another_attempt_of_the_same_run_is_not_the_holder(store):
    run = claim(store, fire(1)).run

    assert store.finish(replace(ended(run), attempt=2)) is False
    assert store.renew([replace(run, attempt=2)], NOON + 9 * MINUTE) != []


def test_a_renewed_lease_lasts(store):
    run = claim(store, fire(1)).run

    assert store.renew([run], fire(1).due + timedelta(seconds=60)) == []

    assert store.reap(fire(1).due + timedelta(seconds=59)) == []
    assert store.finish(ended(run)) is True


def test_a_dismissed_fire_is_recorded_and_cannot_be_claimed(store):
    dismissed = store.dismiss(
        fire(2), outcome=Outcome.SKIPPED, reason="because", now=fire(2).due, passed=every_minute(fire(2))
    )

    assert (dismissed.run.outcome, dismissed.run.reason) == (Outcome.SKIPPED, "because")
    assert dismissed.missed.count == 1
    assert claim(store, fire(2)).answer is Claim.TAKEN


def test_a_fire_that_was_claimed_cannot_be_dismissed(store):
    claim(store, fire(2))

    answer = store.dismiss(
        fire(2), outcome=Outcome.SKIPPED, reason="because", now=fire(2).due, passed=every_minute(fire(2))
    )

    assert answer == Claimed(answer=Claim.TAKEN)


def test_a_call_by_hand_stands_beside_the_schedule(store):
    by_hand = fire(3, trigger=Trigger.MANUAL, run_id="byhand")

    claimed = claim(store, by_hand)
    store.finish(ended(claimed.run))

    assert (claimed.answer, claimed.missed) == (Claim.WON, None)
    assert claim(store, fire(1)).answer is Claim.WON


def test_a_call_by_hand_does_not_overlap_the_task(store):
    claim(store, fire(1))

    by_hand = claim(store, fire(1, trigger=Trigger.MANUAL, run_id="byhand"), late=1)

    assert by_hand.answer is Claim.BUSY
    assert by_hand.run.outcome is Outcome.SKIPPED


def test_history_is_bounded_and_totals_are_not(store):
    for minute in range(1, HISTORY + 4):
        store.finish(ended(claim(store, fire(minute)).run))

    assert [run.due for run in store.history("cleanup")] == [
        NOON + minute * MINUTE for minute in range(HISTORY + 3, 3, -1)
    ]
    assert len(store.history("cleanup", 2)) == 2
    assert store.totals("cleanup").counts == {Outcome.SUCCESS: HISTORY + 3}


def test_a_failure_does_not_move_the_last_success(store):
    store.finish(ended(claim(store, fire(1)).run))
    store.finish(ended(claim(store, fire(2)).run, Outcome.FAILED))

    totals = store.totals("cleanup")

    assert totals.last_success == fire(1).due + timedelta(seconds=1)
    assert totals.last_finished == fire(2).due + timedelta(seconds=1)


def test_tasks_are_kept_apart(store):
    store.register(["other"], NOON)
    claim(store, fire(1))

    assert claim(store, fire(1, task="other")).answer is Claim.WON
    assert store.history("other") == []


def test_of_many_threads_that_claim_the_same_fires_one_wins_each(store):
    minutes, threads = 50, 8
    ready = threading.Barrier(threads)
    wins: list[datetime] = []

    def race(owner: str) -> None:
        ready.wait()
        for minute in range(1, minutes + 1):
            claimed = claim(store, fire(minute), owner=owner, limit=None)
            if claimed.answer is Claim.WON:
                wins.append(claimed.run.due)

    racers = [threading.Thread(target=race, args=(str(number),)) for number in range(threads)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()

    missed = store.totals("cleanup").counts.get(Outcome.MISSED, 0)
    lost = store.totals("cleanup").counts.get(Outcome.LOST, 0)
    assert len(wins) == len(set(wins))
    assert len(wins) + missed == minutes
    assert lost + len(store.running()) == len(wins)
