"""The spool: the verbs on one durable queue of events, for any number of threads and processes."""

import json
import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from raven_spool.errors import EventNotFound, SpoolCorrupt, SpoolFull
from raven_spool.model import Claimed, Destination, Event, Lane, State
from raven_spool.spool import lanes, schema
from raven_spool.spool.intake import Intake, checksum
from raven_spool.spool.keeper import Keeper
from raven_spool.spool.lanes import LaneBook
from raven_spool.spool.leader import Leadership
from raven_spool.spool.places import MEMORY
from raven_spool.spool.rows import StoredRow
from raven_spool.spool.store import Store
from raven_spool.spool.wake import Bell

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

T = TypeVar("T")
log = logging.getLogger("raven.spool")

DEFAULT_MAX_BYTES = 512 << 20
_PATIENCE_SECONDS = 1.0  # of the drain and the tools; `send` has its own
_CLAIM_BYTES = 4 << 20  # what a claim may bring into memory, one event at least
_EVICTED_AT_ONCE = 64
_EVICTION_PAGES = 64  # beyond the cap, while room is being made


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One stored event as the tools see it."""

    id: int
    state: State
    event: Event
    destination: Destination
    attempts: int
    next_attempt_at: float | None
    reason: str
    history: tuple[tuple[float, str], ...]


class Spool:
    """One spool directory. All methods are safe in threads, processes and across forks.

    Nothing is touched at construction. A path of ":memory:" gives a spool that lives and dies
    with the process: where events go that no disk will take.
    """

    def __init__(
        self,
        path: str,
        *,
        fsync: str = "everysec",
        max_bytes: int = DEFAULT_MAX_BYTES,
        overflow: str = "drop_oldest",
    ) -> None:
        self.path = path
        self._overflow = overflow
        self._store = Store(path, fsync=fsync, max_bytes=max_bytes)
        self._book = LaneBook()
        self._intake = Intake(self._store, self._book)
        self.keeper = Keeper(
            self._store, self._intake, syncs=fsync == "everysec" and path != MEMORY
        )
        self.leadership = Leadership(path, self._store)
        self._bell = Bell(path)

    @staticmethod
    def exists(path: str) -> bool:
        """Whether there is a spool; raises PermissionError where that can't be seen."""
        return os.path.exists(os.path.join(path, "current")) or (
            os.path.isdir(path) and not os.access(path, os.X_OK | os.R_OK)
        )

    # -- enqueue ------------------------------------------------------------------------------

    def enqueue(
        self, event: Event, destination: Destination, *, timeout_seconds: float = 0.2
    ) -> bool:
        """Commit one event.

        Returns:
            True: it is in the file. False: it is volatile, in memory, and will be committed as
            soon as the spool takes it.

        Raises:
            SpoolError: the spool will not take it (unusable, full, from a newer version).

        Crash:
            Before the return: it may or may not be there. After True: it is there.
        """
        for _ in range(3):
            try:
                return self._enqueue(event, destination, timeout_seconds)
            except SpoolCorrupt as error:
                self._quarantine(error)
            except SpoolFull:
                if not self._make_room():
                    raise
        return self._enqueue(event, destination, timeout_seconds)

    def _enqueue(self, event: Event, destination: Destination, timeout_seconds: float) -> bool:
        committed = self._intake.enqueue(event, destination, timeout_seconds)
        if committed:
            self.keeper.committed()
            self._bell.ring(self._store.generation)
        else:
            self.keeper.waits()
        return committed

    def _make_room(self) -> bool:
        """Where the spool has reached its own limit: drop the oldest, dead letters first."""
        return self._overflow == "drop_oldest" and self._write(_evict)

    @property
    def volatile(self) -> int:
        """Events of this process that wait in memory."""
        return self._intake.waiting

    # -- claim --------------------------------------------------------------------------------

    def lanes(self) -> list[Lane] | None:
        """All lanes; None if this process no longer leads."""
        return self._read(
            lambda queue: lanes.read_lanes(queue) if self.leadership.still_leads(queue) else None
        )

    def claim(
        self, lane: Lane, *, limit: int, now: float, skip: Collection[int] = ()
    ) -> list[Claimed]:
        """Up to `limit` due events of a lane, oldest first, without those in `skip`.

        Events whose bytes on disk have changed are buried on the way.

        Crash:
            Nothing was written: they are ready again at once.
        """
        rows: list[StoredRow] = self._read(
            lambda queue: queue.fetch(
                _without(queue.claimable(lane.id, now, limit + len(skip)), skip)[:limit],
                _CLAIM_BYTES,
            )
        )
        whole = [row for row in rows if _is_whole(row)]
        if len(whole) < len(rows):
            broken = [row.id for row in rows if not _is_whole(row)]
            self.bury(broken, "damaged on disk (its checksum does not match)", now)
        destination = self._destination(lane.destination_id)
        return [
            Claimed(
                id=row.id,
                generation=self._store.generation,
                lane=row.lane,
                destination=destination,
                event=_event(row, lane.category),
                attempts=row.attempts,
                last_unanswered=bool(row.unanswered),
                deaths=row.deaths,
            )
            for row in whole
        ]

    def next_due(self, lane: Lane) -> float | None:
        """When the first event of a lane may be tried, None if it has none."""
        return self._read(lambda queue: queue.next_due(lane.id))

    def expired(self, before: float, limit: int) -> list[int]:
        return self._read(lambda queue: queue.expired(before, limit))

    def _destination(self, destination_id: int) -> Destination:
        return self._read(lambda queue: self._book.destination(queue, destination_id))

    # -- what becomes of an event -------------------------------------------------------------

    def ack(self, claimed: Sequence[Claimed]) -> None:
        """Delivered: remove and count. Claims of another generation are no longer ours to ack.

        Crash:
            Before the commit they are sent again; after it they are gone. Twice is harmless.
        """
        ids = [one.id for one in claimed if one.generation == self._store.generation]
        if ids and self._write(lambda queue: queue.ack_many(ids)) < len(ids):
            self._write(lambda queue: queue.deliver_dropped(ids))
        self.keeper.committed()

    def nack(
        self, claimed: Claimed, *, now: float, due: float, what: str, unanswered: bool
    ) -> None:
        """Not delivered: count the attempt, note what happened, try again at `due` (0: in turn).

        Crash:
            Before the commit the attempt is not counted.
        """
        self._write(lambda queue: queue.note_attempt(claimed.id, now, what, due, unanswered))

    def note_start(self, claimed: Claimed) -> None:
        """Before a send that may end the process: count it as a death until it is answered."""
        self._write(lambda queue: queue.note_start(claimed.id))

    def note_answer(self, claimed: Claimed) -> None:
        """It was answered after all, and stays ready: its deaths are forgotten."""
        self._write(lambda queue: queue.note_answer(claimed.id))

    def bury(self, ids: Sequence[int], reason: str, now: float) -> None:
        """Make them dead letters, kept with the reason."""
        self._write(lambda queue: queue.move(ids, schema.DEAD, reason, now))

    def drop(self, ids: Sequence[int], reason: str) -> int:
        """Delete them, counted in the ledger under `reason`. Returns how many were there."""

        def move(queue: "EventQueue") -> int:
            queue.move(ids, schema.DROPPED, reason, 0.0)
            return queue.changes()

        return self._write(move)

    def revive(self, ids: Sequence[int]) -> int:
        """Make dead letters ready again, as if new. Returns how many were dead."""

        def move(queue: "EventQueue") -> int:
            queue.revive(ids)
            return queue.changes()

        revived = self._write(move)
        self._bell.ring(self._store.generation)
        return revived

    # -- lanes --------------------------------------------------------------------------------

    def hold(
        self,
        destination_id: int,
        category: str,
        *,
        now: float,
        seconds: float,
        hold: str,
        reason: str,
        failures: int = 0,
    ) -> None:
        """Close a lane, or with category "" a destination, for so long."""
        self._write(
            lambda queue: lanes.hold_lane(
                queue,
                destination_id,
                category,
                open_at=now + seconds,
                hold_seconds=seconds,
                hold=hold,
                reason=reason,
                failures=failures,
            )
        )

    def reopen(self, destination_id: int) -> None:
        """The destination has answered: its back-off is over."""
        self._write(lambda queue: lanes.open_lane(queue, destination_id))

    def forget_backoff(self) -> None:
        """Let every destination be tried at once (limits stay), and wake the leader."""
        self._write(lanes.forget_backoff)
        self._bell.ring(self._store.generation)

    # -- looking ------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """The ledger and what is known of lanes and leader, at the same cost at any size."""

        def look(queue: "EventQueue") -> dict[str, Any]:
            return {**lanes.totals(queue), "oldest_at": queue.oldest_at()}

        return {**self._read(look), "volatile": self.volatile}

    def all_lanes(self) -> list[tuple[Lane, Destination]]:
        found = self._read(lanes.read_lanes)
        return [(lane, self._destination(lane.destination_id)) for lane in found]

    def page(
        self, *, state: State | None = None, before_id: int | None = None, limit: int = 50
    ) -> list[Stored]:
        """Stored events, newest first, `limit` at most, with ids under `before_id`."""
        where = {None: "1", State.READY: "status < 2", State.DEAD: "status >= 2"}[state]
        top = before_id if before_id is not None else 1 << 62
        rows = self._read(lambda queue: queue.page(f"{where} AND _id < ?", (top,), limit))
        held = {lane.id: (lane, destination) for lane, destination in self.all_lanes()}
        return [_stored(row, *held[row.lane]) for row in rows]

    def get(self, key: int) -> Stored:
        """One event. Raises EventNotFound."""
        found = self.page(before_id=key + 1, limit=1)
        if not found or found[0].id != key:
            raise EventNotFound(f"no event {key} in {self.path}")
        return found[0]

    # -- waking and ending --------------------------------------------------------------------

    def bell_descriptor(self) -> int | None:
        """Readable when something was enqueued since `silence_bell`; None: there is no bell."""
        try:
            return self._bell.descriptor(self._store.generation)
        except OSError:
            return None

    def silence_bell(self) -> None:
        self._bell.silence()

    def ring_bell(self) -> None:
        self._bell.ring(self._store.generation)

    def finish(self) -> None:
        """The process ends: commit what waits, sync, close. Using the spool again opens it."""
        self.keeper.beat()
        self.keeper.sync()
        self.leadership.let_go()
        self._store.close()

    # -- the store, mended where it is broken -------------------------------------------------

    def _write(self, operation: Callable[["EventQueue"], T]) -> T:
        try:
            return self._store.write(operation, _PATIENCE_SECONDS)
        except SpoolCorrupt as error:
            self._quarantine(error)
            return self._store.write(operation, _PATIENCE_SECONDS)

    def _read(self, operation: Callable[["EventQueue"], T]) -> T:
        try:
            return self._store.read(operation)
        except SpoolCorrupt as error:
            self._quarantine(error)
            return self._store.read(operation)

    def _quarantine(self, error: SpoolCorrupt) -> None:
        broken = self._store.generation
        if self._store.quarantine(broken, _PATIENCE_SECONDS):
            log.error(
                "%s; a fresh file was begun and the old one left in %s",
                error,
                os.path.join(self.path, broken),
            )


