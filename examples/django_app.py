"""Django's own `clearsessions` on time, behind ALLOWED_HOSTS and SECURE_SSL_REDIRECT.

    python examples/django_app.py [seconds]

Or under any server: `gunicorn -w 4 examples.django_app:application`; in a project these are the
lines of its `wsgi.py`. With `pip install django waitress`. To Django an internal request is one
like others: without `host` it answers 400, without `scheme` 301, and either is a failed run.
"""

import atexit
import http.client
import secrets
import shutil
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import waitress
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from pulse import PulseMiddleware, internal_only

HOST = "shop.example"
SESSIONS = Path(tempfile.mkdtemp(prefix="sessions-"))  # of this process; a project has a place for all of them
atexit.register(shutil.rmtree, SESSIONS)

settings.configure(
    ALLOWED_HOSTS=[HOST],
    SECURE_SSL_REDIRECT=True,
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    SECRET_KEY=secrets.token_hex(),
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.file",
    SESSION_FILE_PATH=SESSIONS,
    SESSION_COOKIE_AGE=1,  # second
)


def visit(request: HttpRequest) -> HttpResponse:
    """`/`: each visitor gets a session, which expires."""
    request.session["cart"] = "tea"
    return HttpResponse("welcome\n", content_type="text/plain")


@internal_only
def clear_sessions(request: HttpRequest) -> HttpResponse:
    """`/jobs/clear-sessions`, which Pulse requests."""
    before = len(list(SESSIONS.iterdir()))
    call_command("clearsessions")
    result = f"{before - len(list(SESSIONS.iterdir()))} of {before} sessions"
    due = request.environ["pulse.info"]["due"]
    print(f"clearsessions, due {due:%H:%M:%S}, over {request.scheme} for {request.get_host()}: {result}")
    return HttpResponse("cleared\n", headers={"X-Pulse-Result": result})


urlpatterns = [path("", visit), path("jobs/clear-sessions", clear_sessions)]
application = PulseMiddleware(
    get_wsgi_application(),
    task={"clear": {"action": "clear-sessions", "interval": 1}},
    context="jobs",
    guard=True,
    host=HOST,  # one of ALLOWED_HOSTS
    scheme="https",
)


def ask(port: int, page: str, host: str = HOST, scheme: str = "https") -> str:
    """What a visitor is answered, who comes through a proxy."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as visitor:
        visitor.request("GET", page, headers={"Host": host, "X-Forwarded-Proto": scheme})
        return str(visitor.getresponse().status)


def main(seconds: float = 5.0) -> None:
    """Serve it for a while, and be its first visitors."""
    server = waitress.create_server(application, host="127.0.0.1", port=0, clear_untrusted_proxy_headers=False)
    threading.Thread(target=server.run, daemon=True).start()
    port = server.effective_port
    print("visitors get", ask(port, "/"), "over https and", ask(port, "/", scheme="http"), "over http")
    print("another host gets", ask(port, "/", host="localhost"))
    print("a visitor of the task gets", ask(port, "/jobs/clear-sessions"))
    time.sleep(seconds)
    application.close()


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
