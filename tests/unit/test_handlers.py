"""WsgiHandler: who answers, what may be awaited, and what becomes of the response."""

import asyncio
import gzip
import inspect
import pickle
from asyncio import Future
from functools import partial
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from webob import Response
from webob.exc import HTTPForbidden, HTTPFound

from pulse.wsgi import AccessControl, GZip, LazyWsgi, WsgiHandler, WsgiResponse
from pulse.wsgi.bridge.answer import close
from pulse.wsgi.response import error_response

TEXT = [("Content-Type", "text/plain")]


class Call:
    """One call of a handler: the body in one piece, and what `start_response` was told."""

    def __init__(self, handler, **environ):
        self.environ = {"QUERY_STRING": "", **environ}
        setup_testing_defaults(self.environ)
        self.starts = []
        self.written = []
        self.answer = handler(self.environ, self.start)
        self.chunks = asyncio.run(self.read()) if inspect.isawaitable(self.answer) else list(self.answer)
        self.body = b"".join([*self.written, *self.chunks])

    def start(self, status, headers, exc_info=None):
        self.starts.append((status, headers))
        self.exc_info = exc_info
        return self.written.append

    async def read(self):
        self.answer = await self.answer
        chunks = [chunk async for chunk in self.answer]
        if hasattr(self.answer, "close"):
            self.answer.close()
        return chunks

    @property
    def status(self):
        assert len(self.starts) == 1
        return self.starts[0][0]

    @property
    def headers(self):
        return dict(self.starts[-1][1])


def simple_async():
    yield b"hello"
    c = Future()
    c.set_result(b" ")
    yield c
    yield b"World!"


def page(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"page"]


def declines(environ, start_response):
    return None


async def async_page(environ, start_response):
    await asyncio.sleep(0)
    return page(environ, start_response)


async def async_declines(environ, start_response):
    await asyncio.sleep(0)


def future_page(environ, start_response):
    answer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(answer.set_result, page(environ, start_response))
    return answer


async def generator_page(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"pa"
    await asyncio.sleep(0)
    yield b"ge"


def lazy_page(environ, start_response):
    """Calls `start_response` in its first step."""
    write = start_response("200 OK", TEXT)
    write(b"p")
    yield b"a"
    yield b"ge"


def test_the_sample_of_an_asynchronous_iterable():
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return simple_async()

    assert Call(WsgiHandler([app])).body == b"hello World!"


def test_the_arguments_may_be_any_iterables_and_the_flag_is_the_third():
    handler = WsgiHandler(iter([page]), (change for change in [print]), False)

    assert (handler.middleware, handler.response_middleware, handler.async_) == ([page], [print], False)
    assert (WsgiHandler().middleware, WsgiHandler().response_middleware, WsgiHandler().async_) == ([], [], True)


def test_the_flag_has_its_old_name_too():
    assert WsgiHandler(middleware=None, response_middleware=None, **{"async": False}).async_ is False
    assert WsgiHandler(**{"async": True}).async_ is True
    assert WsgiHandler(async_=False).async_ is False
    with pytest.raises(TypeError, match="'asink'"):
        WsgiHandler(asink=True)


def test_a_synchronous_handler_is_a_plain_wsgi_application():
    handler = WsgiHandler([declines, page], async_=False)
    starts = []

    body = validator(handler)(Call(page).environ, lambda *start: starts.append(start) or (lambda chunk: None))

    assert list(body) == [b"page"]
    body.close()
    assert starts == [("200 OK", TEXT)]


def test_a_synchronous_handler_gives_back_what_the_middleware_did():
    body = [b"x"]

    assert Call(WsgiHandler([lambda *_: body], async_=False)).answer is body


@pytest.mark.parametrize("middleware", [async_page, generator_page])
def test_a_synchronous_handler_cannot_wait(middleware, caplog):
    call = Call(WsgiHandler([middleware], async_=False))

    assert call.status == "500 Internal Server Error"
    assert "async_ = False" in caplog.text


def test_an_asynchronous_handler_gives_an_awaitable_of_an_asynchronous_iterable():
    async def main():
        answer = WsgiHandler([page])({}, lambda *_: None)
        assert inspect.isawaitable(answer)
        body = await answer
        return body, [chunk for chunk in body], [chunk async for chunk in body]  # noqa: C416

    body, chunks, awaited = asyncio.run(main())
    assert body == chunks == awaited == [b"page"]


@pytest.mark.parametrize("middleware", [page, async_page, future_page, generator_page, partial(page), lazy_page])
def test_a_middleware_may_answer_in_any_way(middleware):
    call = Call(WsgiHandler([declines, async_declines, middleware, pytest.fail]))

    assert (call.status, call.body) == ("200 OK", b"page")


@pytest.mark.parametrize("empty", [[], ()])
@pytest.mark.parametrize("is_async", [True, False])
def test_only_none_passes_on(empty, is_async):
    def answers(environ, start_response):
        start_response("204 No Content", [])
        return empty

    call = Call(WsgiHandler([answers, page], async_=is_async))

    assert (call.status, call.body) == ("204 No Content", b"")


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("middleware", [[], [declines]])
@pytest.mark.parametrize("changes", [[], [lambda environ, response: None]])
def test_if_none_answers_it_is_not_found(is_async, middleware, changes):
    call = Call(WsgiHandler(middleware, changes, is_async))

    assert (call.status, call.body) == ("404 Not Found", b"Not Found\n")


class TeapotError(Exception):
    status_code = 418


class OddError(Exception):
    status = 599
    code = "x"


class FalconError(Exception):
    status = "409 Conflict"


class BareError(Exception):
    code = "410"


class DatabaseError(Exception):
    code = "40001"


class FineError(Exception):
    status = 200


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("changes", [[], [lambda environ, response: None]])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("secret"), 500), (HTTPForbidden(), 403), (HTTPFound(location="/x"), 302), (TeapotError("secret"), 418),
        (OddError("secret"), 599), (FineError("secret"), 500), (FalconError("secret"), 409), (BareError("secret"), 410),
        (DatabaseError("secret"), 500),
    ],
)  # fmt: skip
def test_an_error_becomes_a_response_of_its_status(is_async, changes, error, status, caplog):
    def fails(environ, start_response):
        raise error

    call = Call(WsgiHandler([fails, page], changes, is_async))

    assert call.status.startswith(f"{status} ")
    assert b"secret" not in call.body
    assert bool(caplog.records) == (status >= 500)


