"""What people get wrong, and what Pulse says then: what is wrong, what is allowed, what to do."""

import io
import os
import struct
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paste.deploy import loadapp

from pulse.address import masked
from pulse.asgi import AsgiPulse
from pulse.cli import main
from pulse.config import read_config, read_paste_config
from pulse.control import Control
from pulse.dispatch import Dispatcher
from pulse.errors import ConfigError
from pulse.middleware import PulseMiddleware, pulse_filter_app_factory
from pulse.model import Config, Outcome, Run, Task
from pulse.option import options_of
from pulse.sessions.option import read_session_options
from pulse.state import clear_state_caches, get_widget_store

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
TASK = {"pulse.task.a.action": "x"}


def app(environ, start_response):
    start_response("200 OK", [])
    return [b""]


def said(*args, **options) -> str:
    """What is said about a middleware that is built so."""
    with pytest.raises(ConfigError) as refused:
        PulseMiddleware(app, *args, **options)
    return str(refused.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("pulse.config.gaurd", "pulse.config.guard"),
        ("pulse.config.Guard", "pulse.config.guard"),
        ("Pulse.config.guard", "pulse.config.guard"),
        ("pulse.conf.guard", "pulse.config.guard"),
        ("pulse:config.guard", "pulse.config.guard"),
        ("pulse_config_guard", "pulse.config.guard"),
        ("guard", "pulse.config.guard"),
        ("pulse.task.a.guard", "pulse.config.guard"),
        ("pulse.config.guard.x", "pulse.config.guard"),
        ("pulse.config.threads", "pulse.config.workers"),
        ("pulse.config.prefix", "pulse.config.context"),
        ("pulse.config.database_url", "pulse.config.store"),
        ("pulse.config.password", "pulse.config.token"),
        ("pulse.config.timeout", "pulse.config.default.timeout"),
        ("pulse.config.defaults.timeout", "pulse.config.default.timeout"),
        ("pulse.default.timeout", "pulse.config.default.timeout"),
        ("pulse.config.default.guard", "pulse.config.guard"),
        ("pulse.config.retry", "pulse.config.default.retries"),
        ("interval", "pulse.task.<name>.interval"),
        ("task.a.interval", "pulse.task.a.interval"),
        ("pulse.tasks.a.interval", "pulse.task.a.interval"),
        ("pulse.task.interval", "pulse.task.<name>.interval"),
        ("pulse.task.a", "pulse.task.a.<option>"),
        ("pulse.task.a.intervall", "pulse.task.a.interval"),
        ("pulse.task.a.Interval", "pulse.task.a.interval"),
        ("pulse.task.a.cron ", "pulse.task.a.cron"),
        ("pulse.task.a.every", "pulse.task.a.interval"),
        ("pulse.task.a.schedule", "pulse.task.a.cron"),
        ("pulse.task.a.url", "pulse.task.a.action"),
        ("pulse.task.a.path", "pulse.task.a.action"),
        ("pulse.task.a.max-instances", "pulse.task.a.max_instances"),
        ("pulse.task.a.header.X-A", "pulse.task.a.headers.X-A"),
        ("pulse.task.a.timezone.x", "pulse.task.a.timezone"),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(key, meant):
    assert said({key: "true"}).endswith(f"unknown option; did you mean {meant!r}?")


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("pulse.config.", "want one of context, mode, guard,"),
        ("pulse.config.xyzzy", "want one of context, mode, guard,"),
        ("pulse.task.a.xyzzy", "a task has action, interval, cron,"),
        ("debug", "want a key that begins with pulse.config. or pulse.task.<name>."),
        ("pulse.", "want a key that begins with pulse.config. or pulse.task.<name>."),
        ("", "'' = 'true': unknown option"),
        ("a\nb", "'a\\nb' = 'true': unknown option"),
    ],
)
def test_a_key_that_resembles_nothing_is_refused_with_what_there_is(key, allowed):
    assert allowed in said({key: "true"})


@pytest.mark.parametrize(
    "key",
    [
        "pulse.config.password",
        "pulse.config.tokn",
        "tokn",
        "api_key",
        "pulse.task.a.header.X-A",
        "pulse.task.a.headers",
        "pulse.task.a.headers.",
        "pulse.task.a.ping_ulr",
        "pulse.task.password",
        "pulse.task.token.value",
        "pulse.config.auth",
        "pulse.config.basic_auth",
    ],
)
def test_the_value_of_a_misspelt_secret_is_not_shown(key):
    message = said({key: "hunter2"})

    assert key in message
    assert "hunter2" not in message


@pytest.mark.parametrize("task", ["tokens", "secrets", "expire-cookies", "environment", "password_resets"])
def test_the_value_of_a_task_that_is_called_as_a_secret_is_shown(task):
    assert said({f"pulse.task.{task}.interval": "5x"}).startswith(f"pulse.task.{task}.interval = '5x': want")
    assert "***" in said({f"pulse.task.{task}.headers.X-Key": "hunter2 é"})


def test_the_value_of_a_key_that_only_begins_as_one_of_a_secret_is_shown():
    assert said({"pulse.config.author": "somebody"}).startswith("pulse.config.author = 'somebody': unknown option")


class Array:
    """As those of numpy: what is compared with it is one answer for each of its values."""

    __hash__ = None

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")


