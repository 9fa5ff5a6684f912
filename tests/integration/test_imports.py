"""What a process pays for by importing Pulse: nothing that it does not use."""

import json
import subprocess
import sys

import pytest

# By what each of them brings along, all the others that only some applications have a use for.
UNUSED = {
    "celery", "http.client", "jinja2", "markupsafe", "prometheus_client", "psycopg", "redis", "rich",
    "sqlite3", "urllib.request", "waitress", "webob",
    "pulse.announce", "pulse.cli", "pulse.runstores.sqlite", "pulse.sessions", "pulse.state", "pulse.status.app",
    "pulse.testing", "pulse.workers.processes", "pulse.wsgi.handlers",
}  # fmt: skip

THREADED = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"done"]

def ask(path):
    environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}
    return list(door(environ, lambda *started: None))

from pulse import PulseMiddleware

task = {"sweep": {"action": "/sweep", "interval": 60}}
door = PulseMiddleware(app, task=task, guard=True, start="manual", store="memory:")
assert ask("/") == [b"done"]
assert ask("/sweep") == [b"Not Found\\n"]
assert door.run_now("sweep").status == 200
door.close()
"""


def imported_by(program: str) -> set[str]:
    """The modules that *program* imports, beyond those that its interpreter has at the start."""
    script = f"""
import json, sys
before = set(sys.modules)
{program}
print(json.dumps(sorted(sys.modules.keys() - before)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_importing_pulse_imports_nothing_else():
    imported = imported_by("import pulse")

    assert {name for name in imported if name.startswith("pulse")} == {"pulse"}
    assert not imported & {"asyncio", "dataclasses", "inspect", "logging", *UNUSED}


def test_a_threaded_application_imports_nothing_that_it_does_not_use():
    imported = imported_by(THREADED)

    assert "pulse.workers.threads" in imported
    assert imported & UNUSED == set()


@pytest.mark.parametrize(
    ("options", "module"), [("store='sqlite:runs.db'", "sqlite3"), ("mode='processing'", "pulse.workers.processes")]
)
def test_what_is_asked_for_is_imported_at_the_start(options, module):
    program = f"from pulse import PulseMiddleware; PulseMiddleware(print, start='manual', {options})"

    assert module in imported_by(program)
