"""Settings all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.support.memory import memory_directory

# `ci` is the same on every machine and at every run; HYPOTHESIS_PROFILE=soak searches on.
_DISK = [HealthCheck.too_slow, HealthCheck.data_too_large]  # examples that write real files
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=_DISK)
settings.register_profile(
    "soak", max_examples=2000, deadline=None, suppress_health_check=_DISK, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """As `tmp_path`, for tests that sync very often and are about no disk."""
    with memory_directory() as path:
        yield path


# Where the long groups are: they start first, for the last one to end bounds the whole run.
_FIRST = (
    "tests/e2e/test_main_job",
    "tests/e2e",
    "tests/faults",
    "tests/stateful",
    "tests/contract",
)


_SOAK_SECONDS = 1800  # only to end what hangs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(_SOAK_SECONDS))


def _rank(item: pytest.Item) -> int:
    starts = [item.nodeid.startswith(start) for start in _FIRST]
    return starts.index(True) if any(starts) else len(_FIRST)


class Groups(LoadScopeScheduling):
    """Tests that share a worker: those of a file, but in the contract those of a transport, whose
    process then starts once.

    By the test's name: xdist 3.8's own groups come to nothing under pytest 9, where a node's id
    can no longer be given a suffix.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        row = test.partition("[")[2].partition("-")[0].rstrip("]")
        return row if row and file.startswith("tests/contract/transports/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    return Groups(config, log)
