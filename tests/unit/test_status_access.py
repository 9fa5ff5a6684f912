import logging
from datetime import timedelta

import pytest
from status_window import BEARER, BROWSER, TOKEN, Window
from webob import Request

from pulse.guard import Guard
from pulse.model import Config, Task
from pulse.status.access import ADDRESSES, FAILURES, Attempts
from pulse.status.login import code_key, make_code
from pulse.testing import ManualClock

EVERYTHING = [
    "", "/", "/tasks/cleanup", "/tasks/nothing", "/runs", "/workers", "/configuration", "/audit", "/login", "/metrics",
    "/api/", "/api/tasks", "/nowhere", "/?part=live",
]  # fmt: skip


def guards_answer():
    config = Config(guard=True, tasks={"cleanup": Task(name="cleanup", action="/cleanup")})
    found = []
    body = Guard(config).refuse(
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/cleanup"}, lambda status, headers: found.append((status, headers))
    )
    return (*found[0], b"".join(body))


@pytest.mark.parametrize("path", EVERYTHING)
def test_without_a_token_there_is_nothing_but_the_answer_of_the_guard(path):
    window = Window(config={"token": None})

    for headers in ({}, BROWSER, BEARER, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        answer = window.ask(path, headers=headers)
        assert (answer.status, answer.headerlist, answer.body) == guards_answer()


@pytest.mark.parametrize("path", ["/login", "/logout", "/tasks/cleanup/run", "/api/tasks/cleanup/run"])
def test_without_a_token_nothing_can_be_pressed(path):
    window = Window(config={"token": None})

    answer = window.ask(path, "POST", form={"token": "", "proof": ""}, headers=BEARER)

    assert answer.status_code == 404
    assert window.controls.pressed == []


@pytest.mark.parametrize("path", ["/metrics", "/api/", "/api/tasks", "/nowhere", "/?part=live", "/api/tasks/cleanup"])
def test_a_stranger_finds_nothing_where_programs_look(path):
    answer = Window().ask(path, headers=BROWSER)

    assert (answer.status, answer.headerlist, answer.body) == guards_answer()


@pytest.mark.parametrize("path", ["/", "/tasks/cleanup", "/tasks/nothing", "/runs?q=x"])
def test_a_browser_of_a_stranger_is_shown_the_form_whether_the_page_exists_or_not(path):
    answer = Window().ask(path, headers=BROWSER)

    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/_pulse/login")


@pytest.mark.parametrize("remote", ["127.0.0.1", "::1", "", "localhost"])
def test_an_address_opens_nothing(remote):
    assert Window().ask("/api/tasks", remote=remote).status_code == 404


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN}, Bearer {TOKEN}", "Bearer \udcff"],
)  # fmt: skip
def test_only_the_very_token_is_taken_from_a_program(value):
    window = Window()

    request_headers = {"Authorization": value.encode("utf-8", "surrogateescape").decode("latin-1")}

    assert window.ask("/api/tasks", headers=request_headers).status_code == 404
    assert window.ask("/api/tasks", headers=BEARER).status_code == 200


@pytest.mark.parametrize(
    ("value", "status"), [("Basic bWFyYTpwdw==", 200), ("Digest x", 200), ("", 200), ("Bearer x", 303)]
)
def test_the_password_of_a_proxy_does_not_log_a_browser_out(value, status):
    window = Window()
    browser, _ = window.log_in()

    assert window.ask("/", headers={**browser, "Authorization": value}).status_code == status


def test_the_token_is_not_taken_from_a_query():
    assert Window().ask(f"/api/tasks?token={TOKEN}").status_code == 404


def test_the_form_gives_a_cookie_that_no_script_and_no_other_site_can_use():
    window = Window()

    answer = window.ask("/login", "POST", form={"token": TOKEN, "back": "runs?q=x"})

    assert (answer.status_code, answer.headers["Location"]) == (303, "/_pulse/runs?q=x")
    attributes = {word.strip().lower() for word in answer.headers["Set-Cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/_pulse", "max-age=28800"} <= attributes
    assert "secure" not in attributes
    assert TOKEN not in answer.headers["Set-Cookie"]


def test_over_https_the_cookie_stays_there():
    window = Window()
    request = Request.blank("https://example.com/_pulse/login", POST={"token": TOKEN})

    assert "secure" in request.get_response(window.app).headers["Set-Cookie"].lower()


@pytest.mark.parametrize(
    "back",
    ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "\t//evil.example", "javascript:alert(1)", "\r\nSet-Cookie: x=y", "../../admin", "é", "runs/../../admin", "runs/%2e%2E/../admin", "runs/..?q=1", "./../admin"],
)  # fmt: skip
def test_the_form_leads_nowhere_else(back):
    answer = Window().ask("/login", "POST", form={"token": TOKEN, "back": back})

    assert answer.headers["Location"] == "/_pulse/"


