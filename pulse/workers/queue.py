"""Fires that wait for a thread, in the order in which they are to be run."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from pulse.errors import ClosedError
from pulse.missed import Rung
from pulse.model import Fire
from pulse.workers.handful import HANDFUL, Handful, Taken
from pulse.workers.lane import Lane, Line


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

    Of a task several of whose fires wait one is handed out at a time, and the next when its turn is
    `over`: if two threads had two of them, the younger one could be claimed first, and the older
    one would be passed over. So hundreds of tasks that catch up keep no other one waiting, either.

    Threads that run what is over at once wait for each other longer than they work, for the
    interpreter and for the store. So while runs are brisk, one of them takes one after the other.
    Who claims several tasks at a time may bring back what it has claimed and cannot run soon: that
    goes before what waits, is quick whatever is known of it, since nobody else can have it any more,
    and is handed out even when the queue is closed.

    Attributes:
        is_brisk: Whether they are, by `pace`.
    """

    def __init__(self) -> None:
        self._lanes: dict[Manner, Lane] = {lane: Lane() for lane in _TURNS[0]}
        self._held: dict[str, Line] = {}  # by task; those in which a turn is not over
        self._resting: list[str] = []  # tasks in `_held` that wait for `wake`
        self._claimed: deque[Taken] = deque()
        self.is_brisk = False
        self._is_called = False  # somebody who waits has been woken, and has not looked yet
        self._out: set[int] = set()  # the threads that have taken something and may be back at once
        self._manners: dict[str, Manner] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._turn = 0

    def put(self, rung: Sequence[Rung]) -> None:
        """Append what has *rung*; the fires of `Missed` are made in their turn.

        All in one step: thousands of tasks may ring in one instant, and whoever takes fires out would
        wait for the queue with each of them, and for the interpreter.

        Raises:
            ClosedError: the queue was closed.
        """
        with self._changed:
            if self._is_closed:
                raise ClosedError("the workers were closed")
            for due, keep in rung:
                line = self._line_of(due.task) or Line()
                line.put(due, keep=keep)
                if due.task not in self._held:
                    self._lane_of(due.task).put(due.task, line)
            self._call(len(rung))

    def put_back(self, fire: Fire, *, keep: int) -> None:
        """Have a fire that had to wait be handed out again, unless later ones have taken its place.

        Nothing takes that of a further attempt.
        """
        with self._changed:
            line = self._line_of(fire.task) or Line()
            if self._is_closed or not line.put_back(fire, keep=keep):
                return
            if fire.task not in self._held:
                self._lane_of(fire.task).put(fire.task, line)
            self._call()

    def begun(self, task: str, run_id: str, *, may_overlap: bool = False) -> None:
        """A fire that was handed out is claimed; if it is the last of its task, later ones do not wait for it.

        What becomes due while it runs is an overlap like any other, of which the task says what is done.
        Where its runs *may_overlap*, its turn is over.
        """
        if task not in self._held:  # of most tasks never more than one fire waits
            return
        if may_overlap:
            self.over(task, run_id)
            return
        with self._changed:
            line = self._held.get(task)
            if line is not None and line.holder == run_id and not line.count:
                del self._held[task]

    def over(self, task: str, run_id: str) -> None:
        """The turn of a fire that was handed out is over: the next one of its task may be."""
        if task not in self._held:
            return
        with self._changed:
            line = self._held.get(task)
            if line is None or line.holder != run_id:
                return
            del self._held[task]
            if line.count:
                self._lane_of(task).put(task, line)
                self._call()

    def rest(self, fire: Fire) -> None:
        """Its turn is not over: it is to be handed out again, before those behind it, after the next `wake`."""
        with self._changed:
            line = self._held.get(fire.task)
            if line is None or line.holder != fire.run_id:
                return
            line.fires.appendleft(fire)
            line.holder = ""
            self._resting.append(fire.task)

    @property
    def is_resting(self) -> bool:
        """Whether there is something for `wake`."""
        return bool(self._resting)

    def wake(self) -> None:
        """Hand out again what was to `rest`."""
        if not self._resting:
            return
        with self._changed:
            resting, self._resting = self._resting, []
            for task in resting:
                self._lane_of(task).put(task, self._held.pop(task))
            self._changed.notify_all()

    def give_back(self, handful: Handful) -> None:
        """Have somebody else run what one thread has claimed, and cannot run soon."""
        with self._changed:  # its thread may come back now: it finds here what it does not find there any more
            self._claimed.extend(handful.rest())
            self._changed.notify_all()

    def poll(self) -> Fire | None:
        """The same as `get` for who does not wait; None if nothing does."""
        with self._changed:
            turn = self._next(_anything, _alone)
        assert not isinstance(turn, Handful)
        return turn[0] if turn else None

    def get(self) -> list[Fire]:
        """The fire whose turn it is; as `take`, for who claims nothing together."""
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
            The fire whose turn it is, until that is `over`; or one each of several tasks that are to
            be claimed together; or what was claimed by another thread and is to be run.
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
            line = self._lane_of(task).remove(task)
            self._manners[task] = manner
            if line is not None:
                self._lane_of(task).put(task, line)
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
            lines = [line for lane in self._lanes.values() for line in lane.lines()]
            return sum(line.count for line in [*lines, *self._held.values()])

    def _call(self, count: int = 1) -> None:
        """Wake those who wait for what has come, so many tasks."""
        if self.is_brisk and (self._out or self._is_called):
            return
        self._is_called = True
        self._changed.notify(1 if self.is_brisk else count)

    def _line_of(self, task: str) -> Line | None:
        return self._held.get(task) or self._lane_of(task).find(task)

    def _lane_of(self, task: str) -> Lane:
        return self._lanes[_LANES[self.manner_of(task)]]

    def _next(self, admits: Callable[[Manner], bool], joins: Callable[[Fire], bool]) -> list[Fire] | Handful | None:
        if self._claimed and admits(Manner.QUICK):
            return Handful([self._claimed.popleft()])
        for lane in () if self._is_closed else _TURNS[self._turn]:
            waiting = self._lanes[lane]
            if len(waiting) and admits(lane):
                self._turn = int(lane is Manner.QUICK)
                return self._grasped(waiting, joins)
        return None

    def _grasped(self, waiting: Lane, joins: Callable[[Fire], bool]) -> list[Fire]:
        """The first fire of the task that waits longest, and those of the next ones that go together with it."""
        task, line = waiting.next()
        fires = [line.pop()]
        if line.count or fires[0].is_in_turn:
            line.holder = fires[0].run_id
            self._held[task] = line
            return fires
        if not self._is_joined(fires[0], joins):
            return fires
        for more in waiting.prompt.values():
            is_alone = more.count == 1 and not more.attempts
            if len(fires) == HANDFUL or not (is_alone and self._is_joined(more.fires[0], joins)):
                break
            fires += more.fires
        for fire in fires[1:]:
            del waiting.prompt[fire.task]
        return fires

    def _is_joined(self, fire: Fire, joins: Callable[[Fire], bool]) -> bool:
        return self.manner_of(fire.task) in _LIGHT and joins(fire)
