import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from status_window import BEARER, NOON, BrokenStore, Window
from webob import Request

from pulse.errors import ClosedError, StoreUnavailableError
from pulse.model import Outcome, Pause, Press, Run, Trigger
from pulse.status.controls import Ringing

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


# What is pressed


@pytest.fixture
def window():
    return Window({"cleanup": {"interval": "1h"}, "report": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}})


def press(window, path, *, remote="192.0.2.1", **said):
    browser, proof = window.log_in()
    return window.ask(path, "POST", headers=browser, form={"proof": proof, **said}, remote=remote)


def test_run_now_starts_a_run_and_leads_back_to_the_page(window):
    answer = press(window, "/tasks/cleanup/run", back="?state=failing")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/_pulse/?state=failing&did=run&of=cleanup")
    assert window.controls.pressed == [("run", "cleanup", False, "mara")]


def test_the_page_says_what_was_done(window):
    assert "cleanup was started." in window.see("/?did=run&of=cleanup").text
    assert "was started" not in window.see("/?did=run&of=nothing").text


@pytest.mark.parametrize(
    ("said", "until"),
    [
        ({"for": "15m"}, NOON + 15 * MINUTE),
        ({"for": "1h"}, NOON + HOUR),
        ({"for": "1h", "until": "2027-01-05T08:00"}, NOON + HOUR),
        ({"for": "ever"}, None),
        ({"for": "ever", "until": "2027-01-05T08:00"}, None),
        ({}, None),
        ({"for": "until", "until": "2027-01-05T08:00"}, datetime(2027, 1, 5, 7, tzinfo=UTC)),
        ({"until": "2027-01-05T08:00:00+00:00"}, datetime(2027, 1, 5, 8, tzinfo=UTC)),
    ],
)
def test_a_pause_lasts_as_long_as_was_said_by_the_clock_of_the_task(window, said, until):
    assert press(window, "/tasks/report/pause", note="the feed\n is down", **said).status_code == 303

    assert window.controls.pressed == [("pause", "report", until, "the feed is down", "mara")]


@pytest.mark.parametrize(
    "said",
    [
        {"for": "soon"}, {"for": "0s"}, {"for": "-1h"}, {"for": "99999d"}, {"for": "until"}, {"for": "until", "until": "x"},
        {"until": "2026-12-31T08:00"}, {"until": "9999-12-31T08:00"}, {"note": "x" * 201},
    ],
)  # fmt: skip
def test_a_pause_that_makes_no_sense_is_refused(window, said):
    answer = press(window, "/tasks/report/pause", **said)

    assert answer.status_code == 400
    assert "want" in answer.text
    assert window.controls.pressed == []


def test_cancel_asks_every_run_under_way_to_stop_or_the_one_that_is_named(window):
    for run_id in ("run-1", "run-2"):
        run = Run(id=run_id, task="cleanup", due=NOON, started=NOON, expires=NOON + MINUTE, owner=run_id)
        window.store._hold(run)

    named = window.ask("/api/tasks/cleanup/cancel", "POST", headers=BEARER, json={"run": "run-2"})
    assert [run.id for run in window.store.running() if run.stop] == ["run-2"]
    press(window, "/tasks/cleanup/cancel", note="it takes too long")

    assert named.json == {"task": "cleanup", "asked_to_stop": ["run-2"]}
    assert window.ask("/api/tasks/report/cancel", "POST", headers=BEARER).json["asked_to_stop"] == []
    assert {run.stop for run in window.store.running()} == {
        "cancelled by mara: it takes too long",
        "cancelled by a program with the token",
    }
    page = window.see().text
    assert 'aria-label="Cancel cleanup"' in page
    assert 'aria-label="Run cleanup now"' not in page
    assert "runs: 2; it takes too long" in window.see("/audit").text


def test_resume_ends_a_pause(window):
    window.store.pause("cleanup", Pause(since=NOON))

    press(window, "/tasks/cleanup/resume")

    assert window.store.pauses() == {}


def test_getting_an_address_presses_nothing(window):
    for action in ("run", "pause", "resume"):
        window.see(f"/tasks/cleanup/{action}")
        window.ask(f"/api/tasks/cleanup/{action}", headers=BEARER)

    assert window.controls.pressed == []


@pytest.mark.parametrize(
    "path", ["/tasks/nothing/run", "/tasks/cleanup/delete", "/tasks/cleanup/__init__", "/tasks/cleanup", "/run"]
)
def test_what_is_not_there_cannot_be_pressed(window, path):
    assert press(window, path).status_code == 404
    assert window.controls.pressed == []


