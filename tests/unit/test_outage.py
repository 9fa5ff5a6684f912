"""What is said of a store that does not answer, or answers some and not others, and for how long that is felt."""

from datetime import UTC, datetime, timedelta

import pytest

from pulse.errors import StoreUnavailableError
from pulse.outage import LINGERS, SILENCE, Outage
from pulse.testing import ManualClock

LONG = 20.0  # seconds


class Bench:
    def __init__(self, log) -> None:
        self.clock = ManualClock(datetime(2027, 5, 1, 12, tzinfo=UTC))
        self.outage = Outage(self.clock, long=LONG)
        self._log = log

    def fail(self) -> None:
        with self.outage.endured("nothing is run unclaimed"):
            raise StoreUnavailableError("no answer in 3 s")

    def answer(self) -> None:
        with self.outage.endured("nothing is run unclaimed"):
            pass

    def wait(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @property
    def said(self) -> list[str]:
        return [record.pulse_event.removeprefix("store_") for record in self._log.records]


@pytest.fixture
def bench(caplog):
    return Bench(caplog)


def test_an_outage_is_said_once_and_again_after_a_while(bench):
    for _ in range(3):
        bench.fail()
        bench.wait(SILENCE / 2)

    assert bench.said == ["unavailable", "unavailable"]
    assert bench.outage.is_on


def test_each_step_that_fails_counts_whether_it_is_said_or_not(bench):
    for _ in range(3):
        bench.fail()
    bench.answer()
    bench.fail()

    assert bench.outage.errors == 4


def test_its_end_is_said_with_how_long_it_was(bench, caplog):
    bench.fail()
    bench.wait(28)
    bench.answer()

    assert bench.said == ["unavailable", "back"]
    assert "after 28.0 s" in caplog.text
    assert not bench.outage.is_on


def test_calls_that_began_while_it_was_on_and_fail_behind_its_end_are_not_said(bench):
    bench.fail()
    bench.wait(28)
    for _ in range(50):
        bench.answer()
        bench.fail()
        assert bench.outage.is_on
        bench.wait(LINGERS / 100)
    bench.answer()

    assert bench.said == ["unavailable", "back"]
    assert not bench.outage.is_on


def test_one_that_comes_back_at_once_and_stays_is_said_when_it_has_stayed(bench):
    bench.fail()
    bench.answer()
    bench.fail()
    bench.wait(LINGERS)
    bench.fail()
    bench.wait(1)
    bench.answer()

    assert bench.said == ["unavailable", "back", "unavailable", "back"]


def test_another_one_is_said_at_once(bench):
    bench.fail()
    bench.answer()
    bench.wait(LINGERS)
    bench.fail()

    assert bench.said == ["unavailable", "back", "unavailable"]


def test_a_long_one_is_felt_while_it_is_on_and_for_a_while_behind_its_end(bench):
    bench.fail()
    bench.wait(LONG - 1)
    assert not bench.outage.is_felt(30)
    bench.wait(1)
    assert bench.outage.is_felt(30)
    bench.answer()

    bench.wait(29)
    assert bench.outage.is_felt(30)
    bench.wait(1)
    assert not bench.outage.is_felt(30)


def test_a_short_one_is_not_felt(bench):
    bench.fail()
    bench.wait(LONG - 1)
    bench.answer()

    assert not bench.outage.is_felt(30)


def test_a_long_one_is_felt_though_calls_that_began_before_fail_behind_its_end(bench):
    bench.fail()
    bench.wait(LONG)
    bench.answer()
    bench.wait(1)
    bench.fail()
    assert bench.outage.is_felt(30)
    bench.answer()

    assert bench.outage.is_felt(30)
