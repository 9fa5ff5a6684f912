"""`pulse purge`: the run store forgets the tasks that the configuration does not have."""

from collections.abc import Sequence

from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.pause import note_press
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import Stored, by_store, opened
from pulse.model import Config


def purge(source: Source, screen: Screen, clock: Clock, *, is_agreed: bool) -> Exit:
    """Forget all that the stores of *source* know of tasks that it does not have.

    Args:
        source: What is kept.
        screen: Says what was forgotten.
        clock: That of this host.
        is_agreed: Whether somebody has said yes: it cannot be undone. Not asked when there is nothing to forget.

    Raises:
        ConfigError, CommandError: the filters cannot be read, or nobody has said yes to what there is to forget.
        StoreUnavailableError: a store does not answer.
    """
    configs = [config for _, config in source.configs()]
    with opened(source, clock) as filters:
        stores = by_store(filters)
        found = [(one, _unknown(one, configs)) for one in stores]
        if not is_agreed and any(names for _, names in found):
            raise CommandError(_question(found))
        gone = [(one, one.store.purge(_kept(one, configs))) for one in stores] if is_agreed else found
        for one, names in gone:
            for name in names:
                note_press(one.store, one.now(clock), "purge", name, "with its history, totals and pause")
    if screen.is_json:
        documents = [{"store": one.place, "tasks": names} for one, names in gone]
        screen.document({"source": source.name, "purged": documents})
        return Exit.OK
    for one, names in gone:
        fate = f"forgot {', '.join(names)}" if names else "there was nothing to forget"
        screen.line(f"{one.place}: {fate}")
    return Exit.OK


def _kept(one: Stored, configs: Sequence[Config]) -> set[str]:
    """The tasks of all filters of the source that may keep their runs there too.

    Also of filters that another application of the file has: of them it is not known
    whether they share the store of *one*, and in doubt nothing is forgotten.
    """
    mine = one.config
    return {
        name
        for config in [mine, *configs]
        if (config.store, config.name) == (mine.store, mine.name)
        for name in config.tasks
    }


def _unknown(one: Stored, configs: Sequence[Config]) -> list[str]:
    kept = _kept(one, configs)
    return [name for name in one.store.tasks() if name not in kept]


def _question(found: Sequence[tuple[Stored, Sequence[str]]]) -> str:
    lines = []
    for one, gone in found:
        fate = f"would forget {', '.join(gone)}, with histories, totals and pauses" if gone else "has nothing to forget"
        lines.append(f"{one.place} {fate}")
    return "\n".join([*lines, "this cannot be undone: --yes does it"])
