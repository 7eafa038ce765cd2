"""A loop's sender as a blocking one, so that one contract serves all: its loop runs in a thread."""

import asyncio
import atexit
import functools
import importlib
import threading
from collections.abc import Callable
from typing import Any

from raven_spool.model import Outcome, Request
from raven_spool.senders import AsyncSender, Sender

_PATIENCE_SECONDS = 60


class OnAsyncio:
    """For senders of asyncio and of Tornado, whose IOLoop is asyncio's."""

    def __init__(self, make: Callable[[], AsyncSender]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._sender = make()

    def send(self, request: Request) -> Outcome:
        return self._wait(self._sender.send(request))

    def close(self) -> None:
        self._wait(self._sender.close())

    def end(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_SECONDS)


class OnReactor:
    """For senders of Twisted; a reactor can't be started twice, so there is one for all."""

    def __init__(self, make: Callable[[], AsyncSender]) -> None:
        self._reactor = _start_reactor()
        self._sender = make()

    def send(self, request: Request) -> Outcome:
        return self._wait(lambda: self._sender.send(request))

    def close(self) -> None:
        self._wait(self._sender.close)

    def end(self) -> None:
        self.close()

    def _wait(self, work: Callable[[], Any]) -> Any:
        from twisted.internet.defer import ensureDeferred
        from twisted.internet.threads import blockingCallFromThread

        return blockingCallFromThread(self._reactor, lambda: ensureDeferred(work()))


@functools.cache
def _start_reactor() -> Any:
    from twisted.internet import reactor

    run = functools.partial(reactor.run, installSignalHandlers=False)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def stop() -> None:
        reactor.callFromThread(reactor.stop)
        thread.join()

    atexit.register(stop)
    return reactor


class Blocking:
    """A sender that blocks by itself."""

    def __init__(self, make: Callable[[], Sender]) -> None:
        sender = make()
        self.send, self.close, self.end = sender.send, sender.close, sender.close


_KINDS: dict[str, tuple[Any, str]] = {
    "urllib": (Blocking, "raven_spool.senders.urllib:UrllibSender"),
    "requests": (Blocking, "raven_spool.senders.requests:RequestsSender"),
    "gevent": (Blocking, "raven_spool.senders.gevent:GeventSender"),
    "eventlet": (Blocking, "raven_spool.senders.eventlet:EventletSender"),
    "aiohttp": (OnAsyncio, "raven_spool.senders.aiohttp:AiohttpSender"),
    "tornado": (OnAsyncio, "raven_spool.senders.tornado:TornadoSender"),
    "twisted": (OnReactor, "raven_spool.senders.twisted:TwistedSender"),
}

SENDERS = list(_KINDS)


def open_sender(name: str) -> Any:
    """Has `send`, `close` and, for the end of a test, `end`."""
    adapter, target = _KINDS[name]
    module, _, attribute = target.partition(":")
    return adapter(getattr(importlib.import_module(module), attribute))
