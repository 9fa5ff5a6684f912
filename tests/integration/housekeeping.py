"""A site under Pulse that notes each internal request: the process, the path, and when it ended."""

import os
import time
from pathlib import Path

from pulse import PulseMiddleware, is_internal


def note(*words: object) -> None:
    line = " ".join(map(str, (os.getpid(), *words)))
    with Path(os.environ["NOTES"]).open("a", encoding="utf-8") as notes:
        notes.write(line + "\n")


def site(environ, start_response):
    path = environ["PATH_INFO"]
    if is_internal(environ):
        note("began", path)
        note(environ["HTTP_X_PULSE_DUE"], path)
        if path == "/sessions/slow":
            time.sleep(2)
        note("ended", path)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"page"]


application = PulseMiddleware(
    site,
    task={"cleanup": {"interval": 0.3}, "slow": {"interval": 0.5}},
    context="sessions",
    guard=True,
    mode=os.environ.get("MODE", "threading"),
    application="housekeeping:application",
    store=os.environ.get("STORE", "auto"),
    history=1000,
)
