import asyncio
import pickle
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from guard_app import PATH, TOKEN, reached
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guard_sockets import HEADERS, NEIGHBOURS, PIECES, SPELLINGS

from pulse.asgi import AsgiPulse
from pulse.context import PULSE_CONTEXT, PulseContext
from pulse.control import Control
from pulse.dispatch import Dispatcher
from pulse.errors import ConfigError, UnknownTaskError
from pulse.mark import INTERNAL, internal_only, is_internal
from pulse.middleware import PulseMiddleware
from pulse.model import Config, Outcome, Run, Task, Trigger
from pulse.testing import ManualClock
from pulse.wsgi.bridge.home import Home
from pulse.wsgi.bridge.inward import Inward
from pulse.wsgi.bridge.scope import environ_of

DUE = datetime(2027, 3, 4, 5, 6, tzinfo=UTC)
TASK = {"cleanup": {"action": PATH, "interval": 60}}


def pulse_of(app, **options):
    """*app* behind a guard; it rings for nobody."""
    return AsgiPulse(app, **{"task": TASK, "guard": True, "start": "manual", "store": "memory:", **options})


def scope_of(path="/", *headers, kind="http", **more):
    """A request from outside; *headers* are lines."""
    pairs = [tuple(part.strip() for part in line.encode("latin-1").split(b":", 1)) for line in headers]
    scope = {"type": kind, "path": path, "headers": pairs, **more}
    return scope if kind == "websocket" else {"method": "GET", **scope}


def talk(app, scope, *received):
    """The messages that *app* sends when it receives these; it must not ask for more."""
    messages, sent = list(received), []

    async def receive():
        return {"type": messages.pop(0)}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert not messages
    return sent


def answer_of(sent):
    """Status, headers and body of an answer."""
    assert sent[0]["type"] == "http.response.start"
    assert not sent[-1].get("more_body", False)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


