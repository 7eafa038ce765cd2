"""raven-spool flush: what it delivers, when it gives up, and beside whom."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raven_spool.config import read_options
from raven_spool.flusher import Flusher, open_spool
from raven_spool.spool import Spool
from tests.support.answers import Gate, held, ok, silence, status, too_many
from tests.support.ingest import Ingest
from tests.support.tool import (
    KEY,
    SECRET,
    destination,
    environment,
    fill,
    finish,
    make_event,
    run,
    start,
)
from tests.support.waiting import wait_until


@pytest.fixture
def spooled(path: Path, ingest: Ingest) -> Callable[..., list[str]]:
    """Spools events for the ingest: `spooled("one", "two")`."""

    def spool(*texts: str, project: int = 1) -> list[str]:
        dsn = ingest.dsn(KEY, SECRET, project=project)
        return fill(path, dsn, *texts, created_at=time.time())

    return spool


def flush(path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return run("flush", "--spool", path, *args)


def count(path: Path) -> dict[str, int]:
    return json.loads(run("stats", "--spool", path, "--json").stdout)


Spooled = Callable[..., list[str]]


def test_flush_delivers_everything(path: Path, ingest: Ingest, spooled: Spooled) -> None:
    ids = spooled(*map(str, range(40)))
    done = flush(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "40 delivered, 0 dead, 0 remaining\n"
    assert sorted(ingest.event_ids()) == sorted(ids)
    counts = count(path)
    assert (counts["accepted"], counts["delivered"], counts["ready"]) == (40, 40, 0)


def test_flush_of_an_empty_spool_is_done(path: Path, spooled: Spooled) -> None:
    spooled("one")
    assert flush(path).returncode == 0
    again = flush(path)
    assert (again.returncode, again.stdout) == (0, "0 delivered, 0 dead, 0 remaining\n")


def test_flush_with_one_connection_keeps_the_order(
    path: Path, ingest: Ingest, spooled: Spooled
) -> None:
    ids = spooled(*map(str, range(40)))
    assert flush(path, "--concurrency", "1").returncode == 0
    assert ingest.event_ids() == ids
    assert ingest.connections == 1


def test_flush_of_an_unreachable_server_exits_69(
    path: Path, ingest: Ingest, spooled: Spooled
) -> None:
    ids = spooled("one", "two")
    ingest.stop()
    gone = flush(path)
    assert (gone.returncode, gone.stdout) == (69, "")
    assert "2 remaining: server cannot be reached: " in gone.stderr
    assert f"127.0.0.1:{ingest.port}" in gone.stderr
    assert gone.stderr.count("\n") == 1
    ingest.start()
    assert flush(path).returncode == 0  # whatever back-off says
    assert sorted(ingest.event_ids()) == sorted(ids)


def test_flush_while_limited_exits_75_and_does_not_ask_again(
    path: Path, ingest: Ingest, spooled: Spooled
) -> None:
    spooled("one", "two")
    ingest.answer_with(too_many("60"), ok())
    for _ in range(2):
        limited = flush(path, "--concurrency", "1")
        assert limited.returncode == 75
        assert "2 remaining: limited until " in limited.stderr
    assert len(ingest.requests) == 1


@pytest.mark.parametrize("code", [401, 503])
def test_flush_while_the_server_has_trouble_exits_75(
    path: Path, ingest: Ingest, spooled: Spooled, code: int
) -> None:
    spooled("one")
    ingest.answer_with(status(code))
    held_back = flush(path)
    assert held_back.returncode == 75
    assert f"HTTP {code}" in held_back.stderr


def test_flush_tells_new_dead_letters(path: Path, ingest: Ingest, spooled: Spooled) -> None:
    spooled("one", "two")
    ingest.answer_with(status(400), ok())
    done = flush(path)
    assert done.returncode == 0
    assert done.stdout.startswith("1 delivered, 1 dead, 0 remaining")


def test_flush_with_a_limit_sends_so_many(path: Path, ingest: Ingest, spooled: Spooled) -> None:
    spooled(*map(str, range(10)))
    done = flush(path, "--limit", "3")
    assert done.returncode == 0
    assert "3 delivered, 0 dead, 7 remaining" in done.stdout
    assert len(ingest.requests) == 3


def test_flush_gives_up_when_the_time_is_up(path: Path, ingest: Ingest, spooled: Spooled) -> None:
    spooled("one")
    ingest.answer_with(silence())
    began = time.monotonic()
    late = flush(path, "--timeout", "0.5")
    assert time.monotonic() - began < 4
    assert late.returncode == 75
    assert "the time is up" in late.stderr


def test_flush_with_a_timeout_waits_out_a_back_off(
    path: Path, ingest: Ingest, spooled: Spooled
) -> None:
    spooled("one", "two")
    ingest.answer_with(status(503), ok())
    assert flush(path, "--timeout", "30s").returncode == 0


def test_flush_json_is_one_object(path: Path, ingest: Ingest, spooled: Spooled) -> None:
    spooled("one")
    done = flush(path, "--json")
    assert json.loads(done.stdout) == {
        "delivered": 1,
        "dead": 0,
        "dropped": 0,
        "remaining": 0,
        "reason": "",
        "exit_code": 0,
    }
    spooled("two")
    ingest.answer_with(too_many("60"))
    limited = json.loads(flush(path, "--json").stdout)
    assert (limited["remaining"], limited["exit_code"]) == (1, 75)
    assert limited["reason"].startswith("limited until ")


def test_flush_quiet_prints_nothing(path: Path, ingest: Ingest, spooled: Spooled) -> None:
    spooled("one")
    for answer, code in ((status(503), 75), (ok(), 0)):
        ingest.answer_with(answer)
        done = flush(path, "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_flush_interrupted_loses_nothing(
    path: Path, ingest: Ingest, spooled: Spooled, signal_number: int
) -> None:
    ids = spooled("one", "two", "three")
    ingest.answer_with(silence())
    process = start("flush", "--spool", path)
    ingest.wait_for_requests(1)
    process.send_signal(signal_number)
    ended = finish(process)
    assert ended.returncode == 130
    assert "3 remaining: interrupted" in ended.stderr
    ingest.answer_with(ok())
    assert flush(path).returncode == 0
    assert sorted(ingest.event_ids()) == sorted(ids)


def test_two_flushes_at_once_deliver_each_event_once(
    path: Path, ingest: Ingest, spooled: Spooled
) -> None:
    ids = spooled(*map(str, range(150)))
    both = [start("flush", "--spool", path) for _ in range(2)]
    assert [(done.returncode, done.stderr) for done in map(finish, both)] == [(0, ""), (0, "")]
    assert sorted(ingest.event_ids()) == sorted(ids)


# -- beside another leader ------------------------------------------------------------------------

LEADER = """
import sys, time
real = time.time
time.time = lambda: real() - float(sys.argv[2])
from raven_spool.spool import Spool
spool = Spool(sys.argv[1])
assert spool.leadership.take()
print("leads", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another_leader(path: Path, *, silent_for_seconds: float = 0) -> Iterator[subprocess.Popen]:
    """A process that holds the lead, and last said so that long ago."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER, str(path), str(silent_for_seconds)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "leads\n"
        try:
            yield process
        finally:
            process.kill()


def has_rung(process: subprocess.Popen[str]) -> bool:
    """Whether the flush has come to the bell, and so found who leads."""
    opened = Path(f"/proc/{process.pid}/fd")
    with contextlib.suppress(OSError):
        return any(os.readlink(link).endswith("/wake") for link in opened.iterdir())
    return False


def test_flush_names_a_leader_that_is_stopped(path: Path, ingest: Ingest, spooled: Spooled) -> None:
    spooled("one")
    with another_leader(path, silent_for_seconds=60) as leader:
        leader.send_signal(signal.SIGSTOP)
        stuck = flush(path)
        figures = count(path)
        text = run("stats", "--spool", path).stdout
    assert stuck.returncode == 75
    assert f"process {leader.pid} leads and does not move" in stuck.stderr
    assert (figures["leader"]["pid"], figures["leader"]["stalled"]) == (leader.pid, True)
    assert "does not move" in text
    assert ingest.requests == []
    assert count(path)["leader"] is None  # killed: it could not say good-bye


def test_flush_takes_over_from_a_leader_that_dies(
    path: Path, ingest: Ingest, spooled: Spooled
) -> None:
    spooled("one", "two")
    with another_leader(path) as leader:
        process = start("flush", "--spool", path)
        wait_until(lambda: has_rung(process), what="the flush to follow")
        assert process.poll() is None
        leader.kill()
        done = finish(process)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 delivered")


def test_flush_beside_a_leader_honours_its_timeout(
    path: Path, ingest: Ingest, spooled: Spooled
) -> None:
    spooled("one")
    with another_leader(path):
        late = flush(path, "--timeout", "0.5")
    assert late.returncode == 75
    assert "the time is up" in late.stderr


def test_flush_beside_a_leader_sees_a_limit(path: Path, ingest: Ingest, spooled: Spooled) -> None:
    spooled("one")
    ingest.answer_with(too_many("60"))
    assert flush(path).returncode == 75
    with another_leader(path):
        limited = flush(path)
    assert limited.returncode == 75
    assert "limited until" in limited.stderr
    assert len(ingest.requests) == 1


@contextlib.contextmanager
def application(path: Path, dsn: str) -> Iterator[Flusher]:
    """A program that has sent one event, drains, and would sit out ten minutes of back-off."""
    options = read_options({"wait": lambda state: 600.0}, {})
    flusher = Flusher(open_spool(str(path), options), options)
    flusher.enqueue(make_event("of the program", created_at=time.time()), destination(dsn))
    yield flusher
    flusher.close(0)


def is_held(spool: Spool) -> bool:
    return any(lane.hold for lane, _ in spool.all_lanes())


def test_flush_wakes_the_program_that_sits_out_a_back_off(path: Path, ingest: Ingest) -> None:
    ingest.answer_with(status(503), ok())
    with application(path, ingest.dsn(KEY, SECRET)) as program:
        wait_until(lambda: is_held(program.spool), what="the back-off")
        done = flush(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 delivered")


def test_flush_ends_when_the_program_s_try_failed_again(path: Path, ingest: Ingest) -> None:
    ingest.stop()
    with application(path, ingest.dsn(KEY, SECRET)) as program:
        wait_until(lambda: is_held(program.spool), what="the back-off")
        gone = flush(path)
    assert gone.returncode == 69
    assert "server cannot be reached" in gone.stderr


def test_flush_waits_for_a_program_that_delivers(path: Path, ingest: Ingest) -> None:
    gate = Gate()
    ingest.answer_with(held(gate), ok())
    with application(path, ingest.dsn(KEY, SECRET)):
        gate.wait_until_held()
        process = start("flush", "--spool", path)
        wait_until(lambda: has_rung(process), what="the flush to follow")
        gate.release()
        done = finish(process)
    assert done.returncode == 0, done.stderr
    assert len(ingest.requests) == 1
