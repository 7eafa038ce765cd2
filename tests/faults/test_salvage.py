"""What can be read of a broken file comes back, once, whatever happens meanwhile."""

import contextlib
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from raven_spool.errors import SpoolError
from raven_spool.model import State
from raven_spool.spool import Spool
from tests.faults.children import Child
from tests.faults.events import event_root, event_table, make_transport, read_ledger, send
from tests.support import evidence, tool
from tests.support.answers import ok, status
from tests.support.ingest import Ingest
from tests.support.spools import HERE, THERE, check_ledger, discard, event
from tests.support.waiting import wait_until

FLIPS = 8
SOAK_FLIPS = 400


def fill(path: Path, count: int, *, dead: int = 0) -> Path:
    """A spool of so many events, the first of them dead letters. Returns its file, closed."""
    spool = Spool(str(path), fsync="no")
    for number in range(1, count + 1):
        body = b"%032x" % number * (1 + number % 40)
        to = THERE if number % 3 == 0 else HERE
        assert spool.enqueue(event(number, body=body), to)
    if dead:
        spool.bury(list(range(1, dead + 1)), "HTTP 400", 1.7e9)
    discard(spool)
    return path / (path / "current").read_text().strip() / "data.db"


def put_aside(path: Path) -> None:
    """As a process does that finds it broken."""
    spool = Spool(str(path), fsync="no")
    spool.stats()
    assert spool._store.quarantine(spool._store.generation, 1.0)
    discard(spool)


def bring_back(path: Path) -> Spool:
    spool = Spool(str(path), fsync="no")
    assert spool.leadership.take()
    for _ in range(10_000):
        if not spool.salvage.step()[0]:
            return spool
    raise AssertionError("no end")


def close(spool: Spool) -> None:
    spool.leadership.let_go()
    discard(spool)


def readable(database: Path) -> set[str]:
    """What an independent reader finds by each id, past all that raises."""
    found = set()
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for key in range(1, 400):
            with contextlib.suppress(sqlite3.Error, TypeError, UnicodeDecodeError):
                sql = f"SELECT event_id, data FROM {event_table(connection)} WHERE _id = ?"
                row = connection.execute(sql, (key,)).fetchone()
                if row and isinstance(row[0], str) and row[1] == row[0].encode() * (1 + key % 40):
                    found.add(row[0])
    return found


def ids(spool: Spool) -> list[str]:
    return [key.event_id for key in spool.list_keys(limit=10_000)]


def test_ready_and_dead_events_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    fill(path, 200, dead=5)
    put_aside(path)

    spool = bring_back(path)

    stored = spool.page(after_id=0, limit=500)
    assert [int(one.event.event_id, 16) for one in stored] == list(range(1, 201))
    assert [one.state for one in stored[:6]] == [State.DEAD] * 5 + [State.READY]
    assert {one.reason for one in stored[:5]} == {"HTTP 400"}
    assert {one.destination for one in stored[2::3]} == {THERE}
    assert all(one.is_whole and one.event.created_at == event(1).created_at for one in stored)
    assert check_ledger(spool)["accepted"] == 200
    assert len(list(path.glob("g-*"))) == 1
    close(spool)


def die_in_the_middle(path: Path, batches: int) -> None:
    spool = Spool(str(path), fsync="no")
    spool.leadership.take()
    for _ in range(batches):
        spool.salvage.step()
    if batches % 2:  # in the middle of a transaction
        commit = spool.salvage._commit

        def die(queue, name, progress, rows, lost):  # type: ignore[no-untyped-def]
            queue.connection.set_trace_callback(
                lambda sql: os._exit(9) if sql.startswith("COMMIT") else None
            )
            commit(queue, name, progress, rows, lost)

        spool.salvage._commit = die  # type: ignore[method-assign]
        spool.salvage.step()
    os._exit(9)


