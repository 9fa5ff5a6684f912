"""The line between a run and who watches it."""

from threading import Event

import pytest

from pulse.control import Control
from pulse.model import Progress


def test_the_first_reason_to_stop_stays():
    control = Control()

    control.stop("by ada")
    control.stop("the process ends")

    assert control.is_set()
    assert control.reason == "by ada"


def test_a_run_tells_how_far_it_has_got():
    control = Control()

    control.tell(31, 50, "building\n  pages " + "x" * 300)

    assert control.progress == Progress(done=31, total=50, text=("building pages " + "x" * 300)[:200])


def test_the_total_may_be_unknown():
    control = Control()

    control.tell(0.5)

    assert control.progress == Progress(done=0.5)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("1",), TypeError), ((None,), TypeError), ((True,), TypeError), ((1, "2"), TypeError), ((1, 2, b"x"), TypeError),
     ((float("nan"),), ValueError), ((1, float("inf")), ValueError), ((10**400,), ValueError)],
)  # fmt: skip
def test_what_is_no_progress_is_refused(arguments, error):
    control = Control()

    with pytest.raises(error, match="want"):
        control.tell(*arguments)

    assert control.progress is None


def test_it_is_an_event_as_those_of_threading_are():
    control = Control()
    assert isinstance(control, Event)
    assert repr(control) == "<Control: unset>"
    assert not control.is_set()
    assert not control.wait(0)

    control.set()

    assert control.is_set()
    assert control.wait()
    assert repr(control) == "<Control: set>"
    control.clear()
    assert not control.wait(0)
