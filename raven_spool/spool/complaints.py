"""SQLite's errors in our words."""

import sqlite3

from raven_spool.errors import (
    SpoolBusy,
    SpoolCorrupt,
    SpoolError,
    SpoolFull,
    SpoolUncertain,
    SpoolUnusable,
)

_MEANINGS: dict[int, tuple[type[SpoolError], str]] = {
    sqlite3.SQLITE_FULL: (SpoolFull, "is full"),
    sqlite3.SQLITE_CORRUPT: (SpoolCorrupt, "is damaged"),
    sqlite3.SQLITE_NOTADB: (SpoolCorrupt, "is damaged"),
    sqlite3.SQLITE_BUSY: (SpoolBusy, "is held by another program"),
    sqlite3.SQLITE_LOCKED: (SpoolBusy, "is held by another program"),
    sqlite3.SQLITE_READONLY: (SpoolUnusable, "cannot be written"),
    sqlite3.SQLITE_CANTOPEN: (SpoolUnusable, "cannot be opened"),
    sqlite3.SQLITE_PERM: (SpoolUnusable, "cannot be written"),
    sqlite3.SQLITE_AUTH: (SpoolUnusable, "cannot be written"),
    # A log that was cut short under us; of the database SQLite takes what is missing for zeros.
    sqlite3.SQLITE_IOERR_SHORT_READ: (SpoolCorrupt, "is damaged"),
    # The shared memory has no room to grow, which comes before anything is written.
    sqlite3.SQLITE_IOERR_SHMSIZE: (SpoolFull, "is full"),
}
# What a call of SQLite raises. It quotes what lies in a damaged file, and Python reads that as
# strict UTF-8: where the words can't be read, neither can the file.
SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)

# SQLite's answer to a write that a quota or a limit on the file's size forbids.
_LACKS_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE)


def explain(error: sqlite3.Error | UnicodeDecodeError, path: str) -> SpoolError:
    """After anything unforeseen a commit is uncertain."""
    code = _code(error)
    unforeseen = SpoolUncertain, "failed"
    kind, text = _MEANINGS.get(code) or _MEANINGS.get(code & 0xFF, unforeseen)
    return kind(f"the spool {path} {text} ({error})")


def lacks_room(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Whether more room on the disk may help."""
    return _code(error) in _LACKS_ROOM


def _code(error: sqlite3.Error | UnicodeDecodeError) -> int:
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT
    return getattr(error, "sqlite_errorcode", 0)
