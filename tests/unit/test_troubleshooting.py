"""The messages that docs/troubleshooting.rst quotes are those that Pulse says."""

import ast
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pulse import errors
from pulse.asgi import AsgiPulse
from pulse.cli import main
from pulse.config import read_config
from pulse.control import Control
from pulse.dispatch import Dispatcher
from pulse.errors import ConfigError, StoreUnavailableError
from pulse.middleware import PulseMiddleware
from pulse.model import Run
from pulse.runstores.sqlite import SqliteRunStore

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
PARTS = re.split(
    r"^(.+)\n-{4,}\n", (ROOT / "docs" / "troubleshooting.rst").read_text(encoding="utf-8"), flags=re.MULTILINE
)
TEXTS = dict(zip(PARTS[1::2], PARTS[2::2], strict=True))
LATER = ("An instant was not run", "The store", "What the log warns of")  # what is said when something has happened
RAISED = "What Python raises"
QUOTED = [
    one
    for title in TEXTS
    if title not in (*LATER, RAISED)
    for one in re.findall("^``(.+)``$", TEXTS[title], re.MULTILINE)
]
APPLICATION = "\n[app:application]\nuse = egg:there-is-no-such-application\n"
LINES = "use = egg:pulse\npulse.task.a.interval = 300\n"
FILTER = f"[filter:pulse]\n{LINES}"

WRITTEN = [
    {"pulse.config.gaurd": "true"},
    {"guard": "true"},
    {"pulse.config.guard": "true ; yes"},
    {"pulse.config.guard": "true\n  pulse.task.a.interval = 300"},
    {"pulse.config.mode": "'auto'"},
    {"pulse.task.a/b.interval": "300"},
    {"pulse.task.a.cron": "60 * * * *"},
    {"pulse.config.timezone": "Berlin"},
    {"pulse.task.a.at": "02:30"},
    {"pulse.task.a.interval": "300", "pulse.task.a.cron": "@daily"},
    {"pulse.config.token": "short"},
    {"pulse.config.store": "redis://host"},
    {"pulse.config.store": "redis://user:pass/word@host"},
]
FILES = [
    f"[DEFAULT]\npulse.config.guard = false\n[filter-app:main]\nnext = application\n{LINES}pulse.config.guard = true",
    f"[pipeline:main]\npipeline = application\n{FILTER}",
    f"[pipeline:main]\npipeline = application pulse\n{FILTER}",
    f"[app:main]\n{LINES}",
    "[filter-app:main]\nuse = egg:pulse\nnext = application\n[pulse]\npulse.task.a.interval = 300",
    f"[filter-app:main]\nnext = application\n{LINES}pulse.task.b.at = 2020-01-01\npulse.config.store = memory:",
]
ANSWERS = [
    ("400 No", [], b""),
    ("301 Moved", [("Location", "https://localhost/jobs/sweep")], b""),
    ("301 Moved", [("Location", "/jobs/sweep/")], b""),
    ("401 No", [], b""),
    ("403 No", [], b"CSRF"),
    ("404 No", [], b""),
    ("405 No", [("Allow", "POST")], b""),
    ("200 OK", [], "text"),
]


async def asgi(scope, receive, send):
    """Stands for any ASGI application."""


def create_app():
    """Stands for any factory."""


def refusal(build, *arguments, **options) -> str:
    with pytest.raises((ConfigError, StoreUnavailableError)) as refused:
        build(*arguments, **options)
    return str(refused.value)


def reasons():
    config = read_config({"pulse.config.context": "jobs"}, tasks={"sweep": {}})
    for status, headers, body in ANSWERS:

        def endpoint(environ, start_response, status=status, headers=headers, body=body):
            start_response(status, headers)
            return [body]

        yield _reason(config, endpoint)
    yield _reason(config, lambda environ, start_response: [])


def _reason(config, endpoint) -> str:
    run = Run(id="a", task="sweep", due=NOON)
    return Dispatcher(endpoint, config)(config.tasks["sweep"], run, Control()).reason


@pytest.fixture
def said(tmp_path, monkeypatch, capsys) -> str:
    """All that Pulse says to the mistakes above."""
    monkeypatch.chdir(tmp_path)
    texts = [refusal(read_config, written) for written in WRITTEN]
    texts += reasons()
    for text in FILES:
        tmp_path.joinpath("site.ini").write_text(text + APPLICATION)
        main(["check", "site.ini"])
        texts.append(capsys.readouterr().out)
    task = {"a": {"interval": 300}}
    texts.append(refusal(PulseMiddleware, lambda environ, start_response: [], task=task, mode="processing"))
    synchronous = type("Flask", (), {"__module__": "flask.app", "__call__": lambda self, environ, start_response: []})
    texts.append(refusal(PulseMiddleware, synchronous(), task=task, mode="asyncio"))
    texts.append(refusal(PulseMiddleware, lambda environ, start_response: [], task=task, store="sqlite:/tmp"))
    texts += [refusal(PulseMiddleware, wrong) for wrong in (asgi, create_app)]
    texts.append(refusal(AsgiPulse, lambda environ, start_response: []))
    tmp_path.joinpath("runs.db").write_text("no database, but a text that is long enough to be one" * 20)
    texts.append(refusal(SqliteRunStore(tmp_path / "runs.db").register, ["a"], NOON))
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "pulse.runstores.redis", raising=False)
    texts.append(refusal(PulseMiddleware, lambda environ, start_response: [], store="redis://h", name="app"))
    return "\n".join(texts)


def test_each_message_that_the_page_quotes_is_said(said):
    assert [message for message in QUOTED if message not in said] == []
    assert len(QUOTED) > 30


def texts_of_the_code() -> str:
    """All texts in the code of Pulse, one a line, those in one expression joined as Python joins them."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in ROOT.glob("pulse/**/*.py"))
    found = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(text for text in found if isinstance(text, str))


def test_what_records_and_the_log_say_by_the_page_is_in_the_code(said):
    terms = [line for title in LATER for line in TEXTS[title].splitlines() if re.match(r"[`*]", line)]
    quoted = [one for line in terms for one in re.findall("``(.+?)``", line) if line.endswith("``")]

    texts = texts_of_the_code()

    assert [one for one in quoted if one not in texts and one not in said] == []
    assert len(quoted) > 20


def test_the_page_has_each_error_and_what_it_also_is():
    rows = re.findall(r"^``(\w+)`` +``(\w+)``  ", TEXTS[RAISED], re.MULTILINE)

    there = {
        (one.__name__, one.__bases__[1].__name__) for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.PulseError) and one is not errors.PulseError
    }  # fmt: skip
    assert set(rows) == there
