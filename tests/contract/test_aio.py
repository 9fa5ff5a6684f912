"""mode = asyncio: runs that wait cost no thread."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from math import ceil

import pytest
from servers import program, wait_until

from pulse.errors import ConfigError
from pulse.loop import background_loop
from pulse.middleware import PulseMiddleware
from pulse.missed import Rung
from pulse.model import Fire, Outcome
from pulse.workers.handful import HANDFUL
from pulse.wsgi import WsgiHandler, as_wsgi

HOUR = {"interval": 3600}


class Site:
    """An asynchronous application; its endpoints do what their names say."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.under_way = 0
        self.most = 0
        self.closed: list[str] = []

    async def __call__(self, environ, start_response):
        path = environ["PATH_INFO"].rpartition("/")[2].rstrip("0123456789")
        start_response("200 OK", [])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await getattr(self, path)(environ)
        finally:
            self.under_way -= 1

    async def ok(self, environ):
        await asyncio.sleep(0)
        return [b"ok ", threading.current_thread().name.encode()]

    async def waits(self, environ):
        logging.getLogger("site").warning("waits for the other side")
        while not self.release.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        return [b"at last"]

    async def stubborn(self, environ):
        while not self.release.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return []

    async def lingers(self, environ):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    async def tidies(self, environ):
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(20):
                await asyncio.sleep(0.01)
            self.closed.append("tidies")

    async def raises(self, environ):
        raise ValueError("bad day")

    async def streams(self, environ):
        async def body():
            try:
                while True:
                    yield b"tick "
                    await asyncio.sleep(0.01)
            finally:
                self.closed.append("streams")

        return body()

    async def converts(self, environ):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise RuntimeError("no response returned") from None

    async def gushes(self, environ):
        async def body():
            while not self.release.is_set():
                yield b"tick "

        return body()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.release.set()


@pytest.fixture
def serve(site):
    made: list[PulseMiddleware] = []

    def make(app=None, tasks=(), **options) -> PulseMiddleware:
        names = dict.fromkeys(
            tasks or ("ok", "waits", "stubborn", "lingers", "tidies", "raises", "streams", "gushes", "converts"), HOUR
        )
        made.append(PulseMiddleware(app or site, task=names, **{"mode": "asyncio", "start": "manual", **options}))
        made[-1].start()
        return made[-1]

    yield make
    site.release.set()
    for one in made:
        one.close()


def begin(middleware: PulseMiddleware, name: str) -> list:
    """Run *name* by hand in a thread; its record comes into the list."""
    found: list = []
    threading.Thread(target=lambda: found.append(middleware.run_now(name))).start()
    return found


def test_a_run_is_awaited_on_the_loop_and_recorded(serve):
    middleware = serve()

    run = middleware.run_now("ok")

    assert (run.outcome, run.status) == (Outcome.SUCCESS, 200)
    assert b"pulse-loop" in run.body or b"Thread" not in run.body
    assert middleware.run_store.history("ok") == [run]


def test_what_an_endpoint_raises_is_its_own_failure(serve):
    middleware = serve()

    run = middleware.run_now("raises")

    assert (run.outcome, run.reason) == (Outcome.FAILED, "ValueError: bad day")
    assert middleware.run_now("ok").outcome is Outcome.SUCCESS


def test_many_runs_wait_at_once_without_a_thread_each(site, serve):
    names = [f"waits{number}" for number in range(200)]
    middleware = serve(tasks=names)
    before = threading.active_count()
    now = middleware._clock.now()
    for name in names:
        fire = Fire(task=name, due=now)
        middleware._engine.workers.submit([Rung(fire)])

    wait_until(lambda: site.under_way == 200)
    threads = threading.active_count() - before
    site.release.set()
    wait_until(lambda: all(middleware.run_store.history(name) for name in names))

    assert threads <= 2
    assert {middleware.run_store.history(name)[0].outcome for name in names} == {Outcome.SUCCESS}


def test_no_more_runs_than_workers_are_under_way(site, serve):
    names = [f"waits{number}" for number in range(8)]
    middleware = serve(tasks=names, workers=3)
    now = middleware._clock.now()
    for name in names:
        fire = Fire(task=name, due=now)
        middleware._engine.workers.submit([Rung(fire)])

    wait_until(lambda: site.under_way == 3)
    site.release.set()
    wait_until(lambda: all(middleware.run_store.history(name) for name in names))

    assert site.most == 3


def submit_at_once(middleware: PulseMiddleware, *names: str) -> None:
    workers, now = middleware._engine.workers, middleware._clock.now()
    workers.submit([Rung(Fire(task=name, due=now)) for name in names])


