"""How fast the backlog goes out, what its size costs, and what memory that takes."""

import functools
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import requests
from _backlog import drain, fill, make_destination, make_small_events, prepare_events
from _events import Captured, capture_event
from _harness import (
    Figure,
    divide,
    measure_seconds,
    publish,
    read_arguments,
    scratch_directory,
    summarize,
    take_rounds,
)
from _sink import Sink, read_lengths, run_sink

from raven_spool import SpoolTransport
from raven_spool.backends import THREAD
from raven_spool.model import Destination, Event, Request
from raven_spool.protocol import build_request
from raven_spool.spool import Spool

_SMALL_BACKLOG = 1_000
_BIG_FILE_BYTES = 4 << 30
_LARGE_BODY_BYTES = 500_000
_LOOKS = 50
DRAIN_SECONDS = 600.0

_BACKLOG = ("--backlog", {"type": int, "help": "events waiting in the big spool (1000000)"})
_CHILD = ("--print-peak-of", {"metavar": "SPOOL", "help": "(used by itself) drain that spool"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    rounds: int
    events: int  # a round, over one connection
    backlog: int
    memory_rounds: int
    memory_events: int


FULL = Scale(rounds=15, events=1_000, backlog=1_000_000, memory_rounds=3, memory_events=10_000)
QUICK = Scale(rounds=2, events=200, backlog=20_000, memory_rounds=1, memory_events=500)

Post = Callable[[Sequence[Request]], None]


def main() -> None:
    arguments = read_arguments(__doc__ or "", _BACKLOG, _CHILD)
    if arguments.print_peak_of:
        print(drain_and_read_peak_kib(arguments.print_peak_of))
        return
    scale = QUICK if arguments.quick else FULL
    scale = replace(scale, backlog=arguments.backlog or scale.backlog)
    event = capture_event()
    with scratch_directory(arguments.dir) as directory:
        with run_sink(directory) as sink:
            figures = [
                compare_with_loop("urllib", post_by_http_client, event, scale, directory, sink),
                compare_with_loop("requests", post_by_requests, event, scale, directory, sink),
                *compare_backlogs(scale, directory, sink),
                *compare_peaks(event, scale, directory, sink),
            ]
        lengths = read_lengths(directory)
    conditions: dict[str, object] = {
        "sink": sink.name,
        "wire_bytes": event.wire_bytes,
        "json_bytes": event.decoded_bytes,
        "backlog": scale.backlog,
    }
    if lengths:
        conditions["requests_at_sink"] = len(lengths)
        conditions["bytes_at_sink"] = sum(lengths)
    publish(figures, arguments, conditions)


# -- one worker against a bare loop ---------------------------------------------------------------


def compare_with_loop(
    sender: str, post: Post, event: Captured, scale: Scale, directory: Path, sink: Sink
) -> Figure:
    """Claim, sign, send, judge and ack, against sending the same requests from a list."""
    events = prepare_events(event, [event.make_body() for _ in range(scale.events)])
    destination = make_destination(sink, sender)
    posts = [build_request(one, destination, time.time()) for one in events]
    spool = Spool(str(directory / sender))
    rates = take_rounds(
        {
            "drain": functools.partial(fill_and_drain, spool, destination, events),
            "loop": functools.partial(count_per_second, post, posts),
        },
        scale.rounds,
    )
    spool.finish()
    return Figure(
        key=f"drain_{sender}",
        asks=f"one worker, {sender}: events per s / a bare loop's requests per s",
        unit="x",
        at_least=0.7,
        rounds=divide(rates["drain"], rates["loop"]),
        parts=summarize({"events/s": rates["drain"], "bare requests/s": rates["loop"]}),
    )


def fill_and_drain(spool: Spool, destination: Destination, events: Sequence[Event]) -> float:
    fill(spool, destination, events)
    return len(events) / drain(spool, workers=1, limit=len(events))


def count_per_second(post: Post, posts: Sequence[Request]) -> float:
    return len(posts) / measure_seconds(lambda: post(posts))


def post_by_http_client(posts: Sequence[Request]) -> None:
    netloc, _, path = posts[0].url.removeprefix("http://").partition("/")
    with closing(http.client.HTTPConnection(netloc, timeout=5)) as connection:
        for post in posts:
            connection.request("POST", f"/{path}", post.body, dict(post.headers))
            response = connection.getresponse()
            response.read()
            assert response.status == 200


def post_by_requests(posts: Sequence[Request]) -> None:
    with requests.Session() as session:
        for post in posts:
            response = session.post(post.url, data=post.body, headers=dict(post.headers), timeout=5)
            assert response.status_code == 200


# -- a big backlog against a small one ------------------------------------------------------------


def compare_backlogs(scale: Scale, directory: Path, sink: Sink) -> list[Figure]:
    destination = make_destination(sink, "urllib")
    small = Spool(str(directory / "small"))
    big = Spool(str(directory / "big"), max_bytes=_BIG_FILE_BYTES)
    fill(small, destination, make_small_events(_SMALL_BACKLOG))
    fill(big, destination, make_small_events(scale.backlog))
    drained = min(scale.events, _SMALL_BACKLOG)
    seconds = take_rounds(
        {
            "big": functools.partial(drain_and_refill, big, destination, drained),
            "small": functools.partial(drain_and_refill, small, destination, drained),
        },
        scale.rounds,
    )
    looks = take_rounds(
        {
            "big": functools.partial(time_operations, big, destination),
            "small": functools.partial(time_operations, small, destination),
        },
        scale.rounds,
    )
    big.finish()
    small.finish()
    sizes = f"{scale.backlog} waiting / {_SMALL_BACKLOG}"
    return [
        Figure(
            key="backlog_drain",
            asks=f"{sizes}: seconds to drain {drained}",
            unit="x",
            at_most=1.3,
            rounds=divide(seconds["big"], seconds["small"]),
            parts={
                "events/s of many": drained / statistics.median(seconds["big"]),
                "events/s of few": drained / statistics.median(seconds["small"]),
            },
        ),
        *(
            compare_operation(
                name,
                sizes,
                [look[name] for look in looks["big"]],
                [look[name] for look in looks["small"]],
            )
            for name in looks["big"][0]
        ),
    ]


def drain_and_refill(spool: Spool, destination: Destination, count: int) -> float:
    seconds = drain(spool, workers=1, limit=count)
    fill(spool, destination, make_small_events(count))
    return seconds


def time_operations(spool: Spool, destination: Destination) -> dict[str, float]:
    """Microseconds of each, the median of some; the first look opens the file."""
    spool.finish()
    opened = measure_seconds(spool.stats)
    assert spool.leadership.take()
    lane = next(lane for lane, _ in spool.all_lanes() if lane.ready)
    assert len(spool.claim(lane, limit=32, now=time.time())) == 32
    events = make_small_events(_LOOKS)
    operations: dict[str, Callable[[], object]] = {
        "claim of 32": lambda: spool.claim(lane, limit=32, now=time.time()),
        "enqueue": lambda: spool.enqueue(next(events), destination),
        "stats": spool.stats,
        "page of 50": lambda: spool.page(limit=50),
    }
    micros = {
        name: 1e6 * statistics.median(measure_seconds(action) for _ in range(_LOOKS))
        for name, action in operations.items()
    }
    spool.leadership.let_go()
    return {"open and stats": 1e6 * opened, **micros}


def compare_operation(
    name: str, sizes: str, big: Sequence[float], small: Sequence[float]
) -> Figure:
    return Figure(
        key=f"backlog_{name.replace(' ', '_')}",
        asks=f"{sizes}: {name}",
        unit="x",
        rounds=divide(big, small),
        parts=summarize({"us of many": big, "us of few": small}),
    )


# -- memory ---------------------------------------------------------------------------------------


def compare_peaks(event: Captured, scale: Scale, directory: Path, sink: Sink) -> list[Figure]:
    """A process that drains against the same program with nothing to drain."""
    destination = make_destination(sink, "urllib")
    ordinary = prepare_events(event, [event.make_body()]) * scale.memory_events
    large = [replace(ordinary[0], body=os.urandom(_LARGE_BODY_BYTES), headers=())] * 100
    peaks = take_rounds(
        {
            "idle": functools.partial(read_peak_mib, [], destination, directory),
            "ordinary": functools.partial(read_peak_mib, ordinary, destination, directory),
            "large": functools.partial(read_peak_mib, large, destination, directory),
        },
        scale.memory_rounds,
        warm_up=False,
    )
    return [
        Figure(
            key=f"peak_{kind}",
            asks=f"peak memory, draining {what}, above idle",
            unit="MiB",
            at_most=20,
            rounds=[mine - idle for mine, idle in zip(peaks[kind], peaks["idle"], strict=True)],
            parts=summarize({"MiB draining": peaks[kind], "MiB idle": peaks["idle"]}),
        )
        for kind, what in (
            ("ordinary", f"{scale.memory_events} events"),
            ("large", f"{len(large)} of {_LARGE_BODY_BYTES // 1000} kB"),
        )
    ]


def read_peak_mib(events: Sequence[Event], destination: Destination, directory: Path) -> float:
    path = str(directory / f"peak-{uuid.uuid4().hex}")
    spool = Spool(path)
    fill(spool, destination, events)
    spool.finish()
    command = [sys.executable, __file__, "--print-peak-of", path]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(child.stdout)
    assert answer["delivered"] == len(events), answer
    return float(answer["peak_kib"] / 1024)


def drain_and_read_peak_kib(path: str) -> str:
    """In a process of its own: an application's transport with its default four workers."""
    transport = SpoolTransport(spool_path=path, backend="thread")
    transport.flusher.wake(THREAD)
    transport.close(DRAIN_SECONDS)
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return json.dumps(
        {"peak_kib": int(line.split()[1]), "delivered": transport.stats()["delivered"]}
    )


if __name__ == "__main__":
    main()
