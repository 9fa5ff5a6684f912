"""One internal request: what the endpoint sees, and what becomes of whatever it does."""

import asyncio
import io
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

import pulse
from pulse.config import read_config
from pulse.context import PULSE_CONTEXT, PulseContext
from pulse.control import Control
from pulse.dispatch import Dispatcher, Reply
from pulse.mark import is_internal
from pulse.model import Outcome, Progress, Run, Trigger
from pulse.testing import ManualClock
from pulse.wsgi import LazyWsgi, WsgiHandler, as_wsgi

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)


def ask(app, *, clock: ManualClock | None = None, cancelled: Control | None = None, options=None, **task) -> Reply:
    """Dispatch one run of a task to an application."""
    clock = clock or ManualClock(NOON)
    config = read_config(tasks={"sweep": {"interval": 60, **task}}, options={"context": "jobs", **(options or {})})
    run = Run(id="ab" * 16, task="sweep", due=NOON, attempt=2, trigger=Trigger.CATCHUP, started=NOON)
    return Dispatcher(app, config, clock=clock)(config.tasks["sweep"], run, cancelled or Control())


def answering(status: str = "200 OK", headers=(), body: Iterable[bytes] = (b"done",)):
    def app(environ, start_response):
        start_response(status, list(headers))
        return body

    return app


class Watched:
    """A response that counts how often it is closed."""

    def __init__(self, chunks: Iterable[bytes], on_close=lambda: None) -> None:
        self._chunks = chunks
        self._on_close = on_close
        self.closed = 0

    def __iter__(self):
        return iter(self._chunks)

    def close(self) -> None:
        self.closed += 1
        self._on_close()


def seen_by_the_endpoint(**more) -> dict:
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        seen["body read"] = environ["wsgi.input"].read()
        seen["was internal"] = is_internal(environ)
        return answering()(environ, start_response)

    ask(app, **more)
    return seen


def test_the_environ_satisfies_wsgiref_validate():
    @validator
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    assert ask(app).outcome is Outcome.SUCCESS
    assert ask(app, method="POST", body="x", content_type="text/plain", headers={"A-B": "c"}).reason == ""


