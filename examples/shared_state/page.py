"""A live page: a plain ASGI application whose viewers see a counter that another process moves.

Each viewer is a server-sent event stream that subscribes to the channel of the widget; it
does not matter which worker serves it. See __main__.py for how to run it.
"""

import asyncio
from http.cookies import SimpleCookie
from typing import Any

from pulse.state import get_event_bus, get_server_state, get_session_store

WIDGET = "counter"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Counter</title></head>
<body><h1>Counter</h1><p id="live">...</p>
<form method="post" action="/press"><button>Back to 0</button> (editors only)</form>
<form method="post" action="/login/viewer"><button>Be a viewer</button></form>
<form method="post" action="/login/editor"><button>Be an editor</button></form>
<script>
new EventSource("/events").onmessage = event => document.getElementById("live").textContent = event.data
</script></body></html>"""


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The page, its events, a button, and a door where everybody may say who they are: it is an example."""
    if scope["type"] != "http":
        return
    match scope["method"], scope["path"]:
        case "GET", "/":
            await answer(send, 200, PAGE, ("content-type", "text/html; charset=utf-8"))
        case "GET", "/events":
            await stream(receive, send)
        case "POST", "/press":
            await press(scope, send)
        case "POST", "/login/viewer" | "/login/editor":
            await login(send, scope["path"].rpartition("/")[2])
        case _:
            await answer(send, 404, "not found")


async def login(send: Any, role: str) -> None:
    """Begin a user session with one role."""
    session_id = await get_server_state().create_session("guest", [role])
    # Strict: no other site can press the button for its visitors.
    cookie = f"session={session_id}; HttpOnly; SameSite=Strict; Path=/"
    await answer(send, 303, "", ("location", "/"), ("set-cookie", cookie))


async def press(scope: dict[str, Any], send: Any) -> None:
    """Set the counter back, for who may write the widget; whichever worker is asked."""
    given = SimpleCookie(dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")).get("session")
    may = given and await get_session_store().check_permission(given.value, "widget", WIDGET, "write")
    if not may:
        await answer(send, 403, "only editors may press this button")
        return
    await show(0)
    await answer(send, 303, "", ("location", "/"))


async def show(number: int) -> None:
    """Move the counter, for all viewers at all workers."""
    state = get_server_state()
    if not await state.update_widget_html(WIDGET, str(number)):
        await state.register_widget(WIDGET, str(number), metadata={"title": "Counter"})
    await state.broadcast_event(WIDGET, "change", {"html": str(number)})


async def stream(receive: Any, send: Any) -> None:
    """Server-sent events until the viewer goes away."""
    # Subscribed first: what changes while the page is read is not lost.
    events = get_event_bus().subscribe(f"widget:{WIDGET}")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await tell(send, await get_server_state().get_widget_html(WIDGET) or "nothing yet")
    watching = asyncio.create_task(pass_on(events, send))
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        watching.cancel()


async def pass_on(events: Any, send: Any) -> None:
    """Tell one viewer what happens."""
    async for event in events:
        await tell(send, event.data["html"])


async def tell(send: Any, text: str) -> None:
    """One server-sent event."""
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})


async def answer(send: Any, status: int, text: str, *headers: tuple[str, str]) -> None:
    """A whole response."""
    body = text.encode()
    raw = [(name.encode(), value.encode()) for name, value in headers]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*raw, length]})
    await send({"type": "http.response.body", "body": body})
