"""What code can know about the request or run that it is part of, wherever it stands.

    PulseContext.get().route.path

The context is active around every call into the wrapped application: those from outside
and those of tasks. `entered` is how a request enters it; it costs next to nothing, since
what it tells is worked out when somebody asks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.model import Run

if TYPE_CHECKING:
    from pulse.state.types import UserSession

T = TypeVar("T")

SESSION: Final = "pulse.session"  # where a session layer leaves what it knows about the caller
INFO: Final = "pulse.info"


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What is requested.

    Attributes:
        path: The path of the request as text, below the mount point of Pulse.
        context: The base path of tasks, `pulse.config.context`.
        action: How a task would name this path: what follows the context, or else the whole path.
        task: The run that the request belongs to; None for a request from outside.
        internal: Whether Pulse itself sent the request.
    """

    path: str
    context: str = ""
    action: str = ""
    task: Run | None = None
    internal: bool = False

    @classmethod
    def of(cls, path: str, context: str, task: Run | None) -> Self:
        """The route of *path*; internal when there is a *task*."""
        action = path[len(context) + 2 :] if context and path.startswith(f"/{context}/") else path
        return cls(path, context, action or path, task, task is not None)


@dataclass(frozen=True, slots=True, eq=False)
class RenderSession:
    """One viewer's open connection (WebSocket, SSE) to a widget.

    Attributes:
        id: Of the connection.
        widget_id: What it shows.
        worker_id: The process that holds it.
        queue: Of the events that are on their way to the viewer.
    """

    id: str
    widget_id: str
    worker_id: str
    queue: asyncio.Queue[Any] | None = None


class PulseContext:
    """The application, session, viewer and route of the code that runs now.

    As a context manager it is active inside, and the one before is active again behind it.
    The same object may be entered nested, and by many threads and tasks at once.

    Attributes:
        app: The outermost `PulseMiddleware` that serves the request or fires the task.
        session: The caller's session when a session layer is active, else None.
        render: The viewer's connection when there is one, else None.
        route: What is requested; None outside of a request.
    """

    __slots__ = ("app", "render", "route", "session")

    app: Any
    session: "UserSession | None"
    render: RenderSession | None
    route: RouteContext | None

    def __init__(
        self,
        app: Any,
        session: "UserSession | None" = None,
        render: RenderSession | None = None,
        route: RouteContext | None = None,
    ) -> None:
        self.app = app
        self.session = session
        self.render = render
        self.route = route

    @classmethod
    def get(cls) -> "PulseContext":
        """The active context.

        Raises:
            RuntimeError: none is active.
        """
        context = PULSE_CONTEXT.get()
        if context is None:
            raise RuntimeError("no PulseContext is active: this code runs outside of a request and of a run")
        return context

    @classmethod
    def update(
        cls,
        session: "UserSession | None" = None,
        render: RenderSession | None = None,
        route: RouteContext | None = None,
    ) -> "PulseContext":
        """A new context: that which is active, with what is given in place of its own.

        It is not activated, and the active one is not changed.

        Raises:
            RuntimeError: none is active.
        """
        active = cls.get()
        return PulseContext(
            active.app,
            active.session if session is None else session,
            active.render if render is None else render,
            active.route if route is None else route,
        )

    def __enter__(self) -> Self:
        _entered.set(_Entry(self, PULSE_CONTEXT.get(), _entered.get()))
        PULSE_CONTEXT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entry = _entered.get()
        # What was entered inside and never left, as by a generator that nobody closed, is left with it.
        while entry is not None and entry.context is not self:
            entry = entry.below
        if entry is None:
            return  # entered in another thread: here is nothing to restore
        _entered.set(entry.below)
        PULSE_CONTEXT.set(entry.outer)

    def __repr__(self) -> str:
        path = getattr(self.route, "path", "")
        return f"<PulseContext of {type(self.app).__name__}{f' at {path}' if path else ''}>"


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """One `with` that has not ended.

    The entries of a thread or task are a chain, and no token in the context itself: that
    is entered by many at once, and twice by one.
    """

    context: PulseContext
    outer: PulseContext | None
    below: "_Entry | None"


_Place = tuple[PulseContext | None, _Entry | None]  # what is active, and what was entered and not left yet

PULSE_CONTEXT: Final[ContextVar[PulseContext | None]] = ContextVar("PULSE_CONTEXT", default=None)
# For what every request and run does: looking up a method of a `ContextVar` costs as much as calling it.
active, activate, restore = PULSE_CONTEXT.get, PULSE_CONTEXT.set, PULSE_CONTEXT.reset
_entered: Final[ContextVar[_Entry | None]] = ContextVar("pulse_entered", default=None)


class RequestContext(PulseContext):
    """The context of a request from outside, told from its environ when somebody asks."""

    __slots__ = ("_environ", "_path")

    def __init__(self, app: Any, environ: Environ) -> None:
        """*app*: the `PulseMiddleware`. Every request pays for this."""
        self.app = app
        self._environ = environ
        # Now, since the application may shift the path, or clear its environ.
        self._path = environ.get("PATH_INFO")

    @property
    def session(self) -> "UserSession | None":  # type: ignore[override]
        """What the session layer has left in the environ."""
        return self._environ.get(SESSION)

    @property
    def render(self) -> None:  # type: ignore[override]
        """None: a request has no viewer's connection, until somebody enters one by `update`."""

    @property
    def route(self) -> RouteContext:  # type: ignore[override]
        """What is requested."""
        return RouteContext.of(self._text(), getattr(getattr(self.app, "config", None), "context", ""), None)

    def covers(self, environ: Environ) -> bool:
        """Whether *environ* is that of the same request, one Pulse further in."""
        info = self._environ.get(INFO)
        return environ is self._environ or (info is not None and environ.get(INFO) is info)

    def _text(self) -> str:
        return (self._path or "").encode("latin-1", "replace").decode("utf-8", "replace")  # see PEP 3333


