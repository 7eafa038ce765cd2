"""Nothing of SQLite crosses a fork.

A child that abandons its parent's connections and opens fresh ones loses what it inserts when
the parent closes (200 of 200, 4 of 4 runs); one that closes them itself hangs. So the parent
closes them before the fork, under our own locks, and both sides open again when they need to.
The hooks never raise (Python would fork all the same) and give up within a second. A fork made
in C calls no hooks: `notice` tells the child apart, and it stays off what it inherited.

Nor does an import of ours: importlib's lock of a module that another thread is importing stays
locked in the child for good, and who needs that module there hangs, at exit too (7 of 30 daemons
that captured and forked at once). What is imported late comes through `load`: a fork waits for it.
"""

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from raven_spool.spool import native

T = TypeVar("T")

# An import takes 0.1 s; one that waits for a lock of the forking thread's own imports, for ever.
_IMPORT_PATIENCE_SECONDS = 1.0


class Forkable(Protocol):
    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


_lock: Any = native.make_rlock()
_imports: Any = native.make_rlock()
_members: list[Forkable] = []
_held: list[list[Forkable]] = []  # what each running fork holds: members may come meanwhile
_pid = os.getpid()  # of the process that has the members
_is_child = False


def join(member: Forkable) -> None:
    """From now on forks ask `member`. It stays for the life of the process."""
    with _lock:
        _members.append(member)


def is_child() -> bool:
    """Whether this process was forked, and not begun anew: it may end with os._exit at any time."""
    return _is_child


def load(imports: Callable[[], T]) -> T:
    """Call `imports`, and have no fork in the middle of it."""
    lock = _imports
    # As in Store.write: C calls alone around it, so that no signal leaves the lock held.
    try:
        lock.acquire(timeout=_IMPORT_PATIENCE_SECONDS)
        return imports()
    finally:
        try:
            lock.release()
        except RuntimeError:
            pass  # not won in time


def _before() -> None:
    _lock.acquire()
    members = list(_members)
    _held.append(members)
    for member in members:
        member.before_fork()
    # After the members' locks, as everywhere: the store looks for its imports under its own.
    _imports.acquire(timeout=_IMPORT_PATIENCE_SECONDS)


def _after_in_parent() -> None:
    try:
        _imports.release()
    except RuntimeError:
        pass  # not won in time
    for member in reversed(_held.pop()):
        member.after_fork_in_parent()
    _lock.release()


def _after_in_child() -> None:
    # uWSGI's --py-call-osafterfork calls this hook alone.
    _begin_life(_held.pop() if _held else list(_members))


def notice() -> None:
    """To be called before an inherited lock is waited for: it costs a getpid."""
    known = _pid
    # A signal handler may fork between any two of these words; then the hooks have been called,
    # and `_pid` is no longer what it was.
    if os.getpid() != known and known == _pid:
        _begin_life(list(_members))


def _begin_life(members: list[Forkable]) -> None:
    global _lock, _imports, _pid, _is_child
    _lock = native.make_rlock()
    _imports = native.make_rlock()
    _pid = os.getpid()
    _is_child = True
    _held.clear()
    for member in members:
        member.after_fork_in_child()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
