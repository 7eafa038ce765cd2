"""An event loop with a ticker and an application that sends, while a spool drains and is locked.

    python -m tests.contract.ticking_program BACKEND DIRECTORY URL

DIRECTORY/spool has EVENTS to deliver. When there is a file "hold", another process is to take the
spool's write lock, to say so by a file "held", and to let it go when there is one "let-go". What
was measured is written to "measured", as JSON.
"""

import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support import loop_jobs

EVENTS = 300
_BEFORE_THE_LOCK = 200
_IDLE_SECONDS = 0.4
_LOCK_SECONDS = 0.5
_SENDS = 4  # while the lock is held

_TICK_SECONDS = 0.005
_PATIENCE_SECONDS = 60.0

_HEADERS = {"X-Sentry-Auth": "Sentry sentry_version=6, sentry_client=ticking, sentry_key=public"}


def main() -> None:
    backend, directory, url = sys.argv[1:]
    loop_jobs.patch(backend)
    program = Program(backend, Path(directory), url)
    loop_jobs.run(backend, [program.tick(), program.work()])
    (Path(directory) / "measured").write_text(json.dumps(program.measured))


class Program:
    def __init__(self, backend: str, directory: Path, url: str) -> None:
        from raven_spool import SpoolTransport

        self._directory = directory
        self._url = url
        self._disk = Disk(directory / "spool")
        self._delivered: list[object] = []
        self._transport = SpoolTransport(
            spool_path=str(directory / "spool"),
            backend=backend,
            on_delivered=self._delivered.append,
        )
        self._ticks: list[float] = []
        self._is_over = False
        self.measured: dict[str, Any] = {"sent": []}

    def tick(self) -> Iterator[float]:
        while not self._is_over:
            self._ticks.append(time.monotonic())
            yield _TICK_SECONDS

    def work(self) -> Iterator[float]:
        try:
            began = time.monotonic()
            yield _IDLE_SECONDS
            self._note_gaps("idle", began)
            self._send()  # opens the spool, and begins the drain
            yield from self._wait_for(1)  # all that had to be imported has been
            began = time.monotonic()
            yield from self._wait_for(_BEFORE_THE_LOCK)
            self._note_gaps("drain", began)
            yield from self._send_while_locked()
            yield from self._wait_for(EVENTS + len(self.measured["sent"]))
            # Now, for its end is another thing than the loop's work.
            self.measured["touches"] = deepcopy(self._disk.touches)
        finally:
            self._is_over = True

    def _send_while_locked(self) -> Iterator[float]:
        (self._directory / "hold").touch()
        yield from self._wait_until((self._directory / "held").exists, "the lock")
        began, took = time.monotonic(), []
        for _ in range(_SENDS):
            yield _LOCK_SECONDS / _SENDS
            took.append(self._send())
        self._note_gaps("locked", began)
        self.measured["locked_seconds"] = time.monotonic() - began
        self.measured["send_seconds"] = took
        self.measured["volatile"] = self._transport.flusher.spool.volatile
        (self._directory / "let-go").touch()

    def _send(self) -> float:
        event_id = uuid.uuid4().hex
        body = json.dumps({"event_id": event_id, "message": "x" * 3000}).encode()
        with self._disk.in_send():
            began = time.monotonic()
            self._transport.send(f"{self._url}/api/1/store/", body, _HEADERS)
            took = time.monotonic() - began
        self.measured["sent"].append(event_id)
        return took

    def _wait_for(self, count: int) -> Iterator[float]:
        yield from self._wait_until(lambda: len(self._delivered) >= count, f"{count} deliveries")

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> Iterator[float]:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what}; {len(self._delivered)} events were delivered")
            yield _TICK_SECONDS

    def _note_gaps(self, phase: str, began: float) -> None:
        ticks = [tick for tick in self._ticks if tick >= began]
        self.measured[phase] = [after - before for before, after in pairwise(ticks)]


class Disk:
    """Who touches the spool: the loop's thread within a send ("send"), the loop's thread otherwise
    ("loop"), or another ("thread"), and how often with what.

    Python itself tells of locks, of files that are opened and of connections; a connection of its
    statements, for a read passes no lock.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = str(spool)
        self._is_sending = False
        self._new: list[sqlite3.Connection] = []
        self.touches: dict[str, Counter[str]] = {
            who: Counter() for who in ("send", "loop", "thread")
        }
        sys.addaudithook(self._hear)

    @contextmanager
    def in_send(self) -> Iterator[None]:
        self._is_sending = True
        yield
        self._is_sending = False

    def _hear(self, event: str, args: Sequence[Any]) -> None:
        match event:
            case "sqlite3.connect/handle":
                self._new.append(args[0])  # it can't be asked for its statements yet
            case "fcntl.flock":
                self._note("flock")
                while self._new:
                    with contextlib.suppress(sqlite3.ProgrammingError):  # closed again
                        self._new.pop().set_trace_callback(self._note)
            case "open" if str(args[0]).startswith(self._spool):
                self._note("open " + os.path.basename(args[0]))

    def _note(self, what: str) -> None:
        # The kernel's number: what Python calls the thread may be a greenlet.
        if threading.get_native_id() != os.getpid():
            who = "thread"
        else:
            who = "send" if self._is_sending else "loop"
        self.touches[who][what.split("(")[0][:40]] += 1


if __name__ == "__main__":
    main()
