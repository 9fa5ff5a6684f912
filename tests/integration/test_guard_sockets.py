import socket

import pytest
from guard_app import PATH, ROUTERS, TOKEN, guard, reached
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import PATIENCE, gunicorn, program, waitress

GUARDED = {
    "waitress": lambda: waitress("guard_app:guarded"),
    "gunicorn": lambda: gunicorn("guard_app:guarded"),
    "gunicorn with threads": lambda: gunicorn("guard_app:guarded", "-k", "gthread", "--threads", "4"),
    "wsgiref": lambda: program("-m", "guard_app", "guarded"),
}

SPELLINGS = [
    b"/sessions/cleanup",
    b"/sessions/cleanup/",
    b"/sessions/cleanup?x=1",
    b"/sessions/cleanup/extra",
    b"//sessions/cleanup",
    b"/sessions//cleanup",
    b"///sessions///cleanup///",
    b"/./sessions/./cleanup",
    b"/x/../sessions/cleanup",
    b"/sessions/x/../cleanup",
    b"/../sessions/cleanup",
    b"/sessions/cleanup/../cleanup",
    b"/a%2Fb/../sessions/cleanup",
    b"/a%252Fb/../sessions%252Fcleanup",
    b"/%2e/sessions/cleanup",
    b"/x/%2e%2e/sessions/cleanup",
    b"/x/%252e%252e/sessions/cleanup",
    b"/x%2f..%2fsessions/cleanup",
    b"/sessions/cleanup;v=1",
    b"/sessions;v=1/cleanup",
    b"/sessions/cleanup;/x",
    b"/x/..;/sessions/cleanup",
    b"/SESSIONS/CLEANUP",
    b"/Sessions/cleanup",
    b"/sessions/%63leanup",
    b"/%73%65%73%73%69%6f%6e%73/%63%6c%65%61%6e%75%70",
    b"/sessions%2Fcleanup",
    b"/sessions%252Fcleanup",
    b"/sessions%25252Fcleanup",
    b"/sessions/%2563leanup",
    b"/sessions\\cleanup",
    b"/sessions%5Ccleanup",
    b"/sessions/cleanup%00",
    b"/sessions/cleanup%00.html",
    b"/sessions/clean%00up",
    b"/sessions/cleanup%0a",
    b"/sessions/cleanup%0d%0aX:%20y",
    b"/sessions/clean%09up",
    b"/sessions/cleanup%20",
    b"/%20sessions/cleanup",
    b"/sessions/cleanup%C2%A0",
    b"/sessions/clean%E2%80%8Bup",
    b"/sessions/clean%C2%ADup",
    b"/%EF%BB%BFsessions/cleanup",
    "/ｓｅｓｓｉｏｎｓ/cleanup".encode(),  # noqa: RUF001 - the attack
    b"/%EF%BD%93essions/cleanup",
    b"/sessions%EF%BC%8Fcleanup",
    b"/%C5%BFessions/cleanup",
    b"/sess%C4%B1ons/cleanup",
    b"/SESS%C4%B0ONS/cleanup",
    b"/sessions/clean%C2%A0up",
    b"/sessions/clean%ffup",
    b"/sessions/clean\xffup",
    b"/sessions/cl%C3%A9anup",
    b"/sessions/clea%25c1%25a3nup",
    b"/sessions%c0%afcleanup",
    b"/sessions\xc0\xafcleanup",
    b"/sessions/@@cleanup",
    b"/sessions/cleanup.json",
    b"/sessions/cleanup.html?x",
    b"/sessions/cleanup%3Fx",
    b"/sessions/cleanup%23x",
    b"/sessions/cleanup#x",
    b"http://example.org/sessions/cleanup",
    b"HTTP://example.org:80/sessions/cleanup?x",
    b"https://user@example.org/sessions/cleanup",
    b"http:///sessions/cleanup",
    b"http:/sessions/cleanup",
    b"ftp://example.org/sessions/cleanup",
    b"//example.org/sessions/cleanup",
    b"/%2Fexample.org/sessions/cleanup",
    b"/x/..//../sessions/cleanup",
    b"/" + b"../" * 100 + b"sessions/cleanup",
    b"/" + b"./" * 1000 + b"sessions/cleanup",
    b"/%25" + b"25" * 20 + b"2e/sessions/cleanup",
]

