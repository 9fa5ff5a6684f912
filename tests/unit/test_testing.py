import asyncio
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest

from pulse import App, AsgiPulse, PulseMiddleware
from pulse.errors import UnknownTaskError
from pulse.model import Outcome, Trigger
from pulse.scheduler import AT_ONCE
from pulse.testing import ManualClock, assert_guarded, rehearse

START = datetime(2027, 1, 1, tzinfo=UTC)


class Site:
    """A WSGI application that notes its calls, and answers as each test has it."""

    def __init__(self):
        self.calls = []
        self.status = "200 OK"
        self.headers = []
        self.meanwhile = lambda environ: None

    def __call__(self, environ, start_response):
        self.calls.append((environ["PATH_INFO"], threading.current_thread()))
        self.meanwhile(environ)
        start_response(self.status, self.headers)
        return [b"done"]


@pytest.fixture
def site():
    return Site()


@pytest.fixture(autouse=True)
def _silence(monkeypatch):
    monkeypatch.setenv("PULSE_START", "manual")


def pulse(site, **options):
    return PulseMiddleware(site, store="memory:", **options)


def seconds(run):
    return (run.started - START).total_seconds()


def outcomes(runs):
    return [run.outcome for run in runs]


# What is run, and when


def test_every_instant_of_the_span_is_run_in_order(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": "5m"}, "b": {"cron": "20 * * * *"}}))

    runs = rehearsal.advance("30m")

    assert [(run.task, run.due - START) for run in runs] == [
        ("a", timedelta(minutes=5)), ("a", timedelta(minutes=10)), ("a", timedelta(minutes=15)),
        ("a", timedelta(minutes=20)), ("b", timedelta(minutes=20)), ("a", timedelta(minutes=25)),
        ("a", timedelta(minutes=30)),
    ]  # fmt: skip
    assert all(run.started == run.due and run.outcome is Outcome.SUCCESS for run in runs)
    assert rehearsal.clock.now() == START + timedelta(minutes=30)
    assert rehearsal.runs == runs


def test_it_all_happens_in_the_thread_of_the_caller(site):
    before = set(threading.enumerate())
    rehearsal = rehearse(pulse(site, task={"a": {"interval": 60}}))

    rehearsal.advance(60)

    assert site.calls == [("/pulse/a", threading.current_thread())]
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("span", ["1h", 3600, 3600.0, timedelta(hours=1), "3600"])
def test_a_span_is_written_as_durations_are(site, span):
    assert len(rehearse(pulse(site, task={"a": {"interval": "10m"}})).advance(span)) == 6


@pytest.mark.parametrize("span", ["soon", -1, float("nan"), True, None])
def test_what_is_no_duration_is_refused(site, span):
    rehearsal = rehearse(pulse(site, task={"a": {}}))

    with pytest.raises(ValueError, match="want 0s"):
        rehearsal.advance(span)


def test_only_what_was_recorded_meanwhile_is_returned(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": 60}}))

    assert len(rehearsal.advance(60)) == 1
    assert rehearsal.advance(59) == []
    assert len(rehearsal.advance(1)) == 1
    assert len(rehearsal.runs) == 2


def test_the_clock_may_be_one_of_the_test(site):
    clock = ManualClock(datetime(2027, 3, 28, 0, 30, tzinfo=UTC))
    task = {"a": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}}

    runs = rehearse(pulse(site, task=task), clock=clock).advance("1h")

    assert [run.due for run in runs] == [datetime(2027, 3, 28, 1, 0, tzinfo=UTC)]


@pytest.mark.parametrize("move", [ManualClock.advance, ManualClock.step])
@pytest.mark.parametrize("span", ["1h30m", 5400, timedelta(minutes=90)])
def test_a_clock_takes_spans_as_durations_are_written(move, span):
    clock = ManualClock(START)

    move(clock, span)

    assert clock.now() == START + timedelta(minutes=90)
    assert clock.monotonic() == (5400 if move is ManualClock.advance else 0)


@pytest.mark.parametrize("move", [ManualClock.advance, ManualClock.step])
def test_a_clock_names_what_is_no_span(move):
    with pytest.raises(ValueError, match="'soon': want 0s to"):
        move(ManualClock(START), "soon")


def test_a_clock_may_step_back():
    clock = ManualClock(START)

    clock.step(timedelta(hours=-1))

    assert clock.now() == START - timedelta(hours=1)


def test_a_clock_that_begins_in_no_time_zone_is_refused():
    with pytest.raises(ValueError, match=r"datetime.datetime\(2027, 1, 1, 0, 0\): want an aware datetime"):
        ManualClock(datetime(2027, 1, 1))


def test_an_outage_leaves_what_it_would_leave_in_production(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": "1h"}}))

    rehearsal.clock.advance("3h")
    runs = rehearsal.run_due()

    assert [(run.outcome, run.count) for run in runs] == [(Outcome.MISSED, 2), (Outcome.SUCCESS, 1)]


CATCHES_UP = {"interval": "1m", "coalesce": False, "catchup_limit": 4, "misfire_grace_time": "none"}


def due_minutes(runs):
    return [(run.due - START).total_seconds() / 60 for run in runs]


def test_what_was_missed_is_caught_up_in_order_as_in_production(site):
    rehearsal = rehearse(pulse(site, task={"a": CATCHES_UP}))

    rehearsal.clock.advance("6m")
    runs = rehearsal.run_due()

    assert [run.outcome for run in runs] == [Outcome.MISSED] + [Outcome.SUCCESS] * 4
    assert due_minutes(runs) == [2, 3, 4, 5, 6]
    assert [run.trigger for run in runs[1:]] == [Trigger.CATCHUP] * 3 + [Trigger.SCHEDULE]
    assert due_minutes(rehearsal.advance("1m")) == [7]


@pytest.mark.parametrize(
    ("overlap", "minutes"),
    [
        ("skip", [1, 2, 3, 4, 5]),
        ("queue", [1, 2, 3, 4, 5]),
        ("replace", [1, 2, 3, 4, 5]),
        ("allow", [3, 2, 4, 1, 5]),  # each begins inside the one before, and ends before it
    ],
)
def test_what_becomes_due_while_others_are_caught_up_joins_them(site, overlap, minutes):
    rehearsal = rehearse(pulse(site, task={"a": {**CATCHES_UP, "overlap": overlap, "timeout": "2m"}}))
    spans = iter([90])
    site.meanwhile = lambda environ: rehearsal.advance(next(spans, 0))

    rehearsal.clock.advance("3m")
    runs = rehearsal.run_due()
    runs += rehearsal.advance("1m")

    assert due_minutes(runs) == minutes
    assert {run.outcome for run in runs} == {Outcome.SUCCESS}


def test_what_is_due_while_the_last_of_them_takes_its_time_is_skipped(site):
    rehearsal = rehearse(pulse(site, task={"a": {**CATCHES_UP, "timeout": "2m"}}))
    spans = iter([0, 0, 90])
    site.meanwhile = lambda environ: rehearsal.advance(next(spans, 0))

    rehearsal.clock.advance("3m")
    runs = rehearsal.run_due()

    assert [(run.outcome, minute) for run, minute in zip(runs, due_minutes(runs), strict=True)] == [
        (Outcome.SUCCESS, 1), (Outcome.SUCCESS, 2), (Outcome.SKIPPED, 4), (Outcome.SUCCESS, 3),
    ]  # fmt: skip


def test_a_grace_is_judged_when_the_turn_has_come(site):
    rehearsal = rehearse(pulse(site, task={"a": {**CATCHES_UP, "misfire_grace_time": "2m10s", "timeout": "2m"}}))
    spans = iter([100])
    site.meanwhile = lambda environ: rehearsal.advance(next(spans, 0))

    rehearsal.clock.advance("4m")
    runs = rehearsal.run_due() + rehearsal.run_due()

    assert [(run.outcome, minute) for run, minute in zip(runs, due_minutes(runs), strict=True)] == [
        (Outcome.MISSED, 1), (Outcome.SUCCESS, 2), (Outcome.MISSED, 3), (Outcome.SUCCESS, 4), (Outcome.SUCCESS, 5),
    ]  # fmt: skip


def test_more_tasks_than_ring_at_once_are_all_caught_up_in_one_step(site):
    rehearsal = rehearse(pulse(site, task={f"t{number}": {"interval": "1h"} for number in range(2 * AT_ONCE + 1)}))

    rehearsal.clock.advance("90m")
    runs = rehearsal.run_due()

    assert len(runs) == 2 * AT_ONCE + 1
    assert {run.outcome for run in runs} == {Outcome.SUCCESS}


def test_a_first_start_runs_what_runs_at_startup(site):
    rehearsal = rehearse(pulse(site, task={"a": {"cron": "@daily", "run_at_startup": True}}))

    runs = rehearsal.run_due()

    assert [(run.trigger, run.outcome) for run in runs] == [(Trigger.STARTUP, Outcome.SUCCESS)]
    assert rehearsal.run_due() == []


def test_what_is_not_enabled_is_not_run(site):
    tasks = {"a": {"interval": 60, "enabled": False}, "b": {"interval": 60}}

    assert [run.task for run in rehearse(pulse(site, task=tasks)).advance("1m")] == ["b"]
    assert rehearse(pulse(site, task=tasks, enabled=False)).advance("1m") == []


def test_it_says_what_is_due_next(site):
    assert rehearse(pulse(site, task={"a": {"interval": 60}})).next_due == START + timedelta(seconds=60)
    assert rehearse(pulse(site, task={"a": {"cron": "@manually"}})).next_due is None


@pytest.mark.parametrize("scope", ["host", "process"])
def test_tasks_of_a_place_run_as_well(site, scope):
    (run,) = rehearse(pulse(site, task={"a": {"interval": 60, "scope": scope}})).advance(60)

    assert run.place


# By hand


def test_a_task_is_run_by_hand(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": 60, "enabled": False}}))

    run = rehearsal.run("a")

    assert (run.outcome, run.trigger, run.status, run.body) == (Outcome.SUCCESS, Trigger.MANUAL, 200, b"done")
    assert rehearsal.runs == [run]


def test_a_task_that_is_not_there_is_named(site):
    with pytest.raises(UnknownTaskError, match="'cleanup'"):
        rehearse(pulse(site, task={"clean": {}})).run("cleanup")


def test_a_task_that_runs_is_started_beside_itself_by_force_only(site):
    rehearsal = rehearse(pulse(site, task={"a": {}}))
    inner = []

    def call_itself(environ):
        if len(site.calls) == 1:
            inner.extend([rehearsal.run("a"), rehearsal.run("a", force=True)])

    site.meanwhile = call_itself

    rehearsal.run("a")

    assert outcomes(inner) == [Outcome.SKIPPED, Outcome.SUCCESS]


def test_a_run_that_was_lost_has_no_record_and_says_why(site):
    rehearsal = rehearse(pulse(site, task={"a": {}}))

    def freeze(environ):
        rehearsal.clock.advance(60)
        rehearsal.run_store.reap(rehearsal.clock.now())

    site.meanwhile = freeze

    with pytest.raises(RuntimeError, match="lost its lease"):
        rehearsal.run("a")


def test_what_the_endpoint_raises_is_in_the_record(site):
    site.meanwhile = lambda environ: 1 / 0
    rehearsal = rehearse(pulse(site, task={"a": {}}))

    run = rehearsal.run("a")

    assert (run.outcome, run.reason) == (Outcome.FAILED, "ZeroDivisionError: division by zero")
    assert b"Traceback" in run.errors


# The rules of runs


def test_retries_are_made_at_their_instants(site):
    site.status = "500 Oh"
    task = {"a": {"interval": "1h", "retries": 3, "retry_delay": "10s"}}
    rehearsal = rehearse(pulse(site, task=task))

    runs = rehearsal.advance("1h10m")

    assert [(run.attempt, seconds(run) - 3600) for run in runs] == [(1, 0), (2, 10), (3, 30), (4, 70)]
    assert [run.again_at is not None for run in runs] == [True, True, True, False]


@pytest.mark.parametrize("before", [3595.7, 3598.26, 3596.275345])
def test_retries_are_made_whatever_binary_seconds_say(site, before):
    site.status = "500 Oh"
    task = {"a": {"interval": "1h", "offset": "0.3s", "retries": 5, "retry_delay": "0.7s", "retry_backoff": 1.1}}
    task["b"] = {"interval": "0.1s"}
    clock = ManualClock()
    clock.advance(before)

    rehearsal = rehearse(pulse(site, task=task), clock=clock)
    runs = [run for run in rehearsal.advance("12s") if run.task == "a"]

    assert [run.attempt for run in runs] == [1, 2, 3, 4, 5, 6]
    assert all(later.started - run.again_at <= timedelta(milliseconds=1) for run, later in pairwise(runs))


def test_an_endpoint_that_is_busy_for_ever_does_not_stop_the_clock(site):
    site.status, site.headers = "503 Busy", [("Retry-After", "0")]
    rehearsal = rehearse(pulse(site, task={"a": {"interval": "1h"}}))

    runs = rehearsal.advance(3601)

    assert 2 <= len(runs) <= 6


def test_failures_pause_the_task_in_the_rehearsal_alone(site):
    site.status = "410 Gone"
    middleware = pulse(site, task={"a": {"interval": 60}})
    rehearsal = rehearse(middleware)

    runs = rehearsal.advance("2m")

    assert outcomes(runs) == [Outcome.FAILED, Outcome.SKIPPED]
    assert list(rehearsal.run_store.pauses()) == ["a"]
    assert not middleware.run_store.pauses()
    assert rehearsal.run_store.resume("a")
    assert outcomes(rehearsal.advance("1m")) == [Outcome.FAILED]


def test_what_is_due_while_the_endpoint_takes_its_time_is_skipped(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": 60}, "b": {"interval": 60, "offset": "30s"}}))
    spans = iter([90])
    site.meanwhile = lambda environ: rehearsal.advance(next(spans, 0)) if environ["PATH_INFO"] == "/pulse/a" else None

    runs = rehearsal.advance("2m30s")

    assert [(run.task, run.outcome, (run.due - START).total_seconds()) for run in runs] == [
        ("b", Outcome.SUCCESS, 30), ("b", Outcome.SUCCESS, 90), ("a", Outcome.SKIPPED, 120),
        ("b", Outcome.SUCCESS, 150), ("a", Outcome.SUCCESS, 60),
    ]  # fmt: skip
    assert runs[-1].duration == 90


def test_what_waits_for_its_turn_runs_when_it_has_come(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": 60, "overlap": "queue"}}))
    spans = iter([90])
    site.meanwhile = lambda environ: rehearsal.advance(next(spans, 0))

    runs = rehearsal.advance("2m30s")

    assert [((run.due - START).total_seconds(), seconds(run)) for run in runs] == [(60, 60), (120, 150)]


def test_a_run_that_is_replaced_is_asked_to_stop(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": 60, "overlap": "replace"}}))

    def until_asked(environ):
        for _ in range(100):
            if environ["pulse.cancelled"].is_set():
                return
            rehearsal.advance(1)

    site.meanwhile = until_asked

    rehearsal.advance("60s")

    assert 120 <= (rehearsal.clock.now() - START).total_seconds() < 125


def test_a_run_that_passes_its_deadline_has_timed_out(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": "1h", "timeout": "20s"}}))
    site.meanwhile = lambda environ: rehearsal.advance("1m")

    runs = rehearsal.advance("1h")

    assert outcomes(runs) == [Outcome.TIMEOUT]
    assert 20 < runs[0].duration < 21


def test_runs_that_never_end_in_time_do_not_pile_up(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": 60, "timeout": "20s"}}))
    site.meanwhile = lambda environ: rehearsal.advance("90s")

    runs = rehearsal.advance("10m")

    assert {Outcome.TIMEOUT, Outcome.SKIPPED} == set(outcomes(runs))


@pytest.mark.parametrize(
    "tasks", [{"a": {"interval": 60, "overlap": "allow"}}, {n: {"interval": 60} for n in "abcdefg"}]
)
def test_no_more_runs_stand_beside_each_other_than_there_are_workers(site, tasks):
    rehearsal = rehearse(pulse(site, task=tasks, workers=2))
    under_way, most = [], []

    def take_time(environ):
        under_way.append(environ)
        most.append(len(under_way))
        rehearsal.advance("90s")
        under_way.pop()

    site.meanwhile = take_time

    rehearsal.advance("10m")

    assert max(most) == 2


def test_a_task_whose_runs_have_come_back_runs_again(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": 60, "timeout": "20s"}}))
    spans = iter([90] * 4)
    site.meanwhile = lambda environ: rehearsal.advance(next(spans, 0))
    rehearsal.advance("10m")

    assert outcomes(rehearsal.advance("5m")) == [Outcome.SUCCESS] * 5


def test_a_long_run_does_not_lose_its_lease(site):
    rehearsal = rehearse(pulse(site, task={"a": {"interval": "1h"}}, lease="30s"))
    site.meanwhile = lambda environ: rehearsal.advance("10m")

    assert outcomes(rehearsal.advance("1h")) == [Outcome.SUCCESS]


def test_hooks_are_told_at_once_and_pings_are_not_sent(site, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a ping was sent"))
    task = {"interval": 60, "on_success": "/told", "ping_url": "https://example.org/x"}

    rehearse(pulse(site, task={"a": task})).advance("1m")

    assert [path for path, _ in site.calls] == ["/pulse/a", "/told"]


def leave(run):
    raise SystemExit(1)


def cancel(run):
    raise asyncio.CancelledError


@pytest.mark.parametrize("hook", ["nowhere:nothing", f"{__name__}:leave", f"{__name__}:cancel"])
def test_a_hook_that_fails_is_a_line_in_the_log(site, caplog, hook):
    task = {"interval": 60, "on_success": hook}

    runs = rehearse(pulse(site, task={"a": task})).advance("1m")

    assert outcomes(runs) == [Outcome.SUCCESS]
    assert "alarm_failed" in [getattr(record, "pulse_event", "") for record in caplog.records]


# What it is given


def test_the_middleware_is_neither_started_nor_changed(site):
    middleware = pulse(site, guard=True, task={"a": {"interval": 60}})
    before = dict(vars(middleware))

    rehearse(middleware).advance("5m")
    assert_guarded(middleware)

    assert vars(middleware) == before
    assert middleware._engine is None
    assert middleware.run_store.tasks() == []
    assert middleware._guard.denied == 0


@pytest.mark.parametrize("name", ["app", "wsgi_app", "application"])
def test_the_middleware_is_found_inside_what_wraps_it(site, name):
    inside = SimpleNamespace(**{name: SimpleNamespace(app=pulse(site, task={"a": {"interval": 60}}))})

    assert len(rehearse(inside).advance("1m")) == 1


@pytest.mark.parametrize("thing", [None, object(), lambda environ, start_response: []])
def test_where_there_is_no_pulse_that_is_said(thing):
    with pytest.raises(TypeError, match="there is no Pulse in"):
        rehearse(thing)


def test_the_pages_of_an_app_are_rehearsed():
    app = App(store="memory:", task={"sweep": {"action": "/sweep", "interval": 60}})
    app.route("/sweep")(lambda request: "swept")

    (run,) = rehearse(app).advance("1m")

    assert run.body == b"swept"


async def endpoint(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


def test_an_asgi_application_is_rehearsed_and_guarded():
    door = AsgiPulse(endpoint, store="memory:", guard=True, task={"a": {"interval": 60}})

    (run,) = rehearse(door).advance("1m")

    assert (run.outcome, run.body) == (Outcome.SUCCESS, b"/pulse/a")
    assert_guarded(door)


def test_a_rehearsal_on_the_loop_of_its_application_is_refused():
    door = AsgiPulse(endpoint, store="memory:", task={"a": {"interval": 60}})
    rehearsal = rehearse(door)

    async def on_the_loop():
        door._home.notice()
        with pytest.raises(RuntimeError, match="to_thread"):
            rehearsal.advance("1m")
        return await asyncio.to_thread(rehearsal.advance, "1m")

    assert outcomes(asyncio.run(on_the_loop())) == [Outcome.SUCCESS]


# The guard


def test_what_is_guarded_passes(site):
    middleware = pulse(site, guard=True, context="sessions", task={"cleanup": {}, "other": {"action": "/x/y.z"}})

    assert_guarded(middleware)
    assert_guarded(middleware, "/sessions/cleanup", "/x/y.z")
    assert site.calls == []


def test_what_is_open_is_named_with_the_option_that_closes_it(site):
    with pytest.raises(AssertionError) as said:
        assert_guarded(pulse(site, task={"a": {}}))

    assert str(said.value).startswith("outsiders get in:\n  GET /pulse/a reached the application\n")
    assert str(said.value).endswith("the guard is off; want pulse.config.guard = true")
    assert site.calls == []


def test_a_page_that_no_task_has_is_open(site):
    with pytest.raises(AssertionError, match="GET /login reached the application") as said:
        assert_guarded(pulse(site, guard=True, task={"a": {}}), "/login")

    assert str(said.value).endswith(" more\nno task has /login; those of tasks: /pulse/a")


@pytest.mark.parametrize(
    "hole",
    [
        lambda environ: environ["PATH_INFO"] == "/pulse/a/",
        lambda environ: environ["PATH_INFO"] == "//pulse/a",
        lambda environ: environ["PATH_INFO"] == "/pulse//a",
        lambda environ: environ["PATH_INFO"] == "/./pulse/a",
        lambda environ: environ["PATH_INFO"] == "/x/../pulse/a",
        lambda environ: environ["PATH_INFO"] == "/pulse/a/extra",
        lambda environ: environ["PATH_INFO"] == "/pulse/a;v=1",
        lambda environ: environ["PATH_INFO"] == "/pulse/%61",
        lambda environ: environ["REQUEST_METHOD"] == "DELETE",
        lambda environ: environ["SCRIPT_NAME"] == "/pulse",
        lambda environ: "HTTP_X_ORIGINAL_URL" in environ,
        lambda environ: "HTTP_X_PULSE_TASK" in environ,
    ],
)
def test_a_hole_in_the_guard_is_found(site, hole):
    class Leaky(PulseMiddleware):
        def __call__(self, environ, start_response):
            if hole(environ):
                return self.app(environ, start_response)
            return super().__call__(environ, start_response)

    leaky = Leaky(site, store="memory:", guard=True, task={"a": {}})

    with pytest.raises(AssertionError, match="outsiders get in"):
        assert_guarded(leaky)


def test_another_answer_than_404_is_named(site):
    class Talkative(PulseMiddleware):
        def __call__(self, environ, start_response):
            start_response("403 Forbidden", [])
            return []

    with pytest.raises(AssertionError, match="GET /pulse/a was answered 403 Forbidden"):
        assert_guarded(Talkative(site, store="memory:", guard=True, task={"a": {}}))


def test_nothing_to_guard_is_no_success(site):
    with pytest.raises(AssertionError, match="no task"):
        assert_guarded(pulse(site, guard=True))
