"""The commands of a fleet, as processes beside a real `pulse worker`."""

import json
import re
import signal
import sys
from datetime import datetime, timedelta
from textwrap import dedent
from typing import NamedTuple

import pytest
from servers import program, wait_until

from pulse.cli import main
from pulse.runstores.sqlite import SqliteRunStore

# Block-buffered, as the output of a service is: what is not flushed is not there.
BUFFERED = {"PYTHONUNBUFFERED": ""}

APPLICATION = """
    import time
    from pathlib import Path

    HERE = Path(__file__).parent

    def application(environ, start_response):
        name = environ["PATH_INFO"].rpartition("/")[2]
        if name == "hold":
            HERE.joinpath("begun").touch()
            while not HERE.joinpath("release").exists():
                time.sleep(0.02)
        if name == "fails":
            environ["wsgi.errors"].write("on my way\\n")
            start_response("500 Internal Server Error", [])
            return [b"no luck"]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"tidy"]

    def make(global_conf):
        return application
    """

INI = """
    [pipeline:main]
    pipeline = pulse application

    [filter:pulse]
    use = egg:pulse
    pulse.config.context = tasks
    pulse.config.guard = true
    pulse.config.lease = 2s
    pulse.config.default.cron = @manually
    {lines}

    [app:application]
    paste.app_factory = some_site:make
    """

SHARED = "pulse.config.store = sqlite:%(here)s/runs.db"


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self):
        assert self.out, self.err
        return json.loads(self.out)


@pytest.fixture
def write(tmp_path):
    """An application, and an ini file in which its Pulse filter has these lines."""

    def write(*lines):
        tmp_path.joinpath("some_site.py").write_text(dedent(APPLICATION))
        tmp_path.joinpath("development.ini").write_text(dedent(INI.format(lines="\n    ".join(lines))))

    return write


