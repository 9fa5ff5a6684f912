"""The way to Celery and back: the post that sends, and what its workers are started with.

    PULSE_CONFIG=production.ini celery -A pulse.workers.celery worker

A message says which run of which task is to be taken over, and nothing of how: a worker
has the application and its configuration itself. Whatever Celery does with a message, loses
it or delivers it twice, the run store decides: of all that try to take a run over one does.

Importing this module reads nothing; `app` finds its configuration when it is first asked
for it, by loading the application that the environment variable names.
"""

import logging
import os
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from celery import Celery, signals
from kombu.entity import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES, resolve_transport

from pulse.clock import Clock, SystemClock
from pulse.errors import (
    ApplicationError,
    BrokerUnavailableError,
    ConfigError,
    Fault,
    RunFailedError,
    StoreUnavailableError,
)
from pulse.fleet import fingerprint
from pulse.inifile import file_and_section
from pulse.model import FAILURES, Config, Fire, Run, Task, Trigger
from pulse.runstores.base import RunStore
from pulse.underway import PATIENCE
from pulse.workers.attendant import Attendant
from pulse.wsgi.lazy import collecting, load_application, manual_start

log = logging.getLogger(__name__)

VARIABLE: Final = "PULSE_CONFIG"  # of the environment: the application of a worker
TASK: Final = "pulse.run"  # what Celery calls all runs; its monitoring shows `pulse.<task>`
ANSWER: Final = 2.0  # seconds that a broker has to answer
INSPECTION: Final = 1.0  # seconds that workers have to say who they are
# From the deadline of a run to Celery's soft limit: by then its record is made here, with a
# better reason, and what the limit raises unwinds an endpoint whose record it cannot spoil.
BEHIND: Final = 2 * PATIENCE
ELSEWHERE: Final = 2.0  # seconds until a message that is not for this worker is offered again, on the average
REMARK: Final = 60.0  # seconds from one look whether a store is still the one that it was to the next
PRIORITIES: Final = 10  # of a queue of RabbitMQ, 0 to 9


# What sends


class Post:
    """Sends runs to the workers of one application: `pulse.workers.courier.Post`."""

    def __init__(self, config: Config, store: RunStore, clock: Clock | None = None) -> None:
        """Nothing is connected yet."""
        self._tasks = config.tasks
        self._config = config
        self._store = store
        self._clock = clock or SystemClock()
        self._mark = ""
        self._marked = 0.0  # monotonic seconds: when the store was last asked for it
        self._fingerprints: dict[str, str] = {}
        self._app = _sender_of(config)

    def knock(self) -> None:
        """See `pulse.workers.courier.Post`."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=ANSWER)
        # Each kind of broker has errors of its own.
        except Exception as error:
            raise self._silence(error) from error

    def send(self, run: Run, until: datetime) -> None:
        """See `pulse.workers.courier.Post`."""
        task = self._tasks[run.task]
        if run.task not in self._fingerprints:
            self._fingerprints[run.task] = fingerprint(task)
        said = {
            "task": run.task,
            "due": run.due.isoformat(),
            "run": run.id,
            "attempt": run.attempt,
            "trigger": run.trigger.value,
            "latest": until.isoformat(),
            "store": self._current_mark(),
            "fingerprint": self._fingerprints[run.task],
        }
        try:
            self._app.send_task(
                TASK,
                kwargs=said,
                task_id=_name_of(run),
                shadow=f"pulse.{run.task}",
                queue=queue_of(self._config, task),
                priority=task.priority,
                expires=until,
                retry=False,
                ignore_result=True,
                **_time_limits(task),
            )
        except Exception as error:
            raise self._silence(error) from error

    def recall(self, run: Run) -> None:
        """See `pulse.workers.courier.Post`."""
        try:
            self._app.control.revoke(_name_of(run))
        except Exception as error:  # noqa: BLE001 - whoever takes the message finds that the run is over
            log.info("%s", self._silence(error), extra={"pulse_event": "broker_unavailable"})

    def takers(self) -> list[tuple[str, list[str]]]:
        """The workers of Celery that answer, and which queues each of them takes messages from.

        Raises:
            BrokerUnavailableError: the broker does not answer.
        """
        self.knock()
        try:
            answers = self._app.control.inspect(timeout=INSPECTION).active_queues() or {}
        except Exception as error:
            raise self._silence(error) from error
        return sorted((name, sorted(queue["name"] for queue in queues)) for name, queues in answers.items())

    def _current_mark(self) -> str:
        """Of the store; another one if it was emptied meanwhile.

        Raises:
            BrokerUnavailableError: it is not known yet, and the store does not answer.
        """
        now = self._clock.monotonic()
        if not self._mark or now - self._marked >= REMARK:
            try:
                self._mark, self._marked = mark_of(self._store), now
            except StoreUnavailableError as error:
                if not self._mark:
                    raise BrokerUnavailableError(str(error)) from error
        return self._mark

    def _silence(self, error: Exception) -> BrokerUnavailableError:
        said = str(error).strip() or type(error).__name__
        for password in _passwords(self._config.broker or ""):
            said = said.replace(password, "***")
        return BrokerUnavailableError(f"Celery's broker does not answer: {said}")


def must_be_reachable(config: Config) -> None:
    """Refuse a broker that Celery does not know, or for which a library is missing.

    Raises:
        ConfigError: saying which.
    """
    for address in (config.broker or "").split(";"):
        scheme = address.partition("://")[0]
        problem = ""
        if scheme.partition("+")[0] not in TRANSPORT_ALIASES:
            problem = f"want a broker that Celery knows, not {scheme!r}"
        elif _is_redis(address) and find_spec("redis") is None:
            problem = "want the library of the broker: pip install 'pulse[redis]'"
        else:
            try:
                resolve_transport(scheme.partition("+")[0])
            except ImportError as error:
                problem = f"want the library of the broker: {error}"
        if problem:
            raise ConfigError([Fault(key="pulse.config.broker", shown="***", problem=problem)])


def queue_of(config: Config, task: Task) -> str:
    """The queue that runs of *task* wait in."""
    # Not Celery's own default: workers of other applications take from that, and throw away what they do not know.
    return task.queue or (f"pulse.{config.name}" if config.name else "pulse")


def mark_of(store: RunStore) -> str:
    """What tells *store* from every other one, and nothing else of it."""
    return blake2b(store.secret().encode(), digest_size=8).hexdigest()


def _sender_of(config: Config) -> Celery:
    app = Celery("pulse", set_as_current=False)
    app.config_from_object({**_settings([config]), "broker_transport_options": _in_time(config.broker or "")})
    return app


def _in_time(broker: str) -> dict[str, object]:
    """What keeps a broker that is dead or frozen from holding up who sends."""
    patience: dict[str, object] = {"max_retries": 1, "interval_start": 0, "connect_retries_timeout": ANSWER}
    if _is_redis(broker):
        patience |= {"socket_timeout": ANSWER, "socket_connect_timeout": ANSWER}
    elif broker.startswith(("amqp", "pyamqp")):
        # Confirmed, or a message that the broker never stored would count as sent.
        patience |= {"read_timeout": ANSWER, "write_timeout": ANSWER, "confirm_publish": True}
    return patience


def _is_redis(broker: str) -> bool:
    return broker.startswith(("redis:", "rediss:", "sentinel:"))


def _time_limits(task: Task) -> dict[str, float]:
    """Celery's limits for a run of *task*: what raises in its endpoint, and what kills the process."""
    if task.timeout is None:
        return {}
    soft = task.timeout + timedelta(seconds=BEHIND)
    return {"soft_time_limit": soft.total_seconds(), "time_limit": (soft + task.kill_grace).total_seconds()}