def test_the_request_is_a_get_with_an_empty_body():
    seen = seen_by_the_endpoint()

    assert (seen["REQUEST_METHOD"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("GET", "/jobs/sweep", "")
    assert (seen["body read"], seen["CONTENT_LENGTH"]) == (b"", "0")
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"], seen["HTTP_HOST"]) == ("localhost", "80", "localhost")


def test_the_shape_of_the_request_can_be_chosen():
    seen = seen_by_the_endpoint(
        action="/a%20b/ü?dry=1", method="post", body="{}", content_type="application/json",
        headers={"Accept-Language": "de"}, environ={"REMOTE_USER": "pulse"},
        options={"host": "example.org:8443", "scheme": "https"},
    )  # fmt: skip

    assert seen["PATH_INFO"].encode("latin-1").decode() == "/a b/ü"
    assert (seen["QUERY_STRING"], seen["REQUEST_METHOD"], seen["body read"]) == ("dry=1", "POST", b"{}")
    assert (seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"]) == ("application/json", "2")
    assert (seen["HTTP_ACCEPT_LANGUAGE"], seen["REMOTE_USER"]) == ("de", "pulse")
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("example.org", "8443")
    assert (seen["HTTP_HOST"], seen["wsgi.url_scheme"]) == ("example.org:8443", "https")


def test_the_endpoint_is_told_about_its_run():
    seen = seen_by_the_endpoint(timeout=90)

    assert seen["pulse.info"] == {
        "context": "/jobs/sweep", "interval": 60.0, "task": "sweep", "action": "/jobs/sweep", "run_id": "ab" * 16,
        "due": NOON, "attempt": 2, "trigger": "catchup", "deadline": NOON + timedelta(seconds=90),
    }  # fmt: skip
    assert (seen["HTTP_X_PULSE_TASK"], seen["HTTP_X_PULSE_RUN"]) == ("sweep", "ab" * 16)
    assert (seen["HTTP_X_PULSE_DUE"], seen["HTTP_X_PULSE_ATTEMPT"]) == ("2027-05-01T12:00:00+00:00", "2")
    assert seen["HTTP_X_PULSE_TRIGGER"] == "catchup"
    assert seen["HTTP_USER_AGENT"] == f"Pulse/{pulse.__version__}"
    assert seen["HTTP_TRACEPARENT"] == f"00-{'ab' * 16}-{'ab' * 8}-01"
    assert seen["pulse.cancelled"].is_set() is False


def test_the_request_is_internal_while_it_lasts_and_not_after():
    seen = seen_by_the_endpoint()

    assert seen["was internal"] is True
    assert is_internal(seen) is False


def test_an_endpoint_that_clears_its_environ_harms_no_later_run():
    def app(environ, start_response):
        path = environ["PATH_INFO"]
        environ.clear()
        return answering(body=[path.encode()])(environ, start_response)

    config = read_config(tasks={"sweep": {}})
    dispatch = Dispatcher(app, config, clock=ManualClock(NOON))
    run = Run(id="ab" * 16, task="sweep", due=NOON)

    replies = [dispatch(config.tasks["sweep"], run, Control()) for _ in range(2)]

    assert [reply.body for reply in replies] == [b"/pulse/sweep"] * 2


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "204 No Content", "299 Odd", "200"])
def test_any_2xx_is_a_success(status):
    reply = ask(answering(status))

    assert (reply.outcome, reply.status, reply.reason) == (Outcome.SUCCESS, int(status[:3]), "")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("404 Not Found", "answered 404: there is no endpoint at /jobs/sweep (action, pulse.config.context)"),
        ("401 No", "answered 401: the endpoint asks for a login"),
        ("500 Oops", "answered 500"),
        ("503 Busy", "answered 503"),
        ("100 Continue", "answered 100"),
    ],
)
def test_any_other_status_is_a_failure_that_names_it(status, reason):
    reply = ask(answering(status))

    assert (reply.outcome, reply.status, reply.reason) == (Outcome.FAILED, int(status[:3]), reason)


def test_a_redirect_is_a_failure_that_says_where_it_pointed():
    reply = ask(answering("302 Found", [("location", "/Log-In?next=x")]))

    assert reply.outcome is Outcome.FAILED
    assert reply.reason == "answered 302 and pointed to /Log-In?next=x: the endpoint asks for a login"


def test_the_expected_statuses_can_be_chosen():
    assert ask(answering("302 Found"), expect_status="302 404").outcome is Outcome.SUCCESS
    assert ask(answering("200 OK"), expect_status="302 404").outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "body",
    [[b"ab", b"c"], (b"a", b"bc"), iter([b"abc"]), (chunk for chunk in (b"", b"a", b"bc")), FileWrapper(io.BytesIO(b"abc"), 1)],
    ids=["list", "tuple", "iterator", "generator", "file wrapper"],
)  # fmt: skip
def test_any_iterable_of_bytes_is_read_to_its_end(body):
    assert ask(answering(body=body)).body == b"abc"


def test_a_generator_endpoint_is_run():
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"one"
        yield b"two"

    assert ask(app).body == b"onetwo"


def test_start_response_may_be_called_in_the_first_step_of_the_iteration():
    def app(environ, start_response):
        def chunks():
            start_response("201 Created", [])
            yield b"x"

        return chunks()

    assert ask(app).status == 201


def test_what_is_sent_through_write_is_captured_first():
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"one")
        write(b"two")
        return [b"three"]

    assert ask(app).body == b"onetwothree"


def test_an_error_before_anything_was_sent_may_replace_the_status():
    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            raise KeyError("x")
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"sorry"]

    assert ask(app).reason == "answered 500"


