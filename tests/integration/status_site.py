"""The window in front of a small site, wired as the middleware wires it."""

import threading
from contextlib import contextmanager

from waitress.server import create_server

from pulse import Task
from pulse.schedule import schedule_of
from pulse.status.app import StatusApp

TOKEN = "a-token-of-enough-characters"
NASTY = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


class Site:
    """The wrapped application: pages that succeed, fail and misbehave."""

    def __init__(self):
        self.release = threading.Event()

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path.endswith("/slow"):
            self.release.wait(30)
        if path.endswith("/broken"):
            environ["wsgi.errors"].write(f"bad feed {NASTY}\n")
            start_response("500 Internal Server Error", [("Content-Type", "text/html")])
            return [f"<h1>broken</h1>{NASTY}".encode()]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"swept 3 sessions"]


TASKS = {
    "cleanup": Task(interval="1h", description="Forgets the sessions that have ended"),
    "broken": Task(interval="1h", description=NASTY),
    "slow": Task(cron="30 2 * * *", timezone="Europe/Berlin", timeout="60s"),
    "feed": Task(
        cron="@manually", headers={"X-Api-Key": "s3cr3t-of-the-feed"}, description="Fetched when somebody asks"
    ),
}


def in_front(status, app):
    """*status* mounted in front of *app*, as the middleware does it."""

    def application(environ, start_response):
        return (status if status.answers(environ) else app)(environ, start_response)

    return application


@contextmanager
def served(application):
    """The address at which *application* is served by threads of this process."""
    server = create_server(application, host="127.0.0.1", port=0, threads=4, clear_untrusted_proxy_headers=True)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        server.close()
        server.task_dispatcher.shutdown()
        thread.join(10)


def window(middleware, *, path="/_pulse", **more):
    config = middleware.config
    return StatusApp(
        config,
        path=path,
        schedules={name: schedule_of(task) for name, task in config.tasks.items()},
        store=middleware.run_store,
        controls=middleware._hand,
        **more,
    )
