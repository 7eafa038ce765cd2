"""The exceptions a caller may meet.

A failed delivery is a value (`model.Failure`), never one of these. And whether an exception is the
application's own, come in by a signal.
"""

import signal
import traceback
from types import CodeType


class SpoolError(Exception):
    """Something about the spool that its caller must handle."""


class SpoolUnusable(SpoolError):
    """The spool's directory or file can't be used: absent, forbidden, not a directory, no locks."""


class SpoolBusy(SpoolError):
    """The write lock was not won in time; nothing was written."""


class SpoolUncertain(SpoolError):
    """The disk failed in the middle of a commit: it may or may not have happened."""


class SpoolFull(SpoolError):
    """The spool has reached its size limit, or the disk is full; nothing was written."""


class SpoolCorrupt(SpoolError):
    """SQLite found the file broken, or it is no spool at all."""


class SchemaTooNew(SpoolError):
    """The spool was written by a newer version of raven_spool; upgrade to read it."""


class EventNotFound(SpoolError):
    """No stored event has this id."""


class ConfigurationError(SpoolError, ValueError):
    """An option's value can't be used; the text names the option, the value, what is allowed."""


class BackendUnavailable(SpoolError, ImportError):
    """A backend's library is not installed; the text names the extra that brings it."""


def came_by_signal(error: Exception) -> bool:
    """Whether a signal handler has raised it, as task queues' time limits do, into whatever was
    going on: it says nothing of that, and is for the application."""
    handlers = list_signal_handlers()
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def list_signal_handlers() -> set[CodeType]:
    """The code of those that are written in Python, which runs one on top of whatever the main
    thread is at, without a mark."""
    handlers = map(signal.getsignal, signal.valid_signals())
    return {code for one in handlers if (code := getattr(one, "__code__", None)) is not None}
