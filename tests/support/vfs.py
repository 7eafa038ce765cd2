"""What SQLite does to the disk, seen and spoilt: its own file layer with our calls in between.

Pure ctypes on the SQLite that the sqlite3 module uses. The default VFS keeps its name and its
functions; files that are opened while it is watched get a copy of their method table, in which
writes, truncations and syncs pass by us first.

    with Watched(hook):
        ...                        # hook.before(call) says OK, or what SQLite is to be told

It counts for the whole process and for good: a file that was opened meanwhile asks the hook that
is in place at its call. Only one at a time.
"""

import _sqlite3
import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

OK = 0
FULL = 13
IOERR_WRITE = 10 | 3 << 8
IOERR_FSYNC = 10 | 4 << 8
IOERR_TRUNCATE = 10 | 6 << 8
IOERR_DELETE = 10 | 10 << 8

_OPEN_CREATE = 0x4
_JOURNALS = 0x800 | 0x4000 | 0x80000  # main journal, super-journal, WAL: SQLite syncs their names


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One thing that SQLite asks of the disk."""

    kind: str  # "open", "write", "truncate", "sync", "delete"
    path: str
    offset: int = 0  # for "truncate" the new length
    content: bytes = b""
    syncs_name: bool = False  # the directory is synced with it

    @property
    def is_log(self) -> bool:
        return self.path.endswith("-wal")


class Hook(Protocol):
    def before(self, call: Call) -> int:
        """OK, or the error that SQLite gets instead."""

    def after(self, call: Call) -> None:
        """It was done."""


# -- SQLite's tables (sqlite3.h) ------------------------------------------------------------------

_pointer = ctypes.c_void_p
_Open = ctypes.CFUNCTYPE(
    ctypes.c_int, _pointer, _pointer, _pointer, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, ctypes.c_char_p, ctypes.c_int)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_int, ctypes.c_int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, ctypes.c_int)


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        ("file_bytes", ctypes.c_int),
        ("longest_path", ctypes.c_int),
        ("next", _pointer),
        ("name", ctypes.c_char_p),
        ("data", _pointer),
        ("open", _pointer),
        ("delete", _pointer),
    )


class _Methods(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        ("close", _pointer),
        ("read", _pointer),
        ("write", _pointer),
        ("truncate", _pointer),
        ("sync", _pointer),
        ("rest", _pointer * 13),
    )


class _File(ctypes.Structure):
    _fields_ = (("methods", _pointer),)


@dataclass(slots=True)
class _Known:
    """What we know of an open file."""

    path: str
    owns_new_name: bool
    write: Any
    truncate: Any
    sync: Any


class _Layer:
    """Our calls in SQLite's tables, put there once."""

    def __init__(self) -> None:
        self.hook: Hook | None = None
        self._files: dict[int, _Known] = {}
        self._tables: dict[int, _Methods] = {}
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = _pointer
        library.sqlite3_vfs_find.argtypes = (ctypes.c_char_p,)
        vfs = _Vfs.from_address(library.sqlite3_vfs_find(None))
        self._open, self._delete = _Open(vfs.open), _Delete(vfs.delete)
        # Kept for good: SQLite holds their addresses.
        self._ours = (_Open(self._opened), _Delete(self._deleted))
        self._methods = (_Write(self._written), _Truncate(self._cut), _Sync(self._synced))
        vfs.open, vfs.delete = (ctypes.cast(one, _pointer) for one in self._ours)

    def _do(self, call: Call, original: Callable[[], int]) -> int:
        hook = self.hook
        if hook is None:
            return original()
        code = hook.before(call) or original()
        if code == OK:
            hook.after(call)
        return code

    def _opened(self, vfs: int, name: int, file: int, flags: int, out: Any) -> int:
        path = ctypes.string_at(name).decode() if name else ""
        is_new = bool(flags & _OPEN_CREATE and flags & _JOURNALS)
        call = Call(kind="open", path=path)
        code = self._do(call, lambda: self._open(vfs, name, file, flags, out))
        if code == OK:
            self._take_over(_File.from_address(file), file, path, is_new)
        return code

    def _take_over(self, of: _File, file: int, path: str, is_new: bool) -> None:
        original = _Methods.from_address(of.methods)
        self._files[file] = _Known(
            path,
            is_new,
            _Write(original.write),
            _Truncate(original.truncate),
            _Sync(original.sync),
        )
        if of.methods not in self._tables:
            table = _Methods.from_buffer_copy(original)
            table.write, table.truncate, table.sync = (
                ctypes.cast(one, _pointer) for one in self._methods
            )
            self._tables[of.methods] = table
        of.methods = ctypes.addressof(self._tables[of.methods])

    def _written(self, file: int, content: int, size: int, offset: int) -> int:
        known = self._files[file]
        call = Call(
            kind="write", path=known.path, offset=offset, content=ctypes.string_at(content, size)
        )
        return self._do(call, lambda: known.write(file, content, size, offset))

    def _cut(self, file: int, size: int) -> int:
        known = self._files[file]
        call = Call(kind="truncate", path=known.path, offset=size)
        return self._do(call, lambda: known.truncate(file, size))

    def _synced(self, file: int, flags: int) -> int:
        known = self._files[file]
        call = Call(kind="sync", path=known.path, syncs_name=known.owns_new_name)
        code = self._do(call, lambda: known.sync(file, flags))
        if code == OK:
            known.owns_new_name = False
        return code

    def _deleted(self, vfs: int, name: bytes, syncs: int) -> int:
        call = Call(kind="delete", path=os.fsdecode(name), syncs_name=bool(syncs))
        return self._do(call, lambda: self._delete(vfs, name, syncs))


_layer: _Layer | None = None


class Watched:
    """All that this process's SQLite does goes by `hook`."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook

    def __enter__(self) -> None:
        global _layer
        if _layer is None:
            _layer = _Layer()
        _layer.hook = self._hook

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert _layer is not None
        _layer.hook = None
