"""Where claims, runs and totals are kept; `open_run_store` finds the backend of an address."""

from pulse.runstores.base import RunStore
from pulse.runstores.memory import MemoryRunStore
from pulse.runstores.sqlite import SqliteRunStore


def open_run_store(address: str, *, history: int) -> RunStore:
    """The run store at *address*; nothing is opened before it is first used.

    Args:
        address: As `pulse.config.store` has it: `auto`, `memory:` or `sqlite:<path>`.
        history: How many finished records are kept a task.
    """
    scheme, _, path = address.partition(":")
    if scheme == "sqlite":
        return SqliteRunStore(path, history=history)
    return MemoryRunStore(history=history)
