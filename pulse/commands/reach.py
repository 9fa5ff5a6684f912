"""What `pulse check --connect` asks the run stores: can they be used as they are configured, with this password."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pulse.clock import SystemClock
from pulse.commands.source import Filter
from pulse.commands.stored import place_of
from pulse.errors import ConfigError, StoreUnavailableError
from pulse.given import store_of
from pulse.meant import CONFIG
from pulse.model import Config
from pulse.runstores.base import RunStore
from pulse.within import within

PATIENCE: Final = 10.0  # seconds: a store gives up by itself before that, but not the look-up of its host
_MADE: Final = frozenset({"auto", "memory:"})  # by the process that needs it: there is nothing to ask


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """What became of asking one run store.

    Attributes:
        where: File and section of the first filter that has it.
        place: Where it is, without a password.
        problem: Why it cannot be used; empty if it can.
    """

    where: str
    place: str
    problem: str = ""


def ask_stores(filters: Iterable[Filter]) -> Iterator[Reached]:
    """What the run stores of *filters* answer, within some seconds each; nothing is made in them."""
    asked: set[str] = set()
    for one in filters:
        if one.config is None or one.config.store in (*_MADE, *asked):
            continue
        asked.add(one.config.store)
        try:
            store = store_of(one.config, SystemClock())
        except ConfigError:  # which is told of as a fault of the configuration
            continue
        yield _ask(one.where, one.config, store)


def _ask(where: str, config: Config, store: RunStore) -> Reached:
    problems: list[str] = []

    def ask() -> None:
        try:
            store.reach()
        except StoreUnavailableError as error:
            problems.append(str(error))
        finally:
            store.close()

    place = place_of(config, store)
    if not within(PATIENCE, ask, SystemClock()):
        problems.append(f"the run store {place} does not answer within {PATIENCE:g} s")
    return Reached(where=where, place=place, problem=f"{CONFIG}store: {problems[0]}" if problems else "")
