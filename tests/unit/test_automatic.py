"""Which file is the application's own: the same for all its processes, another one for all others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pulse.model import Config
from pulse.runstores import automatic
from pulse.runstores.automatic import automatic_store


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(automatic, "_built", automatic.Counter())
    return tmp_path / "state" / "pulse"


@pytest.fixture
def serving(state, monkeypatch) -> Path:
    """As if this were no test run."""
    monkeypatch.delitem(sys.modules, "_pytest")
    return state


def file_of(**config) -> Path:
    scheme, _, path = automatic_store(Config(**config)).partition(":")
    assert scheme == "sqlite"
    return Path(path)


def test_tests_keep_everything_in_memory(state):
    assert automatic_store(Config(origin="/srv/app.ini")) == "memory:"


def test_a_named_application_has_a_file_wherever_it_is_built(state):
    assert file_of(name="shop") == file_of(name="shop")
    assert file_of(name="shop").parent == state
    assert file_of(name="shop").name.startswith("shop-")
    assert file_of(name="shop") != file_of(name="shop2")


def test_the_folder_is_for_its_owner_alone(state):
    file_of(name="shop")

    assert state.stat().st_mode & 0o777 == 0o700


def test_an_ini_file_and_its_context_are_an_application(serving):
    files = [
        file_of(origin="/srv/a.ini", context="sessions"),
        file_of(origin="/srv/a.ini", context="reports"),
        file_of(origin="/srv/b.ini", context="sessions"),
    ]

    assert len(set(files)) == 3


def test_filters_that_are_built_alike_have_a_file_each(serving, monkeypatch):
    first, second = (file_of(origin="/srv/a.ini") for _ in range(2))
    monkeypatch.setattr(automatic, "_built", automatic.Counter())  # another process
    again = [file_of(origin="/srv/a.ini") for _ in range(2)]

    assert first != second
    assert again == [first, second]


def test_what_is_built_in_python_is_known_by_its_file_and_directory(serving, monkeypatch, tmp_path):
    here = file_of()
    monkeypatch.chdir(tmp_path)

    assert file_of() != here
    assert here.name.startswith("test_automatic.py")


def run(*arguments: str, **environ: str) -> str:
    command = [sys.executable, *arguments]
    program = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
    return program.stdout.strip()


PROGRAM = """
from pulse.middleware import PulseMiddleware
middleware = PulseMiddleware(lambda environ, start_response: [], task={'a': {}})
print(getattr(middleware.run_store, 'path', 'memory'))
"""


def test_what_is_typed_at_a_prompt_lives_in_memory(state):
    assert run("-c", PROGRAM) == "memory"


def test_a_program_finds_its_file_again_from_any_door(state, tmp_path):
    (tmp_path / "shop.py").write_text(PROGRAM)

    as_program = run(str(tmp_path / "shop.py"))
    as_module = run("-c", "import shop", PYTHONPATH=str(tmp_path))

    assert as_program == as_module
    assert Path(as_program).parent == state


def test_a_state_directory_that_cannot_be_made_gives_way_to_the_temporary_one(state, monkeypatch, tmp_path):
    (tmp_path / "state").write_text("in the way")
    monkeypatch.setattr(automatic.tempfile, "gettempdir", lambda: str(tmp_path))

    file = file_of(name="shop")

    assert file.parent == tmp_path / f"pulse-{os.getuid()}"
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_is_not_used(state, monkeypatch, tmp_path, caplog):
    (tmp_path / "state").write_text("in the way")
    monkeypatch.setattr(automatic.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"pulse-{os.getuid()}").mkdir()
    (tmp_path / f"pulse-{os.getuid()}").chmod(0o777)

    assert automatic_store(Config(name="shop")) == "memory:"
    assert [record.pulse_event for record in caplog.records] == ["store_in_memory"]
