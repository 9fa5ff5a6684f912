import asyncio
import io
import re
import threading
import wsgiref.util
from datetime import UTC, datetime, timedelta
from wsgiref.validate import validator

import pytest
import webob
import webtest

from pulse.context import PulseContext
from pulse.errors import ConfigError, ResponseError
from pulse.mark import INTERNAL, Mark, acting_for
from pulse.middleware import PulseMiddleware
from pulse.model import Trigger
from pulse.sessions import (
    CookieSessionStore,
    InMemorySessionStore,
    MemorySessionStorage,
    NoSessionError,
    SessionFilter,
    SessionStore,
    SessionTooLarge,
    StateSessionStore,
    renew_session,
    session_data,
)
from pulse.state.memory import MemorySessionStore
from pulse.state.types import UserSession
from pulse.testing import ManualClock
from pulse.wsgi import as_wsgi

SECRET = "a-secret-of-the-tests"
STORES = {
    "memory": InMemorySessionStore,
    "live memory": MemorySessionStorage,
    "state": lambda **more: StateSessionStore(MemorySessionStore(), **more),
    "cookie": lambda **more: CookieSessionStore(SECRET),
}


def site(environ, start_response):
    """Pages that use the session in one way each."""
    session = environ["pulse.session"]
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", "own=1")])
    return [str(PAGES[path](session)).encode()]


def count(session):
    session["count"] = session.get("count", 0) + 1
    return session["count"]


def login(session):
    session["user"] = "anna"
    session.renew()


PAGES = {
    "/": lambda session: "nothing",
    "/count": count,
    "/read": lambda session: session.get("count"),
    "/login": login,
    "/who": lambda session: session.get("user"),
    "/logout": lambda session: session.clear(),
    "/nested": lambda session: session.setdefault("list", []).append(len(session["list"])) or session["list"],
    "/true": lambda session: session.update(count=True),
    "/when": lambda session: session.setdefault("when", datetime(2027, 1, 1, tzinfo=UTC)),
    "/big": lambda session: session.update({str(n): hash(str(n)) for n in range(1000)}),
    "/new": lambda session: session.is_new,
    "/odd": lambda session: session.update(odd=print),
}


@pytest.fixture(params=STORES)
def store(request):
    return STORES[request.param]()


def client(store, app=site, **options):
    return webtest.TestApp(SessionFilter(app, store, **options))


def cookies(response):
    return [text for text in response.headers.getall("Set-Cookie") if not text.startswith("own=")]


def kept(store):
    return len(store.store._sessions if isinstance(store, StateSessionStore) else store)


def test_a_session_is_found_again_and_its_cookie_is_sent_once_from_the_server(store):
    browser = client(store)

    first, second = browser.get("/count"), browser.get("/count")

    assert (first.text, second.text) == ("1", "2")
    assert len(cookies(first)) == 1
    assert len(cookies(second)) == isinstance(store, CookieSessionStore)


def test_visitors_are_isolated(store):
    app = SessionFilter(site, store)
    one, other = webtest.TestApp(app), webtest.TestApp(app)

    assert [one.get("/count").text, one.get("/count").text, other.get("/count").text] == ["1", "2", "1"]


def test_the_response_of_the_application_is_passed_on_unchanged(store):
    response = client(store).get("/count")

    assert response.headers.getall("Set-Cookie")[0] == "own=1"
    assert response.content_type == "text/plain"


@pytest.mark.parametrize("path", ["/", "/read", "/logout", "/new"])
def test_whoever_stores_nothing_gets_no_cookie_and_leaves_nothing_behind(store, path):
    response = client(store).get(path)

    assert cookies(response) == []
    if not isinstance(store, CookieSessionStore):
        assert kept(store) == 0


@pytest.mark.parametrize("kind", ["memory", "live memory", "state"])
def test_ten_thousand_visitors_who_never_touch_a_session_leave_nothing_behind(kind):
    store = STORES[kind]()
    app = SessionFilter(site, store)

    for number in range(10_000):
        environ = {"PATH_INFO": "/", "HTTP_COOKIE": f"pulse-session=made-up-{number}"}
        app(environ, lambda *head: None)

    assert kept(store) == 0


def test_only_a_used_session_makes_the_response_depend_on_the_cookie(store):
    browser = client(store)

    assert "Vary" not in browser.get("/").headers
    assert browser.get("/read").headers["Vary"] == "Cookie"


def test_a_key_that_is_not_known_is_never_adopted(store):
    browser = client(store)
    browser.set_cookie("pulse-session", "chosen-by-somebody-else")

    response = browser.get("/count")

    assert response.text == "1"
    assert "chosen-by-somebody-else" not in cookies(response)[0]
    if not isinstance(store, CookieSessionStore):
        assert kept(store) == 1
        assert webtest.TestApp(browser.app).get("/read", headers={"Cookie": "pulse-session=chosen-by-somebody-else"})
        assert kept(store) == 1


def test_a_tampered_cookie_is_a_new_session(store):
    browser = client(store)
    value = browser.get("/count") and browser.cookies["pulse-session"]

    for tampered in (value[:-1], value + "A", value.swapcase(), value[1:]):
        assert webtest.TestApp(browser.app).get("/count", headers={"Cookie": f"pulse-session={tampered}"}).text == "1"


@pytest.mark.parametrize(
    "header",
    [
        "pulse-session=",
        "pulse-session",
        "pulse-session=\xff\xfe",
        "pulse-session=" + "x" * 100_000,
        'pulse-session="; pulse-session=; ;;= =',
        "pulse-session=a\x00b",
        "; ".join(["pulse-session=x"] * 1000),
        "=; $Version=1",
    ],
)
def test_odd_cookies_are_no_error(store, header):
    app = SessionFilter(site, store)
    heads = []

    body = app({"PATH_INFO": "/count", "HTTP_COOKIE": header}, lambda *head: heads.append(head))

    assert b"".join(body) == b"1"
    assert heads[0][0] == "200 OK"


