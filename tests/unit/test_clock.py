"""Time as an argument."""

from datetime import UTC, datetime

from pulse.clock import Every, SystemClock
from pulse.testing import ManualClock


def test_what_is_done_every_so_often_has_come_once_that_long_has_passed():
    clock = ManualClock(datetime(2027, 5, 1, tzinfo=UTC))
    every = Every(10, clock)

    assert not every.has_come()
    clock.advance(9.5)
    assert not every.has_come()
    clock.advance(0.5)
    assert every.has_come()
    assert not every.has_come()
    clock.advance(25)
    assert [every.has_come() for _ in range(2)] == [True, False]


def test_the_clock_of_the_machine_says_one_time_in_two_forms():
    clock = SystemClock()

    before = clock.time()
    now = clock.now()

    assert now.tzinfo is UTC
    assert -0.001 < now.timestamp() - before < 60
