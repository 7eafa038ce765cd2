"""What the contract tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raven_spool import backends, flusher
from tests.support.ingest import Ingest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as server:
        yield server


@pytest.fixture(autouse=True)
def close_flushers() -> Iterator[None]:
    """What a test's transports have begun ends with it."""
    yield
    for found in list(flusher._flushers.values()):
        found.close(0.5)
    flusher._flushers.clear()
    backends._own_transports.clear()
