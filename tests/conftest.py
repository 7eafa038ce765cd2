"""Settings all tests share."""

import os

import pytest
from hypothesis import HealthCheck, settings

# `ci` is the same on every machine and at every run; HYPOTHESIS_PROFILE=soak searches on.
_DISK = [HealthCheck.too_slow, HealthCheck.data_too_large]  # examples that write real files
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=_DISK)
settings.register_profile(
    "soak", max_examples=2000, deadline=None, suppress_health_check=_DISK, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# Where the long groups are: they start first, for the last one to end bounds the whole run.
_FIRST = (
    "tests/e2e/test_main_job",
    "tests/e2e",
    "tests/faults",
    "tests/stateful",
    "tests/contract",
)


# First, or xdist has asked for the groups before they are there.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a worker (`--dist loadgroup`): those of a file, but in the contract those of
    a transport, whose process then starts once."""
    items.sort(key=_rank)
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        row = getattr(parameters.get("app"), "name", None)
        item.add_marker(pytest.mark.xdist_group(row or item.nodeid.partition("::")[0]))


def _rank(item: pytest.Item) -> int:
    starts = [item.nodeid.startswith(start) for start in _FIRST]
    return starts.index(True) if any(starts) else len(_FIRST)
