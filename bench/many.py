"""What it costs to have many destinations in one spool: as many events, in ever more lanes.

Half of the events are errors, half transactions, so each destination has two lanes. What they are
sent to takes all at once: this is not about HTTP. "Beside held ones" is as many events for one live
destination, in a spool where so many others are held for an hour.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

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

_CATEGORIES = ("error", "transaction")
_LOOKS = 20
_DRAIN_SECONDS = 600.0

Round = Mapping[str, float]


class Sink:
    """A server that takes all at once."""

    def send(self, request: Request) -> Response:
        return Response(status=200, headers={})

    def close(self) -> None: ...


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    counts, events, rounds = (
        ((1, 100), 1_000, 2) if arguments.quick else ((1, 100, 1_000, 5_000), 10_000, 3)
    )
    with scratch_directory(arguments.dir) as directory:
        found = take_rounds(
            {str(count): functools.partial(run, directory, count, events) for count in counts},
            rounds,
        )
    figures = [
        figure
        for count in counts[1:]
        for figure in list_figures(str(count), found[str(count)], found["1"])
    ]
    conditions = {"events": events, "lanes_of_a_destination": len(_CATEGORIES)}
    publish(figures, arguments, conditions)


def run(directory: Path, count: int, events: int) -> Round:
    """One spool with so many destinations, from its first event to its last."""
    path = directory / f"spool-{time.monotonic_ns()}"
    spool = Spool(str(path))
    fill_lanes(spool, count, events)
    looks = time_looks(spool, count)
    drained = measure_seconds(lambda: drain(spool))
    # Beside dead ones, whose events wait.
    fill_lanes(spool, count, 2 * count)
    for lane, _ in spool.all_lanes():
        if not lane.category:
            spool.hold(
                lane.destination_id, "", now=time.time(), seconds=3600, hold="limited", reason=""
            )
    fill_lanes(spool, 1, events, project="live")
    beside = measure_seconds(lambda: drain(spool))
    spool.finish()
    return {
        **looks,
        "drain": 1e6 * drained / events,
        "drain beside held ones": 1e6 * beside / events,
    }


def fill_lanes(spool: Spool, count: int, events: int, project: str = "") -> None:
    """As many in each of so many destinations."""
    made = make_small_events(events)
    for number in range(count):
        share = islice(made, events // count)
        half = (replace(event, category=_CATEGORIES[at % 2]) for at, event in enumerate(share))
        fill(spool, make_destination(project or str(number)), half)


def make_destination(project: str) -> Destination:
    return Destination(base_url="http://127.0.0.1:9", project=project, public_key="0" * 32)


def time_looks(spool: Spool, count: int) -> Round:
    """Microseconds of each, the median of some."""
    numbers, made = itertools.count(), make_small_events(2 * _LOOKS)

    def send() -> None:
        spool.enqueue(next(made), make_destination(str(next(numbers) % count)))

    operations: dict[str, Callable[[], object]] = {
        "send": send,
        "page of 50": lambda: spool.page(limit=50),
        "stats": spool.stats,
    }
    for _ in range(_LOOKS):
        send()
    return {
        name: 1e6 * statistics.median(measure_seconds(action) for _ in range(_LOOKS))
        for name, action in operations.items()
    }


def drain(spool: Spool) -> None:
    """Until nothing is left, or what is left is held."""
    machine = make_drain(spool, Options())
    runtime = ThreadRuntime(machine, lambda name: Sink())
    machine.finish(time.monotonic())
    runtime.wake()
    assert runtime.join(_DRAIN_SECONDS)
    machine.end()
    assert machine.counts.delivered > 0


def list_figures(count: str, many: list[Round], one: list[Round]) -> list[Figure]:
    targets = {"send": 1.5, "page of 50": 3.0, "stats": None}
    return [
        Figure(
            key=f"{name.replace(' ', '_')}_{count}",
            asks=f"{count} destinations / 1: {name}",
            unit="x",
            at_most=targets.get(name, 10.0),
            rounds=divide([each[name] for each in many], [each[name] for each in one]),
            parts=summarize(
                {
                    "us of many": [each[name] for each in many],
                    "us of one": [each[name] for each in one],
                }
            ),
        )
        for name in one[0]
    ]


if __name__ == "__main__":
    main()
