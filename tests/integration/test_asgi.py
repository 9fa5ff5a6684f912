"""ASGI applications with tasks under real servers: uvicorn and hypercorn."""

import asyncio
import http.client
import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager

import pytest
import websockets
from servers import HERE, PATIENCE, ROOT, holds_for, program, wait_until
from test_guard_sockets import HEADERS, METHODS, NEIGHBOURS, PATH, SPELLINGS, TOKEN, ask

from pulse import is_internal
from pulse.asgi import AsgiPulse
from pulse.model import Outcome

SERVERS = {
    "uvicorn": ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "0"),
    "hypercorn": ("-m", "hypercorn", "--bind", "127.0.0.1:0"),
}
QUICK = {"tick": {"interval": 0.3}}
every_server = pytest.mark.parametrize("server", SERVERS)


class Site:
    """A served application and what it has noted."""

    def __init__(self, server, notes):
        self.server = server
        self._notes = notes

    def said(self, what=""):
        """The words behind the pid of each note that begins with *what*."""
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return [rest for _, _, rest in (line.partition(" ") for line in lines) if rest.startswith(what)]

    def pids(self, what):
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return {int(pid) for pid, _, rest in (line.partition(" ") for line in lines) if rest.startswith(what)}


@pytest.fixture
def serve(tmp_path):
    @contextmanager
    def serving(server, app, *options, **site):
        notes = tmp_path / "notes"
        more = {"NOTES": str(notes), "APP": app, "SITE": json.dumps({"task": QUICK, **site})}
        module = "asgi_app" if app == "starlette" else "asgi_frameworks"
        with program(*SERVERS[server], *options, f"{module}:application", env=more) as running:
            yield Site(running, notes)

    return serving


def websocket_answer(port, path):
    """What a WebSocket to *path* says; or the status that refuses it."""

    async def talk():
        async with websockets.connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as connection:
            await connection.send("hello")
            return await connection.recv()

    try:
        return asyncio.run(talk())
    except websockets.InvalidStatus as refusal:
        return refusal.response.status_code


@every_server
def test_a_site_runs_its_tasks_serves_its_visitors_and_goes_in_order(serve, server):
    with serve(server, "starlette") as site:
        wait_until(lambda: len(site.said("tick")) >= 2)  # nobody has asked for anything yet
        port = site.server.port
        assert site.server.get("/page") == (200, b"AsgiPulse /page False None")
        assert site.server.get("/jobs/tick") == (404, b"Not Found\n")
        assert websocket_answer(port, "/ws") == "AsgiPulse /ws False None hello"
        assert websocket_answer(port, "/jobs/tick") == 403
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
            connection.request("GET", "/stream")
            response = connection.getresponse()
            assert response.read1(5) == b"first"
            assert site.server.get("/release")[0] == 200
            assert response.read() == b"last"
        site.server.terminate()
        assert "ERROR" not in site.server.output

    said = site.said()
    ticks = site.said("tick")
    assert {tick.partition(" AsgiPulse ")[2] for tick in ticks} == {"/jobs/tick True tick True"}
    assert len({tick.split()[1] for tick in ticks}) == len(ticks)
    assert said[:2] == ["starting", "up"]
    assert said[-1] == "down"


@pytest.mark.parametrize("app", ["fast", "bare", "django"])
def test_other_frameworks_run_their_tasks_and_turn_outsiders_away(serve, app):
    task = {**QUICK, "plain": {"interval": 0.3}} if app == "fast" else QUICK

    with serve("uvicorn", app, task=task, guard=False) as site:
        wait_until(lambda: all(site.said(name) for name in task))
        before = len(site.said("tick AsgiPulse /jobs/tick False"))
        statuses = {site.server.get(f"/jobs/{name}")[0] for name in task}

    assert {line.split()[-1] for name in task for line in site.said(name)} == set(task)
    assert before == 0
    assert statuses.isdisjoint({200, 404})  # the guard is off: it was the endpoint that refused


def test_two_workers_share_the_runs(serve, tmp_path):
    store = f"sqlite:{tmp_path / 'runs.db'}"

    with serve("uvicorn", "starlette", "--workers", "2", store=store) as site:
        wait_until(lambda: len(site.pids("up")) == 2)
        wait_until(lambda: len(site.pids("tick")) == 2)
        wait_until(lambda: len(site.said("tick")) >= 6)
        site.server.terminate()

    dues = [tick.split()[1] for tick in site.said("tick")]
    assert len(set(dues)) == len(dues)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as runs:
        assert runs.execute("pragma integrity_check").fetchone() == ("ok",)


def test_what_runs_at_the_end_comes_to_its_end_before_the_application_is_shut_down(serve):
    with serve("uvicorn", "starlette", task={"long": {"interval": 0.2}}) as site:
        wait_until(lambda: site.said("began"))
        site.server.terminate()

    assert len(site.said("began")) == len(site.said("ended"))
    assert site.said()[-1] == "down"


def test_the_reloading_parent_of_hypercorn_leaves_the_tasks_to_its_child(serve):
    with serve("hypercorn", "bare", "--reload") as site:
        wait_until(lambda: len(site.said("tick")) >= 8)  # each process would run them all: each has its own store

        assert len(site.pids("tick")) == 1
        assert site.server.pid not in site.pids("tick")


