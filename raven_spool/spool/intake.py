"""Enqueueing: threads that come at the same time share one transaction.

A thread leaves its event with a ticket. If nobody is committing, it commits all that wait, its
own among them; else it waits for its ticket. Whoever has committed hands the lead to the first
that still waits. A ticket whose thread gave up after `send_timeout` (a stopped process holds the
gate), came in from a signal handler, or was thrown out by an exception stays where it is: the
waiting line is the memory buffer, and the next committer or the keeper takes it along.
"""

import functools
import json
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from raven_spool.errors import SpoolBusy, SpoolError, SpoolUncertain
from raven_spool.model import Destination, Event, Headers
from raven_spool.spool import fork, native
from raven_spool.spool.lanes import LaneBook
from raven_spool.spool.room import Room
from raven_spool.spool.rows import Row
from raven_spool.spool.sealing import Seal
from raven_spool.spool.store import Reentered, Store
from raven_spool.spool.stored import checksum

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

# A transaction of 64 rows takes about 2 ms: more would show as latency, not as throughput.
_BATCH_EVENTS = 64
_BATCH_BYTES = 1 << 20
# The memory buffer's bounds: what a process may hold while nobody can write.
_WAITING_EVENTS = 1000
_WAITING_BYTES = 16 << 20
# How long a thread waits for its ticket before it looks for itself whether the lead is free: a
# lead handed to a thread that a signal has just thrown out must not be lost.
_LOOK_AGAIN_SECONDS = 0.02
_LOOKS = 10


class Ticket:
    __slots__ = (
        "body", "crc", "destination", "error", "event", "fate", "headers", "left", "row",
        "tried_after", "wake",
    )  # fmt: skip

    def __init__(self, event: Event, destination: Destination, stored: Event) -> None:
        """`stored`: the event as it may lie on the disk."""
        self.event = event
        self.headers = _headers_text(stored.headers)
        self.body = stored.body
        self.crc = checksum(self.headers, self.body)
        self.destination = destination
        self.row = 0  # its id in the file once it is committed, or TURNED_AWAY
        self.left = False  # nobody waits for it any more
        self.error: SpoolError | None = None
        self.tried_after: int | None = None  # a commit of it began when this was the last id
        self.wake = native.make_lock()
        self.wake.acquire()
        # Taken once, by the thread that leaves or by the committer that tells it an error: the
        # event must be in the line or in that thread's hands, never in both or neither.
        self.fate = native.make_lock()

    @property
    def done(self) -> bool:
        return self.row != 0

    def nudge(self) -> None:
        try:
            self.wake.release()
        except RuntimeError:
            pass  # nudged already

    def leave(self) -> None:
        """Its thread goes; the event stays in the line unless an error came first."""
        if not self.done and not self.fate.acquire(blocking=False):
            for _ in range(_LOOKS):  # the error is on its way
                if self.error is not None:
                    break
                self.wake.acquire(timeout=_LOOK_AGAIN_SECONDS)
        self.left = True

    def refuse(self, error: SpoolError) -> bool:
        """Hand the event back to its thread, if that is still there."""
        handed_back = self.fate.acquire(blocking=False)
        if handed_back:
            self.error = error
            self.nudge()
        return bool(handed_back)


