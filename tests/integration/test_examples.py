"""Each example does what it says, with the one command that it names."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from services import missing, valkey
from stories import Stories

EXAMPLES = Path(__file__).parents[2] / "examples"
story = Stories()


def example(folder: Path, name: str, *arguments: str, needs: str = "pulse", **env: str) -> subprocess.CompletedProcess:
    """An example that has come to its end; it finds no runs of an earlier time, and nothing in its directory."""
    if importlib.util.find_spec(needs) is None:
        missing(needs)
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(folder), **env},
        cwd=folder, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def output_of(folder: Path, name: str, *arguments: str, needs: str = "pulse") -> str:
    """What an example prints, when all goes well."""
    done = example(folder, name, *arguments, needs=needs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@story
def plain_wsgi_sweeps_what_a_visitor_left_and_turns_him_away_from_its_task(folder):
    said = output_of(folder, "plain_wsgi.py", "1.6")

    assert "a visitor of / gets 200 welcome\n" in said
    assert "a visitor of /jobs/sweep gets 404 Not Found\n" in said
    assert re.search(r"sweep, due [\d:]+, found 1 carts", said)
    assert re.search(r"the records of its runs:\n  [\d:]+ success: swept 1 carts\n", said)


@story
def flask_app_runs_its_view_in_the_context_of_the_application_for_a_host_that_it_trusts(folder):
    said = output_of(folder, "flask_app.py", "1.6", needs="flask")

    assert "a visitor of / gets 200 OK\n" in said
    assert "a visitor of /jobs/sweep gets 404 Not Found\n" in said
    assert "a visitor of another host gets 400 " in said
    assert re.search(r"sweep, due [\d:]+, request \d+ of flask_app, found 1 carts", said)


@story
def django_app_clears_sessions_behind_allowed_hosts_and_the_redirect_to_https(folder):
    said = output_of(folder, "django_app.py", "2.6", needs="django")

    assert "visitors get 200 over https and 301 over http\n" in said
    assert "another host gets 400\n" in said
    assert "a visitor of the task gets 404\n" in said
    assert re.search(r"clearsessions, due [\d:]+, over https for shop.example: 1 of 1 sessions\n", said)


@story
def pyramid_app_runs_its_view_with_route_and_registry(folder):
    if importlib.util.find_spec("pyramid") is None:  # in CI, too: it wants a setuptools that others do not
        pytest.skip("pyramid is not installed")

    said = output_of(folder, "pyramid_app.py", "1.6")

    assert "a visitor of / gets 200 OK\n" in said
    assert "a visitor of /jobs/sweep gets 404 Not Found\n" in said
    assert re.search(r"sweep, due [\d:]+, matched sweep, found 1 carts", said)


@story
def starlette_app_uses_what_it_made_at_its_start_and_turns_visitors_of_its_task_away(folder):
    said = output_of(folder, "starlette_app.py", "1.6", needs="starlette")

    assert said.startswith("the application starts\n")
    assert "a visitor of / gets 200 welcome\n" in said
    assert "a visitor of /jobs/sweep gets 404 Not Found\n" in said
    assert re.search(r"sweep, due [\d:]+, found 1 carts", said)
    assert said.endswith("the application ends\n")


@story
def fastapi_app_runs_its_route_with_dependencies_and_turns_visitors_of_its_task_away(folder):
    said = output_of(folder, "fastapi_app.py", "1.6", needs="fastapi")

    assert 'a visitor of / gets 200 "welcome"\n' in said
    assert "a visitor of /jobs/sweep gets 404 Not Found\n" in said
    assert re.search(r"sweep, due [\d:]+, found 1 carts", said)


@story
def process_worker_computes_elsewhere_and_survives_its_crashes(folder):
    earlier, said = output_of(folder, "process_worker.py", "1.2"), output_of(folder, "process_worker.py", "3")

    own = re.search(r"this is process (\d+)", said)[1]
    computed = re.findall(r"([\d:]+) compute  success  \d+ in process (\d+)", said)
    assert computed
    assert own not in [child for _, child in computed]
    assert "crash    failed   its process was killed by SIGABRT" in said
    assert set(re.findall(r"[\d:]+ compute", earlier)).isdisjoint(re.findall(r"[\d:]+ compute", said))
    assert "missed" not in said


@story
def hung_endpoint_is_given_up_or_killed_and_its_sibling_goes_on(folder):
    said = output_of(folder, "hung_endpoint.py", "4")

    threads, processes = said.split("mode = processing")
    assert "hang     timeout  it did not come back by its deadline" in threads
    assert "hang     timeout  timed out: its process stopped when it was asked to" in processes
    assert threads.count("success") == processes.count("success") == 1
    assert re.search(r"meanwhile sibling: [1-9]", threads)
    assert "failed" not in said


@story
def async_wsgi_streams_and_its_task_awaits(folder):
    said = output_of(folder, "async_wsgi.py", "1.6")

    assert re.findall(r"after [\d.]+ s a visitor has read (\d)", said) == ["1", "2", "3"]
    assert re.search(r"sweep, due [\d:]+, in an internal request, has awaited", said)


@story
def progress_report_tells_how_far_it_has_got_and_stops_when_it_is_asked_to(folder):
    said = output_of(folder, "progress_report.py", "2")

    alone, cancelled = said.split("a run that is cancelled\n")
    assert re.search(r"  12 pages are kept\n  success after [\d.]+ s\n$", alone)
    assert re.search(r"  \d+ of 5000 pages are built\n  \d+ pages are kept\n", cancelled)
    assert re.search(r"  cancelled after [\d.]+ s: .*enough was seen\n$", cancelled)


@story
def gunicorn_fleet_runs_each_instant_once_in_two_servers_that_share_a_redis(folder):
    with valkey(folder) as server:
        said = output_of(folder, "gunicorn_fleet.py", "1", server.url, needs="gunicorn")

    runs = re.findall(r"([\d:]+) ran in worker (\d+) of gunicorn (\d+)", said)
    assert runs
    assert len({due for due, _, _ in runs}) == len(runs)
    assert said.endswith(f"{len(runs)} due instants, two gunicorns of four workers: each ran once\n")


@story
def gunicorn_fleet_says_when_the_servers_do_not_start(folder):
    done = example(folder, "gunicorn_fleet.py", "1", "sqlite:", needs="gunicorn")

    assert done.returncode == 1
    assert "nothing has run: what the gunicorns say above tells why" in done.stderr


@story
def shared_state_says_when_no_redis_answers(folder):
    done = example(folder, "shared_state", needs="redis", PULSE_DEPLOY__REDIS_URL="redis://127.0.0.1:1/0")

    assert done.returncode == 1
    assert done.stderr.startswith("no Redis answers at redis://127.0.0.1:1/0 (")


@story
def the_tests_of_an_application_pass_with_nothing_around_them(folder):
    shutil.copy(EXAMPLES / "test_your_app.py", folder)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error::pytest.PytestWarning"],
        cwd=folder, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^5 passed", done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    with story.told(request, tmp_path_factory) as told:
        yield told


@pytest.mark.parametrize("name", story)
def test_example(told, name):
    told(name)


def test_the_index_lists_every_example_with_the_command_that_it_names():
    index = (EXAMPLES / "README.rst").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^   \* - ``([\w./]+)``\n     - .+\n     - (.+)$", index, re.MULTILINE))
    there = {
        path.relative_to(EXAMPLES).as_posix().removesuffix("/__main__.py"): path
        for pattern in ("*.py", "*.yml", "*.json", "deploy/*", "*/__main__.py", "*/*.ini")
        for path in EXAMPLES.glob(pattern)
    }

    assert listed.keys() == there.keys()
    for name, command in listed.items():
        if name.endswith(".json"):  # where nothing can be said beside what it is
            continue
        assert command.strip("`") in there[name].read_text(encoding="utf-8")


def test_what_the_examples_have_a_server_serve_is_there():
    named = [
        (path, name)
        for path in EXAMPLES.glob("*.py")
        for module, name in re.findall(
            r"`(?:gunicorn|uvicorn) .*examples\.(\w+):(\w+)", path.read_text(encoding="utf-8")
        )
        if module == path.stem
    ]

    assert len(named) == 8
    for path, name in named:
        assert re.search(rf"^{name} = ", path.read_text(encoding="utf-8"), re.MULTILINE)
