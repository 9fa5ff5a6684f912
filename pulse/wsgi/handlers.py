"""`WsgiHandler`: a list of middleware of which the first that answers is the application."""

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Final, ParamSpec

from webob import Response

from pulse.errors import ResponseError
from pulse.gateway import Environ, StartResponse
from pulse.loop import immediate
from pulse.wsgi.bridge.answer import close, is_whole, readable
from pulse.wsgi.chunks import begun, closed_once, either, followed
from pulse.wsgi.response import WsgiResponse, error_response

P = ParamSpec("P")
Headers = list[tuple[str, str]]

# What WebOb looks up to send a response; an environ that was made by hand may lack all of it.
_LEAST: Final = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "wsgi.url_scheme": "http",
}


def _with_one_flag(init: Callable[P, None]) -> Callable[P, None]:
    """*init* of a handler, refused where both names of the flag are given and contradict each other."""

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        # Here, since inside a flag that was left out cannot be told from its default.
        for flag in (*args[3:4], *(kwargs[name] for name in ("async_",) if name in kwargs)):
            if bool(kwargs.get("async", flag)) != bool(flag):
                raise TypeError(f"WsgiHandler got async = {kwargs['async']!r} and async_ = {flag!r}: want one of them")
        init(*args, **kwargs)

    return checked


class WsgiHandler:
    """A handler that tries one middleware after the other; what first is not None is the response.

    A middleware is a WSGI application that may decline by giving back None. It gives back
    an iterable, or a `WsgiResponse`; and if the handler is asynchronous, it may be a
    coroutine function, or give back a Future. If none answers it is 404; what a middleware
    raises becomes an error response, `webob.exc` and others that carry a status with that.

    A response middleware is called as `f(environ, response)` with the `WsgiResponse`; it
    may change that, or give back another, or an awaitable.

    Attributes:
        middleware: The applications to try, in order.
        response_middleware: What is done to each response, in order.
        async_: Whether a call gives back an awaitable. If not, this is a WSGI application like any other.
    """

    @_with_one_flag
    def __init__(
        self,
        middleware: Iterable[Callable[..., Any]] | None = None,
        response_middleware: Iterable[Callable[..., Any]] | None = None,
        async_: bool = True,  # noqa: FBT001, FBT002 - positional in the specification
        **reserved: bool,
    ) -> None:
        """Wire the handler.

        Args:
            middleware: The applications to try.
            response_middleware: What to do to their responses.
            async_: Whether to await; also as `**{"async": False}`, which is its name elsewhere.
            **reserved: That name, which has become a keyword of the language.

        Raises:
            TypeError: another keyword was given, both names of the flag contradict each other, or a text
                stands for a list.
        """
        self.middleware = _listed("middleware", middleware)
        self.response_middleware = _listed("response_middleware", response_middleware)
        self.async_ = bool(reserved.pop("async", async_))
        if reserved:
            raise TypeError(f"WsgiHandler got an unexpected keyword argument {next(iter(reserved))!r}")

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        """The response to one request: an iterable, or if the handler is asynchronous an awaitable of one."""
        answering = self._answer(environ, _Start(start_response))
        return answering if self.async_ else immediate(answering)

    async def _answer(self, environ: Environ, start: "_Start") -> Any:
        """The whole course, for both kinds of handler: in a synchronous one nothing is ever awaited."""
        exc_info: Any = None
        try:
            body = await self._first_answer(environ, start)
        # Nothing was sent yet: it becomes the response.
        except Exception as error:  # noqa: BLE001 - see above; error_response logs it
            body, exc_info = error_response(error), sys.exc_info()
        try:
            if self.response_middleware or isinstance(body, Response):
                body = start.send(await self._changed(environ, start, body), environ, exc_info)
        except Exception as error:  # noqa: BLE001 - the same
            body = start.send(error_response(error), environ, sys.exc_info())
        finally:
            exc_info = None  # or the frame and the traceback keep each other alive
        return either(body) if self.async_ else body

    async def _first_answer(self, environ: Environ, start: "_Start") -> Any:
        call = start.hold if self.response_middleware else start.forward
        for middleware in self.middleware:
            answer = await self._value(middleware(environ, call))
            if isinstance(answer, Response):
                return answer
            if answer is not None:
                return self._own_kind(readable(answer))
        return error_response(404)

    async def _changed(self, environ: Environ, start: "_Start", body: Any) -> Response:
        """What the response middleware make of *body*."""
        try:
            response = await self._response(environ, start, body)
            if not self.response_middleware:
                return response
            content = response.app_iter
            body = closed_once(content)  # as WebOb closes what it reads, and so may who puts another in its place
            _set_content(response, body)
            for change in self.response_middleware:
                other = await self._value(change(environ, response))
                response = response if other is None else other
            await _see_closed(response, body, content)
        except BaseException:
            await close(body)
            raise
        return response

    async def _response(self, environ: Environ, start: "_Start", body: Any) -> Response:
        if isinstance(body, WsgiResponse) or (isinstance(body, Response) and not self.response_middleware):
            return body
        if isinstance(body, Response):  # plain WebOb, whose exceptions make their body when they are called
            start.head = None
            body = body(_complete(environ), start.hold)
        if start.head is None or start.written:
            body = await begun(body, start.written)
        if start.head is None:
            raise ResponseError("a middleware answered and never called start_response (PEP 3333)")
        status, headers = start.head
        return WsgiResponse(status=status, headerlist=headers, app_iter=body)

    def _own_kind(self, body: Any) -> Any:
        if not (self.async_ or hasattr(body, "__iter__")):
            raise TypeError(f"a middleware gave back a {type(body).__name__}, and the handler has async_ = False")
        return body

    async def _value(self, value: Any) -> Any:
        while hasattr(value, "__await__"):
            if not self.async_:
                if inspect.iscoroutine(value):
                    value.close()
                raise TypeError(f"a middleware gave back a {type(value).__name__}, and the handler has async_ = False")
            value = await value
        return value