NEIGHBOURS = [
    b"/",
    b"/?next=/sessions/cleanup",
    b"/sessions",
    b"/sessions/",
    b"/sessions/login",
    b"/sessions/other?x=/sessions/cleanup",
    b"/sessions/cleanup2",
    b"/sessions/cleanup-old",
    b"/public/sessions/cleanup",
    b"/public%2Fsessions%2Fcleanup",
    b"/cleanup",
    b"/b%C3%BCcher/%E2%82%AC",
    b"/s%C3%A9ssions",
    b"/static/../img/x.png",
    b"http://example.org/sessions/login",
    b"/" + b"x/" * 1000,
]

HEADERS = [
    (b"/cleanup", b"Host: example.org/sessions"),
    (b"/x", b"Host: example.org/sessions/cleanup?"),
    (b"/x", b"X-Original-URL: /sessions/cleanup"),
    (b"/x", b"X-Rewrite-URL: /SESSIONS/%63leanup?x"),
    (b"/x", b"X-Original-URL: http://example.org/sessions/cleanup"),
    (b"/x", b"X-Original-URL: /x\r\nX-Original-URL: /sessions/cleanup"),
    (b"/cleanup", b"X-Vhm-Root: /sessions"),
    (b"/cleanup", b"X-Script-Name: /sessions"),
    (b"/cleanup", b"X-Forwarded-Prefix: /sessions"),
    (b"/app/sessions/cleanup", b"X-Script-Name: /app"),
    (b"/appsessions/cleanup", b"X-Script-Name: /app"),
    (b"/sessions/cleanup", b"SCRIPT_NAME: /sessions"),
    (b"/app/sessions/cleanup", b"SCRIPT_NAME: /app"),
    (b"/x", b"SCRIPT_NAME: /sessions\r\nPATH_INFO: /cleanup"),
    (b"/x", b"PATH_INFO: /sessions/cleanup"),
    (b"/x", b"Script-Name: /sessions\r\nPath-Info: /cleanup"),
    (PATH.encode(), b"pulse.internal: 1"),
    (PATH.encode(), b"Pulse-Internal: true"),
    (PATH.encode(), b"X-Pulse-Internal: 1"),
    (PATH.encode(), b"X-Pulse-Task: cleanup\r\nX-Pulse-Trigger: schedule\r\nUser-Agent: Pulse/1.0.0"),
    (PATH.encode(), b"X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Real-IP: 127.0.0.1"),
    (PATH.encode(), b"X-HTTP-Method-Override: OPTIONS"),
    (PATH.encode(), b"Connection: Upgrade\r\nUpgrade: websocket"),
    (PATH.encode(), b"Authorization: Bearer"),
    (PATH.encode(), b"Authorization: Bearer wrong-token-of-24-chars!!"),
    (PATH.encode(), f"Authorization: Basic {TOKEN}".encode()),
    (PATH.encode(), f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}".encode()),
    (PATH.encode(), f"Authorization: Bearer wrong\r\nAuthorization: Bearer {TOKEN}".encode()),
    (f"{PATH}?token={TOKEN}".encode(), f"Cookie: token={TOKEN}".encode()),
]

