"""The contract of `RunStore`: every backend passes it, so every backend is the same referee."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from pulse.instance import this_instance
from pulse.model import (
    QUEUE,
    Claim,
    Claimed,
    Fire,
    Instance,
    Limits,
    Outcome,
    Pause,
    Press,
    Progress,
    Run,
    Span,
    Trigger,
)
from pulse.runstores.base import Bid, RunStore, Totals
from pulse.runstores.ledger import NOT_RENEWED, NOT_TAKEN
from pulse.runstores.memory import MemoryRunStore
from pulse.runstores.postgres import PostgresRunStore
from pulse.runstores.redis import RedisRunStore
from pulse.runstores.sqlite import SqliteRunStore

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=30)
HISTORY = 5


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunStore]:
    if request.param == "memory":
        store: RunStore = MemoryRunStore(history=HISTORY)
    elif request.param == "redis":
        server = request.getfixturevalue("valkey_server")
        store = RedisRunStore(server.url, name=uuid4().hex, history=HISTORY, tolerance=None)
    elif request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        store = PostgresRunStore(server.url, name=uuid4().hex, history=HISTORY, tolerance=None)
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


def claim(store: RunStore, planned: Fire, *, owner: str = "one", late: float = 0, **limits) -> Claimed:
    now = planned.due + timedelta(seconds=late)
    terms = {"owner": owner, "now": now, "lease": LEASE, "passed": every_minute(planned)}
    return store.claim(planned, **terms, limits=Limits(**limits))


def claim_all(store: RunStore, *planned: Fire, owner: str = "one", late: float = 0) -> list[Claimed]:
    now = planned[0].due + timedelta(seconds=late)
    bids = [Bid(fire=one, passed=every_minute(one), limits=Limits()) for one in planned]
    return store.claim_all(bids, owner=owner, now=now, lease=LEASE)


def dismiss(store: RunStore, planned: Fire, outcome: Outcome = Outcome.SKIPPED, reason: str = "because") -> Claimed:
    terms = {"outcome": outcome, "reason": reason, "now": planned.due}
    return store.dismiss(planned, **terms, passed=every_minute(planned))


def ended(run: Run | None, outcome: Outcome = Outcome.SUCCESS) -> Run:
    assert run is not None
    return replace(run, outcome=outcome, finished=run.due + timedelta(seconds=1), status=200, duration=1.0, body=b"x")


def test_a_store_that_can_be_used_is_told_from_one_that_cannot_without_a_trace(store):
    store.reach()

    assert store.tasks() == ["cleanup"]
    assert claim(store, fire(1)).answer is Claim.WON


def test_the_first_claim_of_a_fire_wins_and_holds_a_lease(store):
    claimed = claim(store, fire(1), late=2)

    assert claimed.answer is Claim.WON
    assert claimed.missed is None
    assert claimed.run == Run(
        id=fire(1).run_id, task="cleanup", due=fire(1).due, owner="one",
        started=fire(1).due + timedelta(seconds=2), expires=fire(1).due + timedelta(seconds=32),
    )  # fmt: skip
    assert store.running() == [claimed.run]


def test_all_runs_of_a_process_that_held_many_are_lost_and_recovered_by_one_look(store):
    tasks = [f"task{number}" for number in range(120)]
    store.register(tasks, NOON)
    for task in tasks:
        claim(store, fire(1, task), owner="dead", recovers=True)

    lost = store.reap(NOON + 2 * MINUTE)

    assert sorted(run.task for run in lost) == sorted(tasks)
    assert {run.outcome for run in lost} == {Outcome.LOST}
    assert {(run.attempt, run.trigger) for run in store.waiting()} == {(2, Trigger.RECOVER)}
    assert [run.task for task in tasks[::40] for run in store.history(task)] == tasks[::40]
    assert store.reap(NOON + 2 * MINUTE) == []


def test_a_fire_is_won_once_for_ever(store):
    run = claim(store, fire(1)).run
    store.finish(ended(run))

    again = claim(store, fire(1), owner="two", late=3600)

    assert (again.answer, again.run) == (Claim.TAKEN, None)


def test_claims_made_together_leave_what_claims_made_one_by_one_leave(store):
    kinds = ("prompt", "passed", "late", "paused", "busy", "joined")
    alone, together = [f"{kind}1" for kind in kinds], [f"{kind}2" for kind in kinds]
    store.register([*alone, *together], NOON)
    for side in (alone, together):
        store.finish(ended(claim(store, fire(1, side[2])).run))
        claim(store, fire(5, side[4]), late=50)
        for minutes in (1, 3):
            dismiss(store, fire(minutes, side[5]), Outcome.MISSED, "nobody ran it before the next one was due")
    for task in (alone[3], together[3]):
        store.pause(task, Pause(since=NOON))

    def fires(side: list[str]) -> list[Fire]:
        latest = {side[2]: NOON + 5 * MINUTE}
        return [fire(1 if one == side[0] else 6, one, latest=latest.get(one)) for one in side]

    def claims(planned: list[Fire]) -> list[Bid]:
        return [Bid(fire=one, passed=every_minute(one), limits=Limits(instances=1)) for one in planned]

    terms = {"owner": "one", "now": NOON + 6 * MINUTE, "lease": LEASE}
    one_by_one = [answer for bid in claims(fires(alone)) for answer in store.claim_all([bid], **terms)]
    at_once = store.claim_all(claims(fires(together)), **terms)

    assert [one.answer for one in at_once] == [one.answer for one in one_by_one]
    assert {one.answer for one in at_once} == {Claim.WON, Claim.STALE, Claim.PAUSED, Claim.BUSY}
    assert [bool(one.missed) for one in at_once] == [False, True, True, True, False, True]
    assert {claim(store, one).answer for one in fires(together)} == {Claim.TAKEN}
    assert [run.count for run in store.history("joined2")] == [5]
    for one, other in zip(alone, together, strict=True):
        kept = [replace(run, id="", task=other) for run in store.history(one)]
        assert [replace(run, id="") for run in store.history(other)] == kept
        assert store.totals(other) == store.totals(one)
    assert {run.task for run in store.running()} == {
        f"{kind}{n}" for kind in ("prompt", "passed", "busy", "joined") for n in (1, 2)
    }


def test_an_instant_before_the_cursor_is_taken(store):
    store.finish(ended(claim(store, fire(3)).run))

    assert claim(store, fire(2)).answer is Claim.TAKEN


def test_a_task_has_got_as_far_as_what_is_under_way(store):
    store.register(["cleanup@a"], NOON)
    claim(store, fire(2))
    claim(store, fire(3, place="a"))

    cursors = store.register(["cleanup", "cleanup@a"], NOON + 9 * MINUTE)

    assert cursors == {"cleanup": NOON + 2 * MINUTE, "cleanup@a": NOON + 3 * MINUTE}
    assert claim(store, fire(1), instances=None).answer is Claim.TAKEN


@pytest.mark.parametrize("place", ["", "a"])
def test_runs_that_end_in_another_order_leave_the_task_where_it_was(store, place):
    store.register(["cleanup@a"], NOON)
    first, second = (claim(store, fire(minute, place=place), late=-60, instances=2).run for minute in (1, 2))

    for run in (second, first):
        store.finish(ended(run))
        assert store.register([run.track], NOON)[run.track] == fire(2).due

    assert claim(store, fire(2, place=place)).answer is Claim.TAKEN
    assert claim(store, fire(3, place=place)).answer is Claim.WON


@pytest.mark.parametrize("place", ["", "a"])
def test_what_is_lost_is_behind_its_task(store, place):
    store.register(["cleanup@a"], NOON)
    run = claim(store, fire(2, place=place)).run

    assert len(store.reap(NOON + 9 * MINUTE)) == 1

    assert store.register([run.track], NOON)[run.track] == fire(2).due


@pytest.mark.parametrize("place", ["", "a"])
def test_neither_a_call_by_hand_nor_its_retry_moves_its_task(store, place):
    store.register(["cleanup@a"], NOON)
    by_hand = claim(store, fire(3, trigger=Trigger.MANUAL, run_id="byhand", place=place)).run
    store.finish(ended(by_hand, Outcome.FAILED), again_at=NOON + 4 * MINUTE)
    (waiting,) = store.waiting()
    again = adopt(store, waiting, 4)
    cursors = [store.register([again.track], NOON)[again.track]]
    store.finish(ended(again))

    cursors.append(store.register([again.track], NOON)[again.track])

    assert cursors == [NOON, NOON]
    assert claim(store, fire(1, place=place)).answer is Claim.WON


def test_what_was_due_before_a_task_was_known_is_never_run(store):
    assert claim(store, fire(0)).answer is Claim.TAKEN


def test_of_many_tracks_each_has_its_own_cursor(store):
    store.register(["b", "d", "ä@here"], NOON + MINUTE)
    store.register(["a", "c", "e"], NOON + 2 * MINUTE)

    cursors = store.register(["e", "d", "cleanup", "b", "new"], NOON + 3 * MINUTE)

    minutes = {"b": 1, "cleanup": 0, "d": 1, "e": 2, "new": 3}
    assert cursors == {track: NOON + after * MINUTE for track, after in minutes.items()}
    assert store.register([], NOON) == {}
    assert store.register(["ä@here"], NOON) == {"ä@here": NOON + MINUTE}


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
    answers = [claim(store, fire(minute), late=-60 * minute, instances=2).answer for minute in (1, 2, 3)]

    assert answers == [Claim.WON, Claim.WON, Claim.BUSY]


def test_no_limit_lets_all_run(store):
    answers = [claim(store, fire(minute), late=-60 * minute, instances=None).answer for minute in (1, 2, 3)]

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
    dismissed = dismiss(store, fire(2))

    assert (dismissed.run.outcome, dismissed.run.reason) == (Outcome.SKIPPED, "because")
    assert dismissed.missed.count == 1
    assert claim(store, fire(2)).answer is Claim.TAKEN


def test_a_fire_that_was_claimed_cannot_be_dismissed(store):
    claim(store, fire(2))

    answer = dismiss(store, fire(2))

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


def test_the_durations_and_the_lateness_of_all_runs_are_summed_also_of_those_whose_records_are_gone(store):
    for minute in range(1, HISTORY + 3):
        store.finish(timed(claim(store, fire(minute), late=0.25).run, 1.5))
    store.finish(timed(claim(store, fire(HISTORY + 3), late=2).run, 0.0, Outcome.TIMEOUT))

    totals = store.totals("cleanup")

    assert (totals.timed, totals.seconds, totals.seconds_late) == (HISTORY + 3, 1.5 * (HISTORY + 2), 3.75)
    assert (totals.mean_duration, totals.mean_lateness) == (1.3125, 0.46875)
    assert store.all_totals() == {"cleanup": totals}


def timed(run: Run | None, seconds: float | None, outcome: Outcome = Outcome.SUCCESS) -> Run:
    return replace(ended(run, outcome), duration=seconds)


def test_runs_that_end_together_are_timed_each_for_its_own_task(store):
    store.register(["other"], NOON)
    runs = [one.run for one in claim_all(store, fire(1), fire(1, "other"), late=0.5)]

    store.finish_all([timed(run, seconds) for run, seconds in zip(runs, (0.25, 4.0), strict=True)])

    totals = store.all_totals()
    assert [totals[task].seconds for task in ("cleanup", "other")] == [0.25, 4.0]
    assert [totals[task].seconds_late for task in ("cleanup", "other")] == [0.5, 0.5]
    assert [totals[task].timed for task in ("cleanup", "other")] == [1, 1]


def test_what_did_not_begin_or_has_no_duration_is_not_timed(store):
    dismiss(store, fire(1))
    claim(store, fire(2), owner="dead", late=1)
    store.reap(fire(2).due + 2 * LEASE)
    claim(store, fire(4), late=1)  # passes over one, and is given back before it began
    (run,) = store.running()
    store.finish(replace(timed(run, 1.0, Outcome.SKIPPED), started=None))
    store.finish(timed(claim(store, fire(5), late=1).run, None, Outcome.FAILED))

    totals = store.totals("cleanup")

    assert sum(totals.counts.values()) == 5
    assert (totals.timed, totals.seconds, totals.seconds_late) == (0, 0.0, 0.0)
    assert (totals.mean_duration, totals.mean_lateness) == (None, None)
    assert store.all_totals() == {"cleanup": totals}


def test_a_run_that_is_not_held_any_more_is_not_timed(store):
    run = timed(claim(store, fire(1)).run, 2.0)

    assert [store.finish(run), store.finish(run)] == [True, False]

    assert (store.totals("cleanup").timed, store.totals("cleanup").seconds) == (1, 2.0)


def test_the_sums_never_go_back(store):
    store.finish(timed(claim(store, fire(1), late=3).run, 2.0))

    store.finish(timed(claim(store, fire(2), late=-0.5).run, -1.0))  # as clocks may have it that are not of one time

    totals = store.totals("cleanup")
    assert (totals.timed, totals.seconds, totals.seconds_late) == (2, 2.0, 3.0)


# Records of instants that nobody ran


def test_instants_that_were_not_run_for_one_reason_share_a_record(store):
    for minute in (1, 2, 3):
        dismiss(store, fire(minute))

    (record,) = store.history("cleanup")

    assert (record.outcome, record.reason) == (Outcome.SKIPPED, "because")
    assert (record.first_due, record.due, record.count) == (fire(1).due, fire(3).due, 3)
    assert record.finished == fire(3).due
    assert store.totals("cleanup").counts == {Outcome.SKIPPED: 3}


def test_another_reason_or_a_run_between_begins_a_new_record(store):
    dismiss(store, fire(1))
    dismiss(store, fire(2), reason="something else")
    store.finish(ended(claim(store, fire(3)).run))
    dismiss(store, fire(4), reason="something else")

    assert [(record.due, record.count) for record in store.history("cleanup")] == [
        (fire(4).due, 1), (fire(3).due, 1), (fire(2).due, 1), (fire(1).due, 1),
    ]  # fmt: skip


def test_an_instant_that_is_still_being_run_lies_in_no_record_of_those_around_it(store):
    dismiss(store, fire(1))
    run = claim(store, fire(2)).run
    dismiss(store, fire(3))
    dismiss(store, fire(4))
    store.finish(ended(run))

    assert [(record.first_due, record.due, record.count) for record in store.history("cleanup")] == [
        (None, fire(2).due, 1), (fire(3).due, fire(4).due, 2), (None, fire(1).due, 1),
    ]  # fmt: skip


def test_what_is_passed_over_on_both_sides_of_a_run_has_two_records(store):
    claim(store, fire(2))
    busy = claim(store, fire(4), late=-100)

    assert busy.answer is Claim.BUSY
    assert [(record.outcome, record.due, record.count) for record in store.history("cleanup")] == [
        (Outcome.SKIPPED, fire(4).due, 1), (Outcome.MISSED, fire(3).due, 1), (Outcome.MISSED, fire(1).due, 1),
    ]  # fmt: skip


def test_calls_by_hand_that_did_not_run_have_a_record_each(store):
    claim(store, fire(1))
    for number in (1, 2):
        claim(store, fire(1, trigger=Trigger.MANUAL, run_id=f"byhand{number}"), late=number)

    assert [record.id for record in store.history("cleanup")] == ["byhand2", "byhand1"]


# Overlap


def test_a_fire_that_waits_at_the_limit_has_no_record_and_can_be_claimed_later(store):
    run = claim(store, fire(1)).run

    waiting = claim(store, fire(2), late=-40, waits=True)
    store.finish(ended(run))

    assert waiting == Claimed(answer=Claim.WAIT)
    assert claim(store, fire(2), waits=True).answer is Claim.WON


def test_a_call_by_hand_never_waits_in_the_store(store):
    claim(store, fire(1))

    assert claim(store, fire(1, trigger=Trigger.MANUAL, run_id="byhand"), late=1, waits=True).answer is Claim.BUSY


def test_a_task_of_several_places_has_a_cursor_and_a_limit_at_each(store):
    store.register(["cleanup@a", "cleanup@b"], NOON)

    answers = [claim(store, fire(1, place=place)).answer for place in ("a", "b", "a", "")]

    assert answers == [Claim.WON, Claim.WON, Claim.TAKEN, Claim.WON]
    assert len({run.id for run in store.running()}) == 3
    assert {run.place for run in store.running()} == {"a", "b", ""}


def test_the_places_of_a_task_share_its_history(store):
    store.register(["cleanup@a", "cleanup@b"], NOON)
    for place in ("a", "b"):
        store.finish(ended(claim(store, fire(1, place=place)).run))

    assert {run.place for run in store.history("cleanup")} == {"a", "b"}
    assert store.totals("cleanup").counts == {Outcome.SUCCESS: 2}


# Further attempts


def test_a_lost_run_that_recovers_waits_for_its_next_attempt(store):
    run = claim(store, fire(1), recovers=True).run
    store.reap(fire(1).due + timedelta(seconds=31))

    (waiting,) = store.waiting()

    assert (waiting.id, waiting.attempt, waiting.trigger) == (run.id, 2, Trigger.RECOVER)
    assert waiting.is_waiting
    assert store.running() == []


def test_a_lost_run_that_does_not_recover_is_over(store):
    claim(store, fire(1))
    store.reap(fire(1).due + timedelta(seconds=31))

    assert store.waiting() == []


def adopt(store: RunStore, run: Run, minutes: int, owner: str = "heir", **limits) -> Run | None:
    return store.adopt(run, owner=owner, now=NOON + minutes * MINUTE, lease=LEASE, limits=Limits(**limits))


def test_a_further_attempt_is_begun_once(store):
    claim(store, fire(1), recovers=True)
    store.reap(fire(2).due)
    (waiting,) = store.waiting()

    begun = adopt(store, waiting, 2)
    again = adopt(store, waiting, 2, owner="other")

    assert begun is not None
    assert (begun.owner, begun.started, begun.expires) == ("heir", fire(2).due, fire(2).due + LEASE)
    assert again is None
    assert store.running() == [begun]
    assert store.finish(ended(begun)) is True
    assert [(run.outcome, run.attempt) for run in store.history("cleanup")] == [
        (Outcome.SUCCESS, 2), (Outcome.LOST, 1),
    ]  # fmt: skip


def test_a_further_attempt_does_not_overlap_the_task(store):
    claim(store, fire(1), recovers=True)
    running = claim(store, fire(2), late=-50, instances=2).run
    store.renew([running], NOON + 9 * MINUTE)
    store.reap(fire(3).due)
    (waiting,) = store.waiting()

    assert adopt(store, waiting, 3) is None

    store.finish(ended(running))
    assert adopt(store, waiting, 3) is not None
    assert claim(store, fire(4), late=-50).answer is Claim.BUSY


def test_a_lost_run_that_recovers_goes_before_the_next_instant(store):
    claim(store, fire(1), owner="killed", recovers=True)

    next_one = claim(store, fire(2), owner="heir", waits=True, recovers=True)
    (waiting,) = store.waiting()
    begun = adopt(store, waiting, 2)
    store.finish(ended(begun))

    assert next_one.answer is Claim.WAIT
    assert [run.outcome for run in next_one.lost] == [Outcome.LOST]
    assert claim(store, fire(2), owner="heir", recovers=True).answer is Claim.WON


def test_a_call_by_hand_does_not_wait_for_a_recovery(store):
    claim(store, fire(1), owner="killed", recovers=True)
    store.reap(fire(2).due)

    by_hand = claim(store, fire(2, trigger=Trigger.MANUAL, run_id="byhand"), late=1)

    assert by_hand.answer is Claim.WON


def test_what_is_lost_each_time_is_not_tried_for_ever(store):
    claim(store, fire(1), recovers=True)
    attempts = 1
    for minute in range(2, 20):
        store.reap(NOON + minute * MINUTE)
        for waiting in store.waiting():
            adopt(store, waiting, minute)
            attempts += 1

    assert attempts == 3
    assert store.totals("cleanup").counts == {Outcome.LOST: 3}


def test_a_failed_run_can_wait_for_another_attempt(store):
    run = claim(store, fire(1)).run

    store.finish(ended(run, Outcome.FAILED), again_at=NOON + 5 * MINUTE)

    (waiting,) = store.waiting()
    assert (waiting.id, waiting.attempt, waiting.trigger) == (run.id, 2, Trigger.RETRY)
    assert waiting.expires == NOON + 5 * MINUTE
    assert store.reap(NOON + 60 * MINUTE) == []


def test_what_ends_before_it_has_begun_can_wait_to_be_recovered(store):
    run = claim(store, fire(1), recovers=True).run
    missed = replace(run, started=None, finished=fire(1).due, outcome=Outcome.MISSED)

    assert store.finish(missed, again_at=fire(1).due)

    (waiting,) = store.waiting()
    assert (waiting.id, waiting.attempt, waiting.trigger) == (run.id, 2, Trigger.RECOVER)
    assert claim(store, fire(2), recovers=True).answer is Claim.BUSY  # it goes first
    assert store.totals("cleanup").last_finished is None


def test_a_retry_ends_when_the_next_instant_is_claimed(store):
    run = claim(store, fire(1)).run
    store.finish(ended(run, Outcome.FAILED), again_at=NOON + 5 * MINUTE)

    assert claim(store, fire(2)).answer is Claim.WON

    assert store.waiting() == []


# Locks


def test_tasks_that_share_a_lock_exclude_each_other(store):
    store.register(["other", "third"], NOON)
    run = claim(store, fire(1), lock="files").run

    busy = claim(store, fire(1, task="other"), lock="files")
    free = claim(store, fire(1, task="third"), lock="database")
    store.finish(ended(run))

    assert busy.answer is Claim.BUSY
    assert busy.run.reason == "cleanup is running, and has the lock 'files', too"
    assert free.answer is Claim.WON
    assert claim(store, fire(2, task="other"), lock="files").answer is Claim.WON


def test_a_fire_waits_for_a_lock_if_it_is_to_wait(store):
    store.register(["other"], NOON)
    run = claim(store, fire(1), lock="files").run

    assert claim(store, fire(1, task="other"), lock="files", waits=True) == Claimed(answer=Claim.WAIT)

    store.finish(ended(run))
    assert claim(store, fire(1, task="other"), lock="files", waits=True).answer is Claim.WON


def gone() -> str:
    """An owner with the pid of this process, and another start: certainly no more."""
    name, _, place = this_instance().partition(".")
    return f"{name}0.{place}"


@pytest.mark.parametrize(
    ("owner", "late", "reason"),
    [(gone(), 0, "its process has ended"), ("one", 31, NOT_RENEWED)],
    ids=["ended", "not renewed"],
)
@pytest.mark.parametrize("more", [{}, {"waits": True}], ids=["skips", "waits"])
def test_a_lock_is_free_when_whoever_had_it_for_another_task_is_lost(store, owner, late, reason, more):
    store.register(["other", "third"], NOON)
    run = claim(store, fire(1), owner=owner, lock="files").run

    claimed = claim(store, fire(1, task="other"), late=late, lock="files", **more)

    assert (claimed.answer, claimed.run.task) == (Claim.WON, "other")
    for records in (claimed.lost, store.history("cleanup")):
        assert [(one.id, one.outcome, one.reason) for one in records] == [(run.id, Outcome.LOST, reason)]
    assert store.running() == [claimed.run]
    assert claim(store, fire(1, task="third"), late=late, lock="files").answer is Claim.BUSY


def test_a_call_by_hand_has_the_lock_of_a_process_that_has_ended(store):
    store.register(["other"], NOON)
    claim(store, fire(1), owner=gone(), lock="files")

    by_hand = claim(store, fire(1, task="other", trigger=Trigger.MANUAL, run_id="byhand"), lock="files")

    assert by_hand.answer is Claim.WON


def test_what_recovers_waits_when_another_task_has_got_its_lock(store):
    store.register(["other"], NOON)
    run = claim(store, fire(1), owner=gone(), recovers=True, lock="files").run

    other = claim(store, fire(1, task="other"), lock="files")

    (waiting,) = store.waiting()
    assert other.answer is Claim.WON
    assert (waiting.id, waiting.attempt, waiting.trigger) == (run.id, 2, Trigger.RECOVER)
    assert adopt(store, waiting, 1, lock="files") is None
    store.finish(ended(other.run))
    assert adopt(store, waiting, 2, lock="files") is not None


def test_what_nobody_has_taken_from_a_queue_has_its_lock_no_longer_than_it_is_of_use(store):
    store.register(["other", "third"], NOON)
    claim(store, fire(1), owner=QUEUE, lock="files")

    claims = [
        claim(store, fire(1, task=task), late=late, lock="files") for task, late in (("other", 29), ("third", 31))
    ]

    assert [one.answer for one in claims] == [Claim.BUSY, Claim.WON]
    assert [(one.outcome, one.reason) for one in claims[1].lost] == [(Outcome.MISSED, NOT_TAKEN)]


def test_a_further_attempt_waits_for_its_lock(store):
    store.register(["other"], NOON)
    claim(store, fire(1), recovers=True, lock="files")
    store.reap(fire(2).due)
    holder = claim(store, fire(2, task="other"), lock="files").run
    (waiting,) = store.waiting()

    assert adopt(store, waiting, 2, lock="files") is None

    store.finish(ended(holder))
    assert adopt(store, waiting, 2, lock="files") is not None


def test_a_further_attempt_has_the_lock_that_its_task_has_now(store):
    store.register(["other", "third"], NOON)
    claim(store, fire(1), recovers=True, lock="before")
    store.reap(fire(2).due)
    (waiting,) = store.waiting()

    again = adopt(store, waiting, 2, lock="now")
    others = [claim(store, fire(2, task="other"), lock="now"), claim(store, fire(2, task="third"), lock="before")]
    store.finish(ended(again))

    assert again.lock == "now"
    assert [one.answer for one in others] == [Claim.BUSY, Claim.WON]
    assert claim(store, fire(3, task="other"), lock="now").answer is Claim.WON


def test_a_task_that_is_forgotten_has_no_lock_any_more(store):
    store.register(["other"], NOON)
    claim(store, fire(1), lock="files")

    store.purge(["other"])

    assert claim(store, fire(1, task="other"), lock="files").answer is Claim.WON


# Runs that are asked to stop


def test_a_run_can_be_asked_to_stop_by_anybody_and_its_owner_is_told(store):
    run = claim(store, fire(1), owner="one").run

    assert store.ask_to_stop(run.id, "by ada") is True
    assert store.ask_to_stop("unknown", "by ada") is False

    assert store.report("one", {}) == {run.id: "by ada"}
    assert store.report("two", {}) == {}
    assert [one.stop for one in store.running()] == ["by ada"]


def test_the_first_reason_to_stop_stays(store):
    run = claim(store, fire(1)).run
    store.ask_to_stop(run.id, "first")
    store.ask_to_stop(run.id, "second")
    store.renew([run], NOON + 9 * MINUTE)

    assert store.report("one", {}) == {run.id: "first"}


def test_a_run_that_is_over_cannot_be_asked_to_stop(store):
    run = claim(store, fire(1)).run
    store.finish(ended(run))

    assert store.ask_to_stop(run.id, "too late") is False
    assert store.report("one", {}) == {}


def test_a_fire_that_replaces_asks_the_running_one_to_stop_and_waits(store):
    run = claim(store, fire(1)).run

    waiting = claim(store, fire(2), late=-40, waits=True, replaces=True)

    assert waiting == Claimed(answer=Claim.WAIT)
    assert store.report("one", {}) == {run.id: "the next run takes its place"}
    store.finish(ended(run, Outcome.CANCELLED))
    assert claim(store, fire(2), waits=True, replaces=True).answer is Claim.WON


def test_how_far_a_run_has_got_is_kept_with_it(store):
    run = claim(store, fire(1), owner="one").run
    assert store.running()[0].progress is None

    store.report("one", {run.id: Progress(done=31, total=50, text="building pages")})
    store.report("one", {"unknown": Progress(done=1)})
    store.renew([run], NOON + 9 * MINUTE)

    assert store.running()[0].progress == Progress(done=31, total=50, text="building pages")
    store.report("one", {run.id: Progress(done=40.5)})
    assert store.running()[0].progress == Progress(done=40.5)


def test_what_an_endpoint_said_of_its_run_is_in_the_history(store):
    run = claim(store, fire(1)).run

    store.finish(replace(ended(run), result="swept 3 sessions"))

    assert store.history("cleanup")[0].result == "swept 3 sessions"


# Pauses


def test_a_paused_task_is_skipped_with_the_note_and_runs_by_hand(store):
    store.pause("cleanup", Pause(since=NOON, note="feed is down", by="ada"))

    paused = claim(store, fire(1))
    by_hand = claim(store, fire(1, trigger=Trigger.MANUAL, run_id="byhand"), late=1)

    assert paused.answer is Claim.PAUSED
    assert (paused.run.outcome, paused.run.reason) == (Outcome.SKIPPED, "the task is paused: feed is down")
    assert by_hand.answer is Claim.WON
    assert store.pauses() == {"cleanup": Pause(since=NOON, note="feed is down", by="ada")}


def test_a_resumed_task_runs_what_comes_and_nothing_of_what_was(store):
    store.pause("cleanup", Pause(since=NOON))
    claim(store, fire(1))

    assert store.resume("cleanup") is True
    assert store.resume("cleanup") is False

    assert claim(store, fire(1)).answer is Claim.TAKEN
    assert claim(store, fire(2)).answer is Claim.WON


def test_a_pause_ends_by_itself(store):
    store.pause("cleanup", Pause(since=NOON, until=NOON + 3 * MINUTE))

    assert [claim(store, fire(minute)).answer for minute in (1, 2, 3)] == [Claim.PAUSED, Claim.PAUSED, Claim.WON]


def test_a_second_pause_takes_the_place_of_the_first(store):
    store.pause("cleanup", Pause(since=NOON, until=NOON + MINUTE, note="first"))
    store.pause("cleanup", Pause(since=NOON + MINUTE, note="second"))

    assert store.pauses() == {"cleanup": Pause(since=NOON + MINUTE, note="second")}


def test_a_task_can_be_paused_before_it_is_known(store):
    store.pause("other", Pause(since=NOON))
    store.register(["other"], NOON)

    assert claim(store, fire(1, task="other")).answer is Claim.PAUSED


def test_a_pause_holds_at_every_place(store):
    store.register(["cleanup@a"], NOON)
    store.pause("cleanup", Pause(since=NOON))

    assert claim(store, fire(1, place="a")).answer is Claim.PAUSED


def test_a_paused_task_begins_no_further_attempt(store):
    claim(store, fire(1), recovers=True)
    store.reap(fire(2).due)
    store.pause("cleanup", Pause(since=NOON))

    assert adopt(store, store.waiting()[0], 2) is None


# Who is there

ALIVE = timedelta(seconds=30)


def beat(store: RunStore, owner: str, digest: str, seconds: int, **fingerprints: str):
    now = NOON + timedelta(seconds=seconds)
    instance = Instance(owner=owner, started=NOON, seen=now, digest=digest, server="test", version="1")
    return store.beat(instance, fingerprints, ALIVE)


def test_an_instance_that_beats_learns_which_configurations_are_alive_and_since_when(store):
    assert beat(store, "one", "old", 0, cleanup="x") == {"old": NOON}
    assert beat(store, "two", "new", 10, cleanup="y") == {"old": NOON, "new": NOON + timedelta(seconds=10)}
    assert beat(store, "one", "old", 39, cleanup="x") == {"old": NOON, "new": NOON + timedelta(seconds=10)}

    assert beat(store, "one", "old", 41, cleanup="x") == {"old": NOON}
    assert store.fingerprints("new") == {"cleanup": "y"}
    assert store.fingerprints("unknown") == {}


def test_a_configuration_that_comes_back_is_new_again(store):
    beat(store, "one", "old", 0)
    beat(store, "two", "new", 100)
    beat(store, "two", "new", 110)

    assert beat(store, "three", "old", 120) == {
        "old": NOON + timedelta(seconds=120),
        "new": NOON + timedelta(seconds=100),
    }
    assert beat(store, "four", "old", 130)["old"] == NOON + timedelta(seconds=120)


def test_an_instance_says_with_each_beat_how_much_it_has_refused_and_what_the_store_has(store):
    one = Instance(owner="one", started=NOON, seen=NOON, digest="old", server="test", version="1")
    two = replace(one, owner="two", seen=NOON - timedelta(seconds=1), refused=3_000_000_000, store_errors=4_000_000_000)
    for instance in (one, two, replace(one, refused=7, store_errors=9)):
        store.beat(instance, {}, ALIVE)

    assert store.instances() == [replace(one, refused=7, store_errors=9), two]


def test_who_was_not_heard_of_for_days_is_forgotten(store):
    beat(store, "one", "old", 0)

    beat(store, "two", "new", 2 * 86_400)

    assert [one.owner for one in store.instances()] == ["two"]


def test_an_instance_that_leaves_is_not_there(store):
    beat(store, "one", "old", 0)
    beat(store, "two", "new", 5)

    store.leave("two")

    assert beat(store, "one", "old", 10) == {"old": NOON}
    assert [(one.owner, one.seen) for one in store.instances()] == [("one", NOON + timedelta(seconds=10))]


@pytest.mark.parametrize("place", ["web1", "web1:7/5.ab-cd.3"])
def test_a_rare_task_of_a_place_that_lives_runs_though_other_processes_begin_meanwhile(store, place):
    store.register([f"yearly@{place}"], NOON)
    beat(store, place, "old", 300 * 86_400)
    store.register(["yearly@web2"], NOON + timedelta(days=300))

    due = NOON + timedelta(days=365)
    claimed = claim(store, Fire(task="yearly", due=due, place=place))

    assert claimed.answer is Claim.WON


def test_a_place_that_comes_back_goes_on_where_it_was_however_rare_its_task(store):
    first, back = NOON - timedelta(days=700), NOON
    store.register(["yearly@web1"], back, since=first)

    assert store.register(["yearly@web1"], back) == {"yearly@web1": first}


# What the status page needs


def test_the_secret_of_an_application_stays_and_is_hard_to_guess(store):
    assert store.secret() == store.secret()
    assert len(store.secret()) >= 32


def test_a_code_is_spent_once(store):
    soon = (store.now() or NOON) + MINUTE

    assert [store.spend(code, soon) for code in ("one", "one", "two", "one")] == [True, False, True, False]


# Forgetting


def test_a_task_is_known_by_its_places_and_by_its_pause_too(store):
    store.register(["other@a"], NOON)
    store.pause("third", Pause(since=NOON))

    assert store.tasks() == ["cleanup", "other", "third"]
    assert store.purge(["cleanup"]) == ["other", "third"]
    assert store.tasks() == ["cleanup"]
    assert store.pauses() == {}


def test_purging_forgets_tasks_but_those_that_are_kept(store):
    store.register(["other", "other@a"], NOON)
    for task in ("cleanup", "other"):
        store.finish(ended(claim(store, fire(1, task=task)).run))
    store.pause("other", Pause(since=NOON))

    assert store.purge(["cleanup"]) == ["other"]

    assert store.history("other") == []
    assert store.pauses() == {}
    assert claim(store, fire(2, task="other")).answer is Claim.REFUSED
    assert len(store.history("cleanup")) == 1
    assert claim(store, fire(2)).answer is Claim.WON


def test_purging_forgets_the_totals_of_a_task_that_has_places_alone(store):
    store.register(["other@a"], NOON)
    store.finish(ended(claim(store, fire(1, task="other", place="a")).run))
    assert store.totals("other").counts == {Outcome.SUCCESS: 1}

    store.purge(["cleanup"])

    assert store.all_totals() == {}
    assert store.totals("other") == Totals()


def test_of_many_threads_that_claim_the_same_fires_one_wins_each(store):
    minutes, threads = 50, 8
    ready = threading.Barrier(threads)
    wins: list[datetime] = []

    def race(owner: str) -> None:
        ready.wait()
        for minute in range(1, minutes + 1):
            claimed = claim(store, fire(minute), owner=owner, instances=None)
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


# Another attempt by hand


def by_hand(run: Run) -> Fire:
    """The fire of another attempt of a run that has ended."""
    return Fire(task=run.task, due=run.due, trigger=Trigger.MANUAL, run_id=run.id, attempt=run.attempt + 1)


def test_another_attempt_by_hand_is_the_same_run_with_the_next_number(store):
    failed = ended(claim(store, fire(1)).run, Outcome.FAILED)
    store.finish(failed)
    store.finish(ended(claim(store, fire(2)).run))

    again = claim(store, by_hand(failed), late=600).run

    assert (again.id, again.due, again.attempt, again.trigger) == (failed.id, failed.due, 2, Trigger.MANUAL)
    assert store.running() == [again]
    assert store.finish(ended(again))
    assert [(run.id, run.attempt) for run in store.find("cleanup", failed.id)] == [(failed.id, 2), (failed.id, 1)]
    assert claim(store, fire(3)).answer is Claim.WON


def test_another_attempt_by_hand_never_begins_beside_the_one_before_whatever_the_limits(store):
    failed = ended(claim(store, fire(1)).run, Outcome.FAILED)
    store.finish(failed)
    first = claim(store, by_hand(failed), instances=None)

    third = claim(store, by_hand(first.run), owner="two", instances=None)

    assert first.answer is Claim.WON
    assert (third.answer, third.run.outcome, third.run.attempt) == (Claim.BUSY, Outcome.SKIPPED, 3)
    assert store.finish(ended(first.run))


def test_an_attempt_by_hand_that_is_under_way_is_taken(store):
    failed = ended(claim(store, fire(1)).run, Outcome.FAILED)
    store.finish(failed)
    first = claim(store, by_hand(failed), instances=None)

    second = claim(store, by_hand(failed), owner="two", instances=None)

    assert second == Claimed(answer=Claim.TAKEN)
    assert store.running() == [first.run]
    assert store.history("cleanup") == [failed]
    assert store.finish(ended(first.run))


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILED])
def test_an_attempt_by_hand_that_has_ended_is_taken(store, outcome):
    failed = ended(claim(store, fire(1)).run, Outcome.FAILED)
    store.finish(failed)
    first = ended(claim(store, by_hand(failed)).run, outcome)
    store.finish(first)
    following = ended(claim(store, fire(2)).run)
    store.finish(following)

    second = claim(store, by_hand(failed), owner="two", late=600)

    assert second == Claimed(answer=Claim.TAKEN)
    assert store.running() == []
    assert store.history("cleanup") == [following, first, failed]


def test_an_attempt_that_was_made_without_anybodys_hand_is_taken(store):
    failed = ended(claim(store, fire(1)).run, Outcome.FAILED)
    store.finish(failed, again_at=NOON + 2 * MINUTE)
    (waiting,) = store.waiting()
    second = ended(adopt(store, waiting, 2), Outcome.FAILED)

    while_it_runs = claim(store, by_hand(failed), instances=None)
    store.finish(second, again_at=NOON + 9 * MINUTE)
    store.clear("cleanup")
    while_the_third_waits = claim(store, by_hand(failed), instances=None)

    assert while_it_runs == while_the_third_waits == Claimed(answer=Claim.TAKEN)
    assert [run.attempt for run in store.waiting()] == [3]
    assert claim(store, by_hand(second)).run.attempt == 3


def test_an_attempt_of_which_nobody_is_heard_any_more_is_followed_by_the_next(store):
    failed = ended(claim(store, fire(1)).run, Outcome.FAILED)
    store.finish(failed)
    gone = claim(store, by_hand(failed)).run

    same = claim(store, by_hand(failed), owner="two", late=600)
    following = claim(store, by_hand(gone), owner="two", late=600)

    assert same.answer is Claim.TAKEN
    assert following.run.attempt == 3
    assert [run.outcome for run in store.find("cleanup", failed.id)] == [Outcome.LOST, Outcome.FAILED]


@pytest.mark.parametrize("trigger", [Trigger.RETRY, Trigger.RECOVER])
def test_of_two_places_that_try_a_run_again_one_does(store, trigger):
    store.register([fire(1, place=place).track for place in ("a", "b")], NOON)
    first = claim(store, fire(1, place="a"), recovers=True).run
    if trigger is Trigger.RETRY:
        store.finish(ended(first, Outcome.FAILED), again_at=NOON + 5 * MINUTE)
    else:
        store.reap(first.expires + MINUTE)
    assert [run.trigger for run in store.waiting()] == [trigger]

    answers = [claim(store, replace(by_hand(first), place=place)) for place in ("b", "a")]
    again = answers[0].run
    beside = [claim(store, fire(2, place=place), late=-40).answer for place in ("a", "b")]

    assert [one.answer for one in answers] == [Claim.WON, Claim.TAKEN]
    assert again.place == "b"
    assert store.waiting() == []
    assert again in store.running()
    assert beside == [Claim.WON, Claim.BUSY]
    assert store.finish(ended(again))


def test_of_all_that_try_a_run_again_at_once_one_does(store):
    failed = ended(claim(store, fire(1)).run, Outcome.FAILED)
    store.finish(failed)
    answers: list[Claimed] = []
    begin = threading.Barrier(4)

    def retry(owner: str) -> None:
        begin.wait()
        answers.append(claim(store, by_hand(failed), owner=owner, instances=None))
        if answers[-1].run:
            store.finish(ended(answers[-1].run))

    threads = [threading.Thread(target=retry, args=(f"host:{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(one.answer.value for one in answers) == ["taken", "taken", "taken", "won"]
    assert [run.attempt for run in store.find("cleanup", failed.id)] == [2, 1]


def test_another_attempt_by_hand_that_cannot_be_made_now_leaves_its_number_to_the_one_that_waits(store):
    store.register(["other"], NOON)
    failed = ended(claim(store, fire(1), lock="files").run, Outcome.FAILED)
    store.finish(failed, again_at=NOON + 2 * MINUTE)
    holder = claim(store, fire(1, task="other"), lock="files").run

    busy = claim(store, by_hand(failed), lock="files")
    missed = dismiss(store, by_hand(failed), Outcome.MISSED)
    store.finish(ended(holder))
    (waiting,) = store.waiting()
    store.finish(ended(adopt(store, waiting, 2, lock="files")))

    assert (busy.answer, busy.run.outcome, busy.run.attempt) == (Claim.BUSY, Outcome.SKIPPED, 2)
    assert busy.run.reason == "other is running, and has the lock 'files', too"
    assert (missed.answer, missed.run.outcome) == (Claim.STALE, Outcome.MISSED)
    assert [(run.attempt, run.outcome) for run in store.find("cleanup", failed.id)] == [
        (2, Outcome.SUCCESS), (1, Outcome.FAILED),
    ]  # fmt: skip
    assert store.totals("cleanup").counts == {Outcome.SUCCESS: 1, Outcome.FAILED: 1}


def test_another_attempt_by_hand_takes_the_place_of_the_one_that_waits(store):
    failed = ended(claim(store, fire(1)).run, Outcome.FAILED)
    store.finish(failed, again_at=NOON + 5 * MINUTE)

    again = claim(store, by_hand(failed)).run

    assert store.waiting() == []
    assert store.running() == [again]
    assert store.finish(ended(again))
    assert store.waiting() == store.running() == []


# What the status page reads


def told(run: Run | None, **more) -> Run:
    """The run, ended, with all that it may leave behind."""
    said = {"request": "GET /pulse/cleanup", "headers": "Content-Type: text/plain", "log": "swept\u20ac".encode()}
    return replace(ended(run), errors=b"warned", **{**said, **more})


def test_what_a_run_leaves_behind_comes_back_whole(store):
    run = told(claim(store, fire(1)).run)
    store.finish(run)

    assert store.history("cleanup") == [run]
    assert store.find("cleanup", run.id) == [run]


def test_texts_that_no_encoding_has_break_nothing(store):
    run, odd = claim(store, fire(1)).run, "odd \udcff"

    assert store.ask_to_stop(run.id, odd)
    assert store.finish(replace(ended(run, Outcome.FAILED), reason=odd, result=odd, request=odd, headers=odd))
    store.pause("cleanup", Pause(since=NOON, note=odd))
    store.keep_press(Press(at=NOON, by=odd, address="here", action="pause", task="cleanup"))

    assert store.history("cleanup")[0].reason.startswith("odd ")
    assert store.pauses()["cleanup"].note.startswith("odd ")
    assert store.presses()[0].by.startswith("odd ")
    assert store.find("cleanup", odd) == []


def test_a_run_that_is_not_kept_is_not_found(store):
    store.finish(told(claim(store, fire(1)).run))

    assert store.find("cleanup", fire(2).run_id) == []
    assert store.find("nobody", fire(1).run_id) == []
    assert store.find("cleanup", '"') == []


def test_every_attempt_of_a_run_is_found_the_last_one_first(store):
    run = claim(store, fire(1), recovers=True).run
    store.reap(run.expires + MINUTE)
    (waiting,) = store.waiting()
    terms = {"owner": "two", "now": NOON + 3 * MINUTE, "lease": LEASE, "limits": Limits()}
    store.finish(told(store.adopt(waiting, **terms)))

    assert [one.attempt for one in store.find("cleanup", run.id)] == [2, 1]


def test_the_newest_records_of_all_tasks_come_at_once_without_what_they_wrote(store):
    store.register(["other", "idle"], NOON)
    store.finish(told(claim(store, fire(1)).run))
    newest = told(claim(store, fire(2)).run)
    store.finish(newest)
    skipped = dismiss(store, fire(1, "other")).run

    assert store.newest() == {"cleanup": newest.without_output(), "other": skipped}


def test_many_histories_come_at_once_without_what_their_runs_wrote(store):
    store.register(["other"], NOON)
    runs = []
    for minute in (1, 2, 3):
        runs.append(told(claim(store, fire(minute)).run, reason='"body":"x"'))
        store.finish(runs[-1])
    other = told(claim(store, fire(1, "other")).run)
    store.finish(other)

    found = store.brief(["cleanup", "other", "nobody"], 2)

    assert found == {
        "cleanup": [runs[2].without_output(), runs[1].without_output()],
        "other": [other.without_output()],
        "nobody": [],
    }
    assert len(store.brief(["cleanup"], 1000)["cleanup"]) == 3


def test_the_histories_of_very_many_tasks_come_too(store):
    names = [f"task-{number}" for number in range(1100)]
    store.register(names, NOON)
    last = ended(claim(store, fire(1, names[-1])).run)
    store.finish(last)

    assert store.brief(names, 1)[names[-1]] == [last.without_output()]
    assert store.newest() == {names[-1]: last.without_output()}
    assert list(store.all_totals()) == [names[-1]]


def test_a_brief_history_is_as_long_as_the_history_may_be(store):
    for minute in range(1, HISTORY + 4):
        store.finish(ended(claim(store, fire(minute)).run))

    assert len(store.brief(["cleanup"], 1000)["cleanup"]) == HISTORY


def test_the_totals_of_all_tasks_are_those_of_each(store):
    store.register(["other"], NOON)
    store.finish(ended(claim(store, fire(1)).run))
    store.finish(ended(claim(store, fire(2)).run, Outcome.FAILED))
    dismiss(store, fire(1, "other"))

    totals = store.all_totals()

    assert totals == {"cleanup": store.totals("cleanup"), "other": store.totals("other")}
    assert totals["cleanup"].counts == {Outcome.SUCCESS: 1, Outcome.FAILED: 1}
    assert totals["other"].last_finished is None


def test_the_runs_of_a_day_are_counted_and_those_of_another_day_are_not(store):
    store.register(["other"], NOON)
    store.finish(ended(claim(store, fire(1)).run))
    store.finish(ended(claim(store, fire(1, "other")).run, Outcome.FAILED))
    dismiss(store, fire(2))

    assert store.ran(NOON.date()) == 2
    assert store.ran((NOON + timedelta(days=1)).date()) == 0

    store.finish(ended(claim(store, fire(24 * 60)).run))

    assert store.ran((NOON + timedelta(days=1)).date()) == 1


def test_more_runs_of_a_day_are_counted_than_a_history_keeps(store):
    for minute in range(1, HISTORY + 4):
        store.finish(ended(claim(store, fire(minute)).run))

    assert store.ran(NOON.date()) == HISTORY + 3


def test_a_history_that_is_cleared_is_gone_and_its_totals_stay(store):
    store.register(["other"], NOON)
    store.finish(ended(claim(store, fire(1)).run))
    store.finish(ended(claim(store, fire(1, "other")).run))
    dismiss(store, fire(2))

    assert store.clear("cleanup") == 2
    assert store.clear("cleanup") == 0
    assert store.history("cleanup") == []
    assert len(store.history("other")) == 1
    assert store.totals("cleanup").counts == {Outcome.SUCCESS: 1, Outcome.SKIPPED: 1}
    assert store.totals("cleanup").last_success == fire(1).due + timedelta(seconds=1)
    assert (store.totals("cleanup").timed, store.totals("cleanup").seconds) == (1, 1.0)


def test_of_a_long_history_that_is_cleared_as_many_records_are_counted_as_were_to_be_seen(store):
    for minutes in range(1, 3 * HISTORY):
        store.finish(ended(claim(store, fire(minutes)).run))

    assert len(store.history("cleanup")) == HISTORY
    assert store.clear("cleanup") == HISTORY


def test_a_task_whose_history_was_cleared_goes_on_where_it_was(store):
    under_way = claim(store, fire(1)).run
    dismiss(store, fire(2))
    store.clear("cleanup")

    assert claim(store, fire(2)).answer is Claim.TAKEN
    assert store.finish(ended(under_way))
    dismiss(store, fire(3))
    assert [run.due for run in store.history("cleanup")] == [fire(3).due, fire(1).due]


def press(number: int) -> Press:
    return Press(
        at=NOON + number * MINUTE, by="m\u00e4ra", address="192.0.2.1", action="pause", task="cleanup",
        details=f'the feed is "down" \U0001f600 {number}',
    )  # fmt: skip


def test_what_people_did_is_kept_the_newest_first(store):
    for number in range(3):
        store.keep_press(press(number))

    assert store.presses() == [press(2), press(1), press(0)]
    assert store.presses(1) == [press(2)]


def test_what_people_did_is_kept_when_the_task_is_forgotten(store):
    store.keep_press(press(1))

    store.purge([])

    assert store.presses() == [press(1)]


def test_of_very_many_presses_the_oldest_are_forgotten(store, monkeypatch):
    for module in ("memory", "sql", "redis"):
        monkeypatch.setattr(f"pulse.runstores.{module}.PRESSES", 3)
    if isinstance(store, MemoryRunStore):
        store.after_fork()  # it begins anew, with as much room

    for number in range(5):
        store.keep_press(press(number))

    assert store.presses(100) == [press(4), press(3), press(2)]


# What is claimed for a queue


def reserve(store: RunStore, planned: Fire, **limits) -> Run:
    run = claim(store, planned, owner=QUEUE, **limits).run
    assert run.is_reserved
    return run


def test_what_is_claimed_for_a_queue_is_taken_over_once(store):
    run = reserve(store, fire(1), recovers=True, lock="files")

    taken = [adopt(store, run, 2, owner=owner, instances=None) for owner in ("one", "other")]

    assert taken == [replace(run, owner="one", started=fire(2).due, expires=fire(2).due + LEASE), None]
    assert store.running() == [taken[0]]
    assert store.finish(ended(taken[0])) is True


def test_what_is_claimed_for_a_queue_is_not_claimed_for_it_again(store):
    run = reserve(store, fire(1))

    assert adopt(store, run, 1, owner=QUEUE, instances=None) is None
    assert store.running() == [run]


def test_a_further_attempt_is_claimed_for_a_queue_and_taken_over(store):
    claim(store, fire(1), recovers=True)
    store.reap(fire(2).due)
    (waiting,) = store.waiting()

    claimed = [adopt(store, waiting, 2, owner=QUEUE) for _ in range(2)]
    taken = adopt(store, waiting, 2, instances=None)

    assert [run and run.is_reserved for run in claimed] == [True, None]
    assert (taken.owner, taken.attempt) == ("heir", 2)


def test_what_waits_in_a_queue_counts_as_under_way(store):
    reserve(store, fire(1))

    assert claim(store, fire(2), late=-50).answer is Claim.BUSY


def test_what_nobody_takes_from_a_queue_is_missed(store):
    run = reserve(store, fire(1))

    lost = store.reap(fire(1).due + timedelta(seconds=31))

    assert lost == store.history("cleanup")
    assert [(one.id, one.outcome, one.started, one.reason) for one in lost] == [
        (run.id, Outcome.MISSED, None, NOT_TAKEN),
    ]  # fmt: skip
    assert store.totals("cleanup").last_finished is None
    assert store.running() == store.waiting() == []
    assert adopt(store, run, 2, instances=None) is None


def test_what_nobody_takes_from_a_queue_is_run_again_if_it_recovers(store):
    run = reserve(store, fire(1), recovers=True)

    following = claim(store, fire(2), recovers=True, waits=True)

    assert [one.outcome for one in following.lost] == [Outcome.MISSED]
    (waiting,) = store.waiting()
    assert (waiting.id, waiting.attempt, waiting.trigger) == (run.id, 2, Trigger.RECOVER)


def test_a_pause_leaves_what_waits_in_a_queue_to_whoever_takes_it(store):
    run = reserve(store, fire(1))
    store.pause("cleanup", Pause(since=NOON))

    assert adopt(store, run, 1, instances=None) is not None


def test_what_waits_in_a_queue_can_be_asked_to_stop(store):
    run = reserve(store, fire(1))

    assert store.ask_to_stop(run.id, "enough") is True

    assert [one.stop for one in store.running()] == ["enough"]
    assert adopt(store, run, 1, instances=None).stop == "enough"


# Several at once


def test_claims_in_one_go_are_judged_as_each_alone(store):
    store.register(["paused", "busy", "taken", "late", "cleanup"], NOON)
    store.pause("paused", Pause(since=NOON, note="for now"))
    running = claim(store, fire(1, task="busy"), late=50).run
    store.finish(ended(claim(store, fire(2, task="taken")).run))

    answers = claim_all(
        store,
        fire(2),
        fire(2, task="paused"),
        fire(2, task="busy"),
        fire(2, task="taken"),
        fire(2, task="late", latest=fire(2).due + timedelta(seconds=1)),
        fire(2, task="unknown"),
        late=5,
    )

    assert [one.answer for one in answers] == [
        Claim.WON, Claim.PAUSED, Claim.BUSY, Claim.TAKEN, Claim.STALE, Claim.REFUSED,
    ]  # fmt: skip
    assert answers[0].run.task == "cleanup"
    assert answers[0].missed.due == fire(1).due
    assert store.history("cleanup") == [answers[0].missed]
    assert {run.task for run in store.running()} == {"cleanup", running.task}
    assert [answers[number].run for number in (1, 2, 4, 5)] == [
        store.history(task)[0] for task in ("paused", "busy", "late", "unknown")
    ]


def test_what_is_claimed_in_one_go_is_finished_in_one_go(store):
    store.register(["first", "second", "third"], NOON)
    won = [one.run for one in claim_all(store, *(fire(1, task=task) for task in ("first", "second", "third")))]
    store.finish(ended(won[1]))

    answers = store.finish_all([ended(won[0]), ended(won[1], Outcome.FAILED), ended(won[2], Outcome.FAILED)])

    assert answers == [True, False, True]
    assert [store.history(task)[0].outcome for task in ("first", "second", "third")] == [
        Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILED,
    ]  # fmt: skip
    assert store.running() == []
    assert store.totals("third").counts == {Outcome.FAILED: 1}


def test_of_all_that_claim_the_same_in_one_go_one_wins_each(store):
    tasks = [f"task{number}" for number in range(20)]
    store.register(tasks, NOON)
    answers: dict[str, list[Claimed]] = {}

    def ask(owner: str) -> None:
        order = tasks if owner == "one" else tasks[::-1]
        answers[owner] = claim_all(store, *(fire(1, task=task) for task in order), owner=owner)

    threads = [threading.Thread(target=ask, args=(owner,)) for owner in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    won = [one.run.task for claimed in answers.values() for one in claimed if one.answer is Claim.WON]
    assert sorted(won) == sorted(tasks)
    assert {run.task: run.owner for run in store.running()}.keys() == set(tasks)


def test_more_than_one_statement_takes_is_claimed_and_finished_in_one_go(store):
    tasks = [f"task{number}" for number in range(70)]
    store.register(tasks, NOON)

    won = [one.run for one in claim_all(store, *(fire(1, task=task) for task in tasks))]

    assert [run.task for run in won] == tasks
    assert {run.id: run for run in store.running()} == {run.id: run for run in won}
    outcomes = [Outcome.SUCCESS, Outcome.FAILED, Outcome.TIMEOUT]
    records = [ended(run, outcomes[number % 3]) for number, run in enumerate(won)]
    assert store.finish_all(records) == [True] * 70
    assert [store.history(run.task) for run in records] == [[run] for run in records]
    assert [store.totals(run.task).counts for run in records] == [{run.outcome: 1} for run in records]
    assert {one.answer for one in claim_all(store, *(fire(1, task=task) for task in tasks))} == {Claim.TAKEN}
    assert store.running() == []


def test_who_finishes_an_attempt_in_one_go_leaves_the_one_behind_it_and_other_runs_of_the_task(store):
    store.register(["first", "second"], NOON)
    first, second = (one.run for one in claim_all(store, fire(1, task="first"), fire(1, task="second")))
    beside = claim(store, Fire(task="second", due=fire(1).due + SECOND), instances=None).run
    store.finish(ended(first, Outcome.FAILED), again_at=fire(1).due)
    again = store.waiting()

    assert store.finish_all([ended(first), ended(second)]) == [False, True]

    assert store.waiting() == again
    assert store.running() == [beside]


def test_runs_of_one_task_are_finished_in_one_go_in_their_order(store):
    dues = [fire(1).due + number * SECOND for number in range(3)]
    runs = [claim(store, Fire(task="cleanup", due=due), instances=None).run for due in dues]

    assert store.finish_all([ended(run) for run in runs]) == [True] * 3

    assert [run.due for run in store.history("cleanup")] == dues[::-1]
    assert store.totals("cleanup").counts == {Outcome.SUCCESS: 3}


def test_what_a_place_has_claimed_and_finished_in_one_go_it_does_not_get_again(store):
    store.register(["cleanup@here", "cleanup@there"], NOON)
    here = claim_all(store, fire(1, place="here"))[0].run

    assert store.finish_all([ended(here)]) == [True]

    assert claim_all(store, fire(1, place="here"))[0].answer is Claim.TAKEN
    assert claim_all(store, fire(1, place="there"))[0].answer is Claim.WON


def test_a_paused_task_is_not_run_in_one_go_and_its_pause_says_why(store):
    store.register(["other"], NOON)
    store.pause("cleanup", Pause(since=NOON, note="for now"))

    paused, won = claim_all(store, fire(1), fire(1, task="other"))

    assert (paused.answer, paused.run.outcome, won.answer) == (Claim.PAUSED, Outcome.SKIPPED, Claim.WON)
    assert "for now" in paused.run.reason


def test_a_call_by_hand_in_one_go_stands_beside_the_schedule(store):
    store.register(["other"], NOON)

    won = claim_all(store, fire(1, trigger=Trigger.MANUAL, run_id="by-hand"), fire(1, task="other"))

    assert {run.id for run in store.running()} == {one.run.id for one in won} >= {"by-hand"}
    assert claim(store, fire(1), instances=None).answer is Claim.WON


def test_nothing_asked_for_in_one_go_is_no_error(store):
    assert store.claim_all([], owner="one", now=NOON, lease=LEASE) == []
    assert store.finish_all([]) == []


def test_a_store_is_shown_by_its_address_without_what_is_secret_in_it():
    redis = RedisRunStore("redis://user:hunter2@there:1/0", name="x")
    postgres = PostgresRunStore("postgresql://user:hunter2@there:2/pulse", name="x")

    assert repr(redis) == "<RedisRunStore redis://***@there:1/0>"
    assert repr(postgres) == "<PostgresRunStore postgresql://there:2/pulse>"
