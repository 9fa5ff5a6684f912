"""A page that shows your own session, and how it is swept when you leave it alone.

    pulse serve examples/my_session/my_session.ini

Open http://127.0.0.1:8082/, press the button a few times, then wait: the session rests, it
expires after 20 seconds, and the next run of `/sessions/cleanup` removes it. Nobody but
Pulse can request that path; the session filter answers it.
"""

from collections.abc import Callable, Iterable, MutableMapping
from html import escape
from typing import Any

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>My session</title>
<style>body{{font:16px/1.5 sans-serif;max-width:40rem;margin:3rem auto}}td{{padding-right:2rem}}</style>
</head><body><h1>My session</h1>
<p>{state}</p>
<table>{rows}</table>
<form method="post" action="/"><button>Count</button></form>
<form method="post" action="/end"><button>End it</button></form>
<p>Reload this page after 20 seconds of rest: Pulse requests <code>/sessions/cleanup</code> every 5 seconds,
and the log says how many sessions were removed.</p>
</body></html>
"""


def site(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """One page and two buttons."""
    session = environ["pulse.session"]
    if environ["REQUEST_METHOD"] == "POST":
        change(session, environ["PATH_INFO"])
        start_response("303 See Other", [("Location", "/")])
        return [b""]
    body = page(session).encode()
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def change(session: MutableMapping[str, Any], path: str) -> None:
    """What the buttons do."""
    if path == "/end":
        session.clear()
    else:
        session["count"] = session.get("count", 0) + 1


def page(session: MutableMapping[str, Any]) -> str:
    """The session as a table."""
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(repr(value))}</td></tr>" for key, value in session.items()
    )
    state = "This is what is kept about you:" if rows else "You have no session: there was none, or it was swept."
    return PAGE.format(state=state, rows=rows)


def app_factory(_global_conf: dict[str, str]) -> Callable[..., Iterable[bytes]]:
    """The `paste.app_factory` of my_session.ini."""
    return site
