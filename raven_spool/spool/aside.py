"""A generation for what is read apart from the live file: the rest of a damaged log (log.py)."""

import contextlib
from typing import TYPE_CHECKING

from raven_spool.spool.lanes import copy_lanes
from raven_spool.spool.late import load_queue
from raven_spool.spool.wreck import Progress, note_key, progress_text

if TYPE_CHECKING:
    from raven_spool.spool.queue import Connections, EventQueue


def begin_aside(live: "EventQueue", directory: str, name: str, connections: "Connections") -> None:
    """A file without events in `directory`. It knows the live one's lanes, and that what is missing
    there comes after the last id it has given.

    Args:
        connections: what is open, for a fork in the middle.

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
