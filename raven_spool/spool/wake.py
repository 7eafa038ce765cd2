"""The bell of a spool: who enqueues rings it, the leader hears it, in whichever process.

A named pipe beside the file. Only the leader reads from it, so that nobody takes a ring away from
the one who must hear it; an idle runtime that hears one tries to lead. What nobody hears stays in
the pipe and wakes the next leader once, for nothing.
"""

import contextlib
import os
import posix
from typing import Any

from raven_spool.errors import SpoolUnusable
from raven_spool.spool import fork, native
from raven_spool.spool.files import OwnFile, open_fifo
from raven_spool.spool.places import MEMORY


class Bell:
    """Threads of a process ring and listen at once, and signal handlers in the middle of that."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._generation = ""
        self._ends: list[OwnFile] = []  # of a named pipe one, for both directions
        # The ends before: another thread may be about to write there, and closed, their number
        # might be the application's by then.
        self._retired: list[OwnFile] = []
        self._lock: Any = native.make_rlock()
        fork.join(self)

    def descriptor(self, generation: str) -> int:
        """Readable once it has rung; another one when the spool's directory was made anew.

        Raises:
            OSError: no pipe can be made there, or we haven't been let in yet.
        """
        if not generation and self._path != MEMORY:
            raise FileNotFoundError(f"{self._path} was not opened")
        ends = self._ends
        if generation != self._generation or not _are_ours(ends):
            ends = self._change(generation)
        return ends[0].descriptor

    def _change(self, generation: str) -> list[OwnFile]:
        with self._lock:
            if generation != self._generation or not _are_ours(self._ends):
                _ring(self._ends)  # whoever listens to the old one must come and get the new one
                ends = [OwnFile(one) for one in self._open()]
                retired = self._retired
                self._retired = self._ends if _are_ours(self._ends) else []
                self._ends, self._generation = ends, generation
                _close(retired)
            return self._ends

    def _open(self) -> tuple[int, ...]:
        if self._path == MEMORY:
            return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return (open_fifo(os.path.join(self._path, "wake")),)
        except SpoolUnusable as error:  # something else stands there: the spool does without
            raise OSError(str(error)) from error

    def ring(self, generation: str) -> None:
        """Costs about a microsecond; a bell that can't ring is no error."""
        with contextlib.suppress(OSError):
            self.descriptor(generation)
        _ring(self._ends)

    def silence(self) -> None:
        """Take in what has rung. For the leader, before it looks at the spool."""
        ends = self._ends
        with contextlib.suppress(OSError):
            if _are_ours(ends):
                posix.read(ends[0].descriptor, 65536)

    def close(self) -> None:
        ends = self._ends + self._retired
        self._ends, self._retired = [], []
        _close(ends)

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None:
        self._lock = native.make_rlock()
        self.close()


def _are_ours(ends: list[OwnFile]) -> bool:
    return bool(ends) and ends[-1].is_ours()


def _ring(ends: list[OwnFile]) -> None:
    with contextlib.suppress(OSError):  # BlockingIOError: it rings already
        if _are_ours(ends):
            posix.write(ends[-1].descriptor, b".")


def _close(ends: list[OwnFile]) -> None:
    for end in ends:
        end.close()