def test_an_error_after_something_was_sent_is_raised_again():
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"half")
        try:
            raise KeyError("too late")
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        return []

    reply = ask(app)

    assert (reply.outcome, reply.reason, reply.body) == (Outcome.FAILED, "KeyError: 'too late'", b"half")


@pytest.mark.parametrize("chunks", [[], [b"x"], (b"x" for _ in range(3))], ids=["empty", "list", "generator"])
def test_a_response_is_closed_once(chunks):
    response = Watched(chunks)

    reply = ask(answering(body=response))

    assert (reply.outcome, response.closed) == (Outcome.SUCCESS, 1)


def test_a_response_that_breaks_midway_is_closed_once_and_fails():
    def broken():
        yield b"half"
        raise OSError("disk")

    response = Watched(broken())

    reply = ask(answering(body=response))

    assert (reply.outcome, reply.reason, reply.body) == (Outcome.FAILED, "OSError: disk", b"half")
    assert response.closed == 1


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class ExitingError(Exception):
    def __str__(self):
        raise SystemExit(3)


def raising(error):
    def app(environ, start_response):
        raise error

    return app


def exiting(environ, start_response):
    response = Watched([b"x"], on_close=lambda: sys.exit(3))
    return answering(body=response)(environ, start_response)


def recursing(environ, start_response):
    return recursing(environ, start_response)


def twice(environ, start_response):
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []


def never(environ, start_response):
    return [b""] if environ["QUERY_STRING"] else []


def early(environ, start_response):
    return [b"body before status"]


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        (raising(ValueError("bad")), "ValueError: bad"),
        (raising(SystemExit(3)), "SystemExit: 3"),
        (raising(KeyboardInterrupt()), "KeyboardInterrupt"),
        (raising(GeneratorExit()), "GeneratorExit"),
        (raising(MemoryError()), "MemoryError"),
        (raising(UnspeakableError()), "<exception str() failed>"),
        (raising(ExitingError()), "ExitingError: <exception str() failed>"),
        (recursing, "RecursionError"),
        (exiting, "SystemExit: 3"),
        (twice, "start_response twice"),
        (never, "never called start_response"),
        (early, "before it called start_response"),
        (answering("weird"), "its status is 'weird'"),
        (answering(200), "its status is 200"),
        (answering(b"200 OK"), "its status is b'200 OK'"),
        (answering(None), "its status is None"),
        (answering("999 Odd"), "its status is '999 Odd'"),
        (answering(body=None), "it returned None"),
        (answering(body=5), "it returned a int"),
        (answering(body="text"), "it returned a str"),
        (answering(body=b"bytes"), "it returned a bytes"),
        (answering(body={}), "it returned a dict"),
        (answering(body=["text"]), "its response yielded str"),
        (answering(body=[None]), "its response yielded NoneType"),
        (answering(body=[1]), "its response yielded int"),
        (lambda environ, start_response: start_response("200 OK", None), "its headers are None"),
        (lambda environ: [], "TypeError"),
        (None, "TypeError"),
    ],
)
def test_whatever_an_endpoint_does_is_its_own_failure(app, reason):
    reply = ask(app)

    assert reply.outcome is Outcome.FAILED
    assert reason in reply.reason
    assert reason in reply.traceback
    assert b"Traceback" in reply.errors


def test_a_huge_response_is_read_to_its_end_and_only_its_beginning_is_kept():
    response = Watched(b"x" * 65536 for _ in range(16_384))  # 1 GiB

    reply = ask(answering(body=response))

    assert (reply.outcome, len(reply.body), response.closed) == (Outcome.SUCCESS, 4096, 1)


