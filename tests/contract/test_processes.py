"""What is particular to processes: they can be killed, crash alone, and die with their parent."""

import gc
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import endpoints
import pytest
from bench import Bench, benches, wait_until

from pulse.app import App
from pulse.config import read_config
from pulse.errors import ConfigError
from pulse.middleware import PulseMiddleware
from pulse.model import Outcome
from pulse.sessions import CookieSessionStore
from pulse.workers.processes import _Child, _copy_output, application_for_children


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setenv(endpoints.RELEASE, str(tmp_path / "release"))
    with benches("processing") as make:
        yield make


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pid_of(bench: Bench) -> int:
    """The child that answers."""
    before = len(bench.outcomes("where"))
    bench.submit("where")
    wait_until(lambda: len(bench.outcomes("where")) > before)
    last = [run for run in bench.records if run.task == "where"][-1]
    return int(last.body.split()[0])


def test_a_run_happens_in_another_process_that_is_kept_for_the_next(make):
    bench = make(workers=1, timeout=60)

    first, second = pid_of(bench), pid_of(bench)

    assert first == second != os.getpid()


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("dies", "its process ended with exit code 7"),
        ("crashes", "its process was killed by SIGSEGV"),
        ("forks_and_dies", "its process ended with exit code 7"),
        ("closes_its_pipes", "its process "),  # closed the pipe and was killed, or ended for want of its lifeline
    ],
)
def test_a_crash_is_the_failure_of_its_run_and_has_a_successor(make, task, reason):
    bench = make(workers=1, timeout=60)

    run = bench.run(task)

    assert run.outcome is Outcome.FAILED
    assert run.reason.startswith(reason)
    assert bench.run("ok").outcome is Outcome.SUCCESS


def test_an_endpoint_that_spoils_the_pipe_fails_alone(make):
    bench = make(workers=1, timeout=60)

    assert bench.run("spoils_the_pipe").outcome is Outcome.FAILED

    run = bench.run("ok")
    assert (run.outcome, run.body) == (Outcome.SUCCESS, b"ok ok")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_from_a_service_manager_leaves_the_run_to_the_parent(make, number):
    bench = make(workers=1, timeout=60)
    child = pid_of(bench)
    bench.submit("slow")
    wait_until(lambda: bench.workers.busy == 1)

    os.kill(child, number)

    wait_until(lambda: bench.outcomes("slow"))
    assert bench.outcomes("slow") == [Outcome.SUCCESS]
    assert pid_of(bench) == child


def test_what_an_endpoint_starts_can_be_interrupted(make):
    assert make(workers=1, timeout=60).run("interrupts_a_program").body == b"-2"


def test_what_an_endpoint_has_forked_can_be_ended(make):
    assert make(workers=1, timeout=60).run("ends_a_fork").body == b"-15"


