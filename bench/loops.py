"""Whether a loop keeps its beat: a ticker at 5 ms while a spool drains and while it is locked.

Each loop is a process of its own (_looping.py); libraries that patch are patched. Its server is one
process for all, and this one takes the spool's write lock away. Beside them a process with two
threads and the thread backend, for what `send` costs there.
"""

import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _backlog import fill, make_destination, prepare_events
from _events import Captured, capture_event
from _harness import Figure, divide, publish, read_arguments, scratch_directory, take_rounds
from _sink import Sink

from raven_spool.backends import BACKENDS
from raven_spool.model import Event
from raven_spool.spool import Spool
from raven_spool.spool.gate import Gate

_HERE = Path(__file__).parent
_LOOPS = ("gevent", "eventlet", "twisted", "tornado", "asyncio")
_ANSWER_SECONDS = 0.005
_MOST_GAP_MS = 25.0
_SLACK_MS = 5.0  # a thread's turn at the interpreter: sys.getswitchinterval()
_LOOK_SECONDS = 0.005
_ASK_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    rounds: int
    idle_seconds: float
    sends: int
    backlog: int
    locked_backlog: int
    lock_seconds: float


FULL = Scale(
    rounds=5, idle_seconds=2.0, sends=200, backlog=2000, locked_backlog=500, lock_seconds=1.0
)
QUICK = Scale(
    rounds=1, idle_seconds=0.5, sends=50, backlog=300, locked_backlog=100, lock_seconds=0.5
)

_ONLY = ("--only", {"nargs": "+", "choices": _LOOPS, "default": _LOOPS, "help": "these loops"})

Measured = Mapping[str, Any]


def main() -> None:
    arguments = read_arguments(__doc__ or "", _ONLY)
    scale = QUICK if arguments.quick else FULL
    event = capture_event()
    with scratch_directory(arguments.dir) as directory, run_slow_sink() as sink:
        (directory / "event.json").write_text(json.dumps(asdict(event)))
        backlog = prepare_events(event, [event.make_body() for _ in range(scale.backlog)])
        numbers = iter(range(1_000_000))
        loops: dict[str, Callable[[], Measured]] = {
            name: functools.partial(measure, name, scale, backlog, directory, sink, numbers)
            for name in (*arguments.only, "thread")
        }
        measured = take_rounds(loops, scale.rounds, warm_up=False)
    figures = [figure for name in arguments.only for figure in judge(name, scale, measured)]
    publish(figures, arguments, describe(event, scale, measured))


