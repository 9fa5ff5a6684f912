"""What a parent and its child processes say to each other, pickled, over a pipe of their own."""

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from multiprocessing.connection import Connection
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from pulse.dispatch import Reply
from pulse.gateway import WsgiApp
from pulse.model import Config, Outcome, Progress, Run, Trigger

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Startup:
    """The first message to a child.

    Attributes:
        sys_path: Where the parent finds its modules; it is set before the rest is read.
        argv: What the parent was started with, for applications that look at it.
        python_path: The parent's PYTHONPATH, for what endpoints start: the child needs one of its own to find Pulse.
        body: A pickled `Application`: its modules may be anywhere on that path.
        module: What `python -m` has started in the parent, if *body* needs it.
        script: The file that was started, if *body* needs it.
    """

    sys_path: tuple[str, ...]
    argv: tuple[str, ...]
    python_path: str | None
    body: bytes
    module: str = ""
    script: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """How a child gets at the wrapped application.

    Attributes:
        specification: For `load_application`; empty when the object itself is sent.
        wrapped: The application, if it can be pickled; else None.
        config: With the tasks that will be asked for.
    """

    specification: str = ""
    wrapped: WsgiApp | None = None
    config: Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The first answer: the application is loaded, unless *problem* says why it is not."""

    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Every further message: one run of the task that it names."""

    run: Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What may come before an answer: how far the run has got."""

    run_id: str
    attempt: int
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one request.

    Attributes:
        run_id: Whose it is: an endpoint may have put anything into the pipe.
        attempt: Likewise.
        reply: Of the dispatcher.
    """

    run_id: str
    attempt: int
    reply: Reply


class _Form(Generic[T]):
    """Takes values of one dataclass apart and puts them together again, past its `__init__`.

    A pickle of the dataclass itself costs ten times as much: it names the classes of all
    that is in it, which are looked up again, and has its fields listed at either end.
    """

    def __init__(self, kind: type[T], *, instants: Iterable[str] = (), **enumerations: type[Enum]) -> None:
        """Which fields are an instant, or a member of an enumeration; all of them may be None."""
        names = [one.name for one in fields(kind)]  # type: ignore[arg-type]
        self._kind = kind
        self._values = attrgetter(*names)
        self._setters = [getattr(kind, name).__set__ for name in names]
        self._ways: list[tuple[int, Callable[[Any], Any], Callable[[Any], Any]]] = [
            (names.index(name), datetime.isoformat, datetime.fromisoformat) for name in instants
        ]
        for name, members in enumerations.items():
            self._ways.append((names.index(name), attrgetter("value"), members))

    def apart(self, one: T) -> list[Any]:
        """Its values, all of them plain."""
        values = list(self._values(one))
        for place, said, _ in self._ways:
            if values[place] is not None:
                values[place] = said(values[place])
        return values

    def together(self, values: list[Any]) -> T:
        """What had these values."""
        for place, _, read in self._ways:
            if values[place] is not None:
                values[place] = read(values[place])
        one = object.__new__(self._kind)
        for give, value in zip(self._setters, values, strict=True):
            give(one, value)
        return one


_RUN: Final = _Form(
    Run,
    instants=("due", "started", "expires", "finished", "first_due", "again_at"),
    trigger=Trigger,
    outcome=Outcome,
)


def send(connection: Connection, message: Startup | Ready | Request | Told | Answer) -> None:
    """Send *message*.

    Raises:
        OSError: the other side is gone.
    """
    connection.send_bytes(pickle.dumps(_apart(message)))


def receive(connection: Connection) -> Any:
    """The next message; blocks.

    Raises:
        EOFError, OSError: the other side is gone.
        Exception: what came is no message.
    """
    return _together(pickle.loads(connection.recv_bytes()))  # noqa: S301 - between a parent and its own child


def _apart(message: object) -> object:
    """What is pickled: of the two messages of each run only the values."""
    match message:
        case Request(run=run):
            return ["run", _RUN.apart(run)]
        case Answer(run_id=run_id, attempt=attempt, reply=reply):
            return ["reply", [reply.outcome.value, *reply[1:]], run_id, attempt]
        case _:
            return message


def _together(said: Any) -> Any:
    match said:
        case ["run", values]:
            return Request(run=_RUN.together(values))
        case ["reply", values, run_id, attempt]:
            return Answer(run_id=run_id, attempt=attempt, reply=Reply(Outcome(values[0]), *values[1:]))
        case _:
            return said
