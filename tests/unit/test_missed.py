"""What is to be caught up is kept as from where to where, and made one by one."""

from datetime import UTC, datetime, timedelta

import pytest

from pulse.config import read_config
from pulse.missed import Missed
from pulse.model import Fire
from pulse.schedule import Schedule, schedule_of

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BERLIN = {"cron": "*/10 2 * * *", "timezone": "Europe/Berlin"}


def schedule(**said) -> Schedule:
    return schedule_of(read_config(tasks={"a": said}).tasks["a"])


class Made:
    """The fires that were made, as what they were made of."""

    def __init__(self) -> None:
        self.calls: list[tuple[datetime, datetime | None, bool]] = []

    def __call__(self, due, following, *, is_last):
        self.calls.append((due, following, is_last))
        return Fire(task="a", due=due)


def all_of(missed: Missed) -> list[datetime]:
    return [missed.pop().due for _ in range(len(missed))]


def instants(rule: Schedule, first: datetime, count: int) -> list[datetime]:
    dues = [first]
    while len(dues) < count:
        dues.append(rule.next_due(dues[-1]))
    return dues


def test_each_is_made_when_it_is_asked_for_and_knows_what_is_due_behind_it():
    made = Made()
    missed = Missed("a", schedule(interval=60), NOON, NOON + 2 * MINUTE, made)
    assert (len(missed), made.calls) == (3, [])

    missed.pop()
    assert (len(missed), made.calls) == (2, [(NOON, NOON + MINUTE, False)])

    all_of(missed)
    assert made.calls[1:] == [(NOON + MINUTE, NOON + 2 * MINUTE, False), (NOON + 2 * MINUTE, NOON + 3 * MINUTE, True)]


@pytest.mark.parametrize(
    "said",
    [{"interval": 60}, {"interval": 0.7, "offset": 0.3}, {"cron": "*/7 * * * *"}, {"cron": "* * * * * *"}, BERLIN],
)
@pytest.mark.parametrize("dropped", [0, 1, 2, 57, 98, 99])
def test_the_oldest_are_dropped_without_being_made(said, dropped):
    rule, made = schedule(**said), Made()
    dues = instants(rule, rule.next_due(datetime(2027, 3, 27, tzinfo=UTC)), 100)  # over a change of Berlin's clocks
    missed = Missed("a", rule, dues[0], dues[-1], made)

    missed.drop(dropped)

    assert len(missed) == 100 - dropped
    assert all_of(missed) == dues[dropped:]
    assert len(made.calls) == 100 - dropped


def test_what_is_dropped_in_several_steps_is_dropped_together():
    rule = schedule(interval=60)
    missed = Missed("a", rule, NOON, NOON + 9 * MINUTE, Made())

    missed.drop(2)
    missed.drop(3)
    assert missed.pop().due == NOON + 5 * MINUTE
    missed.drop(1)

    assert all_of(missed) == [NOON + minute * MINUTE for minute in (7, 8, 9)]


def test_what_has_become_due_since_joins_them():
    missed = Missed("a", schedule(interval=60), NOON, NOON, Made())

    assert missed.pop().due == NOON
    missed.reach(NOON + 3 * MINUTE)

    assert missed.last == NOON + 3 * MINUTE
    assert all_of(missed) == [NOON + minute * MINUTE for minute in (1, 2, 3)]


def test_what_rings_again_since_the_clock_was_set_back_is_among_them_already():
    missed = Missed("a", schedule(interval=60), NOON, NOON + 9 * MINUTE, Made())
    missed.pop()

    for minute in range(2, 12):
        missed.reach(NOON + minute * MINUTE)

    assert missed.last == NOON + 11 * MINUTE
    assert all_of(missed) == [NOON + minute * MINUTE for minute in range(1, 12)]


def test_the_last_one_of_all_has_none_behind_it():
    made = Made()
    rule = schedule(interval=60, end_date=NOON + MINUTE)

    all_of(Missed("a", rule, NOON, NOON + MINUTE, made))

    assert made.calls[-1] == (NOON + MINUTE, None, True)


def test_years_of_seconds_are_kept_and_dropped_as_cheaply_as_a_minute_of_them():
    rule = schedule(cron="* * * * * *")
    end = NOON + timedelta(days=1000)
    missed = Missed("a", rule, NOON, end, Made())

    missed.drop(len(missed) - 10)

    assert all_of(missed) == instants(rule, end - timedelta(seconds=9), 10)
