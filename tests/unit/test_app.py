import asyncio
import pickle
from datetime import timedelta

import pytest
import webtest

from pulse import PulseMiddleware, Task
from pulse.app import App
from pulse.context import PulseContext, entered
from pulse.errors import ConfigError
from pulse.model import Outcome
from pulse.sessions import (
    CookieSessionStore,
    InMemorySessionStore,
    MemorySessionStorage,
    SessionFilter,
    SessionStore,
    cleanup_endpoint,
)
from pulse.testing import ManualClock


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("PULSE_SECRET", "a secret of the tests")


def counter(environ, start_response):
    session = environ["pulse.session"]
    session["count"] = session.get("count", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(session["count"]).encode()]


def test_an_app_is_a_pulse_middleware_with_a_session_store():
    store = InMemorySessionStore()

    app = App(session_store=store)

    assert isinstance(app, PulseMiddleware)
    assert app.session_store is store
    assert callable(app)


def test_sessions_are_kept_in_signed_cookies_by_default():
    assert isinstance(App().session_store, CookieSessionStore)


def test_the_default_store_wants_a_secret_in_production(monkeypatch):
    monkeypatch.setenv("PULSE_SECRET", "")
    monkeypatch.setenv("PULSE_ENV", "production")

    with pytest.raises(RuntimeError, match="PULSE_SECRET"):
        App()
    assert App(session_store=InMemorySessionStore())


@pytest.mark.parametrize("kind", [InMemorySessionStore, MemorySessionStorage, CookieSessionStore])
def test_a_wrapped_application_has_sessions(kind):
    browser = webtest.TestApp(App(counter, session_store=kind()))

    assert [browser.get("/").text, browser.get("/").text] == ["1", "2"]


def test_a_storage_that_is_no_subclass_serves():
    class Dicts(dict):
        async def load(self, key):
            return self.get(key)

        async def save(self, key, session):
            self[key] = dict(session)

    storage = Dicts()
    app = App(session_store=storage)
    app.route("/")(counter)
    browser = webtest.TestApp(app)

    assert [browser.get("/").text, browser.get("/").text] == ["1", "2"]
    assert app.session_store is storage


def test_a_store_of_somebody_elses_serves():
    class Dicts(SessionStore):
        def __init__(self):
            self.kept = {}

        async def init(self):
            self.is_open = True

        async def close(self):
            self.is_open = False

        async def get(self, sid):
            return self.kept.get(sid)

        async def create(self, sid):
            return self.kept.setdefault(sid, {})

        async def delete(self, sid):
            self.kept.pop(sid, None)

        async def save(self, sid, session):
            self.kept[sid] = session

    store = Dicts()
    app = App(counter, session_store=store)
    browser = webtest.TestApp(app)

    assert [browser.get("/").text, browser.get("/").text] == ["1", "2"]
    assert store.is_open
    app.close()
    assert not store.is_open


def test_an_app_alone_has_the_pages_that_are_placed_in_it():
    app = App()

    @app.route("/count")
    def page(environ, start_response):
        return counter(environ, start_response)

    browser = webtest.TestApp(app)
    assert browser.get("/count").text == "1"
    browser.get("/", status=404)
    browser.get("/sessions/cleanup", status=404)


def test_a_page_may_be_a_function_of_the_request():
    app = App()

    @app.route("/hello")
    def hello(request):
        return f"<{request.method} {request.path}?{request.query_string}>"

    @app.route("/bytes")
    def raw(request):
        return b"\xc3\xbc"

    @app.route("/wsgi")
    def further(request):
        return counter

    browser = webtest.TestApp(app)
    answer = browser.get("/hello?a=1")
    assert (answer.text, answer.content_type) == ("<GET /hello?a=1>", "text/plain")
    assert browser.get("/bytes").text == "ü"
    assert browser.get("/wsgi").text == "1"


