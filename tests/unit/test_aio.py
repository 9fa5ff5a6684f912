"""The time limits of runs on a loop, without one."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pulse.workers.flight import TimeLimit


class Loop:
    """Its time stands still; what is called at which time is listed."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        self.timers.append((when, call))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, call in due:
            call()


class Flight:
    def __init__(self, began: float) -> None:
        self.began = began
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def limit(loop) -> TimeLimit:
    return TimeLimit(timedelta(seconds=10), loop)


def begin(limit: TimeLimit, loop: Loop) -> Any:
    flight: Any = Flight(loop.time())
    limit.begin(flight)
    return flight


def test_each_flight_is_cut_at_the_end_of_its_own_time(loop, limit):
    flights = []
    for _ in range(3):
        flights.append(begin(limit, loop))
        loop.advance(1)

    seen = []
    for _ in range(12):
        loop.advance(1)
        seen.append(sum(flight.cuts for flight in flights))

    assert seen == [0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3]


def test_however_many_wait_there_is_one_timer(loop, limit):
    for _ in range(100):
        begin(limit, loop)
        loop.advance(0.01)

    assert len(loop.timers) == 1
    loop.advance(9.5)
    assert len(loop.timers) == 1


def test_a_flight_that_has_ended_is_not_cut(loop, limit):
    first, second = begin(limit, loop), begin(limit, loop)
    limit.end(first)

    loop.advance(10)

    assert (first.cuts, second.cuts) == (0, 1)
    limit.end(second)  # as it does when it lands


def test_when_all_have_ended_nothing_is_kept_and_the_next_one_has_a_timer(loop, limit):
    limit.end(begin(limit, loop))
    loop.advance(20)
    assert loop.timers == []

    late = begin(limit, loop)
    loop.advance(10)

    assert late.cuts == 1
    assert loop.timers == []


def test_a_timer_that_rings_too_early_is_set_again(loop, limit):
    flight = begin(limit, loop)
    loop.timers = [(when - 1e-9, ring) for when, ring in loop.timers]

    loop.now = 110 - 1e-9
    loop.advance(0)
    assert flight.cuts == 0
    loop.advance(1)

    assert flight.cuts == 1
