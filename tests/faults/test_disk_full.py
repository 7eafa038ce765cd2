"""A disk without room, and a process without descriptors: events go out from memory, acks go on."""

import contextlib
import errno
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven_spool.spool import store
from raven_spool.transport.spool import SpoolTransport
from tests.faults.children import Child, Notes
from tests.faults.disks import Filler, mounted
from tests.faults.events import (
    check_bodies,
    count_repeats,
    make_transport,
    read_ledger,
    send,
    stored_ids,
)
from tests.support import evidence, quota
from tests.support.answers import ok, status
from tests.support.drains import Process
from tests.support.ingest import Ingest
from tests.support.spools import HERE, NOW, discard, event
from tests.support.tool import finish, start
from tests.support.waiting import wait_until

MIB = 1 << 20
BACKLOG = 1000
SOAK_BACKLOG = 20_000
WRITERS = 2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", 64 * MIB)


@pytest.fixture(autouse=True)
def _no_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have no five seconds for a path that was refused."""
    monkeypatch.setattr("raven_spool.spool.store._RETRY_OPEN_SECONDS", 0.1)


# -- one process ----------------------------------------------------------------------------------


def wait_for_recovery(transport: SpoolTransport, url: str, path: Path) -> None:
    """Send until an event is in the file, with its ballast beside it, and nothing in memory."""

    def is_kept() -> bool:
        send(transport, url)
        return (path / "ballast").exists() and not transport.stats()["volatile"]

    wait_until(is_kept, what="sends that are committed, and the ballast")


def test_disk_full_before_the_first_send(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    filler, path = Filler(disk), disk / "spool"
    filler.fill()
    with Ingest() as ingest, caplog.at_level(logging.WARNING, "raven.spool"):
        transport = make_transport(path)
        sent = [send(transport, ingest.url) for _ in range(20)]
        ingest.wait_for(20)
        assert sorted(ingest.event_ids()) == sorted(sent)
        assert len(caplog.records) == 1, caplog.text
        assert "full" in caplog.text
        assert not list(path.glob("g-*")), "each attempt would leave one more"
        filler.free()
        wait_for_recovery(transport, ingest.url, path)
        transport.close(10)
        check_bodies(ingest.requests)


def test_disk_that_fills_up_between_sends(disk: Path) -> None:
    filler, path = Filler(disk), disk / "spool"
    sent = []
    with Ingest() as ingest:
        transport = make_transport(path)
        for turn in range(3):
            sent += [send(transport, ingest.url) for _ in range(200)]
            filler.fill()
            sent += [send(transport, ingest.url) for _ in range(200)]
            ingest.wait_for(400 * (turn + 1))
            filler.free()
        transport.close(10)
        assert sorted(ingest.event_ids()) == sorted(sent), "each once"
        check_bodies(ingest.requests)
    assert read_ledger(path)["ready"] == 0


def test_events_in_memory_come_home_when_there_is_room(disk: Path) -> None:
    filler, path = Filler(disk), disk / "spool"
    with Ingest() as ingest:
        ingest.answer_with(status(503))
        transport = make_transport(path, wait=lambda state: 60.0)
        sent = [send(transport, ingest.url) for _ in range(5)]
        filler.fill()
        while transport.stats()["volatile"] < 5:  # the WAL may have room for a few
            sent.append(send(transport, ingest.url))
        assert len(stored_ids(path)) == len(sent) - 5
        filler.free()
        wait_for_recovery(transport, ingest.url, path)
        assert {*sent} <= {*stored_ids(path)}
        ingest.answer_with(ok())
        assert transport.flush(30)
        assert {*sent} <= {*ingest.event_ids()}
        transport.close()


@pytest.mark.parametrize("size_bytes", [300, 30_000, 300_000])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_every_ack_goes_through_whatever_lies_in_the_wal(
    disk: Path, size_bytes: int, share: float
) -> None:
    process = Process(disk / "spool")
    count = max(2, int(share * 380 * 4096 / (size_bytes + 4096)))  # the WAL is copied at 409 pages
    for number in range(count):
        made = event(number, body=bytes(size_bytes))
        assert process.spool.enqueue(made, HERE, timeout_seconds=5)
    Filler(disk).fill()
    assert process.spool.leadership.take()
    lane = process.lane("error")
    while claimed := process.spool.claim(lane, limit=100, now=NOW):
        for one in claimed:
            process.spool.ack([one])
    assert read_ledger(disk / "spool")["delivered"] == count
    discard(process.spool)


def test_tool_removes_and_flushes_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    path = disk / "spool"
    with Ingest() as ingest:
        fill_backlog(path, ingest.url, 30, tmp_path / "returned")
        Filler(disk).fill()
        removed = finish(start("rm", "1", "--yes", "--spool", path))
        assert removed.returncode == 0, removed.stderr
        flushed = finish(start("flush", "--spool", path))
        assert flushed.returncode == 0, flushed.stderr
        assert len(ingest.event_ids()) == 29
    ledger = read_ledger(path)
    assert (ledger["delivered"], ledger["dropped"], ledger["ready"]) == (29, 1, 0)


# -- several processes ----------------------------------------------------------------------------


def fill_backlog(path: Path, url: str, count: int, returned: Path) -> None:
    transport, notes = make_transport(path, backend="none"), Notes(returned)
    for _ in range(count):
        notes.write(send(transport, url))
    transport.close()


def write_until_told(path: Path, url: str, returned: Path, told: Path) -> None:
    transport, notes = make_transport(path, backend="none"), Notes(returned)
    while not told.exists():
        notes.write(send(transport, url))
    transport.close(10)


def drain_backlog(path: Path) -> None:
    transport = make_transport(path)
    assert transport.flush(120)
    transport.close()


def _drain_on_full_disk(disk: Path, tmp_path: Path, count: int) -> None:
    path, told = disk / "spool", tmp_path / "told"
    backlog, beside = Notes(tmp_path / "backlog"), Notes(tmp_path / "beside")
    with Ingest() as ingest:
        with Child(fill_backlog, path, ingest.url, count, backlog.path) as first:
            assert first.join(120) == 0
        filler = Filler(disk)
        filler.fill()
        arguments = path, ingest.url, beside.path, told
        with Child(write_until_told, *arguments) as one, Child(write_until_told, *arguments) as two:
            beside.wait_for(20)
            with Child(drain_backlog, path) as drainer:
                assert drainer.join(180) == 0
            assert not (path / "ballast").exists()
            told.touch()
            assert one.join() == two.join() == 0
        assert read_ledger(path)["delivered"] >= count
        returned = backlog.read() + beside.read()
        assert sorted(ingest.event_ids()) == sorted(returned), "each once: acks went through"
        check_bodies(ingest.requests)
        filler.free()
        transport = make_transport(path)
        wait_for_recovery(transport, ingest.url, path)
        transport.close(10)
    evidence.note(
        "a disk full to the last block, a backlog, two processes that go on sending",
        promise=4, tried=f"{count} events in the backlog, {WRITERS} writers",
        events=len(returned), lost=0, twice=0,
    )  # fmt: skip


def test_backlog_drains_on_a_full_disk_beside_writers(disk: Path, tmp_path: Path) -> None:
    _drain_on_full_disk(disk, tmp_path, BACKLOG)


@pytest.mark.soak
def test_long_backlog_drains_on_a_full_disk(tmp_path: Path) -> None:
    for disk in mounted(tmp_path / "disk", 512 * MIB):
        _drain_on_full_disk(disk, tmp_path, SOAK_BACKLOG)


# -- other limits ---------------------------------------------------------------------------------


def send_under_a_limit(path: Path, url: str, returned: Path, limited: Path, lifted: Path) -> None:
    """Files can't grow for a while; the spool was open before."""
    transport, notes = make_transport(path), Notes(returned)
    notes.write(send(transport, url))
    largest = max(file.stat().st_size for file in path.glob("g-*/data.db-wal"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 20_000, resource.RLIM_INFINITY))
    for _ in range(50):
        notes.write(send(transport, url))
    limited.touch()
    wait_until(lifted.exists, what="the test")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(50):
        notes.write(send(transport, url))
    assert transport.flush(30)
    transport.close()


