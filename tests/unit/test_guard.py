# ruff: noqa: RUF001 - letters that look like others are what this file is about
import copy
import gc
import inspect
import io
import logging
import pickle
import string
import sys
from datetime import UTC, datetime
from functools import wraps
from types import SimpleNamespace
from urllib.parse import quote_from_bytes
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse.control import Control
from pulse.errors import NotInternalError, PulseError
from pulse.guard import MOVERS, SCRUBBED, Guard
from pulse.mark import INTERNAL, Mark, acting_for, internal_only, is_internal
from pulse.model import Config, Run, Task, Trigger
from pulse.request import InternalRequest, shared_environ
from pulse.testing import ManualClock

DUE = datetime(2027, 3, 4, 5, 6, tzinfo=UTC)
TOKEN = "a-token-of-24-characters"
PATH = "/sessions/cleanup"


def guard_of(*paths, on=True, token=None, clock=None, **options):
    tasks = {f"t{number}": Task(name=f"t{number}", action=path) for number, path in enumerate(paths or [PATH])}
    return Guard(Config(guard=on, token=token, tasks=tasks, **options), clock=clock)


def environ_of(path="/", **keys):
    """An outside request; *path* is text, and arrives as WSGI has it: the bytes of its UTF-8 as latin-1."""
    environ = {"PATH_INFO": path.encode().decode("latin-1"), "SCRIPT_NAME": "", "QUERY_STRING": "", **keys}
    setup_testing_defaults(environ)
    return environ


def admits(path, *paths, **keys):
    return guard_of(*paths).admits(environ_of(path, **keys))


def mark_of(task="cleanup"):
    return Mark(task=task, due=DUE, trigger=Trigger.SCHEDULE, path=PATH)


def answer_of(call, environ):
    """Status, headers and body of a call that takes an environ and `start_response`."""
    started = []
    chunks = call(environ, lambda status, headers, _error=None: started.append((status, headers)))
    body = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    return *started[0], body


