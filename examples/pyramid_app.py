"""A Pyramid application with a task that is one of its views.

    python examples/pyramid_app.py [seconds]

Or under any server: `gunicorn -w 4 examples.pyramid_app:application`; an application with an ini
file names the filter there instead, and `pserve` serves it. With `pip install pyramid waitress`.
"""

import http.client
import sys
import threading
import time
from contextlib import closing

import waitress
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pulse import PulseMiddleware, internal_only


def visit(request: Request) -> Response:
    """`/`: each visitor leaves a cart."""
    request.registry["carts"].append(request.remote_addr)
    return Response("welcome\n", content_type="text/plain")


@internal_only
def sweep(request: Request) -> Response:
    """`/jobs/sweep`, which Pulse requests; it has the registry, as any view."""
    info = request.environ["pulse.info"]
    carts = request.registry["carts"]
    found = len(carts)
    carts.clear()
    print(f"sweep, due {info['due']:%H:%M:%S}, matched {request.matched_route.name}, found {found} carts")
    request.response.headers["X-Pulse-Result"] = f"swept {found} carts"
    return request.response


def build() -> PulseMiddleware:
    """The Pyramid application, with Pulse in front of it."""
    with Configurator() as config:
        config.registry["carts"] = []
        config.add_route("home", "/")
        config.add_view(visit, route_name="home")
        config.add_route("sweep", "/jobs/sweep")
        config.add_view(sweep, route_name="sweep")
        app = config.make_wsgi_app()
    return PulseMiddleware(app, task={"sweep": {"interval": 1}}, context="jobs", guard=True)


application = build()


def ask(port: int, path: str) -> str:
    """What a visitor is answered."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as visitor:
        visitor.request("GET", path)
        response = visitor.getresponse()
        return f"{response.status} {response.reason}"


def main(seconds: float = 5.0) -> None:
    """Serve it for a while, and be its first visitor."""
    server = waitress.create_server(application, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    for path in ("/", "/jobs/sweep"):
        print("a visitor of", path, "gets", ask(server.effective_port, path))
    time.sleep(seconds)
    application.close()


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
