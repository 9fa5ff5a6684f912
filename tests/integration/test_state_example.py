"""The example of a live page: viewers at two servers see what a task in a third process does."""

import http.client
import re
import sys
import uuid
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from servers import ADDRESS, PATIENCE, is_alive, program, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "shared_state"


@pytest.fixture
def deployed(valkey_server):
    return {
        "PULSE_DEPLOY__STATE_BACKEND": "redis",
        "PULSE_DEPLOY__REDIS_URL": valkey_server.url,
        "PULSE_DEPLOY__REDIS_PREFIX": f"test-{uuid.uuid4().hex}",
    }


def post(port: int, path: str, cookie: str = "") -> http.client.HTTPResponse:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("POST", path, headers={"Cookie": cookie})
        return connection.getresponse()


def role(port: int, name: str) -> str:
    """The cookie of somebody who has said to be *name*."""
    return post(port, f"/login/{name}").getheader("Set-Cookie").partition(";")[0]


def numbers(response: http.client.HTTPResponse):
    """What a viewer is told."""
    while True:
        found = re.match(rb"data: (\d+)", response.readline())
        if found:
            yield int(found[1])


def test_viewers_of_two_servers_see_what_a_third_process_does_and_only_editors_may_press(deployed):
    uvicorn = ("-m", "uvicorn", "page:app", "--port", "0", "--timeout-graceful-shutdown", "1")
    with ExitStack() as stack:
        servers = [stack.enter_context(program(*uvicorn, env=deployed, cwd=EXAMPLE)) for _ in range(2)]
        stack.enter_context(program(EXAMPLE / "ticker.py", env=deployed, cwd=EXAMPLE))
        viewers = []
        for server in servers:
            connection = stack.enter_context(
                closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE))
            )
            connection.request("GET", "/events")
            # A response that is still open would keep its server from ending.
            viewers.append(numbers(stack.enter_context(connection.getresponse())))

        for viewer in viewers:
            first = next(viewer)
            assert next(viewer) in (first, first + 1)
        one, other = servers
        assert post(one.port, "/press").status == 403
        assert post(one.port, "/press", role(other.port, "viewer")).status == 403
        assert post(one.port, "/press", role(other.port, "editor")).status == 303
        for viewer in viewers:
            assert 0 in (next(viewer) for _ in range(60))


def test_the_one_command_serves_at_two_addresses_and_ends_with_all_that_it_has_started(deployed):
    with program(sys.executable, EXAMPLE, env=deployed) as example:
        ports = wait_until(lambda: len(found := set(ADDRESS.findall(example.output.encode()))) == 2 and found)
        for port in map(int, ports):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
                connection.request("GET", "/")
                assert connection.getresponse().status == 200
        children = example.children()
        assert len(children) == 3

        assert example.terminate() == 0

        assert not any(map(is_alive, children))
        assert "Traceback" not in example.output
