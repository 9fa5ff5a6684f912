"""Readers of what requests consist of, and of addresses: paths, methods, headers, statuses."""

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final
from urllib.parse import unquote_to_bytes

from pulse.reader.base import CONTROL, remembering, utf8

_TCHAR: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_STATUSES: Final = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?")
_PLAIN_PATH: Final = re.compile(r"/?[\w~-][\w.~-]*(?:/[\w~-][\w.~-]*)*", re.ASCII)  # needs no second look
_OWN_ENVIRON: Final = frozenset(
    {"REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "SERVER_NAME", "SERVER_PORT"}
    | {"SERVER_PROTOCOL", "CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_HOST", "HTTP_CONTENT_LENGTH"}
    | {"HTTP_TRANSFER_ENCODING"}
)


def path(value: object) -> str:
    """A path of the application, perhaps with a query; runs of slashes become one."""
    if not isinstance(value, str):
        raise ValueError("want a path, as text")
    if _PLAIN_PATH.fullmatch(value):
        return value
    stripped = value.strip()
    if "://" in stripped.partition("?")[0]:
        raise ValueError("want a path of this application, not the address of a server")
    if "#" in stripped or re.search(r"[\s\x00-\x1f\x7f\\]", stripped):
        raise ValueError("want a path without blanks, backslashes and #")
    way, mark, query = utf8(stripped).decode().partition("?")
    decoded = unquote_to_bytes(way)
    if {b".", b".."} & set(re.split(rb"[/\\]", decoded)):
        raise ValueError("want a path without . and .. in it")
    if re.search(rb"[\x00-\x1f\x7f]", decoded):
        raise ValueError("want a path without line breaks and other control characters, encoded ones included")
    return re.sub("/{2,}", "/", way) + mark + query


def context(value: object) -> str:
    """The base path of all tasks, without slashes at its ends; empty for the root."""
    base = path(value)
    if "?" in base:
        raise ValueError("want a path without a query")
    return base.strip("/")


def mount(value: object) -> str:
    """Where something of Pulse's own is mounted: one path, never the root."""
    written = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"(/[\w~-][\w.~-]*)+/?", written, re.ASCII):
        raise ValueError("want a path that begins with / and is not the root, such as /_pulse")
    return written.rstrip("/")


def host(value: object) -> str:
    """The name of a host, perhaps with a port."""
    name = value.strip() if isinstance(value, str) else ""
    known = re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?", name)
    if not known or int(known[1] or 1) not in range(1, 65_536):
        raise ValueError("want a host such as www.example.org or localhost:8080")
    return name


def url(value: object) -> str:
    """An address of the web."""
    address = value.strip() if isinstance(value, str) else ""
    found = re.fullmatch(r"https?://[^\s/?#@:]+(?::([0-9]{1,5}))?(?:/[^\s?#]*)?", address)
    if found and address.isascii() and int(found[1] or 1) in range(1, 65_536):
        return address.rstrip("/")
    raise ValueError("want an address such as https://hc-ping.com/your-check, without a query, or env:NAME")


def method(value: object) -> str:
    """An HTTP method, in capitals."""
    if not isinstance(value, str) or not _TCHAR.fullmatch(value.strip()):
        raise ValueError("want an HTTP method such as GET or POST")
    return value.strip().upper()


@remembering
def statuses(value: object) -> frozenset[int]:
    """A set of HTTP statuses from ranges: `200-299 304`."""
    wanted = "want HTTP statuses, as 200-299 304"
    if isinstance(value, frozenset) and value and all(type(one) is int and one in range(100, 600) for one in value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    # The values of bytes are numbers, too: those of b"dev" are three statuses.
    if isinstance(value, AbstractSet | Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        value = " ".join(map(str, value)) if all(type(one) is int for one in value) else ""
    allowed: set[int] = set()
    for item in value.replace(",", " ").split() if isinstance(value, str) else ():
        known = _STATUSES.fullmatch(item)
        low, high = (int(known[1]), int(known[2] or known[1])) if known else (0, 0)
        if not 100 <= low <= high <= 599:
            raise ValueError(wanted)
        allowed.update(range(low, high + 1))
    if not allowed:
        raise ValueError(wanted)
    return frozenset(allowed)


def body(value: object) -> bytes:
    """The body of a request; text becomes UTF-8."""
    if isinstance(value, str):
        return utf8(value)
    if not isinstance(value, bytes):
        raise ValueError("want text or bytes")
    return value


def header_value(value: object) -> str:
    """The value of a header."""
    written = value.strip() if isinstance(value, str) else None
    if written is None or CONTROL.search(written) or not written.isascii():
        raise ValueError("want one line of ASCII text for a header")
    return written


def headers(value: object) -> tuple[tuple[str, str], ...]:
    """Request headers by name, from a mapping."""
    named = tuple((_header_name(name), header_value(text)) for name, text in _pairs(value))
    keys = [name.lower().replace("_", "-") for name, _ in named]
    if len(set(keys)) < len(keys):
        raise ValueError("want each header once: names differ in more than letters' case, and _ is read as -")
    return named


def _header_name(name: str) -> str:
    plain = name.strip()
    if not _TCHAR.fullmatch(plain):
        raise ValueError(f"want the name of a header, not {plain!r}")
    # In the environ `X_Pulse-Task` and `X-Pulse-Task` are one.
    key = plain.lower().replace("_", "-")
    if key.startswith("x-pulse-"):
        raise ValueError("want another name: X-Pulse-* belongs to Pulse")
    if key in ("content-type", "content-length", "transfer-encoding"):
        raise ValueError("want the option content_type; the length follows from body")
    return plain


def environ(value: object) -> tuple[tuple[str, str], ...]:
    """Further keys of the WSGI environ by name, from a mapping."""
    pairs = []
    for name, entry in _pairs(value):
        if name in _OWN_ENVIRON or name.startswith(("wsgi.", "pulse.", "HTTP_X_PULSE_")) or not name:
            raise ValueError(f"want another key: {name!r} is set by Pulse itself")
        if not isinstance(entry, str):
            raise ValueError("want text for an environ key")
        utf8(entry)
        pairs.append((name, entry))
    return tuple(pairs)


def _pairs(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, tuple | list) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        raise ValueError("want a mapping of names and texts")
    if not all(isinstance(name, str) for name, _ in value):
        raise ValueError("want names that are text")
    return value
