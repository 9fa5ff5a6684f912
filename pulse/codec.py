"""The one serialiser: JSON that also carries what Python programs put into sessions and events.

Beside the types of JSON it keeps `datetime`, `date`, `timedelta`, `bytes`, `set`, `frozenset`,
`tuple`, `Decimal` and `UUID`, each as an object whose one key is a tag: `{"~t":[1,2]}`. An object
of the user whose one key could be read as a tag gets one more `~`, which reading takes off again.
"""

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID


def dumps(value: object) -> str:
    """*value* as one line of JSON, as short as it can be; `loads` gives an equal value.

    A subclass comes back as the type it stands for here, and a named time zone as its offset.

    Raises:
        TypeError: something in *value* cannot be kept, or a dict has a key that is not text;
            the message says where.
        ValueError: *value* holds itself, or is nested too deeply.
    """
    try:
        plain = _plain(value, "value")
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("a value that holds itself, or is nested too deeply, cannot be kept") from None
    return text if _is_encodable(text) else json.dumps(plain, check_circular=False, separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """The value that `dumps` was given.

    Raises:
        ValueError: *text* was not written by `dumps`.
    """
    try:
        return json.loads(text, object_hook=_from_tag, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("text that is nested too deeply") from None


def _plain(value: Any, path: str) -> Any:
    """*value* in types that JSON knows; *path* says where it stands."""
    if value is None or isinstance(value, str | int):  # bool is an int
        return value
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value, path)
    raise TypeError(f"{path} is of type {type(value).__name__}, which cannot be kept")


def _plain_float(value: float, _path: str) -> Any:
    return value if math.isfinite(value) else {"~f": repr(value)}


def _plain_items(value: Iterable[Any], path: str) -> list[Any]:
    return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]


def _plain_set(value: Iterable[Any], path: str) -> list[Any]:
    return sorted(_plain_items(value, path), key=repr)  # equal sets, equal text


def _plain_dict(value: dict[Any, Any], path: str) -> dict[str, Any]:
    for key in value:
        # JSON would make text of a number, and give another dict back.
        if not isinstance(key, str):
            raise TypeError(f"{path} has the key {key!r}; want text as keys")
    plain = {key: _plain(item, f"{path}[{key!r}]") for key, item in value.items()}
    if len(plain) == 1:
        ((key, item),) = plain.items()
        if key.startswith("~"):
            return {f"~{key}": item}
    return plain


def _from_tag(value: dict[str, Any]) -> Any:
    if len(value) != 1:
        return value
    ((key, item),) = value.items()
    if not key.startswith("~"):
        return value
    if key.startswith("~~"):
        return {key[1:]: item}
    try:
        return _READERS[key](item)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{key!r} with {item!r:.80} is nothing that was kept") from error


def _text(item: object) -> str:
    if not isinstance(item, str):
        raise TypeError("want text")
    return item


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_encodable(text: str) -> bool:
    """Whether *text* can be sent; lone surrogates have to be escaped for that."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_WRITERS: Final[dict[type, Callable[[Any, str], Any]]] = {
    dict: _plain_dict,
    float: _plain_float,
    list: _plain_items,
    tuple: lambda value, path: {"~t": _plain_items(value, path)},
    set: lambda value, path: {"~s": _plain_set(value, path)},
    frozenset: lambda value, path: {"~z": _plain_set(value, path)},
    bytes: lambda value, _path: {"~b": b64encode(value).decode("ascii")},
    datetime: lambda value, _path: {"~d": value.isoformat()},  # before date, which it is too
    date: lambda value, _path: {"~a": value.isoformat()},
    timedelta: lambda value, _path: {"~i": [value.days, value.seconds, value.microseconds]},
    Decimal: lambda value, _path: {"~n": str(value)},
    UUID: lambda value, _path: {"~u": value.hex},
}
_READERS: Final[dict[str, Callable[[Any], object]]] = {
    "~f": float,
    "~t": tuple,
    "~s": set,
    "~z": frozenset,
    "~b": lambda text: b64decode(text, validate=True),
    "~d": datetime.fromisoformat,
    "~a": date.fromisoformat,
    "~i": lambda parts: timedelta(*parts),
    "~n": lambda item: Decimal(_text(item)),
    "~u": lambda item: UUID(_text(item)),
}
