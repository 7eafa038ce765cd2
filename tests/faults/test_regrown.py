"""Pages that lead to events are overwritten: the events themselves, which are whole, come back."""

import contextlib
import random
import shutil
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from raven_spool.spool import Spool, btree, mending
from tests.faults.disks import mounted
from tests.faults.events import event_root, read_ledger
from tests.faults.test_kill_salvage import database_of
from tests.faults.test_salvage import bring_back, close, put_aside
from tests.support import evidence
from tests.support.spools import HERE, THERE, check_ledger, discard, event

PAGE = 4096
EVENTS = 2_000
DELIVERED = range(1, 700)
BURIED = range(700, 705)
KEPT = range(700, EVENTS + 1)
MORE = range(EVENTS + 1, EVENTS + 6)
ROUNDS = 8
SOAK_ROUNDS = 300


def body(number: int) -> bytes:
    return b"%032x" % number * (60 + number % 30 + 200 * (number % 9 == 0))


def fill(path: Path) -> None:
    """A spool with events ready and dead, whose free pages still show delivered ones."""
    spool = Spool(str(path), fsync="no")
    for number in range(1, EVENTS + 1):
        to = THERE if number % 3 == 0 else HERE
        assert spool.enqueue(event(number, body=body(number)), to, timeout_seconds=5)
        if number in DELIVERED and number > 100:
            deliver(spool, [number - 100])
    deliver(spool, DELIVERED)
    spool.bury(list(BURIED), "HTTP 400", 1.7e9)
    discard(spool)


def deliver(spool: Spool, ids: Iterable[int]) -> None:
    spool._write(lambda queue: queue.ack_many(list(ids)))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "spool"
    fill(path)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return copy(original, tmp_path / "spool")


def copy(original: Path, path: Path) -> Path:
    shutil.copytree(original, path, ignore=shutil.ignore_patterns("wake", "write.turn", "ballast"))
    path.chmod(0o700)
    return path


def roots(database: Path) -> dict[str, int]:
    """Read in a way that leaves its log alone."""
    uri = f"file:{database}?immutable=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        found = dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))
        return {**found, "events": event_root(connection)}


def overwrite(database: Path, numbers: list[int], content: bytes = b"\xa5" * PAGE) -> None:
    with database.open("r+b") as file:
        for number in numbers:
            btree.write_page(file, number, content)


def inner_pages(database: Path) -> list[int]:
    """Those of the events' tree between its root and its leaves."""
    with database.open("rb") as file:
        children = btree._children(btree.read_page(file, roots(database)["events"]))
        found = [number for number in children if btree.read_page(file, number)[0] == 5]
    assert found, "the tree has one floor only"
    return found


def pages_in_log(database: Path) -> set[int]:
    """sqlite.org/fileformat2.html, 4.1."""
    log = database.with_name("data.db-wal").read_bytes()
    assert len(log) > 32
    return {int.from_bytes(log[at : at + 4], "big") for at in range(32, len(log), 24 + PAGE)}


# -- what is overwritten --------------------------------------------------------------------------


def root(database: Path) -> None:
    overwrite(database, [roots(database)["events"]])


def zeroed_root(database: Path) -> None:
    overwrite(database, [roots(database)["events"]], bytes(PAGE))


def one_inner_page(database: Path) -> None:
    overwrite(database, inner_pages(database)[:1])


def all_inner_pages(database: Path) -> None:
    overwrite(database, [roots(database)["events"], *inner_pages(database)])


def first_two_pages(database: Path) -> None:
    """The list of free pages is gone too: the indexes say what was delivered."""
    overwrite(database, [1, 2])


def root_and_an_index(database: Path) -> None:
    """The indexes are gone too: the list of free pages says what was delivered."""
    found = roots(database)
    overwrite(database, [found["events"], found["events_ready"]])


DAMAGES = [root, zeroed_root, one_inner_page, all_inner_pages, first_two_pages, root_and_an_index]


def expect_all(spool: Spool, *, latest: bool) -> None:
    found = Counter(key.event_id for key in spool.list_keys(limit=2 * EVENTS))
    assert found == Counter(event(number).event_id for number in KEPT)
    for stored in spool.page(after_id=0, limit=2 * EVENTS):
        number = int(stored.event.event_id, 16)
        assert stored.is_whole
        assert stored.event.body == body(number)
        assert stored.destination == (THERE if number % 3 == 0 else HERE)
        assert not latest or (stored.reason == "HTTP 400") == (number in BURIED)


