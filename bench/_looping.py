"""The program that each loop of loops.py is measured in: a ticker, and an application that sends.

    python bench/_looping.py '{"backend": "gevent", "directory": ..., "port": ..., "event": FILE,
                               "idle_seconds": 2, "sends": 200, "lock_seconds": 1}'

`directory` has two spools that wait to be drained, "backlog" and "locked". When the file "hold" is
there, another process is to take the write lock of "locked", to say so by a file "held", and to let
it go when "let-go" is there. Prints what it measured, as JSON, on its last line.
"""

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import loop_jobs

_TICK_SECONDS = 0.005
_LOOK_SECONDS = 0.005
_PAUSE_SECONDS = 0.007  # between sends: their phase to the ticker wanders
_SEND_EVERY_SECONDS = 0.25  # while the lock is held
_PATIENCE_SECONDS = 120.0
_MORE_BODIES = 20

_TRANSPORTS = {
    "gevent": "raven_spool.transport.gevent:GeventedHTTPTransport",
    "eventlet": "raven_spool.transport.eventlet:EventletHTTPTransport",
    "twisted": "raven_spool.transport.twisted:TwistedHTTPTransport",
    "tornado": "raven_spool.transport.tornado:TornadoHTTPTransport",
    "asyncio": "raven_spool.transport.asyncio:AsyncioHTTPTransport",
    "thread": "raven_spool.transport.threaded:ThreadedHTTPTransport",
}


def main() -> None:
    told = json.loads(sys.argv[1])
    loop_jobs.patch(told["backend"])
    looping = Looping(told)
    loop_jobs.run(told["backend"], [looping.tick(), looping.work()])
    print(json.dumps(looping.measured))


class Looping:
    def __init__(self, told: dict[str, Any]) -> None:
        from _events import URL, Captured

        self._told = told
        self._directory = Path(told["directory"])
        event = Captured(**json.loads(Path(told["event"]).read_text()))
        # Made beforehand: to pack one is raven's work.
        self._bodies = [event.make_body() for _ in range(2 * told["sends"] + _MORE_BODIES)]
        self._headers = event.headers
        self._url = URL.format(port=told["port"])
        module, _, attribute = _TRANSPORTS[told["backend"]].partition(":")
        self._transport = getattr(importlib.import_module(module), attribute)
        self._ticks: list[float] = []
        self._sent_at: list[float] = []
        self._is_over = False
        self._delivered: list[object] = []  # appending is one step, also in a thread
        self.measured: dict[str, Any] = {}

    def tick(self) -> Iterator[float]:
        while not self._is_over:
            self._ticks.append(time.monotonic())
            yield _TICK_SECONDS

    def work(self) -> Iterator[float]:
        try:
            yield from self._be_idle()
            yield from self._send_first()
            yield from self._send_both_ways()
            yield from self._drain()
            yield from self._send_while_locked()
        finally:
            self._is_over = True

    # -- what is measured ---------------------------------------------------------------------

    def _be_idle(self) -> Iterator[float]:
        began = time.monotonic()
        yield self._told["idle_seconds"]
        self.measured["idle"] = self._gaps_since(began)

    def _send_first(self) -> Iterator[float]:
        """It imports what is left to import, makes the spool and starts the worker."""
        send = self._open("first")
        self.measured["first_send_ms"] = 1e3 * send()
        yield from self._wait_for(1)

    def _send_both_ways(self) -> Iterator[float]:
        """In turns, so that what else the machine does falls on both."""
        sends = {fsync: self._open(fsync, fsync=fsync) for fsync in ("everysec", "always")}
        micros: dict[str, list[float]] = {fsync: [] for fsync in sends}
        for number in range(self._told["sends"] + 1):
            for fsync, send in sends.items():
                yield _PAUSE_SECONDS
                seconds = send()
                if number:  # the first one opened the spool
                    micros[fsync].append(1e6 * seconds)
        yield from self._wait_for(2 * self._told["sends"] + 2)
        for fsync, some in micros.items():
            self.measured[f"send_{fsync}_us"] = summarize(some)

    def _drain(self) -> Iterator[float]:
        send = self._open("backlog")
        send()
        began = time.monotonic()
        yield from self._wait_for(self._told["backlog"] + 1)
        self.measured["drain"] = self._gaps_since(began)
        self.measured["drain_seconds"] = time.monotonic() - began

    def _send_while_locked(self) -> Iterator[float]:
        send = self._open("locked")
        send()
        yield from self._wait_for(1)  # the drain has begun, and is in the middle of it
        (self._directory / "hold").touch()
        yield from self._wait_until((self._directory / "held").exists, "the lock")
        began, sent = time.monotonic(), []
        while time.monotonic() < began + self._told["lock_seconds"]:
            yield _SEND_EVERY_SECONDS
            sent.append(send())
        self.measured["locked"] = self._gaps_since(began)
        self.measured["locked_between_sends"] = self._gaps_since(began, self._sent_at)
        (self._directory / "let-go").touch()
        self.measured["locked_send_ms"] = summarize([1e3 * seconds for seconds in sent])
        yield from self._wait_for(self._told["locked_backlog"] + 1 + len(sent))

    # -- how ----------------------------------------------------------------------------------

    def _open(self, name: str, **options: str) -> Any:
        """A spool of its own; returns what sends to it and tells the seconds that took."""
        self._delivered.clear()
        transport = self._transport(
            spool_path=str(self._directory / name), on_delivered=self._delivered.append, **options
        )

        def send() -> float:
            body = self._bodies.pop()
            self._sent_at.append(time.monotonic())
            began = time.perf_counter()
            transport.send(self._url, body, self._headers)
            return time.perf_counter() - began

        return send

    def _wait_for(self, count: int) -> Iterator[float]:
        yield from self._wait_until(lambda: len(self._delivered) >= count, f"{count} deliveries")

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> Iterator[float]:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what}; {len(self._delivered)} events were delivered")
            yield _LOOK_SECONDS

    def _gaps_since(self, began: float, without: Sequence[float] = ()) -> dict[str, float]:
        """Gaps in which one of the instants `without` lies are left out."""
        ticks = [tick for tick in self._ticks if tick >= began]
        return summarize(
            [
                1e3 * (after - before)
                for before, after in pairwise(ticks)
                if not any(before <= instant < after for instant in without)
            ]
        )


def summarize(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }


if __name__ == "__main__":
    main()
