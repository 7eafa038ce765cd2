"""A generation that was put aside, read as far as it can be read.

Nothing is committed to it any more: every commit looks behind the gate whether `current` has moved.
It is opened read-only and its files stay as they lie. Where SQLite does not find its way in them,
a mended copy is read (mending.py).
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raven_spool.model import Destination
from raven_spool.spool.complaints import SQLITE_ERRORS
from raven_spool.spool.files import is_plain, size_of
from raven_spool.spool.lanes import LOST, read_destination
from raven_spool.spool.log import read_rest
from raven_spool.spool.mending import mend, mend_rest
from raven_spool.spool.names import BESIDE, LOG
from raven_spool.spool.places import DATABASE
from raven_spool.spool.rows import STORED_COLUMNS, StoredRow, cast
from raven_spool.spool.schema import find_foreign

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue

_MENDED = "mended.db"
_BEHIND = "behind.db"  # what stood behind a damage in the log
_AT_ONCE = 64  # in one go, behind the gate: a few milliseconds
_LOOKS = 500
_BYTES_AT_ONCE = 1 << 20
_BLIND = 10_000  # ids tried in a row: an interior page that is gone holds no more


@dataclass(slots=True)
class Progress:
    """How far one has been brought back; kept in the live file, with the rows it covers."""

    last: int = 0
    blind: int = 0
    back: dict[str, int] = field(default_factory=dict)  # events, by their old lane
    is_done: bool = False
    is_behind: bool = False  # what its log had behind a damage is being read, or nothing was there
    is_kept: bool = False  # something in it could not be read


class Unreadable(Exception):
    """A copy may have more."""


class Wreck:
    def __init__(self, directory: str, table: str) -> None:
        self._directory = directory
        self._table = table

    @contextlib.contextmanager
    def opened(self, progress: Progress | None = None) -> Iterator[sqlite3.Connection | None]:
        """None where not even its tables can be found."""
        before, probe = (_MENDED if self.is_mended else DATABASE), "SELECT 1"
        name = _BEHIND if progress and progress.is_behind and self._has_behind else before
        if name != DATABASE:
            # If the copy can't help, it is read as it is, past the pages that are gone.
            probe = "EXPLAIN SELECT 1"
        if not _may_be_opened(self._file(name)):
            yield None
            return
        with contextlib.closing(open_read_only(self._file(name))) as connection:
            if name == _BEHIND:
                self._attach(connection, before)
            yield connection if self._has_tables(connection, probe) else None

    def _attach(self, connection: sqlite3.Connection, before: str) -> None:
        if _may_be_opened(self._file(before)):
            with contextlib.suppress(*SQLITE_ERRORS):
                connection.execute("ATTACH ? AS before", (_read_only(self._file(before)),))

    def _has_tables(self, connection: sqlite3.Connection, probe: str) -> bool:
        try:
            if find_foreign(connection):  # in the place of a table there may be what never ends
                return False
            connection.execute(f"{probe} FROM {self._table} WHERE _id = 0").fetchall()
        except SQLITE_ERRORS:
            return False
        return True

    @property
    def is_mended(self) -> bool:
        return size_of(self._file(_MENDED)) > 0

    @property
    def _has_behind(self) -> bool:
        return size_of(self._file(_BEHIND)) > 0

    @property
    def holds_nothing(self) -> bool:
        """Begun by a process that died before it was published."""
        if not size_of(self._file(DATABASE)):
            return not size_of(self._file(DATABASE + LOG))
        if not _may_be_opened(self._file(DATABASE)):
            return False
        with contextlib.closing(open_read_only(self._file(DATABASE))) as connection:
            try:
                found = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            except SQLITE_ERRORS:
                return False
            return bool(found == (0,))

    def mend(self) -> None:
        """Make the copy; raises OSError as `mending` does."""
        mend(self._file(DATABASE), self._file(_MENDED), self._table)

    def has_more_behind(self, progress: Progress) -> bool:
        """Whether a damage in its log hides events from those who read what is before. To be asked
        at the end of that."""
        if progress.is_behind:
            return False
        return read_rest(self._file(DATABASE), progress.last).highest_id() > progress.last

    def mend_behind(self, after: int) -> None:
        """Make the copy of what stands there, whose ids come after this one."""
        rest = read_rest(self._file(DATABASE), after)
        mend_rest(self._file(DATABASE), self._file(_BEHIND), self._table, rest, after)

    # -- rows ---------------------------------------------------------------------------------

    def read(self, connection: sqlite3.Connection, progress: Progress) -> list[StoredRow]:
        """Some more rows, oldest first. Each is looked up by its own id: in a broken tree a walk
        along the leaves may meet one twice, stray elsewhere, or end too early.

        Raises:
            Unreadable: the first time that something is, while there is no copy yet.
        """
        rows: list[StoredRow] = []
        size = 0
        for _ in range(_LOOKS):
            row = self._next(connection, progress)
            if row is not None:
                rows.append(row)
                size += len(row.data)
            if progress.is_done or len(rows) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
                break
        return rows

    def _next(self, connection: sqlite3.Connection, progress: Progress) -> StoredRow | None:
        try:
            row = self._row(connection, progress.last + 1)
        except SQLITE_ERRORS as error:
            if not (progress.is_kept or progress.is_behind or self.is_mended):
                raise Unreadable from error
            row, progress.is_kept = None, True
        if row is None:
            self._step_over(connection, progress)
            return None
        progress.last, progress.blind = row.id, 0
        return row

    def _step_over(self, connection: sqlite3.Connection, progress: Progress) -> None:
        """One id further, or over a gap that is no hole but was delivered."""
        ahead = [at for at in self._ahead(connection, progress.last) if at != progress.last]
        progress.blind += 1
        if not ahead or progress.blind > 2 * _BLIND:
            progress.is_done = True
        elif min(ahead) - progress.last > _BLIND:
            progress.last = min(ahead) - 1
        else:
            progress.last += 1

    def _ahead(self, connection: sqlite3.Connection, after: int) -> Iterator[int]:
        """The next id, and the last that was ever given; `after` stands for the end, and what
        can't be read for something that may come."""
        for sql in (
            f"SELECT _id FROM {self._table} WHERE _id > ? ORDER BY _id LIMIT 1",
            "SELECT MAX(seq) FROM sqlite_sequence WHERE seq > ?",
        ):
            try:
                (found,) = connection.execute(sql, (after,)).fetchone() or (None,)
                yield max(found, after) if isinstance(found, int) else after
            except SQLITE_ERRORS:
                yield after + 1

    def _row(self, connection: sqlite3.Connection, key: int) -> StoredRow | None:
        found = connection.execute(
            f"SELECT {STORED_COLUMNS} FROM {self._table} WHERE _id = ?", (key,)
        ).fetchone()
        return StoredRow._make(found) if found else None

    # -- what stands beside them --------------------------------------------------------------

    # Of what stands behind a damage, the tables beside the events may be whole only before it.

    def lane(self, connection: sqlite3.Connection, lane: int) -> tuple[Destination, str]:
        category = ""
        for schema in ("before", "main"):
            with contextlib.suppress(*SQLITE_ERRORS, TypeError):
                settings, category = connection.execute(
                    f"SELECT (SELECT settings FROM {schema}.destinations "
                    "WHERE id = lanes.destination), "
                    f"{cast('category', str)} FROM {schema}.lanes WHERE id = ?",
                    (lane,),
                ).fetchone()
                if (destination := read_destination(settings)) != LOST:
                    return destination, category or "error"
        return LOST, category or "error"

    def kept(self, connection: sqlite3.Connection) -> dict[int, int] | None:
        """How many events its ledger says each lane has; None where that can't be read."""
        for schema in ("main", "before"):
            with contextlib.suppress(*SQLITE_ERRORS):
                rows = connection.execute(
                    f"SELECT id, {cast('ready', int)} + {cast('dead', int)} FROM {schema}.lanes"
                )
                return {int(lane): int(count) for lane, count in rows if 0 < count < 1 << 32}
        return None

    def notes(self, connection: sqlite3.Connection) -> list[tuple[str, str]]:
        """What it knew of older ones."""
        try:
            return connection.execute(
                "SELECT key, CAST(value AS TEXT) FROM meta WHERE key LIKE 'salvage:%'"
            ).fetchall()
        except SQLITE_ERRORS:
            return []

    def remove(self) -> None:
        """All but directories: none is of our making, so what is in one is not ours to remove."""
        with os.scandir(self._directory) as found:
            entries = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in found]
        for path, is_directory in entries:
            if not is_directory:
                os.unlink(path)
        if not any(is_directory for _, is_directory in entries):
            os.rmdir(self._directory)

    def _file(self, name: str) -> str:
        return os.path.join(self._directory, name)


