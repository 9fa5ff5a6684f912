"""What a scheduled task does for shared state: free what has expired."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pulse.gateway import Environ
from pulse.state.base import Sweepable
from pulse.state.server import get_server_state
from pulse.state.stores import get_connection_router, get_session_store, get_widget_store
from pulse.state.sync_helpers import run_async

SECONDS = 60.0  # that a sweep may take; a large Redis is looked through piece by piece


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """How much was freed.

    Attributes:
        sessions: User sessions.
        connections: Connections of viewers without a heartbeat.
        widgets: Widgets past their time to live.
    """

    sessions: int
    connections: int
    widgets: int


async def sweep(
    *,
    sessions: Sweepable | None = None,
    connections: Sweepable | None = None,
    widgets: Sweepable | None = None,
) -> Swept:
    """Free expired user sessions, stale connections and old widgets; how much that was.

    In Redis records vanish when they expire: there the numbers are what still pointed at
    them. What this process holds of vanished widgets, their callbacks too, goes as well.

    Args:
        sessions: A store instead of that of the environment.
        connections: Likewise.
        widgets: Likewise.

    Raises:
        StoreUnavailableError: the backend did not answer.
    """
    swept = Swept(
        sessions=await (get_session_store() if sessions is None else sessions).sweep(),
        connections=await (get_connection_router() if connections is None else connections).sweep(),
        widgets=await (get_widget_store() if widgets is None else widgets).sweep(),
    )
    await get_server_state().sweep()
    return swept


def sweep_endpoint(_environ: Environ, start_response: Any) -> Iterable[bytes]:
    """A WSGI application that sweeps and answers `{"sessions": 2, "connections": 0, "widgets": 1}`.

    Mount it where a task points: `pulse.task.sweep.action = /state/sweep`.

    Raises:
        StoreUnavailableError: the backend did not answer; a run then fails with that reason.
    """
    body = json.dumps(asdict(run_async(sweep(), SECONDS))).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
