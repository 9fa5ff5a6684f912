"""A small web application with housekeeping to do: the sessions of visitors, a report, a feed.

Its endpoints for housekeeping are ordinary pages, and `/sessions/cleanup` is answered by the
session filter. What calls them on time is the Pulse filter in front of it all, see
development.ini:

    python3 dev.py run
"""

import itertools
import time
from collections.abc import Iterable
from html import escape
from uuid import uuid4

from webob import Request, Response
from webob.dec import wsgify
from webob.exc import HTTPInternalServerError, HTTPNotFound

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Visitors</title>
<meta http-equiv="refresh" content="2"><style>body{{font:16px/1.5 sans-serif;max-width:40rem;margin:3rem auto}}</style>
</head><body><h1>Visitors</h1>
<p>You are <b>{name}</b>, and have been here {visits} times. Sessions that rest are swept by
<code>/sessions/cleanup</code>, which Pulse requests on time.</p>
<p>Stop this page from reloading for a while, come back, and you are somebody else.</p>
<p>How the tasks are doing: <a href="/_pulse/">status page</a>.</p>
</body></html>"""
PARTS = 5


class Visitors:
    """The application: `/` for people, the other paths for Pulse."""

    def __init__(self) -> None:
        self._calls = itertools.count(1)
        self._pages = {"/": self.home, "/reports/build": self.report, "/feeds/sync": self.feed}

    @wsgify
    def __call__(self, request: Request) -> Response:
        """Serve one request."""
        page = self._pages.get(request.path_info)
        if page is None:
            raise HTTPNotFound
        return page(request)

    def home(self, request: Request) -> Response:
        """Who you are, and how often you came."""
        session = request.environ["pulse.session"]
        session.setdefault("name", f"visitor {uuid4().hex[:4]}")
        session["visits"] = session.get("visits", 0) + 1
        return Response(PAGE.format(name=escape(session["name"]), visits=session["visits"]))

    def report(self, request: Request) -> Response:
        """Slow: it sends a line for each part that it has built, and tells Pulse how far it has got."""
        tell = request.environ.get("pulse.progress", lambda *_: None)

        def parts() -> Iterable[bytes]:
            for part in range(1, PARTS + 1):
                time.sleep(0.5)
                tell(part, PARTS, "building the report")
                yield f"built part {part} of {PARTS}\n".encode()

        return Response(app_iter=parts(), content_type="text/plain", headers={"X-Pulse-Result": f"{PARTS} parts"})

    def feed(self, _request: Request) -> Response:
        """Unreliable: every third time the other side is down."""
        if next(self._calls) % 3 == 0:
            raise HTTPInternalServerError("the feed does not answer")
        return Response("synced 12 entries\n", content_type="text/plain")


def app_factory(_global_conf: dict[str, str]) -> Visitors:
    """The `paste.app_factory` of development.ini."""
    return Visitors()
