"""The internal request of a task, as the WSGI environ that its endpoint sees (PEP 3333)."""

import io
import re
from collections.abc import Mapping
from datetime import datetime
from threading import Event
from typing import Final, TextIO
from urllib.parse import quote, unquote_to_bytes

from pulse import __version__
from pulse.gateway import Environ
from pulse.model import Config, Run, Task

USER_AGENT: Final = f"Pulse/{__version__}"
PORTS: Final = {"http": "80", "https": "443"}

_ADDRESS: Final = re.compile(r"(?P<name>.+):(?P<port>[0-9]+)")
_QUERY: Final = "%/:?@!$&'()*+,;=~-._[]"  # what stands in a query as it is (RFC 3986, 3.4), and what is encoded already


class InternalRequest:
    """The request of one task; `environ` gives a fresh environ for each run.

    What is the same for all runs is worked out once. Safe to use from any thread.
    """

    def __init__(self, task: Task, config: Config) -> None:
        """*task* with its whole path, as `pulse.config` places it."""
        self._task = task
        self._path = unquote_to_bytes(task.path).decode("latin-1")
        self._interval = task.interval.total_seconds() if task.interval else None
        self._fixed = self._fixed_environ(config)

    def environ(self, run: Run, *, deadline: datetime | None, errors: TextIO, cancelled: Event) -> Environ:
        """What the endpoint sees of *run*: it may change or clear it, nobody else looks again.

        Args:
            run: The claimed run.
            deadline: When the run will be given up; None for never.
            errors: Receives what the endpoint writes to `wsgi.errors`.
            cancelled: Set when the run is asked to stop.
        """
        due = run.due.isoformat()
        return self._fixed | {
            "wsgi.input": io.BytesIO(self._task.body),
            "wsgi.errors": errors,
            "HTTP_X_PULSE_RUN": run.id,
            "HTTP_X_PULSE_DUE": due,
            "HTTP_X_PULSE_ATTEMPT": str(run.attempt),
            "HTTP_X_PULSE_TRIGGER": run.trigger.value,
            # W3C trace context: the run is the trace, so its log lines are found by its id.
            "HTTP_TRACEPARENT": f"00-{run.id}-{run.id[16:]}-01",
            "pulse.info": self._info(run, deadline),
            "pulse.cancelled": cancelled,
        }

    def _info(self, run: Run, deadline: datetime | None) -> Mapping[str, object]:
        return {
            "context": self._path,  # 2009's name for the path
            "interval": self._interval,
            "task": run.task,
            "action": self._task.action,
            "run_id": run.id,
            "due": run.due,
            "attempt": run.attempt,
            "trigger": run.trigger.value,
            "deadline": deadline,
        }

    def _fixed_environ(self, config: Config) -> Environ:
        task = self._task
        address = _ADDRESS.fullmatch(config.host)
        name, port = (address["name"], address["port"]) if address else (config.host, None)
        environ: Environ = {
            "REQUEST_METHOD": task.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": self._path,
            "QUERY_STRING": quote(task.query, safe=_QUERY),
            "SERVER_NAME": name,
            "SERVER_PORT": port or PORTS[config.scheme],
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": USER_AGENT,
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": config.host,
            "HTTP_USER_AGENT": USER_AGENT,
            "HTTP_X_PULSE_TASK": task.name,
            "CONTENT_LENGTH": str(len(task.body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": config.scheme,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        if task.content_type:
            environ["CONTENT_TYPE"] = task.content_type
        environ.update({f"HTTP_{name.upper().replace('-', '_')}": text for name, text in task.headers})
        environ.update(task.environ)
        return environ