@pytest.mark.parametrize("spoil", DAMAGES)
def test_events_beneath_pages_that_are_gone_come_back(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(database_of(path))
    put_aside(path)

    spool = bring_back(path)

    # Without the list of free pages what is found may be a row as it was before its last change.
    expect_all(spool, latest=spoil is not first_two_pages)
    assert check_ledger(spool)["dropped"] == 0
    assert len(list(path.glob("g-*"))) == 1
    close(spool)
    read_ledger(path)


def test_application_that_meets_a_missing_root_goes_on(path: Path) -> None:
    root(database_of(path))
    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(EVENTS + 1), HERE, timeout_seconds=5)
    close(spool)

    spool = bring_back(path)

    found = Counter(key.event_id for key in spool.list_keys(limit=2 * EVENTS))
    assert found == Counter(event(number).event_id for number in (*KEPT, EVENTS + 1))
    close(spool)


def test_what_is_in_the_log_comes_back_and_what_it_deletes_does_not(
    path: Path, tmp_path: Path
) -> None:
    """As after a SIGKILL: the file alone is older."""
    spool = Spool(str(path), fsync="no")
    for number in MORE:
        assert spool.enqueue(event(number, body=body(number)), HERE)
    deliver(spool, [1990, 1991])
    assert database_of(path).with_name("data.db-wal").stat().st_size > 0
    killed = copy(path, tmp_path / "killed")
    close(spool)
    assert inner_pages(database_of(killed))[0] not in pages_in_log(database_of(killed))
    one_inner_page(database_of(killed))
    (killed / "current").unlink()

    spool = bring_back(killed)

    found = Counter(key.event_id for key in spool.list_keys(limit=2 * EVENTS))
    wanted = {*KEPT, *MORE} - {1990, 1991}
    assert found == Counter(event(number).event_id for number in wanted)
    close(spool)


