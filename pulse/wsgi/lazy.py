"""Applications that are loaded where they are needed: by a subclass when it is called, or from a specification.

`LazyWsgi` is how an application reaches another process: pickled before or after its first
call, a copy sets itself up again over there.
"""

import importlib
import inspect
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from paste.deploy import loadapp

from pulse.errors import ApplicationError
from pulse.inifile import file_and_section

START_VARIABLE: Final = "PULSE_START"  # of the environment; wins over `pulse.config.start`


class LazyWsgi:
    """A WSGI application that makes the actual one when it is first called.

    Subclasses implement `setup`. Instances pickle before and after the first call; a copy
    sets itself up again. Safe to call from many threads.
    """

    _lock: threading.Lock
    _handler: Any
    _maker: int | None

    def __new__(cls, *_args: object, **_kwargs: object) -> Self:
        """Here and not in a constructor: subclasses need not call one, and copies do not."""
        lazy = super().__new__(cls)
        lazy._lock = threading.Lock()
        lazy._handler = lazy._maker = None
        return lazy

    def setup(self, environ: dict[str, Any] | None = None) -> Any:
        """Make the actual application; called once, at the first call.

        If it raises, the caller gets its error, and the next call tries again. A plain
        function: nobody awaits it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement setup(environ=None)")

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Hand the call on to the actual application, and return what it returns.

        Raises:
            TypeError: `setup` gave nothing that could be called.
            RuntimeError: `setup` itself calls this.
        """
        handler = self._handler
        if handler is None:
            if self._maker == threading.get_ident():  # which holds the lock, and would wait for itself for ever
                raise RuntimeError(f"{type(self).__name__}.setup called the application that it is to make")
            with self._lock:
                if self._handler is None:
                    self._handler = self._made(environ)
                handler = self._handler
        return handler(environ, start_response)

    def _made(self, environ: dict[str, Any]) -> Any:
        self._maker = threading.get_ident()
        try:
            handler = self.setup(environ)
        finally:
            self._maker = None
        if not callable(handler):
            if inspect.iscoroutine(handler):
                handler.close()  # or it would be reported as never awaited, too
            name = type(self).__name__
            wanted = "a plain function, no coroutine function" if inspect.isawaitable(handler) else "a WSGI application"
            raise TypeError(f"{name}.setup gave back a {type(handler).__name__}: want {wanted}")
        return handler

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_handler", "_maker")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def load_application(specification: str) -> Any:
    """The WSGI application of `config:<ini file>[#<section>]` or `<module>:<object>`.

    Raises:
        ApplicationError: (an ImportError) there is no such file, module or object; what
            the application itself raises while it is made is passed on.
    """
    scheme, _, rest = specification.partition(":")
    if scheme == "config":
        path, section = file_and_section(rest)
        if not Path(path).is_file():
            raise ApplicationError(specification, f"there is no file {path}")
        return loadapp(f"config:{quote(str(Path(path).absolute()))}", name=section or "main")
    try:
        found = importlib.import_module(scheme)
    except ModuleNotFoundError as error:
        if error.name != scheme and not scheme.startswith(f"{error.name}."):
            raise  # the module is there, and misses another
        raise ApplicationError(specification, f"there is no module {error.name}") from error
    for name in rest.split("."):
        if not hasattr(found, name):
            raise ApplicationError(specification, f"{scheme} has no {rest}")
        found = getattr(found, name)
    return found


@contextmanager
def manual_start() -> Iterator[None]:
    """Inside, no application that is built begins to run its tasks."""
    before = os.environ.get(START_VARIABLE)
    os.environ[START_VARIABLE] = "manual"
    try:
        yield
    finally:
        if before is None:
            del os.environ[START_VARIABLE]
        else:
            os.environ[START_VARIABLE] = before


@contextmanager
def collecting() -> Iterator[list[Any]]:
    """The `PulseMiddleware` objects that are built in this context, in the order of their making.

    An ini file gives an application, and not the filter inside it: whoever loads one to
    work on its tasks (the command line, a process worker) finds them this way.
    """
    built: list[Any] = []
    reset = _collected.set(built)
    try:
        yield built
    finally:
        _collected.reset(reset)


def note_built(middleware: object) -> None:
    """Tell whoever is `collecting` that *middleware* was built."""
    built = _collected.get()
    if built is not None:
        built.append(middleware)


_collected: Final[ContextVar[list[Any] | None]] = ContextVar("pulse_collected", default=None)
