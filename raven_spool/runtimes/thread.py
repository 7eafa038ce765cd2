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
from raven_spool.drive import drive
from raven_spool.model import Wait
from raven_spool.senders import Sender
from raven_spool.spool import native

log = logging.getLogger("raven.spool")

_DEAF_SECONDS = 0.5  # without a bell (a file system without pipes) we look this often


class ThreadRuntime:
    """Used by one process: after a fork the child makes its own."""

    def __init__(self, drain: Drain, make_sender: Callable[[str], Sender]) -> None:
        self._drain = drain
        self._make_sender = make_sender
        self._lock = native.make_lock()
        self._workers: set[int] = set()
        self._count = 0
        self._alarm = native.make_lock()  # free: a deaf wait ends
        self._alarm.acquire()
        self._ended = native.make_lock()  # free: some worker ended
        self._ended.acquire()

    def wake(self) -> None:
        if not self._count:
            self._start()

    def join(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        _free(self._alarm)
        while self._count:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self._ended.acquire(timeout=remaining)
        return True

    @property
    def is_own_thread(self) -> bool:
        return native.get_thread_id() in self._workers

    def _start(self) -> None:
        with self._lock:
            if self._count >= self._drain.workers:
                return
            self._count += 1
        try:
            native.start_thread(self._run)
        except RuntimeError:  # no more threads, or the interpreter is ending: it stays spooled
            self._leave()

    def _run(self) -> None:
        senders: dict[str, Sender] = {}
        self._workers.add(native.get_thread_id())
        try:
            drive(self._drain, lambda name: self._sender(senders, name), self._wait, self._start)
        except Exception:
            log.exception("a worker of the flusher ended; the next send starts another")
        finally:
            for sender in senders.values():
                sender.close()
            self._workers.discard(native.get_thread_id())
            self._leave()

    def _sender(self, senders: dict[str, Sender], name: str) -> Sender:
        if name not in senders:
            senders[name] = self._make_sender(name)
        return senders[name]

    def _leave(self) -> None:
        with self._lock:
            self._count -= 1
        _free(self._ended)

    def _wait(self, decision: Wait) -> None:
        bell = None if decision.deaf else self._drain.spool.bell_descriptor()
        if decision.deaf:
            self._alarm.acquire(timeout=decision.seconds)
        elif bell is None:
            self._alarm.acquire(timeout=min(decision.seconds, _DEAF_SECONDS))
        else:
            poll = select.poll()
            poll.register(bell, select.POLLIN)
            poll.poll(decision.seconds * 1000)


def _free(lock: Any) -> None:
    try:
        lock.release()
    except RuntimeError:
        pass  # free already
