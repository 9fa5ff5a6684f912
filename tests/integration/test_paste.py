"""The samples of 2009, in every form an ini file can give them."""

import sys
import textwrap
import threading
from pathlib import Path

import pytest
import waitress
import webtest
from paste.deploy import loadapp
from servers import wait_until

from pulse import PulseMiddleware
from pulse.errors import ConfigError
from pulse.wsgi.lazy import collecting

APP = """
import threading

CALLS = []
CALLED = threading.Event()

def app_factory(global_conf, **local_conf):
    def app(environ, start_response):
        CALLS.append((environ["PATH_INFO"], "pulse.info" in environ))
        if "pulse.info" in environ:
            CALLED.set()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"cleaned" if environ["PATH_INFO"] == "/sessions/cleanup" else b"page"]
    return app
"""

FILTER = """
[app:site]
paste.app_factory = housekeeping:app_factory

[pipeline:main]
pipeline = pulse site

[filter:pulse]
use = egg:pulse
{keys}
"""

FILTER_APP = """
[app:site]
paste.app_factory = housekeeping:app_factory

[filter-app:main]
use = egg:pulse#pulse_factory
next = site
{keys}
"""

IN_DEFAULT = """
[DEFAULT]
{keys}

[app:site]
paste.app_factory = housekeeping:app_factory

[filter-app:main]
use = egg:pulse
next = site
"""

SAMPLE = """
pulse.config.context = sessions
pulse.task.cleanup.action = cleanup
pulse.task.cleanup.interval = 0.2
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Load an ini file whose application is a fresh module; gives the middleware."""
    (tmp_path / "housekeeping.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "housekeeping", raising=False)
    built: list[PulseMiddleware] = []

    def load(form: str, keys: str) -> PulseMiddleware:
        path = tmp_path / "production.ini"
        path.write_text(form.format(keys=textwrap.dedent(keys)))
        with collecting() as collected:
            app = loadapp(f"config:{path}")
        assert collected == [app]
        built.extend(collected)
        return app

    yield load
    for middleware in built:
        middleware.close()


@pytest.mark.parametrize("form", [FILTER, FILTER_APP, IN_DEFAULT], ids=["filter", "filter-app", "DEFAULT"])
def test_the_sample_of_2009_runs_under_webtest_after_the_first_request(load, form):
    app = webtest.TestApp(load(form, SAMPLE))

    assert app.get("/").text == "page"

    import housekeeping  # noqa: PLC0415 - made by the fixture

    wait_until(lambda: housekeeping.CALLS.count(("/sessions/cleanup", True)) >= 2)
    assert app.get("/sessions/cleanup").text == "cleaned"


@pytest.mark.parametrize("form", [FILTER, FILTER_APP, IN_DEFAULT], ids=["filter", "filter-app", "DEFAULT"])
def test_the_sample_of_2009_runs_under_waitress_without_any_request(load, form):
    app = load(form, SAMPLE)
    server = waitress.create_server(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        import housekeeping  # noqa: PLC0415 - made by the fixture

        assert housekeeping.CALLED.wait(30)
    finally:
        # In the server's own thread: a socket that is closed by another one breaks its `select`.
        server.trigger.pull_trigger(server.close)
        thread.join(30)
        server.task_dispatcher.shutdown()


def test_nothing_is_requested_while_nobody_serves(load):
    load(FILTER, SAMPLE)

    import housekeeping  # noqa: PLC0415 - made by the fixture

    assert housekeeping.CALLED.wait(1.5) is False


@pytest.mark.parametrize("form", [FILTER, FILTER_APP, IN_DEFAULT], ids=["filter", "filter-app", "DEFAULT"])
def test_the_guard_hides_the_endpoint_in_every_form(load, form):
    app = webtest.TestApp(load(form, SAMPLE + "pulse.config.guard = True\n"))

    app.get("/sessions/cleanup", status=404)
    app.post("/sessions//CLEANUP/x", status=404)
    assert app.get("/sessions/login").text == "page"


def test_set_overrides_default(load):
    app = load(
        "[DEFAULT]\npulse.config.context = shared\n" + FILTER,
        "set pulse.config.context = own\npulse.task.a.interval = 5\n",
    )

    assert app.config.tasks["a"].path == "/own/a"


def test_a_broken_ini_names_file_section_key_value_and_remedy(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as caught:
        load(FILTER, "pulse.task.cleanup.intervall = 300\nguard = true\npulse.config.mode = treading ; or not\n")

    assert str(caught.value).splitlines()[1:] == [
        "  production.ini [filter:pulse]: pulse.task.cleanup.intervall = '300': unknown option; "
        "did you mean 'pulse.task.cleanup.interval'?",
        "  production.ini [filter:pulse]: guard = 'true': unknown option; did you mean 'pulse.config.guard'?",
        "  production.ini [filter:pulse]: pulse.config.mode = 'treading ; or not': an ini file keeps '; ...' behind a "
        "value as part of it: give the comment a line of its own",
    ]
