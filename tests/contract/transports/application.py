"""A row's process as the tests see it: `capture`, `flush`, `kill`."""

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

from raven_spool.drain.machine import _LINGER_SECONDS
from tests.contract.transports.rows import Row
from tests.support import tool
from tests.support.bugsink import ROOT
from tests.support.waiting import wait_until

_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What a capture said when it returned."""

    ids: list[str]
    seconds: float


class Application:
    """One process; it may go through any number of scenarios, each with a spool of its own."""

    def __init__(self, row: Row, log: Path) -> None:
        self.row = row
        self.flush_seconds = 0.0  # of the last flush
        self._log = log
        self._heard = b""
        self._owed = 0  # answers that nobody has read yet
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.contract.transports.program", row.name],
                cwd=ROOT,
                env=tool.bare_environment(KEPT_LOOPS=tool.loop_of(row.runtime)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
            )

    # -- what the application does ------------------------------------------------------------

    def open(
        self,
        dsn: str,
        spool: Path,
        environ: dict[str, str] | None = None,
        linger_seconds: float = _LINGER_SECONDS,
        **options: object,
    ) -> None:
        """Make a client with these options in its DSN, as raven's users write them.

        `linger_seconds`: after that an idle leader lets go.
        """
        query = urlencode({"spool_path": str(spool), **options})
        dsn = f"{dsn}?{query}&{self.row.query}"
        self._ask("open", dsn=dsn, environ=environ or {}, linger=linger_seconds)

    def capture(self, count: int = 1) -> list[str]:
        """Returns the ids."""
        return self.time_capture(count).ids

    def time_capture(self, count: int = 1) -> Captured:
        return Captured(**self._ask("capture", count=count))

    def capture_and_die(self, count: int = 1) -> list[str]:
        """SIGKILL by its own hand, the moment the last capture has returned."""
        ids = Captured(**self._ask("capture_and_die", count=count)).ids
        self._process.wait(_ANSWER_SECONDS)
        return ids

    def begin_capture_beside(self, count: int) -> None:
        """In a thread of the operating system's, beside what obeys commands; it lives until
        `close`."""
        self._ask("capture_beside", count=count)

    def list_captured_beside(self) -> list[str]:
        """The ids that the thread's captures have returned so far."""
        return list(self._ask("list_beside"))

    def list_runtimes(self) -> list[str]:
        """Those that have been started."""
        return list(self._ask("list_runtimes"))

    def flush(self, timeout_seconds: float = 20.0) -> bool:
        """Returns whether nothing was left."""
        answer = self._ask("flush", timeout=timeout_seconds)
        self.flush_seconds = answer["seconds"]
        return bool(answer["emptied"])

    def close(self, timeout_seconds: float = 0.0) -> None:
        self._ask("close", timeout=timeout_seconds)

    # -- its process --------------------------------------------------------------------------

    def tell(self, name: str, **arguments: object) -> None:
        """A command whose answer is not waited for."""
        self._owed += 1
        _write(self._process.stdin, json.dumps({"name": name, **arguments}))

    def read(self) -> Any:
        """The answer to a command.

        Raises:
            AssertionError: the command raised, the process ended, or nothing came.
        """
        answer = json.loads(self._read_line())
        self._owed -= 1
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(answer["error"])
        return answer

    def watch_work(self, seconds: float) -> float:
        """How long its threads ran in that time, or would have on a machine less busy."""
        deadline, before = time.monotonic() + seconds, self._read_work()
        wait_until(lambda: time.monotonic() > deadline)
        return self._read_work() - before

    def _read_work(self) -> float:
        seconds = 0.0
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            with suppress(OSError):  # it has ended
                ran, queued, _ = (thread / "schedstat").read_text().split()
                seconds += (int(ran) + int(queued)) / 1e9
        return seconds

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(_ANSWER_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether it lives and waits for a command."""
        return self._process.poll() is None and not self._owed

    def begin_end(self) -> None:
        """The end of its input is the end of the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        """Wait for its end; one that hangs is killed, and that is an error."""
        self.begin_end()
        assert self._process.stdout is not None
        self._process.stdout.close()
        try:
            self._process.wait(10)
        finally:
            self.kill()

    def _ask(self, name: str, **arguments: object) -> Any:
        self.tell(name, **arguments)
        return self.read()

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()  # select() can't do more than 1024 descriptors
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while b"\n" not in self._heard:
            ready = poll.poll(max(0, deadline - time.monotonic()) * 1000)
            more = os.read(descriptor, 65536) if ready else b""
            if not more:
                what = "its process ended" if ready else "no answer came"
                self.kill()
                raise AssertionError(f"{self.row.name}: {what}\n{self._log.read_text()[-4000:]}")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line


def _write(stream: IO[bytes] | None, line: str) -> None:
    assert stream is not None
    stream.write(line.encode() + b"\n")
    stream.flush()
