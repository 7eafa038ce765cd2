"""Where the SQLite file of a spool lies: in a generation of a directory, or in memory.

A generation is a directory `g-<random>` that is never used again; the file `current` names the
live one and is replaced atomically, behind the gate. Renaming an open database in place loses
commits (a connection opened earlier goes on writing into the renamed file: 320 of 6,400 events
were nowhere), and so does opening an empty database beside its WAL.
"""

import contextlib
import fcntl
import os
import posix
import re
import secrets
import sys
from typing import Protocol

from raven_spool.errors import SpoolCorrupt, SpoolUnusable
from raven_spool.spool.ballast import Ballast
from raven_spool.spool.files import (
    OwnFile,
    create_directory,
    create_private,
    is_shared_file,
    make_directory,
    replace,
    sync_ancestors,
    sync_directory,
)
from raven_spool.spool.gate import Gate
from raven_spool.spool.names import LOG, Names, check_plain, read_current

DATABASE = "data.db"
MEMORY = ":memory:"
_NAME = re.compile(r"g-[0-9a-z]+")
_PIECE_BYTES = 1 << 20


class Place(Protocol):
    """What the store needs to know of where it is."""

    def enter(self) -> bool:
        """Make what must exist before the gate can be used; True if the gate is a new one."""

    def acquire(self, deadline: float) -> bool: ...
    def release(self) -> None: ...

    def locate(self) -> str | None:
        """The live generation's name, None if there is none yet. Behind the gate."""

    def directory(self, generation: str) -> str: ...

    def stamp(self, generation: str) -> str:
        """Its name, and after a dot what tells this file from a backup put in its place: the same
        ids are other events there."""

    def capacity_bytes(self) -> int:
        """The size of what it lies on."""

    def occupy(self, generation: str) -> bool:
        """Mark it as in use, before its file is opened. Behind the gate. Returns whether nobody
        else uses it, so that we are the first to read its log."""

    def vacate(self) -> None:
        """The file was closed."""

    def begin(self) -> str:
        """A new generation with an empty file in it, not yet live."""

    def publish(self, generation: str) -> None:
        """Make it the live one."""

    def discard(self, generation: str) -> None:
        """Remove what was begun, unless it is live: nothing was ever committed there."""

    def keep_ballast(self, size_bytes: int) -> bool:
        """Whether events may be added: there is room beyond what removing them may need."""

    def spend_ballast(self) -> bool:
        """Make that room to be had. False: that was done before."""

    def has_moved(self) -> bool:
        """Whether the live generation is no longer the one that was located, or its files are not
        those that were opened."""

    def opened(self) -> None:
        """The live file is open now."""

    def log_is_lost(self) -> bool:
        """Whether what is in its log can be found by us alone."""

    def put_log_aside(self) -> None:
        """What an open file has left beside the one that is in its place now: a generation of its
        own, of which what can be read comes back."""

    def is_lost(self) -> bool:
        """Whether the descriptors were closed under us."""

    def sync(self) -> None:
        """Bring what was committed to the disk itself."""

    def sync_anew(self) -> None:
        """The same after one that failed. Behind the gate."""

    def leave(self) -> None:
        """Close descriptors, unlock nothing: a forked child calls this too."""


