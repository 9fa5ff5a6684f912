"""The commands that look at a run store, or change it, in this process."""

import io
import json
import socket
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from textwrap import dedent
from typing import NamedTuple

import pytest

from pulse.cli import main
from pulse.clock import SystemClock
from pulse.commands.glance import glances
from pulse.commands.source import source_of
from pulse.commands.stored import opened, place_of
from pulse.config import read_config
from pulse.errors import StoreUnavailableError
from pulse.fleet import digest_of
from pulse.instance import this_instance
from pulse.model import Fire, Instance, Limits, Outcome, Pause, Progress, Trigger
from pulse.runstores.sqlite import SqliteRunStore
from pulse.status.login import code_key, read_code
from pulse.testing import ManualClock

NOW = datetime(2027, 1, 1, 12, 2, tzinfo=UTC)
NOON = NOW.replace(minute=0)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.out.splitlines()

    @property
    def document(self):
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty directory, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("PULSE_CONFIG", "PULSE_START", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def write(place):
    def write(text, name="development.ini"):
        place.joinpath(name).write_text(dedent(text))

    return write


@pytest.fixture
def write_tasks(write):
    """An ini file with one Pulse filter, these lines, and a store in a file."""

    def write_tasks(*lines, store="sqlite:runs.db"):
        section = ["[filter:pulse]", "use = egg:pulse", "pulse.config.guard = true", f"pulse.config.store = {store}"]
        write("\n".join([*section, *lines]))

    return write_tasks


@pytest.fixture
def pulse(capsys):
    def pulse(*argv, now=NOW):
        code = main(argv, clock=ManualClock(now))
        return Done(code, *capsys.readouterr())

    return pulse


class Book:
    """A run store in which things have happened."""

    def __init__(self, path, name=""):
        self.store = SqliteRunStore(path, name=name, history=10)

    def claim(self, task, due, *, owner="web1:4711", trigger=Trigger.SCHEDULE, limits=None, lease=60):
        self.store.register([task], NOON - timedelta(days=2))
        claimed = self.store.claim(
            Fire(task=task, due=due, trigger=trigger),
            owner=owner,
            now=due + SECOND,
            lease=timedelta(seconds=lease),
            passed=lambda _: None,
            limits=limits or Limits(),
        )
        assert claimed.run
        return claimed.run

    def ran(self, task, due, outcome=Outcome.SUCCESS, status=200, again_at=None, trigger=Trigger.SCHEDULE, **more):
        run = self.claim(task, due, trigger=trigger)
        ended = replace(run, outcome=outcome, status=status, finished=due + 3 * SECOND, duration=2.0, **more)
        assert self.store.finish(ended, again_at=again_at)
        return ended

    def skipped(self, task, *dues, outcome=Outcome.SKIPPED, reason="the task is paused"):
        self.store.register([task], NOON - timedelta(days=2))
        for due in dues:
            self.store.dismiss(
                Fire(task=task, due=due), outcome=outcome, reason=reason, now=due + SECOND, passed=lambda _: None
            )

    def rings(self, owner="web1:4711", seen=NOW - SECOND, digest="0123456789abcdef", started=NOON):
        one = Instance(owner=owner, started=started, seen=seen, digest=digest, server="gunicorn", version="1")
        self.store.beat(one, {}, timedelta(seconds=30))


@pytest.fixture
def book(place):
    book = Book(place / "runs.db")
    yield book
    book.store.close()


# pulse history


def test_the_history_of_a_task_is_newest_first_with_its_totals(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.b.interval = 5m")
    first = book.ran("a", NOON - 10 * MINUTE)
    second = book.ran("a", NOON - 5 * MINUTE, Outcome.FAILED, 500, reason="answered 500")
    book.ran("b", NOON)

    done = pulse("history", "development.ini", "a")

    assert done == Done(
        0,
        dedent(f"""\
            RUN       DUE                        TRIGGER   TRY  OUTCOME  STATUS  TOOK   LATE   WORKER     REASON
            {second.id[:8]}  Fri 01 Jan 2027 11:55 UTC  schedule  1    failed   500     2.0 s  1.0 s  web1:4711
            {first.id[:8]}  Fri 01 Jan 2027 11:50 UTC  schedule  1    success  200     2.0 s  1.0 s  web1:4711
            a: 1 success, 1 failed; last success Fri 01 Jan 2027 11:50:03 UTC
            """),
        "",
    )


def test_the_history_of_all_tasks_stands_in_the_order_in_which_they_ended(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.b.interval = 5m", "pulse.task.b.timezone = Europe/Berlin")
    book.ran("a", NOON - 10 * MINUTE)
    book.ran("b", NOON - 5 * MINUTE)
    book.ran("a", NOON)

    lines = pulse("history").lines

    assert [line.split()[0] for line in lines[:-1]] == ["TASK", "a", "b", "a"]
    assert "Fri 01 Jan 2027 12:55 CET" in lines[2]
    assert lines[-1] == "all 2 tasks: 3 success; last success Fri 01 Jan 2027 12:00:03 UTC"


def test_the_history_of_several_filters_says_which_one_ran_what(pulse, write, place):
    write(TWO.format(store="sqlite:one.db", other="sqlite:two.db"))
    for name in ("one", "two"):
        book = Book(place / f"{name}.db")
        book.ran("a", NOON)
        book.store.close()

    head, *rows = pulse("history", "a").lines[:3]

    assert head.split()[-2:] == ["FILTER", "REASON"]
    assert [row.partition("development.ini ")[2] for row in rows] == ["[filter:one]", "[filter:two]"]


def test_a_span_says_from_when_to_when_and_how_many(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.skipped("a", NOON - 20 * MINUTE, NOON - 15 * MINUTE, NOON - 10 * MINUTE)
    book.skipped("a", NOON - timedelta(minutes=5), outcome=Outcome.MISSED, reason="it was too late")

    newest, span = pulse("history", "a").lines[1:3]

    assert "skipped x3" in span
    assert "Fri 01 Jan 2027 11:40 UTC to 11:50 " in span
    assert span.endswith("the task is paused")
    assert "missed " in newest
    assert newest.endswith("it was too late")


def test_only_what_went_wrong_can_be_asked_for(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON - 20 * MINUTE, Outcome.TIMEOUT, None)
    book.skipped("a", NOON - 15 * MINUTE)
    book.skipped("a", NOON - 10 * MINUTE, outcome=Outcome.MISSED, reason="late")
    book.ran("a", NOON - 5 * MINUTE)

    records = pulse("history", "a", "--failed", "--json").document["records"]

    assert [record["outcome"] for record in records] == ["missed", "timeout"]


def test_what_runs_wrote_is_not_read_to_list_them(pulse, write_tasks, book, monkeypatch):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON, Outcome.FAILED, 500)
    monkeypatch.setattr(SqliteRunStore, "history", None)

    for options in ([], ["--failed"], ["--since", "1h"]):
        assert len(pulse("history", "development.ini", "a", *options).lines) == 3


def test_the_history_can_be_limited(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.b.interval = 5m")
    for minutes in (20, 15, 10):
        book.ran("a", NOON - minutes * MINUTE)
        book.ran("b", NOON - minutes * MINUTE)

    both, one = pulse("history", "-n", "3", "--json"), pulse("history", "a", "--count", "1", "--json")

    assert [record["due"][11:16] for record in both.document["records"]] == ["11:50", "11:50", "11:45"]
    assert len(one.document["records"]) == 1


@pytest.mark.parametrize("since", ["2027-01-01T12:48+01:00", "2027-01-01T12:48", "14m"])
def test_the_history_can_begin_at_an_instant_or_so_long_ago(pulse, write_tasks, book, since):
    write_tasks("pulse.task.a.interval = 5m", "pulse.config.timezone = Europe/Berlin")
    for minutes in (20, 15, 10):
        book.ran("a", NOON - minutes * MINUTE)

    assert len(pulse("history", "a", "--since", since, "--json").document["records"]) == 1


def test_the_history_is_one_json_document(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    run = book.ran("a", NOON)

    assert pulse("history", "--json").document == {
        "source": "development.ini",
        "records": [
            {
                "task": "a",
                "run": run.id,
                "due": "2027-01-01T12:00:00+00:00",
                "first_due": "2027-01-01T12:00:00+00:00",
                "count": 1,
                "trigger": "schedule",
                "attempt": 1,
                "outcome": "success",
                "status": 200,
                "started": "2027-01-01T12:00:01+00:00",
                "finished": "2027-01-01T12:00:03+00:00",
                "duration": 2.0,
                "lateness": 1.0,
                "worker": "web1:4711",
                "place": "",
                "reason": "",
                "result": "",
                "stop": "",
                "progress": None,
                "filter": "development.ini [filter:pulse]",
            }
        ],
        "totals": [
            {
                "task": "a",
                "counts": {"success": 1} | dict.fromkeys(
                    ["failed", "timeout", "cancelled", "abandoned", "lost", "missed", "skipped"], 0
                ),
                "last_finished": "2027-01-01T12:00:03+00:00",
                "last_success": "2027-01-01T12:00:03+00:00",
                "filter": "development.ini [filter:pulse]",
            }
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    "command", [["history"], ["workers"], ["why", "a", "--at", "2027-01-01"], ["resume", "a"], ["watch", "--once"]]
)
def test_whoever_only_reads_makes_no_store(pulse, write_tasks, place, command):
    write_tasks("pulse.task.a.interval = 5m")

    done = pulse(*command)

    assert (done.code, done.err) == (0, "")
    assert not place.joinpath("runs.db").exists()


def test_a_store_that_is_not_there_is_no_error(pulse, write_tasks, place):
    write_tasks("pulse.task.a.interval = 5m")

    assert pulse("history").lines == [
        "no records",
        "all 1 task: nothing is recorded",
        f"nothing has run yet: there is no sqlite:{place}/runs.db",
    ]


# pulse show


def test_a_run_is_shown_whole(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.a.method = POST", "pulse.task.a.action = x?y=1")
    run = book.ran("a", NOON, Outcome.FAILED, 500, body=b"oh no", errors=b"Traceback\n\x1b[31m", reason="answered 500")

    done = pulse("show", "development.ini", run.id[:10])

    assert done == Done(
        0,
        dedent(f"""\
            run       {run.id}
            task      a, every 5 min
            request   POST /pulse/x?y=1 (as it is configured now)
            due       Fri 01 Jan 2027 12:00 UTC
            trigger   schedule, attempt 1
            outcome   failed 500
            started   Fri 01 Jan 2027 12:00:01 UTC, 1.0 s late
            finished  Fri 01 Jan 2027 12:00:03 UTC, took 2.0 s
            worker    web1:4711
            filter    development.ini [filter:pulse]
            --- body
            oh no
            --- wsgi.errors
            Traceback
            \\x1b[31m
            ---
            """),
        "",
    )


def test_a_run_that_is_under_way_is_shown_too(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    run = book.claim("a", NOON)

    done = pulse("show", run.id)

    assert "outcome   running\n" in done.out
    assert "lease     until Fri 01 Jan 2027 12:01:01 UTC\n" in done.out


def test_how_far_a_run_has_got_is_shown(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    run = book.claim("a", NOON)
    book.store.report("web1:4711", {run.id: Progress(done=310, total=500, text="building pages")})
    book.store.ask_to_stop(run.id, "ada said so")

    shown, listed = pulse("show", run.id).out, pulse("list").lines[1]
    document = pulse("show", run.id, "--json").document["runs"][0]

    assert "progress  62 % (310 of 500) building pages\n" in shown
    assert "stop      it was asked to: ada said so\n" in shown
    assert "running 62 % (310 of 500) building pages" in listed
    assert document["progress"] == {"done": 310, "total": 500, "text": "building pages"}


def test_what_the_endpoint_said_of_its_result_is_shown(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON, result="swept 3")

    assert pulse("history", "a").lines[1].endswith("  swept 3")
    assert pulse("history", "--json").document["records"][0]["result"] == "swept 3"


def test_every_attempt_of_a_run_is_shown_the_first_first(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    run = book.ran("a", NOON, Outcome.FAILED, 503, again_at=NOW + MINUTE)

    shown = pulse("show", run.id).out
    documents = pulse("show", run.id, "--json").document["runs"]

    assert shown.index("schedule, attempt 1") < shown.index("retry, attempt 2")
    assert "waits     until Fri 01 Jan 2027 12:03 UTC" in shown
    assert [(one["attempt"], one["outcome"]) for one in documents] == [(1, "failed"), (2, None)]


def test_a_run_that_is_not_there_or_not_the_only_one_is_an_error(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    runs = [book.ran("a", NOON - minutes * MINUTE) for minutes in range(40, 0, -5)]

    nothing, many, unsaid = pulse("show", "zzz"), pulse("show", "development.ini", ""), pulse("show")

    assert (nothing.code, many.code, unsaid.code) == (2, 2, 2)
    assert "no run begins with 'zzz'" in nothing.err
    assert "8 runs begin with ''" in many.err
    assert "and 3 more" in many.err
    assert runs[-1].id in many.err
    assert unsaid.err == "pulse: which run of development.ini? pulse show [INI] RUN\n"


# pulse pause, pulse resume


def test_a_pause_says_until_when_and_who_says_so(pulse, write_tasks, book, monkeypatch):
    monkeypatch.setattr("pulse.commands.pause.getuser", lambda: "ada")
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.a.timezone = Europe/Berlin")

    done = pulse("pause", "development.ini", "a", "--for", "1h", "--why", "feed is down")

    by = f"ada@{socket.gethostname()}"
    assert done == Done(
        0,
        f"a is paused until Fri 01 Jan 2027 14:02 CET (1 h), by {by} since Fri 01 Jan 2027 13:02 CET: feed is down\n",
        "",
    )
    assert book.store.pauses() == {
        "a": Pause(since=NOW, until=NOW + timedelta(hours=1), note="feed is down", by=by),
    }


def test_a_user_without_a_name_is_known_by_number(pulse, write_tasks, book, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr("pulse.commands.pause.getuser", nobody)
    monkeypatch.setattr("pulse.commands.pause.os.getuid", lambda: 4242)
    write_tasks("pulse.task.a.interval = 5m")

    assert pulse("pause", "a").code == 0
    assert book.store.pauses()["a"].by == f"4242@{socket.gethostname()}"


def test_a_pause_can_end_at_an_instant_of_the_tasks_zone(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.a.timezone = Europe/Berlin")

    assert pulse("pause", "a", "--until", "2027-01-01T14:00").code == 0
    assert book.store.pauses()["a"].until == NOON + 60 * MINUTE


def test_a_pause_that_is_over_before_it_begins_is_refused(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")

    done = pulse("pause", "a", "--until", "2027-01-01T11:00")

    assert (done.code, done.out) == (2, "")
    assert "Fri 01 Jan 2027 11:00 UTC has passed" in done.err
    assert book.store.pauses() == {}


def test_the_reason_of_a_pause_is_one_short_line_as_on_the_status_page(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")

    done = pulse("pause", "a", "--why", " the feed\n is\x1b[31m down\u202e ")
    refused = pulse("pause", "a", "--why", "x" * 201)

    assert done.out.endswith(": the feed is[31m down\n")
    assert book.store.pauses()["a"].note == "the feed is[31m down"
    assert refused.code == 2
    assert "argument --why" in refused.err


def test_another_pause_replaces_the_first_and_says_so(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    pulse("pause", "a", "--why", "first")

    done = pulse("pause", "a", "--for", "10m")
    later = pulse("pause", "a", "--json", now=NOW + 11 * MINUTE)

    assert done.lines[0].startswith("a is paused until Fri 01 Jan 2027 12:12 UTC")
    assert done.lines[1].startswith("this replaces: paused until somebody resumes it")
    assert done.lines[1].endswith(": first")
    (document,) = later.document["pauses"]
    assert (document["until"], document["replaced"]) == (None, None)


@pytest.mark.parametrize("line", ["cron = @manually", "enabled = false", "at = 2020-01-01"])
def test_a_pause_of_what_does_not_run_by_itself_says_so(pulse, write_tasks, line):
    write_tasks(f"pulse.task.a.{line}")

    assert pulse("pause", "a").lines[-1] == "it does not run by itself anyway"


def test_a_task_that_was_paused_runs_again(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    pulse("pause", "a")

    resumed, again = pulse("resume", "a"), pulse("resume", "development.ini", "a")

    assert resumed == Done(0, "a runs by its schedule again; next Fri 01 Jan 2027 12:05 UTC\n", "")
    assert again == Done(0, "a is not paused; next Fri 01 Jan 2027 12:05 UTC\n", "")
    assert book.store.pauses() == {}


def test_a_pause_that_has_ended_by_itself_is_told(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    pulse("pause", "a", "--for", "10m")

    done = pulse("resume", "a", now=NOW + 11 * MINUTE)

    assert done.out.startswith("a is not paused: its pause ended by itself Fri 01 Jan 2027 12:12 UTC; next")


def test_pause_and_resume_are_json_documents(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")

    paused = pulse("pause", "a", "--for", "1h", "--json").document
    resumed = pulse("resume", "a", "--json").document

    assert (paused["task"], paused["pauses"][0]["until"]) == ("a", "2027-01-01T13:02:00+00:00")
    (one,) = resumed["resumed"]
    assert (one["was_paused"], one["pause"]["since"]) == (True, "2027-01-01T12:02:00+00:00")


TWO = """
    [filter:one]
    use = egg:pulse
    pulse.config.store = {store}
    pulse.config.guard = true
    pulse.task.a.interval = 5m
    [filter:two]
    use = egg:pulse
    pulse.config.context = other
    pulse.config.store = {other}
    pulse.config.guard = true
    pulse.task.a.interval = 5m
    pulse.task.b.interval = 5m
    """


def test_a_pause_that_is_over_in_one_zone_pauses_in_none(pulse, write, place):
    filters = TWO.format(store="sqlite:one.db", other="sqlite:two.db").rstrip()
    write(f"{filters}\n    pulse.config.timezone = Asia/Tokyo\n")
    book = Book(place / "one.db")

    done = pulse("pause", "a", "--until", "2027-01-01T15:00")

    assert (done.code, done.out) == (2, "")
    assert "Fri 01 Jan 2027 15:00 JST has passed" in done.err
    assert book.store.pauses() == {}
    book.store.close()


def test_a_task_that_two_filters_have_is_paused_in_both(pulse, write):
    write(TWO.format(store="sqlite:one.db", other="sqlite:two.db"))

    done = pulse("pause", "a")

    assert [line.partition(" is ")[0] for line in done.lines] == [
        "a (development.ini [filter:one])",
        "a (development.ini [filter:two])",
    ]
    assert pulse("resume", "a").out.count("runs by its schedule again") == 2


def test_filters_that_share_a_store_share_what_is_in_it(pulse, write, book):
    write(TWO.format(store="sqlite:runs.db", other="sqlite:runs.db"))
    book.ran("a", NOON)
    book.rings()

    assert len(pulse("pause", "a").lines) == 1
    assert len(pulse("history", "--json").document["records"]) == 1
    assert len(pulse("workers", "--json").document["workers"]) == 1


# pulse workers


def test_the_processes_that_ring_are_shown_with_what_they_do(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    digest = digest_of(source_of("development.ini").configs()[0][1])
    book.rings(digest=digest)
    book.claim("a", NOON)

    assert pulse("workers").lines == [
        "WORKER     STATE  SERVER    STARTED                    SEEN       CONFIGURATION     RUNNING",
        f"web1:4711  rings  gunicorn  Fri 01 Jan 2027 12:00 UTC  1.0 s ago  {digest}  a",
    ]


def test_those_that_are_gone_and_those_of_another_configuration_are_marked(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.config.lease = 30s")
    dead = this_instance().partition("/")[0] + "/1." + this_instance().partition("/")[2].partition(".")[2]
    book.rings(owner="here:1", seen=NOW - 30 * SECOND)
    book.rings(owner="silent:2", seen=NOW - 31 * SECOND)
    book.rings(owner=dead)

    document = pulse("workers", "--json").document["workers"]
    shown = pulse("workers").out

    gone = {one["worker"].partition(":")[0]: one["gone"] for one in document}
    assert gone == {"here": "", "silent": "not heard of for 31 s", socket.gethostname(): "its process has ended"}
    assert all(one["configuration_differs"] for one in document)
    assert "0123456789abcdef (differs)" in shown
    assert "gone: not heard of for 31 s" in shown
    assert "the configuration of development.ini is " in shown


def test_a_run_of_a_process_that_does_not_ring_is_shown(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.claim("a", NOON, owner="shell:7", trigger=Trigger.MANUAL)

    assert pulse("workers").lines == [
        "no process rings for development.ini",
        "a is run by shell:7, which does not ring",
    ]


# pulse list, pulse watch


def state_in(pulse, name="a", **more):
    (line,) = [one for one in pulse("list", "--json", **more).document["tasks"] if one["task"] == name]
    return line["state"]


def test_the_list_shows_the_last_run_and_the_state(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.b.interval = 5m", "pulse.task.c.interval = 5m")
    book.ran("a", NOON)
    book.ran("b", NOON - 5 * MINUTE, Outcome.FAILED, 500)
    book.ran("b", NOON, Outcome.TIMEOUT, None)

    assert pulse("list") == Done(
        0,
        dedent("""\
            TASK  STATE       SCHEDULE     PATH      LAST RUN                                       NEXT RUN                   GUARDED
            a     ok          every 5 min  /pulse/a  Fri 01 Jan 2027 12:00:01 UTC 200 in 2.0 s      Fri 01 Jan 2027 12:05 UTC  yes
            b     failing x2  every 5 min  /pulse/b  Fri 01 Jan 2027 12:00:01 UTC timeout in 2.0 s  Fri 01 Jan 2027 12:05 UTC  yes
            c     new         every 5 min  /pulse/c  -                                              Fri 01 Jan 2027 12:05 UTC  yes
            """),
        "",
    )  # fmt: skip


def test_a_task_that_is_running_says_so(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.claim("a", NOON)

    assert state_in(pulse) == "running"


def test_a_task_whose_process_died_is_lost(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.claim("a", NOON, lease=1)
    book.store.reap(NOON + 10 * SECOND)

    assert state_in(pulse) == "lost"


@pytest.mark.parametrize(("seconds", "state"), [(5 * 60 + 9, "ok"), (5 * 60 + 11, "late")])
def test_a_task_that_was_due_and_did_not_run_is_late(pulse, write_tasks, book, seconds, state):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON)

    assert state_in(pulse, now=NOON + timedelta(seconds=seconds)) == state


def test_a_task_that_was_missed_is_late(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.skipped("a", NOON, outcome=Outcome.MISSED, reason="late")

    assert state_in(pulse) == "late"


def test_a_task_whose_history_was_cleared_is_new_as_it_is_on_the_status_page(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON, Outcome.FAILED, 500)
    book.store.clear("a")

    assert state_in(pulse) == "new"


@pytest.mark.parametrize(
    ("begun", "state"), [(NOON - 10 * MINUTE, "late"), (NOON - 2 * MINUTE, "new")], ids=["before", "just now"]
)
def test_a_task_without_a_record_is_late_if_it_was_due_since_a_process_rings_for_it(
    pulse, write_tasks, book, begun, state
):
    write_tasks("pulse.task.a.interval = 5m")
    book.rings(started=begun, digest=digest_of(source_of("development.ini").configs()[0][1]))

    assert state_in(pulse) == state


def test_a_task_that_ran_before_its_history_was_cleared_is_not_late(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.rings(started=NOON - 60 * MINUTE, digest=digest_of(source_of("development.ini").configs()[0][1]))
    book.ran("a", NOON - 5 * MINUTE)
    book.store.clear("a")

    assert state_in(pulse) == "new"


def test_a_jitter_is_waited_for_before_a_task_is_late(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 1h", "pulse.task.a.jitter = 59m")
    book.ran("a", NOON - 60 * MINUTE)

    starts = datetime.fromisoformat(
        pulse("next", "a", "--json", "--from", "2027-01-01T12:00").document["instants"][0]["starts"]
    )

    assert state_in(pulse, now=starts + 9 * SECOND) == "ok"
    assert state_in(pulse, now=starts + 11 * SECOND) == "late"


@pytest.mark.parametrize("line", ["pulse.task.a.enabled = false", "pulse.config.enabled = false"])
def test_what_is_disabled_is_so_whatever_became_of_it(pulse, write_tasks, book, line):
    write_tasks("pulse.task.a.interval = 5m", line)
    book.ran("a", NOON, Outcome.FAILED, 500)

    assert state_in(pulse) == "disabled"


def test_tasks_are_listed_without_the_library_of_their_store(pulse, write_tasks, monkeypatch):
    monkeypatch.setitem(sys.modules, "pulse.runstores.redis", None)
    write_tasks("pulse.task.a.interval = 5m", "pulse.config.name = shop", store="redis://there")

    done = pulse("list")

    assert (done.code, done.lines[1].split()[:2]) == (0, ["a", "unknown"])
    assert done.lines[2].startswith("states and last runs are not known: pulse.config.store = 'redis://there': ")


def test_a_glance_at_all_tasks_keeps_nothing_of_what_their_runs_wrote(write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON, body=b"x" * 4096, errors=b"x", log=b"x", headers="x")

    clock = ManualClock(NOW)
    with opened(source_of("development.ini"), clock) as (one,):
        (seen,) = glances(one, clock)

    assert seen.last == book.store.history("a")[0].without_output()


def test_a_cancelled_run_is_no_failure_and_a_success_ends_a_row(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON - 10 * MINUTE, Outcome.FAILED, 500)
    book.ran("a", NOON - 5 * MINUTE)
    book.ran("a", NOON, Outcome.CANCELLED, None)

    assert state_in(pulse) == "ok"


def test_a_cancelled_run_does_not_end_a_row_of_failures(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON - 5 * MINUTE, Outcome.FAILED, 500)
    book.ran("a", NOON, Outcome.CANCELLED, None)

    assert state_in(pulse) == "failing"


def test_a_paused_task_says_until_when_and_is_due_after_it(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.b.interval = 5m")
    book.ran("a", NOON)
    pulse("pause", "a", "--until", "2027-01-01T13:00")
    pulse("pause", "b")

    a, b = pulse("list").lines[1:]

    assert "paused until Fri 01 Jan 2027 13:00 UTC" in a
    assert "Fri 01 Jan 2027 13:00 UTC  yes" in a
    assert b.split()[:2] == ["b", "paused"]
    assert b.split()[-2:] == ["-", "yes"]


def test_a_store_that_cannot_be_read_is_said_and_the_columns_are_left_out(pulse, write_tasks, place):
    write_tasks("pulse.task.a.interval = 5m")
    place.joinpath("runs.db").write_text("this is no database, and long enough to be taken for one" * 50)

    done = pulse("list")

    assert done.code == 0
    assert "LAST RUN" not in done.lines[0]
    assert done.lines[1].split()[:2] == ["a", "unknown"]
    assert done.lines[2].startswith("states and last runs are not known: the run store")
    assert len(done.lines) == 3


@pytest.mark.parametrize(
    "command", [["history"], ["pause", "a"], ["watch", "--once"], ["why", "a", "--at", "2027-01-01"]]
)
def test_a_store_that_cannot_be_used_is_an_error_of_its_own(pulse, write_tasks, place, command):
    write_tasks("pulse.task.a.interval = 5m")
    place.joinpath("runs.db").write_text("this is no database, and long enough to be taken for one" * 50)

    done = pulse(*command)

    assert (done.code, done.out) == (5, "")
    assert done.err.startswith("pulse: the run store ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", ["history", "workers", "watch", "purge --yes", "pause a", "resume a", "show 1"])
def test_a_store_in_the_memory_of_another_process_is_out_of_reach(pulse, write_tasks, command):
    write_tasks("pulse.task.a.interval = 5m", store="memory:")

    done = pulse(*command.split())

    assert (done.code, done.out) == (5, "")
    assert "store = memory: is known to the process alone that serves" in done.err


class Rounds(SystemClock):
    """Lets a watch look so often, and then presses Ctrl-C."""

    def __init__(self, *between):
        self._between = list(between)
        self.moment = NOW

    def now(self):
        return self.moment

    def wait(self, event, seconds):
        self.moment += timedelta(seconds=seconds)
        if not self._between:
            raise KeyboardInterrupt
        self._between.pop(0)()
        return False


def test_a_watch_writes_a_line_for_what_has_changed_until_ctrl_c(write_tasks, book, capsys):
    write_tasks("pulse.task.a.interval = 5m", "pulse.task.b.interval = 5m")
    book.ran("a", NOON)

    code = main(["watch", "--every", "2s"], clock=Rounds(lambda: None, lambda: book.ran("b", NOON)))

    assert code == 0
    assert capsys.readouterr().out.splitlines() == [
        "12:02:00 a ok, last Fri 01 Jan 2027 12:00:01 UTC 200 in 2.0 s, next in 3 min",
        "12:02:00 b new, next in 3 min",
        "12:02:04 b ok, last Fri 01 Jan 2027 12:00:01 UTC 200 in 2.0 s, next in 2 min 56 s",
    ]


def test_a_watch_that_began_before_anything_ran_sees_what_runs(write_tasks, place, capsys):
    write_tasks("pulse.task.a.interval = 5m")
    book = Book(place / "runs.db")

    main(["watch"], clock=Rounds(lambda: book.ran("a", NOON)))
    book.store.close()

    assert [line.split()[2].strip(",") for line in capsys.readouterr().out.splitlines()] == ["new", "ok"]


def test_a_watch_outlasts_a_store_that_does_not_answer(write_tasks, book, capsys, monkeypatch):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON)

    def fail(_store):
        raise StoreUnavailableError("the run store is away")

    main(
        ["watch"],
        clock=Rounds(lambda: monkeypatch.setattr(SqliteRunStore, "pauses", fail), lambda: None, monkeypatch.undo),
    )

    assert [line.split(" ", 1)[1][:28] for line in capsys.readouterr().out.splitlines()] == [
        "a ok, last Fri 01 Jan 2027 1",
        "the run store is away",
        "the run store answers again",
    ]


def test_a_watch_is_json_a_line_a_look(write_tasks, book, capsys):
    write_tasks("pulse.task.a.interval = 5m")
    book.claim("a", NOON)

    main(["watch", "--json"], clock=Rounds(lambda: None))

    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [look["now"][11:19] for look in looks] == ["12:02:00", "12:02:02"]
    assert looks[0]["tasks"][0]["state"] == "running"
    assert looks[0]["tasks"][0]["running"][0]["worker"] == "web1:4711"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_watch_on_a_terminal_is_drawn_in_place(write_tasks, book, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON)

    with redirect_stdout(Terminal()) as terminal:
        code = main(["watch"], clock=Rounds(lambda: None))

    shown = terminal.getvalue()
    assert code == 0
    assert shown.count("TASK") >= 2
    assert "\x1b[1A" in shown  # back up to where the table began
    assert "Ctrl-C ends" in shown


def test_a_watch_can_look_once(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    book.claim("a", NOON)

    assert pulse("watch", "--once").lines == [
        "TASK  STATE    LAST RUN  NEXT IN  RUNNING FOR",
        "a     running  -         3 min    1 min 59 s",
    ]


# pulse why


def test_why_is_told_with_its_evidence(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m", "pulse.config.timezone = Europe/Berlin")
    book.ran("a", NOON)

    done = pulse("why", "a", "--at", "2027-01-01T13:00")
    document = pulse("why", "a", "--at", "2027-01-01T12:00Z", "--json").document

    assert done.code == 0
    assert done.lines[0].startswith("a ran at Fri 01 Jan 2027 13:00 CET: success 200 in 2.0 s, begun")
    assert all(line.startswith("  ") for line in done.lines[1:])
    (answer,) = document["answers"]
    assert (answer["verdict"], answer["due"]) == ("ran", "2027-01-01T12:00:00+00:00")
    assert answer["evidence"] == [line.strip() for line in done.lines[1:]]


@pytest.mark.parametrize(
    ("asked", "due"),
    [
        ([], "2027-01-01T12:00:00+00:00"),
        (["--at", "12:55"], "2027-01-01T11:55:00+00:00"),
        (["--at", " 13:00:00"], "2027-01-01T12:00:00+00:00"),
        (["--at", "13:05"], "2026-12-31T12:05:00+00:00"),  # which has not come today
    ],
)
def test_why_means_the_last_instant_or_the_last_time_that_a_clock_of_the_zone_showed_it(pulse, write_tasks, asked, due):
    write_tasks("pulse.task.a.interval = 5m", "pulse.config.timezone = Europe/Berlin")

    (answer,) = pulse("why", "a", *asked, "--json").document["answers"]

    assert answer["due"] == due


def test_why_of_a_task_that_was_never_due_is_asked_of_now(pulse, write_tasks):
    write_tasks("pulse.task.a.cron = @manually", "pulse.task.b.at = 2027-02-01")

    done = pulse("why", "a")
    later = pulse("why", "b", now=NOW + timedelta(seconds=5, milliseconds=250))

    assert done.code == 0
    assert done.lines[0] == "a is never due: by hand only."
    assert later.lines[0].startswith("b was not due at Fri 01 Jan 2027 12:02:05 UTC: once at ")


def test_why_answers_for_each_filter_that_has_the_task(pulse, write):
    write(TWO.format(store="sqlite:one.db", other="sqlite:two.db"))

    lines = pulse("why", "a", "--at", "2027-01-01T12:00").lines

    assert [line for line in lines if line.startswith("development.ini")] == [
        "development.ini [filter:one]",
        "development.ini [filter:two]",
    ]


# pulse purge


def test_what_the_configuration_does_not_have_is_forgotten(pulse, write_tasks, book, place):
    write_tasks("pulse.task.a.interval = 5m")
    for task in ("a", "old", "older"):
        book.ran(task, NOON)

    asked, done = pulse("purge"), pulse("purge", "--yes")
    again = pulse("purge", "--yes", "--json")

    assert (asked.code, asked.out) == (2, "")
    assert f"sqlite:{place}/runs.db would forget old, older, with histories, totals and pauses" in asked.err
    assert "--yes does it" in asked.err
    assert done == Done(0, f"sqlite:{place}/runs.db: forgot old, older\n", "")
    assert again.document["purged"] == [{"store": f"sqlite:{place}/runs.db", "tasks": []}]
    assert len(book.store.history("a")) == 1
    assert book.store.history("old") == []


def test_a_purge_that_finds_nothing_asks_nothing(pulse, write_tasks, book, place):
    write_tasks("pulse.task.a.interval = 5m")
    book.ran("a", NOON)

    done, document = pulse("purge"), pulse("purge", "--json").document

    assert done == Done(0, f"sqlite:{place}/runs.db: there was nothing to forget\n", "")
    assert document["purged"] == [{"store": f"sqlite:{place}/runs.db", "tasks": []}]


def test_a_purge_keeps_the_tasks_of_all_filters_that_share_the_store(pulse, write, book):
    write(
        dedent(TWO.format(store="sqlite:runs.db", other="sqlite:runs.db"))
        + "[pipeline:main]\npipeline = one application\n[app:application]\nuse = egg:none\n"
    )
    for task in ("a", "b", "old"):
        book.ran(task, NOON)

    assert pulse("purge", "--yes").out.endswith(": forgot old\n")
    assert len(book.store.history("b")) == 1


# pulse cancel


@pytest.mark.parametrize("by_id", [False, True])
def test_what_is_under_way_is_asked_to_stop(pulse, write_tasks, book, by_id):
    write_tasks("pulse.task.a.interval = 5m")
    run = book.claim("a", NOON)

    done = pulse("cancel", run.id[:8] if by_id else "a", "--why", "wrong feed")

    assert done == Done(0, f"a {run.id[:8]} on web1:4711 is asked to stop, after 1 min 59 s\n", "")
    (stopped,) = book.store.running()
    assert stopped.stop.startswith("cancelled by ")
    assert stopped.stop.endswith(": wrong feed")


def test_the_runs_that_were_asked_to_stop_are_a_json_document(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    run = book.claim("a", NOON)

    document = pulse("cancel", "a", "--json").document

    assert document["asked"] == [{"task": "a", "run": run.id, "worker": "web1:4711"}]


def test_there_has_to_be_something_to_cancel(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")

    idle, unknown = pulse("cancel", "a"), pulse("cancel", "b")

    assert (idle.code, idle.err) == (1, "pulse: a: nothing is under way\n")
    assert unknown.code == 3


def test_the_id_of_a_run_that_has_ended_is_not_taken_for_a_task(pulse, write_tasks, book):
    write_tasks("pulse.task.a.interval = 5m")
    run = book.ran("a", NOON)

    done = pulse("cancel", run.id)

    assert done.code == 3
    assert done.err == (
        f"pulse: no run that is under way begins with {run.id!r}, and no task is called so; "
        f"pulse show {run.id} tells of one that has ended\n"
    )


# pulse login-code


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_login_code_is_signed_for_the_token_and_the_store_of_the_page(pulse, write_tasks, book, options):
    write_tasks("pulse.config.status = /_pulse", "pulse.config.token = 0123456789abcdef")

    done = pulse("login-code", *options)

    (link,) = done.document["links"] if options else done.lines[:1]
    path, _, code = link.partition("/login?code=")
    key = code_key("0123456789abcdef", book.store.secret())
    assert (done.code, path) == (0, "/_pulse")
    assert read_code(key, code, NOW + 9 * MINUTE)
    assert not read_code(key, code, NOW + 10 * MINUTE)


def test_without_a_status_page_there_is_nothing_to_log_in_to(pulse, write_tasks):
    write_tasks("pulse.task.a.interval = 5m")

    done = pulse("login-code")

    assert (done.code, done.out) == (2, "")
    assert "no filter has a status page (pulse.config.status = /_pulse)" in done.err


# What they all have in common


@pytest.mark.parametrize("command", ["pause", "resume", "cancel"])
def test_nothing_is_changed_while_one_of_the_stores_is_down(pulse, write, place, command):
    write(TWO.format(store="sqlite:one.db", other="sqlite:two.db"))
    book = Book(place / "one.db")
    book.claim("a", NOON)
    pause = Pause(since=NOON, until=None, note="", by="ada")
    book.store.pause("a", pause)
    (place / "two.db").write_bytes(b"no database at all" * 100)

    done = pulse(command, "a")

    assert done.code == 5
    assert [run.stop for run in book.store.running()] == [""]
    assert book.store.pauses() == {"a": pause}
    book.store.close()


@pytest.mark.parametrize(
    "command",
    ["history clenup", "pause clenup", "cancel clenup", "resume clenup", "why clenup --at 2027-01-01", "run clenup"],
)
def test_an_unknown_task_is_answered_with_the_nearest_name(pulse, write_tasks, write, place, command):
    write("def make(global_conf):\n    return lambda environ, start_response: []\n", "quiet_module.py")
    write_tasks(
        "pulse.task.cleanup.interval = 5m",
        "[pipeline:main]\npipeline = pulse application",
        "[app:application]\npaste.app_factory = quiet_module:make",
    )

    done = pulse(*command.split())
    sys.modules.pop("quiet_module", None)

    assert (done.code, done.out) == (3, "")
    assert "did you mean 'cleanup'?" in done.err
    assert not place.joinpath("runs.db").exists()


@pytest.mark.parametrize(
    "command",
    [
        "history",
        "show 1",
        "pause a",
        "resume a",
        "cancel a",
        "workers",
        "why a --at 2027-01-01",
        "watch",
        "purge",
        "worker",
    ],
)
def test_a_missing_file_is_an_error(pulse, command):
    done = pulse(*command.split())

    assert (done.code, done.out) == (2, "")
    assert "no such file" in done.err.lower()


@pytest.mark.parametrize(
    "command",
    [
        "pause", "pause a --for soon", "pause a --for 1h --until 2028-01-01", "pause a --until tomorrow", "resume",
        "why", "why --at 2027-01-01", "why a --at noon", "why a --at 25:00", "why a --at 12", "history -n 0", "history --since ages", "history a b c",
        "watch --every 0", "watch a.ini b.ini", "worker --for 0", "worker --json", "show", "purge all the things",
    ],
)  # fmt: skip
def test_a_wrong_usage_is_an_error_that_says_what_is_wanted(pulse, write_tasks, command):
    write_tasks("pulse.task.a.interval = 5m")

    done = pulse(*command.split())

    assert (done.code, done.out) == (2, "")
    assert len(done.err) > 40


def test_the_help_shows_every_command_in_its_group(pulse):
    lines = pulse("--help").lines

    groups = {}
    for line in lines[2:]:
        if line.endswith(":"):
            groups[line.rstrip(":")] = names = []
        elif line.startswith("  ") and groups:
            names.append(line.split()[0])
    del groups["options"]
    assert groups == {
        "run the application": ["serve", "worker"],
        "plan": ["check", "list", "next"],
        "one task": ["run", "pause", "resume", "cancel"],
        "see what became of it": ["watch", "history", "show", "why", "workers", "login-code"],
        "clean up": ["purge"],
    }


def test_a_password_of_a_store_is_not_shown(place):
    config = read_config({"pulse.config.name": "a", "pulse.config.store": "redis://me:hush@cache:6379/2"})

    assert place_of(config, None) == "redis://cache:6379/2"


# The stores of a source are those of its servers


APPLICATIONS = """
    def make(global_conf):
        return lambda environ, start_response: []

    def compose(loader, global_conf, **local_conf):
        applications = [loader.get_app(name, global_conf=global_conf) for name in local_conf.values()]
        return lambda environ, start_response: applications[0](environ, start_response)
    """


@pytest.mark.parametrize(
    "text",
    [
        "[pipeline:main]\npipeline = one two application",
        "[pipeline:main]\npipeline = two one application",
        "[filter-app:main]\nuse = one\nnext = inner\n[pipeline:inner]\npipeline = two application",
        "[app:main]\nuse = application\nfilter-with = one",
        "[pipeline:main]\npipeline = two decorated\n[app:decorated]\nuse = application\nfilter-with = one",
        "[composite:main]\npaste.composite_factory = two_filters:compose\na = x\nb = y\n"
        "[pipeline:x]\npipeline = one application\n[pipeline:y]\npipeline = one two application",
    ],
)
def test_the_filters_are_found_as_often_and_in_the_order_in_which_a_server_builds_them(write, text):
    write(APPLICATIONS, "two_filters.py")
    filters = (
        f"[filter:{name}]\nuse = egg:pulse\npulse.config.context = {name}\npulse.task.t.interval = 5m"
        for name in ("one", "two")
    )
    unused = "[pipeline:other]\npipeline = two application"
    write("\n".join([text, *filters, unused, "[app:application]\npaste.app_factory = two_filters:make"]))

    built = source_of("development.ini").load().middlewares
    found = source_of("development.ini").run_stores(ManualClock(NOW))
    sys.modules.pop("two_filters", None)

    assert [config.context for _, config, _ in found] == [one.config.context for one in built]
    assert [config for _, config, _ in found] == [one.config for one in built]


def test_an_object_brings_its_own_stores(write, pulse, place):
    write(
        """
        from pulse import PulseMiddleware
        app = PulseMiddleware(lambda environ, start_response: [], task={"a": {"interval": 5}}, store="sqlite:runs.db")
        """,
        "stored_module.py",
    )
    book = Book(place / "runs.db")
    book.ran("a", NOON)
    book.store.close()

    history, listed = pulse("history", "stored_module:app"), pulse("list", "stored_module:app")
    sys.modules.pop("stored_module", None)

    assert len(history.lines) == 3
    assert history.lines[-1].startswith("all 1 task: 1 success")
    assert "LAST RUN" in listed.lines[0]
