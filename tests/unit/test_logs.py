"""Log records say which run they were made in."""

import json
import logging
from datetime import UTC, datetime

import pytest

from pulse.context import PulseContext, RouteContext
from pulse.logs import JsonFormatter, RunFormatter
from pulse.model import Run

RUN = Run(id="ab" * 16, task="cleanup", due=datetime(2027, 5, 1, 12, tzinfo=UTC))


def record(message="swept %d", *args, **extra) -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.INFO, __file__, 1, message, args or (3,), None)
    vars(made).update(extra)
    return made


@pytest.fixture
def inside():
    with PulseContext(None, route=RouteContext("/cleanup", "", "cleanup", RUN, True)):
        yield


def test_a_record_of_a_run_has_its_task_and_id(inside):
    said = json.loads(JsonFormatter().format(record()))

    assert (said["pulse_task"], said["pulse_run"]) == ("cleanup", RUN.id)
    assert (said["level"], said["logger"], said["message"]) == ("INFO", "shop", "swept 3")


def test_outside_of_runs_there_is_no_run():
    said = json.loads(JsonFormatter().format(record()))

    assert "pulse_run" not in said


def test_a_record_that_names_a_run_keeps_it(inside):
    said = json.loads(JsonFormatter().format(record(pulse_task="other", pulse_run="x", pulse_event="e")))

    assert (said["pulse_task"], said["pulse_run"], said["pulse_event"]) == ("other", "x", "e")


def test_what_json_cannot_say_becomes_text():
    said = json.loads(JsonFormatter().format(record(pulse_due=RUN.due, odd={1, 2})))

    assert said["pulse_due"] == "2027-05-01 12:00:00+00:00"
    assert said["odd"] == "{1, 2}"


def test_an_exception_stands_in_its_own_field():
    try:
        raise ValueError("no")
    except ValueError as error:
        made = record()
        made.exc_info = (ValueError, error, error.__traceback__)

    said = json.loads(JsonFormatter().format(made))

    assert said["exception"].endswith("ValueError: no")
    assert "\n" not in JsonFormatter().format(made)


@pytest.mark.parametrize(("is_inside", "expected"), [(True, f"cleanup {RUN.id} swept 3"), (False, "- - swept 3")])
def test_a_plain_format_may_name_the_run(is_inside, expected, request):
    if is_inside:
        request.getfixturevalue("inside")

    assert RunFormatter("%(pulse_task)s %(pulse_run)s %(message)s").format(record()) == expected
