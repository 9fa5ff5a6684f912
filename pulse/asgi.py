"""The ASGI door: `AsgiPulse` runs the endpoints of an ASGI application on a schedule.

The engine is that of the WSGI door. Its internal requests reach the application by
`Inward`, on the event loop of the server; this file is about the requests from outside,
and about the life of the server.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, cast

from pulse.clock import Clock
from pulse.context import PULSE_CONTEXT, SESSION, RequestContext
from pulse.errors import ConfigError, Fault
from pulse.gateway import AsgiApp, Environ, Message, Receive, Scope, Send, why_not_asgi
from pulse.guard import MOVERS, SCRUBBED, Guard
from pulse.mark import INTERNAL, Mark, acting_for, is_internal
from pulse.middleware import PulseMiddleware
from pulse.model import Config, Run, Task
from pulse.option import shown
from pulse.runstores.base import RunStore
from pulse.start import StartState
from pulse.wsgi.bridge.asgi import AsgiDoor, as_asgi
from pulse.wsgi.bridge.home import Home
from pulse.wsgi.bridge.inward import Inward
from pulse.wsgi.bridge.outbox import Outbox
from pulse.wsgi.bridge.scope import environ_of, mount_of

POLICY_VIOLATION: Final = 1008  # of RFC 6455; before it is accepted, a WebSocket that is closed is answered with 403
WINDOW_THREADS: Final = 4  # requests of the status page at once; it reads the run store, which may block

log = logging.getLogger(__name__)


class AsgiPulse:
    """An ASGI application that runs the endpoints of the one it wraps on a schedule.

    For Starlette, FastAPI, Django's `asgi`, bareASGI and whatever else an ASGI server takes.
    Constructing it starts nothing: tasks run in each process that serves, from the moment
    that its lifespan has begun; under a server without lifespan, when it listens or is
    given a request (`pulse.config.start`). They end before the application is shut down.

    Internal requests are made on the event loop of the server (asyncio, uvloop), so endpoints
    may use what the application has made when it started. In a process without server, a
    process worker or a command, the application is started before its first run.

    Attributes:
        app: The wrapped application; internal requests go straight to it.
        pulse: The engine, which is that of a WSGI application.
    """

    def __init__(
        self,
        app: AsgiApp,
        config: Mapping[str, object] | Config | None = None,
        *,
        task: Mapping[str, Task | Mapping[str, object]] | None = None,
        tasks: Mapping[str, Task | Mapping[str, object]] | None = None,
        clock: Clock | None = None,
        run_store: RunStore | None = None,
        authenticate: Callable[[Environ], str | None] | None = None,
        **options: object,
    ) -> None:
        """Wrap *app*; for the other arguments see `PulseMiddleware`.

        The default of `mode` is `auto` here: runs are tasks of the server's loop.

        Raises:
            ConfigError: (a ValueError) naming every fault of the configuration at once.
        """
        if problem := why_not_asgi(app):
            raise ConfigError([Fault(key="app", shown=shown(app), problem=problem)])
        if config is None or isinstance(config, Mapping):
            config = {"pulse.config.mode": "auto", **(config or {})}
        self.app = app
        self._home = Home(app, is_served=lambda: self.pulse.is_ringing)
        handler: Any = Inward(app, self._home, self)
        self.pulse = _Engine(
            handler,
            config,
            task=task,
            tasks=tasks,
            clock=clock,
            run_store=run_store,
            authenticate=authenticate,
            **options,
        )

    @property
    def config(self) -> Config:
        """The effective configuration, with its tasks by name."""
        return self.pulse.config

    @property
    def run_store(self) -> RunStore:
        """Where claims and runs are kept."""
        return self.pulse.run_store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of an ASGI server, or its lifespan."""
        if scope["type"] == "lifespan":
            await _Lifespan(self.app, self._home, self.pulse, receive, send).live(scope)
        elif "path" not in scope:
            await self.app(scope, receive, send)
        else:
            self._home.notice()
            self.pulse.notice()
            window = self.pulse.window_for(scope) if self.config.status else None
            await (window or self._serve)(scope, receive, send)

    def start(self) -> None:
        """Run tasks in this process from now on, whatever the start rule says; idempotent."""
        self.pulse.start()

    def close(self) -> None:
        """See `PulseMiddleware.close`; the lifespan of a server does this at its end.

        Not to be called on the event loop of the server, where runs have to come to their
        end meanwhile: there, `await aclose()`.
        """
        self.pulse.close()

    async def aclose(self) -> None:
        """The same, for coroutines."""
        await asyncio.to_thread(self.pulse.close)

    def run_now(self, name: str, *, force: bool = False, again: Run | None = None) -> Run | None:
        """See `PulseMiddleware.run_now`; for threads. Coroutines use `arun_now`.

        Raises:
            RuntimeError: this is the event loop on which the run would be made.
        """
        if self._home.is_here():
            raise RuntimeError("run_now was called on the event loop that it would wait for; use await arun_now(...)")
        return self.pulse.run_now(name, force=force, again=again)

    async def arun_now(self, name: str, *, force: bool = False, again: Run | None = None) -> Run | None:
        """See `PulseMiddleware.run_now`; for coroutines, on any loop."""
        return await asyncio.to_thread(self.pulse.run_now, name, force=force, again=again)

    def pause(self, name: str, *, until: datetime | None = None, note: str = "", by: str = "") -> None:
        """See `PulseMiddleware.pause`."""
        self.pulse.pause(name, until=until, note=note, by=by)

    def resume(self, name: str) -> bool:
        """See `PulseMiddleware.resume`."""
        return self.pulse.resume(name)

    # Requests from outside

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        guard, view = self.pulse.guard, _view_of(scope)
        said = _REMOVABLE & view.keys()
        mark = None
        if not guard.admits(view):
            mark = guard.by_hand(view)
            if mark is None:
                await _refuse(guard, scope["type"], view, receive, send)
                return
        if removed := said - view.keys():
            scope = _without(removed, scope)
        if is_internal(view):  # a Pulse further out has sent it, and its context stays
            await self.app(scope, receive, send)
        else:
            await self._pass(mark, scope, view, receive, send)

    async def _pass(self, mark: Mark | None, scope: Scope, view: Environ, receive: Receive, send: Send) -> None:
        outer = PULSE_CONTEXT.get()
        if not (isinstance(outer, _ScopeContext) and outer.scope is scope):
            outer = _ScopeContext(self, view, scope)
        token = PULSE_CONTEXT.set(outer)
        try:
            if mark is None:
                await self.app(scope, receive, send)
            else:
                with acting_for(mark):
                    await self.app({**scope, INTERNAL: mark}, receive, send)
        finally:
            PULSE_CONTEXT.reset(token)


