"""Programs of tests/e2e/programs, run as their users run them, and the count of their events.

with Ingest() as ingest, Programs(tmp_path, ingest) as programs:
    worker = programs.start("celery", "--app", ...)
    ... jobs that capture ...
    programs.check_delivered()
"""

import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.children import Notes
from tests.support import tool
from tests.support.bugsink import ROOT
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

_MARK = "E2E_MARK"

# What a process that ends suddenly may leave to be sent again: `concurrency` is 4 by default.
REPEATS_OF_A_DEATH = 4 + 32


class Programs:
    """Processes that share one spool, and a diary of what they captured.

    They fork, change group and session and close what they inherited: all of them are found by
    a mark in their environment, and none outlives the block.
    """

    def __init__(self, directory: Path, ingest: Ingest, **env: str) -> None:
        self.spool = directory / "spool"
        self.diary = directory / "diary"
        self.diary.mkdir()
        self.log = directory / "log"
        self._mark = uuid.uuid4().hex
        self._ingest = ingest
        self._env = env
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_all()
        if exc is not None and self.log.exists():
            print(self.log.read_text(errors="replace")[-8000:])

    # -- running ------------------------------------------------------------------------------

    def start(self, module: str, *arguments: str | Path, **env: str) -> subprocess.Popen[bytes]:
        """`python -m module arguments`."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                cwd=ROOT,
                env=self.environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, module: str, *arguments: str | Path, **env: str) -> int:
        """As `start`, to its end; returns the exit code."""
        return self.start(module, *arguments, **env).wait(60)

    def environment(self, **env: str) -> dict[str, str]:
        return tool.environment(
            SENTRY_DSN=self._ingest.dsn(),
            E2E_SPOOL=str(self.spool),
            E2E_DIARY=str(self.diary),
            **{_MARK: self._mark, **self._env, **env},
        )

    def living(self) -> list[int]:
        """All processes that came from ours, zombies not counted."""
        mark = f"{_MARK}={self._mark}".encode()
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and mark in _environ(entry)
        ]

    def wait_for_end_of_all(self, timeout_seconds: float = 30) -> None:
        wait_until(self._are_gone, timeout_seconds=timeout_seconds, what="their end")
        for process in self._started:
            process.wait(10)

    def _are_gone(self) -> bool:
        # Three looks: a parent may have ended and its child have begun within one of them.
        return not any(self.living() for _ in range(3))

    def end_all(self) -> None:
        """SIGKILL, until none is left that could fork another."""

        def kill_living() -> bool:
            for pid in self.living():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return self._are_gone()

        wait_until(kill_living, what="the end of all programs")
        for process in self._started:
            process.wait(10)

    # -- counting -----------------------------------------------------------------------------

    def noted(self, what: str) -> list[str]:
        """The lines the programs noted under that name."""
        return Notes(self.diary / what).read()

    def wait_for_notes(self, what: str, count: int, timeout_seconds: float = 30) -> list[str]:
        return Notes(self.diary / what).wait_for(count, timeout_seconds)

    def captured(self) -> list[str]:
        """The ids that captures returned, whichever process it was."""
        return [line.split()[0] for line in self.noted("captured")]

    def pids(self) -> list[int]:
        """Who captured, in the order of the captures."""
        return [int(line.split()[1]) for line in self.noted("captured")]

    def flush(self) -> None:
        """As cron does it, when nothing else runs any more."""
        ran = tool.run("flush", "--spool", self.spool, "--timeout", "20")
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def check_delivered(self, *, repeats: int = 0) -> None:
        """Each event whose capture returned has arrived, and no other; `repeats` came again."""
        captured, delivered = Counter(self.captured()), Counter(self._ingest.event_ids())
        assert max(captured.values()) == 1
        assert set(delivered) == set(captured)
        assert delivered.total() - len(delivered) <= repeats


def _environ(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:  # it has ended
        return b""
