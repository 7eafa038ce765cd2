"""Encryption at rest: what lies on the disk, who can read it, and what becomes of the rest."""

import base64
import contextlib
import logging
import os
import sqlite3
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raven_spool import SpoolTransport
from raven_spool.config import Options, read_options
from raven_spool.errors import ConfigurationError, EventNotFound
from raven_spool.model import Destination, State
from raven_spool.spool import Spool
from raven_spool.spool.sealing import Seal, Tampered, key_id
from raven_spool.spool.stored import checksum
from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import AUTH, check_bodies, read_ledger, send
from tests.support import evidence
from tests.support.drains import Process
from tests.support.ingest import Ingest
from tests.support.spools import HERE, NOW, check_ledger, event, number_of
from tests.support.tool import run

ONE, OTHER = bytes(range(32)), bytes(range(100, 132))
SECRET = b"the-secret-that-must-not-lie-on-the-disk"


def text(*keys: bytes) -> str:
    return ",".join(base64.b64encode(key).decode() for key in keys)


def everything_in(path: Path) -> bytes:
    files = [file for file in path.rglob("*") if file.is_file()]
    assert any(file.name == "data.db-wal" for file in files)
    return b"".join(file.read_bytes() for file in files)


def put_and_die(path: Path, url: str, returned: Path) -> None:
    transport = SpoolTransport(spool_path=str(path), backend="none", encryption_key=text(ONE))
    for _ in range(20):
        Notes(returned).write(send(transport, url))
    body = b'{"event_id": "' + b"ab" * 16 + b'", "message": "' + SECRET + b'"}'
    Notes(returned).write(transport.send(f"{url}/api/1/store/", body, AUTH))
    wait_for_ever()