def test_salvage_that_is_killed_goes_on_and_brings_nothing_back_twice(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    fill(path, 300)
    put_aside(path)
    for batches in (1, 2, 1, 0, 3):
        with Child(die_in_the_middle, path, batches) as child:
            assert child.join() == 9

    spool = bring_back(path)

    assert Counter(ids(spool)) == Counter(event(number).event_id for number in range(1, 301))
    assert check_ledger(spool)["accepted"] == 300
    close(spool)
    read_ledger(path)


def test_file_that_breaks_while_an_older_one_comes_back_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    fill(path, 300)
    put_aside(path)
    spool = Spool(str(path), fsync="no")
    spool.leadership.take()
    spool.salvage.step()
    spool.salvage.step()
    close(spool)
    put_aside(path)

    spool = bring_back(path)

    assert Counter(ids(spool)) == Counter(event(number).event_id for number in range(1, 301))
    assert len(list(path.glob("g-*"))) == 1
    close(spool)


def zero_first_page(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(bytes(4096))


def garble_header(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(b"\xff" * 100)


@pytest.mark.parametrize("spoil", [zero_first_page, garble_header])
def test_first_page_can_be_done_without(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "spool"
    database = fill(path, 200)
    spoil(database)
    kept = database.read_bytes()

    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(1000), HERE)
    close(spool)
    assert database.read_bytes() == kept

    spool = bring_back(path)
    assert set(ids(spool)) == {event(n).event_id for n in (*range(1, 201), 1000)}
    assert check_ledger(spool)["accepted"] == 201
    close(spool)


def blank_first_leaf(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        root = event_root(connection)
    data = bytearray(database.read_bytes())
    page = data[4096 * (root - 1) : 4096 * root]
    assert page[0] == 5  # it has leaves
    first = int.from_bytes(page[12:14], "big")
    leaf = int.from_bytes(page[first : first + 4], "big")
    data[4096 * (leaf - 1) : 4096 * leaf] = bytes(4096)
    database.write_bytes(data)


def test_first_leaf_that_is_gone_hides_no_other_and_no_fresh_send(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    database = fill(path, 120)
    blank_first_leaf(database)
    expected = readable(database)
    assert len(expected) > 90

    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(1000), HERE, timeout_seconds=10)
    close(spool)
    put_aside(path)

    spool = bring_back(path)
    assert expected | {event(1000).event_id} <= set(ids(spool))
    assert check_ledger(spool)["accepted"] == 121
    close(spool)


def test_event_whose_endpoint_is_damaged_comes_back_dead(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    database = fill(path, 20)
    data = database.read_bytes()
    spoilt = event(7).event_id.encode() + b"store"
    assert spoilt in data
    database.write_bytes(data.replace(spoilt, spoilt[:-5] + b"qtore"))
    put_aside(path)

    spool = bring_back(path)
    stored = spool.page(after_id=0, limit=100)
    assert len(stored) == 20
    assert [one.event.event_id for one in stored if one.state is State.DEAD] == [event(7).event_id]
    close(spool)


def garble_a_name(database: Path) -> None:
    """SQLite's complaint quotes it, and Python can't read that: no sqlite3.Error comes out."""
    data = database.read_bytes()
    data = data.replace(b"events_readyack_queue", b"\xacvents_readyack_queue")
    database.write_bytes(data.replace(b"CREATE INDEX events_ready", b"CREATX INDEX events_ready"))
    with (
        contextlib.closing(sqlite3.connect(database)) as connection,
        pytest.raises(UnicodeDecodeError),
    ):
        connection.execute("PRAGMA page_count").fetchone()


def garble_a_comment(database: Path) -> None:
    """A trigger that still runs, whose words Python can't read."""
    data = database.read_bytes()
    database.write_bytes(data.replace(b"-- first, so", b"-- \xacirst, so"))


@pytest.mark.parametrize("spoil", [garble_a_name, garble_a_comment])
def test_schema_that_is_not_utf8_is_damage(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "spool"
    database = fill(path, 20)
    spoil(database)
    kept = database.read_bytes()

    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(1000), HERE, timeout_seconds=10)
    close(spool)
    assert database.read_bytes() == kept

    spool = bring_back(path)
    assert set(ids(spool)) == {event(n).event_id for n in (*range(1, 21), 1000)}
    close(spool)


def test_generation_that_was_never_published_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    fill(path, 3)
    for name in ("g-00", "g-11"):
        (path / name).mkdir(mode=0o700)
    (path / "g-00" / "data.db").touch()
    with contextlib.closing(sqlite3.connect(path / "g-11" / "data.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    spool = bring_back(path)
    assert len(list(path.glob("g-*"))) == 1
    assert check_ledger(spool)["accepted"] == 3
    close(spool)


def test_running_application_delivers_what_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest:
        ingest.answer_with(status(503))
        transport = make_transport(path)
        sent = [send(transport, ingest.url) for _ in range(50)]
        (path / "fresh").write_text("no generation\n")
        (path / "fresh").replace(path / "current")
        sent.append(send(transport, ingest.url))
        ingest.answer_with(ok())
        wait_until(lambda: set(sent) <= set(ingest.event_ids()), what="delivery")
        transport.close(10)
    assert read_ledger(path)["accepted"] == 51


def test_flush_delivers_what_comes_back_into_an_empty_spool(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest:
        transport = make_transport(path, backend="none")
        sent = [send(transport, ingest.url) for _ in range(20)]
        transport.close()
        put_aside(path)
        ran = tool.run("flush", "--spool", path)
        assert ran.returncode == 0, ran.stderr
        assert set(ingest.event_ids()) == set(sent)
    assert read_ledger(path)["delivered"] == 20


# -- random damage --------------------------------------------------------------------------------


def flip(database: Path, chance: random.Random) -> None:
    data = bytearray(database.read_bytes())
    for _ in range(chance.choice((1, 1, 3, 30))):
        at = chance.randrange(len(data))
        data[at] ^= 1 << chance.randrange(8)
    database.write_bytes(data)


def cut(database: Path, chance: random.Random) -> None:
    os.truncate(database, chance.randrange(1, database.stat().st_size))


def blank(database: Path, chance: random.Random) -> None:
    with database.open("r+b") as file:
        file.seek(4096 * chance.randrange(database.stat().st_size // 4096))
        file.write(bytes(4096))


def check_damage(directory: Path, seed: int) -> int:
    """Break a file in one way. Returns how many events could be read of it."""
    chance = random.Random(seed)
    path = directory / f"spool-{seed}"
    database = fill(path, 120, dead=4)
    chance.choice((flip, cut, blank))(database, chance)
    expected = readable(database)
    fresh = [event(1000 + number) for number in range(5)]

    spool = Spool(str(path), fsync="no")
    for one in fresh:
        assert spool.enqueue(one, HERE, timeout_seconds=10)
    with contextlib.suppress(SpoolError):
        spool.stats()
    close(spool)
    put_aside(path)  # also where nobody has met the damage yet
    spool = bring_back(path)

    found = Counter(ids(spool))
    assert set(found.values()) == {1}, seed
    assert {one.event_id for one in fresh} <= set(found), seed
    assert expected <= set(found), (seed, len(expected - set(found)))
    check_ledger(spool)
    close(spool)
    read_ledger(path)
    return len(expected)


def check_damages(directory: Path, count: int) -> None:
    read = sum(check_damage(directory, seed) for seed in range(count))
    assert read > count * 50  # the oracle has something to compare
    evidence.note(
        "bits flipped, pages blanked, files cut short; what can be read comes back once",
        promise=2,
        tried=f"{count:,} damages",
        events=read,
        lost=0,
        twice=0,
    )


def test_readable_events_of_a_damaged_file_come_back_once(tmp_path: Path) -> None:
    check_damages(tmp_path, FLIPS)


@pytest.mark.soak
def test_readable_events_of_many_damaged_files_come_back_once(tmp_path: Path) -> None:
    check_damages(tmp_path, SOAK_FLIPS)