class _Start:
    """The `start_response` of one request, from the middleware on its way to the server."""

    def __init__(self, start_response: StartResponse) -> None:
        self.head: tuple[str, Headers] | None = None  # that is held for the response middleware
        self.written: list[bytes] = []
        self._start_response = start_response
        self._is_sent = False

    def forward(self, status: str, headers: Headers, *exc_info: Any) -> Callable[[bytes], object]:
        """For middleware whose response nobody changes."""
        write: Callable[[bytes], object] = self._start_response(status, headers, *exc_info)
        self._is_sent = True
        return write

    def hold(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        """For middleware whose response is to be changed before it is sent."""
        if self._is_sent:
            return self.forward(status, headers, exc_info)  # which raises: it is too late
        if self.head is not None and exc_info is None:
            raise ResponseError("start_response was called twice without exc_info (PEP 3333)")
        self.head = status, list(headers)
        return self.written.append

    def send(self, response: Response, environ: Environ, exc_info: Any) -> Any:
        """Send the head of *response*, in place of one that was sent before; its body."""

        def start_response(status: str, headers: Headers) -> Callable[[bytes], object]:
            # A server refuses a second head that comes without the error which is the reason for it.
            return self.forward(status, headers, *([exc_info] if self._is_sent else []))

        content = getattr(response, "app_iter", None)  # any application may have taken its place
        body = response(_complete(environ), start_response)
        # To a HEAD WebOb answers with nothing, and closes in the end what has a `close`: no asynchronous body has.
        is_left = body is not content and hasattr(content, "aclose") and not hasattr(content, "__iter__")
        return followed((), closed_once(content)) if is_left else body


async def _see_closed(response: Response, body: Any, content: Any) -> None:
    """See to it that *body*, which closes *content* once, is closed where response middleware have put another."""
    if body is content or not isinstance(response, Response):
        return  # it cannot be closed; or an application has taken its place, and may read it when it is called
    if response.app_iter is body:
        _set_content(response, content)  # as it was: servers know their own kinds, such as files
    elif is_whole(response.app_iter):
        await close(body)
    else:
        _set_content(response, followed(response.app_iter, body))


def _set_content(response: Response, content: Any) -> None:
    """Set the body of *response*, of the same bytes as before: WebOb would remove its Content-Length."""
    length = response.content_length
    response.app_iter = content
    response.content_length = length


def _listed(name: str, functions: Iterable[Callable[..., Any]] | None) -> list[Callable[..., Any]]:
    if isinstance(functions, str | bytes):  # whose letters would fail one by one, at each request
        raise TypeError(f"{name}: want functions in a list, not {type(functions).__name__}")
    return [] if functions is None else list(functions)


def _complete(environ: Environ) -> Environ:
    """*environ* for WebOb: a copy with what it lacks."""
    return environ if environ.keys() >= _LEAST.keys() else {**_LEAST, **environ}