def test_capture_bounds_what_is_kept_and_0_keeps_nothing():
    def app(environ, start_response):
        environ["wsgi.errors"].write("warned")
        return answering(body=[b"ab", b"cd"])(environ, start_response)

    assert ask(app, options={"capture": 3}).body == b"abc"
    assert ask(app, options={"capture": 3}).errors == b"war"
    assert ask(app, options={"capture": 0}).body == b""
    assert ask(app, options={"capture": 0}).errors == b""


def test_wsgi_errors_is_a_text_stream_that_stays_open():
    kept = []

    def app(environ, start_response):
        errors = environ["wsgi.errors"]
        kept.append(errors)
        errors.writelines(["one\n", "zwei ü\n"])
        print("three", file=errors, flush=True)
        errors.close()
        return answering()(environ, start_response)

    reply = ask(app)

    kept[0].write("after the run")
    assert reply.errors.decode() == "one\nzwei ü\nthree\n"


def test_many_headers_and_chunks_are_no_matter():
    reply = ask(answering("200 OK", [("X-H", "v")] * 5000, (b"x" for _ in range(200_000))))

    assert (reply.outcome, len(reply.body)) == (Outcome.SUCCESS, 4096)


def test_the_duration_is_that_of_the_whole_response():
    clock = ManualClock(NOON)

    def chunks():
        clock.advance(2)
        yield b"x"
        clock.step(-500)
        clock.advance(1)

    assert ask(answering(body=chunks()), clock=clock).duration == 3


def endless(clock: ManualClock):
    while True:
        clock.advance(1)
        yield b"tick"


def test_a_response_that_never_ends_is_cut_at_the_timeout_and_closed():
    clock = ManualClock(NOON)
    response = Watched(endless(clock))

    reply = ask(answering(body=response), clock=clock, timeout=10)

    assert (reply.outcome, reply.status, response.closed) == (Outcome.TIMEOUT, 200, 1)
    assert "cut after 10 s" in reply.reason
    assert reply.body.startswith(b"ticktick")


def test_an_endpoint_that_writes_for_ever_is_cut_too():
    clock = ManualClock(NOON)

    def app(environ, start_response):
        write = start_response("200 OK", [])
        while True:
            clock.advance(1)
            write(b"tick")

    assert ask(app, clock=clock, timeout=10).outcome is Outcome.TIMEOUT


def test_a_cancelled_run_stops_between_two_chunks():
    cancelled = Control()

    def chunks():
        yield b"one"
        cancelled.set()
        yield b"two"
        yield b"three"

    reply = ask(answering(body=chunks()), cancelled=cancelled)

    assert (reply.outcome, reply.body) == (Outcome.CANCELLED, b"onetwo")


def test_a_run_that_was_cancelled_before_it_began_reaches_no_endpoint():
    cancelled = Control()
    cancelled.set()

    reply = ask(lambda environ, start_response: pytest.fail("requested"), cancelled=cancelled)

    assert (reply.outcome, reply.reason) == (Outcome.CANCELLED, "cancelled before it had sent all of its response")


def test_a_response_in_one_piece_is_complete_even_if_it_is_late():
    clock = ManualClock(NOON)

    def app(environ, start_response):
        clock.advance(11)
        return answering()(environ, start_response)

    assert ask(app, clock=clock, timeout=10).outcome is Outcome.SUCCESS


def test_a_cut_response_whose_close_raises_is_cut_all_the_same():
    clock = ManualClock(NOON)
    response = Watched(endless(clock), on_close=lambda: 1 / 0)

    assert ask(answering(body=response), clock=clock, timeout=10).outcome is Outcome.TIMEOUT


def test_a_reason_is_short_and_can_be_written():
    assert len(ask(raising(ValueError("x" * 10**6))).reason) < 600
    assert ask(raising(ValueError("\udcff"))).reason == "ValueError: \\udcff"
    noted = ValueError("bad")
    noted.add_note("and more")
    assert ask(raising(noted)).reason == "ValueError: bad"


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        ("web1", "web1", "80"),
        ("10.0.0.5", "10.0.0.5", "80"),
        ("web1:8080", "web1", "8080"),
        ("[::1]:81", "[::1]", "81"),
    ],
)
def test_a_host_may_end_in_a_digit(host, name, port):
    seen = seen_by_the_endpoint(options={"host": host})

    assert (seen["SERVER_NAME"], seen["SERVER_PORT"], seen["HTTP_HOST"]) == (name, port, host)


