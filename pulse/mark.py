"""The mark: what proves that a request is internal, and who may ask for it.

An internal request is proved by an object, never by a string: a `Mark` in `environ` that
lives as long as its run. HTTP and every gateway make strings only, so nobody outside the
process can send one. `internal_only` asks for it at the endpoint, which is the one line of
defence that also closes redirects inside the application and routers nobody has heard of.
"""

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from datetime import datetime
from functools import partial, wraps
from itertools import pairwise
from types import GeneratorType
from typing import Any, Final, NoReturn, ParamSpec, TypeGuard, TypeVar, cast, final, overload

from pulse.errors import NotInternalError
from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.model import Trigger

P = ParamSpec("P")
T = TypeVar("T")

INTERNAL: Final = "pulse.internal"

_SEAL: Final = object()


@final
class Mark:
    """The proof that a request is internal: made for one run, and worth nothing after it.

    For whoever sends internal requests: `environ[INTERNAL] = mark`, within `acting_for(mark)`.

    Attributes:
        task: The name of the task; empty for a call by hand, as tasks may share a path.
        due: The planned instant, aware UTC; of a call by hand, the instant of the call.
        trigger: Why it runs.
        path: The path that is requested.
        live: Whether the run still lasts. A dead mark proves nothing, wherever it was kept.
    """

    __slots__ = ("_seal", "due", "live", "path", "task", "trigger")

    def __init__(self, *, task: str, due: datetime, trigger: Trigger, path: str) -> None:
        self._seal = _SEAL
        self.task = task
        self.due = due
        self.trigger = trigger
        self.path = path
        self.live = True

    def __reduce__(self) -> NoReturn:
        # Also what copy and deepcopy ask: a second one would outlive the run of the first.
        raise TypeError("a mark can be neither copied nor pickled: it is worth something in its own run only")

    def __repr__(self) -> str:
        return "<internal request of Pulse>"  # environs are printed by debug pages


class acting_for:  # noqa: N801 - it reads as what it does: `with acting_for(mark)`
    """For one run: inside, `internal_only` lets this thread or task pass; at the end *mark* dies.

    The request has to be sent, its response read and closed inside.
    """

    __slots__ = ("_mark", "_token")

    def __init__(self, mark: Mark) -> None:
        self._mark = mark

    def __enter__(self) -> None:
        self._token = begin_acting(self._mark)

    def __exit__(self, *_: object) -> None:
        end_acting(self._mark, self._token)


def is_internal(environ: Mapping[str, Any]) -> bool:
    """Whether *environ* is that of a run that still lasts, or of a call by hand with the token."""
    return _is_genuine(environ.get(INTERNAL))


