"""What a handler is told about who serves it: `pulse.connection` and `pulse.cfg` of its environ."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pulse.context import PULSE_CONTEXT
from pulse.gateway import Environ
from pulse.loop import background_loop, running_loop
from pulse.model import Config
from pulse.option import options_of

CONNECTION: Final = "pulse.connection"
CFG: Final = "pulse.cfg"

Kind = Literal["internal", "wsgi", "asgi"]

_PASSWORD: Final = re.compile(r"://\S*@")  # of an address: redis://user:password@host


class Connection:
    """The way by which a request came.

    Attributes:
        kind: `internal` for a request of Pulse itself, else the kind of the server.
        peer: Host and port of the other side; None if there is none, or it is not known.
    """

    __slots__ = ("_given", "kind", "peer")

    def __init__(
        self, kind: Kind, *, peer: tuple[str, int] | None = None, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """*loop*: the one that runs asynchronous handlers, if that is known already."""
        self.kind = kind
        self.peer = peer
        self._given = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that runs asynchronous handlers; safe to ask for from any thread.

        Where the server has none it is that of the process (`pulse.loop`), which is started
        when somebody asks.
        """
        return self._given or running_loop() or background_loop()

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self.loop  # the name by which applications know it

    def __repr__(self) -> str:
        return f"<{self.kind} connection{f' from {self.peer[0]}' if self.peer else ''}>"


class Settings(Mapping[str, Any]):
    """The effective `pulse.config.*`, to be read by key, with or without prefix, or as attributes.

    Secrets are not in it: an application may print its environ.
    """

    __slots__ = ("_values",)

    def __init__(self, config: Config | None = None) -> None:
        """*config*: without one there is nothing to read."""
        self._values: dict[str, Any] = {}
        if config is not None:
            options = options_of(Config).values()
            self._values = {one.name: _public(getattr(config, one.name)) for one in options if not one.is_secret}

    def __getitem__(self, key: str) -> Any:
        return self._values[key.removeprefix("pulse.config.")]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"pulse.cfg has no {name!r}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Settings({self._values!r})"


def introduce(environ: Environ, connection: Connection, settings: Settings | None) -> None:
    """Tell the handler of *environ* who serves it, unless somebody further out has.

    Args:
        environ: Of the request.
        connection: By which it came.
        settings: Those of the handler; when None, of the Pulse that the request has passed.
    """
    environ.setdefault(CONNECTION, connection)
    if CFG in environ:
        return
    if settings is None:
        context = PULSE_CONTEXT.get()
        settings = None if context is None else settings_of(context.app)
    environ[CFG] = _NOTHING if settings is None else settings


def settings_of(app: object) -> Settings | None:
    """The settings of *app* if it is a Pulse, which has a configuration."""
    config = getattr(app, "config", None)
    return Settings(config) if isinstance(config, Config) else None


def _public(value: object) -> object:
    return _PASSWORD.sub("://***@", value) if isinstance(value, str) else value


_NOTHING: Final = Settings()
