"""Readers: what people write, as the value that the house works with.

A reader takes whatever stood in an ini file or in Python and returns the value, or raises
a `ValueError` whose message completes the sentence "want ...". Reading a value that has
been read before gives it back unchanged, so `dataclasses.replace` may read twice.
"""

from pulse.reader.base import Reader, optional
from pulse.reader.crons import MANUALLY, cron
from pulse.reader.moments import last_moment, moment, zone
from pulse.reader.places import BROKER, TOKEN_LENGTH, broker, from_environment, hook, specification, token
from pulse.reader.plain import boolean, choice, integer, name, number, text, word
from pulse.reader.spans import duration, grace, limit, phase, spell
from pulse.reader.web import body, context, environ, header_value, headers, host, method, mount, path, statuses, url

__all__ = [
    "BROKER",
    "MANUALLY",
    "TOKEN_LENGTH",
    "Reader",
    "body",
    "boolean",
    "broker",
    "choice",
    "context",
    "cron",
    "duration",
    "environ",
    "from_environment",
    "grace",
    "header_value",
    "headers",
    "hook",
    "host",
    "integer",
    "last_moment",
    "limit",
    "method",
    "moment",
    "mount",
    "name",
    "number",
    "optional",
    "path",
    "phase",
    "specification",
    "spell",
    "statuses",
    "text",
    "token",
    "url",
    "word",
    "zone",
]
