"""What `pulse check` asks Celery, where runs are handed over to it: does the broker answer, and who takes them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module

from pulse.clock import SystemClock
from pulse.commands.source import Filter
from pulse.engine import must_reach_workers
from pulse.errors import BrokerUnavailableError, ConfigError, Fault
from pulse.given import store_of
from pulse.model import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of asking.

    Attributes:
        where: File and section of the filter.
        is_there: Whether the broker answered.
        takers: The workers that take runs of the filter, by the names that Celery gives them.
        faults: Why the filter refuses to start.
        problems: What keeps runs from being taken.
    """

    where: str
    is_there: bool = False
    takers: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    problems: tuple[str, ...] = ()


def ask_brokers(filters: Iterable[Filter]) -> Iterator[Answer]:
    """What the brokers of *filters* in mode celery answer, within a few seconds each."""
    for one in filters:
        if one.config is not None and one.config.mode == "celery":
            yield _ask(one.where, one.config)


def _ask(where: str, config: Config) -> Answer:
    try:
        store = store_of(config, SystemClock())
        must_reach_workers(config, store)
    except ConfigError as error:
        return Answer(where=where, faults=error.faults)
    celery = import_module("pulse.workers.celery")
    try:
        workers = celery.Post(config, store).takers()
    except BrokerUnavailableError as error:
        return Answer(where=where, problems=(str(error),))
    wanted = sorted({celery.queue_of(config, task) for task in config.tasks.values() if task.enabled})
    served = {queue for _, queues in workers for queue in queues}
    takers = tuple(name for name, queues in workers if set(queues) & set(wanted))
    problems = tuple(
        f"no worker of Celery answers that takes from the queue {name}" for name in wanted if name not in served
    )
    return Answer(where=where, is_there=True, takers=takers, problems=problems)