UTF8 = "want text that UTF-8 can spell, without surrogates"
DAYS = "want 0-7 or sun-sat, 5#2 or 5L"
MONTHS = "want 1-12 or jan-dec"
CRON = "want 5 cron fields, or 6 with the seconds first"
DURATION = "want 0.1s to 366d, as seconds (300) or with units (90s 5m 1h30m 1d)"
MOMENT = "want a date and time as 2027-03-28T02:30 or 2027-03-28T02:30+01:00"
NAME = "want a task name of at most 200 letters, digits, _ and - (no dots): pulse.task.<name>.<option>"
PATH = "want a path without blanks, backslashes and #"
SECRET = "want at least 16 ASCII characters without blanks"
WORKER_COUNT = "want a whole number from 1 to 256, in mode asyncio to 100000"
ZONE = "want an IANA time zone such as UTC or Europe/Berlin"
COMMENT = "behind a value as part of it: give the comment a line of its own"
QUOTES = "quotes are taken as part of the value: leave them out"


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("pulse.config.guard", "ture", "'ture': want true or false"),
        ("pulse.config.guard", "", "'': want true or false"),
        ("pulse.config.guard", 2, "2: want true or false"),
        ("pulse.config.guard", "'true'", QUOTES),
        ("pulse.config.guard", "true ; on", f"an ini file keeps '; ...' {COMMENT}"),
        ("pulse.config.guard", "true # on", f"an ini file keeps '# ...' {COMMENT}"),
        ("pulse.config.guard", "true\npulse.task.b.interval = 5", "move 'pulse.task.b.interval' to the left margin"),
        ("pulse.task.a.body", "x\nset pulse.task.b.at = 5", "move 'set pulse.task.b.at' to the left margin"),
        ("pulse.config.mode", "thread", "want threading, processing, asyncio"),
        ("pulse.config.context", '"sessions"', QUOTES),
        ("pulse.config.context", "../x", "want a path without . and .. in it"),
        ("pulse.config.context", "%2e%2e/x", "want a path without . and .. in it"),
        ("pulse.config.context", "a?b", "want a path without a query"),
        ("pulse.config.context", "http://h/x", "want a path of this application, not the address of a server"),
        ("pulse.config.timezone", "Berlin", f"{ZONE}; did you mean 'Europe/Berlin'?"),
        ("pulse.config.timezone", "europe/berlin", f"{ZONE}; did you mean 'Europe/Berlin'?"),
        ("pulse.config.timezone", "Europe/Berlni", f"{ZONE}; did you mean 'Europe/Berlin'?"),
        ("pulse.config.timezone", "New York", f"{ZONE}; did you mean 'America/New_York'?"),
        ("pulse.config.timezone", "CEST", f"'CEST': {ZONE}"),
        ("pulse.config.timezone", "../etc/passwd", ZONE),
        ("pulse.config.workers", "0", WORKER_COUNT),
        ("pulse.config.workers", "1.5", WORKER_COUNT),
        ("pulse.config.workers", "٣", WORKER_COUNT),
        ("pulse.config.workers", "100000", WORKER_COUNT),
        ("pulse.config.host", "http://h", "want a host such as www.example.org or localhost:8080"),
        ("pulse.config.status", "/", "want a path that begins with / and is not the root, such as /_pulse"),
        ("pulse.config.status", "_pulse", "want a path that begins with / and is not the root, such as /_pulse"),
        ("pulse.config.status", "/a/../b", "want a path that begins with / and is not the root, such as /_pulse"),
        ("pulse.config.guard_scope", "all", "want tasks or context"),
        ("pulse.config.start", "never", "want auto, now, request or manual"),
        ("pulse.config.application", "x.ini", "want config:file.ini#name or module:object"),
        ("pulse.config.application", "config:#main", "want config:file.ini#name or module:object"),
        ("pulse.config.application", "config:/a/x.ini#", "want config:file.ini#name or module:object"),
        ("pulse.config.application", "config:/a/x.ini#a b", "want config:file.ini#name or module:object"),
        ("pulse.config.shutdown_timeout", "-1", "want 0s to 1h"),
        ("pulse.config.token", "", f"***: {SECRET}, or env:NAME, or file:/path"),
        ("pulse.config.token", "hunter2", f"***: {SECRET}, or env:NAME, or file:/path"),
        ("pulse.config.token", '"0123456789abcdef"', QUOTES),
        ("pulse.config.token", "env:", "nothing stands behind env:"),
        ("pulse.config.token", "file:", "nothing stands behind file:"),
        ("pulse.config.token", "file:/\0", "want a token in /\0: not text"),
        ("pulse.config.token", "env:PULSE_NOT_SET", "the environment variable PULSE_NOT_SET, which is not set"),
        ("pulse.config.token", "file:/no/such", "want a token in /no/such: No such file or directory"),
        ("pulse.config.token", "file:/", "want a token in /: Is a directory"),
        ("pulse.task.a.interval", "0", f"'0': {DURATION}"),
        ("pulse.task.a.interval", "-5", f"'-5': {DURATION}"),
        ("pulse.task.a.interval", "nan", f"'nan': {DURATION}"),
        ("pulse.task.a.interval", float("inf"), f"inf: {DURATION}"),
        ("pulse.task.a.interval", "", f"'': {DURATION}"),
        ("pulse.task.a.interval", "٣٠٠", DURATION),
        ("pulse.task.a.interval", "5 min", f"{DURATION}; did you mean '5m'?"),
        ("pulse.task.a.interval", "2 hours", f"{DURATION}; did you mean '2h'?"),
        ("pulse.task.a.interval", "1h 30m", f"{DURATION}; did you mean '1h30m'?"),
        ("pulse.task.a.interval", "1 Day, 2 hours and 5 mins", f"{DURATION}; did you mean '1d2h5m'?"),
        ("pulse.task.a.interval", "3 hrs 20 Secs", f"{DURATION}; did you mean '3h20s'?"),
        ("pulse.task.a.interval", "*/5 * * * *", f"{DURATION}; did you mean cron = */5 * * * *?"),
        ("pulse.task.a.interval", "@daily", f"{DURATION}; did you mean cron = @daily?"),
        ("pulse.task.a.cron", "* * * *", f"{CRON} (wrong number of fields)"),
        ("pulse.task.a.cron", "0 22-6 * * *", f"{CRON} (bad hour '22-6': want 0-23; did you mean 22-23,0-6?)"),
        ("pulse.task.a.cron", "0 0 * * SAT-Sun", f"{CRON} (bad day-of-week 'SAT-Sun': {DAYS}; did you mean sat,sun?)"),
        ("pulse.task.a.cron", "0 0 * 11-2 *", f"{CRON} (bad month '11-2': {MONTHS}; did you mean 11-12,1-2?)"),
        ("pulse.task.a.cron", "0 0 * * 1,fri-mon", f"'1,fri-mon': {DAYS}; did you mean 1,fri-sat,sun-mon?)"),
        ("pulse.task.a.cron", "0 25-6 * * *", f"{CRON} (bad hour '25-6': want 0-23)"),
        ("pulse.task.a.cron", "5m", f"{CRON} (wrong number of fields; did you mean interval = 5m?)"),
        ("pulse.task.a.cron", "60 * * * *", f"{CRON} (bad minute '60': want 0-59)"),
        ("pulse.task.a.cron", "60 * * * * *", f"{CRON} (bad second '60': want 0-59)"),
        ("pulse.task.a.cron", "* 24 * * *", f"{CRON} (bad hour '24': want 0-23)"),
        ("pulse.task.a.cron", "* * 32 * *", f"{CRON} (bad day-of-month '32': want 1-31, L or LW)"),
        ("pulse.task.a.cron", "* * * 13 *", f"{CRON} (bad month '13': want 1-12 or jan-dec)"),
        ("pulse.task.a.cron", "0 0 * * sunday", f"{CRON} (bad day-of-week 'sunday': want 0-7 or sun-sat, 5#2 or 5L)"),
        ("pulse.task.a.cron", "0 0 31 2 *", f"{CRON} (bad day-of-month: no month of '2' has a day '31')"),
        ("pulse.task.a.cron", "@dayly", "want one of @yearly"),
        ("pulse.task.a.at", "25:00", f"'25:00': {MOMENT}"),
        ("pulse.task.a.at", "02:30", f"{MOMENT}; each day at 02:30 is cron = 30 2 * * *"),
        ("pulse.task.a.at", "2027-02-30", MOMENT),
        ("pulse.task.a.at", "28.03.2027", MOMENT),
        ("pulse.task.a.action", "../x", "want a path without . and .. in it"),
        ("pulse.task.a.action", "x/%2e./y", "want a path without . and .. in it"),
        ("pulse.task.a.action", "x%0d%0ay", "want a path without line breaks and other control characters"),
        ("pulse.task.a.action", "GET /x", PATH),
        ("pulse.task.a.action", "x\r\nHost: y", PATH),
        ("pulse.task.a.action", "https://h/x", "want a path of this application, not the address of a server"),
        ("pulse.task.a.method", "GET /x", "want an HTTP method such as GET or POST"),
        ("pulse.task.a.method", "'GET'", QUOTES),
        ("pulse.task.a.headers.X-A", "a\r\nB: c", "***: want one line of ASCII text for a header"),
        ("pulse.task.a.headers.Bad Name", "x", "want the name of a header, not 'Bad Name'"),
        ("pulse.task.a.headers.Content-Type", "x", "want the option content_type"),
        (
            "pulse.task.a.headers.Transfer-Encoding",
            "chunked",
            "want the option content_type; the length follows from body",
        ),
        ("pulse.task.a.headers.X-Pulse-Task", "x", "X-Pulse-* belongs to Pulse"),
        ("pulse.task.a.headers", "X: y", "want one key an entry, pulse.task.a.headers.<Name>"),
        ("pulse.task.a.environ.wsgi.input", "x", "want another key: 'wsgi.input' is set by Pulse itself"),
        ("pulse.task.a.expect_status", "2xx", "want HTTP statuses, as 200-299 304"),
        ("pulse.task.a.expect_status", [], "want HTTP statuses, as 200-299 304"),
        ("pulse.task.a.timeout", "never", "or 0 for no limit"),
        ("pulse.task.a.misfire_grace_time", "0", "or auto, or none"),
        ("pulse.task.a.overlap", "wait", "want skip, queue, allow or replace"),
        ("pulse.task.a.retries", "3.5", "want a whole number from 0 to 1000"),
        ("pulse.task.a.retry_backoff", "nan", "want a number from 1 to 100"),
        ("pulse.task.a.on_failure", "https://h/x", "want a path that begins with /, or module:function"),
        ("pulse.task.a.ping_url", "https://h:70000/hunter2", "***: want an address such as https://hc-ping.com/"),
        ("pulse.task.a.lock", "a b", "want a word of letters, digits, _, . and -"),
        ("pulse.task.b.c.interval", "5", NAME),
        ("pulse.task.b/c.interval", "5", NAME),
        ("pulse.task.b c.interval", "5", NAME),
        ("pulse.task..interval", "5", f"pulse.task. = '': {NAME}"),
        (f"pulse.task.{'b' * 201}.interval", "5", NAME),
        ("pulse.config.mode", Array(), "want threading, processing, asyncio"),
        ("pulse.config.guard_scope", Array(), "want tasks or context"),
        ("pulse.task.a.overlap", Array(), "want skip, queue, allow or replace"),
        ("pulse.task.a.grace", Array(), "or auto, or none"),
        ("pulse.config.context", "\ud800", UTF8),
        ("pulse.config.name", "\ud800", UTF8),
        ("pulse.config.store", "sqlite:/tmp/\ud800", "want sqlite:/path/to/file"),
        ("pulse.task.a.action", "x\ud800", UTF8),
        ("pulse.task.a.body", "\ud800", UTF8),
        ("pulse.task.a.description", "\ud800", UTF8),
        ("pulse.task.a.environ.A", "\ud800", UTF8),
        ("pulse.task.a.content_type", "text/plain; charset=\u20ac", "want one line of ASCII text for a header"),
        ("pulse.task.a.retry_backoff", 10**400, "want a number from 1 to 100"),
        ("pulse.task.a.expect_status", "9" * 5000, "want HTTP statuses, as 200-299 304"),
        ("pulse.task.a.expect_status", b"x", "want HTTP statuses, as 200-299 304"),
        ("pulse.task.a.expect_status", {200: "ok"}, "want HTTP statuses, as 200-299 304"),
        ("pulse.task.a.expect_status", frozenset({200.0}), "want HTTP statuses, as 200-299 304"),
        ("pulse.task.a.retry_status", bytearray(b"x"), "want HTTP statuses, as 200-299 304"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_key_and_what_is_wanted(key, value, problem):
    message = said({**TASK, key: value})

    assert problem in message
    assert "hunter2" not in message
    assert message.startswith((key, "pulse.task."))


STORE = (
    "want auto, memory:, sqlite:/path/to/file, redis://host, rediss://host, unix:///path/to/socket, "
    "postgresql://host/database or env:NAME"
)
PORT = "a port is a number from 1 to 65535"
REDIS = "want redis://[user:password@]host[:port][/number], special characters percent-encoded"


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ("", STORE),
        (None, STORE),
        ("mysql://h/d", STORE),
        ("memory", "did you mean 'memory:'?"),
        (":memory:", "did you mean 'memory:'?"),
        ("sqlite::memory:", "did you mean 'memory:'?"),
        ("sqlite://", "did you mean 'sqlite:/path/to/file'?"),
        ("sqllite:/x.db", "did you mean 'sqlite:...'?"),
        ("/var/x.db", "did you mean 'sqlite:/var/x.db'?"),
        ("redis", "did you mean 'redis://localhost'?"),
        ("redis:localhost", "did you mean 'redis://...'?"),
        ("valkey://h", "did you mean 'redis://...'?"),
        ("postgresql+psycopg://h/d", "did you mean 'postgresql://...'?"),
        ("'auto'", QUOTES),
        ("sqlite:~/x.db", "~ is not read, write the whole path"),
        ("sqlite:/x.db?mode=ro", "nothing behind ? is read"),
        ("sqlite:/x/", "this is a directory"),
        ("sqlite:/a\0b", "control character"),
        ("redis://h:99999/0", PORT),
        ("redis://h:0", PORT),
        ("redis://u:hunter2@h:port/0", PORT),
        ("redis://h/abc", "behind the host stands the number of a database, such as /0"),
        ("redis://u:hunter2@h/-1", "behind the host stands the number of a database, such as /0"),
        ("redis://h/1/2", "behind the host stands the number of a database, such as /0"),
        ("redis:///0", "the host is missing"),
        ("redis://u:hunter2@", "the host is missing"),
        ("redis://h#1", "what follows # is not read"),
        ("redis://[::1", "a bracket is missing"),
        ("postgresql://u:hunter2@[::1/d", "a bracket is missing"),
        ("redis://u:hun ter2hunter2@h", "it holds a blank"),
        ("redis://u:hunter2/0", PORT),
        ("redis:u:hunter2@h", STORE),
        ("unix://redis.sock", "the path of the socket is missing"),
        ("postgresql://u:hunter2@h:99999/d", PORT),
        ("postgresql://a:1,b:x/d", PORT),
        ("postgresql://u: hunter2@h/d", "it holds a blank"),
        ("host=h user=u password=hunter2", STORE),
    ],
)
def test_an_address_that_is_none_is_refused_together_with_all_other_faults(store, problem):
    with pytest.raises(ConfigError) as refused:
        read_config({"pulse.config.store": store, "pulse.config.name": "app", "pulse.config.guard": "ture"})

    message = str(refused.value)
    assert problem in message
    assert "pulse.config.store = " in message
    assert "pulse.config.guard = 'ture'" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("written", "store"), [("AUTO", "auto"), (" Memory: ", "memory:"), ("SQLite:/X.db", "sqlite:/X.db")]
)
def test_the_case_of_a_scheme_does_not_matter(written, store):
    assert read_config({"pulse.config.store": written}).store == store


