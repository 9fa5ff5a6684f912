import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pulse"

# A room imports from lower floors only; a folder is one room.
FLOORS = {
    "errors": 0, "clock": 0, "reader": 0, "gateway": 0, "zone": 0, "instance": 0, "probes": 0, "address": 0,
    "option": 1, "guesses": 1, "forks": 1,
    "model": 2,
    "mark": 3, "spelling": 3, "schedule": 3, "context": 3, "request": 3, "loop": 3, "codec": 3,
    "outage": 3, "control": 3, "evidence": 3, "runlog": 3, "postponed": 3, "within": 3, "meant": 3, "inifile": 3, "hint": 3,
    "underway": 4, "missed": 4, "standing": 4, "guard": 4, "config": 4, "wsgi": 4, "runstores": 4, "state": 4, "logs": 4,
    "exchange": 5, "sessions": 5, "fleet": 5, "aftermath": 5, "given": 5,
    "dispatch": 6, "recorder": 6,
    "claims": 7, "alarms": 7,
    "upkeep": 8,
    "runner": 9,
    "workers": 10, "announce": 9,
    "scheduler": 10,
    "status": 11,
    "start": 12, "engine": 12,
    "hand": 13,
    "middleware": 14,
    "app": 15, "asgi": 15, "commands": 15,
    "cli": 16,
}  # fmt: skip
OUTSIDE = {"__init__", "__main__", "pytest_plugin", "testing"}  # they may import every room; no room imports them

# Which modules may import a library; the longest name that fits counts.
LIBRARIES = {
    "apscheduler": ["scheduler"],
    "apscheduler.triggers": ["schedule", "scheduler"],
    "celery": ["workers/celery"],
    "kombu": ["workers/celery"],  # Celery's messages
    "cronsim": ["reader/crons", "schedule"],
    "paste": ["config", "middleware", "cli", "commands/*", "wsgi/lazy"],
    "prometheus_client": ["status/metrics"],
    "psycopg": ["runstores/postgres"],
    "pytest": ["pytest_plugin"],
    "redis": ["*/redis"],
    "webob": ["request", "dispatch", "wsgi/*", "status/*", "sessions/*"],
}


def faults(module: str, source: str) -> list[str]:
    """What the plan has against *module*, `runner` or `wsgi/lazy`, and its imports."""
    room = module.partition("/")[0]
    if room not in {*FLOORS, *OUTSIDE}:
        return [f"{module} has no floor"]
    names = sorted(set(imports(ast.parse(source))))
    return [
        f"{module}: {name} {fault}"
        for name in names
        if (fault := fault_of_room(room, name) or fault_of_library(module, name))
    ]


def imports(node: ast.AST) -> Iterator[str]:
    """The dotted names that *node* imports when it runs, inside functions too."""
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom():
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            for child in node.orelse:
                yield from imports(child)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from imports(child)


def fault_of_room(own: str, name: str) -> str:
    top, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    if top not in ("", "pulse") or own in OUTSIDE or room in (own, "__version__"):
        return ""
    if room not in FLOORS:  # also a relative import, and a lazy name: `from pulse import PulseMiddleware`
        return "is not the name of a room"
    return "" if FLOORS[room] < FLOORS[own] else "is not on a lower floor"


def fault_of_library(module: str, name: str) -> str:
    known = [library for library in LIBRARIES if f"{name}.".startswith(f"{library}.")]
    homes = LIBRARIES[max(known, key=len)] if known else ["*"]
    return "" if any(fnmatchcase(module, home) for home in homes) else f"belongs in {' or '.join(homes)}"


def test_the_house_stands_as_planned():
    modules = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}

    found = [fault for module, path in modules.items() for fault in faults(module, path.read_text(encoding="utf-8"))]

    assert modules
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model", "from pulse.option import option"),
        ("model", "from pulse import option"),
        ("model", "import pulse.option"),
        ("cli", "from pulse import __version__"),
        ("wsgi/lazy", "from pulse.wsgi.handlers import WsgiHandler"),
        ("wsgi/__init__", "from pulse.wsgi import handlers"),
        ("model", "if TYPE_CHECKING:\n    from pulse.runner import Runner"),
        ("model", "if typing.TYPE_CHECKING:\n    import webob"),
        ("__init__", "from pulse.middleware import PulseMiddleware"),
        ("testing", "from pulse.runstores.memory import MemoryRunStore"),
        ("schedule", "from apscheduler.triggers.base import BaseTrigger"),
        ("scheduler", "from apscheduler.schedulers.background import BackgroundScheduler"),
        ("runstores/redis", "import redis"),
        ("state/redis", "import redis.asyncio"),
        ("wsgi/response", "from webob import Response"),
        ("cli", "import waitress"),
        ("errors", "import redistribution"),
    ],
)
def test_the_plan_allows(module, source):
    assert faults(module, source) == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("model", "from pulse.runner import Runner", "model: pulse.runner.Runner is not on a lower floor"),
        ("model", "from pulse import runner", "model: pulse.runner is not on a lower floor"),
        ("model", "import json, pulse.runner", "model: pulse.runner is not on a lower floor"),
        ("mark", "import pulse.request as r", "mark: pulse.request is not on a lower floor"),
        ("wsgi/lazy", "from pulse.config import read", "wsgi/lazy: pulse.config.read is not on a lower floor"),
        ("model", "def f():\n    import pulse.cli", "model: pulse.cli is not on a lower floor"),
        ("model", "try:\n    pass\nfinally:\n    import pulse.cli", "model: pulse.cli is not on a lower floor"),
        (
            "model",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import pulse.cli",
            "model: pulse.cli is not on a lower floor",
        ),
        ("model", "from pulse import Task", "model: pulse.Task is not the name of a room"),
        ("model", "import pulse", "model: pulse is not the name of a room"),
        (
            "runner",
            "from pulse.testing import ManualClock",
            "runner: pulse.testing.ManualClock is not the name of a room",
        ),
        ("runner", "from . import model", "runner: ..model is not the name of a room"),
        ("utils", "", "utils has no floor"),
        ("utils/text", "", "utils/text has no floor"),
        (
            "runner",
            "import apscheduler.triggers.base",
            "runner: apscheduler.triggers.base belongs in schedule or scheduler",
        ),
        ("schedule", "from apscheduler import events", "schedule: apscheduler.events belongs in scheduler"),
        ("testing", "from webob import Request", "testing: webob.Request belongs in "),
        ("redis", "import redis", "redis has no floor"),
        ("runstores/postgres", "from redis import Redis", "runstores/postgres: redis.Redis belongs in */redis"),
        ("runstores/base", "from psycopg import rows", "runstores/base: psycopg.rows belongs in runstores/postgres"),
    ],
)
def test_the_plan_refuses(module, source, fault):
    assert len(faults(module, source)) == 1
    assert faults(module, source)[0].startswith(fault)
