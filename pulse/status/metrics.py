"""The numbers for Prometheus, read from the store: each process answers for the whole fleet.

Counters come from the totals, which outlive the records, and so do the sums of durations and
lateness: a sum and a count give the average over any time. They have no buckets, of which
each would be one more column or field of a task that every record has to be added to; beside
them stand gauges of the last run.

What one process counts by itself would jump back and forth, since each scrape may reach
another process. So each that rings tells how many requests its guard has refused, and how many
steps of the store have failed in it, whenever it says that it is alive, and has series of its own,
which are up to a third of a lease behind. A store that is away can be told nothing, and asked for
nothing: what failed meanwhile is told with the first beat that it answers.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pulse import __version__
from pulse.instance import short
from pulse.model import Instance, Outcome, Task
from pulse.runstores.base import Totals
from pulse.standing import failures, next_due
from pulse.status.survey import Moment, Survey

_Value = Callable[[Task], float | None]
# Each counter is there from the beginning: one that appears with its first run has not increased
# in the eyes of Prometheus, and an alert would miss just that run.
_NONE: Final = dict.fromkeys(Outcome, 0)


def exposition(survey: Survey, moment: Moment, accept: str) -> tuple[bytes, str]:
    """The text of all metrics, and its content type, as a scraper with the header *accept* wants it.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    encode, content_type = choose_encoder(accept)
    parts = []
    for family, samples in _Fleet(survey, moment).families():
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(family))
        head, end, _ = encode(registry).partition(_END)
        parts += [head, "".join(samples).encode()]
    return b"".join([*parts, end]), content_type


# What is said of a family, without its samples, is left to the library, and so is the choice
# of the format. The samples look the same in all of them, and a hundred thousand of them cost
# the library a second.
_Family = tuple[Metric, Iterable[str]]
_END: Final = b"# EOF\n"  # of OpenMetrics