def hello(_environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def finish(coroutine):
    """What a coroutine returns that never has to wait."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


# Spellings of the guarded path


@pytest.mark.parametrize(
    "path",
    [
        "/sessions/cleanup",
        "/sessions/cleanup/",
        "//sessions/cleanup",
        "/sessions//cleanup",
        "///sessions///cleanup///",
        "sessions/cleanup",
        "/./sessions/./cleanup/.",
        "/x/../sessions/cleanup",
        "/sessions/x/../cleanup",
        "/sessions/x/y/../../cleanup",
        "/sessions/../sessions/cleanup",
        "/../sessions/cleanup",
        "/sessions/cleanup/..",
        "/sessions/cleanup/../login",
        "/a%2Fb/../sessions/cleanup",
        "/a%2Fb/../sessions%2Fcleanup",
        "/a/../sessions/%2e%2e/../cleanup",
        "/x/..;/sessions/cleanup",
        "/x/.\0./sessions/cleanup",
        "/x/ .. /sessions/cleanup",
        "/sessions/cleanup/extra",
        "/sessions/cleanup/a/b/c",
        "/sessions/cleanup;v=1",
        "/sessions;v=1/cleanup",
        "/sessions；v=1/cleanup",
        "/sessions;a=b;c/cleanup;d/e",
        "/sessions/cleanup?x=1",
        "/sessions/cleanup#top",
        "/a/../sessions/cleanup;/..",
        "/SESSIONS/Cleanup",
        "/sessions/%63leanup",
        "/%73%65%73%73%69%6f%6e%73/%63%6c%65%61%6e%75%70",
        "/sessions%2Fcleanup",
        "/sessions%2fcleanup",
        "/sessions%252Fcleanup",
        "/sessions%25252Fcleanup",
        "/sessions/%2563leanup",
        "/sessions%5Ccleanup",
        "\\sessions\\cleanup",
        "/sessions\\cleanup",
        "/sessions;\\x\\y/cleanup",
        "/sessions\0x\\cleanup",
        "/%2e/sessions/cleanup",
        "/x/%2e%2e/sessions/cleanup",
        "/x/%252e%252e/sessions/cleanup",
        "/x%2f..%2fsessions/cleanup",
        "/sessions/cleanup%00",
        "/sessions/cleanup\0.html",
        "/sessions/clean\0up",
        "/sessions/cleanup\n",
        "/sessions/cleanup\r\nX: y",
        "/sessions/cleanup%0a",
        "/sessions/cleanup%0d%0a",
        "/sessions/clean\tup",
        "/sessions/cleanup\nx",
        "/sessions/\nclean\nup\0x",
        "http://sessions/cleanup",
        "/sessions\0x/cleanup%00x",
        "/sessions/cleanup ",
        "/ sessions / cleanup ",
        "/sessions/cleanup%20",
        "/sessions/cleanup\u00a0",
        "/sessions/cleanup\u3000",
        "/sessions/clean\u200bup",
        "/sessions/clean\u00adup",
        "/\ufeffsessions/cleanup",
        "/sessions/\u202ecleanup",
        "/sessions/cleanup\ufe0f",
        "/sessions/cleanup\U000e0041",
        "/ｓｅｓｓｉｏｎｓ/cleanup",
        "／sessions／cleanup",
        "/sessions/ｃｌｅａｎｕｐ．ｊｓｏｎ",
        "/x/．．/sessions/cleanup",
        "/x/\u2025/sessions/cleanup",
        "/sessions％2Fcleanup",
        "/sessions%\u200b2fcleanup",
        "/ſeſſions/cleanup",
        "/sess\u0131ons/cleanup",
        "/SESS\u0130ONS/CLEANUP",
        "/SESSI\u0307ONS/CLEANUP",
        "/sess\U0001d6a4ons/cleanup",
        "/sessions/clean\u00a0up",
        "/sessions/clean\ue000up",
        "/sess\u2003ions%E3%80%80/cleanup",
        "/sessions/\u24d2leanup",
        "/sessions%c0%afcleanup",
        "/sessions/%c1%a3leanup",
        "/sessions%e0%80%afcleanup",
        "/sessions%f0%80%80%afcleanup",
        "/sessions/%C0%A5%36%33leanup",
        "/sessions/clean%ffup",
        "/sessions/cleanup%ff",
        "/sessions/clea%c1%a3nup",
        "/sessions/clea%25e0%2580%25afnup",
        "/sessions/cl\u00e9anup",
        "/s\u00eassions/cle\u00e0nup",
        "/sessions/clean\u0338up",
        "/sessions/c\u0142eanup;v=1",
        "/sessions/@@cleanup",
        "/sessions/@@cleanup/x",
        "/@@sessions/@@ cleanup",
        "/@@/sessions/cleanup",
        "/sessions/++view++cleanup",
        "/sessions/cleanup.json",
        "/sessions/cleanup.tar.gz",
        "/sessions/cleanup.json/x",
        "/sessions/cleanup.",
        "/sessions/cleanup...",
        "/sessions/cleanup!",
        "/sessions/cleanup .",
        "/sessions/cleanup .json",
        "/sessions/cleanup'",
        "/sessions/cleanup%22)",
        "/sessions/cleanup,",
        "/sessions/cleanup~",
        "/sessions/cleanup+",
        "http://example.org/sessions/cleanup",
        "HTTP://example.org:80//sessions/cleanup",
        "http:///sessions/cleanup",
        "http:////example.org/sessions/cleanup",
        "http:/sessions/cleanup",
        "http:sessions/cleanup",
        "ws+x://example.org/sessions/cleanup?x",
        "//example.org/sessions/cleanup",
        "//user@example.org:80/sessions/cleanup",
        "/.//example.org/sessions/cleanup",
        "/././%2E//example.org/sessions/cleanup",
        "http:\\\\example.org\\sessions\\cleanup",
        "http://ho%2Fst/sessions%2Fcleanup",
        "%68ttp://example.org/sessions/cleanup",
        "\\example.org/sessions/cleanup",
        "//a\\b/sessions/cleanup",
        "/ /example.org/sessions/cleanup",
        "/;x/example.org/sessions/cleanup",
        "/%2Fexample.org/sessions/cleanup",
    ],
)
def test_every_spelling_of_a_guarded_path_is_refused(path):
    assert not admits(path)


def test_bytes_that_are_no_utf8_do_not_hide_a_path():
    guard = guard_of()

    assert not guard.admits(environ_of() | {"PATH_INFO": "/sessions/clean\xffup"})
    assert not guard.admits(environ_of() | {"PATH_INFO": "/sessions\xc0\xafcleanup"})


def test_a_path_that_is_no_latin1_text_is_judged_all_the_same():
    assert not guard_of().admits(environ_of() | {"PATH_INFO": "/ｓｅｓｓｉｏｎｓ/cleanup"})
    assert guard_of().admits(environ_of() | {"PATH_INFO": "/ｓｅｓｓｉｏｎｓ/login\ud800"})


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/cleanup",
        "/sessions",
        "/sessions/",
        "/sessions/login",
        "/sessions/other",
        "/sessions/cleanup2",
        "/sessions/cleanup-old",
        "/sessions/cleanups.json",
        "/sessions/cleanupx/cleanup",
        "/sessions/x/cleanup",
        "/sessions2/cleanup",
        "/sessions.old/cleanup",
        "/mysessions/cleanup",
        "/public/sessions/cleanup",
        "/public//sessions/./cleanup",
        "/public;x/sessions/cleanup",
        "/public%2Fsessions%2Fcleanup",
        "http://example.org/public/sessions/cleanup",
        "/http://example.org/x",
        "/sessionscleanup",
        "/sessions-cleanup",
        "/cleanup/sessions",
        "/cleanup/../sessions",
        "/static/../img/logo.png",
        "/.well-known/acme-challenge/x",
        "/bücher/übersicht",
        "/séssions",
        "/会议/sessions/cleanup",
        "/sessions/cleanup会",
        "/100%",
        "/%zz/%",
        "/a%20b/c+d",
        "*",
    ],
)
def test_neighbours_of_a_guarded_path_stay_open(path):
    assert admits(path)


@pytest.mark.parametrize(
    ("guarded", "path"),
    [
        ("/jobs/clean-up", "/jobs/clean_up"),
        ("/jobs/clean_up", "/jobs/clean.up"),
        ("/night-jobs/run", "/night_jobs/run"),
        ("/jobs/clean.up", "/jobs/clean.up.json"),
        ("/jobs/@@cleanup", "/jobs/@@cleanup"),
        ("/jobs/@@cleanup", "/jobs/cleanup"),
        ("/jobs;nightly/run", "/jobs;nightly/run"),
        ("/jobs%3Bnightly/run", "/jobs;nightly/run"),
        ("/jobs;nightly/run", "/jobs;nightly/run;v=1"),
        ("/jobs;nightly/run", "/jobs;nightly/run;v=1/"),
        ("/jobs;nightly/run", "/jobs;nightly/run%3Fv=1"),
        ("/jobs;nightly/run", "/jobs;nightly/run%23top"),
        ("/jobs/run", "/jobs/r%EF%BD%00%95n"),
        ("/jobs/run", "/jobs/r%EF%0A%BD%95n"),
        ("/jobs/a%2Fb", "/jobs/a/b"),
        ("/Jobs/Run/", "/jobs/run"),
        ("/jobs/run?dry=1", "/jobs/run"),
        ("/jobs/clean%20up", "/jobs/clean+up"),
        ("/jobs/clean%20up", "/jobs/clean%2Bup.json"),
        ("/clean%20up/jobs", "/x/../clean+up/jobs/x"),
        ("/jobs/run!", "/jobs/run!"),
        ("/aufräumen", "/aufräumen"),
        ("/İzmir/sıfırla", "/izmir/SIFIRLA"),
        ("/I\u0323\u0307", "/i\u0323\u0307"),
        ("/İ\u05a7", "/i\u05a7\u0307"),
        ("/İzmir/sıfırla", "/i\u0307zmir/s\u0131f\u0131rla"),
        ("/aufr%C3%A4umen", "/AUFRÄUMEN"),
        ("/aufr%E4umen", "/aufr%E4umen"),
        ("/aufräumen", "/aufraumen"),
        ("/aufräumen", "/aufrâumen"),
        ("/jobs/søg", "/jobs/sog"),
        ("/Łódź/jobs", "/lodz/jobs"),
        ("/run", "/run/x"),
        ("/run", "/run.json"),
        ("/a/b/c/d", "/a/b/./c//d"),
    ],
)
def test_a_guarded_path_is_read_as_it_is_written(guarded, path):
    assert not admits(path, guarded)


def test_a_guarded_path_with_parameters_leaves_the_one_without_open():
    assert admits("/jobs/run", "/jobs;nightly/run")
    assert admits("/jobs;daily/run;v=1", "/jobs;nightly/run")


def test_several_tasks_are_guarded_at_once():
    guard = guard_of("/sessions/cleanup", "/reports/build", "/ping", "/a/b/c")

    refused = [path for path in ("/sessions/cleanup", "/reports/build", "/ping", "/a/b/c", "/a/b", "/reports")
               if not guard.admits(environ_of(path))]  # fmt: skip

    assert refused == ["/sessions/cleanup", "/reports/build", "/ping", "/a/b/c"]


def test_a_task_that_is_not_enabled_is_guarded_too():
    guard = Guard(Config(guard=True, tasks={"t": Task(name="t", action=PATH, enabled=False)}))

    assert not guard.admits(environ_of(PATH))


@pytest.mark.parametrize("path", ["/sessions", "/sessions/", "/sessions/login", "/SESSIONS/x/y", "/x/../sessions/y"])
def test_the_scope_context_guards_all_that_is_below_the_context(path):
    guard = guard_of(context="sessions", guard_scope="context")

    assert not guard.admits(environ_of(path))
    assert guard.admits(environ_of("/session/login"))


@pytest.mark.parametrize("path", ["/", "", "//", "/.", "/;x", "/%2f", "http://example.org/", "/x/.."])
def test_a_task_at_the_root_guards_the_root(path):
    assert not admits(path, "/")


@pytest.mark.parametrize("written", ["/", "//", "/%2f"])
def test_a_task_at_the_root_guards_it_however_it_is_written(written):
    assert not admits("/", written)


@pytest.mark.parametrize("path", ["/x", "/sessions/cleanup", "/x/"])
def test_a_task_at_the_root_leaves_all_below_it_open(path):
    assert admits(path, "/")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "X"])
def test_no_method_is_let_through(method):
    assert not admits(PATH, REQUEST_METHOD=method)


def test_an_upgrade_is_not_let_through():
    assert not admits(PATH, HTTP_CONNECTION="Upgrade", HTTP_UPGRADE="websocket")


# What applications route on beside PATH_INFO


@pytest.mark.parametrize(
    ("script", "path"),
    [
        ("/sessions", "/cleanup"),
        ("/sessions/", "cleanup"),
        ("/sessions", "cleanup"),
        ("/sessions/cleanup", ""),
        ("/x/../sessions", "/cleanup"),
        ("/SESSIONS", "/%63leanup"),
        ("/app", "/sessions/cleanup"),
        ("/", "/sessions/cleanup"),
    ],
)
def test_the_path_is_judged_alone_and_below_the_script_name(script, path):
    assert not admits(path, SCRIPT_NAME=script)


@pytest.mark.parametrize(
    ("script", "path"), [("/app", "/x"), ("/sessions", "/login"), ("/public", PATH + "2"), ("/", "/public" + PATH)]
)
def test_a_script_name_leaves_neighbours_open(script, path):
    assert admits(path, SCRIPT_NAME=script)


@pytest.mark.parametrize("name", ["REQUEST_URI", "RAW_URI", "UNENCODED_URL"])
@pytest.mark.parametrize(
    ("script", "target"),
    [
        ("", "/sessions/cleanup"),
        ("", "/sessions/cleanup?x=1"),
        ("", "/sessions%2Fcleanup?x=1"),
        ("", "http://example.org/sessions/cleanup?x"),
        ("", "/sessions/cleanup#top"),
        ("/app", "/app/sessions/cleanup"),
        ("/app", "/app/sessions/cleanup/extra"),
        ("/app/x", "/app/x/sessions/cleanup/extra"),
        ("/app/x", "/%61pp//x/sessions/cleanup"),
        ("/app", "/sessions/cleanup"),
    ],
)
def test_the_raw_target_is_judged_with_and_without_the_script_name(name, script, target):
    assert not admits("/elsewhere", SCRIPT_NAME=script, **{name: target})


@pytest.mark.parametrize("path", ["/app/sessions/cleanup", "/APP/sessions/cleanup", "/%61pp/sessions/cleanup"])
def test_a_raw_target_that_is_the_path_is_judged_without_the_script_name_too(path):
    assert not admits(path, SCRIPT_NAME="/app", REQUEST_URI=path)
    assert not admits(path, SCRIPT_NAME="/app/", REQUEST_URI=f"{path}?x=1")


@pytest.mark.parametrize("script", ["/app", "/app/", "/pub"])
def test_a_proxy_that_takes_the_prefix_away_leaves_neighbours_open(script):
    path = "/public/sessions/cleanup"

    assert admits(path, SCRIPT_NAME=script, REQUEST_URI=path, RAW_URI=f"{path}?page=2")
    assert not admits(PATH, SCRIPT_NAME=script, REQUEST_URI=PATH)


@pytest.mark.parametrize("name", ["REQUEST_URI", "RAW_URI", "UNENCODED_URL"])
@pytest.mark.parametrize(
    "target", ["/login?next=/sessions/cleanup", "/login?a=/../sessions/cleanup", "/x", "http://example.org/login"]
)
def test_the_query_of_a_raw_target_is_not_judged(name, target):
    assert admits("/login", **{name: target})


def test_two_raw_targets_are_both_judged():
    assert not admits("/x", REQUEST_URI="/x", RAW_URI=PATH)
    assert not admits("/x", REQUEST_URI=PATH, RAW_URI="/x")


@pytest.mark.parametrize("header", sorted(MOVERS))
@pytest.mark.parametrize(
    ("value", "path"),
    [
        (PATH, "/public"),
        (PATH + "?x=1", "/public"),
        ("/SESSIONS%2Fcleanup", "/public"),
        ("http://example.org/sessions/cleanup", "/public"),
        ("/public, /sessions/cleanup", "/public"),
        ("/sessions/cleanup,/public", "/public"),
        ("/public?a,b,/sessions/cleanup", "/public"),
        ("/sessions", "/cleanup"),
        ("/sessions/", "/cleanup"),
        ("/x, /sessions", "/cleanup"),
        ("http://example.org/sessions", "/cleanup"),
        ("/app", "/app/sessions/cleanup"),
        ("/app", "/appsessions/cleanup"),
        ("sessions", "/cleanup"),
        ("sessions/cleanup", "/public"),
        ("//example.org/sessions/cleanup", "/public"),
        ("http:/sessions/cleanup", "/public"),
    ],
)
def test_a_header_that_names_or_completes_a_guarded_path_is_refused(header, value, path):
    assert not admits(path, **{header: value})


@pytest.mark.parametrize("header", sorted(MOVERS))
@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/app", "/x"),
        ("/", "/public/sessions/cleanup"),
        ("/app/", "/public/sessions/cleanup"),
        ("app", "/public/sessions/cleanup"),
        ("/app", "/applied/sessions/cleanup"),
        ("http://example.org", "/public/sessions/cleanup"),
        ("/sessions", "/sessions/login"),
        ("/login?next=/sessions/cleanup", "/login"),
        ("/x?ids=1,2,3,4,5,6,7,8,9,10,11,12", "/x"),
        ("/login?next=/../sessions/cleanup", "/login"),
        ("/x, /app", "/public/sessions/cleanup"),
        ("", "/public"),
    ],
)
def test_a_header_that_moves_a_path_elsewhere_is_admitted(header, value, path):
    assert admits(path, **{header: value})


def test_an_empty_header_does_not_name_the_root():
    assert admits("/public", "/", HTTP_X_SCRIPT_NAME="")


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("example.org/sessions", "/cleanup"),
        ("example.org:80/Sessions/", "/cleanup"),
        ("example.org/sessions/cleanup?", "/public"),
        ("example.org/sessions%2Fcleanup#", "/public"),
        ("/sessions/cleanup", "/public"),
        ("example.org/x/..", "/sessions/cleanup"),
    ],
)
def test_a_host_with_a_path_that_makes_an_address_of_a_guarded_one_is_refused(host, path):
    assert not admits(path, HTTP_HOST=host)


@pytest.mark.parametrize("host", ["example.org/app", "example.org/", "[::1]:80", ""])
def test_a_host_that_names_no_guarded_path_is_admitted(host):
    assert admits("/public/sessions/cleanup", HTTP_HOST=host)


@pytest.mark.parametrize("header", ["HTTP_REFERER", "QUERY_STRING", "HTTP_COOKIE", "HTTP_X_FORWARDED_FOR"])
def test_what_moves_no_path_may_name_a_guarded_one(header):
    assert admits("/public", **{header: PATH})


# Bounds


def test_what_is_admitted_is_remembered_up_to_a_bound():
    guard = guard_of()
    guard.REMEMBERED = 10

    for number in range(100):
        guard.admits(environ_of(f"/page/{number}"))

    assert 0 < len(guard._open) <= 10


def test_a_long_path_is_not_remembered():
    guard = guard_of()

    guard.admits(environ_of("/" + "x" * guard.REMEMBERED_LENGTH))
    guard.admits(environ_of("/x", REQUEST_URI="/" + "x" * guard.REMEMBERED_LENGTH))

    assert not guard._open


def test_the_query_is_not_remembered():
    guard = guard_of()

    for number in range(10):
        guard.admits(environ_of("/x", REQUEST_URI=f"/x?{number}", RAW_URI=f"/x?{number}"))

    assert len(guard._open) == 1


def test_a_path_that_is_asked_for_again_is_remembered_whatever_an_outsider_asks_for(monkeypatch):
    guard = guard_of()
    guard.REMEMBERED = 10
    judged = []
    has = guard._guarded.has
    monkeypatch.setattr(guard._guarded, "has", lambda way, *more: judged.append(way) or has(way, *more))

    for number in range(100):
        guard.admits(environ_of("/page"))
        guard.admits(environ_of(f"/rubbish/{number}"))

    assert judged.count("/page") == 1
    assert len(guard._open) + len(guard._open_before) <= 20


@pytest.mark.parametrize("name", ["REQUEST_URI", "RAW_URI"])
def test_what_was_admitted_without_a_raw_target_is_judged_again_with_one(name):
    path = "/app/sessions/cleanup"
    guard = guard_of()

    assert guard.admits(environ_of(path, SCRIPT_NAME="/app"))
    assert guard.admits(environ_of(path))
    assert not guard.admits(environ_of(path, SCRIPT_NAME="/app", **{name: path}))


def test_a_path_that_was_admitted_is_refused_below_another_script_name():
    guard = guard_of()

    assert guard.admits(environ_of("/cleanup"))
    assert not guard.admits(environ_of("/cleanup", SCRIPT_NAME="/sessions"))
    assert not guard.admits(environ_of("/cleanup", REQUEST_URI=PATH))
    assert not guard.admits(environ_of("/cleanup", RAW_URI=PATH))


@pytest.mark.parametrize(
    "path",
    [
        "/" + "../" * 20_000,
        "/" + "%25" * 20_000,
        "/%" + "25" * 20_000 + "2f",
        "/%" + "25" * 20 + "2f",
        "/x" * 100 + "/..",
        "/" + "\ufdfa" * 20_000,
        "/;" * 30_000,
    ],
    ids=["climbs", "escapes", "nested escapes", "few nested escapes", "climbs from deep", "expands", "parameters"],
)
def test_a_path_that_no_honest_client_sends_is_refused(path):
    assert not admits(path)


def test_headers_that_complete_each_other_to_a_guarded_path_are_refused():
    assert not admits("/x", HTTP_X_SCRIPT_NAME="/sessions", HTTP_X_ORIGINAL_URL="/cleanup")
    assert admits("/x", HTTP_X_SCRIPT_NAME="/sessions", HTTP_X_ORIGINAL_URL="/sessions/login")


def test_headers_that_take_long_to_read_are_refused():
    many = {name: f"/{number}" for number, name in enumerate(MOVERS)}
    long = {name: f"/{number}" + "\xff" * 1000 for number, name in zip(range(5), MOVERS, strict=False)}

    assert not admits("/public", **many)
    assert not admits("/public", HTTP_X_ORIGINAL_URL="/x" * 3000)
    assert not admits("/public", **long)


def test_a_long_ordinary_path_may_have_a_header():
    assert admits("/x" * 30_000, HTTP_X_FORWARDED_PREFIX="/app")


def test_a_long_ordinary_path_is_judged_like_a_short_one():
    assert admits("/x" * 30_000)
    assert admits("/" + "x" * 60_000)
    assert admits("/x" * 30_000 + PATH)
    assert not admits(PATH + "/x" * 30_000)


CROOKED = "/.." + "".join(f"/q{number}%" + "25" * (number % 7) + "41" for number in range(50)) + "\\\xff;\n\0"


def test_a_crooked_path_takes_no_more_steps_with_thousands_of_tasks_than_with_ten():
    few, many = (guard_of(*(f"/tenant{number}/cleanup" for number in range(count))) for count in (10, 3000))

    assert steps(many, CROOKED) < 1.1 * steps(few, CROOKED) < 100_000


def steps(guard, path):
    """How many calls, of Python and of C, it takes to judge *path*; the time of that depends on the machine."""
    guard.admits(environ_of("/"))  # the first request puts the guarded paths together
    calls = []
    environ = environ_of(path)
    sys.setprofile(lambda _frame, event, _called: calls.append(event))
    try:
        guard.admits(environ)
    finally:
        sys.setprofile(None)
    return len([event for event in calls if event in ("call", "c_call")])


LETTERS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)


@given(guarded=st.lists(LETTERS, min_size=1, max_size=4), asked=st.lists(st.sampled_from("abcd"), max_size=7))
def test_of_the_names_of_a_path_that_climbs_any_may_get_lost(guarded, asked):
    def may_be(names):
        rest = iter(asked)
        return all(any(name == part for part in rest) for name in names)

    paths = ["/" + "/".join(names) for names in guarded]

    assert admits("/../" + "/".join(asked), *paths) is not any(map(may_be, guarded))


def test_a_guard_without_tasks_admits_everything():
    assert Guard(Config(guard=True)).admits(environ_of("/x/../%252525"))


# Any composition of disguises

WIDE = {ord(letter): ord(letter) + 0xFEE0 for letter in string.ascii_letters + string.digits + "./\\;%"}
INVISIBLE = ["\0", "\t", "\n", "\x7f", "\u200b", "\u00ad", "\ufeff", "\u2060", "\ufe0f"]
SLASHES = ["/", "//", "\\", "/./", "/;a/", "/x/../", "/x\\..\\", "/ /", "/.;b/"]
FRONTS = ["", "/", "/..", "/x/..", "//example.org", "http://example.org:80", "ftp:/x/..", " https://u@h", "/a/b/../.."]
TAILS = ["", "/", "/x", "/..", ";v=1", ";", "?x", "#x", ".json", "!", "...", " ", "/x/../y"]


@st.composite
def disguised(draw, path=PATH):
    letters = draw(st.randoms(use_true_random=False))
    slash = st.sampled_from(SLASHES)
    text = draw(st.sampled_from(FRONTS))
    for name in path.strip("/").split("/"):
        text += draw(slash) + "".join(letters.choice([c, c, c.upper(), letters.choice(INVISIBLE) + c]) for c in name)
    text += draw(st.sampled_from(TAILS))
    if draw(st.booleans()):
        text = "".join(letters.choice([c, c.translate(WIDE)]) for c in text)
    for _ in range(draw(st.integers(0, 3))):
        text = escaped(letters, text)
    return text


def escaped(random, text):
    encoded = text.encode()
    few = random.random()
    return "".join(
        quote_from_bytes(bytes([byte]), safe="") if byte >= 128 or random.random() < few else hexed(random, byte, few)
        for byte in encoded
    )


def hexed(random, byte, few):
    return f"%{byte:02x}" if random.random() < few / 2 else chr(byte)


GUARDED = guard_of()


@given(disguised())
def test_any_composition_of_disguises_is_refused(path):
    assert not GUARDED.admits(environ_of(path))
    assert not GUARDED.admits(environ_of("/x", REQUEST_URI=path.encode().decode("latin-1")))


@given(disguised("/sessions/login") | disguised("/public/x/y") | disguised("/cleanup/of/it"))
def test_any_composition_of_disguises_of_another_path_is_admitted(path):
    assert GUARDED.admits(environ_of(path))


NAME = st.text(min_size=1).filter(lambda name: not set(name) & set("%/\\") and "clean" not in name.casefold())


@given(st.lists(NAME))
def test_unrelated_paths_are_admitted(names):
    assert GUARDED.admits(environ_of("/sessions/" + "/".join(names)))


PLAIN_NAME = st.sampled_from(["sessions", "cleanup", "Cleanup.json", "@@cleanup", "cleanup2", "x", "a-b", "cleanup!"])


@given(st.lists(PLAIN_NAME, max_size=4))
def test_an_ordinary_path_is_read_as_any_other_is(names):
    path = "/" + "/".join(names)

    assert GUARDED.admits(environ_of(path)) == GUARDED.admits(environ_of("/." + path))


# The proof of an internal request


class Lookalike:
    _seal = object()
    live = True

    def __eq__(self, other):
        return True

    def __bool__(self):
        return True

    __hash__ = None


def unsealed():
    return object.__new__(Mark)


def descended():
    return type("Descendant", (Mark,), {})(task="cleanup", due=DUE, trigger=Trigger.SCHEDULE, path=PATH)


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "1",
        "true",
        "<internal request of Pulse>",
        True,
        1,
        b"1",
        {"live": True},
        {"_seal": object(), "live": True},
        object(),
        Mark,
        SimpleNamespace(task="cleanup", due=DUE, live=True, _seal=None),
        Lookalike(),
        unsealed(),
        descended(),
        [mark_of()],
        (mark_of(),),
    ],
    ids=lambda forged: type(forged).__name__,
)
def test_what_is_no_mark_opens_nothing(forged):
    environ = environ_of(PATH) | {INTERNAL: forged}

    assert not is_internal(environ)
    assert not guard_of().admits(environ)
    assert INTERNAL not in environ


def test_a_live_mark_is_admitted():
    environ = environ_of(PATH) | {INTERNAL: mark_of()}

    assert is_internal(environ)
    assert guard_of().admits(environ)


def test_a_mark_dies_with_its_run():
    mark = mark_of()
    environ = environ_of(PATH) | {INTERNAL: mark}

    with acting_for(mark):
        assert is_internal(environ)

    assert not is_internal(environ)
    assert not guard_of().admits(environ)


def test_a_mark_dies_with_a_run_that_fails():
    mark = mark_of()

    with pytest.raises(SystemExit), acting_for(mark):
        raise SystemExit

    assert not mark.live


def test_a_dead_mark_does_not_rise_again():
    mark = mark_of()
    with acting_for(mark):
        pass

    with acting_for(mark), pytest.raises(NotInternalError):
        internal_only(lambda: None)()

    assert not mark.live


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
def test_a_mark_cannot_be_duplicated(duplicate):
    with pytest.raises(TypeError, match="its own run only"):
        duplicate(mark_of())


def test_a_mark_shows_nothing_of_itself():
    assert repr(mark_of("secret-task")) == str(mark_of("secret-task")) == "<internal request of Pulse>"


def test_a_copied_environ_is_as_internal_as_its_run():
    mark = mark_of()
    environ = {INTERNAL: mark}

    with acting_for(mark):
        assert is_internal(dict(environ))

    assert not is_internal(dict(environ))


def test_nothing_that_a_client_controls_opens_the_guard():
    config = Config(guard=True, tasks={"cleanup": Task(name="cleanup", action=PATH, headers={"X-Key": "k"})})
    request = InternalRequest(config.tasks["cleanup"], shared_environ(config))
    run = Run(id="0" * 32, task="cleanup", due=DUE)
    environ = request.environ(run, deadline=None, errors=io.StringIO(), control=Control())
    replayed = {name: value for name, value in environ.items() if isinstance(value, str)}
    guard = Guard(config)

    assert {"HTTP_X_PULSE_RUN", "HTTP_USER_AGENT", "REMOTE_ADDR", "HTTP_X_KEY"} <= replayed.keys()
    assert not guard.admits(environ_of(PATH) | replayed)
    assert not any(guard.admits(environ_of(PATH) | {name: value}) for name, value in replayed.items())
    assert not any(guard.admits(environ_of(PATH) | {name: str(value)}) for name, value in environ.items())


# What only Pulse may say


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("name", sorted(SCRUBBED))
def test_what_only_pulse_may_say_is_removed_from_outside_requests(name, on):
    environ = environ_of("/public") | {name: "x"}

    assert guard_of(on=on).admits(environ)
    assert name not in environ


def test_what_belongs_to_other_layers_stays():
    environ = environ_of("/public") | {"pulse.connection": 1, "pulse.cfg": 2, "pulse.session": 3, "pulse.info": 4}

    guard_of().admits(environ)

    assert [environ.get(f"pulse.{name}") for name in ("connection", "cfg", "session", "info")] == [1, 2, 3, None]


def test_the_internal_request_of_another_pulse_is_left_as_it_is():
    environ = environ_of(PATH) | dict.fromkeys(SCRUBBED, "x") | {INTERNAL: mark_of(), "HTTP_X_VHM_ROOT": PATH}
    before = dict(environ)

    assert guard_of().admits(environ)
    assert environ == before


def test_the_first_forgery_is_logged_and_further_ones_are_not(caplog):
    guard = guard_of()

    for _ in range(3):
        guard.admits(environ_of("/public") | {"HTTP_X_PULSE_TASK": "value-of-the-outsider", INTERNAL: "1"})

    [record] = [record for record in caplog.records if record.pulse_event == "scrubbed"]
    assert record.levelno == logging.WARNING
    assert "HTTP_X_PULSE_TASK, pulse.internal" in record.getMessage()
    assert "value-of-the-outsider" not in caplog.text


def test_an_ordinary_request_is_not_changed():
    environ = environ_of("/public", HTTP_X_FORWARDED_PREFIX="/app", HTTP_AUTHORIZATION="Bearer x")
    before = dict(environ)

    guard_of(token=TOKEN).admits(environ)

    assert environ == before


def test_a_guard_that_is_off_admits_guarded_paths():
    assert guard_of(on=False).admits(environ_of(PATH))
    assert guard_of(on=False, token=TOKEN).admits(environ_of(PATH))


# The answer


class Unreadable:
    def __getattr__(self, name):
        raise AssertionError(f"the body was read: {name}")


def refused(environ, **options):
    guard = guard_of(**options)
    assert not guard.admits(environ)
    return answer_of(lambda *call: guard.answer(hello, *call), environ)


def test_a_refusal_says_not_found_and_is_not_kept():
    status, headers, body = refused(environ_of(PATH))

    assert status == "404 Not Found"
    assert dict(headers)["Cache-Control"] == "no-store"
    assert dict(headers)["Content-Type"].startswith("text/plain")
    assert body == b"Not Found\n"


def test_all_refusals_are_alike():
    answers = [
        refused(environ_of(PATH)),
        refused(environ_of("/SESSIONS/cleanup/x")),
        refused(environ_of("/" + "%25" * 9000)),
        refused(environ_of("/x", HTTP_X_ORIGINAL_URL=PATH)),
        refused(environ_of(PATH, REQUEST_METHOD="POST", HTTP_ACCEPT="application/json")),
        refused(environ_of(PATH), token=TOKEN),
        refused(environ_of(PATH, HTTP_AUTHORIZATION="Bearer wrong"), token=TOKEN),
    ]

    assert all(answer == answers[0] for answer in answers)


def test_a_refusal_of_head_has_no_body():
    status, headers, body = refused(environ_of(PATH, REQUEST_METHOD="HEAD"))

    assert (status, dict(headers)["Content-Length"], body) == ("404 Not Found", "10", b"")


def test_the_body_of_a_refused_request_is_not_read():
    environ = environ_of(PATH, REQUEST_METHOD="POST", CONTENT_LENGTH="1000000") | {"wsgi.input": Unreadable()}

    status, _, _ = refused(environ)

    assert status == "404 Not Found"


def test_what_layers_outside_do_to_the_headers_of_a_refusal_stays_with_it():
    guard = guard_of()
    guard.refuse(environ_of(PATH), lambda _status, headers: headers.append(("X-Of-One-Request", "1")))

    _, headers, _ = answer_of(guard.refuse, environ_of(PATH))

    assert "X-Of-One-Request" not in dict(headers)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_refusal_keeps_the_rules_of_wsgi(method):
    status, _, _ = answer_of(validator(guard_of().refuse), environ_of(PATH, REQUEST_METHOD=method))

    assert status == "404 Not Found"


def test_refusals_are_counted_and_logged_quietly(caplog):
    caplog.set_level(logging.DEBUG)
    guard = guard_of()

    for _ in range(3):
        answer_of(guard.refuse, environ_of(PATH))

    assert guard.denied == 3
    assert [(record.pulse_event, record.levelname) for record in caplog.records] == [("denied", "DEBUG")] * 3


# Calls by hand


def by_hand(app, environ=None, *, on=True):
    guard = guard_of(on=on, token=TOKEN, clock=ManualClock(DUE))
    environ = environ or environ_of(PATH, HTTP_AUTHORIZATION=f"Bearer {TOKEN}")
    assert not guard.admits(environ)
    return answer_of(lambda *call: guard.answer(app, *call), environ)


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_the_token_lets_a_call_by_hand_pass_as_internal(on):
    seen = []

    @internal_only
    def endpoint(environ, start_response):
        mark = environ[INTERNAL]
        seen.append((is_internal(environ), mark.trigger, mark.task, mark.due, mark.path))
        return hello(environ, start_response)

    status, _, body = by_hand(endpoint, on=on)

    assert (status, body) == ("200 OK", b"hello")
    assert seen == [(True, Trigger.MANUAL, "", DUE, PATH)]


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
def test_the_token_goes_with_any_method_spelling_and_header(method):
    environ = environ_of(
        "/x", REQUEST_METHOD=method, HTTP_X_ORIGINAL_URL="/SESSIONS/cleanup", HTTP_AUTHORIZATION=f"bearer {TOKEN}"
    )

    status, _, _ = by_hand(hello, environ)

    assert status == "200 OK"


def test_the_token_is_shown_to_no_application():
    seen = []

    by_hand(lambda environ, start_response: seen.append(dict(environ)) or hello(environ, start_response))

    assert TOKEN not in str(seen)


def test_a_call_by_hand_is_internal_until_its_response_ends():
    inside = internal_only(lambda: True)
    environ = environ_of(PATH, HTTP_AUTHORIZATION=f"Bearer {TOKEN}")

    def endpoint(environ, start_response):
        start_response("200 OK", [])
        for _ in range(2):
            yield repr((is_internal(environ), inside())).encode()

    _, _, body = by_hand(endpoint, environ)

    assert body == b"(True, True)" * 2
    assert not is_internal(environ)
    with pytest.raises(NotInternalError):
        inside()


class Response:
    """A response that counts how often it is closed."""

    def __init__(self, *chunks):
        self.chunks = iter(chunks)
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.chunks)()

    def close(self):
        self.closed += 1


def begin_by_hand(app):
    guard = guard_of(token=TOKEN)
    environ = environ_of(PATH, HTTP_AUTHORIZATION=f"Bearer {TOKEN}")
    return environ, guard.answer(app, environ, lambda *_: None)


def test_between_two_chunks_of_a_call_by_hand_nobody_else_is_internal():
    inside = internal_only(lambda: b"x")
    _, chunks = begin_by_hand(lambda *_: Response(inside, inside))

    assert next(chunks) == b"x"
    with pytest.raises(NotInternalError):
        inside()
    assert next(chunks) == b"x"


def test_closing_the_response_of_a_call_by_hand_ends_it_once():
    response = Response(lambda: b"x", lambda: b"y")
    environ, chunks = begin_by_hand(lambda *_: response)
    next(chunks)
    assert is_internal(environ)

    chunks.close()
    chunks.close()

    assert response.closed == 1
    assert not is_internal(environ)


def test_an_error_in_the_response_of_a_call_by_hand_ends_it():
    environ, chunks = begin_by_hand(lambda *_: Response(lambda: 1 / 0))

    with pytest.raises(ZeroDivisionError):
        next(chunks)

    assert not is_internal(environ)


def test_an_error_in_the_application_ends_a_call_by_hand():
    guard = guard_of(token=TOKEN)
    environ = environ_of(PATH, HTTP_AUTHORIZATION=f"Bearer {TOKEN}")

    with pytest.raises(ZeroDivisionError):
        guard.answer(lambda *_: 1 / 0, environ, lambda *_: None)

    assert INTERNAL in environ
    assert not is_internal(environ)


def test_a_list_that_answers_a_call_by_hand_is_returned_untouched():
    body = [b"hello"]

    environ, chunks = begin_by_hand(lambda *_: body)

    assert chunks is body
    assert not is_internal(environ)


def test_a_call_by_hand_of_an_awaitable_application_is_internal_while_it_is_awaited():
    @internal_only
    async def endpoint(_environ, _start_response):
        return b"awaited"

    environ, coroutine = begin_by_hand(endpoint)

    assert is_internal(environ)
    assert finish(coroutine) == b"awaited"
    assert not is_internal(environ)


class AsyncResponse:
    """The same as `Response`, for `async for`."""

    def __init__(self, *chunks):
        self.chunks = iter(chunks)
        self.closed = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        for chunk in self.chunks:
            return chunk()
        raise StopAsyncIteration

    async def aclose(self):
        self.closed += 1


async def read(answer):
    """The pieces of an answer, whatever has to be awaited of it, each before the next one is asked for."""
    body = await settled(answer)
    if hasattr(body, "__aiter__"):
        return [await settled(piece) async for piece in body]
    return [await settled(piece) for piece in body]


async def settled(value):
    return await value if inspect.isawaitable(value) else value


def pieces_by_hand(inside):
    """Bodies of two pieces, each of which is made by *inside*."""

    async def piece():
        return inside()

    async def steps():
        yield inside()
        yield inside()

    return {
        "asynchronous": lambda: AsyncResponse(inside, inside),
        "generator": steps,
        "awaitable pieces": lambda: [piece(), piece()],
        "asynchronous, of awaitable pieces": lambda: AsyncResponse(piece, piece),
        "synchronous, of awaitable pieces": lambda: Response(piece, piece),
        "synchronous": lambda: Response(inside, inside),
    }


@pytest.mark.parametrize("kind", pieces_by_hand(None))
@pytest.mark.parametrize("is_awaited", [False, True], ids=["at once", "awaited"])
def test_a_call_by_hand_is_internal_until_an_asynchronous_response_ends(kind, is_awaited):
    inside = internal_only(lambda: b"x")
    body = pieces_by_hand(inside)[kind]

    async def endpoint(_environ, _start_response):
        return body()

    environ, answer = begin_by_hand(endpoint if is_awaited else lambda *_: body())

    assert is_internal(environ)
    assert finish(read(answer)) == [b"x", b"x"]
    with pytest.raises(NotInternalError):
        inside()
    assert not is_internal(environ)


def test_closing_the_asynchronous_response_of_a_call_by_hand_ends_it_once():
    response = AsyncResponse(lambda: b"x", lambda: b"y")
    environ, body = begin_by_hand(lambda *_: response)
    assert finish(anext(body)) == b"x"

    finish(body.aclose())
    finish(body.aclose())

    assert response.closed == 1
    assert not is_internal(environ)


def test_an_error_in_an_asynchronous_call_by_hand_ends_it():
    async def endpoint(_environ, _start_response):
        return 1 / 0

    for app, step in ((endpoint, lambda answer: answer), (lambda *_: AsyncResponse(lambda: 1 / 0), anext)):
        environ, answer = begin_by_hand(app)

        with pytest.raises(ZeroDivisionError):
            finish(step(answer))

        assert not is_internal(environ)


def test_what_is_no_response_is_left_to_the_server_to_complain_of():
    environ, answer = begin_by_hand(lambda *_: None)

    assert answer is None
    assert not is_internal(environ)


def test_a_call_by_hand_keeps_the_rules_of_wsgi():
    guard = guard_of(token=TOKEN)

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"hello"

    guarded = validator(lambda *call: guard.answer(validator(app), *call))
    status, _, body = answer_of(guarded, environ_of(PATH, HTTP_AUTHORIZATION=f"Bearer {TOKEN}"))
    gc.collect()  # the validators say so when they are thrown away unclosed

    assert (status, body) == ("200 OK", b"hello")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer  {TOKEN}",
        f"Bearer {TOKEN} ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN},Bearer {TOKEN}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        f"Bearer wrong,Bearer {TOKEN}",
        f"Bearer {TOKEN},",
        f"Bearer {TOKEN}\n",
        f"Bearer\t{TOKEN}",
        f"Bearer {TOKEN[:-1]}\xff",
        f"Bearer {TOKEN}\udcff",
        "Bearer None",
    ],
)
def test_any_other_authorization_is_refused(value):
    environ = environ_of(PATH, HTTP_AUTHORIZATION=value)

    status, _, _ = refused(environ, token=TOKEN)

    assert status == "404 Not Found"
    assert INTERNAL not in environ


@pytest.mark.parametrize(
    "keys",
    [
        {"QUERY_STRING": f"token={TOKEN}&authorization=Bearer {TOKEN}"},
        {"HTTP_COOKIE": f"token={TOKEN}; Authorization=Bearer {TOKEN}"},
        {"wsgi.input": io.BytesIO(TOKEN.encode()), "CONTENT_LENGTH": str(len(TOKEN))},
        {"HTTP_X_AUTHORIZATION": f"Bearer {TOKEN}"},
        {"HTTP_PROXY_AUTHORIZATION": f"Bearer {TOKEN}"},
        {"HTTP_X_PULSE_TOKEN": TOKEN},
        {"REMOTE_ADDR": "127.0.0.1", "REMOTE_USER": TOKEN},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_the_token_counts_nowhere_but_in_the_authorization(keys):
    status, _, _ = refused(environ_of(PATH, **keys), token=TOKEN)

    assert status == "404 Not Found"


def test_without_a_token_no_authorization_opens_the_guard():
    for value in ("Bearer ", "Bearer None", "Bearer", f"Bearer {TOKEN}"):
        status, _, _ = refused(environ_of(PATH, HTTP_AUTHORIZATION=value))

        assert status == "404 Not Found"


def test_a_wrong_token_is_no_matter_while_the_guard_is_off():
    environ = environ_of(PATH, HTTP_AUTHORIZATION="Basic of-the-application")

    assert guard_of(on=False, token=TOKEN).admits(environ)
    assert environ["HTTP_AUTHORIZATION"] == "Basic of-the-application"


def test_the_token_of_pulse_makes_nothing_of_other_paths():
    environ = environ_of("/sessions/login", HTTP_AUTHORIZATION=f"Bearer {TOKEN}")

    assert guard_of(token=TOKEN).admits(environ)
    assert INTERNAL not in environ


def fail(guard, times):
    for _ in range(times):
        guard.answer(hello, environ_of(PATH, HTTP_AUTHORIZATION="Bearer of-an-outsider"), lambda *_: None)


def warnings_in(caplog):
    return [record for record in caplog.records if getattr(record, "pulse_event", "") == "token_refused"]


def test_five_wrong_tokens_within_a_minute_are_a_warning(caplog):
    clock = ManualClock()
    guard = guard_of(token=TOKEN, clock=clock)

    fail(guard, 4)
    clock.advance(59)
    assert not warnings_in(caplog)
    fail(guard, 1)

    [record] = warnings_in(caplog)
    assert record.levelno == logging.WARNING
    assert guard.token_failures == 5
    assert "of-an-outsider" not in caplog.text
    assert TOKEN not in caplog.text


def test_the_warning_of_wrong_tokens_comes_once_a_minute(caplog):
    clock = ManualClock()
    guard = guard_of(token=TOKEN, clock=clock)

    fail(guard, 50)
    assert len(warnings_in(caplog)) == 1
    clock.advance(61)
    fail(guard, 50)

    assert len(warnings_in(caplog)) == 2


def test_slow_failures_are_no_warning(caplog):
    clock = ManualClock()
    guard = guard_of(token=TOKEN, clock=clock)

    for _ in range(20):
        fail(guard, 1)
        clock.advance(16)

    assert not warnings_in(caplog)
    assert guard.token_failures == 20


def test_a_refusal_without_authorization_is_no_failure_of_the_token():
    guard = guard_of(token=TOKEN)

    guard.answer(hello, environ_of(PATH), lambda *_: None)

    assert (guard.denied, guard.token_failures) == (1, 0)


@pytest.mark.parametrize("value", ["Basic bWFyYTpwdw==", "Digest x", "Negotiate", ""])
def test_what_a_browser_sends_for_the_application_is_no_failure_of_the_token(caplog, value):
    guard = guard_of(token=TOKEN)

    for _ in range(5):
        assert guard.by_hand(environ_of(PATH, HTTP_AUTHORIZATION=value)) is None

    assert guard.token_failures == 0
    assert not warnings_in(caplog)


# The second line, in the endpoint


def test_an_endpoint_with_any_arguments_is_for_runs_only():
    @internal_only
    def view(request, *, number):
        return request, number

    with acting_for(mark_of()):
        assert view("request", number=1) == ("request", 1)
    with pytest.raises(NotInternalError, match="view is for internal requests") as error:
        view("request", number=1)
    assert isinstance(error.value, PermissionError)
    assert isinstance(error.value, PulseError)
    assert error.value.endpoint.endswith("view")


def test_arguments_that_only_look_like_those_of_wsgi_are_none():
    view = internal_only(lambda *_: None)

    for arguments in ({}, print), ({"REQUEST_METHOD": "GET"}, "no callable"), ({"REQUEST_METHOD": "GET"},):
        with pytest.raises(NotInternalError):
            view(*arguments)


def test_a_method_is_for_runs_only():
    class View:
        @internal_only
        def get(self):
            return self

        @internal_only
        def __call__(self, environ, start_response):
            return hello(environ, start_response)

    view = View()
    with acting_for(mark_of()):
        assert view.get() is view
        assert answer_of(view, environ_of(PATH))[0] == "200 OK"
    with pytest.raises(NotInternalError):
        view.get()
    assert answer_of(view, environ_of(PATH)) == refused(environ_of(PATH))


def test_an_outsider_of_a_wsgi_application_gets_the_404_of_the_guard():
    app = internal_only(hello)

    assert answer_of(app, environ_of("/")) == refused(environ_of(PATH))


def test_a_forged_environ_is_that_of_an_outsider():
    status, _, _ = answer_of(internal_only(hello), environ_of(PATH) | {INTERNAL: "1"})

    assert status == "404 Not Found"


def test_the_environ_of_a_wsgi_application_is_proof_enough():
    inner = internal_only(lambda: b"inner")

    @internal_only
    def app(environ, start_response):
        start_response("200 OK", [])
        return [inner()]

    status, _, body = answer_of(app, environ_of(PATH) | {INTERNAL: mark_of()})

    assert (status, body) == ("200 OK", b"inner")


def test_otherwise_answers_outsiders_with_the_same_arguments():
    @internal_only(otherwise=lambda *args, **kwargs: ("turned away", args, kwargs))
    def view(*_args, **_kwargs):
        return "inside"

    with acting_for(mark_of()):
        assert view(1, a=2) == "inside"
    assert view(1, a=2) == ("turned away", (1,), {"a": 2})


def test_a_coroutine_function_is_judged_when_it_is_awaited():
    @internal_only
    async def view(number):
        return number

    mark = mark_of()
    with acting_for(mark):
        assert finish(view(1)) == 1
        late = view(2)

    assert inspect.iscoroutinefunction(view)
    with pytest.raises(NotInternalError):
        late.send(None)


def test_otherwise_of_a_coroutine_function_may_be_one():
    async def turned_away(number):
        return -number

    async def view(number):
        return number

    assert finish(internal_only(otherwise=turned_away)(view)(1)) == -1
    assert finish(internal_only(otherwise=lambda number: -number)(view)(1)) == -1


def test_an_outsider_of_an_asynchronous_handler_gets_the_404_of_the_guard():
    @internal_only
    async def handler(_environ, _start_response):
        raise AssertionError

    status, _, body = answer_of(lambda *call: finish(handler(*call)), environ_of(PATH))

    assert (status, body) == ("404 Not Found", b"Not Found\n")


def test_a_generator_function_is_judged_when_it_is_called():
    ran = []

    @internal_only
    def view():
        ran.append(1)
        yield 1

    with pytest.raises(NotInternalError):
        view()

    assert not ran


def test_a_generator_keeps_its_mark_wherever_it_is_read():
    inside = internal_only(lambda: True)
    finished = []

    @internal_only
    def view():
        try:
            sent = yield inside()
            yield sent, inside()
        finally:
            finished.append(inside())

    mark = mark_of()
    environ = {INTERNAL: mark, "REQUEST_METHOD": "GET"}
    with acting_for(mark):
        steps = view()
    mark.live = True  # the run still lasts, and another thread reads its response
    first, second = next(steps), steps.send("x")
    steps.close()

    assert (first, second) == (True, ("x", True))
    assert finished == [True]
    assert is_internal(environ)
    with pytest.raises(NotInternalError):
        inside()


def test_a_wsgi_application_that_is_a_generator_function_is_for_runs_only():
    @internal_only
    def app(_environ, start_response):
        start_response("200 OK", [])
        yield b"x"

    assert answer_of(app, environ_of(PATH) | {INTERNAL: mark_of()})[2] == b"x"
    assert answer_of(app, environ_of(PATH))[0] == "404 Not Found"


def test_an_asynchronous_generator_function_is_judged_when_it_is_called():
    @internal_only
    async def chunks():
        yield b"x"

    with acting_for(mark_of()):
        assert inspect.isasyncgen(chunks())
    with pytest.raises(NotInternalError):
        chunks()


def test_a_decorated_endpoint_keeps_its_name_and_signature():
    def view(request: str, *, number: int = 1) -> bytes:
        """What it does."""

    decorated = internal_only(view)

    assert (decorated.__name__, decorated.__doc__) == ("view", "What it does.")
    assert inspect.signature(decorated) == inspect.signature(view)


def test_a_framework_that_counts_arguments_below_no_decorator_counts_those_of_the_endpoint():
    async def coroutine(request):
        return request

    class Views:
        @internal_only
        def sweep(self, request):
            return request

    counted = [internal_only(lambda request: request), internal_only(coroutine), Views.sweep, Views().sweep]

    # It does not follow `__wrapped__`: Pyramid finds out in this way how a view is to be called.
    assert [inspect.getfullargspec(view).args for view in counted] == [
        ["request"], ["request"], ["self", "request"], ["self", "request"],
    ]  # fmt: skip
    assert list(inspect.signature(Views().sweep).parameters) == ["request"]


def test_annotations_that_are_text_are_evaluated_where_they_can_be():
    def view(number: "int") -> "Mark":
        return number, Mark

    def typed(request: "OnlyTypeCheckersKnow", number: "int") -> None:  # noqa: F821
        return request, number

    assert inspect.signature(internal_only(view), eval_str=True) == inspect.signature(view, eval_str=True)
    assert inspect.signature(internal_only(typed)) == inspect.signature(typed)
    assert inspect.getfullargspec(internal_only(typed)).args == ["request", "number"]


def test_the_arguments_of_a_decorator_that_passes_on_others_are_not_hidden():
    def view(request):
        return request

    @wraps(view)
    def adapted(context, request):
        return view(request)

    decorated = internal_only(adapted)

    # With `request` alone Pyramid would give one argument to `adapted`.
    assert inspect.getfullargspec(decorated).args != ["request"]
    assert inspect.signature(decorated) == inspect.signature(view)
    with acting_for(mark_of()):
        assert decorated(None, "x") == "x"


def test_what_has_no_signature_is_decorated_even_so():
    decorated = internal_only(min)  # that of a builtin is nowhere written down

    with acting_for(mark_of()):
        assert decorated(2, 1) == 1


@pytest.mark.parametrize("arguments", ["request", "context, request"])
def test_pyramid_calls_a_view_with_the_arguments_that_it_takes(arguments):
    pyramid = pytest.importorskip("pyramid.config")
    response = pytest.importorskip("pyramid.response").Response
    view = eval(f"lambda {arguments}: response(request.path)", {"response": response})
    config = pyramid.Configurator()
    config.add_route("sweep", PATH)
    config.add_view(internal_only(view), route_name="sweep")
    app = config.make_wsgi_app()

    with acting_for(mark_of()):
        assert answer_of(app, environ_of(PATH))[2] == PATH.encode()


def test_an_application_object_is_for_runs_only():
    class App:
        def __call__(self, environ, start_response):
            return hello(environ, start_response)

    app = internal_only(App())

    assert answer_of(app, environ_of(PATH))[0] == "404 Not Found"
    with pytest.raises(NotInternalError, match="App"):
        app()


def test_a_run_inside_a_run_leaves_the_outer_one_as_it_was():
    inside = internal_only(lambda: True)
    outer, inner = mark_of(), mark_of()

    with acting_for(outer):
        with acting_for(inner):
            assert inside()
        assert inside()

    assert not outer.live
    assert not inner.live


def test_a_nested_outside_request_does_not_pass_the_guard_because_of_the_run_around_it():
    with acting_for(mark_of()):
        assert not guard_of().admits(environ_of(PATH))


@pytest.mark.parametrize("hook", ["on_success", "on_failure", "on_missed", "on_timeout"])
def test_the_paths_of_hooks_are_guarded_too(hook):
    task = Task(name="cleanup", action=PATH, **{hook: "/alerts/pulse?from=pulse"})
    guard = Guard(Config(guard=True, tasks={"cleanup": task}))

    assert guard.admits({"PATH_INFO": "/alerts/pulse"}) is False
    assert guard.admits({"PATH_INFO": "/alerts//pulse/"}) is False
    assert guard.admits({"PATH_INFO": "/alerts"}) is True


def test_a_function_that_is_told_is_no_path():
    task = Task(name="cleanup", action=PATH, on_failure="some.module:function")

    assert task.hook_paths == ()