def test_a_window_for_reading_has_no_buttons_and_takes_no_presses():
    window = Window(is_readonly=True)

    page = window.see().text
    answer = window.ask("/api/tasks/cleanup/run", "POST", headers=BEARER, json={})

    assert "Run now" not in page
    assert "read only" in page
    assert answer.status_code == 403
    assert window.controls.pressed == []


@pytest.mark.parametrize(
    ("form", "status"),
    [({"proof": "x" * 70_000}, 413), ({str(number): "" for number in range(30)}, 400)],
)
def test_a_form_that_is_too_large_is_refused(window, form, status):
    browser, _ = window.log_in()

    assert window.ask("/tasks/cleanup/run", "POST", headers=browser, form=form).status_code == status


class Endless:
    """A body in chunks that does not end, as a server hands it on."""

    def __init__(self):
        self.given = 0

    def read(self, size=-1):
        assert 0 < size < 1_000_000
        part = b"x" * min(size, 1000)
        self.given += len(part)
        return part


@pytest.mark.parametrize(
    ("path", "headers"), [("/login", {}), ("/api/tasks/cleanup/pause", BEARER), ("/tasks/cleanup/run", BEARER)]
)
def test_of_a_body_without_a_length_no_more_is_read_than_a_form_may_have(window, path, headers):
    body = Endless()
    request = Request.blank(f"/_pulse{path}", method="POST", headers=headers)
    request.content_type = "application/x-www-form-urlencoded"
    request.environ.update({"wsgi.input": body, "wsgi.input_terminated": True, "webob.is_body_seekable": False})

    assert request.get_response(window.app).status_code == 413
    assert body.given < 100_000


@pytest.mark.parametrize("path", ["/login", "/api/tasks/cleanup/pause"])
def test_a_body_that_breaks_off_is_refused(window, path):
    request = Request.blank(f"/_pulse{path}", method="POST", headers=BEARER if "api" in path else {}, body=b"token=")
    request.content_type = "application/x-www-form-urlencoded"
    request.content_length = 100
    request.environ["webob.is_body_seekable"] = False  # a line is not

    assert request.get_response(window.app).status_code == 400


def test_what_was_pressed_is_in_the_audit_and_in_the_log(window, caplog):
    caplog.set_level("INFO")

    press(window, "/tasks/cleanup/pause", note="the feed is down", **{"for": "1h"})

    (said,) = [record for record in caplog.records if getattr(record, "pulse_event", "") == "pressed"]
    assert (said.levelname, said.pulse_task, said.pulse_action) == ("INFO", "cleanup", "pause")
    page = window.see("/audit").text
    for word in ("mara", "192.0.2.1", "pause", "the feed is down"):
        assert word in page


def test_the_audit_is_that_of_the_whole_fleet(window):
    other = Window({"cleanup": {"interval": "1h"}}, store=window.store)

    press(window, "/tasks/cleanup/pause", note="the feed is down", **{"for": "1h"})

    (pressed,) = other.ask("/api/audit", headers=BEARER).json["presses"]
    assert pressed == {
        "at": NOON.isoformat(), "by": "mara", "address": "192.0.2.1", "action": "pause", "task": "cleanup",
        "details": "until Fri 01 Jan 2027 13:00:00 UTC: the feed is down",
    }  # fmt: skip


def test_the_audit_has_pages(window):
    for number in range(60):
        window.store.keep_press(Press(at=NOON, by=f"user-{number:02}", address="", action="run now", task="cleanup"))

    first, second = window.see("/audit").text, window.see("/audit?page=2").text

    assert ("user-59" in first, "user-09" in first) == (True, False)
    assert ("user-59" in second, "user-09" in second) == (False, True)


def test_a_press_that_the_store_does_not_keep_is_done_and_said_in_the_log(window, caplog, monkeypatch):
    def broken(press):
        raise StoreUnavailableError("the store is gone")

    monkeypatch.setattr(window.store, "keep_press", broken)

    answer = press(window, "/tasks/cleanup/pause", note="feed")

    assert answer.status_code == 303
    assert "cleanup" in window.store.pauses()
    (said,) = [record for record in caplog.records if getattr(record, "pulse_event", "") == "press_unkept"]
    assert said.levelname == "WARNING"
    for word in ("pause", "cleanup", "mara", "192.0.2.1", "feed"):
        assert word in said.getMessage()


# Retry


def test_a_run_that_failed_is_tried_again_from_its_page(window):
    window.record(outcome=Outcome.FAILED, status=500)
    window.record(id="run-0", outcome=Outcome.TIMEOUT, status=None, attempt=2)
    page = window.see("/tasks/cleanup/runs/run-0").text

    answer = press(window, "/tasks/cleanup/retry", run="run-0", back="tasks/cleanup/runs/run-0")

    assert 'action="/_pulse/tasks/cleanup/retry"' in page
    assert answer.headers["Location"] == "/_pulse/tasks/cleanup/runs/run-0?did=retry&of=cleanup"
    assert window.controls.pressed == [("retry", "cleanup", "run-0", 2, "mara")]
    assert "run run-0, attempt 3" in window.see("/audit").text
    assert "cleanup is tried again." in window.see("/tasks/cleanup/runs/run-0?did=retry&of=cleanup").text


