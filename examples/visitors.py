"""A small web application with housekeeping to do: visitors, their sessions, a report, a feed.

Its endpoints for housekeeping are ordinary pages. What calls them on time is the Pulse
filter in front of it, see development.ini:

    python3 dev.py run
"""

import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from uuid import uuid4

from webob import Request, Response
from webob.dec import wsgify
from webob.exc import HTTPInternalServerError, HTTPNotFound

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Visitors</title>
<meta http-equiv="refresh" content="2"><style>body{{font:16px/1.5 sans-serif;max-width:40rem;margin:3rem auto}}</style>
</head><body><h1>Visitors</h1>
<p>You are <b>{name}</b>, and have been here {visits} times. Sessions that rest for {rest:g} s are swept by
<code>/sessions/cleanup</code>, which Pulse requests on time.</p>
<p>{alive} sessions are alive, {swept} were swept so far.</p>
<p>Stop this page from reloading for a while, come back, and you are somebody else.</p>
</body></html>"""


@dataclass
class Session:
    """What is remembered of one visitor."""

    name: str
    seen: float
    visits: int = 0


@dataclass
class Sessions:
    """The visitors of this process, in a plain dict; safe to use from any thread."""

    rest: float  # seconds without a visit after which a session may be swept
    swept: int = 0
    _sessions: dict[str, Session] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def visit(self, sid: str | None) -> tuple[str, Session]:
        """The session of *sid*, or a new one under a new id."""
        with self._lock:
            if sid not in self._sessions:
                sid = uuid4().hex
                self._sessions[sid] = Session(name=f"visitor {sid[:4]}", seen=0)
            session = self._sessions[sid]
            session.visits += 1
            session.seen = time.monotonic()
            return sid, session

    def sweep(self) -> tuple[int, int]:
        """Remove the sessions that rest; how many were removed, and how many are left."""
        with self._lock:
            oldest = time.monotonic() - self.rest
            resting = [sid for sid, session in self._sessions.items() if session.seen < oldest]
            for sid in resting:
                del self._sessions[sid]
            self.swept += len(resting)
            return len(resting), len(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)


class Visitors:
    """The application: `/` for people, the other paths for Pulse."""

    def __init__(self, rest: float = 20.0) -> None:
        """*rest*: seconds without a visit after which a session may be swept."""
        self.sessions = Sessions(rest)
        self._calls = itertools.count(1)
        self._pages = {
            "/": self.home,
            "/sessions/cleanup": self.cleanup,
            "/reports/build": self.report,
            "/feeds/sync": self.feed,
        }

    @wsgify
    def __call__(self, request: Request) -> Response:
        """Serve one request."""
        page = self._pages.get(request.path_info)
        if page is None:
            raise HTTPNotFound
        return page(request)

    def home(self, request: Request) -> Response:
        """Who you are, and how often you came."""
        sid, session = self.sessions.visit(request.cookies.get("visitor"))
        page = PAGE.format(
            name=escape(session.name),
            visits=session.visits,
            rest=self.sessions.rest,
            alive=len(self.sessions),
            swept=self.sessions.swept,
        )
        response = Response(page)
        response.set_cookie("visitor", sid, httponly=True, samesite="Lax")
        return response

    def cleanup(self, _request: Request) -> Response:
        """The canonical task: remove what expired, and say how much."""
        removed, left = self.sessions.sweep()
        return Response(f"removed {removed} sessions, {left} are left\n", content_type="text/plain")

    def report(self, _request: Request) -> Response:
        """Slow: it sends a line for each part that it has built."""

        def parts() -> Iterable[bytes]:
            for part in range(1, 6):
                time.sleep(0.5)
                yield f"built part {part} of 5\n".encode()

        return Response(app_iter=parts(), content_type="text/plain")

    def feed(self, _request: Request) -> Response:
        """Unreliable: every third time the other side is down."""
        if next(self._calls) % 3 == 0:
            raise HTTPInternalServerError("the feed does not answer")
        return Response("synced 12 entries\n", content_type="text/plain")


def app_factory(_global_conf: dict[str, str], rest: str = "20") -> Visitors:
    """The `paste.app_factory` of development.ini; *rest* is in seconds."""
    return Visitors(float(rest))
