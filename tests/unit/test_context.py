"""The runtime context: what is active where, and that a request enters it unseen."""

import asyncio
import gc
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from types import SimpleNamespace
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from pulse.context import PULSE_CONTEXT, PulseContext, RenderSession, RouteContext, RunContext, entered
from pulse.model import Run

APP = SimpleNamespace(config=SimpleNamespace(context="jobs"))


def environ_of(path: str = "/page", **more) -> dict:
    return {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "x",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": True,
        "wsgi.run_once": False, **more,
    }  # fmt: skip


def started(status, headers, exc_info=None):
    return lambda chunk: None


def call(app, environ=None):
    return entered(app, APP, environ_of() if environ is None else environ, started)


# The object


def test_a_context_is_active_inside_its_block():
    app, session = object(), object()

    ctx = PulseContext(app=app, session=session)
    with ctx:
        current = PulseContext.get()

    assert current is ctx
    assert (current.app, current.session, current.render, current.route) == (app, session, None, None)
    assert PULSE_CONTEXT.get() is None


def test_the_block_gives_the_context_and_lets_errors_through():
    ctx = PulseContext("app", "session", "render", "route")

    def fail():
        with ctx as given:
            assert given is ctx
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert PULSE_CONTEXT.get() is None
    assert (ctx.app, ctx.session, ctx.render, ctx.route) == ("app", "session", "render", "route")


def test_without_an_active_context_there_is_nothing_to_get_or_update():
    assert isinstance(PULSE_CONTEXT, ContextVar)
    with pytest.raises(RuntimeError, match="no PulseContext is active"):
        PulseContext.get()
    with pytest.raises(RuntimeError, match="no PulseContext is active"):
        PulseContext.update(session=object())


def test_update_gives_a_new_context_and_changes_nothing():
    with PulseContext("app", "session", "render", "route") as ctx:
        updated = PulseContext.update(session="other")

        assert PulseContext.get() is ctx
    assert (updated.app, updated.session, updated.render, updated.route) == ("app", "other", "render", "route")
    assert ctx.session == "session"


def test_a_falsy_value_is_used_and_not_inherited():
    with PulseContext("app", {"a": 1}, "render", "route"):
        updated = PulseContext.update(session={}, render=0, route="")

    assert (updated.session, updated.render, updated.route) == ({}, 0, "")


def test_the_same_context_may_be_entered_nested():
    outer, inner = PulseContext("outer"), PulseContext("inner")

    with outer:
        with inner, outer, inner:
            assert PulseContext.get() is inner
        assert PulseContext.get() is outer

    assert PULSE_CONTEXT.get() is None


def test_the_same_context_may_be_entered_by_many_threads():
    ctx = PulseContext("app")

    def enter(_):
        before = PULSE_CONTEXT.get()
        with ctx, ctx:
            inside = PulseContext.get()
        return before, inside, PULSE_CONTEXT.get()

    with ctx, ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(enter, range(200)))

    assert seen == [(None, ctx, None)] * 200


def test_the_same_context_may_be_entered_by_many_tasks_at_once():
    ctx = PulseContext("app")

    async def enter(gate):
        with ctx:
            await gate.wait()
            inside = PulseContext.get()
        return inside, PULSE_CONTEXT.get()

    async def main():
        gate = asyncio.Event()
        tasks = [asyncio.create_task(enter(gate)) for _ in range(20)]
        await asyncio.sleep(0)
        assert PULSE_CONTEXT.get() is None
        gate.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [(ctx, None)] * 20


def test_child_tasks_and_threads_inherit_and_siblings_do_not():
    async def child():
        return PULSE_CONTEXT.get(), await asyncio.to_thread(PULSE_CONTEXT.get)

    async def with_context(ctx):
        with ctx:
            return await asyncio.create_task(child())

    async def main():
        one, two = PulseContext("one"), PulseContext("two")
        assert await asyncio.gather(with_context(one), with_context(two), child()) == [
            (one, one), (two, two), (None, None),
        ]  # fmt: skip

    asyncio.run(main())


def test_a_context_that_is_left_in_another_order_leaves_nothing_behind():
    def holding(ctx):
        with ctx:
            yield

    one, two = PulseContext("one"), PulseContext("two")
    steps = holding(one)
    next(steps)
    with two:
        steps.close()

    assert PULSE_CONTEXT.get() is None


