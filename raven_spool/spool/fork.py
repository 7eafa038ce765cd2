"""Nothing of SQLite crosses a fork.

A child that abandons its parent's connections and opens fresh ones loses what it inserts when
the parent closes (200 of 200, 4 of 4 runs); one that closes them itself hangs. So the parent
closes them before the fork, under our own locks, and both sides open again when they need to.
The hooks never raise (Python would fork all the same) and give up within a second. A fork made
in C calls no hooks: `notice` tells the child apart, and it stays off what it inherited.

Nor does an import of ours: importlib's lock of a module that another thread is importing stays
locked in the child for good, and who needs that module there hangs, at exit too (7 of 30 daemons
that captured and forked at once). What is imported late comes through `hold_off`: a fork waits for
it, as it does for what asks SQLite for something without the store.
"""

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from raven_spool.spool import native

T = TypeVar("T")

# An import takes 0.1 s; one that waits for a lock of the forking thread's own imports, for ever.
_PATIENCE_SECONDS = 1.0


class Forkable(Protocol):
    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


_lock: Any = native.make_rlock()
_undivided: Any = native.make_rlock()
_members: list[Forkable] = []
_under_way: list["_Fork"] = []
_pid = os.getpid()  # of the process that has the members
_is_child = False


def join(member: Forkable) -> None:
    """From now on forks ask `member`. It stays for the life of the process."""
    with _lock:
        _members.append(member)


def is_child() -> bool:
    """Whether this process was forked, and not begun anew: it may end with os._exit at any time."""
    return _is_child


def hold_off(work: Callable[[], T]) -> T:
    """Call `work`, and have no fork in the middle of it, if it takes less than a second."""
    lock = _undivided
    # As in Store.write: C calls alone around it, so that no signal leaves the lock held.
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS)
        return work()
    finally:
        try:
            lock.release()
        except RuntimeError:
            pass  # not won in time


class _Fork:
    """One that is under way in a thread, and whose locks it holds."""

    def __init__(self) -> None:
        self.thread = native.get_thread_id()
        self.members: list[Forkable] = []


# What a signal handler raises in a hook (a task's time limit, Ctrl-C) ends in os.fork, which tells
# it and goes on: without a second try, locks that were not released by then stayed locked.


def _before() -> None:
    fork = _Fork()
    _under_way.append(fork)  # first: what follows is undone by it
    _lock.acquire()
    fork.members = list(_members)
    for member in fork.members:
        member.before_fork()
    # After the members' locks, as everywhere: the store looks for its imports under its own.
    _undivided.acquire(timeout=_PATIENCE_SECONDS)


def _after_in_parent() -> None:
    is_done = False
    try:
        is_done = _let_go()
    finally:
        if not is_done:
            _let_go()


def _let_go() -> bool:
    """Where it was cut short, what is done again does nothing."""
    fork = _own_fork()
    if fork is not None:
        _release(_undivided)
        for member in reversed(fork.members):
            member.after_fork_in_parent()
        _release(_lock)
        _under_way.remove(fork)  # last: else nobody would know what is left to release
    return True


def _own_fork() -> _Fork | None:
    """The last one that this thread has begun: a signal handler may fork inside of another."""
    mine = [fork for fork in _under_way if fork.thread == native.get_thread_id()]
    return mine[-1] if mine else None


def _release(lock: Any) -> None:
    try:
        lock.release()
    except RuntimeError:
        pass  # not won in time


def _after_in_child() -> None:
    # uWSGI's --py-call-osafterfork calls this hook alone.
    is_done = False
    try:
        is_done = _begin_life()
    finally:
        if not is_done:
            _begin_life()


def notice() -> None:
    """To be called before an inherited lock is waited for: it costs a getpid."""
    known = _pid
    # A signal handler may fork between any two of these words; then the hooks have been called,
    # and `_pid` is no longer what it was.
    if os.getpid() != known and known == _pid:
        _begin_life()


def _begin_life() -> bool:
    global _lock, _undivided, _pid, _is_child
    _lock = native.make_rlock()
    _undivided = native.make_rlock()
    _pid = os.getpid()
    _is_child = True
    _under_way.clear()
    for member in list(_members):
        member.after_fork_in_child()
    return True


def _hear_signals() -> None:
    """What came in while the kernel forked is raised in the first hook, which need not be ours."""


os.register_at_fork(after_in_parent=_hear_signals, after_in_child=_hear_signals)
os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