def _evict(queue: "EventQueue") -> bool:
    (pages,) = queue.connection.execute("PRAGMA page_count").fetchone()
    (cap,) = queue.connection.execute("PRAGMA max_page_count").fetchone()
    (free,) = queue.connection.execute("PRAGMA freelist_count").fetchone()
    if pages - free < cap * 0.9:
        return False  # not our limit: the disk is full
    queue.connection.execute(f"PRAGMA max_page_count = {cap + _EVICTION_PAGES}")
    try:
        queue.move(queue.oldest(_EVICTED_AT_ONCE), schema.DROPPED, "overflow", 0.0)
    finally:
        queue.connection.execute(f"PRAGMA max_page_count = {cap}")
    return True


def _without(ids: list[int], skip: Collection[int]) -> list[int]:
    return [key for key in ids if key not in skip]


def _is_whole(row: StoredRow) -> bool:
    return checksum(row.headers, row.data) == row.crc


def _event(row: StoredRow, category: str) -> Event:
    return Event(
        event_id=row.event_id,
        category=category,
        endpoint=row.endpoint,
        headers=tuple((name, value) for name, value in json.loads(row.headers)),
        body=row.data,
        created_at=row.timestamp,
    )


def _stored(row: StoredRow, lane: Lane, destination: Destination) -> Stored:
    ready = row.status < 2
    return Stored(
        id=row.id,
        state=State.READY if ready else State.DEAD,
        event=_event(row, lane.category),
        destination=destination,
        attempts=row.attempts,
        next_attempt_at=max(row.due, lane.open_at) or row.timestamp if ready else None,
        reason=row.reason,
        history=tuple((at, what) for at, what in json.loads(row.history)),
    )
