"""SIGKILL at every named point between two lines that touch disk or network, and at random ones.

The points are named from outside: a child wraps the function and kills itself before or after
its n-th call. Production code knows nothing of it.
"""

import importlib
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.children import Child, Notes, wait_for_ever
from tests.faults.events import (
    check_nothing_lost,
    count_repeats,
    make_transport,
    new_id,
    read_ledger,
    send,
)
from tests.support.answers import Answer, drop, half, limits, ok, reset, status
from tests.support.ingest import Ingest
from tests.support.waiting import wait_until

WORKERS = 4
UNACKED = 32  # what the design allows beside one a worker
KILLS = 200
SOAK_KILLS = 1000
_WRITERS = 3
_LIFE_SECONDS = 0.3  # a point that is not reached by then: the kill comes anyway


@dataclass(frozen=True, slots=True)
class Point:
    """One call of one function, and the side of it on which the process dies."""

    owner: str  # "module:Class", or "module:" for a function
    name: str
    side: str
    nth: int

    def __str__(self) -> str:
        return f"{self.side} {self.owner.rpartition('.')[2]}.{self.name} #{self.nth}"

    def arm(self) -> None:
        module, _, kind = self.owner.partition(":")
        owner = importlib.import_module(f"raven_spool.{module}")
        owner = getattr(owner, kind) if kind else owner
        original: Callable[..., Any] = getattr(owner, self.name)
        calls = itertools.count(1)

        def wrapped(*args: Any, **options: Any) -> Any:
            is_it = next(calls) == self.nth
            if is_it and self.side == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **options)
            if is_it:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, self.name, wrapped)


# What happens while events come and go: often, and once or twice in a process's life.
OFTEN = [
    ("spool.queue:EventQueue", "insert"),
    ("spool.queue:EventQueue", "ack_many"),
    ("spool.queue:EventQueue", "note_start"),
    ("spool.queue:EventQueue", "claimable"),
    ("spool.queue:EventQueue", "fetch"),
    ("spool.gate:Gate", "acquire"),
    ("spool.gate:Gate", "release"),
    ("spool.wake:Bell", "ring"),
    ("senders.urllib:UrllibSender", "send"),
]
SELDOM = [
    ("spool.queue:EventQueue", "_prepare"),
    ("spool.queue:EventQueue", "note_attempt"),
    ("spool.queue:EventQueue", "note_answer"),
    ("spool.queue:EventQueue", "move"),
    ("spool.lanes", "hold_lane"),
    ("spool.lanes", "open_lane"),
    ("spool.lanes", "_make_lane"),
    ("spool.leader", "_acquire"),
    ("spool.leader", "_raise_epoch"),
    ("spool.leader", "_write_record"),
    ("spool.places:DiskPlace", "locate"),
    ("spool.places:DiskPlace", "sync"),
]
# What happens once, when a spool is made.
FIRST = [
    ("spool.places", "make_directory"),
    ("spool.gate", "open_fifo"),
    ("spool.places", "create_private"),
    ("spool.places", "replace"),
    ("spool.places", "sync_directory"),
    ("spool.places:DiskPlace", "begin"),
    ("spool.places:DiskPlace", "publish"),
    ("spool.queue:EventQueue", "_prepare"),
    ("spool.schema", "create"),
    ("spool.store:Store", "_connect"),
]


def _steady_points(seed: int) -> Iterator[Point]:
    chance = random.Random(seed)
    while True:
        for owner, name in OFTEN + SELDOM:
            nth = chance.choice((1, 2, 4)) if (owner, name) in OFTEN else 1
            for side in ("before", "after"):
                yield Point(owner, name, side, nth)


def live(path: Path, url: str, returned: Path, point: Point | None, backend: str) -> None:
    """Writers in threads and a flusher, until the kill."""
    if point is not None:
        point.arm()
    transport = make_transport(path, concurrency=WORKERS, backend=backend)
    notes = Notes(returned)

    def write() -> None:
        for _ in range(10):
            notes.write(send(transport, url, new_id()))

    for _ in range(_WRITERS):
        threading.Thread(target=write).start()
    wait_for_ever()