class RunContext(RequestContext):
    """The context of the internal request of a run."""

    __slots__ = ("_context", "_run")

    def __init__(self, app: Any, environ: Environ, context: str, run: Run) -> None:
        """Note what is needed.

        Args:
            app: The `PulseMiddleware`, or the application itself where there is none.
            environ: Of the request.
            context: The base path of tasks.
            run: That the request belongs to.
        """
        self.app = app
        self._environ = environ
        self._path = environ["PATH_INFO"]
        self._context = context
        self._run = run

    @property
    def session(self) -> None:  # type: ignore[override]
        """None: nobody is there, though a session layer may have left a session in the environ."""

    @property
    def route(self) -> RouteContext:  # type: ignore[override]
        """What is requested."""
        return RouteContext.of(self._text(), self._context, self._run)


def entered(app: WsgiApp, middleware: object, environ: Environ, start_response: StartResponse) -> Any:
    """The response of *app* to a request, in whose context it is made.

    A list, and the server's own file wrapper, are given back as they are. Any other body
    is wrapped so that the context is active while it is read and closed, and it is closed
    once. What an asynchronous application gives back is awaited in the context.

    Args:
        app: The wrapped application.
        middleware: The `PulseMiddleware`; a Pulse further out stays the `app` of the context.
        environ: Of the request.
        start_response: Of the server.
    """
    outer = active()
    if outer is not None and isinstance(outer, RequestContext) and outer.covers(environ):
        return app(environ, start_response)
    token = activate(RequestContext(middleware, environ))
    try:
        body = app(environ, start_response)
        return body if type(body) is list else _held(body, environ)
    finally:
        restore(token)


def is_file(body: object, environ: Environ) -> bool:
    """Whether *body* is what the server's file wrapper made, which it can send by other means."""
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type):
        return isinstance(body, wrapper)
    return wrapper is not None and hasattr(body, "read")  # uWSGI's is a function that gives the file itself


def _held(body: Any, environ: Environ) -> Any:
    """*body*, read in the context that is active now."""
    if isinstance(body, list | tuple | asyncio.Future) or is_file(body, environ):
        return body
    if hasattr(body, "__await__"):
        return _awaited(PulseContext.get(), body, environ)
    if not hasattr(body, "__iter__"):
        return _AsyncSteps(active(), body) if hasattr(body, "__aiter__") else body
    if hasattr(body, "__aiter__"):
        return _EitherSteps(body)
    return _SizedSteps(body) if hasattr(body, "__len__") else _Steps(body)


async def _awaited(context: PulseContext, answer: Awaitable[Any], environ: Environ) -> Any:
    with context:
        return _held(await answer, environ)


def _has_code(chunk: object) -> bool:
    """Whether *chunk* is to be awaited and something is run by that; a future's own code is run elsewhere."""
    return hasattr(chunk, "__await__") and not isinstance(chunk, asyncio.Future)


async def _awaited_chunk(context: PulseContext | None, chunk: Awaitable[T]) -> T:
    outside = _move_to((context, None))
    try:
        return await chunk
    finally:
        _move_to(outside)


def _move_to(place: "_Place") -> "_Place":
    """Make *place* that where the code is which runs now; where it was before."""
    before = active(), _entered.get()
    activate(place[0])
    _entered.set(place[1])
    return before


class _Steps:
    """A body, each step of which is made in the context in which the body was.

    In a copy of it and not around the step: who reads a body may be another thread than
    made the call, and what one step enters may be left in a later one.
    """

    __slots__ = ("_body", "_chunks", "_close", "_context")

    def __init__(self, body: Any) -> None:
        self._context: Context = copy_context()
        self._body = body
        self._chunks: Callable[[], Any] | None = None
        self._close: Callable[[], object] | None = getattr(body, "close", None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._chunks is None:
            self._chunks = self._context.run(iter, self._body).__next__
        chunk = self._context.run(self._chunks)
        if type(chunk) is bytes or not _has_code(chunk):
            return chunk
        return _awaited_chunk(self._context.run(active), chunk)

    def close(self) -> None:
        """Close the body; once, however often this is called."""
        close, self._close = self._close, None
        if close is not None:
            self._context.run(close)


class _SizedSteps(_Steps):
    """The same for a body whose length says how many chunks there are, which servers ask for."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)


class _EitherSteps(_Steps):
    """The same for a body that can also be read by `async for`."""

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[Any]:
        return _AsyncSteps(self._context.run(active), self._body)


class _AsyncSteps:
    """An asynchronous body, each step of which begins where the one before has ended.

    Not each in the context anew: what a step enters would not be active in the next one,
    though it is still inside of its `with`.
    """

    __slots__ = ("_body", "_chunks", "_inside")

    def __init__(self, context: PulseContext | None, body: Any) -> None:
        self._inside: _Place = context, None
        self._body: Any = body
        self._chunks: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        outside = _move_to(self._inside)
        try:
            if self._chunks is None:
                self._chunks = aiter(self._body)
            chunk = await anext(self._chunks)
            if type(chunk) is bytes or not _has_code(chunk):
                return chunk
            return _awaited_chunk(active(), chunk)
        finally:
            self._inside = _move_to(outside)

    async def aclose(self) -> None:
        """Close the body; once, however often this is called."""
        body, self._body = self._body, None
        close = getattr(body, "aclose", None) or getattr(body, "close", None)
        if close is not None:
            outside = _move_to(self._inside)
            try:
                ended = close()
                if hasattr(ended, "__await__"):
                    await ended
            finally:
                _move_to(outside)
