"""A WSGI application of well-behaved and of faulty endpoints, importable by any kind of worker.

Each function is the endpoint of the path `/pulse/<its name>`.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from pulse import is_internal
from pulse.wsgi.lazy import LazyWsgi

RELEASE = "PULSE_TEST_RELEASE"  # names a file: when it exists, those who hang go on


def ok(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok ", environ["pulse.info"]["task"].encode()]


def sees(environ, start_response):
    """Answers with what it was told, and complains a little."""
    environ["wsgi.errors"].write("a complaint\n")
    info = environ["pulse.info"]
    told = [environ["REQUEST_METHOD"], environ["PATH_INFO"], info["task"], info["run_id"], info["trigger"]]
    told += [environ["HTTP_X_PULSE_RUN"], str(is_internal(environ)), str(info["deadline"] is not None)]
    start_response("202 Accepted", [])
    return [" ".join(told).encode()]


def where(environ, start_response):
    start_response("200 OK", [])
    return [f"{os.getpid()} {threading.current_thread().name}".encode()]


def logs(environ, start_response):
    logging.getLogger("shop").warning("the feed of %s is slow", environ["pulse.info"]["task"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", "session=secret")])
    return [b"fetched"]


def raises(environ, start_response):
    raise ValueError("bad day")


def exits(environ, start_response):
    sys.exit(3)


def answers_500(environ, start_response):
    start_response("500 Oops", [])
    return [b"sorry"]


def hangs(environ, start_response):
    start_response("200 OK", [])
    end = time.monotonic() + 60
    while time.monotonic() < end and not Path(os.environ[RELEASE]).exists():
        time.sleep(0.01)
    return [b"at last"]


def slow(environ, start_response):
    start_response("200 OK", [])
    time.sleep(0.5)
    return [b"slow"]


def tells(environ, start_response):
    """Tells how far it has got, and hangs there."""
    environ["pulse.progress"](31, 50, "building pages")
    return hangs(environ, start_response)


def endless(environ, start_response):
    start_response("200 OK", [])
    while True:
        time.sleep(0.01)
        yield b"tick "


def polite(environ, start_response):
    """Stops by itself when it is asked to."""
    start_response("200 OK", [])
    while not environ["pulse.cancelled"].wait(0.01):
        pass
    yield b"stopped"


def huge(environ, start_response):
    start_response("200 OK", [])
    return (b"x" * 65536 for _ in range(16_384))  # 1 GiB


def clears(environ, start_response):
    environ.clear()
    start_response("200 OK", [])
    return []


def threads(environ, start_response):
    """Leaves a thread behind."""
    threading.Thread(target=time.sleep, args=(0.2,), daemon=True).start()
    start_response("200 OK", [])
    return []


def speaks(environ, start_response):
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    start_response("200 OK", [])
    return []


def has_last_words(environ, start_response):
    print("farewell")  # and does not flush it
    os._exit(7)


def dies(environ, start_response):
    os._exit(7)


def crashes(environ, start_response):
    os.kill(os.getpid(), signal.SIGSEGV)


def closes_its_pipes(environ, start_response):
    os.closerange(0, 256)
    time.sleep(60)


def ignores_term(environ, start_response):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def spawns(environ, start_response):
    """Hangs on a child of its own, whose process id it has written down."""
    child = subprocess.Popen(["sleep", "60"])
    Path(os.environ[RELEASE] + ".pid").write_text(str(child.pid))
    child.wait()


def holds_the_interpreter(environ, start_response):
    """No thread runs beside it, for a minute or so; the process id of what it has started is written down."""
    child = subprocess.Popen(["sleep", "60"])
    Path(os.environ[RELEASE] + ".pid").write_text(str(child.pid))
    assert 1 in repeat(0, 5_000_000_000)


def forks_and_dies(environ, start_response):
    """Leaves a fork behind that holds all that it has held."""
    if os.fork():
        os._exit(7)
    time.sleep(60)
    os._exit(0)


def looks_around(environ, start_response):
    """What is handed on to the programs that it might start, and what the process was started with."""
    handed_on = []
    for descriptor in range(3, 256):
        with suppress(OSError):
            handed_on += [descriptor] if os.get_inheritable(descriptor) else []
    start_response("200 OK", [])
    return [json.dumps([handed_on, os.environ.get("PYTHONPATH"), sys.argv]).encode()]


def interrupts_a_program(environ, start_response):
    """As whoever starts one may do to end it."""
    done = subprocess.run(["sh", "-c", "kill -INT $$"], check=False)
    start_response("200 OK", [])
    return [str(done.returncode).encode()]


def ends_a_fork(environ, start_response):
    """As a pool of processes ends those that it has made."""
    process = get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(20)
    start_response("200 OK", [])
    return [str(process.exitcode).encode()]


def fills_memory(environ, start_response):
    import resource  # noqa: PLC0415 - POSIX only

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    hoard = [bytearray(1 << 26) for _ in range(64)]
    start_response("200 OK", [])
    return [bytes(len(hoard))]


def forks(environ, start_response):
    """Leaves a fork behind that does not know that it is one."""
    pid = os.fork()
    if pid == 0:
        sys.exit(5)
    os.waitpid(pid, 0)
    start_response("200 OK", [])
    return [b"the parent"]


def spoils_the_pipe(environ, start_response):
    """Writes to every descriptor there is."""
    for descriptor in range(3, 64):
        with suppress(OSError):
            os.write(descriptor, b"\0\0\0\4junk")
    start_response("200 OK", [])
    return []


def closes_stderr(environ, start_response):
    sys.stderr.close()
    start_response("200 OK", [])
    return []


def says_a_surrogate(environ, start_response):
    raise ValueError("no such file: \udcff")


def no_answer(environ, start_response):
    return None


ENDPOINTS = {
    f"/pulse/{endpoint.__name__}": endpoint
    for endpoint in (
        ok, sees, where, logs, raises, exits, answers_500, hangs, tells, slow, endless, polite, huge, clears, threads, no_answer, speaks,
        dies, interrupts_a_program, ends_a_fork, has_last_words, forks_and_dies, holds_the_interpreter, looks_around, crashes, closes_its_pipes, ignores_term, spawns, fills_memory, forks, spoils_the_pipe, closes_stderr, says_a_surrogate,
    )
}  # fmt: skip


def app(environ, start_response):
    return ENDPOINTS[environ["PATH_INFO"]](environ, start_response)


class LateSite(LazyWsgi):
    """Reaches another process without its application."""

    def setup(self, environ=None):
        return app
