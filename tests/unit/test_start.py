"""When a process rings: what it looks at, what requests and forks tell it, and what ends it."""

import gc
import logging
import threading
from types import SimpleNamespace
from typing import ClassVar
from weakref import WeakSet

import pytest

from pulse import forks, probes
from pulse.errors import ClosedError, ConfigError, StoreUnavailableError
from pulse.probes import Probes
from pulse.start import LOOK, RETRY, StartRule, StartState
from pulse.testing import ManualClock

PARENT, CHILD, GRANDCHILD = 100, 101, 102


class RestClock(ManualClock):
    """Tells a watcher that has come to rest from one that has something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.sleepers: set[threading.Thread] = set()
        self._rests: dict[threading.Event, float] = {}

    def wait(self, event, seconds):
        self.sleepers.add(threading.current_thread())
        self._rests[event] = self.monotonic() + seconds
        try:
            return super().wait(event, seconds)
        finally:
            del self._rests[event]

    def is_at_rest(self, event) -> bool:
        return not event.is_set() and self._rests.get(event, 0) > self.monotonic()


class Bench:
    """A rule in a process that the test makes up."""

    made: ClassVar[WeakSet["Bench"]] = WeakSet()

    def __init__(self, start="auto", *, uwsgi=None) -> None:
        self.made.add(self)
        self.clock = RestClock()
        self.pid = PARENT
        self.listens: bool | None = False
        self.is_reloader_parent = False
        self.fault: Exception | None = None
        self.done: list[str] = []
        self.looks = 0
        self.rule = StartRule(
            start,
            ring=self._ring,
            silence=lambda: self.done.append("silenced"),
            forget=lambda: self.done.append("forgot"),
            clock=self.clock,
            probes=Probes(
                pid=lambda: self.pid,
                is_listening=self._is_listening,
                is_reloader_parent=lambda: self.is_reloader_parent,
                uwsgi=uwsgi,
            ),
        )

    def _ring(self, reason: str) -> None:
        if self.fault:
            raise self.fault
        self.done.append(f"rang: {reason}")

    def _is_listening(self) -> bool | None:
        self.looks += 1
        if isinstance(self.listens, Exception):
            raise self.listens
        return self.listens

    def arm(self) -> "Bench":
        self.rule.arm()
        return self.rest()

    def serve(self) -> "Bench":
        """As the middleware does for each request."""
        if self.pid != self.rule.settled:
            self.rule.serve()
        return self.rest()

    def pass_time(self, seconds: float = LOOK) -> "Bench":
        self.clock.advance(seconds)
        return self.rest()

    def fork(self, *, is_helper: bool = False, is_told: bool = True) -> "Bench":
        """The process becomes its own child."""
        if is_told and not is_helper:
            self.rule.before_fork()
        self.pid = CHILD
        if is_told:
            self.rule.after_fork_in_child(is_helper=is_helper)
        return self.rest()

    def rest(self) -> "Bench":
        """Let the watcher do what there is to do, until it waits for time to pass or has ended."""
        while (watch := self.rule._watch) and not self.clock.is_at_rest(watch.wake):
            watch.thread.join(0.001)
        with self.rule._lock:  # its last act may not be over
            return self

    @property
    def state(self) -> StartState:
        return self.rule.state

    @property
    def is_settled(self) -> bool:
        return self.rule.settled == self.pid


@pytest.fixture(autouse=True)
def no_word_from_outside(monkeypatch):
    monkeypatch.delenv("PULSE_START", raising=False)


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield

    for bench in list(Bench.made):
        bench.rule.close()
        bench.clock.advance(60)  # wakes the watchers of "parents", too
        for thread in bench.clock.sleepers:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.DEBUG, logger="pulse.start")
    return lambda: [record.pulse_event for record in caplog.records]


# Listening


def test_construction_starts_nothing():
    bench = Bench()
    bench.listens = True

    bench.arm()

    assert bench.done == []
    assert bench.state is StartState.WAITING
    assert not bench.is_settled


def test_a_process_that_does_not_listen_never_rings():
    bench = Bench().arm()

    for _ in range(20):
        bench.pass_time()

    assert bench.looks == 21
    assert bench.done == []


def test_a_process_that_listens_at_two_looks_rings(log):
    bench = Bench().arm()
    bench.listens = True

    bench.pass_time()
    assert bench.done == []
    bench.pass_time()

    assert bench.done == ["rang: this process listens"]
    assert bench.state is StartState.RINGING
    assert bench.rule.reason == "this process listens"
    assert log() == ["start_waiting", "start_ringing"]


def test_looks_that_find_it_listening_must_be_consecutive():
    bench = Bench().arm()

    for listens in (True, False, True):
        bench.listens = listens
        bench.pass_time()
    assert bench.done == []
    bench.pass_time()

    assert bench.state is StartState.RINGING


def test_the_watcher_ends_when_the_process_rings():
    bench = Bench()
    bench.listens = True
    bench.arm()
    thread = bench.rule._watch.thread

    bench.pass_time()

    thread.join(30)
    assert not thread.is_alive()


def test_where_listening_cannot_be_seen_the_first_request_rings(log):
    bench = Bench()
    bench.listens = None
    bench.arm()
    assert bench.rule._watch is None

    bench.serve()

    assert bench.done == ["rang: a request came"]
    assert log() == ["start_waiting", "start_waiting", "start_ringing"]


def test_a_look_that_fails_is_tried_again(log):
    bench = Bench()
    bench.listens = OSError(24, "too many open files")
    bench.arm()

    bench.listens = True
    bench.pass_time(RETRY)
    bench.pass_time()

    assert bench.state is StartState.RINGING
    assert log().count("start_failed") == 1


def test_a_look_that_fails_does_not_hold_up_a_request():
    bench = Bench()
    bench.listens = OSError(24, "too many open files")
    bench.arm()

    bench.serve()

    assert bench.done == ["rang: a request came"]


def test_a_system_that_shows_no_open_files_cannot_be_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr(probes, "Path", lambda folder: tmp_path / "missing")

    assert probes.is_listening() is None


def test_a_file_that_is_closed_during_a_look_does_not_count_and_is_not_closed_again(monkeypatch):
    class Closed:
        borrowed: ClassVar[set["Closed"]] = set()

        def __init__(self, family, kind, protocol, descriptor) -> None:
            self.borrowed.add(self)

        def getsockopt(self, level, option):
            raise OSError(9, "bad file descriptor")

        def detach(self) -> None:
            self.borrowed.remove(self)

    monkeypatch.setattr(probes, "plain_socket", Closed)
    monkeypatch.setattr(probes.stat, "S_ISSOCK", lambda mode: True)

    assert probes.is_listening() is False
    assert Closed.borrowed == set()


def test_a_rule_that_nobody_holds_leaves_no_thread():
    bench = Bench().arm()
    clock, thread = bench.clock, bench.rule._watch.thread

    del bench
    gc.collect()
    clock.advance(LOOK)

    thread.join(30)
    assert not thread.is_alive()


def test_the_reloaders_parent_leaves_the_tasks_to_its_child(log):
    bench = Bench()
    bench.listens = bench.is_reloader_parent = True

    bench.arm().pass_time().serve()

    assert bench.done == []
    assert bench.state is StartState.PARKED
    assert bench.is_settled
    assert log() == ["start_waiting", "start_parked"]


@pytest.mark.parametrize(
    ("modules", "run_main", "answer"),
    [
        (["werkzeug._reloader"], None, True),
        (["werkzeug._reloader"], "true", False),
        ([], None, False),
        (["werkzeug.serving"], None, False),
    ],
)
def test_werkzeug_shows_whether_it_is_the_reloaders_parent(monkeypatch, modules, run_main, answer):
    for name in modules:
        monkeypatch.setitem(probes.sys.modules, name, SimpleNamespace())
    monkeypatch.delenv("WERKZEUG_RUN_MAIN", raising=False)
    if run_main:
        monkeypatch.setenv("WERKZEUG_RUN_MAIN", run_main)

    assert probes.is_reloader_parent() is answer


@pytest.mark.parametrize(
    ("modules", "answer"),
    [
        (["hypercorn.run"], True),
        (["hypercorn.__main__", "hypercorn.run", "importlib"], True),
        (["hypercorn.run", "hypercorn.asyncio.run", "asyncio"], False),
        (["hypercorn.run", "hypercorn.trio.run"], False),
        (["hypercorn.asyncio.run"], False),
        ([], False),
    ],
)
def test_hypercorn_shows_whether_it_only_makes_the_processes_that_serve(monkeypatch, modules, answer):
    monkeypatch.setitem(probes.sys.modules, "hypercorn.run", SimpleNamespace())
    call = probes.is_reloader_parent
    for name in reversed(modules):
        call = eval("lambda: inner()", {"__name__": name, "inner": call})

    assert call() is answer


# Requests


@pytest.mark.parametrize("start", ["auto", "request"])
def test_the_first_request_rings_at_once(start, log):
    bench = Bench(start).arm()

    bench.serve()

    assert bench.done == ["rang: a request came"]
    assert bench.is_settled
    assert log() == ["start_waiting", "start_ringing"]


def test_waiting_for_a_request_means_not_to_look():
    bench = Bench("request")
    bench.listens = True

    bench.arm().pass_time().pass_time()

    assert bench.looks == 0
    assert bench.done == []
    assert bench.rule._watch is None


def test_a_process_that_listened_its_way_to_ringing_still_hears_of_the_first_request():
    bench = Bench()
    bench.listens = True
    bench.arm().pass_time()
    assert not bench.is_settled

    bench.serve()

    assert bench.is_settled
    assert bench.done == ["rang: this process listens"]


def test_many_requests_at_once_ring_once():
    bench = Bench().arm()
    together = threading.Barrier(8)

    def request():
        together.wait(30)
        bench.rule.serve()

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    bench.serve()

    assert bench.done == ["rang: a request came"]


def test_a_request_does_not_wait_for_the_engine():
    bench = Bench()
    begun, may_end = threading.Event(), threading.Event()
    bench.rule._ring = lambda reason: (begun.set(), may_end.wait(30))
    bench.arm()

    bench.rule.serve()
    assert begun.wait(30)
    bench.rule.serve()  # while another thread builds

    assert bench.state is StartState.WAITING
    may_end.set()
    bench.rest()
    assert bench.state is StartState.RINGING
    assert bench.is_settled


def test_without_a_thread_to_be_had_a_request_is_served_and_the_next_one_rings(monkeypatch, log):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    bench = Bench("request").arm()
    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", no_thread)
        bench.serve()
    assert bench.done == []

    bench.serve()

    assert bench.state is StartState.RINGING
    assert log() == ["start_waiting", "start_failed", "start_ringing"]


# Failure


def test_a_ring_that_fails_is_tried_again_with_one_traceback(caplog, log):
    bench = Bench()
    bench.fault = ConnectionError("no store")
    bench.listens = True
    bench.arm().pass_time()

    bench.pass_time(RETRY).pass_time(RETRY)
    assert bench.state is StartState.WAITING
    bench.fault = None
    bench.pass_time(RETRY)

    assert bench.done == ["rang: this process listens"]
    assert log() == ["start_waiting", *["start_failed"] * 3, "start_ringing"]
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, False, False, False]


def test_a_store_that_does_not_answer_is_said_in_one_line_without_a_traceback(caplog, log):
    bench = Bench()
    bench.fault = StoreUnavailableError("the run store sqlite:/runs.db does not answer: database is locked")
    bench.listens = True
    bench.arm().pass_time()
    bench.fault = None

    bench.pass_time(RETRY)

    assert bench.done == ["rang: this process listens"]
    assert log() == ["start_waiting", "start_failed", "start_ringing"]
    assert not any(record.exc_info for record in caplog.records)
    assert caplog.records[1].getMessage() == (
        "could not start: the run store sqlite:/runs.db does not answer: database is locked; trying again every 5 s"
    )


def test_requests_do_not_hurry_a_ring_that_fails():
    bench = Bench()
    bench.fault = ConnectionError("no store")
    bench.arm().serve()
    bench.fault = None

    for _ in range(5):
        bench.rule.serve()
    bench.pass_time(RETRY - 0.1)
    assert bench.done == []
    bench.pass_time(0.1)

    assert bench.done == ["rang: a request came"]


# Words


def test_now_rings_when_it_is_armed():
    bench = Bench("now")
    builders = []
    bench.rule._ring = lambda reason: builders.append((reason, threading.current_thread()))

    bench.rule.arm()

    assert builders == [("start = now", threading.current_thread())]
    assert bench.looks == 0


def test_now_is_tried_again_too():
    bench = Bench("now")
    bench.fault = ConnectionError("no store")
    bench.rule.arm()

    bench.fault = None
    bench.rest().pass_time(RETRY)

    assert bench.state is StartState.RINGING


def test_manual_waits_for_nothing(log):
    bench = Bench("manual")
    bench.listens = True

    bench.arm().serve().pass_time()

    assert bench.done == []
    assert bench.is_settled
    assert bench.rule.reason == "start = manual"
    assert log() == ["start_manual"]


@pytest.mark.parametrize(("word", "state"), [("manual", StartState.MANUAL), (" NOW ", StartState.RINGING)])
def test_the_environment_wins(monkeypatch, word, state):
    bench = Bench("auto")
    monkeypatch.setenv("PULSE_START", word)

    bench.arm()

    assert bench.state is state
    assert bench.rule.reason == f"PULSE_START = {word.strip().lower()}"


def test_an_empty_variable_says_nothing(monkeypatch):
    monkeypatch.setenv("PULSE_START", " ")

    assert Bench("request").arm().rule.reason == "for the first request"


def test_a_wrong_word_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("PULSE_START", "never")

    with pytest.raises(ConfigError, match=r"^environment: PULSE_START = 'never': want auto, now, request or manual$"):
        Bench().rule.arm()


# By hand


@pytest.mark.parametrize("start", ["auto", "request", "manual"])
def test_start_rings_whatever_the_rule(start):
    bench = Bench(start).arm()

    bench.rule.start("by hand")
    bench.rule.start("again")

    assert bench.done == ["rang: by hand"]
    assert bench.is_settled


def test_the_watcher_ends_after_a_start_by_hand():
    bench = Bench().arm()
    bench.listens = True
    thread = bench.rule._watch.thread

    bench.rule.start("by hand")
    bench.pass_time()

    thread.join(30)
    assert not thread.is_alive()
    assert bench.done == ["rang: by hand"]


def test_a_start_by_hand_is_overtaken_by_close():
    bench = Bench("manual").arm()
    bench.rule._ring = lambda reason: bench.rule.close()

    with pytest.raises(ClosedError):
        bench.rule.start("by hand")

    assert bench.done == ["silenced"]
    assert bench.state is StartState.CLOSED


def test_start_raises_what_the_engine_raises_and_changes_nothing():
    bench = Bench().arm()
    bench.fault = ConnectionError("no store")

    with pytest.raises(ConnectionError):
        bench.rule.start("by hand")

    assert bench.state is StartState.WAITING
    bench.fault, bench.listens = None, True
    bench.pass_time().pass_time()
    assert bench.done == ["rang: this process listens"]


def test_close_silences_for_good(log):
    bench = Bench()
    bench.listens = True
    bench.arm().pass_time()

    bench.rule.close()
    bench.rule.close()
    bench.serve().pass_time()

    assert bench.done == ["rang: this process listens", "silenced"]
    assert bench.is_settled
    assert log() == ["start_waiting", "start_ringing", "start_closed"]
    with pytest.raises(ClosedError):
        bench.rule.start("by hand")


def test_close_ends_the_watcher():
    bench = Bench().arm()
    thread = bench.rule._watch.thread

    bench.rule.close()

    assert not thread.is_alive()


def test_an_engine_that_was_being_built_during_close_is_silenced(monkeypatch):
    monkeypatch.setattr("pulse.start.PATIENCE", 0.01)
    bench = Bench("request")
    begun, may_end = threading.Event(), threading.Event()
    bench.rule._ring = lambda reason: (begun.set(), may_end.wait(30))
    bench.arm()
    bench.rule.serve()
    assert begun.wait(30)
    thread = bench.rule._watch.thread

    bench.rule.close()
    assert bench.done == []
    may_end.set()
    thread.join(30)

    assert bench.done == ["silenced"]
    assert bench.state is StartState.CLOSED


def test_an_engine_may_close_the_rule_that_builds_it(log):
    bench = Bench().arm()
    bench.rule._ring = lambda reason: bench.rule.close()

    bench.serve()

    assert bench.done == ["silenced"]
    assert log() == ["start_waiting", "start_closed"]


def test_an_engine_that_does_not_end_cleanly_breaks_nothing(log):
    bench = Bench("now").arm()
    bench.rule._silence = lambda: 1 / 0

    bench.rule.close()

    assert bench.state is StartState.CLOSED
    assert log()[-1] == "silence_failed"


# Forks


def test_a_master_has_no_thread_and_does_not_ring(log):
    bench = Bench().arm()
    thread = bench.rule._watch.thread
    bench.listens = True

    bench.rule.before_fork()
    bench.pass_time().pass_time()
    bench.rule.before_fork()

    assert not thread.is_alive()
    assert bench.done == []
    assert bench.state is StartState.MASTER
    assert log() == ["start_waiting", "start_master"]


@pytest.mark.parametrize("start", ["auto", "now"])
def test_a_master_that_rang_by_itself_falls_silent(start):
    bench = Bench(start)
    bench.listens = True
    bench.arm().pass_time()
    assert bench.state is StartState.RINGING

    bench.rule.before_fork()

    assert bench.done[1:] == ["silenced"]
    assert bench.state is StartState.MASTER


@pytest.mark.parametrize("choose", ["serve", "start"])
def test_a_process_that_was_asked_to_ring_goes_on_whatever_it_forks(choose):
    bench = Bench().arm()
    bench.serve() if choose == "serve" else bench.rule.start("by hand")

    bench.rule.before_fork()
    assert "silenced" not in bench.done
    bench.fork()

    assert bench.state is StartState.PARKED
    assert bench.is_settled


def test_a_request_to_a_master_shows_that_it_serves_after_all():
    bench = Bench().arm()
    bench.rule.before_fork()

    bench.serve()

    assert bench.done == ["rang: a request came"]


def test_the_child_of_a_master_rings_where_it_serves(caplog):
    bench = Bench().arm()
    bench.listens = True
    bench.fork()
    assert bench.done == ["forgot"]
    assert bench.state is StartState.WAITING

    bench.pass_time()

    assert bench.done == ["forgot", "rang: this process listens"]


def test_a_forked_child_says_nothing_until_it_rings(log):
    bench = Bench().arm()
    bench.listens = True

    bench.fork()
    assert log() == ["start_waiting", "start_master"]
    bench.pass_time()

    assert log() == ["start_waiting", "start_master", "start_ringing"]


def test_a_child_builds_its_engine_behind_the_fork():
    bench = Bench("now").arm()
    builders = []
    bench.rule._ring = lambda reason: builders.append(threading.current_thread().name)

    bench.fork()

    assert bench.state is StartState.RINGING
    assert builders == ["pulse-start"]


def test_locks_that_the_parent_held_do_not_stop_the_child():
    bench = Bench().arm()
    held, release = threading.Event(), threading.Event()

    def hold():
        with bench.rule._lock, bench.rule._arrival:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    bench.pid = CHILD
    bench.rule.after_fork_in_child(is_helper=False)

    bench.rest().serve()
    bench.pid = GRANDCHILD
    bench.serve()

    assert bench.done == ["forgot", "rang: a request came"] * 2
    release.set()
    thread.join(30)


def test_a_helper_is_parked_without_a_word(log):
    bench = Bench().arm()
    bench.listens = True

    bench.fork(is_helper=True).pass_time().serve()

    assert bench.done == ["forgot"]
    assert bench.state is StartState.PARKED
    assert bench.is_settled
    assert log() == ["start_waiting"]


@pytest.mark.parametrize("end", ["manual", "closed"])
def test_a_fork_changes_nothing_where_nothing_rings(end):
    bench = Bench("manual" if end == "manual" else "auto").arm()
    if end == "closed":
        bench.rule.close()

    bench.fork()

    assert bench.state.value == end
    assert bench.is_settled


def test_a_helper_can_be_started_by_hand():
    bench = Bench().arm().fork(is_helper=True)

    bench.rule.start("by hand")

    assert bench.done == ["forgot", "rang: by hand"]


@pytest.mark.parametrize("start", ["auto", "request"])
def test_a_fork_that_nobody_told_of_is_noticed_by_a_request(start):
    bench = Bench(start).arm().serve()
    bench.fork(is_told=False)
    assert not bench.is_settled

    bench.serve()

    assert bench.done == ["rang: a request came", "forgot", "rang: a request came"]
    assert bench.is_settled


def test_a_fork_that_nobody_told_of_is_manual_again_where_its_parent_was_started_by_hand():
    bench = Bench("manual").arm()
    bench.rule.start("by hand")

    bench.fork(is_told=False).serve()

    assert bench.state is StartState.MANUAL
    assert bench.done == ["rang: by hand", "forgot"]


def test_requests_that_notice_a_fork_together_begin_anew_once():
    bench = Bench().arm().serve().fork(is_told=False)
    together = threading.Barrier(8)

    def request():
        together.wait(30)
        bench.rule.serve()

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    bench.serve()

    assert bench.done == ["rang: a request came", "forgot", "rang: a request came"]


def test_closing_an_inherited_rule_leaves_the_engine_of_the_parent_alone():
    bench = Bench("now").arm().fork(is_told=False)

    bench.rule.close()

    assert "silenced" not in bench.done
    assert bench.done[1] == "forgot"


# Whose fork it is


def fork_from(*callers: str) -> bool:
    """What is thought of a fork that is made by functions of these modules, the innermost first."""
    fork = probes.forks_a_helper
    for name in callers:
        names = {"__name__": name, "fork": fork}
        exec("def call():\n    return fork()", names)
        fork = names["call"]
    return fork()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("multiprocessing.popen_fork", True),
        ("concurrent.futures.process", True),
        ("subprocess", True),
        ("socketserver", True),
        ("gunicorn.arbiter", False),
        ("pty", True),
        ("__main__", False),
        ("multiprocessing_server", False),
    ],
)
def test_the_caller_of_a_fork_tells_whether_a_helper_is_made(name, answer):
    assert fork_from(name) is answer
    assert fork_from("gevent.os", name) is answer


def test_a_server_that_runs_inside_a_helper_makes_no_helpers():
    assert fork_from("gunicorn.arbiter", "multiprocessing.process") is False


def test_a_fork_of_another_thread_makes_a_helper():
    answers = []
    thread = threading.Thread(target=lambda: answers.append(fork_from("gunicorn.arbiter")))

    thread.start()
    thread.join(30)

    assert answers == [True]


# gevent


class GeventWillPatchAllEvent:
    """Named as gevent's: the name is what is looked at."""