def _name_of(run: Run) -> str:
    """What Celery calls the message: the run's id, and of a further attempt its number."""
    return run.id if run.attempt == 1 else f"{run.id}-{run.attempt}"


def _settings(configs: Sequence[Config]) -> dict[str, object]:
    """What workers and senders have in common."""
    tasks = [(config, task) for config in configs for task in config.tasks.values()]
    # To a queue of RabbitMQ its priorities belong from its making on.
    ranked = {queue_of(config, task) for config, task in tasks if task.priority is not None}
    names = sorted({queue_of(config, task) for config, task in tasks})
    broker = configs[0].broker or ""
    return {
        "broker_url": broker,
        "broker_connection_timeout": ANSWER,
        "broker_connection_retry_on_startup": True,
        "task_queues": [_queue(name, PRIORITIES if name in ranked else None) for name in names],
        "task_default_queue": names[0] if names else "pulse",
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "enable_utc": True,
        # A message that waits in a worker which is busy or dies is lost to the others.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": _is_redis(broker),  # which only Redis can do
    }


def _queue(name: str, priorities: int | None) -> Queue:
    # An exchange of its own: by default all share one, and a binding of its own to it.
    return Queue(name, Exchange(name), routing_key=name, max_priority=priorities)  # type: ignore[no-untyped-call]


def _passwords(broker: str) -> Iterable[str]:
    for address in broker.split(";"):
        try:
            password = urlsplit(address).password
        except ValueError:
            continue
        if password:
            yield from (password, unquote(password))


# What takes


class _NotHereError(LookupError):
    """A message that is for another worker; it says why."""


