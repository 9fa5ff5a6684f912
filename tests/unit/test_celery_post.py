"""What is said to Celery, and what its workers are started with; nothing is sent here."""

import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

pytest.importorskip("celery")

from pulse.config import read_config
from pulse.errors import ApplicationError, BrokerUnavailableError, ConfigError, StoreUnavailableError
from pulse.fleet import fingerprint
from pulse.model import QUEUE, Run, Trigger
from pulse.runstores.memory import MemoryRunStore
from pulse.testing import ManualClock
from pulse.workers import celery
from pulse.workers.celery import Post, mark_of

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
SOUND = {"mode": "celery", "broker": "redis://:s3%40cret@127.0.0.1:1/0", "store": "redis://there/1", "name": "shop"}
RUN = Run(id="abc", task="a", due=NOON, owner=QUEUE, started=NOON, trigger=Trigger.SCHEDULE)
UNTIL = NOON + timedelta(seconds=60)


def sent(run: Run = RUN, **task) -> dict:
    """What `send` says to Celery."""
    post = Post(read_config(tasks={"a": task}, options=SOUND), MemoryRunStore())
    said = {}
    post._app.send_task = lambda name, **more: said.update(more, name=name)
    post.send(run, UNTIL)
    return said


def test_a_message_names_the_run_and_expires_with_its_grace():
    said = sent()

    assert (said["name"], said["task_id"], said["shadow"], said["expires"]) == ("pulse.run", "abc", "pulse.a", UNTIL)
    assert said["kwargs"] | {"store": "", "fingerprint": ""} == {
        "task": "a",
        "due": "2027-05-01T12:00:00+00:00",
        "run": "abc",
        "attempt": 1,
        "trigger": "schedule",
        "latest": "2027-05-01T12:01:00+00:00",
        "store": "",
        "fingerprint": "",
    }
    assert (said["retry"], said["queue"], said["priority"]) == (False, "pulse.shop", None)


def test_a_further_attempt_is_another_message():
    assert sent(Run(id="abc", task="a", due=NOON, attempt=2))["task_id"] == "abc-2"


def test_queue_and_priority_are_those_of_the_task():
    said = sent(queue="slow", priority=7)

    assert (said["queue"], said["priority"]) == ("slow", 7)


def test_the_limits_follow_from_timeout_and_kill_grace():
    said = sent(timeout="30s", kill_grace="5s")

    assert (said["soft_time_limit"], said["time_limit"]) == (31, 36)
    assert "time_limit" not in sent(timeout="0")


def test_two_definitions_of_a_task_have_two_fingerprints_and_two_stores_two_marks():
    assert sent()["kwargs"]["fingerprint"] != sent(method="POST")["kwargs"]["fingerprint"]
    assert mark_of(MemoryRunStore()) != mark_of(MemoryRunStore())
    store = MemoryRunStore()
    assert mark_of(store) == mark_of(store) != store.secret()


def test_a_store_that_was_emptied_is_another_one_within_a_minute():
    clock, store = ManualClock(NOON), MemoryRunStore()
    post, marks = Post(read_config(tasks={"a": {}}, options=SOUND), store, clock), []
    post._app.send_task = lambda name, **more: marks.append(more["kwargs"]["store"])

    post.send(RUN, UNTIL)
    store.after_fork()
    post.send(RUN, UNTIL)
    clock.advance(60)
    post.send(RUN, UNTIL)

    assert marks[0] == marks[1] != marks[2] == mark_of(store)


def test_a_store_that_does_not_say_which_it_is_keeps_a_message_back_only_at_first():
    clock, store = ManualClock(NOON), MemoryRunStore()
    post, sent = Post(read_config(tasks={"a": {}}, options=SOUND), store, clock), []
    post._app.send_task = lambda name, **more: sent.append(name)

    def silent() -> str:
        raise StoreUnavailableError("it is away")

    known, store.secret = store.secret, silent
    with pytest.raises(BrokerUnavailableError, match="it is away"):
        post.send(RUN, UNTIL)
    store.secret = known
    post.send(RUN, UNTIL)
    store.secret = silent
    clock.advance(60)
    post.send(RUN, UNTIL)

    assert len(sent) == 2