def test_a_query_is_percent_encoded():
    assert seen_by_the_endpoint(action="x?q=€&r=%20+1")["QUERY_STRING"] == "q=%E2%82%AC&r=%20+1"


def test_without_a_timeout_nothing_is_cut():
    clock = ManualClock(NOON)

    def chunks():
        clock.advance(timedelta(days=400))
        yield b"x"

    assert ask(answering(body=chunks()), clock=clock, timeout=0).outcome is Outcome.SUCCESS


# What an answer says to Pulse, beside its status


def saying(status: str, *headers: tuple[str, str]):
    def app(environ, start_response):
        start_response(status, list(headers))
        return [b""]

    return app


@pytest.mark.parametrize("status", ["409 Conflict", "423 Locked"])
def test_an_endpoint_may_say_not_now(status):
    reply = ask(saying(status))

    assert (reply.outcome, reply.reason) == (Outcome.SKIPPED, f"answered {status[:3]}: not now")


def test_what_is_expected_is_a_success_whatever_it_means_elsewhere():
    assert ask(saying("409 Conflict"), expect_status="409").outcome is Outcome.SUCCESS


def test_the_result_of_an_endpoint_is_cut_at_a_length():
    reply = ask(saying("200 OK", ("X-Pulse-Result", "swept 3 " + "x" * 300)))

    assert reply.result == ("swept 3 " + "x" * 300)[:200] + "..."


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120), (" 0 ", 0), ("Sat, 01 May 2027 12:05:00 GMT", 300), ("Sat, 01 May 2027 11:00:00 GMT", 0),
        ("soon", None), ("-5", None), ("1.5", None), ("", None), ("9" * 400, 366 * 86_400),
        ("               5", 5), ("1 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Fri, 31 Dec 9998 00:00:00 GMT", 366 * 86_400), ("Sat, 01 May 2027 14:05:00 +0200", 300),
        ("Sat, 01 May 2027 12:05:00", 300),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(said, seconds):
    clock = ManualClock(datetime(2027, 5, 1, 12, tzinfo=UTC))

    reply = ask(saying("503 Service Unavailable", ("Retry-After", said)), clock=clock)

    assert reply.retry_after == (None if seconds is None else timedelta(seconds=seconds))


def test_an_endpoint_can_tell_how_far_it_has_got():
    control = Control()

    def app(environ, start_response):
        environ["pulse.progress"](3, 10, "pages")
        start_response("200 OK", [])
        return [b""]

    ask(app, cancelled=control)

    assert control.progress == Progress(done=3, total=10, text="pages")


# Asynchronous applications


def simple_async():
    yield b"hello"
    c = asyncio.Future()
    c.set_result(b" ")
    yield c
    yield b"World!"


async def async_sample(environ, start_response):
    await asyncio.sleep(0)
    start_response("200 OK", [])
    return simple_async()


async def generator_sample(environ, start_response):
    start_response("200 OK", [])
    for chunk in (b"hello", b" ", b"World!"):
        await asyncio.sleep(0)
        yield chunk


class LazySample(LazyWsgi):
    def setup(self, environ=None):
        return WsgiHandler([async_sample])


@pytest.mark.parametrize(
    "app", [async_sample, generator_sample, WsgiHandler([async_sample]), LazySample(), as_wsgi(async_sample)]
)
def test_an_asynchronous_handler_is_awaited_with_its_chunks(app):
    reply = ask(app)

    assert (reply.outcome, reply.status, reply.body) == (Outcome.SUCCESS, 200, b"hello World!")


