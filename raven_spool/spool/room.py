"""Adding events within the spool's limits, and what gives way where one is reached.

Behind the gate. What is dropped is counted in the ledger, under "overflow".
"""

import contextlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from raven_spool.errors import SpoolFull
from raven_spool.protocol import CATEGORIES
from raven_spool.spool import lanes, schema
from raven_spool.spool.complaints import SQLITE_ERRORS
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
_UNLOOKED_BYTES = 64 * 1024
_NO_CAP = 1 << 30
_NO_ID = 1 << 62


class Room:
    """What this process adds to the spool, and what it made give way."""

    def __init__(self) -> None:
        self.overflowed = 0
        # A file, how many events it kept at a look, and the last id then: ids are never used
        # twice, so it can have grown by no more than were given since.
        self._look: tuple[EventQueue | None, int, int] = (None, 0, 0)
        self._unlooked_bytes = 0  # may go in before we ask again how large the file is

    def insert(self, queue: "EventQueue", rows: Sequence[Row], limits: Limits) -> list[int]:
        """An id for each row, or TURNED_AWAY.

        Crash:
            Older events have given way to the bytes of the new ones, which are not there yet; or
            these are there, and what is to give way to their number is too.
        """
        count = self._count_fitting(queue, len(rows), limits)
        # Of more than may be kept at all the newest stay, if the oldest are to give way.
        first = 0 if limits.drops_newest else len(rows) - count
        ids = [TURNED_AWAY] * len(rows)
        ids[first : first + count] = self._insert(queue, rows[first : first + count], limits)
        if not limits.drops_newest:
            self._evict_surplus(queue, limits.max_events, ids[first])
        lanes_of_dropped = [
            row.lane for row, key in zip(rows, ids, strict=True) if key == TURNED_AWAY
        ]
        if lanes_of_dropped:
            self.overflowed += len(lanes_of_dropped)
            go_beyond(queue, lambda queue: queue.turn_away(Counter(lanes_of_dropped)))
        return ids

    # -- max_events ---------------------------------------------------------------------------

    def _count_fitting(self, queue: "EventQueue", count: int, limits: Limits) -> int:
        """How many of so many more `max_events` has room for, if others may give way."""
        most = limits.max_events
        if not most:
            return count
        if not limits.drops_newest:
            return min(count, most)
        return max(0, min(count, most - self._count_kept(queue, most - count)))

    def _evict_surplus(self, queue: "EventQueue", most: int | None, first: int) -> None:
        """Those before `first` give way to it and its followers, once these are in: else events
        would be dropped for some that the disk or `max_bytes` then has no room for."""
        if not most or (surplus := self._count_kept(queue, most) - most) <= 0:
            return
        at_once = max(surplus, min(_EVICTED_AT_ONCE, most // _EVICTED_SHARE))
        with contextlib.suppress(*SQLITE_ERRORS):  # a full disk: whoever comes next tries again
            go_beyond(
                queue, lambda queue: self._evict(queue, least_valuable(queue, at_once, first))
            )
        self._look = (None, 0, 0)

    def _count_kept(self, queue: "EventQueue", most: int) -> int:
        """At least as many as are kept; exact where that would be more than `most`."""
        last = queue.last_id()
        of, kept, then = self._look
        if of is not queue or kept + last - then > most:
            kept, then = lanes.count_kept(queue), last
            self._look = (queue, kept, then)
        return kept + last - then

    # -- max_bytes: SQLite says when it is reached, until it was gone beyond ---------------------

    def _insert(self, queue: "EventQueue", rows: Sequence[Row], limits: Limits) -> list[int]:
        if not rows:
            return []
        most = queue.max_pages - _pages_of(rows)
        if not self._has_outgrown(queue, rows) or used_pages(queue) < most:
            try:
                return _insert_all(queue, rows)
            except sqlite3.OperationalError as error:
                if not _is_full(error) or used_pages(queue) < most:
                    raise  # it is the disk that is full
        if limits.drops_newest:
            if len(rows) == 1:
                return [TURNED_AWAY]
            return [key for row in rows for key in self._insert(queue, [row], limits)]
        if most < 0:
            raise SpoolFull(
                f"{sum(row.size for row in rows)} bytes at once are too many for a spool of "
                f"{queue.max_pages * PAGE_BYTES}"
            )
        self._evict_pages(queue, most)
        self._unlooked_bytes = 0
        return _insert_all(queue, rows)

    def _has_outgrown(self, queue: "EventQueue", rows: Sequence[Row]) -> bool:
        """Asked now and then, since it takes a statement; so the file may be that much larger."""
        self._unlooked_bytes -= sum([row.size for row in rows])
        if self._unlooked_bytes <= 0:
            self._unlooked_bytes = 0 if has_outgrown(queue) else _UNLOOKED_BYTES
        return self._unlooked_bytes == 0

    def _evict_pages(self, queue: "EventQueue", most: int) -> None:
        def drop(queue: "EventQueue") -> None:
            while (surplus := used_pages(queue) - most) >= 0:
                enough = max(surplus + 1, queue.max_pages // _EVICTED_SHARE) * PAGE_BYTES
                ids = least_valuable(queue, _EVICTED_AT_ONCE)
                if not ids:
                    break
                self._evict(queue, _first_of_size(queue, ids, enough))

        go_beyond(queue, drop)

    def _evict(self, queue: "EventQueue", ids: list[int]) -> None:
        queue.move(ids, schema.DROPPED, "overflow", 0.0)
        queue.forget_graves()  # where nobody drains they would fill the file
        self.overflowed += len(ids)


def _first_of_size(queue: "EventQueue", ids: list[int], size_bytes: int) -> list[int]:
    """As many as hold that much: 64 large events are more than a spool's worth."""
    sizes = queue.sizes(ids)
    totals = itertools.accumulate(sizes.get(key, 0) for key in ids)
    return ids[: 1 + sum(total < size_bytes for total in totals)]


def least_valuable(queue: "EventQueue", count: int, before: int = _NO_ID) -> list[int]:
    """What goes first when there is no room, of what came before `before`: dead letters, then from
    the least valuable category to errors; of each the oldest. From indexes alone."""
    ids = queue.oldest_dead(count)
    for category in reversed(CATEGORIES):
        if len(ids) >= count:
            break
        oldest = _oldest_ready(queue, category, count - len(ids))
        ids += [key for key in oldest if key < before]
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
    queue.connection.execute(f"PRAGMA max_page_count = {_NO_CAP}")
    try:
        return operation(queue)
    finally:
        queue.limit_pages(queue.max_pages)


def has_outgrown(queue: "EventQueue") -> bool:
    """Whether the file was grown beyond its limit by what goes beyond it, here or elsewhere. SQLite
    takes its size for the limit then, and for good: it no longer says when ours is reached."""
    (pages,) = queue.connection.execute("PRAGMA page_count").fetchone()
    return int(pages) > queue.max_pages


def _pages_of(rows: Sequence[Row]) -> int:
    return _SLACK_PAGES + sum(1 + row.size // PAGE_BYTES for row in rows)


def used_pages(queue: "EventQueue") -> int:
    (pages,) = queue.connection.execute("PRAGMA page_count").fetchone()
    (free,) = queue.connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free)
