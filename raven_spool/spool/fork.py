"""Nothing of SQLite crosses a fork.

A child that abandons its parent's connections and opens fresh ones loses what it inserts when
the parent closes (200 of 200, 4 of 4 runs); one that closes them itself hangs. So the parent
closes them before the fork, under our own locks, and both sides open again when they need to.
The hooks never raise (Python would fork all the same) and give up within a second. A fork made
in C calls no hooks: `notice` tells the child apart, and it stays off what it inherited.
"""

import os
from typing import Any, Protocol

from raven_spool.spool import native


class Forkable(Protocol):
    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


_lock: Any = native.make_rlock()
_members: list[Forkable] = []
_held: list[list[Forkable]] = []  # what each running fork holds: members may come meanwhile
_pid = 0  # of the process that has the members


def join(member: Forkable) -> None:
    """From now on forks ask `member`. It stays for the life of the process."""
    global _pid
    with _lock:
        if not _members:
            _pid = os.getpid()
            os.register_at_fork(
                before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
            )
        _members.append(member)


def _before() -> None:
    _lock.acquire()
    members = list(_members)
    _held.append(members)
    for member in members:
        member.before_fork()


def _after_in_parent() -> None:
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
    global _lock, _pid
    _lock = native.make_rlock()
    _pid = os.getpid()
    _held.clear()
    for member in members:
        member.after_fork_in_child()
