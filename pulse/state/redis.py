"""Shared state in Redis, or Valkey: what the workers of all hosts see alike.

A record is a hash with an expiry of its own, and is changed by scripts (`pulse.state.lua`)
that do so in one atomic step.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

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
from pulse.state.keys import Keys
from pulse.state.link.redis import RedisLink, text
from pulse.state.lua import BEAT, COUNT, DATA, DROP, MEMBERS, MOVE, PUT, RECORDS, REFRESH, RIGHTS, TIDY, UPDATE
from pulse.state.settings import CONNECTION_TTL, WIDGET_TTL
from pulse.state.stream import RedisEventBus
from pulse.state.types import SESSION_DATA, ConnectionInfo, UserSession, WidgetData

__all__ = [
    "RedisConnectionRouter",
    "RedisEventBus",
    "RedisSessionStore",
    "RedisWidgetStore",
    "create_redis_stores",
]

URL: Final = "redis://localhost:6379/0"
MICROSECONDS: Final = 1_000_000  # a second: as exact as the TIME of Redis is


class RedisWidgetStore(WidgetStore):
    """A `WidgetStore` that all workers share."""

    def __init__(
        self,
        redis_url: str = URL,
        prefix: str = "pulse",
        widget_ttl: float | None = WIDGET_TTL,
        pool_size: int = 10,
        *,
        link: RedisLink | None = None,
    ) -> None:
        """A store; nothing is connected yet.

        Args:
            redis_url: `redis://`, `rediss://` or `unix://`.
            prefix: What all keys begin with; in a cluster one in braces, `{pulse}`.
            widget_ttl: Seconds until a widget is forgotten; None for never.
            pool_size: Connections an event loop.
            link: The connections of another store, instead.

        Raises:
            ValueError: *widget_ttl* is not more than 0, or there is no such kind of address.
            TypeError: *widget_ttl* is no number.
        """
        self._span = _microseconds(checked_ttl(widget_ttl, "widget_ttl"))
        self._link = link or RedisLink(redis_url, pool_size)
        self._keys = Keys(prefix)

    async def register(
        self,
        widget_id: str,
        html: str,
        token: str | None = None,
        owner_worker_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """See `WidgetStore.register`."""
        check_texts(widget_id=widget_id, html=html)
        check_optional_texts(token=token, owner_worker_id=owner_worker_id)
        fields = {"html": html, "token": token, "owner": owner_worker_id, "metadata": dumps(metadata or {})}
        keys = [self._keys.widget(widget_id), self._keys.widgets]
        await self._link.run(PUT, keys, widget_id, self._span, *_pairs(fields))

    async def get(self, widget_id: str) -> WidgetData | None:
        """See `WidgetStore.get`."""
        record = _record(await self._link.ask("HGETALL", self._keys.widget(widget_id)))
        if not record:
            return None
        return WidgetData(
            widget_id,
            record["html"],
            record.get("token"),
            int(record["created"]) / MICROSECONDS,
            record.get("owner"),
            loads(record["metadata"]),
        )

    async def get_html(self, widget_id: str) -> str | None:
        """See `WidgetStore.get_html`."""
        return await self._field(widget_id, "html")

    async def get_token(self, widget_id: str) -> str | None:
        """See `WidgetStore.get_token`."""
        return await self._field(widget_id, "token")

    async def exists(self, widget_id: str) -> bool:
        """See `WidgetStore.exists`."""
        return bool(await self._link.ask("EXISTS", self._keys.widget(widget_id)))

    async def delete(self, widget_id: str) -> bool:
        """See `WidgetStore.delete`."""
        return bool(await self._link.run(DROP, [self._keys.widget(widget_id)], _member(widget_id)))

    async def list_active(self) -> list[str]:
        """See `WidgetStore.list_active`."""
        return [text(member) for member in await self._link.run(MEMBERS, [self._keys.widgets])]

    async def update_html(self, widget_id: str, html: str) -> bool:
        """See `WidgetStore.update_html`."""
        check_texts(html=html)
        return await self._update(widget_id, "html", html)

    async def update_token(self, widget_id: str, token: str) -> bool:
        """See `WidgetStore.update_token`."""
        check_texts(token=token)
        return await self._update(widget_id, "token", token)

    async def count(self) -> int:
        """See `WidgetStore.count`."""
        return int(await self._link.run(COUNT, [self._keys.widgets]))

    async def sweep(self) -> int:
        """See `Sweepable.sweep`; the records Redis has freed itself, so this counts what pointed at them."""
        return int(await self._link.run(TIDY, [self._keys.widgets]))

    async def _field(self, widget_id: str, name: str) -> str | None:
        found = await self._link.ask("HGET", self._keys.widget(widget_id), name)
        return None if found is None else text(found)

    async def _update(self, widget_id: str, name: str, value: str) -> bool:
        return bool(await self._link.run(UPDATE, [self._keys.widget(widget_id)], name, value))


class RedisConnectionRouter(ConnectionRouter):
    """A `ConnectionRouter` that all workers share."""

    def __init__(
        self,
        redis_url: str = URL,
        prefix: str = "pulse",
        connection_ttl: float | None = CONNECTION_TTL,
        pool_size: int = 10,
        *,
        link: RedisLink | None = None,
    ) -> None:
        """A router; nothing is connected yet.

        Args:
            redis_url: `redis://`, `rediss://` or `unix://`.
            prefix: What all keys begin with.
            connection_ttl: Seconds without a heartbeat until a connection is forgotten; None for never.
            pool_size: Connections an event loop.
            link: The connections of another store, instead.

        Raises:
            ValueError: *connection_ttl* is not more than 0, or there is no such kind of address.
            TypeError: *connection_ttl* is no number.
        """
        self._span = _microseconds(checked_ttl(connection_ttl, "connection_ttl"))
        self._link = link or RedisLink(redis_url, pool_size)
        self._keys = Keys(prefix)

    async def register_connection(
        self,
        widget_id: str,
        worker_id: str,
        user_id: str | None = None,
        session_id: str | None = None,
    ) -> None:
        """See `ConnectionRouter.register_connection`."""
        check_texts(widget_id=widget_id, worker_id=worker_id)
        check_optional_texts(user_id=user_id, session_id=session_id)
        fields = {"worker": worker_id, "user": user_id, "session": session_id}
        keys = [self._keys.connection(widget_id), self._keys.worker(worker_id)]
        await self._link.run(PUT, keys, widget_id, self._span, *_pairs(fields))

    async def get_connection_info(self, widget_id: str) -> ConnectionInfo | None:
        """See `ConnectionRouter.get_connection_info`."""
        record = _record(await self._link.ask("HGETALL", self._keys.connection(widget_id)))
        if not record:
            return None
        connected = int(record["created"]) / MICROSECONDS
        beat = int(record["beat"]) / MICROSECONDS if "beat" in record else connected
        return ConnectionInfo(widget_id, record["worker"], connected, beat, record.get("user"), record.get("session"))

    async def get_owner(self, widget_id: str) -> str | None:
        """See `ConnectionRouter.get_owner`."""
        found = await self._link.ask("HGET", self._keys.connection(widget_id), "worker")
        return None if found is None else text(found)

    async def refresh_heartbeat(self, widget_id: str) -> bool:
        """See `ConnectionRouter.refresh_heartbeat`."""
        return bool(await self._link.run(BEAT, [self._keys.connection(widget_id)], _member(widget_id), self._span))

    async def unregister_connection(self, widget_id: str) -> bool:
        """See `ConnectionRouter.unregister_connection`."""
        return bool(await self._link.run(DROP, [self._keys.connection(widget_id)], _member(widget_id)))

    async def list_worker_connections(self, worker_id: str) -> list[str]:
        """See `ConnectionRouter.list_worker_connections`."""
        return [text(member) for member in await self._link.run(MEMBERS, [self._keys.worker(worker_id)])]

    async def sweep(self) -> int:
        """See `Sweepable.sweep`; the records Redis has freed itself, so this counts what pointed at them."""
        return await _tidy(self._link, self._keys.every("worker"))


class RedisSessionStore(SessionStore):
    """A `SessionStore` that all workers share."""

    def __init__(
        self,
        redis_url: str = URL,
        prefix: str = "pulse",
        session_ttl: float | None = None,
        pool_size: int = 10,
        *,
        link: RedisLink | None = None,
    ) -> None:
        """A store; nothing is connected yet.

        Args:
            redis_url: `redis://`, `rediss://` or `unix://`.
            prefix: What all keys begin with.
            session_ttl: Seconds that a session lasts that says nothing itself; None for ever.
            pool_size: Connections an event loop.
            link: The connections of another store, instead.

        Raises:
            ValueError: *session_ttl* is not more than 0, or there is no such kind of address.
            TypeError: *session_ttl* is no number.
        """
        self._ttl = checked_ttl(session_ttl, "session_ttl")
        self._link = link or RedisLink(redis_url, pool_size)
        self._keys = Keys(prefix)

    async def create_session(
        self,
        session_id: str,
        user_id: str,
        roles: list[str] | None = None,
        ttl: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> UserSession:
        """See `SessionStore.create_session`."""
        check_texts(session_id=session_id, user_id=user_id)
        span = _microseconds(self._ttl if checked_ttl(ttl) is None else ttl)
        key = self._keys.session(session_id)
        record = {
            "id": session_id,
            "user": user_id,
            "roles": dumps(checked_roles(roles)),
            "metadata": dumps(metadata or {}),
            "ttl": str(span),
            "span": str(span),
        }
        created = await self._link.run(PUT, [key, self._keys.user(user_id)], key, span, *_pairs(record))
        return _session({**record, "created": text(created)})

    async def get_session(self, session_id: str) -> UserSession | None:
        """See `SessionStore.get_session`."""
        record = _record(await self._link.ask("HGETALL", self._keys.session(session_id)))
        return _session(record) if record else None

    async def validate_session(self, session_id: str) -> bool:
        """See `SessionStore.validate_session`."""
        return bool(await self._link.ask("EXISTS", self._keys.session(session_id)))

    async def delete_session(self, session_id: str) -> bool:
        """See `SessionStore.delete_session`."""
        key = self._keys.session(session_id)
        return bool(await self._link.run(DROP, [key], key))

    async def refresh_session(self, session_id: str, extend_ttl: int | None = None) -> bool:
        """See `SessionStore.refresh_session`."""
        span = _microseconds(checked_ttl(extend_ttl, "extend_ttl"))
        key = self._keys.session(session_id)
        return bool(await self._link.run(REFRESH, [key], key, span))

    async def list_user_sessions(self, user_id: str) -> list[UserSession]:
        """See `SessionStore.list_user_sessions`."""
        found = await self._link.run(RECORDS, [self._keys.user(user_id)])
        return sorted((_session(_record(record)) for record in found), key=lambda session: session.created_at)

    async def keep_data(self, session_id: str, data: dict[str, Any], ttl: float | None = None) -> bool:
        """See `SessionStore.keep_data`."""
        span = _microseconds(checked_ttl(ttl))
        key = self._keys.session(session_id)
        return bool(await self._link.run(DATA, [key], key, dumps(data), span))

    async def change_data(
        self, session_id: str, change: Callable[[dict[str, Any]], dict[str, Any]], ttl: float | None = None
    ) -> bool:
        """See `SessionStore.change_data`."""
        span = _microseconds(checked_ttl(ttl))
        key = self._keys.session(session_id)
        while True:  # each time round another change was kept
            index, data, metadata = await self._link.ask("HMGET", key, "index", "data", "metadata")
            if index is None:
                return False
            kept = loads(text(metadata)).get(SESSION_DATA) or {} if data is None else loads(text(data))
            before = metadata if data is None else data
            done = await self._link.run(DATA, [key], key, dumps(change(kept)), span, before)
            if done >= 0:
                return bool(done)

    async def move_session(self, session_id: str, new_id: str, data: dict[str, Any], ttl: float | None = None) -> bool:
        """See `SessionStore.move_session`."""
        check_texts(new_id=new_id)
        span = _microseconds(checked_ttl(ttl))
        keys = [self._keys.session(session_id), self._keys.session(new_id)]
        return bool(await self._link.run(MOVE, keys, *keys, new_id, dumps(data), span))

    async def check_permission(self, session_id: str, resource_type: str, resource_id: str, permission: str) -> bool:
        """See `SessionStore.check_permission`."""
        keys = [self._keys.session(session_id), self._keys.roles]
        (roles, metadata), given = await self._link.run(RIGHTS, keys)
        if roles is None:
            return False
        permissions = {role: loads(rights) for role, rights in _record(given).items()}
        for role in loads(text(roles)):
            if permission in permissions.get(role, ROLE_PERMISSIONS.get(role, ())):
                return True
        return grants(loads(text(metadata)), resource_type, resource_id, permission)

    async def set_role_permissions(self, role: str, permissions: set[str]) -> None:
        """Say what a role may do, for all workers and from now on; in place of what it might before.

        Raises:
            TypeError: *permissions* is no set of texts, or *role* is no text.
        """
        await self._link.ask("HSET", self._keys.roles, role, dumps(checked_permissions(role, permissions)))

    async def sweep(self) -> int:
        """See `Sweepable.sweep`; the records Redis has freed itself, so this counts what pointed at them."""
        return await _tidy(self._link, self._keys.every("user"))


def create_redis_stores(
    redis_url: str = URL,
    prefix: str = "pulse",
    widget_ttl: float | None = WIDGET_TTL,
    connection_ttl: float | None = CONNECTION_TTL,
    session_ttl: float | None = None,
    pool_size: int = 10,
) -> tuple[RedisWidgetStore, RedisEventBus, RedisConnectionRouter, RedisSessionStore]:
    """The four stores, over one pool of connections; nothing is connected yet.

    Args:
        redis_url: `redis://`, `rediss://` or `unix://`.
        prefix: What all keys begin with; other prefixes see nothing of them.
        widget_ttl: Seconds until a widget is forgotten; None for never.
        connection_ttl: Seconds without a heartbeat until a connection is; None for never.
        session_ttl: Seconds that a session lasts that says nothing itself; None for ever.
        pool_size: Connections an event loop.

    Raises:
        ValueError: a time is not more than 0, or there is no such kind of address.
        TypeError: a time is no number.
    """
    link = RedisLink(redis_url, pool_size)
    return (
        RedisWidgetStore(prefix=prefix, widget_ttl=widget_ttl, link=link),
        RedisEventBus(prefix=prefix, link=link),
        RedisConnectionRouter(prefix=prefix, connection_ttl=connection_ttl, link=link),
        RedisSessionStore(prefix=prefix, session_ttl=session_ttl, link=link),
    )


def _session(record: Mapping[str, str]) -> UserSession:
    created = int(record["created"]) / MICROSECONDS
    since = int(record["since"]) / MICROSECONDS if "since" in record else created
    span = record["span"]
    metadata = loads(record["metadata"])
    if "data" in record:
        metadata[SESSION_DATA] = loads(record["data"])
    return UserSession(
        record["id"],
        record["user"],
        loads(record["roles"]),
        created,
        since + int(span) / MICROSECONDS if span else None,
        metadata,
    )


async def _tidy(link: RedisLink, pattern: str) -> int:
    """Free what the indices of *pattern* hold of expired records; how much that was."""
    gone, cursor = 0, b"0"
    while True:
        cursor, found = await link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        if found:
            gone += int(await link.run(TIDY, [text(key) for key in found]))
        if int(cursor) == 0:
            return gone


def _member(widget_id: object) -> str:
    """What an index knows a widget by; the client would refuse to send None, which is no widget's id."""
    return str(widget_id)


def _pairs(fields: Mapping[str, str | None]) -> Iterable[str]:
    """Name, value, name, value; without those that are None."""
    return [part for name, value in fields.items() if value is not None for part in (name, value)]


def _record(answer: list[bytes]) -> dict[str, str]:
    """A hash as Redis sends it: name, value, name, value."""
    return {text(name): text(value) for name, value in zip(answer[::2], answer[1::2], strict=True)}


def _microseconds(ttl: float | None) -> int | str:
    return "" if ttl is None else max(1, round(ttl * MICROSECONDS))
