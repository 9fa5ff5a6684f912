"""Which file is the application's own: the same for all its processes, another one for all others."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pulse.model import Config
from pulse.runstores import automatic
from pulse.runstores.automatic import automatic_store, clear_away


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


def test_a_state_directory_that_would_be_another_one_in_each_folder_is_not_used(state, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    assert file_of(name="shop").parent == tmp_path / "home" / ".local" / "state" / "pulse"


def test_a_folder_that_others_can_write_is_not_used(state, monkeypatch, tmp_path, caplog):
    (tmp_path / "state").write_text("in the way")
    monkeypatch.setattr(automatic.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"pulse-{os.getuid()}").mkdir()
    (tmp_path / f"pulse-{os.getuid()}").chmod(0o777)

    assert automatic_store(Config(name="shop")) == "memory:"
    assert [record.pulse_event for record in caplog.records] == ["store_in_memory"]


# What nobody uses any more

DAY = 86_400
LAST_USED = 1_800_000_000


def leave(folder: Path, name: str, days: float, *companions: str) -> None:
    """A store in *folder* that was last used so many *days* before some others."""
    for suffix in ("", "-seen", *companions):
        file = folder / f"{name}{suffix}"
        file.touch()
        os.utime(file, (LAST_USED - days * DAY,) * 2)


def left_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_stores_that_nobody_has_used_for_a_year_are_cleared_away_with_all_that_lies_beside_them(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    leave(tmp_path, "shop-0123456789ab.db", 0)
    leave(tmp_path, "blog-0123456789ab.db", 1)
    leave(tmp_path, "news-0123456789ab.db", 366)
    leave(tmp_path, "gone-0123456789ab.db", 368, "-wal", "-shm")

    assert clear_away(tmp_path) == ["gone-0123456789ab.db"]

    kept = ("shop", "blog", "news")
    assert left_in(tmp_path) == {f"{name}-0123456789ab.db{suffix}" for name in kept for suffix in ("", "-seen")}
    assert [record.pulse_event for record in caplog.records] == ["store_removed"]
    assert "gone-0123456789ab.db" in caplog.text


def test_a_store_is_used_as_long_as_any_of_its_files_is(tmp_path):
    leave(tmp_path, "shop-0123456789ab.db", 0)
    leave(tmp_path, "blog-0123456789ab.db", 1)
    leave(tmp_path, "quiet-0123456789ab.db", 999)
    os.utime(tmp_path / "quiet-0123456789ab.db-seen", (LAST_USED,) * 2)

    assert clear_away(tmp_path) == []


def test_what_pulse_has_not_made_is_never_cleared_away(tmp_path):
    leave(tmp_path, "shop-0123456789ab.db", 0)
    leave(tmp_path, "blog-0123456789ab.db", 1)
    others = {"runs.db", "shop-0123.db", "shop-0123456789ab.db.bak", "notes-0123456789ab.txt", "0123456789ab.db"}
    for name in others:
        leave(tmp_path, name, 999)

    assert clear_away(tmp_path) == []
    assert others <= left_in(tmp_path)


def test_a_clock_that_is_set_wrong_clears_nothing_away(tmp_path):
    leave(tmp_path, "shop-0123456789ab.db", -9999)
    leave(tmp_path, "blog-0123456789ab.db", 1)
    leave(tmp_path, "news-0123456789ab.db", 300)

    assert clear_away(tmp_path) == []


def test_where_there_is_but_one_store_or_none_or_no_folder_nothing_is_cleared_away(tmp_path):
    assert clear_away(tmp_path / "nowhere") == clear_away(tmp_path) == []
    leave(tmp_path, "shop-0123456789ab.db", 999)

    assert clear_away(tmp_path) == []


def test_a_file_of_the_application_is_one_that_would_be_cleared_away(state):
    leave(file_of(name="shop").parent, file_of(name="shop").name, 999)
    leave(state, file_of(name="blog").name, 0)
    leave(state, file_of(name="news").name, 0)

    assert clear_away(state) == [file_of(name="shop").name]


def test_what_cannot_be_removed_stays(tmp_path):
    leave(tmp_path, "shop-0123456789ab.db", 0)
    leave(tmp_path, "blog-0123456789ab.db", 1)
    (tmp_path / "news-0123456789ab.db").mkdir()
    os.utime(tmp_path / "news-0123456789ab.db", (0, 0))

    assert clear_away(tmp_path) == []

    assert "news-0123456789ab.db" in left_in(tmp_path)
