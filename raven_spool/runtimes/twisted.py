"""Workers as coroutines in Twisted's reactor; steps in the reactor's thread pool."""

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadable import isInIOThread
from zope.interface import implementer

from raven_spool.drive import Worker
from raven_spool.model import Wait
from raven_spool.runtimes.loop import AwaitingRuntime
from raven_spool.spool import native


class TwistedRuntime(AwaitingRuntime):
    _pool: Any = None

    def find_loop(self) -> Any:
        # An import would install one, and the application may be about to install another.
        return sys.modules.get("twisted.internet.reactor")

    def is_running(self, loop: Any) -> bool:
        return bool(loop.running)

    def is_inside(self, loop: Any) -> bool:
        return bool(isInIOThread())  # type: ignore[no-untyped-call]

    def call_soon(self, loop: Any, function: Callable[[], None]) -> None:
        loop.callFromThread(function)  # before the reactor runs, too

    def spawn(self, worker: Worker) -> None:
        reactor = self._loop
        if self._pool is None:
            # Once, and not for each step: a reactor that has shut its pool makes another when it
            # is asked, which nobody shuts, and the process does not end.
            self._pool = reactor.getThreadPool()
            # After the application's own `aclose`, which comes before the end.
            reactor.addSystemEventTrigger("after", "shutdown", self._abandon_all)
        reactor.callLater(0, lambda: ensureDeferred(self._run(worker)))

    def find_task(self) -> None:
        return None  # our code in the reactor's thread is known by `_as_own_thread`

    async def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        return await deferToThreadPool(self._loop, self._pool, self._step, function, *args)

    async def wait(self, decision: Wait) -> None:
        reactor, over = self._loop, _Over()
        with self._hear(decision, over.end) as (bell, seconds):
            if bell is not None:
                over.descriptor = bell
                reactor.addReader(over)
            timer = reactor.callLater(seconds, over.end)
            await over.fact
            reactor.removeReader(over)
            if timer.active():
                timer.cancel()


@implementer(IReadDescriptor)
class _Over:
    """Fires once: the bell has rung, the time has passed, or it was told so."""

    descriptor = -1

    def __init__(self) -> None:
        self.fact: Deferred[None] = Deferred()

    def end(self) -> None:
        if not self.fact.called:
            self.fact.callback(None)

    def fileno(self) -> int:
        return self.descriptor

    doRead = end  # noqa: N815

    def connectionLost(self, reason: object) -> None:  # noqa: N802
        """The reactor ends."""

    def logPrefix(self) -> str:  # noqa: N802
        return "raven-spool"


def in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """Call it in a thread of its own: enough of them in the reactor's pool, each waiting for us,
    would keep our steps out. A daemon, for the reactor may end before it has heard."""
    from twisted.internet import reactor

    done: Deferred[Any] = Deferred()

    def run() -> None:
        try:
            result = function(*args)
        except BaseException:  # noqa: BLE001 it is raised where it is awaited
            result = Failure()  # type: ignore[no-untyped-call]
        reactor.callFromThread(done.callback, result)

    native.start_thread(run)
    return done
