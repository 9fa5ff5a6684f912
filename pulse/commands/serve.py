"""`pulse serve`: an application and its tasks in one process, stopped in order.

The first SIGTERM or SIGINT ends serving; running tasks then have their `shutdown_timeout`,
and the process ends with 0. A second one ends it at once.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import waitress
from paste.deploy.loadwsgi import SERVER, ConfigLoader, loadcontext

from pulse import __version__, reader
from pulse.clock import Clock
from pulse.commands.exits import CommandError, Exit
from pulse.commands.login_code import login_links
from pulse.commands.screen import Screen, counted
from pulse.commands.source import Application, IniSource, Source, attempt
from pulse.commands.stop import Stop
from pulse.errors import StoreUnavailableError
from pulse.gateway import WsgiApp, is_asgi

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
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


def serve(source: Source, screen: Screen, clock: Clock, *, host: str | None, port: int | None) -> Exit:
    """Serve *source* until a signal ends it.

    Args:
        source: What to serve.
        screen: Says what is served, and where.
        clock: Of this host.
        host: Instead of that in `[server:main]`.
        port: As well; 0 for a free one.

    Raises:
        ConfigError, CommandError: the application or its server cannot be built.
        SystemExit: a signal ended a server that lets this pass (0), or the server itself did.
    """
    set_up_logging(source)
    application = source.load()
    if is_asgi(application.app):
        raise CommandError(f"{source.name} is an ASGI application: serve it with uvicorn {source.name}, or hypercorn")
    server = _server_of(source, application.app, host=host, port=port)
    stop = Stop(application.middlewares)
    stop.listen()
    try:
        for line in (*_banner(source, application, server), *_status_pages(application, server, clock)):
            screen.line(line)
        server.serve()
    finally:
        server.close()
        stop.finish()
    return Exit.OK


def set_up_logging(source: Source) -> None:
    """Log as the file says, or every run to the standard error.

    Raises:
        CommandError: there is no such file, or what it says cannot be done.
    """
    if not source.set_up_logging():
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)


def _server_of(source: Source, app: WsgiApp, *, host: str | None, port: int | None) -> _Server:
    """The server of the file; waitress where it names none."""
    place, context = _server_context(source)
    if context is None:
        return _waitress(place, app, {"host": host or HOST, "port": PORT if port is None else port})
    settings = context.local_conf
    if host is not None or port is not None:
        _move(settings, host, port)
    if context.object is waitress.serve_paste:
        return _waitress(place, app, settings)
    address = _address(settings)
    return _Server(address=address, serve=lambda: _serve_elsewhere(context, app, f"{place}: {address}"))


def _move(settings: dict[str, str], host: str | None, port: int | None) -> None:
    """Have a server listen at *host* and *port*, where they are given, and nowhere else."""
    said_host, _, said_port = settings.get("listen", "").partition(" ")[0].rpartition(":")
    said_host, said_port = settings.get("host", said_host or HOST), settings.get("port", said_port or str(PORT))
    for name in _ADDRESSES:
        settings.pop(name, None)
    settings.update(host=host or said_host, port=said_port if port is None else str(port))


def _server_context(source: Source) -> tuple[str, Any]:
    """Where the server stands, and how PasteDeploy would build it: of the application's own name, else `main`."""
    if not isinstance(source, IniSource):
        return source.name, None
    sections = ConfigLoader(source.path).parser.sections()
    name = next((name for name in (source.section, "main") if f"server:{name}" in sections), None)
    if name is None:
        return source.name, None
    place = f"{source.path} [server:{name}]"
    return place, attempt(place, lambda: loadcontext(SERVER, source.uri, name=name))


def _serve_elsewhere(context: Any, app: WsgiApp, what: str) -> None:
    try:
        context.create()(app)
    except OSError as error:
        raise CommandError(f"{what}: {error}") from error


def _waitress(place: str, app: WsgiApp, settings: Mapping[str, object]) -> _Server:
    """Waitress, already listening: its real address is known, and it can be closed early."""
    _require_port(place, settings)
    address = _address({name: str(value) for name, value in settings.items()})
    server = attempt(f"{place}: cannot serve at {address}", lambda: waitress.create_server(app, **settings))
    pairs = getattr(server, "effective_listen", None) or [(server.effective_host, server.effective_port)]
    return _Server(address=" ".join(_url(*pair) for pair in pairs), serve=server.run, close=server.close)


def _require_port(place: str, settings: Mapping[str, object]) -> None:
    """Refuse what is no port, which waitress would not name."""
    port = settings.get("port", PORT)
    try:
        reader.integer(0, 65_535)(port)
    except ValueError as error:
        raise CommandError(f"{place}: port = {port!r}: {error}") from None


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
    return [first, f"{counted(tasks, 'task')}, guard {guard}"]


def _status_pages(application: Application, server: _Server, clock: Clock) -> Iterator[str]:
    """Where the status pages are, with a code that logs in: whoever sees this has started the server."""
    address = server.address.partition(" ")[0]
    try:
        for link in login_links([(one.config, one.run_store) for one in application.middlewares], clock.now()):
            yield f"status page {address}{link} (logs in once, within ten minutes)"
    except StoreUnavailableError as error:
        yield f"status page: no login now: {error}"
