"""What the words of Pulse promise beyond their fields."""

from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest

from pulse.model import Fire

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
RUNS = uuid5(NAMESPACE_URL, "urn:pulse:run")


@pytest.mark.parametrize("minutes", range(16))
def test_the_run_of_a_planned_instant_has_the_same_uuid_in_every_process(minutes):
    due = NOON + timedelta(minutes=minutes)

    fire = Fire(task="räumen", due=due, place="here")

    assert fire.run_id == uuid5(RUNS, f"räumen@here {due.isoformat()}").hex
    assert UUID(fire.run_id).version == 5


def test_a_run_that_has_an_id_keeps_it():
    assert Fire(task="a", due=NOON, run_id="r1").run_id == "r1"
