"""Workers as greenlets of gevent's hub; steps in the hub's thread pool."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import gevent
from gevent._hub_local import get_hub_if_exists  # not in gevent.hub; there since 1.5
from gevent.event import Event
from gevent.hub import Hub

from raven_spool.drive import Worker
from raven_spool.model import Wait
from raven_spool.runtimes.loop import GreenRuntime
from raven_spool.spool import native

_READ = 1


class GeventRuntime(GreenRuntime):
    def find_loop(self) -> Any:
        # A native thread that never used gevent must not be given a hub: nobody would run it.
        return gevent.get_hub() if native.is_main_thread() else get_hub_if_exists()

    def is_running(self, loop: Hub) -> bool:
        return loop.loop is not None and not loop.dead

    def is_inside(self, loop: Hub) -> bool:
        return gevent.getcurrent() is loop  # a callback of the hub: it can't switch away

    def call_soon(self, loop: Hub, function: Callable[[], None]) -> None:
        loop.loop.run_callback_threadsafe(function)

    def spawn(self, worker: Worker) -> gevent.Greenlet:
        return gevent.spawn(self._run, worker)

    def find_task(self) -> Any:
        return gevent.getcurrent()

    def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)

    def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        return gevent.get_hub().threadpool.apply(self._step, (function, *args))

    def wait(self, decision: Wait) -> None:
        over = Event()
        with self._hear(decision, over.set) as (bell, seconds):
            if bell is None:
                over.wait(seconds)
            else:
                with closing(gevent.get_hub().loop.io(bell, _READ)) as watcher:
                    watcher.start(over.set)
                    over.wait(seconds)
                    watcher.stop()
