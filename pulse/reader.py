"""Readers: what people write, as the value that the house works with.

A reader takes whatever stood in an ini file or in Python and returns the value, or raises
a `ValueError` whose message completes the sentence "want ...". Reading a value that has
been read before gives it back unchanged, so `dataclasses.replace` may read twice.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import unquote_to_bytes
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

T = TypeVar("T")
Reader = Callable[[object], T]

CRON_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MANUALLY: Final = "@manually"
TOKEN_LENGTH: Final = 16  # below this a bearer token can be guessed over the network

_TRUE: Final = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "n", "f", "0"})
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SPANS: Final = re.compile("".join(rf"(?:(?P<{unit}>{_NUMBER.pattern}){unit})?" for unit in _UNITS))
_TCHAR: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_BROKER: Final = re.compile(r"(?!memory:)[A-Za-z][A-Za-z0-9+]*://[^\s\x00-\x1f;]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_STATUSES: Final = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?")
_PLAIN_PATH: Final = re.compile(r"/?[\w~-][\w.~-]*(?:/[\w~-][\w.~-]*)*", re.ASCII)  # needs no second look
_OWN_ENVIRON: Final = frozenset(
    {"REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "SERVER_NAME", "SERVER_PORT"}
    | {"SERVER_PROTOCOL", "CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_HOST", "HTTP_CONTENT_LENGTH"}
)


def remembering(read: Reader[T]) -> Reader[T]:
    """*read*, but short texts and numbers that it has read lately are not read again.

    Thousands of tasks say `5m` or `0 3 * * *`: they are read once, and share what that means.
    Other values are not remembered, since equal ones may differ: an instant in two time zones.
    """
    known = lru_cache(maxsize=1024, typed=True)(read)  # `typed`: 200 is a status, and 200.0 is none

    @wraps(read)
    def look_up(value: object) -> T:
        is_plain = len(value) <= _SHORT if type(value) is str else type(value) in (int, float)
        return known(value) if is_plain else read(value)

    return look_up


_SHORT: Final = 100  # characters; a thousand longer ones from the status page would be kept for ever


def boolean(value: object) -> bool:
    """PasteDeploy's words for yes and no, in any case; everything else is refused."""
    if isinstance(value, bool):
        return value
    written = str(value).strip().lower() if isinstance(value, str | int) else ""
    if written in _TRUE:
        return True
    if written in _FALSE:
        return False
    raise ValueError("want true or false")