def test_limit_on_the_size_of_files(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    limited, lifted = tmp_path / "limited", tmp_path / "lifted"
    with Ingest() as ingest:
        with Child(send_under_a_limit, path, ingest.url, returned.path, limited, lifted) as child:
            wait_until(limited.exists, what="sends under the limit")
            wait_until(lambda: len(set(ingest.event_ids())) == 51, what="what was sent so far")
            lifted.touch()
            assert child.join() == 0
        assert {*ingest.event_ids()} == {*returned.read()}
        check_bodies(ingest.requests)
    assert read_ledger(path)["ready"] == 0


def send_on_a_quota(path: Path, url: str, returned: Path, limited: Path, lifted: Path) -> None:
    """It is used up after a few events; only what the ballast gives back can be had."""
    ballast, allocated = path / "ballast", os.posix_fallocate

    def is_used_up() -> bool:
        return limited.exists() and not lifted.exists() and ballast.exists()

    def allocate(descriptor: int, offset: int, size: int) -> None:
        if limited.exists() and not lifted.exists():
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        allocated(descriptor, offset, size)

    os.posix_fallocate = allocate
    quota.limit_writes(is_used_up)
    transport, notes = make_transport(path, backend="none"), Notes(returned)
    for _ in range(BACKLOG // 20):
        notes.write(send(transport, url))
    limited.touch()
    transport = make_transport(path)
    assert transport.flush(30), "acks go through, on the ballast"
    assert not ballast.exists()
    for _ in range(BACKLOG // 20):
        notes.write(send(transport, url))
    assert read_ledger(path)["accepted"] == BACKLOG // 20, "all others went from memory"
    assert transport.flush(30)
    lifted.touch()
    wait_for_recovery(transport, url, path)
    assert transport.flush(30)
    transport.close()


@pytest.mark.evidence
def test_quota_acts_like_a_full_disk(tmp_path: Path) -> None:
    """SQLite tells EDQUOT as an I/O error at a write, not as a full disk."""
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    files = tmp_path / "limited", tmp_path / "lifted"
    with Ingest() as ingest:
        with Child(send_on_a_quota, path, ingest.url, returned.path, *files) as child:
            assert child.join(100) == 0
        assert {*returned.read()} <= {*ingest.event_ids()}
        assert count_repeats(ingest) == 0
        check_bodies(ingest.requests)
    assert read_ledger(path)["ready"] == 0
    evidence.note(
        "a quota (EDQUOT) that is used up, a backlog, sends that go on",
        promise=4, tried="1 quota", events=len(returned.read()), lost=0, twice=0,
    )  # fmt: skip


def send_without_descriptors(path: Path, url: str, returned: Path) -> None:
    """None is to be had at the first send, then one more and one more, until there are enough."""
    store._RETRY_OPEN_SECONDS = 0.0
    transport = make_transport(path)
    taken = _take_all_descriptors()
    sent = []
    for descriptor in taken[:30]:
        sent += [send(transport, url) for _ in range(5)]  # what these kept, it would lack later
        os.close(descriptor)
    wait_for_recovery(transport, url, path)
    for descriptor in taken[30:]:
        os.close(descriptor)
    for event_id in sent:
        Notes(returned).write(event_id)
    assert transport.flush(30)
    transport.close()


def _take_all_descriptors() -> list[int]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    return taken


def test_no_descriptors_when_the_spool_is_opened(tmp_path: Path) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Ingest() as ingest:
        with Child(send_without_descriptors, path, ingest.url, returned.path) as child:
            assert child.join(60) == 0
        assert len(returned.read()) == 150
        assert {*returned.read()} <= {*ingest.event_ids()}
        check_bodies(ingest.requests)
    assert read_ledger(path)["ready"] == 0
