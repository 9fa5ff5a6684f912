"""The current loop of a thread that calls plain functions: to whom the futures belong which they make.

`asyncio.Future()` and `asyncio.get_event_loop()` ask for it, and fail in a thread that has none.
"""

import asyncio
import sys
from typing import Any

from pulse.loop import running_loop


class CurrentLoop:
    """Makes a loop the current one of this thread, inside a `with`; behind it, the one before is current again.

    What is called inside must not run it: another thread does.
    """

    __slots__ = ("_before", "_is_set", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._before: tuple[asyncio.AbstractEventLoop | None, bool] = None, True
        self._is_set = False

    def __enter__(self) -> None:
        # Where a loop runs already nobody gets another one, and it needs no restoring.
        if running_loop() is None:
            self._before = _current()
            asyncio.set_event_loop(self._loop)
            self._is_set = True

    def __exit__(self, *error: object) -> None:
        # If it is another one the application has set its own, as many do in their first request.
        if self._is_set and _current()[0] is self._loop:
            _restore(*self._before)


def _current() -> tuple[asyncio.AbstractEventLoop | None, bool]:
    """The current loop, and whether one was ever set; `get_event_loop` might make one, which nobody would close."""
    if sys.version_info >= (3, 14):
        try:
            return asyncio.get_event_loop(), True
        except RuntimeError:
            return None, True
    known = _known()
    return getattr(known, "_loop", None), getattr(known, "_set_called", True)


def _restore(loop: asyncio.AbstractEventLoop | None, was_set: bool) -> None:  # noqa: FBT001 - see `_current`
    asyncio.set_event_loop(loop)
    if not was_set:
        # Or a main thread would never be given one any more; there is no public way to say so.
        _known()._set_called = False  # noqa: SLF001 - see above


def _known() -> Any:
    """What the policy of asyncio knows of this thread; None for a policy of somebody else's."""
    return getattr(asyncio.get_event_loop_policy(), "_local", None)
