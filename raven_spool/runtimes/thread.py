"""Workers in threads of the operating system, as many as there is work for.

The first waits for the bell; when a worker finds more than it can send alone it calls the next.
Threads end when there is nothing left for them, so that an idle process has one.
"""

import logging
import select
import time
from collections.abc import Callable
from typing import Any

from raven_spool.drain import Drain
from raven_spool.drive import Senders, Worker, drive
from raven_spool.model import Wait
from raven_spool.senders import Sender
from raven_spool.spool import native, uwsgi

log = logging.getLogger("raven.spool")

_START_SECONDS = 1.0  # after so long a thread that was asked for is not coming
_JOIN_LOOK_SECONDS = 0.05
_DEAF_SECONDS = 0.5  # without a bell (a file system without pipes) we look this often


class ThreadRuntime:
    """Used by one process: after a fork the child makes its own."""

    def __init__(self, drain: Drain, make_sender: Callable[[str], Sender]) -> None:
        self._drain = drain
        self._make_sender = make_sender
        self._lock = native.make_lock()
        self._workers: set[int] = set()
        self._starting_until = 0.0  # a thread was asked for and has not begun
        self._alarm = native.make_lock()  # free: a deaf wait ends
        self._alarm.acquire()
        self._ended = native.make_lock()  # free: some worker ended
        self._ended.acquire()
        self._has_warned = False

    def wake(self, own: int = 0) -> None:
        if not self._workers and time.monotonic() >= self._starting_until:
            self._start()

    def join(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        _free(self._alarm)
        while self._workers or time.monotonic() < self._starting_until:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self._ended.acquire(timeout=min(remaining, _JOIN_LOOK_SECONDS))
        return True

    def pause(self, seconds: float) -> None:
        native.sleep(seconds)

    @property
    def can_be_waited_for(self) -> bool:
        return True

    @property
    def is_own_thread(self) -> bool:
        return native.get_thread_id() in self._workers

    def _start(self) -> None:
        """Ask for a thread. It signs in by itself: no count can go wrong if a signal throws us
        out here, and one thread too many leaves at once."""
        if len(self._workers) >= self._drain.workers:
            return
        self._starting_until = time.monotonic() + _START_SECONDS
        try:
            native.start_thread(self._run)
        except RuntimeError:  # none is to be had here: it stays spooled
            self._starting_until = 0.0
            self._warn_once()

    def _warn_once(self) -> None:
        if uwsgi.lacks_threads() and not self._has_warned:
            self._has_warned = True
            log.warning(
                "this uWSGI runs no Python threads (enable-threads): events wait in the spool %s "
                "for another process, say `raven-spool flush` from cron",
                self._drain.spool.path,
            )

    def _run(self) -> None:
        senders, worker = Senders(self._make_sender), Worker(self._drain)
        me = native.get_thread_id()
        with self._lock:
            if len(self._workers) >= self._drain.workers:
                return
            self._workers.add(me)
        self._starting_until = 0.0
        try:
            drive(worker, senders.get, self._wait, self._start)
        except Exception:
            log.exception("a worker of the flusher ended; the next send starts another")
            worker.abandon()
        finally:
            senders.close()
            self._workers.discard(me)
            _free(self._ended)

    def _wait(self, decision: Wait) -> None:
        bell = None if decision.deaf else self._drain.spool.bell_descriptor()
        if decision.deaf:
            self._alarm.acquire(timeout=decision.seconds)
        elif bell is None:
            self._alarm.acquire(timeout=min(decision.seconds, _DEAF_SECONDS))
        else:
            poll = native.make_poll()
            poll.register(bell, select.POLLIN)
            poll.poll(decision.seconds * 1000)


def _free(lock: Any) -> None:
    try:
        lock.release()
    except RuntimeError:
        pass  # free already
