"""multiprocessing with a parent that captures before its children do."""

from pathlib import Path

import pytest

from tests.support.ingest import Ingest
from tests.support.programs import Programs

CAPTURED = 1 + 10 + 3 + 1


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_capture_and_the_parent_delivers_each_once(tmp_path: Path, method: str) -> None:
    with Ingest() as ingest, Programs(tmp_path, ingest) as programs:
        parent = programs.start("tests.e2e.programs.multiprocess", method)
        assert parent.wait(60) == 0
        programs.wait_for_end_of_all()
        assert len(programs.captured()) == CAPTURED
        assert len(set(programs.pids())) >= 5  # the parent, one or two of the pool, three
        # Nobody else drained: the parent led before its children began, and did so at its end.
        programs.check_delivered()
