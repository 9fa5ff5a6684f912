"""Everything that Pulse raises: one tree under `PulseError`.

Each error is also the builtin that a caller would expect, and carries its facts as
attributes, so that nobody has to parse a message.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

LONGEST_KEY = 200  # characters of one that a message shows; a key may be a whole file by mistake


class PulseError(Exception):
    """The root of all errors of Pulse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong with a configuration.

    Attributes:
        key: The option as the user wrote it, `pulse.task.cleanup.interval`.
        shown: The value as it may be shown: quoted, and masked when it is a secret.
        problem: What is wanted instead.
        where: File and section, `development.ini [filter:pulse]`; empty when unknown.
    """

    key: str
    shown: str
    problem: str
    where: str = ""

    def under(self, prefix: str) -> "Fault":
        """The same fault with its key as it reads below *prefix*."""
        return replace(self, key=prefix + self.key)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        # A key may be blank, or hold a line break: it must be seen, and stay in its line.
        is_plain = self.key.isprintable() and self.key == self.key.strip() != ""
        key = self.key if is_plain else repr(self.key)
        if len(key) > LONGEST_KEY:
            key = f"{key[: LONGEST_KEY // 2]}...{key[-LONGEST_KEY // 2 :]}"
        return f"{place}{key} = {self.shown}: {self.problem}"


class ConfigError(PulseError, ValueError):
    """A configuration that Pulse refuses to start with; it names every fault at once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        lines = [str(fault) for fault in self.faults]
        if len(lines) > 1:
            lines = [f"{len(lines)} faults in the configuration:", *(f"  {line}" for line in lines)]
        super().__init__("\n".join(lines))


class UnknownTaskError(PulseError, LookupError):
    """A task name that the configuration does not have."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(f"no task {name!r}; the tasks are: {', '.join(self.known) or 'none'}")


class UnknownRunError(PulseError, LookupError):
    """A run that is not kept, or never was."""

    def __init__(self, task: str, run_id: str) -> None:
        self.task = task
        self.run_id = run_id
        super().__init__(f"no run {run_id!r} of {task} is kept")


class ClosedError(PulseError, RuntimeError):
    """Work was handed to something that `close()` has ended."""


class ApplicationError(PulseError, ImportError):
    """An application that its specification does not lead to."""

    def __init__(self, specification: str, problem: str) -> None:
        self.specification = specification
        super().__init__(f"{specification!r} is no application: {problem}")


class ResponseError(PulseError, RuntimeError):
    """An endpoint broke the rules of WSGI (PEP 3333); the message says which."""


class StoreUnavailableError(PulseError, ConnectionError):
    """A store did not answer: nothing may run unclaimed, and no shared state is guessed."""


class BrokerUnavailableError(PulseError, ConnectionError):
    """Celery's broker did not take a message; what it was for is tried again, or recorded as missed."""


class RunFailedError(PulseError, RuntimeError):
    """A run that did not succeed, as Celery's monitoring is told of it; the message says why."""


class NotInternalError(PulseError, PermissionError):
    """Somebody outside a run of Pulse called an endpoint that is for runs only."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        super().__init__(f"{endpoint} is for internal requests of Pulse only")
