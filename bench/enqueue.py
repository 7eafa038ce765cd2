"""What a send costs the application: against the least a commit can cost, and persist-queue."""

import functools
import json
import multiprocessing
import sqlite3
import statistics
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from _backlog import prepare_events
from _events import KEY, URL, Captured, capture_event
from _harness import (
    Figure,
    divide,
    publish,
    read_arguments,
    scratch_directory,
    summarize,
    take_rounds,
)
from persistqueue import SQLiteAckQueue

from raven_spool import SpoolTransport
from raven_spool.model import Destination
from raven_spool.spool import Spool
from raven_spool.spool.store import SYNCHRONOUS

_URL = URL.format(port=9)  # nothing is sent: backend "none"
_THREADS = 8
_PROCESSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    rounds: int
    sends: int  # a round, of one thread
    thread_sends: int  # a round, of each of eight threads
    process_rounds: int
    process_seconds: float


FULL = Scale(rounds=30, sends=200, thread_sends=150, process_rounds=9, process_seconds=2.0)
QUICK = Scale(rounds=3, sends=50, thread_sends=30, process_rounds=1, process_seconds=0.5)

Put = Callable[[bytes], object]


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    scale = QUICK if arguments.quick else FULL
    event = capture_event()
    with scratch_directory(arguments.dir) as directory:
        figures = [
            compare_with_bare_commit(event, scale, directory, fsync="everysec", at_most=2.5),
            compare_with_bare_commit(event, scale, directory, fsync="always", at_most=1.4),
            *compare_threads(event, scale, directory),
            *compare_processes(event, scale, directory),
        ]
    publish(figures, arguments, {"wire_bytes": event.wire_bytes, "json_bytes": event.decoded_bytes})


# -- one thread against a bare commit -------------------------------------------------------------


def compare_with_bare_commit(
    event: Captured, scale: Scale, directory: Path, *, fsync: str, at_most: float
) -> Figure:
    """`send` against decoding the same body and inserting it into a plain table."""
    bodies = [event.make_body() for _ in range(scale.sends)]
    send = open_spool(directory / f"one-{fsync}", event, fsync)
    with open_plain_table(directory / f"plain-{fsync}.db", SYNCHRONOUS[fsync]) as insert:
        micros = take_rounds(
            {
                "send": functools.partial(median_micros, send, bodies),
                "bare": functools.partial(median_micros, insert, bodies),
            },
            scale.rounds,
        )
    return Figure(
        key=f"send_{fsync}",
        asks=f"one thread, fsync={fsync}: send p50 / decode + bare commit p50",
        unit="x",
        at_most=at_most,
        rounds=divide(micros["send"], micros["bare"]),
        parts=summarize({"send us": micros["send"], "bare us": micros["bare"]}),
    )


def open_spool(path: Path, event: Captured, fsync: str) -> Put:
    transport = SpoolTransport(spool_path=str(path), backend="none", fsync=fsync)
    return lambda body: transport.send(_URL, body, event.headers)


