import importlib
import io
import json
import re
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from textwrap import dedent
from typing import NamedTuple

import pytest

from pulse.cli import main
from pulse.commands.screen import Screen
from pulse.commands.source import IniSource, ObjectSource, source_of
from pulse.testing import ManualClock

NOW = datetime(2027, 1, 1, 12, 0, tzinfo=UTC)

SOUND = """
    [filter-app:main]
    use = egg:pulse
    next = application
    pulse.config.context = sessions
    pulse.config.guard = true
    pulse.task.cleanup.interval = 300

    [app:application]
    use = egg:there-is-no-such-application
    """


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
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
        return name

    return write


@pytest.fixture
def write_tasks(write):
    """An ini file with one guarded Pulse filter that has these lines."""

    def write_tasks(*lines, name="development.ini"):
        section = ["[filter:pulse]", "use = egg:pulse", *lines]
        if not any("pulse.config.guard" in line for line in lines):
            section.append("pulse.config.guard = true")
        return write("\n".join(section), name)

    return write_tasks


@pytest.fixture
def pulse(capsys):
    def pulse(*argv):
        code = main(argv, clock=ManualClock(NOW))
        return Done(code, *capsys.readouterr())

    return pulse


@pytest.fixture
def write_module(write, monkeypatch):
    """A module with this source, that no other test has imported."""

    def write_module(text):
        monkeypatch.delitem(sys.modules, "some_module", raising=False)
        write(text, "some_module.py")
        importlib.invalidate_caches()

    yield write_module
    sys.modules.pop("some_module", None)


def warnings(done: Done) -> list[str]:
    return [line.partition("warning  ")[2] for line in done.lines if line.startswith("  warning")]


def errors(done: Done) -> list[str]:
    return [line.partition("error    ")[2] for line in done.lines if line.startswith("  error")]


# pulse check: errors


def test_a_sound_file_passes_the_check(pulse, write):
    write(SOUND)

    assert pulse("check") == Done(0, "1 file, 1 task, 0 errors, 0 warnings\n", "")


def test_the_check_names_every_fault_of_every_filter_under_its_section(pulse, write):
    write("""
        [DEFAULT]
        pulse.config.history = many

        [pipeline:main]
        pipeline = one application

        [filter:one]
        use = egg:pulse
        pulse.task.cleanup.intervall = 300
        pulse.config.guard = ture

        [filter-app:other]
        use = egg:pulse
        next = application
        guard = true

        [app:application]
        paste.app_factory = there_is_no_such:module
        """)

    done = pulse("check", "development.ini")

    assert done.code == 2
    assert done.lines == [
        "development.ini [DEFAULT]",
        "  error    pulse.config.history = 'many': want a whole number from 1 to 10000",
        "development.ini [filter-app:other]",
        "  error    guard = 'true': unknown option; did you mean 'pulse.config.guard'?",
        "development.ini [filter:one]",
        "  error    pulse.task.cleanup.intervall = '300': unknown option; did you mean 'pulse.task.cleanup.interval'?",
        "  error    pulse.config.guard = 'ture': want true or false",
        "1 file, 1 task, 4 errors, 0 warnings",
    ]


def test_a_key_that_two_filters_have_is_reported_under_each(pulse, write):
    write("""
        [filter:one]
        use = egg:pulse
        pulse.config.guard = ture
        [filter:two]
        use = egg:pulse
        pulse.config.guard = ture
        """)

    done = pulse("check")

    assert [line for line in done.lines if "[" in line] == [
        "development.ini [filter:one]",
        "development.ini [filter:two]",
    ]
    assert len(errors(done)) == 2


WRONG = "pulse.config.guard = ture\n"
OPEN = "pulse.task.a.interval = 300\n"
IS_OPEN = "pulse.config.guard is off: whoever reaches the server can call the endpoints of the tasks"


@pytest.mark.parametrize(
    ("text", "section"),
    [
        (f"[filter:p]\nuse = egg:pulse\n{OPEN}", "filter:p"),
        (f"[filter:p]\nuse = egg:Pulse#main\n{OPEN}", "filter:p"),
        (f"[filter:p]\nuse = egg:pulse#pulse_factory\n{OPEN}", "filter:p"),
        (f"[filter:p]\npaste.filter_app_factory = pulse.middleware:pulse_filter_app_factory\n{OPEN}", "filter:p"),
        (f"[filter-app:a]\nuse = egg:pulse\nnext = b\n{OPEN}[app:b]\nuse = egg:b", "filter-app:a"),
        (f"[filter-app:a]\nuse = p\nnext = b\n{OPEN}[filter:p]\nuse = egg:pulse\n[app:b]\nuse = egg:", "filter-app:a"),
        (f"[filter:p]\nuse = q\n[filter:q]\nuse = egg:pulse\n{OPEN}", "filter:p"),
        (f"[filter:p]\nuse = q\n{OPEN}[filter:q]\nuse = egg:pulse\n", "filter:p"),
        (f"[filter:p]\nuse = egg:pulse\nfilter-with = q\n{OPEN}[filter:q]\nuse = egg:q", "filter:p"),
        (f"[filter-app:a]\nuse = p\nnext = egg:b\nfilter-with = q\n{OPEN}[filter:p]\nuse = egg:pulse\n[filter:q]\nuse = egg:",
         "filter-app:a"),
        (f"[app:a]\nuse = egg:a\nfilter-with = p\n[filter:p]\nuse = egg:pulse\n{OPEN}", "filter:p"),
        (f"[pipeline:main]\npipeline = p b\n[app:b]\nuse = egg:b\n[filter:p]\nuse = egg:pulse\n{OPEN}", "filter:p"),
        (f"[pipeline:main]\npipeline = egg:pulse b\nset {OPEN}[app:b]\nuse = egg:b", "pipeline:main"),
    ],
)  # fmt: skip
def test_the_check_finds_a_pulse_filter_however_it_is_written(pulse, write, text, section):
    place = f"development.ini [{section}]"
    write(text)

    done = pulse("check")

    assert done.lines == [place, f"  warning  {IS_OPEN}", "1 file, 1 task, 0 errors, 1 warning"]


