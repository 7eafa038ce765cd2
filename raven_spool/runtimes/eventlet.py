"""Workers as greenthreads of eventlet's hub; steps in its thread pool (eventlet.tpool)."""

from collections.abc import Callable
from typing import Any

import eventlet
from eventlet import hubs, tpool
from eventlet.semaphore import Semaphore

from raven_spool.drive import Worker
from raven_spool.model import Wait
from raven_spool.runtimes.loop import GreenRuntime
from raven_spool.spool import native


class EventletRuntime(GreenRuntime):
    def find_loop(self) -> Any:
        # A native thread that never used eventlet must not be given a hub: nobody would run it.
        if native.is_main_thread():
            return hubs.get_hub()
        return getattr(hubs._threadlocal, "hub", None)

    def is_running(self, loop: Any) -> bool:
        return not (loop.stopping or loop.greenlet.dead)  # dead: its thread has ended

    def is_inside(self, loop: Any) -> bool:
        return eventlet.getcurrent() is loop.greenlet  # a callback of the hub: it can't switch away

    def call_soon(self, loop: Any, function: Callable[[], None]) -> None:
        # From another thread the hub sees it when it next wakes; it has no way to be woken.
        loop.schedule_call_global(0, function)

    def spawn(self, worker: Worker) -> Any:
        return eventlet.spawn(self._run, worker)

    def find_task(self) -> Any:
        return eventlet.getcurrent()

    def sleep(self, seconds: float) -> None:
        eventlet.sleep(seconds)

    def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        return tpool.execute(self._step, function, *args)

    def wait(self, decision: Wait) -> None:
        over = Semaphore(0)
        with self._hear(decision, over.release) as (bell, seconds):
            if bell is None:
                over.acquire(timeout=seconds)
                return
            hub = hubs.get_hub()
            listener = hub.add(hub.READ, bell, lambda _: over.release(), None, None)
            try:
                over.acquire(timeout=seconds)
            finally:
                hub.remove(listener)