def test_a_program_retries_a_run(window):
    window.record(outcome=Outcome.LOST, status=None)

    answer = window.ask("/api/tasks/cleanup/retry", "POST", headers=BEARER, json={"run": "run-0"})

    assert (answer.status_code, answer.json) == (202, {"task": "cleanup", "run": "run-0", "attempt": 2})


def test_what_succeeded_or_is_under_way_is_not_tried_again(window):
    window.record()
    window.store._hold(Run(id="r", task="cleanup", due=NOON, started=NOON, expires=NOON + MINUTE))

    answers = [
        window.ask("/api/tasks/cleanup/retry", "POST", headers=BEARER, json={"run": run}) for run in ("run-0", "r")
    ]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert "run-0 succeeded" in answers[0].json["error"]
    assert "r has not ended" in answers[1].json["error"]
    assert window.controls.pressed == []
    assert "/cleanup/retry" not in window.see("/tasks/cleanup/runs/run-0").text


@pytest.mark.parametrize("said", [{"run": "other"}, {}])
def test_a_run_that_is_not_kept_is_not_tried_again(window, said):
    window.record(outcome=Outcome.FAILED)

    answer = window.ask("/api/tasks/cleanup/retry", "POST", headers=BEARER, json=said)

    assert answer.status_code == 404
    assert window.controls.pressed == []


# Cancel


def test_a_run_under_way_is_cancelled_from_its_page_and_no_other_run_of_its_task(window):
    for run_id in ("r", "s"):
        window.store._hold(Run(id=run_id, task="cleanup", due=NOON, started=NOON, expires=NOON + MINUTE))
    window.record()

    assert 'action="/_pulse/tasks/cleanup/cancel"' in window.see("/tasks/cleanup/runs/r").text
    assert "/cleanup/cancel" not in window.see("/tasks/cleanup/runs/run-0").text
    answer = press(window, "/tasks/cleanup/cancel", run="r", back="tasks/cleanup/runs/r")

    assert answer.headers["Location"] == "/_pulse/tasks/cleanup/runs/r?did=cancel&of=cleanup"
    assert {run.id: run.stop for run in window.store.running()} == {"r": "cancelled by mara", "s": ""}


def test_an_attempt_that_waits_has_a_page_from_which_its_run_is_tried_at_once(window):
    window.record(outcome=Outcome.FAILED, status=500)
    window.store._hold(
        Run(id="run-0", task="cleanup", due=NOON, attempt=2, trigger=Trigger.RETRY, expires=NOON + MINUTE)
    )

    page = window.see("/tasks/cleanup/runs/run-0?attempt=2")
    known = window.ask("/api/tasks/cleanup/runs/run-0?attempt=2", headers=BEARER)
    press(window, "/tasks/cleanup/retry", run="run-0")

    assert page.status_code == known.status_code == 200
    assert "waiting" in page.text
    assert "/cleanup/cancel" not in page.text
    assert "/cleanup/retry" in page.text
    assert window.controls.pressed == [("retry", "cleanup", "run-0", 1, "mara")]


# Clear history


def test_the_history_of_a_task_is_cleared_when_somebody_is_sure(window):
    window.record()
    window.record("report", outcome=Outcome.FAILED, due=NOON - HOUR)
    page = window.see("/tasks/cleanup").text

    refused = press(window, "/tasks/cleanup/clear")
    kept = len(window.store.history("cleanup"))
    done = press(window, "/tasks/cleanup/clear", sure="true", back="tasks/cleanup")

    assert 'name="sure" value="true" required' in page
    assert (refused.status_code, kept) == (400, 1)
    assert done.headers["Location"] == "/_pulse/tasks/cleanup?did=clear&of=cleanup"
    assert window.store.history("cleanup") == []
    assert len(window.store.history("report")) == 1
    assert "records: 1" in window.see("/audit").text
    assert "cleanup has no history any more." in window.see("/tasks/cleanup?did=clear&of=cleanup").text


def test_a_program_clears_a_history(window):
    window.record()

    unsure = window.ask("/api/tasks/cleanup/clear", "POST", headers=BEARER, json={"sure": False})
    sure = window.ask("/api/tasks/cleanup/clear", "POST", headers=BEARER, json={"sure": True})

    assert unsure.status_code == 400
    assert sure.json == {"task": "cleanup", "cleared": 1}
    assert window.ask("/api/tasks/cleanup", headers=BEARER).json["totals"] == {"success": 1}


