"""One SQLite file, opened when needed, used by one thread at a time, closed around forks.

`write` and `read` are the only two ways in. Both hold the store's lock; `write` passes the gate
too. Neither runs foreign code under them.
"""

import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from raven_spool.errors import (
    SchemaTooNew,
    SpoolBusy,
    SpoolCorrupt,
    SpoolError,
    SpoolFull,
    SpoolUnusable,
)
from raven_spool.spool import ballast, fork, native, uwsgi
from raven_spool.spool.aside import part_with_rest, save_rest
from raven_spool.spool.complaints import SQLITE_ERRORS, explain, lacks_room
from raven_spool.spool.files import keep_for_good
from raven_spool.spool.late import load_queue
from raven_spool.spool.limits import DEFAULTS, Limits, read_limits, write_limits
from raven_spool.spool.places import MEMORY, DiskPlace, MemoryPlace, Place
from raven_spool.spool.room import go_beyond
from raven_spool.spool.schema import PAGE_BYTES

if TYPE_CHECKING:
    from raven_spool.spool.queue import Connections, EventQueue

T = TypeVar("T")

_LEAST_PAGES = 64
_FORK_PATIENCE_SECONDS = 1.0
_CLOSE_PATIENCE_SECONDS = 0.1
_AS_LONG_AS_IT_TAKES = -1.0  # as Python's locks have it
_RETRY_OPEN_SECONDS = 5.0  # an unusable path is not tried again at every send

# Redis' words, SQLite's pragma. `everysec` syncs apart from the commit (keeper.py).
SYNCHRONOUS = {"always": "FULL", "everysec": "NORMAL", "no": "NORMAL"}


class Reentered(SpoolError):
    """A signal handler or destructor came in while its own thread was in the store."""


