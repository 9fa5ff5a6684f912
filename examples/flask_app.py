"""A Flask application with a task that is one of its own views, within its stack and its context.

    python examples/flask_app.py [seconds]

Or under any server: `gunicorn -w 4 examples.flask_app:app`. With `pip install flask waitress`.
`app` stays the Flask application, since what is wrapped is its `wsgi_app`: `flask --app` and the
test client see it as before. What `TRUSTED_HOSTS` does not name gets 400, Pulse as well as others:
`host` is one that it names.
"""

import http.client
import sys
import threading
import time
from contextlib import closing
from itertools import count

import waitress
from flask import Flask, current_app, g, request

from pulse import PulseMiddleware, internal_only

HOST = "shop.example"

app = Flask(__name__)
app.config["TRUSTED_HOSTS"] = [HOST]
carts: list[str] = []
requests = count(1)


@app.before_request
def number() -> None:
    """Whatever surrounds a view surrounds a task, too: log-in, connections, transactions."""
    g.number = next(requests)


@app.get("/")
def visit() -> str:
    """Each visitor leaves a cart."""
    carts.append(request.remote_addr or "")
    return "welcome\n"


@app.get("/jobs/sweep")
@internal_only
def sweep() -> tuple[str, dict[str, str]]:
    """Pulse requests this; `internal_only` stands below the route, next to the view."""
    info = request.environ["pulse.info"]
    found = len(carts)
    carts.clear()
    print(f"sweep, due {info['due']:%H:%M:%S}, request {g.number} of {current_app.name}, found {found} carts")
    return "swept\n", {"X-Pulse-Result": f"swept {found} carts"}


pulse = PulseMiddleware(app.wsgi_app, task={"sweep": {"interval": 1}}, context="jobs", guard=True, host=HOST)
app.wsgi_app = pulse  # type: ignore[method-assign]


def ask(port: int, path: str, host: str = HOST) -> str:
    """What a visitor is answered."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as visitor:
        visitor.request("GET", path, headers={"Host": host})
        response = visitor.getresponse()
        return f"{response.status} {response.reason}"


def main(seconds: float = 5.0) -> None:
    """Serve it for a while, and be its first visitor."""
    server = waitress.create_server(app, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    pulse.start()
    for path in ("/", "/jobs/sweep"):
        print("a visitor of", path, "gets", ask(server.effective_port, path))
    print("a visitor of another host gets", ask(server.effective_port, "/", "localhost"))
    time.sleep(seconds)
    pulse.close()


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
