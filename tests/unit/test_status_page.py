import base64
import hashlib
import re
from dataclasses import replace
from datetime import datetime, timedelta
from urllib.parse import urlencode
from wsgiref.validate import validator
from zoneinfo import ZoneInfo

import pytest
from markupsafe import escape
from status_window import BEARER, BROWSER, NOON, TOKEN, BrokenStore, Window
from webob import Request

from pulse.config import read_config, read_paste_config
from pulse.errors import ClosedError
from pulse.model import Outcome, Pause, Progress, Run, Task, Trigger
from pulse.runstores.memory import MemoryRunStore
from pulse.standing import State
from pulse.status.configuration import settings_of, settings_of_task
from pulse.status.words import file_name

MINUTE = timedelta(minutes=1)
NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`{{ 7 * 7 }}"
PAGES = ["/", "/runs", "/workers", "/configuration", "/audit", "/tasks/cleanup", "/tasks/cleanup/runs/run-0"]


def full(tasks=None, **more):
    """A window with a bit of everything."""
    window = Window(tasks or {"cleanup": {"interval": "1h", "description": "Forgets sessions"}}, **more)
    window.ring(server="waitress")
    window.record(body=b"swept 3 sessions", errors=b"a line of wsgi.errors")
    return window


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_one_document_that_loads_nothing(path):
    page = full().see(path)

    assert page.status_code == 200
    assert page.text.startswith("<!doctype html>")
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', page.text)
    assert [one for one in addresses if not one.startswith(("/_pulse/", "#", "data:"))] == []


@pytest.mark.parametrize("path", [*PAGES, "/nowhere"])
def test_the_policy_of_a_page_allows_its_own_style_and_script_alone(path):
    page = full().see(path)

    policy = dict(part.strip().partition(" ")[::2] for part in page.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert not re.search(r"<[^>]*\s(style|on\w+)=", page.text)
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Content-Type-Options"] == "nosniff"


def test_whatever_people_and_endpoints_write_is_text():
    window = Window({"cleanup": {"interval": "1h", "description": NASTY, "headers": {"X-Key": NASTY}}})
    window.ring(server=NASTY)
    window.record(body=NASTY.encode(), errors=NASTY.encode(), reason=NASTY, result=NASTY, outcome=Outcome.FAILED)
    progress = Progress(done=1, total=2, text=NASTY)
    window.store._hold(
        Run(id=NASTY, task="cleanup", due=NOON, started=NOON, expires=NOON, progress=progress, stop=NASTY)
    )
    window.store.pause("cleanup", Pause(since=NOON, note=NASTY, by=NASTY))
    browser, proof = window.log_in("<b>mara</b>")
    window.ask("/tasks/cleanup/pause", "POST", headers=browser, form={"proof": proof, "note": NASTY, "for": "ever"})

    addresses = [*PAGES, "/?q=<script>", "/?state=<script>", "/runs?task=<script>&q=<script>", "/tasks/cleanup?at=<script>", "/<script>", "/?did=run&of=<script>"]  # fmt: skip
    pages = [window.ask(path, headers=browser) for path in addresses]
    pages.append(window.ask("/login?back=<script>"))
    pages.append(window.ask("/login", "POST", form={"token": "<script>", "back": "<script>"}))

    for page in pages:
        own = page.text.count("<script>")
        assert own <= 1
        assert "<img" not in page.text
        assert "<b>mara" not in page.text
        said = re.sub(r'value="[^"]*"', "", page.text)  # proofs are random
        assert "49" not in re.sub(r"[\d:.]*49[\d:.]+|\d49", "", said) or "{{ 7 * 7 }}" in said
    assert "&lt;script&gt;" in pages[0].text


def test_the_page_of_tasks_shows_what_is_known_of_each():
    window = full({"cleanup": {"interval": "1h", "description": "Forgets sessions"}, "report": {"cron": "30 2 * * *"}})
    window.record("report", outcome=Outcome.FAILED, due=NOON - timedelta(hours=9.5), status=500)

    page = window.see().text

    assert "every 1 hour" in page or "every hour" in page
    assert "Forgets sessions" in page
    assert 'p-ok">ok' in page
    assert 'p-failing">failing' in page
    assert "At 02:30 every day (UTC)" in page
    assert "0.40 s" in page


def test_a_run_under_way_shows_how_far_it_has_got():
    window = full()
    progress = Progress(done=31, total=50, text="building pages")
    window.store._hold(Run(id="r", task="cleanup", due=NOON, started=NOON, expires=NOON, progress=progress))

    page = window.see().text

    assert '<progress value="31" max="50"' in page
    assert "62 %, building pages" in page


@pytest.mark.parametrize("state", list(State))
def test_tasks_can_be_chosen_by_state(state):
    window = Window(
        {
            "fine": {"interval": "1h"}, "broken": {"interval": "1h"}, "fresh": {"interval": "1h"},
            "off": {"enabled": False}, "held": {"interval": "1h"}, "busy": {"interval": "1h"},
            "dead": {"interval": "1h"}, "behind": {"interval": "1h"},
        }
    )  # fmt: skip
    window.record("fine")
    window.record("broken", outcome=Outcome.FAILED)
    window.record("dead", outcome=Outcome.LOST)
    window.record("behind", outcome=Outcome.MISSED, started=None)
    window.store.pause("held", Pause(since=NOON))
    window.store._hold(Run(id="r", task="busy", due=NOON, started=NOON, expires=NOON + MINUTE))

    page = window.see(f"/?state={state.value}").text

    names = {
        State.OK: "fine", State.FAILING: "broken", State.NEW: "fresh", State.DISABLED: "off", State.PAUSED: "held",
        State.RUNNING: "busy", State.LOST: "dead", State.LATE: "behind",
    }  # fmt: skip
    assert re.findall(r'id="task-([\w-]+)"', page) == [names[state]]


def test_tasks_can_be_searched_and_paged():
    window = Window({f"task-{number:03}": {"interval": "1h"} for number in range(60)})

    first, last = window.see().text, window.see("/?page=3").text
    found = window.see("/?q=TASK-04").text

    assert re.findall(r'id="task-([\w-]+)"', first) == [f"task-{number:03}" for number in range(25)]
    assert re.findall(r'id="task-([\w-]+)"', last) == [f"task-{number:03}" for number in range(50, 60)]
    assert re.findall(r'id="task-([\w-]+)"', found) == [f"task-{number:03}" for number in range(40, 50)]
    assert 'href="/_pulse/?page=2"' in first
    for odd in ("0", "-1", "999", "x", "%C2%B2", "9" * 30):
        assert window.see(f"/?page={odd}").status_code == 200


@pytest.mark.parametrize(
    "path", ["/?page=%FF", "/%FF", "/tasks/%FF", "/login?back=%FF", "/health%FF", "/?part=live&q=%FF"]
)
def test_an_address_that_is_no_utf_8_is_none_of_ours(path):
    assert Window().see(path).status_code == 404
    assert Window().ask(path, headers=BROWSER).status_code == 404


def test_a_page_asks_the_store_only_about_the_tasks_that_it_shows():
    asked = []

    class Counting(MemoryRunStore):
        def history(self, task, limit=None):
            asked.append(task)
            return super().history(task, limit)

        def totals(self, task):
            asked.append(task)
            return super().totals(task)

    window = Window({f"task-{number:03}": {"interval": "1h"} for number in range(300)}, store=Counting())
    for name in window.config.tasks:
        window.record(name)
    window.see()  # looks at all of them once
    asked.clear()

    window.see()
    window.see("/runs")

    assert len(asked) <= 25


def test_a_live_part_that_is_no_news_is_304():
    window = full()
    first = window.see("/?part=live")

    again = window.ask("/?part=live", headers={**BEARER, "If-None-Match": first.headers["ETag"]})

    assert first.text.startswith('<main id="main">')
    assert (again.status_code, again.body) == (304, b"")


@pytest.mark.parametrize("path", ["/", "/tasks/cleanup", "/workers"])
def test_that_time_goes_by_is_no_news(path):
    window = full()
    window.clock.advance(15 - window.clock.now().timestamp() % 15)
    first = window.see(f"{path}?part=live")

    window.clock.advance(4)
    again = window.ask(f"{path}?part=live", headers={**BEARER, "If-None-Match": first.headers["ETag"]})

    assert again.status_code == 304


def test_a_run_that_has_ended_is_news():
    window = full()
    first = window.see("/?part=live")
    window.record(due=NOON + MINUTE, outcome=Outcome.FAILED, id="run-9")

    again = window.ask("/?part=live", headers={**BEARER, "If-None-Match": first.headers["ETag"]})

    assert again.status_code == 200
    assert "failing" in again.text


@pytest.mark.parametrize(
    "mark", ["\ue000", "\ue001", "\ue002", "<!--soft-->", "<!--/soft-->", "<!--tag-->", "&lt;!--tag-->"]
)
def test_no_text_can_end_the_attribute_in_which_it_stands(mark):
    text = f"{mark} onfocus=alert(1) {mark}"
    window = Window({"cleanup": {"interval": "1h", "description": text}})

    page = window.see(f"/?{urlencode({'q': text})}").text

    assert f'<input type="search" name="q" value="{escape(text)}"' in page
    assert f'<small title="{escape(text)}">{escape(text)}</small>' in page


def test_a_page_knows_the_tag_of_its_live_part():
    window = full()

    page, live = window.see("/?q=cleanup"), window.see("/?q=cleanup&part=live")

    assert f"data-tag='{live.headers['ETag']}'".replace('"', "&#34;") in page.text or live.headers["ETag"] in page.text


def test_a_page_works_below_a_mounted_application():
    window = full()

    page = window.see(script="/shop")
    answer = window.ask("/login", "POST", form={"token": TOKEN}, script="/shop")

    assert 'action="/shop/_pulse/tasks/cleanup/run"' in page.text
    assert answer.headers["Location"] == "/shop/_pulse/"
    assert "path=/shop/_pulse" in answer.headers["Set-Cookie"].lower()


@pytest.mark.parametrize(
    ("path", "is_answered"),
    [("/_pulse", True), ("/_pulse/", True), ("/_pulse/tasks/x", True), ("/_pulsex", False), ("/", False), ("", False), ("/x/_pulse", False)],
)  # fmt: skip
def test_only_what_is_below_the_mount_is_answered(path, is_answered):
    assert Window().app.answers({"PATH_INFO": path}) is is_answered


def test_the_mount_may_be_written_in_any_way():
    for path in ("_pulse", "/_pulse", "/_pulse/"):
        assert Window(path=path).app.path == "/_pulse"
    assert Window(path="/").see("health").status_code == 503


def test_without_its_slash_the_mount_leads_to_the_page():
    answer = Window().see("")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/_pulse/")


def test_head_has_no_body():
    answer = full().see("/", method="HEAD")

    assert (answer.status_code, answer.body) == (200, b"")


def test_the_page_of_a_task_shows_its_next_instants_with_the_jumps_of_the_clock():
    window = Window({"report": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}})
    window.clock.step(datetime(2027, 3, 26, tzinfo=ZoneInfo("UTC")) - NOON)

    page = window.see("/tasks/report").text

    assert "Sat 27 Mar 2027 02:30:00 CET" in page
    assert "Sun 28 Mar 2027 03:00:00 CEST" in page
    assert 'class="note"' in page


def test_no_secret_is_ever_shown():
    window = Window(
        {"feed": {"interval": "1h", "headers": {"X-Key": "s3cr3t"}, "environ": {"my.key": "s3cr3t"}, "ping_url": "https://s3cr3t.example"}},
        config={"store": "redis://user:s3cr3t@host/0", "name": "shop"},
    )  # fmt: skip
    window.record("feed")
    browser, _ = window.log_in()

    pages = [
        window.ask(path, headers=browser).text
        for path in ("/tasks/feed", "/tasks/feed/runs/run-0", "/configuration", "/api/configuration", "/api/tasks/feed")
    ]

    assert not any("s3cr3t" in page or TOKEN in page for page in pages)
    assert "X-Key: ••••••" in pages[0]
    assert "redis://***@host/0" in pages[2]


def test_the_configuration_has_every_option_with_its_value_and_unit():
    page = Window(config={"workers": 7, "shutdown_timeout": "90s"}).see("/configuration").text

    assert "<code>7</code>" in page
    assert "1m30s" in page
    assert "whole number, 1 to 256" in page


def test_the_page_of_a_run_shows_what_it_answered_as_text():
    page = full().see("/tasks/cleanup/runs/run-0").text

    assert ">swept 3 sessions</pre>" in page
    assert ">a line of wsgi.errors</pre>" in page
    assert "GET /pulse/cleanup" in page


def test_attempts_of_one_run_are_told_apart():
    window = Window()
    window.record(attempt=1, outcome=Outcome.FAILED, body=b"first")
    window.record(attempt=2, body=b"second")

    assert "second</pre>" in window.see("/tasks/cleanup/runs/run-0").text
    assert "first</pre>" in window.see("/tasks/cleanup/runs/run-0?attempt=1").text


@pytest.mark.parametrize(
    "path", ["/tasks/nothing", "/tasks/cleanup/runs/none", "/nowhere", "/tasks", "/api/nowhere", "/tasks/cleanup/run"]
)
def test_what_is_not_there_is_404_for_visitors_too(path):
    assert Window().see(path).status_code == 404


def test_runs_can_be_filtered_and_searched():
    window = Window({"a": {"interval": "1h"}, "b": {"interval": "1h"}})
    window.record("a", id="run-a")
    window.record("b", id="run-b", outcome=Outcome.FAILED, reason="answered 418 teapot")

    def runs(query):
        return re.findall(r"/runs/(run-\w)", window.see(f"/runs{query}").text)

    assert sorted(runs("")) == ["run-a", "run-b"]
    assert runs("?task=a") == ["run-a"]
    assert runs("?outcome=failed") == ["run-b"]
    assert runs("?q=TEAPOT") == ["run-b"]
    assert runs("?task=nothing") == []


def test_the_workers_show_which_of_them_lives_by_another_configuration():
    window = full()
    other = window.store.instances()[0]
    window.store.beat(replace(other, owner="web2:99/1.x", digest="another0digest"), {}, MINUTE)

    page = window.see("/workers").text

    assert 'p-differs">another0digest' in page
    assert "Not all processes have the configuration" in page


def test_a_worker_that_is_not_heard_of_is_shown_as_such():
    window = full()
    window.clock.advance(60)

    assert "not heard of" in window.see("/workers").text


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("2027-01-01T12:00", "recorded as success"),
        ("2027-01-01T12:30", "It was not due then"),
        ("2027-01-01T13:00", "nothing is recorded of it"),
        ("2027-01-01T20:00", "It is due then, in 6 h 30 min"),
        ("2026-12-01T12:00", "is not kept"),
    ],
)
def test_a_task_explains_what_became_of_an_instant(at, said):
    window = full()
    window.clock.advance(90 * 60)

    assert said in window.see(f"/tasks/cleanup?at={at}").text


def test_without_the_store_a_page_says_so():
    window = Window(store=BrokenStore())

    page, program = window.see("/"), window.ask("/api/tasks", headers=BEARER)

    assert page.status_code == program.status_code == 503
    assert "The run store does not answer" in page.text
    assert 'data-live="yes"' in page.text  # it finds out by itself when the store is back
    assert "The run store does not answer" in program.json["error"]


@pytest.mark.parametrize(
    ("path", "form"),
    [("/tasks/cleanup/pause", {"for": "soon"}), ("/tasks/cleanup/run", {}), ("/logout", {"proof": ""})],
)
def test_what_was_refused_is_not_asked_for_again_by_its_own_page(path, form):
    window = full()
    browser, proof = window.log_in()
    window.controls.start_run = closed

    answer = window.ask(path, "POST", headers=browser, form={"proof": proof, **form})

    # Loading such a page anew would press once more.
    assert answer.status_code in (400, 403, 503)
    assert 'data-live="yes"' not in answer.text


def closed(*_args, **_more):
    raise ClosedError("close() was called")


def test_a_page_that_is_not_there_does_not_ask_for_itself_for_ever():
    page = full().see("/tasks/nothing")

    assert page.status_code == 404
    assert 'data-live="yes"' not in page.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(method):
    assert Window().see("/", method=method).status_code == 405
    assert Window().ask("/", method, headers=BROWSER).status_code == 404


def test_many_tasks_and_runs_make_no_long_page():
    window = Window({f"task-{number:04}": {"interval": "5m", "description": "x" * 200} for number in range(1500)})
    for name in window.config.tasks:
        for number in range(3):
            window.record(name, due=NOON - number * 5 * MINUTE, body=b"x" * 4096)

    for path in ("/", "/runs", "/tasks/task-0001", "/?page=60"):
        assert len(window.see(path).body) < 200_000


def failures_shown(window, path):
    """How often the pill of a task says that it has failed."""
    return re.search('p-failing">failing(?: \N{MULTIPLICATION SIGN}([0-9]+[+]?))?</span>', window.see(path).text)[1]


@pytest.mark.parametrize(
    ("count", "listed", "alone"), [(1, None, None), (29, "29", "29"), (30, "30+", "30"), (31, "30+", "31")]
)
def test_a_page_says_how_often_a_task_failed_and_whether_it_has_looked_at_all_of_it(count, listed, alone):
    window = Window()
    window.record(due=NOON - timedelta(hours=count), id="run-of-old")
    for number in reversed(range(count)):
        window.record(due=NOON - timedelta(hours=number), id=f"run-{number}", outcome=Outcome.FAILED)

    assert (failures_shown(window, "/"), failures_shown(window, "/tasks/cleanup")) == (listed, alone)


def test_of_large_bodies_few_records_are_read_which_is_said_of_failures_too():
    window = Window(config={"capture": 1_000_000})
    for number in reversed(range(7)):
        window.record(due=NOON - timedelta(hours=number), id=f"run-{number}", outcome=Outcome.FAILED)

    assert (failures_shown(window, "/"), failures_shown(window, "/tasks/cleanup")) == ("5+", "7")


def test_a_task_of_many_instants_is_drawn_as_a_band():
    window = Window({"often": {"interval": "0.1s"}})

    assert 'class="band"' in window.see("/").text


@pytest.mark.parametrize(
    ("tasks", "is_bad"), [({}, False), ({"t": {"enabled": False}}, False), ({"t": {"interval": "1h"}}, True)]
)
def test_that_no_process_rings_is_bad_where_one_has_to(tasks, is_bad):
    window = Window(tasks)

    assert ('class="card is-bad" href="/_pulse/workers"' in window.see().text) == is_bad
    assert (window.ask("/health").status_code == 503) == is_bad


def test_a_window_without_tasks_says_how_to_make_one():
    assert "There are no tasks" in Window({}).see("/").text


@pytest.mark.parametrize(("name", "words"), [("mara", "Log out mara"), ("", "Log out")])
def test_a_log_out_names_whoever_has_said_a_name(name, words):
    window = Window()
    browser, _ = window.log_in(name)

    assert f">{words}</button>" in window.ask("/", headers=browser).text


def test_a_log_in_is_offered_nowhere_to_users_of_the_application():
    window = Window(config={"token": None}, authenticate=lambda environ: "mara")

    page = window.ask("/", headers=BROWSER)

    assert "Log out" not in page.text
    assert page.status_code == 200


@pytest.mark.parametrize(
    "path", [*PAGES, "/login", "/health", "/live", "/nowhere", "/api/tasks", "/metrics", "/?part=live", ""]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_answer_is_one_that_servers_take(path, method):
    window = full()
    for headers in (BEARER, BROWSER, {}):
        request = Request.blank(f"/_pulse{path}", method=method, headers=headers)
        served = validator(window.app)(request.environ, lambda status, headers, exc_info=None: lambda data: None)
        body = b"".join(served)
        served.close()
        assert method == "GET" or not body


def test_a_task_may_have_a_name_in_any_script():
    window = Window({"prüfung": {"interval": "1h", "action": "check"}})
    browser, proof = window.log_in()
    page = window.ask("/tasks/pr%C3%BCfung", headers=browser)
    back = re.search(r'name="back" value="([^"]*)"', page.text)[1]

    answer = window.ask("/tasks/pr%C3%BCfung/run", "POST", headers=browser, form={"proof": proof, "back": back})

    assert page.status_code == 200
    assert answer.headers["Location"] == "/_pulse/tasks/pr%C3%BCfung?did=run&of=pr%C3%BCfung"
    assert window.controls.pressed == [("run", "prüfung", False, "mara")]


def test_large_bodies_are_not_read_by_the_hundred():
    limits = []

    class Noting(MemoryRunStore):
        def history(self, task, limit=None):
            limits.append(limit)
            return super().history(task, limit)

    window = Window(config={"capture": 1_048_576, "history": 10_000}, store=Noting())
    for path in ("/", "/tasks/cleanup", "/runs", "/runs?task=cleanup"):
        window.see(path)

    assert max(limits) <= 10


def test_the_page_of_a_run_shows_what_was_sent_answered_and_logged():
    window = Window({"cleanup": {"interval": "1h", "headers": {"X-Api-Key": "s3cr3t-of-the-feed"}}})
    window.record(
        request="POST /pulse/old", headers="Content-Type: text/plain\nSet-Cookie: ******", body=b"swept 3 sessions",
        log=b"12:00:00,412 INFO shop.sync pages 310/500", errors=b"Traceback: bad day",
        outcome=Outcome.FAILED, status=500,
    )  # fmt: skip

    page = window.see("/tasks/cleanup/runs/run-0").text

    for word in (
        "POST /pulse/old", "X-Pulse-Run", "Content-Type: text/plain", "swept 3 sessions", "INFO shop.sync pages 310/500",
        "Traceback: bad day", "X-Api-Key",
    ):  # fmt: skip
        assert word in page
    assert "s3cr3t" not in page


def test_the_page_of_a_run_leads_to_its_other_attempts():
    window = full()
    window.record(id="run-1", outcome=Outcome.FAILED)
    window.record(id="run-1", attempt=2, trigger=Trigger.MANUAL)

    last, first = window.see("/tasks/cleanup/runs/run-1").text, window.see("/tasks/cleanup/runs/run-1?attempt=1").text

    assert "by hand, attempt 2" in last
    assert "<dd>failed</dd>" in first
    for page in (last, first):
        assert "/runs/run-1?attempt=1" in page
        assert "/runs/run-1?attempt=2" in page


def test_a_run_under_way_says_what_will_come():
    window = full()
    window.store._hold(Run(id="r", task="cleanup", due=NOON, started=NOON, expires=NOON + MINUTE))

    page = window.see("/tasks/cleanup/runs/r").text

    assert "It shows when the run has ended." in page
    assert "They show when the run has ended." in page
    assert "nothing was raised" not in page
    assert 'data-live="yes"' in page


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"outcome": Outcome.FAILED, "status": None, "errors": b"KeyError: 7"}, "There was none."),
        ({"outcome": Outcome.FAILED, "status": 500}, "Its body was empty."),
        ({"outcome": Outcome.MISSED, "status": None, "started": None}, "There was no request."),
    ],
)
def test_the_page_of_a_run_without_a_body_says_why(run, said):
    window = Window()
    window.record(**run)

    assert said in window.see("/tasks/cleanup/runs/run-0").text


def test_the_cards_say_how_many_runs_there_were_today():
    window = full()
    window.record(due=NOON - timedelta(hours=1))
    window.record(due=NOON - timedelta(days=1))

    assert "<b>2</b><span>runs today</span>" in window.see().text


def test_each_option_says_where_it_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "site.ini"
    lines = {
        "pulse.config.guard": "true", "pulse.config.default.timeout": "9s", "pulse.task.cleanup.interval": "5m",
        "pulse.task.cleanup.headers.X-A": "1",
    }  # fmt: skip
    file.write_text("[filter:pulse]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()))
    config = read_paste_config({"__file__": str(file)}, lines)

    of_all = {one.name: one.origin for one in settings_of(config)}
    of_task = {one.name: one.origin for one in settings_of_task(config, config.tasks["cleanup"])}

    assert of_all["guard"] == "site.ini [filter:pulse]"
    assert (of_all["lease"], of_all["application"]) == ("default", "worked out")
    assert of_task["interval"] == of_task["headers"] == "site.ini [filter:pulse]"
    assert of_task["timeout"] == "site.ini [filter:pulse], pulse.config.default.timeout"
    assert (of_task["action"], of_task["method"]) == ("worked out", "default")


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        ("/srv/shop/site.ini [filter:a/b]", "site.ini [filter:a/b]"), ("site.ini", "site.ini"), ("default", "default"),
        ("/srv/a.ini [filter:pulse], pulse.config.default.timeout", "a.ini [filter:pulse], pulse.config.default.timeout"),
    ],
)  # fmt: skip
def test_a_file_is_shown_without_its_folders(origin, shown):
    assert file_name(origin) == shown


def test_options_that_were_given_in_python_say_so():
    config = read_config({"pulse.config.guard": "true"}, tasks={"a": {"interval": "5m"}, "b": Task(interval="1h")})

    assert {one.name: one.origin for one in settings_of(config)}["guard"] == "Python"
    for name in ("a", "b"):
        assert {one.name: one.origin for one in settings_of_task(config, config.tasks[name])}["interval"] == "Python"
    page = Window().see("/tasks/cleanup").text
    assert '<td class="soft origin" title="Python">Python</td>' in page


def test_a_page_of_very_many_tasks_asks_the_store_a_few_times_only():
    calls = []

    class Counting(MemoryRunStore):
        def __getattribute__(self, name):
            if name in ("newest", "brief", "all_totals", "totals", "history", "find", "ran"):
                calls.append(name)
            return super().__getattribute__(name)

    window = Window({f"task-{number:05}": {"interval": "1h"} for number in range(2_000)}, store=Counting())
    for name in window.config.tasks:
        window.record(name)
    calls.clear()
    window.see()

    assert len([name for name in calls if name != "history"]) < 10  # a memory reads histories for itself
    assert len(window.see().body) < 500_000
