"""What the words of Pulse promise beyond their fields."""

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from inspect import signature
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest

from pulse.config import read_config
from pulse.errors import ConfigError
from pulse.model import Config, Fire, Limits, Task

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
RUNS = uuid5(NAMESPACE_URL, "urn:pulse:run")


@pytest.mark.parametrize("minutes", range(16))
def test_the_run_of_a_planned_instant_has_the_same_uuid_in_every_process(minutes):
    due = NOON + timedelta(minutes=minutes)

    fire = Fire(task="räumen", due=due, place="here")

    assert fire.run_id == uuid5(RUNS, f"räumen@here {due.isoformat()}").hex
    assert UUID(fire.run_id).version == 5


def test_a_run_that_has_an_id_keeps_it():
    assert Fire(task="a", due=NOON, run_id="r1").run_id == "r1"


@pytest.mark.parametrize("overlap", ["skip", "queue", "replace"])
def test_an_instant_that_is_caught_up_waits_for_the_one_before_whatever_is_said_of_overlaps(overlap):
    limits = Limits.of(Task(name="a", overlap=overlap), Fire(task="a", due=NOON, is_in_turn=True))

    assert (limits.instances, limits.waits, limits.replaces) == (1, True, False)


TASK = Task(name="a", action="/x", interval="5m", headers={"Accept": "text/plain"})


def test_a_task_keeps_what_was_said_and_finds_the_rest_in_its_class():
    assert vars(TASK) == {
        "name": "a",
        "action": "/x",
        "interval": timedelta(minutes=5),
        "headers": (("Accept", "text/plain"),),
    }
    assert [getattr(TASK, item.name) for item in fields(Task)][3:6] == [None, None, None]
    assert vars(Task(name="a", enabled=True, cron=None, timeout=Task.timeout)) == {"name": "a"}


def test_a_task_that_says_a_default_in_other_words_is_the_one_that_does_not():
    assert Task(name="a", timeout="60m", expect_status="200-299", enabled="yes") == Task(name="a")
    assert hash(Task(name="a", timeout="60m")) == hash(Task(name="a"))


def test_a_task_shows_what_was_said_of_it_but_no_secrets():
    task = replace(TASK, retries=2, ping_url="https://hc.example/s3cr3t", environ={"KEY": "s3cr3t"})

    assert repr(task) == "Task(name='a', action='/x', interval=datetime.timedelta(seconds=300), retries=2)"
    assert repr(Task()) == "Task()"


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda task: pickle.loads(pickle.dumps(task)),
        copy.copy,
        copy.deepcopy,
        replace,
        lambda task: Task(**asdict(task)),
    ],
    ids=["pickle", "copy", "deepcopy", "replace", "asdict"],
)
def test_a_copy_of_a_task_equals_it(duplicate):
    copied = duplicate(TASK)

    assert copied == TASK
    assert hash(copied) == hash(TASK)


def test_a_task_is_replaced_by_what_is_read_anew():
    replaced = replace(TASK, interval="1h", headers={})

    assert (replaced.name, replaced.interval, replaced.headers) == ("a", timedelta(hours=1), ())
    with pytest.raises(ConfigError, match="interval"):
        replace(TASK, interval="x")


@pytest.mark.parametrize("name", ["interval", "jitter", "unknown"])
def test_a_task_cannot_be_changed(name):
    with pytest.raises(FrozenInstanceError):
        setattr(TASK, name, timedelta(0))
    with pytest.raises(FrozenInstanceError):
        delattr(TASK, name)


def test_the_constructor_of_a_task_names_its_options_and_refuses_others():
    assert list(signature(Task).parameters) == [item.name for item in fields(Task)]
    with pytest.raises(TypeError, match="'intervall'"):
        Task(intervall=5)
    with pytest.raises(TypeError, match="positional"):
        Task("a")


def test_faults_of_a_task_come_in_the_order_of_the_table_and_then_those_between_its_options():
    with pytest.raises(ConfigError) as refused:
        Task(name="a", retries="-1", offset="5s", jitter="x", cron="@daily", action=7)

    assert [fault.key for fault in refused.value.faults] == ["action", "jitter", "retries", "offset"]


def test_a_value_that_is_refused_still_conflicts_with_others():
    with pytest.raises(ConfigError) as refused:
        Task(name="a", interval="x", cron="@daily")

    assert [fault.key for fault in refused.value.faults] == ["interval", "cron"]


@dataclass(frozen=True, kw_only=True)
class Tagged(Task):
    tag: str = ""


class Loud(Task):
    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "description", self.description.upper())


def test_a_dataclass_that_is_made_of_task_is_read_and_refused_as_it_is():
    tagged = Tagged(name="a", interval="5m", tag="x")

    assert (tagged.interval, tagged.tag) == (timedelta(minutes=5), "x")
    assert (replace(tagged, tag="y").tag, pickle.loads(pickle.dumps(tagged))) == ("y", tagged)
    with pytest.raises(ConfigError) as refused:
        Tagged(name="a", jitter="x", offset="5s", cron="@daily")
    assert [fault.key for fault in refused.value.faults] == ["jitter", "offset"]


def test_a_class_that_is_made_of_task_has_its_post_init_called():
    assert Loud(name="a", description="hear").description == "HEAR"


CONFIG = Config(guard="yes", tasks={"a": TASK})


@pytest.mark.parametrize("tasks", [None, [TASK], "a", {"a": {"interval": 5}}, {"b": TASK}, {"": TASK}, {7: TASK}])
def test_a_configuration_wants_tasks_by_their_names(tasks):
    with pytest.raises(ConfigError) as refused:
        Config(tasks=tasks, guard="ture")

    assert [fault.key.partition("[")[0] for fault in refused.value.faults] == ["guard", "tasks"]
    assert "want" in refused.value.faults[1].problem


@pytest.mark.parametrize("config", [CONFIG, read_config({"pulse.config.guard": "yes"}, tasks={"a": TASK})])
@pytest.mark.parametrize(
    "duplicate",
    [
        lambda config: pickle.loads(pickle.dumps(config)),
        copy.copy,
        copy.deepcopy,
        replace,
        lambda config: replace(config, tasks={name: Task(**said) for name, said in asdict(config)["tasks"].items()}),
    ],
    ids=["pickle", "copy", "deepcopy", "replace", "asdict"],
)
def test_a_copy_of_a_configuration_equals_it(config, duplicate):
    copied = duplicate(config)

    assert copied == config
    assert copied.origins == config.origins


@pytest.mark.parametrize(
    "call",
    [
        ("__setitem__", "b", TASK), ("__delitem__", "a"), ("__ior__", {"b": TASK}), ("clear",), ("pop", "a"),
        ("popitem",), ("setdefault", "b", TASK), ("update", {"b": TASK}),
    ],
)  # fmt: skip
def test_the_tasks_of_a_configuration_cannot_be_changed(call):
    given = {"a": TASK}
    config = Config(tasks=given)

    with pytest.raises(TypeError, match="cannot be changed"):
        getattr(config.tasks, call[0])(*call[1:])
    given.clear()

    assert config.tasks == {"a": TASK}
