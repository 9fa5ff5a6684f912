"""Write the configuration table of README.rst from the options themselves.

    python docs/options.py

A test fails when the table in the README is not this one.
"""

from collections.abc import Iterator
from pathlib import Path

from pulse.config import OPTIONS
from pulse.option import Option

README = Path(__file__).parent.parent / "README.rst"
BEGIN = ".. The table is made by docs/options.py.\n"
END = ".. End of the table.\n"


def table() -> str:
    """The whole configuration table, in reStructuredText."""
    return "".join(_rows())


def renewed(text: str) -> str:
    """*text* of a README with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _rows() -> Iterator[str]:
    yield ".. list-table::\n   :header-rows: 1\n   :widths: 30 25 12 50\n\n"
    yield _row("option", "value", "default", "meaning")
    for key, option in OPTIONS.items():
        yield _row(f"``{key}``", _literal(option.unit), _default(option), _literal(option.sentence))


def _row(*cells: str) -> str:
    first, *others = cells
    return f"   * - {first}\n" + "".join(f"     - {cell}".rstrip() + "\n" for cell in others)


def _default(option: Option) -> str:
    return f"``{option.written}``" if option.written and not option.is_mapping else "\\-"


def _literal(text: str) -> str:
    return text.replace("`", "``")


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