def test_what_is_due_at_once_is_claimed_together_and_recorded_together(serve, monkeypatch):
    names = [f"ok{number}" for number in range(40)]
    middleware = serve(tasks=names)
    store = middleware.run_store
    claims = store.claim_all
    together: list[int] = []
    monkeypatch.setattr(store, "claim_all", lambda bids, **terms: together.append(len(bids)) or claims(bids, **terms))

    submit_at_once(middleware, *names)
    wait_until(lambda: all(store.history(name) for name in names))

    assert {store.history(name)[0].outcome for name in names} == {Outcome.SUCCESS}
    assert (sum(together), len(together)) == (40, ceil(40 / HANDFUL))
    assert not store.running()


def test_what_there_is_no_room_for_waits_unclaimed(site, serve):
    names = [f"waits{number}" for number in range(8)]
    middleware = serve(tasks=names, workers=3)

    submit_at_once(middleware, *names)
    wait_until(lambda: site.under_way == 3)

    assert len(middleware.run_store.running()) == 3
    site.release.set()
    wait_until(lambda: all(middleware.run_store.history(name) for name in names))
    assert site.most == 3


@pytest.mark.parametrize("step", ["claim_all", "finish_all"])
def test_a_store_that_breaks_ends_no_thread_and_keeps_no_place(serve, monkeypatch, step):
    names = [f"ok{number}" for number in range(1, 10)]
    middleware = serve(tasks=["ok", *names], workers=3)
    workers, asked = middleware._engine.workers, []
    with monkeypatch.context() as patch:
        patch.setattr(middleware.run_store, step, lambda *args, **more: asked.append(args) or 1 / 0)
        for count in (1, 2, 3):
            submit_at_once(middleware, *names[count * 3 - 3 : count * 3])
            wait_until(lambda count=count: len(asked) >= count and workers.busy == 0)

    assert middleware.run_now("ok").outcome is Outcome.SUCCESS
    wait_until(lambda: workers._room._value in (1, 2, 3))  # but for what the threads hold that claim


def test_a_response_that_never_waits_keeps_no_other_run_waiting(site, serve):
    middleware = serve()
    found = begin(middleware, "gushes")
    wait_until(lambda: middleware._engine.workers._runner.lasting(0))  # begun, and not only claimed

    other = begin(middleware, "ok")

    wait_until(lambda: other)
    assert not found
    site.release.set()
    wait_until(lambda: found)
    assert found[0].outcome is other[0].outcome is Outcome.SUCCESS


@pytest.mark.parametrize("name", ["waits", "streams"])
def test_a_run_is_cancelled_at_its_deadline(site, serve, name):
    middleware = serve(config={"pulse.config.default.timeout": "0.2"})

    run = middleware.run_now(name)

    assert run.outcome is Outcome.TIMEOUT
    assert middleware.run_now("ok").outcome is Outcome.SUCCESS
    if name == "streams":
        assert site.closed == ["streams"]
    else:
        assert (run.status, run.request) == (200, "GET /pulse/waits")
        assert run.log.endswith(b"WARNING site waits for the other side")


def test_a_run_that_makes_an_error_of_its_cancellation_has_timed_out_all_the_same(serve):
    middleware = serve(config={"pulse.config.default.timeout": "0.2"})

    run = middleware.run_now("converts")

    assert (run.outcome, run.status) == (Outcome.TIMEOUT, 200)
    assert run.reason.startswith("cancelled after 0.2 s")
    assert run.reason.endswith("RuntimeError: no response returned")
    assert b"no response returned" in run.errors


def test_each_run_has_the_whole_of_a_time_limit_that_many_have(site, serve):
    names = [f"waits{number}" for number in range(6)]
    middleware = serve(tasks=["ok", *names], config={"pulse.config.default.timeout": "0.4"})
    found = []
    for name in names:
        found += [begin(middleware, name)]
        middleware.run_now("ok")  # one that has ended in time lies between them

    wait_until(lambda: all(found))

    assert {run.outcome for (run,) in found} == {Outcome.TIMEOUT}
    assert min(run.duration for (run,) in found) >= 0.4 - 1e-6
    assert middleware.run_now("waits0").outcome is Outcome.TIMEOUT
    assert middleware.run_now("ok").outcome is Outcome.SUCCESS
    wait_until(lambda: not any(limit._flights for limit in middleware._engine.workers._limits.values()))