def choice(*words: str) -> Reader[str]:
    """One of *words*, in any case."""

    def read(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in words:
            return word
        raise ValueError(f"want {_either(words)}")

    return read


def integer(least: int, most: int) -> Reader[int]:
    """A whole number from *least* to *most*."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value.strip()):
            number = int(value)
        else:
            raise ValueError(f"want a whole number from {least} to {most}")
        if not least <= number <= most:
            raise ValueError(f"want a whole number from {least} to {most}")
        return number

    return read


def spell(span: timedelta) -> str:
    """*span* in the words that `duration` reads: `1h30m`, `0.25s`, `0s`."""
    rest = span
    words = ""
    for unit, seconds in list(_UNITS.items())[:-1]:
        count, rest = divmod(rest, timedelta(seconds=seconds))
        words += f"{count}{unit}" if count else ""
    if rest or not words:
        words += f"{rest.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
    return words


def _seconds(value: object) -> float:
    """The seconds that *value* says; NaN for what is no duration at all."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    text = value.strip().lower() if isinstance(value, str) else ""
    if _NUMBER.fullmatch(text):
        return float(text)
    if text and (parts := _SPANS.fullmatch(text)):
        return sum(float(parts[unit] or 0) * seconds for unit, seconds in _UNITS.items())
    return float("nan")


def duration(least: float, most: timedelta) -> Reader[timedelta]:
    """A `timedelta` from seconds (`300`, `0.25`) or `90s 5m 1h30m 1d`.

    Args:
        least: The smallest one allowed, in seconds.
        most: The largest one allowed.
    """
    wanted = (
        f"want {spell(timedelta(seconds=least))} to {spell(most)}, as seconds (300) or with units (90s 5m 1h30m 1d)"
    )

    shortest, longest = timedelta(seconds=least), most.total_seconds()

    @remembering
    def read_anew(value: object) -> timedelta:
        seconds = _seconds(value)
        # A comparison with NaN is False: what is no duration is refused here too.
        if not least <= seconds <= longest:
            raise ValueError(wanted + _span_meant(value))
        return timedelta(seconds=seconds)

    def read(value: object) -> timedelta:
        return value if type(value) is timedelta and shortest <= value <= most else read_anew(value)

    return read


_LONG_UNIT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(s|m|h|d|sec|min|hr?|second|minute|hour|day)s?", re.IGNORECASE)


def _span_meant(value: object) -> str:
    """What was probably meant by *value*, which is no duration."""
    written = value.strip() if isinstance(value, str) else ""
    if spoken := _LONG_UNIT.fullmatch(written):
        plain = spoken[1] + spoken[2][0].lower()
        return "" if plain == written.lower() else f"; did you mean {plain!r}?"
    is_cron = len(written.split()) in (5, 6) and "*" in written
    if is_cron or written.startswith("@"):
        return f"; did you mean cron = {written:.40}?"
    return ""


def limit(most: timedelta) -> Reader[timedelta | None]:
    """A duration of 0.1 s to *most*, or 0 (None in Python) for no limit at all."""
    within = duration(0.1, most)

    def read(value: object) -> timedelta | None:
        if value is None or _seconds(value) == 0:
            return None
        try:
            return within(value)
        except ValueError as error:
            raise ValueError(f"{error}, or 0 for no limit") from None

    return read


def phase(most: timedelta) -> Reader[timedelta | Literal["hash"]]:
    """A duration of 0 to *most*, or `hash` for one that is derived from the task's name."""
    within = duration(0, most)

    def read(value: object) -> timedelta | Literal["hash"]:
        if isinstance(value, str) and value.strip().lower() == "hash":
            return "hash"
        try:
            return within(value)
        except ValueError as error:
            raise ValueError(f"{error}, or hash") from None

    return read


def grace(most: timedelta) -> Reader[timedelta | Literal["auto"] | None]:
    """How late is still useful: a duration, `auto` (until the next due), `none` (any time)."""
    within = duration(0.1, most)

    def read(value: object) -> timedelta | Literal["auto"] | None:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word == "auto":
            return "auto"
        if value is None or word == "none":
            return None
        try:
            return within(value)
        except ValueError as error:
            raise ValueError(f"{error}, or auto, or none") from None

    return read


def text(value: object) -> str:
    """One line of text."""
    if not isinstance(value, str) or _CONTROL.search(value):
        raise ValueError("want one line of text")
    _utf8(value)
    return value.strip()


def _utf8(written: str) -> bytes:
    """*written* as it is sent and kept; half a character, as JSON may spell it, can be neither."""
    try:
        return written.encode()
    except UnicodeEncodeError:
        raise ValueError("want text that UTF-8 can spell, without surrogates") from None


def host(value: object) -> str:
    """The name of a host, perhaps with a port."""
    name = value.strip() if isinstance(value, str) else ""
    known = re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?", name)
    if not known or int(known[1] or 1) not in range(1, 65_536):
        raise ValueError("want a host such as www.example.org or localhost:8080")
    return name


def optional(read: Reader[T]) -> Reader[T | None]:
    """*read*, but None stays None: not said."""
    return lambda value: None if value is None else read(value)


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
    way, mark, query = _utf8(stripped).decode().partition("?")
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


def zone(value: object) -> ZoneInfo:
    """A time zone by its IANA name."""
    if isinstance(value, ZoneInfo):
        return value
    name = value.strip() if isinstance(value, str) else ""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"want an IANA time zone such as UTC or Europe/Berlin{_zone_meant(name)}") from None


_ABBREVIATION: Final = 4  # letters


@cache
def _zones() -> Mapping[str, str]:
    """The names of all zones, by how they look in small letters."""
    return {name.lower(): name for name in available_timezones()}


