"""What every kind of worker offers: take fires, run them, stop in time.

Workers never claim by themselves: they hand each fire to `Runner.run` just before it is
dispatched. A fire that waits in a queue holds no lease, and the idle process wins.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future

from pulse.errors import ClosedError
from pulse.model import Fire, Run


class Workers(ABC):
    """Executes fires in this process; all methods may be called from any thread."""

    @abstractmethod
    def start(self) -> None:
        """Begin to take fires."""

    @abstractmethod
    def submit(self, fires: Iterable[Fire], *, keep: int = 1) -> None:
        """Run *fires* of one task, one after the other, as soon as a worker is free.

        Never blocks. If fires of the task are waiting already, only the last *keep* of
        all stay: the others are recorded as missed when a later one is claimed.

        Raises:
            ClosedError: the workers were closed.
        """

    @abstractmethod
    def run_apart(self, fire: Fire) -> Future[Run | None]:
        """Run *fire* at once beside the queue, as a call by hand wants it.

        Returns:
            Resolves to what `Runner.run` returns, or to the record of a run that was given
            up; raises what kept the run from being recorded.
        """

    @abstractmethod
    def close(self, seconds: float) -> int:
        """Let running work end within *seconds*, then cancel it; how many fires still waited.

        Takes at most a second more than that; idempotent. What waited holds no claim: it
        belongs to whichever process asks next.
        """

    @property
    @abstractmethod
    def busy(self) -> int:
        """How many fires are being run."""

    @property
    def abandoned(self) -> int:
        """How many threads were left behind and have not come back."""
        return 0


class FireQueue:
    """Waiting fires by task, first come first served; bounded by the number of tasks.

    A task that cannot keep up has its older fires dropped here, so a slow pool never
    builds up a backlog of instants that nobody wants any more.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Fire]] = {}
        self._troubled: set[str] = set()
        self._changed = threading.Condition()
        self._is_closed = False

    def put(self, fires: Iterable[Fire], *, keep: int) -> None:
        """Append *fires* of one task, of which at most *keep* stay.

        Raises:
            ClosedError: the queue was closed.
        """
        with self._changed:
            if self._is_closed:
                raise ClosedError("the workers were closed")
            for fire in fires:
                waiting = self._waiting.setdefault(fire.task, deque())
                waiting.append(fire)
                while len(waiting) > keep:
                    waiting.popleft()
            self._tell()

    def put_back(self, fire: Fire, *, keep: int) -> None:
        """Have a fire that had to wait be handed out again, unless later ones have taken its place."""
        with self._changed:
            waiting = self._waiting.setdefault(fire.task, deque())
            if self._is_closed or len(waiting) >= keep:
                return
            waiting.appendleft(fire)
            self._tell()

    def get(self, *, is_spare: bool = False) -> list[Fire]:
        """The fires of the task that waits longest; blocks. Empty when the queue was closed.

        Tasks in trouble come last.

        Args:
            is_spare: Whether who asks is kept free for tasks that are not in trouble.
        """
        with self._changed:
            while not self._is_closed:
                task = self._next(is_spare=is_spare)
                if task is not None:
                    return list(self._waiting.pop(task))
                self._changed.wait()
            return []

    def mark(self, task: str, *, is_troubled: bool) -> None:
        """Note whether the last run of *task* came back in time: many that hang must not keep out the others."""
        if is_troubled == (task in self._troubled):
            return
        with self._changed:
            (self._troubled.add if is_troubled else self._troubled.discard)(task)
            self._changed.notify_all()

    def _next(self, *, is_spare: bool) -> str | None:
        troubled = None
        for task in self._waiting:
            if task not in self._troubled:
                return task
            troubled = troubled or task
        return None if is_spare else troubled

    def _tell(self) -> None:
        # One is enough, unless it may be the spare one, which passes over tasks in trouble.
        if self._troubled:
            self._changed.notify_all()
        else:
            self._changed.notify()

    def close(self) -> int:
        """Hand out nothing more; how many fires were waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return sum(len(fires) for fires in self._waiting.values())
