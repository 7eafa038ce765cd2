"""The application under test: a raven client on one row's transport, told what to do.

    python -m tests.contract.transports.program ROW

One command as a JSON line on stdin, one answer as a JSON line on stdout.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback
from _thread import allocate_lock, start_new_thread  # the system's: no stage has patched yet
from collections.abc import Iterator
from inspect import isawaitable
from typing import IO, Any

from tests.contract.transports.rows import ROWS, Row


class Program:
    def __init__(self, row: Row, answers: IO[str]) -> None:
        self._row = row
        self._answers = answers
        self._environ = dict(os.environ)
        self._client: Any = None
        self._beside: list[str] = []  # what a native thread has captured, or why it could not
        self._may_leave = allocate_lock()

    def obey(self, command: dict[str, Any]) -> None:
        name = command.pop("name")
        try:
            answer = getattr(self, f"_{name}")(**command)
        except Exception:
            answer = {"error": traceback.format_exc()}
        self._say(answer)

    async def aobey(self, command: dict[str, Any]) -> None:
        """For stages with a loop that must not be blocked: there `_aflush` is `_flush`."""
        name = command.pop("name")
        try:
            answer = getattr(self, f"_a{name}", getattr(self, f"_{name}"))(**command)
            if isawaitable(answer):
                answer = await answer
        except Exception:
            answer = {"error": traceback.format_exc()}
        self._say(answer)

    def _say(self, answer: Any) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    # -- commands -----------------------------------------------------------------------------

    def _open(self, dsn: str, environ: dict[str, str], linger: float) -> None:
        import raven

        from raven_spool.drain import machine

        os.environ.clear()
        os.environ.update(self._environ | environ)
        machine._LINGER_SECONDS = linger
        module, _, attribute = self._row.transport.partition(":")
        self._client = raven.Client(
            dsn,
            transport=getattr(importlib.import_module(module), attribute),
            raise_send_errors=True,  # raven would swallow what a transport raises
            install_sys_hook=False,
        )

    def _capture(self, count: int) -> dict[str, Any]:
        began = time.monotonic()
        ids = []
        for number in range(count):
            ids.append(self._client.captureMessage(f"event {number}"))
            self._client.context.clear()
        return {"ids": ids, "seconds": time.monotonic() - began}

    def _capture_and_die(self, count: int) -> None:
        self._say(self._capture(count))
        os.kill(os.getpid(), signal.SIGKILL)

    def _capture_beside(self, count: int) -> None:
        """Capture in a native thread, one after another; it stays until all is closed."""
        self._beside, self._may_leave = [], allocate_lock()
        self._may_leave.acquire()
        start_new_thread(self._capture_and_stay, (count,))

    def _capture_and_stay(self, count: int) -> None:
        time.sleep(0.001)  # where that is patched, the thread has a hub of its own from now on
        try:
            for _ in range(count):
                self._beside += self._capture(1)["ids"]
        except Exception:
            self._beside.append(traceback.format_exc())
        self._may_leave.acquire()

    def _list_beside(self) -> list[str]:
        return self._beside

    def _list_runtimes(self) -> list[str]:
        return [one.rpartition(":")[2] for one in self._transport.flusher._runtimes]

    def _flush(self, timeout: float) -> dict[str, Any]:
        began = time.monotonic()
        emptied = self._transport.flush(timeout)
        return {"emptied": emptied, "seconds": time.monotonic() - began}

    async def _aflush(self, timeout: float) -> dict[str, Any]:
        began = time.monotonic()
        emptied = await self._transport.aflush(timeout)
        return {"emptied": emptied, "seconds": time.monotonic() - began}

    def _close(self, timeout: float) -> None:
        if self._client is not None:
            self._transport.close(timeout)
            self._end()

    async def _aclose(self, timeout: float) -> None:
        if self._client is not None:
            await self._transport.aclose(timeout)
            self._end()

    def _end(self) -> None:
        self._client = None
        if self._may_leave.locked():
            self._may_leave.release()

    @property
    def _transport(self) -> Any:
        return self._client.remote.get_transport()


def _read_commands() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    row = next(row for row in ROWS if row.name == sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that is printed shall pass for an answer
    stage = importlib.import_module(row.stage)
    stage.run(_read_commands(), Program(row, answers))


if __name__ == "__main__":
    main()
