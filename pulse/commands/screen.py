"""Where a command writes: lines and tables for people, or one JSON document for programs."""

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pulse.commands.exits import OutputError

_RIGID: Final = 28  # what is no longer than this is never broken: ids, names, instants
_BROKEN: Final = 14  # the least that is left to a column of what is longer
_SPACE: Final = 2  # beside each column of a ruled table
# What commands a terminal, and what has it show text in another order, or lines that are none.
_COMMANDS: Final = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_CONTROL: Final = re.compile(f"[\x00-\x08\x0b-\x1f{_COMMANDS}]")
_UNQUOTED: Final = re.compile(f"[{_COMMANDS}]")  # in JSON, which spells out the others


class Screen:
    """The standard output of a command.

    On a terminal there are colours and ruled tables. Anywhere else, and with NO_COLOR,
    there is plain text of any width, for `grep` and `awk`.

    Attributes:
        is_json: Whether the command was asked for a JSON document instead of text.
    """

    def __init__(self, stream: TextIO | None, *, is_json: bool = False) -> None:
        """*stream*: None, for a process without a standard output, swallows everything."""
        self.is_json = is_json
        self._stream = stream
        self._console = _console(stream)

    def line(self, text: str = "", style: str = "") -> None:
        """Write *text* as one line, whatever is in it; it is seen at once, also through a pipe."""
        self.text(_in_one_line(text), style)

    def text(self, text: str, style: str = "") -> None:
        """Write *text* with the lines that it has."""
        if self._console:
            self._console.print(Text(visible(text), style=style), soft_wrap=True)
        else:
            self._write(f"{visible(text)}\n")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write *rows* below *head*, each column as wide as its longest cell.

        On a terminal that is too narrow for that, long cells are broken into lines, and not what
        one might copy: ids, times. What is still too wide is left to the terminal.
        """
        shown = [[_in_one_line(cell) for cell in row] for row in rows]
        if self._console:
            least = [width if width <= _RIGID else _BROKEN for width in _widths(head, shown)]
            if sum(least) + _SPACE * len(least) < self._console.width:
                self._console.print(_table(head, shown, least))
                return
        widths = _widths(head, shown)
        for row, style in ((list(head), "bold"), *((row, "") for row in shown)):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.line("  ".join(cells).rstrip(), style)

    def document(self, value: object, *, is_line: bool = False) -> None:
        """Write *value* as the JSON document of this command; in one line if there will be more of them."""
        text = json.dumps(value, indent=None if is_line else 2, ensure_ascii=not self._takes_any_character())
        self._write(_UNQUOTED.sub(lambda found: f"\\u{ord(found.group()):04x}", text) + "\n")

    @property
    def can_redraw(self) -> bool:
        """Whether what was written can be replaced: on a terminal, and for people."""
        return self._console is not None and not self.is_json

    @contextmanager
    def redrawn(self) -> Iterator[Callable[[Sequence[str], Sequence[Sequence[str]], str], None]]:
        """What shows a table and a line below it, each time in the place of the one before."""
        with Live(console=self._console, auto_refresh=False) as live:

            def show(head: Sequence[str], rows: Sequence[Sequence[str]], below: str) -> None:
                table = _table(head, [[_in_one_line(cell) for cell in row] for row in rows], [1] * len(head))
                live.update(Group(table, Text(visible(below), style="dim")), refresh=True)

            yield show

    def _takes_any_character(self) -> bool:
        # What another encoding lacks is spelt out by Python, in a way that is no JSON.
        encoding = getattr(self._stream, "encoding", None)
        return encoding is None or codecs.lookup(encoding).name.startswith("utf")

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:  # whoever read it has enough
            raise
        except OSError as error:
            raise OutputError(f"the output cannot be written: {error.strerror}") from None


def visible(text: str) -> str:
    """*text* with its control characters spelt out: a response must not command the terminal."""
    return _CONTROL.sub(lambda found: _spelt(found.group()), text)


def counted(number: int, word: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _in_one_line(text: str) -> str:
    """*text* without a break, behind which it could look like another record."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _spelt(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def _widths(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(head, *rows, strict=True)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[int]) -> Table:
    """A ruled table, of columns that are as wide as *least* at least."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _SPACE - 1, 0, 0))
    for word, width, most in zip(head, least, _widths(head, rows), strict=True):
        table.add_column(word, min_width=width, overflow="fold", no_wrap=width == most)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _console(stream: TextIO | None) -> Console | None:
    """The console of a terminal that may be coloured; None for plain text."""
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR"):
        return None
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    return None if console.is_dumb_terminal else console
