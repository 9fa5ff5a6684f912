"""The configuration table: each option is a field of the record that it configures.

A field made by `option` carries its reader, default, unit and sentence. The ini loader,
the keywords of `PulseMiddleware`, `pulse check` and the tables of docs/configuration.rst
all read them from the records (`options_of`), so nothing has to be kept in step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, wraps
from operator import attrgetter
from reprlib import Repr
from types import MappingProxyType
from typing import Any, TypeVar

from pulse.address import masked
from pulse.errors import ConfigError, Fault

T = TypeVar("T")

_short = Repr()
_short.maxstring = _short.maxother = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One line of the configuration table.

    Attributes:
        name: As it follows `pulse.config.` or `pulse.task.<name>.`.
        read: Turns what was written into the value; a ValueError says what is wanted.
        written: The default as one would write it; empty when the option is off.
        value: The default as it is used.
        unit: What kind of thing to write.
        sentence: What it means, in one sentence.
        is_secret: The value must never be shown.
        is_mapping: Written as one key an entry, `headers.<Name>`.
    """

    name: str
    read: Callable[[object], Any]
    written: str
    value: Any
    unit: str
    sentence: str
    is_secret: bool = False
    is_mapping: bool = False

    def fault(self, value: object, problem: str) -> Fault:
        """What to say when *value* was refused."""
        return Fault(key=self.name, shown=shown(value, is_secret=self.is_secret), problem=problem)


def shown(value: object, *, is_secret: bool = False) -> str:
    """*value* as a message may show it: short, and without secrets."""
    if is_secret:
        return "***"
    if isinstance(value, Mapping):  # the options of a task: any of them may be a secret
        return f"{{{', '.join(f'{_short.repr(key)}: ...' for key in value)}}}"
    # A password in an address (redis://user:pass@host) is a secret wherever it turns up; it is
    # masked before the text is shortened around it.
    return _short.repr(masked(value) if isinstance(value, str) else value)


def option(
    default: object,
    read: Callable[[object], Any],
    unit: str,
    sentence: str,
    *,
    is_secret: bool = False,
    is_mapping: bool = False,
    is_shown: bool = True,
) -> Any:
    """A field that is an option.

    Args:
        default: As one would write it.
        read: See `Option`, as the others.
        unit: What to write.
        sentence: What it means.
        is_secret: The value must never be shown.
        is_mapping: One key an entry.
        is_shown: Whether the value stands in the record's repr: an address may hold a password.
    """
    value = read(default) if default is not None else None
    column = {"read": read, "unit": unit, "sentence": sentence, "is_secret": is_secret, "is_mapping": is_mapping}
    written = "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    return field(default=value, repr=is_shown and not is_secret, metadata={"written": written, "option": column})


@cache
def options_of(record: type[Any]) -> Mapping[str, Option]:
    """The options of the dataclass *record* by name, in the order of the table."""
    return MappingProxyType(
        {
            item.name: Option(
                name=item.name,
                value=item.default,
                written=item.metadata["written"],
                **item.metadata["option"],
            )
            for item in fields(record)
            if "option" in item.metadata
        }
    )


def said_of(record: Any) -> list[tuple[Option, Any]]:
    """The options of *record* whose values are other objects than their defaults, with these values."""
    options, values_of, defaults = _columns(record.__class__)
    values = zip(options, values_of(record), defaults, strict=True)
    return [(one, value) for one, value, default in values if value is not default]


@cache
def _columns(record: Any) -> tuple[tuple[Option, ...], Callable[[Any], tuple[Any, ...]], tuple[Any, ...]]:
    """The options of a record, what takes the values of all of them at once, and their defaults.

    Most options of most records are at their defaults: asking for each of 45 in turn took
    longer than reading those that are not.
    """
    options = tuple(options_of(record).values())
    return options, attrgetter(*(one.name for one in options)), tuple(one.value for one in options)


def read_options(record: Any) -> list[Fault]:
    """Replace what was written by what is meant, and say which values were refused."""
    faults = []
    for entry, value in said_of(record):
        try:
            object.__setattr__(record, entry.name, entry.read(value))
        except ValueError as error:
            faults.append(entry.fault(value, str(error)))
    return faults


def sparse(record: type[T]) -> type[T]:
    """The dataclass *record*, but its objects keep only what was said; the rest they find in the class.

    A record that has 45 options, of which most objects say three, would be an object of 45
    places to fill and to keep, ten thousand times.

    The constructor reads each value that was said, as `read_options` does. It raises ConfigError
    with all that is wrong, with these values and with what `_conflicts` finds between them. So does
    that of a dataclass made of *record*, whose own constructor calls `__post_init__`.
    """
    dense = record.__init__
    known = frozenset(item.name for item in fields(record))  # type: ignore[arg-type]

    @wraps(dense)
    def sparse_init(self: Any, /, *args: Any, **said: Any) -> None:
        if args or not known.issuperset(said):
            dense(self, *args, **said)  # a TypeError that names the one that is too much
        _fill(self, said)
        if self.__class__ is not record:
            self.__post_init__()

    def read_all(self: Any) -> None:
        """Read what a constructor has kept as it was written."""
        if faults := [*read_options(self), *self._conflicts()]:
            raise ConfigError(faults)

    record.__init__ = sparse_init  # type: ignore[assignment, method-assign]
    record.__post_init__ = read_all  # type: ignore[attr-defined]
    return record


def made_of(record: type[T], said: Mapping[str, Any], name: str) -> T:
    """`record(name=name, **said)` of a sparse *record*, which knows all that is said.

    Raises:
        ConfigError: as its constructor does.
    """
    made = record.__new__(record)
    object.__setattr__(made, "name", name)
    _fill(made, said)  # for ten thousand of them, no keywords are put together
    return made


def _fill(record: Any, said: Mapping[str, Any]) -> None:
    """Read each value that was said into the new sparse *record*, and judge what it is then."""
    known, keep, faults = _readers(record.__class__), object.__setattr__, []
    for name, value in said.items():
        default, read = known[name]
        if value is default:
            continue
        try:
            keep(record, name, read(value))
        except ValueError as error:
            keep(record, name, value)
            faults.append(options_of(record.__class__)[name].fault(value, str(error)))
    conflicts = record._conflicts()  # noqa: SLF001 - what makes a dataclass sparse
    if faults or conflicts:
        order = list(options_of(record.__class__))
        raise ConfigError([*sorted(faults, key=lambda fault: order.index(fault.key)), *conflicts])


@cache
def _readers(record: Any) -> Mapping[str, tuple[Any, Callable[[Any], Any]]]:
    """Of each field of *record*, its default, and what reads it."""
    options = options_of(record)
    return {
        item.name: (item.default, options[item.name].read if item.name in options else _as_it_is)
        for item in fields(record)
    }


def _as_it_is(value: T) -> T:
    return value