class _Hall:
    """The filters of the application of a worker, and the attendants of this process."""

    def __init__(self, specification: str) -> None:
        """Load the application.

        Raises:
            ConfigError, ApplicationError: it cannot be loaded, or has nothing for Celery.
        """
        self.middlewares = _loaded(specification)
        self._attendants: dict[int, Attendant] = {}
        self._marks: dict[int, str] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    def find(self, task: str, store: str, definition: str) -> Any:
        """The filter that a message is for.

        Raises:
            _NotHereError: there is none.
            StoreUnavailableError: its store does not answer.
        """
        problem = "no application of this worker has its run store"
        for number, middleware in enumerate(self.middlewares):
            if self._marks.get(number) != store:  # perhaps it was emptied since it was last asked
                self._marks[number] = mark_of(middleware.run_store)
            if self._marks[number] != store:
                continue
            known = middleware.config.tasks.get(task)
            if known is not None and fingerprint(known) == definition:
                return middleware
            problem = (
                "the configuration of this worker does not have the task"
                if known is None
                else "the configuration of this worker is another one than that of the process that rang"
            )
        raise _NotHereError(problem)

    def attendant_of(self, middleware: Any) -> Attendant:
        """The attendant of *middleware* in this process.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        if os.getpid() != self._process:  # a child: the threads of its parent are not here
            self._process, self._attendants, self._lock = os.getpid(), {}, threading.Lock()
        with self._lock:
            found = self._attendants.get(id(middleware))
            if found is None:
                found = middleware.attend()
                found.start()
                self._attendants[id(middleware)] = found
            return found

    def close(self) -> None:
        """End the attendants of this process."""
        if os.getpid() == self._process:
            for attendant in self._attendants.values():
                attendant.close()


def _loaded(specification: str) -> list[Any]:
    """The filters in mode celery of the application at *specification*."""
    with collecting() as built, manual_start():  # a worker of Celery never rings
        loaded = load_application(specification)
    # Without any that were built: the module was there before, and the object may be one of them.
    configs = [(one, getattr(one, "config", None)) for one in built or [loaded]]
    found = [one for one, config in configs if isinstance(config, Config) and config.mode == "celery"]
    if not found:
        raise ApplicationError(specification, "it has no Pulse filter with pulse.config.mode = celery")
    if len({one.config.broker for one in found}) > 1:
        problem = "want one broker: a worker of Celery takes from one, and the filters of this application name several"
        raise ConfigError([Fault(key="pulse.config.broker", shown="***", problem=problem)])
    return found


def _specification() -> str:
    """What the environment says, as `load_application` takes it; a file need not be called `config:`."""
    written = os.environ.get(VARIABLE, "").strip()
    if not written:
        problem = f"want {VARIABLE}=production.ini, or module:object: the application whose tasks this worker runs"
        raise ConfigError([Fault(key=VARIABLE, shown="''", problem=problem, where="environment")])
    is_file = not written.startswith("config:") and Path(file_and_section(written)[0]).is_file()
    return f"config:{written}" if is_file or ":" not in written else written


class _WorkerApp(Celery):  # type: ignore[misc]  # Celery has no types
    """The Celery application of workers, which is what the application in PULSE_CONFIG says."""

    hall: _Hall | None = None

    def on_configure(self) -> None:
        """Find the settings; Celery calls this before it first reads one."""
        self.hall = _Hall(_specification())
        self.config_from_object(_settings([one.config for one in self.hall.middlewares]))


app: Final = _WorkerApp("pulse", set_as_current=False)


@app.task(name=TASK, bind=True, shared=False, throws=(RunFailedError,), max_retries=None, acks_late=False)  # type: ignore[untyped-decorator]
def run(  # noqa: PLR0917 - the message
    self: Any, task: str, due: str, run: str, attempt: int, trigger: str, latest: str, store: str, fingerprint: str
) -> str:
    """Take over and execute the run that a message is about; what became of it, in a few words."""
    fire = Fire(
        task=task,
        due=datetime.fromisoformat(due),
        latest=datetime.fromisoformat(latest),
        trigger=Trigger(trigger),
        run_id=run,
        attempt=attempt,
        is_reserved=True,
    )
    try:
        record = _take_over(fire, store, fingerprint)
    except (StoreUnavailableError, _NotHereError) as error:
        # Not acknowledged and forgotten: another worker may be the right one, until the message expires.
        log.warning(
            "task=%s run=%s is left to other workers: %s",
            task,
            run,
            error,
            extra={"pulse_event": "stood_down", "pulse_task": task, "pulse_run": run},
        )
        # Never the same: workers ask Redis once a second, and this one would go on to be the first.
        uneven = 0.5 + (self.request.retries * 0.618) % 1
        raise self.retry(countdown=ELSEWHERE * uneven, exc=RunFailedError(str(error))) from error
    if record is None or record.outcome is None:
        return "not run: somebody else has taken it, or it is over"
    words = " ".join(filter(None, (record.outcome.value, str(record.status or ""), record.reason)))
    if record.outcome in FAILURES:
        raise RunFailedError(words)
    return words


def _take_over(fire: Fire, store: str, definition: str) -> Run | None:
    assert app.hall is not None  # the app is configured, or there would be no worker
    middleware = app.hall.find(fire.task, store, definition)
    return app.hall.attendant_of(middleware).run(fire)


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: object) -> None:
    if app.hall is not None:
        app.hall.close()
