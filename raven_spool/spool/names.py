"""What stands under the names of a spool's files, and whether it is what we have open.

A process whose file was renamed, removed or replaced goes on in what nobody will ever open again:
its commits are lost when it ends. So each commit looks, by name, before it is made.
"""

import contextlib
import os
import posix

from raven_spool.errors import SpoolCorrupt, SpoolUnusable
from raven_spool.spool.files import is_plain, is_shared_file, open_private

LOG = "-wal"
REST = "-rest"  # what was behind a damage in the log (log.py)
BESIDE = (LOG, "-shm", "-journal")  # what SQLite looks for next to a file


class Names:
    """Of one spool directory: `current`, the live file, and that file's log."""

    def __init__(self, current: str) -> None:
        self._current = current
        self._database = ""
        self._found: tuple[int, ...] = ()
        self._log = 0  # of what was last opened

    def remember(self, database: str) -> None:
        """Before it is opened."""
        self._database = database
        self._found = self._look()

    def remember_log(self) -> None:
        """Once it is open: SQLite has made its log."""
        self._log = _inode(self._database + LOG)

    def have_moved(self) -> bool:
        found = self._look()
        return not found or found != self._found or self.log_is_lost()

    def log_is_left(self) -> bool:
        """Whether it stands where it stood."""
        return self._log != 0 and _inode(self._database + LOG) == self._log

    def log_is_lost(self) -> bool:
        """Only who closes a file last removes its log, so this was not one of us."""
        return self._log != 0 and _inode(self._database + LOG) != self._log

    def move_log(self, database: str) -> None:
        """Away from what stands in the place of its own file, which SQLite would read it into."""
        os.rename(self._database + LOG, database + LOG)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._database + "-shm")

    def _look(self) -> tuple[int, ...]:
        # The database must be looked at by path only: opening and closing it by hand would drop
        # this process's POSIX locks on it.
        try:
            current = os.stat(self._current)
            return current.st_ino, current.st_mtime_ns, os.stat(self._database).st_ino
        except OSError:
            return ()


def _inode(path: str) -> int:
    """0: nothing is there."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def check_plain(directory: str, database: str) -> None:
    """A link in the place of a generation or its files would have SQLite write wherever it points,
    and a pipe would block it.

    Raises:
        SpoolCorrupt: there is something else than plain files.
        SpoolUnusable: a file that may be somebody else's. It is not put aside, since then its
            events would be brought back.
    """
    if os.path.islink(directory):
        raise SpoolCorrupt(f"{directory} is a link")
    for suffix in ("", *BESIDE, REST):
        if not is_plain(database + suffix):
            raise SpoolCorrupt(f"{database}{suffix} is not a plain file")
        if is_shared_file(database + suffix):
            text = f"{database}{suffix} is another file too (a hard link): remove it"
            raise SpoolUnusable(text)


def read_current(path: str) -> str | None:
    """The name in `current`.

    Raises:
        SpoolCorrupt: it holds anything else than the name of a generation.
    """
    if not os.path.lexists(path):
        return None
    descriptor = open_private(path)
    try:
        name = posix.read(descriptor, 100).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    # Never a path: nothing in a spool may make us read or write elsewhere.
    if not (name.startswith("g-") and name[2:].isalnum()):
        raise SpoolCorrupt(f"{path} names no generation")
    return name
