"""Shared state between real processes: events, viewers, forks, and other kinds of threads."""

import asyncio
import os
import subprocess
import sys
import textwrap
import time
import uuid

import pytest
import redis
from servers import PATIENCE, program, wait_until

from pulse import state
from pulse.loop import run_async
from pulse.state import EventMessage
from pulse.state.redis import RedisEventBus, create_redis_stores

EVENTS = 3_000  # of which both sides have read and written many when their connections are killed

PUBLISHER = """
import asyncio, sys
from pulse.state import EventMessage
from pulse.state.redis import RedisEventBus

url, prefix, channel, events = sys.argv[1:]

async def main():
    bus = RedisEventBus(url, prefix)
    for number in range(int(events)):
        await bus.publish(channel, EventMessage("tick", "w", {"number": number}, "publisher"))

asyncio.run(main())
print("done", flush=True)
"""

WORKER = """
import asyncio, sys
from pulse.state import get_server_state

widget, viewers, sends = sys.argv[1].split(","), sys.argv[2].split(","), sys.argv[3:]

async def main():
    state = get_server_state()
    queues = {name: await state.register_connection(name, f"socket-{name}") for name in viewers if name}
    print("ready", flush=True)
    for name, queue in queues.items():
        while True:
            event = await queue.get()
            print(name, event, flush=True)
            if event.get("type") == "end":
                break

asyncio.run(main())
"""


@pytest.fixture
def prefix():
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def deployed(valkey_server, prefix, monkeypatch):
    """This process, and those that it starts, as workers of one fleet; their variables."""
    variables = {
        "PULSE_DEPLOY__STATE_BACKEND": "redis",
        "PULSE_DEPLOY__REDIS_URL": valkey_server.url,
        "PULSE_DEPLOY__REDIS_PREFIX": prefix,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    renew()
    yield variables
    renew()


def renew():
    state.reset_server_state()
    state.reset_callback_registry()
    state.clear_state_caches()


def script(folder, text: str) -> str:
    path = folder / "program.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_two_processes_exchange_events_none_lost_none_twice_none_out_of_order(valkey_server, prefix, tmp_path):
    there, here = script(tmp_path, PUBLISHER), RedisEventBus(valkey_server.url, prefix)

    async def receive():
        subscription = here.subscribe("to-here")
        await subscription.ready()
        found = []
        with program(there, valkey_server.url, prefix, "to-here", str(EVENTS)) as publisher:
            async for message in subscription:
                found.append(message.data["number"])
                if len(found) in (EVENTS // 4, EVENTS // 2):
                    await asyncio.to_thread(kill_clients, valkey_server.url)
                if len(found) == EVENTS:
                    break
            # A twin of an event would come right behind it.
            await here.publish("to-here", EventMessage("tick", "w", {"number": -1}, "me"))
            found.append((await anext(subscription)).data["number"])
            assert await asyncio.to_thread(publisher.wait) == 0
        assert subscription.missed == 0
        return found

    found = asyncio.run(asyncio.wait_for(receive(), 3 * PATIENCE))

    assert found == [*range(EVENTS), -1]


def kill_clients(url: str) -> None:
    """CLIENT KILL for everybody else: publisher and subscriber."""
    with redis.Redis.from_url(url) as server:
        own = server.client_id()
        for client in server.client_list():
            if client["id"] != str(own):
                server.client_kill_filter(_id=client["id"])


def test_a_widget_of_one_process_is_read_by_another(deployed):
    run_async(state.get_server_state().register_widget("w1", "<b>x</b>", "t", {"a": 1}))
    read = "import asyncio; from pulse.state import get_server_state; print(asyncio.run(get_server_state().get_widget('w1')))"

    said = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True).stdout

    assert "html='<b>x</b>', token='t'" in said
    assert f"owner_worker_id='{state.get_worker_id()}', metadata={{'a': 1}}" in said


def test_events_reach_the_process_that_holds_the_connection_exactly_once(deployed, tmp_path):
    with program(script(tmp_path, WORKER), "w", "w1,w2", env=deployed) as there:
        wait_until(lambda: "ready" in there.output)
        manager = state.get_server_state()

        async def tell():
            own = await manager.register_connection("mine", "socket")
            await manager.broadcast_event("w1", "change", {"n": 1})
            assert await manager.send_to_widget("w1", {"type": "raw", "n": 2}) is True
            await manager.broadcast_event("mine", "change", {"n": 3})
            assert await manager.send_to_widget("mine", {"n": 4}) is True
            assert await manager.send_to_widget("nowhere", {"n": 5}) is False
            await manager.broadcast_event("nowhere", "change", {})
            for name in ("w1", "w2"):
                await manager.broadcast_event(name, "end", {})
            got = [await asyncio.wait_for(own.get(), PATIENCE) for _ in range(2)]
            assert own.empty()
            return got

        assert asyncio.run(tell()) == [{"type": "change", "data": {"n": 3}}, {"n": 4}]
        assert there.wait() == 0
        assert there.output.splitlines() == [
            "ready",
            "w1 {'type': 'change', 'data': {'n': 1}}",
            "w1 {'type': 'raw', 'n': 2}",
            "w1 {'type': 'end', 'data': {}}",
            "w2 {'type': 'end', 'data': {}}",
        ]


def test_a_viewer_that_moves_to_another_worker_is_followed(deployed, tmp_path):
    manager = state.get_server_state()

    async def connect():
        await manager.register_connection("w1", "old socket")

    async def go_on(there):
        await manager.broadcast_event("w1", "end", {})
        stale = await manager.get_event_queue("w1")
        await asyncio.to_thread(there.wait)
        assert stale.empty()
        # The old worker notices late that its socket is closed.
        await manager.unregister_connection("w1")
        return await state.get_connection_router().get_owner("w1")

    asyncio.run(connect())
    with program(script(tmp_path, WORKER), "w", "w1", env=deployed) as there:
        wait_until(lambda: "ready" in there.output)
        owner = asyncio.run(go_on(there))
        assert owner not in (None, state.get_worker_id())
        assert "w1 {'type': 'end', 'data': {}}" in there.output


def test_heartbeats_keep_a_connection_and_make_a_forgotten_one_known_again(deployed, monkeypatch):
    monkeypatch.setenv("PULSE_DEPLOY__CONNECTION_TTL", "1")
    renew()
    manager, router = state.get_server_state(), state.get_connection_router()

    async def scenario():
        await manager.register_connection("w1", "socket", user_id="u")
        first = await router.get_connection_info("w1")
        await until(lambda: router.get_connection_info("w1"), lambda info: info.last_heartbeat > first.last_heartbeat)
        await router.unregister_connection("w1")
        await until(lambda: router.get_connection_info("w1"), lambda info: info is not None and info.user_id == "u")

    asyncio.run(scenario())


async def until(ask, good):
    end = time.monotonic() + PATIENCE
    while not good(await ask()):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def test_a_forked_child_has_a_state_of_its_own(deployed):
    manager = state.get_server_state()
    run_async(manager.register_connection("w1", "socket"))
    parent = state.get_worker_id()

    child = os.fork()
    if not child:
        code = 1
        try:
            assert state.get_worker_id() != parent
            assert state.run_async(manager.get_connection("w1")) is None
            assert manager.connections == manager.event_queues == {}
            assert state.run_async(state.get_connection_router().get_owner("w1")) == parent
            assert state.run_async(manager.send_to_widget("w1", {"n": 1})) is True
            state.run_async(manager.register_connection("w2", "socket"))
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]

    assert os.waitstatus_to_exitcode(status) == 0
    queue = run_async(manager.get_event_queue("w1"))
    assert run_async(asyncio.wait_for(queue.get(), PATIENCE), PATIENCE) == {"n": 1}


