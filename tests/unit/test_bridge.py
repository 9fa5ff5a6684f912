"""The bridges: asynchronous handlers under synchronous servers, and any application under asynchronous ones."""

import asyncio
import io
import itertools
import pickle
import sys
import threading
from asyncio import Future
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from pulse.config import read_config
from pulse.context import PULSE_CONTEXT, PulseContext, entered
from pulse.errors import ResponseError
from pulse.loop import background_loop
from pulse.wsgi import Connection, LazyWsgi, WsgiHandler, as_asgi, as_wsgi
from pulse.wsgi.bridge.connection import Settings
from pulse.wsgi.bridge.intake import IN_MEMORY

TEXT = [("Content-Type", "text/plain")]
LIMIT = 30  # seconds


def environ_of(body: bytes = b"", **more) -> dict:
    environ = {"QUERY_STRING": "", "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), **more}
    setup_testing_defaults(environ)
    return environ


def started(status, headers, exc_info=None):
    return lambda chunk: None


def of_wsgi(app, environ=None) -> bytes:
    """What a synchronous server sends, checked against PEP 3333."""
    response = validator(app)(environ or environ_of(), started)
    try:
        return b"".join(response)
    finally:
        response.close()


class Client:
    """A client of an ASGI application: it sends a body in parts, and takes what comes."""

    def __init__(self, *parts: bytes, **scope):
        self.scope = {
            "type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], "http_version": "1.1",
            "server": ("example.org", 8080), "client": ("10.0.0.7", 4711), "scheme": "http", **scope,
        }  # fmt: skip
        parts = parts or (b"",)
        self.parts = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        self.messages = []
        self.received = 0
        self.gone = asyncio.Event()
        self.arrived = asyncio.Event()

    async def receive(self):
        self.received += 1
        if self.parts:
            return self.parts.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.messages.append(message)
        if message.get("body"):
            self.arrived.set()

    async def ask(self, app):
        await asyncio.wait_for(app(self.scope, self.receive, self.send), LIMIT)
        return self

    @property
    def status(self):
        (start,) = [message for message in self.messages if message["type"] == "http.response.start"]
        return start["status"]

    @property
    def headers(self):
        return dict(self.messages[0]["headers"])

    @property
    def chunks(self):
        return [message["body"] for message in self.messages[1:] if message["body"]]

    @property
    def body(self):
        assert self.is_complete
        return b"".join(self.chunks)

    @property
    def is_complete(self):
        return bool(self.messages) and self.messages[-1].get("more_body") is False


def of_asgi(app, *parts, **scope) -> Client:
    async def main():
        return await Client(*parts, **scope).ask(as_asgi(app))

    return asyncio.run(main())


def of_asgi_in_time(app, *parts) -> Client:
    """The same of what may stop its loop for ever."""
    clients = []
    thread = threading.Thread(target=lambda: clients.append(of_asgi(app, *parts)), daemon=True)
    thread.start()
    thread.join(LIMIT)
    (client,) = clients
    return client


def simple_async():
    yield b"hello"
    c = Future()
    c.set_result(b" ")
    yield c
    yield b"World!"


def sync_sample(environ, start_response):
    start_response("200 OK", TEXT)
    return simple_async()


async def async_sample(environ, start_response):
    await asyncio.sleep(0)
    start_response("200 OK", TEXT)
    return simple_async()


async def generator_sample(environ, start_response):
    start_response("200 OK", TEXT)
    for chunk in (b"hello", b" ", b"World!"):
        await asyncio.sleep(0)
        yield chunk


def future_sample(environ, start_response):
    start_response("200 OK", TEXT)
    answer = environ["pulse.connection"].loop.create_future()
    answer.set_result([b"hello World!"])
    return answer


class Lazy(LazyWsgi):
    def setup(self, environ=None):
        return WsgiHandler([async_sample])


def plain_future(environ, start_response):
    start_response("200 OK", TEXT)
    answer = Future()
    answer.set_result(simple_async())
    return answer


def future_of_the_current_loop(environ, start_response):
    start_response("200 OK", TEXT)
    answer = asyncio.get_event_loop().create_future()
    answer.set_result([b"hello World!"])
    return answer


def future_chunk(environ, start_response):
    start_response("200 OK", TEXT)
    loop = asyncio.get_event_loop()
    done, late = Future(), Future()
    done.set_result(b"hello ")
    loop.call_soon_threadsafe(loop.call_later, 0, late.set_result, b"World!")
    return [done, late]


def in_pulse(app):
    return lambda environ, start_response: entered(app, "pulse", environ, start_response)


SAMPLES = {
    "a function": sync_sample,
    "a coroutine function": async_sample,
    "an asynchronous generator function": generator_sample,
    "a future": future_sample,
    "a future without a loop": plain_future,
    "a future of the current loop": future_of_the_current_loop,
    "a list of futures": future_chunk,
    "a handler of a future": WsgiHandler([plain_future]),
    "a future inside Pulse": in_pulse(plain_future),
    "a handler": WsgiHandler([sync_sample]),
    "a handler of a coroutine function": WsgiHandler([async_sample]),
    "a handler with response middleware": WsgiHandler([async_sample], [lambda environ, response: None]),
    "a lazy handler": Lazy(),
    "a function inside Pulse": in_pulse(sync_sample),
    "a handler inside Pulse": in_pulse(WsgiHandler([async_sample])),
    "a generator inside Pulse": in_pulse(generator_sample),
    "a handler with a bridge of its own": as_wsgi(async_sample),
}


@pytest.mark.parametrize("app", SAMPLES.values(), ids=SAMPLES)
def test_the_sample_is_served_by_either_bridge(app):
    assert of_wsgi(as_wsgi(app)) == b"hello World!"

    client = of_asgi(app)

    assert (client.status, client.body, client.headers) == (200, b"hello World!", {b"content-type": b"text/plain"})


@pytest.mark.parametrize("app", SAMPLES.values(), ids=SAMPLES)
def test_the_sample_is_served_by_a_thread_of_a_server(app):
    async def main():
        return await asyncio.to_thread(of_wsgi, as_wsgi(app))

    assert asyncio.run(main()) == b"hello World!"


# The current loop of the caller


def in_new_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(LIMIT)


def generator(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"a"
    yield b"b"


@pytest.mark.parametrize("app", [sync_sample, plain_future, generator])
@pytest.mark.parametrize("run", [in_new_thread, lambda work: work()])
def test_the_caller_keeps_its_own_loop(app, run):
    def work():
        own = asyncio.new_event_loop()
        asyncio.set_event_loop(own)
        try:
            of_wsgi(as_wsgi(app))
            return asyncio.get_event_loop() is own
        finally:
            asyncio.set_event_loop(None)
            own.close()

    assert run(work)


@pytest.mark.parametrize("app", [sync_sample, plain_future, generator])
def test_a_thread_without_a_loop_has_none_afterwards(app):
    def work():
        of_wsgi(as_wsgi(app))
        with pytest.raises(RuntimeError):
            asyncio.get_event_loop()

    in_new_thread(work)


def test_a_thread_whose_loop_runs_has_none_when_that_has_ended():
    async def main():
        of_wsgi(as_wsgi(plain_future))
        return asyncio.get_event_loop() is asyncio.get_running_loop()

    def work():
        kept = asyncio.run(main())
        with pytest.raises(RuntimeError):
            asyncio.get_event_loop()
        return kept

    assert in_new_thread(work)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="no loop is made when somebody asks for one")
@pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning")
def test_a_main_thread_that_never_had_a_loop_can_still_be_given_one():
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(None)  # as in a new process
    try:
        of_wsgi(as_wsgi(plain_future))
        asyncio.get_event_loop().close()
    finally:
        asyncio.set_event_loop_policy(before)


def test_a_loop_that_an_application_sets_is_left_to_it():
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        own.append(asyncio.new_event_loop())
        asyncio.set_event_loop(own[0])
        return [b"x"]

    own = []

    def work():
        of_wsgi(as_wsgi(app))
        return asyncio.get_event_loop() is own[0]

    assert in_new_thread(work)
    own[0].close()


@pytest.mark.parametrize("door", [of_wsgi, of_asgi])
def test_a_body_is_closed_with_the_loop_it_was_made_with(door):
    class Closing:
        def __iter__(self):
            return iter([b"x"])

        def close(self):
            closed.append(Future().get_loop() is loops[0])

    def app(environ, start_response):
        loops.append(environ["pulse.connection"].loop)
        start_response("200 OK", TEXT)
        return Closing()

    loops, closed = [], []
    in_new_thread(lambda: door(as_wsgi(app) if door is of_wsgi else app))

    assert closed == [True]


def test_the_loop_of_a_connection_is_that_of_its_handler_whoever_calls():
    async def main():
        async def app(environ, start_response):
            loops.append((environ["pulse.connection"]._loop, asyncio.get_running_loop()))
            start_response("200 OK", TEXT)
            return [b"x"]

        def plain(environ, start_response):
            loops.append((environ["pulse.connection"]._loop, background_loop()))
            start_response("200 OK", TEXT)
            return [b"x"]

        def pending(environ, start_response):
            start_response("200 OK", TEXT)
            loop = environ["pulse.connection"]._loop
            chunk = loop.create_future()
            loop.call_soon_threadsafe(chunk.set_result, b"x")
            return [chunk]

        # A test of an asynchronous framework, say, which calls the application itself.
        return [of_wsgi(as_wsgi(one)) for one in (app, plain, pending)]

    loops = []

    assert asyncio.run(main()) == [b"x"] * 3
    assert [loop for loop, _ in loops] == [running for _, running in loops]


def test_the_loop_of_a_handler_is_the_one_that_runs_it():
    async def app(environ, start_response):
        connection = environ["pulse.connection"]
        loops.append(asyncio.get_running_loop())
        assert connection._loop is connection.loop is loops[-1]
        connections.append(connection)
        start_response("200 OK", TEXT)
        return [b"x"]

    loops, connections = [], []
    of_wsgi(as_wsgi(app), environ_of(REMOTE_ADDR="10.0.0.7", REMOTE_PORT="4711"))
    of_asgi(app)

    assert loops[0] is background_loop()
    assert loops[1] is not loops[0]
    assert [(one.kind, one.peer) for one in connections] == [("wsgi", ("10.0.0.7", 4711)), ("asgi", ("10.0.0.7", 4711))]
    assert connections[1]._loop is loops[1]  # also from elsewhere


def test_the_loop_of_a_connection_without_one_is_that_of_the_process():
    assert Connection("internal").loop is background_loop()
    assert repr(Connection("wsgi", peer=("10.0.0.7", 1))) == "<wsgi connection from 10.0.0.7>"


# pulse.cfg

CONFIG = read_config(
    options={"context": "jobs", "token": "0123456789abcdef", "store": "redis://user:passw0rd@host/0", "name": "site"}
)


def cfg_of(bridge, app):
    seen = []

    async def main():
        def endpoint(environ, start_response):
            seen.append(environ["pulse.cfg"])
            start_response("200 OK", TEXT)
            return [b""]

        endpoint.config = getattr(app, "config", None)
        if bridge is as_wsgi:
            await asyncio.to_thread(of_wsgi, as_wsgi(endpoint))
        else:
            await Client().ask(as_asgi(endpoint))

    asyncio.run(main())
    return seen[0]


@pytest.mark.parametrize("bridge", [as_wsgi, as_asgi])
def test_the_configuration_is_told_and_its_secrets_are_not(bridge):
    cfg = cfg_of(bridge, SimpleNamespace(config=CONFIG))

    assert (cfg["context"], cfg.context, cfg["pulse.config.context"]) == ("jobs",) * 3
    assert (cfg.guard, dict(cfg)["guard"], len(cfg) > 10) == (False, False, True)
    assert "token" not in cfg
    assert not hasattr(cfg, "token")
    assert "0123456789abcdef" not in repr(cfg) + repr(vars(type(cfg)))
    assert "passw0rd" not in repr(cfg)
    assert cfg.store == "redis://***@host/0"
    with pytest.raises(TypeError):
        cfg["context"] = "x"
    with pytest.raises(AttributeError):
        cfg.context = "x"
    assert pickle.loads(pickle.dumps(cfg)) == cfg


@pytest.mark.parametrize("bridge", [as_wsgi, as_asgi])
def test_without_a_pulse_there_is_nothing_to_tell(bridge):
    cfg = cfg_of(bridge, None)

    assert (dict(cfg), hasattr(cfg, "context")) == ({}, False)


def test_a_bridge_inside_pulse_tells_the_configuration_of_that():
    async def app(environ, start_response):
        start_response("200 OK", TEXT)
        return [environ["pulse.cfg"].context.encode(), PulseContext.get().app.name]

    pulse = SimpleNamespace(config=CONFIG, name=b"pulse")

    assert b"".join(entered(as_wsgi(app), pulse, environ_of(), started)) == b"jobspulse"


def test_what_an_outer_bridge_has_told_stays():
    def app(environ, start_response):
        seen.append((environ["pulse.connection"], environ["pulse.cfg"]))
        start_response("200 OK", TEXT)
        return []

    seen = []
    connection, settings = Connection("internal"), Settings(CONFIG)
    of_wsgi(as_wsgi(app), environ_of(**{"pulse.connection": connection, "pulse.cfg": settings}))

    assert seen == [(connection, settings)]


# Synchronous applications


def test_a_synchronous_application_is_unchanged_behind_as_wsgi():
    body = [b"x"]
    file = SimpleNamespace(read=body)
    wrapper = SimpleNamespace

    assert as_wsgi(lambda *_: body)(environ_of(), started) is body
    assert as_wsgi(lambda *_: None)(environ_of(), started) is None
    assert as_wsgi(lambda *_: iter(body))(environ_of(), started) is not body
    given = environ_of(**{"wsgi.file_wrapper": wrapper})
    file.__iter__ = None
    assert as_wsgi(lambda *_: file)(given, started) is file


@pytest.mark.parametrize("door", [of_wsgi, of_asgi])
def test_a_synchronous_application_runs_in_one_thread(door):
    threads = set()

    class Body:
        def __iter__(self):
            threads.add(threading.get_ident())
            yield b"a"
            threads.add(threading.get_ident())
            yield b"b"

        def close(self):
            threads.add(threading.get_ident())

    def app(environ, start_response):
        threads.add(threading.get_ident())
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        start_response("200 OK", TEXT)
        return Body()

    door(as_wsgi(app) if door is of_wsgi else app)

    assert len(threads) == 1
    assert (threading.get_ident() in threads) == (door is of_wsgi)


def test_status_headers_and_written_bytes_reach_an_asgi_server():
    def app(environ, start_response):
        write = start_response("404 Not Found", [("X-One", "1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        write(b"written ")
        return [b"", b"returned"]

    client = of_asgi(app)

    assert (client.status, client.chunks) == (404, [b"written ", b"returned"])
    assert client.messages[0]["headers"] == [(b"x-one", b"1"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]


@pytest.mark.parametrize("app", [sync_sample, async_sample, plain_future], ids=lambda app: app.__name__)
def test_a_server_that_does_not_take_the_end_of_a_response_hears_of_it(app):
    async def main():
        is_over = asyncio.Event()
        requests = [{"type": "http.request", "body": b""}]

        async def receive():
            if not requests:
                await is_over.wait()
                return {"type": "http.disconnect"}
            return requests.pop()

        async def send(message):
            if message["type"] == "http.response.body" and not message["more_body"]:
                is_over.set()  # as uvicorn does it, before it looks
                raise RuntimeError("too little data")

        with pytest.raises(RuntimeError, match="too little data"):
            await as_asgi(app)(Client().scope, receive, send)

    asyncio.run(main())


@pytest.mark.parametrize("wrap", [in_pulse, lambda app: app], ids=["inside Pulse", "alone"])
def test_what_an_asynchronous_handler_writes_reaches_an_asgi_server(wrap):
    async def app(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"written ")
        await asyncio.sleep(0)
        return [b"returned"]

    client = of_asgi_in_time(wrap(app))

    assert client.body == b"written returned"
    assert client.is_complete


def test_the_environ_of_an_asgi_request_keeps_to_the_rules():
    seen = {}

    @validator
    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", TEXT)
        return [b"x"]

    of_asgi(
        app, path="/app/p\u00e4ge", raw_path=b"/app/p%C3%A4ge", root_path="/app", query_string=b"a=%20", scheme="https",
        headers=[(b"host", b"example.org"), (b"content-type", b"text/plain"), (b"content-length", b"0"), (b"x-a", b"1"),
                 (b"x-a", b"2"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x_a", b"forged")],
    )  # fmt: skip

    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/app", "/p\xc3\xa4ge", "a=%20")
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"], seen["SERVER_PROTOCOL"]) == ("example.org", "8080", "HTTP/1.1")
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"], seen["wsgi.url_scheme"]) == ("10.0.0.7", "4711", "https")
    assert (seen["HTTP_HOST"], seen["HTTP_X_A"], seen["HTTP_COOKIE"]) == ("example.org", "1,2", "a=1; b=2")
    assert (seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"]) == ("text/plain", "0")
    assert seen["REQUEST_URI"] == "/app/p%C3%A4ge?a=%20"


def test_an_asgi_server_may_know_neither_itself_nor_the_client():
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return [environ["SERVER_PORT"].encode(), str(environ["pulse.connection"].peer).encode()]

    assert of_asgi(app, server=None, client=None).body == b"80None"


# Chunks as they come


@pytest.mark.parametrize("door", ["wsgi", "asgi"])
@pytest.mark.parametrize("kind", ["awaitable", "asynchronous", "inside Pulse"])
def test_a_chunk_is_sent_while_the_next_one_is_pending(door, kind):
    arrived = threading.Event()

    async def second():
        await asyncio.to_thread(arrived.wait, LIMIT)
        return b"second"

    def chunks():
        yield b"first"
        yield second()

    async def app(environ, start_response):
        start_response("200 OK", TEXT)
        return chunks()

    async def stream(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"first"
        yield await second()

    handler = stream if kind == "asynchronous" else in_pulse(app) if kind == "inside Pulse" else app

    async def ask():
        client = Client()
        asking = asyncio.create_task(client.ask(as_asgi(handler)))
        await client.arrived.wait()
        assert client.chunks == [b"first"]
        arrived.set()
        return b"".join((await asking).chunks[1:])

    if door == "asgi":
        assert asyncio.run(ask()) == b"second"
        return
    response = as_wsgi(handler)(environ_of(), started)
    chunks_seen = iter(response)
    assert next(chunks_seen) == b"first"
    arrived.set()
    assert list(chunks_seen) == [b"second"]
    response.close()


def test_one_task_reads_a_whole_response():
    tasks = []

    async def app(environ, start_response):
        start_response("200 OK", TEXT)
        async with asyncio.timeout(LIMIT):
            for _ in range(3):
                tasks.append(asyncio.current_task())
                yield b"x"
        tasks.append(asyncio.current_task())

    assert of_wsgi(as_wsgi(app)) == b"xxx"

    assert len(tasks) == 4
    assert len(set(tasks)) == 1


def test_context_variables_reach_an_asynchronous_handler():
    async def app(environ, start_response):
        start_response("200 OK", TEXT)
        yield PulseContext.get().app
        yield PulseContext.get().app

    with PulseContext(b"x"):
        assert of_wsgi(as_wsgi(app)) == b"xx"
    assert asyncio.run_coroutine_threadsafe(asyncio.to_thread(PULSE_CONTEXT.get), background_loop()).result() is None


# The end of a response


class Body:
    """A body that counts how often it is closed, and may break."""

    def __init__(self, *chunks, breaks=False):
        self.chunks = chunks
        self.breaks = breaks
        self.closed = 0

    def __iter__(self):
        yield from self.chunks
        if self.breaks:
            raise OSError("disk")

    def close(self):
        self.closed += 1


class OwnSteps(Body):
    """One that is its own iterator: whoever delegates to it closes it a second time."""

    def __iter__(self):
        self.left = iter(self.chunks)
        return self

    def __next__(self):
        chunk = next(self.left, None)
        if chunk is not None:
            return chunk
        if self.breaks:
            raise OSError("disk")
        raise StopIteration


class AsyncBody(Body):
    __iter__ = None

    async def __aiter__(self):
        for chunk in self.chunks:
            await asyncio.sleep(0)
            yield chunk
        if self.breaks:
            raise OSError("disk")

    async def aclose(self):
        await asyncio.sleep(0)
        super().close()


def answering(body, is_async):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return body

    async def async_app(environ, start_response):
        return app(environ, start_response)

    return async_app if is_async else app


class OwnAsyncSteps(AsyncBody):
    def __aiter__(self):
        self.left = iter(self.chunks)
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        chunk = next(self.left, None)
        if chunk is not None:
            return chunk
        if self.breaks:
            raise OSError("disk")
        raise StopAsyncIteration


def unchanged(environ, response):
    pass


BODIES = [(kind, is_async) for kind in (Body, OwnSteps, AsyncBody, OwnAsyncSteps) for is_async in (True, False)]
WRAPS = {
    "as it is": lambda app: app,
    "in Pulse": in_pulse,
    "in a handler": lambda app: WsgiHandler([app]),
    "in a handler with response middleware": lambda app: WsgiHandler([app], [unchanged]),
    "in a handler in Pulse": lambda app: in_pulse(WsgiHandler([app])),
}


@pytest.mark.parametrize(("kind", "is_async"), BODIES)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_body_is_closed_once(kind, is_async, wrap):
    one, two = kind(b"a", b"b"), kind(b"a", b"b")

    assert of_wsgi(as_wsgi(wrap(answering(one, is_async)))) == b"ab"
    assert of_asgi(wrap(answering(two, is_async))).body == b"ab"

    assert (one.closed, two.closed) == (1, 1)


@pytest.mark.parametrize(("kind", "is_async"), BODIES)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_failure_in_the_middle_aborts_and_closes_once(kind, is_async, wrap):
    one, two = kind(b"half", breaks=True), kind(b"half", breaks=True)
    client = []

    async def ask():
        client.append(Client())
        await client[0].ask(as_asgi(wrap(answering(two, is_async))))

    response = as_wsgi(wrap(answering(one, is_async)))(environ_of(), started)
    with pytest.raises(OSError, match="disk"):
        list(response)
    response.close()
    with pytest.raises(OSError, match="disk"):
        asyncio.run(ask())

    assert (one.closed, two.closed) == (1, 1)
    assert client[0].chunks == [b"half"]
    assert not client[0].is_complete


@pytest.mark.parametrize(("kind", "is_async"), BODIES)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_response_that_a_synchronous_server_leaves_is_closed_once(kind, is_async, wrap, count):
    body = kind(b"a", b"b", b"c")

    response = as_wsgi(wrap(answering(body, is_async)))(environ_of(), started)
    chunks = iter(response)
    for _ in range(count):
        next(chunks)
    response.close()
    del chunks
    response.close()

    assert body.closed == 1


@pytest.mark.parametrize(("kind", "is_async"), BODIES)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_response_whose_client_goes_away_is_closed_once(kind, is_async, wrap):
    body = kind()
    body.chunks = itertools.repeat(b"x")

    async def main():
        client = Client()
        asking = asyncio.create_task(client.ask(as_asgi(wrap(answering(body, is_async)))))
        await client.arrived.wait()
        client.gone.set()
        await asking
        assert not client.is_complete

    asyncio.run(main())
    assert body.closed == 1


def test_a_pending_chunk_ends_when_the_client_goes_away():
    cancelled = []

    async def app(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"first"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main():
        client = Client()
        asking = asyncio.create_task(client.ask(as_asgi(app)))
        await client.arrived.wait()
        client.gone.set()
        await asking

    asyncio.run(main())
    assert cancelled == [True]


def test_a_server_that_stops_ends_the_thread_of_a_response():
    body = Body()
    release, waiting = threading.Event(), threading.Event()

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return body

    def chunks():
        yield b"first"
        waiting.set()
        release.wait(LIMIT)
        yield b"second"

    body.__class__ = type("Waiting", (Body,), {"__iter__": lambda self: chunks()})

    async def main():
        client = Client()
        asking = asyncio.create_task(client.ask(as_asgi(app)))
        await asyncio.to_thread(waiting.wait, LIMIT)
        asking.cancel()
        for _ in range(20):  # the steps that it takes to get to the thread
            await asyncio.sleep(0)
        release.set()
        with suppress(asyncio.CancelledError):
            await asking
        return client

    client = asyncio.run(main())
    assert (client.chunks, body.closed, client.is_complete) == ([b"first"], 1, False)


def test_an_error_before_the_response_is_the_servers_to_answer():
    async def fails(environ, start_response):
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        as_wsgi(fails)(environ_of(), started)
    with pytest.raises(OSError, match="disk"):
        of_asgi(fails)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (None, "returned None"),
        ("text", "a str"),
        (5, "a int"),
        (["text"], "yielded str"),
        ([b"x"], "never called start_response"),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
def test_an_asgi_server_is_told_what_is_wrong_with_an_answer(answer, problem, is_async):
    def app(environ, start_response):
        if answer == ["text"]:
            start_response("200 OK", TEXT)
        return answer

    async def async_app(environ, start_response):
        return app(environ, start_response)

    with pytest.raises(ResponseError, match=problem):
        of_asgi(async_app if is_async else app)


@pytest.mark.parametrize(
    ("status", "headers"), [("weird", []), ("200 OK", [("X", "a\r\nSet-Cookie: b")]), ("200 OK", [("X\n", "a")])]
)
def test_a_head_that_cannot_be_sent_is_refused(status, headers):
    def app(environ, start_response):
        start_response(status, headers)
        return [b"x"]

    with pytest.raises(ResponseError):
        of_asgi(app)


def test_the_head_waits_for_the_first_bytes():
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        yield b""
        start_response("500 Oops", TEXT, (OSError, OSError("disk"), None))
        yield b"sorry"

    assert (of_asgi(app).status, of_asgi(app).chunks) == (500, [b"sorry"])
    assert of_asgi(lambda environ, start_response: start_response("204 No Content", []) and []).messages == [
        {"type": "http.response.start", "status": 204, "headers": []},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


def test_a_head_may_be_replaced_until_it_is_sent():
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        start_response("500 Oops", TEXT, (OSError, OSError("disk"), None))
        yield b"sorry"
        start_response("200 OK", TEXT, (OSError, OSError("late"), None))

    with pytest.raises(OSError, match="late"):
        of_asgi(app)
    with pytest.raises(ResponseError, match="twice"):
        of_asgi(lambda environ, start_response: [start_response("200 OK", []), start_response("200 OK", [])])


def test_a_handler_that_is_cancelled_is_an_error_like_others():
    async def app(environ, start_response):
        raise asyncio.CancelledError

    with pytest.raises(ResponseError, match="cancelled"):
        as_wsgi(app)(environ_of(), started)


def test_a_handler_that_wants_to_end_the_process_ends_its_call_alone():
    async def app(environ, start_response):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        as_wsgi(app)(environ_of(), started)
    assert of_wsgi(as_wsgi(async_sample)) == b"hello World!"


def plain_sample(environ, start_response):
    start_response("200 OK", TEXT)
    return iter([b"hello ", asyncio.sleep(0, b"World!")])


@pytest.mark.parametrize("app", [async_sample, plain_sample])
def test_a_call_on_the_loop_that_has_to_run_it_is_refused(app):
    async def call():
        list(as_wsgi(app)(environ_of(), started))

    with pytest.raises(RuntimeError, match="synchronously on the loop"):
        asyncio.run_coroutine_threadsafe(call(), background_loop()).result(LIMIT)
    assert of_wsgi(as_wsgi(app)) == b"hello World!"


def test_a_bridged_handler_pickles():
    assert of_wsgi(pickle.loads(pickle.dumps(as_wsgi(async_sample)))) == b"hello World!"


# Request bodies


def echo(environ, start_response):
    start_response("200 OK", TEXT)
    return [environ["wsgi.input"].read()]


async def async_echo(environ, start_response):
    await asyncio.sleep(0)
    start_response("200 OK", TEXT)
    source = environ["wsgi.input"]
    return [source.readline(), *list(source)]


@pytest.mark.parametrize("app", [echo, async_echo, WsgiHandler([async_echo]), in_pulse(async_echo)])
@pytest.mark.parametrize("size", [0, 10, IN_MEMORY + 10])
def test_a_request_body_can_be_read(app, size):
    body = (b"1" * 65535 + b"\n") * (size // 65536) + b"1" * (size % 65536)

    assert (
        as_bytes(as_wsgi(app)(environ_of(body, **{"wsgi.input": io.BufferedReader(io.BytesIO(body))}), started)) == body
    )
    half = len(body) // 2
    assert of_asgi(app, body[:half], body[half:]).body == body


def test_a_body_is_read_by_whoever_has_a_copy_of_the_environ():
    def wrapped(environ, start_response):
        return async_echo({**environ}, start_response)

    assert of_asgi_in_time(wrapped, b"1\n2", b"3" * 100_000).body == b"1\n2" + b"3" * 100_000


def test_what_a_wrapper_has_read_of_a_body_is_no_loss_to_the_handler():
    def wrapped(environ, start_response):
        assert environ["wsgi.input"].read(1) == b"1"
        return async_echo(environ, start_response)

    assert of_asgi_in_time(wrapped, b"12\n3", b"4" * 100_000).body == b"2\n3" + b"4" * 100_000


def as_bytes(response) -> bytes:
    return b"".join(response)


class Sparing(io.BytesIO):
    """The input of a server that would wait for ever if more than the body is asked for."""

    def read(self, size=-1):
        assert 0 <= size <= len(self.getbuffer()) - self.tell()
        return super().read(size)


def test_no_more_is_read_than_the_body_has():
    source = SimpleNamespace(read=Sparing(b"12345").read)

    assert as_bytes(as_wsgi(async_echo)(environ_of(b"12345", **{"wsgi.input": source}), started)) == b"12345"


def test_a_body_of_unknown_length_is_read_if_it_ends():
    source = SimpleNamespace(read=io.BytesIO(b"12345").read)
    chunked = environ_of(**{"wsgi.input": source, "wsgi.input_terminated": True, "CONTENT_LENGTH": ""})
    unknown = environ_of(**{"wsgi.input": SimpleNamespace(read=None), "CONTENT_LENGTH": "x"})

    assert as_bytes(as_wsgi(async_echo)(chunked, started)) == b"12345"
    assert as_bytes(as_wsgi(async_echo)(unknown, started)) == b""


def test_a_synchronous_application_reads_a_body_while_it_arrives():
    async def main():
        client = Client(b"one", b"two")
        gate = asyncio.Event()
        first, last = client.parts
        client.parts = [first]

        async def receive():
            if client.parts:
                return client.parts.pop()
            if not gate.is_set():
                await gate.wait()
                return last
            await client.gone.wait()
            return {"type": "http.disconnect"}

        client.receive = receive
        asking = asyncio.create_task(client.ask(as_asgi(reads_twice)))
        await client.arrived.wait()
        assert client.chunks == [b"one"]
        gate.set()
        return (await asking).body

    def reads_twice(environ, start_response):
        start_response("200 OK", TEXT)
        yield environ["wsgi.input"].read(3)
        yield environ["wsgi.input"].read()

    assert asyncio.run(main()) == b"onetwo"


def test_a_body_that_nobody_reads_is_not_taken_from_the_server():
    hold, parts = threading.Event(), [b"x" * 65536] * 100

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"first"
        hold.wait(LIMIT)

    async def main():
        client = Client(*parts)
        asking = asyncio.create_task(client.ask(as_asgi(app)))
        await client.arrived.wait()
        for _ in range(200):
            await asyncio.sleep(0)
        taken = client.received
        hold.set()
        await asking
        return taken

    assert asyncio.run(main()) < 10


def test_a_body_that_nobody_reads_does_not_keep_a_response_from_its_end():
    async def main():
        coming = asyncio.Queue(2)  # a server that queues little, and tells at the end that the client has gone

        async def send(message):
            if message["type"] == "http.response.body" and not message["more_body"]:
                await coming.put({"type": "http.disconnect"})

        async def upload():
            for _ in range(20):
                await coming.put({"type": "http.request", "body": b"x" * 100_000, "more_body": True})

        uploading = asyncio.create_task(upload())
        await asyncio.wait_for(as_asgi(sync_sample)(Client().scope, coming.get, send), LIMIT)
        uploading.cancel()

    asyncio.run(main())


def test_a_server_that_stops_waits_for_no_send_that_does_not_return():
    async def main():
        is_sending = asyncio.Event()
        requests = [{"type": "http.request", "body": b""}]

        async def receive():
            return requests.pop() if requests else await asyncio.Event().wait()

        async def send(message):
            is_sending.set()
            await asyncio.Event().wait()

        serving = asyncio.create_task(as_asgi(sync_sample)(Client().scope, receive, send))
        await is_sending.wait()
        for _ in range(1000):  # by then the thread of the response waits, too
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving}, timeout=LIMIT)

        assert serving.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("app", [echo, async_echo])
def test_a_client_that_goes_away_before_its_body_is_complete_gets_no_response(app):
    async def main():
        client = Client(b"one", b"two")
        client.parts.pop()
        client.gone.set()
        return await client.ask(as_asgi(app))

    assert asyncio.run(main()).messages == []


# Other connections


def test_the_life_of_a_server_is_acknowledged():
    async def main():
        sent = []
        asks = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(asks)

        async def send(message):
            sent.append(message["type"])

        app = as_asgi(echo)
        await Client().ask(app)
        await app({"type": "lifespan"}, receive, send)
        assert (await Client(b"again").ask(app)).body == b"again"
        return sent

    assert asyncio.run(main()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_websocket_is_refused():
    async def main():
        client = Client(type="websocket")
        return (await client.ask(as_asgi(echo))).messages

    assert asyncio.run(main()) == [{"type": "websocket.close", "code": 1000}]


def test_a_connection_of_another_kind_is_not_for_wsgi():
    with pytest.raises(NotImplementedError, match="telnet"):
        of_asgi(echo, type="telnet")


def test_many_requests_are_served_at_once():
    gate = threading.Barrier(8)

    def app(environ, start_response):
        gate.wait(LIMIT)
        start_response("200 OK", TEXT)
        return [b"x"]

    async def main():
        door = as_asgi(app)
        clients = await asyncio.gather(*(Client().ask(door) for _ in range(8)))
        return [client.body for client in clients]

    assert asyncio.run(main()) == [b"x"] * 8
