"""Two gunicorns of four workers each as one fleet: eight processes ring, and each due instant runs once.

    python examples/gunicorn_fleet.py 5 redis://localhost:6379/0

Seconds and store are yours to choose: `postgresql://localhost/shop` does as well what two hosts need;
when none is given it is a SQLite file of this run, for two servers on one host. With `memory:` each
process keeps to itself, and all of them run everything. With `pip install gunicorn pulse[redis]`.
The seconds begin with the first run. Each run writes down that it did: no record of Pulse is asked.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pulse import PulseMiddleware, internal_only

EVERY = timedelta(seconds=1)
PATIENCE = 60.0  # seconds until the first run: eight processes load the application first
FOLDER = Path(os.environ.get("FLEET_FOLDER", "."))  # where they write


def site(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`/jobs/tick` for Pulse, and nothing for others."""
    if environ["PATH_INFO"] == "/jobs/tick":
        return tick(environ, start_response)
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"no such page\n"]


@internal_only
def tick(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Append a line: when this was due, and which process of which gunicorn ran it."""
    line = f"{environ['pulse.info']['due'].isoformat()} {os.getppid()} {os.getpid()}\n"
    file = os.open(FOLDER / "ticks", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())  # in one step: eight processes write here
    os.close(file)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ticked\n"]


application = PulseMiddleware(
    site,
    # A busy machine is late, and runs all of them even so.
    task={"tick": {"interval": EVERY, "coalesce": False, "misfire_grace_time": "1m", "overlap": "queue"}},
    context="jobs",
    guard=True,
    name="gunicorn-fleet",
    store=os.environ.get("FLEET_STORE", "auto"),
)


def serve(folder: Path, store: str) -> subprocess.Popen[bytes]:
    """A gunicorn with four workers, as on a host of its own."""
    options = ["-w4", "-b127.0.0.1:0", "--log-level=warning", "gunicorn_fleet:application"]
    home = tempfile.mkdtemp(dir=folder)  # for its control socket: of one they would rob each other
    more = {"FLEET_FOLDER": str(folder), "FLEET_STORE": store, "XDG_RUNTIME_DIR": home}
    command = [sys.executable, "-m", "gunicorn", *options]
    return subprocess.Popen(command, cwd=Path(__file__).parent, env=os.environ | more)  # noqa: S603 - all is above


def told(ticks: Path) -> list[tuple[datetime, str, str]]:
    """What ran: due instant, master, worker."""
    lines = ticks.read_text(encoding="ascii").splitlines() if ticks.exists() else []
    return [(datetime.fromisoformat(due), master, worker) for due, master, worker in map(str.split, lines)]


def main(seconds: str = "5", store: str = "") -> None:
    """Have both serve for a while, and count."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as home:
        folder = Path(home)
        store = store or f"sqlite:{folder / 'runs.db'}"
        print(f"two gunicorns of four workers, one task a second, and the run store {store}", flush=True)
        masters = [serve(folder, store) for _ in range(2)]
        try:
            end = time.monotonic() + PATIENCE
            while not told(folder / "ticks"):
                if time.monotonic() > end or any(master.poll() is not None for master in masters):
                    sys.exit("nothing has run: what the gunicorns say above tells why")
                time.sleep(0.1)
            time.sleep(float(seconds))
        finally:
            for master in masters:
                master.terminate()  # its workers let their runs end
            for master in masters:
                master.wait()
        runs = sorted(told(folder / "ticks"))
    judge(runs)


def judge(runs: list[tuple[datetime, str, str]]) -> None:
    """Print each run, and what is to be said of them all; exit with 1 if an instant was not run once."""
    for due, master_pid, pid in runs:
        print(f"{due:%H:%M:%S} ran in worker {pid} of gunicorn {master_pid}")
    times = Counter(due for due, _, _ in runs)
    steps = (max(times) - min(times)) // EVERY + 1
    planned = [min(times) + EVERY * step for step in range(steps)]
    odd = [f"{due:%H:%M:%S} ran {times[due]} times" for due in planned if times[due] != 1]
    print(f"{len(planned)} due instants, two gunicorns of four workers:", "; ".join(odd) or "each ran once")
    sys.exit(bool(odd))


if __name__ == "__main__":
    main(*sys.argv[1:3])