def _zone_meant(written: str) -> str:
    """The zone that was probably meant: in another case, without its continent, or misspelt."""
    name, zones = written.lower().replace(" ", "_")[:100], _zones()
    found = zones.get(name) or next((zones[zone] for zone in sorted(zones) if zone.endswith(f"/{name}")), "")
    if len(name) > _ABBREVIATION and not found:  # CEST is not a misspelt EST
        found = next((zones[zone] for zone in get_close_matches(name, zones, n=1, cutoff=0.8)), "")
    return f"; did you mean {found!r}?" if name and found else ""


def moment(value: object) -> datetime:
    """An ISO 8601 date and time; without an offset it is local time of the task's zone."""
    return _moment(value, time.min)


def last_moment(value: object) -> datetime:
    """As `moment`, but a date alone means its last microsecond: that day still counts."""
    return _moment(value, time.max)


def _moment(value: object, when_only_a_date: time) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, when_only_a_date)
    written = value.strip() if isinstance(value, str) else ""
    # Dates first, in all spellings of ISO 8601: read as a date and time, `20270328` would be
    # the midnight with which the last day begins.
    with suppress(ValueError):
        return datetime.combine(date.fromisoformat(written), when_only_a_date)
    try:
        return datetime.fromisoformat(written)
    except ValueError:
        each_day = re.fullmatch("(0?[0-9]|1[0-9]|2[0-3]):([0-5][0-9])", written)
        hint = f"; each day at {written} is cron = {int(each_day[2])} {int(each_day[1])} * * *" if each_day else ""
        raise ValueError(f"want a date and time as 2027-03-28T02:30 or 2027-03-28T02:30+01:00{hint}") from None


@remembering
def cron(value: object) -> str:
    """A cron expression of 5 fields, or of 6 with the seconds first; nicknames are spelt out."""
    expression = " ".join(value.split()) if isinstance(value, str) else ""
    nickname = expression.lower()
    if nickname in CRON_NICKNAMES:
        return CRON_NICKNAMES[nickname]
    if nickname == MANUALLY:
        return MANUALLY
    if expression.startswith("@"):
        raise ValueError(f"want one of {' '.join([*CRON_NICKNAMES, MANUALLY])}, or 5 or 6 fields")
    # cronsim reads `5-5/10` as `5/10`: a range of one is that one, whatever the step.
    expression = re.sub(r"\b(\w+)-\1/0*[1-9][0-9]*", r"\1", expression, flags=re.IGNORECASE)
    try:
        pattern = CronSim(expression, datetime(2001, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"{_CRON} ({_bad_field(expression, str(error).lower())})") from None
    # cronsim asserts, or takes min() of an empty set, for some malformed fields.
    except (AssertionError, ValueError, TypeError):
        raise ValueError(_CRON) from None
    # Two day fields may exclude each other (`LW` and a Sunday). The search for a date takes
    # up to 30 ms, so it is left out where a `*` makes it needless.
    if "*" not in expression.split()[-3::2] and next(pattern, None) is None:
        raise ValueError("want day fields that some date matches")
    return expression


_CRON: Final = "want 5 cron fields, or 6 with the seconds first"
_CRON_FIELDS: Final = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L or LW",
    "month": "1-12 or jan-dec",
    "day-of-week": "0-7 or sun-sat, 5#2 or 5L",
}


def _bad_field(expression: str, problem: str) -> str:
    """*problem* of cronsim, with the field that it is about and what that may hold."""
    name, fields = problem.removeprefix("bad "), expression.split()
    if name not in _CRON_FIELDS:
        is_span = len(fields) == 1 and _seconds(expression) > 0
        return f"{problem}; did you mean interval = {expression:.40}?" if is_span else problem
    place = list(_CRON_FIELDS).index(name) - len(_CRON_FIELDS)
    if name == "day-of-month" and _is_cron(" ".join([*fields[:-2], "*", fields[-1]])):
        return f"{problem}: no month of {fields[-2]!r:.40} has a day {fields[place]!r:.40}"
    return f"{problem} {fields[place]!r:.40}: want {_CRON_FIELDS[name]}"


