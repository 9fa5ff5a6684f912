"""Wrong tokens of programs: counted, and told of when many come within a minute.

Nobody is kept out for them. Behind a proxy all callers have one address, and whoever guesses
would lock out those who know; a token of `pulse.reader.TOKEN_LENGTH` characters is not guessed
over a network.
"""

import logging
from collections import deque
from itertools import count
from typing import Final

from pulse.clock import Clock
from pulse.gateway import Environ

MANY: Final = 5  # wrong tokens within SECONDS that are worth a warning
SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


def given_token(environ: Environ) -> str | None:
    """What a program gives as its token, in `Authorization: Bearer`; repeated, it arrives with a comma.

    None where nobody gives one: a browser sends the password that the application, or a proxy
    in front of it, has asked for with everything, and guesses nothing.
    """
    scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return given if scheme.lower() == "bearer" else None


class Guesses:
    """The wrong tokens that were given at one door; safe to use from any thread, and after a fork: it has no lock.

    Attributes:
        count: How many there were.
    """

    def __init__(self, what: str, clock: Clock) -> None:
        """*what*: those who give them, as the warning says it: `calls by hand`."""
        self.count = 0
        self._what = what
        self._clock = clock
        self._numbers = count(1)
        self._given_at: deque[float] = deque(maxlen=MANY)
        self._quiet_until = 0.0

    def note(self) -> None:
        """A wrong token was given."""
        self.count = next(self._numbers)
        now = self._clock.monotonic()
        self._given_at.append(now)
        is_burst = len(self._given_at) == MANY and now - self._given_at[0] <= SECONDS
        if is_burst and now >= self._quiet_until:
            self._quiet_until = now + SECONDS
            _log.warning(
                "%d %s with a wrong token within a minute, %d in all",
                MANY,
                self._what,
                self.count,
                extra={"pulse_event": "token_refused"},
            )
