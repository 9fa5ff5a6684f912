"""Everything that people write becomes one `Config`, or one error that names every fault."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pulse.config import complete, read_config, read_paste_config
from pulse.errors import ConfigError
from pulse.model import Config, Task


def problems(*args, **kwargs) -> dict[str, str]:
    """What is wrong with a configuration: the problem of each key."""
    with pytest.raises(ConfigError) as caught:
        read_config(*args, **kwargs)
    return {fault.key: fault.problem for fault in caught.value.faults}


def task(name: str = "a", **options) -> Task:
    return read_config(tasks={name: options}).tasks[name]


def test_nothing_written_is_the_defaults():
    assert read_config() == Config()
    assert (Config().context, Config().mode, Config().guard) == ("pulse", "threading", False)


def test_the_ini_sample_of_2009_is_one_task():
    config = read_paste_config(
        {},
        {
            "pulse.config.context": "sessions",
            "pulse.task.cleanup.action": "cleanup",
            "pulse.task.cleanup.interval": "300",
        },
    )

    assert list(config.tasks) == ["cleanup"]
    assert config.tasks["cleanup"].path == "/sessions/cleanup"
    assert config.tasks["cleanup"].interval == timedelta(minutes=5)


def test_task_objects_and_dicts_and_ini_keys_mean_the_same():
    written = {"pulse.task.a.action": "x", "pulse.task.a.interval": "60"}
    expected = read_config(written).tasks

    assert read_config(tasks={"a": Task(action="x", interval=60)}).tasks == expected
    assert read_config(tasks={"a": {"action": "x", "interval": "1m"}}).tasks == expected


def test_tasks_stand_in_the_order_in_which_they_were_given_those_of_the_file_first():
    given = {"d": Task(interval=60), "b": {"interval": 60}, "c": Task(interval=60), "a": {"interval": 60}}

    config = read_config({"pulse.task.z.interval": "60", "pulse.task.y.interval": "60"}, tasks=given)

    assert list(config.tasks) == ["z", "y", "d", "b", "c", "a"]


def test_keywords_win_over_the_config_dict():
    config = read_config({"pulse.config.context": "one", "pulse.config.workers": "2"}, options={"context": "two"})

    assert (config.context, config.workers) == ("two", 2)


def test_what_the_caller_gave_is_not_changed():
    given = {"pulse.config.context": "/one/"}
    tasks = {"a": {"interval": "5"}, "b": Task(interval=7)}
    before = (dict(given), {"a": dict(tasks["a"]), "b": tasks["b"]})

    read_config(given, tasks=tasks)

    assert (given, tasks) == before


@pytest.mark.parametrize(
    ("context", "action", "path"),
    [
        ("sessions", "cleanup", "/sessions/cleanup"),
        ("/sessions/", "cleanup/", "/sessions/cleanup/"),
        ("//a//b/", "c//d", "/a/b/c/d"),
        ("sessions", "/other/job", "/other/job"),
        ("", "job", "/job"),
        ("/", "job", "/job"),
        ("sessions", "", "/sessions/a"),
        ("sessions", "/", "/"),
        ("s", "täglich", "/s/täglich"),
    ],
)
def test_a_relative_action_is_below_the_context(context, action, path):
    config = read_config(tasks={"a": {"action": action}}, options={"context": context})

    assert config.tasks["a"].path == path


def test_a_query_of_the_action_is_kept_apart():
    swept = task(action="cleanup?dry=1&x=a/b")

    assert (swept.path, swept.query) == ("/pulse/cleanup", "dry=1&x=a/b")


def test_a_task_without_a_schedule_runs_every_300_seconds():
    assert task().interval == timedelta(seconds=300)
    assert task(cron="@daily").interval is None
    assert read_config(tasks={"a": Task()}).tasks["a"].interval == timedelta(seconds=300)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("300", 300), ("0.25", 0.25), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1d", 86400), ("1d2h3m4s", 93784),
     (300, 300), (0.25, 0.25), (timedelta(minutes=1), 60), (" 7 ", 7), ("5M", 300), ("1.5h", 5400)],
)  # fmt: skip
def test_a_duration_is_seconds_or_has_units(written, seconds):
    assert task(interval=written).interval == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    ["0", "-5", "nan", "inf", "-inf", "", " ", "abc", "5 m", "m5", "1e3", "5x", "30m1h", "0x10", "1_000", "367d", "0.09",
     "9" * 400, "٣", 0, -5, float("nan"), float("inf"), 10**400, True, [], {}, b"5", timedelta(0), "300 ; five",
     "300 # five", "+5", ".5", "5.", "1h1h"],
)  # fmt: skip
def test_anything_else_is_no_interval(written):
    with pytest.raises(ValueError, match="interval"):
        read_config(tasks={"a": {"interval": written}})


@pytest.mark.parametrize("word", ["true", "True", " YES ", "on", "y", "t", "1", True, 1])
def test_the_words_for_yes(word):
    assert read_config({"pulse.config.guard": word}).guard is True


@pytest.mark.parametrize("word", ["false", "No", "off", "n", "f", "0", False, 0])
def test_the_words_for_no(word):
    assert read_config({"pulse.config.guard": word}).guard is False


@pytest.mark.parametrize("word", ["ture", "", "maybe", "2", 2, None, [], "yes!", 1.0])
def test_any_other_word_is_refused(word):
    assert problems({"pulse.config.guard": word}) == {"pulse.config.guard": "want true or false"}


def test_modes_are_read_in_any_case():
    assert read_config(options={"mode": " Threading "}).mode == "threading"
    assert "threading" in problems(options={"mode": "thread"})["pulse.config.mode"]


def test_every_fault_is_reported_at_once_with_key_value_and_remedy():
    with pytest.raises(ConfigError) as caught:
        read_config(
            {"pulse.task.cleanup.intervall": "300", "pulse.config.guard": "ture", "pulse.task.a.cron": "* *"},
            tasks={"b": {"timeout": "-1"}, "c": Task(), "d": 7},
            options={"gard": True},
        )

    assert sorted(str(fault) for fault in caught.value.faults) == [
        "gard = True: unknown option; did you mean 'pulse.config.guard'?",
        "pulse.config.guard = 'ture': want true or false",
        "pulse.task.a.cron = '* *': want 5 cron fields, or 6 with the seconds first (wrong number of fields)",
        "pulse.task.b.timeout = '-1': want 0.1s to 366d, as seconds (300) or with units (90s 5m 1h30m 1d), "
        "or 0 for no limit",
        "pulse.task.cleanup.intervall = '300': unknown option; did you mean 'pulse.task.cleanup.interval'?",
        "task['d'] = 7: want a Task, or a dict of its options",
    ]
    assert str(caught.value).startswith("6 faults in the configuration:\n")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("guard", "pulse.config.guard"),
        ("gaurd", "pulse.config.guard"),
        ("pulse.config.gaurd", "pulse.config.guard"),
        ("pulse.guard", "pulse.config.guard"),
        ("pulse.task.x.intervall", "pulse.task.x.interval"),
        ("pulse.tasks.x.interval", "pulse.task.x.interval"),
        ("pulse.config.defaults.timeout", "pulse.config.default.timeout"),
        ("pulse.task.cleanup", "pulse.task.cleanup.<option>"),
        ("Pulse.Config.Guard", "pulse.config.guard"),
    ],
)
def test_an_unknown_key_is_a_fault_that_names_the_nearest(key, hint):
    assert problems({key: "true"})[key] == f"unknown option; did you mean {hint!r}?"


def test_a_key_that_resembles_nothing_is_a_fault_too():
    wanted = "unknown option; want a key that begins with pulse.config. or pulse.task.<name>."
    assert problems({"sqlalchemy.url": "x"}) == {"sqlalchemy.url": wanted}


def test_a_task_name_has_no_dots():
    assert "no dots" in problems({"pulse.task.a.b.action": "x"})["pulse.task.a.b.action"]


@pytest.mark.parametrize("name", ["a b", "a/b", "a.b", "ä;", "a\n", 7])
def test_odd_task_names_are_refused(name):
    assert problems(tasks={name: {"interval": 5}})
    assert problems(tasks={name: Task(interval=5)})


@pytest.mark.parametrize(
    "value", ["300 ; five minutes", "300\t;five", "sessions ; the context", "true ;"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["pulse.config.context", "pulse.task.a.interval", "pulse.task.a.description"])
def test_an_inline_comment_is_a_fault_that_says_so(key, value):
    assert "comment" in problems({key: value})[key]


def test_semicolons_that_are_no_comment_are_kept():
    kept = task(
        content_type="text/plain; charset=utf-8", headers={"Accept": "a;q=1"}, body="x ; y", description="a;b #7"
    )

    assert (kept.content_type, kept.body, kept.description) == ("text/plain; charset=utf-8", b"x ; y", "a;b #7")


@pytest.mark.parametrize(
    ("written", "hidden"),
    [
        ({"pulse.config.token": "tooshort"}, "tooshort"),
        ({"pulse.config.tokn": "0123456789abcdefgh"}, "0123456789abcdefgh"),
        ({"token": "0123456789abcdefgh"}, "0123456789abcdefgh"),
        ({"pulse.config.token": "0123456789abcdefgh ; mine"}, "0123456789abcdefgh"),
        ({"pulse.task.a.headers.Authorization": "Bearer hush\x00"}, "hush"),
        ({"pulse.task.a.action": "http://user:hush@host/x"}, "hush"),
        ({"pulse.config.passwort": "hush"}, "hush"),
        ({"pulse.config.pwd": "hush"}, "hush"),
        ({"pulse.task.a.headers": "Bearer hush"}, "hush"),
        ({"pulse.config.store": "rediss://default:hush/hush@hush-and-a-long-password@" + "long." * 30}, "hush"),
    ],
)
def test_secrets_never_stand_in_a_message(written, hidden):
    with pytest.raises(ConfigError) as caught:
        read_config(written)

    assert hidden not in str(caught.value)


def test_a_token_does_not_stand_in_the_repr():
    assert "0123456789abcdefgh" not in repr(read_config(options={"token": "0123456789abcdefgh"}))


def test_a_token_is_read_from_the_environment_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_TOKEN", " 0123456789abcdefgh\n")
    (tmp_path / "token").write_text("abcdefgh0123456789\n")

    assert read_config(options={"token": "env:MY_TOKEN"}).token == "0123456789abcdefgh"
    assert read_config(options={"token": f"file:{tmp_path}/token"}).token == "abcdefgh0123456789"


def test_addresses_that_hold_passwords_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("A_STORE", " redis://:s3cret@there/1\n")
    monkeypatch.setenv("A_BROKER", "sentinel://:s3cret@a;sentinel://b")
    monkeypatch.setenv("A_PING", "https://hc-ping.com/s3cret/")

    options = {"mode": "celery", "name": "shop", "store": "env:A_STORE", "broker": "env:A_BROKER"}
    config = read_config(options=options, tasks={"a": {"ping_url": " env:A_PING "}})

    assert (config.store, config.broker) == ("redis://:s3cret@there/1", "sentinel://:s3cret@a;sentinel://b")
    assert config.tasks["a"].ping_url == "https://hc-ping.com/s3cret"
    assert "s3cret" not in repr(config)
    assert replace(config, history=7).store == config.store


@pytest.mark.parametrize("token", ["", "short", "env:NO_SUCH_VARIABLE", "file:/no/such/file", "has blanks in it, many"])
def test_a_token_that_cannot_be_had_is_a_fault_and_not_an_open_door(token):
    assert "pulse.config.token" in problems(options={"token": token})


def test_defaults_hold_for_every_task_that_says_nothing_else():
    config = read_config(
        {"pulse.config.default.timeout": "7", "pulse.task.a.interval": "5", "pulse.task.b.timeout": "9"},
        tasks={"c": {"interval": 5}, "d": Task(interval=5), "e": Task(timeout=9)},
    )

    seconds = {name: one.timeout.total_seconds() for name, one in config.tasks.items()}
    assert seconds == {"a": 7, "b": 9, "c": 7, "d": 7, "e": 9}


def test_a_default_schedule_gives_way_to_the_tasks_own():
    config = read_config(
        {"pulse.config.default.interval": "60", "pulse.config.default.offset": "hash", "pulse.task.a.cron": "@daily"},
        tasks={"b": Task(at="2030-01-01"), "c": Task()},
    )

    assert (config.tasks["a"].interval, config.tasks["a"].offset) == (None, timedelta(0))
    assert config.tasks["b"].interval is None
    assert (config.tasks["c"].interval, config.tasks["c"].offset) == (timedelta(seconds=60), "hash")


def test_a_default_holds_for_a_task_object_that_says_no_more_than_pulse_does_by_itself():
    tasks = {"a": Task(timeout="60m"), "b": Task(timeout="61m"), "c": {"timeout": "60m"}}

    config = read_config({"pulse.config.default.timeout": "9s"}, tasks=tasks)

    assert {name: task.timeout.total_seconds() for name, task in config.tasks.items()} == {"a": 9, "b": 3660, "c": 3600}


def test_a_bad_default_is_reported_once():
    assert list(problems({"pulse.config.default.timeout": "x"}, tasks={"a": {}, "b": {}})) == [
        "pulse.config.default.timeout"
    ]


def test_default_headers_are_joined_with_those_of_the_task():
    config = read_config({"pulse.config.default.headers.Accept": "a", "pulse.task.t.headers.X-Mine": "b"})

    assert config.tasks["t"].headers == (("Accept", "a"), ("X-Mine", "b"))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"interval": 5, "cron": "@daily"}, "cron"),
        ({"cron": "@daily", "at": "2030-01-01T00:00"}, "at"),
        ({"cron": "@daily", "offset": "5s"}, "offset"),
        ({"start_date": "2030-01-02", "end_date": "2030-01-01"}, "end_date"),
    ],
)
def test_options_that_exclude_each_other_are_a_fault(options, key):
    assert list(problems(tasks={"a": options})) == [f"pulse.task.a.{key}"]


@pytest.mark.parametrize("kind", [dict, Task])
def test_the_zone_of_the_configuration_tells_which_of_two_dates_comes_first(kind):
    tasks = {"a": kind(start_date="2030-01-01T00:00+00:00", end_date="2030-01-01T06:00")}

    assert list(read_config(tasks=tasks).tasks) == ["a"]
    assert list(problems(tasks=tasks | {"b": tasks["a"]}, options={"timezone": "Asia/Tokyo"})) == [
        "pulse.task.a.end_date",
        "pulse.task.b.end_date",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"action": "/x//y?a=//b"}, {"action": "/"}, {"action": "?a=b"}, {"action": "a/b/"}, {"interval": "0.1"},
        {"cron": "@daily"}, {"at": "2030-01-01", "timezone": "Asia/Tokyo"}, {"offset": "hash"},
        {"start_date": "2030-01-01", "end_date": "2030-01-01", "headers": {"A": "b"}, "expect_status": "200 304"},
    ],
)  # fmt: skip
def test_a_task_of_a_configuration_stays_the_same_when_it_is_read_again(options):
    for context in ("", "pulse", "a/b"):
        placed = read_config(tasks={"a": options, "b": Task(**options)}, options={"context": context}).tasks

        assert replace(placed["a"]) == placed["a"] == replace(placed["b"], name="a", action=placed["a"].action)


def test_a_task_object_is_not_changed_by_the_configuration_that_it_is_given_to():
    given = Task(action="x")

    read_config(tasks={"a": given, "b": given}, options={"timezone": "Asia/Tokyo"})

    assert given == Task(action="x")


def test_the_zone_of_the_configuration_holds_for_tasks_that_name_none():
    config = read_config(
        tasks={"a": {}, "b": {"timezone": "Asia/Tokyo"}, "c": Task()}, options={"timezone": "Europe/Berlin"}
    )

    assert [str(config.tasks[name].timezone) for name in "abc"] == ["Europe/Berlin", "Asia/Tokyo", "Europe/Berlin"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("action", "http://example.org/x"), ("action", "a b"), ("action", "a#b"), ("action", "../x"), ("action", 7),
        ("cron", "61 * * * *"), ("cron", "0 0 30 2 *"), ("cron", "@dayly"), ("cron", "* * * * * * *"), ("cron", "a b c d e"),
        ("cron", ""), ("cron", 5), ("at", "tomorrow"), ("at", ""), ("timezone", "Mars/Base"), ("timezone", "../../etc"),
        ("timezone", ""), ("offset", "-1"), ("offset", "hush"), ("jitter", "-1"), ("enabled", "perhaps"),
        ("method", "GET /"), ("method", ""), ("expect_status", "20x"), ("expect_status", "600"), ("expect_status", ""),
        ("expect_status", "299-200"), ("expect_status", frozenset()), ("expect_status", frozenset({1000})), ("timeout", "-1"), ("timeout", "nan"), ("misfire_grace_time", "soon"),
        ("misfire_grace_time", "0"), ("coalesce", "2"), ("catchup_limit", "0"), ("catchup_limit", "1.5"),
        ("headers", "x"), ("headers", {"X-Pulse-Task": "a"}), ("headers", {"A b": "c"}), ("headers", {"A": "b\r\nC: d"}),
        ("headers", {"Content-Type": "a"}), ("environ", {"PATH_INFO": "/x"}), ("environ", {"wsgi.input": "x"}),
        ("environ", {"pulse.internal": "x"}), ("description", "a\nb"), ("body", 7),
    ],
)  # fmt: skip
def test_bad_task_options_are_refused_by_name(option, value):
    keys = problems(tasks={"a": {option: value}})

    assert all(key.startswith(f"pulse.task.a.{option}") for key in keys)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("workers", "0"), ("workers", "257"), ("workers", True), ("start", "later"), ("scheme", "ftp"), ("host", "a b"),
        ("host", "http://x"), ("shutdown_timeout", "2h"), ("history", "0"), ("capture", "-1"), ("timezone", "X"),
        ("store", "mysql://x"), ("store", "sqlite:"), ("store", "sqlite::memory:"), ("host", "a:99999"), ("application", ".:."), ("application", "no colon"), ("guard_scope", "all"), ("context", "a?b"), ("context", None), ("enabled", ""),
    ],
)  # fmt: skip
def test_bad_config_options_are_refused_by_name(option, value):
    assert list(problems(options={option: value})) == [f"pulse.config.{option}"]


def test_moments_may_name_their_offset_or_be_local():
    assert task(at="2030-01-01T02:30+02:00").at == datetime.fromisoformat("2030-01-01T02:30+02:00")
    assert task(at=datetime(2030, 1, 1, tzinfo=UTC)).at == datetime(2030, 1, 1, tzinfo=UTC)
    assert task(end_date="2030-01-01").end_date == datetime(2030, 1, 1, 23, 59, 59, 999999)
    assert task(start_date="2030-01-01").start_date == datetime(2030, 1, 1)


def test_a_task_is_given_once():
    assert "once" in problems({"pulse.task.a.interval": "5"}, tasks={"a": Task(interval=7)})["task['a']"]


def test_headers_are_one_key_an_entry():
    assert problems({"pulse.task.a.headers": "x"}) == {
        "pulse.task.a.headers": "want one key an entry, pulse.task.a.headers.<Name>"
    }


@pytest.mark.parametrize("headers", [{"X-T": "a", "x-t": "b"}, {"X_Pulse_Task": "a"}, {"Content_Type": "a"}])
def test_headers_that_are_one_in_the_environ_are_refused(headers):
    assert problems(tasks={"a": {"headers": headers}})


def test_a_header_may_hold_what_looks_like_a_comment():
    assert read_config({"pulse.task.a.headers.X-Issue": "Issue #5"}).tasks["a"].headers == (("X-Issue", "Issue #5"),)


@pytest.mark.parametrize("folder", ["of#1 ü", "a##b", "a b"])
def test_a_file_is_the_application_wherever_it_lies(folder, tmp_path):
    file = tmp_path / folder / "my#site.ini"
    file.parent.mkdir()
    file.write_text("[filter:pulse]\nuse = egg:pulse\npulse.task.a.interval = 5\n")

    config = read_paste_config({"__file__": str(file)}, {"pulse.task.a.interval": "5"})

    assert config.application == f"config:{file}"


@pytest.mark.parametrize("name", ["", " "])
def test_a_task_has_a_name(name):
    assert problems(tasks={name: {"interval": 5}})
    assert problems(tasks={name: Task(interval=5)})
    assert problems({f"pulse.task.{name}.interval": "5"})


@pytest.mark.parametrize("name", [None, "", 0, 5])
def test_what_is_no_name_is_refused_whatever_else_is_wrong_with_the_task(name):
    for given in ({}, {"interval": "x"}, {"priority": "0"}, Task(priority=0)):
        assert any("want a task name" in problem for problem in problems(tasks={name: given}).values())


def test_a_config_or_task_of_another_kind_is_refused():
    assert problems("guard=true")
    assert problems(tasks=["a"])


# PasteDeploy


def ini(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "some.ini"
    path.write_text(text)
    return {"__file__": str(path), "here": str(tmp_path)}


def test_the_section_wins_over_default():
    config = read_paste_config({"pulse.config.context": "shared"}, {"pulse.config.context": "own"})

    assert config.context == "own"


def test_keys_of_others_in_default_are_passed_over():
    assert read_paste_config({"debug": "true", "here": "/x"}, {}) == Config()


def test_a_misspelt_pulse_key_in_default_is_a_fault():
    with pytest.raises(ConfigError, match=r"pulse\.config\.guard"):
        read_paste_config({"pulse.config.gaurd": "true"}, {})


def test_a_fault_names_its_file_and_section(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conf = ini(tmp_path, "[filter:pulse]\nuse = egg:pulse\nguard = true\n[app:main]\nuse = x\n")

    with pytest.raises(ConfigError) as caught:
        read_paste_config(conf, {"guard": "true"})

    assert str(caught.value) == (
        "some.ini [filter:pulse]: guard = 'true': unknown option; did you mean 'pulse.config.guard'?"
    )


def test_a_line_that_pastedeploy_drops_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conf = ini(tmp_path, "[DEFAULT]\npulse.config.guard = false\n[filter:pulse]\npulse.config.guard = true\n")

    with pytest.raises(ConfigError) as caught:
        read_paste_config(conf | {"pulse.config.guard": "false"}, {})

    assert "some.ini [filter:pulse]: pulse.config.guard = 'true'" in str(caught.value)
    assert "set pulse.config.guard" in str(caught.value)


def test_the_same_line_in_default_and_section_harms_nobody(tmp_path):
    conf = ini(tmp_path, "[DEFAULT]\npulse.config.guard = true\n[filter:pulse]\npulse.config.guard = true\n")

    assert read_paste_config(conf | {"pulse.config.guard": "true"}, {}).guard is True


def test_where_an_option_stands_is_found_when_somebody_asks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, last = {"pulse.task.a.interval": "5", "pulse.task.a.headers.X-A": "1"}, {"pulse.task.a.headers.X-B": "1"}
    sections = {"pulse": first, "other": last}
    lines = [
        f"[filter:{name}]\n" + "".join(f"{key} = {said[key]}\n" for key in said) for name, said in sections.items()
    ]
    ini(tmp_path, "".join(lines))
    config = read_paste_config({"__file__": "some.ini"}, {**first, **last})

    monkeypatch.chdir("/")

    assert config.origins == {
        "pulse.task.a.interval": "some.ini [filter:pulse]",
        "pulse.task.a.headers": "some.ini [filter:other]",
    }


def test_a_file_that_is_gone_when_somebody_asks_where_an_option_stands_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_paste_config(ini(tmp_path, "[filter:pulse]\n"), {"pulse.task.a.interval": "5"})

    (tmp_path / "some.ini").unlink()

    assert config.origins["pulse.task.a.interval"] == "some.ini"


def test_every_option_that_was_written_has_its_origin_once_and_no_other_has_one():
    written = {"pulse.config.guard": "true", "pulse.config.default.timeout": "9s", "pulse.task.a.headers.X-A": "1"}
    tasks = {"b": {"enabled": True, "headers": {"X-A": "1", "X-B": "2"}}, "c": Task(interval=5)}

    origins = read_config(written, tasks=tasks).origins

    assert [*origins] == [
        "pulse.config.guard", "pulse.config.default.timeout", "pulse.task.a.headers", "pulse.task.b.enabled",
        "pulse.task.b.headers", "pulse.task.c.interval",
    ]  # fmt: skip
    assert {*origins.values()} == {"Python"}
    assert len(origins) == 6
    for key in ("guard", "a.headers", "pulse.task.a.timeout", "pulse.task.d.interval", "pulse.config.timeout", ""):
        assert key not in origins


def test_zones_are_zones():
    assert read_config(options={"timezone": ZoneInfo("Asia/Tokyo")}).timezone == ZoneInfo("Asia/Tokyo")


def test_of_what_pastedeploy_makes_of_a_file_the_keys_of_others_are_passed_over():
    paste = {"here": "/srv", "__file__": "/srv/shop.ini", "debug": "true", "pulse.task.a.interval": "5"}

    assert list(read_config(paste).tasks) == ["a"]
    with pytest.raises(ConfigError, match="intervall"):
        read_config(paste | {"pulse.task.a.intervall": "5"})
    with pytest.raises(ConfigError, match="debug"):
        read_config({"debug": "true"})


def test_the_tasks_of_a_whole_configuration_are_completed_as_those_of_any_other():
    task = Task(name="sweep", action="sweep?dry=1")
    config = Config(context="jobs", timezone="Europe/Berlin", tasks={"sweep": task}, name="x")

    completed = complete(config)

    assert completed == read_config(
        tasks={"sweep": Task(action="sweep?dry=1")},
        options={"context": "jobs", "timezone": "Europe/Berlin", "name": "x"},
    )
    assert task.action == "sweep?dry=1"
    assert complete(completed) is completed


def test_faults_of_the_tasks_of_a_whole_configuration_are_told_together():
    task = {"start_date": "2030-01-01T00:00+00:00", "end_date": "2030-01-01T06:00"}
    config = Config(timezone="Asia/Tokyo", tasks={name: Task(name=name, **task) for name in "ab"})

    with pytest.raises(ConfigError) as refused:
        complete(config)

    assert [fault.key for fault in refused.value.faults] == ["pulse.task.a.end_date", "pulse.task.b.end_date"]


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (
            {"mode": "celery", "broker": "redis://h", "store": "redis://h", "name": "x", "workers": 4},
            ["workers", "a.scope"],
        ),
        ({"mode": "celery", "broker": "mq", "store": "x"}, ["store", "broker", "a.scope"]),
        ({"guard": "ture"}, ["guard", "a.queue"]),
        ({"mode": "celerie"}, ["mode"]),
    ],
)
def test_what_does_not_go_with_the_mode_is_told_with_all_other_faults(config, keys):
    assert list(problems(tasks={"a": {"scope": "host", "queue": "q"}}, options=config)) == [
        f"pulse.task.{key}" if "." in key else f"pulse.config.{key}" for key in keys
    ]


@pytest.mark.parametrize(("zone", "more"), [("Asia/Tokyo", ["pulse.task.a.end_date"]), ("Asia/Tokio", [])])
def test_dates_that_the_zone_reverses_are_told_with_all_other_faults(zone, more):
    tasks = {"a": {"start_date": "2030-01-01T00:00+00:00", "end_date": "2030-01-01T06:00"}}

    found = problems(tasks=tasks, options={"timezone": zone, "guard": "ture"})

    assert found.keys() - {"pulse.config.timezone"} == {"pulse.config.guard", *more}


def test_a_fault_of_a_line_that_is_set_in_default_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ini = Path("site.ini")
    ini.write_text("[DEFAULT]\nset pulse.config.guard = ture\n", encoding="utf-8")

    with pytest.raises(ConfigError) as refused:
        read_paste_config({"__file__": str(ini), "pulse.config.guard": "ture"}, {})

    assert refused.value.faults[0].where == "site.ini [DEFAULT]"
