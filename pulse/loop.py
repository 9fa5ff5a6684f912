"""The one background event loop of a process: how threads reach what is asynchronous.

The loop is made when it is first asked for, made again in a forked child, and closed at exit.
It runs in a daemon thread, so it never keeps the interpreter from ending.
"""

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Generic, ParamSpec, TypeVar
from weakref import WeakSet

P = ParamSpec("P")
T = TypeVar("T")

LAST_WORD: Final = 0.2  # seconds that a cancelled coroutine has to clean up before its caller goes on
CANCELS: Final = 10  # within `CLOSING`
CLOSING: Final = 2.0  # seconds that all of them have when the process ends
JOINING: Final = 1.0  # that the loop has on top to end itself
THREADS: Final = 32  # for what coroutines call in threads (`asyncio.to_thread`); as many as Python would make at most

_log = logging.getLogger(__name__)


def background_loop() -> asyncio.AbstractEventLoop:
    """The running loop of this process; safe to call from any thread."""
    return _own().started()


def is_on_background_loop() -> bool:
    """Whether the caller is run by the loop of this process, and would stop it by waiting for it."""
    return _own().is_here()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs the caller; None for plain code of a thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def immediate(coro: Coroutine[Any, Any, T]) -> T:
    """What *coro* returns or raises, which waits for nothing and so needs no event loop.

    Raises:
        RuntimeError: it does wait.
    """
    try:
        coro.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coro.close()
    raise RuntimeError("a coroutine that was to be immediate waits for something")


def run_async(
    coro: Coroutine[Any, Any, T], timeout: float | None = 5.0, *, loop: asyncio.AbstractEventLoop | None = None
) -> T:
    """What *coro* returns or raises; it is run on the loop of this process while the caller waits.

    Context variables of the caller reach the coroutine. Safe to call from any thread.

    Args:
        coro: Closed if it cannot be run.
        timeout: Seconds; then the coroutine is cancelled, and has 0.2 s to clean up before this
            raises. None to wait for ever.
        loop: A running loop to use instead.

    Raises:
        TypeError: *coro* is no coroutine, but perhaps the function that makes one.
        TimeoutError: it did not end in *timeout*.
        RuntimeError: the caller is itself run by the loop, which would wait for itself for ever.
        concurrent.futures.CancelledError: it was cancelled, by itself or because the process ends.
    """
    _check(coro)
    if is_on_background_loop() or (loop is not None and _own().loop is not loop and running_loop() is loop):
        coro.close()
        raise RuntimeError("run_async was called on the event loop that it would wait for; use await there")
    return _Call(coro, loop or background_loop()).result(timeout)


