"""The words of Pulse: `Task`, `Config`, `Fire`, `Run` and what may be said of them.

All are frozen and validated once, at the door; inside the house they are trusted.
"""

from pulse.model.claim import Claim, Claimed, Limits, Span
from pulse.model.config import MOST_THREADS, WORKER_COUNT, Config, misfits
from pulse.model.fleet import Instance, Pause, Press
from pulse.model.run import FAILURES, QUEUE, Fire, Outcome, Progress, Run, Trigger, track_of
from pulse.model.task import DEFAULT_INTERVAL, SCHEDULES, TASK_NAME, YEAR, Task

__all__ = [
    "DEFAULT_INTERVAL",
    "FAILURES",
    "MOST_THREADS",
    "QUEUE",
    "SCHEDULES",
    "TASK_NAME",
    "WORKER_COUNT",
    "YEAR",
    "Claim",
    "Claimed",
    "Config",
    "Fire",
    "Instance",
    "Limits",
    "Outcome",
    "Pause",
    "Press",
    "Progress",
    "Run",
    "Span",
    "Task",
    "Trigger",
    "misfits",
    "track_of",
]