def test_a_filter_of_another_file_is_found_where_that_file_is_used(pulse, write, place):
    place.joinpath("base").mkdir()
    write(SOUND.replace("true", "ture"), "base/base.ini")
    write("[app:main]\nuse = config:base/base.ini\n", "production.ini")

    done = pulse("check", "production.ini")

    assert done.lines == [
        "base/base.ini [filter-app:main]",
        "  error    pulse.config.guard = 'ture': want true or false",
        "1 file, 1 task, 1 error, 0 warnings",
    ]


def test_a_file_that_is_used_knows_the_settings_of_the_one_that_uses_it(pulse, write):
    write(SOUND.replace("= sessions", "= %(place)s"), "base.ini")
    write("[DEFAULT]\nplace = here\n[app:main]\nuse = config:base.ini\n")

    assert "/here/cleanup" in pulse("list").out


def test_a_filter_in_two_pipelines_is_one(pulse, write):
    write(f"""
        [pipeline:main]
        pipeline = pulse application
        [pipeline:other]
        pipeline = pulse application
        [filter:pulse]
        use = egg:pulse
        {OPEN}
        [app:application]
        use = egg:a
        """)

    assert pulse("check").lines[-1] == "1 file, 1 task, 0 errors, 1 warning"


def test_a_filter_has_the_settings_that_its_pipeline_sets(pulse, write):
    write("""
        [pipeline:main]
        pipeline = pulse application
        set pulse.config.guard = true
        [filter:pulse]
        use = egg:pulse
        pulse.task.cleanup.interval = 300
        [app:application]
        use = egg:a
        """)

    assert pulse("check").out == "1 file, 1 task, 0 errors, 0 warnings\n"


def test_the_applications_of_a_composite_are_followed(pulse, write):
    write("""
        [composite:main]
        use = egg:Paste#urlmap
        set pulse.config.guard = true
        / = site
        /other = config:other.ini
        [pipeline:site]
        pipeline = pulse application
        [filter:pulse]
        use = egg:pulse
        pulse.task.a.interval = 300
        [app:application]
        use = egg:a
        [filter:unused]
        use = egg:pulse
        """)
    write(SOUND, "other.ini")

    assert pulse("check", "development.ini#main").out == "2 files, 2 tasks, 0 errors, 0 warnings\n"


def test_a_section_can_be_selected(pulse, write):
    write(SOUND + "\n    [filter-app:other]\n    use = egg:pulse\n    next = application\n    guard = 1\n")

    assert pulse("check", "development.ini#main").code == 0
    assert pulse("check", "config:development.ini#other").code == 2
    assert "No section 'none'" in pulse("check", "development.ini#none").out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("guard = true\n", "no section headers"),
        ("[filter:p]\nuse = egg:pulse\nuse = egg:pulse\n", "already exists"),
        ("[filter:p]\nuse = egg:pulse\npulse.config.context = 100%\n", "must be followed by"),
        ("[filter:p]\nuse = p\n", "uses itself"),
        ("[filter:p]\nuse = config:development.ini#q\n[filter:q]\nuse = config:development.ini#p\n", "uses itself"),
        ("[filter:p]\nuse = nowhere\n", "No section 'nowhere'"),
        ("[filter:p]\nguard = true\n", "No loader given"),
        ("[pipeline:main]\n", "missing a 'pipeline' setting"),
        ("[filter-app:main]\nuse = egg:pulse\n", "missing a 'next' setting"),
        ("[app:main]\nuse = config:nowhere.ini\n", "nowhere.ini: No such file"),
        ("[filter:p]\nuse = egg:pulse\nget guard = nothing\n", "nothing sets 'nothing'"),
        ("[filter:p]\nuse = egg:pulse\nrequire = no-such-distribution\n", "no-such-distribution"),
        ("[app:main]\nuse = egg:application\n", "there is no Pulse filter in it"),
        ("", "there is no Pulse filter in it"),
    ],
)
def test_what_is_no_sound_ini_file_is_an_error_that_says_why(pulse, write, text, said):
    write(text)

    checked, listed = pulse("check"), pulse("list")

    assert checked.code == listed.code == 2
    assert said in errors(checked)[0]
    assert checked.out.endswith(", 0 warnings\n")
    assert said in listed.err
    assert listed.out == ""


def test_what_leads_to_a_broken_section_is_not_taken_for_a_circle(pulse, write):
    write("[app:main]\nuse = nowhere\n[pipeline:other]\npipeline = egg:a main\n")

    assert [error.partition(" (")[0] for error in errors(pulse("check"))] == ["No section 'nowhere'"]


def test_a_broken_section_does_not_hide_the_faults_of_another(pulse, write):
    write(f"[app:main]\nuse = nowhere\n[filter:p]\nuse = egg:pulse\n{WRONG}")

    assert len(errors(pulse("check"))) == 2


@pytest.mark.parametrize("command", [["check"], ["list"], ["next"], ["run", "nowhere.ini", "a"], ["serve"]])
def test_a_missing_file_is_an_error(pulse, command):
    done = pulse(*command, *([] if "run" in command else ["nowhere.ini"]))

    assert done.code == 2
    assert "nowhere.ini" in done.out + done.err
    assert "no such file" in (done.out + done.err).lower()


