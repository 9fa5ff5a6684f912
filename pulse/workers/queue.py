"""Fires that wait for a thread, in the order in which they are to be run."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from pulse.errors import ClosedError
from pulse.model import Fire
from pulse.workers.handful import HANDFUL, Handful, Taken


class Manner(Enum):
    """How the last run of a task came back, as far as this process knows."""

    QUICK = "quick"  # in a moment
    SLOW = "slow"
    TROUBLED = "troubled"  # it did not
    UNKNOWN = "unknown"


_LANES: Final = {
    Manner.QUICK: Manner.QUICK,
    Manner.SLOW: Manner.SLOW,
    Manner.UNKNOWN: Manner.SLOW,
    Manner.TROUBLED: Manner.TROUBLED,
}
_LIGHT: Final = frozenset({Manner.QUICK, Manner.UNKNOWN})  # may be claimed while another one still runs
# Neither of the first two may starve the other one.
_TURNS: Final = (
    (Manner.QUICK, Manner.SLOW, Manner.TROUBLED),
    (Manner.SLOW, Manner.QUICK, Manner.TROUBLED),
)


def _anything(_lane: Manner) -> bool:
    return True


def _alone(_fire: Fire) -> bool:
    return False


class FireQueue:
    """Waiting fires by task, bounded by the number of tasks.

    A task that cannot keep up has its older fires dropped here, so a slow pool never
    builds up a backlog of instants that nobody wants any more. Tasks wait in three lanes,
    by their manner; within a lane first come is first served.

    Threads that run what is over at once wait for each other longer than they work, for the
    interpreter and for the store. So while runs are brisk, one of them takes one after the other.
    Who claims several tasks at a time may bring back what it has claimed and cannot run soon: that
    goes before what waits, is quick whatever is known of it, since nobody else can have it any more,
    and is handed out even when the queue is closed.

    Attributes:
        is_brisk: Whether they are, by `pace`.
    """

    def __init__(self) -> None:
        # Ordered: a plain dict that is emptied from its front looks at all that has gone each time.
        self._lanes: dict[Manner, OrderedDict[str, deque[Fire]]] = {lane: OrderedDict() for lane in _TURNS[0]}
        self._claimed: deque[Taken] = deque()
        self.is_brisk = False
        self._is_called = False  # somebody who waits has been woken, and has not looked yet
        self._out: set[int] = set()  # the threads that have taken something and may be back at once
        self._manners: dict[str, Manner] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._turn = 0

    def put(self, fires: Iterable[Fire], *, keep: int) -> None:
        """Append *fires* of one task, of which at most *keep* stay.

        Raises:
            ClosedError: the queue was closed.
        """
        with self._changed:
            if self._is_closed:
                raise ClosedError("the workers were closed")
            for fire in fires:
                waiting = self._lane_of(fire.task).setdefault(fire.task, deque())
                waiting.append(fire)
                while len(waiting) > keep:
                    waiting.popleft()
            self._call()

    def put_back(self, fire: Fire, *, keep: int) -> None:
        """Have a fire that had to wait be handed out again, unless later ones have taken its place."""
        with self._changed:
            waiting = self._lane_of(fire.task).setdefault(fire.task, deque())
            if self._is_closed or len(waiting) >= keep:
                return
            waiting.appendleft(fire)
            self._call()

    def give_back(self, handful: Handful) -> None:
        """Have somebody else run what one thread has claimed, and cannot run soon."""
        with self._changed:  # its thread may come back now: it finds here what it does not find there any more
            self._claimed.extend(handful.rest())
            self._changed.notify_all()

    def get(self) -> list[Fire]:
        """The fires of the task whose turn it is; as `take`, for who claims nothing together."""
        turn = self.take()
        assert isinstance(turn, list)
        return turn

    def take(
        self, admits: Callable[[Manner], bool] = _anything, joins: Callable[[Fire], bool] = _alone
    ) -> list[Fire] | Handful:
        """What is to be done next; blocks. Nothing when the queue was closed.

        Quick tasks and others take turns; tasks in trouble come last.

        Args:
            admits: Whether a task of that lane, `QUICK`, `SLOW` or `TROUBLED`, may be
                begun now; what it admits is handed out. Asked again after `stir`.
            joins: Whether a fire may be claimed together with others now.

        Returns:
            The fires of the task whose turn it is; or one each of several tasks that are to be
            claimed together; or what was claimed by another thread and is to be run.
        """
        me = threading.get_ident()
        with self._changed:
            self._out.discard(me)
            while not self._is_closed or self.is_owed:
                self._is_called = False
                turn = None if self.is_brisk and self._out else self._next(admits, joins)
                if turn is not None:
                    self._out.add(me)
                    return turn
                self._changed.wait()
            self._changed.notify_all()  # what was still to be run is taken
            return []

    @property
    def is_owed(self) -> bool:
        """Whether something is claimed, and waits for a thread."""
        return bool(self._claimed)

    def count(self, *lanes: Manner) -> int:
        """How many tasks wait in *lanes*."""
        claimed = len(self._claimed) if Manner.QUICK in lanes else 0
        return claimed + sum(len(self._lanes[lane]) for lane in lanes)

    def manner_of(self, task: str) -> Manner:
        """That of the last run of *task* in this process."""
        return self._manners.get(task, Manner.UNKNOWN)

    def mark(self, task: str, manner: Manner) -> None:
        """Note how the last run of *task* came back: many that hang must not keep out the others."""
        if manner is self.manner_of(task):
            return
        with self._changed:
            waiting = self._lane_of(task).pop(task, None)
            self._manners[task] = manner
            if waiting:
                self._lane_of(task)[task] = waiting
                self._changed.notify_all()

    def stir(self) -> None:
        """Have those who wait ask again what they may begin, whoever is out now."""
        with self._changed:
            self._out.clear()
            self._changed.notify_all()

    def pace(self, *, is_brisk: bool) -> None:
        """Have one thread take what waits as long as runs are brisk; whoever says so has to `stir` if one is not."""
        if is_brisk is self.is_brisk:
            return
        with self._changed:
            self.is_brisk = is_brisk
            if not is_brisk:
                self._changed.notify_all()

    def close(self) -> int:
        """Hand out nothing more; how many fires were waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return sum(len(fires) for lane in self._lanes.values() for fires in lane.values())

    def _call(self) -> None:
        if self.is_brisk and (self._out or self._is_called):
            return
        self._is_called = True
        self._changed.notify()

    def _lane_of(self, task: str) -> OrderedDict[str, deque[Fire]]:
        return self._lanes[_LANES[self.manner_of(task)]]

    def _next(self, admits: Callable[[Manner], bool], joins: Callable[[Fire], bool]) -> list[Fire] | Handful | None:
        if self._claimed and admits(Manner.QUICK):
            return Handful([self._claimed.popleft()])
        for lane in () if self._is_closed else _TURNS[self._turn]:
            waiting = self._lanes[lane]
            if waiting and admits(lane):
                self._turn = int(lane is Manner.QUICK)
                return self._grasped(waiting, joins)
        return None

    def _grasped(self, waiting: OrderedDict[str, deque[Fire]], joins: Callable[[Fire], bool]) -> list[Fire]:
        """The fires of the first task that waits, and those of the next ones that go together with it."""
        task, first = waiting.popitem(last=False)
        fires = list(first)
        if not self._is_joined(task, first, joins):
            return fires
        for task, more in waiting.items():
            if len(fires) == HANDFUL or not self._is_joined(task, more, joins):
                break
            fires += more
        for fire in fires[1:]:
            del waiting[fire.task]
        return fires

    def _is_joined(self, task: str, fires: deque[Fire], joins: Callable[[Fire], bool]) -> bool:
        return len(fires) == 1 and self.manner_of(task) in _LIGHT and joins(fires[0])
