"""persist-queue, imported with the first event: 71 ms that an import of raven_spool must not cost.

So a signal can come into the middle of it. A handler that sends then finds half a module; an
exception (a time limit) leaves half a package, which Python could never import again.
"""

import sys
from typing import TYPE_CHECKING

from raven_spool.errors import SpoolBusy

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue


def load_queue() -> "type[EventQueue]":
    """The queue class.

    Raises:
        SpoolBusy: it is being imported further down this thread's stack.
    """
    try:
        from raven_spool.spool.queue import EventQueue
    except BaseException as error:
        if "raven_spool.spool.queue" in sys.modules:
            raise SpoolBusy("persist-queue is being imported") from error
        _forget("persistqueue")
        raise
    return EventQueue


def _forget(package: str) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            sys.modules.pop(name, None)