def test_a_file_that_is_no_text_is_an_error(pulse, place):
    place.joinpath("development.ini").write_bytes(b"[filter:p]\nuse = \xff\xfe\n")

    assert errors(pulse("check")) == ["is no text in UTF-8"]


@pytest.mark.parametrize("command", ["run", "serve", "worker"])
@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"pulse.config.guard = true\n", "want lines such as key = value, in [sections]"),
        (b"\xef\xbb\xbf[filter:p]\nuse = egg:pulse\n", "save it as UTF-8 without one"),
        ("[filter:p]\nuse = egg:pulse\npulse.config.name = été\n".encode("latin-1"), "is no text in UTF-8"),
    ],
)
def test_what_starts_an_unreadable_file_says_the_same_as_the_check(pulse, place, command, content, wanted):
    place.joinpath("development.ini").write_bytes(content)

    done = pulse(command, "development.ini", *(["a"] if command == "run" else []))

    assert (done.code, done.err) == (2, f"pulse: development.ini: {errors(pulse('check'))[0]}\n")
    assert wanted in done.err


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        ("use = egg:waitress#main\nport = abc", "port = 'abc': want a whole number from 0 to 65535"),
        ("use = egg:waitress#main\nlisten = *:0\nno = 1", "cannot serve at *:0: ValueError: Unknown adjustment 'no'"),
        ("use = egg:there-is-no-such-server", "PackageNotFoundError: "),
    ],
)
def test_what_is_wrong_with_a_server_is_said_with_its_section(pulse, write, write_module, server, fault):
    write_module("def make(global_conf):\n    return print\n")
    write(f"[app:web]\npaste.app_factory = some_module:make\n[server:main]\n[server:web]\n{server}\n")

    done = pulse("serve", "development.ini#web")

    assert done.code == 2
    assert done.err.startswith(f"pulse: development.ini [server:web]: {fault}")


def test_what_is_wrong_with_two_sections_alike_is_said_once(pulse, write):
    write("[app:main]\nuse = egg:a\n[pipeline:main]\npipeline = main\n[filter:p]\nuse = egg:pulse\n")

    assert pulse("list").err.count("Ambiguous section names") == 1


WITH_SESSIONS = """
    [pipeline:main]
    pipeline = pulse sessions application

    [pipeline:other]
    pipeline = pulse application

    [filter:pulse]
    use = egg:pulse
    pulse.config.guard = true
    pulse.task.cleanup.interval = 300

    [filter:sessions]
    use = egg:pulse#sessions
    ttl = forever

    [app:application]
    use = egg:there-is-no-such-application
    """


def test_a_session_filter_has_no_tasks(pulse, write):
    write(WITH_SESSIONS)

    done = pulse("list")

    assert [line.split()[0] for line in done.lines] == ["TASK", "cleanup"]
    assert done.err == ""


@pytest.mark.parametrize(("section", "count"), [("", 1), ("#main", 1), ("#other", 0)])
def test_session_filters_of_other_applications_are_not_judged(pulse, write, section, count):
    write(WITH_SESSIONS)

    assert len(errors(pulse("check", f"development.ini{section}"))) == count


def test_the_check_writes_one_json_document(pulse, write):
    write(SOUND.replace("guard = true", "guard = ture"))

    done = pulse("check", "--json")

    assert done.code == 2
    assert done.document == {
        "source": "development.ini",
        "findings": [
            {
                "level": "error",
                "where": "development.ini [filter-app:main]",
                "text": "pulse.config.guard = 'ture': want true or false",
            }
        ],
        "tasks": 1,
        "errors": 1,
        "warnings": 0,
    }


def test_secrets_are_not_shown(pulse, write_tasks):
    write_tasks("pulse.config.token = hush")

    assert "hush" not in pulse("check").out


# pulse check: dangers

SKIPPED = "from one instant to the next: what is due while a run lasts is skipped"
USELESS = (
    "coalesce = false has no effect with misfire_grace_time = auto: "
    "all missed instants but the last are recorded as missed, and never run"
)


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        (["pulse.config.context = a"], "there are no tasks: nothing will run"),
        (
            ["pulse.task.a.at = 2026-12-31T23:00"],
            "a: at = 2026-12-31 23:00 has passed: it is never due again",
        ),
        (
            ["pulse.task.a.end_date = 2026-12-31"],
            "a: end_date = 2026-12-31 23:59 has passed: it is never due again",
        ),
        (
            ["pulse.task.a.at = 2027-02-01", "pulse.task.a.start_date = 2027-03-01"],
            "a: it is never due (once at 2027-02-01 00:00 UTC, from 2027-03-01 00:00 UTC)",
        ),
        (
            ["pulse.task.a.interval = 60", "pulse.task.a.timeout = 90"],
            f"a: timeout = 1m30s is longer than the 1m {SKIPPED}",
        ),
        (
            ["pulse.task.a.cron = */5 * * * *", "pulse.config.default.timeout = 1h"],
            f"a: timeout = 1h is longer than the 5m {SKIPPED}",
        ),
        (
            ["pulse.task.a.interval = 60", "pulse.task.a.timeout = 0"],
            "a: timeout = 0: a run that hangs keeps the task from running ever again",
        ),
        (
            ["pulse.task.a.coalesce = false"],
            f"a: {USELESS}",
        ),
        (
            ["pulse.task.a.interval = 60", "pulse.config.token = 0123456789abcdefgh"],
            "pulse.config.token stands in the file itself: write env:NAME or file:/path instead",
        ),
        (
            ["pulse.config.status = /_pulse", "pulse.task.a.action = /_pulse"],
            "a: /_pulse lies below the status page at /_pulse: its runs reach it, and calls with the token do not",
        ),
        (
            ["pulse.config.status = /_pulse", "pulse.task.a.action = /_pulse/clean"],
            "a: /_pulse/clean lies below the status page at /_pulse: its runs reach it, and calls with the token do not",
        ),
        (
            ["pulse.task.a.action = x?y=1", "pulse.task.b.action = /pulse/x?y=1", "pulse.task.c.action = x?y=2"],
            "a and b request the same path, /pulse/x?y=1",
        ),
    ],
)
def test_the_check_warns(pulse, write_tasks, lines, warning):
    write_tasks(*lines)

    done = pulse("check")

    assert (done.code, warnings(done)) == (0, [warning])


