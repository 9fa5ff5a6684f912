import asyncio
import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest
import webtest
from bareasgi import Application, HttpResponse
from bareutils import text_writer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pulse.context import PULSE_CONTEXT, PulseContext, RouteContext
from pulse.sessions import (
    CookieSessionStore,
    InMemorySessionStore,
    MemorySessionStorage,
    NoSessionError,
    SessionMiddleware,
    SessionStorage,
    SessionTooLarge,
    StateSessionStore,
    StoreSessionStorage,
    add_session_middleware,
    cleanup_endpoint,
    renew_session,
    session_data,
)
from pulse.state import UserSession
from pulse.state.memory import MemorySessionStore

STORAGES = {
    "memory": MemorySessionStorage,
    "adapted memory": lambda: StoreSessionStorage(InMemorySessionStore()),
    "adapted state": lambda: StoreSessionStorage(StateSessionStore(MemorySessionStore())),
    "store": InMemorySessionStore,
    "cookie": lambda: CookieSessionStore("a secret"),
}


def count(request):
    session = session_data(request)
    session["count"] = session.get("count", 0) + 1
    session.setdefault("basket", [])
    return session["count"]


def login(request):
    session_data(request)["user"] = "anna"
    renew_session(request)


def fail(request):
    session_data(request)["a"] = 1
    raise OSError("bad day")


def fail_within(request):
    session_data(request)["basket"].append("fig")
    raise OSError("bad day")


def caller(session):
    """Who the context says that it is."""
    if session is None:
        return "nobody"
    assert isinstance(session, UserSession)
    return f"{session.sid} {session.user_id} {session.roles} {session.metadata.get('plan')} {session.data}"


PAGES = {
    "/": lambda request: "nothing",
    "/count": count,
    "/read": lambda request: session_data(request).get("count"),
    "/kind": lambda request: f"{isinstance(session_data(request), dict)} {session_data(request)}",
    "/login": login,
    "/who": lambda request: session_data(request).get("user"),
    "/logout": lambda request: session_data(request).clear(),
    "/big": lambda request: session_data(request).update({str(n): hash(str(n)) for n in range(1000)}),
    "/fail": fail,
    "/fail-within": fail_within,
    "/all": lambda request: dict(session_data(request)),
    "/caller": lambda request: caller(PulseContext.get().session),
}


def bare(storage, **options):
    """The pages as a bareASGI application."""
    app = Application()
    assert add_session_middleware(app, storage, **options) is app
    for path, page in PAGES.items():

        async def handler(request, page=page):
            return HttpResponse(
                200, [(b"content-type", b"text/plain"), (b"set-cookie", b"own=1")], text_writer(str(page(request)))
            )

        app.http_router.add({"GET"}, path, handler)
    return app


