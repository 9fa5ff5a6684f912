"""Real servers as child processes on the loopback, for the tests that need one.

    with gunicorn("module:app", "-w", "2", env={"NAME": "value"}) as server:
        wait_until(lambda: len(server.children()) == 2)
        status, body = server.get("/")

A server takes a free port and is asked which. It is ended with the block, with everything
that it has started and that has stayed in its session; what it wrote is shown when the
block fails. It also ends when the tests themselves are killed.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 30.0  # seconds; generous, since the machine may have other work

ADDRESS = re.compile(rb"http://127\.0\.0\.1:([0-9]+)")
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # who is started in the background of a shell inherits that it is ignored
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""

REMOVE_AFTERWARDS = """
import os, pathlib, shutil, signal, sys, time
sys.stdin.read()  # it ends when whoever holds the other end does
folder = pathlib.Path(sys.argv[1])
for file in folder.rglob("postmaster.pid"):  # the only servers that do not die with the tests
    try:
        os.kill(int(file.read_text().split()[0]), signal.SIGQUIT)
    except (OSError, IndexError):
        print("its PostgreSQL has just ended:", folder, file=sys.stderr)
for _ in range(150):  # while others that end with the tests still write there
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        break
    time.sleep(0.2)
"""


@contextmanager
def passing_folder() -> Iterator[Path]:
    """A folder that goes with this process, however that ends; all users may look into it."""
    folder = tempfile.mkdtemp(prefix="pulse-tests-")
    Path(folder).chmod(0o755)
    remover = subprocess.Popen(
        [sys.executable, "-ISc", REMOVE_AFTERWARDS, folder], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield Path(folder)
    finally:
        remover.communicate()


def wait_until(condition: Callable[[], T], seconds: float = PATIENCE) -> T:
    """What *condition* returns as soon as that is true.

    Raises:
        TimeoutError: it has not become true in *seconds*.
    """
    begun = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - begun
        if waited > seconds:
            raise TimeoutError(f"not so after {seconds:g} s; the last answer was {value!r}")
        # To look through processes and files for something that takes long would hold that up.
        time.sleep(min(max(0.02, waited / 20), 0.1))
    return value


def holds_for(seconds: float, condition: Callable[[], object]) -> bool:
    """Whether *condition* is true now, and stays so for *seconds*."""
    end = time.monotonic() + seconds
    while condition():
        if time.monotonic() > end:
            return True
        time.sleep(0.02)
    return False


def is_alive(pid: int) -> bool:
    """Whether there is a process *pid* that has not ended; a zombie has."""
    try:
        return _stat(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> set[int]:
    """The pids of the processes that *pid* has started and that have not ended."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # ended since it was listed
            state, parent = _stat(int(path.name))[:2]
            if int(parent) == pid and state != "Z":
                found.add(int(path.name))
    return found


def _stat(pid: int) -> list[str]:
    """State, parent and so on; what stands before them is the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


class Server:
    """A program that runs as a child process, and maybe serves.

    Attributes:
        pid: Of the program; that of a pre-forking server's master.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log

    @property
    def output(self) -> str:
        """What it has written so far, to either stream."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def port(self) -> int:
        """Where it listens, as soon as it says so.

        Raises:
            AssertionError: it ended before.
        """

        def announced() -> re.Match[bytes] | None:
            found = ADDRESS.search(self._log.read_bytes())
            assert found or self._process.poll() is None, f"ended with {self._process.returncode}"
            return found

        return int(wait_until(announced)[1])

    def get(self, path: str = "/", **headers: str) -> tuple[int, bytes]:
        """Status and body of an answer; *headers* are spelled with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=named)
        try:
            with _direct.open(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read()

    def children(self) -> set[int]:
        """The pids of the processes that it has started: the workers of a pre-forking server."""
        return children_of(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code (minus the number of the signal that ended it), as soon as it has one.

        Raises:
            subprocess.TimeoutExpired: it still runs after *seconds*.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._say_where_it_is()
            raise

    def _say_where_it_is(self) -> None:
        for pid in (*self.children(), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSEGV)  # for which its Python says what all of its threads are doing
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        sys.stderr.write(f"--- {self.pid} did not end\n{self.output}")

    def terminate(self, seconds: float = PATIENCE) -> int:
        """Ask it to end, and wait for that; its exit code."""
        self._process.terminate()
        return self.wait(seconds)

    def kill(self) -> None:
        """Kill it and all that it has started; what has made a session of its own lives on."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


# Not through a proxy, whatever the environment says.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def program(
    *command: str | Path, env: Mapping[str, str] | None = None, cwd: str | Path | None = None
) -> Iterator[Server]:
    """A running program: an executable by its path, or arguments of this Python (`-m`, a file).

    It can import the modules beside this file, and those of *cwd*, which is a new empty
    folder when it is not given. To be asked for its port it has to print
    `http://127.0.0.1:<port>`.
    """
    with tempfile.TemporaryDirectory(prefix="pulse-") as folder:
        log = Path(folder, "output")
        home = Path(cwd or Path(folder, "home"))
        home.mkdir(exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-ISc", DIE_WITH_PARENT, *_full(command)],
                env=_environment(home, env or {}),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(process, log)
        try:
            yield server
        except BaseException:
            sys.stderr.write(f"--- {' '.join(map(str, command))}\n{server.output}")
            raise
        finally:
            _end(server)


def gunicorn(
    application: str,
    *options: str,
    bind: str = "127.0.0.1:0",
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> AbstractContextManager[Server]:
    """gunicorn serving *application*, `module:name`, at *bind*; see `program`."""
    # Without this, all gunicorns of a user share one control socket in the home directory.
    private = ["--no-control-socket"] if _release("gunicorn") >= (25, 1) else []
    return program("-m", "gunicorn", "-b", bind, *private, *options, application, env=env, cwd=cwd)


def waitress(
    application: str, *options: str, env: Mapping[str, str] | None = None, cwd: str | Path | None = None
) -> AbstractContextManager[Server]:
    """waitress serving *application*, `module:name`; see `program`."""
    return program("-m", "waitress", "--listen", "127.0.0.1:0", *options, application, env=env, cwd=cwd)


def _full(command: tuple[str | Path, ...]) -> list[str]:
    words = [str(word) for word in command]
    return words if os.access(words[0], os.X_OK) else [sys.executable, *words]


def _environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """That of the tests, but for how they themselves hold Pulse back."""
    inherited = {name: value for name, value in os.environ.items() if name != "PULSE_START"}
    places = os.pathsep.join(map(str, (home, HERE, ROOT)))
    return {**inherited, "PYTHONPATH": places, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **extra}


def _release(distribution: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version(distribution).split(".")[:2])


def _end(server: Server) -> None:
    with suppress(subprocess.TimeoutExpired):
        server.terminate(10)
    server.kill()
