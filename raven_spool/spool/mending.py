"""A copy of a broken file in which SQLite finds what is still there.

The schema's pages are from a fresh file: the tables of all spools begin on the same pages. Where
the tree of the events' table is broken, one is grown anew over its leaves (btree.py). What stands
behind a damage in its log (log.py) is read from a copy of its own: as a whole it may lack what was
there before.
"""

import contextlib
import errno
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from raven_spool.spool import btree, fork
from raven_spool.spool.complaints import SQLITE_ERRORS
from raven_spool.spool.files import create_private, size_of
from raven_spool.spool.late import load_queue
from raven_spool.spool.log import Rest
from raven_spool.spool.names import LOG
from raven_spool.spool.places import MEMORY
from raven_spool.spool.rows import StoredRow
from raven_spool.spool.schema import PAGE_BYTES

_UNFINISHED = ".new"
_MAGIC = b"SQLite format 3\0"
_VERSIONS, _PAGE_COUNT, _FREELIST = slice(18, 20), slice(28, 32), slice(32, 40)  # in the header
_WITH_LOG, _WITHOUT_LOG = b"\x02\x02", b"\x01\x01"
_AS_THE_FILE_HAS = bytes(4)
_UNKNOWN = b"\xff" * 8
_ALIVE = (
    "SELECT _id FROM {table} INDEXED BY events_ready WHERE status < 2",
    "SELECT _id FROM {table} INDEXED BY events_dead WHERE status >= 2",
)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """What an empty spool's file begins with."""

    pages: dict[int, bytes]  # the first, and all others of the schema
    root: int  # of the events' table


def mend(database: str, target: str, table: str) -> None:
    """Make the copy of `database` and its log at `target`. No store's lock may be held: it takes
    as long as the file is large. The ids of all events are in memory meanwhile.

    Raises:
        OSError: there is no room for it, or what lies there can't be read.

    Crash:
        There is no `target`; what was begun is removed by the next who tries.
    """
    with _copied(database, target, table) as (file, fresh):
        if not btree.is_whole(file, fresh.root):
            _regrow(file, table, fresh.root)


def mend_rest(database: str, target: str, table: str, rest: Rest, after: int) -> None:
    """The same, with the pages of `rest` instead of the file's. The copy leads to the events in
    them whose ids come after that one, and to no others."""
    with _copied(database, target, table) as (file, fresh):
        _put_pages(file, rest.pages)
        _put_schema(file, fresh, _WITHOUT_LOG)
        places = (place for place in rest.find_rows() if btree.id_in(place) > after)
        btree.grow(file, fresh.root, places)


@contextlib.contextmanager
def _copied(database: str, target: str, table: str) -> Iterator[tuple[BinaryIO, _Fresh]]:
    """The copy, with a whole schema and its log taken in, to be mended; then it is put there."""
    _remove_unfinished(target)
    begun = f"{target}.{secrets.token_hex(4)}"  # an old leader may wake, and begin one too
    copy = begun + _UNFINISHED
    try:
        _check_room(database)
        # The log first: who has it open still may bring it into the file, and remove it. Nobody
        # adds to it.
        _copy(database + LOG, copy + LOG)
        _copy(database, copy)
        fresh = fork.hold_off(lambda: _make_fresh(table))
        with open(copy, "r+b") as file:
            _put_schema(file, fresh, _WITH_LOG)
        fork.hold_off(lambda: _take_in_log(copy))
        with open(copy, "r+b") as file:
            _put_schema(file, fresh, _WITHOUT_LOG)
            file.flush()
            yield file, fresh
            file.flush()
            os.fsync(file.fileno())
        os.rename(copy, target)
    finally:
        _remove_unfinished(begun)


def _remove_unfinished(path: str) -> None:
    directory, name = os.path.split(path)
    for found in os.listdir(directory):
        if found.startswith(f"{name}.") and _UNFINISHED in found:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, found))


def _check_room(database: str) -> None:
    """Half of what is free is left to those who send."""
    found = os.statvfs(os.path.dirname(database))
    if 2 * size_of(database) > found.f_bavail * found.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), database)


def _copy(source: str, target: str) -> None:
    create_private(target)
    if size_of(source):
        shutil.copyfile(source, target)


def _make_fresh(table: str) -> _Fresh:
    with contextlib.closing(
        load_queue()(MEMORY, synchronous="NORMAL", max_pages=64, checkpoint_pages=0)
    ) as queue:
        image = queue.connection.serialize()
        roots = dict(
            queue.connection.execute(
                "SELECT '`' || name || '`', rootpage FROM sqlite_master WHERE rootpage > 0"
            )
        )
    # What is no table's or index' root is, in an empty file, all of its schema.
    numbers = set(range(1, len(image) // PAGE_BYTES + 1)) - {*roots.values()}
    pages = {number: image[(number - 1) * PAGE_BYTES : number * PAGE_BYTES] for number in numbers}
    return _Fresh(pages, roots[table])


def _put_schema(file: BinaryIO, fresh: _Fresh, versions: bytes) -> None:
    was = btree.read_page(file, 1)
    first = bytearray(fresh.pages[1])
    first[_VERSIONS] = versions
    first[_PAGE_COUNT] = _AS_THE_FILE_HAS
    first[_FREELIST] = was[_FREELIST] if was.startswith(_MAGIC) else _UNKNOWN
    _put_pages(file, {**fresh.pages, 1: bytes(first)})


def _put_pages(file: BinaryIO, pages: dict[int, bytes]) -> None:
    for number, page in pages.items():
        btree.write_page(file, number, page)


def _take_in_log(copy: str) -> None:
    # A log whose schema SQLite can't read is not ours: the file is read without it.
    with contextlib.suppress(*SQLITE_ERRORS), contextlib.closing(sqlite3.connect(copy)) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _regrow(file: BinaryIO, table: str, root: int) -> None:
    """Free pages still show events that were delivered: without their list the indexes, which
    know of none that is gone, say which rows there are; without both, nobody can tell."""
    free = btree.find_free(file)
    alive = fork.hold_off(lambda: _read_alive(file.name, table)) if free is None else None
    if free is None and alive is None:
        return
    places = btree.find_rows(file, len(StoredRow._fields), free or set())
    if alive is not None:
        places = (place for place in places if btree.id_in(place) in alive)
    btree.grow(file, root, places)


def _read_alive(copy: str, table: str) -> set[int] | None:
    """The ids that the indexes have; None where they can't be read to their ends."""
    with contextlib.suppress(*SQLITE_ERRORS), contextlib.closing(sqlite3.connect(copy)) as opened:
        opened.execute("PRAGMA trusted_schema = OFF")
        return {key for sql in _ALIVE for (key,) in opened.execute(sql.format(table=table))}
    return None
