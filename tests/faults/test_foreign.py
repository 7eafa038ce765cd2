"""Something else in the place of one of the spool's files: sends go on, what was stored arrives."""

import contextlib
import json
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.children import Child, Notes
from tests.faults.events import check_bodies, count_repeats, make_transport, read_ledger, send
from tests.faults.test_broken import database
from tests.support import evidence, tool
from tests.support.answers import ok, status
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

STORED = 8
FRESH = 5
# A header, and bytes that are no text and no page.
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 40


def put_picture(path: Path) -> None:
    path.write_bytes(PNG)


def put_database(path: Path) -> None:
    """Of another program, in a WAL as ours are, with a table of the same name."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE lanes (id, name)")
        connection.executemany("INSERT INTO lanes VALUES (?, 'foreign')", [(n,) for n in range(99)])
        connection.commit()


def put_empty(path: Path) -> None:
    path.touch()


def put_directory(path: Path) -> None:
    path.mkdir()
    (path / "theirs").write_text("not ours to remove")


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_nothing(path: Path) -> None:
    """It was lost."""


THINGS = [put_picture, put_database, put_empty, put_directory, put_pipe, put_nothing]
NAMES = [
    "data.db", "data.db-wal", "data.db-shm", "current", "write.lock", "queue.lock", "write.turn",
    "drain.lock", "drain.leader", "wake", "ballast",
]  # fmt: skip


def place_of(path: Path, name: str) -> Path:
    return database(path).with_name(name) if name.startswith("data.db") else path / name


def replace(place: Path, put: Callable[[Path], None]) -> None:
    """The thing is made elsewhere and put there by name, as a restored or copied file is."""
    thing = place.parent.parent / "thing"
    put(thing)
    place.unlink(missing_ok=True)
    while thing.exists():
        try:
            thing.rename(place)
        except NotADirectoryError:  # a running program has made its own anew, and it is none
            place.unlink(missing_ok=True)


def store_and_die(path: Path, url: str, returned: Path) -> None:
    """All is in the log then, and nobody has it open."""
    transport = make_transport(path, backend="none")
    for _ in range(STORED):
        Notes(returned).write(send(transport, url))
    os._exit(0)


def send_and_deliver(path: Path, url: str, returned: Path, go: Path) -> None:
    """Meets it while it has the spool open, or, where `go` is there from the first, afterwards."""
    transport = make_transport(path)
    if not go.exists():
        Notes(returned).write(send(transport, url))
        wait_until(go.exists)
    for _ in range(FRESH):
        Notes(returned).write(send(transport, url))
    wait_until(go.with_name("over").exists, timeout_seconds=60)
    transport.close(10)


# Whoever meets these keeps to memory, or to what is stored, and says what is to be removed: they
# may be somebody's, and no file can be put in the place of a directory.
IN_THE_WAY = {
    *((name, put) for name in ("current", "write.lock", "queue.lock", "drain.lock")
      for put in (put_directory, put_pipe)),
}  # fmt: skip
# A log that nobody has open any more takes along what was in it alone.
LOST_WITH = {"data.db-wal"}


def check(directory: Path, name: str, put: Callable[[Path], None], *, is_running: bool) -> int:
    """Returns how many events arrived."""
    directory.mkdir()
    path, go = directory / "spool", directory / "go"
    stored, fresh = Notes(directory / "stored"), Notes(directory / "fresh")
    with Ingest() as ingest:
        ingest.answer_with(status(503))
        with Child(store_and_die, path, ingest.url, stored.path) as first:
            assert first.join() == 0
        if not is_running:
            replace(place_of(path, name), put)
            go.touch()
        with Child(send_and_deliver, path, ingest.url, fresh.path, go) as child:
            if is_running:
                fresh.wait_for(1)
                replace(place_of(path, name), put)
                go.touch()
            ingest.answer_with(ok())
            sent = fresh.wait_for(FRESH + is_running)  # none was held up, none raised
            if (name, put) in IN_THE_WAY:
                remove(path / name)
                sent += send_more(path, ingest.url, directory)  # with the next event it goes on
            expected = {*sent, *(stored.read() if is_running or name not in LOST_WITH else ())}
            wait_until(
                lambda: expected <= set(ingest.event_ids()),
                timeout_seconds=20,
                what=f"delivery with {put.__name__} as {name}",
            )
            go.with_name("over").touch()
            assert child.join() == 0
        # Answered, and not yet acked when the file was put aside: those come back, and go again.
        assert max(Counter(ingest.event_ids()).values()) <= 2
        assert is_running or count_repeats(ingest) == 0
        check_bodies(ingest.requests)
        assert read_ledger(path)["ready"] == 0
        return len(expected)


def send_more(path: Path, url: str, directory: Path) -> list[str]:
    later = Notes(directory / "later")
    (directory / "at" / "over").parent.mkdir()
    for name in ("go", "over"):
        (directory / "at" / name).touch()
    with Child(send_and_deliver, path, url, later.path, directory / "at" / "go") as child:
        assert child.join() == 0
    return later.read()


def remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def check_all(directory: Path, name: str, things: list[Callable[[Path], None]]) -> None:
    events = 0
    for put in things:
        for is_running in (False, True):
            case = directory / f"{put.__name__}-{is_running}"
            events += check(case, name, put, is_running=is_running)
    evidence.note(
        f"something else in the place of {name}, at rest and under a running process",
        promise=2,
        tried=f"{2 * len(things)} times",
        events=events,
        lost=0,
        seen="not counted: what stood in a log that nobody had open" if name in LOST_WITH else "",
    )


@pytest.mark.evidence
@pytest.mark.parametrize("name", NAMES)
def test_foreign_file_holds_no_send_up_and_takes_no_event_along(tmp_path: Path, name: str) -> None:
    check_all(tmp_path, name, [put_picture, put_directory])


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_foreign_file_of_each_kind_takes_no_event_along(tmp_path: Path, name: str) -> None:
    check_all(tmp_path, name, THINGS)


@pytest.mark.parametrize("pid", ["dead", "recycled"])
def test_record_of_a_leader_that_is_gone_keeps_nobody_from_leading(
    tmp_path: Path, pid: str
) -> None:
    """The lock alone decides, and that died with its holder; another program may have its pid."""
    path = tmp_path / "spool"
    with Ingest() as ingest:
        with Child(store_and_die, path, ingest.url, tmp_path / "stored") as first:
            assert first.join() == 0
            gone = first.pid
        record = {
            "pid": gone if pid == "dead" else os.getppid(),
            "progress_at": time.time(),
            "busy_until": time.time() + 3600,
        }
        for name in ("drain.leader", "drain.lock"):
            (path / name).write_text(json.dumps(record))
        ran = tool.run("flush", "--spool", path)
        assert ran.returncode == 0, ran.stderr
        assert sorted(ingest.event_ids()) == sorted(Notes(tmp_path / "stored").read())
    assert read_ledger(path)["delivered"] == STORED