@contextmanager
def descriptors(count: int) -> Iterator[list[int]]:
    """This process has so many more of them open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(limits[0], 2 * count), limits[1]), limits[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    try:
        yield held
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_server_with_a_thousand_connections_has_children_like_any_other(make, caplog):
    caplog.set_level("INFO")
    with descriptors(1100):
        bench = make(workers=1, timeout=60)
        child = pid_of(bench)
        bench.submit("slow")
        wait_until(lambda: bench.workers.busy == 1)

        os.kill(child, signal.SIGTERM)

        wait_until(lambda: bench.outcomes("slow"))
    assert bench.outcomes("slow") == [Outcome.SUCCESS]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("free", range(1, 9))
def test_a_child_for_which_there_are_too_few_descriptors_takes_none(free):
    with descriptors(50) as held:
        before, last = len(os.listdir("/proc/self/fd")), max(held)  # noqa: PTH208
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        for _ in range(free):
            os.close(held.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, limits[1]))
        with pytest.raises(OSError, match="Too many open files"):
            _Child(b"")
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        gc.collect()

        assert len(os.listdir("/proc/self/fd")) <= before - free  # noqa: PTH208


def test_children_that_end_leave_no_descriptor_open(make):
    bench = make(workers=1, timeout=60)
    bench.run("ok")
    wait_until(lambda: bench.workers.busy == 0)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    for count in range(1, 6):
        bench.submit("dies")
        wait_until(lambda count=count: len(bench.outcomes("dies")) == count)
    pid_of(bench)

    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)  # noqa: PTH208


def test_a_child_for_whose_output_there_is_no_thread_left_is_ended(make, monkeypatch):
    bench = make(workers=1, timeout=60)
    bench.run("ok")
    wait_until(lambda: bench.workers.busy == 0)
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "pulse-output":
            raise RuntimeError("can't start new thread")
        start(thread)

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for child in list(bench.workers._children._idle):
            child.kill()
        run = bench.run("raises")

    assert run.reason == "no process could be started for it: can't start new thread"
    wait_until(lambda: len(os.listdir("/proc/self/fd")) < before)  # noqa: PTH208
    assert bench.run("ok").outcome is Outcome.SUCCESS


def test_closing_kills_a_child_that_is_in_its_grace(make):
    bench = make(workers=1, timeout=0.2, kill_grace=600)
    child = pid_of(bench)
    bench.submit("ignores_term")
    wait_until(lambda: bench.workers.busy == 1)

    bench.workers.close(0.5)

    wait_until(lambda: not is_alive(child))


def test_an_endpoint_that_fills_its_memory_fails_alone(make):
    bench = make(workers=1, timeout=60)

    assert bench.run("fills_memory").outcome is Outcome.FAILED


def test_a_hung_child_is_killed_after_its_grace_and_its_successor_answers(make):
    bench = make(workers=1, timeout=0.3, kill_grace=0.2)
    hung = pid_of(bench)

    run = bench.run("ignores_term")

    assert (run.outcome, run.reason) == (Outcome.TIMEOUT, "timed out: its process was killed")
    assert not is_alive(hung)
    assert bench.run("ok").outcome is Outcome.SUCCESS


def test_a_child_that_stops_when_it_is_asked_says_what_it_had(make):
    run = make(workers=1).run("hangs")

    assert (run.outcome, run.status) == (Outcome.TIMEOUT, 200)
    assert run.reason == "timed out: its process stopped when it was asked to"
    assert b"SystemExit" in run.errors


def test_what_an_endpoint_started_dies_with_it(make, tmp_path):
    bench = make(workers=1, kill_grace=0)

    bench.run("spawns")

    pid = int((tmp_path / "release.pid").read_text())
    wait_until(lambda: not is_alive(pid))


def test_hung_tasks_do_not_delay_the_others(make):
    bench = make(workers=2, timeout=60)
    bench.submit("hangs")
    wait_until(lambda: bench.workers.busy == 1)

    assert bench.run("ok").outcome is Outcome.SUCCESS


def test_what_a_child_writes_reaches_the_log_with_its_run(make, caplog):
    caplog.set_level("INFO")
    bench = make(workers=1, timeout=60)

    run = bench.run("speaks")

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if getattr(record, "pulse_run", "") == run.id]

    wait_until(lambda: f"task=speaks run={run.id} says: to stderr" in said())
    assert f"task=speaks run={run.id} says: to stdout" in said()


def test_what_an_endpoint_prints_is_not_lost_with_its_process(make, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    bench = make(workers=1, timeout=60)

    run = bench.run("has_last_words")

    said = f"task=has_last_words run={run.id} says: farewell"
    wait_until(lambda: said in [record.getMessage() for record in caplog.records])


def test_a_log_that_cannot_be_written_ends_no_thread_that_reads_what_a_child_writes(monkeypatch):
    written: list[str] = []

    class Broken(logging.Handler):
        def emit(self, record):
            written.append(record.getMessage())
            raise ValueError("I/O operation on closed file")

    logger = logging.getLogger("pulse.workers.processes")
    monkeypatch.setattr(logger, "handlers", [Broken()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "propagate", False)

    _copy_output(SimpleNamespace(run=None, output=BytesIO(b"one\ntwo\n")))

    assert written == ["a child says: one", "a child says: two"]


@pytest.mark.parametrize("path", [None, "/a:/b"])
def test_a_child_is_told_what_its_parent_was_started_with_and_hands_on_nothing_of_its_own(make, monkeypatch, path):
    if path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", path)

    run = make(workers=1, timeout=60).run("looks_around")

    assert json.loads(run.body) == [[], path, sys.argv]


def test_a_child_finds_the_library_whatever_lies_in_the_current_directory(make, monkeypatch, tmp_path):
    (tmp_path / "logging.py").write_text("raise ImportError('of the application')")
    monkeypatch.chdir(tmp_path)

    assert make(workers=1, timeout=60).run("ok").outcome is Outcome.SUCCESS


def test_what_a_child_writes_while_it_runs_nothing_is_said_of_no_task(caplog):
    caplog.set_level("INFO")

    _copy_output(SimpleNamespace(run=None, output=BytesIO(b"loading\n")))

    assert [record.getMessage() for record in caplog.records] == ["a child says: loading"]


def test_closing_ends_the_children(make):
    bench = make(workers=1, timeout=60)
    pid = pid_of(bench)

    bench.workers.close(1)

    assert not is_alive(pid)


PARENT = """
import os, sys, time
sys.path[:0] = {path!r}
from bench import Bench, wait_until
bench = Bench("processing", workers=2, timeout=600)
bench.submit("where")
wait_until(lambda: bench.outcomes("where"))
bench.submit({task!r})
wait_until(lambda: bench.workers.busy == 1)
fork = {forks} and os.fork()
if fork or not {forks}:
    print(bench.records[0].body.split()[0].decode(), fork, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("forks", [False, True])
def test_children_die_with_their_parent_also_when_it_is_killed(make, forks):
    script = PARENT.format(path=sys.path, task="hangs", forks=forks)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        child, fork = parent.stdout.readline().split()
        assert is_alive(int(child))

        parent.send_signal(signal.SIGKILL)

        try:
            wait_until(lambda: not is_alive(int(child)))
        finally:
            if forks:  # it has held open what its parent had
                os.kill(int(fork), signal.SIGKILL)


def test_a_child_that_holds_the_interpreter_dies_with_its_parent_and_so_does_what_it_has_started(make, tmp_path):
    script = PARENT.format(path=sys.path, task="holds_the_interpreter", forks=False)
    started = tmp_path / "release.pid"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline().split()[0])
        wait_until(lambda: started.exists() and started.read_text())

        parent.send_signal(signal.SIGKILL)

        wait_until(lambda: not (is_alive(child) or is_alive(int(started.read_text()))))


