"""What a process has of one spool: the spool, its flusher, its place to go when no disk takes it.

One for each path and process, whatever the number of clients and transports: an application that
makes a client per request stays flat in threads, descriptors and memory.
"""

import atexit
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from raven_spool import backends
from raven_spool.config import Options, default_spool_path
from raven_spool.drain import Drain
from raven_spool.errors import SpoolBusy, SpoolError, SpoolFull
from raven_spool.model import Destination, Event, State
from raven_spool.policy import Policy
from raven_spool.runtimes import Runtime
from raven_spool.spool import Spool, fork, native
from raven_spool.spool.late import load_queue
from raven_spool.spool.places import MEMORY

log = logging.getLogger("raven.spool")

_MEMORY_BYTES = 32 << 20
_LOOK_SECONDS = 0.02
_LAST_JOIN_SECONDS = 0.05
_WARN_AGAIN_SECONDS = 60.0
_MOVED_AT_ONCE = 50
# A forked child often ends with os._exit right after its first event (RQ's horses, Celery's
# children): a send begun then would be cut, and sent again.
_FORKED_PATIENCE_SECONDS = 1.0


class Flusher:
    """Runtimes driving one drain over a spool. Nothing starts before the first event.

    As a rule there is one runtime; transports of different backends on one spool bring their own,
    and all drive the same drain.
    """

    def __init__(self, spool: Spool, options: Options) -> None:
        self.spool = spool
        self.options = options
        self.ignored = 0  # events of our own threads: what they cause must not feed itself
        self._lock: Any = native.make_rlock()
        self._drain: Drain | None = None
        self._runtimes: dict[str, Runtime] = {}
        self._ending: list[Runtime] = []
        self._is_ending = False
        self._last_woken: str | None = None
        self._refuges: dict[str, Flusher] = {}
        self._homing: Any = native.make_lock()
        self._warned_at = 0.0
        self._counted_at_home: dict[tuple[Destination, str], int] = {}  # of a refuge's drops
        self._told_overflow: dict[str, tuple[int, float]] = {}
        if spool.path != MEMORY:
            spool.keeper.refuge = self._enqueue_in_memory
        fork.join(self)

    # -- enqueue ------------------------------------------------------------------------------

    def enqueue(
        self,
        event: Event,
        destination: Destination,
        runtime: str | None = backends.THREAD,
        send_timeout: float = backends.SEND_TIMEOUT,
    ) -> None:
        """Commit the event, or keep it in memory and send it from there while no disk takes it.

        Args:
            runtime: what delivers it, as `backends` names it; None: nobody in this process.
            send_timeout: seconds the commit may take.

        Raises:
            SpoolError: neither spool nor memory has room.
        """
        fork.notice()
        if self._is_own_thread():
            self.ignored += 1
            return
        try:
            key = self.spool.enqueue(event, destination, timeout_seconds=send_timeout)
        except SpoolError as error:
            self._warn(f"{error} (spool_path={self.spool.path}: mend it or name another)")
            self._enqueue_in_memory(event, destination, runtime)
            if isinstance(error, SpoolFull):
                self.wake(runtime)  # what is in it can be delivered all the same
            return
        if not key:
            self._warn(
                f"the spool {self.spool.path} could not be had at once (send_timeout "
                f"{send_timeout:g} s)"
            )
        elif self._refuges:
            self._start_homecoming()
        self._tell_overflow(self.spool, f"the spool {self.spool.path}")
        self._watch(runtime)
        self.wake(runtime, max(key, 0))

    def _watch(self, runtime: str | None) -> None:
        nobody_else = runtime is None  # in this process, for what an earlier one left
        fault = self.spool.watchdog.look(time.time(), time.monotonic(), at_once=nobody_else)
        if fault:
            log.warning("%s", fault)

    def _is_own_thread(self) -> bool:
        return any(
            runtime.is_own_thread
            for flusher in (self, *self._refuges.values())
            for runtime in list(flusher._runtimes.values())
        )

    def _enqueue_in_memory(
        self, event: Event, destination: Destination, runtime: str | None = None
    ) -> None:
        if self.spool.path == MEMORY:
            raise SpoolError("no room in memory")
        if self._refuge is None:
            spool = self._open_memory()
            # One call that no thread and no signal can split: the first to come stays.
            self._refuges.setdefault(MEMORY, Flusher(spool, self.options))
        refuge = self._refuges[MEMORY]
        # Nobody else can drain what is in memory, so there even backend "none" gets a thread.
        key = refuge.spool.enqueue(event, destination)
        self._tell_overflow(refuge.spool, "memory")
        refuge.wake(runtime or backends.THREAD, max(key, 0))

    def _open_memory(self) -> Spool:
        """With the spool's own limits, where memory's are not narrower."""
        limits = self.spool.limits
        return Spool(
            MEMORY,
            fsync="no",
            max_bytes=min(limits.max_bytes or _MEMORY_BYTES, _MEMORY_BYTES),
            max_events=limits.max_events,
            overflow=limits.overflow,
        )

    def _start_homecoming(self) -> None:
        """The spool takes events again: commit those that are in memory, in a thread."""
        if self._homing.acquire(blocking=False):
            try:
                native.start_thread(self._come_home)
            except RuntimeError:  # the interpreter is ending: `close` does it
                self._homing.release()

    def _come_home(self) -> None:
        try:
            refuge = self._refuge
            if refuge is not None:
                refuge._stop_draining(time.monotonic())
                self._bring_home(refuge)
                refuge.wake(refuge._last_woken)
        except SpoolError:
            pass  # the next event tries again
        finally:
            self._homing.release()

    def _bring_home(self, refuge: "Flusher") -> None:
        """Move what no disk had into the spool.

        Crash:
            Between the commit and the removal from memory there is nothing to lose: one event is
            in the spool, the others are lost as volatile ones are.
        """
        with refuge._lock:  # nobody begins to send from memory meanwhile
            if refuge._runtimes or refuge._has_old_workers():
                return  # somebody has: not now
            if self._move_all(refuge):
                self._count_at_home(refuge)

    def _move_all(self, refuge: "Flusher") -> bool:
        while page := refuge.spool.page(state=State.READY, after_id=0, limit=_MOVED_AT_ONCE):
            for stored in page:
                key = self.spool.enqueue(stored.event, stored.destination)
                # Also where it waits in the spool's own line now: that will commit it.
                refuge.spool.drop([stored.id], "moved")
                if not key:
                    return False
        return True

    def _count_at_home(self, refuge: "Flusher") -> None:
        """What memory had no room for goes into the spool's ledger.

        Crash:
            What is not entered yet is lost with what was in memory.
        """
        counted = refuge._counted_at_home
        for destination, category, dropped in refuge.spool.overflows():
            lane = (destination, category)
            new = dropped - counted.get(lane, 0)
            if new > 0:
                self.spool.count_overflow(destination, category, new)
                counted[lane] = dropped

    @property
    def _dropped_in_memory(self) -> int:
        """Events that memory had no room for and no ledger knows of yet."""
        refuge = self._refuge
        if refuge is None:
            return 0
        dropped = sum(events for _, _, events in refuge.spool.overflows())
        return dropped - sum(refuge._counted_at_home.values())

    @property
    def _refuge(self) -> "Flusher | None":
        return self._refuges.get(MEMORY)

    def _warn(self, why: str) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _WARN_AGAIN_SECONDS or not self._warned_at:
            self._warned_at = now
            log.warning("%s: events wait in memory and are not safe from a crash", why)

    def _tell_overflow(self, spool: Spool, name: str) -> None:
        """That events give way, once a minute."""
        told, told_at = self._told_overflow.get(name, (0, -math.inf))
        dropped, now = spool.overflowed, time.monotonic()
        if dropped == told or now - told_at < _WARN_AGAIN_SECONDS:
            return
        self._told_overflow[name] = (dropped, now)
        rule = "drop_newest" if spool.limits.drops_newest else "drop_oldest"
        log.warning(
            "%s has reached its limit: %d events more were dropped (overflow=%s)",
            name,
            dropped - told,
            rule,
        )

    @property
    def volatile(self) -> int:
        """Events of this process that no disk has."""
        refuge = self._refuge
        held = 0
        if refuge is not None:
            held = refuge.spool.count_ready() + refuge.spool.volatile
        return int(self.spool.volatile + held)

    def stats(self) -> dict[str, Any]:
        """The spool's counts, or those of what is in memory while there is no spool."""
        try:
            counts = self.spool.stats()
        except SpoolError:
            if self._refuge is None:
                raise
            counts = self._refuge.spool.stats()
        in_memory = {"volatile": self.volatile, "dropped_in_memory": self._dropped_in_memory}
        return {**counts, **in_memory}

    # -- running ------------------------------------------------------------------------------

    def wake(self, runtime: str | None, own: int = 0) -> None:
        """See that a worker of this runtime runs; None: this process delivers nothing.

        `own` is the id of what was committed just now, 0 if nothing was.
        """
        if runtime is None or self._is_ending:
            return
        if runtime not in self._runtimes:
            self._make_runtime(runtime)
        if runtime in self._runtimes:
            self._last_woken = runtime
            self._runtimes[runtime].wake(own)

    def _make_runtime(self, target: str) -> None:
        # Not waited for: a signal handler may come in while its own thread is here, and two
        # drains in one process would send everything twice.
        if self._lock._is_owned():
            return
        try:
            if not self._lock.acquire(blocking=False):
                return
            if target not in self._runtimes and not self._has_old_workers():
                drain = self._drain or make_drain(self.spool, self.options)
                self._drain = drain
                self._runtimes[target] = backends.load(target)(drain, backends.sender_maker(target))
        finally:
            with contextlib.suppress(RuntimeError):  # another thread has it
                self._lock.release()

    def _has_old_workers(self) -> bool:
        """A worker still in a request that `close` did not wait for: what it sends must not be
        claimed by another drain of this process. The next event looks again."""
        self._ending = [runtime for runtime in self._ending if not runtime.join(0.0)]
        return bool(self._ending)

    def flush(self, timeout_seconds: float, backend: backends.Backend) -> bool:
        """Wait until everything in the spool is delivered or dead; back-off is ignored.

        Returns whether nothing is left.
        """
        deadline = time.monotonic() + timeout_seconds
        with contextlib.suppress(SpoolError):
            self.spool.forget_backoff()
        running = set(self._runtimes)
        runtime = self._choose_runtime(backend)
        if runtime is None:
            return self._is_empty()
        is_empty = self._run_until_empty(runtime, deadline)
        if runtime not in running and runtime != backend.runtime:
            self._stop_draining(deadline)  # these threads were for this flush alone
            self.wake(backend.runtime if not is_empty else None)
        return is_empty

    def _choose_runtime(self, backend: backends.Backend) -> str | None:
        """The backend's own, or threads where its loop can't run while the caller waits. None:
        what is under way needs that loop."""
        runtime = backend.flushing_runtime
        if runtime == backends.THREAD:
            return runtime
        self.wake(runtime)
        made = self._runtimes.get(runtime)
        if made is None or made.can_be_waited_for:
            return runtime
        if made.join(0.0):
            return backends.THREAD
        log.warning("flush() would stop the loop that is sending: await aflush() there")
        return None

    def _run_until_empty(self, runtime: str, deadline: float) -> bool:
        self.wake(runtime)
        if self._drain is not None:
            self._drain.lead_now()
        for running in list(self._runtimes.values()):
            running.join(0.0)  # who waits looks again
        while not self._is_empty():
            if time.monotonic() >= deadline:
                return False
            self._pause(runtime)
            self.wake(runtime)  # not made before, if a worker of the last flush was in a request
        return True

    def _pause(self, runtime: str) -> None:
        made = self._runtimes.get(runtime)
        (made.pause if made is not None else native.sleep)(_LOOK_SECONDS)

    def _is_empty(self) -> bool:
        try:
            return self.volatile == 0 and self.spool.count_ready() == 0
        except SpoolError:
            return self.volatile == 0

    def close(self, timeout_seconds: float) -> None:
        """Deliver what can be delivered in that time, then stop; the rest stays spooled.

        Ends early when nothing more can be sent (the server is away, another process drains).
        The next event starts all anew.
        """
        fork.notice()
        deadline = time.monotonic() + timeout_seconds
        self._stop_draining(deadline)
        if self._refuge is not None:
            self._refuge.spool.keeper.beat()  # what waits in its line is to be sent too
            self._refuge._stop_draining(deadline)
        self._finish_spool()

    def _stop_draining(self, deadline: float) -> None:
        drain, runtimes = self._drain, list(self._runtimes.values())
        if drain is None:
            return
        try:
            drain.finish(deadline)
            _join(runtimes, deadline)
        finally:  # a time limit may come anywhere, and a drain that was stopped must not be kept
            self._end_draining(drain, runtimes)

    def _end_draining(self, drain: Drain, runtimes: list[Runtime]) -> None:
        try:
            drain.stop()
            _join(runtimes, time.monotonic() + _LAST_JOIN_SECONDS)
        finally:
            try:
                self._is_ending = True  # a signal handler's send must not wait for the drain's lock
                drain.end()
                drain.tell()
            finally:
                self._drain, self._runtimes = None, {}
                self._ending += runtimes
                self._is_ending = False

    def _finish_spool(self) -> None:
        try:
            if self._refuge is not None:
                self.spool.look_again()
                self._bring_home(self._refuge)
            self.spool.finish()
        except (SpoolError, OSError) as error:
            log.warning("the spool %s was not closed well: %s", self.spool.path, error)
        if self.volatile:
            log.error("%d events were in memory only when the process ended", self.volatile)

    # -- fork ---------------------------------------------------------------------------------

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None:
        self._lock = native.make_rlock()
        self._homing = native.make_lock()
        self._drain = None
        self._runtimes, self._ending, self._is_ending = {}, [], False
        self._refuges = {}


