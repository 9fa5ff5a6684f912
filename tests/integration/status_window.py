"""A window over a store in memory, for the tests of what it answers."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from webob import Request

from pulse.errors import StoreUnavailableError
from pulse.model import Config, Instance, Outcome, Pause, Run, Task
from pulse.runstores.memory import MemoryRunStore
from pulse.schedule import schedule_of
from pulse.status.app import StatusApp
from pulse.status.controls import Ringing
from pulse.testing import ManualClock

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
TOKEN = "a-token-of-enough-characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BROWSER = {"Accept": "text/html"}


class FakeControls:
    """Does what the middleware does, and notes it."""

    def __init__(self, store, clock):
        self.pressed = []
        self.said = Ringing(state="ringing", reason="it serves")
        self._store = store
        self._clock = clock

    def start_run(self, name, *, force, by):
        self.pressed.append(("run", name, force, by))
        return "run-1"

    def retry(self, run, *, by):
        self.pressed.append(("retry", run.task, run.id, run.attempt, by))

    def pause(self, name, *, until, note, by):
        self.pressed.append(("pause", name, until, note, by))
        self._store.pause(name, Pause(since=self._clock.now(), until=until, note=note, by=by))

    def resume(self, name):
        self.pressed.append(("resume", name))
        return self._store.resume(name)

    def ringing(self):
        return self.said


class BrokenStore(MemoryRunStore):
    """Answers nobody."""

    def running(self):
        raise StoreUnavailableError("the store is gone")


class Window:
    """A `StatusApp` with all that it is wired to."""

    def __init__(self, tasks=None, *, store=None, config=None, **more):
        tasks = tasks if tasks is not None else {"cleanup": {"interval": "1h"}}
        self.clock = ManualClock(NOON)
        self.store = store or MemoryRunStore()
        self.controls = FakeControls(self.store, self.clock)
        self.config = Config(
            tasks={name: Task(name=name, **{"action": f"/pulse/{name}", **options}) for name, options in tasks.items()},
            **{"token": TOKEN, **(config or {})},
        )
        self.app = StatusApp(
            self.config,
            **{"path": "/_pulse", **more},
            schedules={name: schedule_of(task) for name, task in self.config.tasks.items()},
            store=self.store,
            controls=self.controls,
            clock=self.clock,
        )

    def ask(self, path, method="GET", *, headers=None, form=None, json=None, remote="192.0.2.1", script=""):
        """The answer to a request below the mount."""
        request = Request.blank(f"{self.app.path}{path}", method=method, headers=headers or {})
        request.environ["REMOTE_ADDR"] = remote
        request.environ["SCRIPT_NAME"] = script
        if form is not None:
            request.body = urlencode(form).encode()
            request.content_type = "application/x-www-form-urlencoded"
        if json is not None:
            request.json = json
        return request.get_response(self.app)

    def see(self, path="/", **more):
        """A page, as somebody with the token sees it."""
        return self.ask(path, headers={**BEARER, **BROWSER}, **more)

    def log_in(self, name="mara", **more):
        """A browser that is logged in: its cookie and the proof in its forms."""
        answer = self.ask("/login", "POST", form={"token": TOKEN, "name": name}, **more)
        assert answer.status_code == 303, answer.text
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        page = self.ask("/", headers={"Cookie": cookie, **BROWSER})
        proof = re.search(r'name="proof" value="([0-9a-f]+)"', page.text)
        return {"Cookie": cookie, **BROWSER}, proof[1] if proof else ""

    def ring(self, **more):
        """Have a process ring."""
        digest = self.app._survey.digest
        started = NOON - timedelta(days=1)
        said = {"owner": "web1:4711/1.x", "started": started, "seen": self.clock.now(), "digest": digest, **more}
        self.store.beat(Instance(**said), {}, timedelta(seconds=30))

    def record(self, task="cleanup", due=NOON, outcome=Outcome.SUCCESS, **more):
        """Have a run be recorded."""
        run = {
            "id": "run-0", "task": task, "due": due, "started": due, "finished": due + timedelta(seconds=1),
            "outcome": outcome, "status": 200, "duration": 0.4, "owner": "web1:4711/1.x",
        }  # fmt: skip
        self.store._append(Run(**{**run, **more}))