class GeventDidPatchAllEvent:
    pass


def test_a_watch_does_not_outlive_the_patching_of_threads():
    bench = Bench().arm()
    old, lock = bench.rule._watch.thread, bench.rule._lock

    forks._on_gevent(GeventWillPatchAllEvent())
    assert not old.is_alive()
    forks._on_gevent(GeventDidPatchAllEvent())

    assert bench.rule._watch.thread is not old
    assert bench.rule._lock is not lock
    bench.listens = True
    bench.rest().pass_time().pass_time()
    assert bench.done == ["rang: this process listens"]


def test_patching_begins_no_watch_where_there_was_none():
    bench = Bench("request").arm()

    for event in (GeventWillPatchAllEvent(), GeventDidPatchAllEvent(), SimpleNamespace()):
        forks._on_gevent(event)

    assert bench.rule._watch is None


def test_gevent_is_asked_to_tell_once(monkeypatch):
    events = SimpleNamespace(subscribers=[])
    monkeypatch.setitem(forks.sys.modules, "gevent", SimpleNamespace())
    monkeypatch.setitem(forks.sys.modules, "gevent.events", events)

    Bench().arm()
    Bench().arm()

    assert events.subscribers == [forks._on_gevent]


# uWSGI


class FakeUwsgi:
    def __init__(self, worker=0, *, has_threads=1) -> None:
        self.worker = worker
        self.has_threads = has_threads

    def worker_id(self) -> int:
        return self.worker


