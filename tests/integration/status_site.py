"""The window in front of a small site, wired as the middleware wires it."""

import threading
from contextlib import contextmanager
from uuid import uuid4

from waitress.server import create_server

from pulse import PulseMiddleware, Task
from pulse.instance import this_place
from pulse.model import Fire, Trigger
from pulse.schedule import schedule_of
from pulse.status.app import StatusApp
from pulse.status.controls import Ringing

TOKEN = "a-token-of-enough-characters"
NASTY = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


class MiddlewareControls:
    """`pulse.status.controls.Controls` over a middleware."""

    def __init__(self, middleware: PulseMiddleware) -> None:
        self._middleware = middleware

    def start_run(self, name, *, force, by):
        own = self._middleware
        own._must_know(name)
        place = this_place(own.config.tasks[name].scope)
        now = own._clock.now()
        fire = Fire(task=name, due=now, trigger=Trigger.MANUAL, run_id=uuid4().hex, place=place, is_forced=force)
        if own._engine is not None:
            own._engine.workers.run_apart(fire)
        else:
            threading.Thread(target=own.run_now, args=(name,), kwargs={"force": force}, daemon=True).start()
        return fire.run_id

    def retry(self, run, *, by):
        own = self._middleware
        fire = own._fire_by_hand(run.task, again=run)
        if own._engine is not None:
            own._engine.workers.run_apart(fire)
        else:
            threading.Thread(target=own._run_alone, args=(fire,), daemon=True).start()

    def pause(self, name, *, until, note, by):
        self._middleware.pause(name, until=until, note=note, by=by)

    def resume(self, name):
        return self._middleware.resume(name)

    def ringing(self):
        engine = self._middleware._engine
        if engine is None:
            return Ringing(state="silent", reason="it was not started")
        return Ringing(
            state="ringing",
            reason="it serves",
            busy=engine.workers.busy,
            abandoned=engine.workers.abandoned,
            next_ring=engine.scheduler.next_ring(),
        )


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
        controls=MiddlewareControls(middleware),
        **more,
    )
