"""Daemons that capture before they detach, and close under us what we had open."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ingest import Ingest
from tests.support.programs import REPEATS_OF_A_DEATH, Programs

CAPTURED = 6


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Ingest() as ingest, Programs(tmp_path, ingest) as programs:
        yield programs


@pytest.mark.parametrize(
    ("closes", "ending", "captured"),
    [
        ("standard", "os._exit", CAPTURED),
        ("all", "os._exit", CAPTURED),
        ("all", "sys.exit", CAPTURED),
        ("at once", "sys.exit", CAPTURED),
        ("after a capture", "os._exit", CAPTURED + 1),
    ],
)
def test_daemon_that_detaches_loses_nothing(
    programs: Programs, closes: str, ending: str, captured: int
) -> None:
    programs.start("tests.e2e.programs.daemon", closes, ending)
    programs.wait_for_notes("worked", 1)
    programs.wait_for_end_of_all()
    assert len(programs.captured()) == captured
    programs.flush()
    programs.check_delivered(repeats=REPEATS_OF_A_DEATH)


def test_daemon_without_umask_keeps_the_spool_private(programs: Programs) -> None:
    programs.start("tests.e2e.programs.daemon", "all", "sys.exit")
    programs.wait_for_notes("worked", 1)
    programs.wait_for_end_of_all()
    entries = [programs.spool, *programs.spool.rglob("*")]
    assert len(entries) > 5
    assert [path for path in entries if path.stat().st_mode & 0o077] == []


def test_daemon_that_closes_our_descriptors_in_place_loses_nothing(programs: Programs) -> None:
    programs.start("tests.e2e.programs.daemon", "in place", "sys.exit")
    programs.wait_for_end_of_all(5)
    assert len(programs.captured()) == CAPTURED
    programs.flush()
    programs.check_delivered(repeats=REPEATS_OF_A_DEATH)