@pytest.mark.parametrize("action", ["retry", "clear"])
def test_a_window_for_reading_neither_retries_nor_clears(action):
    window = Window(is_readonly=True)
    window.record(outcome=Outcome.FAILED)
    said = {"run": "run-0", "sure": True}

    answer = window.ask(f"/api/tasks/cleanup/{action}", "POST", headers=BEARER, json=said)

    assert answer.status_code == 403
    assert len(window.store.history("cleanup")) == 1
    assert "/retry" not in window.see("/tasks/cleanup/runs/run-0").text
    assert "/clear" not in window.see("/tasks/cleanup").text


@pytest.mark.parametrize("action", ["retry", "clear"])
def test_a_form_of_another_site_neither_retries_nor_clears(window, action):
    window.record(outcome=Outcome.FAILED)
    browser, proof = window.log_in()
    headers = {**browser, "Sec-Fetch-Site": "cross-site"}
    said = {"proof": proof, "run": "run-0", "sure": "true"}

    assert window.ask(f"/tasks/cleanup/{action}", "POST", headers=headers, form=said).status_code == 403
    assert (
        window.ask(f"/tasks/cleanup/{action}", "POST", headers=browser, form={**said, "proof": ""}).status_code == 403
    )
    assert window.controls.pressed == []
    assert len(window.store.history("cleanup")) == 1


def test_a_process_that_is_ending_starts_nothing(window):
    def closed(*args, **kwargs):
        raise ClosedError("the workers were closed")

    window.controls.start_run = closed

    assert press(window, "/tasks/cleanup/run").status_code == 503
    assert window.see("/audit").text.count("run now") == 0


# Programs


def test_a_program_presses_with_the_token_alone(window):
    run = window.ask("/api/tasks/cleanup/run", "POST", headers=BEARER, json={"force": True})
    pause = window.ask(
        "/api/tasks/cleanup/pause", "POST", headers=BEARER, json={"for": "1h", "note": "why", "until": None}
    )
    resume = window.ask("/api/tasks/cleanup/resume", "POST", headers=BEARER)

    assert (run.status_code, run.json) == (202, {"task": "cleanup", "run": "run-1"})
    assert pause.json == {"task": "cleanup", "paused": True, "until": (NOON + HOUR).isoformat(), "note": "why"}
    assert resume.json == {"task": "cleanup", "was_paused": True}
    assert window.controls.pressed[0] == ("run", "cleanup", True, "a program with the token")


@pytest.mark.parametrize(
    "body", ["{", "[]", "1", '{"for": {}}', '{"for": [1]}', "\xff", "[" * 20_000, '{"for": ' + "1" * 5_000 + "}"]
)
def test_a_program_that_sends_nonsense_is_told(window, body):
    headers = {**BEARER, "Content-Type": "application/json"}

    answer = _raw(window, "/api/tasks/cleanup/pause", headers, body.encode("latin-1"))

    assert answer.status_code == 400
    assert answer.json["error"]


@pytest.mark.parametrize(
    ("action", "said", "wanted"),
    [
        ("pause", {"fro": "1h"}, "'fro': want for or until or note or nothing"),
        ("pause", {"For": "1h", "note": "why"}, "'For': want for or until or note or nothing"),
        ("run", {"forced": True}, "'forced': want force or nothing"),
        ("resume", {"run": "x"}, "'run': want nothing"),
        ("pause", {"\ud800": "x"}, "'\\ud800': want for or until or note or nothing"),
    ],
)
def test_a_program_that_misspells_a_word_is_told_and_nothing_is_done(window, action, said, wanted):
    answer = window.ask(f"/api/tasks/cleanup/{action}", "POST", headers=BEARER, json=said)

    assert (answer.status_code, answer.json["error"]) == (400, wanted)
    assert window.controls.pressed == []


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "foo", "base64", ""])
def test_json_is_read_whatever_charset_a_program_names(window, charset):
    headers = {**BEARER, "Content-Type": f"application/json; charset={charset}"}

    answer = _raw(window, "/api/tasks/cleanup/pause", headers, '{"note": "é"}'.encode())

    assert (answer.status_code, answer.json["note"]) == (200, "é")


@pytest.mark.parametrize("path", ["/", "/api/tasks", "/tasks/cleanup/run"])
def test_another_method_is_told_which_there_are(window, path):
    answer = window.ask(path, "DELETE", headers=BEARER)

    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, POST")


def test_a_page_presses_for_programs_with_its_proof(window):
    browser, proof = window.log_in()
    path = "/api/tasks/cleanup/run"

    assert window.ask(path, "POST", headers=browser, json={}).status_code == 403
    assert window.ask(path, "POST", headers={**browser, "X-Status-Proof": proof}, json={}).status_code == 202
    assert window.ask("/api/", headers=browser).json["proof"] == proof