def test_awaitable_chunks_of_a_synchronous_application_are_awaited():
    async def late():
        await asyncio.sleep(0)
        return b"late"

    assert ask(answering(body=(b"now ", late()))).body == b"now late"


def test_an_asynchronous_response_is_closed_once():
    response = Watched([b"x"])

    async def app(environ, start_response):
        return answering(body=response)(environ, start_response)

    assert ask(app).outcome is Outcome.SUCCESS
    assert response.closed == 1


def test_what_an_asynchronous_endpoint_raises_is_its_own_failure():
    async def app(environ, start_response):
        start_response("200 OK", [])
        yield b"half"
        raise OSError("disk")

    reply = ask(app)

    assert (reply.outcome, reply.reason, reply.body) == (Outcome.FAILED, "OSError: disk", b"half")
    assert "it returned None" in ask(answering_async(None)).reason


def answering_async(body):
    async def app(environ, start_response):
        return answering(body=body)(environ, start_response)

    return app


def test_an_asynchronous_endpoint_that_hangs_is_cancelled_at_its_timeout():
    clock, cancelled = ManualClock(NOON), []

    async def app(environ, start_response):
        clock.advance(11)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    reply = ask(app, clock=clock, timeout=10)

    assert (reply.outcome, cancelled) == (Outcome.TIMEOUT, [True])


def test_an_asynchronous_response_in_one_piece_is_complete_even_if_it_is_late():
    clock = ManualClock(NOON)

    async def app(environ, start_response):
        clock.advance(11)
        return answering()(environ, start_response)

    assert ask(app, clock=clock, timeout=10).outcome is Outcome.SUCCESS


# What the endpoint knows


@pytest.mark.parametrize("is_async", [True, False])
def test_the_context_is_active_in_the_call_the_body_and_the_close(is_async):
    seen = []

    def look():
        seen.append(PulseContext.get())

    def chunks():
        look()
        yield b"x"

    def app(environ, start_response):
        look()
        return answering(body=Watched(chunks(), on_close=look))(environ, start_response)

    async def async_app(environ, start_response):
        return app(environ, start_response)

    wrapped = async_app if is_async else app
    ask(wrapped)

    assert len(seen) == 3
    for context in seen:
        assert (context.app, context.session, context.render) == (wrapped, None, None)
        route = context.route
        assert (route.path, route.context, route.action) == ("/jobs/sweep", "jobs", "sweep")
        assert (route.internal, route.task.id, route.task.task) == (True, "ab" * 16, "sweep")
    assert PULSE_CONTEXT.get() is None


def test_the_context_has_the_middleware_if_there_is_one():
    apps = []
    config = read_config(tasks={"sweep": {}})
    run = Run(id="ab" * 16, task="sweep", due=NOON)

    def app(environ, start_response):
        apps.append(PulseContext.get().app)
        raise OSError("disk")

    Dispatcher(app, config, clock=ManualClock(NOON), middleware="pulse")(config.tasks["sweep"], run, Control())

    assert (apps, PULSE_CONTEXT.get()) == (["pulse"], None)


def test_the_environ_has_the_connection_and_the_configuration():
    seen = seen_by_the_endpoint(options={"token": "0123456789abcdef"})

    assert (seen["pulse.connection"].kind, seen["pulse.connection"].peer) == ("internal", None)
    assert (seen["pulse.cfg"].context, seen["pulse.cfg"]["pulse.config.guard"]) == ("jobs", False)
    assert "token" not in seen["pulse.cfg"]


def test_the_loop_of_an_internal_request_is_the_one_that_runs_it():
    loops = []

    async def app(environ, start_response):
        loops.extend([environ["pulse.connection"]._loop, asyncio.get_running_loop()])
        return answering()(environ, start_response)

    assert ask(app).outcome is Outcome.SUCCESS
    assert loops[0] is loops[1]