@pytest.mark.parametrize("worker_id", ["", "the-same-everywhere"])
def test_workers_that_inherit_one_id_still_deliver_once(deployed, tmp_path, monkeypatch, worker_id):
    variables = {**deployed, "PULSE_DEPLOY__WORKER_ID": worker_id}
    monkeypatch.setenv("PULSE_DEPLOY__WORKER_ID", worker_id)
    manager = state.get_server_state()
    asyncio.run(manager.register_connection("mine", "socket"))  # so that this process listens, too

    with program(script(tmp_path, WORKER), "w", "w1", env=variables) as there:
        wait_until(lambda: "ready" in there.output)
        asyncio.run(manager.broadcast_event("w1", "one", {}))
        asyncio.run(manager.broadcast_event("w1", "end", {}))
        assert there.wait() == 0
        assert there.output.splitlines()[1:] == ["w1 {'type': 'one', 'data': {}}", "w1 {'type': 'end', 'data': {}}"]


@pytest.mark.parametrize(
    "code",
    [
        """
        import asyncio
        from pulse.loop import background_loop, run_async, run_soon
        from pulse.state import get_widget_store
        run_async(get_widget_store().register("w", "x"))
        run_soon(asyncio.sleep(3600))
        print("ended")
        """,
        """
        import asyncio, threading
        from concurrent.futures import CancelledError
        from contextlib import suppress
        from pulse.loop import run_async
        def wait():
            with suppress(CancelledError):
                run_async(asyncio.sleep(3600), None)
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        print("ended")
        """,
        """
        import os
        from pulse.loop import run_async
        import asyncio
        run_async(asyncio.sleep(0))
        if os.fork():
            os.wait()
            run_async(asyncio.sleep(0))
            print("ended")
        else:
            run_async(asyncio.sleep(0))
        """,
        """
        import multiprocessing, asyncio
        from pulse.state import run_async
        def work(queue): queue.put(run_async(asyncio.sleep(0, "from the child")))
        run_async(asyncio.sleep(0))
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=work, args=(queue,))
        child.start()
        assert queue.get(timeout=30) == "from the child"
        child.join()
        print("ended")
        """,
        """
        from gevent import monkey
        monkey.patch_all()
        import gevent, asyncio
        from pulse.state import get_session_store, run_async
        async def use(number):
            await get_session_store().create_session(f"s{number}", "u")
            return (await get_session_store().get_session(f"s{number}")).session_id
        jobs = [gevent.spawn(run_async, use(number)) for number in range(10)]
        gevent.joinall(jobs, timeout=30)
        assert [job.value for job in jobs] == [f"s{number}" for number in range(10)]
        print("ended")
        """,
    ],
    ids=["work left over", "a thread that waits", "fork", "multiprocessing", "gevent"],
)
def test_the_background_loop_works_and_keeps_no_process_from_ending(code, deployed):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def test_one_pool_serves_threads_and_the_background_loop_at_once(deployed):
    sessions = create_redis_stores(deployed["PULSE_DEPLOY__REDIS_URL"], deployed["PULSE_DEPLOY__REDIS_PREFIX"])[3]

    async def scenario():
        return await asyncio.gather(
            *(asyncio.to_thread(run_async, sessions.create_session(f"s{number}", "u")) for number in range(20)),
            *(sessions.create_session(f"t{number}", "u") for number in range(20)),
        )

    assert len(asyncio.run(scenario())) == 40
    assert len(run_async(sessions.list_user_sessions("u"))) == 40
