"""A page that is served by two processes and moved by a third; they meet in Redis.

    PULSE_DEPLOY__REDIS_URL=redis://localhost:6379/0 python examples/shared_state

Open both addresses that it prints, each of another server: they count together. Only an
editor may press the button, whichever server is asked. It needs uvicorn and `pulse[redis]`.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Start the ticker and two servers; they end with this process."""
    # The servers are started one by one, and would otherwise each keep to their own memory.
    environment = {**os.environ, "PULSE_DEPLOY__STATE_BACKEND": "redis", "PYTHONPATH": os.pathsep.join(sys.path)}
    commands = [["ticker.py"], *(["-m", "uvicorn", "page:app", "--port", port] for port in sys.argv[1:] or ["0", "0"])]
    children = [subprocess.Popen([sys.executable, *command], cwd=HERE, env=environment) for command in commands]  # noqa: S603
    try:
        for child in children:
            child.wait()
    except KeyboardInterrupt:
        print("ending")
    finally:
        for child in children:
            child.terminate()


if __name__ == "__main__":
    main()