def test_a_page_that_is_asked_for_its_head_has_no_body():
    app = App()
    app.route("/hello")(lambda request: "hello")
    browser = webtest.TestApp(app)

    answer = browser.head("/hello")

    assert (answer.status_code, answer.content_length, answer.body) == (200, 5, b"")


def test_a_page_may_have_a_path_in_any_script():
    app = App(task={"tidy": {"action": "/aufräumen", "interval": "1h"}}, start="manual", store="memory:")
    app.route("/aufräumen")(lambda request: request.path)

    assert webtest.TestApp(app).get("/aufr%C3%A4umen").text == "/aufräumen"
    assert app.run_now("tidy").body.decode() == "/aufräumen"
    app.close()


def test_a_page_goes_before_the_wrapped_application():
    app = App(counter)
    app.route("/own")(lambda request: "own")
    browser = webtest.TestApp(app)

    assert browser.get("/own").text == "own"
    assert browser.get("/else").text == "1"


def test_a_page_wants_a_path():
    with pytest.raises(ValueError, match="route 'x': want a path that begins with a slash"):
        App().route("x")


def test_only_an_application_can_be_wrapped():
    with pytest.raises(ConfigError, match="app = 7"):
        App(7)


def test_the_canonical_task_works_with_nothing_but_a_store():
    clock = ManualClock()
    store = InMemorySessionStore(ttl=60, clock=clock)
    for number in range(3):
        asyncio.run(store.save(str(number), {"a": 1}))
    clock.advance(timedelta(minutes=2))
    app = App(
        session_store=store, task={"cleanup": Task(action="/sessions/cleanup", interval=300)}, guard=True, start="manual",
        store="memory:",
    )  # fmt: skip

    run = app.run_now("cleanup")
    app.close()

    assert run.outcome is Outcome.SUCCESS
    assert run.body == b"removed 3 expired sessions\n"
    webtest.TestApp(app).get("/sessions/cleanup", status=404)


def test_the_session_is_that_of_the_context():
    seen = []

    def page(request):
        session = PulseContext.get().session
        session["a"] = 1
        seen.append((session.sid, session.data))
        return "ok"

    app = App(session_store=InMemorySessionStore())
    app.route("/")(page)
    browser = webtest.TestApp(lambda environ, start_response: entered(app, app, environ, start_response))

    response = browser.get("/")

    assert response.text == "ok"
    assert seen[0][1] == {"a": 1}
    assert browser.cookies["pulse-session"] == seen[0][0]


# In another process


def copy_of(app):
    return pickle.loads(pickle.dumps(app))


def test_a_filter_over_signed_cookies_and_its_clean_up_pickle():
    store = CookieSessionStore("a secret")
    browser = webtest.TestApp(SessionFilter(counter, store))
    browser.get("/")

    there = webtest.TestApp(copy_of(SessionFilter(counter, store)), cookiejar=browser.cookiejar)

    assert there.get("/").text == "2"
    assert webtest.TestApp(copy_of(cleanup_endpoint(store))).get("/").text == "removed 0 expired sessions\n"


def hello(request):
    return f"hello {request.path}"


@pytest.mark.parametrize("wrapped", [None, counter])
def test_the_pages_of_an_app_pickle(wrapped):
    app = App(wrapped, session_store=CookieSessionStore("a secret"))
    app.route("/hello")(hello)
    app.route("/count")(counter)

    there = webtest.TestApp(copy_of(app.app))

    assert there.get("/hello").text == "hello /hello"
    assert there.get("/count").text == "1"
    assert there.get("/", status="*").status_int == (404 if wrapped is None else 200)
    there.get("/sessions/cleanup", status=404 if wrapped is None else 200)


def test_a_page_that_children_would_not_know_is_refused():
    app = App(counter, mode="processing", session_store=CookieSessionStore("a secret"))

    with pytest.raises(ConfigError, match=r"route = '/hello': .*set pulse\.config\.application"):
        app.route("/hello")

    named = App(mode="processing", application="site:app", session_store=CookieSessionStore("a secret"))
    assert named.route("/hello")(hello) is hello
