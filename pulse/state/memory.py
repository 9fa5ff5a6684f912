"""Shared state in the memory of one process: for development, tests and single-process servers."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from pulse.clock import Clock, SystemClock
from pulse.codec import dumps, loads
from pulse.state.base import (
    ROLE_PERMISSIONS,
    ConnectionRouter,
    SessionStore,
    WidgetStore,
    check_optional_texts,
    check_texts,
    checked_permissions,
    checked_roles,
    checked_ttl,
    grants,
)
from pulse.state.inprocess import MemoryEventBus
from pulse.state.lock import ProcessLock
from pulse.state.shelf import LIMIT, Shelf
from pulse.state.types import SESSION_DATA, ConnectionInfo, UserSession, WidgetData

__all__ = [
    "MemoryConnectionRouter",
    "MemoryEventBus",
    "MemorySessionStore",
    "MemoryWidgetStore",
    "create_memory_stores",
]


class MemoryWidgetStore(WidgetStore):
    """A `WidgetStore` of this process, of at most *limit* widgets."""

    def __init__(self, widget_ttl: float | None = None, *, limit: int = LIMIT, clock: Clock | None = None) -> None:
        """An empty store.

        Args:
            widget_ttl: Seconds until a widget is forgotten; None for never.
            limit: A further widget takes the place of the oldest.
            clock: For tests.

        Raises:
            ValueError: *widget_ttl* is not more than 0.
            TypeError: *widget_ttl* is no number.
        """
        self._ttl = checked_ttl(widget_ttl, "widget_ttl")
        self._now = (clock or SystemClock()).time
        self._lock = ProcessLock()
        self._widgets: Shelf[WidgetData] = Shelf(self._now, limit=limit)

    async def register(
        self,
        widget_id: str,
        html: str,
        token: str | None = None,
        owner_worker_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        check_texts(widget_id=widget_id, html=html)
        check_optional_texts(token=token, owner_worker_id=owner_worker_id)
        now = self._now()
        widget = WidgetData(widget_id, html, token, now, owner_worker_id, _kept(metadata or {}))
        with self._lock:
            self._widgets.put(widget_id, widget, _end(now, self._ttl))

    async def get(self, widget_id: str) -> WidgetData | None:
        with self._lock:
            return deepcopy(self._widgets.get(widget_id))

    async def get_html(self, widget_id: str) -> str | None:
        with self._lock:
            widget = self._widgets.get(widget_id)
            return None if widget is None else widget.html

    async def get_token(self, widget_id: str) -> str | None:
        with self._lock:
            widget = self._widgets.get(widget_id)
            return None if widget is None else widget.token

    async def exists(self, widget_id: str) -> bool:
        with self._lock:
            return widget_id in self._widgets

    async def delete(self, widget_id: str) -> bool:
        with self._lock:
            return self._widgets.pop(widget_id) is not None

    async def list_active(self) -> list[str]:
        with self._lock:
            return list(self._widgets)

    async def update_html(self, widget_id: str, html: str) -> bool:
        check_texts(html=html)
        return self._update(widget_id, "html", html)

    async def update_token(self, widget_id: str, token: str) -> bool:
        check_texts(token=token)
        return self._update(widget_id, "token", token)

    async def count(self) -> int:
        with self._lock:
            return len(self._widgets)

    async def sweep(self) -> int:
        with self._lock:
            return self._widgets.sweep()

    def _update(self, widget_id: str, name: str, value: str) -> bool:
        with self._lock:
            widget = self._widgets.get(widget_id)
            if widget is not None:
                setattr(widget, name, value)
            return widget is not None


class MemoryConnectionRouter(ConnectionRouter):
    """A `ConnectionRouter` of one process."""

    def __init__(self, connection_ttl: float | None = None, *, limit: int = LIMIT, clock: Clock | None = None) -> None:
        """A router that knows no connection.

        Args:
            connection_ttl: Seconds without a heartbeat until a connection is forgotten; None for never.
            limit: A further connection takes the place of the oldest.
            clock: For tests.

        Raises:
            ValueError: *connection_ttl* is not more than 0.
            TypeError: *connection_ttl* is no number.
        """
        self._ttl = checked_ttl(connection_ttl, "connection_ttl")
        self._now = (clock or SystemClock()).time
        self._lock = ProcessLock()
        self._worker_connections: dict[str, dict[str, None]] = {}
        self._connections: Shelf[ConnectionInfo] = Shelf(self._now, limit=limit, on_drop=self._drop)

    async def register_connection(
        self,
        widget_id: str,
        worker_id: str,
        user_id: str | None = None,
        session_id: str | None = None,
    ) -> None:
        check_texts(widget_id=widget_id, worker_id=worker_id)
        check_optional_texts(user_id=user_id, session_id=session_id)
        now = self._now()
        with self._lock:
            connection = ConnectionInfo(widget_id, worker_id, now, now, user_id, session_id)
            self._connections.put(widget_id, connection, _end(now, self._ttl))
            self._worker_connections.setdefault(worker_id, {})[widget_id] = None

    async def get_connection_info(self, widget_id: str) -> ConnectionInfo | None:
        with self._lock:
            connection = self._connections.get(widget_id)
            return None if connection is None else replace(connection)

    async def get_owner(self, widget_id: str) -> str | None:
        with self._lock:
            connection = self._connections.get(widget_id)
            return None if connection is None else connection.worker_id

    async def refresh_heartbeat(self, widget_id: str) -> bool:
        now = self._now()
        with self._lock:
            connection = self._connections.get(widget_id)
            if connection is not None:
                connection.last_heartbeat = now
                self._connections.expire(widget_id, _end(now, self._ttl))
            return connection is not None

    async def unregister_connection(self, widget_id: str) -> bool:
        with self._lock:
            return self._connections.pop(widget_id) is not None

    async def list_worker_connections(self, worker_id: str) -> list[str]:
        with self._lock:
            self._connections.sweep()
            return list(self._worker_connections.get(worker_id, ()))

    async def sweep(self) -> int:
        with self._lock:
            return self._connections.sweep()

    def _drop(self, widget_id: str, connection: ConnectionInfo) -> None:
        _unlist(self._worker_connections, connection.worker_id, widget_id)


@dataclass(slots=True)
class _Kept:
    """A session, and how long it was created for."""

    session: UserSession
    ttl: float | None


class MemorySessionStore(SessionStore):
    """A `SessionStore` of one process, of at most *limit* sessions."""

    def __init__(self, session_ttl: float | None = None, *, limit: int = LIMIT, clock: Clock | None = None) -> None:
        """An empty store.

        Args:
            session_ttl: Seconds that a session lasts that says nothing itself; None for ever.
            limit: A further session takes the place of the oldest.
            clock: For tests.

        Raises:
            ValueError: *session_ttl* is not more than 0.
            TypeError: *session_ttl* is no number.
        """
        self._ttl = checked_ttl(session_ttl, "session_ttl")
        self._now = (clock or SystemClock()).time
        self._lock = ProcessLock()
        self._role_permissions = {role: set(permissions) for role, permissions in ROLE_PERMISSIONS.items()}
        self._user_sessions: dict[str, dict[str, None]] = {}
        self._sessions: Shelf[_Kept] = Shelf(self._now, limit=limit, on_drop=self._drop)

    async def create_session(
        self,
        session_id: str,
        user_id: str,
        roles: list[str] | None = None,
        ttl: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> UserSession:
        check_texts(session_id=session_id, user_id=user_id)
        span = self._ttl if checked_ttl(ttl) is None else ttl
        now = self._now()
        session = UserSession(session_id, user_id, checked_roles(roles), now, _end(now, span), _kept(metadata or {}))
        with self._lock:
            self._put(_Kept(session, span))
            return deepcopy(session)

    async def get_session(self, session_id: str) -> UserSession | None:
        with self._lock:
            kept = self._sessions.get(session_id)
            return None if kept is None else deepcopy(kept.session)

    async def validate_session(self, session_id: str) -> bool:
        with self._lock:
            return session_id in self._sessions

    async def delete_session(self, session_id: str) -> bool:
        with self._lock:
            return self._sessions.pop(session_id) is not None

    async def refresh_session(self, session_id: str, extend_ttl: int | None = None) -> bool:
        checked_ttl(extend_ttl, "extend_ttl")
        with self._lock:
            kept = self._sessions.get(session_id)
            if kept is None:
                return False
            span = kept.ttl if extend_ttl is None else extend_ttl
            if span is not None:
                kept.session.expires_at = self._now() + span
                self._sessions.expire(session_id, kept.session.expires_at)
            return True

    async def list_user_sessions(self, user_id: str) -> list[UserSession]:
        with self._lock:
            self._sessions.sweep()
            found = [self._sessions.get(session_id) for session_id in self._user_sessions.get(user_id, ())]
            sessions = [deepcopy(kept.session) for kept in found if kept is not None]
        return sorted(sessions, key=lambda session: session.created_at)

    async def keep_data(self, session_id: str, data: dict[str, Any], ttl: float | None = None) -> bool:
        return await self.change_data(session_id, lambda _before: data, ttl)

    async def change_data(
        self, session_id: str, change: Callable[[dict[str, Any]], dict[str, Any]], ttl: float | None = None
    ) -> bool:
        checked_ttl(ttl)
        with self._lock:
            kept = self._sessions.get(session_id)
            if kept is None:
                return False
            data = _kept(change(kept.session.metadata.get(SESSION_DATA) or {}))
            self._keep_data(kept, data, ttl)
            if not kept.session.user_id:
                # Put anew: of those without a user the one that has rested longest makes room.
                self._put(kept)
            return True

    async def move_session(self, session_id: str, new_id: str, data: dict[str, Any], ttl: float | None = None) -> bool:
        check_texts(new_id=new_id)
        checked_ttl(ttl)
        own = _kept(data)
        with self._lock:
            kept = self._sessions.pop(session_id)
            if kept is None:
                return False
            kept.session.session_id = new_id
            self._keep_data(kept, own, ttl)
            self._put(kept)
            return True

    async def check_permission(self, session_id: str, resource_type: str, resource_id: str, permission: str) -> bool:
        with self._lock:
            kept = self._sessions.get(session_id)
            if kept is None:
                return False
            if any(permission in self._role_permissions.get(role, ()) for role in kept.session.roles):
                return True
            return grants(kept.session.metadata, resource_type, resource_id, permission)

    def set_role_permissions(self, role: str, permissions: set[str]) -> None:
        """Say what a role may do, from now on; in place of what it might before.

        Raises:
            TypeError: *permissions* is no set of texts, or *role* is no text.
        """
        given = checked_permissions(role, permissions)
        with self._lock:
            self._role_permissions[role] = given

    async def sweep(self) -> int:
        with self._lock:
            return self._sessions.sweep()

    def _keep_data(self, kept: _Kept, data: dict[str, Any], ttl: float | None) -> None:
        session = kept.session
        session.metadata[SESSION_DATA] = data
        if not session.user_id:
            kept.ttl = kept.ttl if ttl is None else ttl
            session.expires_at = _end(self._now(), kept.ttl)

    def _put(self, kept: _Kept) -> None:
        session = kept.session
        self._sessions.put(session.session_id, kept, session.expires_at)
        self._user_sessions.setdefault(session.user_id, {})[session.session_id] = None

    def _drop(self, session_id: str, kept: _Kept) -> None:
        _unlist(self._user_sessions, kept.session.user_id, session_id)


def create_memory_stores(
    *, widget_ttl: float | None = None, connection_ttl: float | None = None, session_ttl: float | None = None
) -> tuple[MemoryWidgetStore, MemoryEventBus, MemoryConnectionRouter, MemorySessionStore]:
    """New stores that share nothing with others; by default nothing in them expires by itself."""
    return (
        MemoryWidgetStore(widget_ttl),
        MemoryEventBus(),
        MemoryConnectionRouter(connection_ttl),
        MemorySessionStore(session_ttl),
    )


def _kept(metadata: dict[str, Any]) -> dict[str, Any]:
    """A copy that is what Redis would give back; TypeError for what it could not."""
    copy: dict[str, Any] = loads(dumps(metadata))
    return copy


def _end(now: float, ttl: float | None) -> float | None:
    return None if ttl is None else now + ttl


def _unlist(index: dict[str, dict[str, None]], name: str, member: str) -> None:
    members = index.get(name, {})
    members.pop(member, None)
    if not members:
        index.pop(name, None)
