"""What to do about the answer of an endpoint that is none that was expected: a few words for its record."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

from pulse.model import Task

_LOGIN: Final = re.compile(r"log-?in|sign-?in|auth", re.IGNORECASE)
_ASKS_FOR_A_LOGIN: Final = "the endpoint asks for a login"


def hint(task: Task, status: int, said: Mapping[str, str], body: bytes) -> str:
    """What may be wrong where *task* was answered *status*; empty for no idea.

    Args:
        task: What was requested.
        status: The unexpected answer.
        said: Its headers `location` and `allow`, where it has them.
        body: Its first bytes.
    """
    words = ""
    match status:
        case 300 | 301 | 302 | 303 | 307 | 308:
            words = _of_redirect(task, said.get("location", ""))
        case 400:
            words = "maybe it does not accept the host (pulse.config.host; in Django ALLOWED_HOSTS)"
        case 401:
            words = _ASKS_FOR_A_LOGIN
        case 403 if b"csrf" in body.lower():
            words = "the endpoint wants a CSRF token: exempt it from that"
        case 403:
            words = "the endpoint asks for rights that Pulse does not have"
        case 404:
            words = f"there is no endpoint at {task.path} (action, pulse.config.context)"
        case 405:
            allowed = f" but {said['allow']:.80}" if said.get("allow") else ""
            words = f"the endpoint does not take {task.method}{allowed} (method)"
        case 415:
            words = "the endpoint does not take such a body (content_type)"
    return words


def _of_redirect(task: Task, location: str) -> str:
    target = _split(location)
    if target is None:
        return ""
    if target.path == task.path and target.scheme == "https":
        return "the application wants https (pulse.config.scheme = https)"
    if target.path == task.path and target.netloc:
        return f"the application wants another host (pulse.config.host = {target.netloc.rpartition('@')[2]})"
    if target.path != task.path and target.path.rstrip("/") == task.path.rstrip("/"):
        return f"the endpoint is at {target.path} (action)"
    return _ASKS_FOR_A_LOGIN if _LOGIN.search(location) else ""


def _split(location: str) -> SplitResult | None:
    try:
        return urlsplit(location)
    except ValueError:  # a bracket that is not closed
        return None