METHODS = [b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND", b"get", b"XYZZY"]


@pytest.fixture(scope="module", params=GUARDED)
def port(request):
    with GUARDED[request.param]() as server:
        yield server.port


def ask(port, target, header=b"", *, method=b"GET", body=b""):
    """Status and the rest of what a server answers to these very bytes; 0 if it hangs up."""
    head = [b"%s %s HTTP/1.1" % (method, target), b"Host: example.org", b"Content-Length: %d" % len(body)]
    if b"Connection" not in header:
        head.append(b"Connection: close")
    request = b"\r\n".join([*head, header] if header else head) + b"\r\n\r\n" + body
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        answer = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionError:  # refused before all of it was read
            pass
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
    return status, answer.partition(b"\r\n\r\n")[2]


def test_no_spelling_reaches_the_guarded_endpoint(port):
    answers = {target: ask(port, target) for target in SPELLINGS}

    assert {target: answer for target, answer in answers.items() if b"ran" in answer[1]} == {}
    # A server may have read a target in its own way, or refused it: never as the endpoint.
    assert sum(status == 404 for status, _ in answers.values()) >= len(SPELLINGS) * 3 // 4


def test_no_header_reaches_the_guarded_endpoint(port):
    answers = [(target, header, ask(port, target, header)) for target, header in HEADERS]

    assert [answer for answer in answers if b"ran" in answer[2][1] or b"internal" in answer[2][1]] == []


def test_no_method_reaches_the_guarded_endpoint(port):
    answers = {method: ask(port, PATH.encode(), method=method, body=b"x" * 100) for method in METHODS}

    assert {method: answer for method, answer in answers.items() if b"ran" in answer[1]} == {}
    assert answers[b"HEAD"] == (404, b"")
    assert answers[b"POST"][0] == 404


def test_neighbours_are_served(port):
    answers = {target: ask(port, target) for target in NEIGHBOURS}

    assert {target: answer for target, answer in answers.items() if answer[0] != 200 or b"open" not in answer[1]} == {}


def test_the_token_lets_a_call_by_hand_pass(port):
    status, body = ask(port, PATH.encode(), f"Authorization: Bearer {TOKEN}".encode(), method=b"POST", body=b"x")

    assert status == 200
    assert b"internal" in body


def test_without_the_guard_every_router_is_reached():
    ran = set()

    with program("-m", "guard_app", "unguarded") as server:
        for target, header in [*((target, b"") for target in SPELLINGS[1:]), *HEADERS[:11]]:
            _, body = ask(server.port, target, header)
            ran |= set(body.decode().removeprefix("ran: ").split("|"))

    # What only a prefix in front of the application would show is told by gunicorn below.
    assert ran >= ROUTERS.keys() - {"below the script name", "raw, below the script name"}


def test_without_the_guard_gunicorn_moves_the_path_where_a_header_says():
    with gunicorn("guard_app:unguarded") as server:
        _, joined = ask(server.port, b"/sessions/cleanup", b"SCRIPT_NAME: /sessions")
        _, below = ask(server.port, b"/app/sessions/cleanup", b"SCRIPT_NAME: /app")

    assert b"below the script name" in joined
    assert b"raw, below the script name" in below


PIECES = [
    *("/", "//", "sessions", "cleanup", "Cleanup", "..", ".", "\\", ";", "?", "#", ":", "@@", ".json", " ", "\0", "\n"),
    *("%2e", "%2f", "%252f", "%5c", "%73essions", "clean%2575p", "%00", "%3b", "%", "\xff", "\xe2\x80\x8b", "http:"),
    *("/sessions/cleanup", "/sessions", "/cleanup", "x", "//example.org", "\xef\xbc\x8f", "\xef\xbd\x93essions"),
    *("sess\xc4\xb1ons", "SESS\xc4\xb0ONS", "\xc2\xa0", "cl\xc3\xa9anup", "%c1%a3"),
]


@settings(max_examples=1000, deadline=None)
@given(
    path=st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    script=st.sampled_from(["", "/app", "/sessions", "/x/.."]),
)
def test_what_any_router_takes_for_the_guarded_path_is_refused(path, script):
    environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": script, "PATH_INFO": path}

    assert not (reached(environ) and guard.admits(environ))