@pytest.mark.parametrize(
    "lines",
    [
        ["pulse.task.a.interval = 60"],  # its timeout of an hour is nobody's decision
        ["pulse.task.a.interval = 60", "pulse.task.a.timeout = 60"],
        ["pulse.task.a.cron = @manually", "pulse.task.a.timeout = 0"],
        ["pulse.task.a.at = 2027-01-02"],
        ["pulse.task.a.end_date = 9999-12-31", "pulse.task.a.timezone = America/New_York"],
        [
            "pulse.task.a.cron = @daily",
            "pulse.task.a.end_date = 9999-12-31",
            "pulse.task.a.timezone = America/New_York",
        ],
        ["pulse.task.a.enabled = false", "pulse.task.a.at = 2020-01-01"],
        ["pulse.task.a.coalesce = false", "pulse.task.a.misfire_grace_time = 1h"],
        ["pulse.task.a.action = x", "pulse.task.b.action = x", "pulse.task.b.method = POST"],
        ["pulse.task.a.interval = 60", "pulse.config.token = env:MY_TOKEN"],
        ["pulse.config.status = /_pulse", "pulse.task.a.action = /_pulsebeat"],
    ],
)
def test_the_check_has_nothing_against(pulse, write_tasks, monkeypatch, lines):
    monkeypatch.setenv("MY_TOKEN", "0123456789abcdefgh")
    write_tasks(*lines)

    assert warnings(pulse("check")) == []


@pytest.mark.parametrize(
    ("lines", "warned"),
    [
        (["cron = 30 2 * * *"], ["02:30 does not exist on 28 Mar 2027 in Europe/Berlin, runs at 03:00",
                                 "02:30 comes twice on 31 Oct 2027 in Europe/Berlin, runs once"]),
        (["cron = 0,30 2 * * *"], ["02:00 to 02:30 does not exist on 28 Mar 2027 in Europe/Berlin, runs at 03:00",
                                   "02:00 to 02:30 comes twice on 31 Oct 2027 in Europe/Berlin, runs once"]),
        (["cron = */20 2 * * *"], ["02:00 to 02:40 does not exist on 28 Mar 2027 in Europe/Berlin, does not run then",
                                   "02:00 to 02:40 comes twice on 31 Oct 2027 in Europe/Berlin, runs both times"]),
        (["cron = 15 */2 * * *"], ["02:15 does not exist on 28 Mar 2027 in Europe/Berlin, does not run then",
                                   "02:15 comes twice on 31 Oct 2027 in Europe/Berlin, runs both times"]),
        (["cron = 30 2 * * *", "end_date = 2027-06-01"],
         ["02:30 does not exist on 28 Mar 2027 in Europe/Berlin, runs at 03:00"]),
        (["cron = 30 2 * * *", "start_date = 2027-06-01"],
         ["02:30 comes twice on 31 Oct 2027 in Europe/Berlin, runs once"]),
        (["cron = 15 30 2 * * *", "timezone = America/New_York", "end_date = 2027-06-01"],
         ["02:30:15 does not exist on 14 Mar 2027 in America/New_York, runs at 03:00"]),
        (["cron = 15 2 * * *", "timezone = Australia/Lord_Howe", "end_date = 2027-11-01"],
         ["02:15 does not exist on 03 Oct 2027 in Australia/Lord_Howe, runs at 02:30"]),
        (["cron = 45 1 * * *", "timezone = Australia/Lord_Howe", "end_date = 2027-11-01"],
         ["01:45 comes twice on 04 Apr 2027 in Australia/Lord_Howe, runs once"]),
        (["at = 2027-03-28T02:30"], ["at = Sun 28 Mar 2027 03:00 CEST: the clocks go forward past 02:30"]),
        (["at = 2027-10-31T02:30"], ["at = Sun 31 Oct 2027 02:30 CEST: the clocks go back: it runs once"]),
        (["cron = 30 2 * * 1-6"], []),  # the clocks change on Sundays
        (["cron = 30 4 * * *"], []),
        (["cron = 30 2 * * *", "timezone = UTC"], []),
        (["cron = 30 * * * *"], []),
        (["cron = */5 * * * *"], []),
        (["interval = 1d"], []),
    ],
)  # fmt: skip
def test_the_check_says_what_a_change_of_the_clocks_will_do(pulse, write_tasks, lines, warned):
    write_tasks("pulse.config.timezone = Europe/Berlin", *(f"pulse.task.a.{line}" for line in lines))

    assert warnings(pulse("check")) == [f"a: {warning}" for warning in warned]


def test_of_the_changes_of_the_clocks_the_next_of_each_kind_is_named(write_tasks, capsys):
    write_tasks("pulse.task.a.cron = 30 2 * * *", "pulse.task.a.timezone = Europe/Berlin")

    main(["check"], clock=ManualClock(datetime(2027, 3, 27, tzinfo=UTC)))  # twice within 366 days

    shown = capsys.readouterr().out
    assert "28 Mar 2027" in shown
    assert "26 Mar 2028" not in shown


