"""Whether a spool is being drained at all: told once, and again only after it had recovered.

Whoever uses the spool looks, once a minute at most: the leader, and also who only enqueues, for
where cron has died nobody leads. What was told stands in the file, so that of a hundred processes
one tells it.
"""

import contextlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from raven_spool.errors import SpoolError
from raven_spool.spool import lanes
from raven_spool.spool.store import Store

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

_LOOK_SECONDS = 60.0
_GROWING_LOOKS = 11  # ten minutes in which it grew each time
_PATIENCE_SECONDS = 0.02  # a loop may stand still with us


def find_fault(
    counts: Sequence[int], oldest_age_seconds: float | None, warn_age_seconds: float
) -> str:
    """What is wrong with a backlog, "" if nothing is.

    Args:
        counts: how many events were ready at the last looks, a minute or more apart.
        oldest_age_seconds: of the oldest ready event; None: there is none.
    """
    if oldest_age_seconds is not None and oldest_age_seconds > warn_age_seconds:
        return f"{counts[-1]} events wait, the oldest for {oldest_age_seconds / 60:.0f} minutes"
    if len(counts) == _GROWING_LOOKS and all(less < more for less, more in pairwise(counts)):
        return f"{counts[-1]} events wait, and for ten minutes they have only grown more"
    return ""


class Watchdog:
    def __init__(self, store: Store, warn_age_seconds: float) -> None:
        """`warn_age_seconds`: an event may wait so long; 0: nothing is ever told."""
        self._store = store
        self._warn_age_seconds = warn_age_seconds
        self._counts: deque[int] = deque(maxlen=_GROWING_LOOKS)
        self._next_ticks: float | None = None

    def look(self, now: float, ticks: float, *, at_once: bool = False) -> str:
        """What is to be logged now, "" mostly. Never raises, and waits for nobody.

        Args:
            at_once: nobody in this process is about to deliver what an earlier one left; else
                the first look comes a minute after the first call.

        Crash:
            Between our note and the log line it is not told, but `stats` shows it.
        """
        if self._next_ticks is None:
            self._next_ticks = ticks if at_once else ticks + _LOOK_SECONDS
        if ticks < self._next_ticks or not self._warn_age_seconds:
            return ""
        self._next_ticks = ticks + _LOOK_SECONDS
        try:
            return self._look(now)
        except SpoolError:
            return ""  # it is in use; in a minute we look again

    def _look(self, now: float) -> str:
        ready, oldest_at, told = self._store.read(_read_backlog, 0.0)
        counts = [*self._counts, ready][-_GROWING_LOOKS:]  # another thread may clear them
        self._counts.append(ready)
        age = None if oldest_at is None else now - oldest_at
        fault = find_fault(counts, age, self._warn_age_seconds)
        if bool(fault) == bool(told):
            return ""
        is_first = self._store.write(partial(_note, fault=fault), _PATIENCE_SECONDS)
        return f"the spool {self._store.path}: {fault}" if fault and is_first else ""

    def recover(self) -> None:
        """Nothing waits any more: what comes next may be told again."""
        self._counts.clear()
        with contextlib.suppress(SpoolError):
            self._store.write(partial(_note, fault=""), _PATIENCE_SECONDS)


def _read_backlog(queue: "EventQueue") -> tuple[int, float | None, str]:
    return lanes.totals(queue)["ready"], queue.oldest_at(), read_alarm(queue)


def read_alarm(queue: "EventQueue") -> str:
    """What was told and has not passed since; "" if nothing."""
    row = queue.connection.execute("SELECT value FROM meta WHERE key = 'alarm'").fetchone()
    return str(row[0]) if row else ""


def _note(queue: "EventQueue", *, fault: str) -> bool:
    """Returns whether nobody had noted it before."""
    execute = queue.connection.execute
    if fault:
        execute("INSERT OR IGNORE INTO meta VALUES ('alarm', ?)", (fault,))
    else:
        execute("DELETE FROM meta WHERE key = 'alarm'")
    return bool(queue.changes())
