import asyncio
import gc
import logging
import queue
import threading
from concurrent.futures import CancelledError
from contextvars import ContextVar
from functools import partial
from logging.handlers import QueueHandler

import pytest

from pulse.loop import (
    LAST_WORD,
    THREADS,
    _Background,
    background_loop,
    immediate,
    is_on_background_loop,
    run_async,
    run_soon,
    running_loop,
)
from pulse.state import get_server_state, reset_server_state, sync_helpers

LIMIT = 30  # seconds for what should come at once
WHO: ContextVar[str] = ContextVar("who", default="nobody")


async def echo(value):
    await asyncio.sleep(0)
    return value


class Sleeper:
    """A coroutine that never ends by itself, and what became of it."""

    def __init__(self):
        self.begun = threading.Event()
        self.cancelled = threading.Event()

    async def sleep(self):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture(params=["loop", "state"])
def call(request):
    """`run_async` of both floors: they keep the same promises."""
    yield run_async if request.param == "loop" else sync_helpers.run_async
    reset_server_state()


@pytest.fixture(params=["loop", "state"])
def soon(request):
    return run_soon if request.param == "loop" else sync_helpers.run_async_fire_and_forget


def test_a_result_is_returned(call):
    assert call(echo(5)) == 5


def test_an_exception_is_raised(call):
    async def fail():
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        call(fail())


def test_the_context_of_the_caller_reaches_the_coroutine(call):
    async def ask():
        return WHO.get()

    token = WHO.set("somebody")
    try:
        assert call(ask()) == "somebody"
    finally:
        WHO.reset(token)


def test_after_its_time_a_coroutine_is_cancelled(call):
    sleeper = Sleeper()

    with pytest.raises(TimeoutError, match=r"not finished after 0\.05 s; it was cancelled"):
        call(sleeper.sleep(), 0.05)

    assert sleeper.cancelled.is_set()


def test_a_coroutine_that_will_not_be_cancelled_keeps_nobody_for_ever(call, monkeypatch):
    monkeypatch.setattr("pulse.loop.LAST_WORD", 0.05)
    told = threading.Event()

    async def stubborn():
        while not told.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    with pytest.raises(TimeoutError):
        call(stubborn(), timeout=0.05)
    told.set()


def test_a_coroutine_that_blocks_its_loop_keeps_its_caller_hardly_longer_than_the_time(call):
    told, ended = threading.Event(), threading.Event()

    async def blocks():
        told.wait(LIMIT)
        ended.set()

    with pytest.raises(TimeoutError):
        call(blocks(), 0.02)
    kept = not ended.is_set()
    told.set()

    assert kept
    assert ended.wait(LIMIT)
    assert LAST_WORD <= 0.2


@pytest.mark.parametrize(
    "wrong", [None, 5, echo, lambda: None, "echo()"], ids=["None", "number", "function", "lambda", "text"]
)
def test_what_is_no_coroutine_is_refused_at_once(call, soon, wrong):
    with pytest.raises(TypeError, match="want a coroutine"):
        call(wrong)
    with pytest.raises(TypeError, match="want a coroutine"):
        soon(wrong)


def test_a_coroutine_that_cannot_be_begun_is_its_callers_error(caplog):
    def refuse(loop, coro, **more):
        raise LookupError("no room")

    async def scenario():
        loop = asyncio.get_running_loop()
        coros = [echo(1), echo(2)]
        loop.set_task_factory(refuse)
        run_soon(coros[0], loop=loop)
        try:
            waiting = loop.run_in_executor(None, partial(run_async, coros[1], LIMIT, loop=loop))
            with pytest.raises(LookupError, match="no room"):
                await waiting
        finally:
            loop.set_task_factory(None)
        return coros

    assert [coro.cr_frame for coro in asyncio.run(scenario())] == [None, None]
    assert [record.pulse_event for record in caplog.records] == ["loop_failed"]


def test_a_loop_whose_thread_cannot_start_is_an_error_each_time_and_not_a_loop(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    background = _Background()
    monkeypatch.setattr(threading.Thread, "start", refuse)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="can't start"):
            background.started()
    assert background.loop is None


def test_what_is_no_loop_cannot_be_that_of_a_server():
    with pytest.raises(TypeError, match="server_loop = 'x': want an event loop"):
        get_server_state().server_loop = "x"

    assert get_server_state().server_loop is background_loop()
    reset_server_state()


def test_a_timeout_of_the_coroutine_itself_is_passed_on(call):
    async def impatient():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        call(impatient())


def test_a_failure_after_the_time_is_logged(call, caplog):
    async def fails_when_cancelled():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while it cleaned up") from None

    with pytest.raises(TimeoutError):
        call(fails_when_cancelled(), 0.02)

    assert [record.pulse_event for record in caplog.records] == ["loop_failed"]


def test_a_coroutine_that_is_cancelled_by_itself_ends_no_thread(call):
    async def give_up():
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        call(give_up())


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()])
def test_a_coroutine_cannot_end_the_loop(call, end):
    async def leave():
        raise end

    with pytest.raises(type(end)):
        call(leave())
    assert call(echo(1)) == 1


def test_waiting_on_the_loop_itself_is_refused_promptly_and_the_coroutine_closed(call):
    inner = echo(1)

    async def nested():
        return call(inner)

    with pytest.raises(RuntimeError, match="use await there"):
        call(nested())
    assert inner.cr_frame is None


def test_waiting_on_a_servers_loop_from_that_loop_is_refused_promptly():
    inner = echo(1)

    async def server():
        get_server_state().server_loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="use await there"):
            sync_helpers.run_async(inner)

    asyncio.run(server())
    reset_server_state()

    assert inner.cr_frame is None


