"""The named points between two lines that touch disk or network.

They are named from outside: a child wraps the function and sends itself a signal before or after
its n-th call. Production code knows nothing of it.
"""

import importlib
import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Point:
    """One call of one function, and the side of it on which the process dies, or stops."""

    owner: str  # "module:Class", or "module:" for a function
    name: str
    side: str
    nth: int
    signal: int = signal.SIGKILL

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
                os.kill(os.getpid(), self.signal)
            result = original(*args, **options)
            if is_it and self.side == "after":
                os.kill(os.getpid(), self.signal)
            return result

        setattr(owner, self.name, wrapped)


Name = tuple[str, str]

# What happens while events come and go: often, and once or twice in a process's life.
OFTEN: list[Name] = [
    ("spool.queue:EventQueue", "insert"),
    ("spool.queue:EventQueue", "ack_many"),
    ("spool.queue:EventQueue", "note_start"),
    ("spool.queue:EventQueue", "claimable"),
    ("spool.queue:EventQueue", "fetch"),
    ("spool.gate:Gate", "acquire"),
    ("spool.gate:Gate", "release"),
    ("spool.gate:Gate", "hint"),
    ("spool.intake:Intake", "_insert"),
    ("spool.intake:Intake", "_commit_batch"),
    ("spool.leader:Leadership", "still_leads"),
    ("spool.leader:Leadership", "take"),
    ("spool.wake:Bell", "ring"),
    ("spool.wake:Bell", "silence"),
    ("drain.outcomes:Outcomes", "take"),
    ("senders.urllib:UrllibSender", "send"),
]
SELDOM: list[Name] = [
    ("spool.queue:EventQueue", "_prepare"),
    ("spool.queue:EventQueue", "note_attempt"),
    ("spool.queue:EventQueue", "note_answer"),
    ("spool.queue:EventQueue", "move"),
    ("spool.queue:EventQueue", "list_dead"),
    ("spool.queue:EventQueue", "forget_graves"),
    ("spool.lanes", "hold_lane"),
    ("spool.lanes", "open_lane"),
    ("spool.lanes", "_make_lane"),
    ("spool.lanes", "forget_backoff"),
    ("spool.store", "read_limits"),
    ("spool.leader", "_acquire"),
    ("spool.leader", "_raise_epoch"),
    ("spool.leader", "_stand_down"),
    ("spool.leader", "_write_record"),
    ("spool.leader:Leadership", "let_go"),
    ("spool.keeper:Keeper", "beat"),
    ("spool.store:Store", "close"),
    ("spool.places:DiskPlace", "locate"),
    ("spool.places:DiskPlace", "sync"),
]
# What happens once, when a spool is made.
FIRST: list[Name] = [
    ("spool.places", "make_directory"),
    ("spool.gate", "open_private"),
    ("spool.gate", "open_fifo"),
    ("spool.places", "create_directory"),
    ("spool.places", "create_private"),
    ("spool.places", "replace"),
    ("spool.places", "sync_directory"),
    ("spool.places:DiskPlace", "begin"),
    ("spool.places:DiskPlace", "publish"),
    ("spool.queue:EventQueue", "_prepare"),
    ("spool.schema", "create"),
    ("spool.store:Store", "_connect"),
]


def steady_points(seed: int) -> Iterator[Point]:
    """Each point of a running process, on both sides, again and again."""
    chance = random.Random(seed)
    while True:
        for owner, name in OFTEN + SELDOM:
            nth = chance.choice((1, 2, 4)) if (owner, name) in OFTEN else 1
            for side in ("before", "after"):
                yield Point(owner, name, side, nth)
