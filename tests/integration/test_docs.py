"""The pages build, and lead nowhere that is not there."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BESIDE = [ROOT / "README.rst", ROOT / "CHANGES.rst", ROOT / "examples" / "README.rst"]
TEXTS = [*BESIDE, *sorted((ROOT / "docs").glob("*.rst"))]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The pages, as Sphinx builds them; a warning is an error."""
    place = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", place / "trees"]
    done = subprocess.run([*command, "docs", place / "html"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place / "html"


def test_the_documentation_builds_without_a_warning(html):
    pages = {page.stem for page in html.glob("*.html")}

    assert pages >= {text.stem for text in (ROOT / "docs").glob("*.rst")}


@pytest.mark.parametrize("room", ["pulse", "pulse.wsgi", "pulse.sessions", "pulse.state"])
def test_the_reference_has_every_public_name(html, room):
    reference = (html / "reference.html").read_text(encoding="utf-8")
    anchors = {anchor.rpartition(".")[2] for anchor in re.findall(r'id="(pulse\.[\w.]+)"', reference)}

    assert [name for name in import_module(room).__all__ if name not in anchors] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.parent.name + "-" + text.stem)
def test_what_is_named_is_there(text):
    named = re.findall(r"``((?:examples|docs|benchmarks|tests)/[\w./-]*)``", text.read_text(encoding="utf-8"))

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"<(?!\w+:)([^>\s]+)>`__", (ROOT / "README.rst").read_text(encoding="utf-8")))

    assert [name for name in linked if not (ROOT / name).is_file()] == []
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.rst")}
    assert pages - linked == {"docs/index.rst"}
