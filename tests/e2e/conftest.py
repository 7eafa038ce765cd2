"""One Bugsink for all end-to-end tests; each test says whether it is up."""

from collections.abc import Iterator

import pytest

from tests.support.bugsink import BugsinkServer


@pytest.fixture(scope="session")
def _bugsink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BugsinkServer]:
    with BugsinkServer(tmp_path_factory.mktemp("bugsink")) as server:
        yield server


@pytest.fixture
def server(_bugsink: BugsinkServer) -> BugsinkServer:
    """A server that answers."""
    _bugsink.start()
    return _bugsink


@pytest.fixture
def absent_server(_bugsink: BugsinkServer) -> BugsinkServer:
    """A server in an outage: it refuses connections until the test starts it."""
    _bugsink.stop(kill=True)
    return _bugsink
