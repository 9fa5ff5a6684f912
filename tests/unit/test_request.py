"""One request, the same whichever door it came by."""

import io
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from pulse.control import Control
from pulse.model import Config, Run, Task
from pulse.request import InternalRequest, PulseRequest, shared_environ


def test_a_request_is_empty_unless_told_otherwise():
    request = PulseRequest()

    assert (request.headers, request.cookies) == ({}, {})
    assert (request.scheme, request.method, request.path, request.query_string) == ("", "", "", "")
    assert (request.client, request.auth, request.raw, request.url) == (None, None, None, "")


def test_a_request_takes_keywords_only():
    with pytest.raises(TypeError):
        PulseRequest({})


def test_header_names_are_lower_case_and_mappings_are_copied():
    headers, cookies = {"X-Name": "Value"}, {"Key": "Value"}

    request = PulseRequest(headers=headers, cookies=cookies)
    headers["X-Other"] = cookies["other"] = "late"

    assert (request.headers, request.cookies) == ({"x-name": "Value"}, {"Key": "Value"})


@pytest.mark.parametrize(
    ("facts", "url"),
    [
        ({"scheme": "https", "path": "/a", "query_string": "b=c"}, "https://example.org:8080/a?b=c"),
        ({"scheme": "https", "path": "/a"}, "https://example.org:8080/a"),
        ({"path": "/a", "query_string": ""}, "http://example.org:8080/a"),
        ({}, "http://example.org:8080"),
        ({"path": "a b/ü?#%"}, "http://example.org:8080/a%20b/%C3%BC%3F%23%25"),
        ({"scheme": "wss", "path": "/ws/~x;v=1"}, "wss://example.org:8080/ws/~x;v=1"),
    ],
)
def test_the_url_is_put_together_with_the_host_header(facts, url):
    assert PulseRequest(headers={"HOST": "example.org:8080"}, **facts).url == url


def test_without_a_host_the_url_is_path_and_query():
    assert PulseRequest(scheme="https", path="/a", query_string="b=c").url == "/a?b=c"
    assert PulseRequest(path="/a").url == "/a"


ENVIRON = {
    "REQUEST_METHOD": "POST", "SCRIPT_NAME": "/app", "PATH_INFO": "/p\xc3\xa4ge", "QUERY_STRING": "a=%20",
    "CONTENT_TYPE": "text/plain", "CONTENT_LENGTH": "", "HTTP_HOST": "example.org", "HTTP_X_NAME": "Value",
    "HTTP_COOKIE": "a=1; b=2", "REMOTE_ADDR": "10.0.0.7", "REMOTE_PORT": "4711", "wsgi.url_scheme": "https",
    "wsgi.input": io.BytesIO(),
}  # fmt: skip


def test_a_request_is_made_from_an_environ():
    request = PulseRequest.from_environ(ENVIRON)

    assert request.headers == {
        "content-type": "text/plain", "host": "example.org", "x-name": "Value", "cookie": "a=1; b=2",
    }  # fmt: skip
    assert request.cookies == {"a": "1", "b": "2"}
    assert (request.scheme, request.method, request.query_string) == ("https", "POST", "a=%20")
    assert (request.path, request.client, request.raw) == ("/app/päge", ("10.0.0.7", 4711), ENVIRON)
    assert request.url == "https://example.org/app/p%C3%A4ge?a=%20"


@pytest.mark.parametrize(
    ("environ", "client"),
    [
        ({"REMOTE_ADDR": "10.0.0.7"}, ("10.0.0.7", 0)),
        ({"REMOTE_ADDR": "10.0.0.7", "REMOTE_PORT": "x"}, ("10.0.0.7", 0)),
        ({"REMOTE_ADDR": "::1", "REMOTE_PORT": 80}, ("::1", 80)),
        ({"REMOTE_ADDR": ""}, None),
        ({}, None),
    ],
)
def test_the_client_of_an_environ_may_lack_its_port(environ, client):
    assert PulseRequest.from_environ(environ).client == client


def test_a_path_that_no_server_would_make_is_taken_as_it_is():
    assert PulseRequest.from_environ({"PATH_INFO": "/日"}).path == "/日"
    assert PulseRequest.from_environ({"PATH_INFO": "/\xff"}).path == "/\ufffd"


def scope_of(**more) -> dict:
    return {
        "type": "http", "method": "PUT", "scheme": "https", "path": "/päge", "raw_path": b"/p%C3%A4ge",
        "query_string": b"a=%20", "root_path": "", "http_version": "1.1", "server": ("example.org", 443),
        "client": ("10.0.0.7", 4711),
        "headers": [(b"host", b"example.org"), (b"X-Name", b"Value"), (b"cookie", b"a=1"), (b"cookie", b"b=2")],
        **more,
    }  # fmt: skip


