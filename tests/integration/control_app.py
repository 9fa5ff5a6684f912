"""A site under Pulse whose tasks are bounded, watched, cancelled and repeated; NOTES is where it writes."""

import json
import os
import time
from pathlib import Path

from pulse import PulseMiddleware, is_internal

# Not hourly: at the full hour `long` would begin again, and hold up the end of the fleet for half a minute.
ONCE = {"interval": "365d", "run_at_startup": True}


def note(**facts: object) -> None:
    line = json.dumps({"pid": os.getpid(), **facts}).encode() + b"\n"
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line)
    os.close(file)


def site(environ, start_response):
    if not is_internal(environ):
        start_response("200 OK", [])
        return [b"page"]
    name, info = environ["PATH_INFO"].rpartition("/")[2], environ["pulse.info"]
    if name == "alert":
        note(what="alert", said=json.loads(environ["wsgi.input"].read()))
        start_response("200 OK", [])
        return [b""]
    note(what="began", task=name, attempt=info["attempt"], trigger=info["trigger"])
    status = ENDPOINTS.get(name, ok)(environ, info)
    note(what="ended", task=name, attempt=info["attempt"])
    start_response(f"{status} Said", [("X-Pulse-Result", f"{name} said {status}")])
    return [b"done"]


def ok(environ, info):
    return 200


def long(environ, info):
    environ["pulse.progress"](1, 2, "half of it")
    environ["pulse.cancelled"].wait(60)
    return 200


def flaky(environ, info):
    return 500 if info["attempt"] == 1 else 200


def gone(environ, info):
    return 410


def locked(environ, info):
    time.sleep(0.1)
    return 200


ENDPOINTS = {"long": long, "flaky": flaky, "gone": gone, "one": locked, "other": locked}

application = PulseMiddleware(
    site,
    task={
        "startup": ONCE,
        "long": {**ONCE, "kill_grace": 30},
        "flaky": {**ONCE, "retries": 3, "retry_delay": 5, "on_success": "/pulse/alert"},
        "gone": {"interval": 0.3, "on_failure": "/pulse/alert"},
        "one": {"interval": 0.3, "lock": "files"},
        # Not due together each time, or the one that is claimed first would keep it from running at all.
        "other": {"interval": 0.4, "lock": "files"},
    },
    store=f"sqlite:{os.environ['STORE']}",
    lease=10,  # of a worker that stands still for a while a lock would be free
    history=1000,
)
assert Path(os.environ["NOTES"]).parent.exists()