def test_a_context_that_is_left_where_it_was_not_entered_is_no_matter():
    ctx, other = PulseContext("app"), PulseContext("other")
    Context().run(ctx.__enter__)

    with other:
        ctx.__exit__(None, None, None)
        assert PulseContext.get() is other


def test_the_parts_of_a_context_say_what_they_are():
    assert repr(PulseContext(5)) == "<PulseContext of int>"
    assert repr(PulseContext(5, route=RouteContext("/x"))) == "<PulseContext of int at /x>"
    assert repr(PulseContext(5, "session", "render", "route")) == "<PulseContext of int>"
    assert RenderSession("c1", "w1", "web1").queue is None
    assert RouteContext("/a", "b", "c", None, internal=True).internal is True


# A request


def test_a_request_has_the_middleware_and_its_path():
    def app(environ, start_response):
        ctx = PulseContext.get()
        assert isinstance(ctx, PulseContext)
        assert ctx is PULSE_CONTEXT.get()
        seen.append((ctx.app, ctx.session, ctx.render, ctx.route))
        return [b"x"]

    seen = []
    call(app, environ_of("/jobs/sw\xc3\xbcp"))

    assert seen == [(APP, None, None, RouteContext("/jobs/swüp", "jobs", "swüp"))]
    assert PULSE_CONTEXT.get() is None


@pytest.mark.parametrize(
    ("path", "action"),
    [("/jobs/a/b", "a/b"), ("/jobs/", "/jobs/"), ("/jobs", "/jobs"), ("/jobsx/a", "/jobsx/a"), ("/", "/"), ("", "")],
)
def test_the_action_is_how_a_task_would_name_the_path(path, action):
    with RunContext(APP, {"PATH_INFO": path}, "jobs", None) as ctx:
        assert (ctx.route.path, ctx.route.action) == (path, action)


def test_a_run_is_told_by_its_route():
    run = Run(id="ab" * 16, task="sweep", due=datetime(2027, 5, 1, tzinfo=UTC))

    ctx = RunContext("app", {"PATH_INFO": "/jobs/sweep"}, "jobs", run)

    assert ctx.route == RouteContext("/jobs/sweep", "jobs", "sweep", run, internal=True)
    assert (ctx.app, ctx.session, ctx.render) == ("app", None, None)


def test_the_session_is_what_the_session_layer_left():
    def app(environ, start_response):
        environ["pulse.session"] = "hers"
        updated = PulseContext.update(route=RouteContext("/x"))
        return [PulseContext.get().session, updated.session, updated.app]

    assert call(app) == ["hers", "hers", APP]


def test_what_the_application_does_to_its_environ_changes_no_route():
    def app(environ, start_response):
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = environ["PATH_INFO"], ""
        paths.append(PulseContext.get().route.path)
        environ.clear()
        paths.append(PulseContext.get().route.path)
        return []

    paths = []
    call(app, environ_of("/page"))

    assert paths == ["/page", "/page"]


def test_an_error_leaves_the_context():
    with pytest.raises(ZeroDivisionError):
        call(lambda environ, start_response: 1 / 0)

    assert PULSE_CONTEXT.get() is None


class Native:
    """A file wrapper of a server."""

    def __init__(self, file):
        self.read = file.read

    def __iter__(self):
        return iter(self.read, b"")


@pytest.mark.parametrize("body", [[b"x"], [], (b"x",), None, 5], ids=repr)
def test_what_is_whole_or_no_body_is_given_back_as_it_is(body):
    assert call(lambda environ, start_response: body) is body


def test_the_servers_own_file_wrapper_is_given_back_as_it_is():
    file = io.BytesIO(b"x")
    wrapped = Native(file)

    assert call(lambda *_: wrapped, environ_of(**{"wsgi.file_wrapper": Native})) is wrapped
    assert call(lambda *_: file, environ_of(**{"wsgi.file_wrapper": lambda file: file})) is file
    assert call(lambda *_: wrapped, environ_of(**{"wsgi.file_wrapper": FileWrapper})) is not wrapped