def test_a_known_session_is_found_among_repeated_cookies(store):
    browser = client(store)
    browser.get("/count")
    value = browser.cookies["pulse-session"]

    header = f'a=1; b; pulse-session=stale; pulse-session="{value}"; c=3'

    assert webtest.TestApp(browser.app).get("/count", headers={"Cookie": header}).text == "2"


def test_ending_a_session_makes_the_browser_forget_it_and_the_next_one_has_a_new_key(store):
    browser = client(store)
    browser.get("/count")
    before = browser.cookies["pulse-session"]

    ended = browser.get("/logout")
    after = browser.get("/count")

    assert re.search("Max-Age=0", cookies(ended)[0])
    assert after.text == "1"
    assert browser.cookies["pulse-session"] != before
    if not isinstance(store, CookieSessionStore):
        assert webtest.TestApp(browser.app).get("/read", headers={"Cookie": f"pulse-session={before}"}).text == "None"


def test_a_renewed_session_goes_on_under_a_new_id_and_the_old_one_is_worth_nothing(store):
    browser = client(store)
    browser.get("/count")
    before = browser.cookies["pulse-session"]

    browser.get("/login")

    assert browser.cookies["pulse-session"] != before
    assert browser.get("/who").text == "anna"
    assert browser.get("/count").text == "2"
    intruder = webtest.TestApp(browser.app)
    assert intruder.get("/who", headers={"Cookie": f"pulse-session={before}"}).text == "None"


@pytest.mark.parametrize("kind", ["memory", "live memory", "state"])
def test_a_session_that_was_renewed_may_still_change_behind_the_headers(kind):
    def app(environ, start_response):
        session = environ["pulse.session"]
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/login":
            login(session)
            yield b"welcome"
            session["late"] = 1
        count(session)
        yield str(dict(session)).encode()

    browser = client(STORES[kind](), app)
    browser.get("/")
    browser.get("/login")

    assert browser.get("/").text == "{'count': 3, 'user': 'anna', 'late': 1}"


def test_a_login_without_a_session_before_makes_one(store):
    browser = client(store)

    browser.get("/login")

    assert browser.get("/who").text == "anna"


