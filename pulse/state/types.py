"""What shared state is made of; instants are Unix timestamps, as the wire has them."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

SESSION_DATA: Final = "pulse.data"
"""The metadata key of what an application keeps in a session: apart from all that grants rights."""


@dataclass
class WidgetData:
    """A live piece of a page.

    Attributes:
        widget_id: Unique.
        html: Its content.
        token: What a viewer must present; None if nothing.
        created_at: When it was registered.
        owner_worker_id: The worker that has its callbacks.
        metadata: Title, kind, theme and so on.
    """

    widget_id: str
    html: str
    token: str | None = None
    created_at: float = 0.0
    owner_worker_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class EventMessage:
    """Something that happened, on its way between workers.

    Attributes:
        event_type: `click`, `run.finished` and so on.
        widget_id: The widget that it is about.
        data: What the codec of Pulse can carry.
        source_worker_id: Who says it.
        target_worker_id: Whom it is for; None for everybody.
        timestamp: When it happened; 0 is filled in when it is published.
        message_id: Unique; an empty one is filled in when it is published.
    """

    event_type: str
    widget_id: str
    data: dict[str, Any]
    source_worker_id: str
    target_worker_id: str | None = None
    timestamp: float = 0.0
    message_id: str = ""


@dataclass
class ConnectionInfo:
    """Which worker holds a viewer's connection.

    Attributes:
        widget_id: The widget that is viewed.
        worker_id: The worker that holds the connection.
        connected_at: When it was registered.
        last_heartbeat: When it was last known to live.
        user_id: Whose it is, if known.
        session_id: Of which user session, if known.
    """

    widget_id: str
    worker_id: str
    connected_at: float = 0.0
    last_heartbeat: float = 0.0
    user_id: str | None = None
    session_id: str | None = None


@dataclass
class UserSession:
    """Who somebody is, what they may do, and until when.

    Attributes:
        session_id: Unique and secret.
        user_id: Whose it is.
        roles: What the user is; see `SessionStore.check_permission`.
        created_at: When it began.
        expires_at: When it ends; None for never.
        metadata: `permissions` grants rights to single resources; the rest is free.
    """

    session_id: str
    user_id: str
    roles: list[str] = field(default_factory=list)
    created_at: float = 0.0
    expires_at: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def sid(self) -> str:
        """The id, as `pulse.SessionStore` calls it."""
        return self.session_id

    @property
    def data(self) -> dict[str, Any]:
        """What the application keeps in the session; nothing in it grants rights."""
        data: dict[str, Any] = self.metadata.setdefault(SESSION_DATA, {})
        return data


class StateBackend(str, Enum):  # noqa: UP042 - its text is that of a plain mixed-in Enum, as its users expect
    """Where shared state is kept."""

    MEMORY = "memory"
    REDIS = "redis"