def test_log_that_is_taken_in_by_another_in_the_middle_of_the_copying(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a process that had the broken file open, and leaves it."""
    spool = Spool(str(path), fsync="no")
    for number in MORE:
        assert spool.enqueue(event(number, body=body(number)), HERE)
    killed = copy(path, tmp_path / "killed")
    close(spool)
    database = database_of(killed)
    assert inner_pages(database)[0] not in pages_in_log(database)
    one_inner_page(database)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("SELECT COUNT(*) FROM lanes").fetchone()
    (killed / "current").unlink()
    copy_file, copied = shutil.copyfile, []

    def copy_and_leave(source: str, target: str) -> None:
        copy_file(source, target)
        copied.append(source)
        other.close()
        assert not database.with_name("data.db-wal").exists()

    monkeypatch.setattr(shutil, "copyfile", copy_and_leave)

    spool = bring_back(killed)

    assert len(copied) == 2
    found = Counter(key.event_id for key in spool.list_keys(limit=2 * EVENTS))
    assert found == Counter(event(n).event_id for n in (*KEPT, *MORE))
    close(spool)


def test_without_a_word_on_what_was_delivered_nothing_is_sent_again(path: Path) -> None:
    database = database_of(path)
    found = roots(database)
    overwrite(database, [1, found["events"], found["events_dead"]])
    kept = database.read_bytes()
    put_aside(path)

    spool = bring_back(path)

    stats = check_ledger(spool)
    assert (stats["ready"], stats["dropped"]) == (0, len(KEPT))
    assert database.read_bytes() == kept
    close(spool)


def test_file_whose_ledger_is_gone_is_kept(path: Path) -> None:
    """Nobody can tell whether all of it came back."""
    database = database_of(path)
    overwrite(database, [roots(database)["lanes"]])
    gone = blank_a_leaf(database)
    (path / "current").unlink()

    spool = bring_back(path)

    found = Counter(key.event_id for key in spool.list_keys(limit=2 * EVENTS))
    assert found == Counter(event(number).event_id for number in KEPT if number not in gone)
    assert database.exists()
    close(spool)


def test_those_who_send_do_not_wait_for_the_mending(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root(database_of(path))
    put_aside(path)
    spool = Spool(str(path), fsync="no")
    assert spool.leadership.take()
    whole, sent = btree.is_whole, []

    def send_meanwhile(*arguments) -> bool:  # type: ignore[no-untyped-def]
        sent.append(spool.enqueue(event(EVENTS + 1), HERE, timeout_seconds=0.02))
        return whole(*arguments)

    monkeypatch.setattr(btree, "is_whole", send_meanwhile)
    while spool.salvage.step()[0]:
        pass

    assert sent == [True]
    assert check_ledger(spool)["ready"] == len(KEPT) - len(BURIED) + 1
    close(spool)


# -- without room for a copy ----------------------------------------------------------------------


@pytest.fixture
def small_disk(original: Path, tmp_path: Path) -> Iterator[Path]:
    """It holds the broken file and a fresh one, but no copy beside them."""
    size = database_of(original).stat().st_size
    yield from mounted(tmp_path / "disk", int(2.9 * size))


def blank_a_leaf(database: Path) -> set[int]:
    """Returns the ids of the rows that were in it."""
    with database.open("rb") as file:
        free = btree.find_free(file)
        assert free is not None
        places = list(btree.find_rows(file, 16, free))
    gone = btree.page_in(places[len(places) // 2])
    overwrite(database, [gone])
    return {btree.id_in(place) for place in places if btree.page_in(place) == gone}


def test_where_a_copy_has_no_room_all_that_is_in_reach_comes_back(
    original: Path, small_disk: Path
) -> None:
    path = copy(original, small_disk / "spool")
    gone = blank_a_leaf(database_of(path))
    put_aside(path)
    (broken,) = {*path.glob("g-*/data.db")} - {database_of(path)}
    with pytest.raises(OSError, match="No space left"):
        mending._check_room(str(broken))

    spool = bring_back(path)

    found = Counter(key.event_id for key in spool.list_keys(limit=2 * EVENTS))
    assert found == Counter(event(number).event_id for number in KEPT if number not in gone)
    assert check_ledger(spool)["dropped"] == len(gone)
    assert len(list(path.glob("g-*"))) == 2
    close(spool)


# -- random damage --------------------------------------------------------------------------------


def pages_of_events(database: Path) -> dict[str, set[int]]:
    """By event id: its leaf, and where its row goes on."""
    found = {}
    with database.open("rb") as file:
        free = btree.find_free(file)
        assert free is not None
        for place in btree.find_rows(file, 16, free):
            leaf, key = btree.page_in(place), btree.id_in(place)
            found[event(key).event_id] = {
                leaf,
                *row_goes_on(file, btree.read_page(file, leaf), key),
            }
    return found


def row_goes_on(file: BinaryIO, leaf: bytes, wanted: int) -> Iterator[int]:
    """sqlite.org/fileformat2.html, 1.6: how much of a row is in its leaf, and where the rest is."""
    (count,) = struct.unpack_from(">H", leaf, 3)
    for at in struct.unpack_from(f">{count}H", leaf, 8):
        size, at = btree._varint(leaf, at)
        key, at = btree._varint(leaf, at)
        if key == wanted and size > PAGE - 35:
            least = (PAGE - 12) * 32 // 255 - 23
            here = least + (size - least) % (PAGE - 4)
            here = here if here <= PAGE - 35 else least
            (following,) = struct.unpack_from(">I", leaf, at + here)
            while following:
                yield following
                (following,) = struct.unpack_from(">I", btree.read_page(file, following))


def is_told(database: Path, spoilt: set[int], kinds: dict[int, int]) -> bool:
    """Whether it can still be known what was delivered."""
    with database.open("rb") as file:
        return btree.find_free(file) is not None or not any(kinds[one] in (2, 10) for one in spoilt)


def check_overwritten(original: Path, directory: Path, seed: int) -> int:
    """Overwrite a page that leads to others, and some more, whatever they hold. Returns how many
    events were in none of them."""
    chance = random.Random(seed)
    path = copy(original, directory / f"spool-{seed}")
    database = database_of(path)
    with database.open("rb") as file:
        pages = btree.count_pages(file)
        kinds = {number: btree.read_page(file, number)[0] for number in range(1, pages + 1)}
    spoilt = {chance.choice([1, 2, *inner_pages(database)])}
    spoilt |= {chance.randint(1, pages) for _ in range(chance.choice((0, 1, 5)))}
    whole = {one for one, where in pages_of_events(database).items() if not where & spoilt}
    for number in spoilt:
        overwrite(database, [number], chance.choice((bytes(PAGE), chance.randbytes(PAGE))))
    if not is_told(database, spoilt, kinds):
        whole = set()
    put_aside(path)

    spool = bring_back(path)

    found = Counter(key.event_id for key in spool.list_keys(limit=2 * EVENTS))
    assert set(found.values()) <= {1}, (seed, spoilt)
    assert whole <= set(found), (seed, spoilt, len(whole - set(found)))
    assert set(found) <= {event(number).event_id for number in KEPT}, (seed, spoilt)
    check_ledger(spool)
    close(spool)
    shutil.rmtree(path)
    return len(whole)


def check_all(original: Path, directory: Path, count: int) -> None:
    read = sum(check_overwritten(original, directory, seed) for seed in range(count))
    assert read > count * len(KEPT) * 0.8
    evidence.note(
        "a page that leads to events overwritten, and up to five others; what is in none of them "
        "comes back once",
        promise=2,
        tried=f"{count:,} files",
        events=read,
        lost=0,
        twice=0,
    )


def test_events_in_no_overwritten_page_come_back(original: Path, tmp_path: Path) -> None:
    check_all(original, tmp_path, ROUNDS)


@pytest.mark.soak
def test_events_in_no_overwritten_page_come_back_many_times(original: Path, tmp_path: Path) -> None:
    check_all(original, tmp_path, SOAK_ROUNDS)