def run_soon(coro: Coroutine[Any, Any, object], *, loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Run *coro* on the loop of this process, and go on at once; a failure is logged.

    Safe to call from any thread, and on the loop itself.

    Args:
        coro: What nobody waits for.
        loop: A running loop to use instead.

    Raises:
        TypeError: *coro* is no coroutine, but perhaps the function that makes one.
    """
    _check(coro)
    _Call(coro, loop or background_loop(), is_awaited=False)


def _check(coro: object) -> None:
    # Otherwise only the loop would learn of it, while the caller waits for what never begins.
    if not isinstance(coro, Coroutine):
        raise TypeError(f"{coro!r}: want a coroutine, such as `work()` of an `async def work()`")


class _Call(Generic[T]):
    """One coroutine on its way through a loop that another thread runs."""

    # asyncio refers to its tasks weakly: what nobody holds may vanish in the middle of its work.
    _held: Final[set["_Call[Any]"]] = set()

    def __init__(
        self, coro: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, *, is_awaited: bool = True
    ) -> None:
        self._coro = coro
        self._loop = loop
        self._is_awaited = is_awaited
        self._task: asyncio.Task[T] | None = None
        self._refusal: Exception | None = None
        self._is_given_up = False
        self._ended = threading.Event()
        self._held.add(self)
        try:
            loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # the loop was closed
            self._held.discard(self)
            coro.close()
            raise

    def result(self, timeout: float | None) -> T:
        """What came of it; cancels it when that takes longer than *timeout*."""
        try:
            if self._ended.wait(timeout):
                return self._outcome()
        except KeyboardInterrupt:  # of the waiting thread
            self._loop.call_soon_threadsafe(self._give_up)
            raise
        self._loop.call_soon_threadsafe(self._give_up)
        self._ended.wait(LAST_WORD)
        raise TimeoutError(f"not finished after {timeout:g} s; it was cancelled")

    def _start(self) -> None:
        try:
            self._task = self._loop.create_task(self._coro)
        except Exception as error:  # noqa: BLE001 - of the loop's own making of tasks; the caller's to deal with
            self._coro.close()
            self._refusal = error
            self._finish(error)
            return
        self._task.add_done_callback(self._end)

    def _give_up(self) -> None:
        self._is_given_up = True
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        self._finish(None if task.cancelled() else task.exception())

    def _finish(self, error: BaseException | None) -> None:
        is_unheard = self._is_given_up or not self._is_awaited
        if error is not None and is_unheard:
            _log.error("a coroutine that nobody waits for failed", exc_info=error, extra={"pulse_event": "loop_failed"})
        self._held.discard(self)
        self._ended.set()

    def _outcome(self) -> T:
        if self._refusal is not None:
            raise self._refusal
        task = self._task
        assert task is not None
        if task.cancelled():
            raise CancelledError("the coroutine was cancelled")
        return task.result()


class _Background:
    """The loop of one process, and its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ident: int | None = None

    def started(self) -> asyncio.AbstractEventLoop:
        """The loop; begins to run it if it does not yet."""
        with self._lock:
            if self.loop is None:
                loop = asyncio.new_event_loop()
                loop.set_default_executor(_DaemonPool())
                thread = threading.Thread(target=self._serve, args=(loop,), name="pulse-loop", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: the next call tries again, or it would wait for a dead loop
                    loop.close()
                    raise
                self.loop, self._thread = loop, thread
            return self.loop

    def is_here(self) -> bool:
        # Not `get_running_loop`: under gevent the loop is a greenlet, and all others share its thread.
        return self._ident == threading.get_ident()

    def close(self) -> None:
        """End the loop and what it runs; a next use begins a new one."""
        with self._lock:
            loop, thread = self.loop, self._thread
            self.loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSING + JOINING)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ident = threading.get_ident()
        while self._runs_on(loop):
            pass
        loop.run_until_complete(_wind_up())
        loop.close()
        self._ident = None

    def _runs_on(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Run *loop* until it is stopped; whether it goes on, since only a coroutine wanted that."""
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # asyncio lets these through, after it has given them to whoever awaits the coroutine.
            return True
        return self.loop is loop  # not if it was `close` that has stopped it


class _DaemonPool(ThreadPoolExecutor):
    """What coroutines call in threads: one that hangs keeps no process from ending, as those of the library would.

    Of that it has only the name, without which asyncio would not take it.
    """

    def __init__(self) -> None:
        super().__init__(THREADS)
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._made = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call *fn* in a thread; to be called on the loop."""
        if not self._idle.acquire(blocking=False) and self._made < THREADS:
            threading.Thread(target=self._work, name="pulse-call", daemon=True).start()
            self._made += 1
        future: Future[T] = Future()
        self._calls.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the library's
        """Its threads end when they have nothing to do any more; nobody waits for that."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            _keep(*call)
            del call  # what it has brought is not to be kept until the next one comes
            self._idle.release()
        self._calls.put(None)  # for the next thread


def _keep(future: Future[T], call: Callable[[], T]) -> None:
    """Give *future* what *call* brings, unless it was cancelled before."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - it is the awaiting coroutine's
        future.set_exception(error)
    finally:
        del future  # or its error and this frame keep each other alive


def give_up(task: "asyncio.Task[Any]") -> None:
    """Do not wait for *task* when the process ends: it has been cancelled before, and took no notice."""
    _given_up.add(task)


async def _wind_up() -> None:
    """Cancel what still runs, and wait a little for it."""
    tasks = asyncio.all_tasks() - {asyncio.current_task(), *_given_up}
    # Again and again: one whose own time limit ends at this moment may take the cancellation for that, and go on.
    for _ in range(CANCELS):
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CLOSING / CANCELS)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _own() -> _Background:
    """That of this process; by its pid, since not every fork is announced (uWSGI's are not)."""
    own = _backgrounds.get(os.getpid())
    return own or _backgrounds.setdefault(os.getpid(), _Background())


def _close_at_exit() -> None:
    _own().close()


def _after_fork_in_child() -> None:
    # Kept, never closed: its selector is the parent's too, and closing it here would make the parent deaf.
    _inherited.extend(_backgrounds.values())
    _backgrounds.clear()


_given_up: Final["WeakSet[asyncio.Task[Any]]"] = WeakSet()
_backgrounds: Final[dict[int, _Background]] = {}
_inherited: Final[list[_Background]] = []

atexit.register(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
