import ast
import re
import shutil
import tomllib
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    for name in ("dev.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def dev(checkout):
    spec = spec_from_file_location("dev", checkout / "dev.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stamp(dev):
    """What says which things are installed in .venv."""
    dev.VENV.mkdir()
    return lambda *done: dev.write_stamp(set(done))


@pytest.mark.parametrize(
    ("done", "wanted"),
    [
        ({"run"}, {"run"}),
        ({"run", "test"}, {"test"}),
        ({"run", "test"}, {"run"}),
        ({"pinned", "run", "test"}, {"test"}),
        ({"pinned", "run", "test"}, {"pinned", "test"}),
    ],
)
def test_an_environment_serves_what_was_installed_in_it(dev, stamp, done, wanted):
    stamp(*done)

    assert dev.is_ready(wanted, dev.own_abi())


@pytest.mark.parametrize(("done", "wanted"), [({"run"}, {"test"}), ({"run", "test"}, {"pinned", "test"})])
def test_an_environment_is_not_ready_for_more_than_was_installed(dev, stamp, done, wanted):
    stamp(*done)

    assert not dev.is_ready(wanted, dev.own_abi())


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_dependencies_are_installed_into_the_same_environment(dev, stamp, checkout, name):
    stamp("run", "test")

    with (checkout / name).open("a") as file:
        file.write("# changed\n")

    assert not dev.is_ready({"test"}, dev.own_abi())
    assert dev.fault(dev.own_abi()) == ""


def test_an_environment_made_by_hand_is_kept_and_installed_into(dev):
    dev.VENV.mkdir()

    assert not dev.is_ready({"run"}, dev.own_abi())
    assert dev.fault(dev.own_abi()) == ""


@pytest.mark.parametrize(("abi", "said"), [("cpython-310", "cpython-310"), ("", "broken")])
def test_an_environment_of_another_python_is_made_anew(dev, stamp, abi, said):
    stamp("run", "test")

    assert not dev.is_ready({"run"}, abi)
    assert said in dev.fault(abi)


def test_an_environment_whose_installation_was_interrupted_is_made_anew(dev):
    dev.VENV.mkdir()
    dev.STAMP.write_text(dev.UNFINISHED)

    assert not dev.is_ready({"run"}, dev.own_abi())
    assert "interrupted" in dev.fault(dev.own_abi())


def test_an_environment_that_was_copied_with_its_checkout_is_made_anew(dev, stamp):
    stamp("run", "test")

    dev.STAMP.write_text(dev.STAMP.read_text().replace(str(dev.ROOT), "/elsewhere"))

    assert not dev.is_ready({"run"}, dev.own_abi())
    assert "/elsewhere" in dev.fault(dev.own_abi())


def test_a_missing_environment_is_made(dev):
    assert not dev.is_ready({"run"}, "")
    assert dev.fault("") == "there is none"


@pytest.fixture
def called(dev, monkeypatch):
    """The commands that dev.py calls, with their environments; all succeed but those that `fails` names."""

    class Called(list):
        fails = ""

    called = Called()

    def call(command, env=None):
        called.append((command[2:], env))
        return int(command[2] == called.fails)

    def start(command, env):
        called.append((command[2:], env))
        return nullcontext()

    monkeypatch.setattr(dev, "call", call)
    monkeypatch.setattr(dev, "start", start)
    return called


def test_the_whole_suite_is_checked_and_shared_by_several_processes(dev, called):
    assert dev.test([]) == 0

    compiling, *commands = [command for command, _ in called]
    assert compiling == ["pytest", "--collect-only", "--quiet"]
    assert commands == [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["pytest", *dev.WHOLE_SUITE]]
    assert "-n" in dev.WHOLE_SUITE


@pytest.mark.parametrize("fails", ["ruff", "mypy", "pytest"])
def test_whatever_fails_all_is_run_and_the_call_fails(dev, called, fails):
    called.fails = fails

    assert dev.test([]) == 1

    assert len(called) == 5


def test_with_arguments_pytest_alone_is_run_with_them_and_nothing_else(dev, called):
    assert dev.test(["tests/unit", "-x"]) == 0

    assert [command for command, _ in called] == [["pytest", "tests/unit", "-x"]]


def test_the_tests_may_keep_bytecode_whatever_the_environment_says(dev, called, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    dev.test(["tests/unit"])
    dev.test([])

    envs = [env for command, env in called if command[0] == "pytest"]
    assert len(envs) == 3
    assert not any("PYTHONDONTWRITEBYTECODE" in env for env in envs)
    assert all(env["PATH"] for env in envs)


def test_pythons_that_are_too_old_can_read_the_file_that_looks_for_a_newer_one():
    source = (ROOT / "dev.py").read_text(encoding="utf-8")

    assert ast.parse(source, feature_version=(3, 6))


def test_every_dependency_has_a_pinned_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")

    names = {re.sub("[-_.]+", "-", re.match(r"[\w.-]+", line)[0]) for line in wanted}

    assert {name for name in names if not re.search(rf"(?mi)^{name}==", pinned)} == set()