def test_a_run_that_was_cut_has_lasted_from_its_beginning_however_late_the_loop_came_to_it(serve, monkeypatch):
    middleware = serve(config={"pulse.config.default.timeout": "0.2"})
    dispatcher = middleware._engine.workers._dispatcher
    perform = dispatcher.perform

    async def perform_late(task, run, control):
        time.sleep(0.05)  # noqa: ASYNC251 - others keep the loop busy
        return await perform(task, run, control)

    monkeypatch.setattr(dispatcher, "perform", perform_late)

    run = middleware.run_now("waits")

    assert run.outcome is Outcome.TIMEOUT
    assert run.duration >= 0.2 - 1e-6


def test_a_run_that_was_asked_to_stop_is_cancelled_even_if_its_time_is_over_then(site, serve):
    middleware = serve(config={"pulse.config.default.timeout": "0.5"})
    found = begin(middleware, "lingers")
    wait_until(lambda: site.under_way)

    middleware._engine.workers._runner.upkeep.cancel()
    middleware._engine.workers._cancel_asked()
    wait_until(lambda: found)

    assert found[0].outcome is Outcome.CANCELLED


def test_a_run_that_does_not_let_itself_be_cancelled_is_given_up(serve, site):
    middleware = serve(workers=1, config={"pulse.config.default.timeout": "0.2"})

    run = middleware.run_now("stubborn")

    assert (run.outcome, run.reason) == (Outcome.TIMEOUT, "it did not come back by its deadline")
    assert middleware.run_now("ok").outcome is Outcome.SUCCESS


def test_a_task_whose_runs_never_come_back_is_suspended_until_one_does(serve, site):
    middleware = serve(config={"pulse.config.default.timeout": "0.2"})
    for _ in range(2):
        assert middleware.run_now("stubborn").outcome is Outcome.TIMEOUT

    run = middleware.run_now("stubborn")

    assert (run.outcome, run.reason) == (Outcome.SKIPPED, "2 earlier runs do not let themselves be cancelled")
    assert middleware._engine.workers.abandoned == 2
    assert middleware.run_now("ok").outcome is Outcome.SUCCESS
    site.release.set()
    wait_until(lambda: middleware._engine.workers.abandoned == 0)


def test_a_run_is_cancelled_by_whoever_asks_the_store_for_it(serve):
    middleware = serve()
    found = begin(middleware, "waits")
    wait_until(middleware.run_store.running)

    middleware.run_store.ask_to_stop(middleware.run_store.running()[0].id, "by ada")
    wait_until(lambda: found)

    assert found[0].outcome is Outcome.CANCELLED
    assert found[0].reason.endswith("by ada")


def test_a_run_that_is_asked_to_stop_is_left_to_tidy_up(serve, site, monkeypatch):
    monkeypatch.setattr("pulse.workers.aio.LOOK", 0.01)
    monkeypatch.setattr("pulse.workers.aio.REPORT", 0.01)
    monkeypatch.setattr("pulse.upkeep.LASTING", 0)
    middleware = serve()
    found = begin(middleware, "tidies")
    wait_until(middleware.run_store.running)

    middleware.run_store.ask_to_stop(middleware.run_store.running()[0].id, "by ada")
    wait_until(lambda: found)

    assert found[0].outcome is Outcome.CANCELLED
    assert site.closed == ["tidies"]


def test_a_run_that_comes_back_while_it_is_given_up_is_not_counted_as_left_behind(serve, site, caplog):
    middleware = serve(config={"pulse.config.default.timeout": "0.2"})
    workers = middleware._engine.workers

    def come_back(_) -> None:
        site.release.set()
        wait_until(lambda: not (site.under_way or workers._flights or workers._abandoned))

    promise = workers.run_apart(Fire(task="stubborn", due=middleware._clock.now()))
    promise.add_done_callback(come_back)  # in the thread that gives it up

    wait_until(lambda: "task_abandoned" in [getattr(line, "pulse_event", "") for line in caplog.records])
    assert promise.result().outcome is Outcome.TIMEOUT
    assert workers.abandoned == 0


def test_closing_lets_runs_end_and_then_cancels_them(site, serve):
    middleware = serve(shutdown_timeout=0.2)
    begin(middleware, "waits")
    wait_until(lambda: middleware._engine.workers._runner.lasting(0))  # begun, and not only claimed
    begun = time.monotonic()

    middleware.close()

    assert time.monotonic() - begun < 20
    assert middleware.run_store.history("waits")[0].outcome is Outcome.CANCELLED


