"""`StatusApp`: the window as a WSGI application, mounted by the middleware at `pulse.config.status`.

Its addresses, below the mount:

    /                            tasks, with the last and the next hour
    /tasks/<name>                one task; /tasks/<name>/runs/<id> one of its runs
    /runs /workers /configuration /audit
    /tasks/<name>/run            POST from a form; and retry, cancel, pause, resume, clear
    /login /logout
    /api/...                     the same for programs: `pulse.status.api`
    /metrics                     for Prometheus, with the token
    /health /live                for everybody: words and numbers, no names

It is never open by accident: without a token, without a code for one login (`pulse.status.login`)
and without a callable of the user's that knows who asks, all but the last two is the 404 with
which the guard answers outsiders.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, unquote, urlencode

from webob import Request, Response

from pulse import __version__
from pulse.clock import Clock, SystemClock
from pulse.errors import ClosedError, StoreUnavailableError, UnknownRunError
from pulse.gateway import Environ, StartResponse
from pulse.mark import not_found
from pulse.model import Config
from pulse.runstores.base import RunStore
from pulse.schedule import Schedule
from pulse.status.access import Access, Authenticate, Token, Visitor, is_same_origin
from pulse.status.action import ACTIONS, Actions
from pulse.status.api import Api, answer, fault
from pulse.status.controls import Controls
from pulse.status.form import RefusedError, form_of, json_of
from pulse.status.health import STORE_UNAVAILABLE, Health, health_of
from pulse.status.login import code_key
from pulse.status.page import Frame, Printer
from pulse.status.pages import Pages
from pulse.status.recent import Recent
from pulse.status.survey import Survey

SECRET_SECONDS: Final = 60.0  # for which a secret of the store is kept
AWAY_SECONDS: Final = 1.0  # until a store that did not answer is asked for it again
HEALTH_SECONDS: Final = 1.0  # for which an answer is kept: strangers may ask as often as they like
STALE_SECONDS: Final = 5.0  # for which it will do while another thread waits for a new one
SURVEY_SECONDS: Final = 1.0  # that health and metrics take to look at all tasks
MENU: Final = {
    "": "Tasks", "tasks": "Tasks", "runs": "Runs", "workers": "Workers", "configuration": "Configuration",
    "audit": "Audit",
}  # fmt: skip
SAID: Final = {
    "run": "was started", "retry": "is tried again", "cancel": "was asked to stop", "pause": "is paused",
    "resume": "runs by its schedule again", "clear": "has no history any more",
}  # fmt: skip
NO_STORE: Final = "The run store does not answer; nothing runs until it does."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Call:
    """One request of a visitor: its address below the mount, and who asks."""

    request: Request
    base: str
    names: tuple[str, ...]
    visitor: Visitor

    @property
    def section(self) -> str:
        return self.names[0] if self.names else ""


class _Secret:
    """The secret that the store has made for the application; None until it is known."""

    def __init__(self, store: RunStore, clock: Clock) -> None:
        self._store = store
        self._known: str | None = None
        self._recent = Recent(self._ask, clock, stale=math.inf)

    def __call__(self) -> str | None:
        return self._recent.get()

    def _ask(self) -> tuple[str | None, float]:
        # A store that lost its memory has another one: a process must not go on with the first for ever.
        try:
            self._known = self._store.secret()
        except StoreUnavailableError:  # who was known still is; to all others this is no address
            return self._known, AWAY_SECONDS
        return self._known, SECRET_SECONDS


class StatusApp:
    """Serves the window of one filter; safe to use from any thread. After a fork a new one is needed."""

    def __init__(
        self,
        config: Config,
        *,
        path: str,
        schedules: Mapping[str, Schedule],
        store: RunStore,
        controls: Controls,
        clock: Clock | None = None,
        token: Token | None = None,
        authenticate: Authenticate | None = None,
        is_readonly: bool = False,
    ) -> None:
        """Wire it; nothing is read from the store before the first request.

        Args:
            config: Of the filter, with its tasks.
            path: Where it is mounted, below where the filter is: `/_pulse`.
            schedules: Of all tasks, by name.
            store: Where the runs are kept.
            controls: What its buttons do.
            clock: For tests: `pulse.testing.ManualClock`.
            token: Gives the token of the moment; by default that of *config*, or a secret that
                the store keeps, which nobody knows: it signs the codes of `pulse login-code`.
            authenticate: Given an environ, the name of the user who asks, None for a
                stranger; beside the token or instead of it.
            is_readonly: There are no buttons, and nothing can be pressed.
        """
        self.path = "/" + path.strip("/")
        self._prefix = self.path.rstrip("/") + "/"
        self._config = config
        self._controls = controls
        self._clock = clock or SystemClock()
        self._is_readonly = is_readonly
        secret = _Secret(store, self._clock)
        self._access = Access(
            token or (lambda: config.token or secret()),
            authenticate,
            self._clock,
            has_form=bool(token or config.token),
            code_key=lambda: code_key(config.token, known) if (known := secret()) else None,
            spend=store.spend,
        )
        self._survey = Survey(config, schedules, store, self._clock, lambda: controls.ringing().digest)
        self._actions = Actions(config, store, controls, self._clock)
        self._printer = Printer()
        self._pages = Pages(self._survey, controls, self._printer)
        self._api = Api(self._survey)
        self._health = Recent(self._find_health, self._clock, stale=STALE_SECONDS)

    def answers(self, environ: Environ) -> bool:
        """Whether the request is for the window; costs a comparison."""
        path: str = environ.get("PATH_INFO", "")
        return path == self.path or path.startswith(self._prefix)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request for which `answers` is true (PEP 3333)."""
        request = Request(environ)
        response = self._answer(request)
        if response is None:
            return not_found(environ, start_response)
        # Not WebOb's own way, which makes addresses absolute: behind a proxy that ends TLS it takes
        # the wrong scheme.
        start_response(response.status, response.headerlist)
        return [] if request.method == "HEAD" or response.status_code == 304 else [response.body]

    def _answer(self, request: Request) -> Response | None:
        """None for what strangers, and people who are lost, are told."""
        try:
            path, _ = request.path_info, request.GET
        except UnicodeDecodeError:  # what is no UTF-8 is no address of ours
            return None
        names = tuple(path.removeprefix(self.path.rstrip("/")).removeprefix("/").split("/"))
        names = () if names == ("",) else names
        base = _mount(request) + self.path.rstrip("/")
        if names in (("health",), ("live",)) and request.method in ("GET", "HEAD"):
            return answer({"status": "ok"}) if names == ("live",) else self._answer_health(request)
        if names == ("login",) and request.method == "POST" and self._access.has_login:
            return self._log_in(request, base)  # also of somebody whom another form has logged in meanwhile
        visitor = self._access.visitor(request)
        if visitor is None:
            return self._answer_stranger(request, base, names)
        if not names and not path.endswith("/"):
            return _see_other(f"{base}/")
        call = _Call(request, base, names, visitor)
        response = self._answer_visitor(call)
        if visitor.is_renewed and "Set-Cookie" not in response.headers:  # or it would undo a log-out
            self._access.give_cookie(response, request, visitor, base)
        return response

    # Strangers

    def _answer_stranger(self, request: Request, base: str, names: tuple[str, ...]) -> Response | None:
        """The form for the token where a browser wants a page, if there is a token; else nothing."""
        if names == ("login",) and request.method == "GET" and "code" in request.GET:
            return self._log_in_once(request, base)
        if not self._access.has_login or request.method not in ("GET", "HEAD"):
            return None
        if names == ("login",):
            return self._printer.login(base, _below(request.GET.get("back", "")))
        wants_page = "text/html" in request.headers.get("Accept", "") and "part" not in request.GET
        if not wants_page or (names and names[0] not in MENU):
            return None
        back = quote("/".join(names)) + (f"?{request.query_string}" if request.query_string else "")
        return _see_other(f"{base}/login?{urlencode({'back': back})}" if back else f"{base}/login")

    def _log_in_once(self, request: Request, base: str) -> Response | None:
        if not self._access.may_try(request):
            return None
        try:
            visitor = self._access.log_in_once(request, request.GET["code"])
        except StoreUnavailableError:  # nobody can tell whether it was spent
            visitor = None
        if visitor is None:
            return None
        response = _see_other(f"{base}/")
        self._access.give_cookie(response, request, visitor, base)
        return response

    def _log_in(self, request: Request, base: str) -> Response:
        if not is_same_origin(request):
            return self._printer.login(base, "", problem="Log in with the form of this site.", status=403)
        if not self._access.may_try(request):
            problem = "There were too many wrong tokens. Try again in a minute."
            response = self._printer.login(base, "", problem=problem, status=429)
            response.headers["Retry-After"] = "60"
            return response
        try:
            said = form_of(request)
        except RefusedError as refusal:
            return self._printer.login(base, "", problem=refusal.problem, status=refusal.status)
        back = _below(said.get("back", ""))
        visitor = self._access.log_in(request, said.get("token", ""), said.get("name", ""))
        if visitor is None:
            return self._printer.login(base, back, problem="That is not the token.", status=403)
        response = _see_other(f"{base}/{back}")
        self._access.give_cookie(response, request, visitor, base)
        return response

    # Visitors

    def _answer_visitor(self, call: _Call) -> Response:
        is_program = call.section in ("api", "metrics")
        try:
            return self._served(call)
        except RefusedError as refusal:
            status, problem = refusal.status, refusal.problem
        except StoreUnavailableError as error:
            log.warning("%s", error, extra={"pulse_event": "status_without_store"})
            status, problem = 503, NO_STORE
        except ClosedError as error:
            status, problem = 503, f"This process starts nothing now ({error}): try again."
        response = fault(status, problem) if is_program else self._problem(call, status, problem)
        if status == 405:
            response.headers["Allow"] = "GET, HEAD, POST"
        return response

    def _served(self, call: _Call) -> Response:
        request, names = call.request, call.names
        if request.method == "POST":
            return self._post(call)
        if request.method not in ("GET", "HEAD"):
            raise RefusedError(405, "want GET or POST")
        match names:
            case ["api", *rest]:
                return self._api_get(call, [name for name in rest if name])
            case ["metrics"]:
                return self._metrics(request)
            case ["login"]:
                return _see_other(f"{call.base}/")
        response = self._page(call)
        if response is None:
            raise RefusedError(404, "There is no such page, or what it showed is not kept any more.")
        return response

    def _page(self, call: _Call) -> Response | None:
        request, frame, pages = call.request, self._frame(call), self._pages
        match call.names:
            case []:
                return pages.tasks(request, frame)
            case ["runs" | "workers" | "configuration" | "audit" as name]:
                page: Response = getattr(pages, name)(request, frame)
                return page
            case ["tasks", name] if name in self._config.tasks:
                return pages.task(request, frame, self._config.tasks[name])
            case ["tasks", name, "runs", run_id] if name in self._config.tasks:
                return pages.run(request, frame, self._config.tasks[name], run_id)
        return None

    def _frame(self, call: _Call) -> Frame:
        said = {name: value for name, value in call.request.GET.items() if name not in ("part", "did", "of")}
        did, task = call.request.GET.get("did", ""), call.request.GET.get("of", "")
        is_said = did in SAID and task in self._config.tasks
        return Frame(
            base=call.base,
            here=quote("/".join(call.names)) + (f"?{urlencode(said)}" if said else ""),
            now=self._clock.now(),
            place=self._pages.place(),
            zone=self._config.timezone,
            version=__version__,
            visitor=call.visitor,
            proof_token=self._access.form_token(call.visitor),
            section=MENU.get(call.section, ""),
            said=f"{task} {SAID[did]}." if is_said else "",
            is_live=call.request.GET.get("part") == "live",
            is_polled=call.section != "configuration",
            is_readonly=self._is_readonly,
        )

    def _problem(self, call: _Call, status: int, problem: str) -> Response:
        title = {403: "Refused", 404: "Not found", 503: "Not now"}.get(status, "That did not work")
        # What was pressed has an address that nobody can get: the script would press once more by loading it.
        is_polled = status == 503 and call.request.method == "GET"
        frame = replace(self._frame(call), is_polled=is_polled)
        return self._printer.page(call.request, "problem.html", frame, status=status, title=title, problem=problem)

    # What they press

    def _post(self, call: _Call) -> Response:
        match call.names:
            case ["logout"]:
                return self._log_out(call)
            case ["tasks", task, action]:
                said = form_of(call.request)
                self._press(call, task, action, lambda: said, said.get("proof", ""))
                back = _below(said.get("back", ""))
                words = urlencode({"did": action, "of": task})
                return _see_other(f"{call.base}/{back}{'&' if '?' in back else '?'}{words}")
            case ["api", "tasks", task, action]:
                proof = call.request.headers.get("X-Status-Proof", "")
                done = self._press(call, task, action, lambda: _understood(action, json_of(call.request)), proof)
                return answer(done, 202 if action in ("run", "retry") else 200)
        raise RefusedError(404, "There is nothing to press at this address.")

    def _press(
        self,
        call: _Call,
        task: str,
        action: str,
        read: Callable[[], dict[str, str]],
        proof: str,
    ) -> dict[str, object]:
        if action not in ACTIONS or task not in self._config.tasks:
            raise RefusedError(404, f"There is no task {task!r}, or nothing that is called {action!r}.")
        self._must_mean_it(call, proof)
        if self._is_readonly:
            raise RefusedError(403, "This status page is for reading only (pulse.config.status_readonly).")
        said, address = read(), call.request.remote_addr or ""
        try:
            return self._actions.press(action, task, said, by=call.visitor.name, address=address)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        except UnknownRunError as error:
            raise RefusedError(404, str(error)) from None

    def _must_mean_it(self, call: _Call, proof: str) -> None:
        if not self._access.may_press(call.request, call.visitor, proof):
            log.warning("refused a request that another site may have made", extra={"pulse_event": "press_refused"})
            raise RefusedError(403, "This did not come from a page of yours: load the page again, then press.")

    def _log_out(self, call: _Call) -> Response:
        self._must_mean_it(call, form_of(call.request).get("proof", ""))
        response = _see_other(f"{call.base}/login" if self._access.has_login else f"{call.base}/")
        self._access.take_cookie(response, call.request, call.base)
        return response

    # Programs

    def _api_get(self, call: _Call, names: list[str]) -> Response:
        return self._api.read(call.request, names) if names else self._api.index(self._access.form_token(call.visitor))

    def _metrics(self, request: Request) -> Response:
        try:
            # An extra: who does not ask for metrics does not need it.
            from pulse.status.metrics import exposition  # noqa: PLC0415
        except ImportError:
            raise RefusedError(501, "metrics need the extra pulse[metrics]: pip install 'pulse[metrics]'") from None
        moment = self._survey.moment()
        self._survey.refresh(moment, SURVEY_SECONDS)
        accept = request.headers.get("Accept", "")
        text, content_type = exposition(self._survey, moment, accept)
        response = Response(text)
        response.headers["Content-Type"] = content_type
        response.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
        return response

    def _answer_health(self, request: Request) -> Response:
        health = self._health.get()
        is_detailed = self._access.visitor(request) is not None
        return answer(health.document(is_detailed=is_detailed), health.status)

    def _find_health(self) -> tuple[Health, float]:
        try:
            moment = self._survey.moment()
            self._survey.refresh(moment, SURVEY_SECONDS)
            return health_of(self._survey, moment, self._controls.ringing()), HEALTH_SECONDS
        except StoreUnavailableError:
            return STORE_UNAVAILABLE, HEALTH_SECONDS