def test_an_application_that_does_not_load_fails_its_runs_and_says_why(make, monkeypatch, tmp_path):
    (tmp_path / "broken_site.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    bench = make(workers=1, options={"application": "broken_site:app"})

    run = bench.run("ok")

    assert run.outcome is Outcome.FAILED
    assert "no_such_module_anywhere" in run.reason


def test_an_application_that_leaves_a_fork_behind_and_dies_while_it_loads_keeps_no_run_waiting(
    make, monkeypatch, tmp_path
):
    (tmp_path / "forking_site.py").write_text("from endpoints import forks_and_dies\nforks_and_dies(None, None)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    bench = make(workers=1, options={"application": "forking_site:app"})

    run = bench.run("ok")

    assert run.reason == "the application could not be loaded: its process ended with exit code 7"


GATED = """
import os, pathlib, time
import endpoints

app = endpoints.app
folder = pathlib.Path(os.environ[endpoints.RELEASE]).parent
try:
    (folder / "first").touch(exist_ok=False)
except FileExistsError:
    (folder / f"loads-{os.getpid()}").touch()
    time.sleep(600)
"""


def test_a_run_that_waits_for_a_child_to_load_takes_the_first_one_that_is_free(make, monkeypatch, tmp_path):
    (tmp_path / "gated_site.py").write_text(GATED)
    monkeypatch.syspath_prepend(str(tmp_path))
    bench = make(workers=2, timeout=300, options={"application": "gated_site:app"})
    first = pid_of(bench)
    bench.submit("hangs", "ok")
    wait_until(lambda: list(tmp_path.glob("loads-*")))
    assert bench.outcomes("ok") == []

    bench.release()

    wait_until(lambda: bench.outcomes("ok"))
    assert bench.outcomes("ok") == bench.outcomes("hangs") == [Outcome.SUCCESS]
    assert pid_of(bench) == first
    bench.submit("slow", "raises")
    wait_until(lambda: bench.outcomes("raises"))
    assert len(list(tmp_path.glob("loads-*"))) == 1  # it goes on loading, and no third one is made


SITE = """
from pulse import PulseMiddleware

def site(environ, start_response):
    start_response("200 OK", [])
    return [b"the wrapped one"]

app = PulseMiddleware(site, task={"ok": {"interval": 3600, "timeout": 0.3}}, mode="processing",
                      application="named_site:app")
"""


def test_a_child_finds_the_wrapped_application_in_what_it_loads(monkeypatch, tmp_path):
    (tmp_path / "named_site.py").write_text(SITE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import named_site  # noqa: PLC0415 - made above

    try:
        run = named_site.app.run_now("ok")
    finally:
        named_site.app.close()

    assert (run.outcome, run.body) == (Outcome.SUCCESS, b"the wrapped one")


def test_a_lazy_application_is_sent_to_a_child_before_and_after_its_first_call():
    site = endpoints.LateSite()

    for _ in range(2):
        middleware = PulseMiddleware(site, task={"ok": {"interval": 3600}}, mode="processing", start="manual")
        run = middleware.run_now("ok")
        middleware.close()
        assert (run.outcome, run.body) == (Outcome.SUCCESS, b"ok ok")
        site({"PATH_INFO": "/pulse/ok", "pulse.info": {"task": "ok"}}, lambda status, headers: None)


def test_an_app_with_sessions_in_signed_cookies_is_sent_to_a_child():
    tasks = {"ok": {"interval": 3600}}
    app = App(endpoints.app, task=tasks, mode="processing", session_store=CookieSessionStore("a secret"))
    alone = App(
        task={"cleanup": {"interval": 3600, "action": "/sessions/cleanup"}},
        mode="processing",
        session_store=CookieSessionStore("a secret"),
    )

    try:
        runs = [app.run_now("ok"), alone.run_now("cleanup")]
    finally:
        app.close()
        alone.close()

    assert [(run.outcome, run.body) for run in runs] == [
        (Outcome.SUCCESS, b"ok ok"),
        (Outcome.SUCCESS, b"removed 0 expired sessions\n"),
    ]


@pytest.mark.parametrize("app", [lambda environ, start_response: [], threading.Lock()])
def test_an_application_that_cannot_reach_a_child_is_a_configuration_error_that_says_what_to_do(app):
    with pytest.raises(ConfigError, match=r"set pulse\.config\.application = module:object or config:file\.ini"):
        application_for_children(app, read_config(tasks={"a": {}}))


SCRIPT = """
import os
from pulse import PulseMiddleware

def application(environ, start_response):
    start_response("200 OK", [])
    return [f"{os.getpid()} {__name__}".encode()]

middleware = PulseMiddleware(application, mode="processing", task={"a": {}}, start="manual", store="memory:")
if __name__ == "__main__":
    run = middleware.run_now("a")
    print(os.getpid(), run.outcome.value, (run.body or b"").decode(), run.reason)
    middleware.close()
"""


def started(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["shop.py"], ["-m", "shop"], ["-m", "market"]], ids=" ".join)
def test_an_application_may_be_defined_in_what_was_started(tmp_path, arguments):
    (tmp_path / "shop.py").write_text(SCRIPT)
    (tmp_path / "market").mkdir()
    (tmp_path / "market" / "__main__.py").write_text(SCRIPT)

    done = started(*arguments, folder=tmp_path)

    assert done.returncode == 0, done.stderr
    parent, outcome, child, name = done.stdout.split()
    assert (outcome, name) == ("success", "__mp_main__")
    assert parent != child


def test_an_application_that_is_defined_at_a_prompt_is_refused(tmp_path):
    done = started("-c", SCRIPT, folder=tmp_path)

    assert done.returncode == 1
    assert "it is defined at a prompt, which is not there in another process" in done.stderr
