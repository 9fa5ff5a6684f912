"""The description that package indexes show; all other metadata is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"`([^`<]+) <(?!\w+:)([^>]+)>`__")
PICTURE = re.compile(r"^\.\. image:: (?!\w+:)(\S+)\n(?:   .*\n)*\n", re.MULTILINE)


def description() -> str:
    """README.rst for a page outside of the repository, where its relative links would lead nowhere.

    They lead to the repository that pyproject.toml names as `Source`. While it names none, they are
    the names of files, and pictures are left out.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return moved((ROOT / "README.rst").read_text(encoding="utf-8"), project.get("urls", {}).get("Source", ""))


def moved(text: str, source: str) -> str:
    """*text* with what is relative in it made absolute, or taken out."""
    if not source:
        return PICTURE.sub("", LINK.sub(r"\1 (``\2``)", text))
    text = PICTURE.sub(lambda found: found[0].replace(found[1], f"{source}/raw/HEAD/{found[1]}", 1), text)
    return LINK.sub(rf"`\1 <{source}/blob/HEAD/\2>`__", text)


if __name__ == "__main__":
    setup(long_description=description(), long_description_content_type="text/x-rst")
