"""An application that closes all descriptors there are, and has their numbers from then on."""

import contextlib
import gc
import os
from pathlib import Path

import pytest

from raven_spool.spool import Spool
from tests.faults.children import Child
from tests.support.spools import HERE, event


def numbers_under(path: Path) -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}").startswith(f"{path}/"):
                found.append(int(name))
    return found


def take_over(path: Path) -> list[int]:
    """Close what the spool has open, and open something else under each of its numbers."""
    numbers = numbers_under(path)
    for number in numbers:
        os.close(number)
    null = os.open(os.devnull, os.O_RDONLY)
    for number in numbers:
        if number != null:
            os.dup2(null, number)
    return numbers


def are_open(numbers: list[int]) -> bool:
    return all(os.path.samestat(os.fstat(one), os.stat(os.devnull)) for one in numbers)


def lead_and_lose_all(path: Path, how: str) -> None:
    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(1), HERE)
    assert spool.leadership.take()
    numbers = take_over(path)
    assert len(numbers) >= 6
    if how == "fork":
        pid = os.fork()
        if pid == 0:
            gc.collect()
            os._exit(not are_open(numbers))
        assert os.waitpid(pid, 0)[1] == 0
    spool.leadership.let_go(clean=how == "clean")
    del spool
    gc.collect()
    assert are_open(numbers)


@pytest.mark.parametrize("how", ["clean", "unclean", "fork"])
def test_leader_whose_descriptors_were_closed_closes_no_others(tmp_path: Path, how: str) -> None:
    """filelock closed by its number what was the application's file by then."""
    with Child(lead_and_lose_all, tmp_path / "spool", how) as child:
        assert child.join() == 0
