"""A small application under a start rule, which notes in a file what the rule decides."""

import os
import threading
import time
from wsgiref.simple_server import demo_app

from pulse.start import StartRule


class Bell:
    def __init__(self, app) -> None:
        self.app = app
        self.rule = StartRule(
            "auto",
            ring=ring,
            silence=lambda: note("silenced"),
            forget=lambda: note("forgot"),
        )
        self.rule.arm()

    def __call__(self, environ, start_response):
        if os.getpid() != self.rule.settled:
            self.rule.serve()
        return self.app(environ, start_response)


def ring(reason: str) -> None:
    """Ring as an engine does: by a thread of its own, which goes on when whoever started it has gone."""
    threading.Thread(target=_rings, args=(reason,), daemon=True).start()


def _rings(reason: str) -> None:
    time.sleep(0.05)
    note("rang", reason)


def note(*words: object) -> None:
    """Append a line at once; a fork may be under way, so nothing is buffered or locked."""
    line = " ".join(map(str, (os.getpid(), *words)))
    file = os.open(os.environ["BELL_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode() + b"\n")
    os.close(file)


application = Bell(demo_app)
