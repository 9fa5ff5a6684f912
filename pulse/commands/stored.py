"""The Pulse filters of a source with their run stores, opened as their servers open them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.source import Source, find_task
from pulse.model import Config, Task
from pulse.runstores.base import RunStore
from pulse.runstores.memory import MemoryRunStore
from pulse.runstores.sqlite import SqliteRunStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """One Pulse filter, and where its runs are kept.

    Attributes:
        where: File and section, or the object.
        config: Without faults.
        kept: The run store; one object for all filters that share a store.
        place: The store as people may see it: without the password of an address.
        is_changing: Whether something is to be written. Whoever only reads makes no file.
    """

    where: str
    config: Config
    kept: RunStore
    place: str
    is_changing: bool

    @property
    def store(self) -> RunStore:
        """The run store; an empty one as long as it is only read, and is not there."""
        return self.kept if self.is_changing or self.is_there else MemoryRunStore()

    @property
    def is_there(self) -> bool:
        """Whether anything was ever kept in it, as far as that can be told without opening it."""
        try:
            return not isinstance(self.kept, SqliteRunStore) or self.kept.path.exists()
        except OSError:
            return True  # in a folder that this user may not enter: opening it will say so

    @property
    def is_private(self) -> bool:
        """Whether it lives in the memory of one process, and nobody else can look at it."""
        return isinstance(self.kept, MemoryRunStore)

    def now(self, clock: Clock) -> datetime:
        """The instant by which the fleet lives: by the store's clock, if it has one."""
        return self.store.now() or clock.now()


@contextmanager
def opened(source: Source, clock: Clock, *, is_changing: bool = False) -> Iterator[list[Stored]]:
    """The filters of *source*, whose stores are closed with the block.

    Args:
        source: Where they are found.
        clock: That of this host.
        is_changing: See `Stored`.

    Raises:
        ConfigError, CommandError: the filters cannot be read; or a store is in the memory
            of another process (exit code `NO_STORE`).
    """
    filters = stored_filters(source, clock, is_changing=is_changing)
    try:
        for one in filters:
            if one.is_private:
                said = f"{one.where}: store = memory: is known to the process alone that serves (auto, sqlite: ...)"
                raise CommandError(said, Exit.NO_STORE)
        yield filters
    finally:
        for one in filters:
            one.kept.close()


def stored_filters(source: Source, clock: Clock, *, is_changing: bool = False) -> list[Stored]:
    """As `opened`, but nothing is refused, and whoever asks has to close the stores."""
    filters: list[Stored] = []
    for where, config, store in source.run_stores(clock):
        known = next((one for one in filters if _is_shared(one.config, config)), None)
        filters.append(
            Stored(
                where=where,
                config=config,
                kept=known.kept if known else store,
                place=place_of(config, store),
                is_changing=is_changing,
            )
        )
    return filters


def place_of(config: Config, store: RunStore) -> str:
    """Where *store* is, for people: nothing of it is secret."""
    if isinstance(store, SqliteRunStore):
        return f"sqlite:{store.path}"
    if isinstance(store, MemoryRunStore):
        return _MEMORY
    address = urlsplit(config.store)
    host = address.netloc.rpartition("@")[2]
    return f"{address.scheme}:{f'//{host}' if host else ''}{address.path}"


def in_filters(filters: Sequence[Stored], name: str | None) -> list[tuple[Stored, Task]]:
    """The task *name* in each filter that has it, or all tasks of all of them.

    Raises:
        UnknownTaskError: there is no such task.
    """
    pairs = [(one, task) for one in filters for task in one.config.tasks.values()]
    return pairs if name is None else find_task(name, ((pair[1].name, pair) for pair in pairs))


def in_stores(pairs: Sequence[tuple[Stored, Task]]) -> list[tuple[Stored, Task]]:
    """*pairs*, each task of each store once: filters may share both."""
    first: dict[tuple[int, str], tuple[Stored, Task]] = {}
    for one, task in pairs:
        first.setdefault((id(one.kept), task.name), (one, task))
    return list(first.values())


def by_store(filters: Sequence[Stored]) -> list[Stored]:
    """The first filter of each store."""
    first: dict[int, Stored] = {}
    for one in filters:
        first.setdefault(id(one.kept), one)
    return list(first.values())


def _is_shared(one: Config, other: Config) -> bool:
    is_own = one.store == "auto" and not one.name
    return not is_own and one.store != _MEMORY and (one.store, one.name) == (other.store, other.name)


_MEMORY: Final = "memory:"
