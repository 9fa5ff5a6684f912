"""Sessions in a bareASGI application, kept in memory, and what a browser sees of them.

Run it with `python examples/sessions_asgi.py`, and open http://127.0.0.1:8081/ twice. With
`pip install bareASGI uvicorn`; but for the second import below, it is the sample of bareASGI-session.
"""

import sys
from datetime import datetime

import uvicorn
from bareasgi import Application, HttpRequest, HttpResponse
from bareutils import text_writer

from pulse.sessions import MemorySessionStorage, add_session_middleware, session_data


async def session_handler(request: HttpRequest) -> HttpResponse:
    """Says when you were here last."""
    session = session_data(request)
    now = session.get("now")
    message = f"The time was {now}" if now else "First time"
    session["now"] = datetime.now()  # noqa: DTZ005 - as the sample has it
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(message)).encode("ascii"))]
    return HttpResponse(200, headers, text_writer(message))


app = Application()
add_session_middleware(app, MemorySessionStorage(ttl=3600))
app.http_router.add({"GET"}, "/", session_handler)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8081)
