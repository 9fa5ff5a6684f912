"""Addresses of stores: what may be written, and how it is shown without its secrets.

An address is refused here as far as its text tells, so that it is refused together with all
other faults of a configuration, before anything is opened.
"""

import os
import re
from difflib import get_close_matches
from typing import Final
from urllib.parse import SplitResult, urlsplit

STORE: Final = (
    "want auto, memory:, sqlite:/path/to/file, redis://host, rediss://host, unix:///path/to/socket, "
    "postgresql://host/database or env:NAME"
)
REDIS: Final = "want redis://[user:password@]host[:port][/number], special characters percent-encoded"
SOCKET: Final = "want unix://[user:password@]/path/to/socket[?db=number], special characters percent-encoded"
POSTGRES: Final = "want postgresql://user:password@host:port/database, special characters percent-encoded"
FILE: Final = "want sqlite:/path/to/file"
PORT: Final = "a port is a number from 1 to 65535"

_BLANK: Final = re.compile(r"[\s\x00-\x1f\x7f]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LOOKS_LIKE_A_FILE: Final = re.compile(r"(file:|[./~]).*|.+\.(db|sqlite3?)", re.IGNORECASE)
_MEANT: Final = {  # what people write, as it is written here
    **dict.fromkeys(("memory", ":memory:", "sqlite::memory:", "sqlite://:memory:", "memory://"), "memory:"),
    **dict.fromkeys(("redis", "redis:", "valkey", "redis://"), "redis://localhost"),
    **dict.fromkeys(("postgres", "postgresql", "postgres://", "postgresql://"), "postgresql://localhost/database"),
    **dict.fromkeys(("sqlite", "sqlite:", "sqlite://"), "sqlite:/path/to/file"),
}
_SCHEMES: Final = {
    **{scheme: scheme for scheme in ("redis", "rediss", "unix", "postgres", "postgresql", "sqlite")},
    **dict.fromkeys(("valkey", "redis+socket"), "redis"),
    **dict.fromkeys(("valkeys", "redis+ssl"), "rediss"),
    **dict.fromkeys(("postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "pg"), "postgresql"),
    **dict.fromkeys(("sqlite3", "sqlite+pysqlite"), "sqlite"),
}


def masked(text: str) -> str:
    """*text* without the passwords that an address in it may hold, however badly it is written."""
    # A password may hold / and @ and blanks itself, so all before the last @ is one.
    colon, at = text.find(":"), text.rfind("@")
    if 0 <= colon < at:
        text = f"{text[:colon]}:{'//' if text.startswith('//', colon + 1) else ''}***{text[at:]}"
    text = re.sub(r"((?:password|passwd|pwd|secret|token)\s*=)[^&]*", r"\1***", text, flags=re.IGNORECASE)
    # Where the host was forgotten, what stands in the place of the port is one as well.
    return re.sub(r"(://(?:[^/?#@\[:]*:(?![0-9]{1,5}(?:[/?#,]|$))|:))[^/?#,@]+", r"\1***", text)


def store(value: object) -> str:
    """The address of a run store.

    Raises:
        ValueError: it is none; the message never shows it.
    """
    written = value.strip() if isinstance(value, str) else ""
    scheme, colon, rest = written.partition(":")
    address = scheme.lower() + colon + rest
    match scheme.lower():
        case _ if address in ("auto", "memory:"):
            return address
        case "sqlite" if colon and not rest.startswith(":") and rest.strip("/"):
            _require_file(rest)
            return address
        case "redis" | "rediss" | "unix" if rest.startswith("//") and rest.strip("/"):
            require_redis(address)
            return address
        case "postgres" | "postgresql" if rest.startswith("//") and rest.strip("/"):
            _require_postgres(address)
            return address
    raise ValueError(STORE + _hint(address))


def require_redis(address: str) -> None:
    """Refuse what is no address of a Redis server.

    Raises:
        ValueError: what is wrong with it; the message never shows it.
    """
    if not address.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("want redis://host, rediss://host or unix:///path/to/socket")
    is_socket = address.startswith("unix:")
    wanted = SOCKET if is_socket else REDIS
    if _BLANK.search(address):
        raise ValueError(f"{wanted}: it holds a blank")
    parts, port = _split(address, wanted)
    if parts.fragment or "#" in address:
        raise ValueError(f"{wanted}: what follows # is not read")
    if is_socket:
        if parts.netloc.rpartition("@")[2] or not parts.path.strip("/"):
            raise ValueError(f"{wanted}: the path of the socket is missing")
        return
    if not parts.hostname:
        raise ValueError(f"{wanted}: the host is missing")
    if port == 0:
        raise ValueError(f"{wanted}: {PORT}")
    if not re.fullmatch("/?|/[0-9]{1,9}", parts.path):
        raise ValueError(f"{wanted}: behind the host stands the number of a database, such as /0")


def _require_file(path: str) -> None:
    if _CONTROL.search(path):
        raise ValueError(f"{FILE}: it holds a line break or another control character")
    if "?" in path:
        raise ValueError(f"{FILE}: nothing behind ? is read")
    if path.startswith("~"):
        raise ValueError(f"{FILE}: ~ is not read, write the whole path")
    if path.endswith("/"):
        raise ValueError(f"{FILE}: this is a directory")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{FILE}: no file can be called so") from None


def _require_postgres(address: str) -> None:
    if _BLANK.search(address):
        raise ValueError(f"{POSTGRES}: it holds a blank")
    authority = re.split("[/?]", address.partition("//")[2], maxsplit=1)[0]
    for one in authority.rpartition("@")[2].split(","):  # libpq tries several hosts in turn
        name, _, port = one.rpartition(":") if re.search(r":[^\]]*$", one) else (one, "", "")
        if port and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65_535):
            raise ValueError(f"{POSTGRES}: {PORT}")
        if name.startswith("[") != name.endswith("]"):
            raise ValueError(f"{POSTGRES}: a bracket is missing")


def _split(address: str, wanted: str) -> tuple[SplitResult, int | None]:
    try:
        return (parts := urlsplit(address)), parts.port
    except ValueError as error:  # the error may show a part of the password
        raise ValueError(f"{wanted}: {PORT if 'ort' in str(error) else 'a bracket is missing'}") from None


def _hint(address: str) -> str:
    """What was probably meant by *address*, which is none."""
    scheme, colon, rest = address.partition(":")
    meant = _MEANT.get(address.lower())
    if meant is None and colon:
        near = get_close_matches(scheme, _SCHEMES, n=1, cutoff=0.8)
        meant = f"{_SCHEMES[near[0]]}:{'//...' if rest.startswith('//') else '...'}" if near else None
        if near and _SCHEMES[near[0]] == scheme:  # `redis:localhost`
            meant = f"{scheme}://..."
    if meant is None and _LOOKS_LIKE_A_FILE.fullmatch(address) and "@" not in address:
        meant = f"sqlite:{address.removeprefix('file:')}"
    return f"; did you mean {meant!r}?" if meant else ""
