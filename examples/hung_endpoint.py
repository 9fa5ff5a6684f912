"""An endpoint that never comes back, in each mode: what Pulse can do about it, and what not.

    python examples/hung_endpoint.py [seconds]

A thread cannot be killed: the run is recorded, its thread is left behind and replaced, and
after two of them the task is skipped. A process can: it is asked to stop, and then killed.
The other task notices nothing in either mode.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable

from pulse import PulseMiddleware

WHAT_HAPPENS = {
    "threading": "a thread cannot be killed: it is left behind, and after two of them the task is skipped",
    "processing": "a process can: it is asked to stop, and killed if it does not",
}


def site(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """`/jobs/hang` waits for what never happens."""
    if environ["PATH_INFO"] == "/jobs/hang":
        threading.Event().wait()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]


def watch(mode: str, seconds: float) -> None:
    """Run the hung task and its sibling for a while, and print what became of them."""
    pulse = PulseMiddleware(
        site,
        task={"hang": {"interval": 2, "timeout": 0.3, "kill_grace": 0.2}, "sibling": {"interval": 0.5}},
        context="jobs",
        mode=mode,
        guard=True,
        shutdown_timeout=1,
        application="hung_endpoint:site",  # what a child imports; a script itself cannot be sent to one
        store="memory:",  # of this run alone: nothing is left of earlier ones
    )
    print(f"mode = {mode}: {WHAT_HAPPENS[mode]}; {seconds:g} seconds", flush=True)
    pulse.start()
    time.sleep(seconds)
    pulse.close()
    for run in sorted(pulse.run_store.history("hang"), key=lambda run: run.due):
        times = f" ({run.count} times)" if run.count > 1 else ""
        print(f"  {run.due:%H:%M:%S} hang     {run.outcome.value:8} {run.reason}{times}")
    totals = pulse.run_store.totals("sibling")
    print(f"  meanwhile sibling: {', '.join(f'{count} {outcome.value}' for outcome, count in totals.counts.items())}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    for mode in ("threading", "processing"):
        watch(mode, *map(float, sys.argv[1:2] or ["6"]))
