"""Where claims, runs and totals are kept; `open_run_store` finds the backend of an address."""

from importlib import import_module
from typing import Final

from pulse.clock import Clock
from pulse.errors import ConfigError, Fault
from pulse.option import shown
from pulse.runstores.base import RunStore
from pulse.runstores.memory import MemoryRunStore

# Imported when an address asks for them, as is that of SQLite: their libraries are extras.
_SERVERS: Final = {
    "redis": ("pulse.runstores.redis", "RedisRunStore"),
    "rediss": ("pulse.runstores.redis", "RedisRunStore"),
    "unix": ("pulse.runstores.redis", "RedisRunStore"),
    "postgres": ("pulse.runstores.postgres", "PostgresRunStore"),
    "postgresql": ("pulse.runstores.postgres", "PostgresRunStore"),
}


def open_run_store(address: str, *, name: str, history: int, clock: Clock) -> RunStore:
    """The run store at *address*; nothing is opened before it is first used.

    Args:
        address: As `pulse.config.store` has it, but for `auto`.
        name: What the application is called in a store that others share.
        history: How many finished records are kept a task.
        clock: The clock of this host.

    Raises:
        ConfigError: (a ValueError) nothing can be kept there.
        ImportError: the library of the backend is not there; the message names the extra.
    """
    scheme, _, path = address.partition(":")
    if scheme == "memory":
        return MemoryRunStore(history=history)
    store: RunStore
    if scheme == "sqlite":
        room = import_module("pulse.runstores.sqlite")
        if problem := room.why_unusable(path):
            raise ConfigError([Fault(key="pulse.config.store", shown=shown(address), problem=problem)])
        store = room.SqliteRunStore(path, name=name, history=history, clock=clock)
    else:
        module, kind = _SERVERS[scheme]
        store = getattr(import_module(module), kind)(address, name=name, history=history)
    return store