async def respond(send, body=b"", status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


class Seen:
    """An application that keeps the scopes that reach it, and what it knows in each."""

    def __init__(self):
        self.scopes, self.contexts, self.internal = [], [], []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        self.contexts.append(PULSE_CONTEXT.get())
        self.internal.append(is_internal(scope))
        if scope["type"] == "http":
            await respond(send, b"seen")


@pytest.fixture
def seen():
    return Seen()


# The guard


def scopes_of(target, *headers):
    """The request of *target* as servers make it: all of its path decoded, or the address cut off."""
    path = target.partition(b"?")[0]
    text = unquote(path.decode("latin-1").encode("latin-1").decode("utf-8", "replace"))
    yield scope_of(text, *headers, raw_path=path)
    yield scope_of(text, *headers)
    yield scope_of(text, *headers, raw_path=path, root_path="/")
    yield scope_of(f"/app{text}", *headers, raw_path=b"/app" + path, root_path="/app")
    yield scope_of(text, *headers, raw_path=path, root_path="/app")


@pytest.mark.parametrize("target", SPELLINGS)
def test_no_spelling_reaches_the_guarded_endpoint(seen, target):
    pulse = pulse_of(seen)

    for scope in scopes_of(target):
        if reached(environ_of(scope, None)):
            assert answer_of(talk(pulse, scope))[0] == 404

    assert seen.scopes == [scope for scope in seen.scopes if not reached(environ_of(scope, None))]


@pytest.mark.parametrize("target", NEIGHBOURS)
def test_neighbours_pass_as_they_are(seen, target):
    pulse = pulse_of(seen)
    scopes = list(scopes_of(target))[
        :-1
    ]  # the last is of a server that keeps the prefix to itself, which costs neighbours

    for scope in scopes:
        assert answer_of(talk(pulse, scope))[2] == b"seen"

    assert all(given is scope for given, scope in zip(seen.scopes, scopes, strict=True))


@pytest.mark.parametrize(("target", "lines"), HEADERS)
@pytest.mark.parametrize("spell", [str.lower, str.upper, lambda name: name.replace("-", "_")])
def test_no_header_reaches_the_guarded_endpoint(seen, target, lines, spell):
    headers = [
        spell(name) + colon + value
        for name, colon, value in (line.partition(":") for line in lines.decode().split("\r\n"))
    ]
    (scope, *_) = scopes_of(target, *headers)

    assert answer_of(talk(pulse_of(seen), scope))[0] == 404
    assert seen.scopes == []


@settings(max_examples=300, deadline=None)
@given(path=st.lists(st.sampled_from(PIECES), max_size=8).map("".join), root=st.sampled_from(["", "/app", "/sessions"]))
def test_what_any_router_takes_for_the_guarded_path_is_refused(path, root):
    scope = scope_of(path, root_path=root)
    seen = Seen()

    if reached(environ_of(scope, None)):
        talk(GUARDED(seen), scope)

        assert seen.scopes == []


def GUARDED(seen, made=[]):  # noqa: B006, N802 - one for all examples
    made[:] = made or [pulse_of(seen)]
    made[0].app = seen
    return made[0]


def test_a_mounted_application_is_guarded_by_whichever_path_it_routes(seen):
    for path, root in [
        ("/app/sessions/cleanup", "/app"),
        ("/sessions/cleanup", "/app"),
        ("/sessions/cleanup", "/sessions"),
    ]:
        assert answer_of(talk(pulse_of(seen), scope_of(path, root_path=root)))[0] == 404

    assert seen.scopes == []


def test_the_raw_path_is_judged_as_well(seen):
    assert answer_of(talk(pulse_of(seen), scope_of("/x", raw_path=PATH.encode())))[0] == 404
    assert seen.scopes == []


def test_outsiders_get_the_bytes_that_wsgi_gives_them_and_none_is_read_of_theirs(seen):
    pulse = pulse_of(seen)
    started = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": PATH, "SCRIPT_NAME": ""}
    wsgi = PulseMiddleware(lambda *_: [], task=TASK, guard=True, start="manual", store="memory:")
    body = b"".join(wsgi(environ, lambda status, headers: started.append((status, headers))))

    status, headers, sent = answer_of(talk(pulse, scope_of(PATH)))

    assert (f"{status} Not Found", sent) == (started[0][0], body)
    assert headers == {name.lower().encode(): value.encode() for name, value in started[0][1]}
    assert answer_of(talk(pulse, scope_of(PATH, method="HEAD")))[::2] == (404, b"")
    assert pulse.pulse.guard.denied == 2


def test_without_guard_all_requests_pass(seen):
    assert answer_of(talk(pulse_of(seen, guard=False), scope_of(PATH)))[0] == 200
    assert seen.internal == [False]


def test_what_only_pulse_may_say_is_removed_and_the_scope_of_the_server_stays(seen):
    forged = ["X-Pulse-Task: cleanup", "X_PULSE_RUN: 1", "Accept: */*"]
    scope = scope_of("/", *forged, **{"pulse.internal": "1", "pulse.info": {}, "pulse.cfg": "of a layer outside"})
    before = dict(scope)

    talk(pulse_of(seen), scope)

    assert scope == before
    assert seen.scopes[0]["headers"] == [(b"Accept", b"*/*")]
    assert {key for key in seen.scopes[0] if key.startswith("pulse.")} == {"pulse.cfg"}
    assert seen.internal == [False]


def test_the_token_makes_a_call_by_hand_internal_while_it_lasts(seen):
    pulse = pulse_of(seen, token=TOKEN)

    assert answer_of(talk(pulse, scope_of(PATH, f"Authorization: Bearer {TOKEN}", "Accept: */*")))[0] == 200

    (scope,) = seen.scopes
    assert seen.internal == [True]
    assert scope["headers"] == [(b"Accept", b"*/*")]
    assert scope[INTERNAL].trigger is Trigger.MANUAL
    assert not is_internal(scope)


@pytest.mark.parametrize(
    ("lines", "failures"),
    [(["Bearer wrong"], 1), ([f"Basic {TOKEN}"], 0), ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], 1)],
)
def test_a_wrong_token_is_refused(seen, lines, failures):
    pulse = pulse_of(seen, token=TOKEN)

    assert answer_of(talk(pulse, scope_of(PATH, *(f"Authorization: {line}" for line in lines))))[0] == 404
    assert (seen.scopes, pulse.pulse.guard.token_failures) == ([], failures)


def test_a_websocket_to_a_guarded_path_is_closed_before_it_is_open(seen):
    sent = talk(pulse_of(seen), scope_of(PATH, kind="websocket"), "websocket.connect")

    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert seen.scopes == []


def test_a_websocket_elsewhere_passes(seen):
    scope = scope_of("/ws", kind="websocket")

    assert talk(pulse_of(seen), scope) == []
    assert seen.scopes[0] is scope
    assert seen.contexts[0].route.path == "/ws"