def test_a_program_reads_what_the_pages_show(window):
    window.ring()
    window.record(body=b"swept", errors=b"oops", reason="why")
    window.store._hold(Run(id="r", task="cleanup", due=NOON, started=NOON, expires=NOON + MINUTE))

    index = window.ask("/api/", headers=BEARER).json
    tasks = window.ask("/api/tasks", headers=BEARER).json
    task = window.ask("/api/tasks/cleanup", headers=BEARER).json
    runs = window.ask("/api/tasks/cleanup/runs", headers=BEARER).json["runs"]
    run = window.ask("/api/tasks/cleanup/runs/run-0", headers=BEARER).json

    assert any(line.startswith("POST api/tasks/<name>/run") for line in index["addresses"])
    assert [(one["task"], one["state"]) for one in tasks["tasks"]] == [("cleanup", "running"), ("report", "new")]
    assert task["totals"] == {"success": 1}
    assert task["next_due"] == (NOON + HOUR).isoformat()
    assert len(task["due"]) == 10
    assert [one["outcome"] for one in runs] == [None, "success"]
    assert (run["body"], run["errors"], run["duration"], run["lateness"]) == ("swept", "oops", 0.4, 0.0)
    assert window.ask("/api/workers", headers=BEARER).json["workers"][0]["host"] == "web1"
    assert window.ask("/api/configuration", headers=BEARER).json["options"]
    assert window.ask("/api/audit", headers=BEARER).json == {"presses": []}


def test_a_program_chooses_tasks_by_state_and_word(window):
    window.record(outcome=Outcome.FAILED)

    def names(query):
        return [task["task"] for task in window.ask(f"/api/tasks{query}", headers=BEARER).json["tasks"]]

    assert names("?state=failing") == ["cleanup"]
    assert names("?q=REPORT") == ["report"]
    assert names("?size=1&page=2") == ["report"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("tasks?page=x", "page: want a whole number from 1 to 1000000"),
        ("tasks?size=-1", "size: want a whole number from 1 to 1000"),
        ("tasks?state=faling", "state: want one of new, ok, late, running, failing, paused, lost, disabled"),
        ("tasks/cleanup/runs?limit=0", "limit: want a whole number from 1 to 1000"),
        ("tasks/cleanup/runs?limit=%D9%A3", "limit: want a whole number from 1 to 1000"),
    ],
)
def test_a_program_that_asks_for_nonsense_is_told(window, path, problem):
    answer = window.ask(f"/api/{path}", headers=BEARER)

    assert (answer.status_code, answer.json["error"]) == (400, problem)


@pytest.mark.parametrize(
    "path",
    [
        "tasks?page=" + "9" * 5000,
        "tasks?page=" + "0" * 30 + "1",
        "tasks?size=&page=&state=",
        "tasks/cleanup/runs?limit=5000",
    ],
)
def test_a_program_that_asks_for_more_than_there_is_gets_what_there_is(window, path):
    assert window.ask(f"/api/{path}", headers=BEARER).status_code == 200


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("/api/tasks", "application/json"), ("/health", "application/json"), ("/metrics", "text/plain")],
)
def test_what_a_program_is_told_is_never_taken_for_a_page(window, path, content_type):
    answer = window.ask(path, headers=BEARER)

    assert answer.content_type == content_type
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# Health


def healthy(window):
    window.ring()
    window.record()
    window.record("report", due=NOON - timedelta(hours=10.5), id="run-r")
    return window


def test_all_is_well(window):
    healthy(window)
    window.clock.advance(2.5)

    answer = window.ask("/health")

    assert answer.status_code == 200
    assert answer.json == {"status": "ok", "reasons": [], "store": "ok", "heartbeat_age": 2.5, "late_tasks": 0}


def test_a_process_is_live_whatever_is_wrong():
    window = Window(store=BrokenStore(), config={"token": None})

    assert (window.ask("/live").status_code, window.ask("/live").json) == (200, {"status": "ok"})
    assert window.ask("/live", "POST", form={}).status_code == 404


def test_without_the_store_nothing_is_well():
    answer = Window(store=BrokenStore()).ask("/health")

    assert answer.status_code == 503
    assert answer.json == {
        "status": "failing",
        "reasons": ["the run store does not answer"],
        "store": "unavailable",
        "heartbeat_age": None,
        "late_tasks": None,
    }


def test_when_nobody_rings_somebody_is_told(window):
    healthy(window)
    window.clock.advance(31)

    answer = window.ask("/health", headers=BEARER)

    assert answer.json["reasons"] == ["no process rings"]
    assert answer.json["details"]["no process rings"] == {"last_heard_of": NOON.isoformat()}
    assert answer.json["heartbeat_age"] == 31.0


