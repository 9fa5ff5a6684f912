"""What an application answers with, and how to get at the bytes of it.

An answer is whole (a list of bytes), or read piece by piece; it may be awaitable, and so
may its pieces. On an event loop, `Pieces` reads any of them. A thread reads asynchronous
ones by `LoopReader`, and others by `SyncReader`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Final, cast

from pulse.errors import ResponseError
from pulse.loop import background_loop, is_on_background_loop
from pulse.wsgi.bridge.current import CurrentLoop

END: Final = object()  # there is no further piece
LOOK: Final = 0.25  # seconds between two looks at whether a waiting thread should go on to wait
ON_ITS_LOOP: Final = (
    "an asynchronous application was called synchronously on the loop that has to run it: "
    "in mode asyncio want the handler itself, without as_wsgi"
)
LAST_WORD: Final = 5.0  # seconds that a cancelled answer has to clean up before its thread goes on


def is_asynchronous(answer: object) -> bool:
    """Whether *answer* has to be awaited, or read by `async for`."""
    return hasattr(answer, "__await__") or hasattr(answer, "__aiter__")


def is_whole(body: object) -> bool:
    """Whether *body* is a list of bytes: nothing is left to run."""
    return isinstance(body, list | tuple) and all(isinstance(piece, bytes) for piece in body)


async def settled(answer: Any) -> Any:
    """The body that *answer* is, or results in.

    Raises:
        ResponseError: it is nothing that could be read.
    """
    while hasattr(answer, "__await__"):
        answer = await answer
    return readable(answer)


def readable(body: Any) -> Any:
    """*body*, as it is.

    Raises:
        ResponseError: it is nothing that could be read.
    """
    is_iterable = hasattr(body, "__iter__") or hasattr(body, "__aiter__")
    if not is_iterable or isinstance(body, str | bytes | Mapping):
        kind = "None" if body is None else f"a {type(body).__name__}"
        raise ResponseError(f"it returned {kind}; want an iterable of bytes (PEP 3333)")
    return body


class Pieces:
    """A body, read on an event loop; all of it by one task."""

    __slots__ = ("_body", "_is_asynchronous", "_steps")

    def __init__(self, body: Any, *, is_asynchronous: bool | None = None) -> None:
        """*is_asynchronous*: whether to read it by `async for`; when it can be if not given."""
        self._body = body
        self._is_asynchronous = hasattr(body, "__aiter__") if is_asynchronous is None else is_asynchronous
        self._steps: Any = aiter(body) if self._is_asynchronous else iter(body)

    async def next(self) -> Any:
        """The next piece, awaited if need be; `END` behind the last."""
        if self._is_asynchronous:
            piece = await anext(self._steps, END)
        else:
            piece = next(self._steps, END)
        while not isinstance(piece, bytes) and hasattr(piece, "__await__"):
            piece = await piece
        return piece

    async def close(self) -> None:
        """Close the body; once, however often this is called."""
        body, self._body = self._body, None
        await close(body)


async def close(body: object) -> None:
    """Close *body*, if it can be closed: whichever of the two ways it has."""
    ways = ("aclose", "close") if hasattr(body, "__aiter__") else ("close",)
    for way in ways:
        if hasattr(body, way):
            ended = getattr(body, way)()
            if hasattr(ended, "__await__"):
                await ended
            return


class SyncReader:
    """A body of a synchronous application, read where it is called; its pieces may be awaitable."""

    __slots__ = ("_body", "_loop", "_step")

    def __init__(self, body: Any, loop: asyncio.AbstractEventLoop) -> None:
        """*loop*: runs what has to be awaited; futures that the body makes belong to it."""
        self._loop = loop
        self._body = body
        self._step: Callable[[], Any] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with CurrentLoop(self._loop):
            if self._step is None:
                self._step = iter(self._body).__next__
            piece = self._step()
        if not isinstance(piece, bytes) and hasattr(piece, "__await__"):
            return awaited(piece, self._loop)  # type: ignore[no-any-return]
        return piece  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the body; once, however often this is called."""
        body, self._body = self._body, None
        way = getattr(body, "close", None)
        if way is not None:
            with CurrentLoop(self._loop):
                way()


def awaited(
    piece: Awaitable[Any], loop: asyncio.AbstractEventLoop | None = None, *, check: Callable[[], None] | None = None
) -> Any:
    """What *piece* results in, while this thread waits.

    Args:
        piece: To be awaited.
        loop: Runs it; by default that of the process.
        check: Called now and then; what it raises ends the wait.

    Raises:
        RuntimeError: this thread runs the loop of the process, which would wait for itself for ever.
    """
    if is_on_background_loop():
        _forget(piece)
        raise RuntimeError(ON_ITS_LOOP)

    async def run() -> Any:
        return await piece

    waiting = asyncio.run_coroutine_threadsafe(run(), loop or background_loop())
    try:
        return _outcome(waiting, check)
    except BaseException:  # this thread is interrupted, or the piece has failed, and then this does nothing
        waiting.cancel()
        raise