@pytest.mark.parametrize(
    ("name", "line", "is_warned"),
    [
        ("production.ini", "", True),
        ("development.ini", "", True),
        ("production.ini", "pulse.config.guard = false", True),
        ("development.ini", "pulse.config.guard = false", False),
        ("my-test.ini", "pulse.config.guard = no", False),
        ("production.ini", "pulse.config.guard = true", False),
    ],
)
def test_an_open_guard_is_a_danger_unless_a_file_for_development_asks_for_it(pulse, write, name, line, is_warned):
    write(f"[filter:p]\nuse = egg:pulse\npulse.task.a.interval = 5\n{line}\n", name)

    assert warnings(pulse("check", name)) == [IS_OPEN] * is_warned


def test_the_dangers_of_sound_tasks_stand_beside_the_faults_of_others(pulse, write_tasks):
    write_tasks(
        "pulse.task.good.coalesce = false",
        "pulse.task.bad.coalesce = false",
        "pulse.task.bad.interval = never",
    )

    done = pulse("check")

    assert done.lines[-1] == "1 file, 2 tasks, 1 error, 1 warning"
    assert warnings(done)[0].startswith("good: ")


def test_nothing_is_guessed_about_the_dangers_when_the_fault_concerns_all(pulse, write):
    write("[filter:p]\nuse = egg:pulse\npulse.config.guard = ture\npulse.task.a.coalesce = false\n")

    assert warnings(pulse("check")) == []


# pulse list


def test_the_list_is_a_table_in_words_and_local_time(pulse, write_tasks):
    write_tasks(
        "pulse.config.context = sessions",
        "pulse.task.cleanup.interval = 300",
        "pulse.task.report.cron = 30 2 * * *",
        "pulse.task.report.timezone = Europe/Berlin",
        "pulse.task.report.action = /build?all=1",
        "pulse.task.off.enabled = false",
        "pulse.task.hand.cron = @manually",
    )

    done = pulse("list")

    assert done == Done(
        0,
        dedent("""\
            TASK     STATE     SCHEDULE                            PATH               NEXT RUN                   GUARDED
            cleanup  unknown   every 5 min                         /sessions/cleanup  Fri 01 Jan 2027 12:05 UTC  yes
            report   unknown   At 02:30 every day (Europe/Berlin)  /build?all=1       Sat 02 Jan 2027 02:30 CET  yes
            off      disabled  every 5 min                         /sessions/off      -                          yes
            hand     unknown   by hand only                        /sessions/hand     never                      yes
            """),
        "",
    )


def test_tasks_of_a_filter_that_is_switched_off_are_disabled(pulse, write_tasks):
    write_tasks("pulse.config.enabled = false", "pulse.task.a.interval = 5", "pulse.config.guard = false")

    assert pulse("list").lines[1].split() == ["a", "disabled", "every", "5", "s", "/pulse/a", "-", "no"]


def test_the_list_of_several_filters_says_whose_each_task_is(pulse, write):
    write("""
        [filter:one]
        use = egg:pulse
        pulse.task.a.interval = 5
        [filter:two]
        use = egg:pulse
        pulse.task.a.interval = 7
        """)

    done = pulse("list")

    assert done.lines[0].endswith("  GUARDED  FILTER")
    assert [line.rpartition("  ")[2] for line in done.lines[1:]] == [
        "development.ini [filter:one]",
        "development.ini [filter:two]",
    ]


def test_the_list_writes_one_json_document(pulse, write_tasks):
    write_tasks(
        "pulse.task.a.cron = 30 2 * * *",
        "pulse.task.a.timezone = Europe/Berlin",
        "pulse.task.a.action = x?y=1",
        "pulse.task.a.method = POST",
        "pulse.task.a.description = builds it",
    )

    assert pulse("list", "--json").document == {
        "source": "development.ini",
        "tasks": [
            {
                "task": "a",
                "state": "unknown",
                "schedule": "At 02:30 every day (Europe/Berlin)",
                "description": "builds it",
                "method": "POST",
                "path": "/pulse/x",
                "query": "y=1",
                "next_due": "2027-01-02T01:30:00+00:00",
                "timezone": "Europe/Berlin",
                "guarded": True,
                "last_run": None,
                "failures": None,
                "running": None,
                "paused_until": None,
                "filter": "development.ini [filter:pulse]",
            }
        ],
        "problems": [],
    }


def test_a_configuration_with_faults_cannot_be_listed(pulse, write):
    write(f"[filter:a]\nuse = egg:pulse\n{WRONG}[filter:b]\nuse = egg:pulse\nguard = 1\n")

    done = pulse("list")

    assert (done.code, done.out) == (2, "")
    assert "2 faults" in done.err
    assert "[filter:a]" in done.err
    assert "[filter:b]" in done.err
    assert "Traceback" not in done.err


def test_a_filter_without_tasks_has_an_empty_list(pulse, write_tasks):
    write_tasks()

    assert pulse("list").out == "development.ini: there are no tasks\n"


def test_an_object_is_listed_whether_it_is_the_filter_or_holds_one(pulse, write_module):
    write_module("""
        from pulse import PulseMiddleware
        class Framework:
            def __init__(self):
                self.wsgi_app = PulseMiddleware(self.answer, task={"a": {"interval": 5}})
            def answer(self, environ, start_response):
                raise NotImplementedError
        app = Framework()
        """)
    holding = pulse("list", "some_module:app")
    write_module("""
        from pulse import PulseMiddleware
        app = PulseMiddleware(lambda environ, start_response: [], task={"a": {"interval": 5}})
        other = PulseMiddleware(lambda environ, start_response: [], task={"b": {"interval": 5}})
        """)
    being = pulse("list", "some_module:app")

    assert holding.code == being.code == 0
    assert [line.split()[0] for line in holding.lines] == [line.split()[0] for line in being.lines] == ["TASK", "a"]


