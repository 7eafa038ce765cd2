"""A log that is damaged while nobody has it open: what stands behind the damage comes back too."""

import contextlib
import json
import os
import random
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raven_spool.model import Destination
from raven_spool.spool import Spool, store
from raven_spool.spool.names import REST
from tests.faults.children import Child
from tests.faults.events import read_ledger
from tests.faults.test_broken import database
from tests.faults.test_salvage import blank, bring_back, close, cut, flip, ids, put_aside
from tests.support import evidence, tool
from tests.support.spools import HERE, NOW, THERE, check_ledger, discard, event

EVENTS = 120
MORE = range(1000, 1005)
DAMAGES = 8
SOAK_DAMAGES = 200
FRAMES = 8
SOAK_FRAMES = 200
MANY = 300
HEAD, FRAME = 32, 24 + 4096


def fill_and_die(path: Path) -> None:
    spool = Spool(str(path), fsync="no")
    for number in range(1, EVENTS + 1):
        to = THERE if number % 3 == 0 else HERE
        assert spool.enqueue(event(number, body=b"<%d>" % number * (1 + number % 200)), to)
    os._exit(0)


def log_of(path: Path) -> Path:
    return database(path).with_name("data.db-wal")


def left(make: Callable[[Path], None], path: Path) -> bytes:
    """A spool as a killed process leaves it. Returns its log."""
    with Child(make, path) as child:
        assert child.join() == 0
    return log_of(path).read_bytes()


def frames(log: bytes) -> list[bytes]:
    found = [log[at : at + FRAME] for at in range(HEAD, len(log) - FRAME + 1, FRAME)]
    return [frame for frame in found if frame[8:16] == log[16:24]]


def whole_frames(before: bytes, after: bytes) -> list[bytes]:
    """What the damage has left, up to the last commit: frames that are as they were, behind ones
    whose sums are."""
    was, now = frames(before), frames(after)
    now += [b""] * (len(was) - len(now))
    sums = [
        before[24:32] == after[24:32],
        *(a[16:24] == b[16:24] for a, b in zip(was[:-1], now, strict=False)),
    ]
    left = [a if a == b and known else b"" for a, b, known in zip(was, now, sums, strict=True)]
    while left and left[-1][4:8] in (b"", bytes(4)):
        left.pop()
    return left


def whole_events(before: bytes, after: bytes) -> set[str]:
    """The events that stand in a page as it was written last, as far as that is whole. Earlier
    ones may hold what was delivered since: from those nothing comes back."""
    pages = {frame[:4]: frame for frame in whole_frames(before, after) if frame}
    leaves = [page for page in pages.values() if page[24] == 13]
    return {
        event(number).event_id
        for number in range(1, EVENTS + 1)
        if any(re.search(_row(number), page, re.DOTALL) for page in leaves)
    }


def _row(number: int) -> bytes:
    """As it is stored: its id, what is short, its body."""
    return b"%032x[^<]{1,300}?" % number + b"<%d>" % number * (1 + number % 200)


# -- noise ----------------------------------------------------------------------------------------


def check_noise(directory: Path, seed: int) -> tuple[int, int]:
    """Returns how many events were left whole, and how many were not."""
    chance = random.Random(seed)
    path = directory / f"spool-{seed}"
    before = left(fill_and_die, path)
    chance.choice((flip, cut, blank))(log_of(path), chance)
    expected = ids_read(path) | whole_events(before, log_of(path).read_bytes())
    spool = Spool(str(path), fsync="no")
    for number in MORE:
        assert spool.enqueue(event(number), HERE, timeout_seconds=5)
    close(spool)
    if seed % 2:
        put_aside(path)  # it breaks once more before all has come back

    spool = bring_back(path)

    found = Counter(ids(spool))
    assert set(found.values()) == {1}, seed
    assert expected | {event(number).event_id for number in MORE} <= set(found), seed
    ledger = check_ledger(spool)
    assert ledger["accepted"] == len(found) + ledger["dropped"]
    close(spool)
    shutil.rmtree(path)
    return len(expected), EVENTS - len(expected)


