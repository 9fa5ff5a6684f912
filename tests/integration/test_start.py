"""Which processes of real servers ring, without a single request unless a test makes one."""

import os
import signal
import socket
import stat
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest
from servers import children_of, gunicorn, holds_for, is_alive, program, wait_until, waitress
from stories import Stories

from pulse import probes
from pulse.probes import is_listening
from pulse.start import LOOK

LONGER = 2.2 * LOOK  # than any process takes that would ring
story = Stories()


class Notes:
    """What the processes under test have noted: `bell_app.note`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "bells"
        self.env = {"BELL_FILE": str(self._path)}

    def read(self, what: str = "") -> list[tuple[int, str, str]]:
        """Who did what, and the words that go with it; all of it, or only *what*."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        notes = [(line + "  ").split(" ", 2) for line in lines]
        return [(int(pid), done, words.strip()) for pid, done, words in notes if what in ("", done)]

    def who(self, what: str) -> list[int]:
        return [pid for pid, _, _ in self.read(what)]

    def states(self) -> list[str]:
        return [state for _, _, state in self.read("state")]

    def why(self) -> set[str]:
        return {reason for _, _, reason in self.read("rang")}

    def ringing(self) -> set[int]:
        """The live processes that ring; one that rings twice at a time is a fault."""
        ringing: set[int] = set()
        for pid, done, _ in self.read():
            if done == "rang":
                assert pid not in ringing
                ringing.add(pid)
            elif done == "silenced":
                ringing.discard(pid)
        return {pid for pid in ringing if is_alive(pid)}


def script(folder: Path, source: str) -> Path:
    """A file that holds a program."""
    path = folder / "script.py"
    path.write_text(dedent(source))
    return path


# Servers


@story.each(sync=[], preload=["--preload"], gthread=["-k", "gthread", "--threads", "2", "--preload"])
def every_worker_of_gunicorn_rings_and_its_arbiter_never_does(folder, options):
    bells = Notes(folder)
    with gunicorn("bell_app:application", "-w", "2", *options, env=bells.env) as server:
        wait_until(lambda: len(server.children()) == 2)
        wait_until(lambda: bells.ringing() == server.children())

        assert holds_for(LONGER, lambda: bells.ringing() == server.children())
        assert server.pid not in bells.who("rang")
        assert bells.why() == {"this process listens"}
        assert server.terminate() == 0


@story
def workers_that_gevent_patches_behind_the_fork_ring(folder):
    bells = Notes(folder)
    with gunicorn("bell_app:application", "-w", "2", "-k", "gevent", "--preload", env=bells.env) as server:
        wait_until(lambda: len(server.children()) == 2)

        wait_until(lambda: bells.ringing() == server.children())

        assert server.terminate() == 0
        assert "Traceback" not in server.output


@story
def workers_that_a_preloading_gunicorn_makes_later_ring_too(folder):
    bells = Notes(folder)
    with gunicorn("bell_app:application", "-w", "2", "--preload", env=bells.env) as server:
        first = wait_until(lambda: len(bells.ringing()) == 2 and bells.ringing())

        os.kill(min(first), signal.SIGKILL)
        wait_until(lambda: len(bells.ringing()) == 2 and min(first) not in bells.ringing())
        second = bells.ringing()
        server.signal(signal.SIGHUP)
        wait_until(lambda: len(bells.ringing()) == 2 and not bells.ringing() & second)

        assert holds_for(LONGER, lambda: bells.ringing() == server.children())
        assert server.pid not in bells.who("rang")


@story
def a_worker_asked_to_wait_for_a_request_rings_at_its_first(folder):
    bells = Notes(folder)
    with gunicorn("bell_app:application", "-w", "1", env={**bells.env, "PULSE_START": "request"}) as server:
        wait_until(lambda: len(server.children()) == 1)
        assert holds_for(LONGER, lambda: not bells.ringing())

        assert server.get()[0] == 200

        wait_until(lambda: bells.ringing() == server.children())
        assert bells.why() == {"a request came"}