class Intake:
    def __init__(
        self, store: Store, book: LaneBook, seal: Seal, on_commit: Callable[[], None]
    ) -> None:
        self._store = store
        self._seal = seal
        self._on_commit = on_commit  # once a commit, not once an event
        self._book = book
        self._room = Room()
        self._last: tuple[EventQueue | None, int] = (None, 0)
        self.trouble: SpoolError | None = None  # why the last commit failed, if it did
        self._start_life()
        fork.join(self)

    def _start_life(self) -> None:
        self._waiting: deque[Ticket] = deque()
        self._lead: Any = native.make_rlock()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def overflowed(self) -> int:
        """Events that had to give way to those of this process, or were turned away."""
        return self._room.overflowed

    def enqueue(self, event: Event, destination: Destination, timeout_seconds: float) -> int:
        """The event's id in the file; 0 if it waits in memory; TURNED_AWAY if it was dropped.

        Raises:
            SpoolError: the spool will not take it, now or soon; it does not wait.
        """
        waiting = self._waiting
        ticket = Ticket(event, destination, self._seal.close(event))
        self._check_room(event)
        try:
            waiting.append(ticket)
            if not self._lead._is_owned():
                self._see_through(ticket, waiting, time.monotonic() + timeout_seconds)
        finally:
            ticket.leave()
        if ticket.error is not None:
            raise ticket.error
        return ticket.row

    def _check_room(self, event: Event) -> None:
        if not self._waiting:
            return
        waiting = list(self._waiting)
        held = sum(len(ticket.event.body) for ticket in waiting)
        if (
            len(waiting) >= _WAITING_EVENTS
            or held + len(event.body) > _WAITING_BYTES + _BATCH_BYTES
        ):
            raise SpoolBusy(f"{len(waiting)} events wait in memory for the spool already")

    def _see_through(self, ticket: Ticket, waiting: deque[Ticket], deadline: float) -> None:
        # Another line than ours: a signal handler forked, and this is the child. What stands in
        # the line is the parent's.
        while waiting is self._waiting and not (ticket.done or ticket.error):
            remaining = deadline - time.monotonic()
            led = self._commit_if_free(waiting, remaining)
            if led is not None:
                _nudge_first(waiting)
            if led is False:
                return
            if ticket.done or ticket.error or remaining <= 0:
                return
            ticket.wake.acquire(timeout=min(remaining, _LOOK_AGAIN_SECONDS))

    def _commit_if_free(self, waiting: deque[Ticket], timeout_seconds: float) -> bool | None:
        """Commit what waits, as the one who leads. None: another thread leads. False: no luck."""
        lead = self._lead
        # As in Store.write: C calls alone in a `finally`, so that no signal leaves the lock held.
        try:
            if not lead.acquire(blocking=False):
                return None
            return self._commit_waiting(waiting, max(0.0, timeout_seconds))
        finally:
            try:
                lead.release()
            except RuntimeError:
                pass

    def _commit_waiting(self, waiting: deque[Ticket], timeout_seconds: float) -> bool:
        """One batch, and more while nobody waits for the first of the rest."""
        deadline = time.monotonic() + timeout_seconds
        while waiting and waiting is self._waiting:
            try:
                self._commit_batch(waiting, max(0.0, deadline - time.monotonic()))
                self.trouble = None
            except SpoolError as error:
                self.trouble = error.with_traceback(None)
                return False  # the line stays as it is; what was tried is marked
            first = _first(waiting)
            if first is not None and not first.left:
                break
        return True

    def _commit_batch(self, waiting: deque[Ticket], timeout_seconds: float) -> None:
        try:
            batch = self._store.write(
                functools.partial(self._insert, waiting=waiting),
                timeout_seconds,
                adds_events=True,
            )
        except (SpoolBusy, SpoolUncertain, Reentered):
            raise
        except SpoolError as error:
            self._refuse(waiting, error)
            raise
        for ticket in batch:
            waiting.popleft()
            ticket.nudge()
        self._on_commit()

    def _refuse(self, waiting: deque[Ticket], error: SpoolError) -> None:
        """Those whose threads wait hear of it; the others stay, for the keeper to place."""
        batch = _take(waiting)
        for _ in batch:
            waiting.popleft()
        waiting.extendleft(reversed([ticket for ticket in batch if not ticket.refuse(error)]))

    def _insert(self, queue: "EventQueue", waiting: deque[Ticket]) -> list[Ticket]:
        if waiting is not self._waiting:
            return []  # forked by a signal handler a moment ago: these are the parent's
        batch = _take(waiting)  # behind the gate: others have come while we waited for it
        if queue is not self._last[0]:
            self._last = (queue, queue.last_id())
        self._find_committed(queue, batch)
        fresh = [ticket for ticket in batch if not ticket.done]
        if fresh:
            rows = [self._row(queue, ticket) for ticket in fresh]
            for ticket in fresh:
                ticket.tried_after = self._last[1]
            ids = self._room.insert(queue, rows, self._store.limits)
            self._last = (queue, max(self._last[1], *ids))
            for ticket, key in zip(fresh, ids, strict=True):
                ticket.row = key
        return batch

    def _find_committed(self, queue: "EventQueue", batch: list[Ticket]) -> None:
        """A commit that raised, or whose thread was thrown out, may have happened: look first."""
        tried = [ticket for ticket in batch if ticket.tried_after is not None and not ticket.done]
        if not tried:
            return
        after = min(ticket.tried_after or 0 for ticket in tried)
        there = queue.find_recent([ticket.event.event_id for ticket in tried], after)
        for ticket in tried:
            ticket.row = there.get(ticket.event.event_id, 0)

    def _row(self, queue: "EventQueue", ticket: Ticket) -> Row:
        event = ticket.event
        return Row(
            lane=self._book.lane_id(queue, ticket.destination, event.category),
            timestamp=event.created_at,
            event_id=event.event_id,
            endpoint=event.endpoint,
            size=len(ticket.body),
            crc=ticket.crc,
            headers=ticket.headers,
            data=ticket.body,
        )

    # -- the keeper's part --------------------------------------------------------------------

    def commit_left(self, timeout_seconds: float) -> bool:
        """Commit what nobody waits for. Returns whether nothing is left."""
        self._commit_if_free(self._waiting, timeout_seconds)
        return not self._waiting

    def take_left(self) -> list[tuple[Event, Destination]]:
        """Give up on the spool for what nobody waits for: the caller has it from now on."""
        waiting, taken = self._waiting, []
        with self._lead:
            for _ in range(len(waiting)):
                ticket = waiting.popleft()
                if ticket.left and not ticket.done:
                    taken.append((ticket.event, ticket.destination))
                elif not ticket.done:
                    waiting.append(ticket)
        return taken

    # -- fork ---------------------------------------------------------------------------------

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None:
        self._start_life()  # what waits is the parent's


def _first(waiting: deque[Ticket]) -> Ticket | None:
    try:
        return waiting[0]
    except IndexError:
        return None


def _nudge_first(waiting: deque[Ticket]) -> None:
    """Hand over: whoever it was sees that the lead is free."""
    first = _first(waiting)
    if first is not None:
        first.nudge()


def _take(waiting: deque[Ticket]) -> list[Ticket]:
    batch: list[Ticket] = []
    total = 0
    for ticket in islice(list(waiting), _BATCH_EVENTS):
        total += len(ticket.event.body)
        if batch and total > _BATCH_BYTES:
            break
        batch.append(ticket)
    return batch


@functools.lru_cache(maxsize=256)
def _headers_text(headers: Headers) -> str:
    return json.dumps(headers)
