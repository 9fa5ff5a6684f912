"""Pulse: Paste-configurable scheduling WSGI middleware.

The names below are loaded when they are first used, so that `import pulse` starts and
imports nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "1.0.0.dev0"

if TYPE_CHECKING:
    from pulse.mark import internal_only as internal_only
    from pulse.mark import is_internal as is_internal
    from pulse.middleware import PulseMiddleware as PulseMiddleware
    from pulse.model import Run as Run
    from pulse.model import Task as Task

_HOMES = {
    "PulseMiddleware": "pulse.middleware",
    "Run": "pulse.model",
    "Task": "pulse.model",
    "internal_only": "pulse.mark",
    "is_internal": "pulse.mark",
}

__all__ = ["PulseMiddleware", "Run", "Task", "internal_only", "is_internal"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pulse' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
