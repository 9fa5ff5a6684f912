"""`PulseMiddleware` with real threads and the real clock: its promises to those who wrap with it."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import webtest
from servers import wait_until

import pulse
from pulse import PulseMiddleware, Task
from pulse.errors import ConfigError, UnknownTaskError
from pulse.middleware import _drain_at_exit
from pulse.model import Config, Outcome, Trigger
from pulse.runstores.memory import MemoryRunStore
from pulse.runstores.sqlite import SqliteRunStore

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TOKEN = "a-token-of-enough-characters"


class Site:
    """An application that notes who asked for what; some of its pages misbehave."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool, str]] = []
        self.release = threading.Event()

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        self.calls.append((path, pulse.is_internal(environ), threading.current_thread().name))
        if path.endswith("/raise"):
            raise ValueError("bad day")
        if path.endswith("/hang"):
            self.release.wait(60)
        if path.endswith("/slow"):
            time.sleep(0.5)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    def count(self, path: str) -> int:
        return sum(called == path for called, _, _ in self.calls)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.release.set()


@pytest.fixture
def wrap(site: Site):
    """Wrap the site; whatever was built is closed at the end."""
    built: list[PulseMiddleware] = []

    def wrap(*args, **kwargs) -> PulseMiddleware:
        built.append(PulseMiddleware(site, *args, **{"start": "manual", "shutdown_timeout": 1, **kwargs}))
        return built[-1]

    yield wrap
    for middleware in built:
        middleware.close()


def schedulers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "APScheduler"}


def test_task_objects_are_requested_every_interval(wrap, site):
    middleware = wrap(task={"cleanup": Task(action="cleanup", interval=0.2)}, context="sessions")

    middleware.start()

    wait_until(lambda: site.count("/sessions/cleanup") >= 3)
    assert all(is_internal for _, is_internal, _ in site.calls)
    assert threading.current_thread().name not in {thread for _, _, thread in site.calls}
    dues = [run.due for run in middleware.run_store.history("cleanup")]
    assert {(due - EPOCH) % timedelta(seconds=0.2) for due in dues} == {timedelta(0)}


def test_several_tasks_run_independently_whatever_one_of_them_does(wrap, site):
    interval = {"interval": 0.2}
    middleware = wrap(task={"hang": interval, "raise": interval, "fine": interval})

    middleware.start()

    wait_until(lambda: site.count("/pulse/fine") >= 4 and site.count("/pulse/raise") >= 3)
    assert site.count("/pulse/hang") == 1
    history = middleware.run_store.history
    assert {run.outcome for run in history("raise")} == {Outcome.FAILED}
    assert {run.outcome for run in history("hang")} == {Outcome.SKIPPED}


def test_every_due_instant_ends_in_a_record(wrap):
    middleware = wrap(task={"a": {"interval": 0.1}, "slow": {"interval": 0.2}}, history=1000)

    middleware.start()
    begun = time.time()
    wait_until(lambda: len(middleware.run_store.history("a")) >= 15)
    middleware.close()

    for name, interval in (("a", 0.1), ("slow", 0.2)):
        runs = sorted(middleware.run_store.history(name), key=lambda run: run.due)
        covered = [
            (run.first_due or run.due).timestamp() + step * interval for run in runs for step in range(run.count)
        ]
        first = covered[0]
        assert first - begun < interval + 5
        assert covered == pytest.approx([first + step * interval for step in range(len(covered))], abs=1e-4)


def test_a_restart_records_what_became_due_meanwhile_and_runs_the_last_of_it(wrap, tmp_path):
    store = f"sqlite:{tmp_path / 'runs.db'}"
    first = wrap(task={"a": {"interval": 0.2}}, store=store)
    first.start()
    wait_until(lambda: first.run_store.history("a"))
    first.close()
    before = first.run_store.history("a")
    time.sleep(1)

    second = wrap(task={"a": {"interval": 0.2}}, store=store)
    second.start()
    wait_until(lambda: len(second.run_store.history("a")) >= len(before) + 2)

    missed, made_up = list(reversed(second.run_store.history("a")))[len(before) :][:2]
    assert (missed.outcome, missed.first_due) == (Outcome.MISSED, before[0].due + timedelta(seconds=0.2))
    assert missed.count >= 3
    assert (made_up.outcome, made_up.due) == (Outcome.SUCCESS, missed.due + timedelta(seconds=0.2))


@pytest.mark.parametrize("more", [{"task": {"a": {}}}, {"tasks": {"a": {}}}, {"guard": True}])
def test_a_whole_config_stands_alone(site, more):
    with pytest.raises(ConfigError, match="want it alone"):
        PulseMiddleware(site, Config(), **more)