def user_site(environ, start_response):
    """Pages for a user about whom the application keeps nothing else."""
    session = environ["pulse.session"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/renew":
        session.renew()
    if environ["PATH_INFO"] == "/logout":
        session.clear()
    return [f"{session.user_id} {dict(session)}".encode()]


def site_of_anna(sid):
    records = MemorySessionStore()
    asyncio.run(records.create_session(sid, "anna", ["editor"], ttl=3600))
    return webtest.TestApp(SessionFilter(user_site, StateSessionStore(records)))


def test_a_session_with_a_user_and_without_data_is_renewed_too():
    browser = site_of_anna("planted")

    browser.get("/renew", headers={"Cookie": "pulse-session=planted"})

    assert browser.get("/").text == "anna {}"
    intruder = webtest.TestApp(browser.app)
    assert intruder.get("/", headers={"Cookie": "pulse-session=planted"}).text == " {}"


def test_clearing_ends_a_session_with_a_user_and_without_data_too():
    browser = site_of_anna("known")

    ended = browser.get("/logout", headers={"Cookie": "pulse-session=known"})

    assert "Max-Age=0" in cookies(ended)[0]
    assert browser.get("/", headers={"Cookie": "pulse-session=known"}).text == " {}"


def test_what_is_set_behind_a_clear_begins_a_new_session(store):
    browser = client(store, leaving)
    browser.get("/login")
    before = browser.cookies["pulse-session"]

    answer = browser.get("/logout")

    assert len(cookies(answer)) == 1
    assert browser.cookies["pulse-session"] != before
    assert browser.get("/").text == "{'flash': 'goodbye'}"
    if not isinstance(store, CookieSessionStore):
        intruder = webtest.TestApp(browser.app)
        assert intruder.get("/", headers={"Cookie": f"pulse-session={before}"}).text == "{}"
        assert kept(store) == 1


def leaving(environ, start_response):
    """Pages for a logout that leaves a message for the next page."""
    session = environ["pulse.session"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/login":
        session["user"] = "anna"
    if environ["PATH_INFO"] == "/logout":
        session.clear()
        session["flash"] = "goodbye"
    return [str(dict(session)).encode()]


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_clearing_ends_what_was_there_before_and_nothing_else(path):
    def app(environ, start_response):
        yield from leaving(environ, start_response)  # the session is settled again when this ends

    store = InMemorySessionStore()
    browser = client(store, app)
    browser.get(path)
    browser.get("/logout")

    assert browser.get("/").text == "{'flash': 'goodbye'}"
    assert len(store) == 1


def test_clearing_ends_a_session_with_a_user_also_when_something_is_set_behind_it():
    records = MemorySessionStore()
    asyncio.run(records.create_session("known", "anna", ["editor"]))
    browser = webtest.TestApp(SessionFilter(leaving, StateSessionStore(records)))

    browser.get("/logout", headers={"Cookie": "pulse-session=known"})

    assert asyncio.run(records.get_session("known")) is None
    assert browser.get("/").text == "{'flash': 'goodbye'}"


def test_a_session_that_is_cleared_and_filled_behind_the_headers_ends_and_that_is_said(caplog):
    records = MemorySessionStore()
    asyncio.run(records.create_session("known", "anna"))

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"goodbye"
        environ["pulse.session"].clear()
        environ["pulse.session"]["flash"] = "goodbye"

    browser = webtest.TestApp(SessionFilter(app, StateSessionStore(records)))
    browser.get("/", headers={"Cookie": "pulse-session=known"})

    assert len(records._sessions) == 0
    assert [record.pulse_event for record in caplog.records] == ["session_too_late"]


def test_changes_deep_inside_are_kept(store):
    browser = client(store)

    assert [browser.get("/nested").text for _ in range(3)] == ["[0]", "[0, 1]", "[0, 1, 2]"]


def test_a_change_of_type_alone_is_kept(store):
    browser = client(store)
    browser.get("/count")
    browser.get("/true")

    assert browser.get("/read").text == "True"


def test_a_datetime_comes_back_as_one(store):
    browser = client(store)

    assert browser.get("/when").text == browser.get("/when").text == "2027-01-01 00:00:00+00:00"


class Counting(InMemorySessionStore):
    def __init__(self):
        super().__init__()
        self.calls = []

    async def get(self, sid):
        self.calls.append("get")
        return await super().get(sid)

    async def change(self, sid, change):
        self.calls.append("change")
        return await super().change(sid, change)


def test_a_session_that_was_only_read_is_not_saved_and_one_that_was_not_used_not_even_read():
    store = Counting()
    browser = client(store)
    browser.get("/count")
    store.calls.clear()

    browser.get("/")
    assert store.calls == []
    browser.get("/read")
    assert store.calls == ["get"]
    browser.get("/count")
    assert store.calls == ["get", "get", "change"]


def test_a_session_that_ended_meanwhile_is_not_brought_back():
    store = InMemorySessionStore()
    browser = client(store)
    browser.get("/count")

    def slow(environ, start_response):
        environ["pulse.session"]["late"] = True
        asyncio.run(store.delete(environ["pulse.session"].sid))
        start_response("200 OK", [])
        return [b""]

    response = webtest.TestApp(SessionFilter(slow, store)).get(
        "/", headers={"Cookie": f"pulse-session={browser.cookies['pulse-session']}"}
    )

    assert len(store) == 0
    assert "Set-Cookie" not in response.headers  # it would take a cookie away that a login has set meanwhile


def test_a_failing_application_keeps_nothing(store):
    def failing(environ, start_response):
        environ["pulse.session"]["a"] = 1
        raise OSError("bad day")

    with pytest.raises(OSError, match="bad day"):
        client(store, failing).get("/")
    if not isinstance(store, CookieSessionStore):
        assert kept(store) == 0


def test_what_an_application_changed_before_its_error_page_is_not_kept(store):
    def failing(environ, start_response):
        environ["pulse.session"]["a"] = 1
        start_response("500 Internal Server Error", [])
        return (chunk for chunk in [b"sorry"])

    response = client(store, failing).get("/", status=500)

    assert cookies(response) == []
    if not isinstance(store, CookieSessionStore):
        assert kept(store) == 0


def test_of_a_session_that_is_first_used_behind_the_head_of_an_error_page_nothing_is_kept(store):
    def chunks(session):
        yield b"sorry"
        session["count"] = 100

    def failing(environ, start_response):
        if environ["PATH_INFO"] != "/fail":
            return site(environ, start_response)
        start_response("500 Internal Server Error", [])
        return chunks(environ["pulse.session"])

    browser = client(store, failing)
    browser.get("/count")
    browser.get("/fail", status=500)

    assert browser.get("/count").text == "2"


def test_a_session_that_does_not_fit_its_cookie_is_an_error_and_the_old_one_stays():
    browser = client(CookieSessionStore(SECRET))
    browser.get("/count")

    with pytest.raises(SessionTooLarge):
        browser.get("/big")

    assert browser.get("/count").text == "2"


@pytest.mark.parametrize("kind", ["state", "cookie"])
def test_what_cannot_be_kept_is_an_error_and_the_old_session_stays(kind):
    browser = client(STORES[kind]())
    browser.get("/count")

    with pytest.raises(TypeError):
        browser.get("/odd")

    assert browser.get("/count").text == "2"


# The ways of an application to answer


def generating(environ, start_response):
    """Begins its response, and changes its session, when the server asks for the first chunk."""
    environ["pulse.session"]["early"] = 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"first "
    environ["pulse.session"]["late"] = 1
    yield b"second"


def writing(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    environ["pulse.session"]["early"] = 1
    write(b"first ")
    environ["pulse.session"]["late"] = 1
    return iter([b"second"])


def iterating(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])

    def steps():
        environ["pulse.session"]["early"] = 1
        yield b"first "
        environ["pulse.session"]["late"] = 1
        yield b"second"

    return steps()


@pytest.mark.parametrize("app", [generating, writing, iterating])
@pytest.mark.parametrize("kind", ["memory", "state"])
def test_a_session_may_change_up_to_the_first_chunk_and_on_the_server_until_the_last(app, kind):
    store = STORES[kind]()
    environ = {}
    wsgiref.util.setup_testing_defaults(environ)
    heads, written = [], []

    def start_response(status, headers, exc_info=None):
        heads.append(headers)
        return written.append

    body = SessionFilter(app, store)(environ, start_response)
    chunks = list(body)
    getattr(body, "close", lambda: None)()

    assert b"".join([*written, *chunks]) == b"first second"
    sid = re.match("pulse-session=([^;]+)", dict(heads[0])["Set-Cookie"])[1]
    assert asyncio.run(store.get(sid)) == {"early": 1, "late": 1}


def test_what_is_changed_too_late_for_a_cookie_is_said_once(caplog):
    client(CookieSessionStore(SECRET), iterating).get("/")

    assert [record.pulse_event for record in caplog.records] == ["session_too_late"]


def test_of_a_session_that_cannot_be_compared_all_is_kept():
    class Odd(SessionStore):
        """One in memory, that copies nothing."""

        def __init__(self):
            self.kept = {"sid": {"lock": threading.Lock(), "a": 1}}

        async def get(self, sid):
            return dict(self.kept[sid])

        async def create(self, sid):
            return self.kept.setdefault(sid, {})

        async def save(self, sid, session):
            self.kept[sid] = dict(session)

        async def delete(self, sid):
            del self.kept[sid]

    def app(environ, start_response):
        del environ["pulse.session"]["a"]
        environ["pulse.session"]["b"] = 2
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    store = Odd()
    webtest.TestApp(SessionFilter(app, store)).get("/", headers={"Cookie": "pulse-session=sid"})

    assert store.kept["sid"].keys() == {"lock", "b"}


@pytest.mark.parametrize("change", [lambda session: None, lambda session: session.update(user="ann")])
def test_a_session_that_is_renewed_too_late_for_its_cookie_stays_what_it_was_and_that_is_said(caplog, change):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"begun"
        environ["pulse.session"].renew()
        change(environ["pulse.session"])

    store = InMemorySessionStore()
    asyncio.run(store.save("known", {"cart": 1}))

    webtest.TestApp(SessionFilter(app, store)).get("/", headers={"Cookie": "pulse-session=known"})

    # Under a new id nobody would find it, and what a login adds must not be found under the old one.
    assert asyncio.run(store.get("known")) == {"cart": 1}
    assert len(store) == 1
    assert [record.pulse_event for record in caplog.records] == ["session_too_late"]


def leaving_late(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"goodbye"
    environ["pulse.session"].clear()


@pytest.mark.parametrize("data", [{}, {"cart": 1}], ids=["without data", "with data"])
def test_a_user_is_logged_out_also_behind_the_headers(data, caplog):
    records = MemorySessionStore()
    asyncio.run(records.create_session("known", "anna", metadata={"pulse.data": data}))

    browser = webtest.TestApp(SessionFilter(leaving_late, StateSessionStore(records)))
    browser.get("/", headers={"Cookie": "pulse-session=known"})

    assert asyncio.run(records.get_session("known")) is None
    assert caplog.records == []


def test_a_session_in_a_cookie_that_is_cleared_too_late_to_be_forgotten_is_said(caplog):
    store = CookieSessionStore(SECRET)
    cookie = f"pulse-session={store.encode('known', {'user': 'anna'})}"

    client(store, leaving_late).get("/", headers={"Cookie": cookie})

    assert [record.pulse_event for record in caplog.records] == ["session_too_late"]


def test_chunks_are_passed_on_one_by_one():
    made = []

    def app(environ, start_response):
        start_response("200 OK", [])
        for number in range(3):
            made.append(number)
            yield b"x"

    body = iter(SessionFilter(app, InMemorySessionStore())({}, lambda *head: None))
    next(body)

    assert made == [0]


def test_the_head_is_sent_before_the_first_chunk_and_once():
    heads = []
    body = SessionFilter(generating, InMemorySessionStore())({}, lambda *head: heads.append(head))
    assert heads == []

    for _ in body:
        assert len(heads) == 1


def test_an_error_page_replaces_a_head_that_was_not_sent():
    def app(environ, start_response):
        start_response("200 OK", [("A", "1")])
        try:
            raise KeyError("a")
        except KeyError as error:
            start_response("500 Oops", [("B", "2")], (KeyError, error, error.__traceback__))
        return [b"sorry"]

    heads = []
    SessionFilter(app, InMemorySessionStore())({}, lambda *head: heads.append(head))

    assert len(heads) == 1
    assert heads[0][:2] == ("500 Oops", [("B", "2")])
    assert heads[0][2][0] is KeyError


def test_an_error_behind_the_head_goes_to_the_server():
    def app(environ, start_response):
        start_response("200 OK", [])(b"begun")
        start_response("500 Oops", [], (KeyError, KeyError("a"), None))
        return []

    def start_response(status, headers, exc_info=None):
        if exc_info:
            raise exc_info[1]
        return lambda chunk: None

    with pytest.raises(KeyError):
        SessionFilter(app, InMemorySessionStore())({}, start_response)


def test_a_second_head_without_an_error_is_refused():
    def app(environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    with pytest.raises(ResponseError, match="twice"):
        SessionFilter(app, InMemorySessionStore())({}, lambda *head: None)


class Closing(io.BytesIO):
    closings = 0

    def close(self):
        self.closings += 1


def test_the_body_is_closed_once_also_when_it_fails():
    class Body(Closing):
        def __next__(self):
            raise OSError("bad day")

    made = Body()
    store = InMemorySessionStore()

    def app(environ, start_response):
        start_response("200 OK", [])
        environ["pulse.session"]["a"] = 1
        return made

    body = SessionFilter(app, store)({}, lambda *head: None)
    with pytest.raises(OSError, match="bad day"):
        next(iter(body))
    body.close()

    assert made.closings == 1
    assert len(store) == 0


def test_what_is_changed_before_a_body_fails_in_the_middle_is_not_kept():
    store = InMemorySessionStore()

    def app(environ, start_response):
        environ["pulse.session"]["early"] = 1
        start_response("200 OK", [])
        yield b"first"
        environ["pulse.session"]["late"] = 1
        raise OSError("bad day")

    heads = []
    body = SessionFilter(app, store)({}, lambda *head: heads.append(head))
    assert next(iter(body)) == b"first"
    with pytest.raises(OSError, match="bad day"):
        next(iter(body))
    body.close()

    sid = re.match("pulse-session=([^;]+)", dict(heads[0][1])["Set-Cookie"])[1]
    assert asyncio.run(store.get(sid)) == {"early": 1}


def test_a_file_is_closed_when_the_session_cannot_be_kept():
    class Wrapper(Closing):
        pass

    sent = Wrapper(b"a file")

    def app(environ, start_response):
        start_response("200 OK", [])
        environ["pulse.session"]["odd"] = print
        return sent

    with pytest.raises(TypeError):
        SessionFilter(app, CookieSessionStore(SECRET))({"wsgi.file_wrapper": Wrapper}, lambda *head: None)

    assert sent.closings == 1


def test_the_servers_file_wrapper_is_passed_on_as_it_is():
    class Wrapper(Closing):
        pass

    sent = Wrapper(b"a file")

    def app(environ, start_response):
        start_response("200 OK", [])
        environ["pulse.session"]["a"] = 1
        return sent

    heads = []
    body = SessionFilter(app, InMemorySessionStore())({"wsgi.file_wrapper": Wrapper}, lambda *head: heads.append(head))

    assert body is sent
    assert "Set-Cookie" in dict(heads[0][1])


def test_a_list_is_passed_on_as_it_is():
    chunks = [b"a"]

    def app(environ, start_response):
        start_response("200 OK", [])
        return chunks

    assert SessionFilter(app, InMemorySessionStore())({}, lambda *head: None) is chunks


@pytest.mark.parametrize("app", [generating, iterating, site])
def test_both_sides_keep_the_rules_of_wsgi(app):
    if app is site:
        app = lambda environ, start_response: site({**environ, "PATH_INFO": "/count"}, start_response)  # noqa: E731
    browser = webtest.TestApp(validator(SessionFilter(validator(app), InMemorySessionStore())), lint=False)

    assert browser.get("/").status_int == 200


def test_an_asynchronous_application_has_its_session_too():
    async def chunks(session):
        session["early"] = 1
        yield b"first "
        session["late"] = 1
        yield b"second"

    async def answer(environ, start_response):
        start_response("200 OK", [])
        return chunks(environ["pulse.session"])

    store = InMemorySessionStore()
    heads = []

    async def serve():
        body = await SessionFilter(answer, store)({}, lambda *head: heads.append(head))
        return [chunk async for chunk in body]

    assert asyncio.run(serve()) == [b"first ", b"second"]
    sid = re.match("pulse-session=([^;]+)", dict(heads[0][1])["Set-Cookie"])[1]
    assert asyncio.run(store.get(sid)) == {"early": 1, "late": 1}


def test_an_asynchronous_application_may_answer_with_a_list():
    async def answer(environ, start_response):
        environ["pulse.session"]["a"] = 1
        start_response("200 OK", [])
        return [b"all"]

    heads = []

    async def serve():
        return await SessionFilter(answer, InMemorySessionStore())({}, lambda *head: heads.append(head))

    assert asyncio.run(serve()) == [b"all"]
    assert "Set-Cookie" in dict(heads[0][1])


class AsyncBody:
    """An asynchronous body that counts how often it is closed, and may break."""

    def __init__(self, breaks=False):
        self.left = [b"a", b"b"]
        self.breaks = breaks
        self.closed = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        if self.breaks:
            raise OSError("bad day")
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)

    async def aclose(self):
        await asyncio.sleep(0)
        self.closed += 1


@pytest.mark.parametrize("is_awaitable", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_asynchronous_body_is_closed_once_however_much_of_it_is_read(is_awaitable, count):
    def plain(environ, start_response):
        start_response("200 OK", [])
        return body

    async def answer(environ, start_response):
        return plain(environ, start_response)

    async def serve():
        given = SessionFilter(answer if is_awaitable else plain, InMemorySessionStore())({}, lambda *head: None)
        given = await given if is_awaitable else given
        chunks = aiter(given)
        read = [await anext(chunks, None) for _ in range(count)]
        await given.aclose()
        await given.aclose()
        return read

    body = AsyncBody()

    assert asyncio.run(serve()) == [b"a", b"b", None][:count]
    assert body.closed == 1


def test_an_asynchronous_body_that_fails_is_closed_once_and_keeps_nothing():
    async def answer(environ, start_response):
        environ["pulse.session"]["a"] = 1
        start_response("200 OK", [])
        return body

    async def serve():
        given = await SessionFilter(answer, store)({}, lambda *head: None)
        with pytest.raises(OSError, match="bad day"):
            await anext(aiter(given))
        await given.aclose()

    body, store = AsyncBody(breaks=True), InMemorySessionStore()
    asyncio.run(serve())

    assert (body.closed, len(store)) == (1, 0)


def test_what_is_changed_before_an_asynchronous_body_fails_in_the_middle_is_not_kept():
    async def answer(environ, start_response):
        environ["pulse.session"]["early"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first"
        environ["pulse.session"]["late"] = 1
        raise OSError("bad day")

    store = InMemorySessionStore()
    heads = []

    async def serve():
        body = SessionFilter(answer, store)({}, lambda *head: heads.append(head))
        chunks = aiter(body)
        assert await anext(chunks) == b"first"
        with pytest.raises(OSError, match="bad day"):
            await anext(chunks)
        await body.aclose()

    asyncio.run(serve())
    sid = re.match("pulse-session=([^;]+)", dict(heads[0][1])["Set-Cookie"])[1]
    assert asyncio.run(store.get(sid)) == {"early": 1}


def test_an_asynchronous_generator_has_its_session_and_may_yield_awaitables():
    async def later():
        return b"second"

    async def answer(environ, start_response):
        environ["pulse.session"]["early"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first "
        yield later()
        environ["pulse.session"]["late"] = 1

    store = InMemorySessionStore()
    response = webtest.TestApp(as_wsgi(SessionFilter(answer, store))).get("/")

    assert response.body == b"first second"
    sid = re.match("pulse-session=([^;]+)", response.headers["Set-Cookie"])[1]
    assert asyncio.run(store.get(sid)) == {"early": 1, "late": 1}


@pytest.mark.parametrize("is_asynchronous", [True, False])
def test_a_list_may_hold_what_is_to_be_awaited_and_changes_the_session(is_asynchronous):
    def answered(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])

        async def chunk():
            return str(count(environ["pulse.session"])).encode()

        return [chunk(), b" visits"]

    async def app(environ, start_response):
        return answered(environ, start_response)

    store = InMemorySessionStore()
    asyncio.run(store.save("known", {"count": 1}))
    browser = webtest.TestApp(as_wsgi(SessionFilter(app if is_asynchronous else answered, store)))

    assert browser.get("/", headers={"Cookie": "pulse-session=known"}).text == "2 visits"
    assert asyncio.run(store.get("known")) == {"count": 2}


def test_a_body_that_is_its_own_iterator_is_closed_once():
    class Body:
        closed = 0

        def __iter__(self):
            return self

        def __next__(self):
            return b"x"

        def close(self):
            self.closed += 1

    def app(environ, start_response):
        start_response("200 OK", [])
        return body

    body = Body()
    given = SessionFilter(app, InMemorySessionStore())({}, lambda *head: None)
    next(iter(given))
    given.close()
    given.close()

    assert body.closed == 1


# `session_data` and `renew_session`, as in ASGI applications


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("request_of", [dict, webob.Request, webob.BaseRequest])
def test_the_helpers_of_asgi_know_the_session_of_an_environ(kind, request_of):
    def app(environ, start_response):
        request = request_of(environ)
        session = session_data(request)
        session["count"] = session.get("count", 0) + 1
        if environ["PATH_INFO"] == "/login":
            renew_session(request)
        assert environ["pulse.session"] == session
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(session["count"]).encode()]

    browser = webtest.TestApp(SessionFilter(app, STORES[kind]()))

    assert [browser.get("/").text, browser.get("/").text] == ["1", "2"]
    before = browser.cookies["pulse-session"]
    assert browser.get("/login").text == "3"
    assert browser.cookies["pulse-session"] != before


def test_the_helpers_of_asgi_take_the_key_of_the_filter():
    def app(environ, start_response):
        with pytest.raises(NoSessionError):
            session_data(environ)
        session_data(environ, context_key="site.session")["a"] = 1
        start_response("200 OK", [])
        return []

    store = InMemorySessionStore()
    SessionFilter(app, store, key="site.session")({}, lambda *head: None)

    assert len(store) == 1


# The cookie


def test_the_cookie_is_for_this_host_alone_and_out_of_reach_for_scripts():
    assert re.fullmatch(
        "pulse-session=[A-Za-z0-9_-]{43}; HttpOnly; Path=/; SameSite=Lax",
        cookies(client(InMemorySessionStore()).get("/count"))[0],
    )


def test_a_cookie_that_was_set_over_https_stays_there():
    browser = client(InMemorySessionStore())

    assert cookies(browser.get("/count", extra_environ={"wsgi.url_scheme": "https"}))[0].endswith("; Secure")


def test_the_attributes_of_the_cookie_are_options():
    browser = client(
        InMemorySessionStore(),
        cookie_name="sid",
        cookie_path="/app",
        cookie_domain="example.org",
        cookie_secure=True,
        cookie_http_only=False,
        cookie_same_site="Strict",
        cookie_max_age="1h",
    )

    text = cookies(browser.get("/count"))[0]

    assert re.fullmatch("sid=[^;]+; Domain=example.org; Max-Age=3600; Path=/app; SameSite=Strict; Secure", text)


def test_keys_are_random_and_never_repeated():
    browser = client(InMemorySessionStore())

    def key():
        browser.reset()
        return re.match("pulse-session=([^;]+)", cookies(browser.get("/count"))[0])[1]

    keys = {key() for _ in range(500)}

    assert len(keys) == 500
    assert all(len(key) >= 22 for key in keys)  # 128 bits in base64


def test_two_filters_with_other_keys_and_cookies_do_not_disturb_each_other():
    def both(environ, start_response):
        answer = f"{count(environ['pulse.session'])} {environ['other.session'].get('count')}"
        start_response("200 OK", [])
        return [answer.encode()]

    outer, inner = InMemorySessionStore(), InMemorySessionStore()
    app = SessionFilter(SessionFilter(both, inner), outer, key="other.session", cookie_name="other")
    browser = webtest.TestApp(app)

    assert [browser.get("/").text, browser.get("/").text] == ["1 None", "2 None"]
    assert (len(outer), len(inner)) == (0, 1)
    assert set(browser.cookies) == {"pulse-session"}


def test_a_session_does_not_show_what_it_holds(store):
    seen = []

    def app(environ, start_response):
        environ["pulse.session"]["password"] = "hush"
        seen.append(repr(environ))
        start_response("200 OK", [])
        return [b""]

    client(store, app).get("/")

    assert "hush" not in seen[0]
    assert "<session, used>" in seen[0]


def test_a_signed_cookie_that_is_used_is_issued_anew_before_it_ends():
    clock = ManualClock()
    app = SessionFilter(site, secret=SECRET, ttl="60s", clock=clock)
    browser = webtest.TestApp(app)
    browser.get("/count")

    sent = []
    for _ in range(6):
        clock.advance(20)
        sent.append(len(cookies(browser.get("/read"))))

    assert sent == [0, 1, 0, 1, 0, 1]
    assert browser.get("/count").text == "2"
    clock.advance(61)
    assert browser.get("/count").text == "1"


# The store


class Slow(SessionStore):
    """A store that waits, and fails first when it is initialised."""

    def __init__(self):
        self.kept = {}
        self.events = []

    async def init(self):
        self.events.append("init")
        await asyncio.sleep(0)
        if self.events == ["init"]:
            raise ConnectionError("not there yet")

    async def close(self):
        self.events.append("close")

    async def get(self, sid):
        await asyncio.sleep(0)
        return self.kept.get(sid)

    async def create(self, sid):
        self.kept[sid] = {"from": "the store"}
        return dict(self.kept[sid])

    async def delete(self, sid):
        del self.kept[sid]

    async def save(self, sid, session):
        await asyncio.sleep(0)
        self.kept[sid] = dict(session)


async def counting(environ, start_response):
    await asyncio.sleep(0)
    number = count(environ["pulse.session"]) if environ["PATH_INFO"] == "/count" else 0
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{number}".encode()]


async def counting_chunk_by_chunk(environ, start_response):
    for chunk in await counting(environ, start_response):
        yield chunk


@pytest.mark.parametrize("app", [counting, counting_chunk_by_chunk])
def test_an_asynchronous_application_uses_a_store_that_waits_on_the_loop_that_runs_it(app):
    store = Slow()
    store.events.append("before")  # so that it does not fail
    browser = webtest.TestApp(as_wsgi(SessionFilter(app, store)))

    assert [browser.get("/count").text for _ in range(3)] == ["1", "2", "3"]
    assert len(store.kept) == 1


def test_an_asynchronous_application_knows_the_user_of_a_session():
    async def whose(environ, start_response):
        session = environ["pulse.session"]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{session.user_id!r} {session.roles} {session.get('a')}".encode()]

    records = MemorySessionStore()
    asyncio.run(records.create_session("sid", "anna", ["editor"]))
    asyncio.run(StateSessionStore(records).save("sid", {"a": 1}))
    browser = webtest.TestApp(as_wsgi(SessionFilter(whose, StateSessionStore(records))))

    assert browser.get("/").text == "'' [] None"
    assert browser.get("/", headers={"Cookie": "pulse-session=sid"}).text == "'anna' ['editor'] 1"


def test_an_asynchronous_application_is_told_of_nobody_by_a_store_that_knows_no_users():
    async def whose(environ, start_response):
        session = environ["pulse.session"]
        count(session)
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield f"{session.user_id!r} {session.roles}".encode()
        yield f", {session.user_id!r} {session['count']}".encode()  # it is kept by now

    store = Slow()
    store.events.append("before")  # so that it does not fail
    browser = webtest.TestApp(as_wsgi(SessionFilter(whose, store)))

    assert [browser.get("/").text for _ in range(2)] == ["'' [], '' 1", "'' [], '' 2"]


def test_a_store_that_fails_is_no_matter_to_an_asynchronous_application_that_uses_no_session():
    browser = webtest.TestApp(as_wsgi(SessionFilter(counting, Slow())))

    assert browser.get("/other").text == "0"
    store = Slow()
    with pytest.raises(ConnectionError, match="not there yet"):
        webtest.TestApp(as_wsgi(SessionFilter(counting, store))).get("/count")
    assert store.kept == {}


def test_an_asynchronous_application_whose_request_ends_before_it_runs_is_not_begun():
    class Endless(Slow):
        async def init(self):
            await asyncio.Event().wait()

    async def serve():
        serving = asyncio.ensure_future(SessionFilter(counting, Endless())({}, print))
        await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving})
        assert serving.cancelled()

    asyncio.run(serve())


def test_a_store_is_initialised_once_before_its_first_use_and_again_after_a_failure_and_a_close():
    store = Slow()
    browser = client(store)

    browser.get("/")
    assert store.events == []
    with pytest.raises(ConnectionError):
        browser.get("/count")
    assert [browser.get("/count").text, browser.get("/count").text] == ["1", "2"]
    assert store.events == ["init", "init"]
    browser.app.close()
    assert browser.get("/count").text == "3"
    assert store.events == ["init", "init", "close", "init"]


def test_what_a_store_gives_every_new_session_is_kept():
    store = Slow()
    store.events.append("init")
    browser = client(store)

    browser.get("/count")

    assert list(store.kept.values()) == [{"from": "the store", "count": 1}]


@pytest.mark.parametrize("wrong", [object(), 7, {}, InMemorySessionStore])
def test_what_is_no_store_is_refused(wrong):
    with pytest.raises(TypeError, match="SessionStore"):
        SessionFilter(site, wrong)


def test_an_option_of_a_store_that_was_made_before_is_refused():
    with pytest.raises(ConfigError) as refused:
        SessionFilter(site, InMemorySessionStore(), ttl="1h", secret=SECRET, key="a.b")

    assert [fault.key for fault in refused.value.faults] == ["secret", "ttl"]
    assert "want it where the store is made" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_options_that_were_read_before_stand_alone():
    read = SessionFilter(site, "memory:", key="a.b").options

    assert SessionFilter(site, InMemorySessionStore(), options=read).options is read
    assert isinstance(SessionFilter(site, options=read).store, InMemorySessionStore)
    with pytest.raises(TypeError, match="options and key: want one or the other"):
        SessionFilter(site, options=read, key="c.d")
    with pytest.raises(TypeError, match="options and store"):
        SessionFilter(site, "cookie:", options=read)


def test_sessions_in_the_memory_of_one_of_several_processes_are_warned_of_once(caplog):
    browser = client(InMemorySessionStore())
    many = {"wsgi.multiprocess": True}

    browser.get("/", extra_environ=many)
    assert caplog.records == []
    browser.get("/count", extra_environ=many)
    browser.get("/count", extra_environ=many)

    assert [record.pulse_event for record in caplog.records] == ["sessions_apart"]


def test_a_session_knows_its_user_where_the_store_does():
    records = MemorySessionStore()
    asyncio.run(records.create_session("sid", "anna", ["editor"]))

    def app(environ, start_response):
        session = environ["pulse.session"]
        session["seen"] = True
        start_response("200 OK", [])
        return [f"{session.session_id} {session.user_id} {session.roles} {session.data}".encode()]

    found = webtest.TestApp(SessionFilter(app, StateSessionStore(records)))
    nobody = webtest.TestApp(SessionFilter(app, InMemorySessionStore()))

    assert found.get("/", headers={"Cookie": "pulse-session=sid"}).text == "sid anna ['editor'] {'seen': True}"
    assert nobody.get("/").text.endswith(" [] {'seen': True}")


class CountingRecords(MemorySessionStore):
    """Records that know how often they were looked up."""

    looks = 0

    async def get_session(self, session_id):
        self.looks += 1
        return await super().get_session(session_id)


def whose(environ, start_response):
    session = environ["pulse.session"]
    start_response("200 OK", [])
    return [f"{session.user_id} {session.roles} {session.metadata} {dict(session)}".encode()]


async def whose_asynchronously(environ, start_response):
    return whose(environ, start_response)


@pytest.mark.parametrize("app", [whose, whose_asynchronously])
def test_a_session_and_its_user_are_looked_up_together(app):
    records = CountingRecords()
    asyncio.run(records.create_session("sid", "anna", ["editor"], metadata={"tenant": 1, "pulse.data": {"a": 1}}))
    browser = webtest.TestApp(as_wsgi(SessionFilter(app, StateSessionStore(records))))

    answer = browser.get("/", headers={"Cookie": "pulse-session=sid"})

    assert answer.text == "anna ['editor'] {'tenant': 1} {'a': 1}"
    assert records.looks == 1


def test_what_a_subclass_makes_of_the_data_of_a_session_counts():
    class Shouting(StateSessionStore):
        async def get(self, sid):
            data = await super().get(sid)
            return data and {name.upper(): value for name, value in data.items()}

    records = MemorySessionStore()
    asyncio.run(records.create_session("sid", "anna", metadata={"pulse.data": {"a": 1}}))
    browser = webtest.TestApp(SessionFilter(whose, Shouting(records)))

    assert browser.get("/", headers={"Cookie": "pulse-session=sid"}).text == "anna [] {} {'A': 1}"
    assert browser.get("/").text == " [] {} {}"


def test_who_changes_what_a_session_says_of_its_user_changes_nothing():
    records = MemorySessionStore()
    asyncio.run(records.create_session("sid", "anna", ["viewer"], metadata={"teams": [1]}))

    def app(environ, start_response):
        session = environ["pulse.session"]
        session.roles.append("admin")
        session.metadata["teams"].append(2)
        return whose(environ, start_response)

    browser = webtest.TestApp(SessionFilter(app, StateSessionStore(records)))

    assert browser.get("/", headers={"Cookie": "pulse-session=sid"}).text == "anna ['viewer'] {'teams': [1]} {}"


def test_a_session_that_was_ended_is_nobodys():
    records = MemorySessionStore()
    asyncio.run(records.create_session("sid", "anna"))
    seen = []

    def app(environ, start_response):
        start_response("200 OK", [])
        environ["pulse.session"].clear()
        yield b"goodbye"
        seen.append(environ["pulse.session"].user_id)

    webtest.TestApp(SessionFilter(app, StateSessionStore(records))).get("/", headers={"Cookie": "pulse-session=sid"})

    assert seen == [""]


# The clean-up


@pytest.fixture
def internal():
    mark = Mark(task="cleanup", due=datetime(2027, 1, 1, tzinfo=UTC), trigger=Trigger.SCHEDULE, path="/")
    with acting_for(mark):
        yield {INTERNAL: mark}


def expired(number):
    clock = ManualClock()
    store = InMemorySessionStore(ttl=60, clock=clock)
    for one in range(number):
        asyncio.run(store.save(str(one), {"a": 1}))
    clock.advance(timedelta(minutes=2))
    return store


def other(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the application's own"]


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 expired sessions"), (1, "1 expired session"), (3, "3 expired sessions")]
)
def test_the_filter_removes_what_expired_when_pulse_asks(internal, number, said):
    app = SessionFilter(other, expired(number), cleanup="/sessions/cleanup")
    heads = []

    body = app(
        {**internal, "REQUEST_METHOD": "GET", "PATH_INFO": "/sessions/cleanup"}, lambda *head: heads.append(head)
    )

    assert b"".join(body).decode() == f"removed {said}\n"
    assert dict(heads[0][1])["Content-Type"].startswith("text/plain")


def test_the_clean_up_is_found_below_a_mount_point(internal):
    app = SessionFilter(other, expired(2), cleanup="/sessions/cleanup")

    body = app(
        {**internal, "REQUEST_METHOD": "GET", "SCRIPT_NAME": "/sessions", "PATH_INFO": "/cleanup"}, lambda *head: None
    )

    assert b"".join(body) == b"removed 2 expired sessions\n"


def test_everybody_else_passes_on_to_the_application():
    store = expired(2)
    browser = client(store, other, cleanup="/sessions/cleanup")

    assert browser.get("/sessions/cleanup").text == "the application's own"
    assert browser.post("/sessions/cleanup", headers={"X-Pulse-Task": "cleanup"}).text == "the application's own"
    assert asyncio.run(store.sweep()) == 2


def test_without_the_option_the_application_has_the_path_to_itself(internal):
    body = SessionFilter(other, expired(2))({**internal, "PATH_INFO": "/sessions/cleanup"}, lambda *head: None)

    assert body == [b"the application's own"]


def test_other_paths_are_the_applications(internal):
    app = SessionFilter(other, expired(2), cleanup="/sessions/cleanup")

    assert app({**internal, "PATH_INFO": "/sessions/cleanup/x"}, lambda *head: None) == [b"the application's own"]


def test_the_session_of_the_context_is_the_callers_user_session():
    seen = {}

    def page(environ, start_response):
        session = PulseContext.get().session
        seen.update(
            is_one=isinstance(session, UserSession), same=session is environ["pulse.session"],
            fields=(session.user_id, session.roles, session.created_at, session.expires_at, session.metadata),
        )  # fmt: skip
        start_response("200 OK", [])
        return [b""]

    app = PulseMiddleware(SessionFilter(page, InMemorySessionStore()), start="manual")
    app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)

    assert seen == {"is_one": True, "same": True, "fields": ("", [], 0.0, None, {})}
