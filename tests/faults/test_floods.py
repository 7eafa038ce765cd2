"""More events than there is room for: on the disk, and in memory while there is no disk."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from raven_spool import flusher
from raven_spool.spool import intake
from tests.faults.children import Child, Notes
from tests.faults.events import (
    check_bodies,
    make_transport,
    new_id,
    read_ledger,
    send,
    stored_ids,
)
from tests.faults.test_stop import stop_with_the_gate
from tests.support import evidence
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

NOWHERE = "http://127.0.0.1:9"  # nobody listens
_BENCH = Path(__file__).parents[2] / "bench" / "flood.py"
_MIB = 1 << 20


# -- on the disk ----------------------------------------------------------------------------------

WRITERS, EVENTS, MOST = 3, 250, 60


def flood(path: Path, returned: Path, url: str, backend: str, options: dict) -> None:
    """An application that sends as fast as it can; what it was told, it notes."""
    transport = make_transport(path, backend=backend, **options)
    ids = [send(transport, url) for _ in range(EVENTS)]
    Notes(returned).write("\n".join(ids))
    transport.close(0 if backend == "none" else 10)


@pytest.mark.evidence
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_flood_by_several_processes_is_counted_to_the_last_event(
    tmp_path: Path, overflow: str
) -> None:
    """One of them was given the limits, and delivers; the others know nothing of either."""
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    limits = {"max_events": MOST, "overflow": overflow}
    with Ingest() as ingest:
        send(make_transport(path, backend="none", **limits), ingest.url)
        jobs = [("thread", limits), *[("none", {})] * (WRITERS - 1)]
        children = [
            Child(flood, path, returned.path, ingest.url, backend, options)
            for backend, options in jobs
        ]
        assert [child.join(60) for child in children] == [0] * WRITERS
        ids = returned.read()
        ledger = read_ledger(path)
        delivered = set(ingest.event_ids())
        check_bodies(ingest.requests)
    accepted = WRITERS * EVENTS + 1
    assert len(ids) == accepted - 1
    assert ledger["accepted"] == accepted
    assert ledger["ready"] + ledger["dead"] <= MOST
    # An event in flight may give way, and arrive: it counts as delivered if its 2xx was heard.
    assert ledger["delivered"] == len(delivered)
    assert len(delivered | set(stored_ids(path))) == accepted - ledger["dropped"]
    evidence.note(
        "a flood by several processes onto a spool at its limit, one of them delivering",
        promise=2,
        tried=f"{accepted} sends, max_events={MOST}",
        events=accepted,
        lost=0,
        seen=f"{ledger['dropped']} dropped by overflow={overflow}, all of them counted",
    )


# -- in memory ------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "_MEMORY_BYTES", _MIB)
    monkeypatch.setattr(intake, "_WAITING_EVENTS", 50)


def _overflow_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "has reached its limit" in line]


@pytest.mark.usefixtures("small_memory")
@pytest.mark.evidence
def test_flood_without_a_disk_and_a_server_stays_within_memory_s_bound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "raven.spool")
    path = tmp_path / "spool"
    path.write_text("a file where the directory should be")
    transport = make_transport(path)
    sent = 1500
    ids = [send(transport, NOWHERE) for _ in range(sent)]
    stats = transport.stats()
    assert stats["used_bytes"] <= stats["max_bytes"] == _MIB
    assert 0 < stats["volatile"] < sent
    assert stats["volatile"] + stats["dropped_in_memory"] == sent
    assert len(_overflow_lines(caplog)) == 1

    path.unlink()
    transport.flusher.spool.look_again()
    transport.close(1)
    transport = make_transport(path, backend="none")
    ledger = read_ledger(path)
    assert (ledger["accepted"], ledger["dropped"]) == (sent, stats["dropped_in_memory"])
    assert set(stored_ids(path)) == set(ids[-ledger["ready"] :]), "the newest were kept"
    assert transport.stats()["dropped_in_memory"] == 0
    evidence.note(
        "a flood with no disk and no server, then a disk",
        promise=2,
        tried=f"{sent} sends with 1 MiB of memory",
        events=sent,
        lost=0,
        seen=f"{ledger['dropped']} dropped, all of them counted once there was a spool",
    )


@pytest.mark.usefixtures("small_memory")
@pytest.mark.evidence
def test_flood_while_a_stopped_process_holds_the_gate_is_bounded_and_counted(
    tmp_path: Path,
) -> None:
    path, returned = tmp_path / "spool", tmp_path / "returned"
    transport = make_transport(path, backend="none", send_timeout=0.001)
    spool = transport.flusher.spool
    ids = [send(transport, NOWHERE)]
    with Child(stop_with_the_gate, path, returned, NOWHERE) as stopped:
        wait_until(lambda: _is_stopped(stopped.pid), what="the stop")
        ids += [send(transport, NOWHERE) for _ in range(1000)]
        assert spool.volatile <= 50
        stats = transport.stats()
        assert stats["dropped_in_memory"] > 0
        assert stats["volatile"] + stats["dropped_in_memory"] == 1000
        stopped.resume()
        assert stopped.join() == 0
    wait_until(lambda: spool.volatile == 0, what="the commits")
    transport.close(1)
    theirs = set(Notes(returned).read())
    ledger = read_ledger(path)
    assert ledger["accepted"] == len(ids) + len(theirs)
    assert ledger["dropped"] == stats["dropped_in_memory"]
    assert set(stored_ids(path)) <= {*ids, *theirs}
    evidence.note(
        "a flood while a stopped process holds the write lock, and no server",
        promise=2,
        tried="1000 sends with 1 MiB of memory",
        events=len(ids),
        lost=0,
        seen=f"{ledger['dropped']} dropped, all of them counted",
    )


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_drop_newest_does_not_pile_up_in_memory_what_the_spool_turns_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was sent from memory: up to 32 MiB of what the user had asked to be dropped."""
    caplog.set_level(logging.WARNING, "raven.spool")
    transport = make_transport(
        tmp_path / "spool", backend="none", max_events=10, overflow="drop_newest"
    )
    for _ in range(30):
        send(transport, NOWHERE, new_id())
    stats = transport.stats()
    assert (stats["ready"], stats["volatile"], stats["dropped_in_memory"]) == (10, 0, 0)
    assert stats["dropped_by_reason"] == {"overflow": 20}
    assert len(_overflow_lines(caplog)) == 1
    transport.close(0)


# -- a smaller form of bench/flood.py -------------------------------------------------------------


@pytest.mark.soak
def test_memory_is_flat_while_a_flood_comes_in_and_goes_out(tmp_path: Path) -> None:
    out = tmp_path / "flood.json"
    command = [sys.executable, str(_BENCH), "--quick", "--most", "100000", "--out", str(out)]
    subprocess.run([*command, "--dir", str(tmp_path)], check=True, timeout=600)
    figures = json.loads(out.read_text())["figures"]
    peaks = {one["key"]: one["value"] for one in figures if one["unit"] == "MiB"}
    assert peaks
    assert max(peaks.values()) < 20, peaks
    evidence.note(
        "a flood that comes in and goes out",
        promise=4,
        tried="100,000 events",
        seen=f"at most {max(peaks.values()):.1f} MiB of memory more than with 2,000",
    )
