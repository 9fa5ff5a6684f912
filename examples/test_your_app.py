"""A small application with tasks, and its tests: no thread, no sleep, a month in a moment.

pip install pulse pytest
pytest examples/test_your_app.py
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from pulse import PulseMiddleware
from pulse.testing import ManualClock, Rehearsal, assert_guarded, rehearse


class Shop:
    """The application: carts that are left behind are swept, and each month has an invoice."""

    def __init__(self) -> None:
        self.carts = ["apples", "pears"]
        self.invoices = 0
        self.printer_works = True

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serve one request."""
        status, text = "200 OK", "welcome"
        if environ["PATH_INFO"] == "/jobs/sweep":
            text, self.carts = f"swept {len(self.carts)} carts", []
        elif environ["PATH_INFO"] == "/jobs/invoice":
            if self.printer_works:
                self.invoices += 1
            else:
                status, text = "503 Service Unavailable", "the printer is out of paper"
        start_response(status, [("Content-Type", "text/plain")])
        return [text.encode()]


def make_app(shop: Shop) -> PulseMiddleware:
    """The whole application, as a server has it."""
    return PulseMiddleware(
        shop,
        context="jobs",
        guard=True,
        task={
            "sweep": {"interval": "5m"},
            "invoice": {"cron": "0 6 1 * *", "timezone": "Europe/Berlin", "retries": 3, "retry_delay": "10m"},
        },
    )


@pytest.fixture
def shop() -> Shop:
    """A fresh one for each test."""
    return Shop()


@pytest.fixture
def rehearsal(shop: Shop) -> Rehearsal:
    """Its tasks, on the evening of the last of May."""
    return rehearse(make_app(shop), clock=ManualClock(datetime(2027, 5, 31, 18, 0, tzinfo=UTC)))


def test_carts_are_swept_every_five_minutes(rehearsal: Rehearsal, shop: Shop) -> None:
    """Each run is a record: when it was due, how it ended, what was answered."""
    runs = rehearsal.advance("1h")

    assert [run.body for run in runs[:2]] == [b"swept 2 carts", b"swept 0 carts"]
    assert len(runs) == 12
    assert shop.carts == []


def test_the_invoice_is_printed_at_six_in_the_morning(rehearsal: Rehearsal, shop: Shop) -> None:
    """Time zones are those of production, too."""
    runs = [run for run in rehearsal.advance("1d") if run.task == "invoice"]

    assert [run.due for run in runs] == [datetime(2027, 6, 1, 4, 0, tzinfo=UTC)]
    assert shop.invoices == 1


def test_a_printer_without_paper_is_tried_again(rehearsal: Rehearsal, shop: Shop) -> None:
    """A test may change the world between two steps."""
    shop.printer_works = False
    rehearsal.advance("10h5m")
    shop.printer_works = True

    rehearsal.advance("10m")

    invoices = [run for run in rehearsal.runs if run.task == "invoice"]
    assert [(run.attempt, run.status) for run in invoices] == [(1, 503), (2, 200)]


def test_a_task_is_run_by_hand(rehearsal: Rehearsal) -> None:
    """Without any clock."""
    assert rehearsal.run("sweep").body == b"swept 2 carts"


def test_visitors_do_not_get_at_the_tasks(shop: Shop) -> None:
    """However they write the path."""
    assert_guarded(make_app(shop))