def test_tasks_of_a_whole_config_are_below_its_context_and_guarded(site):
    config = Config(guard=True, store="memory:", start="manual", tasks={"a": Task(name="a", action="a")})

    middleware = PulseMiddleware(site, config)

    assert middleware.config.tasks["a"].path == "/pulse/a"
    assert list(middleware({"REQUEST_METHOD": "GET", "PATH_INFO": "/pulse/a"}, lambda *_: None)) == [b"Not Found\n"]
    assert middleware.run_now("a").outcome is Outcome.SUCCESS


@pytest.mark.parametrize("more", [{"task": ["a"]}, {"task": "x"}, {"tasks": 3}, {"task": []}])
def test_tasks_of_another_kind_are_a_configuration_error(site, more):
    with pytest.raises(ConfigError, match="want a mapping"):
        PulseMiddleware(site, **more)


def test_what_is_no_application_is_a_configuration_error():
    with pytest.raises(ConfigError, match="want a WSGI application"):
        PulseMiddleware(None)


def test_a_constructor_requests_nothing_and_starts_nothing_by_hand(wrap, site):
    before = set(threading.enumerate())

    wrap(task={"a": {"interval": 0.1}})

    assert set(threading.enumerate()) <= before
    assert site.calls == []


def test_a_request_from_outside_starts_it_once(wrap, site):
    before = schedulers()
    middleware = wrap(task={"a": {"interval": 0.1}}, start="request")
    app = webtest.TestApp(middleware)

    app.get("/x")
    app.get("/x")

    wait_until(lambda: site.count("/pulse/a") >= 2)
    assert len(schedulers() - before) == 1


def test_close_is_bounded_and_idempotent_and_later_requests_pass(wrap, site):
    before = schedulers()
    middleware = wrap(task={"hang": {"interval": 0.1}})
    middleware.start()
    wait_until(lambda: site.count("/pulse/hang") == 1)
    begun = time.monotonic()

    middleware.close()
    middleware.close()

    assert time.monotonic() - begun < 1 + 1 + 5  # shutdown_timeout, a second, and a slow machine
    assert [run.outcome for run in middleware.run_store.history("hang") if run.started] == [Outcome.ABANDONED]
    assert webtest.TestApp(middleware).get("/x").text == "page"
    assert schedulers() == before


def test_running_work_is_drained_on_close(wrap, site):
    middleware = wrap(task={"slow": {"interval": 0.1}}, shutdown_timeout=30)
    middleware.start()
    wait_until(lambda: site.count("/pulse/slow") == 1)

    middleware.close()

    assert [run.outcome for run in middleware.run_store.history("slow") if run.started] == [Outcome.SUCCESS]


def test_whoever_interrupts_the_end_of_the_process_reads_a_line_and_no_traceback(wrap, caplog, monkeypatch):
    middleware = wrap(task={"a": {}})

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(middleware, "close_within", interrupted)
    monkeypatch.setattr("pulse.middleware._ringing", {middleware})

    _drain_at_exit()

    assert [record.pulse_event for record in caplog.records] == ["drain_interrupted"]


def test_disabled_tasks_do_not_ring_and_stay_guarded(wrap, site):
    middleware = wrap(task={"a": {"interval": 0.1, "enabled": False}, "b": {"interval": 0.1}}, guard=True)

    middleware.start()

    wait_until(lambda: site.count("/pulse/b") >= 3)
    assert site.count("/pulse/a") == 0
    webtest.TestApp(middleware).get("/pulse/a", status=404)


def test_enabled_false_silences_all_and_the_guard_stays_on(wrap, site):
    middleware = wrap(task={"a": {"interval": 0.1}}, guard=True, enabled=False, start="now")
    app = webtest.TestApp(middleware)

    app.get("/x")
    app.get("/pulse/a", status=404)

    time.sleep(0.5)
    assert site.count("/pulse/a") == 0


def test_what_is_not_enabled_rings_at_no_word(wrap, site, monkeypatch):
    monkeypatch.setenv("PULSE_START", "now")
    before = schedulers()
    middleware = wrap(task={"a": {"interval": 0.1}}, enabled=False)
    middleware.start()

    assert schedulers() == before


def test_a_task_can_be_run_by_hand(wrap, site):
    middleware = wrap(task={"a": {"interval": 3600}})

    run = middleware.run_now("a")

    assert (run.outcome, run.trigger, run.body) == (Outcome.SUCCESS, Trigger.MANUAL, b"page")
    assert site.calls[0][:2] == ("/pulse/a", True)
    middleware.start()
    assert middleware.run_now("a").outcome is Outcome.SUCCESS


