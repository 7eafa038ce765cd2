"""raven-spool check: what it finds in a spool that something else has changed, and mends."""

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from raven_spool.spool import Spool
from tests.support.spools import HERE, THERE, check_ledger, discard, event
from tests.support.tool import run, start
from tests.support.waiting import wait_until

EVENTS = "ack_queue_events"


@pytest.fixture
def filled(path: Path) -> Path:
    """Nine ready events of two destinations, a dead letter, one delivered, one removed."""
    spool = Spool(str(path))
    for number in range(1, 13):
        assert spool.enqueue(event(number, body=b"%032x" % number), THERE if number % 3 else HERE)
    assert spool.leadership.take()
    (lane,) = (one for one in spool.lanes() or [] if one.ready == 8)
    spool.ack(spool.claim(lane, limit=1, now=1.7e9))
    spool.leadership.let_go()
    spool.bury([2], "HTTP 400", 1.7e9)
    spool.drop([4], "removed")
    discard(spool)
    return path


def database(path: Path) -> Path:
    return path / (path / "current").read_text().strip() / "data.db"


def change(path: Path, *statements: str) -> None:
    """As another program would, and without our triggers where a statement drops one."""
    connection = sqlite3.connect(database(path), isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def check(path: Path, *args: str) -> tuple[int, dict]:
    done = run("check", "--spool", path, "--json", *args)
    return done.returncode, json.loads(done.stdout)


def list_faults(path: Path) -> list[str]:
    code, found = check(path)
    assert code == (65 if found["faults"] else 0)
    return [f"{fault['about']}: {fault['text']}" for fault in found["faults"]]


def repair(path: Path) -> dict:
    """All is mended, which `check` then says too."""
    code, found = check(path, "--repair")
    assert (code, found["faults"]) == (0, [])
    assert list_faults(path) == []
    return found


def read_stats(path: Path) -> dict:
    spool = Spool(str(path))
    stats = check_ledger(spool)
    assert len(spool.page(limit=1000)) == stats["ready"] + stats["dead"]
    discard(spool)
    return stats


def test_a_sound_spool_has_no_fault(filled: Path) -> None:
    done = run("check", "--spool", filled)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no fault found in 10 events\n", "")
    assert run("check", "--spool", filled, "--repair").stdout == "no fault found in 10 events\n"


def test_no_spool_is_66(path: Path) -> None:
    done = run("check", "--spool", path, "--repair")
    assert done.returncode == 66
    assert not path.exists()


def test_what_is_wrong_is_said_in_a_line_and_mended_on_request(filled: Path) -> None:
    change(filled, f"UPDATE {EVENTS} SET data = X'00' WHERE _id = 5")
    done = run("check", "--spool", filled)
    assert done.returncode == 65
    assert done.stdout == (
        "events: event 5: damaged on disk (its checksum or its seal does not match, or it is no "
        "event)\n"
    )
    assert done.stderr == (
        "raven-spool: 1 fault: `raven-spool check --repair` mends what can be mended\n"
    )
    done = run("check", "--spool", filled, "--repair")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "no fault left in 10 events"
    assert (read_stats(filled)["dead"], read_stats(filled)["ready"]) == (2, 8)


# -- the ledger -----------------------------------------------------------------------------------


def test_rows_taken_past_the_ledger_are_missed_and_counted_as_corrupt(filled: Path) -> None:
    change(filled, "DROP TRIGGER event_removed", f"DELETE FROM {EVENTS} WHERE _id IN (3, 5)")
    restore_triggers(filled)
    faults = list_faults(filled)
    assert [fault.partition(",")[0] for fault in faults] == [
        "ledger: there.invalid",
        "ledger: here.invalid",
    ]
    assert "1 of 8 accepted are nowhere" in faults[0]
    repair(filled)
    stats = read_stats(filled)
    assert stats["dropped_by_reason"] == {"removed": 1, "corrupt": 2}
    assert (stats["accepted"], stats["ready"], stats["delivered"]) == (12, 7, 1)


@pytest.mark.parametrize(
    ("column", "value"), [("ready", 90), ("dead", -3), ("bytes", 7), ("accepted", 2)]
)
def test_a_count_that_was_changed_is_counted_anew(filled: Path, column: str, value: int) -> None:
    before = read_stats(filled)
    change(filled, f"UPDATE lanes SET {column} = {value} WHERE accepted = 8")
    assert len(list_faults(filled)) == 1
    repair(filled)
    assert read_stats(filled) == before


def test_more_delivered_than_accepted_is_no_overflow(filled: Path) -> None:
    change(filled, "UPDATE lanes SET delivered = delivered + 5 WHERE accepted = 8")
    (fault,) = list_faults(filled)
    assert fault.endswith("5 more than the 8 accepted")
    repair(filled)
    stats = read_stats(filled)
    assert (stats["accepted"], stats["dropped_by_reason"]) == (17, {"removed": 1})


def restore_triggers(path: Path) -> None:
    """Those of a fresh spool, where a test took one away to change a row unseen."""
    fresh = Spool(":memory:")
    fresh.stats()
    kept = fresh._store._queue.connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall()
    discard(fresh)
    connection = sqlite3.connect(database(path), isolation_level=None)
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    for name, sql in kept:
        if name not in there:
            connection.execute(sql)
    connection.close()


# -- events ---------------------------------------------------------------------------------------


def test_an_event_without_a_lane_becomes_a_dead_letter(filled: Path) -> None:
    """No worker would ever see it: they go by lanes."""
    change(filled, "DELETE FROM lanes WHERE accepted = 4", "DELETE FROM drops")
    assert len(list_faults(filled)) == 5  # four events, and what the other lane has dropped
    repair(filled)
    stats = read_stats(filled)
    assert (stats["ready"], stats["dead"]) == (5, 5)


def test_events_of_a_destination_that_cannot_be_read_become_dead_letters(filled: Path) -> None:
    change(filled, "UPDATE destinations SET settings = '{' WHERE settings LIKE '%there%'")
    faults = list_faults(filled)
    assert len(faults) == 5
    assert "`raven-spool retry --dsn` names another" in faults[0]
    repair(filled)
    assert (read_stats(filled)["ready"], read_stats(filled)["dead"]) == (4, 6)


def test_a_state_that_is_none_becomes_a_dead_letter(filled: Path) -> None:
    change(filled, f"UPDATE {EVENTS} SET status = 4 WHERE _id = 6")
    assert {fault.partition(":")[0] for fault in list_faults(filled)} == {"events", "ledger"}
    repair(filled)
    assert read_stats(filled)["dead"] == 2


# -- the file -------------------------------------------------------------------------------------


def drop_index_entry(path: Path) -> None:
    """SQLite reads on without complaint; a worker that goes by the index misses the row."""
    change(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'status < 2', 'status < 0') "
        "WHERE name = 'events_ready'",
        "PRAGMA writable_schema = RESET",
        "REINDEX",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'status < 0', 'status < 2') "
        "WHERE name = 'events_ready'",
    )