def test_a_type_error_in_an_awaited_middleware_is_an_error():
    async def fails(environ, start_response):
        await asyncio.sleep(0)
        raise TypeError("secret")

    assert Call(WsgiHandler([fails, page])).status == "500 Internal Server Error"


def test_an_error_after_the_head_replaces_it_with_its_reason():
    def fails(environ, start_response):
        start_response("200 OK", TEXT)
        raise ValueError("x")

    call = Call(WsgiHandler([fails]))

    assert [status for status, _ in call.starts] == ["200 OK", "500 Internal Server Error"]
    assert call.exc_info[0] is ValueError
    assert Call(WsgiHandler([fails], [lambda environ, response: None])).status == "500 Internal Server Error"


@pytest.mark.parametrize("answer", ["text", b"bytes", 5, {}])
def test_an_answer_that_is_no_iterable_of_bytes_is_an_error(answer):
    assert Call(WsgiHandler([lambda *_: answer])).status == "500 Internal Server Error"


# Response middleware


@pytest.mark.parametrize("is_async", [True, False])
def test_a_response_middleware_changes_the_response(is_async):
    def f(environ, response):
        assert isinstance(response, WsgiResponse)
        assert (response.status_code, response.status) == (200, "200 OK")
        assert (response.content_type, response.content) == ("text/plain", b"page")
        response.status_code = 201
        response.headers["X-Path"] = environ["PATH_INFO"]
        response.content = response.content.upper()

    def g(environ, response):
        assert response.content == b"PAGE"
        response.content = "söme text"

    call = Call(WsgiHandler([page], [f, g], is_async))

    assert (call.status, call.body.decode()) == ("201 Created", "söme text")
    assert (call.headers["X-Path"], call.headers["Content-Length"]) == ("/", str(len(call.body)))


@pytest.mark.parametrize("middleware", [page, async_page, future_page, generator_page, lazy_page])
def test_whatever_the_middleware_the_response_can_be_changed(middleware):
    def change(environ, response):
        response.headers["X-Changed"] = "yes"

    call = Call(WsgiHandler([middleware], [change]))

    assert (call.status, call.body, call.headers["X-Changed"]) == ("200 OK", b"page", "yes")


@pytest.mark.parametrize("is_async", [True, False])
def test_what_was_written_stays_in_front_of_a_changed_response(is_async):
    def writes(environ, start_response):
        start_response("200 OK", TEXT)(b"pa")
        return [b"ge"]

    call = Call(WsgiHandler([writes], [lambda environ, response: None], is_async))

    assert (call.status, call.body, call.written) == ("200 OK", b"page", [])


