"""What the warnings of `pulse check` cost with many tasks, counted in comparisons."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from pulse.commands import danger
from pulse.commands.danger import SLIPS, dangers
from pulse.config import read_config

NOW = datetime(2027, 5, 1, 12, tzinfo=UTC)


class Written(dict[str, str]):
    """Options; counts how often somebody reads them all."""

    readings = 0

    def __iter__(self) -> Iterator[str]:
        self.readings += 1
        return super().__iter__()


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names for which a similar one was looked for."""
    names: list[str] = []
    monkeypatch.setattr(danger, "get_close_matches", lambda name, *_, **__: names.append(name))
    return names


def written(*, decided: int, bare: int) -> Written:
    options = {f"pulse.task.report{number}.interval": "60" for number in range(decided)}
    options |= {f"pulse.task.reprot{number}.overlap": "queue" for number in range(bare)}
    return Written(options)


@pytest.mark.parametrize(
    ("bare", "looks"), [(0, 0), (2, 2), (SLIPS, SLIPS), (SLIPS + 1, 0)], ids=["none", "two", "most", "more"]
)
def test_only_tasks_that_may_be_slips_are_compared_with_all_others(compared, bare, looks):
    said = written(decided=60, bare=bare)

    list(dangers(read_config(dict(said)), said, "site.ini", NOW))

    assert len(compared) == looks


def test_what_is_written_is_not_read_anew_for_each_task():
    said = written(decided=60, bare=0)

    list(dangers(read_config(dict(said)), said, "site.ini", NOW))

    assert said.readings < 5
