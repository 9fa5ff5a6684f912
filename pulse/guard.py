"""The guard: the first line of defence, before the wrapped application; it judges paths.

Requests from outside to the paths of tasks are refused, however they are spelt
(`pulse.spelling`). The second line is `pulse.mark.internal_only`, at the endpoint.
"""

import hmac
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from pulse.clock import Clock, SystemClock
from pulse.gateway import Environ, StartResponse, WsgiApp
from pulse.guesses import Guesses, given_token
from pulse.mark import INTERNAL, Mark, is_internal, not_found, run_by_hand
from pulse.model import Config, Trigger
from pulse.spelling import LONGEST, ORDINARY, Paths

# What Pulse says about a run, and nobody else may.
SCRUBBED: Final = frozenset(
    {INTERNAL, "pulse.info", "pulse.cancelled", "pulse.progress"}
    | {f"HTTP_X_PULSE_{name}" for name in ("TASK", "RUN", "DUE", "ATTEMPT", "TRIGGER")}
)

# What proxies and their middleware tell an application about its path, and it may believe.
MOVERS: Final = frozenset(
    f"HTTP_{name}"
    for name in """
    PATH_INFO REQUEST_URI SCRIPT_NAME X_BASE_PATH X_BASE_URL X_ENVOY_ORIGINAL_PATH X_FORWARDED_CONTEXT
    X_FORWARDED_PATH X_FORWARDED_PREFIX X_FORWARDED_SCRIPT_NAME X_FORWARDED_URI X_FORWARDED_URL
    X_HTTP_DESTINATIONURL X_HTTP_PATH_OVERRIDE X_INGRESS_PATH X_ORIGINAL_PATH X_ORIGINAL_URI X_ORIGINAL_URL
    X_OVERRIDE_URL X_PATH_INFO X_PROXYCONTEXTPATH X_PROXY_URL X_REPLACED_PATH X_REQUEST_URI X_REWRITE_URI
    X_REWRITE_URL X_SCRIPT_NAME X_TRAVERSAL_PATH X_VHM_HOST X_VHM_ROOT
    """.split()  # noqa: SIM905 - a table
)

_log = logging.getLogger(__name__)


# What decides whether a request is admitted, for the memory of those that were: its path, or all that names one.
_Question = str | tuple[str | None, ...]