def test_the_master_of_uwsgi_waits_for_its_hook():
    uwsgi = FakeUwsgi()
    bench = Bench(uwsgi=uwsgi)
    bench.listens = True

    bench.arm().pass_time().pass_time()

    assert bench.looks == 0
    assert bench.rule._watch is None


@pytest.mark.parametrize("pid", [CHILD, PARENT], ids=["a worker", "the only process"])
@pytest.mark.parametrize("start", ["auto", "now"])
def test_a_worker_of_uwsgi_rings_where_it_listens(pid, start):
    uwsgi = FakeUwsgi()
    bench = Bench(start, uwsgi=uwsgi).arm()
    bench.listens = True

    bench.pid, uwsgi.worker = pid, 1
    uwsgi.post_fork_hook()
    bench.rest().pass_time()

    assert bench.done[-1].startswith("rang: ")
    assert bench.state is StartState.RINGING


def test_a_worker_of_uwsgi_that_loads_the_application_itself_needs_no_hook():
    uwsgi = FakeUwsgi(worker=2)
    bench = Bench(uwsgi=uwsgi)
    bench.listens = True

    bench.arm().pass_time()

    assert bench.state is StartState.RINGING
    assert not hasattr(uwsgi, "post_fork_hook")


def test_what_was_asked_of_the_master_of_uwsgi_is_not_asked_of_its_workers():
    uwsgi = FakeUwsgi()
    bench = Bench(uwsgi=uwsgi).arm()
    bench.rule.start("by hand")

    bench.pid, uwsgi.worker = CHILD, 1
    uwsgi.post_fork_hook()
    bench.rest().pass_time()

    assert bench.done == ["rang: by hand", "forgot"]
    assert bench.state is StartState.WAITING