@contextmanager
def run_slow_sink() -> Iterator[Sink]:
    command = [sys.executable, str(_HERE / "_slow_sink.py"), str(_ANSWER_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Sink(port=int(process.stdout.readline()), name="answers after 5 ms")
        finally:
            process.terminate()


# -- one process ----------------------------------------------------------------------------------


def measure(
    name: str,
    scale: Scale,
    backlog: Sequence[Event],
    directory: Path,
    sink: Sink,
    numbers: Iterator[int],
) -> Measured:
    place = directory / f"{name}-{next(numbers)}"
    place.mkdir()
    fill_spool(place / "backlog", backlog, sink)
    fill_spool(place / "locked", backlog[: scale.locked_backlog], sink)
    told = {
        **asdict(scale),
        "backend": name,
        "directory": str(place),
        "port": sink.port,
        "event": str(directory / "event.json"),
    }
    command = [sys.executable, "-W", "ignore", str(_HERE / "_looping.py"), json.dumps(told)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            hold_lock_when_asked(place, process)
            output, _ = process.communicate(timeout=_ASK_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, f"{name} failed"
    measured: Measured = json.loads(output.splitlines()[-1])
    return measured


def fill_spool(path: Path, events: Sequence[Event], sink: Sink) -> None:
    spool = Spool(str(path))
    fill(spool, make_destination(sink, "urllib"), events)
    spool.finish()


def hold_lock_when_asked(place: Path, process: "subprocess.Popen[str]") -> None:
    """As a process does that is stopped in the middle of a commit."""
    wait_for(place / "hold", process)
    gate = Gate(str(place / "locked"))
    assert gate.acquire(time.monotonic() + 5)
    (place / "held").touch()
    wait_for(place / "let-go", process)
    gate.release()
    gate.close()


def wait_for(flag: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _ASK_SECONDS
    while not flag.exists():
        assert process.poll() is None, "the loop's process has ended"
        assert time.monotonic() < deadline, f"no {flag.name}"
        time.sleep(_LOOK_SECONDS)


# -- what it means --------------------------------------------------------------------------------


def judge(name: str, scale: Scale, measured: Mapping[str, Sequence[Measured]]) -> Iterator[Figure]:
    rounds, threads = measured[name], measured["thread"]
    yield judge_gaps(
        f"{name}_drain", f"{name}: p99 gap while {scale.backlog} events drain", rounds, "drain"
    )
    between = statistics.median(pick(rounds, "locked_between_sends", "p99"))
    yield judge_gaps(
        f"{name}_locked",
        f"{name}: p99 gap while the spool is locked",
        rounds,
        "locked",
        {"p99 ms without the gaps of its four sends": between},
    )
    sends = [one["locked_send_ms"] for one in rounds]
    patience_ms = 1e3 * BACKENDS[name].send_timeout
    yield Figure(
        key=f"{name}_locked_send",
        asks=f"{name}: the longest send while the spool is locked",
        unit="ms",
        at_most=patience_ms + _SLACK_MS,
        rounds=[one["max"] for one in sends],
        parts={
            "send_timeout ms": patience_ms,
            "median ms": statistics.median(one["p50"] for one in sends),
            "longest of all rounds ms": max(one["max"] for one in sends),
        },
    )
    for fsync in ("everysec", "always"):
        yield compare_sends(name, fsync, rounds, threads)


def judge_gaps(
    key: str,
    asks: str,
    rounds: Sequence[Measured],
    phase: str,
    more: Mapping[str, float] | None = None,
) -> Figure:
    gaps, idle = pick(rounds, phase, "p99"), pick(rounds, "idle", "p99")
    return Figure(
        key=key,
        asks=asks,
        unit="ms",
        at_most=_MOST_GAP_MS,
        rounds=gaps,
        parts={
            "times the idle loop's p99": statistics.median(divide(gaps, idle)),
            "p50 ms": statistics.median(pick(rounds, phase, "p50")),
            "longest ms": statistics.median(pick(rounds, phase, "max")),
            **(more or {}),
            "idle p50 ms": statistics.median(pick(rounds, "idle", "p50")),
            "idle p99 ms": statistics.median(idle),
            "idle longest ms": statistics.median(pick(rounds, "idle", "max")),
        },
    )


def compare_sends(
    name: str, fsync: str, rounds: Sequence[Measured], threads: Sequence[Measured]
) -> Figure:
    what = f"send_{fsync}_us"
    ours, theirs = pick(rounds, what, "p50"), pick(threads, what, "p50")
    return Figure(
        key=f"{name}_send_{fsync}",
        asks=f"{name}: a send, fsync={fsync} / the thread backend's",
        unit="x",
        rounds=divide(ours, theirs),
        parts={
            "p50 us": statistics.median(ours),
            "p99 us": statistics.median(pick(rounds, what, "p99")),
            "thread p50 us": statistics.median(theirs),
            "thread p99 us": statistics.median(pick(threads, what, "p99")),
        },
    )


def pick(rounds: Sequence[Measured], phase: str, part: str) -> list[float]:
    return [one[phase][part] for one in rounds]


def describe(
    event: Captured, scale: Scale, measured: Mapping[str, Sequence[Measured]]
) -> dict[str, object]:
    def list_medians(what: Callable[[Measured], float]) -> str:
        return ", ".join(
            f"{name} {statistics.median(map(what, rounds)):.3g}"
            for name, rounds in measured.items()
        )

    libraries = dict.fromkeys(need for name in _LOOPS for need in BACKENDS[name].needs[:1])
    return {
        "rounds": scale.rounds,
        "libraries": ", ".join(f"{name} {version(name)}" for name in libraries),
        "wire_bytes": event.wire_bytes,
        "events_drained_per_second": list_medians(
            lambda one: (scale.backlog + 1) / one["drain_seconds"]
        ),
        "first_send_of_a_process_ms": list_medians(lambda one: one["first_send_ms"]),
        "ticker_in_a_thread_of_the_thread_backend's_process": ", ".join(
            f"{phase} p99 {statistics.median(pick(measured['thread'], phase, 'p99')):.3g} ms"
            for phase in ("idle", "drain", "locked")
        ),
    }


if __name__ == "__main__":
    main()
