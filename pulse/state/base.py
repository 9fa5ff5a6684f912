"""The contracts of shared state; each is kept alike by memory and Redis.

Every method is safe to use from many threads, each with an event loop of its own, and in a
forked child. What is stored and what is returned are copies. Values must be such as
`pulse.codec` carries, in memory too: what works in development works in a fleet. All raise
`StoreUnavailableError` (a ConnectionError) in bounded time when the backend does not answer.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from numbers import Real
from typing import Any, Final

from pulse.clock import SystemClock
from pulse.state.types import SESSION_DATA, ConnectionInfo, EventMessage, UserSession, WidgetData

LEAST: Final = 0.001  # seconds that a session still has which was just found

ROLE_PERMISSIONS: Final = {
    "admin": frozenset({"read", "write", "admin"}),
    "editor": frozenset({"read", "write"}),
    "viewer": frozenset({"read"}),
}


class Sweepable:
    """A store that may hold what has expired."""

    async def sweep(self) -> int:
        """Free what has expired and is still held; how much that was.

        Expired records are never seen, swept or not: this only frees their memory at once.
        """
        return 0


class WidgetStore(Sweepable, ABC):
    """Widgets by their id; a widget ends its time to live after it was registered, if it has one."""

    @abstractmethod
    async def register(
        self,
        widget_id: str,
        html: str,
        token: str | None = None,
        owner_worker_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Keep a widget, in place of all that was kept under its id.

        Args:
            widget_id: Any text.
            html: Its content.
            token: What a viewer must present.
            owner_worker_id: The worker that has its callbacks.
            metadata: Title, kind, theme and so on.

        Raises:
            TypeError: *metadata* holds something that cannot be kept, or what is said to be
                text is none.
        """

    @abstractmethod
    async def get(self, widget_id: str) -> WidgetData | None:
        """The whole widget; None if there is none."""

    @abstractmethod
    async def get_html(self, widget_id: str) -> str | None:
        """Its content; None if there is no such widget."""

    @abstractmethod
    async def get_token(self, widget_id: str) -> str | None:
        """Its token; None if it has none, or there is no such widget."""

    @abstractmethod
    async def exists(self, widget_id: str) -> bool:
        """Whether there is such a widget."""

    @abstractmethod
    async def delete(self, widget_id: str) -> bool:
        """Forget a widget; whether there was one."""

    @abstractmethod
    async def list_active(self) -> list[str]:
        """The ids of all widgets."""

    @abstractmethod
    async def update_html(self, widget_id: str, html: str) -> bool:
        """Change the content of a widget, and nothing else; whether there is one.

        Raises:
            TypeError: *html* is no text.
        """

    @abstractmethod
    async def update_token(self, widget_id: str, token: str) -> bool:
        """Change the token of a widget, and nothing else; whether there is one.

        Raises:
            TypeError: *token* is no text; a widget without a token is registered so.
        """

    @abstractmethod
    async def count(self) -> int:
        """How many widgets there are."""


class EventBus(ABC):
    """Events in channels, to every subscriber of a channel, in the order of their publishing."""

    @abstractmethod
    async def publish(self, channel: str, event: EventMessage) -> None:
        """Give *event* to all who subscribe to *channel* now; nobody need.

        The object stays as it is; receivers see a timestamp and a message id if it has none.
        Never waits for a subscriber: one that does not keep up loses the oldest events.

        Args:
            channel: Any text, such as `widget:<id>` or `worker:<id>`.
            event: What happened.

        Raises:
            TypeError: *channel* is no text or *event* no event, its data hold something that cannot
                be sent, or one of its fields is of another type.
        """

    @abstractmethod
    def subscribe(self, channel: str) -> AsyncIterator[EventMessage]:
        """The events that are published to *channel* from now on; for `async for`, not awaited.

        Dropping the iterator, `aclose()` or cancelling who awaits it ends this subscription
        alone. One iterator is for one task.

        Raises:
            TypeError: *channel* is no text.
        """

    @abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """End the subscriptions of *channel* that were made on this object.

        Their iterators stop, after what they had already received. No subscription is no error.
        """


