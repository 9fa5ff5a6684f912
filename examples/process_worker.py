"""Tasks in processes of their own: they use another core, and a crash is theirs alone.

    python examples/process_worker.py [seconds]

One endpoint computes, the other one crashes: the crash is a record, the next child is ready at once,
and the process that serves goes on.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable

from pulse import PulseMiddleware


def site(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Two pages with work to do: one that computes, and one that takes its process with it."""
    if environ["PATH_INFO"] == "/jobs/crash":
        os.abort()
    total = sum(number * number for number in range(500_000))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{total} in process {os.getpid()}".encode()]


def main(seconds: float = 6.0) -> None:
    """Run both for a while, and print what became of them."""
    pulse = PulseMiddleware(
        site,
        task={"compute": {"interval": 1}, "crash": {"interval": 2}},
        context="jobs",
        mode="processing",
        workers=2,
        guard=True,
        store="memory:",  # of this run alone: nothing is left of earlier ones
        application="process_worker:site",  # what a child imports; a script itself cannot be sent to one
    )
    print(f"this is process {os.getpid()}; its children run two tasks for {seconds:g} seconds", flush=True)
    pulse.start()
    time.sleep(seconds)
    pulse.close()
    for task in pulse.config.tasks:
        for run in reversed(pulse.run_store.history(task)):
            print(f"{run.due:%H:%M:%S} {task:8} {run.outcome.value:8} {run.reason or run.body.decode()}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main(*map(float, sys.argv[1:2]))
