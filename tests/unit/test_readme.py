"""What the README and the pages beside it say is so: their tables, their ini files, their Python, their commands."""

import configparser
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType
from wsgiref.simple_server import demo_app

import pytest
from docutils.core import publish_string
from docutils.writers import html5_polyglot
from webob import Request

from pulse import cli
from pulse.config import OPTIONS, read_config, read_paste_config
from pulse.middleware import PulseMiddleware
from pulse.sessions.option import read_filter_options
from pulse.status import api
from pulse.status.survey import State

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.rst").read_text(encoding="utf-8")
PAGES = {page: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.rst"))}
TEXTS = [pytest.param(README, id="README"), *(pytest.param(text, id=page.stem) for page, text in PAGES.items())]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    monkeypatch.setenv("PULSE_TOKEN", "long-enough-for-a-token")


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of one language, without their indentation."""
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", text)
    return [re.sub("^    ", "", block, flags=re.MULTILINE) for block in found]


@pytest.fixture
def shop(monkeypatch):
    """The module that the tutorial begins with."""
    module = ModuleType("shop")
    exec(blocks("python", PAGES[ROOT / "docs" / "tutorial.rst"])[0], vars(module))
    monkeypatch.setitem(sys.modules, "shop", module)


def blocks_of_pages(language: str) -> list[object]:
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page, text in PAGES.items()
        for number, block in enumerate(blocks(language, text))
    ]


def sections(block: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(block)
    return parser


def read_filter(block: str):
    keys = dict(sections(block)["filter:pulse"])
    assert keys.pop("use") == "egg:pulse"
    return read_paste_config({}, keys)


def run(block: str) -> None:
    """A Python block, and the tests that it has."""
    names: dict[str, object] = {"app": demo_app}
    exec(compile(block, "a page", "exec"), names)
    for name, one in names.items():
        if name.startswith("test_"):
            one()


def plain(text: str) -> str:
    """As docutils by itself reads it, which knows no roles of Sphinx; a warning is an error."""
    strict = {"report_level": 1, "halt_level": 2}
    return publish_string(text, writer=html5_polyglot.Writer(), settings_overrides=strict).decode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_of_options_are_made_from_the_options(page):
    options = runpy.run_path(str(ROOT / "docs" / "options.py"))

    assert options["renewed"](PAGES[page]) == PAGES[page], "run: python docs/options.py"


def test_the_pages_have_each_option_once():
    page = PAGES[ROOT / "docs" / "configuration.rst"]

    listed = re.findall(r"^   \* - ``(\S+)``$", page, re.MULTILINE)

    assert listed == [re.sub(r"^pulse\.(config|task\.<name>)\.", "", name) for name in OPTIONS]


def test_the_readme_says_the_defaults_that_there_are():
    said = dict(re.findall(r"^``(pulse\.\S+)`` +``(\w+)`` ", README, re.MULTILINE))

    assert said == {name: OPTIONS[name].written for name in said}
    assert len(said) > 4


@pytest.mark.parametrize("block", blocks("ini"))
def test_the_ini_blocks_are_valid(block):
    assert read_filter(block).tasks["cleanup"].path == "/sessions/cleanup"


def test_the_shortest_python_is_what_the_shortest_ini_is():
    names: dict[str, object] = {"app": demo_app}

    exec(blocks("python")[0], names)

    assert names["app"].config.tasks == read_filter(blocks("ini")[0]).tasks


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_blocks_run(block):
    run(block)


@pytest.mark.parametrize("block", blocks_of_pages("ini"))
def test_the_ini_blocks_of_the_pages_are_valid(block):
    assert read_filter(block).tasks


def test_the_filter_of_sessions_is_valid():
    block, *_ = blocks("ini", PAGES[ROOT / "docs" / "sessions.rst"])
    keys = dict(sections(block)["filter:sessions"])
    assert keys.pop("use") == "egg:pulse#sessions"

    assert read_filter_options({}, keys).cleanup == read_filter(block).tasks["cleanup"].path


@pytest.mark.parametrize("block", blocks_of_pages("python"))
@pytest.mark.usefixtures("shop")
def test_the_python_blocks_of_the_pages_run(block, monkeypatch):
    monkeypatch.setattr("logging.Logger.addHandler", lambda self, handler: None)  # the log is not theirs
    run(block)


@pytest.mark.parametrize("text", TEXTS)
def test_the_options_that_a_text_names_are_there(text):
    named = set(re.findall(r"``(pulse\.(?:config|task)\.[\w.<>]*\w)``", text))

    known = {name.replace("<name>", r"[\w<>]+").replace("<Name>", r"\S+") for name in OPTIONS}
    known |= {r"pulse\.config\.default\.<option", r"pulse\.task\.<name>\.<option"}
    assert [name for name in named if not any(re.fullmatch(one, name) for one in known)] == []


@pytest.mark.parametrize("text", TEXTS)
def test_the_lines_of_configuration_that_a_text_shows_can_be_read(text):
    celery = {"pulse.config.mode": "celery", "pulse.config.broker": "redis://h"}
    for line in re.findall(r"^    (pulse\.(?:config|task)\.\S+ = .+)$", text, re.MULTILINE):
        key, _, value = line.partition(" = ")

        assert read_config({"pulse.config.name": "shop", **(celery if key in celery else {}), key: value})


@pytest.mark.parametrize("text", TEXTS)
def test_the_commands_that_a_text_shows_can_be_called(text):
    for line in re.findall(r"^ +(?:\.?\w+/bin/)?(pulse [a-z-]+ .+)$", text, re.MULTILINE):
        words = shlex.split(line, comments=True)[1:]

        assert cli._parse(words)


def test_there_are_blocks_to_look_at():
    assert (len(blocks("ini")), len(blocks("python"))) == (4, 4)
    assert len(blocks_of_pages("ini")) >= 7
    assert len(blocks_of_pages("python")) >= 12


def test_the_readme_takes_five_minutes():
    assert len(README.splitlines()) <= 350


def test_the_readme_is_plain_restructured_text():
    assert "At most once for each due instant" in plain(README)


def test_without_a_repository_the_description_promises_no_page():
    said = SETUP["moved"](README, "")

    assert "`__" not in said
    assert "<img" not in plain(said)
    assert "Tutorial (``docs/tutorial.rst``)" in said


def test_the_description_leads_to_the_repository():
    page = plain(SETUP["moved"](README, "https://code.example.org/pulse"))

    assert 'href="https://code.example.org/pulse/blob/HEAD/docs/tutorial.rst"' in page
    assert 'src="https://code.example.org/pulse/raw/HEAD/docs/status.png"' in page
    assert re.findall(r'(?:href|src)="(?!https://|#|data:)([^"]+)"', page) == []


def test_the_ini_of_the_example_is_valid():
    parser = configparser.RawConfigParser()
    parser.optionxform = str
    parser.read(ROOT / "development.ini")
    keys = dict(parser["filter:pulse"])
    del keys["use"]

    config = read_paste_config({}, keys)

    assert list(config.tasks) == ["cleanup", "report", "feed", "digest"]


def test_the_page_about_the_api_has_its_addresses():
    page = PAGES[ROOT / "docs" / "http-api.rst"]

    addresses = [line for line in (api.__doc__ or "").splitlines() if re.match(" +(GET|POST) ", line)]

    assert len(addresses) > 10
    assert [line for line in addresses if line not in page] == []


def test_the_page_about_operation_has_each_metric_and_each_state():
    page = PAGES[ROOT / "docs" / "operate.rst"]
    written = (ROOT / "pulse" / "status" / "metrics.py").read_text(encoding="utf-8")

    tables = set(re.findall(r"^``(\w+)``  ", page, re.MULTILINE))

    # The library that writes them down gives a counter the end that the page shows.
    shown = {name.removesuffix("_total") for name in tables if name.startswith("pulse_")}
    assert shown == {name.removesuffix("_total") for name in re.findall(r'"(pulse_\w+)"', written)}
    assert {state.value for state in State} <= tables


def test_the_page_about_the_api_has_the_keys_of_a_task_and_of_a_run():
    token = "long-enough-for-a-token"
    site = PulseMiddleware(demo_app, task={"a": {}}, status="/_pulse", token=token, store="memory:", start="manual")
    site.run_now("a")

    def keys(path: str, name: str) -> list[str]:
        request = Request.blank(f"/_pulse/api/{path}", headers={"Authorization": f"Bearer {token}"})
        return list(request.get_response(site).json[name][0])

    page = PAGES[ROOT / "docs" / "http-api.rst"]
    listed = re.findall(r"^``(\w+)``  ", page, re.MULTILINE)

    assert listed == keys("tasks", "tasks") + keys("tasks/a/runs", "runs")
