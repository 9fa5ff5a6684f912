"""Asynchronous handlers under real servers: waitress and gunicorn, uvicorn and hypercorn."""

import http.client
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from servers import HERE, PATIENCE, Server, gunicorn, program, wait_until, waitress

UVICORN = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "0")
HYPERCORN = ("-m", "hypercorn", "--bind", "127.0.0.1:0")

STARTS = {
    "waitress": lambda app: waitress(f"async_app:{app}of_wsgi"),
    "gunicorn": lambda app: gunicorn(f"async_app:{app}of_wsgi"),  # its plain workers serve one request at a time
    "gthread": lambda app: gunicorn(f"async_app:{app}of_wsgi", "--worker-class", "gthread", "--threads", "4"),
    "uvicorn": lambda app: program(*UVICORN, f"async_app:{app}of_asgi"),
    "hypercorn": lambda app: program(*HYPERCORN, f"async_app:{app}of_asgi"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Server]]:
    """Servers by name and prefix of the application, each started when it is first asked for."""
    with ExitStack() as stack:

        class Running(dict[str, Server]):
            def __missing__(self, name: str) -> Server:
                server, _, app = name.partition(" ")
                self[name] = stack.enter_context(STARTS[server](app))
                return self[name]

        yield Running()


@contextmanager
def requested(server: Server, path: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        yield connection.getresponse()
    finally:
        connection.close()


every_server = pytest.mark.parametrize("name", STARTS)
either_kind = pytest.mark.parametrize("app", ["", "sync_"], ids=["asynchronous", "synchronous"])


@every_server
@either_kind
def test_the_sample_of_the_specification_is_served(running, name, app):
    assert running[f"{name} {app}"].get("/sample") == (200, b"hello World!")


@every_server
def test_a_handler_knows_its_connection_and_its_responses_can_be_changed(running, name):
    kind = "asgi" if name in ("uvicorn", "hypercorn") else "wsgi"

    with requested(running[f"{name} "], "/told") as response:
        assert (response.read().decode(), response.headers["X-Kind"]) == (f"{kind} None", kind)
    assert running[f"{name} "].get("/nowhere")[0] == 404


@pytest.mark.parametrize("name", ["waitress", "gthread", "uvicorn", "hypercorn"])  # it takes a second request
@either_kind
def test_the_first_chunk_is_seen_before_the_last_is_made(running, name, app):
    server = running[f"{name} {app}"]

    with requested(server, "/slow") as response:
        assert response.read1(5) == b"first"
        assert server.get("/release")[0] == 200
        assert response.read() == b"last"


@every_server
@either_kind
def test_a_request_body_arrives(running, name, app):
    connection = http.client.HTTPConnection("127.0.0.1", running[f"{name} {app}"].port, timeout=PATIENCE)
    body = b"0123456789" * 200_000
    try:
        connection.request("POST", "/echo", body)
        assert connection.getresponse().read() == body
    finally:
        connection.close()


@every_server
@either_kind
def test_a_failure_in_the_middle_never_looks_complete_and_closes_once(running, name, app):
    server = running[f"{name} {app}"]
    before = int(server.get("/closed")[1])

    with requested(server, "/broken") as response, pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()

    wait_until(lambda: int(server.get("/closed")[1]) == before + 1)


@every_server
@either_kind
def test_a_response_whose_client_goes_away_is_closed_once(running, name, app):
    server = running[f"{name} {app}"]
    before = int(server.get("/closed")[1])

    with requested(server, "/endless") as response:
        assert response.read(10) == b"x" * 10
        response.close()

    wait_until(lambda: int(server.get("/closed")[1]) == before + 1)


@every_server
def test_a_handler_inside_pulse_has_its_context_and_configuration(running, name):
    kind = "asgi" if name in ("uvicorn", "hypercorn") else "wsgi"
    server = running[f"{name} pulse_"]

    assert server.get("/told") == (200, f"{kind} jobs".encode())
    assert server.get("/sample") == (200, b"hello World!")


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
def test_the_life_of_the_server_is_acknowledged(running, name):
    server = running[f"{name} "]
    server.get("/sample")

    assert "does not appear supported" not in server.output
    assert "ifespan" not in server.output.replace("Lifespan startup complete", "")


FORKED = """
import asyncio, os, sys
from async_app import sync_app
from pulse.wsgi import as_asgi

door = as_asgi(sync_app)

async def ask():
    requests, sent = [{"type": "http.request", "body": b""}], []

    async def receive():
        return requests.pop() if requests else await asyncio.Event().wait()

    async def send(message):
        sent.append(message["type"])

    scope = {"type": "http", "path": "/release", "method": "GET", "headers": []}
    await asyncio.wait_for(door(scope, receive, send), PATIENCE)
    assert sent[-1] == "http.response.body"

asyncio.run(ask())
child = os.fork()
if not child:
    try:
        asyncio.run(ask())
    finally:
        os._exit(sys.exc_info()[0] is not None)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_synchronous_application_is_served_in_a_child_that_was_forked_after_a_request():
    code = FORKED.replace("PATIENCE", str(PATIENCE))

    # From 3.12 on Python warns of each fork beside threads, which is what this is about.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", code]
    done = subprocess.run(command, cwd=HERE, capture_output=True, timeout=2 * PATIENCE, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
