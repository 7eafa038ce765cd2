"""Draining a spool to its end: as its leader, or beside the process that leads.

Whether we lead is settled here, before any worker starts: who leads drives workers, who doesn't
watches the leader's progress and is there when it dies.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from raven_spool import backends
from raven_spool.config import Options
from raven_spool.flusher import make_drain
from raven_spool.model import Destination, Lane
from raven_spool.runtimes.thread import ThreadRuntime
from raven_spool.senders import Sender
from raven_spool.spool import Spool, native
from raven_spool.spool.leader import STALLED_AFTER_SECONDS, LeaderRecord

_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 0.5  # for what is in flight when the time is up or Ctrl-C was pressed
_WATCHED_SECONDS = 1.0  # a record can be old because this host slept: see it stand still ourselves
_TROUBLES = 3

Watch = Callable[[], None]


class Ending(Enum):
    """Why nothing more is being sent."""

    SETTLED = "empty, or nothing may be sent now"
    OUT_OF_TIME = "the time is up"
    LIMIT_REACHED = "as many were sent as were asked for"
    MOVED = "the lead has changed hands"
    STALLED = "another process leads and does not move"
    TROUBLE = "the spool could not be drained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How far to go."""

    concurrency: int
    limit: int | None = None
    deadline: float | None = None  # in ticks
    sender: str | None = None  # for the events of senders that this program has not

    def can_send(self, name: str) -> bool:
        return self.sender is not None or backends.can_send(name)

    def make_sender(self, name: str) -> Sender:
        known = self.sender is None or backends.can_send(name)
        made: Sender = backends.make_sender(name if known else str(self.sender))
        return made

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def reaches(self, at: float, now: float) -> bool:
        """Whether there is time to wait for `at`."""
        return self.deadline is not None and at - now <= self.deadline - time.monotonic()


def flush(spool: Spool, options: Options, wish: Wish, watch: Watch) -> Ending:
    """Deliver what can be delivered now; `watch` is called about ten times a second.

    Crash:
        What was not acked is ready, and will be sent again.
    """
    _salvage(spool, watch)
    spool.forget_backoff()
    troubles = 0
    while spool.stats()["ready"]:
        if spool.leadership.take_if_free():
            ending = _lead(spool, options, wish, watch)
            troubles += ending is Ending.MOVED
        else:
            ending = _follow(spool, wish, watch)
        if troubles == _TROUBLES:
            return Ending.TROUBLE
        if ending is not Ending.MOVED:
            return ending
    return Ending.SETTLED


def _salvage(spool: Spool, watch: Watch) -> None:
    """Events of a file that broke: a leader brings them back, and there may be none."""
    if spool.leadership.take_if_free():
        while spool.salvage.step()[0]:
            watch()


# -- leading --------------------------------------------------------------------------------------


def _lead(spool: Spool, options: Options, wish: Wish, watch: Watch) -> Ending:
    drain = make_drain(spool, options, workers=wish.concurrency, can_send=wish.can_send)
    drain.limit = wish.limit
    drain.finish(time.monotonic() if wish.deadline is None else wish.deadline)
    runtime = ThreadRuntime(drain, wish.make_sender)
    try:
        runtime.wake()
        while not runtime.join(_LOOK_SECONDS):
            watch()
            if wish.is_late:
                return Ending.OUT_OF_TIME
        if not spool.leadership.is_held:
            return Ending.MOVED
        return Ending.LIMIT_REACHED if drain.limit == 0 else Ending.SETTLED
    finally:
        drain.stop()
        runtime.join(_GRACE_SECONDS)
        drain.end()


# -- following ------------------------------------------------------------------------------------


def _follow(spool: Spool, wish: Wish, watch: Watch) -> Ending:
    began = spool.stats()["ready"]
    seen: tuple[Any, ...] = ()
    seen_ticks = time.monotonic()
    while True:
        watch()
        ready, record = spool.stats()["ready"], spool.leadership.look()
        if (ready, record) != seen:
            seen, seen_ticks = (ready, record), time.monotonic()
        if not ready or _all_held(spool, wish, time.time()):
            return Ending.SETTLED
        if wish.limit is not None and began - ready >= wish.limit:
            return Ending.LIMIT_REACHED
        if spool.leadership.take_if_free():
            return Ending.MOVED
        if wish.is_late:
            return Ending.OUT_OF_TIME
        if _does_not_move(record, time.monotonic() - seen_ticks, time.time()):
            return Ending.STALLED
        _pause()


def _pause() -> None:
    native.sleep(_LOOK_SECONDS)


def _all_held(spool: Spool, wish: Wish, now: float) -> bool:
    """Whether the leader has tried again, or may not, and it is no use to wait for it."""
    opens = [hold.open_at if hold else 0.0 for _, _, hold in ready_lanes(spool)]
    return bool(opens) and min(opens) > now and not wish.reaches(min(opens), now)


def _does_not_move(record: LeaderRecord | None, watched_seconds: float, now: float) -> bool:
    if record is None:  # the lock is held and its holder says nothing
        return watched_seconds >= STALLED_AFTER_SECONDS
    return watched_seconds >= _WATCHED_SECONDS and record.is_stalled(now)


def ready_lanes(spool: Spool) -> list[tuple[Lane, Destination, Lane | None]]:
    """The lanes with ready events, and what holds each: itself, its destination, or nothing."""
    lanes = spool.all_lanes()
    whole = {lane.destination_id: lane for lane, _ in lanes if not lane.category}
    found: list[tuple[Lane, Destination, Lane | None]] = []
    for lane, destination in lanes:
        if lane.ready:
            longest = max(lane, whole[lane.destination_id], key=lambda one: one.open_at)
            # open_at 0: forgotten by a flush, and not tried since
            found.append((lane, destination, longest if longest.hold and longest.open_at else None))
    return found
