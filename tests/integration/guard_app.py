"""An application that routes in many ways at once, and tells which of them ran the guarded endpoint.

Each router reads the path of a request as some framework, proxy or middleware does. Run as
a program it serves on wsgiref.
"""

import posixpath
import re
import sys
import unicodedata
from urllib.parse import unquote, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, make_server

from pulse.guard import Guard
from pulse.mark import is_internal
from pulse.model import Config, Task

PATH = "/sessions/cleanup"
TOKEN = "a-token-of-24-characters"
ANY_CASE = re.compile(re.escape(PATH), re.IGNORECASE)  # in which a dotless i is an i as well


def text(path):
    return path.encode("latin-1").decode("utf-8", "ignore")


def raw_target(environ):
    return environ.get("REQUEST_URI", environ.get("RAW_URI", environ["PATH_INFO"])).partition("?")[0]


def resolved(path):
    kept = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept)


def address(environ):
    """What `request.url` is in most frameworks (PEP 3333, URL Reconstruction)."""
    return f"http://{environ.get('HTTP_HOST', '')}{environ.get('SCRIPT_NAME', '')}{environ['PATH_INFO']}"


def unmarked(path):
    """As most databases compare what is looked up in them."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", path) if not unicodedata.combining(letter))


def without_prefix(environ):
    """As the widespread middleware for `X-Script-Name` does it."""
    script = environ.get("HTTP_X_SCRIPT_NAME", environ.get("HTTP_X_FORWARDED_PREFIX", ""))
    return "/" + environ["PATH_INFO"].removeprefix(script).lstrip("/")


ROUTERS = {
    "exact": lambda environ: environ["PATH_INFO"],
    "below the script name": lambda environ: environ.get("SCRIPT_NAME", "") + environ["PATH_INFO"],
    "slashes at the ends": lambda environ: "/" + environ["PATH_INFO"].strip("/"),
    "runs of slashes": lambda environ: re.sub("/+", "/", environ["PATH_INFO"]),
    "any case": lambda environ: text(environ["PATH_INFO"]).casefold(),
    "a pattern for any case": lambda environ: ANY_CASE.sub(PATH, text(environ["PATH_INFO"])),
    "decoded again": lambda environ: unquote(environ["PATH_INFO"]),
    "decoded twice more": lambda environ: unquote(unquote(environ["PATH_INFO"])),
    "resolved": lambda environ: resolved(environ["PATH_INFO"]),
    "decoded and resolved": lambda environ: resolved(unquote(environ["PATH_INFO"])),
    "resolved and decoded": lambda environ: unquote(resolved(environ["PATH_INFO"])),
    "normal": lambda environ: posixpath.normpath(environ["PATH_INFO"]),
    "without parameters": lambda environ: re.sub(";[^/]*", "", environ["PATH_INFO"]),
    "before parameters": lambda environ: environ["PATH_INFO"].partition(";")[0],
    "path of an address": lambda environ: urlsplit(environ["PATH_INFO"]).path,
    "backslashes": lambda environ: environ["PATH_INFO"].replace("\\", "/"),
    "letters that are printed": lambda environ: "".join(filter(str.isprintable, text(environ["PATH_INFO"]))),
    "compatible letters": lambda environ: unicodedata.normalize("NFKC", text(environ["PATH_INFO"])),
    "letters without marks": lambda environ: unmarked(text(environ["PATH_INFO"])),
    "decoded again, without what is no text": lambda environ: unquote(text(environ["PATH_INFO"]), errors="ignore"),
    "letters that are seen": lambda environ: re.sub("[\0-\x1f\u00ad\u200b\ufeff]", "", text(environ["PATH_INFO"])),
    "up to a NUL": lambda environ: environ["PATH_INFO"].partition("\0")[0],
    "without blanks": lambda environ: environ["PATH_INFO"].strip(),
    "without an extension": lambda environ: posixpath.splitext(environ["PATH_INFO"])[0],
    "views": lambda environ: environ["PATH_INFO"].replace("/@@", "/"),
    "raw": raw_target,
    "raw, path of an address": lambda environ: urlsplit(raw_target(environ)).path,
    "raw, decoded": lambda environ: unquote(raw_target(environ)),
    "raw, decoded and resolved": lambda environ: resolved(unquote(raw_target(environ))),
    "raw, below the script name": lambda environ: raw_target(environ).removeprefix(environ.get("SCRIPT_NAME", "")),
    "path of the whole address": lambda environ: urlsplit(address(environ)).path,
    "rewritten": lambda environ: environ.get("HTTP_X_ORIGINAL_URL", environ.get("HTTP_X_REWRITE_URL", "")),
    "virtual host": lambda environ: environ.get("HTTP_X_VHM_ROOT", "") + environ["PATH_INFO"],
    "prefixed": without_prefix,
}


def reached(environ):
    """The routers that lead to the guarded endpoint, or below it."""
    found = []
    for name, route in ROUTERS.items():
        try:
            path = route(environ)
        except ValueError:  # urlsplit, of what is no address
            continue
        if path.rstrip("\n/") == PATH or path.startswith(PATH + "/"):
            found.append(name)
    return found


def unguarded(environ, start_response):
    found = reached(environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    if is_internal(environ):
        return [b"internal"]
    return [f"ran: {'|'.join(found)}".encode() if found else b"open"]


guard = Guard(Config(guard=True, token=TOKEN, tasks={"cleanup": Task(name="cleanup", action=PATH)}))


def guarded(environ, start_response):
    if not guard.admits(environ):
        return guard.answer(unguarded, environ, start_response)
    return unguarded(environ, start_response)


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        """Log nothing."""


if __name__ == "__main__":
    with make_server("127.0.0.1", 0, globals()[sys.argv[1]], handler_class=Quiet) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