def test_a_redis_address_keeps_the_case_of_what_follows_the_scheme():
    config = read_config({"pulse.config.store": "REDIS://U:PassWord@h/0", "pulse.config.name": "app"})

    assert config.store == "redis://U:PassWord@h/0"


@pytest.mark.parametrize("name", ["localtime", "posixrules", "Factory", "right/UTC", "posix/Europe/Berlin"])
def test_what_only_lies_among_the_zones_of_a_host_is_none(name):
    assert ZONE in said({"pulse.config.timezone": name})
    assert ZONE in said({**TASK, "pulse.task.a.timezone": name})


def test_no_zone_is_guessed_that_is_none():
    assert said({"pulse.config.timezone": "localtim"}).endswith(ZONE)


def test_a_zone_without_a_name_is_refused():
    counts = struct.pack(">6l", 0, 0, 0, 0, 1, 4)  # one clock, with a name of four bytes
    utc = b"TZif" + bytes(16) + counts + bytes(6) + b"UTC\0"

    assert ZONE in said({"pulse.config.timezone": ZoneInfo.from_file(io.BytesIO(utc))})


@pytest.mark.parametrize(
    ("held", "problem"),
    [
        (None, "want an address in the environment variable SHOP_STORE, which is not set"),
        ("", f"{STORE} (in the environment variable SHOP_STORE)"),
        ("hunter2", f"{STORE} (in the environment variable SHOP_STORE)"),
        ("/hunter2.db", f"{STORE} (in the environment variable SHOP_STORE)"),
        ("env:SHOP_STORE", f"{STORE} (in the environment variable SHOP_STORE)"),
        ("redis://:hunter2@", f"{REDIS}: the host is missing (in the environment variable SHOP_STORE)"),
    ],
)
def test_what_is_wrong_with_an_address_in_the_environment_is_said_without_it(monkeypatch, held, problem):
    if held is not None:
        monkeypatch.setenv("SHOP_STORE", held)

    assert said({**TASK, "pulse.config.store": "env:SHOP_STORE"}) == f"pulse.config.store = 'env:SHOP_STORE': {problem}"


