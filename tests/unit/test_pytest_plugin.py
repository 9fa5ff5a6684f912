"""In the process of the tests: `tests/integration/test_wheel.py` has it found by its entry point."""

import os

import pytest

from pulse import pytest_plugin
from pulse.wsgi.lazy import START_VARIABLE

pytest_plugins = "pytester"

PASSING = """
    import os

    def test_what_is_set():
        assert os.environ.get("PULSE_START") == {start!r}
    """


@pytest.fixture
def suite(pytester, monkeypatch):
    """A suite that somebody else has, in an environment that says nothing of a start."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it may be installed, and then would be there twice
    monkeypatch.delenv(START_VARIABLE, raising=False)
    return pytester


def run(suite):
    return suite.runpytest_inprocess("-p", "pulse.pytest_plugin", "--strict-config")


def test_the_variable_is_that_of_the_start_rule():
    assert pytest_plugin.VARIABLE == START_VARIABLE


@pytest.mark.parametrize("before", [None, "now"])
@pytest.mark.parametrize(
    ("ini", "start"), [("", "manual"), ("pulse_start = manual", "manual"), ("pulse_start = Configured", "as before")]
)
def test_no_task_runs_by_itself_unless_the_suite_says_so(suite, monkeypatch, before, ini, start):
    if before:
        monkeypatch.setenv(START_VARIABLE, before)
    suite.makeini(f"[pytest]\n{ini}\n")
    suite.makepyfile(PASSING.format(start=before if start == "as before" else start))

    run(suite).assert_outcomes(passed=1)

    assert os.environ.get(START_VARIABLE) == before


def test_what_a_conftest_builds_keeps_still(suite):
    suite.makeconftest("import os\n\nassert os.environ['PULSE_START'] == 'manual'\n")
    suite.makepyfile(PASSING.format(start="manual"))

    run(suite).assert_outcomes(passed=1)


@pytest.mark.parametrize("start", ["auto", "now"])
def test_an_application_that_a_test_builds_and_asks_starts_no_thread(suite, start):
    suite.makepyfile(f"""
        import threading
        from pulse import PulseMiddleware

        def site(environ, start_response):
            start_response("200 OK", [])
            return []

        def test_it():
            before = threading.active_count()
            app = PulseMiddleware(site, task={{"a": {{}}}}, store="memory:", start={start!r})
            app({{"REQUEST_METHOD": "GET", "PATH_INFO": "/"}}, lambda *_: None)
            assert threading.active_count() == before
        """)

    run(suite).assert_outcomes(passed=1)


def test_what_a_conftest_sets_stays_for_the_run(suite):
    suite.makeconftest("import os\n\nos.environ['PULSE_START'] = 'request'\n")
    suite.makepyfile(PASSING.format(start="request"))

    run(suite).assert_outcomes(passed=1)

    assert START_VARIABLE not in os.environ


def test_a_conftest_may_load_the_plugin(suite):
    suite.makeconftest("pytest_plugins = 'pulse.pytest_plugin'\n")
    suite.makepyfile(PASSING.format(start="manual"))

    suite.runpytest_inprocess().assert_outcomes(passed=1)

    assert START_VARIABLE not in os.environ


def test_a_word_that_means_nothing_ends_the_run_and_is_named(suite):
    suite.makeini("[pytest]\npulse_start = never\n")
    suite.makepyfile(PASSING.format(start=None))

    result = run(suite)

    assert result.ret is pytest.ExitCode.USAGE_ERROR
    assert "ERROR: pulse_start = 'never': want manual or configured" in result.stderr.str()
    assert START_VARIABLE not in os.environ


def test_the_clock_is_one_that_the_test_moves(suite):
    suite.makepyfile("""
        from pulse import PulseMiddleware
        from pulse.testing import rehearse

        def test_the_day_begins(pulse_clock):
            app = PulseMiddleware(lambda environ, start_response: [], task={"a": {"cron": "@daily"}}, store="memory:")
            rehearsal = rehearse(app, clock=pulse_clock)
            pulse_clock.advance("1d")
            assert [run.due for run in rehearsal.run_due()] == [pulse_clock.now()]
        """)

    run(suite).assert_outcomes(passed=1)
