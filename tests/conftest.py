"""The servers that tests share: each is started once, when the first test asks for it."""

from collections.abc import Iterator

import pytest
from services import Postgres, Valkey, postgres, valkey


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
