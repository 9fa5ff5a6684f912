"""What mode celery wants of a configuration, and what it refuses."""

import sys

import pytest

from pulse.config import read_config
from pulse.errors import ConfigError
from pulse.middleware import PulseMiddleware
from pulse.model import Config, Task
from pulse.option import options_of
from pulse.runstores.memory import MemoryRunStore
from pulse.status.configuration import HIDDEN, settings_of
from pulse.wsgi.bridge.connection import Settings

SOUND = {"mode": "celery", "broker": "redis://:s3cret@there:6379/0", "store": "redis://there/1", "name": "shop"}


def refusal(tasks=None, **options) -> str:
    with pytest.raises(ConfigError) as refused:
        read_config(
            tasks=tasks, options={name: value for name, value in (SOUND | options).items() if value is not None}
        )
    return str(refused.value)


def app(environ, start_response):
    raise AssertionError("nobody calls it")


def test_a_sound_configuration_has_its_broker_queues_and_priorities():
    config = read_config(tasks={"a": {"queue": "slow", "priority": "7"}}, options=SOUND)

    assert (config.mode, config.broker) == ("celery", SOUND["broker"])
    assert (config.tasks["a"].queue, config.tasks["a"].priority) == ("slow", 7)


@pytest.mark.parametrize(
    "broker",
    ["amqp://user:pass@host//", "rediss://host:6380/0", "sentinel://a:26379;sentinel://b:26379", "sqs://", "sqla+sqlite:///f"],
)  # fmt: skip
def test_brokers_are_written_as_celery_writes_them(broker):
    assert read_config(options=SOUND | {"broker": f" {broker} "}).broker == broker


@pytest.mark.parametrize(
    "broker",
    ["", "there", "s3cret@there", "redis:/:s3cret@there", "memory://", "redis://a b", "redis://a;;redis://b", 6379],
)
def test_other_addresses_are_refused_and_not_shown(broker):
    said = refusal(broker=broker)

    assert said == (
        "pulse.config.broker = ***: want the address of Celery's broker, such as redis://host:6379/0 or "
        "amqp://user:password@host, or env:NAME"
    )


def test_a_broker_is_wanted():
    assert refusal(broker=None).startswith("pulse.config.broker = '': want the address of Celery's broker")


def test_a_store_of_one_process_is_refused_with_what_to_use():
    said = refusal(store="memory:")

    assert said.startswith("pulse.config.store = 'memory:': Celery's workers are other processes")
    assert "redis:// or postgresql://" in said


def test_a_store_that_turns_out_to_be_of_one_process_is_refused_too():
    with pytest.raises(ConfigError, match="Celery's workers do not see what this process alone keeps"):
        PulseMiddleware(app, task={"a": {}}, run_store=MemoryRunStore(), **SOUND)


def test_options_that_nobody_reads_in_mode_celery_are_refused():
    said = refusal({"a": {"scope": "host"}}, workers=4)

    assert "pulse.config.workers = 4: does not go with mode celery" in said
    assert "--concurrency" in said
    assert "pulse.task.a.scope = 'host': want fleet" in refusal({"a": {"scope": "host"}})


@pytest.mark.parametrize("mode", ["threading", "processing", "asyncio", "auto"])
def test_options_of_celery_are_refused_in_other_modes(mode):
    options = {"mode": mode, "broker": None, "store": "memory:"}

    said = refusal({"a": {"queue": "slow"}, "b": {"priority": 3}}, **options)

    assert "pulse.task.a.queue = 'slow': goes with mode celery only" in said
    assert "pulse.task.b.priority = 3: goes with mode celery only" in said
    assert refusal(**options | {"broker": SOUND["broker"]}) == "pulse.config.broker = ***: goes with mode celery only"


def test_a_default_is_refused_once_and_under_its_own_key():
    keys = {"pulse.config.default.queue": "slow"}

    with pytest.raises(ConfigError) as refused:
        read_config(keys, tasks={"a": {}, "b": {}})

    assert [fault.key for fault in refused.value.faults] == ["pulse.config.default.queue"]


def test_a_misspelt_mode_is_the_only_fault():
    assert refusal({"a": {"queue": "slow"}}, mode="celeri").startswith("pulse.config.mode = 'celeri': want threading")


def test_a_config_that_is_made_by_hand_is_held_to_it_too():
    with pytest.raises(ConfigError, match=r"pulse\.task\.a\.queue = 'slow': goes with mode celery only"):
        Config(tasks={"a": Task(name="a", queue="slow")})


@pytest.mark.parametrize(
    ("option", "value"), [("queue", "two words"), ("priority", 10), ("priority", -1), ("priority", "low")]
)
def test_queues_are_words_and_priorities_from_0_to_9(option, value):
    assert f"pulse.task.a.{option} = " in refusal({"a": {option: value}})


def test_a_broker_that_celery_does_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"broker = \*\*\*: want a broker that Celery knows, not 'mqtt'"):
        PulseMiddleware(app, task={"a": {}}, **SOUND | {"broker": "mqtt://:s3cret@there"})


def test_the_broker_is_shown_nowhere():
    config = read_config(options=SOUND)

    assert "s3cret" not in repr(config)
    assert "broker" not in Settings(config)
    assert [one.value for one in settings_of(config) if one.name == "broker"] == [HIDDEN]
    assert options_of(Config)["broker"].is_secret


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pulse.workers.celery", None)

    with pytest.raises(ConfigError, match=r"pip install 'pulse\[celery\]'"):
        PulseMiddleware(app, task={"a": {}}, **SOUND)
