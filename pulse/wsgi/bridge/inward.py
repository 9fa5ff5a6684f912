"""An ASGI application as an asynchronous WSGI handler: this is how internal requests reach it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from pulse.context import PULSE_CONTEXT, PulseContext
from pulse.errors import ResponseError
from pulse.gateway import AsgiApp, Environ, Message, StartResponse
from pulse.wsgi.bridge.home import Home
from pulse.wsgi.bridge.scope import scope_of


class Inward:
    """A handler that requests *app*; for internal requests, whose responses nobody but Pulse reads.

    It ends when the application does: what that does behind its response is part of the run.

    Attributes:
        app: The ASGI application.
    """

    async_: Final = True

    def __init__(self, app: AsgiApp, home: Home, face: object = None) -> None:
        """Wire it.

        Args:
            app: The ASGI application.
            home: Where it lives.
            face: The `app` of the context, if it is not whoever has sent the request.
        """
        self.app = app
        self._home = home
        self._face = face

    async def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """Send the request of *environ*; the response goes to the `write` that *start_response* gives.

        Raises:
            ResponseError: the application broke the protocol.
            Exception: what the application raised.
        """
        await self._home.run(lambda: self._request(environ, start_response))
        return []

    async def _request(self, environ: Environ, start_response: StartResponse) -> None:
        scope = scope_of(environ)
        state = self._home.state()
        if state is not None:
            scope["state"] = state
        exchange = _Exchange(environ["wsgi.input"].read(), start_response)
        active = PULSE_CONTEXT.get()
        if active is not None and self._face is not None:
            active = PulseContext(self._face, active.session, active.render, active.route)
        token = PULSE_CONTEXT.set(active)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            # Frameworks wrap what their `send` raises, in groups for one.
            if exchange.refusal is not None and error is not exchange.refusal:
                raise exchange.refusal from error
            raise
        finally:
            PULSE_CONTEXT.reset(token)
        exchange.must_be_complete()

    def __reduce__(self) -> tuple[Any, ...]:
        # For another process, which has no door that could be the face.
        return Inward, (self.app, self._home)


class _Exchange:
    """One request and its response, in the messages of ASGI."""

    def __init__(self, body: bytes, start_response: StartResponse) -> None:
        self.refusal: Exception | None = None  # why a message was not taken
        self._body: bytes | None = body
        self._start_response = start_response
        self._write: Callable[[bytes], object] | None = None
        self._is_complete = asyncio.Event()

    async def receive(self) -> Message:
        """The request; then, when its response is complete, that nobody is there any more."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._is_complete.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take a part of the response.

        Raises:
            ResponseError: it has no place here.
            Exception: what the sender of the request says to it: perhaps that the run has to stop.
        """
        try:
            self._take(message)
        except Exception as error:
            self.refusal = error
            raise
        # An application that never waits would keep everything else on this loop from running.
        await asyncio.sleep(0)

    def _take(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self._write is None:
            headers = [
                (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                for name, value in message.get("headers") or ()
            ]
            self._write = self._start_response(str(message["status"]), headers)
        elif kind == "http.response.body" and self._write is not None and not self._is_complete.is_set():
            if body := message.get("body"):
                self._write(bytes(memoryview(body)))
            if not message.get("more_body", False):
                self._is_complete.set()
        else:
            raise ResponseError(f"it sent {kind!r:.80} {self._stage()} (ASGI)")

    def must_be_complete(self) -> None:
        """Check that the application has done all of its work.

        Raises:
            ResponseError: it has not.
            Exception: what it was told while it sent its response, and has ignored.
        """
        if self.refusal is not None:
            raise self.refusal
        if not self._is_complete.is_set():
            raise ResponseError(f"it returned {self._stage()} (ASGI)")

    def _stage(self) -> str:
        if self._write is None:
            return "before its response had begun"
        return "when its response was complete" if self._is_complete.is_set() else "before its response was complete"
