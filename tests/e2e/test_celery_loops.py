"""Celery's gevent and eventlet pools: one process, which Celery patches before all else."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ingest import Ingest
from tests.support.programs import Programs
from tests.support.wsgi_servers import wait_until_acked

APP = "tests.e2e.programs_loops.celery_shop"
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR")
# Celery's green pools take 4 s to end, the shop's shutdown_timeout is 1 s; the machine may be busy.
END_SECONDS = 10


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as ingest:
        yield ingest


@pytest.fixture
def programs(tmp_path: Path, ingest: Ingest) -> Iterator[Programs]:
    (tmp_path / "messages").mkdir()
    messages = str(tmp_path / "messages")
    with Programs(tmp_path, ingest, E2E_MESSAGES=messages) as programs:
        yield programs


def start_worker(programs: Programs, pool: str, *tasks: str) -> subprocess.Popen[bytes]:
    return programs.start(
        *("celery", "--app", APP, "worker", "--pool", pool, "--concurrency", "4", *QUIET),
        E2E_TASKS=" ".join(tasks),
        KEPT_LOOPS=pool,
    )


def runtimes(programs: Programs) -> set[str]:
    return {line.split()[2] for line in programs.noted("captured")}


@pytest.mark.parametrize(
    ("pool", "runtime"), [("gevent", "GeventRuntime"), ("eventlet", "EventletRuntime")]
)
def test_worker_killed_in_an_outage_leaves_all_to_the_next(
    programs: Programs, ingest: Ingest, pool: str, runtime: str
) -> None:
    ingest.stop()
    killed = start_worker(programs, pool, *["fail"] * 10, *["log"] * 3)
    programs.wait_for_notes("captured", 13)
    assert set(programs.pids()) == {killed.pid}
    assert runtimes(programs) == {runtime}
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    ingest.start()
    start_worker(programs, pool, "fail")
    ingest.wait_for(14)
    wait_until_acked(programs.spool)
    programs.check_delivered()


@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=pytest.mark.soak)])
def test_terminated_worker_ends_soon_and_loses_and_repeats_nothing(
    programs: Programs, ingest: Ingest, pool: str
) -> None:
    ingest.stop()
    worker = start_worker(programs, pool, *["fail"] * 3)
    programs.wait_for_notes("captured", 3)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(END_SECONDS) == 0
    programs.wait_for_end_of_all()
    ingest.start()
    programs.flush()
    programs.check_delivered()
