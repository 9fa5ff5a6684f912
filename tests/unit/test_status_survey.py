from datetime import UTC, datetime, timedelta

import pytest

from pulse.model import Config, Instance, Outcome, Pause, Run, Task, Trigger
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import schedule_of
from pulse.standing import State
from pulse.status.survey import Survey
from pulse.testing import ManualClock

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class CountingStore(MemoryRunStore):
    """Notes about which tasks it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def history(self, task, limit=None):
        self.asked.append(task)
        return super().history(task, limit)


@pytest.fixture
def clock():
    return ManualClock(NOON)


@pytest.fixture
def store():
    return CountingStore()


def survey_of(store, clock, **tasks):
    tasks = {name: Task(name=name, **options) for name, options in tasks.items()}
    config = Config(tasks=tasks)
    return Survey(config, {name: schedule_of(task) for name, task in tasks.items()}, store, clock), config


def looked(survey):
    moment = survey.moment()
    survey.refresh(moment, 60)
    return moment


def state(survey, config, name="t"):
    return survey.state(config.tasks[name], looked(survey))


def note(store, name="t", due=NOON, outcome=Outcome.SUCCESS, **more):
    started = None if outcome in (Outcome.MISSED, Outcome.SKIPPED) else due
    run = Run(id=f"{name}{due}", task=name, due=due, started=started, finished=due, outcome=outcome, **more)
    store._append(run)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], State.NEW),
        ([Outcome.SUCCESS], State.OK),
        ([Outcome.FAILED], State.FAILING),
        ([Outcome.TIMEOUT], State.FAILING),
        ([Outcome.ABANDONED], State.FAILING),
        ([Outcome.LOST], State.LOST),
        ([Outcome.MISSED], State.LATE),
        ([Outcome.FAILED, Outcome.SUCCESS], State.OK),
        ([Outcome.FAILED, Outcome.SKIPPED], State.FAILING),
        ([Outcome.FAILED, Outcome.CANCELLED], State.FAILING),
        ([Outcome.SUCCESS, Outcome.SKIPPED], State.OK),
    ],
)
def test_the_records_say_how_a_task_is_doing(store, clock, outcomes, expected):
    survey, config = survey_of(store, clock, t={"interval": "1h"})
    for place, outcome in enumerate(outcomes):
        note(store, due=NOON - (len(outcomes) - 1 - place) * timedelta(hours=1), outcome=outcome)

    assert state(survey, config) is expected


def test_a_task_that_nobody_ran_is_late_at_once(store, clock):
    survey, config = survey_of(store, clock, t={"interval": "1h"})
    note(store, due=NOON - timedelta(hours=1))

    assert state(survey, config) is State.OK
    clock.advance(10)
    assert state(survey, config) is State.LATE


def test_a_run_by_hand_does_not_hide_that_a_task_is_late(store, clock):
    survey, config = survey_of(store, clock, t={"interval": "1h"})
    note(store, due=NOON - timedelta(hours=1))
    note(store, due=NOON + 5 * MINUTE, trigger=Trigger.MANUAL)
    clock.advance(600)

    assert state(survey, config) is State.LATE


def test_disabled_paused_and_running_are_plain_to_see_before_anything_was_read(store, clock):
    survey, config = survey_of(
        store, clock, off={"enabled": False}, held={"interval": "1h"}, t={"interval": "1h"}, other={"interval": "1h"}
    )
    store.pause("held", Pause(since=NOON))
    store._hold(Run(id="r", task="t", due=NOON, started=NOON, expires=NOON + MINUTE))
    moment = survey.moment()

    states = {name: survey.state(task, moment) for name, task in config.tasks.items()}

    assert states == {"off": State.DISABLED, "held": State.PAUSED, "t": State.RUNNING, "other": None}


def test_a_pause_that_has_ended_by_itself_is_none(store, clock):
    survey, config = survey_of(store, clock, t={"interval": "1h"})
    store.pause("t", Pause(since=NOON, until=NOON + MINUTE))

    assert state(survey, config) is State.PAUSED
    clock.advance(60)
    assert state(survey, config) is not State.PAUSED


def test_a_task_is_not_looked_at_again_before_it_was_due(store, clock):
    survey, _ = survey_of(store, clock, seldom={"interval": "1h"}, often={"interval": "10s"})
    note(store, "seldom")
    note(store, "often")
    looked(survey)
    store.asked.clear()
    clock.advance(10)
    note(store, "often", due=clock.now())

    looked(survey)
    looked(survey)

    assert store.asked == ["often"]


def test_every_task_is_looked_at_once_a_minute_since_somebody_may_have_run_it_by_hand(store, clock):
    survey, config = survey_of(store, clock, t={"interval": "1h"})
    note(store)
    assert state(survey, config) is State.OK
    note(store, due=NOON + 5 * MINUTE / 60, outcome=Outcome.FAILED, trigger=Trigger.MANUAL)
    clock.advance(60)

    assert state(survey, config) is State.FAILING


def test_a_task_whose_run_has_ended_is_looked_at_at_once(store, clock):
    survey, config = survey_of(store, clock, t={"interval": "1h"})
    run = Run(id="r", task="t", due=NOON, started=NOON, expires=NOON + MINUTE)
    store._hold(run)
    assert state(survey, config) is State.RUNNING
    store._release(run)
    note(store, outcome=Outcome.FAILED)

    assert state(survey, config) is State.FAILING


def test_what_takes_too_long_is_gone_on_with_by_the_next_look(store, clock):
    survey, _ = survey_of(store, clock, **{f"t{number}": {"interval": "1h"} for number in range(1100)})
    looked(survey)
    clock.advance(3600)
    store.asked.clear()

    counts = []
    for _ in range(3):
        survey.refresh(survey.moment(), 0)
        counts.append(len(set(store.asked)))

    assert counts == [500, 1000, 1100]


def test_what_the_newest_record_tells_is_known_at_once_and_the_rest_with_the_next_looks(store, clock):
    survey, config = survey_of(store, clock, **{f"t{number}": {"interval": "1h"} for number in range(1100)})
    for name in config.tasks:
        note(store, name=name, outcome=Outcome.FAILED if name < "t6" else Outcome.SUCCESS)
    failed = sum(name < "t6" for name in config.tasks)

    counts = []
    for _ in range(3):
        survey.refresh(survey.moment(), 0)
        counts.append(survey.unread)

    assert 500 < failed < 1000
    assert counts == [failed, failed - 500, 0]
    assert survey.state(config.tasks["t1"], survey.moment()) is State.FAILING
    assert survey.state(config.tasks["t9"], survey.moment()) is State.OK


def test_a_task_whose_history_was_cleared_is_not_overdue_for_what_it_did(store, clock):
    survey, config = survey_of(store, clock, t={"interval": "1h", "grace": "5m"})
    clock.advance(600)
    one = Instance(owner="web1:1", started=NOON - timedelta(days=1), seen=clock.now(), digest=survey.digest)
    store.beat(one, {}, MINUTE)
    note(store, due=NOON)
    store.clear("t")

    assert state(survey, config) is State.NEW


def test_looks_do_not_pile_up(store, clock):
    survey, _ = survey_of(store, clock, t={"interval": "1s"})
    for _ in range(50):
        run = Run(id="r", task="t", due=clock.now(), started=clock.now(), expires=clock.now() + MINUTE)
        store._hold(run)
        looked(survey)
        store._release(run)
        clock.advance(1)
        note(store, due=clock.now())
        looked(survey)

    assert len(survey._looks) <= 3


def test_bodies_are_not_kept(store, clock):
    survey, _ = survey_of(store, clock, t={"interval": "1h"})
    note(store, body=b"x" * 4096, errors=b"y" * 4096)

    looked(survey)

    assert [(run.body, run.errors) for run in survey.records("t")] == [(b"", b"")]


def test_an_instance_counts_as_alive_for_one_lease(store, clock):
    survey, _ = survey_of(store, clock, t={"interval": "1h"})
    store.beat(Instance(owner="web1:1", started=NOON, seen=NOON, digest="d"), {}, MINUTE)

    assert len(survey.moment().alive) == 1
    clock.advance(31)
    moment = survey.moment()
    assert (len(moment.alive), len(moment.gone)) == (0, 1)


def test_a_task_that_is_new_is_not_overdue_by_what_was_due_before_its_configuration_rang(store, clock):
    survey, config = survey_of(store, clock, t={"interval": "10m"})
    task = config.tasks["t"]
    old = Instance(owner="web1:1", started=NOON - timedelta(days=1), seen=NOON, digest="another")
    store.beat(old, {}, MINUTE)
    mine = Instance(owner="web1:2", started=NOON, seen=NOON, digest=survey.digest)
    store.beat(mine, {}, MINUTE)

    assert survey.overdue(task, looked(survey)) is None
    clock.advance(21 * 60)
    for one in (old, mine):
        store.beat(Instance(owner=one.owner, started=one.started, seen=clock.now(), digest=one.digest), {}, MINUTE)
    assert survey.overdue(task, looked(survey)) == NOON + 10 * MINUTE


def test_a_paused_and_a_disabled_task_are_never_overdue(store, clock):
    survey, config = survey_of(store, clock, off={"interval": "1m", "enabled": False}, held={"interval": "1m"})
    note(store, "off", due=NOON - timedelta(days=1))
    note(store, "held", due=NOON - timedelta(days=1))

    assert survey.overdue(config.tasks["held"], looked(survey)) is not None
    store.pause("held", Pause(since=NOON))
    moment = looked(survey)
    assert [survey.overdue(task, moment) for task in config.tasks.values()] == [None, None]


def test_while_another_thread_looks_what_it_has_found_so_far_is_taken(store, clock):
    survey, _ = survey_of(store, clock, t={"interval": "1h"})

    with survey._lock:
        looked(survey)

    assert survey.unread == 1


def test_a_success_that_many_failures_have_followed_answers_for_its_instant(store, clock):
    survey, config = survey_of(store, clock, t={"interval": "1m", "grace": "1h"})
    note(store, due=NOON - 30 * MINUTE)
    for minute in range(29, -1, -1):
        note(store, due=NOON - minute * MINUTE, outcome=Outcome.FAILED)

    assert survey.overdue(config.tasks["t"], looked(survey)) is None
    survey.note("t", store.history("t", 10))
    clock.advance(31 * 60)
    assert survey.overdue(config.tasks["t"], survey.moment()) is None
    clock.advance(60)
    assert survey.overdue(config.tasks["t"], survey.moment()) is not None


def test_the_totals_of_all_tasks_are_read_once_for_all_that_a_look_asks_about(store, clock, monkeypatch):
    monkeypatch.setattr("pulse.status.survey.BATCH", 5)
    monkeypatch.setattr("pulse.status.survey.MANY", 2)
    survey, _ = survey_of(store, clock, **{f"t{number}": {"interval": 60} for number in range(20)})
    for number in range(20):
        note(store, f"t{number}", outcome=Outcome.FAILED)
    read = []
    all_totals = store.all_totals
    monkeypatch.setattr(store, "all_totals", lambda: read.append(1) or all_totals())

    looked(survey)
    clock.advance(61)
    looked(survey)

    assert len(read) == 2


def test_who_is_gone_is_told_from_who_is_alive(store, clock):
    survey, _ = survey_of(store, clock, t={"interval": 60})
    for owner, seen in [("a:1", NOON), ("b:2", NOON - 5 * MINUTE), ("c:3", NOON)]:
        instance = Instance(owner=owner, started=NOON, seen=seen, digest="d", server="x", version="1")
        store.beat(instance, {}, MINUTE)

    moment = survey.moment()

    assert {one.owner for one in moment.alive} == {"a:1", "c:3"}
    assert [one.owner for one in moment.gone] == ["b:2"]
