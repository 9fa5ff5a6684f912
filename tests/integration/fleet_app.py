"""A site under Pulse whose endpoints write down what they really do.

What it is comes in the environment: FLEET, a JSON object of the arguments of
`PulseMiddleware`, and DONE, the folder in which each task has a file of its own.
"""

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

from pulse import PulseMiddleware, is_internal


def note(task: str, *words: object) -> None:
    """Append a line in one step: processes that are killed leave no half ones."""
    line = " ".join(map(str, (*words, os.getpid(), time.time())))
    file = os.open(Path(os.environ["DONE"], task), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode() + b"\n")
    os.close(file)


def site(environ, start_response):
    if is_internal(environ):
        info = environ["pulse.info"]
        run = (info["due"].isoformat(), info["attempt"], info["trigger"])
        note(info["task"], "began", *run)
        wait(**{name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()})
        note(info["task"], "ended", *run)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"page"]


def wait(seconds="0", unless="", stubborn="", hangs=""):
    """As long as the query of the action says, *stubborn* whatever happens; not at all once there is a file *unless*."""
    if hangs:
        threading.Event().wait()
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end and not (unless and Path(unless).exists()):
        with suppress(Exception if stubborn else ()):
            time.sleep(0.01)


application = PulseMiddleware(site, **json.loads(os.environ["FLEET"]))