def _forget(answer: Any) -> None:
    """Close what is not awaited: a coroutine would complain."""
    if hasattr(answer, "close"):
        answer.close()


def _outcome(future: "Future[Any]", check: Callable[[], None] | None) -> Any:
    while check is not None and not future.done():
        wait([future], LOOK)
        if not future.done():
            check()
    return future.result()


class LoopReader:
    """An asynchronous answer, read by a thread; one task on the loop of the process does all of it.

    One task, since an answer may hold what belongs to a task, such as a timeout, from one
    piece to the next. It makes a piece when the thread asks for it, and waits till then.
    """

    def __init__(self, answer: Any, *, check: Callable[[], None] | None = None) -> None:
        """Nothing is run yet.

        Args:
            answer: What the application gave.
            check: Called now and then while the thread waits; what it raises ends the answer.

        Raises:
            RuntimeError: this is the loop itself, which would wait for itself for ever.
        """
        if is_on_background_loop():
            _forget(answer)
            raise RuntimeError(ON_ITS_LOOP)
        self._answer = answer
        self._check = check
        self._loop = background_loop()
        self._has_ended = False  # the thread knows
        # These are the loop's:
        self._task: asyncio.Task[None] | None = None
        self._wish: _Wish | None = None
        self._asked: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None

    def body(self) -> Any:
        """The body: a list when it is whole, else this reader. Waits until the application has answered."""
        body = self._ask()
        return self if body is None else body

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece: Any = END if self._has_ended else self._ask()
        if piece is END:
            raise StopIteration
        return cast("bytes", piece)

    def close(self) -> None:
        """End the answer, if it has not ended, and close its body; idempotent."""
        if not self._has_ended:
            self._ask(is_last=True)

    def _ask(self, *, is_last: bool = False) -> Any:
        wish = _Wish(is_last=is_last)
        # By the caller's thread, so that its context variables reach the task.
        self._loop.call_soon_threadsafe(self._take, wish)
        try:
            granted = _outcome(wish.granted, self._check)
        except BaseException:
            self._abandon(wish)
            raise
        self._has_ended = granted is END
        return granted

    def _abandon(self, wish: "_Wish") -> None:
        """The thread was interrupted, or the answer has failed, and then it has ended already."""
        self._has_ended = True
        if not wish.granted.done():
            self._loop.call_soon_threadsafe(self._cancel)
            with suppress(BaseException):  # what interrupted the thread is what it has to say
                wish.granted.result(LAST_WORD)

    # On the loop

    def _take(self, wish: "_Wish") -> None:
        self._wish = wish
        if self._task is None:
            self._task = self._loop.create_task(self._serve())
        elif self._task.done():
            wish.resolve(END, self._failure)
        elif self._asked is not None and not self._asked.done():
            self._asked.set_result(None)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        """Read the answer as far as it is wished for, and close it."""
        body: Any = None
        result: Any = END
        try:
            body = await settled(self._answer)
            if is_whole(body):
                result = body
            else:
                await self._serve_pieces(Pieces(body))
        # Whatever it is belongs to the thread that waits; the loop and its other answers go on.
        except BaseException as error:  # noqa: BLE001 - see above
            self._failure = error
        try:
            await close(body)
        except BaseException as error:  # noqa: BLE001 - see above
            self._failure = self._failure or error
        if self._wish is not None:
            self._wish.resolve(result, self._failure)

    async def _serve_pieces(self, pieces: Pieces) -> None:
        await self._grant(None)
        while self._wish is not None and not self._wish.is_last:
            piece = await pieces.next()
            if piece is END:
                return
            await self._grant(piece)

    async def _grant(self, result: Any) -> None:
        """Fulfil the wish, and wait for the next one."""
        assert self._wish is not None
        self._asked = self._loop.create_future()
        self._wish.granted.set_result(result)
        await self._asked


class _Wish:
    """What a thread asks a `LoopReader`'s task for: the next piece, or the end."""

    __slots__ = ("granted", "is_last")

    def __init__(self, *, is_last: bool) -> None:
        self.granted: Future[Any] = Future()
        self.is_last = is_last

    def resolve(self, result: Any, failure: BaseException | None) -> None:
        """End it with *result*, or *failure* if there is one; not if it was fulfilled before."""
        if self.granted.done():
            return
        if isinstance(failure, asyncio.CancelledError):
            # Not one of the thread's own kind: servers would not take it for an error of the application.
            error = ResponseError("it was cancelled before it had answered")
            error.__cause__ = failure
            failure = error
        if failure is None:
            self.granted.set_result(result)
        else:
            self.granted.set_exception(failure)
