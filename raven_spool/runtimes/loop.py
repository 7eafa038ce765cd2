"""Workers that live in an event loop; what the loops' runtimes share.

The loop is the first that is seen running, until it ends; then the next that is seen. Steps of the
drain touch the disk, so they are offloaded to a thread as the library does that; sending, waiting
and the users' callbacks happen in the loop. Without a loop events stay in the spool and wait.

A loop can stop without a word, or stand still: a native thread watches over its workers while they
lead, and lets go of the lead for them, so that other processes can go on.
"""

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from raven_spool.drain import Drain
from raven_spool.drive import Senders, Worker, adrive, drive
from raven_spool.model import Wait
from raven_spool.spool import native

log = logging.getLogger("raven.spool")

_START_SECONDS = 1.0  # after so long a worker that was asked for is not coming
_LOOK_SECONDS = 0.02
_DEAF_SECONDS = 0.5  # without a bell (a file system without pipes) we look this often
_WATCH_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0  # a loop that has not come back for so long stands still

Task = Any
Loop = Any


class LoopRuntime(ABC):
    """Used by one process: after a fork the child makes its own."""

    def __init__(self, drain: Drain, make_sender: Callable[[str], Any]) -> None:
        self._drain = drain
        self._make_sender = make_sender
        self._loop: Loop = None
        self._tasks: dict[Worker, Task] = {}
        self._waits: set[Callable[[], None]] = set()  # each ends one worker's wait, in the loop
        self._own_threads: set[int] = set()  # those that run our code just now
        self._starting_until = 0.0
        self._is_watched = False

    # -- what a library must say --------------------------------------------------------------

    @abstractmethod
    def find_loop(self) -> Loop:
        """The loop of this thread, running or about to, or None."""

    @abstractmethod
    def is_running(self, loop: Loop) -> bool: ...

    @abstractmethod
    def is_inside(self, loop: Loop) -> bool:
        """Whether a caller that blocks would keep this loop from running."""

    @abstractmethod
    def call_soon(self, loop: Loop, function: Callable[[], None]) -> None:
        """Call it in the loop, soon; from any thread."""

    @abstractmethod
    def spawn(self, worker: Worker) -> Task:
        """Begin `self._run(worker)`, in the loop, soon."""

    @abstractmethod
    def find_task(self) -> Task:
        """The task that calls this, as `spawn` returns it, or None."""

    # -- as a Runtime -------------------------------------------------------------------------

    def wake(self, own: int = 0) -> None:
        loop = self._choose_loop()
        # Where there is a worker, one listens to the bell.
        if loop is not None and not self._tasks and time.monotonic() >= self._starting_until:
            self._starting_until = time.monotonic() + _START_SECONDS
            self._ask(loop, self._start)

    def join(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        if self._loop is None or not self.is_running(self._loop):
            self._abandon_all()  # whether or not it runs again: they are not to go on
            return True
        if self.is_inside(self._loop):
            self._dismiss_idle()
            return not self._tasks
        self._ask(self._loop, self._end_waits)
        while self._is_at_work and time.monotonic() < deadline:
            self.pause(_LOOK_SECONDS)
        return not self._is_at_work

    @property
    def _is_at_work(self) -> bool:
        return bool(self._tasks) or time.monotonic() < self._starting_until

    def pause(self, seconds: float) -> None:
        native.sleep(seconds)

    @property
    def can_be_waited_for(self) -> bool:
        loop = self._loop
        return loop is not None and self.is_running(loop) and not self.is_inside(loop)

    @property
    def is_own_thread(self) -> bool:
        if native.get_thread_id() in self._own_threads:
            return True
        task = self.find_task()
        return task is not None and task in self._tasks.values()

    # -- the loop, and the workers in it ------------------------------------------------------

    def _choose_loop(self) -> Loop:
        """The loop to work in: another than before if that one has ended, or has not come to our
        call (a native thread's hub, whose thread does something else), and this one runs."""
        runs = self._loop is not None and self.is_running(self._loop)
        has_not_come = not self._tasks and 0.0 < self._starting_until <= time.monotonic()
        if runs and not has_not_come:
            return self._loop
        here = self.find_loop()
        if here is not None and here is not self._loop:
            self._abandon_all()
            self._loop, self._starting_until = here, 0.0
        return self._loop if runs else here

    def _ask(self, loop: Loop, function: Callable[[], None]) -> None:
        # asyncio's and gevent's words for a loop that was closed a moment ago.
        with suppress(RuntimeError, ValueError):
            self.call_soon(loop, function)

    def _start(self) -> None:
        """One more worker; called in the loop."""
        here = self.find_loop()
        if self._tasks and self._loop not in (None, here):
            return  # it was called long ago, and another has taken its place
        self._loop, self._starting_until = here, 0.0
        if len(self._tasks) < self._drain.workers:
            worker = Worker(self._drain)
            self._tasks[worker] = self.spawn(worker)

    def _ended(self, worker: Worker) -> None:
        worker.abandon()
        was_given_up = worker not in self._tasks  # Twisted's tasks are None
        self._tasks.pop(worker, None)
        if was_given_up and not self._tasks and self.find_loop() is not None:
            self._start()  # its loop moves again

    def _dismiss_idle(self) -> None:
        for worker in list(self._tasks):
            if worker.dismiss():
                self._tasks.pop(worker, None)

    def _abandon_all(self) -> None:
        for worker in list(self._tasks):
            self._tasks.pop(worker, None)
            worker.abandon()

    # -- waiting ------------------------------------------------------------------------------

    @contextmanager
    def _hear(self, decision: Wait, end: Callable[[], None]) -> Iterator[tuple[int | None, float]]:
        """The descriptor whose reading ends this wait, as `end` does, and its seconds."""
        bell = None if decision.deaf else self._drain.spool.bell_descriptor()
        seconds = decision.seconds
        if bell is not None:
            # One of our own: epoll forgets without a word what is closed under it, and the bell
            # is, when the spool's directory is made anew.
            bell = os.dup(bell)
        elif not decision.deaf:
            seconds = min(seconds, _DEAF_SECONDS)
        self._waits.add(end)
        try:
            yield bell, seconds
        finally:
            self._waits.discard(end)
            if bell is not None:
                os.close(bell)

    def _end_waits(self) -> None:
        for end in list(self._waits):
            end()

    # -- in the thread of a step --------------------------------------------------------------

    def _step(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            with self._as_own_thread():
                return function(*args)
        finally:
            if self._drain.leads and not self._is_watched:
                self._start_watch()

    @contextmanager
    def _as_own_thread(self) -> Iterator[None]:
        me = native.get_thread_id()
        self._own_threads.add(me)
        try:
            yield
        finally:
            self._own_threads.discard(me)

    def _start_watch(self) -> None:
        self._is_watched = True
        try:
            native.start_thread(self._watch)
        except RuntimeError:  # the interpreter is ending
            self._is_watched = False

    def _watch(self) -> None:
        while any(worker.is_working for worker in list(self._tasks)):
            native.sleep(_WATCH_SECONDS)
            for worker in list(self._tasks):
                if worker.is_overdue(time.monotonic(), _PATIENCE_SECONDS):
                    self._loop = None  # if it runs after all, it will be found again
                    self._tasks.pop(worker, None)
                    worker.abandon()
        self._is_watched = False


class GreenRuntime(LoopRuntime):
    """Workers are greenlets, which block as threads do: whoever waits for them must be one too."""

    @abstractmethod
    def sleep(self, seconds: float) -> None: ...

    def pause(self, seconds: float) -> None:
        if self.find_loop() is self._loop:
            self.sleep(seconds)
        else:
            super().pause(seconds)

    @abstractmethod
    def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `self._step(function, *args)` in a native thread; other greenlets go on."""

    @abstractmethod
    def wait(self, decision: Wait) -> None: ...

    def _run(self, worker: Worker) -> None:
        senders = Senders(self._make_sender)
        try:
            drive(worker, senders.get, self.wait, self._start, self.offload)
        except Exception:
            log.exception("a worker of the flusher ended; the next send starts another")
        finally:
            self._ended(worker)
            senders.close()


class AwaitingRuntime(LoopRuntime):
    """Workers are coroutines."""

    @abstractmethod
    async def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `self._step(function, *args)` in a thread."""

    @abstractmethod
    async def wait(self, decision: Wait) -> None: ...

    def _tell(self) -> None:
        with self._as_own_thread():  # what users' callbacks send now comes from the flusher
            self._drain.tell()

    async def _run(self, worker: Worker) -> None:
        senders, loop = Senders(self._make_sender), self.find_loop()
        try:
            await adrive(worker, senders, self.wait, self._start, self.offload, self._tell)
        except Exception:
            log.exception("a worker of the flusher ended; the next send starts another")
        finally:
            self._ended(worker)
            if self.find_loop() is loop:  # else this was collected after its loop was closed
                await senders.aclose()
