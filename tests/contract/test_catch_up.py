"""Instants that were missed and are all to be run: in order, each once, whoever runs them and whatever happens meanwhile."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from servers import wait_until

from pulse.clock import SystemClock
from pulse.config import read_config
from pulse.dispatch import Reply
from pulse.errors import BrokerUnavailableError, StoreUnavailableError
from pulse.middleware import PulseMiddleware
from pulse.missed import Rung
from pulse.model import Fire, Limits, Outcome, Pause, Run, Trigger
from pulse.runner import Runner
from pulse.runstores.base import RunStore
from pulse.runstores.sqlite import SqliteRunStore
from pulse.schedule import schedule_of
from pulse.scheduler import Scheduler
from pulse.testing import ManualClock, rehearse
from pulse.workers.courier import Courier

MISSED = 12  # instants
LIMIT = 8  # of them that are run
TASK = {"interval": "1h", "coalesce": False, "catchup_limit": LIMIT, "misfire_grace_time": "none"}


class Site:
    """An application with one endpoint, which notes for which instant it is called, and may have to wait."""

    def __init__(self) -> None:
        self.dues: list[datetime] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.holds_at = 0  # which call waits for `go_on`
        self.most = 0
        self._under_way = 0
        self._lock = threading.Lock()

    def __call__(self, environ, start_response):
        if self._begin(environ):
            self.go_on.wait(30)
        return self._end(start_response)

    async def asynchronous(self, environ, start_response):
        if self._begin(environ):
            await asyncio.to_thread(self.go_on.wait, 30)
        return self._end(start_response)

    def _begin(self, environ) -> bool:
        with self._lock:
            self.dues.append(environ["pulse.info"]["due"])
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            return len(self.dues) == self.holds_at

    def _end(self, start_response):
        with self._lock:
            self._under_way -= 1
        start_response("200 OK", [])
        return [b""]

    def hold(self, call: int) -> None:
        """Have that call of the endpoint last until `go_on` is set."""
        self.holds_at = call
        self.go_on.clear()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.go_on.set()


@pytest.fixture
def store(tmp_path) -> Iterator[RunStore]:
    store = SqliteRunStore(tmp_path / "runs.db", name="late")
    now = SystemClock().now()
    store.register(["a"], now, since=now - MISSED * timedelta(hours=1))
    yield store
    store.close()


@pytest.fixture(params=["threading", "asyncio"])
def begin(request, site, store) -> Iterator[Callable[..., PulseMiddleware]]:
    made: list[PulseMiddleware] = []

    def begin(**task) -> PulseMiddleware:
        app = site.asynchronous if request.param == "asyncio" else site
        known = {"a": {**TASK, **task}}
        options = {
            "mode": request.param,
            "lease": "10m",
            "shutdown_timeout": "30s",
        }  # what waits is seen to all the same
        made.append(PulseMiddleware(app, task=known, start="manual", run_store=store, **options))
        made[-1].start()
        return made[-1]

    yield begin
    site.go_on.set()
    for one in made:
        one.close()


def records(store: RunStore) -> list[Run]:
    return sorted(store.history("a"), key=lambda run: run.due)


def ended(store: RunStore) -> int:
    return sum(run.started is not None for run in store.history("a"))


def expected(middleware: PulseMiddleware) -> list[datetime]:
    """The last instants that have passed."""
    schedule, dues = schedule_of(middleware.config.tasks["a"]), []
    at = SystemClock().now()
    while len(dues) < LIMIT:
        dues.insert(0, schedule.previous_due(at))
        at = dues[0] - timedelta(microseconds=1)
    return dues


def is_resting(middleware: PulseMiddleware) -> bool:
    return middleware._engine.workers._queue.is_resting


@pytest.mark.parametrize("overlap", ["skip", "queue", "replace", "allow"])
def test_the_last_of_them_are_run_in_order_and_the_others_are_recorded(begin, site, store, overlap):
    middleware = begin(overlap=overlap)

    wait_until(lambda: ended(store) == LIMIT)

    assert sorted(site.dues) == expected(middleware)
    if overlap != "allow":
        assert (site.dues, site.most) == (expected(middleware), 1)
    missed, *ran = records(store)
    assert (missed.outcome, missed.count) == (Outcome.MISSED, MISSED - LIMIT)
    assert [run.outcome for run in ran] == [Outcome.SUCCESS] * LIMIT
    assert [run.trigger for run in ran] == [Trigger.CATCHUP] * (LIMIT - 1) + [Trigger.SCHEDULE]


def test_where_runs_may_overlap_each_waits_for_the_beginning_of_the_one_before(begin, site, store):
    site.hold(1)
    middleware = begin(overlap="allow")

    wait_until(lambda: len(site.dues) == LIMIT)
    site.go_on.set()
    wait_until(lambda: ended(store) == LIMIT)

    assert sorted(site.dues) == expected(middleware)


class Span:
    """A stand-in for `Site.go_on`: a call that is to last takes its time on the clock of a rehearsal."""

    def wait(self, _limit: float) -> None:
        self.rehearsal.advance("1m")


@pytest.mark.parametrize("overlap", ["skip", "queue", "replace", "allow"])
def test_a_rehearsal_begins_them_as_they_are_begun_in_production(begin, site, store, overlap):
    site.hold(1)
    middleware = begin(overlap=overlap)
    wait_until(lambda: len(site.dues) == (LIMIT if overlap == "allow" else 1))
    site.go_on.set()
    wait_until(lambda: ended(store) == LIMIT)

    other = Site()
    other.hold(1)
    other.go_on = span = Span()
    passed = MISSED * timedelta(hours=1)
    clock = ManualClock(expected(middleware)[-1] + timedelta(minutes=1) - passed)
    span.rehearsal = rehearse(
        PulseMiddleware(other, task={"a": {**TASK, "overlap": overlap}}, store="memory:"), clock=clock
    )
    clock.advance(passed)
    runs = span.rehearsal.run_due() + span.rehearsal.run_due()  # the first one moves the clock, and ends behind it

    assert sorted(other.dues) == sorted(site.dues) == expected(middleware)
    assert (other.most > 1) == (site.most > 1) == (overlap == "allow")
    assert [said_of(run) for run in sorted(runs, key=lambda run: run.due)] == [said_of(run) for run in records(store)]


def said_of(run: Run) -> tuple[object, ...]:
    return run.due, run.count, run.outcome, run.trigger


@pytest.mark.parametrize(("overlap", "held"), [("skip", 1), ("queue", 3), ("replace", 3), ("skip", LIMIT - 1)])
def test_who_comes_second_waits_for_the_run_of_the_other_and_skips_nothing(begin, site, store, overlap, held):
    site.hold(held)
    one = begin(overlap=overlap)
    wait_until(lambda: len(site.dues) == held)
    other = begin(overlap=overlap)
    wait_until(lambda: is_resting(other))

    site.go_on.set()
    wait_until(lambda: ended(store) == LIMIT)

    assert (site.dues, site.most) == (expected(one), 1)
    assert {run.outcome for run in records(store) if run.started} == {Outcome.SUCCESS}
    assert sum(run.count for run in records(store)) == MISSED


@pytest.mark.parametrize("comes", ["before", "after"])
def test_what_one_process_leaves_is_caught_up_by_another_one(begin, site, store, comes):
    site.hold(3)
    first = begin()
    wait_until(lambda: len(site.dues) == 3)
    if comes == "before":
        other = begin()
        wait_until(lambda: is_resting(other))
    queue = first._engine.workers._queue
    ends = threading.Thread(target=first.close)
    ends.start()
    wait_until(lambda: queue._is_closed)
    site.go_on.set()
    ends.join()

    if comes == "after":
        begin()
    wait_until(lambda: ended(store) == LIMIT)

    assert site.dues == expected(first)
    assert {run.outcome for run in records(store)[1:]} == {Outcome.SUCCESS}


def test_what_is_due_while_the_last_of_them_runs_is_an_overlap_like_any_other(begin, site, store):
    site.hold(LIMIT)
    middleware = begin()
    wait_until(lambda: len(site.dues) == LIMIT)
    following = schedule_of(middleware.config.tasks["a"]).next_due(site.dues[-1])

    middleware._engine.workers.submit([Rung(Fire(task="a", due=following), LIMIT)])

    wait_until(lambda: records(store) and records(store)[-1].outcome is Outcome.SKIPPED)
    assert records(store)[-1].due == following
    site.go_on.set()
    wait_until(lambda: ended(store) == LIMIT)


def test_a_lost_run_that_recovers_is_run_again_before_those_that_are_caught_up(begin, site, store):
    schedule = schedule_of(read_config(tasks={"a": TASK}).tasks["a"])
    lost = Fire(task="a", due=schedule.next_due(store.register(["a"], SystemClock().now())["a"]))
    terms = {"owner": "elsewhere:1", "now": SystemClock().now(), "lease": timedelta(0), "passed": lambda _: None}
    store.claim(lost, limits=Limits(recovers=True), **terms)

    middleware = begin(recover=True)
    wait_until(lambda: ended(store) == LIMIT + 2)

    assert site.dues == [lost.due, *expected(middleware)]
    assert {run.outcome for run in records(store) if run.attempt == 2} == {Outcome.SUCCESS}


def test_a_pause_ends_it_with_records(begin, site, store):
    site.hold(3)
    begin()
    wait_until(lambda: len(site.dues) == 3)

    store.pause("a", Pause(since=SystemClock().now(), note="for a while"))
    site.go_on.set()
    wait_until(lambda: sum(run.count for run in records(store)) == MISSED)

    assert len(site.dues) == 3
    skipped = [run for run in records(store) if run.outcome is Outcome.SKIPPED]
    assert sum(run.count for run in skipped) == LIMIT - 3


def test_an_outage_of_the_store_ends_it_no_more_than_it_ends_a_run(begin, site, store, monkeypatch):
    claim, refused = store.claim, []

    def breaks(fire, **more):
        if len(site.dues) == 3 and len(refused) < 2:
            refused.append(fire.due)
            raise StoreUnavailableError("the store is away")
        return claim(fire, **more)

    monkeypatch.setattr(store, "claim", breaks)

    middleware = begin()
    wait_until(lambda: ended(store) == LIMIT)

    assert site.dues == expected(middleware)
    assert refused == [expected(middleware)[3]] * 2


class Broker:
    """Brings what it is given to a runner of its own, as a worker of Celery would be."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def knock(self) -> None:
        """It is there."""

    def send(self, run: Run, until: datetime) -> None:
        fire = Fire(task=run.task, due=run.due, trigger=run.trigger, run_id=run.id, is_reserved=True)
        threading.Thread(target=self.runner.run, args=(fire,)).start()

    def recall(self, run: Run) -> None:
        """It cannot be."""


