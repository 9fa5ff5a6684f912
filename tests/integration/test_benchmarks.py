"""The benchmarks run and leave nothing out; what their figures say is for those who run them in earnest."""

import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COUNTS = {"twice", "missed", "fires"}  # what should not happen, or not as well: the only figures that may be 0

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
    "fires": [
        *[
            "heap, condition and own threads (the limit)",
            "APScheduler 3 as it comes",
            "Pulse, store in memory",
            "Pulse, durable on SQLite",
        ]
        * 4,
        "Pulse, store in memory",
        "Pulse, durable on SQLite",
        "Pulse, shared on Redis",
    ],
    "processes": [
        "a child behind a pipe (the limit)",
        "Pulse: Children",
        "ProcessPoolExecutor",
        "pebble: ProcessPool",
        "a child behind a pipe (the limit)",
        "Pulse: Children",
        "pebble: ProcessPool",
    ],
    "celery_fires": [
        "Celery: beat, and a worker (the peer)",
        "Pulse, mode celery: pulse worker, and a worker of Celery",
        "Pulse, mode threading: pulse worker on the same store",
    ],
    "stores": [
        "Pulse in memory",
        "SQLite: INSERT OR IGNORE (the limit)",
        "Pulse on SQLite",
        "Redis: SET NX PX (the limit)",
        "Pulse on Redis",
        "Pulse on Redis, 16 runs in one go",
        "PostgreSQL: ON CONFLICT (the limit)",
        "Pulse on PostgreSQL",
        "Pulse on PostgreSQL, 16 runs in one go",
    ],
    "sessions": [
        "empty passthrough (the limit)",
        "Pulse, in memory",
        "Pulse, signed cookie",
        "beaker, in memory",
        "beaker, signed cookie",
        "empty passthrough (the limit)",
        "Pulse, in memory",
        "Pulse, signed cookie",
        "starlette, signed cookie",
    ],
    "events": ["redis-py Pub/Sub, JSON by hand (the limit)", "Pulse: RedisEventBus", "Pulse: MemoryEventBus"],
    "scale": ["Pulse, store in memory", "Pulse, durable on SQLite"] * 2,
    "awaits": ["tasks on a loop, environs by hand (the limit)", "Pulse: mode asyncio"],
    "hangs": [
        "Pulse: alone",
        "Pulse: beside 200 that hang",
        "Pulse: beside 200 that hang, with workers = 4",
    ],
    "busy": [
        "no engine (the limit)",
        "heap, condition and own threads (the limit)",
        "APScheduler 3 as it comes",
        "Pulse, store in memory",
        "Pulse, durable on SQLite",
    ],
    "startup": [
        "an interpreter that imports nothing",
        "what the middleware needs of others (the limit)",
        "Pulse: import pulse",
        "Pulse: from pulse import PulseMiddleware",
        "Flask: import flask",
        "Celery: from celery import Celery; Celery()",
        "an interpreter that imports nothing",
        "Pulse: pulse list, ten tasks",
        "Pulse: pulse --help",
        "Flask: flask --help",
        "Celery: celery --help",
    ],
}
SERVED = {"Pulse on Redis", "Pulse on PostgreSQL", "Pulse: RedisEventBus", "Pulse, shared on Redis"}  # need a server
WAITING = ("celery_fires", "fires", "hangs", "scale")  # they hardly work: begun at once, in processes of their own


@pytest.fixture(scope="module")
def measured(request):
    """The rows of a benchmark by its name; each runs once, and finds its neighbours as a program does."""
    items = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    wanted = {item.callspec.params.get("name") for item in items}
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        patch.syspath_prepend(BENCHMARKS)
        begun = {name: pool.submit(import_module(name).main, ["--quick"]) for name in WAITING if name in wanted}
        yield cache(lambda name: begun[name].result() if name in begun else import_module(name).main(["--quick"]))


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
    rows = [
        row
        for row in measured(name)
        if row.name.startswith(("Pulse", "empty", "environ", "heap", "a child", "tasks on"))
    ]

    assert len(rows) >= 2
    assert all(row.is_installed for row in rows if row.name not in SERVED)


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


