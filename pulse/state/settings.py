"""What the environment says about shared state; read when it is asked for, never at import."""

import os
from dataclasses import dataclass
from typing import Final

from pulse.address import require_redis
from pulse.errors import ConfigError, Fault
from pulse.option import shown
from pulse.state.types import StateBackend

PREFIX: Final = "PULSE_DEPLOY__"
WIDGET_TTL: Final = 86_400  # seconds, in Redis; memory keeps widgets and connections until they are removed
CONNECTION_TTL: Final = 300
TRUE: Final = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the stores are made.

    Attributes:
        redis_url: `redis://`, `rediss://` or `unix://`.
        redis_prefix: What all keys begin with.
        redis_pool_size: Connections an event loop.
        widget_ttl: Seconds until a widget is forgotten; None for what the backend does by default.
        connection_ttl: Seconds without a heartbeat until a connection is; None likewise.
        session_ttl: Seconds that a session lasts that says nothing itself; None for ever.
    """

    redis_url: str
    redis_prefix: str
    redis_pool_size: int
    widget_ttl: int | None
    connection_ttl: int | None
    session_ttl: int | None


def settings() -> Settings:
    """The settings of the environment, `PULSE_DEPLOY__<NAME>`.

    Raises:
        ConfigError: (a ValueError) naming every variable that cannot be read.
    """
    faults: list[Fault] = []
    found = Settings(
        redis_url=_text("REDIS_URL") or "redis://localhost:6379/0",
        redis_prefix=_text("REDIS_PREFIX") or "pulse",
        redis_pool_size=_number("REDIS_POOL_SIZE", faults) or 10,
        widget_ttl=_number("WIDGET_TTL", faults),
        connection_ttl=_number("CONNECTION_TTL", faults),
        session_ttl=_number("SESSION_TTL", faults),
    )
    try:
        require_redis(found.redis_url)
    except ValueError as error:
        faults.append(Fault(key=f"{PREFIX}REDIS_URL", shown=shown(found.redis_url), problem=str(error)))
    if faults:
        raise ConfigError(faults)
    return found


def get_state_backend() -> StateBackend:
    """The backend of `PULSE_DEPLOY__STATE_BACKEND`, in any case of letters; memory by default.

    Raises:
        ConfigError: (a ValueError) there is no such backend.
    """
    name = _text("STATE_BACKEND")
    try:
        return StateBackend(name.lower() or StateBackend.MEMORY)
    except ValueError:
        fault = Fault(key=f"{PREFIX}STATE_BACKEND", shown=repr(name), problem="want memory or redis")
        raise ConfigError([fault]) from None


def is_deploy_mode() -> bool:
    """Whether many workers share state: `PULSE_DEPLOY_MODE` is true, or the backend is Redis."""
    flag = os.environ.get("PULSE_DEPLOY_MODE", "").strip().lower()
    return flag in TRUE or get_state_backend() is StateBackend.REDIS


def given_worker_id() -> str:
    """`PULSE_DEPLOY__WORKER_ID`; empty if it is not set."""
    return _text("WORKER_ID")


def _text(name: str) -> str:
    return os.environ.get(PREFIX + name, "").strip()


def _number(name: str, faults: list[Fault]) -> int | None:
    text = _text(name)
    if not text:
        return None
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    faults.append(Fault(key=PREFIX + name, shown=repr(text), problem="want a whole number above 0"))
    return None