@pytest.mark.parametrize(
    ("script", "base"),
    [("//evil.example", "/evil.example"), ("///evil.example/", "/evil.example"), ("/", ""), ("//", "")],
)
def test_a_mount_that_looks_like_another_site_leads_nowhere_else(script, base):
    window = Window()

    answers = [
        window.ask("/", headers=BROWSER, script=script),
        window.ask("", headers=BEARER, script=script),
        window.ask("/login", "POST", form={"token": TOKEN}, script=script),
    ]

    assert all(answer.headers["Location"].startswith(f"{base}/_pulse/") for answer in answers)
    assert '="//' not in window.see(script=script).text


def test_a_cookie_works_until_its_time_is_over():
    window = Window()
    browser, _ = window.log_in()

    window.clock.advance(timedelta(hours=7, minutes=59))
    assert window.ask("/runs", headers=browser).status_code == 200
    window.clock.advance(timedelta(minutes=2))
    assert window.ask("/runs", headers=browser).status_code == 303


def test_a_cookie_that_is_used_lives_on():
    window = Window()
    browser, _ = window.log_in()
    window.clock.advance(timedelta(hours=7))

    renewed = window.ask("/runs", headers=browser).headers["Set-Cookie"].partition(";")[0]

    window.clock.advance(timedelta(hours=7))
    assert window.ask("/runs", headers={**browser, "Cookie": renewed}).status_code == 200
    assert window.ask("/runs", headers=browser).status_code == 303


def test_a_fresh_cookie_is_not_given_again_with_every_answer():
    window = Window()
    browser, _ = window.log_in()

    assert "Set-Cookie" not in window.ask("/runs", headers=browser).headers


def test_whoever_changes_the_token_logs_everybody_out():
    tokens = [TOKEN]
    window = Window(token=lambda: tokens[0])
    browser, _ = window.log_in()

    tokens[0] = "another-token-of-enough-characters"

    assert window.ask("/runs", headers=browser).status_code == 303


def test_a_cookie_of_one_process_works_in_another():
    browser, _ = Window().log_in()

    assert Window().ask("/runs", headers=browser).status_code == 200


@pytest.mark.parametrize("place", range(0, 200, 17))
def test_a_cookie_that_was_changed_anywhere_is_worth_nothing(place):
    window = Window()
    browser, _ = window.log_in()
    name, _, value = browser["Cookie"].partition("=")
    place %= len(value)
    other = "A" if value[place] != "A" else "B"

    changed = f"{name}={value[:place]}{other}{value[place + 1 :]}"

    assert window.ask("/runs", headers={**browser, "Cookie": changed}).status_code == 303


def test_a_cookie_has_one_spelling():
    window = Window()
    browser, _ = window.log_in()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    last = browser["Cookie"][-1]
    others = [browser["Cookie"][:-1] + letter for letter in alphabet if letter != last]

    assert {window.ask("/runs", headers={**browser, "Cookie": other}).status_code for other in others} == {303}


def test_whoever_logs_out_has_no_cookie_any_more():
    window = Window()
    browser, proof = window.log_in()

    answer = window.ask("/logout", "POST", headers=browser, form={"proof": proof})

    assert answer.headers["Location"] == "/_pulse/login"
    assert "max-age=0" in answer.headers["Set-Cookie"].lower()


def test_whoever_logs_out_late_is_not_logged_in_anew_by_the_same_answer():
    window = Window()
    browser, proof = window.log_in()
    window.clock.advance(timedelta(minutes=20))

    answer = window.ask("/logout", "POST", headers=browser, form={"proof": proof})

    (cookie,) = answer.headers.getall("Set-Cookie")
    assert "max-age=0" in cookie.lower()


@pytest.mark.parametrize("other", ["x=\xff", 'x="\\377"', "\xff\xfe", "=;;;", "pulse_status=\xff"])
def test_an_odd_cookie_of_another_application_keeps_nobody_out(other):
    window = Window()
    browser, _ = window.log_in()

    for headers, status in ((browser, 200), ({"Cookie": "y=1"}, 404)):
        cookie = f"{other}; {headers['Cookie']}"
        assert window.ask("/runs", headers={**headers, "Cookie": cookie}).status_code == status
        assert window.ask("/live", headers={"Cookie": cookie}).status_code == 200
        assert window.ask("/health", headers={"Cookie": cookie}).status_code == 503


