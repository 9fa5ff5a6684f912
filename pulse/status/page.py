"""Templates into responses: every page is one document with its style and script inside.

Nothing is loaded from anywhere else, and the policy of each response allows nothing else:
the style and the script by their hashes, forms and polling to this site.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from webob import Request, Response

from pulse.status.access import Visitor
from pulse.status.words import file_name, relative, rough, spoken
from pulse.zone import iso_utc

_FOLDER: Final = Path(__file__).parent / "templates"
# Marks for what is put in, or taken out, after a page was printed. No text of anybody can hold
# them: it is escaped, and they are not. A mark that somebody could write would end an attribute.
# SOFT stands around what changes with every second: the browser counts on by itself, and an
# answer that differs in these words alone is no news.
_SOFT_BEGIN, _SOFT_END = Markup("<!--soft-->"), Markup("<!--/soft-->")
_SOFT: Final = re.compile(f"{_SOFT_BEGIN}([^<]*){_SOFT_END}")
_TAG: Final = Markup("<!--tag-->")
_MAIN: Final = '<main id="main">'


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What stands around every page.

    Attributes:
        base: The path of the window, without a slash at its end.
        here: The page itself with its query, below *base*: where to come back to.
        section: Which entry of the menu it belongs to.
        is_live: Only what may have changed is wanted.
    """

    base: str
    here: str
    now: datetime
    place: str
    zone: ZoneInfo
    version: str
    visitor: Visitor
    proof_token: str
    section: str = ""
    said: str = ""
    is_live: bool = False
    is_polled: bool = True
    is_readonly: bool = False


class Printer:
    """Prints pages; safe to use from any thread."""

    def __init__(self) -> None:
        """Read style and script; templates are read when they are first used."""
        self._style = (_FOLDER / "status.css").read_text(encoding="utf-8")
        self._script = (_FOLDER / "status.js").read_text(encoding="utf-8")
        self._policy = (
            "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; connect-src 'self'; "
            f"img-src data:; style-src {_hash(self._style)}; script-src {_hash(self._script)}"
        )
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            file_name=file_name, iso=iso_utc, spoken=spoken, utc=lambda instant: spoken(instant, ZoneInfo("UTC"))
        )
        self._environment.globals.update(soft_begin=_SOFT_BEGIN, soft_end=_SOFT_END)

    def page(self, request: Request, name: str, frame: Frame, *, status: int = 200, **shown: Any) -> Response:
        """The page of the template *name*; 304 if the browser has what is wanted already."""
        printed = self._print(name, {**_words(frame), **shown})
        text = _SOFT.sub(r"\1", printed)
        tag = self._tag(printed)
        response = self._response(text.replace(_TAG, f'"{tag}"'), status)
        response.etag = tag
        if frame.is_live and tag in request.if_none_match:
            response.status, response.body = 304, b""
            del response.content_type
        return response

    def login(self, base: str, back: str, *, problem: str = "", status: int = 200) -> Response:
        """The form for the token."""
        return self._response(self._print("login.html", {"base": base, "back": back, "problem": problem}), status)

    def _print(self, name: str, shown: Mapping[str, Any]) -> str:
        # Both are ours, without </style> and </script> in them.
        own = {"style": Markup(self._style), "script": Markup(self._script)}  # noqa: S704
        return self._environment.get_template(name).render({**own, **shown})

    def _response(self, text: str, status: int) -> Response:
        response = Response(text, status=status, content_type="text/html", charset="UTF-8")
        response.headers.update(
            {
                "Content-Security-Policy": self._policy,
                "Cache-Control": "no-store",
                "Referrer-Policy": "same-origin",  # without one a browser says that forms come from nowhere
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Cross-Origin-Opener-Policy": "same-origin",
            }
        )
        return response

    def _tag(self, printed: str) -> str:
        """Another one for each other content, whatever the second."""
        begin = printed.find(_MAIN)
        content = printed[begin : printed.find("</main>", begin)]
        return hashlib.blake2b(_SOFT.sub("", content).encode(), digest_size=12).hexdigest()


def _words(frame: Frame) -> dict[str, Any]:
    return {
        **{field.name: getattr(frame, field.name) for field in fields(frame)},
        "zone_words": f"{frame.now.astimezone(frame.zone):%H:%M:%S} {frame.zone}",
        "tag_mark": _TAG,
        "words_rel": lambda instant: relative(instant, frame.now),
        "words_bare": lambda instant: rough(max(instant - frame.now, timedelta(0))),
    }


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
