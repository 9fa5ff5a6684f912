"""This process as one of a fleet: is it heard of, is its clock right, is its configuration the newest.

Processes do not talk to each other. Each says in the store, every few seconds, that it is
alive and by which configuration it lives, and reads there what the others said.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from hashlib import blake2b
from threading import Lock
from typing import Final

from pulse import __version__
from pulse.clock import Clock
from pulse.instance import this_instance
from pulse.model import Config, Instance, Task
from pulse.option import options_of, said_of
from pulse.runstores.base import RunStore
from pulse.zone import EPOCH

log = logging.getLogger(__name__)

ALIVE: Final = 3  # beats that may be missed before an instance counts as dead
ANSWERS: Final = 3  # of the store to one question for the time
MEASURED_EVERY: Final = 60.0  # seconds from one look at the clock of the store to the next
LAST_BEAT: Final = 1.0  # seconds that a beat may take while the process ends
WORTH_SAYING: Final = timedelta(seconds=0.5)  # a difference between the clocks
STEP: Final = timedelta(seconds=1)  # by which a clock goes otherwise than time does: somebody has set it


def _nothing() -> None:
    """What a process that plans nothing plans again."""


class FleetClock:
    """The clock of this host, set right by that of the store: all hosts of a fleet have the same."""

    def __init__(self, clock: Clock) -> None:
        """Like *clock*, until `offset` is set."""
        self._clock = clock
        self.offset = timedelta(0)
        self.monotonic = clock.monotonic
        self.wait = clock.wait

    def lead(self) -> timedelta:
        """How far the clock of this host is ahead of its monotonic one, which nobody sets.

        Always about the same, unless the clock was set, or the machine was suspended.
        """
        return self._clock.now() - EPOCH - timedelta(seconds=self.monotonic())

    def now(self) -> datetime:
        """The instant by the store's clock, as far as that is known."""
        return self._clock.now() + self.offset

    def time(self) -> float:
        """The same as a Unix timestamp."""
        return self._clock.time() + self.offset.total_seconds()


