import asyncio
import inspect
import threading
import time
from contextvars import ContextVar
from functools import partial, wraps

import pytest

from pulse.state.callbacks import (
    CallbackRegistration,
    CallbackRegistry,
    get_callback_registry,
    is_async,
    reset_callback_registry,
)
from pulse.testing import ManualClock

WHO: ContextVar[str] = ContextVar("who", default="nobody")


def run(test):
    @wraps(test)
    def on_a_loop(*args, **fixtures):
        asyncio.run(test(*args, **fixtures))

    return on_a_loop


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def registry(clock):
    return CallbackRegistry(clock=clock)


def plain(data, widget_id, event_type):
    return data["x"], widget_id, event_type


async def awaited(data, widget_id, event_type):
    await asyncio.sleep(0)
    return data["x"], widget_id, event_type


class Caller:
    async def __call__(self, data, widget_id, event_type):
        return await awaited(data, widget_id, event_type)

    async def method(self, data, widget_id, event_type):
        return await awaited(data, widget_id, event_type)


def gives_coroutine(data, widget_id, event_type):
    return awaited(data, widget_id, event_type)


@pytest.mark.parametrize(
    "callback",
    [plain, partial(plain), awaited, partial(awaited), Caller(), partial(Caller()), Caller().method, gives_coroutine],
)
@run
async def test_any_kind_of_callback_gives_its_result(registry, callback):
    await registry.register("w1", "click", callback)

    assert await registry.invoke("w1", "click", {"x": 5}) == (True, (5, "w1", "click"))


@pytest.mark.parametrize(
    ("callback", "expected"),
    [(plain, False), (partial(plain), False), (awaited, True), (partial(awaited), True), (Caller(), True), (partial(Caller()), True), (Caller().method, True), (Caller, False)],
)  # fmt: skip
def test_asynchronous_callbacks_are_known(callback, expected):
    assert is_async(callback) is expected


@run
async def test_a_missing_callback_is_no_success(registry):
    await registry.register("w1", "click", plain)

    assert await registry.invoke("w1", "hover", {}) == (False, None)
    assert await registry.invoke("w2", "click", {}) == (False, None)


@pytest.mark.parametrize("callback", [plain, awaited])
@run
async def test_a_failing_callback_is_no_success_and_is_logged(registry, callback, caplog):
    await registry.register("w1", "click", callback)

    assert await registry.invoke("w1", "click", {}) == (False, None)
    assert [record.pulse_event for record in caplog.records] == ["callback_failed"]
    assert caplog.records[0].exc_info[0] is KeyError


def raises(error):
    def callback(data, widget_id, event_type):
        raise error

    return callback


@pytest.mark.parametrize(
    "error",
    [StopIteration(1), StopAsyncIteration(), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()],
    ids=repr,
)  # fmt: skip
@run
async def test_nothing_that_a_synchronous_callback_raises_ends_or_stalls_who_called(registry, error, caplog):
    await registry.register("w1", "click", raises(error))

    assert await asyncio.wait_for(registry.invoke("w1", "click", {}), 30) == (False, None)
    assert [record.pulse_event for record in caplog.records] == ["callback_failed"]
    assert caplog.records[0].exc_info[1] is error
    assert (await registry.get("w1", "click")).invoke_count == 0


@pytest.mark.parametrize("error", [StopIteration(1), asyncio.CancelledError()], ids=repr)
@run
async def test_nor_does_an_asynchronous_callback(registry, error, caplog):
    async def callback(data, widget_id, event_type):
        raise error

    await registry.register("w1", "click", callback)

    assert await registry.invoke("w1", "click", {}) == (False, None)
    assert [record.pulse_event for record in caplog.records] == ["callback_failed"]


@pytest.mark.parametrize("is_plain", [True, False])
@run
async def test_a_caller_that_is_cancelled_is_cancelled_whatever_it_called(registry, is_plain, caplog):
    begun, told = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(data, widget_id, event_type):
        loop.call_soon_threadsafe(begun.set)
        told.wait(30)

    async def sleeps(data, widget_id, event_type):
        begun.set()
        await asyncio.Event().wait()

    await registry.register("w1", "click", slow if is_plain else sleeps)
    calling = asyncio.create_task(registry.invoke("w1", "click", {}))
    await begun.wait()

    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    told.set()
    assert caplog.records == []


