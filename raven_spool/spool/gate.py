"""One writing process at a time, in about the order they came, nobody blocked for long.

SQLite's own busy handler sleeps in steps and starves (worst put 330 ms with four processes), so
processes queue at two kernel locks: take the queue lock, take the main lock, free the queue lock.
Whoever has had its turn can't barge in front of the one at the head of the queue.

A turn is a few transactions, not one: a process that comes back at once finds its page cache
valid, and nobody has to be woken in between. Two saturated processes commit 1.5 times as much so.

`flock` knows no timeout, so both are tried without blocking. The head of the queue does not poll
blindly: whoever frees the main lock writes a byte into a pipe, and that wakes it. The byte is a
hint only; the lock decides, and it dies with its holder. The queue lock is for fairness only: if
a process is stopped (Ctrl-Z, a paused container) while it waits there, the others go round it.
"""

import errno
import fcntl
import os
import posix
import select
import time

from raven_spool.errors import SpoolUnusable
from raven_spool.spool import native
from raven_spool.spool.files import OwnFile, open_fifo, open_private

# Measured in bench/enqueue.py with four saturated processes: shorter costs processor time,
# longer shows in the worst send.
_QUEUE_PAUSE_SECONDS = 0.0003
_HINT_WAIT_MS = 2
_TURN_SECONDS = 0.003
_HOT_SECONDS = 0.0003  # who comes back within that is still at it, and need not wake the next
_QUEUE_SHARE = 4  # of the time there is, at most this part is spent on standing in line


class Gate:
    """The turnstile of one spool directory. One thread of a process uses it at a time."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "write.lock")
        self._files: list[OwnFile] = []
        try:
            self._main = self._own(open_private(self._path))
            self._queue = self._own(open_private(os.path.join(directory, "queue.lock")))
            self._hints = self._open_hints(os.path.join(directory, "write.turn"))
        except BaseException:
            self.close()  # a process short of descriptors would lose some at each attempt
            raise
        self._freed_at = self._turn_ends_at = 0.0
        self._is_hot = False
        self._poll = native.make_poll()
        if self._hints is not None:
            self._poll.register(self._hints, select.POLLIN)

    def _open_hints(self, path: str) -> int | None:
        """None: something else stands there, as where a backup without pipes was put back. Then
        whoever waits looks again in vain now and then."""
        try:
            return self._own(open_fifo(path))
        except SpoolUnusable:
            return None

    def _own(self, descriptor: int) -> int:
        self._files.append(OwnFile(descriptor))
        return descriptor

    def acquire(self, deadline: float) -> bool:
        """Win the right to write before `deadline` (monotonic), or don't.

        An exception raised into this call by a signal may leave the lock held: callers free it
        in a `finally`, whether or not this returned.
        """
        now = time.monotonic()
        self._is_hot = now - self._freed_at < _HOT_SECONDS
        if self._is_hot and now < self._turn_ends_at and _try(self._main):
            return True
        # Counted from here, waiting included: the longer the line, the shorter the turns in it.
        self._turn_ends_at = now + _TURN_SECONDS
        in_line = _try(self._queue) or self._stand_in_line(deadline)
        if in_line and _try(self._main):
            fcntl.flock(self._queue, fcntl.LOCK_UN)
            return True
        return self._wait_for_main(deadline)

    def _stand_in_line(self, deadline: float) -> bool:
        now = time.monotonic()
        until = now + (deadline - now) / _QUEUE_SHARE
        while time.monotonic() < until:
            native.sleep(_QUEUE_PAUSE_SECONDS)
            if _try(self._queue):
                return True
        return False

    def _wait_for_main(self, deadline: float) -> bool:
        won = _try(self._main)
        while not won and (remaining := deadline - time.monotonic()) > 0:
            if self._poll.poll(min(_HINT_WAIT_MS, remaining * 1000)):
                self._swallow_hints()
            won = _try(self._main)
        fcntl.flock(self._queue, fcntl.LOCK_UN)
        return won

    def _swallow_hints(self) -> None:
        assert self._hints is not None  # else it was never heard
        try:
            posix.read(self._hints, 65536)
        except BlockingIOError:
            pass

    def release(self) -> None:
        fcntl.flock(self._main, fcntl.LOCK_UN)
        fcntl.flock(self._queue, fcntl.LOCK_UN)
        self._freed_at = time.monotonic()
        if not self._is_hot or self._freed_at >= self._turn_ends_at:
            self.hint()

    def hint(self) -> None:
        """Tell the head of the queue to try again."""
        if self._hints is None:
            return
        try:
            posix.write(self._hints, b".")
        except BlockingIOError:
            pass  # full of hints already

    def is_in_place(self) -> bool:
        """Whether others who come now find the same lock: the directory may have been remade."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._main))
        except OSError:
            return False

    def is_lost(self) -> bool:
        """Whether somebody closed our descriptors, and SQLite's with them."""
        return not self._files[0].is_ours()

    def close(self) -> None:
        """In a forked child this must be all: an unlock would free the parent's lock."""
        for file in self._files:
            file.close()


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise SpoolUnusable(f"this file system has no flock ({error.strerror})") from error
        raise
    return True
