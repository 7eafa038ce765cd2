"""What the tests of the command line share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ingest import Ingest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as server:
        yield server
