"""Exit codes, and which error ends with which. In the terms of sysexits.h."""

import functools
import re
from enum import IntEnum

from raven_spool.errors import (
    BackendUnavailable,
    ConfigurationError,
    EventNotFound,
    SchemaTooNew,
    SpoolBusy,
    SpoolCorrupt,
    SpoolFull,
    SpoolUnusable,
)


class Exit(IntEnum):
    DONE = 0
    ERROR = 1
    USAGE = 64
    CORRUPT = 65
    NO_SPOOL = 66
    UNREACHABLE = 69
    CANNOT_CREATE = 73
    LATER = 75
    NOT_PERMITTED = 77
    CONFIGURATION = 78
    INTERRUPTED = 130


class Refusal(Exception):
    """An error whose exit code is known where it is raised."""

    def __init__(self, code: Exit, text: str) -> None:
        super().__init__(text)
        self.code = code


# The first that fits.
_CODES: tuple[tuple[type[Exception], Exit], ...] = (
    (ConfigurationError, Exit.CONFIGURATION),
    (BackendUnavailable, Exit.CONFIGURATION),
    (EventNotFound, Exit.ERROR),
    (SpoolCorrupt, Exit.CORRUPT),
    (SchemaTooNew, Exit.CORRUPT),
    (SpoolBusy, Exit.LATER),
    (SpoolFull, Exit.CANNOT_CREATE),
    (SpoolUnusable, Exit.NO_SPOOL),
    (PermissionError, Exit.NOT_PERMITTED),
)

_CREDENTIALS = re.compile(r"(?<=//)[^/\s]*@")


def explain(error: Exception) -> tuple[Exit, str]:
    """The exit code of an error, and its one line."""
    if isinstance(error, Refusal):
        return error.code, str(error)
    if isinstance(error, SpoolUnusable) and isinstance(error.__cause__, PermissionError):
        return Exit.NOT_PERMITTED, str(error)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, str(error)
    return Exit.ERROR, f"unexpected error: {type(error).__name__}: {error}"


@functools.lru_cache(maxsize=256)  # `ls` shows the same hosts and reasons a million times
def one_line(text: str) -> str:
    """What may stand on a terminal: one line, no control characters, no credentials of a URL."""
    spaced = " ".join(text.split())
    return _CREDENTIALS.sub("[hidden]@", "".join(c for c in spaced if c.isprintable()))