def test_of_two_cookies_the_one_of_the_longer_path_counts_which_comes_first():
    window = Window()
    browser, _ = window.log_in()

    assert window.ask("/runs", headers={**browser, "Cookie": f"{browser['Cookie']}; pulse_status=x"}).status_code == 200


def test_a_form_that_was_left_open_logs_in_whoever_is_logged_in_by_another_one():
    window = Window()
    browser, _ = window.log_in()

    answer = window.ask("/login", "POST", headers=browser, form={"token": TOKEN, "name": "joe", "back": "runs"})

    assert (answer.status_code, answer.headers["Location"]) == (303, "/_pulse/runs")
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert "Log out joe" in window.ask("/", headers={**BROWSER, "Cookie": cookie}).text


def test_too_many_wrong_tokens_have_to_wait_and_the_right_one_with_them():
    window = Window()
    for _ in range(FAILURES):
        assert window.ask("/login", "POST", form={"token": "guess"}).status_code == 403

    assert window.ask("/login", "POST", form={"token": "guess"}).status_code == 429
    waiting = window.ask("/login", "POST", form={"token": TOKEN})
    assert (waiting.status_code, waiting.headers["Retry-After"]) == (429, "60")
    assert window.ask("/login", "POST", form={"token": TOKEN}, remote="192.0.2.2").status_code == 303
    window.clock.advance(61)
    assert window.ask("/login", "POST", form={"token": TOKEN}).status_code == 303


def test_wrong_tokens_of_many_addresses_take_no_more_memory():
    attempts = Attempts(ManualClock())

    for number in range(3 * ADDRESSES):
        attempts.failed(f"2001:db8::{number:x}")

    assert len(attempts._failed) == ADDRESSES


def test_wrong_tokens_of_programs_are_counted_and_told_of_once_a_minute(caplog):
    window = Window()
    for path in ("/api/tasks", "/metrics", "/health", "/", "/nowhere", "/api/tasks"):
        window.ask(path, headers={"Authorization": "Bearer a-guess-of-somebody"})
        window.ask(path, headers=BEARER)
        window.ask(path, headers={"Authorization": "Basic bWFyYTpwdw=="})

    [warning] = [record for record in caplog.records if record.pulse_event == "token_refused"]

    assert warning.getMessage() == "5 requests to the status page with a wrong token within a minute, 5 in all"
    assert window.app._access.token_failures == 6
    assert "a-guess-of-somebody" not in caplog.text


def test_no_number_of_wrong_tokens_keeps_out_the_program_that_has_the_right_one():
    window = Window()
    for _ in range(20):
        assert window.ask("/api/tasks", headers={"Authorization": "Bearer a-guess"}).status_code == 404

    assert window.ask("/api/tasks", headers=BEARER).status_code == 200
    assert window.ask("/login", "POST", form={"token": TOKEN}).status_code == 303


def test_no_log_ever_has_a_token(caplog):
    caplog.set_level(logging.DEBUG)
    window = Window()
    window.ask("/login", "POST", form={"token": "a-guess-of-somebody", "name": "eve"})
    window.log_in()

    events = [record.pulse_event for record in caplog.records if hasattr(record, "pulse_event")]

    assert {"login_refused", "logged_in"} <= set(events)
    assert TOKEN not in caplog.text
    assert "a-guess-of-somebody" not in caplog.text


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {"Origin": "http://[x"}],
)  # fmt: skip
def test_what_another_site_sends_is_refused_even_with_the_proof(headers):
    window = Window()
    browser, proof = window.log_in()

    answer = window.ask("/tasks/cleanup/run", "POST", headers={**browser, **headers}, form={"proof": proof})

    assert answer.status_code == 403
    assert window.ask("/login", "POST", headers=headers, form={"token": TOKEN}).status_code == 403
    assert window.controls.pressed == []


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": "https://localhost:80"}, {"Origin": "http://shop.example", "X-Forwarded-Host": "shop.example"}],
)  # fmt: skip
def test_what_the_own_page_sends_is_done(headers):
    window = Window()
    browser, proof = window.log_in()

    answer = window.ask("/tasks/cleanup/run", "POST", headers={**browser, **headers}, form={"proof": proof})

    assert answer.status_code == 303
    assert window.controls.pressed == [("run", "cleanup", False, "mara")]