class ConnectionRouter(Sweepable, ABC):
    """Which worker holds the connection of a widget's viewer; forgotten without heartbeats, if it has a limit."""

    @abstractmethod
    async def register_connection(
        self,
        widget_id: str,
        worker_id: str,
        user_id: str | None = None,
        session_id: str | None = None,
    ) -> None:
        """Say that *worker_id* holds the connection of *widget_id*, and no other worker.

        Args:
            widget_id: The widget that is viewed.
            worker_id: The worker that holds the connection.
            user_id: Whose it is, if known.
            session_id: Of which user session, if known.

        Raises:
            TypeError: one of them is no text.
        """

    @abstractmethod
    async def get_connection_info(self, widget_id: str) -> ConnectionInfo | None:
        """All that is known about a connection; None if there is none."""

    @abstractmethod
    async def get_owner(self, widget_id: str) -> str | None:
        """The worker that holds the connection; None if none does."""

    @abstractmethod
    async def refresh_heartbeat(self, widget_id: str) -> bool:
        """Say that a connection lives; whether it is known."""

    @abstractmethod
    async def unregister_connection(self, widget_id: str) -> bool:
        """Forget a connection; whether it was known."""

    @abstractmethod
    async def list_worker_connections(self, worker_id: str) -> list[str]:
        """The ids of the widgets whose connections *worker_id* holds."""


