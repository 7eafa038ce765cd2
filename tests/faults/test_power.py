"""The power goes at any instant, on a file system that forgets what was not synced.

A process's writes and syncs are recorded, SQLite's and our own. For each cut the directory that
would be left is made, several ways, and the spool is opened in it.
"""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from raven_spool.spool import Spool
from tests.faults.children import Child
from tests.support import evidence
from tests.support.power import Disk
from tests.support.recorder import Did, Recorder, load
from tests.support.spools import HERE, NOW, check_ledger, discard, event

CUTS = 40
SOAK_CUTS = 6000
PROMISED_SECONDS = {"always": 0.0, "everysec": 1.0, "no": float("inf")}
_EVENTS = 192
_LIVES = 2
_PACE_SECONDS = 0.02  # a life of two seconds: what a late sync would lose is seen
_BODY = b"x" * 16_000  # the log is checkpointed in the middle of a life too
_WHERE = Path("state") / "spool"


# -- a life of a spool ----------------------------------------------------------------------------


def live(root: Path, mode: str, record: Path) -> None:
    with Recorder(root) as recorder:
        spool = Spool(str(root / _WHERE), fsync=mode)
        for number in range(_EVENTS):
            key = spool.enqueue(event(number, body=_BODY), HERE, timeout_seconds=10)
            assert key
            recorder.note("returned", _id_of(number))
            if number % 8 == 7:
                deliver_some(spool, recorder, number)
            if number % (_EVENTS // _LIVES) == _EVENTS // _LIVES - 1:
                spool.finish()  # the last to close removes the log; the next makes a new one
            time.sleep(_PACE_SECONDS if mode == "everysec" else 0)
        recorder.save(record)


def deliver_some(spool: Spool, recorder: Recorder, number: int) -> None:
    assert spool.leadership.take()
    lane = next(lane for lane, _ in spool.all_lanes() if lane.category)
    claimed = spool.claim(lane, limit=4, now=NOW)
    for one in claimed:
        recorder.note("delivered", one.event.event_id)
    spool.ack(claimed)
    later, worse = spool.claim(lane, limit=2, now=NOW)
    spool.nack(later, now=NOW, due=NOW, what="timed out", unanswered=True)
    spool.bury([worse.id], "refused", NOW)
    spool.hold(lane.destination_id, "", now=NOW, seconds=1, hold="backoff", reason="no answer")


def _id_of(number: int) -> str:
    return event(number).event_id


# -- what is left of it ---------------------------------------------------------------------------


def cut_many(record: Path, root: Path, count: int, report: Path) -> None:
    """In a process of its own: each spool that is opened is known to its forks for good."""
    done = load(record)
    found = [
        examine(disk, done, cut, root.with_name(f"cut-{cut}"))
        for cut, disk in cuts(done, root, count)
    ]
    report.write_text(json.dumps(found))


def cuts(done: list[Did], root: Path, count: int) -> Iterator[tuple[int, Disk]]:
    """Places in the record, about `count`: half of them beside syncs, half spread over all."""
    syncs = [place for place, did in enumerate(done) if did.kind in ("sync", "names", "rename")]
    beside = sorted({*syncs, *(place + 1 for place in syncs)})
    wanted = {*_spread(beside, count // 2), *_spread(range(len(done)), count // 2), len(done)}
    disk = Disk(root)
    for place in range(len(done) + 1):
        if place in wanted:
            yield place, disk
        if place < len(done):
            disk.follow(done[place])


def _spread(places: Sequence[int], count: int) -> Sequence[int]:
    return places[:: max(1, len(places) // count)]


def examine(disk: Disk, done: list[Did], cut: int, target: Path) -> dict[str, Any]:
    """Open what is left, go on with it, and count what is missing."""
    disk.survive(target, random.Random(cut))
    path = target / _WHERE
    current = path / "current"
    named = current.read_text() if current.exists() else ""
    spool = Spool(str(path), fsync="no")
    try:
        assert spool.enqueue(event(_EVENTS), HERE, timeout_seconds=10)
        if len(list(path.glob("g-*"))) > 1:
            # The log had a hole: what was not synced comes to the disk in any order.
            assert spool.leadership.take()
            while spool.salvage.step()[0]:
                pass
        check_ledger(spool)
        stored = Counter(key.event_id for key in spool.list_keys(limit=10 * _EVENTS))
        assert set(stored.values()) == {1}, f"cut {cut}: back twice"
        assert named in ("", current.read_text()), f"cut {cut}: found broken"
        assert _integrity(current) == "ok", cut
    finally:
        discard(spool)
    shutil.rmtree(target)
    at = done[cut].at if cut < len(done) else done[-1].at
    return {"cut": cut, "events": len(stored), "lost_ages": _lost_ages(done[:cut], stored, at)}


def _integrity(current: Path) -> str:
    database = current.parent / current.read_text().strip() / "data.db"
    with contextlib.closing(sqlite3.connect(database, timeout=5)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def _lost_ages(done: list[Did], stored: Iterable[str], at: float) -> list[float]:
    """For each event that is nowhere: how long before the cut its send had returned."""
    returned = {did.path: did.at for did in done if did.to == "returned"}
    known = {did.path for did in done if did.to == "delivered"} | set(stored)
    return [at - then for name, then in returned.items() if name not in known]


def _longest_pause(done: list[Did]) -> float:
    """What this machine's own stalls add to a second."""
    times = [did.at for did in done if did.to == "returned"]
    return max(after - before for before, after in itertools.pairwise(times))


def _cut_power(scratch: Path, mode: str, count: int) -> None:
    root, record, report = scratch / "root", scratch / "record", scratch / "report"
    root.mkdir()
    with Child(live, root, mode, record) as first:
        assert first.join(60) == 0
    with Child(cut_many, record, root, count, report) as second:
        assert second.join(560) == 0
    found = json.loads(report.read_text())
    ages = [age for one in found for age in one["lost_ages"]]
    if mode == "always":
        assert not ages, f"lost after {len(ages)} of {len(found)} cuts"
    allowed = PROMISED_SECONDS[mode] + _longest_pause(load(record))
    assert max(ages, default=0.0) <= allowed
    evidence.note(
        f"The power cut at and between syncs, what was not synced torn and reordered, fsync={mode}",
        promise=1,
        tried=f"{len(found)} cuts",
        events=_EVENTS,
        lost=None if mode == "no" else sum(age > allowed for age in ages),
        seen=f"the oldest event that was gone had been sent {max(ages, default=0.0):.2f} s before",
    )


@pytest.mark.parametrize("mode", PROMISED_SECONDS)
def test_power_cut_loses_what_the_mode_allows_and_no_more(in_memory: Path, mode: str) -> None:
    _cut_power(in_memory, mode, CUTS)


@pytest.mark.soak
@pytest.mark.parametrize("mode", PROMISED_SECONDS)
def test_power_cut_at_each_sync_loses_what_the_mode_allows(in_memory: Path, mode: str) -> None:
    _cut_power(in_memory, mode, SOAK_CUTS)


# -- a sync that fails once -----------------------------------------------------------------------


def live_with_a_failing_sync(root: Path, record: Path) -> None:
    """The kernel says it once (EIO) and takes what it did not write for written: the pages are in
    memory, clean, and the next sync succeeds without them."""
    failed: list[int] = []
    with Recorder(root) as recorder:
        synced = os.fdatasync

        def fail_once(descriptor: int) -> None:
            if failed:
                return synced(descriptor)
            failed.append(descriptor)
            recorder.note_failed_sync(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        spool = Spool(str(root / _WHERE), fsync="everysec")
        assert spool.enqueue(event(0), HERE, timeout_seconds=10)  # makes it
        spool.keeper.sync()
        os.fdatasync = fail_once
        for number in range(1, 20):
            assert spool.enqueue(event(number), HERE, timeout_seconds=10)
            spool.keeper.sync()
            recorder.note("returned", _id_of(number))
        os.fdatasync = synced
        assert failed
        recorder.save(record)
        os._exit(0)  # without a close, which would checkpoint


def test_what_a_failed_sync_forgot_is_written_again(in_memory: Path) -> None:
    root, record = in_memory / "root", in_memory / "record"
    root.mkdir()
    with Child(live_with_a_failing_sync, root, record) as child:
        assert child.join(60) == 0
    disk = Disk(root)
    for did in load(record):
        disk.follow(did)
    for seed in range(8):
        target = in_memory / f"left-{seed}"
        disk.survive(target, random.Random(seed))
        spool = Spool(str(target / _WHERE), fsync="no")
        assert len(spool.list_keys()) == 20
        discard(spool)
