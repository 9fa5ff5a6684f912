"""`pulse workers`: the processes that ring, and whether they are still there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from pulse.clock import Clock
from pulse.commands.exits import Exit
from pulse.commands.instant import by_second, rough
from pulse.commands.screen import Screen
from pulse.commands.source import Source
from pulse.commands.stored import Stored, by_store, opened
from pulse.fleet import ALIVE, digest_of
from pulse.instance import is_gone, short
from pulse.model import Config, Instance, Run
from pulse.upkeep import RENEWALS
from pulse.zone import iso_utc

_HEAD: Final = ("WORKER", "STATE", "SERVER", "STARTED", "SEEN", "CONFIGURATION", "RUNNING")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    """One process that rings.

    Attributes:
        seen: How long ago it was heard of.
        gone: Why it counts as gone; empty if it does not.
        is_other: It lives by another configuration than the source has now.
    """

    filter: Stored
    instance: Instance
    seen: timedelta
    gone: str
    is_other: bool
    runs: tuple[Run, ...]


def workers(source: Source, screen: Screen, clock: Clock) -> Exit:
    """Show the processes that ring for *source*, the last seen first.

    Raises:
        ConfigError, CommandError: the filters cannot be read.
        StoreUnavailableError: a store does not answer.
    """
    with opened(source, clock) as filters:
        found = list(_workers(filters, clock))
        others = list(_by_hand(filters, found))
    if screen.is_json:
        screen.document({"source": source.name, "workers": [_document(one) for one in found]})
        return Exit.OK
    if found:
        screen.table(_HEAD, [_cells(one) for one in found])
    else:
        screen.line(f"no process rings for {source.name}")
    if any(one.is_other for one in found):
        digests = " or ".join(dict.fromkeys(digest_of(one.config) for one in filters))
        screen.line(f"the configuration of {source.name} is {digests} now", "yellow")
    for run in others:
        screen.line(f"{run.task} is run by {short(run.owner)}, which does not ring")
    return Exit.OK


def why_gone(instance: Instance, config: Config, now: datetime) -> str:
    """Why *instance* counts as gone; empty if it may ring."""
    if is_gone(instance.owner):
        return "its process has ended"
    silence = now - instance.seen
    return f"not heard of for {rough(silence)}" if silence > config.lease / RENEWALS * ALIVE else ""


def _workers(filters: Sequence[Stored], clock: Clock) -> Iterator[_Worker]:
    for one in by_store(filters):
        now, running = one.now(clock), one.store.running()
        digests = {digest_of(other.config) for other in filters if other.kept is one.kept}
        for instance in one.store.instances():
            yield _Worker(
                filter=one,
                instance=instance,
                seen=max(timedelta(0), now - instance.seen),
                gone=why_gone(instance, one.config, now),
                is_other=instance.digest not in digests,
                runs=tuple(run for run in running if run.owner == instance.owner),
            )


def _by_hand(filters: Sequence[Stored], found: Sequence[_Worker]) -> Iterator[Run]:
    """The runs of processes that do not ring, as `pulse run` is one."""
    owners = {one.instance.owner for one in found}
    for one in by_store(filters):
        yield from (run for run in one.store.running() if run.owner not in owners)


def _cells(one: _Worker) -> list[str]:
    instance = one.instance
    return [
        short(instance.owner),
        f"gone: {one.gone}" if one.gone else "rings",
        instance.server or "-",
        by_second(instance.started, ZoneInfo("UTC")),
        f"{rough(one.seen)} ago",
        f"{instance.digest} (differs)" if one.is_other else instance.digest,
        ", ".join(run.task for run in one.runs) or "-",
    ]


def _document(one: _Worker) -> dict[str, object]:
    instance = one.instance
    return {
        "worker": short(instance.owner),
        "owner": instance.owner,
        "rings": not one.gone,
        "gone": one.gone,
        "server": instance.server,
        "version": instance.version,
        "started": iso_utc(instance.started),
        "seen": iso_utc(instance.seen),
        "seconds_since_seen": one.seen.total_seconds(),
        "configuration": instance.digest,
        "configuration_differs": one.is_other,
        "running": [{"task": run.task, "run": run.id, "started": iso_utc(run.started)} for run in one.runs],
        "filter": one.filter.where,
    }
