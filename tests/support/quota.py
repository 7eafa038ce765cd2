"""A quota under SQLite: its own system calls answer EDQUOT, as the kernel does for a user's.

SQLite lets its calls be replaced (xSetSystemCall). The real way from the error to its code is gone:
EDQUOT is not the ENOSPC that it tells as a full disk. For a child process; there is no way back.
"""

import _sqlite3
import ctypes
import errno
import os
from collections.abc import Callable

_Write = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)
_Set = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
# In sqlite3_vfs (sqlite3.h): three ints and their padding, then 16 pointers before it.
_SET_SYSTEM_CALL = 16 + 16 * ctypes.sizeof(ctypes.c_void_p)
_kept: list[object] = []


def limit_writes(is_used_up: Callable[[], bool]) -> None:
    """From now on no write of SQLite's makes a file longer while that is so."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.c_void_p
    library.sqlite3_vfs_find.argtypes = (ctypes.c_char_p,)
    vfs = library.sqlite3_vfs_find(None)
    written = ctypes.CDLL(None, use_errno=True).pwrite
    written.restype = ctypes.c_ssize_t
    written.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)

    def write(descriptor: int, content: int, size: int, offset: int) -> int:
        if offset + size > os.fstat(descriptor).st_size and is_used_up():
            ctypes.set_errno(errno.EDQUOT)
            return -1
        return int(written(descriptor, content, size, offset))

    ours = _Write(write)
    _kept.append(ours)
    set_call = _Set(ctypes.c_void_p.from_address(vfs + _SET_SYSTEM_CALL).value or 0)
    for name in (b"pwrite", b"pwrite64"):
        set_call(vfs, name, ctypes.cast(ours, ctypes.c_void_p))
