"""Who drains: the process that holds the spool's drain lock, and how far it has come.

The lock is filelock's (`flock`: it dies with its holder). Its taking raises a stored epoch, so
that a leader whose lock file was removed, or who slept through a change, sees at its next claim
that another has taken over. Progress is a small file beside it, for those who wait.
"""

import contextlib
import json
import os
import posix
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raven_spool.errors import SpoolBusy, SpoolUnusable
from raven_spool.spool import fork
from raven_spool.spool.apart import call_apart
from raven_spool.spool.files import OwnFile, keep_for_good, open_private
from raven_spool.spool.places import MEMORY
from raven_spool.spool.rows import YEAR_10000, cast
from raven_spool.spool.store import Store

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

STALLED_AFTER_SECONDS = 10.0
_TICK_SECONDS = 1.0
_RECORD_BYTES = 160
_PATIENCE_SECONDS = 0.2
_MAX_PID = 1 << 22  # Linux's
_MAX_EPOCH = 1 << 53


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderRecord:
    """What a leader last said of itself."""

    pid: int
    progress_at: float
    busy_until: float  # it may be silent until then: a request is under way

    def is_stalled(self, now: float) -> bool:
        return now > max(self.progress_at + STALLED_AFTER_SECONDS, self.busy_until)


class Leadership:
    """This process's claim to lead. Used by one thread at a time (the drain's lock)."""

    def __init__(self, path: str, store: Store) -> None:
        self._store = store
        self._in_memory = path == MEMORY
        self._lock_path = os.path.join(path, "drain.lock")
        self._record_path = os.path.join(path, "drain.leader")
        self.careful = False  # the last leader ended without a word
        self._forget()
        fork.join(self)

    def _forget(self) -> None:
        self._lock: Any = None
        self._inode = 0
        self._epoch = 0
        self._record: OwnFile | None = None
        self._ticked = self._busy_until = 0.0

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    @property
    def epoch(self) -> int:
        """Of the lead we have; 0 without one."""
        return self._epoch

    def take(self) -> bool:
        """Try to lead, without waiting. A leader whose lock file is gone stops leading.

        Crash:
            The kernel frees the lock; the next leader finds `leading` set and takes care.
        """
        if self.is_held:
            if not self._is_lock_in_place():
                self.let_go(clean=False)
            return self.is_held
        self._store.read(lambda queue: None)  # the directory must be there, or made
        lock = None if self._in_memory else _acquire_apart(self._lock_path)
        if lock is None and not self._in_memory:
            return False
        try:
            self._epoch, self.careful = self._store.write(_raise_epoch, _PATIENCE_SECONDS)
        except BaseException:
            _release_apart(lock)
            raise
        self._lock = lock or True
        if not self._in_memory:
            self._inode = os.stat(self._lock_path).st_ino
            self._record = _open_record(self._record_path)
        self.tick(0.0)
        return True

    def take_if_free(self) -> bool:
        """As `take`. Where the gate is not won at once, somebody is at work: it is tried again."""
        try:
            return self.take()
        except SpoolBusy:
            return False

    def still_leads(self, queue: "EventQueue") -> bool:
        """Whether nobody has taken over; asked before each claim, inside its read."""
        if not self.is_held:
            return False
        found = queue.connection.execute("SELECT epoch FROM leadership").fetchone()
        return bool(found == (self._epoch,) and self._is_lock_in_place())

    def _is_lock_in_place(self) -> bool:
        if self._in_memory:
            return True
        try:
            return os.stat(self._lock_path).st_ino == self._inode
        except OSError:
            return False

    def let_go(self, *, clean: bool = True) -> None:
        """Stop leading. Clean: nothing is in flight."""
        lock, record, epoch = self._lock, self._record, self._epoch
        is_ours = lock is not None and self._is_lock_in_place()
        self._forget()
        if lock is None:
            return
        try:
            with contextlib.suppress(Exception):  # a broken spool must not keep us leading
                if clean:
                    self._store.write(lambda queue: _stand_down(queue, epoch), _PATIENCE_SECONDS)
            if record is not None and is_ours:  # else another leader has its own record there
                _write_record(record, None)
        finally:
            _free(lock, record)

    def tick(self, busy_seconds: float) -> None:
        """Say that we move: once a second, or when a request may take longer than was said."""
        now = time.time()
        if self._record is None:
            return
        if abs(now - self._ticked) >= _TICK_SECONDS or now + busy_seconds > self._busy_until + 1:
            self._ticked, self._busy_until = now, now + busy_seconds
            _write_record(
                self._record,
                LeaderRecord(pid=os.getpid(), progress_at=now, busy_until=now + busy_seconds),
            )

    def look(self) -> LeaderRecord | None:
        """What the present leader last said; None if it said good-bye."""
        return read_record(self._record_path)

    # -- fork ---------------------------------------------------------------------------------

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None:
        # filelock closes its descriptor in the child by itself and refuses the object.
        if self._record is not None:
            self._record.close()
        self._forget()


