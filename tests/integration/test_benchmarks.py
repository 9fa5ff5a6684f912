"""The benchmarks run and leave nothing out; what their figures say is for those who run them in earnest."""

import subprocess
import sys
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COUNTS = {"twice", "missed"}  # of what should not happen: the only figures that may be 0

ROWS = {
    "request_path": [
        "empty passthrough __call__ (the limit)",
        "one test in a frozenset",
        "Pulse, guard off",
        "Pulse, guard on: the same path again",
        "Pulse, guard on: 10,000 paths in turn",
        "Pulse, guard on: a guarded path, answered 404",
        "werkzeug ProxyFix",
        "werkzeug DispatcherMiddleware",
        "beaker SessionMiddleware",
        "WebOb wsgify middleware",
    ],
    "dispatch": [
        "environ by hand and a direct call (the limit)",
        "Pulse: Dispatcher",
        "WebOb: Request.blank().get_response()",
        "webtest: TestApp",
        "werkzeug: test.Client",
        "httpx: WSGITransport",
        "HTTP to waitress: http.client, kept alive",
        "HTTP to waitress: urllib",
        "HTTP to waitress: requests.get",
        "HTTP to waitress: curl, process start included",
    ],
    "fires": ["heap, condition and own threads (the limit)", "APScheduler 3 as it comes", "Pulse"] * 4,
    "processes": [
        "a child behind a pipe (the limit)",
        "Pulse: Children",
        "ProcessPoolExecutor",
        "pebble: ProcessPool",
        "a child behind a pipe (the limit)",
        "Pulse: Children",
        "pebble: ProcessPool",
    ],
    "awaits": ["tasks on a loop, environs by hand (the limit)", "Pulse: mode asyncio"],
    "hangs": [
        "Pulse: alone",
        "Pulse: beside 200 that hang",
        "Pulse: beside 200 that hang, with workers = 4",
    ],
}


@pytest.fixture(scope="module")
def measured():
    """The rows of a benchmark by its name; each runs once, and finds its neighbours as a program does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield cache(lambda name: import_module(name).main(["--quick"]))


def figures(row) -> dict[str, float | None]:
    return {one.name: getattr(row, one.name) for one in fields(row) if "heading" in one.metadata}


@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_has_a_row_for_each_way(measured, name):
    rows = measured(name)

    assert [row.name for row in rows] == ROWS[name]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_figures_unless_its_peer_is_not_installed(measured, name):
    rows = measured(name)

    for row in rows:
        taken = {column: figure for column, figure in figures(row).items() if figure is not None}
        assert bool(taken) == row.is_installed
        assert all(figure > 0 for column, figure in taken.items() if column not in COUNTS), row


@pytest.mark.parametrize("name", ROWS)
def test_the_limit_and_pulse_need_no_peer(measured, name):
    rows = [row for row in measured(name) if "(the limit)" in row.name or row.name.startswith("Pulse")]

    assert len(rows) >= 2
    assert all(row.is_installed for row in rows)


def test_pulse_stops_every_spelling_of_a_guarded_path_and_a_set_only_one(measured):
    stopped = {row.name: row.stopped for row in measured("request_path")}

    assert stopped["Pulse, guard on: the same path again"] == 12
    assert stopped["one test in a frozenset"] == 1


def test_no_fire_is_counted_that_was_not_due(measured):
    rows = [row for row in measured("fires") if hasattr(row, "fired")]

    assert all(0 < row.fired <= row.due for row in rows)


@pytest.mark.parametrize("library", ["werkzeug", "beaker"])
def test_a_peer_that_is_not_installed_is_listed_and_the_rest_goes_on(measured, monkeypatch, capsys, library):
    measured("request_path")
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)

    rows = import_module("request_path").main(["--quick"])

    assert {row.name.partition(" ")[0] for row in rows if not row.is_installed} >= {library}
    assert "not installed" in capsys.readouterr().out
    assert [row.name for row in rows] == ROWS["request_path"]


def test_a_figure_beyond_its_bound_ends_the_program_only_when_that_is_asked_for(measured):
    measured("processes")
    measure = import_module("measure")
    checked = measure.effort("", ["--check"], rounds=1, has_bounds=True)

    measure.check(measure.effort("", [], rounds=1, has_bounds=True), "x the limit", 2.0, most=1.0)
    measure.check(checked, "x the limit", 1.0, most=1.0)
    for figure in (2.0, float("nan")):
        with pytest.raises(SystemExit, match=r"x the limit: .*, want at most 1"):
            measure.check(checked, "x the limit", figure, most=1.0)


def test_a_benchmark_is_a_program():
    command = [sys.executable, BENCHMARKS / "processes.py", "--quick", "--rounds", "2"]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "medians of 2 interleaved rounds" in printed
    assert all(name in printed for name in ROWS["processes"])
