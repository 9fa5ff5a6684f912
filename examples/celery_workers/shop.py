"""A shop whose jobs are run by workers of Celery; the commands stand in production.ini.

Web servers and workers load the same application: a job is one of its endpoints, wherever it is run.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from pulse import internal_only


def make_shop(_global_conf: dict[str, str]) -> Callable[..., Iterable[bytes]]:
    """The application of the ini file."""
    return shop


def shop(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A page for visitors, and two jobs."""
    job = {"/jobs/tick": tick, "/jobs/report": report}.get(environ["PATH_INFO"])
    if job is not None:
        return job(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"served by process {os.getpid()}\n".encode()]


@internal_only
def tick(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Say when it was due and who runs it."""
    start_response("200 OK", [("X-Pulse-Result", f"process {os.getpid()}")])
    return [f"due {environ['pulse.info']['due']:%H:%M:%S}\n".encode()]


@internal_only
def report(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Take a few seconds, and tell how far it has got; `pulse watch` shows it."""
    pages = 50
    start_response("200 OK", [("X-Pulse-Result", f"{pages} pages by process {os.getpid()}")])
    for page in range(pages):
        if environ["pulse.cancelled"].is_set():
            return
        environ["pulse.progress"](page + 1, pages, "writing pages")
        time.sleep(0.1)
        yield b"page\n"
