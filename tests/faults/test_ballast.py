"""The ballast: whole or made anew, through kills while it is made, spent and made again."""

import itertools
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raven_spool.errors import SpoolFull
from tests.faults.children import Child, Notes
from tests.faults.disks import Filler, mounted
from tests.faults.events import (
    read_ledger,
)
from tests.faults.points import Point
from tests.faults.test_signals import Injector
from tests.support import evidence
from tests.support.drains import Process
from tests.support.spools import HERE, NOW, discard, event

MIB = 1 << 20
_BACKLOG = 30


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", 64 * MIB)


def blocks_of(ballast: Path) -> int:
    return ballast.lstat().st_blocks * 512


# -- what counts as one ---------------------------------------------------------------------------


def leave_it_empty(ballast: Path) -> None:
    ballast.write_bytes(b"")


def leave_half_of_it(ballast: Path) -> None:
    os.truncate(ballast, ballast.stat().st_size // 2)


def leave_a_hole(ballast: Path) -> None:
    """As `cp -a` does, and so a spool that was restored from a backup."""
    size = ballast.stat().st_size
    ballast.unlink()
    ballast.touch()
    os.truncate(ballast, size)


def leave_a_link(ballast: Path) -> None:
    ballast.rename(ballast.with_name("elsewhere"))
    ballast.symlink_to("elsewhere")


LEFT = [leave_it_empty, leave_half_of_it, leave_a_hole, leave_a_link]


@pytest.mark.parametrize("leave", LEFT)
def test_ballast_that_holds_too_little_is_made_anew(
    disk: Path, leave: Callable[[Path], None]
) -> None:
    """Its name was enough: on a full disk an empty one gave the acks no room."""
    path = disk / "spool"
    process = Process(path)
    process.put(1)
    whole = blocks_of(path / "ballast")
    assert whole > MIB
    discard(process.spool)
    leave(path / "ballast")
    process = Process(path)
    process.put(2)
    assert not (path / "ballast").is_symlink()
    assert blocks_of(path / "ballast") == whole
    leave_half_of_it(path / "ballast")  # also in front of a process at work
    process.put(3)
    assert blocks_of(path / "ballast") == whole
    discard(process.spool)


@pytest.mark.parametrize("leave", LEFT[:3])
def test_ballast_that_holds_too_little_is_no_licence(
    disk: Path, leave: Callable[[Path], None]
) -> None:
    path, filler = disk / "spool", Filler(disk)
    process = Process(path)
    process.put(1)
    discard(process.spool)
    leave(path / "ballast")
    filler.fill()
    filler.give_back(MIB // 4)  # a log and its index can be made, but no ballast
    process = Process(path)
    with pytest.raises(SpoolFull):
        process.put(2)
    assert process.spool.drop([1], "rm") == 1
    discard(process.spool)


# -- what becomes of its room ---------------------------------------------------------------------


def test_drain_goes_on_when_another_program_takes_the_ballasts_room(disk: Path) -> None:
    """Once the ballast is spent the log must be written from its start again, in its own blocks:
    without a checkpoint it would have to grow, on a disk that is full for good."""
    path, filler = disk / "spool", Filler(disk)
    process = Process(path)
    for number in range(_BACKLOG):
        assert process.spool.enqueue(event(number, body=bytes(10_000)), HERE, timeout_seconds=5)
    filler.fill()
    assert process.spool.leadership.take()
    lane = process.lane("error")
    while claimed := process.spool.claim(lane, limit=1, now=NOW):
        process.spool.ack(claimed)
        filler.fill()
    assert not (path / "ballast").exists()
    assert read_ledger(path)["delivered"] == _BACKLOG
    discard(process.spool)


# -- kills ----------------------------------------------------------------------------------------


def die(where: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def add_one(path: Path, number: int, nth: int, told: Path) -> None:
    """Dies at the n-th instant of what makes the ballast, or gets through all of it."""
    process = Process(path)
    injector = Injector(nth, die, within=r"raven_spool/spool/(ballast|files)\.py")
    with injector.armed():
        process.put(number)
    Notes(told).write(injector.where or "through")


@pytest.mark.evidence
def test_a_kill_while_the_ballast_is_made_leaves_one_that_is_made_anew(tmp_path: Path) -> None:
    path, told = tmp_path / "spool", Notes(tmp_path / "told")
    process = Process(path)
    process.put(0)
    whole = blocks_of(path / "ballast")
    for nth in itertools.count(1):
        (path / "ballast").unlink()
        (path / "ballast.new").write_bytes(b"left by one that died before")
        with Child(add_one, path, nth, nth, told.path) as child:
            code = child.join()
        if told.read():
            break
        assert code == -signal.SIGKILL
        process.put(1000 + nth)
        assert blocks_of(path / "ballast") == whole, nth
        assert not (path / "ballast.new").exists(), nth
    assert nth > 20
    assert code == 0
    assert read_ledger(path)["accepted"] >= nth
    discard(process.spool)
    evidence.note(
        "SIGKILL at each instant of making the ballast anew",
        promise=2,
        tried=f"{nth - 1} kills",
        events=nth,
        lost=0,
    )


def drain_and_die(disk: Path, path: Path, acked: Path, point: Point) -> None:
    process = Process(path)
    process.spool.stats()  # opens it while there is room
    Filler(disk).fill()
    point.arm()
    deliver_all(process, acked)


def deliver_all(process: Process, acked: Path) -> None:
    assert process.spool.leadership.take()
    lane = process.lane("error")
    while claimed := process.spool.claim(lane, limit=1, now=NOW):
        process.spool.ack(claimed)
        Notes(acked).write(claimed[0].event.event_id)


SPENDING = [
    Point(owner, name, side, 1)
    for owner, name in (
        ("spool.ballast:Ballast", "spend"),
        ("spool.ballast", "_remove"),
        ("spool.queue:EventQueue", "checkpoint"),
        ("spool.queue:EventQueue", "ack_many"),
    )
    for side in ("before", "after")
]


@pytest.mark.evidence
def test_a_kill_while_the_ballast_is_spent_leaves_a_spool_that_drains(
    disk: Path, tmp_path: Path
) -> None:
    """On a disk that stays full, by whoever comes next."""
    ids = {event(number).event_id for number in range(_BACKLOG)}
    for number, point in enumerate(SPENDING):
        path, acked = disk / f"spool-{number}", Notes(tmp_path / f"acked-{number}")
        process = Process(path)
        process.put(*range(_BACKLOG))
        with Child(drain_and_die, disk, path, acked.path, point) as child:
            assert child.join() == -signal.SIGKILL, point
        deliver_all(process, acked.path)
        assert max(Counter(acked.read()).values()) == 1, point
        assert len(ids - {*acked.read()}) <= 1, point  # its ack went through, and nobody was told
        ledger = read_ledger(path)
        assert (ledger["delivered"], ledger["ready"]) == (_BACKLOG, 0), point
        discard(process.spool)
        Filler(disk).free()
        shutil.rmtree(path)
    evidence.note(
        "SIGKILL while a full disk's ballast is spent; the next one drains on the full disk",
        promise=2,
        tried=f"{len(SPENDING)} kills",
        events=_BACKLOG * len(SPENDING),
        lost=0,
        twice=0,
    )