def test_the_loop_of_a_server_is_used_while_it_runs():
    async def which():
        return asyncio.get_running_loop()

    async def server():
        own = get_server_state().server_loop = asyncio.get_running_loop()
        assert get_server_state().server_loop is own
        return own, await asyncio.to_thread(sync_helpers.run_async, which())

    own, used = asyncio.run(server())
    after = sync_helpers.run_async(which())
    reset_server_state()

    assert used is own
    assert after is background_loop()


def test_what_coroutines_call_in_threads_is_done_by_a_bounded_number_of_them():
    threads, gate = set(), threading.Barrier(2)

    def work(number: int) -> tuple[str, int]:
        threads.add(threading.get_ident())
        if number < 2:
            gate.wait(LIMIT)  # for each other: one thread alone would wait in vain
        return WHO.get(), number

    async def together():
        WHO.set("ada")
        return await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(3 * THREADS)))

    assert run_async(together(), LIMIT) == [("ada", number) for number in range(3 * THREADS)]
    assert 2 <= len(threads) <= THREADS


@pytest.mark.parametrize("error", [ValueError("bad day"), SystemExit(3)])
def test_what_is_raised_in_a_thread_is_the_coroutines_and_the_thread_goes_on(error):
    def fail():
        raise error

    for _ in range(THREADS + 1):
        with pytest.raises(type(error)):
            run_async(asyncio.to_thread(fail), LIMIT)

    assert run_async(asyncio.to_thread(str, 5), LIMIT) == "5"


def test_the_threads_of_a_loop_that_is_closed_end():
    background, gate = _Background(), threading.Barrier(2)

    def meet() -> threading.Thread:
        gate.wait(LIMIT)
        return threading.current_thread()

    async def together():
        return await asyncio.gather(asyncio.to_thread(meet), asyncio.to_thread(meet))

    threads = asyncio.run_coroutine_threadsafe(together(), background.started()).result(LIMIT)

    background.close()

    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)


def test_what_is_cancelled_before_a_thread_is_free_is_not_called():
    gate, called = threading.Event(), []

    async def crowd():
        waiting = [asyncio.create_task(asyncio.to_thread(gate.wait, LIMIT)) for _ in range(THREADS)]
        late = asyncio.create_task(asyncio.to_thread(called.append, 1))
        await asyncio.sleep(0)
        late.cancel()
        await asyncio.wait([late])
        await asyncio.sleep(0)  # now the threads' side of it knows, too
        gate.set()
        await asyncio.wait(waiting)
        await asyncio.to_thread(str)  # behind it in the queue

    run_async(crowd(), LIMIT)

    assert called == []


def test_another_loop_may_wait(call):
    async def elsewhere():
        return call(echo(5))

    assert asyncio.run(elsewhere()) == 5


def test_many_threads_call_at_once(call):
    start = threading.Barrier(20)
    found = []

    def work(number):
        start.wait(LIMIT)
        found.append(call(echo(number), LIMIT))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)

    assert sorted(found) == list(range(20))


def test_nobody_waits_for_what_is_fired_and_forgotten(soon):
    sleeper = Sleeper()

    soon(sleeper.sleep())

    assert sleeper.begun.wait(LIMIT)


def test_what_is_fired_and_forgotten_may_begin_on_the_loop_itself(soon):
    ended = threading.Event()

    async def end():
        ended.set()

    async def begin():
        soon(end())

    run_async(begin())

    assert ended.wait(LIMIT)


def test_a_failure_of_what_is_fired_and_forgotten_is_logged(soon):
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    handler = QueueHandler(records)
    logging.getLogger("pulse.loop").addHandler(handler)

    async def fail():
        raise LookupError("nothing there")

    soon(fail())
    record = records.get(timeout=LIMIT)
    logging.getLogger("pulse.loop").removeHandler(handler)

    assert record.pulse_event == "loop_failed"
    assert "LookupError: nothing there" in record.message


def test_what_nobody_refers_to_is_not_lost():
    ended = threading.Event()

    async def wait_alone():
        # Only this coroutine refers to the future, and only the future to this coroutine.
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, lambda: gc_and(future))
        await future
        ended.set()

    def gc_and(future):
        gc.collect()
        future.set_result(None)

    run_soon(wait_alone())

    assert ended.wait(LIMIT)


def test_a_closed_loop_is_an_error_and_the_coroutine_closed():
    loop = asyncio.new_event_loop()
    loop.close()
    coro = echo(1)

    with pytest.raises(RuntimeError, match="closed"):
        run_async(coro, loop=loop)
    assert coro.cr_frame is None


def test_there_is_one_loop_a_process_and_it_is_not_the_callers():
    async def ask():
        return is_on_background_loop()

    assert background_loop() is background_loop()
    assert (is_on_background_loop(), run_async(ask())) == (False, True)


def test_its_thread_keeps_no_interpreter_alive():
    background_loop()

    (thread,) = [thread for thread in threading.enumerate() if thread.name == "pulse-loop"]
    assert thread.daemon


def test_a_coroutine_that_stops_the_loop_stops_nobody_else():
    async def stops():
        asyncio.get_running_loop().stop()

    run_soon(stops())

    assert [run_async(asyncio.sleep(0, number)) for number in range(3)] == [0, 1, 2]


def test_what_waits_for_nothing_needs_no_loop():
    async def work():
        return "done"

    assert immediate(work()) == "done"


def test_what_waits_after_all_is_closed_and_refused():
    closed = []

    async def work():
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    with pytest.raises(RuntimeError, match="was to be immediate"):
        immediate(work())

    assert closed == [True]


def test_plain_code_is_run_by_no_loop():
    async def here():
        return running_loop() is asyncio.get_running_loop()

    assert running_loop() is None
    assert asyncio.run(here())