@pytest.mark.evidence
def test_sealed_events_outlive_a_kill_and_nothing_of_them_is_readable(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Ingest() as ingest:
        with Child(put_and_die, path, ingest.url, returned.path) as child:
            sent = returned.wait_for(21)
            child.kill()
        stored = everything_in(path)
        assert SECRET not in stored
        assert b'"message"' not in stored
        assert ONE not in stored
        assert base64.b64encode(ONE) not in stored
        without = run("flush", "--spool", path)
        assert without.returncode == 75
        assert "RAVEN_SPOOL_ENCRYPTION_KEY" in without.stderr
        assert not ingest.requests
        ran = run("flush", "--spool", path, RAVEN_SPOOL_ENCRYPTION_KEY=text(OTHER, ONE))
        assert ran.returncode == 0, ran.stderr
        assert sorted(ingest.event_ids()) == sorted(sent)
        check_bodies([seen for seen in ingest.requests if SECRET not in seen.body])
    assert read_ledger(path)["delivered"] == 21
    evidence.note(
        "bodies sealed with AES-256-GCM, the writer killed, every file searched for plain text",
        promise=8, tried="1 kill, a flush without the key and one with it", events=21, lost=0,
        twice=0,
    )  # fmt: skip


def test_event_of_a_lost_key_waits_and_holds_up_no_other(tmp_path: Path) -> None:
    old = Spool(str(tmp_path), keys=[OTHER])
    for number in range(1, 101):
        assert old.enqueue(event(number), HERE)
    old.finish()
    process = Process(tmp_path, keys=[ONE])
    process.put(101)
    sent = []
    while not sent:
        numbers, _ = process.deliver_all()
        sent += numbers
        process.turn(0.01)
        assert process.now < NOW + 10
    assert sent == [101]
    assert check_ledger(process.spool)["ready"] == 100
    assert process.spool.missing_keys == {key_id(Seal([OTHER]).close(event(1)))}


def test_application_with_another_key_keeps_the_events_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spool"
    before, now = Spool(str(path), keys=[ONE]), time.time()
    with Ingest() as ingest, caplog.at_level(logging.WARNING):
        there = Destination(base_url=ingest.url, project="1", public_key="public")
        for number in range(1, 51):
            body = b'{"event_id": "%032x"}' % number
            assert before.enqueue(event(number, body=body, created_at=now), there)
        before.finish()
        transport = SpoolTransport(spool_path=str(path), encryption_key=text(OTHER))
        sent = [send(transport, ingest.url) for _ in range(3)]
        assert sorted(ingest.wait_for(3)) == sorted(sent)
        transport.flush(0.5)
        transport.close(10)
        assert sorted(ingest.event_ids()) == sorted(sent)
        told = [record.getMessage() for record in caplog.records if record.name == "raven.spool"]
        assert told == [f"events sealed with key {name_of(ONE)} wait: it is not in encryption_key"]
        ran = run("flush", "--spool", path, RAVEN_SPOOL_ENCRYPTION_KEY=text(OTHER, ONE))
        assert ran.returncode == 0, ran.stderr
        kept = [event(number).event_id for number in range(1, 51)]
        assert sorted(ingest.event_ids()) == sorted(kept + sent)


def name_of(key: bytes) -> str:
    return str(key_id(Seal([key]).close(event(1))))


@pytest.mark.evidence
@pytest.mark.parametrize("keys", [(), (ONE,)], ids=["leader without the key", "with it"])
def test_sealed_events_of_a_broken_file_come_back_sealed(
    tmp_path: Path, keys: tuple[bytes, ...]
) -> None:
    old = Spool(str(tmp_path), keys=[ONE])
    for number in range(1, 101):
        assert old.enqueue(event(number, body=SECRET + b"%d" % number), HERE)
    old.finish()
    database = next(tmp_path.glob("g-*/data.db"))
    with database.open("r+b") as file:
        file.write(bytes(4096))
    leader = Spool(str(tmp_path), keys=keys)
    assert leader.enqueue(event(101, body=b"fresh"), HERE, timeout_seconds=5)
    assert leader.leadership.take()
    for _ in range(100):
        if not leader.salvage.step()[0]:
            break
    assert not database.exists()
    assert SECRET not in everything_in(tmp_path)
    leader.leadership.let_go()
    leader.finish()
    owner = Spool(str(tmp_path), keys=[OTHER, ONE])
    bodies = {number_of(one.event): one.event.body for one in owner.page(limit=200)}
    assert bodies == {n: SECRET + b"%d" % n for n in range(1, 101)} | {101: b"fresh"}
    assert check_ledger(owner)["ready"] == 101
    owner.finish()
    evidence.note(
        "sealed events in a file whose first page is gone: they come back, sealed",
        promise=8, tried="2 files, 1 leader without the key", events=101, lost=0, twice=0,
    )  # fmt: skip


def test_first_key_seals_and_all_open(tmp_path: Path) -> None:
    Spool(str(tmp_path), keys=[ONE]).enqueue(event(1, body=b"old"), HERE)
    rotated = Spool(str(tmp_path), keys=[OTHER, ONE])
    rotated.enqueue(event(2, body=b"new"), HERE)
    assert [stored.event.body for stored in rotated.page()] == [b"new", b"old"]
    removed = Spool(str(tmp_path), keys=[OTHER])
    assert [bool(stored.key_id) for stored in removed.page()] == [False, True]
    unset = Spool(str(tmp_path))
    unset.enqueue(event(3, body=b"clear"), HERE)
    assert [bool(stored.key_id) for stored in unset.page()] == [False, True, True]
    assert rotated.page()[0].event.body == b"clear"


@pytest.mark.parametrize("column", ["data", "event_id", "endpoint"])
def test_event_that_was_exchanged_is_buried(tmp_path: Path, column: str) -> None:
    spool = Spool(str(tmp_path), keys=[ONE])
    for number in (1, 2):
        spool.enqueue(event(number, body=b"body %d" % number), HERE)
    spool.finish()
    database = next(tmp_path.glob("g-*/data.db"))
    with contextlib.closing(sqlite3.connect(database)) as connection:
        # As one who can write the file and the checksums, but has no key.
        connection.execute(
            f"UPDATE ack_queue_events SET {column} = CASE ? WHEN 'endpoint' THEN 'envelope' ELSE "
            f"(SELECT {column} FROM ack_queue_events WHERE _id = 2) END WHERE _id = 1",
            (column,),
        )
        rows = connection.execute("SELECT _id, headers, data FROM ack_queue_events").fetchall()
        for key, headers, body in rows:
            crc = checksum(headers, body)
            connection.execute("UPDATE ack_queue_events SET crc = ? WHERE _id = ?", (crc, key))
        connection.commit()
    assert spool.leadership.take()
    lane = next(lane for lane, _ in spool.all_lanes() if lane.ready)
    assert [number_of(one.event) for one in spool.claim(lane, limit=9, now=NOW)] == [2]
    (dead,) = spool.page(state=State.DEAD)
    assert dead.id == 1
    assert "seal" in dead.reason
    spool.finish()


def test_seal_refuses_what_was_changed_and_leaves_others_alone() -> None:
    seal, made = Seal([ONE]), event(1, body=b"x")
    sealed = seal.close(made)
    assert seal.close(sealed) is sealed
    assert seal.open(sealed) == made
    assert Seal([OTHER]).open(sealed) is sealed
    assert Seal().open(sealed) is sealed
    assert seal.open(made) is made
    assert seal.close(made).body != sealed.body
    for spoiled in (b"", sealed.body[:-1], bytes([sealed.body[0] ^ 1]) + sealed.body[1:]):
        with pytest.raises(Tampered):
            seal.open(replace(sealed, body=spoiled))


def test_key_is_read_from_text_and_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    for given in (text(ONE, OTHER), f"{ONE.hex()}, {OTHER.hex()}", [ONE, OTHER]):
        options = read_options({"encryption_key": given}, {})
        assert options.encryption_key == (ONE, OTHER)
        assert not any(form in repr(options) for form in (repr(ONE), text(ONE), ONE.hex()))
    assert read_options({"encryption_key": ONE}, {}).encryption_key == (ONE,)
    for bad in ("hunter2", text(ONE)[:-8], text(ONE) + ",hunter2", "", [b"hunter2"], 7):
        with pytest.raises(ConfigurationError) as caught:
            read_options({"encryption_key": bad}, {}, strict=True)
        assert "encryption_key=(hidden)" in str(caught.value)
        assert caught.value.__suppress_context__
    assert "hunter2" not in caplog.text


def break_key(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    return {"encryption_key": "hunter2"}


def lack_library(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    return {"encryption_key": text(ONE)}


@pytest.mark.parametrize("spoil", [break_key, lack_library])
def test_what_cannot_be_sealed_is_sent_from_memory_and_never_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spoil
) -> None:
    path = tmp_path / "spool"
    with Ingest() as ingest, caplog.at_level(logging.WARNING):
        transport = SpoolTransport(spool_path=str(path), **spoil(monkeypatch))
        sent = send(transport, ingest.url)
        assert ingest.wait_for(1) == [sent]
        transport.close(10)
    assert not list(path.glob("g-*")) or read_ledger(path)["accepted"] == 0
    assert "encryption_key" in caplog.text
    assert "hunter2" not in caplog.text


def test_child_of_a_fork_seals_and_opens_too(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), keys=[ONE])
    spool.enqueue(event(1), HERE)
    pid = os.fork()
    if pid == 0:
        os._exit(not spool.enqueue(event(2), HERE))
    assert os.waitpid(pid, 0)[1] == 0
    assert [number_of(stored.event) for stored in spool.page()] == [2, 1]
    assert {stored.event.body for stored in spool.page()} == {b"{}"}
    spool.finish()


def test_tool_shows_what_it_can(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool = Spool(str(path), keys=[ONE])
    spool.enqueue(event(1, body=b'{"message": "hello"}'), HERE)
    spool.finish()
    name = key_id(Seal([ONE]).close(event(1)))
    assert "(encrypted)" in run("ls", "--spool", path).stdout
    shown = run("show", "1", "--spool", path)
    assert str(name) in shown.stdout
    assert run("show", "1", "--body", "--spool", path).returncode == 78
    key = {"RAVEN_SPOOL_ENCRYPTION_KEY": text(ONE)}
    assert "hello" in run("ls", "--spool", path, **key).stdout
    assert "hello" in run("show", "1", "--body", "--spool", path, **key).stdout
    bad = run("ls", "--spool", path, RAVEN_SPOOL_ENCRYPTION_KEY="hunter2")
    assert bad.returncode == 78
    assert "hunter2" not in bad.stderr
    assert run("rm", "1", "--yes", "--spool", path).returncode == 0
    with pytest.raises(EventNotFound):
        spool.get(1)


def test_mark_that_is_none_of_ours_is_taken_for_none() -> None:
    for mark in ("a:b:c", "aes-gcm:\x1b[2J:" + "0" * 24, "aes-gcm:" + "0" * 8 + ":00", ""):
        assert key_id(replace(event(1), headers=(("", mark),))) is None


def test_without_a_key_events_stay_as_they_are() -> None:
    seal, made = Seal(Options().encryption_key), event(1)
    assert seal.close(made) is made
    assert seal.open(made) is made