class _Engine(PulseMiddleware):
    """The WSGI door as the ASGI door needs it: nobody comes in by it."""

    _window_door: AsgiDoor | None = None

    @property
    def guard(self) -> Guard:
        return self._guard

    @property
    def is_ringing(self) -> bool:
        return self._rule.state is StartState.RINGING

    def window_for(self, scope: Scope) -> AsgiApp | None:
        """The status page as an ASGI application; None if *scope* is not about it."""
        mount = self.config.status
        if not mount or mount not in scope["path"] or scope["type"] != "http":
            return None
        environ = environ_of(scope, None)
        window = self._open_window()
        if not window.answers(environ):
            return None
        if self._window_door is None or self._window_door.app is not window:  # in a forked child there is a new one
            self._window_door = as_asgi(window, threads=WINDOW_THREADS)
        return cast("AsgiApp", self._window_door)

    def notice(self) -> None:
        """A request has come from outside."""
        if os.getpid() != self._rule.settled:
            self._rule.serve()

    def open(self) -> None:
        """The application has been started by a server: this process serves."""
        if self._rule._start != "request":  # noqa: SLF001 - what PULSE_START has made of `start`
            self._rule.serve()


class _ScopeContext(RequestContext):
    """The context of a request from outside."""

    __slots__ = ("scope",)

    def __init__(self, app: AsgiPulse, view: Environ, scope: Scope) -> None:
        super().__init__(app, view)
        self.scope = scope

    @property
    def session(self) -> Any:  # type: ignore[override]
        """What a session layer has left in the scope."""
        return self.scope.get(SESSION)


