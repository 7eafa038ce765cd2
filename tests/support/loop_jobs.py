"""Jobs in an event loop: iterators that say how many seconds to sleep, in each library's own way.

    patch("gevent")
    run("gevent", [tick(), work()])     # side by side, until both have ended

A library is imported when it is named: a process has one of them.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

Job = Iterator[float]


def patch(library: str) -> None:
    """As applications on that library do, before all else; the others patch nothing."""
    match library:
        case "gevent":
            from gevent import monkey

            monkey.patch_all()
        case "eventlet":
            import eventlet

            eventlet.monkey_patch()


def run(library: str, jobs: Sequence[Job]) -> None:
    """Run them in the main thread's loop; "thread": in a thread for each."""
    _WAYS[library](jobs)


def _in_gevent(jobs: Sequence[Job]) -> None:
    import gevent

    gevent.joinall([gevent.spawn(_go, gevent.sleep, job) for job in jobs], raise_error=True)


def _in_eventlet(jobs: Sequence[Job]) -> None:
    import eventlet

    for green in [eventlet.spawn(_go, eventlet.sleep, job) for job in jobs]:
        green.wait()


def _in_threads(jobs: Sequence[Job]) -> None:
    threads = [threading.Thread(target=_go, args=(time.sleep, job)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _go(sleep: Callable[[float], object], job: Job) -> None:
    for seconds in job:
        sleep(seconds)


def _in_asyncio(jobs: Sequence[Job]) -> None:
    import asyncio

    async def go(job: Job) -> None:
        for seconds in job:
            await asyncio.sleep(seconds)

    async def go_all() -> None:
        await asyncio.gather(*map(go, jobs))

    asyncio.run(go_all())


def _in_tornado(jobs: Sequence[Job]) -> None:
    from tornado import gen
    from tornado.ioloop import IOLoop

    async def go(job: Job) -> None:
        for seconds in job:
            await gen.sleep(seconds)

    async def go_all() -> None:
        await gen.multi([go(job) for job in jobs])

    IOLoop.current().run_sync(go_all)


def _in_twisted(jobs: Sequence[Job]) -> None:
    from twisted.internet import reactor, task
    from twisted.internet.defer import Deferred, gatherResults
    from twisted.internet.interfaces import IReactorCore, IReactorTime

    clock, core, failures = IReactorTime(reactor), IReactorCore(reactor), []

    async def go(job: Job) -> None:
        for seconds in job:
            await task.deferLater(clock, seconds)

    def go_all() -> None:
        ended = gatherResults([Deferred.fromCoroutine(go(job)) for job in jobs])
        ended.addErrback(failures.append)
        ended.addBoth(lambda _: core.stop())

    core.callWhenRunning(go_all)
    core.run()
    for failure in failures:
        failure.raiseException()


_WAYS: dict[str, Callable[[Sequence[Job]], None]] = {
    "gevent": _in_gevent,
    "eventlet": _in_eventlet,
    "twisted": _in_twisted,
    "tornado": _in_tornado,
    "asyncio": _in_asyncio,
    "thread": _in_threads,
}