def check_noises(directory: Path, count: int) -> None:
    results = [check_noise(directory, seed) for seed in range(count)]
    whole, destroyed = (sum(column) for column in zip(*results, strict=True))
    assert whole > 50 * count
    evidence.note(
        "bits flipped, pieces blanked, an end cut off in the log that a killed process has left",
        promise=2, tried=f"{count} damages", events=whole, lost=0, twice=0,
        seen=f"these events stood where something was left whole, {destroyed} others did not",
    )  # fmt: skip


@pytest.mark.evidence
def test_damaged_log_gives_back_what_is_whole_in_it(in_memory: Path) -> None:
    check_noises(in_memory, DAMAGES)


@pytest.mark.soak
def test_many_damaged_logs_give_back_what_is_whole_in_them(in_memory: Path) -> None:
    check_noises(in_memory, SOAK_DAMAGES)


# -- one frame, among deliveries ------------------------------------------------------------------


def body(number: int) -> bytes:
    return b"%032x" % number * random.Random(number).choice((1, 20, 100, 500))


def work_and_die(path: Path) -> None:
    """Events come in and go out; pages are given back and used again."""
    spool = Spool(str(path), fsync="no")
    waiting: list[int] = []
    chance = random.Random(1)
    delivered = []
    for number in range(1, EVENTS + 1):
        to = THERE if number % 3 == 0 else HERE
        assert spool.enqueue(event(number, body=body(number)), to)
        waiting.append(number)
        if len(waiting) > 30:
            gone = [waiting.pop(0) for _ in range(chance.randint(1, 25))]
            spool._write(lambda queue, gone=gone: queue.ack_many(gone))  # type: ignore[misc]
            delivered += gone
    spool.bury([waiting[0]], "HTTP 400", NOW)
    path.with_suffix(".delivered").write_text(json.dumps(delivered))
    os._exit(0)


def ids_read(path: Path) -> set[str]:
    """What SQLite finds, in a copy: to close it takes the log in."""
    copy = path.with_name("read")
    shutil.copytree(database(path).parent, copy)
    (copy / "data.db-shm").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(copy / "data.db")) as connection:
        try:
            rows = connection.execute("SELECT event_id FROM ack_queue_events").fetchall()
        except sqlite3.DatabaseError:
            rows = []  # damaged where the tables are made
    shutil.rmtree(copy)
    return {event_id for (event_id,) in rows}


def check_frame(original: Path, path: Path, seed: int) -> tuple[int, int]:
    chance = random.Random(seed)
    shutil.copytree(original, path, ignore=shutil.ignore_patterns("wake", "write.turn", "ballast"))
    path.chmod(0o700)
    database(path).with_name("data.db-shm").unlink()
    before = log_of(path).read_bytes()
    count = len(frames(before))
    nth = chance.randrange(count)
    with log_of(path).open("r+b") as file:
        file.seek(HEAD + nth * FRAME + chance.randrange(24, FRAME - 8))
        file.write(chance.randbytes(8))
    numbers = [int.from_bytes(frame[:4], "big") for frame in frames(before)]
    is_last = numbers[nth] not in numbers[nth + 1 :]
    read = ids_read(path)

    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(1000), HERE, timeout_seconds=5)
    close(spool)
    spool = bring_back(path)

    found = Counter(ids(spool))
    del found[event(1000).event_id]
    delivered = {
        event(n).event_id for n in json.loads(original.with_suffix(".delivered").read_text())
    }
    waiting = {event(n).event_id for n in range(1, EVENTS + 1)} - delivered
    assert set(found.values()) <= {1}, seed
    if not is_last:  # whatever stood there was written again
        assert waiting <= set(found), (seed, nth)
    assert set(found) - waiting <= read, f"{seed}: delivered, and not known before the damage"
    stored = {one.event.event_id: one for one in spool.page(after_id=0, limit=500)}
    if not is_last:
        for number in range(1, EVENTS + 1):
            one = stored.get(event(number).event_id)
            assert one is None or one.event.body == body(number)
            assert one is None or one.destination == (THERE if number % 3 == 0 else HERE)
    check_ledger(spool)
    close(spool)
    shutil.rmtree(path)
    return (len(waiting), 0) if not is_last else (0, 1)


