"""Sessions behind real servers: the samples as they stand, in front of real clients."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from servers import Server, gunicorn, program, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"

FLEET = """
from pulse.sessions import SessionFilter

def count(environ, start_response):
    session = environ["pulse.session"]
    session["count"] = session.get("count", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(session["count"]).encode()]

application = SessionFilter(count, {store!r}, prefix={prefix!r})
"""


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield client


def get(browser: httpx.Client, server: Server, path: str = "/") -> httpx.Response:
    return browser.get(f"http://127.0.0.1:{server.port}{path}")


def test_the_sample_of_bareasgi_session_runs_with_its_import_line_changed(browser):
    with program(EXAMPLES / "sessions_asgi.py", "0") as server, httpx.Client(trust_env=False) as other:
        first, second = get(browser, server), get(browser, server)
        stranger = get(other, server)

    assert (first.status_code, first.text) == (200, "First time")
    assert re.fullmatch(r"The time was 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", second.text)
    assert stranger.text == "First time"
    assert len(first.headers.get_list("set-cookie")) == 1
    assert second.headers.get_list("set-cookie") == []


def test_pulse_sweeps_sessions_that_the_filter_keeps(browser, tmp_path):
    ini = (EXAMPLES / "my_session" / "my_session.ini").read_text(encoding="utf-8")
    (tmp_path / "my_session.ini").write_text(ini.replace("interval = 5", "interval = 0.3").replace("20s", "3s"))
    (tmp_path / "examples").symlink_to(EXAMPLES)

    with program("-m", "pulse", "serve", "my_session.ini", "--port", "0", cwd=tmp_path) as server:
        assert "You have no session" in get(browser, server).text
        counted = browser.post(f"http://127.0.0.1:{server.port}/", follow_redirects=True)
        assert re.search("count</td><td>1", counted.text)
        assert get(browser, server, "/sessions/cleanup").status_code == 404
        # Nobody asks for it meanwhile: each use would let the session live on.
        wait_until(lambda: "removed 1 expired session" in server.output)
        rested = get(browser, server).text

    assert "You have no session" in rested


@pytest.mark.parametrize("store", ["cookie:", "redis"])
def test_the_workers_of_a_fleet_know_the_same_sessions(browser, tmp_path, request, store):
    address = store if store == "cookie:" else request.getfixturevalue("valkey_server").url
    (tmp_path / "fleet.py").write_text(FLEET.format(store=address, prefix=tmp_path.name))

    with gunicorn("fleet:application", "-w", "2", env={"PULSE_SECRET": "a secret"}, cwd=tmp_path) as server:
        wait_until(lambda: len(server.children()) == 2)
        counted = [get(browser, server).text for _ in range(20)]

    assert counted == [str(number) for number in range(1, 21)]
