"""Paths that can't be used, files that are broken: the application goes on, its events too."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raven_spool.errors import SchemaTooNew, SpoolUnusable
from tests.faults.children import NOBODY, Child, Notes, become
from tests.faults.events import (
    check_bodies,
    check_nothing_lost,
    make_transport,
    read_ledger,
    send,
    stored_ids,
)
from tests.support.answers import ok, status
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

# -- paths ----------------------------------------------------------------------------------------


def make_file(path: Path) -> None:
    path.write_text("not a directory")


def make_below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("not a directory either")


def make_read_only(path: Path) -> None:
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    path.chmod(0o500)


def make_somebody_elses(path: Path) -> None:
    path.mkdir(mode=0o700 if os.geteuid() == 0 else 0o000)


def make_read_only_parent(path: Path) -> None:
    path.parent.chmod(0o555)


def send_as_nobody(path: Path, url: str, output: Path) -> None:
    """A service user's application; what it prints goes to `output`."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    become()
    transport = make_transport(path)
    for _ in range(10):
        send(transport, url)
    transport.close(10)


@pytest.mark.parametrize(
    "spoil",
    [make_file, make_below_a_file, make_read_only, make_somebody_elses, make_read_only_parent],
)
def test_unusable_path_delivers_from_memory_and_says_so_once(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    path, output = tmp_path / "state" / "spool", tmp_path / "output"
    path.parent.mkdir()
    spoil(path)
    with Ingest() as ingest, Child(send_as_nobody, path, ingest.url, output) as child:
        assert child.join() == 0
        assert len(set(ingest.event_ids())) == len(ingest.event_ids()) == 10
        check_bodies(ingest.requests)
    lines = output.read_text().splitlines()
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert "spool_path" in lines[0]


def test_absent_parents_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "spool"
    with Ingest() as ingest:
        transport = make_transport(path)
        send(transport, ingest.url)
        ingest.wait_for(1)
        transport.close(10)
    assert path.stat().st_mode & 0o777 == 0o700


PROGRAM = """
import sys
from pathlib import Path
from tests.faults.events import make_transport, send
transport = make_transport(Path(sys.argv[1]))
for _ in range(3):
    send(transport, sys.argv[2])
"""


def test_unusable_path_prints_nothing_on_stdout(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_text("not a directory")
    with Ingest() as ingest:
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, path, ingest.url],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert len(ingest.event_ids()) == 3
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1


# -- files ----------------------------------------------------------------------------------------


def database(path: Path) -> Path:
    return path / (path / "current").read_text().strip() / "data.db"


def remove_directory(path: Path) -> None:
    # Out of the way first: the process under test may still write into it.
    gone = path.with_name("gone")
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def remove_current(path: Path) -> None:
    (path / "current").unlink()


def garble_current(path: Path) -> None:
    _replace(path / "current", "../../etc/passwd\n")


def dangle_current(path: Path) -> None:
    _replace(path / "current", "g-0123456789abcdef\n")


def empty_current(path: Path) -> None:
    (path / "current").write_text("")


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    fresh.replace(path)


def remove_generation(path: Path) -> None:
    shutil.rmtree(database(path).parent)


def replace_by_empty(path: Path) -> None:
    _replace(database(path), "")


def overwrite_header(path: Path) -> None:
    with database(path).open("r+b") as file:
        file.write(b"\xff" * 4096)


def overwrite_all(path: Path) -> None:
    for file in (database(path), database(path).with_name("data.db-wal")):
        if file.exists():
            size = file.stat().st_size
            with file.open("r+b") as stream:
                stream.write(os.urandom(size))


BREAKS = [
    remove_directory,
    remove_current,
    garble_current,
    dangle_current,
    empty_current,
    remove_generation,
    replace_by_empty,
    overwrite_header,
    overwrite_all,
]


@pytest.mark.parametrize("spoil", BREAKS)
def test_spool_broken_while_closed_takes_events_at_once(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest:
        with Child(send_some, path, ingest.url, tmp_path / "before", 5) as first:
            assert first.join() == 0
        spoil(path)
        with Child(send_some, path, ingest.url, tmp_path / "after", 5) as second:
            assert second.join() == 0
    returned = Notes(tmp_path / "after").read()
    assert len(returned) == 5
    assert set(returned) <= set(stored_ids(path))
    read_ledger(path)


def send_some(path: Path, url: str, returned: Path, count: int) -> None:
    transport = make_transport(path, backend="none")
    for _ in range(count):
        Notes(returned).write(send(transport, url))
    transport.close()


@pytest.mark.parametrize("spoil", BREAKS)
def test_spool_broken_under_a_running_process_goes_on(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest:
        transport = make_transport(path)
        send(transport, ingest.url)
        ingest.wait_for(1)
        spoil(path)
        sent = [send(transport, ingest.url) for _ in range(20)]
        wait_until(lambda: set(sent) <= set(ingest.event_ids()), what="delivery")
        transport.close(10)
        check_bodies(ingest.requests)


def send_before_and_after(path: Path, url: str, returned: Path, go: Path) -> None:
    transport = make_transport(path, backend="none")
    Notes(returned).write(send(transport, url))
    wait_until(go.exists)
    Notes(returned).write(send(transport, url))
    wait_until(go.with_name("held").exists)
    send(transport, url)
    assert transport.flusher.spool.volatile == 1
    os._exit(0)


def test_send_after_a_read_that_found_the_path_unusable_goes_to_memory(tmp_path: Path) -> None:
    """The read had closed the gate and left the file open: the next send failed at an assertion."""
    path = tmp_path / "spool"
    with Ingest() as ingest:
        transport = make_transport(path, backend="none")
        send(transport, ingest.url)
        path.rename(tmp_path / "taken")
        path.write_text("no directory")
        with pytest.raises(SpoolUnusable):
            transport.stats()
        kept = send(transport, ingest.url)
        assert ingest.wait_for(1) == [kept]
        transport.close(10)


def test_processes_share_one_gate_also_after_the_directory_was_remade(tmp_path: Path) -> None:
    path, go, returned = tmp_path / "spool", tmp_path / "go", Notes(tmp_path / "returned")
    arguments = path, "http://127.0.0.1:9", returned.path, go
    with (
        Child(send_before_and_after, *arguments) as one,
        Child(send_before_and_after, *arguments) as other,
    ):
        returned.wait_for(2)
        remove_directory(path)
        go.touch()
        returned.wait_for(4)
        with (path / "write.lock").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (tmp_path / "held").touch()
            assert one.join() == other.join() == 0
        assert set(returned.read()[2:]) <= set(stored_ids(path))


def hammer(path: Path, url: str, returned: Path, started: Path, go: Path) -> None:
    """Eight of these meet the same broken file."""
    transport = make_transport(path, backend="none")
    send(transport, url)
    Notes(started).write("ready")
    wait_until(go.exists)
    notes = Notes(returned)

    def write() -> None:
        for _ in range(10):
            notes.write(send(transport, url))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transport.flusher.spool.keeper.beat()


# What is overwritten in place behind SQLite's back, its log too, is out of anybody's reach.
@pytest.mark.parametrize("spoil", [spoil for spoil in BREAKS if spoil is not overwrite_all])
def test_eight_processes_that_find_a_broken_file_lose_nothing(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path, returned, go = tmp_path / "spool", Notes(tmp_path / "returned"), tmp_path / "go"
    started = Notes(tmp_path / "started")
    with Ingest() as ingest:
        children = [
            Child(hammer, path, ingest.url, returned.path, started.path, go) for _ in range(8)
        ]
        started.wait_for(8)
        spoil(path)
        go.touch()
        assert [child.join() for child in children] == [0] * 8
        check_nothing_lost(returned.read(), ingest, path)
    assert len(returned.read()) == 320


def test_newer_schema_is_left_alone_and_events_go_from_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest:
        with Child(send_some, path, ingest.url, tmp_path / "before", 3) as first:
            assert first.join() == 0
        with sqlite3.connect(database(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        kept = database(path).read_bytes()
        transport = make_transport(path)
        sent = [send(transport, ingest.url) for _ in range(5)]
        assert set(ingest.wait_for(5)) == set(sent)
        wait_until(lambda: transport.stats()["delivered"] == 5)  # of what is in memory
        with pytest.raises(SchemaTooNew):
            transport.flusher.spool.stats()
        transport.close(10)
    assert database(path).read_bytes() == kept
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(path) in line
    assert "upgrade raven_spool" in line


def test_events_in_memory_reach_the_disk_once_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "state" / "spool"
    path.parent.write_text("in the way")
    with Ingest() as ingest:
        ingest.answer_with(status(503))
        transport = make_transport(path)
        sent = [send(transport, ingest.url) for _ in range(3)]
        path.parent.unlink()
        sent.append(send(transport, ingest.url))
        transport.close(1)
        known = {*stored_ids(path)} if path.exists() else set()
        ingest.answer_with(ok())
        assert set(sent) <= known