class SessionStore(Sweepable, ABC):
    """User sessions: who somebody is, until when, and what they may do."""

    @abstractmethod
    async def create_session(
        self,
        session_id: str,
        user_id: str,
        roles: list[str] | None = None,
        ttl: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> UserSession:
        """Begin a session, in place of one with the same id.

        Args:
            session_id: Secret and unique.
            user_id: Whose it is.
            roles: What the user is.
            ttl: Seconds that it lasts; None for what the store was built with, or for ever.
            metadata: `permissions` may grant rights, `{"widget:w1": ["read"]}`; the rest is free.

        Raises:
            ValueError: *ttl* is not more than 0.
            TypeError: *metadata* holds something that cannot be kept, *roles* is no list of
                texts (a single text is none), an id is no text, or *ttl* no number.
        """

    @abstractmethod
    async def get_session(self, session_id: str) -> UserSession | None:
        """The session; None if there is none, or it has expired."""

    @abstractmethod
    async def validate_session(self, session_id: str) -> bool:
        """Whether there is such a session, and it has not expired."""

    @abstractmethod
    async def delete_session(self, session_id: str) -> bool:
        """End a session; whether there was one."""

    @abstractmethod
    async def refresh_session(self, session_id: str, extend_ttl: int | None = None) -> bool:
        """Let a session expire later, counted from now; whether there is such a session.

        Args:
            session_id: The session.
            extend_ttl: Seconds, for this once; None for as long as it was created for. A session
                that never expires stays so then.

        Raises:
            ValueError: *extend_ttl* is not more than 0.
            TypeError: *extend_ttl* is no number.
        """

    @abstractmethod
    async def list_user_sessions(self, user_id: str) -> list[UserSession]:
        """The sessions of *user_id* that have not expired, the oldest first."""

    async def keep_data(self, session_id: str, data: dict[str, Any], ttl: float | None = None) -> bool:
        """Keep *data* as what an application keeps in a session (`UserSession.data`); whether there is such a session.

        All else stays what it is, but for when a session without a user ends. The stores here do
        it in one step: a session that ends meanwhile is not brought back, and no change of its
        roles is undone. This default, for others, does it in two.

        Args:
            session_id: The session.
            data: Grants no rights.
            ttl: Seconds that a session without a user lasts from now on; None for as long as it
                was created for.

        Raises:
            TypeError: *data* holds something that cannot be kept, or *ttl* is no number.
            ValueError: *ttl* is not more than 0.
        """
        session = await self.get_session(session_id)
        if session is not None:
            await self._create_like(session, session_id, data, ttl)
        return session is not None

    async def change_data(
        self, session_id: str, change: Callable[[dict[str, Any]], dict[str, Any]], ttl: float | None = None
    ) -> bool:
        """Keep what *change* makes of what is kept; else as `keep_data`.

        The stores here do it in one step: of two changes at once neither is lost. This default,
        for others, does it in two.

        Args:
            session_id: The session.
            change: Called with the data, which it must not change; perhaps several times.
            ttl: As of `keep_data`.

        Raises:
            TypeError: the data hold something that cannot be kept, or *ttl* is no number.
            ValueError: *ttl* is not more than 0.
        """
        session = await self.get_session(session_id)
        return session is not None and await self.keep_data(session_id, change(session.data), ttl)

    async def move_session(self, session_id: str, new_id: str, data: dict[str, Any], ttl: float | None = None) -> bool:
        """Give a session another id, and keep *data* in it; whether there is such a session.

        All else stays what it is, as by `keep_data`. The stores here do it in one step. This
        default, for others, makes another session like it and ends the former.

        Args:
            session_id: The session; its id is worth nothing any more.
            new_id: Secret and unique.
            data: As of `keep_data`.
            ttl: Likewise.

        Raises:
            TypeError: *data* holds something that cannot be kept, *new_id* is no text, or *ttl* no number.
            ValueError: *ttl* is not more than 0.
        """
        session = await self.get_session(session_id)
        if session is not None:
            await self._create_like(session, new_id, data, ttl)
            await self.delete_session(session_id)
        return session is not None

    async def _create_like(
        self, session: UserSession, session_id: str, data: dict[str, Any], ttl: float | None
    ) -> None:
        if session.user_id:
            ttl = session.expires_at and max(LEAST, session.expires_at - SystemClock().time())
        metadata = {**session.metadata, SESSION_DATA: data}
        seconds: Any = ttl
        await self.create_session(session_id, session.user_id, session.roles, seconds, metadata)

    @abstractmethod
    async def check_permission(self, session_id: str, resource_type: str, resource_id: str, permission: str) -> bool:
        """Whether a session may do something to a resource: by a role, or by its metadata.

        Args:
            session_id: The session; an unknown one may do nothing.
            resource_type: `widget`, `user` and so on.
            resource_id: Which one.
            permission: `read`, `write`, `admin` and so on.
        """


def grants(metadata: dict[str, Any], resource_type: str, resource_id: str, permission: str) -> bool:
    """Whether `metadata["permissions"]` gives *permission* to the one resource."""
    resources = metadata.get("permissions")
    rights = resources.get(f"{resource_type}:{resource_id}") if isinstance(resources, dict) else None
    # In a text, "read" would also be found in "no-read".
    return isinstance(rights, list | tuple | set | frozenset) and permission in rights


def checked_ttl(ttl: float | None, name: str = "ttl") -> float | None:
    """*ttl*, which must be None or more than 0.

    Raises:
        TypeError: it is no number.
        ValueError: it is not more than 0.
    """
    if isinstance(ttl, bool) or not isinstance(ttl, Real | None):
        raise TypeError(f"{name} is of type {type(ttl).__name__}: want a number of seconds, or None")
    if ttl is not None and not 0 < ttl < float("inf"):
        raise ValueError(f"{name} = {ttl!r}: want more than 0 seconds, or None")
    return ttl


def check_texts(**texts: object) -> None:
    """Refuse by its name what is no text: one backend would keep it, another stumble or give text back.

    Raises:
        TypeError: one is not. Its value is not told, which may be secret.
    """
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} is of type {type(text).__name__}: want text")


def check_optional_texts(**texts: object) -> None:
    """The same, where None is for nothing.

    Raises:
        TypeError: one is neither text nor None.
    """
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{name} is of type {type(text).__name__}: want text, or None")


def checked_roles(roles: Iterable[str] | None) -> list[str]:
    """*roles* as a new list; none for None.

    Raises:
        TypeError: they are no list of texts. A single text would be a list of its letters.
    """
    given = [] if roles is None else _texts(roles)
    if given is None:
        raise TypeError(f"roles = {roles!r}: want a list of texts, such as ['viewer']")
    return given


def checked_permissions(role: str, permissions: Iterable[str]) -> set[str]:
    """*permissions* of *role* as a new set.

    Raises:
        TypeError: they are no set of texts, or *role* is no text.
    """
    check_texts(role=role)
    given = _texts(permissions)
    if given is None:
        raise TypeError(f"permissions = {permissions!r}: want a set of texts, such as {{'read'}}")
    return set(given)


def _texts(given: object) -> list[str] | None:
    """The texts of a collection; None if it is no such."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return None
    texts = list(given)
    return texts if all(isinstance(text, str) for text in texts) else None
