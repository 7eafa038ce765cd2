"""The rest of a damaged log (log.py) becomes a generation of its own.

It comes back as what was put aside does (salvage.py), and the file it was behind goes on.
"""

import contextlib
import functools
import os
from typing import TYPE_CHECKING

from raven_spool.spool import log
from raven_spool.spool.complaints import SQLITE_ERRORS
from raven_spool.spool.files import size_of
from raven_spool.spool.lanes import copy_lanes
from raven_spool.spool.late import load_queue
from raven_spool.spool.names import LOG
from raven_spool.spool.places import DATABASE, Place
from raven_spool.spool.wreck import Progress, note_key, open_read_only, progress_text

if TYPE_CHECKING:
    from raven_spool.spool.queue import Connections, EventQueue


def save_rest(directory: str, connections: "Connections") -> None:
    """Keep what the log of a generation has behind a damage, by the only one who is about to open
    it: whoever closes a file last removes its log.

    Args:
        connections: what is open, for a fork in the middle.

    Crash:
        Before it is kept: the log still has it.
    """
    database = os.path.join(directory, DATABASE)
    if size_of(database + LOG):
        log.keep_rest(database, _last_id(database, connections))


def _last_id(database: str, connections: "Connections") -> int:
    """The last that was given, as far as SQLite reads the log, which stays as it is; 0 where it
    can't be read at all."""
    load_queue()  # no fork in the middle of that import
    from raven_spool.spool.queue import Connection

    factory = functools.partial(Connection, connections)
    with (
        contextlib.suppress(*SQLITE_ERRORS),
        contextlib.closing(open_read_only(database, factory)) as connection,
    ):
        (last,) = connection.execute("SELECT MAX(seq) FROM sqlite_sequence").fetchone()
        return last if isinstance(last, int) else 0
    return 0


def part_with_rest(
    queue: "EventQueue", place: Place, generation: str, connections: "Connections"
) -> None:
    """To be called before anything is written to the file. Where there is no rest: a system call.

    Crash:
        Before it has moved: it is found again. After: done.
    """
    database = os.path.join(place.directory(generation), DATABASE)
    last = log.read_kept(database).highest_id()
    if not last:
        return
    if last <= queue.last_id():
        log.forget_rest(database)
        return
    queue.empty_log()  # first: else it would show the same to the next who opens it
    name = place.begin()
    try:
        _begin_aside(queue, place.directory(name), name, connections)
    except BaseException:
        place.discard(name)
        raise
    log.move_rest(database, os.path.join(place.directory(name), DATABASE))


def _begin_aside(live: "EventQueue", directory: str, name: str, connections: "Connections") -> None:
    """A file without events, which knows the live one's lanes, and that what is missing there comes
    after the last id it has given.

    Crash:
        It holds nothing, and is removed by who looks for what was put aside.
    """
    queue = load_queue()(
        directory,
        synchronous="FULL",
        max_pages=live.max_pages,
        checkpoint_pages=0,
        living=connections,
    )
    with contextlib.closing(queue), queue.transaction():
        kept = copy_lanes(live, queue)
        back = {str(lane): count for lane, count in kept.items() if count}
        progress = Progress(last=live.last_id(), back=back)
        queue.connection.execute(
            "INSERT INTO meta VALUES (?, ?)", (note_key(name), progress_text(progress))
        )
