"""Making room in a spool that has reached its own limit."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from raven_spool.spool import schema
from raven_spool.spool.store import PAGE_BYTES

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

T = TypeVar("T")

_EVICTED_AT_ONCE = 64
_SLACK_PAGES = 16  # what an event takes beside its body: leaves, indexes, the ledger
_NO_CAP = 1 << 30


def evict(queue: "EventQueue", size_bytes: int) -> bool:
    """Drop the oldest until an event of that size has room. False: that is not what it lacks."""
    (cap,) = queue.connection.execute("PRAGMA max_page_count").fetchone()
    most = cap - size_bytes // PAGE_BYTES - _SLACK_PAGES  # what may be in use beside it
    if most < 0 or _used_pages(queue) < most:
        return False  # it never fits; or the disk is full, not the spool

    def drop(queue: "EventQueue") -> None:
        while (ids := queue.oldest(_EVICTED_AT_ONCE)) and _used_pages(queue) >= most:
            queue.move(ids, schema.DROPPED, "overflow", 0.0)

    go_beyond(queue, drop)
    return True


def go_beyond(queue: "EventQueue", operation: Callable[["EventQueue"], T]) -> T:
    """Run `operation` without the spool's own limit, for what adds no event.

    SQLite writes a row of another length anew before the pages of the old one are free: in a full
    spool, a large event could be neither removed nor buried.
    """
    (cap,) = queue.connection.execute("PRAGMA max_page_count").fetchone()
    queue.connection.execute(f"PRAGMA max_page_count = {_NO_CAP}")
    try:
        return operation(queue)
    finally:
        queue.connection.execute(f"PRAGMA max_page_count = {cap}")


def _used_pages(queue: "EventQueue") -> int:
    (pages,) = queue.connection.execute("PRAGMA page_count").fetchone()
    (free,) = queue.connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free)
