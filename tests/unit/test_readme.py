"""What the README and the pages beside it say is so: their tables, their ini files and their Python."""

import configparser
import re
import runpy
from pathlib import Path

import pytest

from pulse.config import read_paste_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.rst").read_text(encoding="utf-8")


PAGES = sorted((ROOT / "docs").glob("*.rst"))


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of one language, without their indentation."""
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", text)
    return [re.sub("^    ", "", block, flags=re.MULTILINE) for block in found]


def blocks_of_pages(language: str) -> list[object]:
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(language, page.read_text(encoding="utf-8")))
    ]


def test_the_configuration_table_is_made_from_the_options():
    options = runpy.run_path(str(ROOT / "docs" / "options.py"))

    assert options["renewed"](README) == README, "run: python docs/options.py"


@pytest.mark.parametrize("block", blocks("ini"))
def test_the_ini_blocks_are_valid(block, monkeypatch):
    monkeypatch.setenv("PULSE_TOKEN", "long-enough-for-a-token")
    parser = configparser.RawConfigParser()
    parser.read_string(block)
    keys = dict(parser["filter:pulse"])
    assert keys.pop("use") == "egg:pulse"

    config = read_paste_config({}, keys)

    assert config.tasks["cleanup"].path == "/sessions/cleanup"


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_blocks_run(block):
    names: dict[str, object] = {}

    exec(compile(block, "README.rst", "exec"), names)

    assert names


@pytest.mark.parametrize("block", blocks_of_pages("ini"))
def test_the_ini_blocks_of_the_pages_are_valid(block, monkeypatch):
    monkeypatch.setenv("PULSE_TOKEN", "long-enough-for-a-token")
    parser = configparser.RawConfigParser()
    parser.read_string(block)
    keys = dict(parser["filter:pulse"])
    assert keys.pop("use") == "egg:pulse"

    assert read_paste_config({}, keys).tasks


@pytest.mark.parametrize("block", blocks_of_pages("python"))
def test_the_python_blocks_of_the_pages_run(block, monkeypatch):
    monkeypatch.setattr("logging.Logger.addHandler", lambda self, handler: None)  # the log is not theirs
    names: dict[str, object] = {}

    exec(compile(block, "docs", "exec"), names)

    assert names


def test_there_are_blocks_to_look_at():
    assert (len(blocks("ini")), len(blocks("python"))) == (6, 8)
    assert len(blocks_of_pages("ini")) >= 4
    assert len(blocks_of_pages("python")) >= 4


def test_the_ini_of_the_example_is_valid():
    parser = configparser.RawConfigParser()
    parser.optionxform = str
    parser.read(ROOT / "development.ini")
    keys = dict(parser["filter:pulse"])
    del keys["use"]

    config = read_paste_config({}, keys)

    assert list(config.tasks) == ["cleanup", "report", "feed", "digest"]
