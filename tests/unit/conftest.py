"""Shared by the unit tests of the drain."""

import pytest

from tests.support.drains import Process
from tests.support.spools import check_ledger, discard


@pytest.fixture
def begin(tmp_path):
    """Makes processes over one spool directory."""
    processes = []

    def make(**options):
        processes.append(Process(tmp_path / "spool", **options))
        return processes[-1]

    yield make
    for process in processes:
        check_ledger(process.spool)
        discard(process.spool)
