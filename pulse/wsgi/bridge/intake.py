"""The body of a request where it has to be read before the application runs.

An asynchronous handler reads `wsgi.input` on the event loop: it must be there already, as
waiting for a slow client would stop all others. Up to `IN_MEMORY` it is kept in memory,
then in a temporary file.
"""

import io
from collections.abc import Callable
from tempfile import SpooledTemporaryFile
from typing import Any, Final

from pulse.gateway import Environ

IN_MEMORY: Final = 1 << 20  # bytes of a body
PORTION: Final = 1 << 16  # bytes that are read at once

INPUT: Final = "wsgi.input"


def new_spool() -> Any:
    """Where a body is put."""
    return SpooledTemporaryFile(max_size=IN_MEMORY)  # closed by whoever asked for it


def read_ahead(environ: Environ) -> Callable[[], None]:
    """Replace the input of *environ* by one that nobody has to wait for; call the result when it is done with.

    To be called by the thread that serves the request.
    """
    source = environ.get(INPUT)
    if source is None or isinstance(source, io.BytesIO | SpooledTemporaryFile):
        return _nothing
    length = environ.get("CONTENT_LENGTH") or ""
    is_chunked = bool(environ.get("wsgi.input_terminated"))
    left = int(length) if length.isascii() and length.isdigit() else None
    if left is None and not is_chunked:
        left = 0  # nobody says where it ends
    if left == 0:
        environ[INPUT] = io.BytesIO()
        return _nothing
    spool = new_spool()
    environ[INPUT] = spool
    try:
        _copy(source, spool, left)
    except BaseException:
        spool.close()
        raise
    return spool.close  # type: ignore[no-any-return]


def _copy(source: Any, spool: Any, left: int | None) -> None:
    """At most *left* bytes: a server that speaks plain HTTP would wait for more that never come."""
    while left is None or left > 0:
        portion = source.read(PORTION if left is None else min(PORTION, left))
        if not portion:
            break
        spool.write(portion)
        left = None if left is None else left - len(portion)
    spool.seek(0)


def _nothing() -> None:
    """There is nothing to give back."""
