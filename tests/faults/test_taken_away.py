"""Rights that are taken away under a running program, and given back: from memory, then to disk."""

import contextlib
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.children import NOBODY, Child, Notes, become
from tests.faults.disks import mounted
from tests.faults.events import check_bodies, count_repeats, make_transport, read_ledger, send
from tests.faults.test_broken import database, remove_directory
from tests.support import evidence
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes rights away from another user")


def send_all_along(path: Path, url: str, returned: Path, marks: Path) -> None:
    """A service user's application: before, while it has no right, and after."""
    become()
    transport = make_transport(path)
    notes = Notes(returned)
    for mark in ("begun", "taken", "given"):
        wait_until((marks / mark).exists, timeout_seconds=60)
        for _ in range(5):
            notes.write(send(transport, url))

    def is_over() -> bool:
        notes.write(send(transport, url))
        return (marks / "over").exists()

    wait_until(is_over, timeout_seconds=60)
    transport.close(10)


def remake_as_root(path: Path) -> None:
    path.parent.chmod(0o755)  # else the program may make it first
    remove_directory(path)
    path.mkdir(mode=0o700)


def give_to_nobody(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def forbid_writing(path: Path) -> None:
    path.chmod(0o500)
    database(path).parent.chmod(0o500)
    for file in database(path).parent.iterdir():
        file.chmod(0o400)


def forbid_all(path: Path) -> None:
    path.chmod(0)


def hand_to_root(path: Path) -> None:
    for one in (path, *path.rglob("*")):
        os.chown(one, 0, 0)


def allow(path: Path) -> None:
    for one in (path, *path.rglob("*")):
        os.chown(one, NOBODY, NOBODY)
        one.chmod(0o700 if one.is_dir() else 0o600)


TAKEN = [
    (remake_as_root, give_to_nobody),
    (forbid_writing, allow),
    (forbid_all, allow),
    (hand_to_root, allow),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """Not pytest's own: another user comes in here, and can note what it has sent."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for directory in ("state", "marks"):
            (place / directory).mkdir()
        (place / "state").chmod(0o777)
        for file in ("returned", "stored"):
            (place / file).touch()
            (place / file).chmod(0o666)
        yield place


def accepted(path: Path) -> int:
    with contextlib.suppress(OSError, sqlite3.Error, TypeError):
        return read_ledger(path)["accepted"]
    return 0


@needs_root
@pytest.mark.evidence
@pytest.mark.parametrize(("take", "give"), TAKEN)
def test_rights_taken_from_a_running_program_cost_no_event(
    place: Path, take: Callable[[Path], None], give: Callable[[Path], None]
) -> None:
    path, marks = place / "state" / "spool", place / "marks"
    returned = Notes(place / "returned")
    arguments = returned.path, marks
    with Ingest() as ingest, Child(send_all_along, path, ingest.url, *arguments) as child:
        (marks / "begun").touch()
        returned.wait_for(5)
        ingest.wait_for(5)
        take(path)
        (marks / "taken").touch()
        sent = returned.wait_for(10)
        wait_until(lambda: set(sent) <= set(ingest.event_ids()), what="delivery meanwhile")
        give(path)
        before = accepted(path)
        (marks / "given").touch()
        wait_until(lambda: accepted(path) > before, what="an event on disk again")
        (marks / "over").touch()
        assert child.join() == 0
        assert set(returned.read()) <= set(ingest.event_ids())
        check_bodies(ingest.requests)
        repeats = count_repeats(ingest)
    assert read_ledger(path)["ready"] == 0
    evidence.note(
        f"{take.__name__.replace('_', ' ')}, under a running program of another user, and undone",
        promise=4, tried="1 time", events=len(returned.read()), lost=0, twice=repeats,
    )  # fmt: skip


@pytest.fixture
def disk(place: Path) -> Iterator[Path]:
    yield from mounted(place / "disk", 64 << 20)


@needs_root
def test_disk_that_is_mounted_read_only_is_used_again_once_it_is_not(
    place: Path, disk: Path
) -> None:
    """What is open for writing cannot be mounted so by hand: the next program meets it."""
    path, marks, returned = disk / "spool", place / "marks", Notes(place / "returned")
    disk.chmod(0o777)
    with Ingest() as ingest:
        with Child(send_and_leave, path, ingest.url, place / "stored") as first:
            assert first.join() == 0
        remount(disk, "ro")
        arguments = returned.path, marks
        with Child(send_all_along, path, ingest.url, *arguments) as child:
            for mark in ("begun", "taken"):
                (marks / mark).touch()
            sent = returned.wait_for(10)
            wait_until(lambda: set(sent) <= set(ingest.event_ids()), what="delivery meanwhile")
            remount(disk, "rw")
            (marks / "given").touch()
            wait_until(lambda: accepted(path) > 3, what="an event on disk again")
            (marks / "over").touch()
            assert child.join() == 0
        stored = Notes(place / "stored").read()
        assert {*returned.read(), *stored} <= set(ingest.event_ids())
    assert read_ledger(path)["ready"] == 0


def send_and_leave(path: Path, url: str, returned: Path) -> None:
    become()
    transport = make_transport(path, backend="none")
    for _ in range(3):
        Notes(returned).write(send(transport, url))
    transport.close()


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