def _join(runtimes: list[Runtime], deadline: float) -> None:
    for runtime in runtimes:
        runtime.join(deadline - time.monotonic())


def make_drain(
    spool: Spool,
    options: Options,
    *,
    workers: int | None = None,
    can_send: Callable[[str], bool] = backends.can_send,
) -> Drain:
    # What is in memory nobody else can send, and it dies with the process.
    may_be_cut = fork.is_child() and spool.path != MEMORY
    return Drain(
        spool,
        make_policy(options),
        workers=workers or options.concurrency,
        order=options.order,
        on_delivered=options.on_delivered,
        on_dead=options.on_dead,
        can_send=can_send,
        leads_after_seconds=_FORKED_PATIENCE_SECONDS if may_be_cut else 0.0,
    )


def make_policy(options: Options) -> Policy:
    policy = Policy(
        on_server_error=options.on_server_error,
        on_rate_limit=options.on_rate_limit,
        max_age_seconds=options.max_age,
    )
    return replace(policy, wait=options.wait or policy.wait, stop=options.stop or policy.stop)


# -- one for each path and process ----------------------------------------------------------------

_flushers: dict[str, Flusher] = {}


def get_flusher(options: Options) -> Flusher:
    """The process's flusher of that path; the first to ask decides on the spool's options."""
    path = options.spool_path or default_spool_path()
    key = os.path.realpath(path)
    found = _flushers.get(key)
    if found is None:
        # persist-queue logs while it is imported, and a handler may send that.
        with contextlib.suppress(SpoolBusy, OSError):  # the latter: no descriptor is to be had
            load_queue()
        if not _flushers:
            atexit.unregister(_close_all)
            atexit.register(_close_all)
        # One call that no thread and no signal can split: the first to come stays.
        found = _flushers.setdefault(key, Flusher(open_spool(path, options), options))
    return found


def open_spool(path: str, options: Options) -> Spool:
    return Spool(
        path,
        fsync=options.fsync,
        max_bytes=options.max_bytes,
        max_events=options.max_events,
        overflow=options.overflow,
        group=options.group,
        warn_age_seconds=options.warn_age,
        keys=options.encryption_key,
    )


def _close_all() -> None:
    """The one exit hook. Ctrl-C in the middle of it ends the waiting, not the events."""
    for flusher in list(_flushers.values()):
        with contextlib.suppress(KeyboardInterrupt):
            flusher.close(flusher.options.shutdown_timeout)
