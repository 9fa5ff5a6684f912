"""Each example does what it says, with the one command that it names."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_process_worker_computes_elsewhere_and_survives_its_crashes():
    said = output_of("process_worker.py", "5")

    own = re.search(r"this is process (\d+)", said)[1]
    children = set(re.findall(r"compute  success  \d+ in process (\d+)", said))
    assert children
    assert own not in children
    assert "crash    failed   its process was killed by SIGABRT" in said


def test_hung_endpoint_is_given_up_or_killed_and_its_sibling_goes_on():
    said = output_of("hung_endpoint.py", "6")

    threads, processes = said.split("mode = processing")
    assert "hang     timeout  it did not come back by its deadline" in threads
    assert "hang     timeout  timed out: its process stopped when it was asked to" in processes
    assert threads.count("success") == processes.count("success") == 1
    assert re.search(r"meanwhile sibling: [1-9]", threads)
    assert "failed" not in said


def test_async_wsgi_streams_and_its_task_awaits():
    said = output_of("async_wsgi.py", "2.5")

    assert [line for line in said.splitlines() if "counted" in line] == ["counted 1", "counted 2", "counted 3"]
    assert "swept by internal request, due " in said


def test_starlette_app_uses_what_it_made_at_its_start_and_turns_visitors_of_its_task_away():
    said = output_of("starlette_app.py", "2.2")

    assert said.startswith("the application starts\n")
    assert "a visitor of / gets 200 welcome\n" in said
    assert "a visitor of /jobs/sweep gets 404 Not Found\n" in said
    assert re.search(r"sweep, due [\d:]+, found \d+ carts", said)
    assert said.endswith("the application ends\n")
