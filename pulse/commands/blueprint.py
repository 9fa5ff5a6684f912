"""The Pulse filters of an ini file, found without importing anything that the file names.

PasteDeploy itself reads the file, so that each filter has the settings with which it will
be built: `set`, `[DEFAULT]`, `use` and `config:` mean what they always mean. Only where
PasteDeploy would import a factory, its name is taken instead.
"""

import re
from collections.abc import Container, Iterator, Mapping
from configparser import Error as IniError
from configparser import InterpolationError, MissingSectionHeaderError, ParsingError
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from importlib import metadata
from math import ceil
from os.path import relpath
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from paste.deploy.loadwsgi import APP, FILTER, FILTER_APP, FILTER_WITH, PIPELINE, ConfigLoader, LoaderContext

from pulse.inifile import COMMENT, INLINE_COMMENT
from pulse.reader import spell

PULSE: Final = frozenset(
    {
        "egg:pulse",
        "egg:pulse#main",
        "egg:pulse#pulse_factory",
        "factory:pulse.middleware:pulse_filter_app_factory",
    }
)
SESSIONS: Final = frozenset({"egg:pulse#sessions", "factory:pulse.sessions.wsgi:session_filter_app_factory"})
WANTED: Final = "; want file.ini, file.ini#name or module:object"
_OPTIONS: Final = ("pulse.config.", "pulse.task.")
_COMPOSITES: Final = ("composite", "composit")
_KINDS: Final = {
    **dict.fromkeys(("app", "application", "pipeline", "filter-app", *_COMPOSITES), APP),
    "filter": FILTER,
}
_SCHEMES: Final = ("egg", "call", "factory")  # the last one is ours, see `_name_factory`
_GUNICORN: Final = ("egg:gunicorn", "egg:gunicorn#main")
_GRACEFUL: Final = 30  # seconds; gunicorn's own `graceful_timeout`
PARTING: Final = timedelta(seconds=2)  # until a worker has noticed its end, and Pulse has recorded what it gave up
_FACTORIES: Final = tuple(f"paste.{kind}_factory" for kind in ("app", "composite", "composit", "filter", "filter_app"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint:
    """One filter as it will be built: where it stands, which one it is, and what its factory is given."""

    where: str
    uri: str
    global_conf: Mapping[str, str]
    local_conf: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Why PasteDeploy cannot read a section, or a whole file."""

    where: str
    text: str


def blueprints(file: str, name: str | None = None) -> tuple[list[Blueprint], list[Problem]]:
    """The Pulse filters of the ini *file*, or only those of its application *name*.

    Nothing is raised: a section that cannot be read does not hide the others.
    """
    return _drawn(file, name, PULSE)


def session_blueprints(file: str, name: str | None = None) -> list[Blueprint]:
    """As `blueprints`, but the session filters of Pulse."""
    found, _ = _drawn(file, name, SESSIONS)
    return found


def builds(file: str, name: str | None = None) -> tuple[list[Blueprint], list[Problem]]:
    """The Pulse filters that a server of the application *name* builds, as often and in the same order.

    Without a name that of `main`; if the file has no such application, or no filter is
    found in it, every filter of the file, as `blueprints` has them.
    """
    drawing = _open(file)
    if isinstance(drawing, Problem):
        return [], [drawing]
    if name is None and not drawing.has_application("main"):
        return blueprints(file)
    problems = drawing.reach(APP, name or "main")
    drawn = [drawing.blueprint(context) for root in drawing.roots for context in drawing.built(root)]
    found = [blueprint for blueprint in drawn if blueprint.uri in PULSE]
    return (found, problems) if found or problems or name else blueprints(file)


def sections_of(file: str) -> list[str] | Problem:
    """The sections that the ini *file* has."""
    drawing = _open(file)
    return drawing if isinstance(drawing, Problem) else list(drawing.parser.sections())


def why_unfound(file: str, name: str | None = None) -> str:
    """Why PasteDeploy does not find the application *name*, or else `main`, of the ini *file*; empty if it does."""
    drawing = _open(file)
    problems = [drawing] if isinstance(drawing, Problem) else drawing.reach(APP, name or "main")
    return problems[0].text.removesuffix(WANTED) if problems else ""


def suspicions(file: str, drain: timedelta) -> list[Problem]:
    """What PasteDeploy reads without complaint, and is hardly meant so.

    Filters without an application, stray options, and servers that do not wait for runs,
    which have *drain* to end.
    """
    drawing = _open(file)
    if isinstance(drawing, Problem) or drawing.reach_all():
        return []  # what cannot be read may be what uses them
    return [*drawing.idle_filters(), *drawing.stray_options(), *drawing.hasty_servers(drain)]


def _drawn(file: str, name: str | None, uris: Container[str]) -> tuple[list[Blueprint], list[Problem]]:
    drawing = _open(file)
    if isinstance(drawing, Problem):
        return [], [drawing]
    problems = drawing.reach_all() if name is None else drawing.reach(APP, name)
    found: list[Blueprint] = []
    for blueprint in map(drawing.blueprint, drawing.reached):
        if blueprint.uri in uris and blueprint not in found:  # in two pipelines it is one, unless their settings differ
            found.append(blueprint)
    return found, problems


def _open(file: str) -> "_Drawing | Problem":
    try:
        return _Drawing(file, {}, {}, [])
    except OSError as error:
        return Problem(
            where=file,
            text=f"{error.strerror}{WANTED if isinstance(error, FileNotFoundError | IsADirectoryError) else ''}",
        )
    except (UnicodeDecodeError, IniError) as error:
        return Problem(where=file, text=_said(error))


class _Drawing(ConfigLoader):  # type: ignore[misc]  # PasteDeploy has no types
    """Follows the sections of one file, and notes the filters of Pulse that it comes by."""

    def __init__(
        self,
        file: str,
        reached: dict[LoaderContext, str],
        parts: dict[LoaderContext, list[LoaderContext]],
        opened: list[str],
    ) -> None:
        super().__init__(file)
        self.reached = reached
        self.roots: list[LoaderContext] = []
        self._parts = parts  # the applications of composites
        self._opened = opened
        self._seen: set[str] = set()
        for section in self.parser.sections():
            self._name_factory(section)

    def reach_all(self) -> list[Problem]:
        """Follow `main` first, then every section that nothing before it has led to."""
        problems = []
        for section in sorted(self.parser.sections(), key=lambda one: (_kind(one) is FILTER, _name(one) != "main")):
            if _kind(section) and section not in self._seen:
                problems += self.reach(_kind(section), _name(section))
        return problems

    def reach(self, object_type: Any, name: str) -> list[Problem]:
        """Follow one section, and whatever it leads to."""
        try:
            self.roots.append(self.get_context(object_type, name))
        except (OSError, UnicodeDecodeError, IniError, LookupError, ImportError) as error:
            where = self._opened[-1] if self._opened else relpath(self.filename)
            self._opened.clear()
            return [Problem(where=where, text=_said(error) + self._hint(str(error)))]
        return []

    def _hint(self, said: str) -> str:
        """Which section was probably meant where one is missing."""
        missing = re.match(r"No section '(.*?)' \(prefixed by (.*?)\)", said)
        if not missing:
            return ""
        sections = {_name(section): section for section in self.parser.sections() if ":" in section}
        near = get_close_matches(missing[1], sections, n=1)
        if not near:
            return ""
        section = sections[near[0]]
        if not _kind(section):
            return f"; [{section}] is none: want [filter:{near[0]}] or [app:{near[0]}]"
        if _kind(section) is FILTER and "'app'" in missing[2]:
            return f"; [{section}] is a filter: the last name of a pipeline, and next, are those of an application"
        return f"; did you mean [{section}]?"

    def idle_filters(self) -> Iterator[Problem]:
        """The Pulse filters that no application of the file has in front of it, if it has any application."""
        if not any(_kind(section) is APP for section in self.parser.sections()):
            return  # another file may use them
        for context in self.roots:
            is_ours = context in self.reached and self.blueprint(context).uri in PULSE
            if is_ours and context.object_type is FILTER:
                name = _name(self.reached[context].partition("[")[2].rstrip("]"))
                text = "no application uses this filter, so nothing of it runs: want it in pipeline = ..., or"
                yield Problem(where=self.reached[context], text=f"{text} filter-with = {name}")

    def stray_options(self) -> Iterator[Problem]:
        """Options of Pulse where no filter of Pulse reads them."""
        for section in self.parser.sections():
            own = [key for key in self._own_options(section) if key.startswith(_OPTIONS)]
            if own and self._is_no_filter(section):
                text = f"{own[0]} stands in a section that is no Pulse filter, and is never read"
                yield Problem(where=self._place(section), text=text)

    def hasty_servers(self, drain: timedelta) -> Iterator[Problem]:
        """Those that kill a process before the runs in it, which have *drain* to end, are given up and recorded."""
        for section in self.parser.sections():
            own = {key: self.parser.get(section, key, raw=True) for key in self._own_options(section)}
            if not section.startswith("server:") or own.get("use") not in _GUNICORN:
                continue
            written = own.get("graceful_timeout", "" if "config" in own else str(_GRACEFUL))
            if not written.isdecimal() or int(written) >= (drain + PARTING).total_seconds():
                continue
            said = f"= {written}" if "graceful_timeout" in own else f"is {written} if nothing is said"
            text = (
                f"graceful_timeout {said}: gunicorn kills a worker before runs are given up and recorded, which have "
                f"pulse.config.shutdown_timeout = {spell(drain)} to end: want graceful_timeout = "
                f"{ceil(drain.total_seconds()) + 5} or more"
            )
            yield Problem(where=self._place(section), text=text)

    def _own_options(self, section: str) -> list[str]:
        """Those that stand in *section* itself."""
        shared = self.parser.defaults()  # made anew each time it is asked for
        return [key for key in self.parser.options(section) if key not in shared]

    def _is_no_filter(self, section: str) -> bool:
        kind = section.partition(":")[0]
        if not _kind(section):
            return True
        used = self.parser.get(section, "use", raw=True) if self.parser.has_option(section, "use") else ""
        return kind in ("app", "application", *_COMPOSITES) and (
            not used or used.startswith(("egg:", "call:", "factory:"))
        )

    def has_application(self, name: str) -> bool:
        """Whether the file itself has an application *name*."""
        return any(_kind(section) is APP and _name(section) == name for section in self.parser.sections())

    def blueprint(self, context: LoaderContext) -> Blueprint:
        """The filter that *context*, one of `reached`, builds."""
        return Blueprint(
            where=self.reached[context],
            uri=context.object.lower(),
            global_conf=context.global_conf,
            local_conf=context.local_conf,
        )

    def built(self, context: LoaderContext) -> Iterator[LoaderContext]:
        """The filters of Pulse in *context*, in the order in which PasteDeploy builds them: from the inside."""
        if context.object_type is PIPELINE:
            parts = [context.app_context, *reversed(context.filter_contexts)]
        elif context.object_type in (FILTER_APP, FILTER_WITH):
            parts = [context.next_context, context.filter_context]
        else:
            parts = self._parts.get(context, [])
        for part in parts:
            yield from self.built(part)
        if context in self.reached:
            yield context

    def get_context(self, object_type: Any, name: str | None = None, global_conf: Any = None) -> LoaderContext:
        """What PasteDeploy calls for each `use`, each part of a pipeline and each `next`."""
        if self.absolute_name(name):
            return self._elsewhere(object_type, str(name), global_conf)
        section = self.find_config_section(object_type, name=name)
        place = self._place(section)
        if place in self._opened:
            raise LookupError("this section uses itself")
        self._opened.append(place)
        self._seen.add(section)
        context = super().get_context(object_type, name, global_conf)
        if section.startswith(_COMPOSITES):
            self._follow(context)
        self._opened.pop()
        own = _own(context, section)
        if own in self.reached:
            self.reached[own] = place
        return context

    def _elsewhere(self, object_type: Any, uri: str, global_conf: Any) -> LoaderContext:
        scheme, _, rest = uri.partition(":")
        if scheme.lower() == "config":
            return self._other_file(object_type, rest, global_conf)
        if problem := _misspelt(uri) or _misused(uri, object_type):
            raise LookupError(problem)
        context = LoaderContext(uri, object_type, None, global_conf or {}, {}, self)
        if uri.lower() in PULSE | SESSIONS and self._opened:
            self.reached[context] = self._opened[-1]
        return context

    def _other_file(self, object_type: Any, rest: str, global_conf: Any) -> LoaderContext:
        file, _, name = rest.partition("#")
        path = str(Path(self.filename).parent / unquote(file))
        other = _Drawing(path, self.reached, self._parts, self._opened)
        if global_conf:
            other.update_defaults(global_conf, overwrite=False)
        return other.get_context(object_type, name or "main", global_conf)

    def _follow(self, composite: LoaderContext) -> None:
        """The applications of a composite: only its factory knows which of its values name one."""
        applications = {_name(section) for section in self.parser.sections() if _kind(section) is APP}
        for word in " ".join(composite.local_conf.values()).split():
            if word in applications or word.startswith("config:"):
                part = self.get_context(APP, word, composite.global_conf)
                self._parts.setdefault(composite, []).append(part)

    def _name_factory(self, section: str) -> None:
        """Write `paste.app_factory = x` as `use = factory:x`, which imports nothing."""
        if self.parser.has_option(section, "use"):
            return
        for factory in _FACTORIES:
            if self.parser.has_option(section, factory):
                self.parser.set(section, "use", "factory:" + self.parser.get(section, factory, raw=True))
                self.parser.remove_option(section, factory)
                return

    def _place(self, section: str) -> str:
        return f"{relpath(self.filename)} [{section}]"


def _misspelt(uri: str) -> str:
    """What is wrong with a `use` that nothing can be found by; empty for all others."""
    if mark := COMMENT.search(uri):
        return f"use = {uri}: {INLINE_COMMENT.format(mark[0][-1])}"
    is_known = uri.partition(":")[0].lower() in _SCHEMES
    return "" if is_known else f"use = {uri}: want egg:..., call:... or config:..."


def _misused(uri: str, object_type: Any) -> str:
    """What is wrong with a `use` that means Pulse; empty for all others."""
    distribution, _, name = uri.removeprefix("egg:").partition("#")
    if not uri.lower().startswith("egg:"):
        return ""
    if distribution.lower() != "pulse":
        is_near = get_close_matches(distribution.lower(), ["pulse"], cutoff=0.8) and not _is_installed(distribution)
        return f"use = {uri}: there is no such distribution; did you mean egg:pulse?" if is_near else ""
    if uri.lower() not in PULSE and name != "sessions":
        return f"use = {uri}: want egg:pulse, or egg:pulse#sessions"
    if object_type is APP:
        return f"use = {uri} is a filter: want [filter-app:...] with next = ..., or [filter:...] and a pipeline"
    return ""


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except (metadata.PackageNotFoundError, ValueError):  # ValueError: no name at all
        return False
    return True


def _own(context: LoaderContext, section: str) -> LoaderContext:
    """The context that *section* itself configures."""
    while context.object_type is FILTER_WITH:
        context = context.next_context
    return context.filter_context if section.startswith("filter-app:") else context


def _kind(section: str) -> Any:
    prefix, colon, _ = section.partition(":")
    return _KINDS.get(prefix) if colon else None


def _name(section: str) -> str:
    return section.partition(":")[2].strip()


def _said(error: Exception) -> str:
    match error:
        case OSError():
            said = f"{error.filename}: {error.strerror}"
        case UnicodeDecodeError():
            said = "is no text in UTF-8"
        case IniError():
            said = " ".join(f"{error}{_remedy(error)}".split())
        case KeyError():
            said = f"nothing sets {error}"
        case IndexError():
            said = "pipeline names nothing: want filters, and an application as the last one"
        case ImportError():
            said = f"requires {error}"
        case _:
            said = str(error)
    return said


def _remedy(error: IniError) -> str:
    match error:
        case MissingSectionHeaderError() if str(error.line).startswith("\ufeff"):
            return "; the file begins with a byte order mark: save it as UTF-8 without one"
        case InterpolationError() if error.option in ("here", "__file__"):
            return "; it is the path of the file that holds a %, which PasteDeploy cannot read: move the file"
        case InterpolationError():
            return f"; in {error.option} a % is written %%, and %(here)s is the directory of the file"
        case ParsingError():
            return "; want lines such as key = value, in [sections]"
    return ""