def drain_all(path: Path, url: str) -> None:
    transport = make_transport(path)
    send(transport, url)
    assert transport.flush(60)
    transport.close()


def _flap(chance: random.Random) -> Answer:
    good = (ok(), ok(), ok(), ok())
    bad = (status(503), status(400), limits("0.02:error:key"), reset(), drop(), half())
    return chance.choice(good + bad)


def _kill_many(path: Path, returned: Notes, kills: int, ingest: Ingest) -> list[int]:
    """Two processes at a time, one killed at a named point, one at a random instant.

    Returns what each round added to the repeated deliveries.
    """
    chance = random.Random(kills)
    points = _steady_points(kills)
    repeats, reached = [0], 0
    for number in range(kills // 2):
        backend = "none" if number % 3 else "thread"  # now and then both want to lead
        with (
            Child(live, path, ingest.url, returned.path, next(points), "thread") as armed,
            Child(live, path, ingest.url, returned.path, None, backend) as other,
        ):
            reached += _dies_alone(armed, _LIFE_SECONDS)
            _dies_alone(other, chance.uniform(0, 0.05))
        if number % 10 == 9:  # refused connections as well
            ingest.stop()
            ingest.start()
        repeats.append(count_repeats(ingest))
    assert reached > kills // 5, f"only {reached} named points were reached"
    return [after - before for before, after in itertools.pairwise(repeats)]


def _dies_alone(child: Child, seconds: float) -> bool:
    """Whether its point was reached; else it is killed now."""
    try:
        wait_until(lambda: not child.is_alive, timeout_seconds=seconds)
    except TimeoutError:
        child.kill()
        return False
    return True


def _torture(path: Path, returned: Notes, kills: int) -> None:
    chance = random.Random(1)
    with Ingest() as ingest:
        with Child(enqueue_some, path, ingest.url, returned.path, None) as first:
            assert first.join() == 0
        made = (path / "current").read_text()
        ingest.answer_by(lambda seen: _flap(chance))
        repeats = _kill_many(path, returned, kills, ingest)
        assert max(repeats) <= 2 * (WORKERS + UNACKED)
        ingest.answer_with(ok())
        with Child(drain_all, path, ingest.url) as last:
            assert last.join(90) == 0
        check_nothing_lost(returned.read(), ingest, path)
        ledger = read_ledger(path)
        assert ledger["ready"] == ledger["dropped"] == 0
        assert ledger["accepted"] >= len(returned.read())
        assert ledger["delivered"] <= len(set(ingest.event_ids()))
    assert (path / "current").read_text() == made  # never a reason to begin another file


def test_kills_at_named_and_random_instants_lose_nothing(tmp_path: Path) -> None:
    _torture(tmp_path / "spool", Notes(tmp_path / "returned"), KILLS)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_thousand_kills_lose_nothing(tmp_path: Path) -> None:
    _torture(tmp_path / "spool", Notes(tmp_path / "returned"), SOAK_KILLS)


def enqueue_some(path: Path, url: str, returned: Path, point: Point | None) -> None:
    if point is not None:
        point.arm()
    transport = make_transport(path, backend="none")
    for _ in range(5):
        Notes(returned).write(send(transport, url))


@pytest.mark.parametrize(
    "point",
    [Point(owner, name, side, 1) for owner, name in FIRST for side in ("before", "after")],
    ids=str,
)
def test_a_kill_while_a_spool_is_made_leaves_one_that_opens(tmp_path: Path, point: Point) -> None:
    path, returned = tmp_path / "spool", Notes(tmp_path / "returned")
    with Ingest() as ingest:
        with Child(enqueue_some, path, ingest.url, returned.path, point) as killed:
            assert killed.join() == -signal.SIGKILL
        with (
            Child(enqueue_some, path, ingest.url, returned.path, None) as one,
            Child(enqueue_some, path, ingest.url, returned.path, None) as other,
        ):
            assert one.join() == other.join() == 0
        check_nothing_lost(returned.read(), ingest, path)
        assert read_ledger(path)["ready"] == len(returned.read())
