"""What waits of one task, and in which order tasks wait."""

from collections import OrderedDict, deque

from pulse.missed import Missed
from pulse.model import Fire


class Line:
    """What waits of one task, the oldest first.

    Attributes:
        attempts: Further attempts of runs. They go first, and nothing takes their place: for one
            that recovers, the store has all others of its task wait.
        fires: Of single instants, behind them.
        missed: Behind these, what is to be caught up, if there is any. As long as it is known here,
            also when its last one is run, what becomes due joins it.
        holder: The run for whose end all of them wait, if its turn is not over.
    """

    __slots__ = ("attempts", "fires", "holder", "missed")

    def __init__(self) -> None:
        """Nothing waits."""
        self.attempts: deque[Fire] = deque()
        self.fires: deque[Fire] = deque()
        self.missed: Missed | None = None
        self.holder = ""

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.attempts) + self._instants

    @property
    def _instants(self) -> int:
        return len(self.fires) + (len(self.missed) if self.missed is not None else 0)

    def put(self, due: Fire | Missed, *, keep: int) -> None:
        """Append what is *due*; of all instants at most *keep* stay."""
        if self.missed is not None:
            self.missed.reach(due.last if isinstance(due, Missed) else due.due)
        elif isinstance(due, Missed):
            self.missed = due
        else:
            self.fires.append(due)
        surplus = self._instants - keep
        if surplus > 0:
            self._drop(surplus)

    def put_back(self, fire: Fire, *, keep: int) -> bool:
        """Have *fire* be the next one, unless *keep* later ones have taken its place; whether it is."""
        if fire.attempt > 1:
            is_new = fire not in self.attempts  # those that wait in the store are found there again and again
            self.attempts.extend([fire] if is_new else [])
            return is_new
        if self._instants >= keep:
            return False
        self.fires.appendleft(fire)
        return True

    def pop(self) -> Fire:
        """The oldest one."""
        if self.attempts:
            return self.attempts.popleft()
        if self.fires or self.missed is None:
            return self.fires.popleft()
        return self.missed.pop()

    def _drop(self, count: int) -> None:
        """The oldest *count* are not run; so the claim of the next one will record it."""
        while self.fires and count:
            self.fires.popleft()
            count -= 1
        if self.missed is not None:
            self.missed.drop(count)


class Lane:
    """Tasks that wait; first come is first served, but who catches up takes turns with who does not.

    Attributes:
        prompt: By task, the lines of those that do not.
        late: Those of the others.
    """

    def __init__(self) -> None:
        """No task waits."""
        # Ordered: a plain dict that is emptied from its front looks at all that has gone each time.
        self.prompt: OrderedDict[str, Line] = OrderedDict()
        self.late: OrderedDict[str, Line] = OrderedDict()
        self._was_prompt = False

    def __len__(self) -> int:
        return len(self.prompt) + len(self.late)

    def find(self, task: str) -> Line | None:
        """What waits of *task*; None if nothing does."""
        return self.prompt.get(task) or (self.late.get(task) if self.late else None)

    def put(self, task: str, line: Line) -> None:
        """Have *task* wait; where it does already, it keeps its place."""
        if line.missed is None:
            self.prompt[task] = line
        else:
            self.prompt.pop(task, None)
            self.late[task] = line

    def remove(self, task: str) -> Line | None:
        """The same; it does not wait here any more."""
        return self.prompt.pop(task, None) or self.late.pop(task, None)

    def lines(self) -> list[Line]:
        """All that waits here."""
        return [*self.prompt.values(), *self.late.values()]

    def next(self) -> tuple[str, Line]:
        """The one whose turn it is; there is one."""
        is_late = bool(self.late) and (self._was_prompt or not self.prompt)
        self._was_prompt = not is_late
        return (self.late if is_late else self.prompt).popitem(last=False)
