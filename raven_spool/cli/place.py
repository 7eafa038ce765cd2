"""Which spool, as whom, and with which options: what every command settles first."""

import contextlib
import errno
import importlib
import os
import pwd
import stat
from collections.abc import Iterator

from raven_spool.cli.exits import Exit, Refusal, explain
from raven_spool.config import Options, default_spool_path
from raven_spool.errors import SpoolCorrupt, SpoolError, SpoolUnusable
from raven_spool.spool import Spool
from raven_spool.spool.files import check_directory

# What the commands load when they need it. Another user may not be able to read it: an
# interpreter of pyenv's in /root, a virtual environment in a home.
_LOADED_LATER = (
    "difflib",
    "encodings.idna",
    "filelock",
    "raven_spool.cli.flush",
    "raven_spool.senders.requests",
    "raven_spool.senders.transport",
    "raven_spool.senders.urllib",
    "raven_spool.spool.queue",
    "rich.console",
    "rich.progress",
    "rich.table",
)


def open_spool(options: Options, *, creates: bool = False) -> Spool:
    """The spool of these options; nothing of it is touched but what tells that it is there.

    Only a command that creates mends as well, as the applications do: the others say what is
    broken and leave it as it lies.

    Raises:
        Refusal: there is none, or it is not ours to use.
    """
    path = options.spool_path or default_spool_path()
    found = _look(path, creates)
    _become_owner(path, found or _look_above(path))
    if found is not None:
        _check(path, options.group, found, creates)
    return Spool(
        path,
        fsync=options.fsync,
        # Who only looks or delivers changes no rule.
        max_bytes=options.max_bytes if creates else None,
        max_events=options.max_events if creates else None,
        overflow=options.overflow if creates else None,
        mends=creates,
        group=options.group,
        warn_age_seconds=options.warn_age,
        keys=options.encryption_key,
    )


@contextlib.contextmanager
def using(options: Options, *, creates: bool = False) -> Iterator[Spool]:
    """The spool, closed in the end; what goes wrong with it names it."""
    spool = open_spool(options, creates=creates)
    try:
        yield spool
    except SpoolError as error:
        code, text = explain(error)
        if spool.path not in text:
            text = f"the spool {spool.path}: {text}"
        if isinstance(error, SpoolCorrupt):
            text += (
                "; the next application that writes to it leaves this file and begins a fresh one, "
                "and so does `raven-spool check --repair`"
            )
        raise Refusal(code, text) from error
    finally:
        # It has been closed before, or what it would say was said.
        with contextlib.suppress(SpoolError, OSError):
            spool.finish()


def _absent(path: str) -> Refusal:
    return Refusal(
        Exit.NO_SPOOL,
        f"there is no spool at {path}: name one with --spool or RAVEN_SPOOL_PATH "
        "(applications and `raven-spool send` create it)",
    )


def _look(path: str, creates: bool) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        if creates:
            return None
        raise _absent(path) from None
    except OSError as error:
        code = Exit.CANNOT_CREATE if creates else Exit.NO_SPOOL
        if error.errno in (errno.EACCES, errno.EPERM):
            code = Exit.NOT_PERMITTED
        raise Refusal(code, f"cannot use the spool {path}: {error.strerror}") from error


def _look_above(path: str) -> os.stat_result:
    """The directory there is in which `path` will be made."""
    path = os.path.abspath(path)
    while True:
        path = os.path.dirname(path)
        with contextlib.suppress(FileNotFoundError):
            return os.stat(path)


def _become_owner(path: str, found: os.stat_result) -> None:
    """As root we would leave files behind that the spool's own programs can't open."""
    if os.geteuid() != 0 or found.st_uid == 0 or not stat.S_ISDIR(found.st_mode):
        return
    for name in _LOADED_LATER:
        importlib.import_module(name)
    try:
        _take_groups(found)
        os.setgid(found.st_gid)
        os.setuid(found.st_uid)
    except OSError as error:
        raise Refusal(
            Exit.NOT_PERMITTED,
            f"cannot become user {found.st_uid}, the owner of {path}: {error.strerror}",
        ) from error


def _take_groups(found: os.stat_result) -> None:
    """The owner's own: a directory on the way may be open to one of them only."""
    try:
        os.initgroups(pwd.getpwuid(found.st_uid).pw_name, found.st_gid)
    except KeyError:  # a user of another machine, or of a container
        os.setgroups([])


def _check(path: str, group: int | None, found: os.stat_result, creates: bool) -> None:
    if not stat.S_ISDIR(found.st_mode):
        code = Exit.CANNOT_CREATE if creates else Exit.NO_SPOOL
        raise Refusal(code, f"the spool path {path} is not a directory: name another with --spool")
    try:
        check_directory(path, group)
    except SpoolUnusable as error:
        raise Refusal(Exit.NOT_PERMITTED, str(error)) from error
    except PermissionError as error:  # root could, and is its owner now
        raise Refusal(
            Exit.NOT_PERMITTED,
            f"a directory above the spool {path} is closed to its owner, user {found.st_uid}: "
            "run as the service does (a systemd unit with its User= and StateDirectory=)",
        ) from error
    if not creates and not Spool.exists(path):
        raise _absent(path)