def _see_other(address: str) -> Response:
    response = Response(status=303, content_type="text/plain", location=address)
    response.headers["Cache-Control"] = "no-store"
    return response


def _mount(request: Request) -> str:
    """Where the application is mounted, for addresses: one slash at its beginning, since two name another site."""
    script = quote(request.environ.get("SCRIPT_NAME", ""), safe="/").strip("/")
    return f"/{script}" if script else ""


def _below(back: str) -> str:
    """*back*, if it is an address below the mount; else that of the first page."""
    # A browser takes what begins with two slashes, of either kind, for another site, and drops
    # line breaks before it looks.
    is_plain = back.isascii() and back.isprintable() and not back.startswith("/") and "\\" not in back
    path = back.partition("?")[0]
    # `%2e%2e` climbs out of the mount, too, and what it climbs to may lead to another site.
    climbs = any(part in (".", "..") for part in unquote(path).split("/"))
    return back if is_plain and ":" not in path and not climbs else ""


def _understood(action: str, said: dict[str, str]) -> dict[str, str]:
    """*said*, if all of it is for *action*: a pause for an hour that was misspelt would last for ever."""
    for name in said:
        if name not in ACTIONS[action]:
            raise RefusedError(400, f"{name!r}: want {' or '.join([*ACTIONS[action], 'nothing'])}")
    return said
