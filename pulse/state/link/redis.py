"""Connections to Redis: pooled, one pool an event loop and process, every answer in bounded time."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet, finalize

from pulse.errors import StoreUnavailableError
from pulse.state.link.line import Line
from pulse.state.link.reader import Entry, Reader
from pulse.state.lua import RING, Script

try:
    from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError
    from redis.exceptions import TimeoutError as RedisTimeoutError
except ImportError as error:
    raise ImportError("state in Redis needs the redis package: pip install 'pulse[redis]'") from error

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 2.0
READERS: Final = 65_536  # at once: one for each bus, unless what it shall read is no stream
BLOCK_SECONDS: Final = 1.0  # that a reader waits in Redis; less than ANSWER_SECONDS, so that a dead line shows
LATE_SECONDS: Final = 0.9  # that a subscriber waits at least until it looks whether Redis is still the same
BATCH: Final = 512  # entries of each stream in one answer

_STATES: Final = ("OOM ", "MISCONF ", "NOREPLICAS ", "BUSY ", "UNKILLABLE ")  # of a server; what has classes is known

Argument = str | bytes | int | float


class RedisLink:
    """What stores send to Redis; safe to use from many threads and event loops, and after a fork."""

    def __init__(self, url: str, pool_size: int = 10) -> None:
        """Nothing is connected yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`.
            pool_size: Connections an event loop; those who wait for events share one more.

        Raises:
            ValueError: there is no such kind of address.
        """
        self._url = url
        self._pool_size = pool_size
        self._lines: _Places = {}
        _Lines(url, pool_size)  # so that a wrong address is refused here, and not at the first request
        _links.add(self)
        finalize(self, _close_all, self._lines).atexit = False  # at exit the loops end, and their lines with them

    async def run(self, script: Script, keys: Sequence[str], *arguments: Argument) -> Any:
        """What *script* returns, in one atomic step; sent twice if the connection was lost meanwhile.

        Raises:
            StoreUnavailableError: Redis did not answer, or can do no such thing now.
        """
        return await (await self._open()).run(script, keys, *arguments)

    async def ask(self, *command: Argument) -> Any:
        """What one command returns, as Redis sends it: numbers, bytes and lists.

        Raises:
            StoreUnavailableError: Redis did not answer, or can do no such thing now.
        """
        # A command as bytes has no entry in the client's table of parsers, which differs from version to version.
        return await (await self._open()).command(*map(_bytes, command))

    async def read(self, stream: str, after: bytes, bell: str) -> list[Entry]:
        """The first entries of *stream* after an id; waits a second or two for them, longer where thousands do.

        Those who name the same *bell*, a key of their own, share a connection.

        Raises:
            StoreUnavailableError: Redis did not answer.
        """
        return await (await self._open()).reader(bell).read(stream, after)

    async def newest(self, stream: str, count: int) -> list[Entry]:
        """The last entries of *stream*, at most *count*, the newest first.

        Raises:
            StoreUnavailableError: Redis did not answer.
        """
        return _entries(await self.ask("XREVRANGE", stream, "+", "-", "COUNT", count))

    async def _open(self) -> "_Lines":
        place = (os.getpid(), asyncio.get_running_loop())
        lines = self._lines.get(place)
        if lines is None:
            for other in [other for other in list(self._lines) if other[1].is_closed()]:
                self._lines.pop(other, None)
            lines = self._lines[place] = _Lines(self._url, self._pool_size)
            lines.keeper = _keep(self._lines, place, lines)
            await anext(lines.keeper)
        return lines


class _Lines:
    """The connections of one event loop."""

    keeper: AsyncGenerator[None, None]

    def __init__(self, url: str, pool_size: int) -> None:
        # RESP2: its answers have the same form in all versions of the client.
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            "socket_keepalive": True,
        }
        # The client's own default, from its version 6 on, takes 4 s to say that nobody listens.
        retry = Retry(ExponentialBackoff(cap=0.2, base=0.02), 1)
        pool = BlockingConnectionPool.from_url(
            url, max_connections=pool_size, timeout=ANSWER_SECONDS, retry=retry, **options
        )
        self.commands: Any = Redis(connection_pool=pool)  # Any: its answers have other types in each version
        self._line = Line(pool.max_connections, ANSWER_SECONDS)  # which the address may say otherwise
        readers = ConnectionPool.from_url(url, max_connections=READERS, retry=retry, **options)
        self.readers: Any = Redis(connection_pool=readers)
        self._shared: dict[str, Reader] = {}

    async def run(self, script: Script, keys: Sequence[str], *arguments: Argument) -> Any:
        sent: list[Argument] = [*map(_bytes, keys), *map(_bytes, arguments)]
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *sent)
        except NoScriptError:
            return await self.command("EVAL", script.text, len(keys), *sent)

    async def command(self, *words: Argument) -> Any:
        """What a command returns, in its turn."""
        await self._line.enter()
        is_answered = False
        try:
            answer = await self._send(self.commands, *words)
            is_answered = True
        except ResponseError:
            is_answered = True
            raise
        finally:
            self._line.leave(is_answered=is_answered)
        return answer

    async def _send(self, client: Any, *words: Argument) -> Any:
        """What a command returns; its outages by the one name that they have here."""
        try:
            return await client.execute_command(*words)
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise StoreUnavailableError(f"Redis did not answer: {error}") from error
        except ResponseError as error:
            if not _is_outage(error):
                raise
            if isinstance(error, ReadOnlyError):
                # After a failover the address leads to another server, and these lines to the former one.
                await client.connection_pool.disconnect(inuse_connections=False)
            raise StoreUnavailableError(f"Redis refused: {error}") from error

    def reader(self, bell: str) -> Reader:
        reader = self._shared.get(bell)
        if reader is None:
            reader = self._shared[bell] = Reader(self._fetch, self._ring, bell, LATE_SECONDS)
        return reader

    async def _fetch(self, places: Mapping[str, bytes]) -> dict[str, list[Entry]]:
        command: list[Argument] = [b"XREAD", "COUNT", BATCH, "BLOCK", round(BLOCK_SECONDS * 1000), "STREAMS"]
        answer = await self._send(self.readers, *command, *map(_bytes, places), *places.values())
        return {text(stream): _entries(found) for stream, found in answer or ()}

    async def _ring(self, bell: str) -> None:
        await self.run(RING, [bell])

    async def close(self) -> None:
        # A reader that still waited would connect anew, and one that is connecting would be connected
        # behind the end: nobody would close either.
        ending = {task for reader in self._shared.values() for task in reader.close()}
        with suppress(asyncio.CancelledError):  # the loop is ending: it sees to them, too
            if ending:
                await asyncio.wait(ending, timeout=CONNECT_SECONDS)
        for client in (self.commands, self.readers):
            try:
                await client.connection_pool.disconnect()
            except asyncio.CancelledError:
                # The loop is ending, and cancels everything: what is half closed would be left so for ever.
                await client.connection_pool.disconnect()


_Place = tuple[int, asyncio.AbstractEventLoop]
_Places = dict[_Place, _Lines]


async def _keep(places: _Places, place: _Place, lines: _Lines) -> AsyncGenerator[None, None]:
    """Close *lines* with their loop: asyncio closes the generators that it has begun before it ends."""
    try:
        yield
    finally:
        places.pop(place, None)
        await lines.close()


def _close_all(places: _Places) -> None:
    """Nobody uses the link any more; from any thread."""
    for (pid, loop), lines in list(places.items()):
        if pid == os.getpid():
            try:
                loop.call_soon_threadsafe(_close_soon, loop, lines)
            except RuntimeError:
                continue  # the loop was closed, and the lines with it


def _close_soon(loop: asyncio.AbstractEventLoop, lines: _Lines) -> None:
    task = loop.create_task(_end(lines))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _end(lines: _Lines) -> None:
    await lines.keeper.aclose()


def text(answer: bytes) -> str:
    """What Redis holds, as text; also lone surrogates, which Python has and UTF-8 has not."""
    return answer.decode("utf-8", "surrogatepass")


def _bytes(argument: Argument) -> bytes | int | float:
    return argument.encode("utf-8", "surrogatepass") if isinstance(argument, str) else argument


def _entries(answer: list[tuple[bytes, list[bytes]]]) -> list[Entry]:
    return [(entry_id, dict(zip(fields[::2], fields[1::2], strict=True))) for entry_id, fields in answer]


def _is_outage(error: ResponseError) -> bool:
    """Whether it is about the server, which is full or has become a replica, and not about the command."""
    if isinstance(error, NoScriptError):
        return False
    return type(error) is not ResponseError or str(error).startswith(_STATES)


def _after_fork_in_child() -> None:
    # Kept, never closed: their sockets and selectors are the parent's too.
    for link in _links:
        _inherited.append(dict(link._lines))  # noqa: SLF001 - of this file
        link._lines.clear()  # noqa: SLF001


_links: Final[WeakSet[RedisLink]] = WeakSet()
_inherited: Final[list[object]] = []
_closing: Final[set[asyncio.Task[None]]] = set()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
