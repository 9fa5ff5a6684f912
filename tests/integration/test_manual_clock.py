"""A clock that a test moves, beside threads that wait on it."""

import threading

import pytest

from pulse.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def stopped():
    return threading.Event()


@pytest.fixture
def waiter(clock, stopped):
    """A thread that waits for a minute of *clock*, and what came of it."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(clock.wait(stopped, 60)))
    thread.start()
    yield thread, answers
    stopped.set()
    thread.join()


def test_who_waits_on_the_clock_goes_on_once_its_time_has_come(clock, waiter):
    thread, answers = waiter

    clock.wait_until_parked()
    clock.advance(60)
    thread.join(60)

    assert answers == [False]


def test_who_waits_on_the_clock_goes_on_once_it_is_told_to(clock, stopped, waiter):
    thread, answers = waiter

    clock.wait_until_parked()
    stopped.set()
    thread.join(60)

    assert answers == [True]


def test_nobody_is_parked_before_or_after_the_wait(clock, stopped, waiter):
    thread, _ = waiter
    clock.wait_until_parked()
    stopped.set()
    thread.join(60)

    with pytest.raises(TimeoutError, match="0 of 1 threads wait on the clock"):
        clock.wait_until_parked(limit=0)


def test_who_is_to_go_on_is_not_parked_any_more(clock, waiter):
    clock.wait_until_parked()
    clock.advance(60)

    with pytest.raises(TimeoutError, match="0 of 1"):
        clock.wait_until_parked(limit=0)


def test_who_is_told_to_go_on_is_not_parked_any_more(clock, stopped, waiter):
    clock.wait_until_parked()
    stopped.set()

    with pytest.raises(TimeoutError, match="0 of 1"):
        clock.wait_until_parked(limit=0)
