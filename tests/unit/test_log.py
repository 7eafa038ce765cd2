"""What stands behind a damage in a log is found, by what SQLite itself has written."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven_spool.spool import log
from raven_spool.spool.btree import id_in
from raven_spool.spool.names import LOG, REST
from raven_spool.spool.queue import EventQueue
from raven_spool.spool.rows import Row

HEAD, FRAME = 32, 24 + 4096
COMMITS = 30


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file and its log, as a process that was killed leaves them: each event is in the log."""
    path = tmp_path_factory.mktemp("original")
    live = path / "live"
    live.mkdir()
    queue = EventQueue(str(live), synchronous="NORMAL", max_pages=1000, checkpoint_pages=0)
    queue.checkpoint()  # what follows begins a new round of the log, over the old one
    for number in range(1, COMMITS + 1):
        add(queue, number)
    shutil.copytree(live, path / "left", ignore=shutil.ignore_patterns("*-shm"))
    queue.close()
    return path / "left" / "data.db"


def add(queue: EventQueue, number: int) -> None:
    body = b"%d" % number * 300
    row = Row(1, 1.7e9, f"{number:032x}", "store", len(body), 0, "[]", body)
    queue.insert([row])


@pytest.fixture
def database(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.parent, tmp_path / "copy"), original.name)


def log_of(database: Path) -> Path:
    return database.with_name(database.name + LOG)


def frames_of(database: Path) -> list[bytes]:
    content = log_of(database).read_bytes()
    frames = [content[at : at + FRAME] for at in range(HEAD, len(content), FRAME)]
    return [frame for frame in frames if frame[8:16] == content[16:24]]


def spoil(database: Path, at: int, size: int = 1) -> None:
    with log_of(database).open("r+b") as file:
        file.seek(at)
        was = file.read(size)
        file.seek(at)
        file.write(bytes(255 - byte for byte in was))


def ids_in(database: Path) -> set[int]:
    """Of what is found behind the damage."""
    return {id_in(place) for place in log.read_rest(str(database), 0).find_rows()}


def ids_read(database: Path) -> set[int]:
    """What SQLite reads, up to the damage."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return {key for (key,) in connection.execute("SELECT _id FROM ack_queue_events")}


def test_whole_log_has_nothing_behind_a_damage(database: Path) -> None:
    assert len(frames_of(database)) >= COMMITS
    assert log.find_rest(str(log_of(database))) == []
    assert ids_read(database) == set(range(1, COMMITS + 1))


def test_no_log_and_an_empty_one_have_none_either(database: Path) -> None:
    log_of(database).write_bytes(b"")
    assert log.find_rest(str(log_of(database))) == []
    log_of(database).unlink()
    assert log.find_rest(str(log_of(database))) == []


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_each_frame_but_the_damaged_one_and_its_next_is_found(
    original: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copied = shutil.copytree(original.parent, tmp_path_factory.mktemp("damaged") / "copy")
    database = copied / original.name
    frames = frames_of(database)
    nth = data.draw(st.integers(0, len(frames) - 1), "frame")
    at = data.draw(st.integers(0, FRAME - 1), "byte")
    spoil(database, HEAD + nth * FRAME + at)

    rest = log.find_rest(str(log_of(database)))

    # A sum that is damaged says nothing of the next frame.
    first = nth + 1 + (16 <= at < 24)
    last = max((n for n, frame in enumerate(frames) if frame[4:8] != bytes(4)), default=0)
    begun = next((n for n in range(nth, 0, -1) if frames[n - 1][4:8] != bytes(4)), 0)
    expected = [*frames[begun:nth], *frames[first : last + 1]] if first <= last else []
    assert rest == expected
    # Pages are written again and again: next to nothing stands in one frame alone.
    missing = set(range(1, COMMITS + 1)) - ids_read(database) - ids_in(database)
    assert len(missing) <= COMMITS if not rest else len(missing) <= 4


@pytest.mark.parametrize("at", [0, 12, 16, 20, 24])
def test_log_whose_head_is_damaged_is_read_whole(database: Path, at: int) -> None:
    """SQLite takes nothing of it. The first frame can't be told to be whole without the head."""
    frames = frames_of(database)
    spoil(database, at, 4)
    found = log.find_rest(str(log_of(database)))
    assert found in (frames, frames[1:])


def test_first_sector_that_is_gone_takes_two_frames(database: Path) -> None:
    frames = frames_of(database)
    with log_of(database).open("r+b") as file:
        file.write(bytes(512))
    assert log.find_rest(str(log_of(database))) == frames[2:]


def test_what_is_of_an_older_round_is_no_rest(original: Path, database: Path) -> None:
    """The log is written from its start again and again; behind its end stands what was there."""
    whole = log_of(original).read_bytes()
    older = b"".join(
        frame[:8] + bytes(8) + frame[16:]
        for frame in frames_of(original)[len(frames_of(original)) // 2 :]
    )
    log_of(database).write_bytes(whole[: HEAD + 3 * FRAME] + older)
    assert log.find_rest(str(log_of(database))) == []


def test_commit_that_was_begun_is_no_rest(database: Path) -> None:
    frames = frames_of(database)
    last = max(n for n, frame in enumerate(frames) if frame[4:8] != bytes(4))
    spoil(database, HEAD + last * FRAME + 100)
    begun = next((n for n in range(last, 0, -1) if frames[n - 1][4:8] != bytes(4)), 0)
    assert begun < last
    assert log.find_rest(str(log_of(database))) == []


def test_rest_that_is_kept_outlives_the_log(database: Path) -> None:
    frames = frames_of(database)
    spoil(database, HEAD + 10 * FRAME + 100)
    found = log.read_rest(str(database), 0)
    log.keep_rest(str(database), 0)
    log_of(database).unlink()
    assert log.read_rest(str(database), 0) == log.read_kept(str(database)) == found
    assert 0 < len(found.pages) <= len(frames) - 11
    log.forget_rest(str(database))
    assert log.read_rest(str(database), 0).pages == {}


def test_nothing_is_kept_of_a_whole_log(database: Path) -> None:
    log.keep_rest(str(database), 0)
    assert not database.with_name(database.name + REST).exists()


@pytest.mark.parametrize("content", [b"x", bytes(FRAME), b"\xff" * FRAME * 2, b"\r" * 5000])
def test_noise_in_its_place_holds_no_event(database: Path, content: bytes) -> None:
    database.with_name(database.name + REST).write_bytes(content)
    assert log.read_kept(str(database)).highest_id() == 0


def test_leaf_that_was_given_back_shows_no_event(tmp_path: Path) -> None:
    """What was delivered still stands on free pages."""
    queue = EventQueue(str(tmp_path), synchronous="NORMAL", max_pages=1000, checkpoint_pages=0)
    queue.checkpoint()
    for number in range(1, COMMITS + 1):
        add(queue, number)
    queue.ack_many(list(range(1, COMMITS - 2)))
    shown = {id_in(place) for place in log._read(frames_of(tmp_path / "data.db")).find_rows()}
    assert shown == {COMMITS - 2, COMMITS - 1, COMMITS}
    # And one that is used again shows what is in it now.
    for number in range(COMMITS + 1, 2 * COMMITS):
        add(queue, number)
    shown = {id_in(place) for place in log._read(frames_of(tmp_path / "data.db")).find_rows()}
    assert shown == set(range(COMMITS - 2, 2 * COMMITS))
    queue.close()
