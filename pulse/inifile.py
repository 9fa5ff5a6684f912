"""Ini files: what stands where in them, and what they take otherwise than it was meant.

PasteDeploy reads them; this is for messages, and for the status page.
"""

import configparser
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from pulse.errors import Fault
from pulse.option import shown

COMMENT: Final = re.compile(r"\s[;#]")
INLINE_COMMENT: Final = "an ini file keeps '{} ...' behind a value as part of it: give the comment a line of its own"

_SECRETIVE: Final = re.compile(
    r"token|secret|passw|pwd|authori|(?<![a-z])auth(?![a-z])|credential|bearer|(api|private).?key|cookie|headers|environ",
    re.IGNORECASE,
)
_TASK: Final = re.compile(r"^pulse\.task\.[^.]*\.")  # what precedes the option of one
_ORDINARY: Final = re.compile(r"[^;#\n\"']*")  # nothing in it can be a comment, a line or a quotation
_FREE: Final = re.compile(r"\.(headers|environ)\.")  # texts that may well hold a blank and a #
_QUOTED: Final = re.compile(r"""(["']).*\1""", re.DOTALL)
_LINE: Final = re.compile(r"\n[^\S\n]*((?:set )?pulse\.[\w.-]+)\s*[=:]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One option as somebody wrote it: its full key, the raw value, file and section."""

    key: str
    value: object
    where: str = ""

    @property
    def is_secret(self) -> bool:
        """Whether the key sounds as if the value must not be shown; a task may well be called `tokens`."""
        return sounds_secret(_TASK.sub("", self.key))

    def fault(self, problem: str, *, is_secret: bool = False) -> Fault:
        """What is wrong with this setting."""
        value = shown(self.value, is_secret=is_secret or self.is_secret)
        return Fault(key=self.key, shown=value, problem=problem, where=self.where)


def sounds_secret(key: str) -> bool:
    """Whether *key* is called as if its value must not be shown."""
    return bool(_SECRETIVE.search(key))


def swallowed(key: str, value: object) -> str:
    """What is wrong where a value holds a comment or a line that was meant to be none of it; else empty.

    A blank and a semicolon is a comment in every value but a body, which is taken as it is; a
    blank and a # only where no text is free to have it.
    """
    if not isinstance(value, str) or _ORDINARY.fullmatch(value) or not key.startswith("pulse."):
        return ""
    option = key.rpartition(".")[2]
    if found := _LINE.search(value):
        return f"an ini file takes an indented line as part of the one before: move {found[1]!r} to the left margin"
    if option == "body":
        return ""
    if not _FREE.search(key) and option != "description" and _QUOTED.fullmatch(value.strip()):
        return "quotes are taken as part of the value: leave them out"
    mark = COMMENT.search(value)
    is_free = option in ("description", "token") or bool(_FREE.search(key))
    if mark is None or (is_free and not mark[0].endswith(";")):
        return ""
    return INLINE_COMMENT.format(mark[0][-1])


def file_and_section(written: str) -> tuple[str, str]:
    """The path and the section, empty for none, of `file.ini#section`; a # may stand in the path, too."""
    path, _, section = written.rpartition("#")
    is_path = not path or "/" in section or Path(written).exists()
    return (written, "") if is_path else (path, section)


class IniFile:
    """What stands where in an ini file; only for messages and the status page, PasteDeploy does the reading.

    The file is read when somebody asks for the first time: of ten thousand tasks that takes
    longer than all that is made of them.
    """

    def __init__(self, path: str) -> None:
        """*path*, empty for no file; without one, or if it cannot be read, nothing is known."""
        self.path = path
        relative = os.path.relpath(path) if path else ""
        self._name = path if relative.startswith("..") else relative
        self._file = Path(path).absolute() if path else None  # when it is read the process may be elsewhere

    def application(self) -> str:
        """The specification of its application, for other processes; empty without a file."""
        return f"config:{self.path}" if self.path else ""

    def place(self, key: str) -> str:
        """File and section of *key*, as far as they are known."""
        homes = [
            name
            for name, lines in self._sections.items()
            if name != "DEFAULT" and (key in lines or f"set {key}" in lines)
        ]
        if not homes and not {key, f"set {key}"}.isdisjoint(self._sections.get("DEFAULT", {})):
            homes = ["DEFAULT"]
        return f"{self._name} [{homes[0]}]" if len(homes) == 1 else self._name

    def home(self, keys: Iterable[str]) -> str:
        """File and section in which most of *keys* stand, for a fault of what stands nowhere."""
        places = Counter(place for place in map(self.place, keys) if place != self._name)
        return next((place for place, _ in places.most_common(1)), self._name)

    def overridden(self) -> list[Fault]:
        """Lines that have no effect: PasteDeploy drops a plain key that stands in [DEFAULT] too."""
        shared = self._sections.get("DEFAULT", {})
        return [
            Setting(key=key, value=value, where=f"{self._name} [{section}]").fault(
                f"has no effect, because [DEFAULT] has this key too; write 'set {key} = ...'"
            )
            for section, lines in self._sections.items()
            for key, value in lines.items()
            if section != "DEFAULT" and key.startswith("pulse.") and shared.get(key, value) != value
        ]

    @cached_property
    def _sections(self) -> Mapping[str, Mapping[str, str]]:
        """The lines that each section has itself."""
        # No section is the default one here: what stands in [DEFAULT] must not show up in all.
        parser = configparser.RawConfigParser(default_section="", strict=False, delimiters=("=", ":"))
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        try:
            parser.read(self._file or (), encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            return {}
        return {name: dict(parser[name]) for name in parser.sections()}