@story
def waitress_rings(folder):
    bells = Notes(folder)
    with waitress("bell_app:application", env=bells.env) as server:
        wait_until(lambda: bells.ringing() == {server.pid})


WSGIREF = """
    from wsgiref.simple_server import make_server
    from bell_app import application

    server = make_server("127.0.0.1", 0, application)
    print(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()
    """


@story
def wsgiref_rings(folder):
    bells = Notes(folder)
    with program(script(folder, WSGIREF), env=bells.env) as server:
        wait_until(lambda: bells.ringing() == {server.pid})


@story
def a_server_on_a_unix_socket_rings(folder):
    bells = Notes(folder)
    with gunicorn("bell_app:application", bind=f"unix:{folder}/socket", env=bells.env) as server:
        wait_until(lambda: bells.ringing() and bells.ringing() == server.children())


PRE_FORKING = """
    import os, socket, time
    listener = socket.create_server(("127.0.0.1", 0))
    from bell_app import application

    time.sleep(3)
    for _ in range(2):
        if not os.fork():
            time.sleep(60)
    time.sleep(60)
    """


@story
def a_server_that_forks_late_falls_silent_for_its_children(folder):
    bells = Notes(folder)
    with program(script(folder, PRE_FORKING), env=bells.env) as server:
        wait_until(lambda: bells.ringing() == {server.pid})

        wait_until(lambda: len(server.children()) == 2)

        wait_until(lambda: bells.ringing() == server.children())
        assert holds_for(LONGER, lambda: bells.ringing() == server.children())


DAEMON = """
    import os, sys, time
    from bell_app import application

    for _ in range(2):
        if os.fork():
            os._exit(0)
    import socket
    listener = socket.create_server(("127.0.0.1", 0))
    time.sleep(60)
    """


@story
def a_daemon_that_is_made_after_the_construction_rings(folder):
    bells = Notes(folder)
    with program(script(folder, DAEMON), env=bells.env) as server:
        assert server.wait() == 0

        (daemon,) = wait_until(bells.ringing)

        assert daemon != server.pid
        assert bells.who("rang") == [daemon]


# What only loads the application


@story
def a_program_that_loads_the_application_and_does_not_serve_ends_at_once(folder):
    bells = Notes(folder)
    source = "import bell_app, sys, time; time.sleep(float(sys.argv[1]))"
    with program("-c", source, "0", env=bells.env) as quick, program("-c", source, "1.2", env=bells.env) as slow:
        assert quick.wait() == slow.wait() == 0

        assert quick.output == slow.output == ""
        assert bells.who("rang") == []


# Forks of a process that serves

SERVING = """
    import os, subprocess, sys, time
    from multiprocessing import get_context
    from bell_app import application, note
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def say():
        note("state", application.rule.state.value)

    def work():
        say()
        time.sleep(60)
    """


HELPERS = """
    time.sleep({seconds})
    get_context("fork").Process(target=work).start()
    subprocess.Popen(["sleep", "60"])
    subprocess.Popen(["sleep", "60"], preexec_fn=say)
    time.sleep(60)
    """


@story.each(before_it_rings=0, while_it_rings=1.5)
def helpers_are_parked_and_their_parent_goes_on(folder, seconds):
    bells = Notes(folder)
    with program(script(folder, SERVING + HELPERS.format(seconds=seconds)), env=bells.env) as server:
        wait_until(lambda: len(server.children()) == 3)
        wait_until(lambda: bells.ringing() == {server.pid})

        assert holds_for(LONGER, lambda: bells.ringing() == {server.pid})
        assert bells.who("rang") == [server.pid]
        assert bells.who("silenced") == []
        assert bells.states() == ["parked", "parked"]


REQUEST = """
    time.sleep(1.5)
    application({"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http"}, lambda status, headers: None)
    if not os.fork():
        work()
    time.sleep(60)
    """