def test_an_address_in_the_environment_wants_the_name_of_its_variable():
    problem = "want an address, or env:NAME: nothing stands behind env:"

    assert said({**TASK, "pulse.config.store": "env: "}) == f"pulse.config.store = 'env: ': {problem}"


def test_an_abbreviation_is_no_misspelt_zone():
    assert "did you mean" not in said({"pulse.config.timezone": "CEST"})


def test_in_mode_auto_too_many_threads_are_refused_when_the_application_is_known():
    assert said(TASK, mode="auto", workers=257) == f"pulse.config.workers = 257: {WORKER_COUNT}"


@pytest.mark.parametrize("span", ["30m 1h", "5 minutes ago", "ends in 5m", "5m 3", "0 s", "500ms"])
def test_a_span_that_may_mean_anything_is_not_guessed(span):
    assert said({**TASK, "pulse.task.a.interval": span}).endswith(DURATION)


def test_a_name_that_fits_every_store_is_a_task():
    name = "b" * 200

    assert read_config({f"pulse.task.{name}.interval": "5"}).tasks[name].name == name


def test_statuses_may_be_a_list_of_numbers():
    assert read_config(tasks={"a": {"expect_status": [200, 204]}}).tasks["a"].expect_status == {200, 204}


def test_what_was_written_is_shown_and_not_what_it_was_read_as():
    message = said({"pulse.task.a.interval": "300", "pulse.task.a.cron": "@daily", "pulse.task.a.at": "2027-01-01"})

    assert "pulse.task.a.cron = '@daily': excludes interval: a task has one schedule" in message
    assert "pulse.task.a.at = '2027-01-01': excludes interval: a task has one schedule" in message


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"config": "x.ini"}, "config = 'x.ini': want a mapping such as"),
        ({"config": [("pulse.config.token", "hunter2")]}, "config = a list: want a mapping such as"),
        ({"task": [Task(action="x")]}, "task = a list: want a mapping of tasks by name"),
        ({"tasks": {"a"}}, "task = a set: want a mapping of tasks by name"),
        ({"task": {"a": None}}, "task['a'] = a NoneType: want a Task, or a dict of its options"),
        ({"task": {"a": 300}}, "task['a'] = 300: want a Task, or a dict of its options"),
        ({"task": {"a": ("x", 5)}}, "task['a'] = a tuple: want a Task, or a dict of its options"),
        ({"task": {"": {"interval": 5}}}, f"pulse.task. = '': {NAME}"),
        ({"task": {5: {"interval": 5}}}, f"pulse.task.5 = 5: {NAME}"),
        ({"task": {"a\nb": {"interval": 5}}}, f"'pulse.task.a\\nb' = 'a\\nb': {NAME}"),
        ({"task": {"a": Task(name="b")}}, "pulse.task.a.name = 'b': want no name, or that of its key, 'a'"),
        ({"task": {"a": {"name": "a"}}}, "want no name here: the key of the dict is the name of the task"),
        ({"task": {"a": {"headers.X": "1", "headers": {"X": "2"}}}}, "it is given twice, in two spellings"),
        ({"intervall": 5}, "did you mean 'pulse.task.<name>.interval'?"),
        ({"config": TASK, "task": {"a": {"headers": {"X": "hunter2"}}}}, "want a task once"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_with_the_right_one(arguments, problem):
    message = said(**arguments)

    assert problem in message
    assert "hunter2" not in message


def test_a_fault_of_what_stands_nowhere_has_the_place_of_the_rest(tmp_path):
    ini = tmp_path / "site.ini"
    ini.write_text("[filter:pulse]\npulse.config.store = redis://h\npulse.task.b/c.action = x\n")
    written = {"pulse.config.store": "redis://h", "pulse.task.b/c.action": "x"}

    with pytest.raises(ConfigError) as refused:
        read_paste_config({"__file__": str(ini)}, written)

    assert len(refused.value.faults) == 2
    assert all(fault.where.endswith("site.ini [filter:pulse]") for fault in refused.value.faults)


async def asgi(scope, receive, send):
    """Stands for any ASGI application."""


def create_app():
    return app


@pytest.mark.parametrize(
    ("application", "problem"),
    [
        (None, "app = None: want a WSGI application, which is callable"),
        ("module:app", "app = 'module:app': want a WSGI application, which is callable"),
        (asgi, "want a WSGI application; for one of ASGI there is AsgiPulse, in pulse.asgi"),
        (create_app, "what makes one, such as create_app, has to be called first"),
    ],
)
def test_what_is_no_application_is_refused_with_the_faults_of_its_configuration(application, problem):
    with pytest.raises(ConfigError) as refused:
        PulseMiddleware(application, {"pulse.config.guard": "ture"})

    assert problem in str(refused.value)
    assert "pulse.config.guard = 'ture'" in str(refused.value)


@pytest.mark.parametrize("option", ["headers", "environ"])
@pytest.mark.parametrize("name", [5, b"X-A", None])
def test_the_name_of_an_entry_that_is_no_text_is_refused(option, name):
    message = said(task={"a": {option: {name: "hunter2"}}})

    assert message == f"pulse.task.a.{option} = ***: want names that are text"


@pytest.mark.parametrize(
    "options",
    [{"pulse.config." + "x" * 10**6: "y"}, {"pulse.task.a.cron": "9" * 5000}, {"pulse.task." + "x" * 10**6: "y"}],
)
def test_a_message_stays_short_whatever_was_written(options):
    assert len(said(options)) < 1200


@pytest.mark.parametrize(
    ("application", "problem"),
    [
        (5, "want an ASGI application, which is callable"),
        (app, "want an ASGI application; for one of WSGI there is PulseMiddleware, in pulse.middleware"),
        (create_app, "what makes one, such as create_app, has to be called first"),
    ],
)
def test_what_is_no_asgi_application_is_refused(application, problem):
    with pytest.raises(ConfigError, match=problem):
        AsgiPulse(application)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"clock": 5}, "clock = 5: want a clock such as pulse.testing.ManualClock"),
        ({"run_store": "redis://h"}, "run_store = 'redis://h': want a RunStore"),
        ({"authenticate": "me"}, "authenticate = 'me': want a function that takes the environ"),
        ({"task": {"a": {}}, "tasks": {"a": {}}}, "task = a: want each task once: these are in tasks=, too"),
        ({"task": {"a": {}}, "tasks": [1]}, "task = a list: want a mapping of tasks by name"),
        ({"config": Config(), "guard": True}, "want it alone: what stands beside it would have no effect"),
        ({"config": Config(), "tasks": {}}, "want it alone: what stands beside it would have no effect"),
    ],
)
def test_arguments_that_would_have_no_effect_are_refused(arguments, problem):
    assert problem in said(**arguments)


