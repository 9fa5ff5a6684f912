"""The status page as the middleware mounts it: who gets in, and what is pressed there."""

import json
import threading
from datetime import timedelta
from functools import partial

import pytest
import webtest
from servers import wait_until

from pulse.hand import ALONE
from pulse.middleware import PulseMiddleware
from pulse.model import Outcome
from pulse.status.login import code_key, make_code
from pulse.testing import ManualClock

TOKEN = "a-token-of-more-than-sixteen-characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def site(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"page"]


@pytest.fixture
def mount():
    made: list[PulseMiddleware] = []

    def make(*, app=site, **options) -> webtest.TestApp:
        options = {"start": "manual", "guard": True, "status": "/_pulse", "token": TOKEN, **options}
        made.append(PulseMiddleware(app, task={"cleanup": {"interval": 3600}}, **options))
        return webtest.TestApp(made[-1])

    yield make
    for one in made:
        one.close()


def test_without_an_address_there_is_no_status_page(mount):
    assert mount(status=None).get("/_pulse/").text == "page"


def test_strangers_get_the_answer_of_the_guard(mount):
    app = mount()

    stranger, guarded = app.get("/_pulse/runs", status=404), app.get("/pulse/cleanup", status=404)

    assert (stranger.headers["Cache-Control"], stranger.body) == (guarded.headers["Cache-Control"], guarded.body)
    assert app.get("/_pulsefoo").text == "page"


def test_the_token_opens_it_and_runs_a_task(mount):
    app = mount()
    middleware = app.app
    assert "cleanup" in app.get("/_pulse/", headers=BEARER).text

    app.post("/_pulse/api/tasks/cleanup/run", "{}", headers={**BEARER, "Content-Type": "application/json"})

    wait_until(lambda: middleware.run_store.history("cleanup"))
    assert middleware.run_store.history("cleanup")[0].outcome is Outcome.SUCCESS


def test_a_process_that_does_not_ring_makes_a_few_calls_by_hand_at_once_and_says_why_no_more(mount):
    release = threading.Event()

    def slow(environ, start_response):
        release.wait(30)
        return site(environ, start_response)

    app = mount(app=slow, store="memory:")
    press = partial(app.post_json, "/_pulse/api/tasks/cleanup/run", {"force": True}, headers=BEARER)
    for _ in range(ALONE):
        press(status=202)

    refused = press(status=503)

    assert "8 calls by hand are under way" in refused.json["error"]
    release.set()
    wait_until(lambda: len(app.app.run_store.history("cleanup")) == ALONE)
    wait_until(lambda: press(status=[202, 503]).status_code == 202)


def test_a_call_by_hand_for_which_there_is_no_thread_leaves_its_place_to_the_next(mount, monkeypatch):
    app = mount(store="memory:")
    hand = app.app._hand
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for _ in range(ALONE):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                hand.start_run("cleanup", force=True, by="mara")

    hand.start_run("cleanup", force=True, by="mara")

    wait_until(lambda: app.app.run_store.history("cleanup"))


def no_thread(_thread):
    raise RuntimeError("can't start new thread")  # as Python says it


@pytest.mark.parametrize("is_ringing", [False, True])
def test_a_run_that_failed_is_tried_again_as_the_same_run(mount, is_ringing):
    answers = ["500 Oops", "200 OK"]
    seen = []

    def flaky(environ, start_response):
        seen.append((environ["HTTP_X_PULSE_RUN"], environ["HTTP_X_PULSE_DUE"], environ["HTTP_X_PULSE_ATTEMPT"]))
        start_response(answers.pop(0), [])
        return []

    app = mount(app=flaky)
    middleware = app.app
    if is_ringing:
        middleware.start()
    failed = middleware.run_now("cleanup")

    said = app.post_json("/_pulse/api/tasks/cleanup/retry", {"run": failed.id}, headers=BEARER, status=202).json

    assert said == {"task": "cleanup", "run": failed.id, "attempt": 2}
    wait_until(lambda: len(middleware.run_store.history("cleanup")) == 2)
    again = middleware.run_store.history("cleanup")[0]
    assert (again.id, again.due, again.attempt, again.outcome) == (failed.id, failed.due, 2, Outcome.SUCCESS)
    assert seen == [(failed.id, failed.due.isoformat(), "1"), (failed.id, failed.due.isoformat(), "2")]
    assert app.get("/_pulse/api/audit", headers=BEARER).json["presses"][0]["action"] == "retry"


