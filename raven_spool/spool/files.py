"""Files and directories of a spool: private from their first instant, never through a link.

A directory of mode 2770 is shared by its group; any other is for its owner alone. What is made in
one takes after it: its group, its openness, and where root is at work its owner. So whoever makes
a file need not know who else is there, and a program that wasn't told of the group locks nobody
out. Files get their name last: no other user's program ever meets one half made.
"""

import contextlib
import ctypes
import glob
import grp
import os
import posix
import secrets
import shlex
import stat
from collections.abc import Iterator

from raven_spool.errors import SpoolUnusable

_PRIVATE_FILE = 0o600
_PRIVATE_DIRECTORY = 0o700
_SHARED_FILE = 0o660
# Set-group-id, because SQLite makes the WAL in the directory's group only where it inherits it.
_SHARED_DIRECTORY = 0o2770
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


# -- the spool's directory ------------------------------------------------------------------------


def make_directory(path: str, group: int | None = None) -> None:
    """The spool's directory under any umask: 0700, or 2770 of `group`. One that exists must be
    ours, or shared with that group.

    Raises:
        SpoolUnusable: it can't be made, is no directory, belongs to somebody else, or is not
            shared with the group; the text says what to do.
    """
    if group is not None:
        _check_membership(path, group)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        os.mkdir(path, _PRIVATE_DIRECTORY)
        os.chmod(path, _PRIVATE_DIRECTORY)
    except FileExistsError:
        check_directory(path, group)
    except OSError as error:
        raise SpoolUnusable(f"cannot make the spool directory {path}: {error.strerror}") from error
    if group is not None:
        _share(path, group)


def _share(path: str, group: int) -> None:
    # Opened first: what is looked at is what is changed.
    descriptor = posix.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not is_shared(os.fstat(descriptor)):
            os.fchown(descriptor, -1, group)
            _open_to_group(path, descriptor)
    finally:
        os.close(descriptor)


def _open_to_group(path: str, descriptor: int) -> None:
    try:
        os.fchmod(descriptor, _SHARED_DIRECTORY)
    except PermissionError as error:
        raise SpoolUnusable(
            f"cannot make {path} set-group-id: under systemd's RestrictSUIDSGID (DynamicUser has "
            "it too) set UMask=0007 and let tmpfiles.d make the spool directory"
        ) from error


def check_directory(path: str, group: int | None) -> None:
    """Whether this process may use what is at `path` as its spool directory.

    Raises:
        SpoolUnusable: it may not, or that is no directory; the text says what to do.
    """
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise SpoolUnusable(f"the spool path {path} is not a directory")
    if group is not None:
        _check_membership(path, group)
        _check_sharing(path, found, group)
    elif found.st_uid not in (os.geteuid(), 0) and (os.geteuid() != 0 or _may_be_a_trap(path)):
        raise SpoolUnusable(_whose(path, found))
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise SpoolUnusable(
            f"no permission to read and write the spool directory {path}: "
            f"run as its owner, user {found.st_uid}"
        )


def _may_be_a_trap(path: str) -> bool:
    """Whether anybody can have made it, as in /tmp, for root to fill it with keys."""
    ways = {os.path.abspath(path), os.path.realpath(path)}
    return any(os.stat(os.path.dirname(way)).st_mode & stat.S_IWOTH for way in ways)


def _check_membership(path: str, group: int) -> None:
    if os.geteuid() == 0 or group in (os.getegid(), *os.getgroups()):
        return
    raise SpoolUnusable(
        f"cannot share the spool {path} with group {_name(group)}: user {os.geteuid()} is not in "
        "it (if it was put there lately, log in anew or restart the service)"
    )


def _whose(path: str, found: os.stat_result) -> str:
    text = f"the spool directory {path} belongs to user {found.st_uid}"
    if is_shared(found):
        name = _name(found.st_gid)
        return f"{text}, who shares it with group {name}: set group={name} (RAVEN_SPOOL_GROUP)"
    if os.geteuid() == 0:
        return f"{text}, and lies where anybody may have made it: name another"
    return f"{text}: run as that user, or as root"


def _check_sharing(path: str, found: os.stat_result, group: int) -> None:
    if is_shared(found) and found.st_gid == group:
        return
    if found.st_uid == os.geteuid() and not is_shared(found) and not os.listdir(path):
        return  # we can share it: no file in it needs to be opened to others
    name, quoted = _name(group), shlex.quote(path)
    raise SpoolUnusable(
        f"the spool {path} is not shared with group {name}: it is user {found.st_uid}'s, "
        f"group {_name(found.st_gid)}, mode {stat.S_IMODE(found.st_mode):04o}. To share it and "
        f"what is in it, as its owner: chgrp -R {name} {quoted}; chmod -R g=u,o= {quoted}; "
        f"find {quoted} -type d -exec chmod g+s {{}} +"
    )


def is_shared(found: os.stat_result) -> bool:
    return stat.S_IMODE(found.st_mode) == _SHARED_DIRECTORY


def _name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)


# -- what is in it --------------------------------------------------------------------------------


def open_private(path: str) -> int:
    """Open for reading and writing; made if it was not there. Links are refused, and what may
    block whoever reads it: a pipe."""
    with contextlib.suppress(FileNotFoundError):
        return _open_plain(path)
    with contextlib.suppress(FileExistsError):
        create_private(path)
    return _open_plain(path)