def test_what_speaks_against_the_surroundings_is_said_at_once():
    with pytest.raises(ConfigError) as refused:
        PulseMiddleware(lambda environ, start_response: [], TASK, mode="processing", store="sqlite:/usr")

    message = str(refused.value)
    assert "pulse.config.store = 'sqlite:/usr': want the path of a file: /usr is a directory" in message
    assert "pulse.config.mode = 'processing': the application cannot be sent" in message


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is a directory"),
        ("/file/runs.db", "/file is no directory"),
        (f"/{'x' * 300}/runs.db", "want the path of a file: File name too long"),
        (f"/{'x' * 300}", "want the path of a file: File name too long"),
        ("/pipe", "want a file that can be read and written"),
    ],
)
def test_a_file_in_which_nothing_can_be_kept_is_refused_before_it_is_opened(tmp_path, path, problem):
    tmp_path.joinpath("file").touch()
    os.mkfifo(tmp_path / "pipe")

    assert problem in said(TASK, store=f"sqlite:{tmp_path}{path}")


def test_a_file_in_a_folder_that_is_to_be_made_is_as_good_as_any(tmp_path):
    PulseMiddleware(app, TASK, store=f"sqlite:{tmp_path}/a/b/runs.db").close()

    assert not tmp_path.joinpath("a").exists()


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ("redis://u:hunter2@h/0?foo=1", "redis-py does not take what stands behind ? (foo)"),
        ("redis://u:hunter2@h/0?db=x", "redis-py does not take what stands behind ? (db)"),
        ("redis://h/0?password=hunter2&protocol=9", "redis-py does not take what stands behind ? (password, protocol)"),
        ("rediss://u:hunter2@h/0?ssl_cert_reqs=maybe", "redis-py does not take what stands behind ? (ssl_cert_reqs)"),
        ("unix://u:hunter2@/socket?db=x", "want unix://[user:password@]/path/to/socket[?db=number]"),
        ("postgresql://u:hunter2@h/d?foo=1", "libpq does not know foo"),
        ("postgresql://u:hunter2%zz@h/d", "special characters percent-encoded"),
        ("postgresql://u:hunter2@h/d?sslmode=maybe", "sslmode cannot be what it is"),
        ("postgresql://u:hunter2@h/d?connect_timeout=x", "connect_timeout cannot be what it is"),
        ("postgresql://u:hunter2@h/d?port=99999", "port cannot be what it is"),
        ("postgresql://h/d?password=hunter2&target_session_attrs=x", "target_session_attrs cannot be what it is"),
    ],
)
def test_settings_that_a_library_does_not_take_are_refused_before_it_connects(store, problem):
    message = said(TASK, store=store, name="app")

    assert problem in message
    assert "pulse.config.store = " in message
    assert "hunter2" not in message


@pytest.mark.parametrize("name", ["redis", "psycopg"])
def test_a_missing_library_is_named_with_its_extra(name, monkeypatch):
    scheme, room, extra = {"redis": ("redis", "redis", "redis"), "psycopg": ("postgresql", "postgres", "postgres")}[
        name
    ]
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"pulse.runstores.{room}", raising=False)

    assert f"pip install pulse[{extra}]" in said(TASK, store=f"{scheme}://h/0", name="app")


@pytest.mark.parametrize("until", [datetime(2027, 1, 1), "1h", 5])
def test_a_pause_ends_at_an_instant(until):
    middleware = PulseMiddleware(app, TASK, store="memory:")

    with pytest.raises(ConfigError, match=r"until = .*want an aware datetime"):
        middleware.pause("a", until=until)


def test_a_framework_that_never_awaits_is_refused_in_mode_asyncio():
    flask = type("Flask", (), {"__module__": "flask.app", "__call__": lambda self, environ, start_response: []})

    with pytest.raises(ConfigError, match=r"the application is synchronous.*want threading or processing"):
        PulseMiddleware(flask(), TASK, mode="asyncio")


# Files, read by `pulse check`

APPLICATION = "\n[app:application]\nuse = egg:there-is-no-such-application\n"
FILTER_APP = "[filter-app:main]\nuse = egg:pulse\nnext = application\n"
TASKS = "pulse.config.guard = true\npulse.task.cleanup.interval = 300\n"
FILTER = f"[filter:pulse]\nuse = egg:pulse\n{TASKS}"


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """What `pulse check` says of a file with *text*."""

    def check(text: str, name: str = "site.ini") -> str:
        tmp_path.joinpath(name).write_text(text, encoding="utf-8")
        main(["check", name])
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PULSE_START", raising=False)
    return check


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (
            f"[pipeline:main]\npipeline = application\n{FILTER}",
            "[filter:pulse]\n  warning  no application uses this filter, so nothing of it runs: "
            "want it in pipeline = ..., or filter-with = pulse",
        ),
        (
            f"[pipeline:main]\npipeline = puls application\n{FILTER}",
            "[pipeline:main]\n  error    No section 'puls' (prefixed by 'filter') found in config site.ini; "
            "did you mean [filter:pulse]?",
        ),
        (
            f"[pipeline:main]\npipeline = application pulse\n{FILTER}",
            "[filter:pulse] is a filter: the last name of a pipeline, and next, are those of an application",
        ),
        (
            f"[pipeline:main]\npipeline = pulse application\n{FILTER.replace('filter:', 'filters:')}",
            "[filters:pulse] is none: want [filter:pulse] or [app:pulse]",
        ),
        (
            FILTER_APP.replace("egg:pulse", "egg:puls") + TASKS,
            "use = egg:puls: there is no such distribution; did you mean egg:pulse?",
        ),
        (
            FILTER_APP.replace("egg:pulse", "egg:pulse#filter") + TASKS,
            "use = egg:pulse#filter: want egg:pulse, or egg:pulse#sessions",
        ),
        (
            f"[app:main]\nuse = egg:pulse\n{TASKS}",
            "[app:main]\n  error    use = egg:pulse is a filter: want [filter-app:...] with next = ..., "
            "or [filter:...] and a pipeline",
        ),
        (
            FILTER_APP.replace("egg:pulse", "egg:pulse ; the filter") + TASKS,
            "use = egg:pulse ; the filter: an ini file keeps '; ...' behind a value as part of it",
        ),
        (
            FILTER_APP.replace("egg:pulse", "egg:pulse # the filter") + TASKS,
            "use = egg:pulse # the filter: an ini file keeps '# ...' behind a value as part of it",
        ),
        (FILTER_APP.replace("egg:pulse", "eg:pulse"), "use = eg:pulse: want egg:..., call:... or config:..."),
        (
            f"[pipeline:main]\npipeline =\n{FILTER}",
            "[pipeline:main]\n  error    pipeline names nothing: want filters, and an application as the last one",
        ),
        (FILTER_APP.replace("next", "nxt") + TASKS, "is missing a 'next' setting"),
        (FILTER_APP.replace("use", "uses") + TASKS, "No loader given in section 'filter-app:main'"),
        (
            f"{FILTER_APP}[pulse]\n{TASKS}",
            "[pulse]\n  warning  pulse.config.guard stands in a section that is no Pulse filter, and is never read",
        ),
        (
            f"{FILTER_APP}[app:other]\nuse = egg:other\npulse.task.a.interval = 5\n",
            "[app:other]\n  warning  pulse.task.a.interval stands in a section that is no Pulse filter",
        ),
        (
            f"{FILTER_APP}{TASKS}pulse.task.a.action = x?part=50%\n",
            "in pulse.task.a.action a % is written %%, and %(here)s is the directory of the file",
        ),
        (
            f"{FILTER_APP}{TASKS}pulse.config.store = sqlite:%(hre)s/x.db\n",
            "in pulse.config.store a % is written %%, and %(here)s is the directory of the file",
        ),
        (f"{FILTER_APP}{TASKS}pulse.task.a.interval 300\n", "want lines such as key = value, in [sections]"),
        (f"use = egg:pulse\n{FILTER_APP}", "File contains no section headers."),
        (f"\ufeff{FILTER_APP}{TASKS}", "the file begins with a byte order mark: save it as UTF-8 without one"),
        (
            f"{FILTER_APP}{TASKS}  pulse.task.a.interval = 300\n",
            "an ini file takes an indented line as part of the one before: move 'pulse.task.a.interval' to the left",
        ),
        (
            f"[DEFAULT]\npulse.config.guard = false\n{FILTER_APP}{TASKS}",
            "pulse.config.guard = 'true': has no effect, because [DEFAULT] has this key too; "
            "write 'set pulse.config.guard = ...'",
        ),
        (
            f"[DEFAULT]\npulse.task.a.intervall = 5\n{FILTER_APP}{TASKS}",
            "[DEFAULT]\n  error    pulse.task.a.intervall = '5': unknown option; did you mean 'pulse.task.a.interval'?",
        ),
        (
            f"{FILTER_APP}{TASKS}pulse.config.store = sqlite:/\n",
            "error    pulse.config.store = 'sqlite:/': want auto, memory:",
        ),
        (
            f"{FILTER_APP}{TASKS}pulse.config.store = sqlite:/tmp\n",
            "error    pulse.config.store = 'sqlite:/tmp': want the path of a file: /tmp is a directory",
        ),
    ],
)
def test_the_check_says_what_to_do_about_a_file(check, text, finding):
    assert finding in check(text + APPLICATION)


