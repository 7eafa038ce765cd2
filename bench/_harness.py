"""What the benchmarks share: interleaved rounds, figures and targets, the machine, JSON, table."""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_PACKAGES = ("raven-spool", "persist-queue", "raven", "requests", "urllib3", "filelock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One question and its answer: the median of the rounds against a target."""

    key: str
    asks: str
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    rounds: Sequence[float]
    parts: Mapping[str, float] = field(default_factory=dict)  # what the value was made from

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def is_met(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "value": self.value, "is_met": self.is_met}


def take_rounds(
    contestants: Mapping[str, Callable[[], T]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[T]]:
    """Each contestant once a round, and every other round in the opposite order.

    What else the machine does then falls on all alike. The round that warms up is not counted.
    """
    results: dict[str, list[T]] = {name: [] for name in contestants}
    order = list(contestants)
    for number in range(rounds + warm_up):
        for name in order if number % 2 else reversed(order):
            result = contestants[name]()
            if number >= warm_up:
                results[name].append(result)
        _show_progress(number + 1, rounds + warm_up)
    return results


def _show_progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r  round {done} of {of}", end="\n" if done == of else "", file=sys.stderr)


def divide(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round: what slowed both down in a round does not show in its quotient."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def measure_seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def summarize(parts: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in parts.items()}


# -- the command line and what comes out ----------------------------------------------------------


def read_arguments(what: str, *extra: tuple[str, Mapping[str, Any]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--out", type=Path, help="write all rounds to this file, as JSON")
    parser.add_argument("--quick", action="store_true", help="few and short rounds, for CI")
    parser.add_argument("--dir", help="where the files are made (default: the temporary directory)")
    for name, options in extra:
        parser.add_argument(name, **options)
    return parser.parse_args()


@contextmanager
def scratch_directory(parent: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="raven-spool-bench-", dir=parent) as path:
        yield Path(path)


def publish(
    figures: Sequence[Figure], arguments: argparse.Namespace, conditions: Mapping[str, Any]
) -> None:
    """A table for people, JSON for the plots. Missing a target is a finding, not an error."""
    _print_table(figures)
    for name, value in conditions.items():
        print(f"  {name.replace('_', ' ')}: {value}")
    if arguments.out:
        record = {
            "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "quick": arguments.quick,
            "machine": describe_machine(),
            "conditions": dict(conditions),
            "figures": [figure.record() for figure in figures],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def _print_table(figures: Sequence[Figure]) -> None:
    for figure in figures:
        mark = "ok" if figure.is_met else "MISSED"
        if figure.at_most is None and figure.at_least is None:
            mark = ""
        value = f"{figure.value:.3g} {figure.unit}"
        print(f"  {figure.asks:<62} {value:>12}  {describe_target(figure.record()):<13} {mark}")
        if figure.parts:
            print("    " + ", ".join(f"{name} {part:.4g}" for name, part in figure.parts.items()))


def describe_target(record: Mapping[str, Any]) -> str:
    if record["at_most"] is not None:
        return f"at most {record['at_most']:g}"
    return f"at least {record['at_least']:g}" if record["at_least"] is not None else ""


def describe_machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load_average": os.getloadavg()[0],
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