def test_no_object_begins_to_run_its_tasks_because_it_is_listed(pulse, write_module):
    write_module("""
        import os
        from pulse import PulseMiddleware
        start = os.environ["PULSE_START"]
        app = PulseMiddleware(lambda environ, start_response: [], task={"a": {"interval": 5}})
        """)

    assert pulse("list", "some_module:app").code == 0
    assert sys.modules["some_module"].start == "manual"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("raise RuntimeError('broken')", "some_module:app", "some_module:app cannot be loaded: RuntimeError: broken"),
        ("import sys; sys.exit('no')", "some_module:app", "some_module:app cannot be loaded: SystemExit: no"),
        ("app = 1", "some_module:other", "has no attribute 'other'"),
        ("app = 1", "some_module:app", "there is no Pulse filter in it"),
        ("app = 1", "no_such_module:app", "No module named 'no_such_module'"),
        ("import pulse; app = pulse.PulseMiddleware(None, guard='ture')", "some_module:app", "want true or false"),
    ],
)
def test_an_object_that_cannot_be_had_is_an_error(pulse, write_module, text, name, said):
    write_module(text)

    listed, checked = pulse("list", name), pulse("check", name)

    assert listed.code == checked.code == 2
    assert said in listed.err
    assert "Traceback" not in listed.err
    assert said in checked.out


def test_the_traceback_of_an_object_is_shown_on_demand(pulse, write_module):
    write_module("raise RuntimeError('broken')")

    assert "-v shows the traceback" in pulse("list", "some_module:app").err
    assert "Traceback" in pulse("list", "some_module:app", "-v").err


# pulse next


def test_the_next_instants_are_local_and_marked_where_the_clocks_change(pulse, write_tasks):
    write_tasks("pulse.task.report.cron = 30 2 * * *", "pulse.task.report.timezone = Europe/Berlin")

    done = pulse("next", "development.ini", "--count", "3", "--from", "2027-10-30", "report")

    assert done == Done(
        0,
        dedent("""\
            Sat 30 Oct 2027 02:30 CEST
            Sun 31 Oct 2027 02:30 CEST   (the clocks go back: it runs once)
            Mon 01 Nov 2027 02:30 CET
            """),
        "",
    )


def test_the_first_instant_after_a_change_of_the_clocks_is_marked(pulse, write_tasks):
    write_tasks("pulse.config.timezone = Europe/Berlin", "pulse.task.a.cron = 0 9 * * *", "pulse.task.b.interval = 1h")

    assert pulse("next", "a", "--from", "2027-03-27", "--count", "3").lines == [
        "Sat 27 Mar 2027 09:00 CET",
        "Sun 28 Mar 2027 09:00 CEST   (the clocks have gone forward)",
        "Mon 29 Mar 2027 09:00 CEST",
    ]
    assert pulse("next", "b", "--from", "2027-10-31T02:00", "--count", "3").lines == [
        "Sun 31 Oct 2027 02:00 CEST",
        "Sun 31 Oct 2027 02:00 CET    (the clocks have gone back)",
        "Sun 31 Oct 2027 03:00 CET",
    ]


def test_without_a_name_the_instants_of_all_enabled_tasks_stand_in_their_order(pulse, write_tasks):
    write_tasks(
        "pulse.task.five.interval = 5m",
        "pulse.task.three.interval = 3m",
        "pulse.task.once.at = 2027-01-01T13:03:30+01:00",
        "pulse.task.off.interval = 1m",
        "pulse.task.off.enabled = no",
    )

    assert pulse("next", "--from", "2027-01-01T12:01Z", "--count", "4").lines == [
        "Fri 01 Jan 2027 12:03 UTC      three",
        "Fri 01 Jan 2027 12:03:30 UTC   once",
        "Fri 01 Jan 2027 12:05 UTC      five",
        "Fri 01 Jan 2027 12:06 UTC      three",
    ]


def test_the_instant_itself_counts_as_next(pulse, write_tasks):
    write_tasks("pulse.task.a.interval = 1h")

    assert pulse("next", "--count", "1").lines == ["Fri 01 Jan 2027 12:00 UTC   a"]


def test_a_jitter_and_a_disabled_task_are_noted(pulse, write_tasks):
    write_tasks("pulse.task.a.interval = 1h", "pulse.task.a.jitter = 30s", "pulse.task.a.enabled = no")

    (line,) = pulse("next", "a", "--count", "1").lines

    assert line.startswith("Fri 01 Jan 2027 12:00 UTC   (disabled: it does not run by itself; starts ")
    assert line.endswith(" s later, of a jitter of 30s)")


def test_fractions_of_a_second_are_shown(pulse, write_tasks):
    write_tasks("pulse.task.a.interval = 0.25")

    assert [line.split()[4] for line in pulse("next", "a", "--count", "3").lines] == [
        "12:00",
        "12:00:00.25",
        "12:00:00.5",
    ]


def test_a_task_that_is_never_due_says_so(pulse, write_tasks):
    write_tasks("pulse.task.a.cron = @manually")

    assert pulse("next", "a") == Done(0, "a is never due: by hand only\n", "")
    assert pulse("next") == Done(0, "no task is due any more\n", "")


