"""What servers do to their processes, with nothing configured: no instant is run twice, none is forgotten."""

import os
import signal
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from books import Fleet
from servers import PATIENCE, Server, gunicorn, program, wait_until, waitress
from stories import Stories

from pulse.model import Outcome, Run

APP = "fleet_app:application"
OFTEN = {"interval": 0.4}


UWSGI = Path(sys.prefix, "bin", "uwsgi")

story = Stories()


def often(folder: Path) -> Fleet:
    """An application with a task that is due often."""
    return Fleet(folder, task={"often": OFTEN})


def often_and_long(folder: Path, **config: Any) -> Fleet:
    """One that has a task beside it whose runs last until `release`."""
    long = {"interval": 1, "action": f"long?seconds=60&unless={folder}/released"}
    return Fleet(folder, task={"often": OFTEN, "long": long}, **config)


def release(fleet: Fleet) -> None:
    (fleet.home.parent / "released").touch()


def lost(fleet: Fleet) -> list[Run]:
    return [record for record in fleet.records("long") if record.outcome is Outcome.LOST]


def have_run(fleet: Fleet, server: Server, count: int = 2) -> bool:
    """Whether the server has that many workers, and all have run the task."""
    workers = server.children()
    return len(workers) == count and workers <= fleet.pids("often")


# gunicorn


@story.each(
    sync=(),
    preload=("--preload",),
    gthread=("-k", "gthread", "--threads", "2"),
    gevent=("-k", "gevent", "--preload"),
)
def reloads_and_more_and_fewer_and_killed_workers_of_gunicorn_cost_no_instant(folder, options):
    fleet = often(folder)
    with gunicorn(APP, "-w", "2", *options, env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: have_run(fleet, server))
        first = server.children()

        server.signal(signal.SIGHUP)
        wait_until(lambda: len(server.children()) == 2 and not server.children() & first)
        server.signal(signal.SIGTTIN)
        wait_until(lambda: len(server.children()) == 3)
        os.kill(min(server.children()), signal.SIGKILL)
        server.signal(signal.SIGTTOU)
        wait_until(lambda: have_run(fleet, server))
        assert server.terminate() == 0
        assert server.pid not in fleet.pids("often")

    fleet.must_balance()


@story
def a_reload_for_changed_code_costs_no_instant(folder):
    fleet = often(folder)
    module = fleet.home / "changed.py"
    module.write_text("from fleet_app import application\n")
    with gunicorn("changed:application", "-w", "2", "--reload", env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: have_run(fleet, server))
        first = server.children()

        module.write_text("from fleet_app import application  # changed\n")
        wait_until(lambda: not server.children() & first and fleet.pids("often") - first)
        assert server.terminate() == 0

    fleet.must_balance()


@story
def workers_that_end_after_some_requests_cost_no_instant(folder):
    fleet = often(folder)
    with gunicorn(APP, "-w", "2", "--max-requests", "3", env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: have_run(fleet, server))
        first = server.children()

        wait_until(lambda: server.get()[0] == 200 and not server.children() & first)
        wait_until(lambda: fleet.pids("often") - first)
        assert server.terminate() == 0

    fleet.must_balance()


@story
def the_run_of_a_killed_worker_is_lost_at_once_and_no_instant_is(folder):
    fleet = often_and_long(folder)
    with gunicorn(APP, "-w", "2", env=fleet.env, cwd=fleet.home) as server:
        (run,) = wait_until(lambda: fleet.began("long"))

        os.kill(run.pid, signal.SIGKILL)

        wait_until(lambda: lost(fleet))
        wait_until(lambda: len(fleet.began("long")) > 1)
        release(fleet)
        assert server.terminate() == 0

    (record,) = lost(fleet)
    assert record.due == run.due
    assert record.reason == "its process has ended"  # a lease would take longer
    fleet.must_balance()


@story
def a_frozen_worker_loses_its_run_and_changes_nothing_when_it_goes_on(folder):
    fleet = often_and_long(folder, lease=2)
    with gunicorn(APP, "-w", "2", env=fleet.env, cwd=fleet.home) as server:
        (run,) = wait_until(lambda: fleet.began("long"))

        os.kill(run.pid, signal.SIGSTOP)
        wait_until(lambda: lost(fleet))
        wait_until(lambda: len(fleet.began("long")) > 1)
        release(fleet)
        stopped = fleet.began("often")[-1].due
        thawed = time.time()
        os.kill(run.pid, signal.SIGCONT)
        wait_until(lambda: run.due in {one.due for one in fleet.ended("long")})
        wait_until(lambda: [one for one in fleet.began("often", run.pid) if one.at > thawed])
        assert server.terminate() == 0

    (record,) = [record for record in fleet.records("long") if record.due == run.due]
    assert (record.outcome, record.reason) == (Outcome.LOST, "its lease was not renewed")
    woken = [one for one in fleet.began("often", run.pid) if one.at > thawed]
    assert min(one.due for one in woken) >= stopped
    fleet.must_balance()