@pytest.mark.parametrize(
    ("origin", "host", "forwarded", "status"),
    [
        ("https://shop.example", "shop.example:443", "", 303),
        ("http://shop.example", "shop.example:80", "", 303),
        ("https://shop.example:8443", "shop.example:8443", "", 303),
        ("https://shop.example", "inner", "shop.example:443", 303),
        ("https://shop.example", "inner", "shop.example, middle.example", 303),
        ("https://shop.example", "inner", "middle.example,Shop.Example", 303),
        ("https://shop.example", "shop.example:8443", "", 403),
        ("https://shop.example:8443", "shop.example", "", 403),
        ("http://shop.example", "shop.example:443", "", 403),
        ("https://evil.example", "inner", "shop.example, middle.example", 403),
        ("null", "inner", ",", 403),
        ("", "inner", ", ,", 403),
    ],
)
def test_proxies_may_say_the_port_of_the_scheme_and_their_names_one_after_the_other(origin, host, forwarded, status):
    headers = {"Origin": origin, "Host": host, "X-Forwarded-Host": forwarded}

    assert Window().ask("/login", "POST", headers=headers, form={"token": TOKEN}).status_code == status


def test_the_proof_of_another_session_is_none():
    window = Window()
    browser, _ = window.log_in()
    _, stolen = window.log_in("eve")

    for proof in (stolen, "", "0" * 64):
        answer = window.ask("/tasks/cleanup/run", "POST", headers=browser, form={"proof": proof})
        assert answer.status_code == 403
    assert window.controls.pressed == []


def test_a_user_whom_the_application_knows_needs_no_token():
    window = Window(config={"token": None}, authenticate=lambda environ: environ.get("REMOTE_USER"))

    page = window.ask("/", headers=BROWSER)
    assert page.status_code == 404

    def as_mara(path, **more):
        request = Request.blank(f"/_pulse{path}", environ={"REMOTE_USER": "mara"}, **more)
        return request.get_response(window.app)

    page = as_mara("/")
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    proof = page.text.partition('name="proof" value="')[2].partition('"')[0]
    pressed = as_mara("/tasks/cleanup/run", POST={"proof": proof}, headers={"Cookie": cookie})
    forged = as_mara("/tasks/cleanup/run", POST={"proof": proof}, headers={"Cookie": "pulse_status=other"})

    assert (page.status_code, pressed.status_code, forged.status_code) == (200, 303, 403)
    assert window.controls.pressed == [("run", "cleanup", False, "mara")]


def test_a_code_opens_a_page_whose_token_only_the_application_knows():
    window = Window(config={"token": None}, token=lambda: "another-token-of-the-application")
    code = make_code(code_key(None, window.store.secret()), window.clock.now())

    answer = window.ask(f"/login?code={code}")

    browser = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], **BROWSER}
    assert window.ask("/runs", headers=browser).status_code == 200


def test_who_came_by_a_code_stays_as_long_as_they_use_it():
    window = Window()
    code = make_code(code_key(TOKEN, window.store.secret()), window.clock.now())
    cookie = window.ask(f"/login?code={code}").headers["Set-Cookie"]

    for _ in range(4):
        window.clock.advance(timedelta(hours=7))
        answer = window.ask("/runs", headers={"Cookie": cookie.partition(";")[0], **BROWSER})
        assert answer.status_code == 200
        cookie = answer.headers["Set-Cookie"]


def test_a_name_is_short_and_printable():
    window = Window()
    browser, proof = window.log_in("ma\u202era\n" + "x" * 99)

    window.ask("/tasks/cleanup/run", "POST", headers=browser, form={"proof": proof})

    assert window.controls.pressed[0][3] == "mara" + "x" * 36


@pytest.mark.parametrize(("name", "by"), [("ma\u202era\n\0" + "x" * 300, "mara" + "x" * 196), ("\n", "a user")])
def test_the_name_of_a_user_is_one_line(name, by):
    window = Window(config={"token": None}, authenticate=lambda environ: name)
    page = window.ask("/", headers=BROWSER)
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    proof = page.text.partition('name="proof" value="')[2].partition('"')[0]

    window.ask("/tasks/cleanup/run", "POST", headers={"Cookie": cookie}, form={"proof": proof})

    assert window.controls.pressed == [("run", "cleanup", False, by)]
    assert window.store.presses(1)[0].by == by
