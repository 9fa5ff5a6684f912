"""Under real servers, with many requests and runs at once, each has its own PulseContext and leaves none behind."""

import random
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from servers import PATIENCE, gunicorn, program

KINDS = ["whole", "chunks", "chunks", "nested", "raise", "left"]
CLIENTS = 6
REQUESTS = 15  # of each client
SERVERS = {
    "threads": lambda: gunicorn("context_app:served", "-k", "gthread", "--threads", "4"),
    "greenlets": lambda: gunicorn("context_app:served", "-k", "gevent"),
    "an event loop": lambda: program(
        "-m", "uvicorn", "--host", "127.0.0.1", "--port", "0", "--log-level", "info", "context_app:outside"
    ),
}


def browse(port: int, client: int) -> None:
    """Ask for pages of every kind; now and then go away before all of one is there."""
    chance = random.Random(client)
    for number in range(REQUESTS):
        path = f"/{KINDS[(number + client) % len(KINDS)]}/{client}-{number}"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            is_patient = chance.random() < 0.8
            with suppress(ConnectionResetError):
                while connection.recv(150) and is_patient:
                    pass


@pytest.mark.parametrize("kind", SERVERS)
def test_each_of_many_requests_has_its_own_context_and_leaves_none_behind(kind):
    with SERVERS[kind]() as server:
        port = server.port
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(lambda client: browse(port, client), range(CLIENTS)))

        status, wrong = server.get("/wrong")

    assert (status, wrong.decode()) == (200, "")
