"""Adding events within the spool's limits, and what gives way where one is reached.

Behind the gate. What is dropped is counted in the ledger, under "overflow".
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from raven_spool.protocol import CATEGORIES
from raven_spool.spool import lanes, schema
from raven_spool.spool.limits import Limits
from raven_spool.spool.rows import Row
from raven_spool.spool.schema import PAGE_BYTES

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

T = TypeVar("T")

TURNED_AWAY = -1  # instead of an event's id: it was dropped at the door

# So many give way at once, that a send at the limit costs about what it does below it; but never
# more than a twentieth of what may be kept.
_EVICTED_AT_ONCE = 64
_EVICTED_SHARE = 20
_SLACK_PAGES = 16  # what an event takes beside its body: leaves, indexes, the ledger
_NO_CAP = 1 << 30


class Room:
    """What this process adds to the spool, and what it made give way."""

    def __init__(self) -> None:
        self.overflowed = 0
        # A file, how many events it kept at a look, and the last id then: ids are never used
        # twice, so it can have grown by no more than were given since.
        self._look: tuple[EventQueue | None, int, int] = (None, 0, 0)

    def insert(self, queue: "EventQueue", rows: Sequence[Row], limits: Limits) -> list[int]:
        """An id for each row, or TURNED_AWAY.

        Crash:
            Older events have given way, and the new ones are not there yet.
        """
        count = self._count_fitting(queue, len(rows), limits)
        # Of more than may be kept at all the newest stay, if the oldest are to give way.
        first = 0 if limits.drops_newest else len(rows) - count
        ids = [TURNED_AWAY] * len(rows)
        ids[first : first + count] = self._insert(queue, rows[first : first + count], limits)
        lanes_of_dropped = [
            row.lane for row, key in zip(rows, ids, strict=True) if key == TURNED_AWAY
        ]
        if lanes_of_dropped:
            self.overflowed += len(lanes_of_dropped)
            go_beyond(queue, lambda queue: queue.turn_away(Counter(lanes_of_dropped)))
        return ids

    # -- max_events ---------------------------------------------------------------------------

    def _count_fitting(self, queue: "EventQueue", count: int, limits: Limits) -> int:
        """How many of so many more `max_events` has room for, once others have given way."""
        most = limits.max_events
        if not most:
            return count
        surplus = self._count_kept(queue, most - count) + count - most
        if surplus <= 0:
            return count
        if limits.drops_newest:
            return max(0, count - surplus)
        at_once = max(surplus, min(_EVICTED_AT_ONCE, most // _EVICTED_SHARE))
        go_beyond(queue, lambda queue: self._evict(queue, at_once))
        self._look = (None, 0, 0)
        return min(count, most)

    def _count_kept(self, queue: "EventQueue", most: int) -> int:
        """At least as many as are kept; exact where that would be more than `most`."""
        last = queue.last_id()
        of, kept, then = self._look
        if of is not queue or kept + last - then > most:
            kept, then = lanes.count_kept(queue), last
            self._look = (queue, kept, then)
        return kept + last - then

    # -- max_bytes: SQLite says when it is reached --------------------------------------------

    def _insert(self, queue: "EventQueue", rows: Sequence[Row], limits: Limits) -> list[int]:
        if not rows:
            return []
        try:
            return _insert_all(queue, rows)
        except sqlite3.OperationalError as error:
            if not _is_full(error) or not self._lacks_room(queue, rows, limits):
                raise
        if not limits.drops_newest:
            self.evict_pages(queue, _pages_of(rows))
            return _insert_all(queue, rows)
        if len(rows) == 1:
            return [TURNED_AWAY]
        return [key for row in rows for key in self._insert(queue, [row], limits)]

    def _lacks_room(self, queue: "EventQueue", rows: Sequence[Row], limits: Limits) -> bool:
        """Whether it is the spool's own limit, and not the disk that is full; nor an event that
        others can't give way for."""
        most = _cap(queue) - _pages_of(rows)
        return used_pages(queue) >= most and (most >= 0 or limits.drops_newest)

    def evict_pages(self, queue: "EventQueue", pages: int) -> None:
        most = _cap(queue) - pages

        def drop(queue: "EventQueue") -> None:
            while used_pages(queue) >= most and self._evict(queue, _EVICTED_AT_ONCE):
                pass

        go_beyond(queue, drop)

    def _evict(self, queue: "EventQueue", count: int) -> int:
        ids = least_valuable(queue, count)
        if ids:
            queue.move(ids, schema.DROPPED, "overflow", 0.0)
            queue.forget_graves()  # where nobody drains they would fill the file
            self.overflowed += len(ids)
        return len(ids)


def least_valuable(queue: "EventQueue", count: int) -> list[int]:
    """What goes first when there is no room: dead letters, then from the least valuable category
    to errors; of each the oldest. From indexes alone."""
    ids = queue.oldest_dead(count)
    for category in reversed(CATEGORIES):
        if len(ids) >= count:
            break
        ids += _oldest_ready(queue, category, count - len(ids))
    return ids


def _oldest_ready(queue: "EventQueue", category: str, count: int) -> list[int]:
    # The oldest of them all are in as many lanes at most: those that begin with the oldest.
    found = [
        key
        for lane in queue.oldest_lanes(category, count)
        for key in queue.oldest_in_lane(lane, count)
    ]
    return sorted(found)[:count]


def _insert_all(queue: "EventQueue", rows: Sequence[Row]) -> list[int]:
    last = queue.insert(rows)
    return list(range(last - len(rows) + 1, last + 1))


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def go_beyond(queue: "EventQueue", operation: Callable[["EventQueue"], T]) -> T:
    """Run `operation` without the spool's own limit, for what adds no event.

    SQLite writes a row of another length anew before the pages of the old one are free: in a full
    spool, a large event could be neither removed nor buried.
    """
    cap = _cap(queue)
    queue.connection.execute(f"PRAGMA max_page_count = {_NO_CAP}")
    try:
        return operation(queue)
    finally:
        queue.connection.execute(f"PRAGMA max_page_count = {cap}")


def _cap(queue: "EventQueue") -> int:
    (cap,) = queue.connection.execute("PRAGMA max_page_count").fetchone()
    return int(cap)


def _pages_of(rows: Sequence[Row]) -> int:
    return _SLACK_PAGES + sum(1 + row.size // PAGE_BYTES for row in rows)


def used_pages(queue: "EventQueue") -> int:
    (pages,) = queue.connection.execute("PRAGMA page_count").fetchone()
    (free,) = queue.connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free)