def note_key(name: str) -> str:
    """Under which the progress with a generation stands in `meta`."""
    return f"salvage:{name}"


def read_progress(text: str | None) -> Progress:
    try:
        found = json.loads(text or "{}")
        known = {name: found[name] for name in Progress.__slots__ if name in found}
    except (ValueError, TypeError, RecursionError):
        return Progress()
    fresh = Progress()
    if any(type(value) is not type(getattr(fresh, name)) for name, value in known.items()):
        return fresh
    return Progress(**known)


def progress_text(progress: Progress) -> str:
    return json.dumps({name: getattr(progress, name) for name in Progress.__slots__})


def table_of(queue: "EventQueue") -> str:
    return str(queue._table_name)


def open_read_only(
    path: str, factory: Callable[..., sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """Its files stay as they lie."""
    from raven_spool.spool.queue import READABLE_TEXT

    connection: sqlite3.Connection = sqlite3.connect(
        _read_only(path),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        factory=factory,  # type: ignore[call-overload]
    )
    connection.text_factory = READABLE_TEXT
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _read_only(path: str) -> str:
    return f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro"


def _may_be_opened(path: str) -> bool:
    """Not where a pipe would have SQLite wait for ever, or a link would lead it elsewhere."""
    return size_of(path) > 0 and all(is_plain(path + suffix) for suffix in BESIDE)