@pytest.fixture
def pulse(tmp_path, capsys, monkeypatch):
    """A command in this process, in the folder of the application."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PULSE_CONFIG", raising=False)
    monkeypatch.delitem(sys.modules, "some_site", raising=False)  # that of another test

    def pulse(*argv):
        return Done(main(argv), *capsys.readouterr())

    return pulse


@pytest.fixture
def run(tmp_path):
    """A command in a process of its own, whose home is that of the workers."""

    def run(*argv):
        with program("-m", "pulse", *argv, env=home(tmp_path), cwd=tmp_path) as process:
            return Done(process.wait(), process.output, "")

    return run


def home(folder):
    return BUFFERED | {"XDG_STATE_HOME": str(folder / "state")}


@pytest.fixture
def work(tmp_path):
    """A running `pulse worker`."""

    def work(*arguments):
        return program("-m", "pulse", "worker", *arguments, env=home(tmp_path), cwd=tmp_path)

    return work


def states(pulse):
    return {one["task"]: one["state"] for one in pulse("list", "--json").document["tasks"]}


def successes(worker):
    return len(re.findall("task=tidy .*outcome=success", worker.output))


def test_a_worker_runs_the_tasks_and_the_commands_see_it(write, work, pulse):
    write(SHARED, "pulse.task.tidy.interval = 0.5", "pulse.task.fails.interval = 0.5")

    with work() as worker:
        wait_until(lambda: worker.output.count("task=tidy") > 1 and "task=fails" in worker.output)
        seen = pulse("workers", "--json").document["workers"]
        paused = pulse("pause", "tidy", "--for", "1h", "--why", "feed is down")
        wait_until(lambda: "reason='the task is paused: feed is down'" in worker.output)
        wait_until(lambda: states(pulse) == {"tidy": "paused", "fails": "failing"})
        history = pulse("history", "tidy", "--json").document
        skipped = next(one for one in history["records"] if one["outcome"] == "skipped")
        ran = next(one for one in history["records"] if one["outcome"] == "success")
        why = [pulse("why", "tidy", "--at", one["due"], "--json").document["answers"][0] for one in (skipped, ran)]
        coming = (datetime.fromisoformat(ran["due"]) + timedelta(minutes=30)).isoformat()
        why.append(pulse("why", "tidy", "--at", coming, "--json").document["answers"][0])
        failure = pulse("history", "fails", "--failed", "-n", "1", "--json").document["records"][0]
        shown = pulse("show", failure["run"][:12])
        resumed = pulse("resume", "tidy")
        before = successes(worker)
        wait_until(lambda: successes(worker) > before + 1)
        code = worker.terminate()

        assert code == 0
        assert [(one["worker"].rpartition(":")[2], one["rings"]) for one in seen] == [(str(worker.pid), True)]
        assert seen[0]["configuration_differs"] is False
        assert paused.code == resumed.code == 0
        assert paused.out.startswith("tidy is paused until ")
        assert "tidy runs by its schedule again" in resumed.out
        assert [one["verdict"] for one in why] == ["skipped", "ran", "paused"]
        assert "--- body\nno luck\n--- wsgi.errors\non my way\n---\n" in shown.out
        assert re.search(r"^Pulse \S+ · development\.ini · worker without a server$", worker.output, re.MULTILINE)
        assert "2 tasks, store sqlite:" in worker.output
        assert "no process rings for development.ini" in pulse("workers").out


def test_a_worker_lets_a_running_task_end_and_begins_no_other(write, work, tmp_path, pulse):
    write(SHARED, "pulse.task.hold.interval = 0.5", "pulse.task.hold.timeout = 1m")

    with work() as worker:
        wait_until(tmp_path.joinpath("begun").exists)
        under_way = pulse("workers", "--json").document["workers"][0]["running"]
        worker.signal(signal.SIGTERM)
        wait_until(lambda: "a second signal cuts them" in worker.output)
        tmp_path.joinpath("release").touch()
        code = worker.wait()

        assert code == 0
        assert [one["task"] for one in under_way] == ["hold"]
        assert len(re.findall("task=hold .*outcome=success", worker.output)) == 1


def test_a_worker_that_is_killed_is_gone_and_its_run_has_died(write, work, tmp_path, pulse):
    write(SHARED, "pulse.task.hold.interval = 0.5")

    with work() as worker:
        wait_until(tmp_path.joinpath("begun").exists)
        worker.kill()
        (seen,) = pulse("workers", "--json").document["workers"]
        due = next(line for line in pulse("show", seen["running"][0]["run"], "--json").document["runs"])["due"]
        answer = pulse("why", "hold", "--at", due, "--json").document["answers"][0]

        assert (seen["rings"], seen["gone"]) == (False, "its process has ended")
        assert answer["verdict"] == "its process died"


def test_a_worker_can_end_by_itself(write, work):
    write(SHARED, "pulse.task.tidy.interval = 0.25")

    with work("--for", "1s") as worker:
        code = worker.wait()

        assert code == 0
        assert "worker without a server, for 1 s" in worker.output
        assert "task=tidy" in worker.output


def test_two_workers_share_the_tasks_of_the_file_that_pulse_chose(write, work, run):
    write("pulse.task.tidy.interval = 0.25")

    with work("development.ini") as one, work("development.ini#main") as other:
        wait_until(lambda: "ringing for 1 task," in one.output and "ringing for 1 task," in other.output)
        seen = run("workers", "--json").document["workers"]
        wait_until(lambda: (one.output + other.output).count("task=tidy") > 3)
        one.terminate()
        other.terminate()
        dues = re.findall(r"task=tidy .*outcome=success .*due=(\S+)", one.output + other.output)
        records = run("history", "tidy", "-n", "500", "--json").document["records"]

        assert len(seen) == 2
        assert len(dues) == len(set(dues))
        assert records
        assert {record["due"] for record in records if record["outcome"] == "success"} <= set(dues)


def test_a_worker_of_a_store_in_memory_is_warned(write, work):
    write("pulse.config.store = memory:", "pulse.task.tidy.interval = 0.25")

    with work("--for", "0.5s") as worker:
        worker.wait()

        assert "warning: store = memory: is this process alone" in worker.output


def test_a_worker_without_a_store_does_not_begin(write, work, tmp_path):
    tmp_path.joinpath("runs.db").write_text("no database")
    write("pulse.config.store = sqlite:%(here)s/runs.db", "pulse.task.tidy.interval = 0.25")

    with work() as worker:
        code = worker.wait()

        assert code == 5
        assert "pulse: the run store " in worker.output
        assert "Traceback" not in worker.output


def test_a_task_is_run_beside_itself_by_force_alone(write, work, tmp_path, pulse, run):
    write(SHARED, "pulse.task.hold.interval = 0.5")

    with work() as worker:
        wait_until(tmp_path.joinpath("begun").exists)
        refused = run("run", "hold")
        with program("-m", "pulse", "run", "hold", "--force", env=BUFFERED, cwd=tmp_path) as forced:
            wait_until(lambda: "is run by" in pulse("workers").out)
            tmp_path.joinpath("release").touch()
            code = forced.wait()
        worker.terminate()

        assert (refused.code, refused.out.splitlines()[-1]) == (4, "skipped: the task is still running")
        assert code == 0


def test_a_watch_ends_with_ctrl_c_and_0(write, tmp_path):
    write(SHARED, "pulse.task.tidy.interval = 5m")

    with program("-m", "pulse", "watch", "--every", "30s", env=BUFFERED, cwd=tmp_path) as watch:
        wait_until(lambda: "tidy new" in watch.output)
        watch.signal(signal.SIGINT)
        code = watch.wait()

        assert code == 0
        assert len(watch.output.splitlines()) == 1


def test_what_is_done_on_the_command_line_stands_in_the_audit(write, tmp_path, pulse):
    write(SHARED, "pulse.task.tidy.interval = 5m", "pulse.task.old.interval = 5m")
    pulse("run", "old")
    write(SHARED, "pulse.task.tidy.interval = 5m")

    pulse("run", "tidy")
    pulse("pause", "tidy", "--why", "the feed is down")
    pulse("resume", "tidy")
    pulse("purge", "--yes")

    store = SqliteRunStore(tmp_path / "runs.db")
    presses = store.presses()
    store.close()
    assert [(press.action, press.task) for press in presses] == [
        ("purge", "old"), ("resume", "tidy"), ("pause", "tidy"), ("run now", "tidy"), ("run now", "old"),
    ]  # fmt: skip
    assert presses[2].details == "until it is resumed: the feed is down"
    assert {press.address for press in presses} == {"command line"}
    assert all("@" in press.by for press in presses)


def test_a_run_that_failed_is_tried_again(write, tmp_path, pulse):
    write(SHARED, "pulse.task.fails.interval = 5m", "pulse.task.tidy.interval = 5m")
    first = pulse("run", "fails", "--json")
    run_id = first.document["run"]

    again = pulse("run", "fails", "--again", run_id[:8], "--json")
    shown = pulse("show", run_id[:8], "--json").document["runs"]
    unknown = pulse("run", "fails", "--again", "ffff0000")
    good = pulse("run", "tidy", "--json").document["run"]
    refused = pulse("run", "tidy", "--again", good)

    assert (first.code, again.code) == (1, 1)
    assert (again.document["run"], again.document["due"]) == (run_id, first.document["due"])
    assert [(run["attempt"], run["trigger"], run["request"]) for run in shown] == [
        (1, "manual", "GET /tasks/fails"), (2, "manual", "GET /tasks/fails"),
    ]  # fmt: skip
    assert (unknown.code, "no run begins with 'ffff0000'" in unknown.err) == (2, True)
    assert (refused.code, "succeeded" in refused.err) == (2, True)