def test_a_request_is_made_from_one_of_starlette():
    raw = Request(scope_of(headers=[(b"host", b"example.org"), (b"x-name", b"Value"), (b"cookie", b"a=1; b=2")]))

    request = PulseRequest.from_fastapi(raw)

    assert request.raw is raw
    assert (request.headers, request.cookies) == (dict(raw.headers), raw.cookies)
    assert (request.scheme, request.method) == (raw.url.scheme, raw.method)
    assert (request.path, request.query_string) == (raw.url.path, raw.url.query)
    assert (request.client, request.auth) == (("10.0.0.7", 4711), None)


def test_a_starlette_request_without_a_client_has_none():
    assert PulseRequest.from_fastapi(HTTPConnection(scope_of(client=None))).client is None


def test_a_websocket_is_a_request_too():
    socket = WebSocket(scope_of(type="websocket", scheme="wss"), receive=None, send=None)

    request = PulseRequest.from_fastapi(socket)

    assert (request.scheme, request.raw) == ("wss", socket)


def test_the_headers_of_a_scope_are_joined_when_they_are_repeated():
    request = PulseRequest.from_scope(scope_of())

    assert request.headers == {"host": "example.org", "x-name": "Value", "cookie": "a=1; b=2"}
    assert request.cookies == {"a": "1", "b": "2"}
    repeated = PulseRequest.from_scope(scope_of(headers=[(b"accept", b"a"), (b"Accept", b"b")]))
    assert repeated.headers == {"accept": "a, b"}


@pytest.mark.parametrize(("root", "path"), [("/app", "/app/x"), ("/app", "/x"), ("/app/", "/app/x"), ("", "/app/x")])
def test_a_mounted_application_is_told_the_whole_path(root, path):
    assert PulseRequest.from_scope(scope_of(root_path=root, path=path)).path == "/app/x"


def test_a_scope_may_lack_what_is_optional():
    request = PulseRequest.from_scope({"type": "websocket", "path": "/"})

    assert (request.scheme, request.method, request.query_string, request.headers) == ("ws", "GET", "", {})


def test_a_socketio_environ_is_that_of_wsgi_or_holds_a_scope():
    of_wsgi, of_asgi = dict(ENVIRON), {"asgi.scope": scope_of(), "REQUEST_METHOD": "GET"}

    one = PulseRequest.from_socketio_environ(of_wsgi, {"token": "x"})
    two = PulseRequest.from_socketio_environ(of_asgi, None)

    assert (one.auth, one.path, one.raw is of_wsgi) == ({"token": "x"}, "/app/päge", True)
    assert (two.auth, two.path, two.raw is of_asgi) == (None, "/päge", True)
    assert two.client == ("10.0.0.7", 4711)


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        ("a=1; b[x]=2; c=3", {"a": "1", "b[x]": "2", "c": "3"}),
        ("a=1;b;c=3", {"a": "1", "c": "3"}),
        ("=x; ;a=; c=3", {"a": "", "c": "3"}),
        ('a="x y"; b="\\"\\303"; c="', {"a": "x y", "b": '"\xc3', "c": '"'}),
        ('a={"k": 1}; b=x=y', {"a": '{"k": 1}', "b": "x=y"}),
        ("a=1; a=2", {"a": "2"}),
        ("\xff=\xfe;c=3", {"\xff": "\xfe", "c": "3"}),
        ("", {}),
    ],
)
def test_a_malformed_cookie_harms_no_other(header, cookies):
    assert PulseRequest.from_environ({"HTTP_COOKIE": header}).cookies == cookies
    scope = scope_of(headers=[(b"cookie", header.encode("latin-1"))])
    assert PulseRequest.from_scope(scope).cookies == cookies


def test_what_stands_in_logs_tells_no_secret():
    shown = repr(PulseRequest.from_environ(ENVIRON))

    assert shown == "<PulseRequest POST /app/päge>"


def test_what_stands_in_for_a_starlette_request_is_read_by_its_parts():
    url = SimpleNamespace(scheme="https", path="/x", query="a=1")
    client = SimpleNamespace(host="192.0.2.1", port=5)
    raw = SimpleNamespace(headers={"Host": "h"}, cookies={"k": "v"}, method="PUT", url=url, client=client)

    request = PulseRequest.from_fastapi(raw)

    assert (request.scheme, request.method, request.path, request.query_string) == ("https", "PUT", "/x", "a=1")
    assert (request.headers, request.cookies, request.client) == ({"host": "h"}, {"k": "v"}, ("192.0.2.1", 5))
    assert request.raw is raw


