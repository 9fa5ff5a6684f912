"""What both event buses share: how an event travels, and who listens to what."""

import logging
import os
import uuid
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from typing import Final, Generic, TypeVar

from pulse.clock import Clock
from pulse.codec import dumps, loads
from pulse.state.base import check_optional_texts, check_texts
from pulse.state.lock import ProcessLock
from pulse.state.types import EventMessage

BACKLOG: Final = 16_384  # events that wait for a slow subscriber, at most
BACKLOG_SIZE: Final = 256 * 2**20  # characters that they may be; one event is always kept

_log = logging.getLogger(__name__)


def encode(event: EventMessage, clock: Clock) -> str:
    """*event* as text, with a time and an id if it has none.

    Raises:
        TypeError: it is no event, its data hold something that cannot be sent, or one of its fields is of another type.
    """
    if not isinstance(event, EventMessage):
        raise TypeError(f"event is of type {type(event).__name__}: want an EventMessage")
    whole = replace(
        event,
        timestamp=event.timestamp or clock.time(),
        message_id=event.message_id or uuid.uuid4().hex,
    )
    # Here, where the mistake was made: subscribers could only stumble over it, or pass it over.
    _check(whole)
    # Not `astuple`: it would make tuples of dataclasses in the data, and fail at a defaultdict.
    return dumps([getattr(whole, one.name) for one in fields(EventMessage)])


def decode(text: str | bytes) -> EventMessage:
    """The event of *text*, a new object each time.

    Raises:
        ValueError: *text* was not written by `encode`.
    """
    parts = loads(text)
    if not isinstance(parts, list) or len(parts) != 7:
        raise ValueError(f"{text!r:.80} is no event")
    event = EventMessage(*parts)
    try:
        _check(event)
    except TypeError as error:
        raise ValueError(f"{text!r:.80} is no event: {error}") from error
    return event


def _check(event: EventMessage) -> None:
    """Refuse what subscribers would not expect.

    Raises:
        TypeError: a field is of another type than it is declared to be.
    """
    check_texts(
        event_type=event.event_type,
        widget_id=event.widget_id,
        source_worker_id=event.source_worker_id,
        message_id=event.message_id,
    )
    check_optional_texts(target_worker_id=event.target_worker_id)
    if not isinstance(event.data, dict):
        raise TypeError(f"data is of type {type(event.data).__name__}: want a dict")
    if not isinstance(event.timestamp, int | float):
        raise TypeError(f"timestamp is of type {type(event.timestamp).__name__}: want a number")


class Subscription(AsyncIterator[EventMessage]):
    """The events of one channel from its making on; dropping it ends it.

    Attributes:
        missed: How many events it did not get, because it did not keep up.
    """

    def __init__(self, channel: str) -> None:
        """A subscription of *channel* that has missed nothing.

        Raises:
            TypeError: *channel* is no text.
        """
        check_texts(channel=channel)
        self.channel = channel
        self.missed = 0

    @abstractmethod
    async def ready(self) -> None:
        """Return when what is published from now on, by whomever, will be received."""

    @abstractmethod
    def end(self) -> None:
        """Let the iteration stop after what was received already; from any thread."""

    @abstractmethod
    async def aclose(self) -> None:
        """End it at once; idempotent."""

    def _miss(self, count: int) -> None:
        if not self.missed:
            _log.warning(
                "a subscriber of %s does not keep up and misses events; further ones are missed in silence",
                self.channel,
                extra={"pulse_event": "events_missed"},
            )
        self.missed += count


S = TypeVar("S", bound=Subscription)


class Listeners(Generic[S]):
    """The subscriptions of one bus by their channel, until nobody uses them any more.

    They are held weakly: an iterator that a `break` has left behind is not told of it.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._pid = os.getpid()
        self._channels: dict[str, list[weakref.ref[S]]] = {}
        self._added = 0  # since all were last looked through
        self._crowd = 64

    def add(self, subscription: S) -> None:
        """Count *subscription* among those of its channel."""
        with self._lock:
            self._forget_parent()
            self._channels.setdefault(subscription.channel, []).append(weakref.ref(subscription))
            self._added += 1
            if self._added > self._crowd:
                # Where nobody publishes, whoever has come and gone would stay for ever.
                for channel in list(self._channels):
                    self._living(channel)
                self._added, self._crowd = 0, sum(map(len, self._channels.values())) + 64

    def of(self, channel: str) -> list[S]:
        """The subscriptions of *channel*."""
        with self._lock:
            self._forget_parent()
            return self._living(channel)

    def take(self, channel: str) -> list[S]:
        """The same, which are not counted from here on."""
        with self._lock:
            self._forget_parent()
            found = self._living(channel)
            self._channels.pop(channel, None)
            return found

    def remove(self, subscription: S) -> None:
        """Count *subscription* no more."""
        with self._lock:
            references = self._channels.get(subscription.channel, [])
            references[:] = [one for one in references if one() is not subscription]
            self._living(subscription.channel)

    def _living(self, channel: str) -> list[S]:
        references = self._channels.get(channel)
        if references is None:
            return []
        found = [one for reference in references if (one := reference()) is not None]
        if not found:
            del self._channels[channel]
        elif len(found) < len(references):
            references[:] = [weakref.ref(one) for one in found]
        return found

    def _forget_parent(self) -> None:
        """In a forked child: its parent's subscribers are waiting over there."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._channels.clear()