def test_a_pause_that_is_pressed_is_a_pause_of_the_fleet(mount):
    app = mount()

    app.post_json("/_pulse/api/tasks/cleanup/pause", {"note": "feed is down"}, headers=BEARER)

    assert app.app.run_store.pauses()["cleanup"].note == "feed is down"


def test_a_read_only_page_has_no_effect(mount):
    app = mount(status_readonly=True)

    app.post_json("/_pulse/api/tasks/cleanup/pause", {}, headers=BEARER, status=[403, 404, 405])

    assert app.app.run_store.pauses() == {}


def test_whoever_the_application_knows_needs_no_token(mount):
    app = mount(token=None, authenticate=lambda environ: environ.get("REMOTE_USER"))

    app.get("/_pulse/", status=404)
    assert "cleanup" in app.get("/_pulse/", extra_environ={"REMOTE_USER": "ada"}).text


def test_health_and_live_are_for_everybody_and_name_nothing(mount):
    app = mount()

    health = app.get("/_pulse/health", status="*")

    assert health.status_int in (200, 503)
    assert "cleanup" not in health.text
    assert set(json.loads(health.text)) == {"status", "reasons", "store", "heartbeat_age", "late_tasks"}
    assert app.get("/_pulse/live").status_int == 200


# Codes


def code_of(app):
    middleware = app.app
    return make_code(code_key(middleware.config.token, middleware.run_store.secret()), middleware._clock.now())


def test_a_code_logs_in_once(mount):
    app = mount(token=None)
    code = code_of(app)

    app.get(f"/_pulse/login?code={code}", status=303)
    assert "cleanup" in app.get("/_pulse/").text

    other = webtest.TestApp(app.app)
    other.get(f"/_pulse/login?code={code}", status=404)
    other.get("/_pulse/", status=404)


def test_a_code_has_ended_after_ten_minutes(mount):
    clock = ManualClock()
    app = mount(token=None, clock=clock)
    code = code_of(app)

    clock.advance(timedelta(minutes=10))

    app.get(f"/_pulse/login?code={code}", status=404)


@pytest.mark.parametrize("code", ["", "x", "WyJhIiwxXQ.signature", "%00", "é"])
def test_what_is_no_code_is_nothing(mount, code):
    mount(token=None).get("/_pulse/login", {"code": code}, status=404)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_code_of_another_application_is_nothing_though_both_have_the_same_token(mount, token):
    one, other = mount(token=token), mount(token=token)
    code = code_of(one)

    other.get("/_pulse/login", {"code": code}, status=404)
    one.get("/_pulse/login", {"code": code}, status=303)

    assert "cleanup" in one.get("/_pulse/").text
    cookie = {"Cookie": f"pulse_status={one.cookies['pulse_status']}", "Accept": "text/html"}
    assert webtest.TestApp(one.app).get("/_pulse/", headers=cookie).status_int == 200
    assert webtest.TestApp(other.app).get("/_pulse/", headers=cookie, status=[303, 404])


def test_who_has_but_the_token_makes_no_code(mount):
    app = mount()

    for key in (TOKEN, code_key(TOKEN, "")):
        app.get("/_pulse/login", {"code": make_code(key, app.app._clock.now())}, status=404)


def test_the_codes_of_an_application_end_with_its_token(mount, tmp_path):
    store = f"sqlite:{tmp_path / 'runs.db'}"
    before, after = mount(store=store), mount(store=store, token=f"{TOKEN}-renewed")

    after.get("/_pulse/login", {"code": code_of(before)}, status=404)
    before.get("/_pulse/login", {"code": code_of(before)}, status=303)


def test_codes_cannot_be_tried_for_ever(mount):
    app = mount(token=None)
    for _ in range(5):
        app.get("/_pulse/login?code=x", status=404, extra_environ={"REMOTE_ADDR": "10.0.0.1"})
    code = code_of(app)

    app.get("/_pulse/login", {"code": code}, status=404, extra_environ={"REMOTE_ADDR": "10.0.0.1"})
    app.get("/_pulse/login", {"code": code}, status=303, extra_environ={"REMOTE_ADDR": "10.0.0.2"})


def test_the_secret_never_opens_the_guard(mount):
    app = mount(token=None)

    app.get("/pulse/cleanup", headers={"Authorization": f"Bearer {app.app.run_store.secret()}"}, status=404)
