"""A cell of a comparison: a program captures while the server is in trouble, and what became of it.

Shared by backends.py and reliability.py.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import tool  # noqa: E402
from tests.support.answers import ok  # noqa: E402
from tests.support.ingest import Ingest  # noqa: E402

HANGS_AFTER_SECONDS = 60
AT_ONCE = 2  # what is counted does not depend on the machine's speed


@dataclass(slots=True, kw_only=True)
class Cell:
    """What became of the events of one program."""

    captured: int = 0
    arrived: int = 0
    twice: int = 0  # of those that arrived
    kept: int = 0  # still stored
    raised: int = 0  # the application got an exception
    astray: int = 0  # arrived, but not through the proxy
    hung: bool = False


def mend(server: Ingest) -> None:
    """The server is well from here on."""
    server.answer_with(ok())
    server.stop()  # what was silent lets go
    server.start()


def run_to_its_end(command: list[str], environ: dict[str, str]) -> bool:
    """Whether it came to one; else it was killed."""
    try:
        subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=HANGS_AFTER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return True


def bare_environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "bench")])
    return tool.bare_environment(PYTHONPATH=path, **more)