@pytest.mark.parametrize(
    "lines",
    [
        "pulse.config.guard_scope = all",
        "pulse.task.a.b.action = x",
        f"pulse.task.{'x' * 201}.action = x",
        "pulse.task.a.headers.X Y = z",
        "pulse.config.store = sqlite:/tmp",
        "pulse.config.store = env:SHOP_STORE",
        "pulse.config.store = redis://there/0?nothing=1\npulse.config.name = shop",
        "pulse.config.mode = celery\npulse.config.broker = mqtt://:s3cret@there\npulse.config.store = redis://there\n"
        "pulse.config.name = shop",
    ],
)
def test_the_check_refuses_what_the_start_refuses_at_the_same_place_in_the_same_words(check, tmp_path, lines):
    (tmp_path / "site_app.py").write_text("def make(global_conf):\n    return print\n", encoding="utf-8")
    text = f"{FILTER_APP}{TASKS}{lines}\n[app:application]\npaste.app_factory = site_app:make\n"

    found = check(text)

    with pytest.raises(ConfigError) as refused:
        loadapp(f"config:{tmp_path / 'site.ini'}")
    place, _, fault = str(refused.value).partition(": ")
    assert place == "site.ini [filter-app:main]"
    assert f"{place}\n  error    {fault}\n" in found
    assert ", 1 error, 0 warnings\n" in found


def test_the_check_refuses_mode_celery_without_its_extra_as_the_start_does(check, monkeypatch):
    monkeypatch.setitem(sys.modules, "pulse.workers.celery", None)
    celery = "pulse.config.mode = celery\npulse.config.broker = redis://there\npulse.config.store = sqlite:x.db\n"

    found = check(f"{FILTER_APP}{TASKS}{celery}{APPLICATION}")

    assert "  error    pulse.config.mode = 'celery': it needs an extra" in found
    assert "pip install 'pulse[celery]'" in found


SESSIONS = "[pipeline:main]\npipeline = sessions application\n[filter:sessions]\nuse = egg:pulse#sessions\n"
SESSION_FACTORY = SESSIONS.replace("use = egg:pulse#", "paste.filter_app_factory = pulse.sessions.wsgi:").replace(
    "wsgi:sessions", "wsgi:session_filter_app_factory"
)


@pytest.mark.parametrize("sessions", [SESSIONS, SESSION_FACTORY])
@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        ("ttl = forever", ["ttl = 'forever': want 1s to 3650d"]),
        ("tll = 5", ["tll = '5': unknown option; did you mean 'ttl'?"]),
        ("store = memory:\nsecret = 0123456789abcdef", ["secret = ***: want it with store = cookie: only"]),
        (
            "store = redis://there/x\nkey = session",
            ["store = 'redis://there/x': want redis://", "key = 'session': want"],
        ),
    ],
)
def test_the_check_refuses_a_session_filter_as_its_start_does(check, tmp_path, sessions, lines, faults):
    (tmp_path / "site_app.py").write_text("def make(global_conf):\n    return print\n", encoding="utf-8")
    application = "[app:application]\npaste.app_factory = site_app:make\n"

    found = check(f"{sessions}{lines}\n{FILTER}{application}")

    with pytest.raises(ConfigError) as refused:
        loadapp(f"config:{tmp_path / 'site.ini'}")
    assert len(refused.value.faults) == len(faults)
    for fault, known in zip(refused.value.faults, faults, strict=True):
        assert str(fault).startswith(f"site.ini [filter:sessions]: {known}")
        assert f"  error    {str(fault).partition(': ')[2]}\n" in found


def test_the_check_wants_a_secret_for_cookies_in_production_as_the_start_does(check, monkeypatch):
    monkeypatch.delenv("PULSE_SECRET", raising=False)
    monkeypatch.setenv("PULSE_ENV", "production")

    assert "[filter:sessions]\n  error    PULSE_SECRET is not set: " in check(f"{SESSIONS}{FILTER}{APPLICATION}")


def test_the_check_names_the_extra_that_a_session_filter_lacks(check, monkeypatch):
    monkeypatch.setitem(sys.modules, "pulse.state.redis", None)

    found = check(f"{SESSIONS}store = redis://there\n{FILTER}{APPLICATION}")

    assert "[filter:sessions]\n  error    import of pulse.state.redis halted" in found


def test_the_check_says_nothing_of_a_sound_session_filter(check, monkeypatch):
    monkeypatch.setenv("PULSE_ENV", "development")

    found = check(f"{SESSIONS.replace('= sessions', '= pulse sessions')}ttl = 1h\n{FILTER}{APPLICATION}")

    assert found == "1 file, 1 task, 0 errors, 0 warnings\n"


IN_CHILDREN = f"{FILTER_APP.replace('main', 'web')}{TASKS}pulse.config.mode = processing\n"


@pytest.mark.parametrize("name", ["site.ini", "site.ini#web"])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "site.ini: child processes will not find it, want config:file.ini#name: No section 'main'"),
        ("pulse.config.application = config:%(here)s/site.ini#wep", "did you mean [filter-app:web]?"),
        (
            "pulse.config.application = config:%(here)s/sight.ini",
            "sight.ini: child processes will not find it, want config:file.ini#name: No such file or directory\n",
        ),
    ],
)
def test_an_application_that_child_processes_will_not_find_is_warned_of(check, capsys, name, line, problem):
    check(f"{IN_CHILDREN}{line}\n{APPLICATION}")

    assert main(["check", name]) == 0
    said = capsys.readouterr().out
    assert "site.ini [filter-app:web]\n  warning  pulse.config.application = config:" in said
    assert problem in said


@pytest.mark.parametrize("line", ["#web", "some_module:app"])
def test_an_application_that_child_processes_may_find_is_not(check, line):
    application = f"config:%(here)s/site.ini{line}" if line.startswith("#") else line

    found = check(f"{IN_CHILDREN}pulse.config.application = {application}\n{APPLICATION}")

    assert found == "1 file, 1 task, 0 errors, 0 warnings\n"
    assert "0 warnings" in check(f"{IN_CHILDREN.replace('processing', 'threading')}{APPLICATION}")


GUNICORN = "[server:main]\nuse = egg:gunicorn#main\n"