def test_where_nobody_rings_because_nobody_can_write_it_is_the_store_that_is_not_well(window, monkeypatch):
    def refuse():
        raise StoreUnavailableError("the run store redis://there cannot be used: it is a replica")

    healthy(window)
    monkeypatch.setattr(window.store, "reach", refuse)
    assert window.ask("/health").status_code == 200  # it is not asked what the beats have answered
    window.clock.advance(31)

    stranger, visitor = window.ask("/health"), window.ask("/health", headers=BEARER)

    assert stranger.status_code == 503
    assert stranger.json == {
        "status": "failing", "reasons": ["the run store cannot be used"], "store": "unavailable",
        "heartbeat_age": None, "late_tasks": None,
    }  # fmt: skip
    assert "it is a replica" in visitor.json["details"]["the run store cannot be used"]["error"]


def test_where_nobody_ever_rang_there_is_no_heartbeat(window):
    answer = window.ask("/health")

    assert (answer.json["reasons"], answer.json["heartbeat_age"]) == (["no process rings"], None)


def test_the_heartbeat_that_counts_is_the_youngest_and_never_one_to_come(window):
    healthy(window)
    window.clock.advance(20)
    window.ring(owner="web2:4711/1.x")
    window.clock.advance(4)

    assert window.ask("/health").json["heartbeat_age"] == 4.0
    window.ring(owner="web3:4711/1.x", seen=window.clock.now() + MINUTE)
    window.clock.advance(2)
    assert window.ask("/health").json["heartbeat_age"] == 0.0


def test_nobody_has_to_ring_for_tasks_that_are_disabled():
    assert Window({"cleanup": {"enabled": False}}).ask("/health").status_code == 200
    assert Window(config={"enabled": False}).ask("/health").status_code == 200


def test_threads_that_were_left_behind_and_a_stuck_scheduler_are_no_health(window):
    healthy(window)
    window.controls.said = Ringing(state="ringing", abandoned=2, next_ring=NOON - MINUTE)

    answer = window.ask("/health", headers=BEARER)

    assert answer.json["reasons"] == ["the scheduler is stuck", "threads were left behind"]
    assert answer.json["details"]["threads were left behind"] == {"threads": 2}


def test_a_task_that_did_not_run_is_told_by_whichever_process_is_asked(window):
    healthy(window)
    window.clock.advance(2 * HOUR + MINUTE)
    window.ring()

    stranger, visitor = window.ask("/health"), window.ask("/health", headers=BEARER)

    assert stranger.status_code == 503
    assert stranger.json == {
        "status": "failing", "reasons": ["tasks are overdue"], "store": "ok", "heartbeat_age": 0.0, "late_tasks": 1
    }  # fmt: skip
    assert visitor.json["details"]["tasks are overdue"] == {
        "count": 1,
        "tasks": {"cleanup": (NOON + HOUR).isoformat()},
    }
    assert "Overdue" in window.see("/tasks/cleanup").text


def test_a_paused_task_is_not_overdue(window):
    healthy(window)
    window.store.pause("cleanup", Pause(since=NOON))
    window.clock.advance(2 * HOUR + MINUTE)
    window.ring()

    assert window.ask("/health").status_code == 200


def test_strangers_who_ask_all_the_time_cost_nothing(window):
    healthy(window)
    asked = []
    moment = window.app._survey.moment
    window.app._survey.moment = lambda: asked.append(1) or moment()

    for _ in range(50):
        window.ask("/health")

    assert len(asked) == 1


class FrozenStore(BrokenStore):
    """Takes its time to answer nothing; meanwhile others ask."""

    def __init__(self):
        super().__init__()
        self.asked = 0
        self.meanwhile = lambda: None

    def running(self):
        return self._freeze()

    def secret(self):
        return self._freeze()

    def _freeze(self):
        self.asked += 1
        self.meanwhile()
        raise StoreUnavailableError("no answer")


def frozen(**more):
    window = Window(store=FrozenStore(), **more)
    window.store.meanwhile = lambda: window.clock.advance(2)
    return window


def test_strangers_who_ask_a_frozen_store_do_not_wait_for_it_each_time():
    window = frozen()

    answers = [window.ask("/health").status_code for _ in range(50)]

    assert answers == [503] * 50
    assert window.store.asked == 1


def test_whoever_asks_while_another_waits_for_the_store_is_told_what_was_known():
    window = frozen()
    window.ask("/health")
    window.clock.advance(2)
    answers = []
    window.store.meanwhile = lambda: answers.append(window.ask("/health").status_code)

    window.ask("/health")

    assert (answers, window.store.asked) == ([503], 2)


