"""A loop's ticker keeps its beat while the spool drains and while another process has its lock."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raven_spool.spool.gate import Gate
from tests.contract.ticking_program import EVENTS
from tests.faults.events import make_transport, send
from tests.support import answers, tool
from tests.support.bugsink import ROOT
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

PROGRAM = "tests.contract.ticking_program"
LOOPS = ["gevent", "eventlet", "twisted", "tornado", "asyncio"]
ANSWER_SECONDS = 0.005
SEND_TIMEOUT = 0.02  # what the loops' backends promise
MOST_GAP_SECONDS = 0.025
LATE_SHARE = 0.02  # of the gaps may be longer: a drain here is no more than a hundred ticks
MARGIN_SECONDS = 0.02
TIMES_IDLE = 3  # a busy machine makes all gaps longer
ATTEMPTS = 3


@pytest.mark.parametrize("backend", LOOPS)
def test_loop_ticks_while_the_spool_drains_and_is_locked(backend: str, tmp_path: Path) -> None:
    """Three attempts: other processes may take the processors away for a while. That nothing is
    lost, and that the loop's own thread leaves the disk alone, must be so each time."""
    for number in range(ATTEMPTS):
        measured = measure(backend, tmp_path / str(number))
        check_threads(measured["touches"])
        complaints = list(find_delays(measured))
        if not complaints:
            return
    pytest.fail("; ".join(complaints))


def check_threads(touches: dict[str, dict[str, int]]) -> None:
    # What a send does in the loop is seen, and so is what the drain does elsewhere.
    assert touches["send"]["flock"] > 0, touches
    assert {"flock", "SELECT epoch FROM leadership"} <= touches["thread"].keys(), touches
    assert touches["loop"] == {}


def find_delays(measured: dict[str, Any]) -> Iterator[str]:
    """What the loop had to wait for, beyond what it waits for when it is idle."""
    idle, locked, took = sorted(measured["idle"]), measured["locked"], measured["send_seconds"]
    bound = max(MOST_GAP_SECONDS, TIMES_IDLE * idle[int(len(idle) * 0.99)])
    yield from find_late("in the drain", measured["drain"], bound)
    yield from find_late(
        "under the lock", locked, SEND_TIMEOUT + bound
    )  # a send is between two ticks
    could = (measured["locked_seconds"] - sum(took)) / statistics.median(idle)
    if len(locked) < could / 2:
        yield f"{len(locked)} ticks under the lock, of {could:.0f}"
    if max(took) > SEND_TIMEOUT + max(MARGIN_SECONDS, TIMES_IDLE * idle[-1]):
        yield f"a send of {max(took):.3f} s; idle gaps go to {idle[-1]:.3f}"


def find_late(when: str, gaps: list[float], bound: float) -> Iterator[str]:
    late = [round(gap, 3) for gap in gaps if gap > bound]
    if len(late) > len(gaps) * LATE_SHARE:
        yield f"of {len(gaps)} gaps {when} some are over {bound:.3f} s: {late}"


def measure(backend: str, directory: Path) -> dict[str, Any]:
    """Run the program beside a slow server, and take the spool's lock when it asks for that."""
    directory.mkdir()
    spool, log = directory / "spool", directory / "log"
    with Ingest() as ingest, log.open("wb") as output:
        ingest.answer_with(answers.slow(ANSWER_SECONDS))
        waiting = fill(spool, ingest.url)
        process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, backend, str(directory), ingest.url],
            cwd=ROOT,
            env=tool.bare_environment(KEPT_LOOPS=backend),
            stdout=output,
            stderr=output,
        )
        try:
            hold_lock_when_asked(directory, process)
            assert process.wait(60) == 0, log.read_text()
        except (AssertionError, TimeoutError):
            print(log.read_text())
            raise
        finally:
            process.kill()
            process.wait(10)
        measured: dict[str, Any] = json.loads((directory / "measured").read_text())
        assert sorted(ingest.event_ids()) == sorted([*waiting, *measured["sent"]])
    return measured


def fill(spool: Path, url: str) -> list[str]:
    transport = make_transport(spool, backend="none", fsync="no")
    ids = [send(transport, url) for _ in range(EVENTS)]
    transport.close()
    return ids


def hold_lock_when_asked(directory: Path, process: "subprocess.Popen[bytes]") -> None:
    def is_there(name: str) -> bool:
        assert process.poll() is None, "the program ended before its time"
        return (directory / name).exists()

    wait_until(lambda: is_there("hold"), what="the drain")
    gate = Gate(str(directory / "spool"))
    try:
        assert gate.acquire(time.monotonic() + 10)
        (directory / "held").touch()
        wait_until(lambda: is_there("let-go"), what="the sends")
    finally:
        gate.release()
        gate.close()