# Other servers


@story
def every_worker_of_uwsgi_rings_and_its_master_does_not(folder):
    fleet = often(folder)
    if not UWSGI.exists():
        pytest.skip("uWSGI is not installed: it needs a compiler")
    options = ["--master", "-p", "2", "--enable-threads", "--die-on-term", "--need-app", "--module", APP]
    with program(UWSGI, "--http-socket", "127.0.0.1:0", *options, env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: have_run(fleet, server))
        first = server.children()

        os.kill(min(first), signal.SIGKILL)
        wait_until(lambda: len(server.children()) == 2 and server.children() - first)
        fleet.wait_for_run("often", server.children())
        server.terminate()

        assert server.pid not in fleet.pids("often")

    fleet.must_balance()


@story
def what_waitress_cut_is_recorded_by_its_successor(folder):
    fleet = often_and_long(folder)
    with waitress(APP, env=fleet.env, cwd=fleet.home) as server:
        (run,) = wait_until(lambda: fleet.began("long"))
        assert server.terminate() == -signal.SIGTERM

    with waitress(APP, env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: any(record.due == run.due for record in fleet.records("long")))
        (cut,) = wait_until(lambda: fleet.began("long", server.pid))
        wait_until(lambda: fleet.recorded("long")[-1] > cut.due)  # skipped, while this one is never recorded

    (record,) = [record for record in fleet.records("long") if record.due == run.due]
    assert (record.outcome, record.reason) == (Outcome.LOST, "its process has ended")
    fleet.must_balance()


@story
def workers_of_uvicorn_share_the_instants(folder):
    fleet = often(folder)
    options = ["--interface", "wsgi", "--workers", "2", "--port", "0", "--log-level", "info"]
    with program("-m", "uvicorn", *options, APP, env=fleet.env, cwd=fleet.home):
        wait_until(lambda: len(fleet.pids("often")) == 2)

    fleet.must_balance()


TERMINAL = """
    import pty, socket, time
    from fleet_app import application

    listener = socket.create_server(("127.0.0.1", 0))
    process, _ = pty.fork()
    time.sleep(60)
    """


@story
def a_server_that_opens_a_terminal_rings_itself(folder):
    fleet = often(folder)
    script = fleet.home / "script.py"
    script.write_text(dedent(TERMINAL))
    with program(script, env=fleet.env, cwd=fleet.home) as server:
        wait_until(lambda: len(fleet.began("often")) > 2)

        assert fleet.pids("often") == {server.pid}


# Reloaders


FLASK = """
    from flask import Flask
    import fleet_app

    app = Flask(__name__)
    app.wsgi_app = fleet_app.application
    """

DJANGO = """
    import sys
    from django.conf import settings
    from django.core.management import execute_from_command_line

    settings.configure(DEBUG=True, WSGI_APPLICATION="fleet_app.application", ROOT_URLCONF="changed", SECRET_KEY="x")
    if __name__ == "__main__":
        execute_from_command_line(sys.argv)
    """


@story
def only_the_child_of_flasks_reloader_rings_and_a_change_costs_no_instant(folder):
    fleet = often(folder)
    pytest.importorskip("flask")
    module = fleet.home / "changed.py"
    module.write_text(dedent(FLASK))
    options = ["--app", "changed", "run", "--debug", "--port", "0"]
    with program("-m", "flask", *options, env=fleet.env, cwd=fleet.home) as server:
        must_reload(fleet, server, module)

    fleet.must_balance()


@story
def only_the_child_of_djangos_reloader_rings_and_a_change_costs_no_instant(folder):
    fleet = often(folder)
    pytest.importorskip("django")
    (fleet.home / "changed.py").write_text("urlpatterns = []\n")
    manage = fleet.home / "manage.py"
    manage.write_text(dedent(DJANGO))
    with program(manage, "runserver", "0", env=fleet.env, cwd=fleet.home) as server:
        must_reload(fleet, server, manage)

    fleet.must_balance()


def must_reload(fleet, server, module: Path) -> None:
    wait_until(lambda: fleet.pids("often"))
    first = fleet.pids("often")
    module.write_text(module.read_text() + "# changed\n")
    wait_until(lambda: fleet.pids("often") - first, 2 * PATIENCE)
    assert len(fleet.pids("often")) == 2
    assert server.pid not in fleet.pids("often")


@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    with story.told(request, tmp_path_factory) as told:
        yield told


@pytest.mark.parametrize("name", story)
def test_in_the_life_of_a_server(told, name):
    told(name)