@pytest.mark.parametrize(
    ("server", "shutdown", "said"),
    [
        (GUNICORN, "30s", "graceful_timeout is 30 if nothing is said: gunicorn"),
        (GUNICORN, "28.5s", "shutdown_timeout = 28.5s to end: want graceful_timeout = 34 or more"),
        (f"{GUNICORN}graceful_timeout = 31\n", "30s", "graceful_timeout = 31: gunicorn kills a worker before runs are"),
        (f"[DEFAULT]\ngraceful_timeout = 90\n{GUNICORN}", "2m", "graceful_timeout is 30 if nothing is said"),
        (f"{GUNICORN}config = gunicorn.py\ngraceful_timeout = 5\n", "30s", "graceful_timeout = 5: gunicorn"),
        ("[server:main]\nuse = egg:gunicorn\n", "30s", "graceful_timeout is 30 if nothing is said"),
    ],
)
def test_the_check_tells_of_a_gunicorn_that_does_not_wait_for_the_runs(check, server, shutdown, said):
    text = f"{server}{FILTER_APP}{TASKS}pulse.config.shutdown_timeout = {shutdown}\n{APPLICATION}"

    found = check(text)

    assert "[server:main]\n  warning  graceful_timeout" in found
    assert said in found


@pytest.mark.parametrize(
    ("server", "shutdown"),
    [
        (GUNICORN, "28s"),
        (f"{GUNICORN}graceful_timeout = 32\n", "30s"),
        (f"{GUNICORN}config = gunicorn.py\n", "30s"),  # which may say it
        (f"{GUNICORN}graceful_timeout = %(patience)s\n", "30s"),  # nothing sets it, which the server will say
        ("[server:main]\nuse = egg:waitress#main\n", "30s"),
        ("[server:main]\npaste.server_factory = site:serve\n", "30s"),
        ("[gunicorn]\nuse = egg:gunicorn#main\n", "30s"),
    ],
)
def test_the_check_has_nothing_against_a_server_that_waits_or_of_which_it_knows_nothing(check, server, shutdown):
    text = f"{server}{FILTER_APP}{TASKS}pulse.config.shutdown_timeout = {shutdown}\n{APPLICATION}"

    assert "0 errors, 0 warnings" in check(text)


def test_the_check_says_that_it_is_the_path_of_a_file_that_holds_a_percent_sign(check, tmp_path):
    (tmp_path / "100% mine").mkdir()

    said = check(f"{FILTER_APP}{TASKS}{APPLICATION}", "100% mine/site.ini")

    assert "it is the path of the file that holds a %, which PasteDeploy cannot read: move the file" in said


@pytest.mark.parametrize(
    "text",
    [
        f"[pipeline:main]\npipeline = pulse application\n{FILTER}{APPLICATION}",
        f"{FILTER_APP}{TASKS}{APPLICATION}",
        FILTER,  # for the pipelines of other files
        f"{FILTER_APP}{TASKS}{APPLICATION}[app:second]\nuse = main\npulse.task.cleanup.interval = 5\n",
        f"[app:main]\nuse = egg:a\nfilter-with = pulse\n{FILTER}",
        f"{FILTER_APP}{TASKS}{APPLICATION}[filter:others]\nuse = egg:pulse#sessions\n",
        f"{FILTER_APP}{TASKS}{APPLICATION}[filter:others]\nuse = egg:pulsar\n",
    ],
)
def test_the_check_suspects_no_file_that_is_as_it_should_be(check, monkeypatch, text):
    monkeypatch.setattr("pulse.commands.blueprint.metadata.distribution", lambda name: name)

    assert check(text).endswith("0 errors, 0 warnings\n")


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        (["pulse.config.guard = false"], "whoever reaches the server can call the endpoints of the tasks"),
        (["pulse.config.enabled = false"], "pulse.config.enabled is off: nothing will run"),
        (
            ["pulse.config.guard = false", "pulse.config.token = 0123456789abcdef"],
            "pulse.config.token opens only what is internal_only: pulse.config.guard is off, and there is no status page",
        ),
        (["pulse.config.store = memory:"], "is known to one process alone: with several, each runs every task"),
        (
            ["pulse.config.status = /x", "pulse.task.a.action = /x/y"],
            "a: /x/y lies below the status page at /x",
        ),
        (
            ["pulse.config.status = /x", "pulse.task.a.action = /x", "pulse.task.a.cron = @manually"],
            "a: /x lies below the status page at /x",
        ),
        (["pulse.task.a.action = /x/{id}"], "a: its path /x/{id} is requested as it stands"),
        (["pulse.task.a.body = x"], "a: it sends a body with GET, which applications do not read: want method = POST"),
        (["pulse.task.A.interval = 5", "pulse.task.a.action = x"], "A and a are different tasks"),
        (
            ["pulse.task.report.interval = 5", "pulse.task.reprot.overlap = queue"],
            "reprot has neither an action nor a schedule: it is a task of its own, not 'report'",
        ),
        (["pulse.task.a.cron = */90 * * * *"], "a: cron = */90 * * * *: */90 is only the first minute of each round"),
        (["pulse.task.a.cron = 0 */24 * * *"], "a: cron = 0 */24 * * *: */24 is only the first hour of each round"),
        (["pulse.task.a.overlap = allow", "pulse.task.a.max_instances = 2"], "a: max_instances has no effect"),
        (["pulse.task.a.catchup_limit = 2"], "a: catchup_limit has no effect with coalesce = true"),
        (["pulse.task.a.retry_delay = 5"], "a: retry_delay has no effect without retries"),
        (
            ["pulse.task.a.interval = 60", "pulse.task.a.retries = 2", "pulse.task.a.retry_delay = 2m"],
            "a: retries have no effect: retry_delay = 2m ends no sooner than the next instant, 1m later",
        ),
        (["pulse.task.a.content_type = text/plain"], "a: content_type has no effect without a body"),
        (["pulse.task.a.misfire_grace_time = 0.5"], "a: misfire_grace_time = 0.5s: on a busy host"),
        (["pulse.task.a.grace = 30"], "a: grace = 30s: the task is overdue whenever a run begins or lasts longer"),
        (["pulse.task.a.timeout = 10m"], "a: timeout = 10m is longer than the 5m from one instant to the next"),
        (["pulse.task.a.at = 2020-01-01"], "a: at = 2020-01-01 00:00 has passed: it is never due again"),
    ],
)
def test_the_check_warns_of_what_has_no_effect_or_another_one(check, lines, warning):
    guard = [] if any(".guard" in line for line in lines) else ["pulse.config.guard = true"]
    task = [] if any(".task." in line for line in lines) else ["pulse.task.tidy.interval = 300"]

    assert warning in check(FILTER_APP + "\n".join([*guard, *task, *lines]) + APPLICATION)


def test_what_keeps_an_application_from_being_loaded_is_said_as_the_check_says_it(check, capsys):
    check(f"[pipeline:main]\npipeline = puls application\n{FILTER}{APPLICATION}")

    code = main(["run", "site.ini", "cleanup"])

    assert code == 2
    assert "did you mean [filter:pulse]?" in capsys.readouterr().err


# Answers of endpoints


def reason(endpoint, **task) -> str:
    """What the record says of a run of *endpoint*, at `/jobs/sweep`."""
    config = read_config({"pulse.config.context": "jobs"}, tasks={"sweep": task})
    reply = Dispatcher(endpoint, config)(config.tasks["sweep"], Run(id="a", task="sweep", due=NOON), Control())
    assert reply.outcome is Outcome.FAILED
    return reply.reason


def answering(status, headers=(), body=b""):
    def endpoint(environ, start_response):
        start_response(status, list(headers))
        return [body]

    return endpoint