def test_a_server_without_lifespan_runs_tasks_too(serve):
    with serve("uvicorn", "bare", "--lifespan", "off") as site:
        wait_until(lambda: site.said("tick"))
        assert site.server.get("/jobs/tick")[0] == 404


def test_a_start_that_waits_for_a_request_does_so_through_the_lifespan(serve):
    with serve("uvicorn", "starlette", start="request") as site:
        wait_until(lambda: site.said("up"))
        assert holds_for(0.7, lambda: not site.said("tick"))
        site.server.get("/page")
        wait_until(lambda: site.said("tick"))


def test_the_status_page_is_shown_to_whoever_has_the_token(serve):
    with serve("uvicorn", "starlette", token=TOKEN, status="/_pulse") as site:
        wait_until(lambda: site.said("tick"))
        shown = site.server.get("/_pulse/", Authorization=f"Bearer {TOKEN}")
        hidden = site.server.get("/_pulse/")

    assert (shown[0], b"tick" in shown[1]) == (200, True)
    assert b"tick" not in hidden[1]


def test_in_a_process_without_server_the_application_is_started_for_its_runs(tmp_path):
    script = """
import asgi_app
pulse = asgi_app.application
for _ in range(2):
    run = pulse.run_now("tick")
    print(run.outcome.value, run.reason)
"""
    notes = tmp_path / "notes"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{HERE}:{ROOT}", "NOTES": str(notes), "SITE": json.dumps({"task": QUICK})},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.split() == ["success", "success"], done.stderr
    words = [line.split()[1] for line in notes.read_text().splitlines()]
    assert words == ["starting", "up", "tick", "tick", "down"]


def test_a_process_worker_starts_the_application_too(serve):
    more = {"mode": "processing", "application": "asgi_app:application", "workers": 1}

    with serve("uvicorn", "starlette", **more) as site:
        wait_until(lambda: len(site.said("tick")) >= 2)
        server = site.pids("tick")

    assert len(site.pids("up")) == 2
    assert len(server) == 1
    assert server != site.pids("down")


# The loop of the server


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(params=["asyncio", "threading"])
def run(request, loop):
    """What becomes of a run of an application that has been visited on that loop."""

    def run(app, **task):
        options = {"start": "manual", "store": "memory:", "mode": request.param}
        pulse = AsgiPulse(app, task={"t": {"interval": 60, **task}}, **options)
        visit(loop, pulse)
        try:
            return pulse.run_now("t")
        finally:
            pulse.close()

    return run


def visit(loop, app):
    async def one(message=None):
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run_coroutine_threadsafe(app(scope, one, one), loop).result(PATIENCE)


def test_a_run_that_is_cut_cleans_up_on_the_loop_of_the_server_before_it_is_over(run, loop):
    cleaned = []

    async def app(scope, receive, send):
        if not is_internal(scope):
            return
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0.1)
            cleaned.append((asyncio.get_running_loop() is loop, is_internal(scope)))

    assert run(app, timeout=0.2).outcome in (Outcome.TIMEOUT, Outcome.CANCELLED)  # by either of two watchers
    assert cleaned == [(True, True)]


def test_an_endpoint_that_wants_to_end_the_process_ends_its_own_run(run, loop):
    async def app(scope, receive, send):
        if is_internal(scope):
            sys.exit(3)

    done = run(app)

    assert (done.outcome, done.reason) == (Outcome.FAILED, "SystemExit: 3")
    visit(loop, app)  # the server goes on


def test_a_coroutine_runs_a_task_by_hand_on_the_loop_of_the_server(loop):
    seen = []

    async def app(scope, receive, send):
        if is_internal(scope):
            seen.append(asyncio.get_running_loop())

    pulse = AsgiPulse(app, task={"t": {"interval": 60}}, start="manual", store="memory:")
    visit(loop, pulse)

    done = asyncio.run_coroutine_threadsafe(pulse.arun_now("t"), loop).result(PATIENCE)

    asyncio.run_coroutine_threadsafe(pulse.aclose(), loop).result(PATIENCE)
    assert done.reason == "ResponseError: it returned before its response had begun (ASGI)"
    assert seen == [loop]


# The guard


@pytest.fixture(scope="module")
def ports():
    with ExitStack() as stack:
        yield {name: stack.enter_context(program(*SERVERS[name], "asgi_app:guarded")).port for name in SERVERS}


@every_server
def test_no_spelling_header_or_method_reaches_the_guarded_endpoint(ports, server):
    port, target = ports[server], PATH.encode()
    answers = [(spelling, ask(port, spelling)) for spelling in SPELLINGS]
    answers += [((spelling, header), ask(port, spelling, header)) for spelling, header in HEADERS]
    answers += [(method, ask(port, target, method=method, body=b"x" * 100)) for method in METHODS]

    assert [answer for answer in answers if b"ran" in answer[1][1] or b"internal" in answer[1][1]] == []
    assert sum(status == 404 for _, (status, _) in answers) >= len(answers) // 2


@every_server
def test_neighbours_and_calls_by_hand_are_served(ports, server):
    port = ports[server]
    answers = {target: ask(port, target) for target in NEIGHBOURS}

    shut = {target: answer for target, answer in answers.items() if b"open" not in answer[1]}
    assert shut == {}
    by_hand = ask(port, PATH.encode(), f"Authorization: Bearer {TOKEN}".encode(), method=b"POST", body=b"x")
    assert by_hand[0] == 200
    assert b"internal" in by_hand[1]