def test_a_call_by_hand_of_a_running_task_is_skipped(wrap, site):
    middleware = wrap(task={"hang": {"interval": 0.1}})
    middleware.start()
    wait_until(lambda: site.count("/pulse/hang") == 1)

    assert middleware.run_now("hang").outcome is Outcome.SKIPPED


def test_an_unknown_task_is_named_with_those_that_exist(wrap):
    with pytest.raises(UnknownTaskError, match=r"no task 'b'; the tasks are: a"):
        wrap(task={"a": {}}).run_now("b")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_a_guarded_path_is_404_for_every_method_and_reaches_no_endpoint(wrap, site, method):
    app = webtest.TestApp(wrap(task={"cleanup": Task(action="cleanup")}, context="sessions", guard=True))

    app.request("/sessions/cleanup", method=method, status=404)
    app.request("/sessions/cleanup/", method=method, status=404)

    assert site.calls == []


def test_the_fleet_is_told_how_many_requests_the_guard_has_refused(wrap):
    middleware = wrap(task={"cleanup": {"interval": 3600}}, guard=True, lease=1)
    middleware.start()

    be_refused(middleware, 3)

    wait_until(lambda: [one.refused for one in middleware.run_store.instances()] == [3])


def be_refused(middleware: PulseMiddleware, times: int) -> None:
    for _ in range(times):
        webtest.TestApp(middleware).get("/pulse/cleanup", status=404)


@pytest.mark.parametrize("way", ["given", "named", "of one file"])
def test_of_filters_that_are_one_process_to_their_store_each_tells_it_the_refusals_of_all(
    wrap, tmp_path, monkeypatch, way
):
    file = f"sqlite:{tmp_path}/runs.db"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    more = {"given": {"run_store": MemoryRunStore()}, "named": {"name": "shop"}, "of one file": {"store": file}}[way]
    filters = [wrap(task={"cleanup": {"interval": 3600}}, guard=True, **more) for _ in range(2)]
    for number, one in enumerate(filters):
        one.start()
        be_refused(one, number + 1)

    told = [told_by(one) for one in filters]

    assert told == [3, 3]


@pytest.mark.parametrize("way", ["in memory", "by themselves", "of two files", "of two names", "given"])
def test_filters_that_keep_to_themselves_tell_of_their_own_refusals(wrap, tmp_path, monkeypatch, way):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    files = [f"sqlite:{tmp_path}/{name}.db" for name in ("one", "two")]
    stores = [SqliteRunStore(tmp_path / f"{name}.db") for name in ("one", "two")]
    more = {
        "in memory": [{"store": "memory:", "name": "shop"}] * 2,
        "by themselves": [{}, {}],
        "of two files": [{"store": file, "name": "shop"} for file in files],
        "of two names": [{"store": files[0], "name": name} for name in ("shop", "bank")],
        "given": [{"run_store": given, "name": "shop"} for given in stores],
    }[way]
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "_pytest")  # as if this were no test run, in which all is kept in memory
        filters = [wrap(task={"cleanup": {"interval": 3600}}, guard=True, **one) for one in more]
    for number, one in enumerate(filters):
        one.start()
        be_refused(one, number + 1)

    told = [told_by(one) for one in filters]

    assert told == [1, 2]
    for one, store in zip(filters, stores, strict=True):
        one.close()
        store.close()


def test_of_filters_that_are_one_process_to_their_store_each_tells_it_what_failed_for_all(wrap):
    store = MemoryRunStore()
    filters = [wrap(task={"cleanup": {"interval": 3600}}, run_store=store) for _ in range(2)]
    for one in filters:
        one.start()

    told = []
    for number in (0, 1, 0):
        filters[number]._engine.fleet.beat(number + 1)
        told += [one.store_errors for one in store.instances()]

    assert told == [1, 3, 3]


def told_by(middleware: PulseMiddleware) -> int:
    middleware._engine.fleet.beat()
    (instance,) = middleware.run_store.instances()
    return instance.refused


def test_without_the_guard_the_endpoint_can_be_opened_by_hand(wrap, site):
    app = webtest.TestApp(wrap(task={"cleanup": {}}))

    assert app.get("/pulse/cleanup").text == "page"
    assert site.calls[0][1] is False


def test_neighbours_of_a_guarded_path_stay_open(wrap):
    app = webtest.TestApp(wrap(task={"cleanup": {}}, context="sessions", guard=True))

    assert app.get("/sessions/login").text == "page"
    app.get("/sessions/cleanup2")