def test_a_run_whose_loop_was_closed_is_recorded_and_keeps_nobody_waiting(serve):
    middleware = serve()
    workers = middleware._engine.workers
    loop, workers._loop = workers._loop, asyncio.new_event_loop()
    workers._loop.close()

    run = middleware.run_now("ok")
    workers._loop = loop

    assert run.outcome is Outcome.FAILED
    assert "loop" in run.reason
    assert workers.busy == 0
    assert workers._idle.is_set()
    assert middleware.run_now("ok").outcome is Outcome.SUCCESS


def test_a_run_that_the_loop_does_not_take_is_recorded_and_others_are_run(site, serve, monkeypatch):
    names = ["waits", "ok1", "ok2", "ok3"]
    middleware = serve(tasks=names)
    loop = middleware._engine.workers._loop
    create = loop.create_task

    def choosy(coro, *, name=None, **more):
        if name == "ok2":
            raise RuntimeError("no more tasks")
        return create(coro, name=name, **more)

    monkeypatch.setattr(loop, "create_task", choosy)
    for name in names:
        middleware._engine.workers.submit([Rung(Fire(task=name, due=middleware._clock.now()))])
    site.release.set()

    wait_until(lambda: all(middleware.run_store.history(name) for name in names))
    runs = {name: middleware.run_store.history(name)[0] for name in names}
    assert {name: run.outcome for name, run in runs.items()} == {
        "waits": Outcome.SUCCESS,
        "ok1": Outcome.SUCCESS,
        "ok2": Outcome.FAILED,
        "ok3": Outcome.SUCCESS,
    }
    assert runs["ok2"].reason == "it could not be begun: no more tasks"
    wait_until(lambda: not middleware._engine.workers.busy)


def test_a_run_that_makes_an_error_of_being_cancelled_by_hand_was_cancelled_all_the_same(serve, monkeypatch):
    monkeypatch.setattr("pulse.upkeep.LASTING", 0)
    middleware = serve()
    found = begin(middleware, "converts")
    wait_until(middleware.run_store.running)

    middleware.run_store.ask_to_stop(middleware.run_store.running()[0].id, "by ada")
    wait_until(lambda: found)

    assert found[0].outcome is Outcome.CANCELLED
    assert found[0].reason.endswith("RuntimeError: no response returned: by ada")


@pytest.mark.parametrize("step", ["claim", "finish"])
def test_a_log_that_cannot_be_written_ends_no_thread(serve, monkeypatch, step):
    class Broken(logging.Handler):
        def emit(self, record):
            raise ValueError("I/O operation on closed file")

    middleware = serve(tasks=["ok", "ok1", "ok2", "ok3"])
    workers, asked = middleware._engine.workers, []
    monkeypatch.setattr(logging.getLogger("pulse"), "handlers", [Broken()])
    with monkeypatch.context() as patch:
        patch.setattr(middleware.run_store, step, lambda *args, **more: asked.append(args) or 1 / 0)
        for count in (1, 2, 3):  # more than there are threads that claim
            workers.submit([Rung(Fire(task=f"ok{count}", due=middleware._clock.now()))])
            wait_until(lambda count=count: len(asked) == count and workers.busy == 0)

    assert workers._idle.is_set()
    assert middleware.run_now("ok").outcome is Outcome.SUCCESS


def test_a_synchronous_application_is_refused_with_the_mode_that_fits(serve):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"done"]

    run = serve(app).run_now("ok")

    assert run.outcome is Outcome.FAILED
    assert "want mode = threading" in run.reason


@pytest.mark.parametrize("app", [WsgiHandler(async_=False), as_wsgi(WsgiHandler())])
def test_a_handler_that_says_that_it_is_synchronous_ends_the_start(app):
    with pytest.raises(ConfigError, match=r"pulse\.config\.mode = 'asyncio'.*want threading or processing"):
        PulseMiddleware(app, task={"ok": HOUR}, mode="asyncio")


def test_a_handler_that_something_synchronous_calls_on_the_loop_fails_alone(serve):
    def body(environ, start_response):
        start_response("200 OK", [])
        return iter([asyncio.sleep(0, b"later")])

    def layer(environ, start_response):
        return as_wsgi(body)(environ, start_response)

    middleware = serve(layer)

    runs = [middleware.run_now("ok") for _ in range(2)]

    assert {run.outcome for run in runs} == {Outcome.FAILED}
    assert "want the handler itself, without as_wsgi" in runs[1].reason


@pytest.mark.parametrize(("is_async", "mode"), [(True, "asyncio"), (False, "threading")])
def test_auto_picks_the_mode_that_fits(site, is_async, mode):
    app = site if is_async else (lambda environ, start_response: [])

    assert PulseMiddleware(app, task={"ok": HOUR}, mode="auto")._engines.mode == mode