def check_frames(directory: Path, count: int) -> None:
    original = directory / "original"
    left(work_and_die, original)
    results = [check_frame(original, directory / "spool", seed) for seed in range(count)]
    events, last = (sum(column) for column in zip(*results, strict=True))
    assert events > 10 * count
    evidence.note(
        "one frame of the log damaged that was written again later, among deliveries",
        promise=2, tried=f"{count - last} damages", events=events, lost=0, twice=0,
        seen="nothing delivered behind the damage comes back",
    )  # fmt: skip


@pytest.mark.evidence
def test_damaged_frame_that_was_written_again_takes_nothing_along(in_memory: Path) -> None:
    check_frames(in_memory, FRAMES)


@pytest.mark.soak
def test_any_damaged_frame_that_was_written_again_takes_nothing_along(in_memory: Path) -> None:
    check_frames(in_memory, SOAK_FRAMES)


# -- who finds it ---------------------------------------------------------------------------------


def spoil(path: Path, nth: int) -> None:
    with log_of(path).open("r+b") as file:
        file.seek(HEAD + nth * FRAME + 1000)
        file.write(b"\xa5" * 8)


@pytest.fixture
def path(in_memory: Path) -> Path:
    path = in_memory / "spool"
    count = len(frames(left(fill_and_die, path)))
    spoil(path, count // 2)
    assert len(ids_read(path)) < EVENTS * 2 // 3
    return path


ALL = {event(number).event_id for number in range(1, EVENTS + 1)}


def test_spool_goes_on_in_the_same_file(path: Path) -> None:
    live = (path / "current").read_text()
    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(1000), HERE)
    assert (path / "current").read_text() == live
    close(spool)

    spool = bring_back(path)
    assert {event(1000).event_id, *ALL} == set(ids(spool))
    close(spool)
    assert [one.name for one in path.glob("g-*")] == [live.strip()]


def test_what_only_looks_saves_it_too(path: Path) -> None:
    """The last to close the file takes what can be read of its log into it, and removes that."""
    assert tool.run("ls", "--spool", str(path)).returncode == 0
    assert not log_of(path).exists()

    told = tool.run("check", "--spool", str(path))
    assert told.returncode == 65
    assert "was put aside" in told.stdout + told.stderr
    assert tool.run("check", "--repair", "--spool", str(path)).returncode == 0

    spool = Spool(str(path), fsync="no")
    assert set(ids(spool)) == ALL
    close(spool)
    assert read_ledger(path)["accepted"] == EVENTS


def test_it_is_told_when_it_is_back(path: Path) -> None:
    spool = Spool(str(path), fsync="no")
    assert spool.leadership.take()
    texts = []
    more = True
    while more:
        more, text = spool.salvage.step()
        texts.append(text)
    assert [text for text in texts if text] == [
        "the spool's log was damaged; what stood behind the damage has come back"
    ]
    close(spool)


def open_and_die(path: Path) -> None:
    spool = Spool(str(path), fsync="no")
    spool.stats()
    os._exit(0)


def test_rest_that_a_killed_process_had_found_is_moved_by_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Child(find_and_die, path) as child:
        assert child.join() == 9
    assert database(path).with_name("data.db" + REST).exists()

    with Child(open_and_die, path) as child:
        assert child.join() == 0
    assert not database(path).with_name("data.db" + REST).exists()

    spool = bring_back(path)
    assert Counter(ids(spool)) == Counter(ALL)
    close(spool)