def test_guard_scope_context_closes_the_whole_context(wrap):
    app = webtest.TestApp(wrap(task={"cleanup": {}}, context="sessions", guard=True, guard_scope="context"))

    app.get("/sessions/login", status=404)
    app.get("/sessions2")


def test_the_token_lets_a_call_by_hand_pass_as_internal(wrap, site):
    app = webtest.TestApp(wrap(task={"cleanup": {}}, guard=True, token=TOKEN))

    app.get("/pulse/cleanup", headers={"Authorization": f"Bearer {TOKEN}x"}, status=404)
    app.get(f"/pulse/cleanup?token={TOKEN}", status=404)
    app.post("/pulse/cleanup", headers={"Authorization": f"Bearer {TOKEN}"}, status=200)

    assert [call[:2] for call in site.calls] == [("/pulse/cleanup", True)]


def test_outside_requests_lose_what_only_pulse_may_say(wrap):
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    environ = {
        "pulse.info": {},
        "pulse.internal": "yes",
        "HTTP_X_PULSE_TASK": "a",
        "pulse.session": 1,
        "PATH_INFO": "/x",
    }
    setup_testing_defaults(environ)

    PulseMiddleware(app, start="manual")(environ, lambda *args: None)

    assert not {"pulse.info", "pulse.internal", "HTTP_X_PULSE_TASK"} & seen.keys()
    assert seen["pulse.session"] == 1


def test_outside_requests_pass_unchanged_through_validators_on_both_sides():
    @validator
    def app(environ, start_response):
        write = start_response("201 Made", [("Content-Type", "text/plain"), ("X-Own", "1")])
        write(b"written ")
        return [b"and ", b"returned"]

    middleware = PulseMiddleware(app, task={"a": {}}, start="manual", guard=True)

    response = webtest.TestApp(validator(middleware)).get("/x")

    assert (response.status, response.headers["X-Own"], response.body) == ("201 Made", "1", b"written and returned")


def test_the_response_of_the_application_is_returned_as_it_is(wrap):
    body = [b"x"]
    middleware = PulseMiddleware(lambda environ, start_response: body, start="manual")
    environ: dict = {}
    setup_testing_defaults(environ)

    assert middleware(environ, lambda *args: None) is body


def test_exc_info_of_the_application_reaches_the_server(wrap):
    calls = []

    def app(environ, start_response):
        try:
            raise KeyError("x")
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        return []

    environ: dict = {}
    setup_testing_defaults(environ)
    PulseMiddleware(app, start="manual")(environ, lambda *args: calls.append(args))

    assert calls[0][2][0] is KeyError


def test_one_pulse_inside_another_is_one_application(site):
    inner = PulseMiddleware(site, task={"inner": {"interval": 3600}}, guard=True, start="manual")
    outer = PulseMiddleware(
        inner, task={"outer": {"action": "/pulse/inner", "interval": 3600}}, guard=True, start="manual"
    )

    run = outer.run_now("outer")

    assert run.outcome is Outcome.SUCCESS
    assert site.calls[0][:2] == ("/pulse/inner", True)
    webtest.TestApp(outer).get("/pulse/inner", status=404)


def test_an_endpoint_that_calls_itself_through_the_full_stack_gets_404(wrap):
    answers = []

    def app(environ, start_response):
        inner: dict = {"PATH_INFO": "/pulse/a"}
        setup_testing_defaults(inner)
        b"".join(middleware(inner, lambda status, headers, exc_info=None: answers.append(status)))
        start_response("200 OK", [])
        return []

    middleware = PulseMiddleware(app, task={"a": {}}, guard=True, start="manual")

    assert middleware.run_now("a").outcome is Outcome.SUCCESS
    assert answers == ["404 Not Found"]


@pytest.mark.parametrize(("said", "times"), [({}, 1), ({"guard": False}, 0), ({"guard": True}, 0)])
def test_that_the_guard_is_off_is_said_once_unless_somebody_wrote_that_it_is_to_be(wrap, caplog, said, times):
    caplog.set_level(logging.INFO)
    wrap(task={"a": {}}, **said).start()
    events = [getattr(record, "pulse_event", "") for record in caplog.records]

    assert events.count("guard_off") == times


def test_a_process_that_rings_clears_away_what_others_have_left_years_ago(wrap, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = tmp_path / "pulse"
    folder.mkdir()
    old, new = folder / "blog-0123456789ab.db", folder / "news-0123456789ab.db"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))

    wrap(task={"a": {}}, name="shop").start()

    assert {file.name.partition("-")[0] for file in folder.iterdir()} == {"news", "shop"}