# The requests that Pulse sends


@pytest.mark.parametrize(
    "due",
    [
        datetime(2027, 5, 1, 12, tzinfo=UTC),
        datetime(2027, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2027, 5, 1, 12, 0, 0, 250, tzinfo=UTC),
        datetime(999, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2027, 5, 1, 12, tzinfo=timezone(timedelta(hours=2), "UTC")),
        datetime(2027, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))),  # the same instant as the first one
        datetime(2027, 5, 1, 12, tzinfo=ZoneInfo("Asia/Kathmandu")),
    ],
    ids=str,
)
def test_a_run_is_told_its_due_instant_in_iso_format(due):
    task = Task(name="sweep", action="/sweep")
    run = Run(id="ab" * 16, task="sweep", due=due)

    environ = InternalRequest(task, shared_environ(Config())).environ(run, None, io.StringIO(), Control())

    assert environ["HTTP_X_PULSE_DUE"] == due.isoformat()


def test_each_run_has_an_environ_of_its_own():
    request = InternalRequest(Task(name="sweep", action="/sweep"), shared_environ(Config()))
    run = Run(id="ab" * 16, task="sweep", due=datetime(2027, 5, 1, 12, tzinfo=UTC))

    first, second = (request.environ(run, None, io.StringIO(), Control()) for _ in range(2))
    first["pulse.info"].clear()
    first.clear()

    assert second["PATH_INFO"] == "/sweep"
    assert second["pulse.info"]["task"] == "sweep"
    assert request.environ(run, None, io.StringIO(), Control()).keys() == second.keys()


def test_no_task_has_anything_in_its_environ_from_another_one():
    shared = shared_environ(Config())
    wordy = Task(
        name="wordy",
        action="/m%C3%BCll?deep=1",
        method="POST",
        body=b"{}",
        content_type="application/json",
        headers=(("X-Key", "k"), ("User-Agent", "mine")),
        environ=(("USER", "cron"),),
    )
    run = Run(id="ab" * 16, task="sweep", due=datetime(2027, 5, 1, 12, tzinfo=UTC))

    first = InternalRequest(wordy, shared).environ(run, None, io.StringIO(), Control())
    second = InternalRequest(Task(name="plain", action="/plain"), shared).environ(run, None, io.StringIO(), Control())

    told = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "CONTENT_LENGTH", "HTTP_X_PULSE_TASK")
    assert [first[key] for key in told] == ["POST", "/mÃ¼ll", "deep=1", "2", "wordy"]
    assert [second[key] for key in told] == ["GET", "/plain", "", "0", "plain"]
    assert (first["HTTP_X_KEY"], first["HTTP_USER_AGENT"], first["USER"]) == ("k", "mine", "cron")
    assert first["CONTENT_TYPE"] == "application/json"
    assert {"CONTENT_TYPE", "HTTP_X_KEY", "USER"}.isdisjoint(second)
    assert second["HTTP_USER_AGENT"] == shared["HTTP_USER_AGENT"] != "mine"


@pytest.mark.parametrize(("name", "sent"), [("sweep", b"sweep"), ("fête", b"f\xc3\xaate"), ("łódź", "łódź".encode())])
def test_what_is_not_ascii_stands_in_a_header_as_its_bytes(name, sent):
    run = Run(id="ab" * 16, task=name, due=datetime(2027, 5, 1, 12, tzinfo=UTC))
    task = Task(name=name, action="/sweep", environ={"HTTP_X_OWNER": name, "owner": name})
    request = InternalRequest(task, shared_environ(Config()))

    environ = request.environ(run, None, io.StringIO(), Control())

    assert environ["HTTP_X_PULSE_TASK"].encode("latin-1") == sent
    assert environ["HTTP_X_OWNER"].encode("latin-1") == sent
    assert environ["owner"] == environ["pulse.info"]["task"] == name


@pytest.mark.parametrize("action", ["/jobs/müll", "/jobs/m%C3%BCll"])
def test_a_path_stands_in_the_environ_as_its_bytes(action):
    run = Run(id="ab" * 16, task="sweep", due=datetime(2027, 5, 1, 12, tzinfo=UTC))
    request = InternalRequest(Task(name="sweep", action=action), shared_environ(Config()))

    environ = request.environ(run, None, io.StringIO(), Control())

    assert environ["PATH_INFO"] == environ["pulse.info"]["context"] == "/jobs/mÃ¼ll"