def test_a_response_middleware_may_give_another_response_or_an_awaitable():
    other = WsgiResponse("other")

    async def replaces(environ, response):
        await asyncio.sleep(0)
        return other

    async def keeps(environ, response):
        assert response is other

    assert Call(WsgiHandler([page], [replaces, keeps])).body == b"other"


@pytest.mark.parametrize("is_async", [True, False])
def test_a_response_middleware_may_give_any_application(is_async):
    def other(environ, start_response):
        start_response("203 Other", TEXT)
        return [b"other"]

    call = Call(WsgiHandler([answers([b"x"], is_response=False)], [lambda environ, response: other], is_async))

    assert (call.status, call.body) == ("203 Other", b"other")


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("changes", [[], [lambda environ, response: None]])
@pytest.mark.parametrize("response", [WsgiResponse("x", status=202), Response("x", status=202)])
def test_a_middleware_may_give_a_response(is_async, changes, response):
    call = Call(WsgiHandler([lambda *_: response], changes, is_async))

    assert (call.status, call.body) == ("202 Accepted", b"x")


def test_the_content_of_a_response_may_be_asynchronous():
    async def chunks():
        yield b"a"
        yield b"b"

    def middleware(environ, start_response):
        response = WsgiResponse(content_type="text/plain")
        response.content = chunks()
        return response

    def change(environ, response):
        assert not isinstance(response.content, bytes)

    assert Call(WsgiHandler([middleware], [change])).chunks == [b"a", b"b"]


def test_a_failing_response_middleware_is_an_error_and_closes_the_body():
    class Body:
        closed = 0

        def __iter__(self):
            return iter([b"x"])

        def close(self):
            self.closed += 1

    def middleware(environ, start_response):
        start_response("200 OK", TEXT)
        return body

    body = Body()
    call = Call(WsgiHandler([middleware], [lambda environ, response: 1 / 0]))

    assert (call.status, body.closed) == ("500 Internal Server Error", 1)


@pytest.mark.parametrize("changes", [[], [lambda environ, response: None]])
def test_a_body_is_closed_once(changes):
    class Body:
        closed = 0

        def __iter__(self):
            return iter([b"x"])

        def close(self):
            self.closed += 1

    def middleware(environ, start_response):
        start_response("200 OK", TEXT)
        return body

    body = Body()
    call = Call(WsgiHandler([middleware], changes))
    call.answer.close()

    assert (call.body, body.closed) == (b"x", 1)


class Closed:
    """A body that counts how often it is closed."""

    def __init__(self):
        self.closed = 0

    def __iter__(self):
        return iter([b"x"])

    def close(self):
        self.closed += 1


class AsyncClosed:
    """The same, to be read by `async for`."""

    def __init__(self):
        self.closed = 0

    async def __aiter__(self):
        yield b"x"

    async def aclose(self):
        self.closed += 1


def puts_text(environ, response):
    response.content = "other"


def gives_text(environ, response):
    return WsgiResponse("other")


def reads_it(environ, response):
    response.body = response.body.upper()


def wraps_it(environ, response):
    content = response.content
    response.content = (chunk.upper() for chunk in content)


def wraps_and_closes_it(environ, response):
    def chunks(content):
        try:
            yield from (chunk.upper() for chunk in content)
        finally:
            content.close()

    response.content = chunks(response.content)


def awaits_it(environ, response):
    async def chunks(content):
        async for chunk in content:
            yield chunk.upper()

    return WsgiResponse(app_iter=chunks(response.content))


def streams_another(environ, response):
    return WsgiResponse(app_iter=(chunk for chunk in [b"other"]))


def fails_behind(environ, response):
    response.content = "other"
    raise LookupError


def answers(body, *, is_response):
    """A middleware that answers *body*."""

    def middleware(environ, start_response):
        if is_response:
            return WsgiResponse(app_iter=body, content_length=1)
        start_response("200 OK", [*TEXT, ("Content-Length", "1")])
        return body

    return middleware


@pytest.mark.parametrize("is_response", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (puts_text, b"other"),
        (gives_text, b"other"),
        (reads_it, b"X"),
        (wraps_it, b"X"),
        (wraps_and_closes_it, b"X"),
        (streams_another, b"other"),
        (fails_behind, b"Internal Server Error\n"),
    ],
)
def test_a_body_that_a_response_middleware_replaces_is_closed_once(change, seen, is_async, is_response):
    body = Closed()

    call = Call(WsgiHandler([answers(body, is_response=is_response)], [change], is_async))
    asyncio.run(close(call.answer))

    assert (call.body, body.closed) == (seen, 1)


