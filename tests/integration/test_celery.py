"""Workers of Celery that run what others ring for, and whatever befalls them, the broker and the messages."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from books import SELDOM, Done, Fleet, twice
from servers import HERE, ROOT, Server, is_alive, program, wait_until
from services import Valkey, valkey
from stories import Stories

from pulse.clock import SystemClock
from pulse.config import read_config
from pulse.errors import BrokerUnavailableError
from pulse.model import Outcome, Run
from pulse.runstores.ledger import NOT_TAKEN

if os.environ.get("CI") != "true":  # there it fails
    pytest.importorskip("celery")

APP = "fleet_app:application"
OFTEN = {"interval": 0.5}
GENEROUS = {"interval": 1, "misfire_grace_time": 60}
LEASE = 3
QUIET = ["--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "INFO"]
story = Stories()
broker: dict[str, str] = {}


@pytest.fixture(scope="module")
def told(request, tmp_path_factory, valkey_server):
    broker["url"] = valkey_server.url
    with story.told(request, tmp_path_factory) as told:
        yield told


@pytest.mark.parametrize("name", story)
def test_story(told, name):
    told(name)


def fleet_of(folder: Path, *, tasks: dict[str, Any], url: str = "", **more) -> Fleet:
    """A fleet whose runs go through a queue of its own; its store is a file of this host."""
    config = {"mode": "celery", "broker": url or broker["url"], "name": uuid4().hex, "lease": LEASE, **more}
    return Fleet(folder, store=f"sqlite:{folder}/runs.db", task=tasks, **config)


def bell(fleet: Fleet) -> Any:
    """A process that rings, without a web server."""
    return program("-m", "pulse", "worker", APP, env=fleet.env, cwd=fleet.home)


def handed_over(fleet: Fleet) -> Run:
    """The run that waits in the queue of *fleet*: it is claimed, and its message is there, too."""
    (run,) = wait_until(fleet.running)
    with closing(redis.Redis.from_url(broker["url"])) as queue:
        wait_until(lambda: queue.llen(f"pulse.{fleet.config['name']}"))
    return run


def taker(fleet: Fleet, *options: str) -> Any:
    """A worker of Celery; by default with one child process."""
    options = options or ("-c", "1")
    env = {**fleet.env, "PULSE_CONFIG": APP}
    name = ("-n", f"{uuid4().hex}@%h")
    return program(
        "-m", "celery", "-A", "pulse.workers.celery", "worker", *name, *QUIET, *options, env=env, cwd=fleet.home
    )


def command(fleet: Fleet, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (fleet.home, HERE, ROOT)))
    env = {**os.environ, **fleet.env, "PYTHONPATH": paths}
    done = [sys.executable, "-m", "pulse", words[0], APP, *words[1:]]
    return subprocess.run(done, env=env, cwd=fleet.home, capture_output=True, text=True, timeout=60, check=False)


def records_of(fleet: Fleet, run: Done | Run) -> list[Run]:
    return [record for record in fleet.records(run.task) if record.due == run.due]


def outcomes(fleet: Fleet, task: str) -> list[Outcome | None]:
    return [run.outcome for run in fleet.records(task)]


def wait_for(fleet: Fleet, task: str, outcome: Outcome, count: int = 1) -> list[Run]:
    def found() -> list[Run]:
        runs = [run for run in fleet.records(task) if run.outcome is outcome]
        return runs if sum(run.count for run in runs) >= count else []

    return wait_until(found)


def received(worker: Server) -> list[str]:
    """What Celery calls the messages that it was given."""
    return re.findall(r"Task pulse\.\w+\[([\w-]+)\] received", worker.output)


# What it is for


@story
def two_that_ring_send_one_message_for_each_run_and_workers_of_celery_run_it(folder):
    fleet = fleet_of(folder, tasks={"often": OFTEN, "other": {**OFTEN, "queue": f"q{uuid4().hex}", "priority": 3}})
    with taker(fleet, "-c", "2") as worker, bell(fleet) as one, bell(fleet) as two:
        wait_until(lambda: len(fleet.ended("often")) >= 4 and len(fleet.ended("other")) >= 4)
        assert (one.terminate(), two.terminate()) == (0, 0)
        wait_until(lambda: fleet.running() == [])
        children = worker.children()
        messages = received(worker)
        assert worker.terminate() == 0

    fleet.must_balance()
    assert twice(messages) == []
    executed = {run.id for task in ("often", "other") for run in fleet.records(task) if run.started}
    assert executed <= set(messages)
    assert fleet.pids("often") | fleet.pids("other") <= children
    assert {run.owner.partition("/")[0].rpartition(":")[2] for run in fleet.records("often") if run.started} <= set(
        map(str, children)
    )


@story
def the_store_may_be_a_server_and_the_worker_solo(folder):
    fleet = fleet_of(folder, tasks={"often": OFTEN})
    fleet = Fleet(folder, **{**fleet.config, "store": broker["url"]})
    with taker(fleet, "-P", "solo") as worker, bell(fleet):
        wait_until(lambda: len(fleet.ended("often")) >= 3)
        assert fleet.pids("often") == {worker.pid}


@story
def a_run_that_fails_is_tried_again_in_time(folder):
    fails = {"interval": SELDOM, "expect_status": "500", "retries": 2, "retry_delay": 0.2, "retry_status": "200"}
    fleet = fleet_of(folder, tasks={"fails": {**fails, "run_at_startup": True}}, lease=600)
    with taker(fleet), bell(fleet):
        wait_until(lambda: len(fleet.ended("fails")) == 3)
        wait_for(fleet, "fails", Outcome.FAILED, 3)

    assert [(run.attempt, run.trigger.value) for run in fleet.records("fails")] == [
        (1, "startup"), (2, "retry"), (3, "retry"),
    ]  # fmt: skip


@story
def people_call_pause_and_cancel(folder):
    long = {"interval": SELDOM, "action": f"long?seconds=60&unless={folder}/released", "kill_grace": 0.5}
    tasks = {"often": OFTEN, "long": {**long, "run_at_startup": True}, "calm": {"interval": SELDOM}}
    fleet = fleet_of(folder, tasks=tasks)
    with taker(fleet, "-c", "2"), bell(fleet):
        wait_until(lambda: fleet.began("long"))
        by_hand = command(fleet, "run", "calm")
        assert (by_hand.returncode, by_hand.stderr) == (0, ""), by_hand.stdout
        assert "success 200" in by_hand.stdout

        assert command(fleet, "run", "long").returncode != 0  # it is running
        run = next(one for one in fleet.running() if one.task == "long")
        assert command(fleet, "cancel", run.id[:8]).returncode == 0
        (ended,) = wait_for(fleet, "long", Outcome.ABANDONED)
        assert ended.id == run.id
        (folder / "released").touch()

        assert command(fleet, "pause", "often", "--why", "migration").returncode == 0
        assert wait_for(fleet, "often", Outcome.SKIPPED)[0].reason == "the task is paused: migration"
        assert command(fleet, "resume", "often").returncode == 0
        count = len(fleet.began("often"))
        wait_until(lambda: len(fleet.began("often")) > count)


@story
def whoever_interrupts_a_call_by_hand_stops_the_run_where_it_is(folder):
    long = {"interval": SELDOM, "action": f"long?seconds=60&unless={folder}/released", "kill_grace": 0.5}
    fleet = fleet_of(folder, tasks={"long": long})
    with taker(fleet), program("-m", "pulse", "run", APP, "long", env=fleet.env, cwd=fleet.home) as caller:
        wait_until(lambda: fleet.began("long"))
        caller.signal(signal.SIGINT)
        assert caller.wait() == 130
        wait_for(fleet, "long", Outcome.ABANDONED)
        (folder / "released").touch()


@story
def what_waits_in_the_queue_can_be_cancelled(folder):
    fleet = fleet_of(folder, tasks={"often": {**GENEROUS, "interval": SELDOM, "run_at_startup": True}})
    with bell(fleet):
        (run,) = wait_until(fleet.running)
        assert run.is_reserved
        assert command(fleet, "cancel", run.id[:8]).returncode == 0
        (ended,) = wait_for(fleet, "often", Outcome.CANCELLED)
        assert ended.reason.startswith("cancelled in the queue")
    assert fleet.began("often") == []


# What befalls workers


@story
def the_run_of_a_killed_worker_is_lost_and_run_again(folder):
    long = {"interval": SELDOM, "recover": True, "action": f"long?seconds=60&unless={folder}/released"}
    fleet = fleet_of(folder, tasks={"long": {**long, "run_at_startup": True}})
    with bell(fleet), taker(fleet) as killed:
        (first,) = wait_until(lambda: fleet.began("long"))

        killed.kill()
        (folder / "released").touch()
        with taker(fleet):
            wait_until(lambda: [run.outcome for run in records_of(fleet, first)] == [Outcome.LOST, Outcome.SUCCESS])

    assert [(run.attempt, run.trigger) for run in fleet.began("long")] == [(1, "startup"), (2, "recover")]


@story
def a_run_that_takes_too_long_is_ended_and_its_worker_goes_on(folder):
    tasks = {
        "often": OFTEN,
        "hangs": {
            "interval": SELDOM,
            "run_at_startup": True,
            "action": "hangs?seconds=60",
            "timeout": 0.5,
            "kill_grace": 5,
        },
    }
    fleet = fleet_of(folder, tasks=tasks)
    with taker(fleet), bell(fleet):
        wait_for(fleet, "hangs", Outcome.TIMEOUT)
        count = len(fleet.ended("often"))
        wait_until(lambda: len(fleet.ended("often")) > count)

    assert fleet.pids("often") == fleet.pids("hangs")  # what the limit raised has unwound the endpoint
    assert fleet.ended("hangs") == []


@story
def a_run_that_cannot_be_unwound_is_killed(folder):
    stubborn = {"interval": SELDOM, "action": "stubborn?seconds=60&stubborn=1", "timeout": 0.5, "kill_grace": 0.5}
    fleet = fleet_of(folder, tasks={"stubborn": {**stubborn, "run_at_startup": True}})
    with taker(fleet), bell(fleet):
        (hung,) = wait_until(lambda: fleet.began("stubborn"))
        wait_for(fleet, "stubborn", Outcome.TIMEOUT)
        wait_until(lambda: not is_alive(hung.pid))


@story
def what_no_worker_takes_is_missed_and_the_next_one_runs(folder):
    fleet = fleet_of(folder, tasks={"often": {"interval": 1}})
    with bell(fleet):
        missed = wait_for(fleet, "often", Outcome.MISSED, 2)
        with taker(fleet):
            wait_for(fleet, "often", Outcome.SUCCESS)

    assert {run.reason for run in missed} == {NOT_TAKEN}
    assert not {run.due for run in missed} & {run.due for run in fleet.began("often")}


@story
def what_waits_for_a_worker_is_run_when_one_comes_within_its_grace(folder):
    fleet = fleet_of(folder, tasks={"late": {**GENEROUS, "interval": SELDOM, "run_at_startup": True}})
    with bell(fleet) as one:
        handed_over(fleet)
        assert one.terminate() == 0  # it is the store's, and Celery's, not the process's
        with taker(fleet):
            wait_for(fleet, "late", Outcome.SUCCESS)
    assert len(fleet.began("late")) == 1


@story
def a_worker_with_another_configuration_leaves_runs_to_others(folder):
    fleet = fleet_of(folder, tasks={"often": {**GENEROUS, "interval": SELDOM, "run_at_startup": True}})
    before = {**fleet.config, "task": {"often": {**GENEROUS, "interval": 60}}}
    old = Fleet(folder, home=folder / "old", **before)
    with taker(old) as outdated, bell(fleet):
        wait_until(lambda: "is left to other workers" in outdated.output)
        assert fleet.began("often") == []
        with taker(fleet):
            wait_for(fleet, "often", Outcome.SUCCESS)
        assert outdated.terminate() == 0
    assert len(fleet.began("often")) == 1


@story
def while_the_store_does_not_answer_the_message_waits(folder):
    with own_server(folder) as server:
        fleet = fleet_of(folder, tasks={"late": GENEROUS})
        fleet = Fleet(folder, **{**fleet.config, "store": server.url})
        with bell(fleet), closing(redis.Redis.from_url(broker["url"])) as queue:
            wait_until(lambda: queue.llen(f"pulse.{fleet.config['name']}"))
        server.freeze()
        try:
            with taker(fleet, "-P", "solo") as worker:
                wait_until(lambda: "is left to other workers" in worker.output)
                assert fleet.began("late") == []
                server.thaw()
                wait_until(lambda: fleet.ended("late"))
        finally:
            server.thaw()


# What befalls messages and brokers


@contextmanager
def own_server(folder: Path) -> Iterator[Valkey]:
    (folder / "valkey").mkdir()
    with valkey(folder / "valkey") as server:
        yield server


@story
def a_message_that_comes_twice_is_run_once(folder):
    fleet = fleet_of(folder, tasks={"once": {**GENEROUS, "interval": SELDOM, "run_at_startup": True}})
    with bell(fleet):
        run = handed_over(fleet)
    post = post_of(fleet)
    for _ in range(2):
        post.send(run, run.expires)
    with taker(fleet, "-c", "2") as worker:
        wait_until(lambda: worker.output.count("not run: somebody else has taken it") == 2)
        wait_for(fleet, "once", Outcome.SUCCESS)

    assert len(fleet.began("once")) == len(fleet.records("once")) == 1


def post_of(fleet: Fleet, **changed: Any) -> Any:
    celery = import_module("pulse.workers.celery")
    options = {**fleet.config, **changed}
    return celery.Post(read_config(tasks=options.pop("task"), options=options), fleet.open())


@story
def a_message_that_comes_after_its_grace_is_missed(folder):
    fleet = fleet_of(folder, tasks={"late": {**GENEROUS, "interval": SELDOM, "run_at_startup": True}})
    with bell(fleet):
        run = handed_over(fleet)
    with ExitStack() as stack:
        post = post_of(fleet)
        stack.enter_context(purged(post))
        send = post._app.send_task
        # Celery itself throws away what has expired; here it does not know.
        post._app.send_task = lambda name, **more: send(name, **{**more, "expires": None})
        post.send(run, datetime.now(UTC) - timedelta(seconds=5))
        stack.enter_context(taker(fleet))
        (missed,) = wait_for(fleet, "late", Outcome.MISSED)

    assert re.fullmatch(r"taken from the queue \d+\.\d s after its grace was over", missed.reason)
    assert fleet.began("late") == []


@contextmanager
def purged(post: Any) -> Iterator[None]:
    """Without the messages that were sent before."""
    post._app.control.purge()
    yield


@story
def while_the_broker_is_away_what_is_due_is_recorded_and_afterwards_it_goes_on(folder):
    with own_server(folder) as server:
        fleet = fleet_of(
            folder,
            tasks={"often": {"interval": 1}, "daily": GENEROUS | {"interval": SELDOM, "run_at_startup": True}},
            url=server.url.replace("//", "//:s3cret@"),
        )
        server.kill()
        with bell(fleet) as ringing:
            missed = wait_for(fleet, "often", Outcome.MISSED, 3)
            assert "Celery's broker does not answer" in missed[-1].reason
            assert ringing.output.count("nothing is handed over") == 1
            assert fleet.records("daily") == []
            server.start()
            with taker(fleet):
                wait_for(fleet, "often", Outcome.SUCCESS)
                wait_for(fleet, "daily", Outcome.SUCCESS)
            assert "Celery's broker answers again" in ringing.output
            assert "s3cret" not in ringing.output


@story
def what_a_frozen_broker_keeps_a_process_from_sending_has_its_record_when_that_process_ends(folder):
    with own_server(folder) as server:
        fleet = fleet_of(folder, tasks={"once": {**GENEROUS, "interval": 3600, "run_at_startup": True}}, url=server.url)
        server.freeze()
        try:
            with bell(fleet) as one:
                (claimed,) = wait_until(fleet.running)
                assert one.terminate() == 0
            (missed,) = fleet.records("once")
        finally:
            server.thaw()

    assert (missed.id, missed.outcome, missed.started) == (claimed.id, Outcome.MISSED, None)
    assert fleet.running() == []


@story
def a_frozen_broker_holds_nobody_up_for_long(folder):
    with own_server(folder) as server:
        fleet = fleet_of(folder, tasks={"often": {"interval": 1}}, url=server.url)
        server.freeze()
        try:
            before = SystemClock().monotonic()
            with pytest.raises(BrokerUnavailableError):
                post_of(fleet).knock()
            assert SystemClock().monotonic() - before < 20
            with bell(fleet) as ringing:
                wait_for(fleet, "often", Outcome.MISSED, 2)
                assert ringing.terminate() == 0
        finally:
            server.thaw()


# The command line


@story
def check_says_whether_broker_and_workers_answer(folder):
    fleet = fleet_of(folder, tasks={"often": {**OFTEN, "queue": f"q{uuid4().hex}"}})

    alone = command(fleet, "check")
    with taker(fleet) as worker:
        wait_until(lambda: " ready." in worker.output)
        together = command(fleet, "check")
    silent = command(Fleet(folder, **{**fleet.config, "broker": "redis://:s3cret@127.0.0.1:1/0"}), "check")

    assert "no worker of Celery answers that takes from the queue" in alone.stdout
    assert "Celery's broker answers, 1 worker of Celery for it" in together.stdout
    assert "no worker" not in together.stdout
    assert "Celery's broker does not answer" in silent.stdout
    assert "s3cret" not in silent.stdout + silent.stderr
    assert [done.returncode for done in (alone, together, silent)] == [0, 0, 0]


def test_a_worker_that_is_not_told_its_application_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "pulse.workers.celery", "worker"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PULSE_CONFIG": ""}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode != 0
    assert "want PULSE_CONFIG=production.ini, or module:object" in done.stderr + done.stdout


def test_importing_it_reads_nothing_and_importing_pulse_does_not_import_celery():
    code = (
        "import os, sys; os.environ['PULSE_CONFIG'] = 'no-such.ini'\n"
        "import pulse.middleware, pulse.cli\n"
        "assert not {'celery', 'kombu', 'pulse.workers.celery'} & set(sys.modules), 'imported too early'\n"
        "from pulse.workers.celery import app\n"
        "assert app.hall is None and not app.configured\n"
        "try:\n"
        "    app.conf.broker_url\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )

    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "there is no file no-such.ini" in done.stdout


@story
def the_example_serves_and_its_worker_runs_its_tasks(folder):
    ini = (ROOT / "examples" / "celery_workers" / "production.ini").read_text(encoding="utf-8")
    ours = ini.replace("127.0.0.1:6379", broker["url"].removeprefix("redis://").partition("/")[0])
    name = uuid4().hex
    (folder / "production.ini").write_text(ours.replace("= celery-workers", f"= {name}"), encoding="utf-8")
    celery = ("-m", "celery", "-A", "pulse.workers.celery", "worker", *QUIET, "-c", "2")
    history = [sys.executable, "-m", "pulse", "history", "production.ini"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    with (
        program("-m", "pulse", "serve", "production.ini", "--port", "0", cwd=folder) as server,
        program(*celery, env={"PULSE_CONFIG": "production.ini"}, cwd=folder) as worker,
    ):
        assert server.get("/")[0] == 200
        assert server.get("/jobs/tick")[0] == 404
        wait_until(lambda: len(re.findall(r"Task pulse\.(?:tick|report)\[\w+\] succeeded", worker.output)) >= 2)
        done = subprocess.run(history, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=True)

    assert re.search(r"tick .* success +200 .* process \d+", done.stdout)