def test_a_worker_finds_the_filter_of_a_message_by_store_and_definition(monkeypatch):
    filters = [
        SimpleNamespace(config=read_config(tasks={"a": {}}, options=SOUND | {"name": name}), run_store=MemoryRunStore())
        for name in ("one", "two")
    ]
    monkeypatch.setattr(celery, "_loaded", lambda _: filters)
    hall = celery._Hall("site:app")
    definition = fingerprint(filters[1].config.tasks["a"])
    mark = mark_of(filters[1].run_store)

    assert hall.find("a", mark, definition) is filters[1]
    for task, store, other, problem in [
        ("a", "elsewhere", definition, "no application of this worker has its run store"),
        ("b", mark, definition, "does not have the task"),
        ("a", mark, "another", "is another one than that of the process that rang"),
    ]:
        with pytest.raises(celery._NotHereError, match=problem):
            hall.find(task, store, other)

    filters[1].run_store.after_fork()  # it has lost its memory
    assert hall.find("a", mark_of(filters[1].run_store), definition) is filters[1]


def test_whatever_celery_raises_is_that_the_broker_does_not_answer_and_shows_no_password():
    post = Post(read_config(tasks={"a": {}}, options=SOUND), MemoryRunStore())

    def broken(*_: object, **__: object) -> None:
        raise ValueError("cannot log in with s3@cret, nor with s3%40cret")

    post._app.send_task = broken

    with pytest.raises(BrokerUnavailableError) as raised:
        post.send(RUN, UNTIL)
    assert str(raised.value) == "Celery's broker does not answer: cannot log in with ***, nor with ***"


def test_a_worker_takes_from_all_queues_and_those_with_priorities_have_ranks():
    config = read_config(tasks={"a": {}, "b": {"queue": "slow", "priority": 3}}, options=SOUND)

    settings = celery._settings([config])

    queues = {queue.name: queue for queue in settings["task_queues"]}
    assert {name: queue.max_priority for name, queue in queues.items()} == {"pulse.shop": None, "slow": 10}
    assert {queue.exchange.name for queue in queues.values()} == {"pulse.shop", "slow"}
    assert settings["broker_url"] == SOUND["broker"]


@pytest.mark.parametrize(
    ("written", "specification"),
    [
        ("config:there.ini#main", "config:there.ini#main"),
        ("module:object", "module:object"),
        ("there.ini", "config:there.ini"),
    ],
)
def test_an_application_is_named_as_on_the_command_line(written, specification, monkeypatch):
    monkeypatch.setenv("PULSE_CONFIG", written)

    assert celery._specification() == specification


def test_an_application_has_to_be_named(monkeypatch):
    monkeypatch.delenv("PULSE_CONFIG", raising=False)

    with pytest.raises(ConfigError, match=r"want PULSE_CONFIG=production\.ini, or module:object"):
        celery._specification()


@pytest.mark.parametrize(
    ("filters", "problem"),
    [
        ("app = lambda environ, start_response: []", "it has no Pulse filter with pulse.config.mode = celery"),
        ("app = PulseMiddleware(lambda *_: [], task={'a': {}}, store='memory:')", "it has no Pulse filter with"),
    ],
)
def test_an_application_without_anything_for_celery_is_refused(tmp_path, monkeypatch, filters, problem):
    (tmp_path / "some_site.py").write_text(f"from pulse import PulseMiddleware\n{filters}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_site", raising=False)

    with pytest.raises(ApplicationError, match=problem):
        celery._loaded("some_site:app")


def test_filters_that_name_two_brokers_are_refused(tmp_path, monkeypatch):
    options = "mode='celery', store='sqlite:runs.db', name='n'"
    (tmp_path / "two_sites.py").write_text(
        "from pulse import PulseMiddleware\n"
        f"app = PulseMiddleware(lambda *_: [], task={{'a': {{}}}}, broker='redis://:s3cret@a', {options})\n"
        f"app = PulseMiddleware(app, task={{'b': {{}}}}, broker='redis://:s3cret@b', {options})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigError, match="want one broker") as refused:
        celery._loaded("two_sites:app")
    assert "s3cret" not in str(refused.value)