class Body:
    """Notes the context of each of its steps."""

    def __init__(self, chunks=(b"a", b"b")):
        self.chunks = iter(chunks)
        self.seen = []
        self.closed = []

    def __iter__(self):
        self.seen.append(PULSE_CONTEXT.get())
        return self

    def __next__(self):
        self.seen.append(PULSE_CONTEXT.get())
        return next(self.chunks)

    def close(self):
        self.closed.append(PULSE_CONTEXT.get())


def test_the_context_is_active_while_a_body_is_read_and_closed_and_not_between():
    body = Body()

    given = call(lambda *_: body)
    chunks = []
    for chunk in given:
        chunks.append(chunk)
        assert PULSE_CONTEXT.get() is None
    given.close()
    given.close()

    assert chunks == [b"a", b"b"]
    assert all(ctx.app is APP for ctx in (*body.seen, *body.closed))
    assert (len(body.seen), len(body.closed)) == (4, 1)


def test_a_body_may_be_read_and_closed_by_other_threads_and_keeps_what_it_entered():
    def chunks():
        with PulseContext.update(session="inner"):
            yield PulseContext.get().session
            yield PulseContext.get().session
        yield PulseContext.get().session

    given = call(lambda *_: chunks())

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        seen = [pool.submit(next, given).result() for pool in (one, two, one)]
        assert one.submit(PULSE_CONTEXT.get).result() is None
        two.submit(given.close).result()
    assert seen == ["inner", "inner", None]


def test_a_body_of_a_known_length_keeps_it_and_others_have_none():
    class Sized(Body):
        def __len__(self):
            return 2

    assert len(call(lambda *_: Sized())) == 2
    assert not hasattr(call(lambda *_: Body()), "__len__")


@pytest.mark.parametrize(
    "endpoint",
    [
        lambda environ, start_response: [b"whole"] if start_response("200 OK", [("Content-Type", "text/plain")]) else [],
        lambda environ, start_response: Body() if start_response("200 OK", [("Content-Type", "text/plain")]) else [],
    ],
    ids=["list", "body"],
)  # fmt: skip
def test_both_sides_keep_to_the_rules_of_wsgi(endpoint):
    app = validator(endpoint)
    outer = validator(lambda environ, start_response: entered(app, APP, environ, start_response))

    given = outer(environ_of(), started)
    assert b"".join(given)
    given.close()


def test_an_error_in_the_middle_of_a_body_is_the_servers_to_deal_with():
    def chunks():
        yield b"half"
        raise OSError("disk")

    given = call(lambda *_: chunks())

    assert next(given) == b"half"
    with pytest.raises(OSError, match="disk"):
        next(given)
    assert PULSE_CONTEXT.get() is None


def test_write_and_exc_info_reach_the_server():
    seen = []

    def start_response(*args):
        seen.append(args)
        return seen.append

    def app(environ, start_response):
        start_response("200 OK", [], (1, 2, 3))(b"written")
        return []

    entered(app, APP, environ_of(), start_response)

    assert seen == [("200 OK", [], (1, 2, 3)), b"written"]


# One Pulse inside another


def test_the_outermost_pulse_is_the_app():
    outer, inner = SimpleNamespace(name="outer"), SimpleNamespace(name="inner")

    def app(environ, start_response):
        return [PulseContext.get().app.name]

    def middle(environ, start_response):
        return entered(app, inner, environ, start_response)

    assert entered(middle, outer, environ_of(), started) == ["outer"]


def test_a_run_of_the_outer_pulse_stays_internal_in_the_inner_one():
    run = Run(id="ab" * 16, task="sweep", due=datetime(2027, 5, 1, tzinfo=UTC))
    environ = environ_of("/jobs/sweep", **{"pulse.info": {}})

    with RunContext("outer", environ, "jobs", run):
        routes = [
            entered(lambda *_: [PulseContext.get().route], "inner", seen, started) for seen in (environ, dict(environ))
        ]

    assert [route.task for (route,) in routes] == [run, run]


def test_a_request_to_another_pulse_has_its_own_context():
    def app(environ, start_response):
        return entered(lambda *_: [PulseContext.get().route.path], "other", environ_of("/sub"), start_response)

    assert call(app) == ["/sub"]
    with PulseContext("of a test"):
        assert call(lambda *_: [PulseContext.get().app]) == [APP]