def _is_cron(expression: str) -> bool:
    try:
        CronSim(expression, datetime(2001, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError, ValueError, TypeError):
        return False
    return True


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


def specification(value: object) -> str:
    """Where an application is: `config:production.ini#main` or `module:object`; empty for nowhere."""
    place = value.strip() if isinstance(value, str) else None
    if place == "" or (place and re.fullmatch(r"config:[^#]+(#[^#\s]+)?|[^\W\d][\w.]*:[^\W\d][\w.]*", place)):
        return place
    raise ValueError("want config:file.ini#name or module:object")


def broker(value: object) -> str:
    """The address of Celery's broker, or several for one that fails over, with `;` between them."""
    written = value.strip() if isinstance(value, str) else ""
    if all(_BROKER.fullmatch(address) for address in written.split(";")):
        return written
    raise ValueError("want the address of Celery's broker, such as redis://host:6379/0 or amqp://user:password@host")


def number(least: float, most: float) -> Reader[float]:
    """A number from *least* to *most*."""

    def read(value: object) -> float:
        written = value.strip() if isinstance(value, str) else ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            found = value
        else:
            found = float(written) if _NUMBER.fullmatch(written) else float("nan")
        if not least <= found <= most:  # a comparison with NaN is False, too
            raise ValueError(f"want a number from {least:g} to {most:g}")
        return float(found)  # only now: an int may be too large for one

    return read


def hook(value: object) -> str:
    """Who is told of a record: a path of the application, or `module:function`."""
    place = value.strip() if isinstance(value, str) else ""
    if place.startswith("/"):
        return path(place)
    if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", place):
        return place
    raise ValueError("want a path that begins with /, or module:function")


def mount(value: object) -> str:
    """Where something of Pulse's own is mounted: one path, never the root."""
    written = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"(/[\w~-][\w.~-]*)+/?", written, re.ASCII):
        raise ValueError("want a path that begins with / and is not the root, such as /_pulse")
    return written.rstrip("/")


def url(value: object) -> str:
    """An address of the web."""
    address = value.strip() if isinstance(value, str) else ""
    found = re.fullmatch(r"https?://[^\s/?#@:]+(?::([0-9]{1,5}))?(?:/[^\s?#]*)?", address)
    if found and address.isascii() and int(found[1] or 1) in range(1, 65_536):
        return address.rstrip("/")
    raise ValueError("want an address such as https://hc-ping.com/your-check, without a query")


def word(value: object) -> str:
    """A name that several tasks may share."""
    written = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"[\w.-]{1,100}", written):
        raise ValueError("want a word of letters, digits, _, . and -")
    return written


def name(value: object) -> str:
    """What an application is called in its store."""
    if not isinstance(value, str) or not re.fullmatch(r"[^\x00-\x1f\x7f{}]{0,200}", value.strip()):
        raise ValueError("want a name of at most 200 characters, without line breaks and braces")
    _utf8(value)
    return value.strip()


def method(value: object) -> str:
    """An HTTP method, in capitals."""
    if not isinstance(value, str) or not _TCHAR.fullmatch(value.strip()):
        raise ValueError("want an HTTP method such as GET or POST")
    return value.strip().upper()


def body(value: object) -> bytes:
    """The body of a request; text becomes UTF-8."""
    if isinstance(value, str):
        return _utf8(value)
    if not isinstance(value, bytes):
        raise ValueError("want text or bytes")
    return value


def header_value(value: object) -> str:
    """The value of a header."""
    written = value.strip() if isinstance(value, str) else None
    if written is None or _CONTROL.search(written) or not written.isascii():
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
    if key in ("content-type", "content-length"):
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
        _utf8(entry)
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
        written = _from_environment(place) if source == "env" else _from_file(place)
    if len(written) < TOKEN_LENGTH or not written.isascii() or re.search(r"[\s\x00-\x1f\x7f]", written):
        raise ValueError(wanted)
    return written


def _at(source: str, place: str) -> str:
    return f"the environment variable {place}" if source == "env" else place


def _from_environment(place: str) -> str:
    if place not in os.environ:
        raise ValueError(f"want a token in the environment variable {place}, which is not set")
    return os.environ[place].strip()


def _from_file(place: str) -> str:
    try:
        return Path(place).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:  # ValueError: it is no text, or the path holds a zero byte
        raise ValueError(f"want a token in {place}: {getattr(error, 'strerror', None) or 'not text'}") from None


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
