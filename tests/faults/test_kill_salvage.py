"""SIGKILL at each instant of a quarantine and a salvage: what could be read comes back once."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from raven_spool.spool import Spool, btree, wreck
from tests.faults.children import Child, Notes
from tests.faults.events import event_root, event_table, read_ledger, stored_ids
from tests.faults.test_salvage import close, fill, garble_header
from tests.faults.test_signals import Injector
from tests.support import evidence
from tests.support.spools import HERE, event

KILLS = 8
SOAK_KILLS = 200
_EVENTS = 6
_AT_ONCE = 2  # in one go, so that there are several
_WITHIN = r"raven_spool/spool/(store|places|files|log|aside|salvage|wreck|mending|btree)\.py"


# -- files that are left --------------------------------------------------------------------------


def name_no_generation(path: Path) -> None:
    """All of it can be read."""
    (path / "current").write_text("no generation\n")


def break_header(path: Path) -> None:
    """It is read from a copy with another first page."""
    garble_header(database_of(path))


def lose_the_root(path: Path) -> None:
    """It is read from a copy in which the leaves have another."""
    with contextlib.closing(sqlite3.connect(database_of(path))) as connection:
        table = event_table(connection)
        connection.execute(f"UPDATE {table} SET history = printf('%.*c', 1500, 'x')")  # 2 in a leaf
        connection.commit()
        root = event_root(connection)
    with database_of(path).open("r+b") as file:
        assert btree.read_page(file, root)[0] == btree._INTERIOR
        btree.write_page(file, root, bytes(4096))
    name_no_generation(path)


def lose_an_event(path: Path) -> None:
    """One can't be read: it is counted, and the file is kept."""
    with contextlib.closing(sqlite3.connect(database_of(path))) as connection:
        connection.execute(f"UPDATE {event_table(connection)} SET event_id = 'x' WHERE _id = 2")
        connection.commit()
    name_no_generation(path)


def break_again(path: Path) -> None:
    """It broke while an older one was coming back."""
    name_no_generation(path)
    spool = Spool(str(path), fsync="no")
    assert spool.enqueue(event(_EVENTS + 1), HERE, timeout_seconds=5)
    assert spool.leadership.take()
    assert spool.salvage.step() == (True, "")
    close(spool)
    name_no_generation(path)


def damage_the_log(path: Path) -> None:
    """A process that was killed has left all in it; what is behind the damage comes back apart."""
    shutil.rmtree(path)
    with Child(fill_and_die, path) as child:
        assert child.join() == 0
    log = database_of(path).with_name("data.db-wal")
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 4096 // 2 * 4120 + 1000)  # in the middle of a frame
        file.write(b"\xa5" * 8)
    database_of(path).with_name("data.db-shm").unlink()


def fill_and_die(path: Path) -> None:
    spool = Spool(str(path), fsync="no")
    for number in range(1, _EVENTS + 1):
        assert spool.enqueue(event(number), HERE)
    os._exit(0)


DAMAGES = [
    name_no_generation,
    break_header,
    lose_the_root,
    lose_an_event,
    break_again,
    damage_the_log,
]


def database_of(path: Path) -> Path:
    return path / (path / "current").read_text().strip() / "data.db"


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wreck, "_AT_ONCE", _AT_ONCE)


# -- what the children do -------------------------------------------------------------------------


def die(where: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mend(path: Path, number: int, nth: int, returned: Path, told: Path) -> None:
    """Finds it broken, begins a fresh file and brings back what there is; dies at the n-th
    instant."""
    wreck._AT_ONCE = _AT_ONCE
    spool = Spool(str(path), fsync="no")
    injector = Injector(nth, die, within=_WITHIN)
    with injector.armed():
        if spool.enqueue(event(number), HERE, timeout_seconds=5):
            Notes(returned).write(event(number).event_id)
        assert spool.leadership.take()
        while spool.salvage.step()[0]:
            pass
    Notes(told).write(str(injector.seen))


# -- the oracle -----------------------------------------------------------------------------------


def check(path: Path, returned: list[str], lost: int) -> None:
    counts = Counter(stored_ids(path))
    assert set(counts.values()) == {1}
    brought = {event(number).event_id for number in range(1, _EVENTS + 1)} & set(counts)
    assert len(brought) == _EVENTS - lost
    assert {*returned} <= {*counts}
    ledger = read_ledger(path)
    assert ledger["dropped"] == lost
    assert ledger["accepted"] == len(counts) + lost
    assert len(list(path.glob("g-*"))) == 1 + lost, "the old file is gone, or kept for what is lost"


def copy(original: Path, path: Path) -> None:
    """What matters of it: the rest is locks, pipes and the ballast."""
    path.mkdir(mode=0o700)
    for one in original.glob("g-*"):
        shutil.copytree(one, path / one.name)
    shutil.copy2(original / "current", path)


def mend_whole(path: Path, returned: Path) -> int:
    """Returns how many instants there are."""
    told = Notes(path.with_suffix(".told"))
    with Child(mend, path, 102, 1 << 30, returned, told.path) as child:
        assert child.join() == 0
    (instants,) = map(int, told.read())
    return instants


def _kill(base: Path, damage: Callable[[Path], None], kills: int) -> None:
    original = base / "original"
    fill(original, _EVENTS)
    damage(original)
    lost = int(damage is lose_an_event)
    copy(original, base / "whole")
    instants = mend_whole(base / "whole", base / "returned")
    chance = random.Random(kills)
    died = 0
    for nth in range(1, instants + 1, max(1, instants // kills)):
        path, returned = base / f"spool-{nth}", Notes(base / f"returned-{nth}")
        copy(original, path)
        # And where that one died another goes on, and dies too.
        for number, at in ((100, nth), (101, chance.randint(1, instants))):
            with Child(mend, path, number, at, returned.path, base / "told") as child:
                code = child.join()
            assert code in (-signal.SIGKILL, 0)
            died += code != 0
        mend_whole(path, returned.path)
        try:
            check(path, returned.read(), lost)
        except AssertionError as error:
            raise AssertionError(f"killed at instant {nth} of {instants}") from error
        shutil.rmtree(path)
    assert died > kills // 2
    evidence.note(
        f"SIGKILL at instants of a quarantine and a salvage: {damage.__name__.replace('_', ' ')}",
        promise=2,
        tried=f"{died} kills, {instants} instants",
        events=_EVENTS * died,
        lost=0,
        twice=0,
    )


@pytest.mark.evidence
@pytest.mark.parametrize("damage", DAMAGES)
def test_kill_at_instants_of_a_salvage_brings_back_all_once(
    in_memory: Path, damage: Callable[[Path], None]
) -> None:
    _kill(in_memory, damage, KILLS)


@pytest.mark.soak
@pytest.mark.parametrize("damage", DAMAGES)
def test_kill_at_each_instant_of_a_salvage_brings_back_all_once(
    in_memory: Path, damage: Callable[[Path], None]
) -> None:
    _kill(in_memory, damage, SOAK_KILLS)