def test_kinds_of_connections_that_nobody_knows_are_guarded_too(seen):
    pulse = pulse_of(seen)

    talk(pulse, {"type": "telegraph"})
    with pytest.raises(NotImplementedError, match="telegraph"):
        talk(pulse, {"type": "telegraph", "path": PATH})

    assert seen.scopes == [{"type": "telegraph"}]


# The context


def test_the_context_of_a_request_names_the_door_and_ends_with_it(seen):
    pulse = pulse_of(seen, context="jobs")

    async def visit():
        await pulse(scope_of("/app/jobs/münchen", root_path="/app"), None, _ignore)
        return PULSE_CONTEXT.get()

    assert asyncio.run(visit()) is None
    (context,) = seen.contexts
    assert context.app is pulse
    assert (context.route.path, context.route.action, context.route.internal) == ("/jobs/münchen", "münchen", False)
    assert context.session is None


def test_the_context_has_what_a_session_layer_outside_has_left(seen):
    talk(pulse_of(seen), scope_of("/", **{"pulse.session": "a session"}))

    assert seen.contexts[0].session == "a session"


def test_of_two_pulses_the_outer_one_is_the_app_of_the_context(seen):
    outer = pulse_of(pulse_of(seen))

    talk(outer, scope_of("/"))

    assert seen.contexts[0].app is outer


async def _ignore(message):
    pass


# Internal requests


def run_of(app, *, face=None, home=None, control=None, query="", **options):
    """What becomes of the internal request to *app*."""
    task = Task(name="cleanup", action=f"{PATH}{query}", **options)
    config = Config(tasks={"cleanup": task}, guard=True)
    run = Run(id="0" * 32, task="cleanup", due=DUE, owner="me", started=DUE, attempt=1)
    dispatcher = Dispatcher(Inward(app, home or Home(app), face), config, clock=ManualClock())
    return asyncio.run(dispatcher.perform(task, run, control or Control()))


def test_an_internal_request_is_an_ordinary_one_with_a_mark(seen):
    face = object()

    reply = run_of(
        seen,
        face=face,
        method="POST",
        body=b"{}",
        content_type="application/json",
        environ=(("USER", "cron"),),
        query="?a=b",
    )

    (scope,) = seen.scopes
    assert (reply.outcome, reply.status, reply.body) == (Outcome.SUCCESS, 200, b"seen")
    assert (scope["type"], scope["method"], scope["path"], scope["raw_path"]) == ("http", "POST", PATH, PATH.encode())
    assert (scope["query_string"], scope["root_path"], scope["scheme"], scope["http_version"]) == (
        b"a=b",
        "",
        "http",
        "1.1",
    )
    headers = dict(scope["headers"])
    assert (headers[b"content-type"], headers[b"content-length"]) == (b"application/json", b"2")
    assert headers[b"x-pulse-task"] == b"cleanup"
    assert {"pulse.info", "pulse.cancelled", "pulse.progress", "pulse.connection", "pulse.cfg"} < scope.keys()
    assert scope["USER"] == "cron"
    assert not {key for key in scope if key.startswith(("HTTP_", "wsgi."))}
    assert seen.internal == [True]
    assert not is_internal(scope)
    assert seen.contexts[0].app is face
    assert (seen.contexts[0].route.path, seen.contexts[0].route.task.task) == (PATH, "cleanup")


def test_a_path_that_is_not_ascii_arrives_as_text():
    seen = Seen()
    task = Task(name="łódź", action="/jobs/münchen%20%25")
    run = Run(id="0" * 32, task="łódź", due=DUE, owner="me", started=DUE, attempt=1)

    reply = asyncio.run(
        Dispatcher(Inward(seen, Home(seen)), Config(tasks={"łódź": task})).perform(task, run, Control())
    )

    assert reply.outcome is Outcome.SUCCESS, reply
    assert seen.scopes[0]["path"] == "/jobs/münchen %"
    assert seen.scopes[0]["raw_path"] == b"/jobs/m%C3%BCnchen%20%25"
    assert dict(seen.scopes[0]["headers"])[b"x-pulse-task"] == "łódź".encode()


def test_internal_only_lets_the_run_pass_and_nobody_else():
    @internal_only
    async def endpoint(send):
        await respond(send, b"done")

    async def app(scope, receive, send):
        await endpoint(send)

    assert run_of(app).body == b"done"
    with pytest.raises(PermissionError):
        talk(pulse_of(app, guard=False), scope_of(PATH))


