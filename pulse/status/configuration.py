"""The options of a record with their values, as somebody may read them: secrets are never shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pulse.address import masked
from pulse.config import PYTHON, option_key
from pulse.meant import CONFIG, DEFAULT
from pulse.model import Config, Task
from pulse.option import Option, options_of
from pulse.status.words import value_words

HIDDEN: Final = "\N{BULLET}" * 6

# What `pulse.config` finds where nothing is said: from the context, the ini file, the zone of all.
_WORKED_OUT: Final = frozenset({"action", "application", "interval", "timezone"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One option, by its name and by its key in an ini file, with its value in words; empty for none.

    Attributes:
        origin: Where it was written: file and section, `Python`, `default`, or that it was
            `worked out` from other options.
    """

    name: str
    key: str
    value: str
    unit: str
    sentence: str
    is_default: bool
    origin: str


def settings_of(config: Config) -> Sequence[Setting]:
    """The options of the filter."""
    return [
        _setting(config, option, getattr(config, name), f"{CONFIG}{name}")
        for name, option in options_of(Config).items()
    ]


def settings_of_task(config: Config, task: Task) -> Sequence[Setting]:
    """The options of *task*, which is one of *config*."""
    return [
        _setting(config, option, getattr(task, name), option_key(task.name, name), f"{DEFAULT}{name}")
        for name, option in options_of(Task).items()
    ]


def _setting(config: Config, option: Option, value: Any, key: str, shared: str = "") -> Setting:
    return Setting(
        name=option.name,
        key=key,
        value=_said(option, value),
        unit=option.unit.replace("`", ""),
        sentence=option.sentence.replace("`", ""),
        is_default=value == option.value,
        origin=_origin(config, option, key, shared, is_default=value == option.value),
    )


def _origin(config: Config, option: Option, key: str, shared: str, *, is_default: bool) -> str:
    if key in config.origins:
        return config.origins[key]
    if is_default:
        return "default"
    if shared in config.origins:
        return f"{config.origins[shared]}, {shared}"
    if option.name in _WORKED_OUT and config.origins:
        return "worked out"
    return PYTHON  # of a whole `Config`, or a `Task` in it


def _said(option: Option, value: Any) -> str:
    if not option.is_secret:
        words = value_words(value)
        return masked(words) if "://" in words else words
    if not value:
        return ""
    if option.is_mapping:  # the names tell what is sent, and are no secret
        return ", ".join(f"{name}: {HIDDEN}" for name, _ in value)
    return HIDDEN
