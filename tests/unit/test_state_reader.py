import asyncio
from functools import wraps

import pytest

from pulse.errors import StoreUnavailableError
from pulse.state.link.reader import Reader, order

BELL = "bell"
LONG = 3600.0


def run(test):
    @wraps(test)
    def on_a_loop(*args, **fixtures):
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 30))

    return on_a_loop


class Server:
    """Streams that a test fills, and who reads them; a read never returns without an entry or an error."""

    def __init__(self):
        self.streams: dict[str, list[tuple[bytes, dict]]] = {}
        self.reads: list[dict[str, bytes]] = []
        self.rings = 0
        self.cancelled = 0
        self.spoilt: dict[str, Exception] = {}
        self._changed = asyncio.Event()

    async def fetch(self, places):
        self.reads.append(dict(places))
        try:
            while True:
                for stream in places:
                    if stream in self.spoilt:
                        raise self.spoilt[stream]
                found = {
                    stream: [entry for entry in self.streams.get(stream, []) if order(entry[0]) > order(after)]
                    for stream, after in places.items()
                }
                if any(found.values()):
                    return {stream: entries for stream, entries in found.items() if entries}
                self._changed.clear()
                await self._changed.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def ring(self, bell):
        self.rings += 1
        self.add(bell)

    def add(self, stream):
        entries = self.streams.setdefault(stream, [])
        entries.append((b"%d-0" % (len(entries) + 1), {}))
        self._changed.set()

    def spoil(self, stream, error):
        self.spoilt[stream] = error
        self._changed.set()


def made(seconds=LONG):
    server = Server()
    return server, Reader(server.fetch, server.ring, BELL, seconds)


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


def begin(reader, *streams, after=b"0-0"):
    return [asyncio.create_task(reader.read(stream, after)) for stream in streams]


@run
async def test_those_who_come_together_are_read_together():
    server, reader = made()
    reads = begin(reader, "a", "b", "c")
    await settle()

    server.add("a")
    await reads[0]

    assert server.reads[0] == {BELL: b"0-0", "a": b"0-0", "b": b"0-0", "c": b"0-0"}
    assert (server.rings, reads[1].done()) == (0, False)
    for one in reads:
        one.cancel()


@run
async def test_a_newcomer_rings_once_for_all_who_come_now():
    server, reader = made()
    first = begin(reader, "a")
    await settle()

    later = begin(reader, "b", "c")
    await settle()

    assert server.rings == 1
    assert server.reads[1:] == [{BELL: b"1-0", "a": b"0-0", "b": b"0-0", "c": b"0-0"}]
    server.add("c")
    assert await later[1] == [(b"1-0", {})]
    for one in first + later:
        one.cancel()


@run
async def test_who_comes_back_at_once_need_not_ring():
    server, reader = made()
    other = begin(reader, "b")

    async def consume():
        place, found = b"0-0", []
        while len(found) < 20:
            ((place, _),) = await reader.read("a", place)
            found.append(place)
        return found

    consuming = asyncio.create_task(consume())
    for _ in range(20):
        await settle()
        server.add("a")

    assert len(await consuming) == 20
    assert server.rings == 0
    other[0].cancel()


@run
async def test_two_places_in_one_stream_are_read_from_the_earlier():
    server, reader = made()
    for _ in range(3):
        server.add("a")

    early, late = begin(reader, "a") + begin(reader, "a", after=b"2-0")
    found = await asyncio.gather(early, late)

    assert found == [[(b"1-0", {}), (b"2-0", {}), (b"3-0", {})], [(b"3-0", {})]]
    assert server.reads == [{BELL: b"0-0", "a": b"0-0"}]


@run
async def test_who_has_all_of_a_stream_gets_nothing_of_what_another_reads():
    server, reader = made()
    server.add("a")

    early, late = begin(reader, "a") + begin(reader, "a", after=b"1-0")
    await early
    await settle()

    assert not late.done()
    server.add("a")
    assert await late == [(b"2-0", {})]


@run
async def test_the_last_one_who_leaves_ends_the_read():
    server, reader = made()
    first, second = begin(reader, "a", "b")
    await settle()

    first.cancel()
    await settle()
    assert server.cancelled == 0
    second.cancel()
    await settle()
    assert server.cancelled == 1

    (again,) = begin(reader, "a")
    await settle()
    server.add("a")
    assert await again == [(b"1-0", {})]


@run
async def test_who_has_waited_long_gets_an_empty_answer_with_the_next_one():
    server, reader = made(seconds=0)
    reads = begin(reader, "a", "b")
    await settle()

    server.add("b")

    assert await asyncio.gather(*reads) == [[], [(b"1-0", {})]]


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes when a test says so."""

    now = 0.0

    def time(self):
        return self.now


async def wait_in_turns():
    server, reader = made(seconds=2.0)
    loop = asyncio.get_running_loop()
    reads = []
    answered = []
    for number in range(7):
        reads += begin(reader, f"s{number}")
        await settle()

    for lapse in (1.9, 0.2, 1.9, 0.2, 2.0, 2.0):  # in the end all were answered, and there are no more
        loop.now += lapse
        server.add(BELL)
        await settle()
        answered.append([number for number, read in enumerate(reads) if read.done()])

    assert answered == [[], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3, 4, 5], list(range(7)), list(range(7))]
    assert [read.result() for read in reads] == [[]] * 7


def test_of_many_who_have_waited_long_a_few_at_a_time_get_an_empty_answer(monkeypatch):
    monkeypatch.setattr("pulse.state.link.reader.LOOKS", 3)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(wait_in_turns())


@run
async def test_an_outage_is_told_to_all_and_the_next_read_is_tried():
    server, reader = made()
    reads = begin(reader, "a", "b")
    await settle()

    server.spoil("a", StoreUnavailableError("no answer"))
    for one in reads:
        with pytest.raises(StoreUnavailableError, match="no answer"):
            await one
    server.spoilt.clear()
    server.add("a")

    assert await reader.read("a", b"0-0") == [(b"1-0", {})]


@run
async def test_what_is_no_stream_is_told_to_its_own_reader_alone():
    server, reader = made()
    good, bad, other = begin(reader, "good", "bad", "other")
    await settle()

    server.spoil("bad", LookupError("no stream"))
    with pytest.raises(LookupError, match="no stream"):
        await bad
    server.add("good")
    server.add("other")

    assert await asyncio.gather(good, other) == [[(b"1-0", {})]] * 2


@run
async def test_a_newcomer_whose_bell_fails_learns_of_it():
    server, reader = made()
    (first,) = begin(reader, "a")
    await settle()

    async def refuse(bell):
        raise StoreUnavailableError("no answer")

    reader._ring = refuse
    with pytest.raises(StoreUnavailableError, match="no answer"):
        await reader.read("b", b"0-0")
    server.add("a")

    assert await first == [(b"1-0", {})]


@run
async def test_a_reader_whose_task_was_cancelled_serves_the_next_one():
    server, reader = made()
    for turns in (0, 50):
        (waiting,) = begin(reader, "a")
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), waiting}:
            if "_serve" in repr(task):
                task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    server.add("a")

    assert await reader.read("a", b"0-0") == [(b"1-0", {})]