@overload
def internal_only(endpoint: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def internal_only(*, otherwise: Callable[..., Any] | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
def internal_only(endpoint: Callable[..., Any] | None = None, /, *, otherwise: Callable[..., Any] | None = None) -> Any:
    """*endpoint*, for runs of Pulse only: a decorator for every framework.

    It takes WSGI applications, views with any arguments, methods, generator functions and
    coroutine functions. Calls are judged when they are made, those of a coroutine function
    when they are awaited. Outsiders get the answer of *otherwise*, called with the same
    arguments; without it, the 404 of the guard where the arguments are those of a WSGI
    application, and else the error.

    Raises:
        NotInternalError: (a PermissionError) when called, by an outsider.
    """
    if endpoint is None:
        return partial(internal_only, otherwise=otherwise)
    turn_away = partial(_turn_away, endpoint, otherwise)

    @wraps(endpoint)
    def checked(*args: Any, **kwargs: Any) -> Any:
        mark = _mark_of_caller(args)
        if mark is None:
            return turn_away(args, kwargs)
        with _marked(mark):
            answer = endpoint(*args, **kwargs)
        return _MarkedSteps(mark, answer) if isinstance(answer, GeneratorType) else answer

    @wraps(endpoint)
    async def checked_coroutine(*args: Any, **kwargs: Any) -> Any:
        mark = _mark_of_caller(args)
        if mark is not None:
            with _marked(mark):
                return await endpoint(*args, **kwargs)
        answer = turn_away(args, kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    door: Any = checked_coroutine if inspect.iscoroutinefunction(endpoint) else checked
    if (signature := _signature_of(endpoint)) is not None:
        # Pyramid asks how many arguments a view takes, and does not look below decorators for the answer.
        door.__signature__ = signature
    return door


def _signature_of(endpoint: Callable[..., Any]) -> inspect.Signature | None:
    """What *endpoint* takes; None where nobody can say, or where it takes something else than what it decorates."""
    for is_evaluated in (True, False):
        # An annotation may be any text; it may name what is defined below, or for type checkers only.
        with suppress(Exception):
            own = inspect.signature(endpoint, follow_wrapped=False)
            signature = inspect.signature(endpoint, eval_str=is_evaluated)
            return signature if own.parameters.keys() == signature.parameters.keys() else None
    return None


_acting: ContextVar[Mark | None] = ContextVar("pulse_internal", default=None)
begin_acting = _acting.set  # `acting_for` in two steps, which take half as long: `token = begin_acting(mark)`


def end_acting(mark: Mark, token: Token[Mark | None]) -> None:
    """*mark* is dead, and what `begin_acting` has begun is over."""
    mark.live = False
    _acting.reset(token)


def _is_genuine(mark: object) -> TypeGuard[Mark]:
    # By type and identity: an object that compares equal to anything must not pass.
    return type(mark) is Mark and getattr(mark, "_seal", None) is _SEAL and mark.live


@contextmanager
def _marked(mark: Mark) -> Iterator[None]:
    token = _acting.set(mark)
    try:
        yield
    finally:
        _acting.reset(token)


def _mark_of_caller(args: tuple[Any, ...]) -> Mark | None:
    """The mark that an endpoint is called under: that of the context, or of the environ in *args*."""
    mark = _acting.get()
    if not _is_genuine(mark) and (call := _wsgi_call(args)):
        mark = call[0].get(INTERNAL)
    return mark if _is_genuine(mark) else None


def _wsgi_call(args: tuple[Any, ...]) -> tuple[Environ, StartResponse] | None:
    """The environ and `start_response` of a call to a WSGI application, or to one that is a method."""
    for environ, start_response in pairwise(args[:3]):
        if isinstance(environ, dict) and "REQUEST_METHOD" in environ and callable(start_response):
            return environ, start_response
    return None


def _turn_away(
    endpoint: Callable[..., Any],
    otherwise: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if otherwise is not None:
        return otherwise(*args, **kwargs)
    call = _wsgi_call(args)
    if call is None:
        raise NotInternalError(getattr(endpoint, "__qualname__", type(endpoint).__qualname__))
    return not_found(*call)


def not_found(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The one answer to all outsiders: 404, the same bytes whatever the reason; no body for HEAD."""
    # Lists made anew each time: layers outside may append to those that they are given.
    body = b"Not Found\n"
    headers = [
        ("Content-Type", "text/plain; charset=UTF-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    start_response("404 Not Found", headers)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


class _MarkedSteps(Generator[Any, Any, Any]):
    """*steps*, each under *mark*: whoever reads a body may be another thread than made the call."""

    def __init__(self, mark: Mark, steps: Generator[Any, Any, Any]) -> None:
        self._mark = mark
        self._steps = steps

    def send(self, value: Any, /) -> Any:
        with _marked(self._mark):
            return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        with _marked(self._mark):
            return self._steps.throw(*error)


def run_by_hand(mark: Mark, app: WsgiApp, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The response of *app* to a call by hand: internal until it is exhausted or closed."""
    try:
        with _marked(mark):
            return cast("Iterable[bytes]", _held(mark, app(environ, start_response)))
    except BaseException:
        mark.live = False
        raise


def _held(mark: Mark, answer: Any) -> Any:
    """*answer*: what of it is still to be run will be run under *mark*, which dies behind that."""
    if inspect.isawaitable(answer):
        return _await_by_hand(mark, answer)
    is_whole = isinstance(answer, list | tuple | bytes | str) and not any(map(inspect.isawaitable, answer))
    if not is_whole and hasattr(answer, "__iter__"):
        return _ByHand(mark, answer)
    if hasattr(answer, "__aiter__"):
        return _ByHandOnLoop(mark, answer)
    mark.live = False
    return answer  # a list as it is: servers ask for its length


async def _await_by_hand(mark: Mark, response: Awaitable[Any]) -> Any:
    try:
        with _marked(mark):
            return _held(mark, await response)
    except BaseException:
        mark.live = False
        raise


async def _await_piece(mark: Mark, piece: Awaitable[Any]) -> Any:
    with _marked(mark):
        return await piece


class _ByHand:
    """The response to a call by hand: its body is made under *mark*, which dies with it."""

    def __init__(self, mark: Mark, response: Iterable[Any]) -> None:
        self._mark = mark
        self._pieces = iter(response)
        self._close = getattr(response, "close", None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            with _marked(self._mark):
                piece = next(self._pieces)
        except BaseException:  # its end, or an error that is the server's to deal with
            self._mark.live = False
            raise
        return _await_piece(self._mark, piece) if inspect.isawaitable(piece) else piece

    def close(self) -> None:
        """End the run; the response is closed once, however often this is called."""
        close, self._close = self._close, None
        try:
            if close is not None:
                with _marked(self._mark):
                    close()
        finally:
            self._mark.live = False


class _ByHandOnLoop:
    """The same for a body that is read by `async for`."""

    def __init__(self, mark: Mark, response: AsyncIterable[Any]) -> None:
        self._mark = mark
        self._pieces = aiter(response)
        self._close: Callable[[], Any] | None = getattr(response, "aclose", None) or getattr(response, "close", None)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            with _marked(self._mark):
                piece = await anext(self._pieces)
        except BaseException:  # as above
            self._mark.live = False
            raise
        return _await_piece(self._mark, piece) if inspect.isawaitable(piece) else piece

    async def aclose(self) -> None:
        """As `_ByHand.close`."""
        close, self._close = self._close, None
        try:
            if close is not None:
                with _marked(self._mark):
                    ended = close()
                    if inspect.isawaitable(ended):
                        await ended
        finally:
            self._mark.live = False