def test_an_internal_request_passes_the_guard_of_a_pulse_further_in(seen):
    face = object()

    assert run_of(pulse_of(seen), face=face).body == b"seen"
    assert seen.internal == [True]
    assert seen.contexts[0].app is face


def test_the_request_has_its_body_once_and_then_nobody_is_there_when_the_response_is_complete():
    received = []

    async def app(scope, receive, send):
        received.append(await receive())
        leaving = asyncio.create_task(receive())
        await asyncio.sleep(0)
        assert not leaving.done()
        await respond(send)
        received.append(await leaving)

    run_of(app, method="POST", body=b"x")

    assert received == [{"type": "http.request", "body": b"x", "more_body": False}, {"type": "http.disconnect"}]


def test_what_is_done_behind_the_response_is_part_of_the_run():
    async def app(scope, receive, send):
        await respond(send, b"done")
        raise OSError("bad day")

    reply = run_of(app)

    assert (reply.outcome, reply.reason, reply.status) == (Outcome.FAILED, "OSError: bad day", 200)
    assert "in app" in reply.traceback


START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "returned before its response had begun"),
        ([START], "returned before its response was complete"),
        ([START, {**END, "more_body": True}], "returned before its response was complete"),
        ([END], "sent 'http.response.body' before its response had begun"),
        ([START, START], "sent 'http.response.start' before its response was complete"),
        ([START, END, END], "sent 'http.response.body' when its response was complete"),
        ([START, {"type": "http.response.push"}], "sent 'http.response.push'"),
        ([{**START, "status": "fine"}], "its status is 'fine'"),
        ([START, {**END, "body": "text"}], "a bytes-like object is required"),
    ],
)
@pytest.mark.parametrize("swallows", [False, True])
def test_a_response_that_is_none_is_a_failure(messages, reason, swallows):
    async def app(scope, receive, send):
        for message in messages:
            try:
                await send(message)
            except Exception as error:
                if not swallows:
                    raise ExceptionGroup("as task groups have it", [error]) from None

    reply = run_of(app)

    assert reply.outcome is Outcome.FAILED
    assert reason in reply.reason


def test_a_run_that_is_asked_to_stop_is_cut_whatever_the_application_makes_of_it():
    control = Control()

    async def app(scope, receive, send):
        await send(START)
        for _ in range(10):
            try:
                await send({**END, "body": memoryview(b"x"), "more_body": True})
            except Exception:
                break
            control.set()
        await send(END)

    reply = run_of(app, control=control)

    assert (reply.outcome, reply.body) == (Outcome.CANCELLED, b"xx")


def test_a_response_without_end_leaves_the_loop_its_turn():
    async def app(scope, receive, send):
        await send(START)
        while True:
            await send({**END, "body": b"x", "more_body": True})

    async def cut():
        async with asyncio.timeout(0.01):
            await Inward(app, Home(app))(ENVIRON, lambda *_: len)

    with pytest.raises(TimeoutError):
        asyncio.run(cut())


class _Nothing:
    def read(self):
        return b""


ENVIRON = {
    "REQUEST_METHOD": "GET",
    "PATH_INFO": "/",
    "wsgi.url_scheme": "http",
    "SERVER_NAME": "x",
    "wsgi.input": _Nothing(),
}


def test_a_handler_reaches_another_process_without_what_belongs_to_this_one():
    handler = pickle.loads(pickle.dumps(Inward(respond, Home(respond), object())))

    assert handler.app is respond
    assert handler.async_


# The life of the server


def live(pulse, *, received=("lifespan.startup", "lifespan.shutdown"), **scope):
    sent = talk(pulse, {"type": "lifespan", **scope}, *received)
    return [message["type"].removeprefix("lifespan.") for message in sent]


BOTH = ["startup.complete", "shutdown.complete"]


def test_the_lifespan_is_passed_on_and_its_state_is_there_for_internal_requests(seen):
    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            await seen(scope, receive, send)
            return
        assert PULSE_CONTEXT.get() is None
        scope["state"]["pool"] = "made at the start"
        for _ in range(2):
            await send({"type": f"{(await receive())['type']}.complete"})

    pulse = pulse_of(app)

    assert live(pulse, state={}) == BOTH
    assert run_of(app, home=pulse._home).outcome is Outcome.SUCCESS
    seen.scopes[0]["state"]["user"] = "of one request"
    run_of(app, home=pulse._home)
    assert seen.scopes[1]["state"] == {"pool": "made at the start"}


async def refuses(scope, receive, send):
    assert scope["type"] == "http"