class Fleet:
    """What this process tells the others and learns from them; used by one thread at a time.

    `why_not` may be asked, and `leave` called, from any thread.

    Attributes:
        store_errors: How many steps of the store had failed by the last beat.
    """

    def __init__(
        self,
        config: Config,
        *,
        store: RunStore,
        clock: FleetClock,
        beat: timedelta,
        plan_again: Callable[[], None] = _nothing,
        beside: Callable[[], Collection[str]] = tuple,
        refused: Callable[[], int] = int,
        errors_beside: Callable[[], int] = int,
    ) -> None:
        """Wire it; `join` makes this process known.

        Args:
            config: By which this process lives.
            store: Where the fleet meets.
            clock: Is set right.
            beat: From one call of `beat` to the next.
            plan_again: Called whenever *clock* is looked at, for what was planned while it was not; may
                raise StoreUnavailableError.
            beside: The digests of the configurations that this very process lives by, too:
                filters that share a store do not stand down for each other.
            refused: How many requests this process has refused so far; asked for each beat.
            errors_beside: How many steps of the store have failed for the other filters that share
                the row of this process in it; asked for each beat, too.
        """
        self._config = config
        self._fingerprints = _fingerprints_of(config)
        self.digest = _digest(self._fingerprints)
        self._store = store
        self._clock = clock
        self._lead = clock.lead()  # as it was when the clock was last compared with the store's
        self._plan_again = plan_again
        self._alive = beat * ALIVE
        self._beside = beside
        self._refused = refused
        self._errors_beside = errors_beside
        self.store_errors = 0
        self._instance: Instance | None = None
        self._superseded: Mapping[str, str] = {}
        self._foreign: dict[str, Mapping[str, str]] = {}
        self._measured: float | None = None
        self._is_heard = False
        self._is_skewed = False
        self._has_left = False
        self._beating = Lock()

    def join(self, server: str) -> None:
        """Make this process known, and set its clock right.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        self._measure()
        now = self._clock.now()
        self._instance = Instance(
            owner=this_instance(), started=now, seen=now, digest=self.digest, server=server, version=__version__
        )
        self.beat()

    def beat(self, store_errors: int = 0) -> None:
        """Say that this process is alive, and look at what the others live by.

        Args:
            store_errors: How many steps of the store have failed so far. It is told with the
                first beat that does not fail.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        if self._instance is None:
            return  # a process that runs tasks by hand alone is none of the fleet
        with self._beating:
            if self._has_left:
                return
            self._is_heard = False
            self.store_errors = store_errors
            self.watch_the_clock()
            self._instance = replace(
                self._instance,
                seen=self._clock.now(),
                refused=self._refused(),
                store_errors=store_errors + self._errors_beside(),
            )
            self._stand_down_for(self._store.beat(self._instance, self._fingerprints, self._alive))
            self._is_heard = True

    def watch_the_clock(self) -> None:
        """Set the clock right now and then, and when it has stepped; `beat` does so for a process that rings.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        is_old = self._measured is None or self._clock.monotonic() - self._measured >= MEASURED_EVERY
        if is_old or abs(self._clock.lead() - self._lead) > STEP:
            self._measure()
        self._plan_again()

    def leave(self) -> None:
        """Make it known that this process rings no more, unless the store did not answer when last asked.

        Raises:
            StoreUnavailableError: it does not answer now.
        """
        self._has_left = True
        # A beat that is under way would make this process known again, unless the store hangs and it never ends.
        if self._instance is None or not self._beating.acquire(timeout=LAST_BEAT):
            return
        try:
            if self._is_heard:
                self._store.leave(self._instance.owner)
        finally:
            self._beating.release()

    def why_not(self, task: str) -> str:
        """Why this process may not run *task*; empty if it may."""
        if self._is_skewed:
            return "the clock of this host is too far from that of the store"
        return self._superseded.get(task, "")

    # Which configuration is the newest

    def _stand_down_for(self, living: Mapping[str, datetime]) -> None:
        """Leave to others the tasks that a configuration which was first seen after this one has changed or dropped."""
        own = living.get(self.digest)
        others = [digest for digest in living if digest != self.digest and digest not in self._beside()]
        self._foreign = {digest: known for digest, known in self._foreign.items() if digest in living}
        newer = [digest for digest in others if own is not None and living[digest] > own]
        superseded: dict[str, str] = {}
        for digest in sorted(newer, key=living.__getitem__):
            theirs = self._tasks_of(digest)
            for task, mine in self._fingerprints.items():
                superseded.pop(task, None)  # the newest of all decides
                if task not in theirs:
                    superseded[task] = "a newer configuration has dropped it"
                elif theirs[task] != mine:
                    superseded[task] = "a newer configuration has changed it"
        news = superseded.keys() - self._superseded.keys()
        self._superseded = superseded  # first: a handler of the log may be what is broken
        for task in news:
            facts = {"pulse_event": "stood_down", "pulse_task": task}
            log.warning("task=%s is left to other processes: %s", task, superseded[task], extra=facts)

    def _tasks_of(self, digest: str) -> Mapping[str, str]:
        known = self._foreign.get(digest) or self._store.fingerprints(digest)
        if known:  # what was purged meanwhile says nothing
            self._foreign[digest] = known
        return known or self._fingerprints

    # The clock

    def _measure(self) -> None:
        """Compare the clock of this host with the store's, by the quickest of a few answers."""
        lead = self._clock.lead()
        answers = [answer for answer in (self._ask_the_time() for _ in range(ANSWERS)) if answer]
        self._lead = lead
        if not answers:
            self._measured = float("inf")  # it is the same clock
            return
        self._measured = self._clock.monotonic()
        # A slow answer tells little: the first one may have had to wait for a connection.
        _, offset = min(answers)
        is_news = abs(offset - self._clock.offset) > WORTH_SAYING
        was_skewed, self._is_skewed = self._is_skewed, abs(offset) > self._config.max_clock_skew
        self._clock.offset = offset
        if self._is_skewed and was_skewed:
            return  # which has been said; its end will be, too
        if self._is_skewed:
            log.error(
                "the clock of this host is %.1f s from that of the run store, more than max_clock_skew: "
                "nothing is run here",
                -offset.total_seconds(),
                extra={"pulse_event": "clock_skewed"},
            )
        elif was_skewed:
            log.warning(
                "the clock of this host is %.1f s from that of the run store: tasks are run here again",
                abs(offset.total_seconds()),
                extra={"pulse_event": "clock_differs"},
            )
        elif is_news:
            log.warning(
                "the clock of this host is %.1f s from that of the run store: Pulse goes by the store's",
                -offset.total_seconds(),
                extra={"pulse_event": "clock_differs"},
            )

    def _ask_the_time(self) -> tuple[float, timedelta] | None:
        """How many seconds the store took to tell the time, and how far ahead it is: half of them do not count."""
        local, begun = self._clock.now() - self._clock.offset, self._clock.monotonic()
        theirs = self._store.now()
        if theirs is None:
            return None
        taken = self._clock.monotonic() - begun
        return taken, theirs - local - timedelta(seconds=taken / 2)


def fingerprint(task: Task) -> str:
    """Another one for each other definition of a task; the same on every host."""
    said = [(option.name, _plain(value)) for option, value in said_of(task) if value != option.value]
    return _hash(f"{_defaults()} {said!r}")


def digest_of(config: Config) -> str:
    """The fingerprint of all tasks of *config*."""
    return _digest(_fingerprints_of(config))


def _fingerprints_of(config: Config) -> Mapping[str, str]:
    return {name: fingerprint(task) for name, task in config.tasks.items()}


def _digest(fingerprints: Mapping[str, str]) -> str:
    return _hash("\n".join(f"{name} {said}" for name, said in sorted(fingerprints.items())))


@cache
def _defaults() -> str:
    """What the options mean that nobody has set, as most are."""
    return _hash(repr([(name, _plain(option.value)) for name, option in options_of(Task).items()]))


def _plain(value: object) -> object:
    # The order in which a set is shown depends on how it was made.
    return sorted(value) if isinstance(value, frozenset) else value


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
