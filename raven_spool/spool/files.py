"""Files and directories of a spool: private from their first instant, never through a link."""

import os
import secrets
import stat

from raven_spool.errors import SpoolUnusable

_PRIVATE_FILE = 0o600
_PRIVATE_DIRECTORY = 0o700


def make_directory(path: str) -> None:
    """The spool's directory, 0700 under any umask; one that exists must be ours.

    Raises:
        SpoolUnusable: it can't be made, is no directory, or belongs to somebody else.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        os.mkdir(path, _PRIVATE_DIRECTORY)
        os.chmod(path, _PRIVATE_DIRECTORY)
    except FileExistsError:
        _check_directory(path)
    except OSError as error:
        raise SpoolUnusable(f"cannot make the spool directory {path}: {error.strerror}") from error


def _check_directory(path: str) -> None:
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise SpoolUnusable(f"the spool path {path} is not a directory")
    if found.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise SpoolUnusable(f"the spool directory {path} belongs to another user")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise SpoolUnusable(f"no permission to read and write the spool directory {path}")


def open_private(path: str) -> int:
    """Open for reading and writing; made 0600 if it was not there. Links are refused."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, _PRIVATE_FILE)


def create_private(path: str) -> None:
    """Make an empty file, 0600 before anybody writes to it; one that exists is an error."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _PRIVATE_FILE))


def open_fifo(path: str) -> int:
    """A named pipe, open for both directions, never blocking."""
    try:
        os.mkfifo(path, _PRIVATE_FILE)
    except FileExistsError:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise SpoolUnusable(f"{path} is not a pipe: remove it") from None
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def replace(path: str, text: str) -> None:
    """Put `text` at `path`, whole or not at all, also through a power cut."""
    temporary = f"{path}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE_FILE)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
