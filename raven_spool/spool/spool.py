"""The spool: the verbs on one durable queue of events, for any number of threads and processes."""

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from raven_spool.errors import EventNotFound, SpoolCorrupt, SpoolError
from raven_spool.model import Claimed, Destination, Event, Lane, State
from raven_spool.spool import lanes, native, schema
from raven_spool.spool.clock import Anchor, read_anchor, write_anchor
from raven_spool.spool.inspection import Inspection
from raven_spool.spool.intake import Intake
from raven_spool.spool.keeper import Keeper
from raven_spool.spool.lanes import LaneBook
from raven_spool.spool.leader import Leadership
from raven_spool.spool.limits import Limits
from raven_spool.spool.places import MEMORY, list_generations
from raven_spool.spool.room import used_pages
from raven_spool.spool.rows import StoredRow
from raven_spool.spool.salvage import Salvage
from raven_spool.spool.schema import PAGE_BYTES
from raven_spool.spool.sealing import Seal, key_id
from raven_spool.spool.store import Store
from raven_spool.spool.stored import (
    DAMAGED,
    UNDELIVERABLE,
    Key,
    Stored,
    open_event,
    read_key,
    read_stored,
)
from raven_spool.spool.wake import Bell
from raven_spool.spool.watchdog import Watchdog, read_alarm

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

T = TypeVar("T")
log = logging.getLogger("raven.spool")

_PATIENCE_SECONDS = 1.0  # of the drain and the tools; `send` has its own
_KILLS_WITHIN_SECONDS = 0.1
_PASSED_OVER_SECONDS = 300.0
_NO_KEY = "sealed with a key that is not here (encryption_key): id"
_CLAIM_BYTES = 1 << 20  # what a claim may bring into memory, one event at least
_IN_STATE = {None: "1", State.READY: "status < 2", State.DEAD: "status >= 2"}