class Guard:
    """Keeps outsiders from guarded paths and all below them, however they are spelt.

    Safe to use from any thread, and after a fork: it has no lock.

    Attributes:
        is_on: Whether guarded paths are refused; what only Pulse may say is removed in any case,
            and a right token makes a call internal in any case.
        denied: How many requests were answered with 404.
    """

    # Admitted paths, in each of two generations. What is asked for again is kept, so an outsider who
    # asks for thousands of others makes the guard neither grow nor judge the ordinary ones each time.
    REMEMBERED = 2048
    REMEMBERED_LENGTH = 512  # characters: thousands of longer ones would be megabytes for an outsider to fill

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        """Wire the guard of *config*.

        It guards the paths of all tasks and their hooks, those that are not enabled too, and
        with `guard_scope = context` all that is below the context. A task at `/` guards the root
        alone, as everything else is below it.
        """
        self._config = config
        self.is_on = config.guard
        self.denied = 0
        self._paths: Paths | None = None
        self._token = None if config.token is None else config.token.encode()
        has_any = bool(config.tasks) or config.guard_scope == "context"
        self._judges = has_any and (self.is_on or self._token is not None)
        self._clock = clock or SystemClock()
        self._open: set[_Question] = set()
        self._open_before: set[_Question] = set()
        self._denials = count(1)
        self._guesses = Guesses("calls by hand", self._clock)
        self._has_warned_of_forgery = False

    @property
    def token_failures(self) -> int:
        """How many requests to a guarded path gave another token."""
        return self._guesses.count

    def admits(self, environ: Environ) -> bool:
        """Whether the application may see this request; if not, `answer` it.

        What only Pulse may say about a request (`SCRUBBED`) is removed from *environ*, unless
        it is the internal request of another Pulse further out.
        """
        if not self._judges:
            return environ.keys().isdisjoint(SCRUBBED) or self._admits_suspect(environ)
        # One pass over the keys of the request is quicker than a look-up of each name in SCRUBBED and MOVERS.
        get = environ.get
        if not _has_no_suspect(environ) or "/" in get("HTTP_HOST", ""):
            return self._admits_suspect(environ)
        question: _Question = (path := get("PATH_INFO") or "")
        script, target, raw = get("SCRIPT_NAME"), get("REQUEST_URI"), get("RAW_URI")
        if script or (target and target != path) or (raw and raw != path):
            question = _question(script, path, target, raw)
        return question in self._open or self._admits_new(environ, question)

    def answer(self, app: WsgiApp, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The response to a request that `admits` refused: 404, or that of *app* when it has the token.

        A call by hand carries a live mark whose trigger is `MANUAL` until its response is
        exhausted or closed; its `Authorization` is removed, so that no error page shows it.
        """
        mark = self.by_hand(environ)
        if mark is None:
            return self.refuse(environ, start_response)
        environ[INTERNAL] = mark
        return run_by_hand(mark, app, environ, start_response)

    def by_hand(self, environ: Environ) -> Mark | None:
        """A live mark if *environ* has the token, which is removed from it; for doors that are not WSGI."""
        if not self._has_token(environ):
            if self._token is not None and given_token(environ) is not None:
                self._guesses.note()
            return None
        del environ["HTTP_AUTHORIZATION"]
        path = environ.get("PATH_INFO") or ""
        return Mark(task="", due=self._clock.now(), trigger=Trigger.MANUAL, path=path)

    def refuse(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """404, the same bytes whatever the reason; the body of the request is never read."""
        self.count_denial()
        return not_found(environ, start_response)

    def count_denial(self) -> None:
        """A request was refused; for doors that refuse by other means than `refuse`."""
        self.denied = next(self._denials)
        _log.debug("refused an outside request to a guarded path", extra={"pulse_event": "denied"})

    def _admits_suspect(self, environ: Environ) -> bool:
        if is_internal(environ):
            return True
        self._scrub(environ)
        if not self._judges or not (self._is_guarded(environ) or self._is_moved(environ)):
            return True
        return not self.is_on and not self._has_token(environ)

    def _admits_new(self, environ: Environ, question: "_Question") -> bool:
        if question not in self._open_before:
            is_guarded = self._guarded.has(question) if isinstance(question, str) else self._is_guarded(environ)
            if is_guarded:
                return not self.is_on and not self._has_token(environ)
        if _length(question) <= self.REMEMBERED_LENGTH:
            if len(self._open) >= self.REMEMBERED:
                self._open_before, self._open = self._open, set()
            self._open.add(question)
        return True

    def _scrub(self, environ: Environ) -> None:
        forged = sorted(SCRUBBED & environ.keys())
        for name in forged:
            del environ[name]
        if forged and not self._has_warned_of_forgery:
            self._has_warned_of_forgery = True
            _log.warning(
                "removed %s from an outside request; further ones are removed in silence",
                ", ".join(forged),
                extra={"pulse_event": "scrubbed"},
            )

    @property
    def _guarded(self) -> Paths:
        """The paths of all tasks; of two threads each may put together the first ones.

        Only now: of ten thousand tasks it takes a while, and many processes never see a request.
        """
        paths = self._paths
        if paths is None:
            paths = self._paths = Paths(_guarded_by(self._config))
        return paths

    def _is_guarded(self, environ: Environ) -> bool:
        """Whether any path that the application may route on is guarded."""
        script: str = environ.get("SCRIPT_NAME") or ""
        path: str = environ.get("PATH_INFO") or ""
        ways = {path, _joined(script, path)}
        # A raw target still has the prefix under which the application is mounted; its router may not.
        mounted = sum(map(bool, script.split("/")))
        targets = {environ[name].partition("?")[0] for name in _TARGETS if environ.get(name)}
        if not mounted:
            targets -= ways
        elif _lacks(path, script):
            targets -= {path}  # or `/public/sessions/cleanup` would be judged as if `/public` were the prefix
        return any(map(self._guarded.has, ways)) or any(self._guarded.has(way, mounted) for way in targets)

    def _is_moved(self, environ: Environ) -> bool:
        """Whether a header names a guarded path, or makes one of the path of the request."""
        path: str = environ.get("PATH_INFO") or ""
        moves = _moves(environ)
        # Each costs little, but an outsider may send as many headers as there are names for them.
        if len(moves) > _MOST_MOVES or any(len(move) > LONGEST for move in moves):
            return True
        ways = moves | {_joined(move, rest) for move in moves for rest in {path, *moves}}
        ways |= {_joined("/", path.removeprefix(move.rstrip("/"))) for move in moves}
        if sum(len(way) for way in ways if not ORDINARY.fullmatch(way)) > 4 * LONGEST:
            return True
        return any(map(self._guarded.has, ways))

    def _has_token(self, environ: Environ) -> bool:
        """Whether the token is given, once."""
        given = given_token(environ)
        if self._token is None or given is None:
            return False
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._token)


def _guarded_by(config: Config) -> Iterator[str]:
    for task in config.tasks.values():
        yield task.path
        yield from task.hook_paths
    if config.guard_scope == "context":
        yield f"/{config.context}"


# An ordinary request has none of these keys; one that has is looked at closely.
# UNENCODED_URL is the raw target as IIS has it, which no other server sends.
_has_no_suspect: Final = (SCRUBBED | MOVERS | {"UNENCODED_URL"}).isdisjoint
_MOST_MOVES: Final = 8  # different paths in the headers of one request; a few proxies agree on fewer
_NAME: Final = re.compile(r"[\w.-]+(?:/|$)")  # a relative path, as headers may have it
_TARGETS: Final = ("REQUEST_URI", "RAW_URI", "UNENCODED_URL")


def _question(script: str | None, path: str, *targets: str | None) -> _Question:
    """The path alone, unless something beside it names another one."""
    cut = [target.partition("?")[0] if target else None for target in targets]
    return (script, path, *cut) if script or not {None, path}.issuperset(cut) else path


def _length(question: _Question) -> int:
    return len(question) if isinstance(question, str) else sum(len(part) for part in question if part)


def _moves(environ: Environ) -> set[str]:
    """The paths that headers name."""
    # Servers take any host; whoever makes an address of it, and reads the path in that, finds its slash in front.
    _, slash, rest = environ.get("HTTP_HOST", "").partition("/")
    moves = {slash + rest.partition("?")[0]}
    for name in MOVERS & environ.keys():
        value = str(environ[name])
        # A repeated header arrives as one, with commas; who reads it takes all, the first or the last.
        for part in {value, value.partition(",")[0], value.rpartition(",")[2]}:
            way = part.partition("?")[0].strip()
            moves.add(f"/{way}" if _NAME.match(way) else way)
    return moves - {""}


def _lacks(path: str, script: str) -> bool:
    """Whether *path* cannot be read as one that begins with *script*.

    A proxy has taken the prefix away, and another header told it to the server: of such a path no
    router takes it away again.
    """
    if not (ORDINARY.fullmatch(path) and ORDINARY.fullmatch(script)):
        return False
    return not f"{path.rstrip('/')}/".lower().startswith(f"{script.rstrip('/')}/".lower())


def _joined(prefix: str, path: str) -> str:
    return f"{prefix.rstrip('/')}/{path.lstrip('/')}" if prefix else path
