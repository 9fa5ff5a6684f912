"""Hooks and pings: who is told of which record, and that telling is never in the way."""

import json
import threading
from asyncio import CancelledError
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from servers import wait_until

from pulse.alarms import THREADS, Alarms
from pulse.clock import SystemClock
from pulse.config import read_config
from pulse.mark import is_internal
from pulse.model import Outcome, Run

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
told: list[Run] = []  # by `remember`


def remember(run: Run) -> None:
    told.append(run)


def refuse(run: Run) -> None:
    raise ValueError("this hook is broken")


def leave(run: Run) -> None:
    raise SystemExit(1)


def cancel(run: Run) -> None:
    raise CancelledError


class Site:
    """A WSGI application that keeps what its endpoints were sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bool, dict]] = []
        self.release = threading.Event()
        self.status = "200 OK"

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/hang":
            self.release.wait(60)
        body = environ["wsgi.input"].read()
        said = json.loads(body) if body else {}
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], is_internal(environ), said))
        start_response(self.status, [])
        return [b""]


@pytest.fixture
def site():
    site = Site()
    yield site
    site.release.set()


@pytest.fixture
def alarms(site):
    made: list[Alarms] = []

    def make(**task) -> Alarms:
        made.append(Alarms(site, read_config(tasks={"a": task, "b": {}}), clock=SystemClock()))
        return made[-1]

    yield make
    site.release.set()
    for one in made:
        one.close(30)


def record(outcome: Outcome = Outcome.FAILED, **more) -> Run:
    started = None if outcome in (Outcome.MISSED, Outcome.SKIPPED) else NOON
    return Run(id="ab" * 16, task="a", due=NOON, started=started, outcome=outcome, reason="because", **more)


@pytest.mark.parametrize(
    ("outcome", "path"),
    [
        (Outcome.SUCCESS, "/ok"), (Outcome.FAILED, "/bad"), (Outcome.LOST, "/bad"), (Outcome.ABANDONED, "/bad"),
        (Outcome.TIMEOUT, "/late"), (Outcome.MISSED, "/missed"), (Outcome.SKIPPED, None), (Outcome.CANCELLED, None),
    ],
)  # fmt: skip
def test_each_hook_is_told_of_its_outcome(site, alarms, outcome, path):
    hooks = alarms(on_success="/ok", on_failure="/bad", on_missed="/missed", on_timeout="/late")

    hooks.ended(record(outcome))
    hooks.close(30)

    assert [request[:3] for request in site.requests] == ([("POST", path, True)] if path else [])


def test_without_a_hook_for_timeouts_they_are_failures(site, alarms):
    hooks = alarms(on_failure="/bad")

    hooks.ended(record(Outcome.TIMEOUT))
    hooks.close(30)

    assert site.requests[0][3]["event"] == "failure"


def test_the_endpoint_of_a_hook_is_told_what_happened_as_json(site, alarms):
    hooks = alarms(on_failure="/bad")

    hooks.ended(record(status=500, duration=0.5, attempt=2))
    hooks.close(30)

    said = site.requests[0][3]
    assert (said["event"], said["task"], said["run"], said["due"]) == (
        "failure", "a", "ab" * 16, "2027-05-01T12:00:00+00:00",
    )  # fmt: skip
    assert (said["outcome"], said["status"], said["reason"], said["attempt"]) == ("failed", 500, "because", 2)


def test_a_run_that_is_tried_again_is_no_news(site, alarms):
    hooks = alarms(on_failure="/bad")

    hooks.ended(record(again_at=NOON + timedelta(seconds=10)))
    hooks.close(30)

    assert site.requests == []


def test_a_function_is_called_with_the_record(alarms):
    told.clear()
    hooks = alarms(on_failure=f"{__name__}:remember")

    hooks.ended(record())
    hooks.close(30)

    assert told == [record()]


@pytest.mark.parametrize(
    "hook",
    [
        f"{__name__}:refuse", f"{__name__}:leave", f"{__name__}:cancel", f"{__name__}:nothing",
        "no.such.module:function", "/bad",
    ],
)  # fmt: skip
def test_what_goes_wrong_in_a_hook_is_said_in_the_log(site, alarms, caplog, hook):
    site.status = "500 Internal Server Error"
    hooks = alarms(on_failure=hook)

    hooks.ended(record())
    hooks.close(30)

    assert [line.pulse_event for line in caplog.records if hasattr(line, "pulse_event")] == ["alarm_failed"]


def test_a_hook_that_leaves_takes_nobodys_place(site, alarms):
    hooks = alarms(on_failure=f"{__name__}:leave", on_success="/ok")

    for _ in range(THREADS + 1):
        hooks.ended(record())
    hooks.ended(record(Outcome.SUCCESS))
    hooks.close(30)

    assert [path for _, path, _, _ in site.requests] == ["/ok"]


def test_hooks_that_hang_take_a_bounded_number_of_threads_and_no_time_of_others(site, alarms):
    hooks = alarms(on_failure="/hang", on_success="/ok")
    for _ in range(THREADS + 3):
        hooks.ended(record())

    wait_until(lambda: sum(thread.name == "pulse-alarm" for thread in threading.enumerate()) == THREADS)
    site.release.set()
    hooks.close(30)

    assert len(site.requests) == THREADS + 3


def test_closing_does_not_wait_for_hooks_that_hang(site, alarms, caplog):
    hooks = alarms(on_failure="/hang")
    for _ in range(THREADS + 1):
        hooks.ended(record())

    hooks.close(0.05)

    assert [line.pulse_event for line in caplog.records] == ["alarms_dropped"]
    assert f"{THREADS + 1} hooks and pings were not told" in caplog.text


def test_a_log_that_is_broken_is_not_in_the_way_of_runs_whose_hooks_find_no_place(site, alarms, monkeypatch):
    def write(*said, **more):
        raise ValueError("I/O operation on closed file")

    hooks = alarms(on_failure="/bad")
    monkeypatch.setattr("pulse.alarms.log._log", write)
    monkeypatch.setattr("pulse.alarms.WAITING", 0)

    hooks.ended(record())

    monkeypatch.setattr("pulse.alarms.WAITING", 1)
    hooks.ended(record())
    hooks.close(30)
    assert len(site.requests) == 1


# Pings


@pytest.fixture
def checks():
    """A server that keeps which paths were requested."""
    paths: list[tuple[str, bytes]] = []

    class Checks(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Checks)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/check", paths
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_a_run_pings_when_it_begins_and_how_it_ended(checks, alarms):
    url, paths = checks
    pings = alarms(ping_url=url)
    rid = "?rid=abababab-abab-abab-abab-abababababab"

    for tell in (
        lambda: pings.began(record()), lambda: pings.ended(record(Outcome.SUCCESS)), lambda: pings.ended(record()),
        lambda: pings.ended(record(Outcome.MISSED)),
    ):  # fmt: skip
        tell()
        pings.close(30)

    assert [path for path, _ in paths] == [f"/check/start{rid}", f"/check{rid}", f"/check/fail{rid}"]
    assert paths[2][1] == b"because"


def test_an_address_that_does_not_answer_is_a_line_in_the_log(alarms, caplog):
    pings = alarms(ping_url="http://127.0.0.1:1/nobody")

    pings.ended(record())
    pings.close(30)

    assert [line.pulse_event for line in caplog.records] == ["alarm_failed"]
    assert "could not be told" in caplog.text


def test_tasks_without_hooks_start_nothing(alarms):
    alarms().ended(record())

    assert not any(thread.name == "pulse-alarm" for thread in threading.enumerate())