def test_a_mule_of_uwsgi_does_not_ring():
    uwsgi = FakeUwsgi()
    bench = Bench(uwsgi=uwsgi).arm()
    bench.listens = True

    bench.pid = CHILD
    uwsgi.post_fork_hook()
    bench.pass_time().pass_time()

    assert bench.done == ["forgot"]


def test_the_hook_of_uwsgi_is_shared_with_others():
    uwsgi = FakeUwsgi()
    called = []
    uwsgi.post_fork_hook = lambda: called.append("theirs") or 1 / 0
    benches = [Bench(uwsgi=uwsgi).arm()]
    hook = uwsgi.post_fork_hook
    benches += [Bench(uwsgi=uwsgi).arm() for _ in range(2)]
    assert uwsgi.post_fork_hook is hook

    uwsgi.worker = 1
    for bench in benches:
        bench.pid = CHILD
    with pytest.raises(ZeroDivisionError):
        uwsgi.post_fork_hook()

    assert called == ["theirs"]
    assert [bench.rule._watch is not None for bench in benches] == [True] * 3


def test_uwsgi_without_threads_is_refused():
    bench = Bench(uwsgi=FakeUwsgi(has_threads=0))

    with pytest.raises(ConfigError, match=r"^uWSGI: enable-threads = false: want true \(or threads = 2"):
        bench.rule.arm()


def test_uwsgi_without_threads_can_do_without_tasks():
    bench = Bench("manual", uwsgi=FakeUwsgi(has_threads=0)).arm()

    with pytest.raises(ConfigError, match="enable-threads"):
        bench.rule.start("by hand")


def test_only_the_module_of_uwsgi_counts(monkeypatch):
    monkeypatch.setitem(probes.sys.modules, "uwsgi", SimpleNamespace())
    assert probes.find_uwsgi() is None

    uwsgi = FakeUwsgi()
    monkeypatch.setitem(probes.sys.modules, "uwsgi", uwsgi)

    assert probes.find_uwsgi() is uwsgi
