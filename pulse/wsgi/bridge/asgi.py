"""A WSGI application or asynchronous handler under an ASGI server: uvicorn, hypercorn."""

import asyncio
import inspect
import io
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, TypeVar

from pulse.gateway import Environ, Receive, Scope, Send
from pulse.loop import running_loop
from pulse.wsgi.bridge.answer import END, Pieces, SyncReader, close, is_asynchronous, readable, settled
from pulse.wsgi.bridge.connection import Connection, introduce, settings_of
from pulse.wsgi.bridge.current import CurrentLoop
from pulse.wsgi.bridge.inbox import ClientGoneError, Inbox, InboxFile
from pulse.wsgi.bridge.outbox import Outbox
from pulse.wsgi.bridge.scope import environ_of

T = TypeVar("T")

THREADS: Final = 40  # concurrent requests of a synchronous application


def as_asgi(handler: Any, *, threads: int = THREADS) -> "AsgiDoor":
    """An ASGI application of a WSGI application, or of a handler that may be asynchronous.

    Chunks of the response are sent as they come, as fast as the client takes them; when it
    goes away, the response is closed. A synchronous application runs in a thread, and reads
    the body of a request while it arrives. An asynchronous handler runs on the event loop
    of the server, when the body has arrived. A plain function that answers with a Future
    makes it in its thread, where that loop is current and not running: by `asyncio.Future()`
    or `environ["pulse.connection"].loop`, not by `asyncio.get_running_loop()`.

    Args:
        handler: Called with environ and `start_response`.
        threads: How many requests a synchronous application may serve at once.
    """
    return AsgiDoor(handler, threads=threads)


class AsgiDoor:
    """See `as_asgi`.

    Attributes:
        app: The handler.
    """

    def __init__(self, handler: Any, *, threads: int = THREADS) -> None:
        self.app = handler
        self._threads = threads
        self._settings = settings_of(handler)
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of an ASGI server."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # before it is accepted: the server answers 403
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            raise NotImplementedError(f"no WSGI application can serve {scope['type']!r}")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                with self._lock:
                    pool, self._pool = self._pool, None
                if pool is not None:
                    pool.shutdown(wait=False)
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        inbox = Inbox(receive)
        talk = asyncio.create_task(self._talk(scope, inbox, Outbox(send)))
        listen = asyncio.create_task(inbox.listen())
        try:
            await asyncio.wait({talk, listen}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Finished, or the client has gone, or the server cancels us.
            for task in {talk, listen} - {task for task in (talk, listen) if task.done()}:
                task.cancel()
            await asyncio.wait({talk, listen})
        if not listen.cancelled() and (error := listen.exception()):
            raise error
        with suppress(asyncio.CancelledError, ClientGoneError):  # nobody is there to be answered
            talk.result()

    async def _talk(self, scope: Scope, inbox: Inbox, outbox: Outbox) -> None:
        loop = asyncio.get_running_loop()
        environ = environ_of(scope, None)
        client = scope.get("client")
        introduce(environ, Connection("asgi", peer=tuple(client) if client else None, loop=loop), self._settings)
        if _is_declared_asynchronous(self.app):
            with await inbox.read_all() as environ["wsgi.input"]:
                await _send_answer(self.app(environ, outbox.start), outbox)
            return
        source = InboxFile(inbox, loop)
        environ["wsgi.input"] = io.BufferedReader(source)
        exchange = _ThreadExchange(environ, inbox, outbox, loop)
        answer = await self._in_thread(exchange.perform, exchange.stop, self.app)
        if is_asynchronous(answer):
            # It has not begun to run: what it may read has to be there before. By the same file, since what
            # has wrapped it may have read a part, or have handed on a copy of the environ.
            with await inbox.read_all() as rest:
                source.fill(rest)
                await _send_answer(answer, outbox)

    async def _in_thread(self, call: Callable[..., T], stop: Callable[[], None], *args: Any) -> T:
        """What *call* gives back; if this task is cancelled, *stop* is called and the thread is waited for."""
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                # In a forked child the threads of the parent's pool are not there: nobody would do the work.
                self._pid = os.getpid()
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="pulse-wsgi")
            work = self._pool.submit(copy_context().run, call, *args)
        waiting = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            stop()
            if not work.cancel():  # it runs: its body is to be closed while the loop still helps it
                # It is told to stop. What else has ended it is for the server: perhaps that very server did not take
                # the end of the response, after it had said that with it the client was gone.
                with suppress(OSError):  # what a send to a client that has gone is answered with, too
                    await asyncio.shield(waiting)
            raise


async def _send_answer(answer: Any, outbox: Outbox) -> None:
    body: Any = None
    try:
        body = await settled(answer)
        pieces = Pieces(body)
        while (piece := await pieces.next()) is not END:
            await outbox.add(piece)
            await asyncio.sleep(0)  # pieces that are all there would keep the server from anything else
    finally:
        await close(body)
    await outbox.end()


class _ThreadExchange:
    """One call of a synchronous application, in a thread, from its call to `close()`."""

    def __init__(self, environ: Environ, inbox: Inbox, outbox: Outbox, loop: asyncio.AbstractEventLoop) -> None:
        self._environ = environ
        self._inbox = inbox
        self._outbox = outbox
        self._loop = loop
        self._step: Future[Any] | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Let it end before it sends anything more, whatever it waits for."""
        self._is_stopped = True
        if self._step is not None:
            self._step.cancel()

    def perform(self, app: Any) -> Any:
        """Call *app* and send its response; gives back an asynchronous answer, which is not for threads."""
        with CurrentLoop(self._loop):
            answer = app(self._environ, self._start)
        if is_asynchronous(answer):
            return answer
        body = SyncReader(answer, self._loop)
        try:
            readable(answer)
            for chunk in body:
                self._run(self._outbox.add(chunk))
        finally:
            body.close()
        self._run(self._end())
        return None

    async def _end(self) -> None:
        self._inbox.discard()
        await self._outbox.end()

    def _start(self, *args: Any) -> Callable[[bytes], None]:
        add = self._outbox.start(*args)

        def write(chunk: bytes) -> None:
            add(chunk)
            # What the call has given back may be awaited: on the loop, which would wait for itself for ever.
            if running_loop() is not self._loop:
                self._run(self._outbox.add(b""))

        return write

    def _run(self, step: Coroutine[Any, Any, T]) -> T:
        if self._is_stopped:
            step.close()
            raise _gone()
        self._step = running = asyncio.run_coroutine_threadsafe(step, self._loop)
        if self._is_stopped:  # just now, when this step was not seen yet
            running.cancel()
        try:
            return running.result()
        except CancelledError as error:
            raise _gone() from error


def _gone() -> ClientGoneError:
    return ClientGoneError("the client went away before it had all of the response")


def _is_declared_asynchronous(handler: Any) -> bool:
    """Whether calling *handler* only makes something to be awaited, and may be done on the loop."""
    if getattr(handler, "async_", False) is True:
        return True
    calls = (handler, getattr(handler, "__call__", None))  # noqa: B004 - the method, not whether there is one
    return any(inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call) for call in calls)
