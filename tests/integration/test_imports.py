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
    "pulse.testing", "pulse.workers.aio", "pulse.workers.attendant", "pulse.workers.courier",
    "pulse.workers.processes", "pulse.wsgi.handlers",
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
    return set(json.loads(done.stdout.splitlines()[-1]))  # whatever the program has said before


def test_importing_pulse_imports_nothing_else():
    imported = imported_by("import pulse")

    assert {name for name in imported if name.startswith("pulse")} == {"pulse"}
    assert not imported & {"asyncio", "dataclasses", "inspect", "logging", *UNUSED}


def test_a_threaded_application_imports_nothing_that_it_does_not_use():
    imported = imported_by(THREADED)

    assert "pulse.workers.threads" in imported
    assert imported & UNUSED == set()


def test_whoever_asks_for_help_does_not_wait_for_what_commands_need():
    imported = imported_by("from pulse.cli import main; main(['run', '--help'])")

    assert not imported & {"apscheduler", "asyncio", "rich", "waitress", "pulse.middleware", "pulse.commands.run"}


def test_a_command_imports_no_other_one(tmp_path):
    ini = tmp_path / "site.ini"
    ini.write_text("[filter:pulse]\nuse = egg:pulse\n[app:main]\npaste.app_factory = nowhere:app\n")
    imported = imported_by(f"from pulse.cli import main; main(['list', {str(ini)!r}])")

    commands = {"check", "history", "list", "next", "run", "serve", "watch", "why"}
    assert {name for name in commands if f"pulse.commands.{name}" in imported} == {"list"}
    assert "waitress" not in imported


@pytest.mark.parametrize(
    ("options", "module"), [("store='sqlite:runs.db'", "sqlite3"), ("mode='processing'", "pulse.workers.processes")]
)
def test_what_is_asked_for_is_imported_at_the_start(options, module):
    program = f"from pulse import PulseMiddleware; PulseMiddleware(print, start='manual', {options})"

    assert module in imported_by(program)
