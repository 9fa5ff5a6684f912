"""What a parent and its child processes say to each other, pickled, over a pipe of their own."""

import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pulse.dispatch import Reply
from pulse.gateway import WsgiApp
from pulse.model import Config, Progress, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Startup:
    """The first message to a child.

    Attributes:
        sys_path: Where the parent finds its modules; it is set before the rest is read.
        body: A pickled `Application`: its modules may be anywhere on that path.
    """

    sys_path: tuple[str, ...]
    body: bytes


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


def send(connection: Connection, message: object) -> None:
    """Send *message*; `Connection.send` does the same with a pickler that costs more than a request.

    Raises:
        OSError: the other side is gone.
    """
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """The next message; blocks.

    Raises:
        EOFError, OSError: the other side is gone.
        Exception: what came is no message.
    """
    return pickle.loads(connection.recv_bytes())  # noqa: S301 - between a parent and its own child
