"""The thread behind a spool: syncs what was committed, commits what had to wait.

It begins with the first need and ends when there is none; a forked child begins its own.
"""

import time
from collections.abc import Callable

from raven_spool.errors import SpoolBusy, SpoolError, SpoolUncertain
from raven_spool.model import Destination, Event
from raven_spool.spool import fork, native
from raven_spool.spool.intake import Intake
from raven_spool.spool.store import Reentered, Store

# Twice a second keeps the promise of `everysec`: on disk within a second of the commit.
_BEAT_SECONDS = 0.5
_IDLE_BEATS = 10
_LATE_SECONDS = 1.0  # what `everysec` allows
_PATIENCE_SECONDS = 0.2
_START_SECONDS = 1.0  # after so long a thread that was asked for is not coming
_FAILING_SECONDS = 3.0

Refuge = Callable[[Event, Destination], None]


class Keeper:
    def __init__(self, store: Store, intake: Intake, *, syncs: bool) -> None:
        self._store = store
        self._intake = intake
        self._syncs = syncs
        self._unsynced = False
        self._synced_in_vain = False  # the last sync failed
        self._alive = False
        self._starting_until = 0.0  # a thread was asked for and has not begun
        self._synced_ticks = 0.0
        self._failing_ticks: float | None = None  # since when commits end in errors of the disk
        self.refuge: Refuge | None = None  # takes what the spool refuses
        fork.join(self)

    def committed(self) -> None:
        """Something was committed: sync it within a second, if that is the mode."""
        self._unsynced = True
        if self._syncs and not self._alive and not self._is_starting():
            self._start()

    def waits(self) -> None:
        """Something waits in memory."""
        if not self._alive and not self._is_starting():
            self._start()

    def _is_starting(self) -> bool:
        return time.monotonic() < self._starting_until

    def _start(self) -> None:
        """Ask for a thread. It signs in by itself: an exception that is thrown into us, or into
        it before it begins (CPython gives a newborn thread its maker's id), costs a second."""
        self._starting_until = time.monotonic() + _START_SECONDS
        try:
            native.start_thread(self._run)
        except RuntimeError:
            self._starting_until = 0.0  # the interpreter is ending, or uWSGI without threads
            self._sync_in_line()

    def _sync_in_line(self) -> None:
        now = time.monotonic()
        if self._syncs and self._unsynced and now - self._synced_ticks >= _LATE_SECONDS:
            self._synced_ticks = now
            self.sync()

    def _run(self) -> None:
        idle = 0
        try:
            self._alive, self._starting_until = True, 0.0
            while idle < _IDLE_BEATS:
                native.sleep(_BEAT_SECONDS)
                idle = 0 if self.beat() else idle + 1
        finally:
            self._alive = False
        if self._unsynced or self._intake.waiting:
            self._start()  # it came while we were leaving

    def beat(self) -> bool:
        """One round. Returns whether there was anything to do."""
        busy = self._intake.waiting > 0
        if busy:
            self._place_what_waits()
        if self._unsynced and self._syncs:
            busy = True
            self.sync()
        return busy

    def sync(self) -> None:
        if not self._syncs:
            return
        self._unsynced = False
        try:
            if self._synced_in_vain:
                self._store.sync_anew(_PATIENCE_SECONDS)
            else:
                self._store.sync()
            self._synced_in_vain = False
        except (OSError, SpoolError):
            self._unsynced = self._synced_in_vain = True  # a full or failing disk: next beat

    def _place_what_waits(self) -> None:
        if self._intake.commit_left(_PATIENCE_SECONDS):
            self._unsynced = True
            self._failing_ticks = None
        elif self.refuge is not None and self._waits_in_vain():
            for event, destination in self._intake.take_left():
                self.refuge(event, destination)

    def _waits_in_vain(self) -> bool:
        """Whether the spool is more than busy. A disk that fails is given a moment, since a commit
        that failed may have happened: sent from memory, its event would go out twice."""
        trouble, now = self._intake.trouble, time.monotonic()
        if not isinstance(trouble, SpoolUncertain):
            self._failing_ticks = None
            return not isinstance(trouble, (SpoolBusy, Reentered, type(None)))
        if self._failing_ticks is None:
            self._failing_ticks = now
        return now - self._failing_ticks >= _FAILING_SECONDS

    # -- fork ---------------------------------------------------------------------------------

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None:
        self._alive = False
        self._starting_until = 0.0
        self._unsynced = self._synced_in_vain = False