def test_the_folder_of_a_store_that_was_given_is_left_as_it_is(wrap, tmp_path):
    names = ["blog-0123456789ab.db", "news-0123456789ab.db", "shop-0123456789ab.db"]
    for name in names:
        (tmp_path / name).touch()
    os.utime(tmp_path / names[0], (0, 0))
    store = SqliteRunStore(tmp_path / "runs.db", name="shop")

    middleware = wrap(task={"a": {}}, run_store=store)
    middleware.start()
    middleware.close()
    store.close()

    assert {file.name for file in tmp_path.iterdir()} >= set(names)


def test_that_a_process_rings_is_said_in_one_line(wrap, caplog):
    caplog.set_level(logging.INFO)
    wrap(task={"a": {}}).start()

    assert [record.pulse_event for record in caplog.records if "ringing" in record.getMessage()] == ["ringing"]


@pytest.mark.parametrize(
    ("options", "why"),
    [({"task": {"a": {}}, "enabled": False}, "pulse.config.enabled = false"), ({}, "there are no tasks")],
)
def test_a_process_that_has_nothing_to_run_says_why(wrap, caplog, options, why):
    caplog.set_level(logging.INFO)
    wrap(**options).start()

    [said] = [record for record in caplog.records if record.pulse_event == "nothing_to_run"]
    assert said.getMessage() == f"nothing is run in this process: {why}"


def test_ten_thousand_tasks_start_and_fire_with_few_threads(wrap, site):
    before = threading.active_count()
    # Bounded: where others leave this process hardly a processor, its runs seem to wait, and more may join them.
    soon = {"interval": 10, "offset": round(time.time() + 2, 1) % 10}
    middleware = wrap(task={f"t{number}": soon for number in range(10_000)}, workers=4)

    middleware.start()

    wait_until(lambda: len(site.calls) >= 10_000, 90)
    assert threading.active_count() <= before + 4 + 4  # the workers, and what watches over them
    assert len({path for path, _, _ in site.calls[:10_000]}) > 9_000


def test_a_late_ring_is_recorded_as_late(wrap):
    middleware = wrap(task={"a": {"interval": 0.2}})
    middleware.start()
    wait_until(lambda: middleware.run_store.history("a"))

    assert timedelta(0) <= middleware.run_store.history("a")[-1].lateness < timedelta(seconds=10)


SCRIPT = """
import pulse
def app(environ, start_response): raise SystemExit("requested")
middleware = pulse.PulseMiddleware(app, task={"a": {"interval": 0.1}})
"""


def test_a_script_that_builds_and_returns_ends_at_once():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_script_that_starts_and_returns_ends_too():
    script = SCRIPT.replace("0.1", "3600") + "middleware.start()\n"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)

    assert done.returncode == 0


def test_a_hung_run_does_not_keep_the_interpreter_alive():
    script = """
import pulse, threading
begun = threading.Event()
def app(environ, start_response):
    begun.set()
    threading.Event().wait(600)
middleware = pulse.PulseMiddleware(app, task={"a": {"interval": 0.1}}, shutdown_timeout=1)
middleware.start()
assert begun.wait(30)
"""
    begun = time.monotonic()

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)

    assert done.returncode == 0
    assert time.monotonic() - begun < 30


def test_at_the_end_of_the_process_no_middleware_begins_a_run_while_it_waits_for_those_of_another():
    script = """
import pulse, threading, time
drained = threading.Semaphore(0)
def app(environ, start_response):
    print(environ["PATH_INFO"])
    if environ["PATH_INFO"].endswith("long"):
        drained.release()
        time.sleep(2)
    start_response("200 OK", [])
    return [b""]
tasks = {"long": {"interval": "365d", "run_at_startup": True}, "tick": {"interval": 0.1}}
both = [pulse.PulseMiddleware(app, task=tasks, store="memory:") for _ in range(2)]
for middleware in both:
    middleware.start()
for _ in both:
    assert drained.acquire(timeout=30)
print("leaving")
"""
    command = [sys.executable, "-uc", script]

    done = subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)

    assert done.stdout.count("/pulse/long") == 2
    # One of each may just have been on its way.
    assert done.stdout.partition("leaving")[2].count("/pulse/tick") <= 2


def test_importing_pulse_imports_and_starts_nothing():
    script = """
import sys, threading, pulse
heavy = {"redis", "fastapi", "starlette", "bareasgi", "uvicorn", "pywry", "apscheduler", "webob"} & set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == 1
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
