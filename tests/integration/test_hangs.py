"""Endpoints that hang by the hundred, in a real server: the healthy ones do not notice."""

from pathlib import Path

from books import Fleet
from servers import wait_until, waitress

from pulse.model import Outcome

HANGING = 200
INSTANTS = 4


def site(folder: Path, **config) -> Fleet:
    hangs = {
        f"hangs{number}": {"action": "hang?hangs=for+ever", "interval": 1, "timeout": 1 + number / HANGING}
        for number in range(HANGING)
    }
    return Fleet(folder, task={**hangs, "healthy": {"interval": 1}}, shutdown_timeout=0, **config)


def test_beside_hundreds_of_endpoints_that_hang_every_instant_of_a_healthy_task_is_run(tmp_path):
    fleet = site(tmp_path)
    with waitress("fleet_app:application", env=fleet.env, cwd=fleet.home) as server:
        server.get("/")

        wait_until(lambda: len(fleet.ended("healthy")) >= INSTANTS)
        wait_until(lambda: Outcome.TIMEOUT in {run.outcome for run in fleet.records("hangs0")})

    assert {run.outcome for run in fleet.records("healthy")} == {Outcome.SUCCESS}
    fleet.must_balance("healthy")