@contextmanager
def open_plain_table(path: Path, synchronous: str) -> Iterator[Put]:
    """The spool's pragmas, and a table of a key and the bytes."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in (
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        "secure_delete = OFF",
        "journal_size_limit = 8388608",
        "wal_autocheckpoint = 1000",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchone()
    connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, data BLOB NOT NULL)")

    def insert(body: bytes) -> None:
        json.loads(zlib.decompress(body))
        zlib.crc32(body)
        connection.execute("INSERT INTO events (data) VALUES (?)", (body,))

    yield insert
    connection.close()


def median_micros(put: Put, bodies: Sequence[bytes]) -> float:
    return statistics.median(time_each(put, bodies)) * 1e6


def time_each(put: Put, bodies: Sequence[bytes]) -> list[float]:
    seconds = []
    for body in bodies:
        began = time.perf_counter()
        put(body)
        seconds.append(time.perf_counter() - began)
    return seconds


# -- threads --------------------------------------------------------------------------------------


def compare_threads(event: Captured, scale: Scale, directory: Path) -> list[Figure]:
    """The whole send, which decodes the body; and the store alone, given what persist-queue is."""
    bodies = [event.make_body() for _ in range(scale.thread_sends)]
    send = open_spool(directory / "threads", event, "always")
    enqueue = open_store(directory / "threads-store", event, bodies)
    put = open_ack_queue(directory / "threads-pq")
    rates = take_rounds(
        {
            "send": functools.partial(threads_per_second, send, bodies),
            "enqueue": functools.partial(threads_per_second, enqueue, bodies),
            "put": functools.partial(threads_per_second, put, bodies),
        },
        scale.rounds,
    )
    return [
        Figure(
            key=f"threads_{verb}",
            asks=f"{_THREADS} threads, fsync=always: {what}/s / persist-queue's puts/s",
            unit="x",
            at_least=2.3,
            rounds=divide(rates[verb], rates["put"]),
            parts=summarize({f"{verb}s/s": rates[verb], "persist-queue puts/s": rates["put"]}),
        )
        for verb, what in (("send", "sends"), ("enqueue", "the store alone, enqueues"))
    ]


def open_store(path: Path, event: Captured, bodies: Sequence[bytes]) -> Put:
    spool = Spool(str(path), fsync="always")
    destination = Destination(base_url="http://127.0.0.1:9", project="1", public_key=KEY)
    events = dict(zip(bodies, prepare_events(event, bodies), strict=True))
    return lambda body: spool.enqueue(events[body], destination)


def open_ack_queue(path: Path) -> Put:
    """persist-queue as it comes; its files are synchronous=FULL."""
    queue: Any = SQLiteAckQueue(str(path), multithreading=True, auto_commit=True)
    return lambda body: queue.put(body)


def threads_per_second(put: Put, bodies: Sequence[bytes]) -> float:
    line = threading.Barrier(_THREADS + 1)

    def run() -> None:
        line.wait()
        for body in bodies:
            put(body)

    threads = [threading.Thread(target=run) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    line.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return _THREADS * len(bodies) / (time.perf_counter() - began)


# -- processes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Saturation:
    """What processes that do nothing but put came to."""

    per_second: float
    worst_ms: float
    p99_ms: float


def compare_processes(event: Captured, scale: Scale, directory: Path) -> list[Figure]:
    results = take_rounds(
        {
            "send": functools.partial(saturate, "send", event, scale, directory),
            "put": functools.partial(saturate, "put", event, scale, directory),
        },
        scale.process_rounds,
        warm_up=False,
    )
    ours, theirs = results["send"], results["put"]
    return [
        Figure(
            key="processes_worst",
            asks=f"{_PROCESSES} processes, fsync=always: worst send / persist-queue's worst put",
            unit="x",
            at_most=1 / 20,
            rounds=divide([one.worst_ms for one in ours], [one.worst_ms for one in theirs]),
            parts={
                **summarize(
                    {
                        "worst send ms": [one.worst_ms for one in ours],
                        "worst put ms": [one.worst_ms for one in theirs],
                        "p99 send ms": [one.p99_ms for one in ours],
                        "p99 put ms": [one.p99_ms for one in theirs],
                    }
                ),
                "worst send of all rounds ms": max(one.worst_ms for one in ours),
                "worst put of all rounds ms": max(one.worst_ms for one in theirs),
            },
        ),
        Figure(
            key="processes_rate",
            asks=f"{_PROCESSES} processes, fsync=always: sends/s / persist-queue's puts/s",
            unit="x",
            at_least=0.75,
            rounds=divide([one.per_second for one in ours], [one.per_second for one in theirs]),
            parts=summarize(
                {
                    "sends/s": [one.per_second for one in ours],
                    "persist-queue puts/s": [one.per_second for one in theirs],
                }
            ),
        ),
    ]


def saturate(kind: str, event: Captured, scale: Scale, directory: Path) -> Saturation:
    """Processes of their own, started together, on a fresh spool or queue."""
    context = multiprocessing.get_context("spawn")
    path = directory / f"{kind}-{uuid.uuid4().hex}"
    line = context.Barrier(_PROCESSES)
    results: Queue[list[float]] = context.Queue()
    bodies = [event.make_body() for _ in range(50)]
    arguments = (kind, path, bodies, event.headers, scale.process_seconds, line, results)
    processes = [context.Process(target=put_in_process, args=arguments) for _ in range(_PROCESSES)]
    for process in processes:
        process.start()
    millis = sorted(1000 * one for _ in processes for one in results.get(timeout=60))
    for process in processes:
        process.join()
    return Saturation(
        len(millis) / scale.process_seconds, millis[-1], millis[int(len(millis) * 0.99)]
    )


def put_in_process(
    kind: str,
    path: Path,
    bodies: Sequence[bytes],
    headers: dict[str, str],
    seconds: float,
    line: Any,
    results: "Queue[list[float]]",
) -> None:
    put = open_spool(path, Captured(headers), "always") if kind == "send" else open_ack_queue(path)
    put(bodies[0])  # open the file
    taken: list[float] = []
    line.wait()
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        taken += time_each(put, bodies[:1])
    results.put(taken)


if __name__ == "__main__":
    main()