def find_and_die(path: Path) -> None:
    spool = Spool(str(path), fsync="no")
    store.part_with_rest = lambda *_: os._exit(9)
    spool.stats()


def test_log_of_a_spool_in_use_is_not_looked_through(path: Path) -> None:
    """Behind its end there may be what was never committed."""
    shutil.rmtree(path)
    first, second = (Spool(str(path), fsync="no") for _ in range(2))
    for number in range(1, 20):
        assert first.enqueue(event(number), HERE)
    spoil(path, 30)
    assert second.enqueue(event(20), HERE)
    assert not database(path).with_name("data.db" + REST).exists()
    assert len(list(path.glob("g-*"))) == 1
    for spool in (first, second):
        discard(spool)


def test_destinations_that_are_new_behind_the_damage_are_known(in_memory: Path) -> None:
    path = in_memory / "spool"
    count = len(frames(left(send_to_another_and_die, path)))
    spoil(path, count // 2)

    spool = bring_back(path)

    stored = spool.page(after_id=0, limit=500)
    assert len(stored) == EVENTS
    assert Counter(one.destination for one in stored) == {HERE: EVENTS - 20, THERE: 20}
    check_ledger(spool)
    close(spool)


def destination(number: int) -> Destination:
    return replace(HERE, project=str(number), public_key=f"{number:032x}")


def send_to_many_and_die(path: Path) -> None:
    """Their lanes take many pages, of which few are in the rest."""
    spool = Spool(str(path), fsync="no")
    for number in range(1, MANY + 1):
        assert spool.enqueue(event(number), destination(number))
    for number in range(MANY + 1, 2 * MANY + 1):
        assert spool.enqueue(event(number), destination(1 + number * 7 % MANY))
    os._exit(0)


def test_each_of_many_destinations_gets_what_is_its_own(in_memory: Path) -> None:
    path = in_memory / "spool"
    count = len(frames(left(send_to_many_and_die, path)))
    spoil(path, count * 3 // 4)
    assert MANY < len(ids_read(path)) < 2 * MANY

    spool = bring_back(path)

    stored = {int(one.event.event_id, 16): one for one in spool.page(after_id=0, limit=10 * MANY)}
    assert len(stored) == 2 * MANY
    for number, one in stored.items():
        to = number if number <= MANY else 1 + number * 7 % MANY
        assert one.destination == destination(to)
    assert check_ledger(spool)["accepted"] == 2 * MANY
    close(spool)
    assert len(list(path.glob("g-*"))) == 1


def test_event_that_was_destroyed_is_counted(in_memory: Path) -> None:
    """A leaf, as it was written last; the ledger is written again behind it."""
    path = in_memory / "spool"
    before = left(fill_and_die, path)
    leaves = [n for n, frame in enumerate(frames(before)) if b"<60>" in frame and frame[24] == 13]
    spoil(path, leaves[-1])

    spool = bring_back(path)

    ledger = check_ledger(spool)
    assert 0 < ledger["dropped"] == ledger["dropped_by_reason"]["corrupt"]
    assert len(ids(spool)) == EVENTS - ledger["dropped"]
    close(spool)


def send_to_another_and_die(path: Path) -> None:
    spool = Spool(str(path), fsync="no")
    for number in range(1, EVENTS + 1):
        assert spool.enqueue(event(number), THERE if number > EVENTS - 20 else HERE)
    os._exit(0)


def test_file_that_is_broken_as_well_comes_back_with_its_log(path: Path) -> None:
    """Nobody can open it: the log is looked through when it is salvaged."""
    with database(path).open("r+b") as file:
        file.write(b"\xff" * 4096)

    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(1000), HERE, timeout_seconds=5)
    close(spool)
    spool = bring_back(path)
    assert set(ids(spool)) == {event(1000).event_id, *ALL}
    close(spool)
