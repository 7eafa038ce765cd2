"""Locks and threads of the operating system, also where gevent or eventlet have patched them.

The store is touched by native threads even under monkey patching (an offloaded commit, a worker
pool), and a green lock means nothing between them. These locks are never held across a green
switch: under them runs SQLite and nothing else.
"""

import _thread
import os
import sys
from collections.abc import Callable
from typing import Any

from raven_spool.spool import uwsgi


def _original(module: str, name: str) -> Any:
    # raven imports both, where they are installed: what counts is which of them has patched.
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and any(map(patcher.is_monkey_patched, ("thread", "select", "time"))):
        return getattr(patcher.original(module), name)
    if "gevent.monkey" in sys.modules:
        return sys.modules["gevent.monkey"].get_original(module, name)
    return getattr(__import__(module), name)


# Looked up once: what was not patched when we were imported is the original itself.
make_lock: Callable[[], Any] = _original("_thread", "allocate_lock")
# The C implementation: release and ownership are single calls no signal can split.
make_rlock: Callable[[], Any] = _original("_thread", "RLock")
sleep: Callable[[float], None] = _original("time", "sleep")
get_thread_id: Callable[[], int] = _original("_thread", "get_ident")
make_poll: Callable[[], Any] = _original("select", "poll")  # eventlet removes it
_get_native_id: Callable[[], int] = _original("_thread", "get_native_id")
_start: Callable[..., int] = _original("_thread", "start_new_thread")


def threads_are_green() -> bool:
    """Whether what the process takes for a thread is a greenlet by now."""
    return _thread.allocate_lock is not make_lock


def is_main_thread() -> bool:
    return _get_native_id() == os.getpid()  # as Linux numbers them; no library patches that


def start_thread(target: Callable[[], None]) -> None:
    """A daemon thread; the interpreter does not wait for it.

    Raises:
        RuntimeError: none can be had: the interpreter is ending, or uWSGI would stop it.
    """
    if uwsgi.lacks_threads() or uwsgi.forks_unseen():
        raise RuntimeError("uWSGI would stop this thread in the middle of something")
    _start(target, ())