def test_the_next_instants_are_one_json_document(pulse, write_tasks):
    write_tasks("pulse.task.a.cron = 30 2 * * *", "pulse.task.a.timezone = Europe/Berlin")

    assert pulse("next", "--json", "--count", "1", "--from", "2027-10-31").document == {
        "source": "development.ini",
        "instants": [
            {
                "task": "a",
                "due": "2027-10-31T00:30:00+00:00",
                "local": "2027-10-31T02:30:00+02:00",
                "starts": "2027-10-31T00:30:00+00:00",
                "notes": ["the clocks go back: it runs once"],
            }
        ],
    }


# pulse run, as far as nothing runs


@pytest.fixture
def write_application(write, write_module):
    """An application that can be built, behind Pulse filters."""

    def write_application(*filters):
        write_module("def make(global_conf):\n    return lambda environ, start_response: []\n")
        sections = [f"[filter:{name}]\nuse = egg:pulse\n{lines}" for name, lines in filters]
        pipeline = f"[pipeline:main]\npipeline = {' '.join(name for name, _ in filters)} application"
        application = "[app:application]\npaste.app_factory = some_module:make"
        write("\n".join([*sections, pipeline, application]))

    return write_application


@pytest.mark.parametrize("command", ["run", "next"])
def test_an_unknown_task_is_answered_with_the_nearest_name(pulse, write_application, command):
    write_application(("p", "pulse.task.cleanup.interval = 5\npulse.task.report.interval = 5"))

    assert pulse(command, "development.ini", "clenup") == Done(
        3, "", "pulse: no task 'clenup'; the tasks are: cleanup, report; did you mean 'cleanup'?\n"
    )


def test_a_task_that_two_filters_have_is_not_run(pulse, write_application):
    write_application(("p", "pulse.task.a.action = /x"), ("q", "pulse.task.a.action = /y"))

    done = pulse("run", "a")

    assert (done.code, done.out) == (2, "")
    assert "2 Pulse filters have a task 'a'" in done.err
    assert "/x" in done.err
    assert "/y" in done.err


def test_an_application_that_cannot_be_built_is_an_error(pulse, write, write_module):
    write(SOUND.replace("use = egg:there-is-no-such-application", "paste.app_factory = some_module:make"))
    write_module("def make(global_conf): raise RuntimeError('no database')")

    done, verbose = pulse("run", "cleanup"), pulse("run", "cleanup", "-v")

    assert done == Done(
        2, "", "pulse: development.ini cannot be loaded: RuntimeError: no database (-v shows the traceback)\n"
    )
    assert verbose.code == 2
    assert "Traceback" in verbose.err
    assert 'some_module.py", line 1, in make' in verbose.err


def test_faults_are_told_without_a_traceback_when_a_task_is_run(pulse, write_application):
    write_application(("p", "pulse.config.guard = ture"))

    assert pulse("run", "a", "-v") == Done(
        2, "", "pulse: development.ini [filter:p]: pulse.config.guard = 'ture': want true or false\n"
    )


def test_an_application_without_a_pulse_filter_has_no_tasks_to_run(pulse, write, write_module):
    write("[app:main]\npaste.app_factory = some_module:make\n")
    write_module("def make(global_conf): return lambda environ, start_response: []\n")

    assert "there is no Pulse filter in it" in pulse("run", "a").err


# The command line itself


@pytest.mark.parametrize(
    "argv",
    [
        [], ["bogus"], ["list", "--bogus"], ["list", "a.ini", "b.ini"], ["next", "a.ini", "b", "c"], ["run"],
        ["run", "a.ini"], ["next", "--count", "0"], ["next", "--count", "many"], ["next", "--from", "tomorrow"],
        ["next", "--from", "9999-12-31"], ["next", "--from", "0001-01-01"],
        ["serve", "--port", "70000"], ["check", "--count", "3"],
    ],
)  # fmt: skip
def test_a_wrong_usage_is_an_error(pulse, argv):
    done = pulse(*argv)

    assert (done.code, done.out) == (2, "")
    assert done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("lst", "there is no command 'lst'; did you mean 'list'?"),
        ("list.ini", "there is no command 'list.ini'; did you mean 'list'?"),
        ("shop.ini list", "there is no command 'shop.ini'; pulse --help lists them"),
        ("--json list", "want the command first, then --json: pulse COMMAND [INI] --json"),
        ("list --jsn", "unrecognized arguments: --jsn; did you mean '--json'?"),
        ("history --fail-only", "unrecognized arguments: --fail-only; did you mean '--failed'?"),
        ("list --zzz", "unrecognized arguments: --zzz"),
        ("list -x", "unrecognized arguments: -x"),
        ("history --since yesterday", "want a date and time as 2027-03-28T02:30 or 2027-03-28T02:30+01:00, or how long ago: 90s, 2h, 1d"),
        ("history --since 1800-01-01", "want a year from 1970 to 9000, or how long ago: 90s, 2h, 1d"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_told_with_what_was_meant(pulse, argv, said):
    done = pulse(*argv.split())

    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].endswith(said)


@pytest.mark.parametrize(
    ("command", "what"),
    [("run", "TASK"), ("pause", "TASK"), ("resume", "TASK"), ("why", "TASK"), ("cancel", "TASK|RUN"), ("show", "RUN")],
)
def test_the_usage_of_a_command_says_what_it_cannot_do_without(pulse, command, what):
    usage = " ".join(pulse(command, "--help").out.partition("\n\n")[0].split())

    assert usage.startswith(f"usage: pulse {command} [-h] ")
    assert usage.endswith(f" [INI] {what}")


def test_the_usage_of_a_command_says_what_may_be_left_out(pulse):
    assert "[INI] [TASK]" in " ".join(pulse("history", "--help").out.split())
    assert pulse("list", ".").err == "pulse: .: Is a directory; want file.ini, file.ini#name or module:object\n"


