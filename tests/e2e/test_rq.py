"""RQ: a fork for each job, which ends with os._exit as soon as the job has."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import rq

from tests.support.answers import ok, slow
from tests.support.bugsink import ROOT
from tests.support.ingest import Ingest
from tests.support.programs import REPEATS_OF_A_DEATH, Programs

JOBS = "tests.e2e.programs.rq_jobs"
WORKER = "tests.e2e.programs.rq_worker"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    command = [sys.executable, "-m", "tests.e2e.programs.fake_redis"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as ingest:
        yield ingest


@pytest.fixture
def programs(tmp_path: Path, ingest: Ingest) -> Iterator[Programs]:
    with Programs(tmp_path, ingest) as programs:
        yield programs


def enqueue(port: int, *jobs: tuple[str, int] | tuple[str]) -> None:
    with redis.Redis(port=port) as connection:
        queue = rq.Queue(connection=connection)
        for name, *arguments in jobs:
            queue.enqueue(f"{JOBS}.{name}", *arguments)


def test_worker_that_has_captured_delivers_what_its_horses_capture(
    programs: Programs, port: int
) -> None:
    enqueue(port, *[("fail", number) for number in range(6)], ("capture_and_be_killed",))
    assert programs.run(WORKER, str(port), E2E_CAPTURE_IN_MASTER="1") == 0
    worker, *horses = programs.pids()
    assert len({worker, *horses}) == 8
    # Without a flush: the worker led before it forked, and waited for the last at its end.
    programs.check_delivered()


def test_horses_alone_lose_nothing_and_flush_delivers(programs: Programs, port: int) -> None:
    """They end in the middle of whatever they send: what arrives may arrive again."""
    enqueue(port, *[("fail", number) for number in range(6)], ("capture_and_be_killed",))
    assert programs.run(WORKER, str(port)) == 0
    assert len(set(programs.pids())) == 7
    programs.flush()
    programs.check_delivered(repeats=REPEATS_OF_A_DEATH)


def test_slow_server_makes_no_dead_letters_of_horses_that_end(
    programs: Programs, ingest: Ingest, port: int
) -> None:
    """Each ends in the middle of what it would send: that is not the event's fault."""
    ingest.answer_by(lambda seen: slow(1))
    enqueue(port, *[("fail", number) for number in range(8)])
    assert programs.run(WORKER, str(port)) == 0
    ingest.answer_by(lambda seen: ok())
    programs.flush()
    programs.check_delivered(repeats=REPEATS_OF_A_DEATH)
