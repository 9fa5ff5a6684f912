"""Write the tables of docs/configuration.rst and docs/sessions.rst from the options themselves.

    python docs/options.py

A test fails when a table on a page is not this one.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pulse.config import OPTIONS
from pulse.option import Option, options_of
from pulse.sessions.option import SessionOptions

DOCS: Final = Path(__file__).parent
_TABLE: Final = re.compile(
    r"(?<=^\.\. The table is made by docs/options\.py: )(\w+)\.\n.*?(?=^\.\. End of the table\.$)",
    re.MULTILINE | re.DOTALL,
)


def renewed(page: str) -> str:
    """The text of a *page* with its tables as they are now."""
    return _TABLE.sub(lambda found: f"{found[1]}.\n\n{table(TABLES[found[1]])}\n", page)


def table(options: Mapping[str, Option]) -> str:
    """A whole table of options, in reStructuredText."""
    return "".join(_rows(options))


def _below(prefix: str) -> Mapping[str, Option]:
    return {key.removeprefix(prefix): option for key, option in OPTIONS.items() if key.startswith(prefix)}


TABLES: Final[Mapping[str, Mapping[str, Option]]] = {
    "config": _below("pulse.config."),
    "task": _below("pulse.task.<name>."),
    "sessions": options_of(SessionOptions),
}


def _rows(options: Mapping[str, Option]) -> Iterator[str]:
    yield ".. list-table::\n   :header-rows: 1\n   :widths: 20 25 12 50\n\n"
    yield _row("option", "value", "default", "meaning")
    for key, option in options.items():
        yield _row(f"``{key}``", _literal(option.unit), _default(option), _literal(option.sentence))


def _row(*cells: str) -> str:
    first, *others = cells
    return f"   * - {first}\n" + "".join(f"     - {cell}".rstrip() + "\n" for cell in others)


def _default(option: Option) -> str:
    return f"``{option.written}``" if option.written and not option.is_mapping else "\\-"


def _literal(text: str) -> str:
    return text.replace("`", "``")


if __name__ == "__main__":
    for page in DOCS.glob("*.rst"):
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
