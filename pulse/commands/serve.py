"""`pulse serve`: an application and its tasks in one process, stopped in order.

The first SIGTERM or SIGINT ends serving; running tasks then have their `shutdown_timeout`,
and the process ends with 0. A second one ends it at once.
"""

import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, NoReturn

import waitress
from paste.deploy.loadwsgi import SERVER, ConfigLoader, loadcontext

from pulse import __version__
from pulse.commands.exits import CommandError, Exit
from pulse.commands.screen import Screen
from pulse.commands.source import Application, IniSource, Source, attempt
from pulse.gateway import WsgiApp
from pulse.middleware import PulseMiddleware

log = logging.getLogger(__name__)

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
SERVER_PATIENCE: Final = 6  # seconds; waitress itself gives its requests 5
HOST: Final = "127.0.0.1"
PORT: Final = 8080
_ADDRESSES: Final = ("host", "port", "listen", "sockets", "unix_socket")  # settings that exclude each other


@dataclass(frozen=True, kw_only=True, slots=True)
class _Server:
    """Something that serves.

    Attributes:
        address: Where, for people.
        serve: Blocks until it is interrupted.
        close: Refuses connections from then on.
    """

    address: str
    serve: Callable[[], object]
    close: Callable[[], object] = lambda: None


def serve(source: Source, screen: Screen, *, host: str | None, port: int | None) -> Exit:
    """Serve *source* until a signal ends it.

    Args:
        source: What to serve.
        screen: Says what is served, and where.
        host: Instead of that in `[server:main]`.
        port: As well; 0 for a free one.

    Raises:
        ConfigError, CommandError: the application or its server cannot be built.
        SystemExit: a signal ended a server that lets this pass (0), or the server itself did.
    """
    _set_up_logging(source)
    application = source.load()
    server = _server_of(source, application.app, host=host, port=port)
    stop = _Stop(application.middlewares)
    stop.listen()
    try:
        for line in _banner(source, application, server):
            screen.line(line)
        server.serve()
    finally:
        server.close()
        stop.finish()
    return Exit.OK


class _Stop:
    """Ends the process in order at the first signal, and at once at the second."""

    def __init__(self, middlewares: Sequence[PulseMiddleware]) -> None:
        self.is_asked = False
        # Side by side, or the timeouts of several filters would add up.
        self._closers = [threading.Thread(target=one.close, name="pulse-close", daemon=True) for one in middlewares]

    def listen(self) -> None:
        """Take the signals; in the main thread only."""
        for number in STOPPING:
            signal.signal(number, self._on_signal)

    def finish(self) -> None:
        """Wait for the running tasks, as long as their filters allow."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not self.is_asked:
            self._begin()
        if any(closer.is_alive() for closer in self._closers):
            log.info("stopping: running tasks may end, a second signal cuts them", extra={"pulse_event": "stopping"})
        for closer in self._closers:
            closer.join()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Now and not when the server has ended: it waits for its own requests, and the time
        # that the tasks have must not begin after theirs.
        self._begin()
        # Some servers swallow what is raised in the middle of a request: then it is raised again.
        signal.signal(signal.SIGALRM, _leave)
        signal.setitimer(signal.ITIMER_REAL, SERVER_PATIENCE, 1)
        _leave()

    def _begin(self) -> None:
        self.is_asked = True
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)
        for closer in self._closers:
            closer.start()


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


def _set_up_logging(source: Source) -> None:
    if isinstance(source, IniSource):
        source.must_exist()
        if source.set_up_logging():
            return
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)


def _server_of(source: Source, app: WsgiApp, *, host: str | None, port: int | None) -> _Server:
    """The server of the file; waitress where it names none."""
    context = _server_context(source)
    if context is None:
        return _waitress(source, app, {"host": host or HOST, "port": PORT if port is None else port})
    settings = context.local_conf
    if host is not None or port is not None:
        _move(settings, host, port)
    if context.object is waitress.serve_paste:
        return _waitress(source, app, settings)
    address = _address(settings)
    return _Server(address=address, serve=lambda: _serve_elsewhere(context, app, f"{source.name}: {address}"))


def _move(settings: dict[str, str], host: str | None, port: int | None) -> None:
    """Have a server listen at *host* and *port*, where they are given, and nowhere else."""
    said_host, _, said_port = settings.get("listen", "").partition(" ")[0].rpartition(":")
    said_host, said_port = settings.get("host", said_host or HOST), settings.get("port", said_port or str(PORT))
    for name in _ADDRESSES:
        settings.pop(name, None)
    settings.update(host=host or said_host, port=said_port if port is None else str(port))


def _server_context(source: Source) -> Any:
    """How PasteDeploy would build the server: of the application's own name, else `main`."""
    if not isinstance(source, IniSource):
        return None
    sections = ConfigLoader(source.path).parser.sections()
    name = next((name for name in (source.section, "main") if f"server:{name}" in sections), None)
    if name is None:
        return None
    return attempt(f"{source.path} [server:{name}]", lambda: loadcontext(SERVER, source.uri, name=name))


def _serve_elsewhere(context: Any, app: WsgiApp, what: str) -> None:
    try:
        context.create()(app)
    except OSError as error:
        raise CommandError(f"{what}: {error}") from error


def _waitress(source: Source, app: WsgiApp, settings: Mapping[str, object]) -> _Server:
    """Waitress, already listening: its real address is known, and it can be closed early."""
    server = attempt(f"{source.name}: cannot serve", lambda: waitress.create_server(app, **settings))
    pairs = getattr(server, "effective_listen", None) or [(server.effective_host, server.effective_port)]
    return _Server(address=" ".join(_url(*pair) for pair in pairs), serve=server.run, close=server.close)


def _url(host: str, port: object) -> str:
    if host == "unix":
        return f"unix:{port}"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _address(settings: Mapping[str, str]) -> str:
    """The address that a server was told, as far as its settings are the usual ones."""
    if "listen" in settings:
        return settings["listen"]
    return _url(settings["host"], settings.get("port", PORT)) if "host" in settings else "its own server"


def _banner(source: Source, application: Application, server: _Server) -> list[str]:
    name = f"{source.path}#{source.section}" if isinstance(source, IniSource) else source.name
    first = f"Pulse {__version__} · {name} · {server.address}"
    filters = [one.config for one in application.middlewares]
    if not filters:
        return [first, "there is no Pulse filter in it: nothing is scheduled"]
    tasks = sum(len(one.tasks) for one in filters)
    guarded = sum(one.guard for one in filters)
    guard = {0: "off", len(filters): "on"}.get(guarded, f"on in {guarded} of {len(filters)} filters")
    return [first, f"{tasks} {'task' if tasks == 1 else 'tasks'}, guard {guard}"]
