from datetime import UTC, datetime, timedelta

import pytest

from pulse.model import Outcome, Run, Task, Trigger
from pulse.schedule import delay_of, schedule_of
from pulse.standing import last_begun
from pulse.status.overdue import MARGIN, last_expected, overdue_since

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LONG_AGO = NOON - timedelta(days=9)


def overdue(task, now, *records, under_way=(), known_since=LONG_AGO):
    return overdue_since(task, schedule_of(task), now, records=records, under_way=under_way, known_since=known_since)


def record(due, outcome=Outcome.SUCCESS, **more):
    return Run(id="r", task="t", due=due, started=due, finished=due, outcome=outcome, **more)


EVERY_10 = Task(name="t", interval="10m")


def test_without_a_grace_an_instant_has_until_the_next_one():
    assert overdue(EVERY_10, NOON + MARGIN - MINUTE / 60, record(NOON - 20 * MINUTE)) is None
    assert overdue(EVERY_10, NOON + MARGIN, record(NOON - 20 * MINUTE)) == NOON - 10 * MINUTE


def test_a_grace_begins_at_the_instant():
    task = Task(name="t", interval="10m", grace="2m")

    assert overdue(task, NOON + 2 * MINUTE + MARGIN - MINUTE / 60, record(NOON - 10 * MINUTE)) is None
    assert overdue(task, NOON + 2 * MINUTE + MARGIN, record(NOON - 10 * MINUTE)) == NOON


def test_a_grace_may_be_longer_than_the_interval():
    task = Task(name="t", interval="10m", grace="1h")

    assert overdue(task, NOON + 2 * MINUTE, record(NOON - 60 * MINUTE)) is None
    assert overdue(task, NOON + 2 * MINUTE, record(NOON - 70 * MINUTE)) == NOON - 60 * MINUTE


def test_without_any_grace_nothing_is_ever_overdue():
    assert overdue(Task(name="t", interval="10m", grace="none"), NOON) is None


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.SKIPPED, Outcome.CANCELLED])
def test_a_success_and_what_was_left_out_on_purpose_answer_for_an_instant(outcome):
    assert overdue(EVERY_10, NOON + MINUTE, record(NOON - 10 * MINUTE, outcome)) is None


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMEOUT, Outcome.LOST, Outcome.MISSED, Outcome.ABANDONED])
def test_nothing_else_does(outcome):
    assert overdue(EVERY_10, NOON + MINUTE, record(NOON - 10 * MINUTE, outcome)) == NOON - 10 * MINUTE


def test_a_later_success_answers_whatever_its_trigger():
    by_hand = record(NOON - 3 * MINUTE, trigger=Trigger.MANUAL)

    assert overdue(EVERY_10, NOON + MINUTE, by_hand, record(NOON - 10 * MINUTE, Outcome.FAILED)) is None


def test_what_is_under_way_is_not_overdue():
    running = Run(id="r", task="t", due=NOON - 10 * MINUTE, started=NOON - 10 * MINUTE)

    assert overdue(EVERY_10, NOON + MINUTE, record(NOON - 30 * MINUTE), under_way=[running]) is None


def test_a_task_without_records_is_overdue_only_for_what_was_due_since_somebody_rings():
    assert overdue(EVERY_10, NOON + MINUTE, known_since=NOON - 5 * MINUTE) is None
    assert overdue(EVERY_10, NOON + MINUTE, known_since=NOON - 15 * MINUTE) == NOON - 10 * MINUTE
    assert overdue(EVERY_10, NOON + MINUTE, known_since=None) is None


def test_the_first_runs_of_a_task_are_no_witness_of_what_was_due_before_them():
    by_hand = record(NOON - 3 * MINUTE, Outcome.FAILED, trigger=Trigger.MANUAL)
    first = record(NOON, Outcome.FAILED)

    assert overdue(EVERY_10, NOON + MINUTE, by_hand, known_since=NOON - 5 * MINUTE) is None
    assert overdue(EVERY_10, NOON + MINUTE, first, known_since=NOON - 5 * MINUTE) is None
    assert overdue(EVERY_10, NOON + 11 * MINUTE, first, known_since=NOON - 5 * MINUTE) == NOON


def test_a_restart_hides_nothing_of_a_task_that_has_failed_for_longer():
    task = Task(name="t", interval="1m", grace="1h")
    failed = [record(NOON - minute * MINUTE, Outcome.FAILED) for minute in range(10)]
    found = overdue_since(
        task, schedule_of(task), NOON + MINUTE / 2, records=failed, is_trimmed=True, known_since=NOON - 5 * MINUTE
    )

    assert found == NOON - 60 * MINUTE


@pytest.mark.parametrize("task", [Task(name="t", cron="@manually"), Task(name="t", at="2028-01-01")])
def test_what_is_not_due_is_not_overdue(task):
    assert overdue(task, NOON) is None


def test_an_instant_that_is_the_only_one_is_overdue_by_its_grace_alone():
    once = Task(name="t", at="2027-01-01T11:00")

    assert overdue(once, NOON) is None
    assert overdue(Task(name="t", at="2027-01-01T11:00", grace="30m"), NOON) == NOON - 60 * MINUTE


def test_a_jitter_moves_the_start_and_the_grace_with_it():
    task = Task(name="t", interval="10m", jitter="9m", grace="1s")
    schedule = schedule_of(task)
    start = NOON + delay_of(task, NOON, NOON + 10 * MINUTE)
    just_before = start - timedelta(microseconds=1)

    assert start > NOON
    assert last_begun(task, schedule, just_before) == NOON - 10 * MINUTE
    assert last_begun(task, schedule, start) == NOON
    assert last_expected(task, schedule, just_before + timedelta(seconds=1)) == NOON - 10 * MINUTE
    assert last_expected(task, schedule, start + timedelta(seconds=1)) == NOON
