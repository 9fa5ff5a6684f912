"""What ties the stores together in one process: its viewers, its callbacks, and events between workers."""

import asyncio
import os
import secrets
from contextlib import suppress
from copy import deepcopy
from typing import Any, Final

from pulse.clock import Clock, SystemClock
from pulse.errors import StoreUnavailableError
from pulse.loop import background_loop
from pulse.state.callbacks import AsyncCallbackFunc, CallbackFunc, get_callback_registry
from pulse.state.listener import Listener
from pulse.state.lock import ProcessLock
from pulse.state.outlet import Outlet
from pulse.state.own import OwnWidgets
from pulse.state.settings import CONNECTION_TTL, is_deploy_mode, settings
from pulse.state.stores import (
    get_connection_router,
    get_event_bus,
    get_session_store,
    get_widget_store,
    get_worker_id,
    widget_seconds,
)
from pulse.state.types import EventMessage, UserSession, WidgetData

DELIVERY: Final = "pulse.delivery"  # the type of events to a worker that are for one of its viewers
BEATS: Final = 3  # heartbeats in the time after which a connection is forgotten


class ServerStateManager:
    """The shared state as one process sees it; safe to use from many threads and event loops.

    In deploy mode the process that holds a viewer's connection receives what others send to
    it, on the background loop of Pulse, and keeps the connection known by heartbeats.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        """Nothing is opened: the stores are those of the factories, each time they are used."""
        self._lock = ProcessLock()
        self._pid = os.getpid()
        self._own = OwnWidgets((clock or SystemClock()).monotonic)
        self._outlets: dict[str, Outlet] = {}
        self._server_loop: asyncio.AbstractEventLoop | None = None
        self._listener: Listener | None = None

    @property
    def deploy_mode(self) -> bool:
        """Whether many workers share state."""
        return is_deploy_mode()

    @property
    def worker_id(self) -> str:
        """Who this process is to other workers."""
        return get_worker_id()

    @property
    def widgets(self) -> dict[str, dict[str, Any]]:
        """The widgets that this process has registered, each a dict with `html` and `metadata`; a copy."""
        return self._own.contents()

    @property
    def widget_tokens(self) -> dict[str, str]:
        """Their tokens; a copy."""
        return self._own.tokens()

    @property
    def connections(self) -> dict[str, Any]:
        """The connections that this process holds, by widget; a copy."""
        return {outlet.widget_id: outlet.websocket for outlet in self._held()}

    @property
    def event_queues(self) -> dict[str, asyncio.Queue[Any]]:
        """Their queues; a copy."""
        return {outlet.widget_id: outlet.queue for outlet in self._held()}

    @property
    def server_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that `run_async` uses: what a server has set here while it runs, or that of Pulse.

        Raises:
            TypeError: what is set is no event loop.
        """
        loop = self._server_loop if self._pid == os.getpid() else None  # a parent's loop does not run in its child
        return loop if loop is not None and loop.is_running() else background_loop()

    @server_loop.setter
    def server_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is not None and not isinstance(loop, asyncio.AbstractEventLoop):
            raise TypeError(f"server_loop = {loop!r}: want an event loop, or None")
        self._heed_fork()
        self._server_loop = loop

    # Widgets

    async def register_widget(
        self, widget_id: str, html: str, token: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        """Keep a widget of this worker, in place of all that was kept under its id.

        It ends when its time to live is over, and so do its callbacks, at the next call of this.

        Args:
            widget_id: Any text.
            html: Its content.
            token: What a viewer must present.
            metadata: Title, kind, theme and so on.
        """
        ttl = widget_seconds()
        await get_widget_store().register(widget_id, html, token, self.worker_id, metadata)
        self._own.put(widget_id, html, token, metadata, ttl)
        await self._forget_callbacks()

    async def get_widget(self, widget_id: str) -> WidgetData | None:
        """The widget, of whatever worker; None if there is none."""
        return await get_widget_store().get(widget_id)

    async def get_widget_html(self, widget_id: str) -> str | None:
        """Its content; None if there is no such widget."""
        return await get_widget_store().get_html(widget_id)

    async def update_widget_html(self, widget_id: str, html: str) -> bool:
        """Change the content of a widget; whether there is one."""
        is_there = await get_widget_store().update_html(widget_id, html)
        if is_there:
            self._own.update(widget_id, html)
        return is_there

    async def widget_exists(self, widget_id: str) -> bool:
        """Whether there is such a widget."""
        return await get_widget_store().exists(widget_id)

    async def remove_widget(self, widget_id: str) -> bool:
        """Forget a widget and its callbacks; whether there was one."""
        was_there = await get_widget_store().delete(widget_id)
        await self._forget_widget(widget_id)
        return was_there

    async def list_widgets(self) -> list[str]:
        """The ids of all widgets, of whatever worker."""
        return await get_widget_store().list_active()

    # Viewers

    async def register_connection(
        self, widget_id: str, websocket: Any, *, user_id: str | None = None, session_id: str | None = None
    ) -> asyncio.Queue[Any]:
        """Hold the connection of a widget's viewer; the queue of the events for it.

        The queue belongs to the event loop that calls this. It keeps the newest 1,000 events.

        Args:
            widget_id: The widget that is viewed; it has one viewer at a time.
            websocket: The connection: anything that identifies it.
            user_id: Whose it is, if known.
            session_id: Of which user session, if known.
        """
        self._heed_fork()
        if self.deploy_mode:
            await self._listen()  # before anybody can learn that the viewer is here
        outlet = Outlet(widget_id, websocket, user_id, session_id)
        with self._lock:
            former = self._outlets.get(widget_id)
            self._outlets[widget_id] = outlet
        try:
            await self._announce(outlet)
        except BaseException as error:
            # Who asked has no queue to read, and nothing to unregister: heartbeats would keep it known for ever.
            self._put_back(outlet, former)
            if isinstance(error, asyncio.CancelledError):  # the backend may have heard of it before
                with suppress(StoreUnavailableError):  # which forgets it by itself, later
                    await self._withdraw(widget_id)
            raise
        return outlet.queue

    async def unregister_connection(self, widget_id: str, websocket: Any = None) -> None:
        """Let go of a connection.

        Args:
            widget_id: The widget that was viewed.
            websocket: If given, only if this is still the connection: a viewer may have come back.
        """
        self._heed_fork()
        with self._lock:
            outlet = self._outlets.get(widget_id)
            if outlet is None or (websocket is not None and outlet.websocket is not websocket):
                return
            del self._outlets[widget_id]
        await self._withdraw(widget_id)

    async def get_connection(self, widget_id: str) -> Any | None:
        """The connection, if this process holds it."""
        outlet = self._outlet(widget_id)
        return None if outlet is None else outlet.websocket

    async def get_event_queue(self, widget_id: str) -> asyncio.Queue[Any] | None:
        """The queue of a connection, if this process holds it."""
        outlet = self._outlet(widget_id)
        return None if outlet is None else outlet.queue

    # Callbacks

    async def register_callback(
        self, widget_id: str, event_type: str, callback: CallbackFunc | AsyncCallbackFunc
    ) -> None:
        """Let *callback* be called for an event, in this process; see `CallbackRegistry.register`."""
        await get_callback_registry().register(widget_id, event_type, callback)

    async def get_callback(self, widget_id: str, event_type: str) -> CallbackFunc | AsyncCallbackFunc | None:
        """The callback; None if this process has none."""
        registration = await get_callback_registry().get(widget_id, event_type)
        return None if registration is None else registration.callback

    async def invoke_callback(self, widget_id: str, event_type: str, data: dict[str, Any]) -> tuple[bool, Any]:
        """Call the callback: whether it succeeded, and what it returned."""
        return await get_callback_registry().invoke(widget_id, event_type, data)

    # Events

    async def broadcast_event(self, widget_id: str, event_type: str, data: dict[str, Any]) -> None:
        """Tell the viewer of a widget, whichever worker holds the connection, that something happened.

        The queue of the connection gets `{"type": event_type, "data": data}`, once. In deploy
        mode whoever subscribes to the channel `widget:<id>` of the event bus is told as well.
        """
        if self.deploy_mode:
            message = EventMessage(event_type, widget_id, data, self.worker_id)
            await get_event_bus().publish(f"widget:{widget_id}", message)
        await self.send_to_widget(widget_id, {"type": event_type, "data": data})

    async def send_to_widget(self, widget_id: str, event: dict[str, Any]) -> bool:
        """Send *event* to the viewer of a widget, whichever worker holds the connection, once.

        Returns:
            False if no worker holds one. True says that it is on its way.
        """
        outlet = self._outlet(widget_id)
        owner = await self._owner(widget_id, outlet) if self.deploy_mode else None
        # The router knows better: a viewer that went to another worker may seem to be here still.
        if outlet is not None and owner in (None, self.worker_id):
            outlet.put(_own(event))
            return True
        if owner is None:
            return False
        message = EventMessage(DELIVERY, widget_id, {"event": event}, self.worker_id, target_worker_id=owner)
        await get_event_bus().publish(f"worker:{owner}", message)
        return True

    # User sessions

    async def create_session(
        self, user_id: str, roles: list[str] | None = None, metadata: dict[str, Any] | None = None
    ) -> str:
        """Begin a user session; its id, which nobody can guess.

        Args:
            user_id: Whose it is.
            roles: What the user is; a viewer by default.
            metadata: See `SessionStore.create_session`.
        """
        session_id = secrets.token_urlsafe(32)
        roles = ["viewer"] if roles is None else roles
        await get_session_store().create_session(session_id, user_id, roles, metadata=metadata)
        return session_id

    async def get_session(self, session_id: str) -> UserSession | None:
        """The user session; None if there is none, or it has expired."""
        return await get_session_store().get_session(session_id)

    # The end

    async def sweep(self) -> int:
        """Forget what this process holds of widgets that are no more; how many those were."""
        gone = [widget_id for widget_id in self.widgets if not await self.widget_exists(widget_id)]
        for widget_id in gone:
            await self._forget_widget(widget_id)
        return len(gone) + await self._forget_callbacks()

    async def cleanup(self) -> None:
        """Let go of all connections, and forget what is only in this process.

        What a shared backend holds stays there. In local mode there is none, and the widgets
        of this process end with it.

        Raises:
            StoreUnavailableError: the backend did not answer, and forgets the connections by
                itself, later; nothing of them is left here.
        """
        self.stop()
        self._heed_fork()
        with self._lock:
            held, self._outlets = list(self._outlets), {}
        for widget_id in self.widgets:
            if not self.deploy_mode:
                await get_widget_store().delete(widget_id)
            await self._forget_widget(widget_id)
        await self._forget_callbacks()
        for widget_id in held:
            await self._withdraw(widget_id)

    def stop(self) -> None:
        """Receive nothing more from other workers, until a viewer connects again."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None and self._pid == os.getpid():
            listener.stop()

    # Within

    def _held(self) -> list[Outlet]:
        self._heed_fork()
        with self._lock:
            return list(self._outlets.values())

    def _outlet(self, widget_id: str) -> Outlet | None:
        self._heed_fork()
        with self._lock:
            return self._outlets.get(widget_id)

    def _put_back(self, outlet: Outlet, former: Outlet | None) -> None:
        with self._lock:
            if self._outlets.get(outlet.widget_id) is not outlet:
                return
            if former is None:
                del self._outlets[outlet.widget_id]
            else:
                self._outlets[outlet.widget_id] = former

    def _heed_fork(self) -> None:
        """In a forked child: connections, and who listens for them, are its parent's."""
        with self._lock:
            # Looked at with the lock: a thread that had looked before might forget what another one holds by now.
            if self._pid != os.getpid():
                self._outlets = {}
                self._listener = self._server_loop = None
                self._pid = os.getpid()

    async def _forget_widget(self, widget_id: str) -> None:
        await get_callback_registry().unregister_widget(widget_id)
        self._own.pop(widget_id)

    async def _forget_callbacks(self) -> int:
        """Forget those of the widgets that have ended by themselves; how many these were."""
        gone = self._own.gone()
        for widget_id in gone:
            await get_callback_registry().unregister_widget(widget_id)
        return len(gone)

    async def _owner(self, widget_id: str, outlet: Outlet | None) -> str | None:
        """The worker that holds the connection; None if nobody knows."""
        try:
            return await get_connection_router().get_owner(widget_id)
        except StoreUnavailableError:
            if outlet is None:
                raise
            return None  # it seems to be here: an outage of the backend is nothing to this viewer

    async def _announce(self, outlet: Outlet) -> None:
        await get_connection_router().register_connection(
            outlet.widget_id, self.worker_id, outlet.user_id, outlet.session_id
        )

    async def _withdraw(self, widget_id: str) -> None:
        """Let nobody look here any more for a viewer who is not here."""
        router = get_connection_router()
        # The viewer may be with another worker by now, or back with this one.
        if await router.get_owner(widget_id) == self.worker_id and self._outlet(widget_id) is None:
            await router.unregister_connection(widget_id)

    async def _listen(self) -> None:
        """Receive what other workers send to this one; returns when it will arrive."""
        with self._lock:
            if self._listener is None or self._listener.has_ended():
                self._listener = Listener(
                    get_event_bus(),
                    f"worker:{self.worker_id}",
                    deliver=self._deliver,
                    beat=self._beat,
                    beat_seconds=(settings().connection_ttl or CONNECTION_TTL) / BEATS,
                )
            listener = self._listener
        await listener.ready()

    def _deliver(self, message: EventMessage) -> None:
        outlet = self._outlet(message.widget_id)
        if outlet is not None and message.event_type == DELIVERY:
            outlet.put(message.data.get("event"))

    async def _beat(self) -> None:
        """Keep the connections of this process known, and make them known again."""
        router = get_connection_router()
        for outlet in self._held():
            owner = await router.get_owner(outlet.widget_id)
            if owner == self.worker_id:
                await router.refresh_heartbeat(outlet.widget_id)
            elif owner is None and self._outlet(outlet.widget_id) is outlet:
                await self._announce(outlet)


def _own(event: Any) -> Any:
    """A copy: whoever sends a dict again with other values must not change what still waits for its viewer."""
    try:
        return deepcopy(event)
    # An object may refuse in any way it likes; within one process a viewer may get it as it is.
    except Exception:  # noqa: BLE001 - see above
        return event


_lock: Final = ProcessLock()
_made: Final[list[ServerStateManager]] = []


def get_server_state() -> ServerStateManager:
    """The manager of this process; safe to call from any thread."""
    with _lock:
        if not _made:
            _made.append(ServerStateManager())
        return _made[0]


def reset_server_state() -> None:
    """Stop the manager of this process, and let the next call of `get_server_state` make a new one; for tests."""
    with _lock:
        old = _made.pop() if _made else None
    if old is not None:
        old.stop()
