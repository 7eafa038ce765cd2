"""Celery's prefork pool with raven's own signals; its children end with os._exit or a signal."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ingest import Ingest
from tests.support.programs import REPEATS_OF_A_DEATH, Programs

APP = "tests.e2e.programs.celery_app"
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR")


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as ingest:
        yield ingest


@pytest.fixture
def programs(tmp_path: Path, ingest: Ingest) -> Iterator[Programs]:
    (tmp_path / "messages").mkdir()
    with Programs(tmp_path, ingest, E2E_MESSAGES=str(tmp_path / "messages")) as programs:
        yield programs


def start_worker(programs: Programs, *options: str, **env: str) -> subprocess.Popen[bytes]:
    command = ("celery", "--app", APP, "worker", "--concurrency", "2", *QUIET, *options)
    return programs.start(*command, **env)


def send_tasks(programs: Programs, *tasks: tuple[str, list[Any], dict[str, Any]]) -> None:
    """From a process of its own: the application's settings are for processes, not for tests."""
    assert programs.run("tests.e2e.programs.send_tasks", json.dumps(tasks)) == 0


def end_warmly(worker: subprocess.Popen[bytes], programs: Programs) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    programs.wait_for_end_of_all()


def test_failing_tasks_are_delivered_once_and_a_killed_child_loses_nothing(
    programs: Programs, ingest: Ingest
) -> None:
    worker = start_worker(programs, E2E_CAPTURE_IN_MASTER="1")
    send_tasks(
        programs,
        *[("fail", [number], {}) for number in range(10)],
        *[("log_an_error", [number], {}) for number in range(3)],
    )
    programs.wait_for_notes("captured", 14)
    master, children = programs.pids()[0], set(programs.pids()[1:])
    assert master == worker.pid
    assert master not in children

    send_tasks(programs, ("capture_and_be_killed", [], {}))
    programs.wait_for_notes("captured", 17)  # the master reports it twice: a signal, and its log
    send_tasks(programs, *[("fail", [number], {}) for number in range(10, 20)])
    programs.wait_for_notes("captured", 27)
    assert programs.pids()[15:17] == [master, master]
    ingest.wait_for(27)  # while they run, without a flush
    end_warmly(worker, programs)
    programs.flush()
    programs.check_delivered(repeats=REPEATS_OF_A_DEATH)


def test_children_that_end_after_one_task_lose_nothing(programs: Programs, ingest: Ingest) -> None:
    """Celery's children end with os._exit: atexit is never run."""
    start_worker(programs, "--max-tasks-per-child", "1", E2E_CAPTURE_IN_MASTER="1")
    send_tasks(programs, *[("fail", [number], {}) for number in range(4)])
    programs.wait_for_notes("captured", 5)
    assert len(set(programs.pids())) == 5
    ingest.wait_for(5)
    programs.check_delivered()


def test_time_limit_in_the_middle_of_captures_loses_nothing_that_was_returned(
    programs: Programs, ingest: Ingest
) -> None:
    start_worker(programs)
    limit = {"soft_time_limit": 1, "time_limit": 20}
    send_tasks(programs, *[("capture_on_and_on", [2.5], limit)] * 2)
    programs.wait_for_notes("stopped", 2)
    before = len(programs.captured())
    send_tasks(programs, *[("fail", [number], {}) for number in range(4)])
    programs.wait_for_notes("captured", before + 4)  # no lock was left behind
    programs.end_all()
    programs.flush()
    delivered = ingest.event_ids()
    returned = programs.captured()
    assert len(returned) > 20
    assert set(returned) <= set(delivered)
    # What the limit was raised into, one event of each task, may have been committed before it.
    assert len(set(delivered) - set(returned)) <= 2
    assert len(delivered) - len(set(delivered)) <= REPEATS_OF_A_DEATH
