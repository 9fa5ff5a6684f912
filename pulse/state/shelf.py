"""Records in memory that are freed when they expire, whether anybody asks for them or not."""

import heapq
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

V = TypeVar("V")

LIMIT: Final = 100_000  # records; what nobody removes must not take all memory

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Place(Generic[V]):
    value: V
    expires: float | None


class Shelf(Generic[V]):
    """Values by key, each with the time of its end; at most *limit* of them, the newest.

    Each step first frees what has expired by then, in the order of expiry. It has no lock:
    its owner must hold one.
    """

    def __init__(
        self, now: Callable[[], float], *, limit: int = LIMIT, on_drop: Callable[[str, V], object] | None = None
    ) -> None:
        """Wire an empty shelf.

        Args:
            now: The time, in the unit of what `put` is given.
            limit: How many values are kept; a further one takes the place of the oldest.
            on_drop: Told of each key and value that is here no more.
        """
        self._now = now
        self._limit = limit
        self._on_drop = on_drop
        self._places: dict[str, _Place[V]] = {}
        self._ends: list[tuple[float, str]] = []
        self._has_warned = False

    def put(self, key: str, value: V, expires: float | None = None) -> None:
        """Keep *value*, in place of what is kept under *key*, which is dropped."""
        self.pop(key)
        if len(self._places) >= self._limit:
            self._make_room()
        self._places[key] = _Place(value, expires)
        self._note_end(key, expires)

    def get(self, key: str) -> V | None:
        """The value, which may be changed in place; None if there is none."""
        self.sweep()
        place = self._places.get(key)
        return None if place is None else place.value

    def expire(self, key: str, expires: float | None) -> None:
        """Set when the value that is kept under *key* ends."""
        self._places[key].expires = expires
        self._note_end(key, expires)

    def pop(self, key: str) -> V | None:
        """Drop a value and return it; None if there is none."""
        self.sweep()
        return self._drop(key)

    def sweep(self) -> int:
        """Free what has expired; how much that was."""
        if not self._ends:
            return 0
        now, before = self._now(), len(self._places)
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            place = self._places.get(key)
            # Notes of former ends are left in the heap; only the value knows.
            if place is not None and place.expires is not None and place.expires <= now:
                self._drop(key)
        return before - len(self._places)

    def clear(self) -> None:
        """Drop everything."""
        for key in list(self._places):
            self._drop(key)
        self._ends.clear()

    def __len__(self) -> int:
        self.sweep()
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order of their putting."""
        self.sweep()
        return iter(self._places)

    def items(self) -> list[tuple[str, V]]:
        """Keys and values, in the same order."""
        self.sweep()
        return [(key, place.value) for key, place in self._places.items()]

    def __contains__(self, key: object) -> bool:
        self.sweep()
        return key in self._places

    def _drop(self, key: str) -> V | None:
        place = self._places.pop(key, None)
        if place is None:
            return None
        if self._on_drop is not None:
            self._on_drop(key, place.value)
        return place.value

    def _note_end(self, key: str, expires: float | None) -> None:
        if expires is None:
            return
        heapq.heappush(self._ends, (expires, key))
        # A value that is put off again and again leaves a note each time.
        if len(self._ends) > 2 * len(self._places) + 64:
            self._ends = [(place.expires, key) for key, place in self._places.items() if place.expires is not None]
            heapq.heapify(self._ends)

    def _make_room(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "more than %d records in memory: the oldest make room",
                self._limit,
                extra={"pulse_event": "state_full"},
            )
        self._drop(next(iter(self._places)))