# Asynchronous applications


def test_an_asynchronous_application_is_awaited_and_read_in_the_context():
    seen = []

    async def late():
        await asyncio.sleep(0)
        seen.append(PulseContext.get().app)
        return b"late"

    def chunks():
        seen.append(PulseContext.get().app)
        yield b"now"
        yield late()

    async def app(environ, start_response):
        await asyncio.sleep(0)
        seen.append(PulseContext.get().app)
        return chunks()

    async def main():
        body = await call(app)
        assert PULSE_CONTEXT.get() is None
        got = [chunk if isinstance(chunk, bytes) else await chunk for chunk in body]
        assert PULSE_CONTEXT.get() is None
        return got

    assert asyncio.run(main()) == [b"now", b"late"]
    assert seen == [APP] * 3


def test_an_asynchronous_body_is_read_and_closed_in_the_context():
    seen = []

    async def app(environ, start_response):
        try:
            seen.append(PulseContext.get().app)
            yield b"one"
            await asyncio.sleep(0)
            yield b"two"
        finally:
            seen.append(PulseContext.get().app)

    async def main():
        body = call(app)
        chunks = []
        async for chunk in body:
            assert PULSE_CONTEXT.get() is None
            chunks.append(chunk)
            if chunk == b"two":
                break
        await body.aclose()
        await body.aclose()
        return chunks

    assert asyncio.run(main()) == [b"one", b"two"]
    assert seen == [APP] * 2


class Deferred:
    """To be awaited, and no coroutine: such as other libraries make."""

    def __init__(self, make):
        self._make = make

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self._make()


def who() -> bytes:
    return str(PulseContext.get().session).encode()


async def who_later() -> bytes:
    await asyncio.sleep(0)
    return who()


def chunks_for_ann():
    """The same as a plain body: what is entered between two chunks is left between two others."""
    with PulseContext.update(session="ann"):
        yield b"begun"
        yield who()
        yield who_later()
        yield Deferred(who)
    yield who()


async def asynchronous_chunks_for_ann():
    for chunk in (inner := chunks_for_ann()):
        yield chunk
        await asyncio.sleep(0)
    inner.close()


@pytest.mark.parametrize("body", [chunks_for_ann, asynchronous_chunks_for_ann])
def test_what_one_chunk_enters_is_active_in_the_next_ones_until_it_is_left(body):
    async def main():
        got = []
        pieces = call(lambda *_: body())
        async for chunk in pieces if hasattr(pieces, "__aiter__") else one_by_one(pieces):
            assert PULSE_CONTEXT.get() is None
            got.append(chunk if isinstance(chunk, bytes) else await chunk)
            assert PULSE_CONTEXT.get() is None
        return got

    async def one_by_one(pieces):
        for piece in pieces:
            yield piece

    assert asyncio.run(main()) == [b"begun", b"ann", b"ann", b"ann", b"None"]


def test_two_asynchronous_bodies_that_one_task_reads_in_turn_do_not_see_each_other():
    async def body(name):
        with PulseContext.update(session=name):
            for _ in range(3):
                yield who()

    async def main():
        ann, bob = call(lambda *_: body("ann")), call(lambda *_: body("bob"))
        got = [await anext(one) for one in (ann, bob, bob, ann, ann, bob)]
        await bob.aclose()
        await ann.aclose()
        assert PULSE_CONTEXT.get() is None
        return got

    assert asyncio.run(main()) == [b"ann", b"bob", b"bob", b"ann", b"ann", b"bob"]


def test_a_whole_answer_of_an_asynchronous_application_is_given_as_it_is():
    body = [b"x"]

    async def app(environ, start_response):
        return body

    async def main():
        future = asyncio.get_running_loop().create_future()
        assert call(lambda *_: future) is future
        return await call(app)

    assert asyncio.run(main()) is body


def test_nothing_of_a_request_is_kept_after_it():
    class Marker:
        pass

    def count():
        gc.collect()
        return sum(type(thing) is Marker for thing in gc.get_objects())  # asking proxies for their class builds things

    before = count()
    given = call(lambda *_: Body(), environ_of(marker=Marker()))
    list(given)
    given.close()
    del given

    assert count() == before