def _free(lock: Any, record: OwnFile | None) -> None:
    if record is not None and not record.is_ours():
        # All descriptors were closed under us: filelock would free and close by its number what is
        # the application's by now, at its own end too.
        keep_for_good(lock)
        return
    _release_apart(lock)
    if record is not None:
        record.close()


def _acquire_apart(path: str) -> Any:
    return call_apart(lambda: _acquire(path), _release)


def _release_apart(lock: Any) -> None:
    if lock is not None and lock is not True:
        call_apart(lambda: _release(lock))


def _release(lock: Any) -> None:
    if lock is not None:
        lock.release()


def _acquire(path: str) -> Any:
    """The lock, or None if somebody else has it."""
    from filelock import FileLock, Timeout  # 53 ms that an import of raven_spool must not cost

    os.close(open_private(path))  # filelock would make it for ourselves alone
    lock = FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _raise_epoch(queue: "EventQueue") -> tuple[int, bool]:
    found = queue.connection.execute(
        f"UPDATE leadership SET epoch = {cast('epoch', int, _MAX_EPOCH)} + 1, unclean = leading, "
        "leading = 1 RETURNING epoch, unclean"
    ).fetchall()
    if not found:  # a damaged page: else nobody would ever lead again
        found = queue.connection.execute(
            "INSERT INTO leadership VALUES (1, 1, 1) RETURNING epoch, unclean"
        ).fetchall()
    epoch, unclean = found[0]
    return int(epoch), bool(unclean)


def _stand_down(queue: "EventQueue", epoch: int) -> None:
    queue.connection.execute("UPDATE leadership SET leading = 0 WHERE epoch = ?", (epoch,))


def _open_record(path: str) -> OwnFile | None:
    """None: no room for it, no descriptor, or something else is there. Then those who wait don't
    see how far we are."""
    try:
        return OwnFile(open_private(path))
    except (OSError, SpoolUnusable):
        return None


def _write_record(file: OwnFile, record: LeaderRecord | None) -> None:
    text = "{}"
    if record is not None:
        text = json.dumps(
            {
                "pid": record.pid,
                "progress_at": round(record.progress_at, 3),
                "busy_until": round(record.busy_until, 3),
            }
        )
    # One write of one size: a reader never sees half of it. A disk that takes none stops no drain.
    with contextlib.suppress(OSError):
        if file.is_ours():
            os.pwrite(file.descriptor, text.encode().ljust(_RECORD_BYTES) + b"\n", 0)


def read_record(path: str) -> LeaderRecord | None:
    try:
        # Never through a link, nor waiting for the other end of a pipe.
        descriptor = posix.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = json.loads(posix.read(descriptor, _RECORD_BYTES))
        finally:
            os.close(descriptor)
        progress_at, busy_until = float(found["progress_at"]), float(found["busy_until"])
        pid = int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    # What we never wrote says nothing: 0 and -1 would be asked for as whole groups of processes.
    if not (0 < pid <= _MAX_PID and 0 <= progress_at < YEAR_10000 and 0 <= busy_until < YEAR_10000):
        return None
    return LeaderRecord(pid=pid, progress_at=progress_at, busy_until=busy_until)
