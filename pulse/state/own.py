"""What a process remembers of the widgets that it has registered: for as long as their store does."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pulse.state.lock import ProcessLock
from pulse.state.shelf import Shelf


@dataclass(slots=True)
class _Widget:
    html: str
    metadata: dict[str, Any]
    token: str | None


class OwnWidgets:
    """Widgets by their id; safe to use from any thread.

    They end as in their store: a process that only ever registers new ones, and leaves it to
    their time to live to remove them, would otherwise keep the html of all.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Nothing is remembered yet; *now* gives the time in seconds."""
        self._now = now
        self._lock = ProcessLock()
        self._gone: dict[str, None] = {}
        self._shelf: Shelf[_Widget] = Shelf(now, on_drop=self._drop)

    def put(
        self, widget_id: str, html: str, token: str | None, metadata: dict[str, Any] | None, ttl: float | None
    ) -> None:
        """Remember a widget for *ttl* seconds, or for ever, in place of one with its id."""
        widget = _Widget(html, deepcopy(metadata or {}), token)
        with self._lock:
            self._shelf.put(widget_id, widget, None if ttl is None else self._now() + ttl)
            self._gone.pop(widget_id, None)

    def update(self, widget_id: str, html: str) -> None:
        """Change the content of a widget, if it is remembered."""
        with self._lock:
            widget = self._shelf.get(widget_id)
            if widget is not None:
                widget.html = html

    def contents(self) -> dict[str, dict[str, Any]]:
        """All of them, each a dict with `html` and `metadata`; a copy."""
        with self._lock:
            return {
                widget_id: {"html": widget.html, "metadata": deepcopy(widget.metadata)}
                for widget_id, widget in self._shelf.items()
            }

    def tokens(self) -> dict[str, str]:
        """The tokens of those that have one; a copy."""
        with self._lock:
            return {widget_id: widget.token for widget_id, widget in self._shelf.items() if widget.token is not None}

    def pop(self, widget_id: str) -> None:
        """Forget a widget, which is not told of by `gone`; no error if there is none."""
        with self._lock:
            self._shelf.pop(widget_id)
            self._gone.pop(widget_id, None)

    def gone(self) -> list[str]:
        """The ids of those that have ended by themselves since the last call, and were not put again."""
        with self._lock:
            gone, self._gone = self._gone, {}
            return list(gone)

    def _drop(self, widget_id: str, _widget: _Widget) -> None:
        self._gone[widget_id] = None
