"""Who tells of forks, and of gevent, which takes a process over: `os.fork`, uWSGI, gevent itself.

None of their hooks can be taken back, so there is one of each, for all who want to be told.
"""

import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Protocol
from weakref import WeakSet

from pulse.probes import forks_a_helper


class Told(Protocol):
    """Who wants to be told, for as long as somebody holds it."""

    def before_fork(self) -> None:
        """This process is about to fork others that serve."""

    def after_fork_in_child(self, *, is_helper: bool) -> None:
        """This process was forked, maybe as the application's helper."""

    def after_uwsgi_fork(self) -> None:
        """This process was made by uWSGI."""

    def before_patch(self) -> None:
        """From the next moment on threads and locks are those of gevent."""

    def after_patch(self) -> None:
        """They are."""


_told: Final[WeakSet[Told]] = WeakSet()


# `os.fork`


def heed_forks(who: Told) -> None:
    """Tell *who* of the forks of this process, and of gevent if that is heeded."""
    _told.add(who)


_fork: Final = threading.local()  # what the hooks of one fork know


def _before_fork() -> None:
    _fork.is_helper = forks_a_helper()
    if not _fork.is_helper:
        for one in list(_told):
            one.before_fork()


def _after_fork_in_child() -> None:
    for one in list(_told):
        one.after_fork_in_child(is_helper=getattr(_fork, "is_helper", False))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


# uWSGI forks in C, and tells only its own hook.


def heed_uwsgi(uwsgi: Any, who: Told) -> None:
    """Tell *who* of the processes that *uwsgi* makes; what its hook called before is called on."""
    hook = getattr(uwsgi, "post_fork_hook", None)
    if not isinstance(hook, _PostForkHook):
        hook = uwsgi.post_fork_hook = _PostForkHook(hook)
    hook.told.add(who)


class _PostForkHook:
    """What uWSGI calls in each process that it makes, and in its only one if there is no master."""

    def __init__(self, previous: Callable[[], object] | None) -> None:
        self.told: WeakSet[Told] = WeakSet()
        self._previous = previous

    def __call__(self) -> None:
        try:
            if self._previous is not None:
                self._previous()
        finally:
            for one in list(self.told):
                one.after_uwsgi_fork()


# gevent may take over a process that has begun already: gunicorn's worker is forked, and then
# patched. A thread that is older than that finds the new locks foreign, and whatever it starts
# then is never run.


def heed_gevent() -> None:
    """Have gevent, if it is there, say when it takes this process over; idempotent."""
    if "gevent" in sys.modules:
        subscribers = import_module("gevent.events").subscribers
        if _on_gevent not in subscribers:
            subscribers.append(_on_gevent)


def _on_gevent(event: object) -> None:
    happening = type(event).__name__
    for one in list(_told):
        if happening == "GeventWillPatchAllEvent":
            one.before_patch()
        elif happening == "GeventDidPatchAllEvent":
            one.after_patch()
