"""Readers of where something is to be found: an application, a function, a broker, a secret."""

import os
import re
from pathlib import Path
from typing import Final

from pulse.reader.base import Reader
from pulse.reader.web import path

TOKEN_LENGTH: Final = 16  # below this a bearer token can be guessed over the network
BROKER: Final = (
    "want the address of Celery's broker, such as redis://host:6379/0 or amqp://user:password@host, or env:NAME"
)
# A # may stand in the path of a file; a section has neither blanks nor slashes.
_APPLICATION: Final = re.compile(r"config:[^#](.*/[^#/]*|[^#]*)(#[^#/\s]+)?|[^\W\d][\w.]*:[^\W\d][\w.]*", re.DOTALL)
_BROKER: Final = re.compile(r"(?!memory:)[A-Za-z][A-Za-z0-9+]*://[^\s\x00-\x1f;]*")


def from_environment(read: Reader[str]) -> Reader[str]:
    """*read*, of an address or of `env:NAME`, the environment variable that holds it."""

    def read_there(value: object) -> str:
        source, _, name = value.strip().partition(":") if isinstance(value, str) else ("", "", "")
        if source != "env":
            return read(value)
        if not name:
            raise ValueError("want an address, or env:NAME: nothing stands behind env:")
        found = _from_environment("an address", name)
        try:
            return read(found)
        except ValueError as error:  # a guess may show what was found, which nobody has written here
            raise ValueError(f"{str(error).partition('; did you')[0]} (in the environment variable {name})") from None

    return read_there


def specification(value: object) -> str:
    """Where an application is: `config:production.ini#main` or `module:object`; empty for nowhere."""
    place = value.strip() if isinstance(value, str) else None
    if place == "" or (place and _APPLICATION.fullmatch(place)):
        return place
    raise ValueError("want config:file.ini#name or module:object")


def hook(value: object) -> str:
    """Who is told of a record: a path of the application, or `module:function`."""
    place = value.strip() if isinstance(value, str) else ""
    if place.startswith("/"):
        return path(place)
    if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", place):
        return place
    raise ValueError("want a path that begins with /, or module:function")


def broker(value: object) -> str:
    """The address of Celery's broker, or several for one that fails over, with `;` between them."""
    written = value.strip() if isinstance(value, str) else ""
    if all(_BROKER.fullmatch(address) for address in written.split(";")):
        return written
    raise ValueError(BROKER)


def token(value: object) -> str:
    """A bearer token: itself, or `env:NAME`, or `file:/path`; empty is refused, not "no token".

    Raises:
        ValueError: it is too short, or cannot be read; the message never shows it.
    """
    written = value.strip() if isinstance(value, str) else ""
    source, colon, place = written.partition(":")
    wanted = f"want at least {TOKEN_LENGTH} ASCII characters without blanks, or env:NAME, or file:/path"
    if colon and source in ("env", "file"):
        if not place:
            raise ValueError(f"{wanted}: nothing stands behind {source}:")
        wanted = f"want at least {TOKEN_LENGTH} ASCII characters without blanks in {_at(source, place)}"
        written = _from_environment("a token", place) if source == "env" else _from_file(place)
    if len(written) < TOKEN_LENGTH or not written.isascii() or re.search(r"[\s\x00-\x1f\x7f]", written):
        raise ValueError(wanted)
    return written


def _at(source: str, place: str) -> str:
    return f"the environment variable {place}" if source == "env" else place


def _from_environment(what: str, name: str) -> str:
    if name not in os.environ:
        raise ValueError(f"want {what} in the environment variable {name}, which is not set")
    return os.environ[name].strip()


def _from_file(place: str) -> str:
    try:
        return Path(place).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:  # ValueError: it is no text, or the path holds a zero byte
        raise ValueError(f"want a token in {place}: {getattr(error, 'strerror', None) or 'not text'}") from None
