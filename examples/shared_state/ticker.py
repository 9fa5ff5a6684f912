"""The process that moves the counter: an ordinary WSGI application, whose endpoints Pulse requests on time."""

import threading
from collections.abc import Iterable
from typing import Any

from page import WIDGET, show

from pulse import PulseMiddleware
from pulse.state import get_server_state, run_async, sweep_endpoint


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """`/state/tick` counts on, `/state/sweep` frees what has expired."""
    if environ["PATH_INFO"] == "/state/sweep":
        return sweep_endpoint(environ, start_response)
    number = int(run_async(get_server_state().get_widget_html(WIDGET)) or 0) + 1
    run_async(show(number))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(number).encode()]


def main() -> None:
    """Tick until the process is ended."""
    tasks = {"tick": {"action": "tick", "interval": 1}, "sweep": {"action": "sweep", "interval": 60}}
    middleware = PulseMiddleware(app, context="state", store="memory:", task=tasks)
    middleware.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
