"""Child processes for the fault tests: small, quick to start, killed or stopped at will.

A fork server has everything imported already, so that a child costs milliseconds; it runs no
thread and opens no spool, so no fork hook has anything to do there.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from raven_spool.spool import fork
from raven_spool.spool.late import load_queue
from tests.support.waiting import wait_until

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "__main__",
        "filelock",
        "persistqueue.sqlackqueue",
        "pytest",
        "raven_spool.runtimes.thread",
        "raven_spool.senders.urllib",
        "raven_spool.spool.queue",
        "raven_spool.transport.spool",
        "tests.faults.events",
        "tests.faults.points",
        "tests.faults.test_kill",
        "tests.support.ingest",
    ]
)


NOBODY = 65534


def become(user: int = NOBODY) -> None:
    """Give root's rights up for good; whoever has none stays."""
    if os.geteuid() == 0:
        # What others may not read in a developer's home.
        importlib.import_module("encodings.idna")
        load_queue()
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)


class Child:
    """One process running `target(*args)`; it ends with the block, one way or another."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self._process = _context.Process(target=_run, args=(target, args), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    @property
    def is_stopped(self) -> bool:
        return self.is_alive and _state(self.pid) == "T"

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; one that is dead already stays dead."""
        self._process.kill()
        self._process.join(10)

    def stop(self) -> None:
        """SIGSTOP, and wait until the kernel says it stands still, or it has ended before."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: _state(self.pid) in "TZX", what="a stopped process")

    def resume(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have been at its end
            os.kill(self.pid, signal.SIGCONT)

    def join(self, timeout_seconds: float = 30) -> int:
        """Wait for its end; returns the exit code, negative for a signal.

        Raises:
            TimeoutError: it hangs.
        """
        self._process.join(timeout_seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"child {self.pid} did not end within {timeout_seconds:g} s")
        return self._process.exitcode

    @property
    def exit_code(self) -> int | None:
        """None while it lives; negative for a signal."""
        return self._process.exitcode

    def cpu_seconds(self) -> float:
        """Processor time it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._process.close()


def _run(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    fork._is_child = False  # each stands for a program that was begun anew
    target(*args)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for_ever() -> None:
    """Until somebody kills us."""
    while True:
        signal.pause()


class Notes:
    """Lines that several processes append to one file; a kill loses none that was written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def read(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return self.path.read_text().splitlines()
        return []

    def wait_for(self, count: int, timeout_seconds: float = 30) -> list[str]:
        wait_until(
            lambda: len(self.read()) >= count,
            timeout_seconds=timeout_seconds,
            what=f"{count} lines in {self.path.name}",
        )
        return self.read()


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """Seconds the block took, in the list, afterwards."""
    took: list[float] = []
    started = time.monotonic()
    yield took
    took.append(time.monotonic() - started)
