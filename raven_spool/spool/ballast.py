"""Room kept for acks and deletions on a full disk: a file of real blocks that gives way to them.

SQLite can't even delete a row without writing first. Whoever adds no event and finds the disk full
removes the ballast and goes on in its room. While it is gone nobody adds an event: two writers
beside a drain ate that room, and no ack got through. Whoever writes next restores it as soon as the
disk has room for it again.
"""

import errno
import math
import os
import posix
import stat
import time

from raven_spool.spool.files import create_private
from raven_spool.spool.schema import PAGE_BYTES

_FRAME_BYTES = PAGE_BYTES + 24  # a page in the WAL
_CHECKPOINT_PAGES = 1000  # SQLite's own default; the WAL stays at 4 MB
_LARGEST_COMMIT_PAGES = 320  # 1 MiB of events (intake.py) and their indexes
_TRY_AGAIN_SECONDS = 1.0
_PIECE_BYTES = 1 << 16
_COUNTED_BYTES = 512  # POSIX' unit of st_blocks
_NO_FALLOCATE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def checkpoint_pages(max_pages: int) -> int:
    """The length of the WAL that whoever commits copies into the database."""
    return min(_CHECKPOINT_PAGES, max_pages // 4)


def ballast_bytes(max_pages: int) -> int:
    """What a full disk must have left for the drain to go on.

    At worst no page of the WAL is in the database file yet. Then this lets it be checkpointed; from
    there on the WAL is written from its start again, into blocks that it has.
    """
    longest = checkpoint_pages(max_pages) + min(_LARGEST_COMMIT_PAGES, max_pages)
    return longest * _FRAME_BYTES


class Ballast:
    """The ballast of one spool directory. Used behind the gate alone."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, "ballast")
        self._tried_ticks = -math.inf
        self._is_counted = False

    def keep(self, size_bytes: int) -> bool:
        """Whether it is there, as large as that, or could be restored.

        Crash:
            A part of it is left, under another name; the next attempt removes that.
        """
        is_kept = self._is_there(size_bytes) or self._restore(size_bytes)
        self._is_counted = self._is_counted or is_kept
        return is_kept

    def _is_there(self, size_bytes: int) -> bool:
        try:
            found = os.lstat(self._path)
        except OSError:
            return False
        if stat.S_ISDIR(found.st_mode):
            return True  # somebody's, in the way: no reason to add no event for ever
        # A backup may have left its blocks out (cp and tar take them for a hole). Counted once:
        # ZFS tells those of a new file after seconds, and some file systems tell none at all.
        is_whole = self._is_counted or _has_blocks(found, size_bytes)
        return is_whole and found.st_size >= size_bytes

    def spend(self) -> bool:
        """Give its room to the disk. False: there was none.

        Crash:
            No event is added until it is restored.
        """
        self._tried_ticks = time.monotonic()  # its room is wanted for something else now
        return _remove(self._path)

    def _restore(self, size_bytes: int) -> bool:
        if time.monotonic() - self._tried_ticks < _TRY_AGAIN_SECONDS:
            return False
        is_there = self._try(f"{self._path}.new", size_bytes)
        if not is_there:  # noted last: what a signal threw out was no attempt in vain
            self._tried_ticks = time.monotonic()
        return is_there

    def _try(self, unfinished: str, size_bytes: int) -> bool:
        try:
            # Looked at first: an attempt in vain takes from others, for a moment, what is left.
            if _free_bytes(self._directory) < size_bytes:
                return False
            _remove(unfinished)
            _reserve(unfinished, size_bytes)
            os.rename(unfinished, self._path)
        except OSError:  # a quota, or a limit on a file's size
            _remove(unfinished)
            return False
        return True


def _free_bytes(directory: str) -> int:
    found = os.statvfs(directory)
    return found.f_frsize * found.f_bavail


def _has_blocks(found: os.stat_result, size_bytes: int) -> bool:
    return found.st_blocks * _COUNTED_BYTES >= size_bytes


def _reserve(path: str, size_bytes: int) -> None:
    """A file with blocks of its own, not a hole."""
    create_private(path)
    descriptor = posix.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _allocate(descriptor, size_bytes)
        if not _has_blocks(os.fstat(descriptor), size_bytes):
            _fill(descriptor, size_bytes)
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size_bytes: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise


def _fill(descriptor: int, size_bytes: int) -> None:
    """With what no file system packs: zeros may take no block at all."""
    while size_bytes > 0:
        size_bytes -= posix.write(descriptor, os.urandom(min(size_bytes, _PIECE_BYTES)))


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