@run
async def test_successes_are_counted_and_calls_are_timed(registry, clock):
    await registry.register("w1", "click", plain)
    registration = await registry.get("w1", "click")
    assert (registration.invoke_count, registration.last_invoked) == (0, None)
    assert registration.created_at == clock.now().timestamp()

    clock.advance(5)
    await registry.invoke("w1", "click", {"x": 1})
    await registry.invoke("w1", "click", {})

    assert registration.invoke_count == 1
    assert registration.last_invoked == clock.now().timestamp()


@run
async def test_the_times_of_a_registration_lie_within_the_calls_that_set_them():
    registry = CallbackRegistry()

    for _ in range(300):
        before = time.time()
        await registry.register("w1", "click", awaited)
        between = time.time()
        await registry.invoke("w1", "click", {"x": 1})
        registration = await registry.get("w1", "click")
        assert before <= registration.created_at <= between <= registration.last_invoked <= time.time()
        assert between <= CallbackRegistration("w1", "click", awaited).created_at <= time.time()


@run
async def test_a_synchronous_callback_does_not_block_the_loop(registry):
    loop = asyncio.get_running_loop()
    told = threading.Event()

    def slow(data, widget_id, event_type):
        return told.wait(30)

    await registry.register("w1", "click", slow)
    loop.call_later(0.01, told.set)

    assert await registry.invoke("w1", "click", {}) == (True, True)


@run
async def test_the_context_reaches_callbacks_of_both_kinds(registry):
    async def asks(data, widget_id, event_type):
        return WHO.get()

    await registry.register("w1", "plain", lambda *_: WHO.get())
    await registry.register("w1", "awaited", asks)
    WHO.set("somebody")

    assert await registry.invoke("w1", "plain", {}) == (True, "somebody")
    assert await registry.invoke("w1", "awaited", {}) == (True, "somebody")


@run
async def test_what_is_registered_can_be_listed_and_taken_away(registry):
    for widget_id, event_type in [("w1", "a"), ("w1", "b"), ("w2", "a")]:
        await registry.register(widget_id, event_type, plain)

    assert (await registry.has_widget("w1"), await registry.has_widget("w3")) == (True, False)
    assert (await registry.has_callback("w1", "a"), await registry.has_callback("w2", "b")) == (True, False)
    assert sorted(await registry.list_widgets()) == ["w1", "w2"]
    assert sorted(await registry.list_widget_events("w1")) == ["a", "b"]
    assert await registry.get_stats() == {
        "widget_count": 2, "total_callbacks": 3, "widgets": {"w1": ["a", "b"], "w2": ["a"]},
    }  # fmt: skip

    assert [await registry.unregister("w2", "a"), await registry.unregister("w2", "a")] == [True, False]
    assert [await registry.unregister_widget("w1"), await registry.unregister_widget("w1")] == [2, 0]
    assert await registry.get_stats() == {"widget_count": 0, "total_callbacks": 0, "widgets": {}}
    assert await registry.list_widget_events("w1") == []


@run
async def test_what_cannot_be_called_is_refused(registry):
    with pytest.raises(TypeError, match="'nothing' cannot be called back"):
        await registry.register("w1", "click", "nothing")


def test_a_registration_has_the_fields_that_it_is_known_for():
    signature = inspect.signature(CallbackRegistration)
    assert list(signature.parameters) == [
        "widget_id", "event_type", "callback", "is_async", "created_at", "invoke_count", "last_invoked",
    ]  # fmt: skip

    made = CallbackRegistration("w", "e", plain)

    assert (made.is_async, made.invoke_count, made.last_invoked) == (False, 0, None)
    assert made.created_at > 1_700_000_000


def test_there_is_one_registry_until_it_is_reset():
    first = get_callback_registry()

    assert get_callback_registry() is first
    reset_callback_registry()
    assert get_callback_registry() is not first
