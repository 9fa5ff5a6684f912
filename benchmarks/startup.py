"""What it costs to import Pulse and to ask it something on the command line: whole processes, from start to end.

    python benchmarks/startup.py [--rounds N] [--quick] [--check]

The limit of the first table is an interpreter that imports what Pulse's middleware needs of
other packages, and nothing of Pulse. Compiled modules are kept in a folder of this run's own,
as they are after an installation, whatever the environment says about writing them.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from measure import Bound, Effort, Row, check, column, effort, medians, show, show_heading

PACKAGES: Final = ("pulse", "APScheduler", "PasteDeploy", "cronsim", "Flask", "celery")

NOTHING: Final = "an interpreter that imports nothing"
OTHERS: Final = "what the middleware needs of others (the limit)"
PULSE: Final = "Pulse: import pulse"
MIDDLEWARE: Final = "Pulse: from pulse import PulseMiddleware"
FLASK: Final = "Flask: import flask"
CELERY: Final = "Celery: from celery import Celery; Celery()"

LIST: Final = "Pulse: pulse list, ten tasks"
HELP: Final = "Pulse: pulse --help"
FLASK_HELP: Final = "Flask: flask --help"
CELERY_HELP: Final = "Celery: celery --help"

IMPORTED: Final = Bound(name=MIDDLEWARE, figure="ratio", most=2.2)
LISTED: Final = Bound(name=LIST, figure="ratio", most=18.0)

# What a fresh process has loaded of other packages, in the order in which it was loaded.
_LOADED: Final = """
import sys
from pulse import PulseMiddleware
for name, module in sys.modules.items():
    path = getattr(module, "__file__", None) or ""
    if "site-packages" in path and not name.startswith(("pulse", "__")):
        print(name)
"""

_TASK: Final = "pulse.task.{0}.action = {0}\npulse.task.{0}.interval = 60\n"
_INI: Final = """\
[pipeline:main]
pipeline = pulse shop

[filter:pulse]
use = egg:pulse
pulse.config.store = memory:
pulse.config.guard = true
{tasks}
[app:shop]
paste.app_factory = shop:make_shop
"""
_SHOP: Final = """
def make_shop(global_conf, **local_conf):
    return shop

def shop(environ, start_response):
    start_response("200 OK", [])
    return [b"swept"]
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Import(Row):
    """What a process takes that imports something, and ends."""

    ms: float | None = column("CPU ms", ",.0f")
    more_ms: float | None = column("ms more than the limit", ",.0f")
    ratio: float | None = column("x the limit", ".2f")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command(Row):
    """What a command takes from start to end."""

    ms: float | None = column("CPU ms", ",.0f")
    ratio: float | None = column("x an empty interpreter", ".1f")


def main(argv: Sequence[str] | None = None) -> list[Import | Command]:
    """Measure and print; the rows of both tables."""
    given = effort(__doc__, argv, rounds=15, bounds=[IMPORTED, LISTED])
    show_heading("What a start costs", PACKAGES, given)
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder), is_compiled=not given.is_quick)
        imports = _imports(environment, given)
        show("a process that imports", imports)
        commands = _commands(Path(folder), environment, given)
        show("a command", commands)
    check(imports, [IMPORTED], given)
    check(commands, [LISTED], given)
    return [*imports, *commands]


def _imports(environment: Mapping[str, str], given: Effort) -> list[Import]:
    loaded = _run(environment, "-c", _LOADED).split()
    ways = {
        NOTHING: "pass",
        OTHERS: f"import {', '.join(loaded)}",
        PULSE: "import pulse",
        MIDDLEWARE: "from pulse import PulseMiddleware",
        FLASK: "import flask",
        CELERY: "from celery import Celery; Celery()",
    }
    found = _medians({name: ("-c", way) for name, way in ways.items() if _is_there(name)}, environment, given)
    return [
        Import(name=name, ms=found[name], more_ms=_more(found[name], found[OTHERS]), ratio=found[name] / found[OTHERS])
        if name in found
        else Import(name=name, is_installed=False)
        for name in ways
    ]


def _commands(folder: Path, environment: Mapping[str, str], given: Effort) -> list[Command]:
    (folder / "shop.py").write_text(_SHOP, encoding="utf-8")
    ini = folder / "ten.ini"
    ini.write_text(_INI.format(tasks="".join(map(_TASK.format, "abcdefghij"))), encoding="utf-8")
    ways = {
        NOTHING: ("-c", "pass"),
        LIST: ("-m", "pulse", "list", str(ini)),
        HELP: ("-m", "pulse", "--help"),
        FLASK_HELP: ("-m", "flask", "--help"),
        CELERY_HELP: ("-m", "celery", "--help"),
    }
    found = _medians({name: way for name, way in ways.items() if _is_there(name)}, environment, given)
    return [
        Command(name=name, ms=found[name], ratio=found[name] / found[NOTHING])
        if name in found
        else Command(name=name, is_installed=False)
        for name in ways
    ]


def _more(taken: float, least: float) -> float | None:
    return taken - least if taken > least else None


def _is_there(name: str) -> bool:
    peer = name.partition(":")[0].lower()
    return peer not in ("flask", "celery") or find_spec(peer) is not None


def _medians(ways: Mapping[str, Sequence[str]], environment: Mapping[str, str], given: Effort) -> dict[str, float]:
    """Milliseconds of processor time that a process takes, for each of *ways*; its modules are compiled by then."""
    if not given.is_quick:
        for way in ways.values():
            _run(environment, *way)
    return medians({name: partial(_milliseconds, environment, way) for name, way in ways.items()}, given.rounds)


def _milliseconds(environment: Mapping[str, str], way: Sequence[str]) -> float:
    before = _spent()
    _run(environment, *way)
    return (_spent() - before) * 1000


def _spent() -> float:
    """Seconds of processor time that the processes which have ended took: beside other work a clock says nothing."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _run(environment: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - an interpreter like this one
        [sys.executable, *arguments], check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout


def _environment(folder: Path, *, is_compiled: bool) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    path = os.pathsep.join([str(folder), *sys.path[1:]])
    own = {"PYTHONPYCACHEPREFIX": str(folder / "compiled")} if is_compiled else {}
    return {**kept, **own, "PYTHONPATH": path}


if __name__ == "__main__":
    main()
