"""The session of one request: looked for, used, and kept or ended. All middleware share it."""

import logging
from collections.abc import Iterable
from itertools import islice
from typing import Final

from pulse.sessions.base import Session, new_key
from pulse.sessions.keeper import Found, Keeper
from pulse.sessions.snapshot import changes_of, copied, is_same_session
from pulse.sessions.state import NOBODY
from pulse.state.types import UserSession

TRIES: Final = 4  # cookies of the same name that are looked up; more are sent by nobody in good faith

_UNKNOWN: Final[Session] = {"": object()}  # equals nothing

log = logging.getLogger(__name__)


class Visit:
    """What one request does with its session; one thread or task at a time.

    Attributes:
        is_used: Whether anybody asked for the data. A session that nobody asked for is left alone.
    """

    __slots__ = (
        "_before",
        "_found",
        "_is_abandoned",
        "_is_cleared",
        "_is_kept",
        "_is_renewed",
        "_keeper",
        "_values",
        "is_used",
    )

    def __init__(self, keeper: Keeper, values: Iterable[str]) -> None:
        """*values*: those of the cookie that the client sent."""
        self._keeper = keeper
        self._values = values
        self._found = Found("", {})
        self._before: Session = {}
        self._is_kept = False
        self._is_renewed = False
        self._is_abandoned = False
        self._is_cleared = False
        self.is_used = False

    @property
    def sid(self) -> str:
        """The session's id; that of a new session is not kept anywhere before `settle`."""
        return self._found.sid

    @property
    def data(self) -> Session:
        """What the session holds, to be changed at will."""
        self.is_used = True
        return self._found.data

    @property
    def record(self) -> UserSession:
        """Whose it is, as its store has told when it was looked for; nobody's where that does not know."""
        return self._found.record or UserSession(self._found.sid, NOBODY)

    @property
    def is_new(self) -> bool:
        """Whether it is kept nowhere yet."""
        return not self._is_kept

    async def open(self) -> None:
        """Look for the session that the client's cookie leads to; a new one if there is none.

        To be awaited before anything else is asked for.
        """
        await self._keeper.init()
        found = await self._find()
        self._is_kept = found is not None
        self._found = found or await self._keeper.begin()
        self._before = self._copy()

    def renew(self) -> None:
        """Go on under a new id: whoever knows the old one is left out."""
        self.is_used = True
        self._is_renewed = True

    def clear(self) -> None:
        """Empty the session, which ends it; also one that held nothing, but whose user is known.

        What is set behind this begins a new session.
        """
        self.data.clear()
        self._is_cleared = True

    def abandon(self) -> None:
        """Keep nothing of what was changed: the request has failed."""
        self._is_abandoned = True

    async def settle(self, *, is_late: bool = False) -> str | None:
        """Keep or end the session; the value of the cookie to send, None for none, empty to make it forgotten.

        May be called again when the session is used further.

        Args:
            is_late: No cookie can be sent any more.

        Raises:
            SessionTooLarge: (a ValueError) it does not fit into its cookie.
            TypeError: something in it cannot be kept.
        """
        if not self.is_used or self._is_abandoned:
            return None
        ended = await self._end() if self._is_to_end(is_late=is_late) else None
        self._is_cleared = False  # what is kept from here on was set behind that
        is_changed = not is_same_session(self._before, self._found.data)
        is_to_move = self._is_renewed and self._is_kept
        if is_late and not (is_changed or is_to_move):
            return None
        value = None
        if is_late and (is_to_move or not self._is_kept or not self._keeper.is_on_server):
            self._refuse_late(is_to_move=is_to_move)
        else:
            value = await self._settle(is_due=is_changed or not self._keeper.compares)
        if is_changed:
            self._before = self._copy()
        return ended if value is None else value

    async def _settle(self, *, is_due: bool) -> str | None:
        sid, data, is_ageing, _ = self._found
        if not self._is_kept:
            if not data:
                return None
            value = await self._keeper.add(sid, data)
            self._is_kept, self._is_renewed = True, False
            return value
        if self._is_renewed:
            new = new_key()
            value = await self._keeper.move(sid, new, data, self._change)
            self._found, self._is_renewed = self._found._replace(sid=new, is_ageing=False), False
            return value
        return await self._keep() if is_due or is_ageing else None

    async def _keep(self) -> str | None:
        value = await self._keeper.keep(self._found.sid, self._found.data, self._change)
        if value is None:
            # The client keeps its cookie, which is worth nothing: if the session has ended by a renewal, to
            # make it forget the cookie would take away the new one, which it may have got meanwhile.
            self._is_kept = False
            return None
        return None if self._keeper.is_on_server else value  # a key is there already

    def _change(self, kept: Session) -> Session:
        if self._before is _UNKNOWN:
            return self._found.data
        return changes_of(self._before, self._found.data).merged_into(kept)

    def _refuse_late(self, *, is_to_move: bool) -> None:
        # Of a session that was to be renewed nothing more is kept: what a login adds must not be found under
        # the old id, nor all of it under a new one that nobody is told.
        self._is_abandoned = self._is_abandoned or is_to_move
        log.warning(
            "a session was %s when no cookie could be sent for it any more, and is not kept",
            "renewed" if is_to_move else "changed",
            extra={"pulse_event": "session_too_late"},
        )

    def _is_to_end(self, *, is_late: bool) -> bool:
        is_emptied = self._is_cleared or (bool(self._before) and not self._found.data)
        return self._is_kept and is_emptied and (self._keeper.is_on_server or not is_late)

    async def _end(self) -> str:
        """End the session; what was set since it was emptied is that of a new one."""
        await self._keeper.end(self._found.sid)
        self._found, self._before = Found(new_key(), self._found.data), {}
        self._is_kept = False
        return ""

    async def _find(self) -> Found | None:
        for value in islice(self._values, TRIES):
            if len(value) <= self._keeper.longest:
                found = await self._keeper.find(value)
                if found is not None:
                    return found
        return None

    def _copy(self) -> Session:
        # Of a storage it only matters whether it was empty.
        if not self._keeper.compares:
            return dict(self._found.data)
        try:
            return copied(self._found.data)
        # A store in memory may hold what cannot be copied, and says so in its own way: then any use is a change.
        except Exception:  # noqa: BLE001 - see above
            return _UNKNOWN
