"""The pages build, and lead nowhere that is not there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.rst", ROOT / "CHANGES.rst", *sorted((ROOT / "docs").glob("*.rst"))]


def test_the_documentation_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "trees"]

    done = subprocess.run([*command, "docs", tmp_path / "html"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    pages = {page.stem for page in (tmp_path / "html").glob("*.html")}
    assert pages >= {text.stem for text in (ROOT / "docs").glob("*.rst")}
    assert "PulseMiddleware" in (tmp_path / "html" / "reference.html").read_text()


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_what_is_named_is_there(text):
    named = re.findall(r"``((?:examples|docs|benchmarks|tests)/[\w./-]*)``", text.read_text(encoding="utf-8"))

    assert [name for name in named if not (ROOT / name).exists()] == []
