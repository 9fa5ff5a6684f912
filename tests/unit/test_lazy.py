"""Applications that are loaded where they are called: once, again after a failure, again in a copy."""

import copy
import os
import pickle
import sys
import threading

import pytest

from pulse.errors import ApplicationError
from pulse.middleware import PulseMiddleware
from pulse.wsgi.lazy import START_VARIABLE, LazyWsgi, collecting, load_application, manual_start


def page(environ, start_response):
    start_response("200 OK", [])
    return [b"page"]


class Lazy(LazyWsgi):
    """Notes its setups; `fails` of them raise first."""

    setups = 0
    fails = 0
    seen = None

    def setup(self, environ=None):
        type(self).setups += 1
        type(self).seen = environ
        if type(self).setups <= type(self).fails:
            raise OSError("not yet")
        return page


@pytest.fixture
def lazy():
    Lazy.setups = Lazy.fails = 0
    Lazy.seen = None
    return Lazy()


def call(app):
    return b"".join(app({"REQUEST_METHOD": "GET"}, lambda status, headers: None))


def test_setup_is_called_at_the_first_call_and_only_then(lazy):
    assert Lazy.setups == 0

    assert [call(lazy), call(lazy)] == [b"page", b"page"]

    assert (Lazy.setups, Lazy.seen) == (1, {"REQUEST_METHOD": "GET"})


class Crowded:
    """A lock that nobody gets before *callers* of them want it."""

    def __init__(self, callers):
        self._all_here = threading.Barrier(callers, timeout=60)
        self._lock = threading.Lock()

    def __enter__(self):
        self._all_here.wait()
        self._lock.acquire()

    def __exit__(self, *error):
        self._lock.release()


def test_setup_is_called_once_when_many_threads_call_first(lazy):
    lazy._lock = Crowded(8)  # so all of them have found that nothing is set up
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(call(lazy))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (answers, Lazy.setups) == ([b"page"] * 8, 1)


def test_a_setup_that_fails_is_tried_again_at_the_next_call(lazy):
    Lazy.fails = 1

    with pytest.raises(OSError, match="not yet"):
        call(lazy)

    assert call(lazy) == b"page"


def test_the_base_does_not_know_what_to_set_up():
    with pytest.raises(NotImplementedError, match="LazyWsgi must implement setup"):
        call(LazyWsgi())


@pytest.mark.parametrize("duplicate", [lambda app: pickle.loads(pickle.dumps(app)), copy.copy, copy.deepcopy])
def test_copies_set_themselves_up_before_and_after_the_first_call(lazy, duplicate):
    lazy.greeting = "kept"
    early = duplicate(lazy)
    call(lazy)
    late = duplicate(lazy)

    assert [call(early), call(late)] == [b"page", b"page"]
    assert (Lazy.setups, early.greeting, late.greeting) == (3, "kept", "kept")


def test_a_setup_that_gives_no_application_is_told_so_and_tried_again():
    class Odd(LazyWsgi):
        made = None

        def setup(self, environ=None):
            return self.made

    class Asynchronous(LazyWsgi):
        async def setup(self, environ=None):
            return page

    odd = Odd()
    with pytest.raises(TypeError, match=r"Odd\.setup gave back a NoneType: want a WSGI application"):
        call(odd)
    odd.made = page

    assert call(odd) == b"page"
    with pytest.raises(TypeError, match=r"Asynchronous\.setup gave back a coroutine: want a plain function"):
        call(Asynchronous())


def test_a_setup_that_calls_its_own_application_is_an_error_and_waits_for_nothing():
    class Circular(LazyWsgi):
        is_circular = True

        def setup(self, environ=None):
            if self.is_circular:
                call(self)
            return page

    circular = Circular()
    with pytest.raises(RuntimeError, match=r"Circular\.setup called the application that it is to make"):
        call(circular)
    circular.is_circular = False

    assert call(circular) == b"page"


def test_setup_may_give_an_application_whose_answer_is_awaitable():
    answer = object()

    class Awaiting(LazyWsgi):
        def setup(self, environ=None):
            return lambda environ, start_response: answer

    assert Awaiting()({}, None) is answer


def test_an_application_is_found_by_module_and_object():
    assert load_application(f"{__name__}:page") is page
    assert load_application(f"{__name__}:Lazy.setup") is Lazy.setup


@pytest.mark.parametrize(
    ("specification", "problem"),
    [
        ("no_such_module_here:app", "there is no module no_such_module_here"),
        ("pulse.nowhere:app", "there is no module pulse.nowhere"),
        ("pulse.clock:nothing", "pulse.clock has no nothing"),
        ("config:/no/such/file.ini", "there is no file /no/such/file.ini"),
        ("config:/no/such#folder/file.ini#main", "there is no file /no/such#folder/file.ini"),
        ("config:/no/such#folder/file.ini", "there is no file /no/such#folder/file.ini"),
    ],
)
def test_a_specification_that_leads_nowhere_says_where_it_ended(specification, problem):
    with pytest.raises(ApplicationError, match="is no application") as caught:
        load_application(specification)

    assert problem in str(caught.value)
    assert caught.value.specification == specification


def test_a_module_that_misses_another_says_which(tmp_path, monkeypatch):
    (tmp_path / "misses_another.py").write_text("import this_one_is_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(ModuleNotFoundError, match="this_one_is_missing"):
        load_application("misses_another:app")


@pytest.mark.parametrize("folder", ["plain", "with a blank", "of#1 ü", "a##b"])
@pytest.mark.parametrize("file", ["site.ini", "my#site.ini"])
def test_an_application_is_loaded_from_an_ini_file(folder, file, tmp_path, monkeypatch):
    tmp_path = tmp_path / folder
    tmp_path.mkdir()
    (tmp_path / "ini_site.py").write_text(
        "def app_factory(conf):\n"
        "    def app(environ, start_response):\n"
        "        start_response('200 OK', [])\n"
        "        return [b'from ini']\n"
        "    return app\n"
    )
    (tmp_path / file).write_text("[app:main]\npaste.app_factory = ini_site:app_factory\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert call(load_application(f"config:{tmp_path}/{file}")) == b"from ini"
    assert call(load_application(f"config:{tmp_path}/{file}#main")) == b"from ini"
    del sys.modules["ini_site"]


def test_whoever_loads_can_find_the_middlewares_that_were_built():
    with collecting() as built:
        inner = PulseMiddleware(page, start="manual")
        outer = PulseMiddleware(inner, start="manual")
    PulseMiddleware(page, start="manual")

    assert built == [inner, outer]


@pytest.mark.parametrize("before", [None, "now"])
def test_what_is_loaded_is_kept_from_ringing_only_while_it_is_loaded(before, monkeypatch):
    monkeypatch.delenv(START_VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(START_VARIABLE, before)

    with manual_start():
        inside = os.environ[START_VARIABLE]

    assert inside == "manual"
    assert os.environ.get(START_VARIABLE) == before