async def ignores(scope, receive, send):
    """Returns at once."""


async def starts_only(scope, receive, send):
    await send({"type": f"{(await receive())['type']}.complete"})


async def listens_only(scope, receive, send):
    await receive()


async def says_nothing_at_the_end(scope, receive, send):
    await starts_only(scope, receive, send)
    await receive()


@pytest.mark.parametrize("app", [refuses, ignores, starts_only, listens_only, says_nothing_at_the_end])
def test_an_application_that_takes_no_part_in_the_lifespan_is_answered_for(app):
    assert live(pulse_of(app)) == BOTH


def test_an_application_that_fails_to_start_tells_the_server():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    pulse = pulse_of(app)
    pulse.pulse.open = pytest.fail

    assert live(pulse, received=["lifespan.startup"]) == ["startup.failed"]


def test_an_error_at_the_start_is_for_the_server():
    async def app(scope, receive, send):
        await receive()
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        live(pulse_of(app), received=["lifespan.startup"])


def test_the_engine_is_opened_behind_the_application_and_closed_before_it():
    story = []

    async def app(scope, receive, send):
        await receive()
        story.append("app starts")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        story.append("app ends")
        await send({"type": "lifespan.shutdown.complete"})

    pulse = pulse_of(app)
    pulse.pulse.open = lambda: story.append("opened")
    pulse.pulse.close = lambda: story.append("closed")

    assert live(pulse) == BOTH
    assert story == ["app starts", "opened", "closed", "app ends"]


def test_internal_requests_wait_until_the_application_has_started(seen):
    async def main():
        home = Home(seen)
        home.start(None)
        run = asyncio.create_task(Inward(seen, home)(ENVIRON, lambda *_: len))
        for _ in range(10):
            await asyncio.sleep(0)
        assert seen.scopes == []
        home.has_started()
        await run

    asyncio.run(main())

    assert len(seen.scopes) == 1


# The rest of the door


def test_runs_are_tasks_of_the_loop_unless_somebody_says_otherwise(seen):
    assert pulse_of(seen).config.mode == "auto"
    assert pulse_of(seen).pulse._engines.mode == "asyncio"
    assert pulse_of(seen, config={"pulse.config.mode": "threading"}).config.mode == "threading"
    assert pulse_of(seen, mode="threading").config.mode == "threading"
    assert AsgiPulse(seen, Config(start="manual")).config.mode == "threading"


def test_what_is_no_application_is_refused():
    with pytest.raises(ConfigError, match="want an ASGI application"):
        AsgiPulse("starlette")


def test_faults_of_the_configuration_are_named(seen):
    with pytest.raises(ConfigError, match="intervall"):
        AsgiPulse(seen, task={"cleanup": {"intervall": 5}})
    with pytest.raises(ConfigError, match="config"):
        AsgiPulse(seen, config=["pulse.config.guard"])


def test_tasks_are_paused_and_resumed_by_either_name(seen):
    pulse = pulse_of(seen, tasks={"other": {"interval": 60}})

    pulse.pause("cleanup", note="moving")

    assert set(pulse.config.tasks) == {"cleanup", "other"}
    assert pulse.run_store.pauses()["cleanup"].note == "moving"
    assert pulse.resume("cleanup")
    with pytest.raises(UnknownTaskError):
        pulse.pause("cleanupp")


def test_a_forked_child_shows_a_status_page_of_its_own(seen):
    pulse = pulse_of(seen, status="/_pulse", token=TOKEN)
    scope = scope_of("/_pulse/live")
    of_parent = pulse.pulse.window_for(scope).app

    pulse.pulse._forget()  # its locks may be held by threads that are not there

    of_child = pulse.pulse.window_for(scope).app
    assert of_child is not of_parent
    assert pulse.pulse.window_for(scope).app is of_child


def test_run_now_on_the_loop_of_the_runs_says_what_to_use_instead(seen):
    pulse = pulse_of(seen)

    async def visit():
        await pulse(scope_of("/"), None, _ignore)
        with pytest.raises(RuntimeError, match="arun_now"):
            pulse.run_now("cleanup")

    asyncio.run(visit())


def test_the_context_is_that_of_the_request_in_what_it_starts(seen):
    paths = []

    async def app(scope, receive, send):
        async def later():
            paths.append(PulseContext.get().route.path)

        await asyncio.create_task(later())

    talk(pulse_of(app), scope_of("/page"))

    assert paths == ["/page"]