@pytest.mark.parametrize(
    ("status", "headers", "body", "hint"),
    [
        ("400 Bad Request", [], b"", "maybe it does not accept the host (pulse.config.host; in Django ALLOWED_HOSTS)"),
        ("401 Unauthorized", [], b"", "the endpoint asks for a login"),
        ("403 Forbidden", [], b"<h1>CSRF verification failed", "the endpoint wants a CSRF token: exempt it from that"),
        ("403 Forbidden", [], b"", "the endpoint asks for rights that Pulse does not have"),
        ("404 Not Found", [], b"", "there is no endpoint at /jobs/sweep (action, pulse.config.context)"),
        ("405 No", [("Allow", "PUT, POST")], b"", "the endpoint does not take GET but PUT, POST (method)"),
        ("405 No", [], b"", "the endpoint does not take GET (method)"),
        ("415 No", [], b"", "the endpoint does not take such a body (content_type)"),
    ],
)
def test_an_unexpected_answer_says_what_may_be_wrong(status, headers, body, hint):
    assert reason(answering(status, headers, body)) == f"answered {status[:3]}: {hint}"


@pytest.mark.parametrize(
    ("location", "hint"),
    [
        ("https://localhost/jobs/sweep", ": the application wants https (pulse.config.scheme = https)"),
        ("http://www.x.org/jobs/sweep", ": the application wants another host (pulse.config.host = www.x.org)"),
        ("/jobs/sweep/", ": the endpoint is at /jobs/sweep/ (action)"),
        ("/accounts/login/?next=/jobs/sweep", ": the endpoint asks for a login"),
        ("/elsewhere", ""),
        ("http://[", ""),
    ],
)
def test_a_redirect_says_what_may_be_wrong(location, hint):
    endpoint = answering("302 Found", [("Location", location)])

    assert reason(endpoint) == f"answered 302 and pointed to {location}{hint}"


@pytest.mark.parametrize(
    ("headers", "answer", "said"),
    [
        ([], None, "it returned None; want an iterable of bytes (PEP 3333)"),
        ([], "text", "it returned a str; want an iterable of bytes (PEP 3333)"),
        ([], ["text"], "its response yielded str; want bytes (PEP 3333)"),
        ({}, [], "its headers are a dict; want a list of pairs (PEP 3333)"),
        (["X: y"], [], "its headers are no list of pairs of texts (PEP 3333)"),
        ([(1, 2)], [], "its headers are no list of pairs of texts (PEP 3333)"),
        ([(b"Content-Type", b"text/plain")], [], "its headers are no list of pairs of texts (PEP 3333)"),
        ([(b"Content-Type", "text/plain")], [], "its headers are no list of pairs of texts (PEP 3333)"),
        ([("Content-Length", 0)], [], "its headers are no list of pairs of texts (PEP 3333)"),
        ([("X-Pulse-Result", None)], [], "its headers are no list of pairs of texts (PEP 3333)"),
    ],
)
def test_an_endpoint_that_breaks_the_rules_is_told_which(headers, answer, said):
    def endpoint(environ, start_response):
        start_response("200 OK", headers)
        return answer

    assert reason(endpoint) == f"ResponseError: {said}"


def test_an_endpoint_that_never_starts_its_response_is_told_so():
    assert reason(lambda environ, start_response: []) == "ResponseError: it never called start_response (PEP 3333)"


# Whatever is written: a configuration, or an error that says what is wrong

_TASK_OPTIONS = [f"pulse.task.{name}.{option}" for name in ("a", "b", "") for option in options_of(Task)]
_KEYS = st.one_of(
    st.sampled_from([f"pulse.config.{option}" for option in options_of(Config)] + _TASK_OPTIONS),
    st.sampled_from([f"pulse.config.default.{option}" for option in options_of(Task)]),
    st.from_regex(r"(set )?pulse\.(config|task|default)(\.[\w /%-]{0,8}){0,4}", fullmatch=True),
    st.text(max_size=30),
)
_PIECES = st.sampled_from(
    [
        *"*/-,#LW0159 .:;@%?=\"'\n\0[]{}ü٣",
        *("99", "31", "2", "5m", "1h30m", "nan", "1e9", "true", "2027-03-28", "T25:00", "feb", "sun", "@daily"),
        *("sqlite:", "redis://", "unix://", "postgresql://", "u:pw@", "h:6379", "/0", "?db=1", "memory:"),
        *("env:", "file:", "Europe/", "Berlin", "UTC", "../", "//", "%2e", "%00", "200-299", "module:object"),
    ]
)
_VALUES = st.one_of(st.text(max_size=40), st.lists(_PIECES, max_size=12).map("".join), st.text("9*/,-", max_size=300))
_ODD_VALUES = st.one_of(
    _VALUES, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.dates(), st.lists(st.integers())
)


def faults_of(read, *arguments, **options):
    """Nothing else than a ConfigError may come out of it, and it is never without faults."""
    try:
        read(*arguments, **options)
    except ConfigError as error:
        return error.faults or pytest.fail("an error without faults")
    return ()


@given(st.dictionaries(_KEYS, _VALUES, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_texts_are_a_configuration_or_an_error_that_says_so(written):
    assert all(fault.problem for fault in faults_of(read_config, written))
    assert all(fault.problem for fault in faults_of(read_paste_config, {}, written))


@given(
    st.dictionaries(st.sampled_from(sorted(options_of(Task))), _ODD_VALUES, max_size=6), st.one_of(st.text(), st.none())
)
@settings(max_examples=150, deadline=None)
def test_any_values_of_a_task_are_read_or_refused(options, name):
    assert all(fault.problem for fault in faults_of(read_config, tasks={name: options}))


@given(st.sampled_from(sorted(options_of(Config))), _ODD_VALUES)
@settings(max_examples=150, deadline=None)
def test_any_value_of_an_option_is_read_or_refused(option, value):
    assert all(fault.problem for fault in faults_of(read_config, options={option: value}))


@given(
    st.text("u:/@pw h.%0#?=[]", max_size=30).map(lambda text: f"redis://{text}hunter2@"),
    st.text("h/0:?@# ", max_size=9),
)
@settings(max_examples=200, deadline=None)
def test_no_password_before_a_host_is_ever_shown(address, host):
    faults = faults_of(read_config, {"pulse.config.store": address + host, "pulse.config.guard": "ture"})

    assert "hunter2" not in str(ConfigError(faults))


# What is beside the scheduling


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://u:hunter2@h", "want redis://host, rediss://host or unix:///path/to/socket"),
        ("redis://u:hunter2@h/abc", "behind the host stands the number of a database, such as /0"),
        ("redis://u:hunter2", PORT),
    ],
)
def test_the_address_of_shared_state_and_of_sessions_is_refused_alike(monkeypatch, url, problem):
    monkeypatch.setenv("PULSE_DEPLOY__REDIS_URL", url)
    clear_state_caches()

    with pytest.raises(ConfigError) as of_state:
        get_widget_store()
    with pytest.raises(ConfigError) as of_sessions:
        read_session_options({"store": url})

    assert f"PULSE_DEPLOY__REDIS_URL = '{masked(url)}': " in str(of_state.value)
    assert problem in str(of_state.value)
    assert "hunter2" not in f"{of_state.value} {of_sessions.value}"


def test_a_filter_without_tasks_says_so_when_it_is_built(caplog):
    pulse_filter_app_factory(app, {}, **{"pulse.config.guard": "true"})
    pulse_filter_app_factory(app, {}, **{"pulse.task.a.interval": "300"})

    assert [record.pulse_event for record in caplog.records if hasattr(record, "pulse_event")].count("no_tasks") == 1
