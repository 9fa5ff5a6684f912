"""Formatters for log files: records that are made inside a run say which run that is.

[formatter_json]
class = pulse.logs.JsonFormatter

[formatter_plain]
class = pulse.logs.RunFormatter
format = %(asctime)s %(levelname)s %(name)s run=%(pulse_run)s %(message)s
"""

import json
import logging
from datetime import UTC, datetime
from typing import Final

from pulse.context import PULSE_CONTEXT

# What every record has; everything else, somebody has given it by `extra=`.
_ORDINARY: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
NONE: Final = "-"


class RunFormatter(logging.Formatter):
    """Like `logging.Formatter`, with `%(pulse_task)s` and `%(pulse_run)s`, which are `-` outside of runs."""

    def format(self, record: logging.LogRecord) -> str:
        """*record* as text."""
        task, run = _run_of(record)
        vars(record).update(pulse_task=task or NONE, pulse_run=run or NONE)
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, message, exception, and all `extra` facts."""

    def format(self, record: logging.LogRecord) -> str:
        """*record* as one line."""
        task, run = _run_of(record)
        facts = {key: value for key, value in vars(record).items() if key not in _ORDINARY}
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **facts,
            "pulse_task": task,
            "pulse_run": run,
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            document["stack"] = self.formatStack(record.stack_info)
        said = {key: value for key, value in document.items() if value is not None}
        return json.dumps(said, default=str, ensure_ascii=False)


def _run_of(record: logging.LogRecord) -> tuple[str | None, str | None]:
    """The task and the run that *record* belongs to: those that it names, or in which it was made."""
    task, run = getattr(record, "pulse_task", None), getattr(record, "pulse_run", None)
    if run:
        return task, run
    context = PULSE_CONTEXT.get()
    route = context.route if context else None
    if route is None or route.task is None:
        return task, None
    return route.task.task, route.task.id