class Store:
    def __init__(self, path: str, *, fsync: str, limits: Limits, group: int | None = None) -> None:
        self.path = path
        self.generation = ""
        self._fsync = fsync
        self.limits = limits  # ours; once the file is open those of all its processes
        self._insists = True  # on ours
        self._place: Place = MemoryPlace() if path == MEMORY else DiskPlace(path, group)
        self._queue: EventQueue | None = None
        self._connections: Connections = []  # open, or being opened
        self._refused: tuple[float, SpoolError] | None = None
        self._ballast_bytes = 0
        self._forks = 0
        self._start_life()
        fork.join(self)

    def _start_life(self) -> None:
        self._lock = native.make_rlock()
        self._fork_ready = False

    # -- the two ways in ----------------------------------------------------------------------

    def write(
        self,
        operation: Callable[["EventQueue"], T],
        timeout_seconds: float,
        *,
        adds_events: bool = False,
    ) -> T:
        """Run `operation`, one statement, with nobody else writing.

        One that adds no event may run twice, beyond the spool's own limit, and on the ballast.

        Raises:
            SpoolBusy: the lock or the gate was not won within `timeout_seconds`.
            SpoolUnusable, SpoolFull, SpoolCorrupt, SchemaTooNew: as they say.
            SpoolUncertain: the statement may or may not have been committed.

        Crash:
            Before the statement ended: nothing. After: all of it.
        """
        deadline = time.monotonic() + timeout_seconds

        def attempt(pid: int) -> T:
            gated = functools.partial(self._write_gated, operation, deadline, adds_events)
            return self._freeing_gate(lambda: self._through_forks(gated, pid), pid)

        return self._holding_lock(attempt, max(0.0, timeout_seconds))

    def read(self, operation: Callable[["EventQueue"], T], timeout_seconds: float = 1.0) -> T:
        """Run `operation`, which writes nothing. Readers need no gate."""
        deadline = time.monotonic() + timeout_seconds
        return self._holding_lock(
            lambda pid: self._through_forks(lambda: self._read(operation, deadline, pid), pid),
            timeout_seconds,
        )

    def _read(self, operation: Callable[["EventQueue"], T], deadline: float, pid: int) -> T:
        self._check_lost()
        if self._queue is None or self._place.has_moved():
            self._freeing_gate(functools.partial(self._open_gated, deadline), pid)
        return self._operate(operation)

    # No signal can leave a lock behind: Python looks for signals after calls and at the start of
    # Python functions, so each C call below has done its work before an exception can come out
    # of it, and the gate, which is Python, is freed in two tries. To free what was not taken is
    # harmless for a flock and an error to ignore for the RLock.

    def _holding_lock(self, attempt: Callable[[int], T], timeout_seconds: float) -> T:
        """`attempt` is told which process we are: a signal handler may fork in the middle."""
        lock, pid = self._own_lock()
        try:
            if not lock.acquire(timeout=timeout_seconds):
                raise SpoolBusy(f"the spool {self.path} is in use by this process")
            return attempt(pid)
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass

    def _freeing_gate(self, attempt: Callable[[], T], pid: int) -> T:
        freed = False
        try:
            return attempt()
        finally:
            try:
                freed = self._free_gate(pid)
            finally:
                if not freed:  # an exception came into the first try, which is Python
                    self._free_gate(pid)

    def _free_gate(self, pid: int) -> bool:
        if os.getpid() == pid:
            self._place.release()
        return True

    def _own_lock(self) -> tuple[Any, int]:
        fork.notice()
        if self._lock._is_owned():
            raise Reentered("in the middle of another operation of this thread")
        return self._lock, os.getpid()

    def _through_forks(self, attempt: Callable[[], T], pid: int) -> T:
        """Again, where a signal handler forked in the middle: our hook closed the connection."""
        while True:
            forks = self._forks
            try:
                return attempt()
            except (SpoolError, *SQLITE_ERRORS, OSError, AssertionError):
                if self._forks == forks:
                    raise
            if os.getpid() != pid:
                raise SpoolBusy("forked in the middle: what was begun is the parent's")

    def _write_gated(
        self, operation: Callable[["EventQueue"], T], deadline: float, adds_events: bool
    ) -> T:
        self._check_lost()
        if self._queue is None:
            self._check_refused()
            self._enter()
        if not self._place.acquire(deadline):
            raise SpoolBusy(f"another process holds the spool {self.path}")
        if self._queue is None or self._place.has_moved():
            self._open(deadline)
        has_ballast = self._place.keep_ballast(self._ballast_bytes)
        if not adds_events:
            return self._operate(functools.partial(self._insist, operation))
        if not has_ballast:
            raise SpoolFull(f"the disk under the spool {self.path} is full")
        return self._operate(operation)

    def _insist(self, operation: Callable[["EventQueue"], T], queue: "EventQueue") -> T:
        """What adds no event goes beyond the spool's own limit, and then on the ballast."""
        for attempt in (operation, functools.partial(go_beyond, operation=operation)):
            try:
                return attempt(queue)
            except SQLITE_ERRORS as error:
                if not lacks_room(error):
                    raise
        self._place.spend_ballast()
        queue.checkpoint()  # first: it makes the WAL's own blocks free to be written again
        return go_beyond(queue, operation)

    def _check_lost(self) -> None:
        """SQLite would write into whatever has its descriptors' numbers now, and can't open the
        same file again: within a process its locks are kept by inode."""
        if self._place.is_lost():
            self._leave_for_good("its descriptors were closed under it (as a daemon closes all)")

    def _operate(self, operation: Callable[["EventQueue"], T]) -> T:
        assert self._queue is not None
        try:
            return _operate_filled(operation, self._queue)
        except SQLITE_ERRORS as error:
            raise explain(error, self.path) from error
        finally:
            if uwsgi.forks_unseen():
                self._close()  # nobody will tell us when

    # -- opening and closing ------------------------------------------------------------------

    def _check_refused(self) -> None:
        if self._refused is None:
            return
        until, error = self._refused
        if time.monotonic() < until:
            # It is raised at every send: without this each would add to what it remembers.
            raise error.with_traceback(None)
        self._refused = None

    def look_again(self) -> None:
        """What was refused lately may be mended by now. What was inherited never is."""
        if self._refused is not None and self._refused[0] < float("inf"):
            self._refused = None

    def _refuse(self, error: SpoolError) -> SpoolError:
        self._refused = (time.monotonic() + _RETRY_OPEN_SECONDS, error)
        return error

    def _enter(self) -> bool:
        try:
            return self._place.enter()
        except SpoolUnusable as error:
            self._close()  # there is no gate to it any more
            raise self._refuse(error) from None

    def _open_gated(self, deadline: float) -> None:
        self._check_refused()
        self._enter()
        if not self._place.acquire(deadline):
            raise SpoolBusy(f"another process holds the spool {self.path}")
        self._open(deadline)

    def _open(self, deadline: float) -> None:
        """Open the live generation, or begin the first. Behind the gate."""
        had = self.generation if self._queue is not None else ""
        lost_log = bool(had) and self._place.log_is_lost()
        self._close()
        if self._enter() and not self._place.acquire(deadline):
            raise SpoolBusy(f"another process holds the spool {self.path}")
        self._attempt(functools.partial(self._open_live, had, lost_log))

    def _attempt(self, opening: Callable[[], None]) -> None:
        try:
            self._open_in_need(opening)
        except SQLITE_ERRORS as error:
            explained = explain(error, self.path)
            if isinstance(explained, SpoolFull):
                text = f"cannot open the spool {self.path}: the disk is full"
                explained = self._refuse(SpoolUnusable(text))
            raise explained from error
        except (SchemaTooNew, SpoolUnusable) as error:
            raise self._refuse(error) from None
        except OSError as error:
            where = error.filename or self.path
            text = f"cannot use the spool {self.path}: {error.strerror}: {where}"
            raise self._refuse(SpoolUnusable(text)) from error

    def _open_in_need(self, opening: Callable[[], None]) -> None:
        try:
            opening()
        except SQLITE_ERRORS as error:
            if not (lacks_room(error) and self._place.spend_ballast()):
                raise
            opening()

    def _open_live(self, had: str, lost_log: bool) -> None:
        generation = self._place.locate()
        if generation is None:
            self._begin()
        else:
            # First: `quarantine` asks which one was found broken.
            self.generation = self._place.stamp(generation)
            self._check_replaced(generation, had, lost_log)
            queue = self._connect(generation)
            self._place.opened()
            self._queue = queue  # last: thrown out before, we would compare with an older log
            if self._agree_on_limits(queue):
                with contextlib.suppress(OSError):
                    self._place.publish(generation)  # anew, so that the others open it anew

    def _check_replaced(self, generation: str, had: str, lost_log: bool) -> None:
        """A generation's name is never used again: what stands under the one we had open, and is
        another file or has another log, somebody has put there. Others may still write into what
        was there before, and their closing removes a log by its name.

        Raises:
            SpoolCorrupt: it is to be put aside.
        """
        if had.partition(".")[0] != generation:
            return
        if had != self.generation:
            self._place.put_log_aside()
            raise SpoolCorrupt(f"{generation} was replaced while it was in use")
        if lost_log:
            raise SpoolCorrupt(f"the log of {generation} was removed while it was in use")

    def _begin(self) -> None:
        generation = self._place.begin()
        try:
            queue = self._connect(generation)
            self._agree_on_limits(queue)
            self._place.publish(generation)
            self._place.opened()
            # Last: a signal that throws us out before must not leave a file in use that no other
            # process finds.
            self.generation, self._queue = self._place.stamp(generation), queue
        except BaseException:
            self._place.discard(generation)
            raise

    def _connect(self, generation: str) -> "EventQueue":
        max_pages = self.max_pages
        self._ballast_bytes = ballast.ballast_bytes(max_pages)
        directory = self._place.directory(generation)
        if self._place.occupy(generation):
            save_rest(directory, self._connections)
        queue = load_queue()(
            directory,
            synchronous=SYNCHRONOUS[self._fsync],
            max_pages=max_pages,
            checkpoint_pages=ballast.checkpoint_pages(max_pages),
            living=self._connections,
        )
        try:
            part_with_rest(queue, self._place, generation, self._connections)
        except BaseException:
            queue.close()
            raise
        return queue

    @property
    def max_pages(self) -> int:
        """What the file may grow to."""
        a_tenth = self._place.capacity_bytes() // 10
        most = min(self.limits.before(DEFAULTS).max_bytes or 0, a_tenth)
        return max(_LEAST_PAGES, most // PAGE_BYTES)

    def effective_limits(self) -> dict[str, Any]:
        """What holds, whether somebody has said it or not. While the file is open."""
        return {**asdict(self.limits.before(DEFAULTS)), "max_bytes": self.max_pages * PAGE_BYTES}

    def _agree_on_limits(self, queue: "EventQueue") -> bool:
        """Take over what other processes have set. What this one was given counts before that,
        once: else two that differ would change it for ever. Returns whether that changed it.

        Crash:
            Before the others are told: they hear of it when they next open the file.
        """
        stored = read_limits(queue)
        theirs_first = stored.before(self.limits)
        self.limits = self.limits.before(stored) if self._insists else theirs_first
        queue.limit_pages(self.max_pages)
        if self.limits == stored:
            self._insists = False
            return False
        try:
            write_limits(queue, self.limits)
        except sqlite3.OperationalError:
            return False  # a full disk: what is stored must go out all the same
        self._insists = False
        return True

    def quarantine(self, broken: str, timeout_seconds: float) -> bool:
        """Leave the generation `broken` as it lies and begin a fresh one.

        Returns whether this process did it; another may have been first.

        Crash:
            Before `current` was replaced: it is found broken again. After: done.
        """
        deadline = time.monotonic() + timeout_seconds
        return self._holding_lock(
            lambda pid: self._freeing_gate(lambda: self._quarantine(broken, deadline), pid),
            timeout_seconds,
        )

    def _quarantine(self, broken: str, deadline: float) -> bool:
        self._enter()
        if not self._place.acquire(deadline):
            raise SpoolBusy(f"another process holds the spool {self.path}")
        self._close()
        self._refused = None
        if self._live() != broken:
            return False
        self._attempt(self._begin)
        return True

    def _live(self) -> str:
        try:
            generation = self._place.locate()
            return self._place.stamp(generation) if generation else ""
        except SpoolCorrupt:
            return self.generation

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._holding_lock(
            lambda pid: self._freeing_gate(self._close_gated, pid), _AS_LONG_AS_IT_TAKES
        )

    def _close_gated(self) -> None:
        if self._queue is not None:
            # The last to close checkpoints: behind the gate, if it is to be had.
            self._place.acquire(time.monotonic() + _CLOSE_PATIENCE_SECONDS)
        self._close()

    def _close(self) -> None:
        self._check_lost()
        queue, self._queue = self._queue, None
        if queue is not None:
            if self._place.log_is_lost():
                queue.checkpoint()  # nobody else will ever read it
            queue.close()
        self._place.vacate()

    def sync(self) -> None:
        """Bring what was committed to the disk itself."""
        self._place.sync()

    def sync_anew(self, timeout_seconds: float) -> None:
        """The same after one that failed: what it was to sync is written again first.

        Crash:
            The log is as it was: each byte is written over by itself.
        """
        self.write(lambda queue: self._place.sync_anew(), timeout_seconds)

    # -- fork ---------------------------------------------------------------------------------

    def before_fork(self) -> None:
        self._forks += 1
        self._fork_ready = True  # first: what a signal raises in the middle leaves no lock behind
        self._fork_ready = self._lock.acquire(timeout=_FORK_PATIENCE_SECONDS)
        if self._fork_ready and self.path != MEMORY:
            self._close()
            while self._connections:
                connection = self._connections.pop()()
                if connection is not None:
                    with contextlib.suppress(*SQLITE_ERRORS):  # it was not open yet
                        connection.close()

    def after_fork_in_parent(self) -> None:
        if self._fork_ready:
            self._fork_ready = False
            try:
                self._lock.release()
            except RuntimeError:
                pass  # it was not won

    def after_fork_in_child(self) -> None:
        is_closed = self._fork_ready and self._queue is None
        if self.path == MEMORY or not (is_closed or self._was_idle()):
            self._abandon()
            return
        self._place.leave()
        self._start_life()

    def _was_idle(self) -> bool:
        """Forked unseen, but with nothing open and no thread about to open anything."""
        if self._queue is not None or self._lock._is_owned():
            return False
        return bool(self._lock.acquire(blocking=False))

    def _abandon(self) -> None:
        """An inherited open connection: stay off the file."""
        self._start_life()
        self._leave_for_good("it was in use when this process was forked")
        if self.path == MEMORY:
            self._refused = None  # the parent's events are the parent's; we begin our own

    def _leave_for_good(self, why: str) -> None:
        """Never touch the connection again, and never free it."""
        queue, self._queue = self._queue, None
        self._connections = []
        if queue is not None:
            keep_for_good(queue)
        self._place.leave()
        error = SpoolUnusable(f"cannot use the spool {self.path} until exec: {why}")
        self._refused = (float("inf"), error)


def _operate_filled(operation: Callable[["EventQueue"], T], queue: "EventQueue") -> T:
    try:
        return operation(queue)
    except sqlite3.IntegrityError:
        queue.fill_nulls()
        return operation(queue)