def test_strangers_who_have_a_frozen_store_asked_for_its_secret_do_not_wait_each_time():
    window = frozen(config={"token": None})

    answers = [window.ask("/").status_code for _ in range(50)]

    assert answers == [404] * 50
    assert window.store.asked == 1
    window.clock.advance(2)
    window.ask("/")
    assert window.store.asked == 2


def test_strangers_with_a_cookie_do_not_have_a_frozen_store_asked_each_time():
    window = frozen()

    answers = [window.ask("/runs", headers={"Cookie": "pulse_status=x", "Accept": "text/html"}) for _ in range(50)]

    assert {answer.status_code for answer in answers} == {303}
    assert window.store.asked == 1


def test_who_gave_the_token_is_known_though_the_store_does_not_answer():
    window = frozen()

    browser, _ = window.log_in()
    window.store.asked = 0

    assert window.ask("/configuration", headers=browser).status_code == 200
    assert window.store.asked == 0


# Metrics


def samples(window, **headers):
    answer = window.ask("/metrics", headers={**BEARER, **headers})
    assert answer.status_code == 200
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[(sample.name, *sample.labels.values())] = sample.value
    return found


def test_the_metrics_are_those_of_the_fleet(window):
    healthy(window)
    window.record(outcome=Outcome.FAILED, due=NOON + MINUTE, id="run-1", duration=2.5)
    window.store._hold(Run(id="r", task="report", due=NOON, started=NOON, expires=NOON + MINUTE))
    window.store.pause("report", Pause(since=NOON))

    found = samples(window)

    assert found["pulse_task_runs_total", "success", "cleanup"] == 1
    assert found["pulse_task_runs_total", "failed", "cleanup"] == 1
    assert found["pulse_task_runs_total", "missed", "cleanup"] == 0  # it must be seen to grow by its first one
    assert found["pulse_task_consecutive_failures", "cleanup"] == 1
    assert found["pulse_task_last_duration_seconds", "cleanup"] == 2.5
    assert found["pulse_task_last_lateness_seconds", "cleanup"] == 0
    assert found["pulse_task_last_run_timestamp_seconds", "cleanup"] == (NOON + MINUTE).timestamp() + 1
    assert found["pulse_task_last_success_timestamp_seconds", "cleanup"] == NOON.timestamp() + 1
    assert found["pulse_task_next_run_timestamp_seconds", "cleanup"] == (NOON + HOUR).timestamp()
    assert ("pulse_task_next_run_timestamp_seconds", "report") not in found
    assert found["pulse_task_interval_seconds", "cleanup"] == 3600
    assert found["pulse_task_interval_seconds", "report"] == 86_400
    assert (found["pulse_task_running", "cleanup"], found["pulse_task_running", "report"]) == (0, 1)
    assert (found["pulse_task_paused", "cleanup"], found["pulse_task_paused", "report"]) == (0, 1)
    assert found["pulse_task_overdue", "cleanup"] == 0
    assert found["pulse_worker_heartbeat_timestamp_seconds", "web1", "4711"] == NOON.timestamp()
    assert sum(value for (name, *_), value in found.items() if name == "pulse_info") == 1


def test_averages_over_any_time_come_from_sums_that_outlive_the_records(window):
    for number, (seconds, late) in enumerate([(0.5, 0.25), (2.0, 1.0)]):
        due = NOON + number * MINUTE
        window.record(due=due, id=f"run-{number}", duration=seconds, started=due + timedelta(seconds=late))
    window.record(outcome=Outcome.LOST, due=NOON + 2 * MINUTE, id="run-2", duration=None)
    window.store.clear("cleanup")

    found = samples(window)

    assert found["pulse_task_duration_seconds_sum", "cleanup"] == 2.5
    assert found["pulse_task_lateness_seconds_sum", "cleanup"] == 1.25
    for of in ("duration", "lateness"):
        assert found[f"pulse_task_{of}_seconds_count", "cleanup"] == 2
        # As with counters: the first run must be seen to add to something.
        assert found[f"pulse_task_{of}_seconds_count", "report"] == 0
        assert found[f"pulse_task_{of}_seconds_sum", "report"] == 0


def test_each_living_process_has_a_series_of_what_its_guard_has_refused(window):
    window.ring(owner="web1:4711/1.x", refused=12)
    window.ring(owner="web2:1/2.x", refused=0)
    window.ring(owner="web3:1/3.x", refused=99, seen=NOON - HOUR)

    found = samples(window)

    assert {key[1:]: value for key, value in found.items() if key[0] == "pulse_guard_rejected_total"} == {
        ("pulse", "web1", "4711"): 12,
        ("pulse", "web2", "1"): 0,
    }


