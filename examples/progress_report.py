"""A long run that tells how far it has got, and stops when it is asked to.

    python examples/progress_report.py [seconds]

What is printed here while it runs, `pulse watch` and the status page show from any process of the
fleet; how far a run has got is written to the run store about once a second. The first run ends by
itself; the second, of too many pages, is asked to stop, as `pulse cancel` does.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

from pulse import PulseMiddleware, internal_only


def site(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`/reports/build` for Pulse, and one page for everybody."""
    if environ["PATH_INFO"] == "/reports/build":
        return build(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"welcome\n"]


@internal_only
def build(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Page after page: to tell costs next to nothing, so it may be done for each of them."""
    said = parse_qs(environ["QUERY_STRING"])
    pages, pause = int(said["pages"][0]), float(said["pause"][0])
    start_response("200 OK", [("Content-Type", "text/plain")])
    page = 0
    try:
        for page in range(1, pages + 1):
            environ["pulse.cancelled"].wait(pause)  # stands for the work; it ends early for a run that is to stop
            environ["pulse.progress"](page, pages, "pages are built")
            # A thread cannot be stopped from outside; a response is, between two of its chunks.
            yield b"."
    finally:
        print(f"  {page} pages are kept")


def call(pulse: PulseMiddleware, task: str, *, cancel: bool) -> None:
    """Run *task*, and print how far it has got until it ends; *cancel* it as soon as it has said so."""
    run = threading.Thread(target=pulse.run_now, args=(task,))
    run.start()
    seen = None
    while run.is_alive():
        for one in pulse.run_store.running():
            if one.progress and one.progress != seen:
                seen = one.progress
                print(f"  {seen.done:g} of {seen.total:g} {seen.text}", flush=True)
                if cancel:
                    pulse.run_store.ask_to_stop(one.id, "enough was seen")
        time.sleep(0.1)
    (record,) = pulse.run_store.history(task, 1)
    outcome = record.outcome and record.outcome.value
    print(f"  {outcome} after {record.duration:.1f} s{record.reason and f': {record.reason}'}")


def main(seconds: float = 5.0) -> None:
    """Two runs: one for half of the time, one until it is cancelled."""
    pause = seconds / 2 / 12
    tasks = {
        "report": {"action": f"build?pages=12&pause={pause:g}", "cron": "@manually"},
        "archive": {"action": f"build?pages=5000&pause={pause:g}", "cron": "@manually"},
    }
    pulse = PulseMiddleware(site, task=tasks, context="reports", guard=True, store="memory:")
    pulse.start()
    print("a run that is left alone", flush=True)
    call(pulse, "report", cancel=False)
    print("a run that is cancelled", flush=True)
    call(pulse, "archive", cancel=True)
    pulse.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main(*map(float, sys.argv[1:2]))
