"""The session of a request: a mapping that looks it up when it is first used, and the caller's `UserSession`."""

from collections.abc import Coroutine, Iterator, MutableMapping
from copy import deepcopy
from typing import Any, Final, TypeVar

from pulse.loop import immediate, run_async
from pulse.sessions.base import Session
from pulse.sessions.header import cookie_values
from pulse.sessions.keeper import Keeper
from pulse.sessions.visit import Visit
from pulse.state.types import SESSION_DATA, UserSession

T = TypeVar("T")

SECONDS: Final = 10.0  # that a store may take to answer before the request fails


class RequestSession(MutableMapping[str, Any], UserSession):
    """The session of a request, as a mapping: looked up when it is first used.

    It is the caller's `UserSession`, too: who it is and until when comes from stores of
    `pulse.state`, as it was when it was looked up; with any other the user is nobody. To be
    used by the one thread that serves the request. Emptying it ends the session.
    """

    __slots__ = ("_failure", "_header", "_is_abandoned", "_keeper", "_name", "_visit")

    def __init__(self, keeper: Keeper, name: str, header: str) -> None:
        """*header*: the `Cookie` header that came; *name*: that of the cookie in it."""
        self._keeper = keeper
        self._name = name
        self._header = header
        self._visit: Visit | None = None
        self._failure: Exception | None = None
        self._is_abandoned = False

    # What a dataclass has as fields is asked for here when somebody wants it.

    @property
    def session_id(self) -> str:  # type: ignore[override]
        """The session's id: secret, and not kept anywhere while `is_new`."""
        return self.visit().sid

    @property
    def data(self) -> Session:
        """What it holds, as a plain dict: what is changed there is changed here."""
        return self._data()

    @property
    def user_id(self) -> str:  # type: ignore[override]
        """Whose it is, if its store knows; else empty."""
        return self.visit().record.user_id

    @property
    def roles(self) -> list[str]:  # type: ignore[override]
        """What its user is; none if its store does not know."""
        return list(self.visit().record.roles)

    @property
    def created_at(self) -> float:  # type: ignore[override]
        """When it began, if its store knows; else 0."""
        return self.visit().record.created_at

    @property
    def expires_at(self) -> float | None:  # type: ignore[override]
        """When it ends; None for never, or if its store does not know."""
        return self.visit().record.expires_at

    @property
    def metadata(self) -> dict[str, Any]:  # type: ignore[override]
        """A copy of what stands beside its data; empty if its store does not know."""
        return deepcopy({name: value for name, value in self.visit().record.metadata.items() if name != SESSION_DATA})

    @property
    def is_new(self) -> bool:
        """Whether it is kept nowhere yet."""
        return self.visit().is_new

    @property
    def is_used(self) -> bool:
        """Whether anybody asked for what it holds; asking this does not count."""
        return self._visit is not None and self._visit.is_used

    def renew(self) -> None:
        """Go on under a new id; for logins, and all that gives more rights.

        Whoever learned or planted the old id is left out.
        """
        self.visit().renew()

    def visit(self) -> Visit:
        """What the request does with its session."""
        if self._failure is not None:
            raise self._failure
        if self._visit is None:
            visit = self._new_visit()
            outcome(self._keeper, visit.open())
            self._visit = visit
        return self._visit

    async def look_up(self) -> None:
        """Look it up now if that takes waiting, which nobody can do on an event loop when it is used."""
        try:
            await self.open()
        except Exception as error:  # noqa: BLE001 - for whoever uses the session, if anybody does
            self._failure = error

    async def open(self) -> None:
        """The same, where an error is the caller's."""
        if self._visit is not None or self._keeper.is_immediate:
            return
        visit = self._new_visit()
        await visit.open()
        self._visit = visit

    def clear(self) -> None:
        """End it: for logouts. What is set behind this begins a new one."""
        self.visit().clear()

    def __getitem__(self, key: str) -> Any:
        return self._data()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._data()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._data()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data())

    def __len__(self) -> int:
        return len(self._data())

    def __repr__(self) -> str:
        return f"<session, {'used' if self.is_used else 'not used'}>"  # environs are printed by debug pages

    def abandon(self) -> None:
        """See `Visit.abandon`; also for one that is first used behind this."""
        self._is_abandoned = True
        if self._visit is not None:
            self._visit.abandon()

    async def settle(self, *, is_late: bool = False) -> str | None:
        """See `Visit.settle`; of what was not used nothing is kept."""
        return None if self._visit is None else await self._visit.settle(is_late=is_late)

    def settle_now(self, *, is_late: bool = False) -> str | None:
        """As `settle`, while the thread waits."""
        if not self.is_used:
            return None
        return outcome(self._keeper, self.settle(is_late=is_late))

    def _new_visit(self) -> Visit:
        visit = Visit(self._keeper, cookie_values(self._header, self._name))
        if self._is_abandoned:
            visit.abandon()
        return visit

    def _data(self) -> Session:
        return self.visit().data


def outcome(keeper: Keeper, coro: Coroutine[Any, Any, T]) -> T:
    """What *coro* of *keeper* returns or raises, while the thread waits."""
    return immediate(coro) if keeper.is_immediate else run_async(coro, SECONDS)