def lose_a_trigger(path: Path) -> None:
    change(path, "DROP TRIGGER event_enqueued")


def overwrite_the_header(path: Path) -> None:
    with database(path).open("r+b") as file:
        file.write(b"\0" * 100)


def write_another_name_into_current(path: Path) -> None:
    (path / "current").write_text("../elsewhere\n")


def lose_current(path: Path) -> None:
    (path / "current").unlink()


@pytest.mark.parametrize(
    "harm",
    [
        drop_index_entry,
        lose_a_trigger,
        overwrite_the_header,
        write_another_name_into_current,
        lose_current,
    ],
)
def test_a_broken_file_is_put_aside_and_its_events_come_back(
    filled: Path, harm: Callable[[Path], None]
) -> None:
    harm(filled)
    assert list_faults(filled)
    repair(filled)
    stats = read_stats(filled)
    assert (stats["ready"], stats["dead"]) == (9, 1)
    assert len([one for one in filled.iterdir() if one.is_dir()]) == 1


def test_a_check_leaves_a_broken_file_as_it_lies(filled: Path) -> None:
    overwrite_the_header(filled)
    before = (filled / "current").read_text()
    assert len(list_faults(filled)) == 1
    assert (filled / "current").read_text() == before


def test_what_cannot_be_read_is_counted_and_its_file_kept_and_told(path: Path) -> None:
    spool = Spool(str(path))
    for number in range(1, 201):
        assert spool.enqueue(event(number, body=b"%032x" % number * 60), HERE)
    discard(spool)
    with database(path).open("r+b") as file:
        pages = os.path.getsize(database(path)) // 4096
        for page in range(pages // 2, pages // 2 + 6):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    assert list_faults(path)
    found = repair(path)
    stats = read_stats(path)
    assert 0 < stats["ready"] < 200
    assert stats["accepted"] == 200
    assert len(found["kept"]) == 1
    assert f"kept: {found['kept'][0]}: " in run("check", "--spool", path).stdout


def test_repair_beside_an_application_that_leads(filled: Path) -> None:
    """It stands down when it sees the fresh file; whoever leads then brings the events back."""
    leader = Spool(str(filled))
    assert leader.leadership.take()
    change(filled, "DROP TRIGGER event_enqueued")
    repairing = start("check", "--spool", filled, "--repair", "--json")
    try:
        wait_until(lambda: leader.lanes() is None)  # as its next look for work does
        leader.leadership.let_go(clean=False)
        stdout, stderr = repairing.communicate(timeout=60)
    finally:
        repairing.kill()
    assert (repairing.returncode, stderr, json.loads(stdout)["faults"]) == (0, "", [])
    discard(leader)
    assert (read_stats(filled)["ready"], read_stats(filled)["dead"]) == (9, 1)


def test_repair_leaves_to_the_next_leader_how_the_last_one_ended(filled: Path) -> None:
    """Else the event that has killed it would be sent among others again."""
    spool = Spool(str(filled))
    spool.stats()
    assert spool._store.quarantine(spool._store.generation, 1.0)
    assert spool.leadership.take()
    spool.leadership.let_go(clean=False)
    discard(spool)
    repair(filled)
    assert spool.leadership.take()
    assert spool.leadership.careful
    spool.leadership.let_go()
    discard(spool)


# -- modes ----------------------------------------------------------------------------------------


def test_what_is_open_to_others_is_closed(filled: Path) -> None:
    filled.chmod(0o755)
    database(filled).chmod(0o644)
    assert list_faults(filled) == [
        f"modes: {filled} is open to others, mode 0755: 0700 is enough",
        f"modes: {database(filled)} is open to others, mode 0644: 0600 is enough",
    ]
    repair(filled)
    assert (filled.stat().st_mode & 0o777, database(filled).stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )


def test_a_link_is_told_and_not_followed(filled: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("")
    victim.chmod(0o644)
    (filled / "link").symlink_to(victim)
    code, found = check(filled, "--repair")
    assert (code, len(found["faults"])) == (65, 1)
    assert "is a link" in found["faults"][0]["text"]
    assert victim.stat().st_mode & 0o777 == 0o644