@story
def a_process_forked_during_a_request_is_parked(folder):
    bells = Notes(folder)
    with program(script(folder, SERVING + REQUEST), env=bells.env) as server:
        assert wait_until(bells.states) == ["parked"]

        assert holds_for(LONGER, lambda: bells.ringing() == {server.pid})
        assert bells.who("forgot") == list(server.children())
        assert bells.who("silenced") == []


FORKING_SERVER = """
    import socketserver
    from wsgiref.simple_server import WSGIServer, make_server
    from bell_app import application

    class Server(socketserver.ForkingMixIn, WSGIServer):
        pass

    server = make_server("127.0.0.1", 0, application, server_class=Server)
    print(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()
    """


@story
def a_server_that_forks_for_each_request_goes_on(folder):
    bells = Notes(folder)
    with program(script(folder, FORKING_SERVER), env=bells.env) as server:
        wait_until(lambda: bells.ringing() == {server.pid})

        assert [server.get()[0] for _ in range(3)] == [200] * 3

        assert holds_for(LONGER, lambda: bells.ringing() == {server.pid})
        assert bells.who("rang") == [server.pid]


@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    with story.told(request, tmp_path_factory) as told:
        yield told


@pytest.mark.parametrize("name", story)
def test_in_real_processes(told, name):
    told(name)


# A fork that has to come at its moment: alone, when the others are over

FORK_IN_C = """
    import ctypes, os, time
    from bell_app import application

    fork = ctypes.PyDLL(None).fork  # as uWSGI does: Python is not told
    time.sleep(0.75)  # between two looks of the watcher: what it holds in a fork like this, nobody lets go
    if not fork():
        application({"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http"}, lambda status, headers: None)
    time.sleep(60)
    """


def test_a_fork_that_nobody_told_of_is_noticed_by_the_first_request(tmp_path):
    bells = Notes(tmp_path)
    with program(script(tmp_path, FORK_IN_C), env=bells.env) as server:
        (child,) = wait_until(bells.ringing)

        assert child in children_of(server.pid)
        assert bells.who("forgot") == [child]
        assert bells.why() == {"a request came"}


# What is taken for listening


def listener(family: int, address: object) -> socket.socket:
    made = socket.socket(family)
    made.bind(address)
    made.listen()
    return made


@pytest.fixture
def quiet(monkeypatch):
    """Nothing else listens: what does in the process that runs the tests, as pytest itself may, does not count."""
    look = probes._is_listener
    open_files = [int(file.name) for file in Path("/proc/self/fd").iterdir()]
    before = set(filter(look, open_files))
    monkeypatch.setattr(probes, "_is_listener", lambda number: number not in before and look(number))
    assert is_listening() is False


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_listening_socket_is_seen_until_it_is_closed(family, tmp_path):
    with closing(listener(family, str(tmp_path / "socket") if family == socket.AF_UNIX else ("127.0.0.1", 0))):
        assert is_listening() is True

    assert is_listening() is False


@pytest.mark.usefixtures("quiet")
def test_sockets_that_do_not_listen_and_other_files_do_not_count(tmp_path):
    near, far = socket.socketpair()
    bound, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    datagram.bind(("127.0.0.1", 0))
    with near, far, bound, datagram, (tmp_path / "file").open("w"):
        assert is_listening() is False


@pytest.mark.usefixtures("quiet")
def test_what_becomes_another_file_during_a_look_does_not_count(monkeypatch, tmp_path):
    monkeypatch.setattr(stat, "S_ISSOCK", lambda mode: True)

    with (tmp_path / "file").open("w"):
        assert is_listening() is False


def test_looking_leaves_the_sockets_as_they_are():
    with closing(listener(socket.AF_INET, ("127.0.0.1", 0))) as server, socket.socket() as client:
        client.connect(server.getsockname())
        socket.setdefaulttimeout(5)
        try:
            assert is_listening() is True
        finally:
            socket.setdefaulttimeout(None)

        # As the system has it; the socket objects have an opinion of their own.
        assert os.get_blocking(server.fileno())
        assert os.get_blocking(client.fileno())
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"still open")
            assert client.recv(10) == b"still open"