def test_pieces_of_a_synchronous_iterable_may_be_awaitable(serve):
    async def later() -> bytes:
        await asyncio.sleep(0.01)
        return b"World!"

    def app(environ, start_response):
        start_response("200 OK", [])
        return iter([b"hello ", later()])

    assert serve(app).run_now("ok").body == b"hello World!"


def test_what_an_answer_results_in_may_have_to_be_awaited_too(serve):
    async def app(environ, start_response):
        start_response("200 OK", [])
        return later([b"at last"])

    async def later(body):
        await asyncio.sleep(0)
        return body

    assert serve(app).run_now("ok").body == b"at last"


def test_what_is_logged_between_runs_that_wait_is_kept_with_the_run_that_said_it(serve):
    async def app(environ, start_response):
        start_response("200 OK", [])
        for step in ("begins", "ends"):
            logging.getLogger("app").warning("%s %s", environ["HTTP_X_PULSE_TASK"], step)
            await asyncio.sleep(0.01)
        return [b""]

    names = ["one", "two"]
    middleware = serve(app, tasks=names)
    for name in names:
        middleware._engine.workers.submit([Rung(Fire(task=name, due=middleware._clock.now()))])

    wait_until(lambda: all(middleware.run_store.history(name) for name in names))
    for name in names:
        lines = middleware.run_store.history(name)[0].log.decode().splitlines()
        assert [line.partition(" app ")[2] for line in lines] == [f"{name} begins", f"{name} ends"]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_body_that_can_be_closed_is_closed_whatever_it_is(serve, kind):
    closed = []

    class Body(kind):
        def close(self):
            closed.append(kind)

    async def app(environ, start_response):
        start_response("200 OK", [])
        return Body([b"hello"])

    assert serve(app).run_now("ok").body == b"hello"
    assert closed == [kind]


@pytest.mark.parametrize(("mode", "workers", "is_allowed"), [("asyncio", 5000, True), ("threading", 257, False)])
def test_only_on_a_loop_there_may_be_many_workers(site, mode, workers, is_allowed):
    if is_allowed:
        PulseMiddleware(site, task={"ok": HOUR}, mode=mode, workers=workers)
        return
    with pytest.raises(ConfigError, match=r"workers = 257: want a whole number from 1 to 256"):
        PulseMiddleware(site, task={"ok": HOUR}, mode=mode, workers=workers)


STUBBORN = """
import asyncio, sys, threading
from pulse import PulseMiddleware

async def site(environ, start_response):
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:
            pass

def tell():
    app.run_now("stubborn")
    print("left behind", flush=True)

app = PulseMiddleware(site, task={"stubborn": {"interval": 3600, "timeout": 0.1, "kill_grace": 0}}, mode="asyncio",
    store="memory:", start="manual", shutdown_timeout=0)
app.start()
if sys.argv[1] == "overdue":
    tell()
else:
    threading.Thread(target=tell, daemon=True).start()
    while not app._engine.workers.busy:
        pass
"""


HUNG = """
import asyncio, threading
from pulse import PulseMiddleware

async def site(environ, start_response):
    await asyncio.to_thread(threading.Event().wait)

app = PulseMiddleware(site, task={"hung": {"interval": 3600, "timeout": 0.1, "kill_grace": 0}}, mode="MODE",
    store="memory:", start="manual", shutdown_timeout=0)
app.run_now("hung")
"""


@pytest.mark.parametrize("mode", ["asyncio", "threading"])
def test_what_an_endpoint_calls_in_a_thread_does_not_keep_the_process_from_ending(mode):
    with program("-c", HUNG.replace("MODE", mode)) as server:
        assert server.wait() == 0


@pytest.mark.parametrize("when", ["overdue", "under_way"])
def test_what_swallows_each_cancellation_does_not_keep_the_process_from_ending(when):
    with program("-c", STUBBORN, when) as server:
        assert server.wait() == 0


def test_a_run_that_is_cancelled_before_its_first_step_has_its_record(serve):
    middleware = serve()
    loop = background_loop()

    before = asyncio.all_tasks(loop)  # what other tests have left to end there

    def cancel_what_comes() -> None:
        tasks = asyncio.all_tasks(loop) - before
        for task in tasks:
            task.cancel()
        if not tasks:
            loop.call_soon(cancel_what_comes)

    loop.call_soon_threadsafe(cancel_what_comes)
    found = begin(middleware, "ok")

    wait_until(lambda: found)
    assert found[0].outcome is Outcome.CANCELLED
    assert middleware.run_now("ok").outcome is Outcome.SUCCESS
