"""One life of a reactor, as its first argument says; a reactor starts only once in a process.

    SENTRY_DSN=... RAVEN_SPOOL_PATH=... python -m tests.contract.reactor_program LIFE

Prints the ids it captured, in JSON.
"""

import contextlib
import json
import os
import sys
import threading
import time

import raven

from raven_spool import SpoolTransport
from raven_spool.transport import TwistedHTTPTransport

PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.02


def make_client(cls=TwistedHTTPTransport, **options):
    transport = cls(timeout=30, **options)
    return raven.Client(
        os.environ["SENTRY_DSN"],
        transport=transport,
        install_sys_hook=False,
        raise_send_errors=True,
    )


def capture(client):
    event_id = client.captureMessage("event")
    client.context.clear()
    return event_id


def transport_of(client):
    return client.remote.get_transport()


def stop_when(is_so):
    """Stop the reactor once it is so, or after our patience."""
    from twisted.internet import reactor

    deadline = time.monotonic() + PATIENCE_SECONDS

    def look():
        if is_so() or time.monotonic() > deadline:
            reactor.stop()
        else:
            reactor.callLater(_LOOK_SECONDS, look)

    reactor.callWhenRunning(look)


def run():
    from twisted.internet import reactor

    reactor.run()


def delivered(client, count):
    return lambda: transport_of(client).stats()["delivered"] >= count


def sent_before_it_runs():
    """And before anybody has imported, and so installed, a reactor."""
    client = make_client()
    first = capture(client)
    assert "twisted.internet.reactor" not in sys.modules
    stop_when(delivered(client, 2))
    second = capture(client)
    run()
    return [first, second]


def sent_inside():
    from twisted.internet import reactor

    client, ids = make_client(), []
    reactor.callWhenRunning(lambda: ids.extend(capture(client) for _ in range(20)))
    stop_when(delivered(client, 20))
    run()
    return ids


def sent_after_it():
    from twisted.internet import reactor

    client = make_client()
    reactor.callWhenRunning(reactor.stop)
    run()
    event_id = capture(client)
    transport_of(client).close(1)
    assert transport_of(client).stats()["ready"] == 1
    assert transport_of(client).flush(PATIENCE_SECONDS)
    return [event_id]


def in_a_thread():
    from twisted.internet import reactor

    client = make_client()
    thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False})
    thread.start()
    ids = [capture(client) for _ in range(5)]
    assert transport_of(client).flush(PATIENCE_SECONDS)
    ids.append(capture(client))
    transport_of(client).close(PATIENCE_SECONDS)
    assert not transport_of(client).flusher.spool.leadership.is_held
    reactor.callFromThread(reactor.stop)
    thread.join(PATIENCE_SECONDS)
    return ids


def awaited_ends():
    """Many `aclose` at once, of transports of several kinds on one spool."""
    from twisted.internet import defer, task

    clients = [make_client(cls) for cls in [TwistedHTTPTransport, SpoolTransport] * 10]
    ids = []

    async def main(reactor):
        ids.extend(capture(client) for client in clients)
        assert await transport_of(clients[0]).aflush(PATIENCE_SECONDS)
        ids.extend(capture(client) for client in clients)
        closing = [transport_of(client).aclose(PATIENCE_SECONDS) for client in clients[::2]]
        await defer.gatherResults(closing)

    with contextlib.suppress(SystemExit):  # what `react` ends with
        task.react(lambda reactor: defer.ensureDeferred(main(reactor)))
    return ids


def flushed_inside():
    """It holds the reactor up, for it was asked to; it may not lock it up."""
    from twisted.internet import reactor

    client, ids = make_client(), []

    def flush():
        for _ in range(2):
            ids.append(capture(client))
            assert transport_of(client).flush(PATIENCE_SECONDS)
        ids.append(capture(client))

    reactor.callWhenRunning(flush)
    stop_when(delivered(client, 3))
    run()
    return ids


def stopped_in_the_middle():
    """The server holds its answers back: nothing can be delivered."""
    from twisted.internet import reactor

    assert not reactor.running
    client = make_client(concurrency=1)
    ids = [capture(client) for _ in range(10)]
    spool = transport_of(client).flusher.spool
    stop_when(lambda: spool.leadership.is_held)
    run()
    assert not spool.leadership.is_held
    assert transport_of(client).stats()["ready"] == 10
    return ids


def closed_before_shutdown():
    """As twistd's services end: in a trigger, whose Deferred the reactor waits for."""
    from twisted.internet import reactor

    client = make_client(concurrency=1)
    ids = [capture(client) for _ in range(10)]
    close = transport_of(client).aclose
    reactor.addSystemEventTrigger("before", "shutdown", close, PATIENCE_SECONDS)
    stop_when(delivered(client, 1))
    run()
    return ids


def closed_too_late():
    """The reactor's threads have gone; the process ends all the same."""
    from twisted.internet import reactor

    client = make_client(concurrency=1)
    capture(client)
    reactor.addSystemEventTrigger("during", "shutdown", transport_of(client).aclose, 1)
    stop_when(delivered(client, 1))
    run()
    return []


def another_reactor():
    """The application installs its own after our first event."""
    client = make_client()
    first = capture(client)
    from twisted.internet import asyncioreactor

    asyncioreactor.install()
    stop_when(delivered(client, 2))
    second = capture(client)
    run()
    return [first, second]


if __name__ == "__main__":
    ids: list[str] = []
    try:
        ids = globals()[sys.argv[1]]()
    finally:
        print(json.dumps(ids))
