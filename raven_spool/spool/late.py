"""persist-queue, imported with the first event: 71 ms that an import of raven_spool must not cost.

filelock comes with it, though only those who drain need it: imported by a worker while the
application forks, it hangs its own fork hooks into the middle of that fork, where 4.2 raises a
KeyError to stderr and loses track of the drain lock's descriptor (events were sent twice).

So a signal can come into the middle of it. A handler that sends then finds half a module; an
exception (a time limit) leaves half a package, which Python could never import again.
"""

import sys
from typing import TYPE_CHECKING

from raven_spool.errors import SpoolBusy
from raven_spool.spool import fork

if TYPE_CHECKING:
    from raven_spool.spool.queue import EventQueue


def load_queue() -> "type[EventQueue]":
    """The queue class.

    Raises:
        SpoolBusy: it is being imported further down this thread's stack.
    """
    try:
        return fork.hold_off(_import_queue)
    except BaseException as error:
        if "raven_spool.spool.queue" not in sys.modules:
            _forget("persistqueue")
        elif isinstance(error, ImportError):
            raise SpoolBusy("persist-queue is being imported") from error
        raise


def _import_queue() -> "type[EventQueue]":
    import filelock  # noqa: F401

    from raven_spool.spool.queue import EventQueue

    return EventQueue


def _forget(package: str) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            sys.modules.pop(name, None)
