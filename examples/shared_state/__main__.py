"""A page that is served by two processes and moved by a third; they meet in Redis.

    PULSE_DEPLOY__REDIS_URL=redis://localhost:6379/0 python examples/shared_state [port ...]

Open both addresses that it prints, each of another server: they count together. Only an
editor may press the button, whichever server is asked. It wants a Redis or Valkey that runs, and
`pip install uvicorn pulse[redis]`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import redis

HERE = Path(__file__).parent
REDIS = os.environ.get("PULSE_DEPLOY__REDIS_URL", "redis://localhost:6379/0")


def main() -> None:
    """Start the ticker and two servers; they end with this process, and it ends with the first of them."""
    try:
        redis.Redis.from_url(REDIS, socket_connect_timeout=2).ping()
    except redis.RedisError as error:
        sys.exit(f"no Redis answers at {REDIS} ({error})\nstart one, and say where it is in PULSE_DEPLOY__REDIS_URL")
    # The servers are started one by one, and would otherwise each keep to their own memory.
    environment = {
        **os.environ,
        "PULSE_DEPLOY__STATE_BACKEND": "redis",
        "PULSE_DEPLOY__REDIS_URL": REDIS,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    commands = [["ticker.py"], *(["-m", "uvicorn", "page:app", "--port", port] for port in sys.argv[1:] or ["0", "0"])]
    signal.signal(signal.SIGTERM, end)
    children = [subprocess.Popen([sys.executable, *command], cwd=HERE, env=environment) for command in commands]  # noqa: S603
    print("open the addresses that follow; Ctrl-C ends this", flush=True)
    try:
        while all(child.poll() is None for child in children):
            time.sleep(0.2)
    except KeyboardInterrupt:
        print("ending")
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()


def end(*_: object) -> NoReturn:
    """What a process manager sends ends it as Ctrl-C does, with its children."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