@pytest.mark.parametrize("is_response", [True, False])
@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (puts_text, b"other"),
        (gives_text, b"other"),
        (awaits_it, b"X"),
        (streams_another, b"other"),
        (fails_behind, b"Internal Server Error\n"),
    ],
)
def test_an_asynchronous_body_that_a_response_middleware_replaces_is_closed_once(change, seen, is_response):
    body = AsyncClosed()

    async def main():
        call = Call(page)
        answer = await WsgiHandler([answers(body, is_response=is_response)], [change])(call.environ, call.start)
        chunks = [chunk async for chunk in answer]
        await close(answer)
        return b"".join(chunks)

    assert (asyncio.run(main()), body.closed) == (seen, 1)


@pytest.mark.parametrize("changes", [[], [lambda environ, response: None]])
def test_an_asynchronous_body_of_which_only_the_head_is_wanted_is_closed_once(changes):
    body = AsyncClosed()
    handler = WsgiHandler([answers(body, is_response=True)], changes)

    async def main():
        call = Call(page)
        answer = await handler({**call.environ, "REQUEST_METHOD": "HEAD"}, call.start)
        chunks = [chunk async for chunk in answer]
        await close(answer)
        return chunks

    assert (asyncio.run(main()), body.closed) == ([], 1)


@pytest.mark.parametrize("is_response", [True, False])
def test_a_body_that_response_middleware_leave_alone_reaches_the_server_as_it_is(is_response):
    body = Closed()
    changes = [lambda environ, response: None]

    call = Call(WsgiHandler([answers(body, is_response=is_response)], changes, async_=False))

    assert call.answer is body
    assert call.headers["Content-Length"] == "1"


def test_a_late_error_of_a_changed_response_reaches_the_server():
    def middleware(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"half"
        start_response("500 Oops", [], (ValueError, ValueError("late"), None))

    def start_response(status, headers, exc_info=None):
        if exc_info:
            raise exc_info[1]

    async def main():
        body = await WsgiHandler([middleware], [lambda environ, response: None])(Call(page).environ, start_response)
        return [chunk async for chunk in body]

    with pytest.raises(ValueError, match="late"):
        asyncio.run(main())


def test_start_response_is_called_once_only(caplog):
    def middleware(environ, start_response):
        start_response("200 OK", TEXT)
        start_response("200 OK", TEXT)
        return []

    assert Call(WsgiHandler([middleware], [lambda environ, response: None])).status == "500 Internal Server Error"
    assert "twice" in caplog.text


def test_a_handler_with_picklable_middleware_pickles():
    handler = pickle.loads(pickle.dumps(WsgiHandler([declines, page], [GZip()])))

    assert Call(handler).body == b"page"


class Lazy(LazyWsgi):
    def setup(self, environ=None):
        return WsgiHandler([async_page])


def test_the_application_of_a_lazy_one_may_be_a_handler():
    lazy = Lazy()

    assert [Call(app).body for app in (lazy, pickle.loads(pickle.dumps(lazy)))] == [b"page"] * 2


# What is ready


def text_of(length, **facts):
    def middleware(environ, start_response):
        return WsgiResponse(b"x" * length, **{"content_type": "text/plain", **facts})

    return WsgiHandler([middleware], [GZip()])


def test_what_is_worth_it_is_compressed_for_those_who_ask():
    call = Call(text_of(5000, etag="abc"), HTTP_ACCEPT_ENCODING="br, gzip;q=0.5")

    assert gzip.decompress(call.body) == b"x" * 5000
    assert (call.headers["Content-Encoding"], call.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert (call.headers["Content-Length"], call.headers["ETag"]) == (str(len(call.body)), 'W/"abc"')


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "identity", "gzip;q=x"])
def test_others_get_it_as_it_is_and_caches_are_told(accepted):
    call = Call(text_of(5000), HTTP_ACCEPT_ENCODING=accepted)

    assert (call.body, call.headers["Vary"]) == (b"x" * 5000, "Accept-Encoding")
    assert "Content-Encoding" not in call.headers


@pytest.mark.parametrize(
    ("length", "facts"),
    [
        (10, {}),
        (5000, {"content_type": "image/png"}),
        (5000, {"content_encoding": "br"}),
        (5000, {"status": 206}),
        (5000, {"cache_control": "no-transform"}),
    ],
)
def test_what_is_not_worth_it_is_left_alone(length, facts):
    call = Call(text_of(length, **facts), HTTP_ACCEPT_ENCODING="gzip")

    assert (call.body, call.headers.get("Vary")) == (b"x" * length, None)


