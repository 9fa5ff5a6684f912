"""What visitors of the window send: a form, or JSON."""

import json
from typing import Any, Final
from urllib.parse import parse_qsl

from webob import Request

BODY: Final = 65_536  # bytes of a form or of JSON; nobody has that much to say


class RefusedError(Exception):
    """A request of a visitor that cannot be served, with the status that says why."""

    def __init__(self, status: int, problem: str) -> None:
        self.status = status
        self.problem = problem
        super().__init__(problem)


def form_of(request: Request) -> dict[str, str]:
    """What a browser sends.

    Raises:
        RefusedError: it is no form, or too much.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise RefusedError(415, "want a form")
    try:
        return dict(parse_qsl(_body(request).decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise RefusedError(400, "want a form of a few fields") from None


def json_of(request: Request) -> dict[str, str]:
    """What a program says, each value as it would stand in a form; null says nothing.

    Raises:
        RefusedError: it is no JSON, or too much.
    """
    body = _body(request)
    if not body.strip():
        return {}
    try:
        said: Any = json.loads(body.decode())  # whatever charset is named: JSON has but one
    # ValueError: no UTF-8, no JSON, or a number of more digits than Python reads.
    except (ValueError, RecursionError):
        raise RefusedError(400, "want JSON") from None
    if not isinstance(said, dict) or any(isinstance(value, dict | list) for value in said.values()):
        raise RefusedError(400, "want an object of plain values")
    return {str(name): _word(value) for name, value in said.items() if value is not None}


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _body(request: Request) -> bytes:
    if (request.content_length or 0) > BODY:
        raise RefusedError(413, f"want at most {BODY} bytes")
    if not request.is_body_readable:
        return b""
    body = b""
    try:
        # WebOb's own way keeps the whole of it, and what is sent in chunks says no length.
        while len(body) <= BODY and (more := request.body_file.read(BODY + 1 - len(body))):
            body += more
    except OSError:  # the browser has gone
        raise RefusedError(400, "want all of the body") from None
    if len(body) > BODY:
        raise RefusedError(413, f"want at most {BODY} bytes")
    return body
