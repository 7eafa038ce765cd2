"""The bell of a spool: who enqueues rings it, the leader hears it, in whichever process.

A named pipe beside the file. Only the leader reads from it, so that nobody takes a ring away from
the one who must hear it; an idle runtime that hears one tries to lead. What nobody hears stays in
the pipe and wakes the next leader once, for nothing.
"""

import contextlib
import os
import posix

from raven_spool.errors import SpoolUnusable
from raven_spool.spool import fork
from raven_spool.spool.files import OwnFile, open_fifo
from raven_spool.spool.places import MEMORY


class Bell:
    def __init__(self, path: str) -> None:
        self._path = path
        self._ends: list[OwnFile] = []  # of a named pipe one, for both directions
        self._generation = ""
        fork.join(self)

    def descriptor(self, generation: str) -> int:
        """Readable once it has rung; another one when the spool's directory was made anew.

        Raises:
            OSError: no pipe can be made there, or we haven't been let in yet.
        """
        if not generation and self._path != MEMORY:
            raise FileNotFoundError(f"{self._path} was not opened")
        if generation != self._generation or not self._is_ours():
            self.ring_ends()  # whoever listens to the old one must come and get the new one
            self.close()
            self._ends = [OwnFile(one) for one in self._open()]
            self._generation = generation
        return self._ends[0].descriptor

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
        self.ring_ends()

    def ring_ends(self) -> None:
        with contextlib.suppress(OSError):  # BlockingIOError: it rings already
            if self._is_ours():
                posix.write(self._ends[-1].descriptor, b".")

    def silence(self) -> None:
        """Take in what has rung. For the leader, before it looks at the spool."""
        with contextlib.suppress(OSError):
            if self._is_ours():
                posix.read(self._ends[0].descriptor, 65536)

    def _is_ours(self) -> bool:
        return bool(self._ends) and self._ends[-1].is_ours()

    def close(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            end.close()

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None:
        self.close()