def test_each_living_process_has_a_series_of_the_steps_of_the_store_that_failed_in_it(window):
    window.ring(owner="web1:4711/1.x", store_errors=3)
    window.ring(owner="web2:1/2.x")
    window.ring(owner="web3:1/3.x", store_errors=99, seen=NOON - HOUR)

    found = samples(window)

    assert {key[1:]: value for key, value in found.items() if key[0] == "pulse_store_errors_total"} == {
        ("pulse", "web1", "4711"): 3,
        ("pulse", "web2", "1"): 0,
    }


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text;version=1.0.0"])
def test_every_family_says_of_what_type_it_is(window, accept):
    healthy(window)

    text = window.ask("/metrics", headers={**BEARER, "Accept": accept}).text

    types = dict(re.findall(r"# TYPE (\w+) (\w+)", text))
    assert {types[f"pulse_task_{of}_seconds"] for of in ("duration", "lateness")} == {"summary"}
    ending = "" if "openmetrics" in accept else "_total"
    assert {types[f"{name}{ending}"] for name in ("pulse_task_runs", "pulse_guard_rejected", "pulse_store_errors")} == {
        "counter"
    }


def test_the_api_tells_the_averages_of_a_task(window):
    assert mean_of(window) == (None, None)

    for number, (seconds, late) in enumerate([(0.5, 0.25), (2.0, 1.0)]):
        due = NOON + number * MINUTE
        window.record(due=due, id=f"run-{number}", duration=seconds, started=due + timedelta(seconds=late))

    assert mean_of(window) == (1.25, 0.625)


def mean_of(window):
    said = window.ask("/api/tasks/cleanup", headers=BEARER).json
    return said["mean_duration"], said["mean_lateness"]


@pytest.mark.parametrize("count", [1, 12, 29, 30])
def test_the_api_counts_the_failures_of_a_task_as_the_page_does(window, count):
    window.record(due=NOON - count * HOUR, id="run-of-old")
    for number in reversed(range(count)):
        window.record(due=NOON - number * HOUR, id=f"run-{number}", outcome=Outcome.FAILED)

    assert window.ask("/api/tasks/cleanup", headers=BEARER).json["consecutive_failures"] == count


def test_openmetrics_is_spoken_where_it_is_wanted(window):
    answer = window.ask("/metrics", headers={**BEARER, "Accept": "application/openmetrics-text;version=1.0.0"})

    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0"])
def test_the_samples_are_as_the_library_would_write_them(accept):
    window = Window({name: {"interval": "1h"} for name in ("plain", "pr\u00fcfung", "a-b_c")})
    for name in window.config.tasks:
        window.record(name, outcome=Outcome.FAILED, duration=0.1234567)
    window.ring()

    text = window.ask("/metrics", headers={**BEARER, "Accept": accept}).text

    assert canonical(text, accept) == text


def canonical(text, accept):
    """What the library makes of what it reads in *text*."""

    class Read(Collector):
        def collect(self):
            parse = openmetrics_families if accept else text_string_to_metric_families
            return list(parse(text))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Read())
    encode, _ = choose_encoder(accept)
    return encode(registry).decode()


def test_without_the_extra_the_metrics_name_it(window, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "pulse.status.metrics", raising=False)

    answer = window.ask("/metrics", headers=BEARER)

    assert answer.status_code == 501
    assert "pulse[metrics]" in answer.json["error"]


def test_a_scraper_learns_that_the_store_does_not_answer():
    assert Window(store=BrokenStore()).ask("/metrics", headers=BEARER).status_code == 503


def test_metrics_are_not_for_strangers(window):
    assert window.ask("/metrics").status_code == 404


def test_every_metric_that_the_documentation_names_is_there(window):
    healthy(window)
    known = {name for name, *_ in samples(window)}
    text = (Path(__file__).parents[2] / "docs" / "operate.rst").read_text(encoding="utf-8")

    named = set(re.findall(r"\bpulse_(?:task|guard|worker)_\w+", text))

    assert named
    assert {name for name in named if not {name, f"{name}_sum"} & known} == set()


def test_every_alert_names_a_metric_that_there_is(window):
    healthy(window)
    window.record(outcome=Outcome.FAILED, due=NOON + MINUTE, id="run-1")
    known = {name for name, *_ in samples(window)}
    examples = Path(__file__).parents[2] / "examples"

    for file in ("prometheus_alerts.yml", "grafana_dashboard.json"):
        used = set(re.findall(r"\bpulse_\w+", (examples / file).read_text(encoding="utf-8")))
        assert used
        assert used <= known | {"pulse_status"}


def _raw(window, path, headers, body):
    request = Request.blank(f"/_pulse{path}", method="POST", headers=headers, body=body)
    return request.get_response(window.app)