def test_a_stream_flows_on_uncompressed():
    async def middleware(environ, start_response):
        start_response("200 OK", TEXT)
        for _ in range(3):
            yield b"x" * 5000

    call = Call(WsgiHandler([middleware], [GZip()]), HTTP_ACCEPT_ENCODING="gzip")

    assert call.chunks == [b"x" * 5000] * 3
    assert "Vary" not in call.headers


def test_vary_keeps_what_stood_there():
    call = Call(text_of(5000, vary=["Cookie"]), HTTP_ACCEPT_ENCODING="gzip")

    assert call.headers["Vary"] == "Cookie, Accept-Encoding"


def test_every_origin_may_read_the_response():
    call = Call(WsgiHandler([page], [AccessControl()]), HTTP_ORIGIN="https://a.example")

    assert call.headers["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in call.headers


def test_named_origins_may_read_the_response():
    allow = AccessControl(["https://a.example"], credentials=True, expose=["X-A", "X-B"])

    one = Call(WsgiHandler([page], [allow]), HTTP_ORIGIN="https://a.example").headers
    two = Call(WsgiHandler([page], [allow]), HTTP_ORIGIN="https://b.example").headers

    assert one["Access-Control-Allow-Origin"] == "https://a.example"
    assert (one["Access-Control-Allow-Credentials"], one["Access-Control-Expose-Headers"]) == ("true", "X-A, X-B")
    assert "Access-Control-Allow-Origin" not in two
    assert one["Vary"] == two["Vary"] == "Origin"


def test_a_preflight_request_is_told_what_is_allowed():
    allow = AccessControl(methods=["PUT", "DELETE"], headers=["X-Token"], max_age=600)

    headers = Call(WsgiHandler([page], [allow]), REQUEST_METHOD="OPTIONS").headers

    assert headers["Access-Control-Allow-Methods"] == "PUT, DELETE"
    assert (headers["Access-Control-Allow-Headers"], headers["Access-Control-Max-Age"]) == ("X-Token", "600")
    assert "Access-Control-Allow-Methods" not in Call(WsgiHandler([page], [allow])).headers


def test_credentials_for_every_origin_are_refused():
    with pytest.raises(ValueError, match="origins by name"):
        AccessControl(credentials=True)


# An environ that has next to nothing in it


@pytest.mark.parametrize("environ", [{}, {"PATH_INFO": "/"}, {"REQUEST_METHOD": "GET"}])
@pytest.mark.parametrize("changes", [[], [lambda environ, response: None]])
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("middleware", "status"),
    [
        (lambda environ, start_response: None, "404 Not Found"),
        (lambda environ, start_response: 1 / 0, "500 Internal Server Error"),
        (lambda environ, start_response: WsgiResponse("x"), "200 OK"),
        (lambda environ, start_response: HTTPFound(location="elsewhere"), "302 Found"),
        (lambda environ, start_response: start_response("200 OK", TEXT) and [b"x"], "200 OK"),
    ],
)
def test_a_response_is_made_whatever_the_environ_lacks(environ, changes, is_async, middleware, status):
    async def awaited(answer):
        return await answer

    def start(status, headers, exc_info=None):
        starts.append(status)
        return [].append

    def noting(given, start_response):
        seen.append(given)
        return middleware(given, start_response)

    starts, seen, before = [], [], dict(environ)
    answer = WsgiHandler([noting], changes, is_async)(environ, start)
    body = asyncio.run(awaited(answer)) if is_async else answer

    assert starts == [status]
    assert isinstance(b"".join(body), bytes)
    assert environ == before
    assert seen[0] is environ


# What is refused


@pytest.mark.parametrize(
    "flags", [{"async": False, "async_": True}, {"async": True, "async_": False}, {"args": (False,), "async": True}]
)
def test_contradictory_flags_are_refused(flags):
    args = flags.get("args", ())
    with pytest.raises(TypeError, match="async"):
        WsgiHandler([], [], *args, **{name: flag for name, flag in flags.items() if name != "args"})


def test_the_flag_may_be_said_twice():
    assert WsgiHandler(**{"async": False, "async_": False}).async_ is False
    assert inspect.signature(WsgiHandler).parameters["async_"].default is True


@pytest.mark.parametrize("names", ["site.app", b"site.app", ""])
@pytest.mark.parametrize("which", ["middleware", "response_middleware"])
def test_a_text_is_no_list_of_middleware(which, names):
    with pytest.raises(TypeError, match=f"^{which}: want .*not {type(names).__name__}"):
        WsgiHandler(**{which: names})


def test_an_error_response_is_made_of_a_status_too():
    assert (error_response(503).status, error_response(503).body) == (
        "503 Service Unavailable",
        b"Service Unavailable\n",
    )