class _Lifespan:
    """One lifespan: it is passed on, and the tasks run between its two ends.

    An application that takes no part in it is none the worse for it: it is answered for.
    """

    def __init__(self, app: AsgiApp, home: Home, engine: _Engine, receive: Receive, send: Send) -> None:
        self._app = app
        self._home = home
        self._engine = engine
        self._receive = receive
        self._send = send
        self._asked = ""  # what the server has said last
        self._answered = ""  # and what it has been answered

    async def live(self, scope: Scope) -> None:
        """Follow the server from its start to its end."""
        self._home.start(scope.get("state"))
        try:
            await self._app(scope, self._receive_first, self._send_too)
        except Exception:
            if self._asked:
                raise  # it has failed to start, or to end: the server knows what that means
            log.debug("the application takes no part in the lifespan", exc_info=True)
        finally:
            self._home.has_started()
        await self._answer_for_it()

    async def _receive_first(self) -> Message:
        """What the server says, once Pulse has done its own part."""
        message = await self._receive()
        self._asked = message["type"]
        if self._asked == "lifespan.shutdown":
            # In a thread: the runs that are to end have this loop to end on.
            await asyncio.to_thread(self._engine.close)
        return message

    async def _send_too(self, message: Message) -> None:
        self._answered = message["type"]
        if self._answered == "lifespan.startup.complete":
            self._home.has_started()
            self._engine.open()
        await self._send(message)

    async def _answer_for_it(self) -> None:
        """Say what the application has left unsaid."""
        if not self._answered:
            if not self._asked:
                await self._receive_first()
            await self._send_too({"type": "lifespan.startup.complete"})
        if self._answered == "lifespan.startup.complete":
            if self._asked != "lifespan.shutdown":
                await self._receive_first()
            await self._send_too({"type": "lifespan.shutdown.complete"})


# The headers that the guard wants to know, as an environ has them.
_KNOWN: Final = SCRUBBED | MOVERS | {"HTTP_AUTHORIZATION", "HTTP_HOST"}
_KEYS: Final = {
    key.removeprefix("HTTP_").replace("_", "-").lower().encode("ascii"): key
    for key in _KNOWN
    if key.startswith("HTTP_")
}
_REMOVABLE: Final = SCRUBBED | {"HTTP_AUTHORIZATION"}
_LONGEST: Final = max(map(len, _KEYS))  # longer names are not looked up, or they would fill the cache


@lru_cache(maxsize=1024)
def _key_of(header: bytes) -> str | None:
    """The key of *header* if the guard wants to know it, however it is spelt."""
    return _KEYS.get(header.lower().replace(b"_", b"-"))


def _view_of(scope: Scope) -> Environ:
    """What the guard and the context want to know of a request: its paths, and a few headers."""
    root, way = mount_of(scope)
    view: Environ = {
        "REQUEST_METHOD": scope.get("method", "GET"),
        "SCRIPT_NAME": _bytes(root),
        "PATH_INFO": _bytes(way),
    }
    if scope.get("raw_path"):
        view["REQUEST_URI"] = scope["raw_path"].decode("latin-1")
    for name, value in scope.get("headers") or ():
        if len(name) <= _LONGEST and (key := _key_of(name)):
            text = value.decode("latin-1")
            view[key] = f"{view[key]},{text}" if key in view else text
    if not SCRUBBED.isdisjoint(scope):
        view |= {key: scope[key] for key in SCRUBBED & scope.keys()}
    return view


def _without(removed: AbstractSet[str], scope: Scope) -> Scope:
    """*scope* without what the guard has removed from its view."""
    kept = {key: value for key, value in scope.items() if key not in removed}
    return kept | {
        "headers": [(name, value) for name, value in scope.get("headers") or () if _key_of(name) not in removed]
    }


async def _refuse(guard: Guard, kind: str, view: Environ, receive: Receive, send: Send) -> None:
    if kind == "http":
        outbox = Outbox(send)
        for chunk in guard.refuse(view, outbox.start):
            await outbox.add(chunk)
        await outbox.end()
        return
    guard.count_denial()
    if kind != "websocket":
        raise NotImplementedError(f"there is no way to refuse {kind!r}")
    await receive()
    await send({"type": "websocket.close", "code": POLICY_VIOLATION})


def _bytes(path: str) -> str:
    """*path* with its bytes as characters, as an environ has them; whatever a server has made of it."""
    return path.encode("utf-8", "surrogatepass").decode("latin-1")
