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
from collections.abc import Iterator
from typing import IO, Any

from tests.contract.transports.rows import ROWS, Row


class Program:
    def __init__(self, row: Row, answers: IO[str]) -> None:
        self._row = row
        self._answers = answers
        self._environ = dict(os.environ)
        self._client: Any = None

    def obey(self, command: dict[str, Any]) -> None:
        name = command.pop("name")
        try:
            answer = getattr(self, f"_{name}")(**command)
        except Exception:
            answer = {"error": traceback.format_exc()}
        self._say(answer)

    def _say(self, answer: Any) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    # -- commands -----------------------------------------------------------------------------

    def _open(self, dsn: str, environ: dict[str, str]) -> None:
        import raven

        os.environ.clear()
        os.environ.update(self._environ | environ)
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

    def _flush(self, timeout: float) -> dict[str, Any]:
        began = time.monotonic()
        emptied = self._transport.flush(timeout)
        return {"emptied": emptied, "seconds": time.monotonic() - began}

    def _close(self, timeout: float) -> None:
        if self._client is not None:
            self._transport.close(timeout)
            self._client = None

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
    stage.run(_read_commands(), Program(row, answers).obey)


if __name__ == "__main__":
    main()
