"""What a flood costs: memory while a million events come in and go out, a send at the limit."""

import functools
import json
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _backlog import fill, make_small_events
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

from raven_spool.config import Options
from raven_spool.flusher import make_drain
from raven_spool.model import Destination, Request, Response
from raven_spool.runtimes.thread import ThreadRuntime
from raven_spool.spool import Spool
from raven_spool.spool.room import least_valuable

_ROOMY_BYTES = 4 << 30
_CAP_EVENTS = 10_000
_CAP_BYTES = 16 << 20
_THREADS = 8
_LOOKS = 50
_DRAIN_SECONDS = 3600.0
_DESTINATION = Destination(base_url="http://127.0.0.1:9", project="1", public_key="0" * 32)

_MOST = ("--most", {"type": int, "help": "events of the greatest flood (1000000)"})
_CHILD = ("--child", {"help": "(used by itself) what a process of its own does, as JSON"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    floods: tuple[int, ...]  # events; the first is what the others are held against
    rounds: int
    sends: int  # a round


FULL = Scale(floods=(10_000, 100_000, 1_000_000), rounds=9, sends=1_000)
QUICK = Scale(floods=(2_000, 20_000), rounds=3, sends=300)


class Sink:
    """A server that takes all at once: this is not about HTTP."""

    def send(self, request: Request) -> Response:
        return Response(status=200, headers={})

    def close(self) -> None: ...


def main() -> None:
    arguments = read_arguments(__doc__ or "", _MOST, _CHILD)
    if arguments.child:
        print(json.dumps(run_child(**json.loads(arguments.child))))
        return
    scale = QUICK if arguments.quick else FULL
    if arguments.most:
        below = tuple(count for count in scale.floods if count < arguments.most)
        scale = replace(scale, floods=(*below, arguments.most))
    with scratch_directory(arguments.dir) as directory:
        figures = [
            *compare_sends(scale, directory),
            *compare_memory(scale, directory),
            *compare_looks(scale, directory),
        ]
    conditions = {
        "floods": ", ".join(map(str, scale.floods)),
        "event_bytes": len(next(make_small_events(1)).body),
        "writing_threads": _THREADS,
        "cap_events": f"{_CAP_EVENTS}, {_CAP_EVENTS // 10} for the memory",
        "cap_bytes": _CAP_BYTES,
    }
    publish(figures, arguments, conditions)


# -- memory ---------------------------------------------------------------------------------------


def compare_memory(scale: Scale, directory: Path) -> list[Figure]:
    """Peaks of processes that write, and that drain what was written."""
    peaks: dict[str, list[dict[str, float]]] = {"writing": [], "at the cap": [], "draining": []}
    for count in scale.floods:
        path = str(directory / f"flood{count}")
        capped = path + "-capped"
        peaks["writing"].append(run_apart("write", path, count, max_bytes=_ROOMY_BYTES))
        peaks["at the cap"].append(run_apart("write", capped, count, max_events=_CAP_EVENTS // 10))
        peaks["draining"].append(run_apart("drain", path, count))
    return [
        figure for what, found in peaks.items() for figure in list_peaks(what, scale.floods, found)
    ]


def list_peaks(what: str, floods: tuple[int, ...], found: list[dict[str, float]]) -> list[Figure]:
    few = found[0]["peak_mib"]
    return [
        Figure(
            key=f"peak_{what.replace(' ', '_')}_{count}",
            asks=f"peak memory {what}, {count} events, above that of {floods[0]}",
            unit="MiB",
            at_most=20,
            rounds=[one["peak_mib"] - few],
            parts={"MiB": one["peak_mib"], "MiB of few": few, "events/s": count / one["seconds"]},
        )
        for count, one in zip(floods[1:], found[1:], strict=True)
    ]


def run_apart(role: str, path: str, count: int, **options: Any) -> dict[str, float]:
    job = json.dumps({"role": role, "path": path, "count": count, "options": options})
    command = [sys.executable, __file__, "--child", job]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, float] = json.loads(child.stdout)
    return answer


def run_child(role: str, path: str, count: int, options: dict[str, Any]) -> dict[str, float]:
    act = {"write": write, "drain": drain}[role]
    seconds = measure_seconds(lambda: act(path, count, options))
    return {"peak_mib": read_peak_mib(), "seconds": seconds}


def write(path: str, count: int, options: dict[str, Any]) -> None:
    spool = Spool(path, **options)

    def send_share() -> None:
        for event in make_small_events(count // _THREADS):
            spool.enqueue(event, _DESTINATION, timeout_seconds=60)

    threads = [threading.Thread(target=send_share) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = spool.stats()
    assert stats["accepted"] == count, stats
    spool.finish()


def drain(path: str, count: int, options: dict[str, Any]) -> None:
    spool = Spool(path, **options)
    machine = make_drain(spool, Options())
    runtime = ThreadRuntime(machine, lambda name: Sink())
    machine.finish(math.inf)
    runtime.wake()
    assert runtime.join(_DRAIN_SECONDS)
    machine.end()
    assert spool.stats()["delivered"] == count, spool.stats()
    spool.finish()


def read_peak_mib() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# -- a send at the limit --------------------------------------------------------------------------


def compare_sends(scale: Scale, directory: Path) -> list[Figure]:
    """With less than the limit stored, and with so much that others give way."""
    limits: dict[str, dict[str, Any]] = {
        "below": {"max_bytes": _ROOMY_BYTES},
        "max_events": {"max_events": _CAP_EVENTS},
        "max_bytes": {"max_bytes": _CAP_BYTES},
        "drop_newest": {"max_events": _CAP_EVENTS, "overflow": "drop_newest"},
    }
    spools = {name: Spool(str(directory / name), **given) for name, given in limits.items()}
    for name, spool in spools.items():
        fill(spool, _DESTINATION, make_small_events(_CAP_EVENTS))
        while name == "max_bytes" and not spool.overflowed:
            spool.enqueue(next(make_small_events(1)), _DESTINATION)
    times = take_rounds(
        {name: functools.partial(time_sends, spool, scale.sends) for name, spool in spools.items()},
        scale.rounds,
    )
    for name, spool in spools.items():
        assert spool.overflowed > scale.rounds or name == "below"
        spool.finish()
    return [
        Figure(
            key=f"send_at_{name}",
            asks=f"a send at the limit ({name}) / below it: mean",
            unit="x",
            at_most=2,
            rounds=divide([mean for mean, _ in times[name]], [mean for mean, _ in times["below"]]),
            parts={
                "mean us at": 1e6 * statistics.median(mean for mean, _ in times[name]),
                "mean us below": 1e6 * statistics.median(mean for mean, _ in times["below"]),
                "longest ms at": 1e3 * statistics.median(longest for _, longest in times[name]),
                "longest ms below": 1e3
                * statistics.median(longest for _, longest in times["below"]),
            },
        )
        for name in limits
        if name != "below"
    ]


def time_sends(spool: Spool, count: int) -> tuple[float, float]:
    """Seconds of each on average, and of the longest."""
    seconds = [
        measure_seconds(lambda event=event: spool.enqueue(event, _DESTINATION))  # type: ignore[misc]
        for event in make_small_events(count)
    ]
    return statistics.mean(seconds), max(seconds)


# -- with many behind it --------------------------------------------------------------------------


def compare_looks(scale: Scale, directory: Path) -> list[Figure]:
    """What is read to claim from either end, and to find what gives way."""
    spools = {
        count: Spool(str(directory / f"looks{count}"), max_bytes=_ROOMY_BYTES)
        for count in (scale.floods[0], scale.floods[-1])
    }
    for count, spool in spools.items():
        fill(spool, _DESTINATION, make_small_events(count))
        assert spool.leadership.take()
    looks = take_rounds(
        {str(count): functools.partial(time_looks, spool) for count, spool in spools.items()},
        scale.rounds,
    )
    few, many = looks
    for spool in spools.values():
        spool.finish()
    return [
        Figure(
            key=f"look_{name.replace(' ', '_')}",
            asks=f"{many} waiting / {few}: {name}",
            unit="x",
            at_most=1.5,
            rounds=divide([one[name] for one in looks[many]], [one[name] for one in looks[few]]),
            parts=summarize(
                {
                    "us of many": [one[name] for one in looks[many]],
                    "us of few": [one[name] for one in looks[few]],
                }
            ),
        )
        for name in looks[many][0]
    ]


def time_looks(spool: Spool) -> dict[str, float]:
    """Microseconds of each, the median of some."""
    lane = next(lane for lane, _ in spool.all_lanes() if lane.ready)
    operations: dict[str, Callable[[], object]] = {
        "claim of 8, oldest": lambda: spool.claim(lane, limit=8, now=time.time()),
        "claim of 8, newest": lambda: spool.claim(lane, limit=8, now=time.time(), of_newest=True),
        "finding 64 to give way": lambda: spool._read(lambda queue: least_valuable(queue, 64)),
    }
    return {
        name: 1e6 * statistics.median(measure_seconds(action) for _ in range(_LOOKS))
        for name, action in operations.items()
    }


if __name__ == "__main__":
    main()