_NOWHERE = (lanes.lost_lane(0, 0, "error"), lanes.LOST)


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
        max_bytes: int | None = None,
        max_events: int | None = None,
        overflow: str | None = None,
        mends: bool = True,
        group: int | None = None,
        warn_age_seconds: float = 0.0,
        keys: Sequence[bytes] = (),
    ) -> None:
        """`max_bytes`, `max_events`, `overflow`: what is given becomes the rule of all processes
        that share the spool; the rest is as others have set it.
        `mends`: a broken file is left as it lies and a fresh one begun; else SpoolCorrupt.
        `group`: the id of the group whose members share the directory. `warn_age_seconds`: how
        long an event may wait before the watchdog tells; 0: it never does.
        `keys`: the first seals what is enqueued, all open what is read; none: in the clear."""
        self.path = path
        self._mends = mends
        limits = Limits(max_bytes=max_bytes, max_events=max_events, overflow=overflow)
        self._store = Store(path, fsync=fsync, limits=limits, group=group)
        self._book = LaneBook()
        self._seal = Seal(keys)
        self.missing_keys: set[str] = set()  # ids of keys that were asked for in vain
        self._intake = Intake(self._store, self._book, self._seal, self._committed)
        self.keeper = Keeper(
            self._store, self._intake, syncs=fsync == "everysec" and path != MEMORY
        )
        self.leadership = Leadership(path, self._store)
        self.watchdog = Watchdog(self._store, warn_age_seconds)
        self.salvage = Salvage(path, self._store, self._book, self.leadership)
        self.inspection = Inspection(
            path, self._store, self._book, self._seal, self.leadership, self.salvage
        )
        self._bell = Bell(path)

    @staticmethod
    def exists(path: str) -> bool:
        """Whether somebody has begun a spool there; if `current` was lost, its events lie there
        still, and come back."""
        return os.path.lexists(os.path.join(path, "current")) or bool(list_generations(path))

    # -- enqueue ------------------------------------------------------------------------------

    def enqueue(
        self, event: Event, destination: Destination, *, timeout_seconds: float = 0.2
    ) -> int:
        """Commit one event.

        Returns:
            Its id in the file. 0: it is volatile, in memory, and will be committed as soon as
            the spool takes it. TURNED_AWAY: dropped and counted, because the spool is full and
            that is its rule.

        Raises:
            SpoolError: the spool will not take it (unusable, full, from a newer version).

        Crash:
            Before the return: it may or may not be there. After an id: it is there.
        """
        for _ in range(3):
            try:
                return self._enqueue(event, destination, timeout_seconds)
            except SpoolCorrupt as error:
                self._quarantine(error, timeout_seconds)
        return self._enqueue(event, destination, timeout_seconds)

    def _enqueue(self, event: Event, destination: Destination, timeout_seconds: float) -> int:
        key = 0
        try:
            key = self._intake.enqueue(event, destination, timeout_seconds)
        finally:
            if not key:  # also where an exception came in by a signal
                self.keeper.waits()
                self.ring_bell()
        return key

    def _committed(self) -> None:
        self.keeper.committed()
        self.ring_bell()

    @property
    def overflowed(self) -> int:
        """Events that gave way to those of this process, or that it was not let in with."""
        return self._intake.overflowed

    @property
    def limits(self) -> Limits:
        """Those of all processes, once this one has opened the file."""
        return self._store.limits

    @property
    def volatile(self) -> int:
        """Events of this process that wait in memory."""
        return self._intake.waiting

    # -- claim --------------------------------------------------------------------------------

    def lanes(self) -> list[Lane] | None:
        """Those with ready events, and their destinations'; None if we no longer lead."""
        return self._read_as_leader(lanes.read_waiting)

    def lanes_beside(self, ids: Collection[int]) -> list[Lane] | None:
        """These lanes and all others of their destinations; None as above."""
        return self._read_as_leader(lambda queue: lanes.read_beside(queue, ids))

    def _read_as_leader(self, operation: Callable[["EventQueue"], list[Lane]]) -> list[Lane] | None:
        return self._read(
            lambda queue: operation(queue) if self.leadership.still_leads(queue) else None
        )

    def claim(
        self,
        lane: Lane,
        *,
        limit: int,
        now: float,
        skip: Collection[int] = (),
        only: int | None = None,
        of_newest: bool = False,
        fresh_first: bool = False,
    ) -> list[Claimed]:
        """Up to `limit` due events of a lane, oldest first or newest first, without those in
        `skip`; or `only` one. `fresh_first`: one that has failed only where there is no other.

        None for a process that no longer leads. Events whose bytes on disk have changed are
        buried on the way.

        Crash:
            Nothing was written: they are ready again at once.
        """

        def look(queue: "EventQueue") -> tuple[list[StoredRow], Destination, str] | None:
            # All in one read: in another file the same ids mean something else.
            if not self.leadership.still_leads(queue):
                return None
            if only is not None:
                ids = _without([only], skip)
            else:
                most = limit + len(skip)
                due = queue.claimable(
                    lane.id, now, most, of_newest=of_newest, fresh_first=fresh_first
                )
                ids = _without(due, skip)[:limit]
            destination = self._book.destination(queue, lane.destination_id)
            rows = queue.fetch(ids, _CLAIM_BYTES, newest_first=of_newest)
            # Another process may have sent one elsewhere since we read its id.
            rows = [row for row in rows if row.lane == lane.id]
            return rows, destination, self._store.generation

        found = self._read(look)
        if found is None:
            return []
        rows, destination, generation = found
        if destination == lanes.LOST:
            self.bury([row.id for row in rows], UNDELIVERABLE, now, generation=generation)
            return []
        opened = [(row, open_event(row, lane.category, self._seal)) for row in rows]
        broken = [row.id for row, event in opened if event is None]
        if broken:
            self.bury(broken, DAMAGED, now, generation=generation)
        self._pass_over(opened, now, generation)
        return [
            Claimed(
                id=row.id,
                generation=generation,
                lane=row.lane,
                destination=destination,
                event=event,
                attempts=row.attempts,
                last_unanswered=bool(row.unanswered),
                deaths=row.deaths,
                is_owed_a_try=row.status == schema.READY and row.attempts == 0,
            )
            for row, event in opened
            if event is not None
        ]

    def _pass_over(
        self, opened: list[tuple[StoredRow, Event | None]], now: float, generation: str
    ) -> None:
        """What is sealed with a key that this process has not must not stand in front of what can
        be sent: it comes last for a while, and `flush` brings it back at once.

        Crash:
            Before the commit it stands where it stood.
        """
        sealed = {row.id: name for row, event in opened if event and (name := key_id(event))}
        self.missing_keys.update(sealed.values())

        def pass_over(queue: "EventQueue") -> None:
            for name in set(sealed.values()):
                ids = [key for key in sealed if sealed[key] == name]
                queue.pass_over(ids, now + _PASSED_OVER_SECONDS, f"{_NO_KEY} {name}")

        if sealed:
            self._write_in(generation, pass_over)

    def lane_of(self, key: int) -> int | None:
        """The lane of a ready event, None if it is ready no more."""
        return self._read(lambda queue: queue.lane_of(key))

    def next_dues(self) -> dict[int, float]:
        """When the first event of each lane that has one may be tried."""
        return self._read(lambda queue: queue.next_dues())

    def expired(self, lane: Lane, times: tuple[float, float], limit: int) -> list[int]:
        """Ready events of a lane that were captured between these, among its first `limit`."""
        return self._read(lambda queue: queue.expired(lane.id, times, limit))

    def tidy(self, times: tuple[float, float], after_id: int, limit: int) -> tuple[int, int]:
        """Drop dead letters that died between these, among the first `limit` behind `after_id`.

        Returns how many, and where to go on: 0 if these were the last.
        """
        dead = self._read(lambda queue: queue.list_dead(after_id, limit))
        ids = [key for key, since in dead if times[0] <= since < times[1]]
        self._write(lambda queue: queue.forget_graves())
        dropped = self.drop(ids, "expired") if ids else 0
        return dropped, dead[-1][0] if len(dead) == limit else 0

    def anchor(self) -> Anchor | None:
        """Both clocks as the last leader read them."""
        return self._read(read_anchor)

    def set_anchor(self, anchor: Anchor) -> None:
        """Crash: before the commit the one before stands."""
        self._write(lambda queue: write_anchor(queue, anchor))

    def shorten_waits(self, anchor: Anchor) -> None:
        """The clock was set back: no hold lasts longer than it was stated for, and what waits for
        another attempt may have it now. Crash: before the commit all stands as it was."""

        def shorten(queue: "EventQueue") -> None:
            lanes.shorten_holds(queue, anchor.at)
            queue.forget_due()
            write_anchor(queue, anchor)

        self._write(shorten)

    # -- what becomes of an event -------------------------------------------------------------

    def ack(self, claimed: Sequence[Claimed]) -> None:
        """Delivered: remove and count. Claims of another generation are no longer ours to ack.

        Crash:
            Before the commit they are sent again; after it they are gone. Twice is harmless.
        """

        def deliver(queue: "EventQueue") -> None:
            # Looked at behind the gate: to open the file may bring another generation.
            ids = [one.id for one in claimed if one.generation == self._store.generation]
            if ids and queue.ack_many(ids) < len(ids):
                queue.deliver_dropped(ids)

        self._write(deliver)
        self.keeper.committed()

    def nack(
        self,
        claimed: Claimed,
        *,
        now: float,
        due: float,
        what: str,
        unanswered: bool,
        deaths: int = 0,
    ) -> None:
        """Not delivered: count the attempt, note what happened, try again at `due` (0: in turn).

        `deaths`: how many senders in a row it was the end of.

        Crash:
            Before the commit the attempt is not counted.
        """
        self._write_in(
            claimed.generation,
            lambda queue: queue.note_attempt(claimed.id, now, what, due, unanswered, deaths),
        )

    def note_start(self, claimed: Claimed) -> None:
        """Before a send that may end the process: count it as a death until it is answered, or
        until the process has lived on for a moment.

        Crash:
            The next leader finds that this event's send was the last that this one did.
        """
        self._write_in(claimed.generation, lambda queue: queue.note_start(claimed.id))
        epoch = self.leadership.epoch
        with contextlib.suppress(RuntimeError):  # the interpreter is ending
            native.start_thread(lambda: self._vouch(claimed, epoch))

    def _vouch(self, claimed: Claimed, epoch: int) -> None:
        """An event that kills its flusher does so at once. Who lives on and ends while a slow
        server is still silent (RQ's horses with os._exit, a deploy) ends for another reason:
        without this, eight good events in an outage became two dead letters."""
        native.sleep(_KILLS_WITHIN_SECONDS)
        if self.leadership.epoch == epoch:
            with contextlib.suppress(SpoolError):
                self.note_answer(claimed)

    def note_answer(self, claimed: Claimed) -> None:
        """It was answered after all, and stays ready: its deaths are forgotten."""
        self._write_in(claimed.generation, lambda queue: queue.note_answer(claimed.id))

    def bury(
        self, ids: Sequence[int], reason: str, now: float, *, generation: str | None = None
    ) -> None:
        """Make them dead letters, kept with the reason; in that generation only, if it is named."""
        self._write_in(generation, lambda queue: queue.move(ids, schema.DEAD, reason, now))

    def drop(self, ids: Sequence[int], reason: str, *, generation: str | None = None) -> int:
        """Delete them, counted in the ledger under `reason`. Returns how many were there."""

        def move(queue: "EventQueue") -> int:
            queue.move(ids, schema.DROPPED, reason, 0.0)
            return queue.changes()

        return self._write_in(generation, move) or 0

    def revive(self, ids: Sequence[int], *, generation: str | None = None) -> int:
        """Make dead letters ready again, as if new. Returns how many were dead."""

        def move(queue: "EventQueue") -> int:
            queue.revive(ids)
            return queue.changes()

        revived = self._write_in(generation, move) or 0
        self.ring_bell()
        return revived

    def reroute(
        self, ids: Sequence[int], destination: Destination, *, generation: str | None = None
    ) -> int:
        """Make events ready for another destination, as if new. Returns how many were there.

        One that is in flight meanwhile counts as what the old destination makes of it.

        Crash:
            Before the last statement lanes without events are left; after it all have moved.
        """

        def move(queue: "EventQueue") -> int:
            categories = {lane.id: lane.category for lane in lanes.read_lanes(queue)}
            ways = {
                lane: self._book.lane_id(queue, destination, categories.get(lane) or "error")
                for lane in queue.lanes_of(ids)
            }
            queue.reroute(ids, ways)
            return queue.changes()

        rerouted = self._write_in(generation, move) or 0
        self.ring_bell()
        return rerouted

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
        """Let every destination and event be tried at once (limits stay), and wake the leader."""

        def forget(queue: "EventQueue") -> None:
            lanes.forget_backoff(queue)
            queue.forget_due()

        self._write(forget)
        self._bell.ring(self._store.generation)

    # -- looking ------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """The ledger and what is known of lanes and leader, at the same cost at any size."""

        def look(queue: "EventQueue") -> dict[str, Any]:
            used_bytes = used_pages(queue) * PAGE_BYTES
            counts = {**lanes.totals(queue), "oldest_at": queue.oldest_at()}
            alarm = read_alarm(queue) if counts["ready"] else ""
            told = {"used_bytes": used_bytes, "alarm": alarm or None}
            return {**counts, **told, **self._store.effective_limits()}

        return {**self._read(look), "volatile": self.volatile}

    def count_ready(self) -> int:
        """What `stats` says of it, at less cost."""
        return self._read(lanes.count_ready)

    def all_lanes(self) -> list[tuple[Lane, Destination]]:
        return self._read(lambda queue: self._with_destinations(queue, lanes.read_lanes(queue)))

    def _with_destinations(
        self, queue: "EventQueue", found: list[Lane]
    ) -> list[tuple[Lane, Destination]]:
        return [(lane, self._book.destination(queue, lane.destination_id)) for lane in found]

    def overflows(self) -> list[tuple[Destination, str, int]]:
        """How many events of each destination and category were dropped for want of room."""
        lane_of = {lane.id: (destination, lane.category) for lane, destination in self.all_lanes()}
        found = self._read(lanes.count_overflows)
        return [(*lane_of[lane], events) for lane, events in found.items()]

    def count_overflow(self, destination: Destination, category: str, events: int) -> None:
        """Enter into the ledger what was dropped before it came here.

        Crash:
            Before the commit nothing is counted.
        """
        self._write(
            lambda queue: queue.turn_away(
                {self._book.lane_id(queue, destination, category): events}
            )
        )

    def dead_by_lane(self) -> dict[int, int]:
        """How many dead letters each lane has."""
        return self._read(lanes.count_dead)

    def page(
        self,
        *,
        state: State | None = None,
        before_id: int | None = None,
        after_id: int | None = None,
        limit: int = 50,
    ) -> list[Stored]:
        """Stored events, `limit` at most: newest first with ids under `before_id`, or, where
        `after_id` is given, oldest first with ids above that."""
        where = _IN_STATE[state]
        if after_id is not None:
            where, bound = f"{where} AND _id > ?", after_id
        else:
            where, bound = f"{where} AND _id < ?", 1 << 62 if before_id is None else before_id

        def look(queue: "EventQueue") -> tuple[list[StoredRow], list[tuple[Lane, Destination]]]:
            rows = queue.page(where, (bound,), limit, newest_first=after_id is None)
            beside = lanes.read_beside(queue, {row.lane for row in rows})
            return rows, self._with_destinations(queue, beside)

        rows, found = self._read(look)
        by_lane = {lane.id: (lane, destination) for lane, destination in found}
        whole = {lane.destination_id: lane for lane, _ in found if not lane.category}
        stored = []
        for row in rows:
            lane, destination = by_lane.get(row.lane, _NOWHERE)
            held = max(lane, whole.get(lane.destination_id, lane), key=lambda one: one.open_at)
            stored.append(read_stored(row, lane.category, held, destination, self._seal))
        return stored

    def list_keys(
        self, *, state: State | None = None, after_id: int = 0, limit: int = 1000
    ) -> list[Key]:
        """The names of stored events with ids above `after_id`, `limit` at most, oldest first."""

        def look(queue: "EventQueue") -> list[Key]:
            rows = queue.list_keys(_IN_STATE[state], after_id, limit)
            return [read_key(row, self._store.generation) for row in rows]

        return self._read(look)

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

    def look_again(self) -> None:
        """Try a path that was refused a moment ago, without the usual pause."""
        self._store.look_again()

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

    def _write_in(self, generation: str | None, operation: Callable[["EventQueue"], T]) -> T | None:
        """Ids mean something only within the file they came from: nothing is done in another."""

        def check(queue: "EventQueue") -> T | None:
            return operation(queue) if generation in (None, self._store.generation) else None

        return self._write(check)

    def _read(self, operation: Callable[["EventQueue"], T]) -> T:
        try:
            return self._store.read(operation)
        except SpoolCorrupt as error:
            self._quarantine(error)
            return self._store.read(operation)

    def _quarantine(self, error: SpoolCorrupt, timeout_seconds: float = _PATIENCE_SECONDS) -> None:
        if not self._mends:
            raise error
        broken = self._store.generation
        if self._store.quarantine(broken, timeout_seconds):
            log.error(
                "%s; a fresh file was begun; what can be read of the old one, %s, comes back",
                error,
                os.path.join(self.path, broken.partition(".")[0]),
            )


def _without(ids: list[int], skip: Collection[int]) -> list[int]:
    return [key for key in ids if key not in skip]
