"""A record of all that a process does to the files below one directory, in order and with times.

SQLite's part comes through its file layer (vfs.py), ours through the functions of `os` that
raven_spool/spool calls. Beside them stand notes of the test's own: at which point of the record
an event was promised. `power.py` asks what would be left of it after a power cut.
"""

import os
import pickle
import posix
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import vfs


@dataclass(frozen=True, slots=True, kw_only=True)
class Did:
    """One thing done, or noted."""

    # "open", "write", "truncate", "sync", "failed", "names", "mkdir", "rename", "unlink", "note"
    kind: str
    path: str
    at: float
    offset: int = 0
    content: bytes = b""
    since: int = 0  # a sync takes in what stands before this place of the record
    to: str = ""  # a rename's new name; what a note says


class Recorder:
    """Records while its block runs, and for this process alone."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve())
        self._lock = threading.Lock()
        self._begun: dict[int, int] = {}  # by thread: where the record stood before its sync
        self._watched = vfs.Watched(self)
        self._originals: list[tuple[Any, str, Callable[..., Any]]] = []
        self.done: list[Did] = []

    def note(self, what: str, name: str) -> None:
        self._add("note", name, to=what)

    def note_failed_sync(self, descriptor: int) -> None:
        """What was to be synced is not on the disk, and no later sync brings it there."""
        self._add("failed", _path_of(descriptor))

    def save(self, path: Path) -> None:
        path.write_bytes(pickle.dumps(self.done))

    def _add(self, kind: str, path: str, **more: Any) -> None:
        with self._lock:
            self.done.append(Did(kind=kind, path=path, at=time.monotonic(), **more))

    def _is_ours(self, path: str) -> bool:
        return path.startswith(self._root + "/") or path == self._root

    # -- SQLite's part ------------------------------------------------------------------------

    def before(self, call: vfs.Call) -> int:
        self._begun[threading.get_ident()] = len(self.done)
        return vfs.OK

    def after(self, call: vfs.Call) -> None:
        if not self._is_ours(call.path):
            return
        kind = "unlink" if call.kind == "delete" else call.kind
        since = self._begun[threading.get_ident()]
        self._add(kind, call.path, offset=call.offset, content=call.content, since=since)
        if call.syncs_name:
            self._add("names", os.path.dirname(call.path), since=since)

    # -- our own ------------------------------------------------------------------------------

    def __enter__(self) -> "Recorder":
        self._watched.__enter__()
        for module, name, recording in (
            (posix, "open", self._open),
            (posix, "write", self._write),
            (os, "fsync", self._sync),
            (os, "fdatasync", self._sync),
            (os, "replace", self._rename),
            (os, "rename", self._rename),
            (os, "mkdir", self._mkdir),
            (os, "unlink", self._unlink),
        ):
            original = getattr(module, name)
            self._originals.append((module, name, original))
            setattr(module, name, self._wrap(recording, original))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for module, name, original in self._originals:
            setattr(module, name, original)
        self._watched.__exit__(kind, exc, trace)

    def _wrap(
        self, recording: Callable[..., None], original: Callable[..., Any]
    ) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            since = len(self.done)
            result = original(*args, **options)
            recording(since, result, *args)
            return result

        return wrapped

    def _open(self, since: int, result: int, path: str, flags: int, mode: int = 0) -> None:
        if flags & os.O_CREAT and self._is_ours(path):
            self._add("open", path)

    def _write(self, since: int, result: int, descriptor: int, content: bytes) -> None:
        path = _path_of(descriptor)
        if self._is_ours(path) and os.path.isfile(path):
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            self._add("write", path, offset=end - result, content=bytes(content[:result]))

    def _sync(self, since: int, result: None, descriptor: int) -> None:
        path = _path_of(descriptor)
        if self._is_ours(path):
            self._add("names" if os.path.isdir(path) else "sync", path, since=since)

    def _rename(self, since: int, result: None, old: str, new: str) -> None:
        if self._is_ours(old):
            self._add("rename", old, to=new)

    def _mkdir(self, since: int, result: None, path: str, mode: int = 0) -> None:
        if self._is_ours(path):
            self._add("mkdir", path)

    def _unlink(self, since: int, result: None, path: str) -> None:
        if self._is_ours(path):
            self._add("unlink", path)


def load(path: Path) -> list[Did]:
    found: list[Did] = pickle.loads(path.read_bytes())
    return found


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")
