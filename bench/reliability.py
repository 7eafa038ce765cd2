"""The same faults against raven_spool, raven 6.10.0, sentry-sdk and two peers that store on disk.

    .venv/bin/pip install -e '.[peers]'
    .venv/bin/python bench/reliability.py --out docs/figures/reliability.json
    .venv/bin/python bench/_page.py

In each cell programs of a contestant capture while the server, the disk or the program itself is in
trouble. Then the server is well, a last program captures one more event and flushes. Counted is
what became of the events whose capture had returned. Each contestant has its own defaults.
"""

import json
import os
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from _cells import AT_ONCE
from _comparison import list_scenarios
from _harness import describe_machine, read_arguments, scratch_directory
from _trial import Contestant, Trial, read_ids, wait_a_while

from tests.support.answers import Answer, half, html, reset, silence, slow, status, too_many
from tests.support.ingest import Ingest

_EVENTS = 20
_BACKLOG = 200
_ROUNDS = 20  # of kills
_PROCESSES = 8
_LIMIT_SECONDS = 5
_LARGEST_FILE_BYTES = 8192
_SHIFT_SECONDS = 55 * 60  # Relay moves an event's time if `sent_at` is that far off

Result = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is done to a contestant, for which of the promises (docs/reliability.md)."""

    promise: int
    key: str
    title: str
    go: Callable[[Trial], Result]
    stores: bool = False  # makes sense with a store only


CONTESTANTS = [
    Contestant(name="raven_spool", who="raven_spool", package="raven-spool", files="g-*/data.db"),
    Contestant(name="raven, threaded (its default)", who="raven", package="raven"),
    Contestant(name="raven, sync", who="raven-sync", package="raven"),
    Contestant(name="sentry-sdk", who="sentry-sdk", package="sentry-sdk"),
    Contestant(
        name="sentry-offline-transport",
        who="sentry-offline",
        package="sentry-offline-transport",
        files="*",
    ),
    Contestant(
        name="python-logstash-async",
        who="logstash",
        package="python-logstash-async",
        files="events.db",
    ),
]


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    os.umask(0o022)
    with scratch_directory(arguments.dir) as directory:
        contestants = [
            {"name": one.name, "cells": measure(one, directory / one.who)} for one in CONTESTANTS
        ]
    record = {
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": arguments.quick,
        "machine": describe_machine(),
        "conditions": {
            "contestants": ", ".join(
                sorted({f"{one.package} {find_version(one.package)}" for one in CONTESTANTS})
            ),
            "events of each program": _EVENTS,
        },
        "scenarios": [
            {"promise": one.promise, "key": one.key, "title": one.title} for one in SCENARIOS
        ],
        "contestants": contestants,
    }
    print("\n".join(list_scenarios(record)))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def measure(contestant: Contestant, directory: Path) -> dict[str, Result]:
    """A cell for each scenario; none where the package is not installed."""
    if find_version(contestant.package) == "not installed":
        return {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        cells = pool.map(lambda scenario: fill(contestant, scenario, directory), SCENARIOS)
        return {one.key: cell for one, cell in zip(SCENARIOS, cells, strict=True)}


def fill(contestant: Contestant, scenario: Scenario, directory: Path) -> Result:
    if scenario.stores and not contestant.files:
        return {"why": "stores nothing"}
    place = directory / scenario.key
    place.mkdir(parents=True)
    with Ingest() as server:
        return scenario.go(Trial(contestant, server, place))


# -- what is done ---------------------------------------------------------------------------------


def end(trial: Trial, ending: str = "exit") -> Result:
    trial.run(_EVENTS, ending)
    rows = trial.diary()
    trial.finish()
    return trial.count(rows)


def go_away(trial: Trial) -> Result:
    trial.server.stop()
    return end(trial)


def answer(trial: Trial, with_: Answer) -> Result:
    trial.server.answer_with(with_)
    return end(trial)


def kill_at_random(trial: Trial) -> Result:
    chance = random.Random(1)
    for _ in range(_ROUNDS):
        before = len(trial.diary())
        with trial.running(10_000, "exit", pause=0.005) as process:
            wait_a_while(lambda before=before: len(trial.diary()) > before, process)
            time.sleep(chance.uniform(0, 0.3))
    rows = trial.diary()
    trial.finish()
    return trial.count(rows)


def fill_the_disk(trial: Trial) -> Result:
    trial.run(1)
    before = len(trial.diary())
    trial.run(_EVENTS, largest_file=_LARGEST_FILE_BYTES)
    rows = trial.diary()[before:]
    trial.finish()
    return trial.count(rows)


def overwrite_headers(trial: Trial, *, later: bool) -> Result:
    trial.server.stop()
    trial.run(_EVENTS)
    before = trial.diary()
    for path in trial.store_files():
        with path.open("r+b") as file:
            file.write(b"\xff" * 100)
    trial.server.start()
    trial.run(_EVENTS)
    after = trial.diary()[len(before) :]
    trial.finish()
    return trial.count(after if later else before)


def kill_the_draining(trial: Trial) -> Result:
    trial.server.stop()
    trial.run(_BACKLOG)
    stored = trial.list_kept()
    rows = [row for row in trial.diary() if row["id"] in stored]
    trial.server.start()
    trial.server.answer_with(slow(0.02))
    for _ in range(5):
        goal = trial.arrivals().total() + 10
        with trial.running(1, "stay") as process:
            wait_a_while(lambda goal=goal: trial.arrivals().total() >= goal, process)
    trial.finish()
    return trial.count(rows)


def time_captures(trial: Trial, trouble: Callable[[Ingest], object]) -> Result:
    trouble(trial.server)
    trial.run(_EVENTS)
    rows = trial.diary()
    took = [row["ms"] for row in rows]
    measured = {
        "ms median": f"{statistics.median(took):.2g}",
        "ms worst": f"{max(took):.0f}",
        "raised": sum("raised" in row for row in rows),
    }
    return {"measured": measured}


def share_among_processes(trial: Trial) -> Result:
    trial.server.stop()
    with ExitStack() as stack:
        many = [stack.enter_context(trial.running(_EVENTS, "exit")) for _ in range(_PROCESSES)]
        for process in many:
            process.wait()
    rows = trial.diary()
    trial.finish()
    return trial.count(rows)


def fork(trial: Trial) -> Result:
    trial.run(_EVENTS, "stay", forks=True)
    rows = trial.diary()
    trial.finish()
    return trial.count(rows)


def come_back(trial: Trial) -> Result:
    trial.server.stop()
    trial.run(_BACKLOG)
    trial.server.start()
    with trial.running(1, "stay") as process:
        wait_a_while(lambda: count_requests(trial, 1) and False, process)
    return {"measured": {"requests": count_requests(trial, 1)}}


def limit(trial: Trial) -> Result:
    trial.server.answer_with(too_many(str(_LIMIT_SECONDS)))
    trial.run(_EVENTS, pause=0.1)
    return {"measured": {"requests": count_requests(trial, _LIMIT_SECONDS)}}


def count_requests(trial: Trial, seconds: float) -> int:
    """In so many seconds from the first one on."""
    at = [seen.at for seen in trial.server.requests]
    return sum(one < at[0] + seconds for one in at)


def come_late(trial: Trial) -> Result:
    trial.server.stop()
    trial.run(1, days_ago=2)
    (row,) = trial.diary()
    trial.finish()
    for seen in trial.server.requests:
        if row["id"] in read_ids(seen):
            return {"measured": {"days old, as shown": f"{days_shown(seen.body, seen.at):.1f}"}}
    return trial.count([row])


def days_shown(body: bytes, received_at: float) -> float:
    """By Relay's rule: all times of an event move if its envelope's `sent_at` is far off."""
    lines = [json.loads(line) for line in body.splitlines() if line.startswith((b"{", b"["))]
    event = lines[-1][0] if isinstance(lines[-1], list) else lines[-1]
    drift = 0.0
    if "sent_at" in lines[0]:
        drift = received_at - read_instant(lines[0]["sent_at"])
    shown = read_instant(event.get("timestamp") or event["@timestamp"])
    shown += drift if abs(drift) >= _SHIFT_SECONDS else 0
    return (received_at - shown) / 86400


def read_instant(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def look_at_files(trial: Trial) -> Result:
    trial.server.stop()
    trial.run(_EVENTS)
    files = [path for path in trial.store.rglob("*") if path.is_file()]
    modes = sorted({f"{path.stat().st_mode & 0o777:04o}" for path in files})
    directory = f"{trial.store.stat().st_mode & 0o777:04o}"
    return {"measured": {f"in a directory {directory}": " and ".join(modes)}}


SCENARIOS = [
    Scenario(promise=1, key="exit", title="server up, a normal end", go=end),
    Scenario(
        promise=1,
        key="kill",
        title="SIGKILL after the last capture",
        go=partial(end, ending="kill"),
    ),
    Scenario(
        promise=1,
        key="random",
        title=f"SIGKILL at random instants, {_ROUNDS} times",
        go=kill_at_random,
    ),
    Scenario(promise=1, key="_exit", title="`os._exit`", go=partial(end, ending="_exit")),
    Scenario(promise=2, key="away", title="server away, and back", go=go_away),
    *(
        Scenario(promise=2, key=key, title=title, go=partial(answer, with_=with_))
        for key, title, with_ in [
            ("500", "500, then well", status(500)),
            ("503", "503, then well", status(503)),
            ("429", "429 with Retry-After, then well", too_many("1")),
            ("reset", "resets, then well", reset()),
            ("silent", "silence, then well", silence()),
            ("half", "half answers, then well", half()),
            ("html", "a captive portal's 200, then well", html()),
        ]
    ),
    Scenario(promise=2, key="disk", title="no file may grow, server up", go=fill_the_disk),
    Scenario(
        promise=2,
        key="header-later",
        title="store's header overwritten: events after it",
        go=partial(overwrite_headers, later=True),
        stores=True,
    ),
    Scenario(
        promise=2,
        key="header-before",
        title="store's header overwritten: events before it",
        go=partial(overwrite_headers, later=False),
        stores=True,
    ),
    Scenario(
        promise=3,
        key="drain",
        title="SIGKILL five times while it drains, of what was stored",
        go=kill_the_draining,
        stores=True,
    ),
    Scenario(
        promise=4,
        key="ms-away",
        title="a capture's time, server away",
        go=partial(time_captures, trouble=lambda server: server.stop()),
    ),
    Scenario(
        promise=4,
        key="ms-silent",
        title="a capture's time, server silent",
        go=partial(time_captures, trouble=lambda server: server.answer_with(silence())),
    ),
    Scenario(
        promise=5,
        key="processes",
        title=f"{_PROCESSES} processes at once, server away, and back",
        go=share_among_processes,
    ),
    Scenario(
        promise=5, key="fork", title="fork after the first capture; the child captures", go=fork
    ),
    Scenario(
        promise=6,
        key="back",
        title=f"first second after an outage, {_BACKLOG} events stored",
        go=come_back,
        stores=True,
    ),
    Scenario(
        promise=6,
        key="limit",
        title=f"{_EVENTS} captures while a Retry-After of {_LIMIT_SECONDS} s runs",
        go=limit,
    ),
    Scenario(promise=7, key="late", title="an event that is two days late", go=come_late),
    Scenario(
        promise=8,
        key="modes",
        title="modes of the store's files, umask 022",
        go=look_at_files,
        stores=True,
    ),
]


if __name__ == "__main__":
    main()