class DiskPlace:
    def __init__(self, path: str, group: int | None = None) -> None:
        self.path = path
        self._group = group
        self._current = os.path.join(path, "current")
        self._ballast = Ballast(path)
        self._gate: Gate | None = None
        self._in_use: OwnFile | None = None  # the live generation's directory, while it is open
        self._database = ""
        self._names = Names(self._current)

    def enter(self) -> bool:
        if self._gate is not None and self._gate.is_in_place():
            return False
        try:
            make_directory(self.path, self._group)
            # The old one stays until then: while the file is open there is a gate to it.
            old, self._gate = self._gate, Gate(self.path)
            if old is not None:
                old.close()
            self._ballast = Ballast(self.path)  # not yet tried in vain in this directory
        except OSError as error:
            where = error.filename or self.path
            text = f"cannot use the spool {self.path}: {error.strerror}: {where}"
            raise SpoolUnusable(text) from error
        return True

    def acquire(self, deadline: float) -> bool:
        assert self._gate is not None
        return self._gate.acquire(deadline)

    def release(self) -> None:
        if self._gate is not None:
            self._gate.release()

    def directory(self, generation: str) -> str:
        return os.path.join(self.path, generation)

    def stamp(self, generation: str) -> str:
        return f"{generation}.{os.stat(os.path.join(self.directory(generation), DATABASE)).st_ino}"

    def locate(self) -> str | None:
        generation = read_current(self._current)
        if generation is None:
            return None
        database = os.path.join(self.directory(generation), DATABASE)
        check_plain(self.directory(generation), database)
        try:
            if os.stat(database).st_size == 0:
                raise SpoolCorrupt(f"{database} is empty")
        except FileNotFoundError:
            raise SpoolCorrupt(f"{database} is gone") from None
        self._remember(database)
        return generation

    def capacity_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_frsize * found.f_blocks

    def occupy(self, generation: str) -> bool:
        self.vacate()
        directory = self.directory(generation)
        self._in_use = OwnFile(posix.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return _is_alone(self._in_use.descriptor)

    def vacate(self) -> None:
        in_use, self._in_use = self._in_use, None
        if in_use is not None:
            in_use.close()

    def begin(self) -> str:
        generation = f"g-{secrets.token_hex(8)}"
        try:
            create_directory(self.directory(generation))
            create_private(os.path.join(self.directory(generation), DATABASE))
        except BaseException:
            self.discard(generation)
            raise
        return generation

    def publish(self, generation: str) -> None:
        # All that leads to it first: what is committed must not hang on a name that a power cut
        # takes, whoever made it.
        database = os.path.join(self.directory(generation), DATABASE)
        self._sync_log(database + LOG)
        sync_directory(self.directory(generation))
        sync_ancestors(self.directory(generation))
        replace(self._current, f"{generation}\n".encode())
        self._remember(database)

    def discard(self, generation: str) -> None:
        # Else a full disk would gain a directory at each attempt.
        with contextlib.suppress(OSError, SpoolCorrupt):
            if read_current(self._current) == generation:
                return
            directory = self.directory(generation)
            for name in os.listdir(directory):
                os.unlink(os.path.join(directory, name))
            os.rmdir(directory)

    def keep_ballast(self, size_bytes: int) -> bool:
        return self._ballast.keep(size_bytes)

    def spend_ballast(self) -> bool:
        return self._ballast.spend()

    def _remember(self, database: str) -> None:
        self._database = database
        self._names.remember(database)

    def has_moved(self) -> bool:
        return self._names.have_moved()

    def opened(self) -> None:
        self._names.remember_log()

    def log_is_lost(self) -> bool:
        return self._names.log_is_lost()

    def put_log_aside(self) -> None:
        if self._names.log_is_left():
            self._names.move_log(os.path.join(self.directory(self.begin()), DATABASE))

    def sync(self) -> None:
        if self._database:
            self._sync_log(self._database + LOG)

    def sync_anew(self) -> None:
        if self._database:
            self._sync_log(self._database + LOG, rewrites=True)

    def _sync_log(self, log: str, *, rewrites: bool = False) -> None:
        # The WAL carries no POSIX locks, so it may be opened and closed. Its name is on the disk
        # since its first frame: SQLite syncs that with the header, also under NORMAL.
        try:
            file = OwnFile(posix.open(log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
        except FileNotFoundError:
            return  # checkpointed and closed, which syncs
        try:
            if rewrites:
                _write_again(file.descriptor)
            os.fdatasync(file.descriptor)
        finally:
            file.close()  # a sync takes time, in which an application may close all there are

    def is_lost(self) -> bool:
        gate = self._gate
        # Looked at again: a signal handler may fork in the middle of this, and the child's hook
        # closes what it inherited.
        return gate is not None and gate.is_lost() and gate is self._gate

    def leave(self) -> None:
        self.vacate()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.close()


class MemoryPlace:
    """For what no disk will take: one generation, no other process."""

    path = MEMORY

    def enter(self) -> bool:
        return False

    def acquire(self, deadline: float) -> bool:
        return True

    def release(self) -> None: ...

    def locate(self) -> str | None:
        return None

    def directory(self, generation: str) -> str:
        return MEMORY

    def stamp(self, generation: str) -> str:
        return generation

    def capacity_bytes(self) -> int:
        return sys.maxsize

    def occupy(self, generation: str) -> bool:
        return False

    def vacate(self) -> None: ...

    def begin(self) -> str:
        return f"m-{secrets.token_hex(8)}"

    def publish(self, generation: str) -> None: ...

    def discard(self, generation: str) -> None: ...

    def keep_ballast(self, size_bytes: int) -> bool:
        return True

    def spend_ballast(self) -> bool:
        return False

    def has_moved(self) -> bool:
        return False

    def opened(self) -> None: ...

    def log_is_lost(self) -> bool:
        return False

    def put_log_aside(self) -> None: ...

    def is_lost(self) -> bool:
        return False

    def sync(self) -> None: ...

    def sync_anew(self) -> None: ...

    def leave(self) -> None: ...


def _is_alone(descriptor: int) -> bool:
    """Whether nobody else has it locked; from now on we have, beside others."""
    alone = False
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return alone


def _write_again(descriptor: int) -> None:
    """All of a file over itself. A sync that fails leaves its pages in memory as if they were on
    the disk: the next one succeeds and has written none of them."""
    at = 0
    while piece := os.pread(descriptor, _PIECE_BYTES, at):
        at += posix.write(descriptor, piece)


def list_generations(path: str) -> list[str]:
    """Their names, oldest first, without what may be somebody else's file; none where there is no
    directory."""
    try:
        with os.scandir(path) as found:
            entries = [
                entry
                for entry in found
                if _NAME.fullmatch(entry.name)
                and entry.is_dir(follow_symlinks=False)
                and not is_shared_file(os.path.join(entry.path, DATABASE))
            ]
    except FileNotFoundError:
        return []
    entries.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime)
    return [entry.name for entry in entries]
