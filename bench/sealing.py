"""What `encryption_key` adds to a send: AES-256-GCM over the body, round by round beside none."""

import functools
from pathlib import Path

from _events import URL, Captured, capture_event
from _harness import (
    Figure,
    divide,
    publish,
    read_arguments,
    scratch_directory,
    summarize,
    take_rounds,
)
from enqueue import FULL, QUICK, Put, Scale, median_micros

from raven_spool import SpoolTransport

_URL = URL.format(port=9)  # nothing is sent: backend "none"
_KEY = "00" * 32


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    scale = QUICK if arguments.quick else FULL
    event = capture_event()
    with scratch_directory(arguments.dir) as directory:
        figures = [compare(event, scale, directory, fsync) for fsync in ("everysec", "always")]
    publish(figures, arguments, {"wire_bytes": event.wire_bytes})


def compare(event: Captured, scale: Scale, directory: Path, fsync: str) -> Figure:
    bodies = [event.make_body() for _ in range(scale.sends)]
    sealed = open_spool(directory / f"sealed-{fsync}", event, fsync, encryption_key=_KEY)
    clear = open_spool(directory / f"clear-{fsync}", event, fsync)
    micros = take_rounds(
        {
            "sealed": functools.partial(median_micros, sealed, bodies),
            "clear": functools.partial(median_micros, clear, bodies),
        },
        scale.rounds,
    )
    return Figure(
        key=f"sealed_{fsync}",
        asks=f"one thread, fsync={fsync}: send p50 with encryption_key / without",
        unit="x",
        rounds=divide(micros["sealed"], micros["clear"]),
        parts=summarize({"sealed us": micros["sealed"], "clear us": micros["clear"]}),
    )


def open_spool(path: Path, event: Captured, fsync: str, **options: str) -> Put:
    transport = SpoolTransport(spool_path=str(path), backend="none", fsync=fsync, **options)
    return lambda body: transport.send(_URL, body, event.headers)


if __name__ == "__main__":
    main()
