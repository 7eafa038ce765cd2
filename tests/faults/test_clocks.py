"""A real process whose wall clock is set by hours and years, both ways, under libfaketime."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.events import (
    check_nothing_lost,
    count_repeats,
    make_transport,
    new_id,
    read_ledger,
    send,
)
from tests.support import answers, evidence
from tests.support.ingest import Ingest

LIBRARY = next(
    iter(
        path
        for place in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib")
        if (path := Path(place, "faketime", "libfaketimeMT.so.1")).exists()
    ),
    None,
)

# In the order they are made, each against the true time.
JUMPS = ("+1h", "+370d", "-2h", "-3650d", "+3650d", "+0", "@1971-01-01 00:00:00", "+0")
_EVENTS = 5
_MAX_AGE = "30m"
_HEARD_SECONDS = 15.0  # of true time, for back-off and limits of at most a second or two

# CPython sleeps until a monotonic time. libfaketime before 0.9.11 takes that for a faked time also
# where monotonic time is not faked (its issue 426): the sleep is over at once with EINVAL, or takes
# hours. A poll waits for so long, not until then.
_SLEEP = """
import select, time
time.sleep = lambda seconds: select.poll().poll(seconds * 1000) and None
"""

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (apt install faketime)")


def run_program() -> None:
    """Sends what it reads, an id a line; ends with its input."""
    path, url = Path(sys.argv[1]), sys.argv[2]
    transport = make_transport(path, max_age=_MAX_AGE)
    for line in sys.stdin:
        print(send(transport, url, line.strip()), flush=True)
    transport.close(0)


class FakeClock:
    """What the processes of `environment` take for the time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {
            **os.environ,
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(file.parent),
            "TZ": "UTC",
        }
        file.with_name("sitecustomize.py").write_text(_SLEEP)
        self.set("+0")

    def set(self, to: str) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(to)
        fresh.replace(self._file)


@contextlib.contextmanager
def running(path: Path, url: str, clock: FakeClock) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.faults.test_clocks", str(path), url]
    with subprocess.Popen(
        command,
        env=clock.environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def capture(program: "subprocess.Popen[str]") -> list[str]:
    assert program.stdin is not None
    assert program.stdout is not None
    ids = [new_id() for _ in range(_EVENTS)]
    program.stdin.write("".join(f"{one}\n" for one in ids))
    program.stdin.flush()
    assert [program.stdout.readline().strip() for _ in ids] == ids
    return ids


def run_tool(path: Path, clock: FakeClock, *arguments: str) -> str:
    ran = subprocess.run(
        [Path(sys.executable).with_name("raven-spool"), *arguments, "--spool", str(path)],
        env=clock.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode in (0, 69, 75), ran.stderr
    return ran.stdout


@pytest.mark.evidence
def test_process_lives_through_a_clock_that_is_set_by_hours_and_years(tmp_path: Path) -> None:
    """While each jump is made the server is down, limited, or up; in the end all is delivered."""
    path, clock = tmp_path / "spool", FakeClock(tmp_path / "clock")
    faults = (answers.status(503), answers.drop(), answers.limits("1:error"), answers.ok())
    ids: list[str] = []
    with Ingest() as ingest, running(path, ingest.url, clock) as program:
        for number, jump in enumerate(JUMPS):
            ingest.answer_with(faults[number % len(faults)])
            seen = len(ingest.requests)
            ids += capture(program)
            ingest.wait_for_requests(seen + 1)
            seen = len(ingest.requests)
            clock.set(jump)
            ids += capture(program)
            ingest.wait_for_requests(seen + 1)  # it goes on under the new time
            assert "-" not in _ages(run_tool(path, clock, "ls"))
        ingest.answer_with(answers.ok())
        started = time.monotonic()
        ingest.wait_for(len(ids), timeout_seconds=_HEARD_SECONDS)
        took = time.monotonic() - started
        run_tool(path, clock, "flush", "--timeout", "5s")
        check_nothing_lost(ids, ingest, path)
        repeats, ledger = count_repeats(ingest), read_ledger(path)
    assert (ledger["dead"], ledger["dropped"]) == (0, 0)
    assert repeats == 0
    evidence.note(
        "the wall clock set by hours and years, both ways, and to 1971 (libfaketime)",
        promise=7,
        tried=f"{len(JUMPS)} jumps",
        events=len(ids),
        lost=0,
        twice=repeats,
        seen=f"all delivered {took:.1f} s after the server was back",
    )


def _ages(listing: str) -> str:
    """The column of ages."""
    rows = (line.split("  ") for line in listing.splitlines()[1:])
    return " ".join(
        cell for row in rows for cell in row if re.fullmatch(r"\s*-?\d+ (s|min|h|d)", cell)
    )


def test_ages_are_never_negative_after_the_clock_was_set_back(tmp_path: Path) -> None:
    path, clock = tmp_path / "spool", FakeClock(tmp_path / "clock")
    with Ingest() as ingest:
        transport = make_transport(path, backend="none")
        for _ in range(3):
            send(transport, ingest.url)
        clock.set("-3650d")
        rows = [json.loads(line) for line in run_tool(path, clock, "ls", "--json").splitlines()]
        assert len(rows) == 3
        assert set(re.findall(r"-?\d+ s ", run_tool(path, clock, "ls"))) == {"0 s "}
        assert "0 s ago" in run_tool(path, clock, "stats")
        assert "3" in run_tool(path, clock, "flush", "--timeout", "10s")
        assert len(set(ingest.event_ids())) == 3


if __name__ == "__main__":
    run_program()
