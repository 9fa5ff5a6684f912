"""The servers that tests share: each is started once by a process of pytest, when its first test asks for it."""

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_rerunfailures import StatusDB
from servers import passing_folder
from services import Postgres, Valkey, postgres, valkey


@pytest.fixture(scope="session", autouse=True)
def passing_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests and their programs leave behind, killed as some of them are, goes with this process.

    So do the run stores of applications that configure none, which would stay in the home directory.
    """
    tmp_path_factory.getbasetemp()  # that of pytest stays where it is, for a look at what failed
    with passing_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        yield


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey for tests that leave it running; each takes a name or prefix of its own."""
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL for tests that leave it running; each takes a name of its own."""
    with postgres() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        mix(items)
    if os.environ.get("CI") == "true":
        give_a_second_chance(items)


def mix(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, a file that waits and one that starts many servers take turns.

    One folder after the other, the processors would idle, and then have three times as much to
    start as they can. The unit tests come last: their many short files fill the gaps.
    """
    files = list(dict.fromkeys(item.path for item in items))
    folders: dict[str, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent.name, []).append(file)
    places = {
        file: (folder == "unit", number / len(its))
        for folder, its in folders.items()
        for number, file in enumerate(its)
    }
    items.sort(key=lambda item: places[item.path])


def give_a_second_chance(items: list[pytest.Item]) -> None:
    """In CI, tests with real processes have a second chance, which the summary shows.

    On a machine that others share a process may stand still for longer than any patience; what
    fails twice is a fault.
    """
    for item in items:
        if Path(item.path).parent.name in ("contract", "integration"):
            item.add_marker(pytest.mark.flaky(reruns=1))
        else:  # what an earlier test of that kind left to the garbage collector is told in whichever comes next
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=["PytestUn(raisable|handledThread)Exception"]))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where several processes share the tests, have second chances counted in each of them.

    pytest-rerunfailures asks the first process before each test how many processes that has
    crashed, and its small messages wait 40 ms for each other: a third of the whole suite. Only
    those that take the place of a crashed one need to know.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and int(worker.removeprefix("gw")) < int(os.environ["PYTEST_XDIST_WORKER_COUNT"]):
        session.config.failures_db.sock.close()
        session.config.failures_db = StatusDB()


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Where several processes share the tests, a lone surrogate in what one of them logged would end it."""
    return sendable((yield))


def sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {name: sendable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(sendable, value))
    return value
