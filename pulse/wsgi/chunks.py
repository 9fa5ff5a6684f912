"""Bodies of asynchronous WSGI: to be read by `for`, which gives chunks and awaitables, or by `async for`."""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from pulse.wsgi.bridge.answer import END, Pieces, close


def either(body: Any) -> Any:
    """*body* as something that can also be read by `async for`, if it cannot be already."""
    if hasattr(body, "__aiter__"):
        return body
    return ChunkList(body) if isinstance(body, list | tuple) else ChunkStream(body)


def closed_once(body: Any) -> Any:
    """*body* as something that closes it once, however often it is told to; as it is, if it cannot be closed."""
    if hasattr(body, "__aiter__") and hasattr(body, "aclose"):
        return AsyncChunkStream(body, steps=aiter(body))
    return ChunkStream(body) if hasattr(body, "close") else body


def followed(body: Any, former: Any) -> Any:
    """*body*, with which *former* is closed, too: what it took the place of, and may read from."""
    if hasattr(body, "__aiter__"):
        return AsyncChunkStream(body, steps=aiter(body), former=former)
    if isinstance(former, AsyncChunkStream):  # to be closed by who awaits
        return AsyncChunkStream(body, steps=_awaited(iter(body)), former=former)
    return ChunkStream(body, former=former)


class ChunkList(list[Any]):
    """A list of chunks that can also be read by `async for`."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _awaited(self)


class ChunkStream:
    """An iterable of chunks that can also be read by `async for`."""

    __slots__ = ("_before", "_body", "_former", "_steps")

    def __init__(
        self, body: Any, *, before: Iterable[Any] = (), steps: Iterator[Any] | None = None, former: Any = None
    ) -> None:
        """A stream of *body*.

        Args:
            body: Closed in the end.
            before: Chunks that come first.
            steps: The iterator of *body*, if it was begun.
            former: Closed behind *body*.
        """
        self._body = body
        self._before = before
        self._steps = steps
        self._former = former

    def __iter__(self) -> Iterator[Any]:
        yield from self._before
        # No `yield from`: it would hand on its own end to the body, whose `close` is called behind it.
        for chunk in self._body if self._steps is None else self._steps:  # noqa: UP028
            yield chunk

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _awaited(iter(self))

    def close(self) -> None:
        """Close the body; once, however often this is called."""
        body, self._body = self._body, ()
        former, self._former = self._former, None
        try:
            if hasattr(body, "close"):
                body.close()
        finally:
            if former is not None:
                former.close()


class AsyncChunkStream:
    """An asynchronous iterable of chunks, of which some may have been read before."""

    __slots__ = ("_before", "_body", "_former", "_steps")

    def __init__(self, body: Any, *, before: Iterable[Any] = (), steps: AsyncIterator[Any], former: Any = None) -> None:
        """See `ChunkStream`."""
        self._body = body
        self._before = before
        self._steps = steps
        self._former = former

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._before:
            yield chunk
        async for chunk in self._steps:
            yield chunk

    async def aclose(self) -> None:
        """Close the body; once, however often this is called."""
        body, self._body = self._body, None
        former, self._former = self._former, None
        try:
            await close(body)
        finally:
            await close(former)


async def begun(body: Any, written: Iterable[bytes]) -> Any:
    """*body* with its first chunk made, behind what was *written* before it.

    The first chunk is not awaited: it is made, and with it `start_response` was called.
    """
    if hasattr(body, "__aiter__"):
        later = aiter(body)
        first = await anext(later, END)
        return AsyncChunkStream(body, before=_joined(written, first), steps=later)
    steps = iter(body)
    first = next(steps, END)
    return ChunkStream(body, before=_joined(written, first), steps=steps)


async def _awaited(chunks: Iterable[Any]) -> AsyncIterator[bytes]:
    pieces = Pieces(chunks, is_asynchronous=False)
    while (piece := await pieces.next()) is not END:
        yield piece


def _joined(written: Iterable[bytes], first: Any) -> list[Any]:
    return [*written] if first is END else [*written, first]