@pytest.mark.parametrize("was_away", [False, True])
def test_they_are_handed_over_to_a_queue_one_after_the_other(store, was_away):
    tasks = read_config(tasks={"a": {**TASK, "catchup_limit": 3}}).tasks
    schedules = {"a": schedule_of(tasks["a"])}
    asked: list[datetime] = []

    def reply(_task, run, _control) -> Reply:
        asked.append(run.due)
        if len(asked) < 3:
            wait_until(lambda: courier._queue.is_resting)
        return Reply(outcome=Outcome.SUCCESS, status=200)

    def runner(owner: str) -> Runner:
        lease = timedelta(minutes=10)
        return Runner(
            tasks, schedules, store=store, dispatch=reply, clock=SystemClock(), owner=owner, lease=lease
        )  # fmt: skip

    courier = Courier(runner("web"), Broker(runner("celery")), store=store, clock=SystemClock())
    scheduler = Scheduler(tasks, schedules, submit=courier.submit, clock=SystemClock())
    scheduler.plan(store.register(["a"], SystemClock().now()))
    if was_away:
        courier._note_silence(BrokerUnavailableError("the broker was away a moment ago"))
    courier.start()
    try:
        scheduler.ring()
        wait_until(lambda: ended(store) == 3)
    finally:
        courier.close(1)

    assert asked == [run.due for run in records(store)[1:]]
    assert {run.outcome for run in records(store)[1:]} == {Outcome.SUCCESS}