def _open_plain(path: str) -> int:
    descriptor = posix.open(path, _OPEN)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SpoolUnusable(f"{path} is not a plain file: remove it")
    if is_shared_file(path):
        os.close(descriptor)
        raise SpoolUnusable(f"{path} is another file too (a hard link): remove it")
    return descriptor


def is_plain(path: str) -> bool:
    """Whether nothing is there, or a file of this very name: no link, no pipe, no directory."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def size_of(path: str) -> int:
    """In bytes; 0 also for what is no plain file: nothing is to be read through a link."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def is_shared_file(path: str) -> bool:
    """Whether it has another name, and somebody else can have given it this one. In a directory of
    ours alone that is our own doing: a backup by hard links."""
    try:
        if os.lstat(path).st_nlink <= 1 or _is_private(os.stat(os.path.dirname(path))):
            return False
        _remove_unfinished_names(path)
        return os.lstat(path).st_nlink > 1
    except FileNotFoundError:
        return False


def _is_private(directory: os.stat_result) -> bool:
    return directory.st_uid == os.geteuid() and not directory.st_mode & 0o022


def _remove_unfinished_names(path: str) -> None:
    """What a process leaves that dies in `_under_another_name`."""
    for other in glob.iglob(f"{glob.escape(path)}.????????"):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(other), os.lstat(path)):
                os.unlink(other)


def create_private(path: str) -> None:
    """Make an empty file before anybody writes to it; one that exists is an error."""
    with _under_another_name(path) as temporary:
        os.close(_create(temporary))


def open_fifo(path: str) -> int:
    """A named pipe, open for both directions, never blocking."""
    if not os.path.lexists(path):
        with contextlib.suppress(FileExistsError):
            _create_fifo(path)
    if not stat.S_ISFIFO(os.lstat(path).st_mode):
        raise SpoolUnusable(f"{path} is not a pipe: remove it")
    return posix.open(path, _OPEN)


def _create_fifo(path: str) -> None:
    with _under_another_name(path) as temporary:
        os.mkfifo(temporary, _PRIVATE_FILE)
        os.chmod(temporary, _PRIVATE_FILE)  # the umask may have taken our own right to it
        descriptor = posix.open(temporary, _OPEN)
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                _fit(path, descriptor)
        finally:
            os.close(descriptor)


def create_directory(path: str) -> None:
    """A directory in the spool's, as open as that. Nobody knows its name before we tell."""
    shared = is_shared(os.stat(os.path.dirname(path)))
    # It inherits group and set-group-id, so with a umask of 007 nothing is left to be changed.
    os.mkdir(path, 0o770 if shared else _PRIVATE_DIRECTORY)
    if not shared:
        os.chmod(path, _PRIVATE_DIRECTORY)  # whatever the umask is
    descriptor = posix.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _take_after(os.path.dirname(path), descriptor) and not is_shared(os.fstat(descriptor)):
            _open_to_group(path, descriptor)
    finally:
        os.close(descriptor)


class OwnFile:
    """A descriptor that is used only while it is open on what it was opened on.

    Whoever closes all there are (python-daemon) closes ours too, and then their numbers are the
    application's: to write, lock or close there would be its harm.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._what = os.fstat(descriptor)

    def is_ours(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.descriptor), self._what)
        except OSError:
            return False

    def close(self) -> None:
        if self.is_ours():
            os.close(self.descriptor)


def keep_for_good(thing: object) -> None:
    """What would close descriptors at its end that are no longer its own: it has none."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def replace(path: str, content: bytes) -> None:
    """Put `content` at `path`, whole or not at all, also through a power cut."""
    temporary = f"{path}.{secrets.token_hex(4)}"
    try:
        _write_whole(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))


def _write_whole(path: str, content: bytes) -> None:
    descriptor = _create(path)
    try:
        while content:  # a disk that fills up takes a part of it, and says so at the next
            content = content[posix.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    descriptor = posix.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_ancestors(path: str) -> None:
    """The names of a directory and of all above it, as far as we may read those."""
    directory = os.path.dirname(os.path.realpath(path))
    with contextlib.suppress(OSError):
        sync_directory(directory)
    if directory != os.path.dirname(directory):
        sync_ancestors(directory)


@contextlib.contextmanager
def _under_another_name(path: str) -> Iterator[str]:
    """A name to make something under; it appears at `path` then, unless something is there."""
    if not _must_fit(os.stat(os.path.dirname(path))):
        yield path  # nobody else comes here
        return
    temporary = f"{path}.{secrets.token_hex(4)}"
    try:
        yield temporary
        os.link(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _create(path: str) -> int:
    descriptor = posix.open(path, _OPEN | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
    try:
        os.fchmod(descriptor, _PRIVATE_FILE)  # whatever the umask is
        _fit(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _must_fit(directory: os.stat_result) -> bool:
    return is_shared(directory) or (os.geteuid() == 0 and directory.st_uid != 0)


def _fit(path: str, descriptor: int) -> None:
    if _take_after(os.path.dirname(path), descriptor):
        os.fchmod(descriptor, _SHARED_FILE)  # not before: that would open it to another group


def _take_after(path: str, descriptor: int) -> bool:
    """Owner (where we are root) and group as the directory at `path` has them. Returns whether it
    is the group's too now."""
    directory = os.stat(path)
    if not _must_fit(directory):
        return False
    owner = directory.st_uid if os.geteuid() == 0 else -1
    try:
        os.fchown(descriptor, owner, directory.st_gid)
    except PermissionError:
        return False  # a container's root without the right to: ours alone, then
    return is_shared(directory)