class _Collected(Collector):
    """A family in the form that a registry wants."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return [self._family]


class _Fleet:
    """One reading of the store."""

    def __init__(self, survey: Survey, moment: Moment) -> None:
        self._tasks = list(survey.config.tasks.values())
        self._schedules = survey.schedules
        self._survey = survey
        self._moment = moment
        self._context = survey.config.context
        totals = survey.store.all_totals()
        self._labels = {task.name: _labels(task=task.name) for task in self._tasks}
        self._totals = {task.name: totals.get(task.name, Totals()) for task in self._tasks}

    def families(self) -> Iterator[_Family]:
        yield _gauge("pulse_info", "The release of Pulse that answers.", [(_labels(version=__version__), 1)])
        yield from self._of_totals()
        yield from self._of_schedules()
        yield from self._of_records()
        yield from self._of_instances()

    def _of_totals(self) -> Iterator[_Family]:
        yield (
            CounterMetricFamily("pulse_task_runs", "Due instants by what became of them."),
            (
                _sample("pulse_task_runs_total", _labels(task=name, outcome=outcome.value), count)
                for name, totals in self._totals.items()
                for outcome, count in {**_NONE, **totals.counts}.items()
            ),
        )
        yield self._sum(
            "pulse_task_duration_seconds",
            "How long runs took; those that were lost are not among them.",
            lambda totals: totals.seconds,
        )
        yield self._sum(
            "pulse_task_lateness_seconds",
            "How long after they were due the same runs began.",
            lambda totals: totals.seconds_late,
        )
        yield self._by_task(
            "pulse_task_last_run_timestamp_seconds",
            "When a run last ended, whatever its outcome.",
            lambda task: _seconds(self._total(task).last_finished),
        )
        yield self._by_task(
            "pulse_task_last_success_timestamp_seconds",
            "When a run last succeeded.",
            lambda task: _seconds(self._total(task).last_success),
        )

    def _of_schedules(self) -> Iterator[_Family]:
        yield self._by_task(
            "pulse_task_next_run_timestamp_seconds",
            "When the task is due next.",
            lambda task: _seconds(self._next(task)),
        )
        yield self._by_task(
            "pulse_task_interval_seconds", "From the next due instant to the one after it.", self._interval
        )
        yield self._by_task(
            "pulse_task_paused",
            "Whether the task is paused (1) or not (0).",
            lambda task: float(task.name in self._moment.pauses),
        )
        yield self._by_task(
            "pulse_task_overdue",
            "Whether the task has no success though its grace has passed (1) or not (0).",
            lambda task: float(self._survey.overdue(task, self._moment) is not None),
        )

    def _of_records(self) -> Iterator[_Family]:
        yield self._by_task(
            "pulse_task_running",
            "How many runs of the task are under way.",
            lambda task: float(len(self._moment.running(task.name))),
        )
        yield self._by_task(
            "pulse_task_consecutive_failures",
            "How many of the last runs failed one after the other, of those that were looked at.",
            lambda task: float(failures(self._survey.records(task.name))),
        )
        yield self._by_task("pulse_task_last_duration_seconds", "How long the last run took.", self._last_duration)
        yield self._by_task(
            "pulse_task_last_lateness_seconds", "How long after it was due the last run began.", self._last_lateness
        )

    def _of_instances(self) -> Iterator[_Family]:
        yield _gauge(
            "pulse_worker_heartbeat_timestamp_seconds",
            "When a process that rings was last heard of.",
            [(_place(short(one.owner)), one.seen.timestamp()) for one in self._moment.alive],
        )
        yield self._counted(
            "pulse_guard_rejected",
            "Requests that the guard of a process has refused, as it last said.",
            lambda one: one.refused,
        )
        yield self._counted(
            "pulse_store_errors",
            "Steps of the run store that have failed in a process, as it last said.",
            lambda one: one.store_errors,
        )

    def _counted(self, name: str, text: str, count: Callable[[Instance], int]) -> _Family:
        return (
            CounterMetricFamily(name, text),
            (
                _sample(f"{name}_total", _place(short(one.owner), context=self._context), float(count(one)))
                for one in self._moment.alive
            ),
        )

    def _sum(self, name: str, text: str, seconds: Callable[[Totals], float]) -> _Family:
        return (
            SummaryMetricFamily(name, text),
            (
                sample
                for task, totals in self._totals.items()
                for sample in (
                    _sample(f"{name}_count", self._labels[task], totals.timed),
                    _sample(f"{name}_sum", self._labels[task], seconds(totals)),
                )
            ),
        )

    def _by_task(self, name: str, text: str, value: _Value) -> _Family:
        found = ((self._labels[task.name], value(task)) for task in self._tasks)
        return _gauge(name, text, ((labels, number) for labels, number in found if number is not None))

    def _total(self, task: Task) -> Totals:
        return self._totals[task.name]

    def _next(self, task: Task) -> datetime | None:
        if not self._survey.rings_for(task):
            return None
        return next_due(self._schedules[task.name], self._moment.pauses.get(task.name), self._moment.now)

    def _interval(self, task: Task) -> float | None:
        if task.interval is not None and task.cron is None and task.at is None:
            return task.interval.total_seconds()
        due = self._schedules[task.name].next_due(self._moment.now)
        following = self._schedules[task.name].next_due(due) if due else None
        return (following - due).total_seconds() if due and following else None

    def _last_duration(self, task: Task) -> float | None:
        return next((run.duration for run in self._survey.records(task.name) if run.duration is not None), None)

    def _last_lateness(self, task: Task) -> float | None:
        records = self._survey.records(task.name)
        return next((run.lateness.total_seconds() for run in records if run.started), None)


def _gauge(name: str, text: str, values: Iterable[tuple[str, float]]) -> _Family:
    return GaugeMetricFamily(name, text), (_sample(name, labels, value) for labels, value in values)


def _sample(name: str, labels: str, value: float) -> str:
    return f"{name}{{{labels}}} {floatToGoString(value)}\n"  # type: ignore[no-untyped-call]


def _place(owner: str, **more: str) -> str:
    host, _, pid = owner.rpartition(":")
    return _labels(host=host, pid=pid, **more)


def _labels(**values: str) -> str:
    """*values* as they stand in a sample, in the order of their names, as the library has them."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(values.items()))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _seconds(instant: datetime | None) -> float | None:
    return instant.timestamp() if instant else None