def test_a_benchmark_is_a_program():
    command = [sys.executable, BENCHMARKS / "processes.py", "--quick", "--rounds", "2"]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "medians of 2 interleaved rounds" in printed
    assert all(name in printed for name in ROWS["processes"])


@pytest.fixture
def measure(measured):
    """The module that all benchmarks share."""
    measured("dispatch")
    return import_module("measure")


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ({"most": 11.9}, "Pulse: ratio = 12.00; want 0 to 11.9"),
        ({"least": 12.1}, "Pulse: ratio = 12.00; want 12.1 to inf"),
        ({"least": 12, "most": 12}, ""),
        ({"name": "another", "most": 1}, ""),
    ],
)
def test_a_ratio_keeps_to_its_bounds(measure, bound, said):
    row = import_module("dispatch").Way(name="Pulse", ratio=12.0)

    assert measure.Bound(**{"name": "Pulse", "figure": "ratio", **bound}).fault([row]) == said


def test_a_ratio_beyond_its_bound_ends_a_checked_run_and_no_other(measured, measure):
    rows = measured("dispatch")
    bound = measure.Bound(name=rows[0].name, figure="ratio", most=0.5)

    measure.check(rows, [bound], measure.Effort(rounds=1, is_quick=True))
    with pytest.raises(SystemExit, match=r"ratio = 1\.00; want 0 to 0\.5"):
        measure.check(rows, [bound], measure.Effort(rounds=1, is_quick=True, is_checked=True))


@pytest.mark.parametrize("name", ["dispatch", "request_path"])
def test_a_bound_is_that_of_a_row_and_its_figure(measured, name):
    rows = {row.name: row for row in measured(name)}

    bounds = import_module(name).BOUNDS

    assert bounds
    assert all(hasattr(rows[bound.name], bound.figure) for bound in bounds)


@pytest.fixture(scope="module")
def page(measured, tmp_path_factory):
    """The folder of the page that two of the benchmarks make."""
    measured("dispatch")
    folder = tmp_path_factory.mktemp("results")
    import_module("all").main(["--only", "processes,sessions", "--quick", "--check", "--to", str(folder)])
    return folder


def test_all_benchmarks_make_one_page_with_their_commands_tables_and_plots(page):
    text = (page / "RESULTS.md").read_text(encoding="utf-8")

    for name in ("processes", "sessions"):
        assert f"`python benchmarks/{name}.py --quick`" in text
        assert all(f"| {row} " in text for row in ROWS[name])
    plots = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert plots
    assert all((page / plot).read_text(encoding="utf-8").startswith("<svg ") for plot in plots)
    assert "## On paper" in text


def test_the_page_leaves_out_no_benchmark(measured):
    measured("dispatch")
    programs = {path.stem for path in BENCHMARKS.glob("*.py") if "--rounds" in path.read_text(encoding="utf-8")}

    known = {one.name for one in import_module("all").BENCHMARKS}

    assert programs - {"measure", "all"} <= known


def test_a_benchmark_that_fails_is_on_the_page_and_ends_the_run_with_status_1(measured, monkeypatch, tmp_path, capsys):
    measured("dispatch")
    everything = import_module("all")
    monkeypatch.setattr(everything, "BENCHMARKS", [everything.Benchmark("processes", quick=["--no-such-option"])])

    with pytest.raises(SystemExit, match="1"):
        everything.main(["--quick", "--to", str(tmp_path)])

    assert "no-such-option" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


def test_a_plot_is_well_formed_and_has_a_bar_for_each_figure(measured):
    measured("dispatch")
    bars = import_module("plot").bars

    chart = ET.fromstring(bars("a < b", [("Pulse & co.", "1,250.5"), ("a peer", "2.0"), ("none", "-")]))

    drawn = chart.findall(".//{http://www.w3.org/2000/svg}rect")
    assert [round(float(bar.get("width")) * 1250.5 / 340) for bar in drawn] == [1250, 4]
    assert bars("nothing", [("none", "-")]) == ""