def plain(storage, **options):
    """The pages as a plain ASGI application."""

    async def site(scope, receive, send):
        body = str(PAGES[scope["path"]](scope)).encode()
        headers = [(b"content-type", b"text/plain"), (b"set-cookie", b"own=1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return SessionMiddleware(site, storage, **options)


def starlette(storage, **options):
    """The pages as a Starlette application."""

    async def endpoint(request: Request):
        response = PlainTextResponse(str(PAGES[request.url.path](request)))
        response.set_cookie("own", "1")
        return response

    return SessionMiddleware(Starlette(routes=[Route(path, endpoint) for path in PAGES]), storage, **options)


class Browser:
    """A client with a cookie jar, of one application."""

    def __init__(self, app, scheme="http"):
        self.app = app
        self.jar = httpx.Cookies()
        self.scheme = scheme

    def get(self, path, **headers):
        return asyncio.run(self._get(path, headers))

    async def _get(self, path, headers):
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(
            transport=transport, base_url=f"{self.scheme}://127.0.0.1:8000", cookies=self.jar
        ) as client:
            response = await client.get(path, headers=headers)
            self.jar = client.cookies
            return response

    @property
    def key(self):
        return self.jar["pulse-session"]


def cookies(response):
    return [text for text in response.headers.get_list("set-cookie") if not text.startswith("own=1")]


@pytest.fixture(params=[bare, plain, starlette])
def make(request):
    return request.param


@pytest.fixture(params=STORAGES)
def storage(request):
    return STORAGES[request.param]()


def test_a_session_is_found_again_and_its_cookie_is_sent_once_from_the_server(make, storage):
    browser = Browser(make(storage))

    first, second = browser.get("/count"), browser.get("/count")

    assert (first.text, second.text) == ("1", "2")
    assert len(cookies(first)) == 1
    assert len(cookies(second)) == isinstance(storage, CookieSessionStore)


def test_a_session_is_a_dict_that_is_empty_at_first(make):
    assert Browser(make(None)).get("/kind").text == "True {}"


def test_without_a_storage_sessions_are_kept_in_memory(make):
    browser = Browser(make(None))

    assert [browser.get("/count").text, browser.get("/count").text] == ["1", "2"]


def within(app, route=None):
    """*app*, with a context around it."""

    async def site(scope, receive, send):
        with PulseContext("the app", route=route) as context:
            await app(scope, receive, send)
            assert PulseContext.get() is context

    return site


@pytest.mark.parametrize("path", ["/caller", "/count"])
def test_the_session_of_the_context_is_the_callers_user_session(make, path):
    users = MemorySessionStore()
    asyncio.run(users.create_session("the-key", "anna", ["editor"], metadata={"plan": "gold"}))
    app = within(make(StateSessionStore(users)))
    browser = Browser(app)
    browser.jar.set("pulse-session", "the-key", domain="127.0.0.1")

    browser.get(path)

    kept = {"count": 1, "basket": []} if path == "/count" else {}
    assert browser.get("/caller").text == f"the-key anna ['editor'] gold {kept}"
    assert Browser(app).get("/caller").text.endswith("  [] None {}")


def test_the_context_of_a_session_in_a_cookie_knows_its_data(make, storage):
    browser = Browser(within(make(storage)))

    browser.get("/count")

    assert browser.get("/caller").text.endswith("  [] None {'count': 1, 'basket': []}")


def test_a_middleware_with_another_key_leaves_the_session_of_the_context_alone(make):
    assert Browser(within(make(None, context_key="other"))).get("/caller").text == "nobody"


@pytest.mark.parametrize("is_internal", [True, False])
def test_the_context_of_a_run_has_nobodys_session(make, is_internal):
    browser = Browser(within(make(None), RouteContext("/caller", internal=is_internal)))

    assert (browser.get("/caller").text == "nobody") is is_internal


def test_no_context_is_active_where_there_is_none_around_the_session(make):
    seen = []

    async def site(scope, receive, send):
        await app(scope, receive, send)
        seen.append(PULSE_CONTEXT.get())

    app = make(None)
    with pytest.raises(RuntimeError, match="no PulseContext is active"):
        Browser(plain(None)).get("/caller")
    Browser(site).get("/count")

    assert seen == [None]


def test_the_scope_holds_the_callers_user_session():
    seen = []

    async def site(scope, receive, send):
        seen.append(scope["pulse.session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    class Users(MemorySessionStore):
        looks = 0

        async def get_session(self, session_id):
            self.looks += 1
            return await super().get_session(session_id)

    users = Users()
    asyncio.run(users.create_session("the-key", "anna", ["editor"]))
    browser = Browser(SessionMiddleware(site, StateSessionStore(users)))
    browser.jar.set("pulse-session", "the-key", domain="127.0.0.1")

    browser.get("/")

    assert isinstance(seen[0], UserSession)
    assert (seen[0].session_id, seen[0].user_id, seen[0].roles) == ("the-key", "anna", ["editor"])
    assert users.looks == 1


def test_visitors_are_isolated(make, storage):
    app = make(storage)
    one, other = Browser(app), Browser(app)

    assert [one.get("/count").text, one.get("/count").text, other.get("/count").text] == ["1", "2", "1"]


def test_the_handlers_own_headers_stay(make):
    response = Browser(make(None)).get("/count")

    assert response.headers.get_list("set-cookie")[0].startswith("own=1")
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/", "/read", "/logout"])
def test_whoever_stores_nothing_gets_no_cookie_and_leaves_nothing_behind(make, path):
    storage = MemorySessionStorage()

    response = Browser(make(storage)).get(path)

    assert cookies(response) == []
    assert len(storage) == 0


def test_ten_thousand_visitors_who_never_touch_a_session_leave_nothing_behind():
    storage = MemorySessionStorage()
    app = plain(storage)

    async def visit_all():
        async def send(message):
            pass

        for number in range(10_000):
            headers = [(b"cookie", b"pulse-session=made-up-%d" % number)]
            await app({"type": "http", "path": "/", "headers": headers}, None, send)

    asyncio.run(visit_all())

    assert len(storage) == 0


def test_a_key_that_is_not_known_is_never_adopted(make, storage):
    browser = Browser(make(storage))

    response = browser.get("/count", cookie="pulse-session=chosen-by-somebody-else")

    assert response.text == "1"
    assert "chosen-by-somebody-else" not in cookies(response)[0]
    assert Browser(browser.app).get("/read", cookie="pulse-session=chosen-by-somebody-else").text == "None"


def test_a_tampered_cookie_is_a_new_session(make, storage):
    browser = Browser(make(storage))
    browser.get("/count")
    value = browser.key

    for tampered in (value[:-1], value + "A", value.swapcase()):
        assert Browser(browser.app).get("/count", cookie=f"pulse-session={tampered}").text == "1"


ODD = [
    b"pulse-session=",
    b"pulse-session",
    b"pulse-session=\xff\xfe",
    b"pulse-session=" + b"x" * 100_000,
    b"; ;;= =",
    b"",
]


@pytest.mark.parametrize("header", ODD, ids=lambda header: str(header[:24]))
def test_odd_cookies_are_no_error(make, header):
    started = []

    async def serve():
        async def send(message):
            started.append(message)

        async def receive():
            if any(message["type"] == "http.response.body" for message in started):
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"", "more_body": False}

        # No Host header either.
        scope = {
            "type": "http", "method": "GET", "path": "/count", "root_path": "", "query_string": b"", "scheme": "http",
            "headers": [(b"cookie", header), (b"cookie", b"pulse-session=\xe9")],
        }  # fmt: skip
        await asyncio.wait_for(make(None)(scope, receive, send), 20)

    asyncio.run(serve())

    assert started[0]["status"] == 200


def test_a_known_session_is_found_among_repeated_cookies(make):
    browser = Browser(make(None))
    browser.get("/count")
    value = browser.key

    assert Browser(browser.app).get("/count", cookie=f'pulse-session=stale; x; pulse-session="{value}"').text == "2"


def test_emptying_a_session_ends_it(make, storage):
    browser = Browser(make(storage))
    browser.get("/count")
    before = browser.key

    ended = browser.get("/logout")
    after = browser.get("/count")

    assert "Max-Age=0" in cookies(ended)[0]
    assert after.text == "1"
    assert browser.key != before
    if not isinstance(storage, CookieSessionStore):
        assert Browser(browser.app).get("/read", cookie=f"pulse-session={before}").text == "None"


def test_a_renewed_session_goes_on_under_a_new_id(make, storage):
    browser = Browser(make(storage))
    browser.get("/count")
    before = browser.key

    browser.get("/login")

    assert browser.key != before
    assert (browser.get("/who").text, browser.get("/count").text) == ("anna", "2")
    assert Browser(browser.app).get("/who", cookie=f"pulse-session={before}").text == "None"


def test_a_failing_handler_fails_and_keeps_nothing(make):
    storage = MemorySessionStorage()

    with pytest.raises(OSError, match="bad day"):
        Browser(make(storage)).get("/fail")
    assert len(storage) == 0


@pytest.mark.parametrize("path", ["/fail", "/fail-within"])
def test_a_failing_handler_changes_nothing_of_a_known_session(make, storage, path):
    browser = Browser(make(storage))
    browser.get("/count")

    with pytest.raises(OSError, match="bad day"):
        browser.get(path)

    assert browser.get("/all").text == "{'count': 1, 'basket': []}"


class Uncopyable:
    def __deepcopy__(self, memo):
        raise NotImplementedError


def test_a_session_in_memory_may_hold_what_cannot_be_copied(make, monkeypatch):
    held = Uncopyable()
    monkeypatch.setitem(PAGES, "/", lambda request: session_data(request).setdefault("held", held) is held)
    browser = Browser(make(MemorySessionStorage()))
    texts = [browser.get(path).text for path in ("/", "/count", "/")]

    assert texts == ["True", "1", "True"]


def test_a_session_that_does_not_fit_its_cookie_is_an_error_and_the_old_one_stays(make):
    browser = Browser(make(CookieSessionStore("a secret")))
    browser.get("/count")

    with pytest.raises(SessionTooLarge):
        browser.get("/big")

    assert browser.get("/count").text == "2"


# Somebody else's storage


class Recording(SessionStorage):
    def __init__(self):
        self.kept = {}
        self.events = []

    async def load(self, key):
        self.events.append("load")
        return dict(self.kept.get(key, {}))

    async def save(self, key, session):
        self.events.append("save")
        self.kept[key] = dict(session)


def test_a_storage_is_loaded_before_the_handler_and_saved_before_the_response():
    storage = Recording()

    async def site(scope, receive, send):
        storage.events.append("handler")
        session_data(scope)["a"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        storage.events.append(message["type"])

    asyncio.run(SessionMiddleware(site, storage)({"type": "http"}, None, send))

    assert storage.events == ["load", "handler", "save", "http.response.start", "http.response.body"]


@pytest.mark.parametrize("path", ["/count", "/read"])
def test_each_use_of_a_known_session_is_saved_in_a_storage(make, path):
    storage = Recording()
    browser = Browser(make(storage))
    browser.get("/count")
    storage.events.clear()

    browser.get(path)
    assert storage.events == ["load", "save"]
    storage.events.clear()
    browser.get("/")
    assert storage.events == ["load"]


def test_what_a_storage_gives_every_new_session_is_kept(make):
    class Greeting(Recording):
        async def load(self, key):
            return {"count": 10}

    assert Browser(make(Greeting())).get("/count").text == "11"


class Plain:
    """A storage that is no subclass of anything, over a dict of the user's."""

    def __init__(self):
        self.kept = {}

    async def load(self, key):
        return self.kept.get(key)

    async def save(self, key, session):
        self.kept[key] = dict(session)


class Subclass(Plain, SessionStorage):
    pass


@pytest.mark.parametrize("kind", [Plain, Subclass])
def test_a_storage_may_load_none_for_no_session(make, kind):
    storage = kind()
    browser = Browser(make(storage))

    texts = [browser.get(path).text for path in ("/read", "/count", "/count", "/login", "/logout", "/read")]

    assert texts == ["None", "1", "2", "None", "None", "None"]
    assert [session for session in storage.kept.values() if session] == []


def test_a_storage_that_is_no_subclass_is_swept_if_it_can_be():
    class Sweeping(Plain):
        async def sweep(self):
            return 3

    browser = webtest.TestApp(cleanup_endpoint(Sweeping(), Plain()))

    assert browser.get("/").text == "removed 3 expired sessions\n"


class Half:
    async def load(self, key):
        return {}


@pytest.mark.parametrize("wrong", [object(), {}, MemorySessionStorage, Plain, Half(), [Plain()]])
def test_what_is_no_storage_is_refused(make, wrong):
    with pytest.raises(TypeError, match="SessionStorage"):
        make(wrong)


# The cookie


def test_the_cookie_is_for_this_host_alone_and_out_of_reach_for_scripts(make):
    text = cookies(Browser(make(None)).get("/count"))[0]

    assert re.fullmatch("pulse-session=[A-Za-z0-9_-]{43}; HttpOnly; Path=/; SameSite=Lax", text)


def test_a_cookie_that_was_set_over_https_stays_there(make):
    assert cookies(Browser(make(None), "https").get("/count"))[0].endswith("; Secure")


def test_the_attributes_of_the_cookie_are_those_that_were_asked_for(make):
    app = make(
        None,
        cookie_name=b"sid",
        expires=datetime(2030, 1, 1),
        max_age=timedelta(hours=1),
        path=b"/app",
        domain=b"example.org",
        secure=True,
        http_only=False,
        same_site=b"Strict",
    )

    name, *attributes = cookies(Browser(app).get("/count"))[0].split("; ")

    said = dict(attribute.partition("=")[::2] for attribute in attributes)
    assert name.startswith("sid=")
    assert parsedate_to_datetime(said.pop("expires")).isoformat() == "2030-01-01T00:00:00+00:00"
    assert said == {"Max-Age": "3600", "Path": "/app", "Domain": "example.org", "Secure": "", "SameSite": "Strict"}


@pytest.mark.parametrize(
    "options",
    [
        {"cookie_name": "a b"},
        {"cookie_name": ""},
        {"path": "/;x"},
        {"domain": "example.org:8080"},
        {"same_site": "lox"},
        {"same_site": "none"},
    ],
    ids=str,
)
def test_an_attribute_that_no_browser_would_take_is_refused_by_name(make, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(None, **options)


def test_two_middlewares_with_other_keys_and_cookies_do_not_disturb_each_other():
    outer, inner = MemorySessionStorage(), MemorySessionStorage()
    app = Application()
    add_session_middleware(app, outer, context_key="outer", cookie_name="outer")
    add_session_middleware(app, inner, context_key="inner", cookie_name="inner")

    async def handler(request):
        session = session_data(request, context_key="inner")
        session["count"] = session.get("count", 0) + 1
        other = session_data(request, context_key="outer")
        other.setdefault("first", session["count"])
        return HttpResponse(200, None, text_writer(f"{session['count']} {other}"))

    app.http_router.add({"GET"}, "/", handler)
    browser = Browser(app)

    assert [browser.get("/").text, browser.get("/").text] == ["1 {'first': 1}", "2 {'first': 1}"]
    assert set(browser.jar) == {"outer", "inner"}
    assert browser.jar["outer"] != browser.jar["inner"]
    assert (len(outer), len(inner)) == (1, 1)


def test_a_handler_without_the_middleware_is_told_so():
    with pytest.raises(NoSessionError, match="context_key = 'other'") as caught:
        session_data({"type": "http"}, context_key="other")
    assert isinstance(caught.value, LookupError)


# Requests that overlap


@pytest.mark.parametrize("make", [bare, plain])
def test_two_requests_of_one_session_that_set_different_keys_keep_both(make, monkeypatch):
    storage = MemorySessionStorage()
    browser = Browser(make(storage))
    browser.get("/count")
    key = browser.key

    async def overlap():
        barrier = asyncio.Barrier(2)

        async def site(scope, receive, send):
            await barrier.wait()
            session_data(scope)[scope["path"]] = True
            await barrier.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def send(message):
            pass

        app = SessionMiddleware(site, storage)
        headers = [(b"cookie", f"pulse-session={key}".encode())]
        await asyncio.gather(*(app({"type": "http", "path": path, "headers": headers}, None, send) for path in "ab"))
        return await storage.load(key)

    assert asyncio.run(overlap()) == {"count": 1, "basket": [], "a": True, "b": True}


def test_a_slow_request_does_not_bring_an_ended_session_back(storage):
    if isinstance(storage, CookieSessionStore):
        pytest.skip("a signed cookie cannot be ended by the server")
    browser = Browser(plain(storage))
    browser.get("/count")
    headers = [(b"cookie", f"pulse-session={browser.key}".encode())]
    logged_out = asyncio.Event

    async def overlap():
        is_slow, is_over = logged_out(), logged_out()

        async def site(scope, receive, send):
            if scope["path"] == "/slow":
                session_data(scope)["late"] = True
                is_slow.set()
                await is_over.wait()
                session_data(scope)["late"] = "very"
            else:
                session_data(scope).clear()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def send(message):
            pass

        app = SessionMiddleware(site, storage)
        slow = asyncio.create_task(app({"type": "http", "path": "/slow", "headers": headers}, None, send))
        await is_slow.wait()
        await app({"type": "http", "path": "/logout", "headers": headers}, None, send)
        is_over.set()
        await slow

    asyncio.run(overlap())

    assert Browser(browser.app).get("/read", cookie=headers[0][1].decode()).text == "None"


# More than a request and its response


def stream(storage, late):
    """An application that does something with its session when its headers are sent."""

    async def site(scope, receive, send):
        if scope["path"] == "/first":
            session_data(scope)["basket"] = ["pear"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        late(session_data(scope))
        await send({"type": "http.response.body", "body": str(session_data(scope)).encode()})

    return SessionMiddleware(site, storage)


def test_what_is_changed_within_a_session_behind_the_headers_is_kept():
    storage = MemorySessionStorage()
    browser = Browser(stream(storage, lambda session: session["basket"].append("fig")))

    browser.get("/first")
    browser.get("/again")

    assert asyncio.run(storage.load(browser.key)) == {"basket": ["pear", "fig", "fig"]}


def test_a_session_that_is_only_read_behind_the_headers_is_no_matter(storage, caplog):
    browser = Browser(stream(storage, lambda session: session.get("basket")))

    texts = [browser.get(path).text for path in ("/", "/first", "/")]

    assert texts == ["{}", "{'basket': ['pear']}", "{'basket': ['pear']}"]
    assert not [record for record in caplog.records if getattr(record, "pulse_event", "") == "session_too_late"]


def test_a_response_without_headers_and_one_with_pushes_stay_what_they_are():
    app = Application()
    add_session_middleware(app, None)
    shared = HttpResponse(204, None, None, [("/style.css", [(b"accept", b"*/*")])])

    async def handler(request):
        session_data(request)["a"] = 1
        return shared

    app.http_router.add({"GET"}, "/", handler)
    request = type("Request", (), {"scope": {"type": "http", "headers": []}, "context": {}})()

    response = asyncio.run(app.middlewares[0](request, handler))

    assert type(response) is HttpResponse
    assert response.status == 204
    assert response.pushes == shared.pushes
    assert [name for name, _ in response.headers] == [b"vary", b"set-cookie"]
    assert shared.headers is None
    assert Browser(app).get("/").status_code == 204


def test_a_response_of_a_handler_without_a_session_is_given_back_itself():
    app = Application()
    add_session_middleware(app)
    response = HttpResponse(200)

    async def handler(request):
        return response

    request = type("Request", (), {"scope": {"type": "http", "headers": []}, "context": {}})()

    assert asyncio.run(app.middlewares[0](request, handler)) is response


@pytest.mark.parametrize("kind", [MemorySessionStorage, InMemorySessionStore])
def test_a_websocket_has_its_session_which_is_kept_at_its_end_too(kind):
    storage = kind()
    sent = []

    async def site(scope, receive, send):
        session_data(scope)["opened"] = True
        await send({"type": "websocket.accept"})
        session_data(scope)["heard"] = 3
        await send({"type": "websocket.close"})

    async def send(message):
        sent.append(message)

    asyncio.run(SessionMiddleware(site, storage)({"type": "websocket", "scheme": "wss", "headers": []}, None, send))

    text = dict(sent[0]["headers"])[b"set-cookie"].decode()
    assert text.endswith("; Secure")
    key = re.match("pulse-session=([^;]+)", text)[1]
    read = storage.load if kind is MemorySessionStorage else storage.get
    assert asyncio.run(read(key)) == {"opened": True, "heard": 3}


@pytest.mark.parametrize(("status", "is_kept"), [(403, True), (500, False)])
def test_a_websocket_that_is_refused_with_a_response_has_its_session(status, is_kept):
    storage = MemorySessionStorage()
    sent = []

    async def site(scope, receive, send):
        session_data(scope)["tries"] = 1
        await send({"type": "websocket.http.response.start", "status": status, "headers": [(b"x-own", b"1")]})
        await send({"type": "websocket.http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    asyncio.run(SessionMiddleware(site, storage)({"type": "websocket", "scheme": "ws", "headers": []}, None, send))

    assert (b"x-own", b"1") in sent[0]["headers"]
    assert (b"set-cookie" in dict(sent[0]["headers"])) is is_kept
    assert len(storage) == is_kept


def test_a_websocket_that_is_refused_without_headers_leaves_no_session_that_nobody_is_told_of(caplog):
    store = InMemorySessionStore()
    asyncio.run(store.save("known", {"user": "anna"}))
    asyncio.run(store.save("renewed", {"user": "anna"}))

    async def site(scope, receive, send):
        session_data(scope)["tries"] = 1
        if scope["path"] == "/renew":
            renew_session(scope)
        await send({"type": "websocket.close"})  # before it is accepted, there is no place for a cookie

    async def send(message):
        pass

    for path, key in (("/", "unknown"), ("/", "known"), ("/renew", "renewed")):
        headers = [(b"cookie", f"pulse-session={key}".encode())]
        asyncio.run(SessionMiddleware(site, store)({"type": "websocket", "path": path, "headers": headers}, None, send))

    assert len(store) == 2
    assert asyncio.run(store.get("known")) == {"user": "anna", "tries": 1}
    assert asyncio.run(store.get("renewed")) == {"user": "anna"}
    assert [record.pulse_event for record in caplog.records] == ["session_too_late"] * 2


def test_of_a_session_that_is_first_used_behind_the_head_of_an_error_page_nothing_is_kept(storage):
    async def site(scope, receive, send):
        is_failing = scope["path"] == "/fail"
        text = b"" if is_failing else str(count(scope)).encode()
        await send({"type": "http.response.start", "status": 500 if is_failing else 200, "headers": []})
        if is_failing:
            session_data(scope)["count"] = 100
        await send({"type": "http.response.body", "body": text})

    browser = Browser(SessionMiddleware(site, storage))
    browser.get("/count")
    browser.get("/fail")

    assert browser.get("/count").text == "2"


def test_other_scopes_pass_and_the_store_is_closed_at_shutdown():
    events = []

    class Store(InMemorySessionStore):
        async def close(self):
            events.append("closed")

    async def site(scope, receive, send):
        events.append(scope["type"])
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})

    async def send(message):
        events.append(message["type"])

    app = SessionMiddleware(site, Store())
    asyncio.run(app({"type": "lifespan"}, None, send))
    asyncio.run(app({"type": "something.else"}, None, send))

    assert events == [
        "lifespan", "lifespan.startup.complete", "closed", "lifespan.shutdown.complete", "something.else",
    ]  # fmt: skip


def test_many_first_requests_at_once_initialise_a_store_once():
    class Store(InMemorySessionStore):
        inits = 0

        async def init(self):
            self.inits += 1
            await asyncio.sleep(0)

        async def get(self, sid):
            assert self.inits == 1

    store = Store()

    async def site(scope, receive, send):
        session_data(scope)

    async def all_at_once():
        app = SessionMiddleware(site, store)
        headers = [(b"cookie", b"pulse-session=a")]
        await asyncio.gather(*(app({"type": "http", "headers": headers}, None, None) for _ in range(20)))

    asyncio.run(all_at_once())

    assert store.inits == 1
