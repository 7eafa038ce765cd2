"""The program that the contestants of backends.py are put into: captures events, then ends.

    python bench/_capturing.py '{"transport": "module:Class", "dsn": ..., "count": 20,
                                 "ending": "exit", "loop": null, "diary": FILE}'

It is what a user of raven writes; only the transport differs. The diary gets a line when a capture
has returned: the event's id, or what was raised. With a loop it captures inside it, then the loop
runs for another second, as a server's does that gets no more requests, and ends.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_GOES_ON_SECONDS = 1.0


def main() -> None:
    told = json.loads(sys.argv[1])
    run = _RUNS[told["loop"]]
    run(lambda: capture_all(told))


def capture_all(told: Mapping[str, Any]) -> Iterator[None]:
    """Yields where an application would let its loop go on."""
    with open(told["diary"], "a") as diary:
        client = make_client(told["dsn"], told["transport"])
        for number in range(told["count"]):
            diary.write(capture(client, number) + "\n")
            diary.flush()
            yield
    if told["ending"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def make_client(dsn: str, transport: str) -> Any:
    import raven

    module, _, attribute = transport.partition(":")
    made_by = getattr(importlib.import_module(module), attribute)
    return raven.Client(dsn, transport=made_by, install_sys_hook=False)


def capture(client: Any, number: int) -> str:
    try:
        event_id: str = client.captureMessage(f"event {number}")
    except Exception as error:  # noqa: BLE001 whatever it is, it is counted
        return f"raised {type(error).__name__}"
    finally:
        client.context.clear()
    return event_id


# -- loops ----------------------------------------------------------------------------------------

Work = Callable[[], Iterator[None]]


def run_plainly(work: Work) -> None:
    for _ in work():
        pass


def run_gevent(work: Work) -> None:
    import gevent.monkey

    gevent.monkey.patch_all()
    for _ in work():
        gevent.sleep(0)
    gevent.sleep(_GOES_ON_SECONDS)


def run_eventlet(work: Work) -> None:
    import eventlet

    eventlet.monkey_patch()
    for _ in work():
        eventlet.sleep(0)
    eventlet.sleep(_GOES_ON_SECONDS)


def run_asyncio(work: Work) -> None:
    """Tornado's IOLoop is this one, too."""

    async def go() -> None:
        for _ in work():
            await asyncio.sleep(0)
        await asyncio.sleep(_GOES_ON_SECONDS)

    asyncio.run(go())


def run_twisted(work: Work) -> None:
    from twisted.internet import defer, reactor, task

    async def go() -> None:
        for _ in work():
            await task.deferLater(reactor, 0)
        await task.deferLater(reactor, _GOES_ON_SECONDS)

    task.react(lambda _: defer.ensureDeferred(go()))


_RUNS = {
    None: run_plainly,
    "gevent": run_gevent,
    "eventlet": run_eventlet,
    "twisted": run_twisted,
    "tornado": run_asyncio,
    "asyncio": run_asyncio,
}


if __name__ == "__main__":
    main()