def test_options_may_stand_anywhere(pulse, write_tasks):
    write_tasks("pulse.task.a.interval = 1h", name="x.ini")

    forms = ["x.ini a --count 2", "--count 2 x.ini a", "x.ini --count 2 a", "x.ini a -n 2"]

    assert len({pulse("next", *form.split()).out for form in forms}) == 1


def test_without_a_command_the_help_says_which_there_are(pulse):
    done = pulse()

    assert (done.code, done.out) == (2, "")
    assert done.err == pulse("--help").out


def test_the_version_is_told(pulse):
    done = pulse("--version")

    assert done.code == 0
    assert done.out.startswith("Pulse ")


def test_help_tells_the_exit_codes(pulse):
    done = pulse("--help")

    assert done.code == 0
    assert "124 timed out" in done.out


def test_the_environment_names_the_default(pulse, write_tasks, monkeypatch):
    write_tasks("pulse.task.here.interval = 5", name="elsewhere.ini")
    monkeypatch.setenv("PULSE_CONFIG", "elsewhere.ini")

    assert "here" in pulse("list").out
    assert pulse("next", "here").code == 0


@pytest.mark.parametrize(
    ("written", "kind", "name"),
    [
        ("a.ini", IniSource, "a.ini"),
        ("/srv/app/a.ini#other", IniSource, "/srv/app/a.ini#other"),
        ("config:a.ini", IniSource, "a.ini"),
        ("/srv/app#1/a.ini", IniSource, "/srv/app#1/a.ini"),
        ("/srv/app#1/a.ini#other", IniSource, "/srv/app#1/a.ini#other"),
        ("some.module:app", ObjectSource, "some.module:app"),
        ("module:an.attribute", ObjectSource, "module:an.attribute"),
    ],
)
def test_a_source_is_known_by_its_looks(written, kind, name):
    source = source_of(written)

    assert (type(source), source.name) == (kind, name)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def show(monkeypatch):
    """What a command shows on a terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")

    def show(*argv):
        with redirect_stdout(Terminal()) as terminal:
            main(argv, clock=ManualClock(NOW))
        return terminal.getvalue()

    return show


def test_a_terminal_is_shown_rules_and_colours(write_tasks, show):
    write_tasks("pulse.task.a.coalesce = false")

    assert "───" in show("list")
    assert "\x1b[33m  warning" in show("check")


HEAD = ("RUN", "DUE", "WORKER", "REASON")
ROW = ("7c79781e", "Fri 01 Jan 2027 12:05 UTC", "web1.example.org:4711", "the feed did not answer in time, again")


def shown_in(columns, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    Screen(terminal).table(HEAD, [ROW])
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in terminal.getvalue().splitlines()]


def test_of_a_table_that_is_too_wide_sentences_are_broken_but_no_ids_and_times(monkeypatch):
    lines = shown_in(80, monkeypatch)

    assert any("───" in line for line in lines)
    (row,) = [line for line in lines if "7c79781e" in line]
    assert row.startswith("  ".join(ROW[:3]))
    assert " ".join(line.rpartition("  ")[2] for line in lines[lines.index(row) :]).split() == ROW[3].split()


def test_a_table_that_cannot_be_made_to_fit_is_left_to_the_terminal(monkeypatch):
    lines = shown_in(60, monkeypatch)

    assert len(lines) == 2
    assert lines[1] == "  ".join(ROW)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_may_be_kept_plain(write_tasks, show, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    write_tasks("pulse.task.a.coalesce = false")

    shown = show("list") + show("check")

    assert "  warning  a: " in shown
    assert shown.isascii()
    assert "\x1b" not in shown


def test_what_is_shown_cannot_command_the_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()

    Screen(terminal).line("\x1b]0;title\x07[bold]:smile:\x9b2J")

    assert terminal.getvalue() == "\\x1b]0;title\\x07[bold]:smile:\\x9b2J\n"


REASON = "no feed\nsuccess\t200\r\u202eelur\u2028\x9b2J"
SPELT = r"no feed\nsuccess\t200\x0d\u202eelur\u2028\x9b2J"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_no_text_looks_like_another_line(monkeypatch, stream):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    lines, table = stream(), stream()

    Screen(lines).line(REASON)
    Screen(table).table(["TASK", "REASON"], [["a", REASON]])

    assert lines.getvalue() == f"{SPELT}\n"
    assert sum("a" in line for line in table.getvalue().splitlines()) == 1
    assert SPELT in table.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_a_document_is_json_in_any_encoding_and_commands_no_terminal(encoding):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace")

    Screen(stream, is_json=True).document({"reason": f"{REASON} é \N{EN DASH} \U0001f600 \udc80"})

    text = written.getvalue().decode(encoding)
    assert json.loads(text) == {"reason": f"{REASON} é \N{EN DASH} \U0001f600 \udc80"}
    assert not set(text) & set("\t\r\u202e\u2028\x9b")


@pytest.mark.parametrize("again", ["", " "])
def test_an_id_that_is_empty_is_that_of_no_run(write_tasks, capsys, again):
    write_tasks("pulse.task.a.interval = 5")

    assert main(["run", "a", "--again", again]) == 2
    assert "argument --again" in capsys.readouterr().err


def test_a_process_without_an_output_is_no_error(write_tasks, monkeypatch):
    write_tasks("pulse.task.a.interval = 5")
    monkeypatch.setattr(sys, "stdout", None)

    assert main(["list"]) == 0


def test_an_output_that_lacks_a_character_spells_it_out(write_tasks, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    write_tasks("pulse.task.tägliche.interval = 5")

    assert main(["list"]) == 0
    assert b"t\\xe4gliche" in written.getvalue()
