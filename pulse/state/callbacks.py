"""What is called when something happens to a widget; in this process only, since functions cannot be sent."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pulse.clock import Clock, SystemClock
from pulse.state.lock import ProcessLock

CallbackFunc = Callable[[dict[str, Any], str, str], Any]
"""Is given the data of the event, the widget id and the event type."""

AsyncCallbackFunc = Callable[[dict[str, Any], str, str], Awaitable[Any]]

_log = logging.getLogger(__name__)


def _now() -> float:
    return SystemClock().time()


@dataclass
class CallbackRegistration:
    """A callback and what became of it.

    Attributes:
        widget_id: The widget that it belongs to.
        event_type: What it is called for.
        callback: A function, coroutine function, or what is called like one.
        is_async: Whether its result has to be awaited.
        created_at: When it was registered, a Unix timestamp.
        invoke_count: How often it succeeded.
        last_invoked: When it was last called, a Unix timestamp; None for never.
    """

    widget_id: str
    event_type: str
    callback: CallbackFunc | AsyncCallbackFunc
    is_async: bool = False
    created_at: float = field(default_factory=_now)
    invoke_count: int = 0
    last_invoked: float | None = None


class CallbackRegistry:
    """Callbacks by widget and event type; safe to use from many threads and event loops."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        """An empty registry."""
        self._callbacks: dict[str, dict[str, CallbackRegistration]] = {}
        self._lock = ProcessLock()
        self._time = (clock or SystemClock()).time

    async def register(self, widget_id: str, event_type: str, callback: CallbackFunc | AsyncCallbackFunc) -> None:
        """Let *callback* be called for an event, in place of another one.

        Args:
            widget_id: The widget.
            event_type: `click` and so on.
            callback: Called with data, widget id and event type; in a thread unless it is asynchronous.

        Raises:
            TypeError: it cannot be called.
        """
        if not callable(callback):
            raise TypeError(f"{callback!r} cannot be called back")
        registration = CallbackRegistration(
            widget_id, event_type, callback, is_async=is_async(callback), created_at=self._time()
        )
        with self._lock:
            self._callbacks.setdefault(widget_id, {})[event_type] = registration

    async def get(self, widget_id: str, event_type: str) -> CallbackRegistration | None:
        """The registration, whose counts go on; None if there is none."""
        with self._lock:
            return self._callbacks.get(widget_id, {}).get(event_type)

    async def has_widget(self, widget_id: str) -> bool:
        """Whether a widget has callbacks."""
        with self._lock:
            return widget_id in self._callbacks

    async def has_callback(self, widget_id: str, event_type: str) -> bool:
        """Whether a widget has a callback for an event."""
        return await self.get(widget_id, event_type) is not None

    async def invoke(self, widget_id: str, event_type: str, data: dict[str, Any]) -> tuple[bool, Any]:
        """Call what is registered: whether it succeeded, and what it returned.

        A missing or failing callback gives `(False, None)`; the failure is logged, whatever a
        synchronous callback raises. Cancelling who calls this is no failure.
        """
        registration = await self.get(widget_id, event_type)
        if registration is None:
            return False, None
        registration.last_invoked = self._time()
        call = partial(registration.callback, data, widget_id, event_type)
        result, error = await (_awaited(call) if registration.is_async else _in_thread(call))
        if error is not None:
            _log.error(
                "the callback of widget %s for %s failed",
                widget_id,
                event_type,
                exc_info=error,
                extra={"pulse_event": "callback_failed"},
            )
            return False, None
        with self._lock:
            registration.invoke_count += 1
        return True, result

    async def unregister(self, widget_id: str, event_type: str) -> bool:
        """Forget a callback; whether there was one."""
        with self._lock:
            events = self._callbacks.get(widget_id, {})
            found = events.pop(event_type, None)
            if found is not None and not events:
                del self._callbacks[widget_id]
            return found is not None

    async def unregister_widget(self, widget_id: str) -> int:
        """Forget all callbacks of a widget; how many there were."""
        with self._lock:
            return len(self._callbacks.pop(widget_id, {}))

    async def list_widget_events(self, widget_id: str) -> list[str]:
        """The event types for which a widget has callbacks."""
        with self._lock:
            return list(self._callbacks.get(widget_id, {}))

    async def list_widgets(self) -> list[str]:
        """The ids of the widgets that have callbacks."""
        with self._lock:
            return list(self._callbacks)

    async def get_stats(self) -> dict[str, Any]:
        """`widget_count`, `total_callbacks`, and `widgets`: the event types of each."""
        with self._lock:
            widgets = {widget_id: list(events) for widget_id, events in self._callbacks.items()}
        return {
            "widget_count": len(widgets),
            "total_callbacks": sum(map(len, widgets.values())),
            "widgets": widgets,
        }


def is_async(callback: Callable[..., object]) -> bool:
    """Whether calling it gives a coroutine: also a partial, or an object with `async def __call__`."""
    while isinstance(callback, partial):
        callback = callback.func
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


async def _in_thread(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a callback returned, and what it raised; a slow one does not stop the loop, and the context goes with it."""
    result, error = await asyncio.to_thread(_tried, call)
    return await _awaited(lambda: result) if inspect.isawaitable(result) else (result, error)


async def _awaited(call: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    """The same, of one that is awaited here."""
    try:
        return await call(), None
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # who calls was cancelled, and not only what the callback waited for
        return None, error
    except Exception as error:  # noqa: BLE001 - the callback's own failure, which must not end whoever serves it
        return None, error


def _tried(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return call(), None
    # A future takes no StopIteration, and who waits would wait for ever; SystemExit would end the
    # loop that waits. The thread runs nothing else, so that both can only be the callback's own.
    except BaseException as error:  # noqa: BLE001
        return None, error


_lock = ProcessLock()
_registry: CallbackRegistry | None = None


def get_callback_registry() -> CallbackRegistry:
    """The registry of this process; safe to call from any thread."""
    global _registry  # noqa: PLW0603 - one a process, as its users expect
    with _lock:
        if _registry is None:
            _registry = CallbackRegistry()
        return _registry


def reset_callback_registry() -> None:
    """Let the next call of `get_callback_registry` make a new one; for tests."""
    global _registry  # noqa: PLW0603 - see above
    with _lock:
        _registry = None
