"""`App`: a `PulseMiddleware` that may stand alone, with sessions and pages of its own.

The shortest way to start: the scheduler, a session for each visitor, and the clean-up that
the one calls for the other.
"""

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any, Final, TypeVar, cast

from pulse.errors import ConfigError, Fault
from pulse.gateway import Environ, StartResponse, WsgiApp, why_not_wsgi
from pulse.mark import internal_only, not_found
from pulse.middleware import PulseMiddleware
from pulse.model import Config
from pulse.option import shown
from pulse.request import PulseRequest
from pulse.sessions import CookieSessionStore, SessionFilter, cleanup_endpoint
from pulse.sessions.asgi import Storage

P = TypeVar("P", bound=Callable[..., Any])

CLEANUP: Final = "/sessions/cleanup"


class App(PulseMiddleware):
    """A WSGI application with tasks and sessions, around another one or around its own pages.

    Pages find the session in `environ["pulse.session"]`. Alone, it answers `/sessions/cleanup`
    to its own tasks, and 404 to everybody else who asks for a page that it does not have.

    Attributes:
        app: The session filter around the wrapped application.
        session_store: Where sessions are kept.
    """

    def __init__(
        self,
        app: WsgiApp | None = None,
        config: Mapping[str, object] | Config | None = None,
        *,
        session_store: Storage | None = None,
        **options: Any,
    ) -> None:
        """Wrap *app*, or nothing.

        Args:
            app: Any WSGI application, for what has no `route`; without it, that is 404.
            config: As for `PulseMiddleware`.
            session_store: By default a `CookieSessionStore`, which wants PULSE_SECRET in production.
            **options: As for `PulseMiddleware`: `task=`, `guard=` and so on.

        Raises:
            ConfigError: (a ValueError) naming every fault of the configuration at once.
            RuntimeError: there is no secret for the default store, in production.
            TypeError: *session_store* is none.
        """
        if app is not None and (problem := why_not_wsgi(app)):
            raise ConfigError([Fault(key="app", shown=shown(app), problem=problem)])
        self.session_store = CookieSessionStore() if session_store is None else session_store
        self._pages = _Pages(not_found if app is None else app)
        if app is None:
            self._pages.by_path[CLEANUP] = _Internal(cleanup_endpoint(self.session_store))
        self._sessions = SessionFilter(self._pages, self.session_store)
        super().__init__(self._sessions, config, **options)

    def route(self, path: str) -> Callable[[P], P]:
        """A decorator: what stands below it is the page at *path*, before any other there.

        That is a WSGI application, or a function that takes a `PulseRequest` and returns text,
        bytes or a WSGI application such as a `webob.Response`.

        Raises:
            ValueError: *path* does not begin with a slash.
            ConfigError: (a ValueError) the children of `mode = processing` would not know the page.
        """
        if not path.startswith("/"):
            raise ValueError(f"route {path!r}: want a path that begins with a slash")
        if self.config.mode == "processing" and not self.config.application:
            problem = (
                "children are sent the pages that there are when the App is built, and would answer 404 for this one; "
                "set pulse.config.application = module:object, which they load"
            )
            raise ConfigError([Fault(key="route", shown=shown(path), problem=problem)])

        def place(page: P) -> P:
            # As an environ has it: each byte of its UTF-8 is a character (PEP 3333).
            self._pages.by_path[path.encode().decode("latin-1")] = _wsgi(page)
            return page

        return place

    def close_within(self, seconds: float) -> None:
        """As `PulseMiddleware.close_within`; then the session store is closed, until it is used again."""
        super().close_within(seconds)
        self._sessions.close()


# Classes and no functions in functions: children of `mode = processing` are sent them, pickled.


class _Pages:
    """The pages of an `App`, and what answers where there is none."""

    def __init__(self, otherwise: WsgiApp) -> None:
        self.by_path: dict[str, WsgiApp] = {}
        self._otherwise = otherwise

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        page = self.by_path.get(environ.get("PATH_INFO") or "/", self._otherwise)
        return page(environ, start_response)


class _Internal:
    """A page for runs alone."""

    def __init__(self, page: WsgiApp) -> None:
        self._page = page

    @internal_only
    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self._page(environ, start_response)


class _Page:
    """A function of a `PulseRequest`, as a WSGI application."""

    def __init__(self, page: Callable[..., Any]) -> None:
        self._page = page

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        given = self._page(PulseRequest.from_environ(environ))
        if callable(given):
            return cast("Iterable[bytes]", given(environ, start_response))
        body = given.encode() if isinstance(given, str) else given
        # Not HTML: what a page was told by a visitor must not become a part of its mark-up.
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def _wsgi(page: Callable[..., Any]) -> WsgiApp:
    """*page* as a WSGI application, which takes two arguments and not one."""
    try:
        signature(page).bind(None)
    except TypeError:
        return page
    return _Page(page)
