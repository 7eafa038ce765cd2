"""The program that each contestant of reliability.py is put into: captures events, then ends.

    python bench/_contestants.py '{"who": "sentry-sdk", "dsn": ..., "store": DIRECTORY,
                                   "diary": FILE, "count": 20, "ending": "exit"}'

It is what its user would write, with the defaults it comes with. The diary gets a line when a
capture has returned: the event's id, or what was raised, and the milliseconds it took.
"""

import json
import logging
import os
import resource
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from _capturing import make_client

_PATIENCE_SECONDS = 10.0  # for a flush, and for what a child of a fork has to send

Capture = Callable[[str], str]
Flush = Callable[[], object]
Told = Mapping[str, Any]


def main() -> None:
    told = json.loads(sys.argv[1])
    with ExitStack() as stack:
        if told.get("days_ago"):
            import freezegun

            then = datetime.now(UTC) - timedelta(days=told["days_ago"])
            stack.enter_context(freezegun.freeze_time(then, tick=True))
        if told.get("largest_file"):
            limits = (told["largest_file"], resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        live(told)


def live(told: Told) -> None:
    capture, flush = MAKERS[told["who"]](told["dsn"], Path(told["store"]))
    if told.get("forks"):
        write_down(told["diary"], capture)
        if os.fork():
            os.wait()
            return
    for _ in range(told["count"]):
        write_down(told["diary"], capture)
        time.sleep(told.get("pause", 0))
    ENDINGS[told["ending"]](flush)


def write_down(diary: str, capture: Capture) -> None:
    began = time.perf_counter()
    try:
        line = {"id": capture(f"event {began}")}
    except Exception as error:  # noqa: BLE001 whatever it is, it is counted
        line = {"raised": type(error).__name__}
    row = {**line, "ms": 1e3 * (time.perf_counter() - began)}
    with open(diary, "a") as file:
        file.write(json.dumps(row) + "\n")


def stay_then_leave(flush: Flush) -> None:
    """As a forked worker ends, after some time: without atexit."""
    time.sleep(_PATIENCE_SECONDS)
    os._exit(0)


ENDINGS: Mapping[str, Callable[[Flush], object]] = {
    "exit": lambda flush: None,
    "flush": lambda flush: flush(),
    "kill": lambda flush: os.kill(os.getpid(), signal.SIGKILL),
    "_exit": lambda flush: os._exit(0),
    "stay": stay_then_leave,
}


# -- the contestants ------------------------------------------------------------------------------


def make_spooling(dsn: str, store: Path) -> tuple[Capture, Flush]:
    client = make_client(f"{dsn}?spool_path={store}", "raven_spool:SpoolTransport")
    return _capture_of(client), lambda: client.remote.get_transport().flush(_PATIENCE_SECONDS)


def make_raven(transport: str) -> Callable[[str, Path], tuple[Capture, Flush]]:
    def make(dsn: str, store: Path) -> tuple[Capture, Flush]:
        return _capture_of(make_client(dsn, transport)), lambda: None

    return make


def _capture_of(client: Any) -> Capture:
    def capture(text: str) -> str:
        try:
            event_id: str = client.captureMessage(text)
        finally:
            client.context.clear()
        return event_id

    return capture


def make_sdk(dsn: str, store: Path, **options: Any) -> tuple[Capture, Flush]:
    import sentry_sdk

    sentry_sdk.init(dsn, **options)
    return (
        lambda text: str(sentry_sdk.capture_message(text)),
        lambda: sentry_sdk.flush(_PATIENCE_SECONDS),
    )


def make_offline(dsn: str, store: Path) -> tuple[Capture, Flush]:
    from sentry_offline import make_offline_transport

    return make_sdk(dsn, store, transport=make_offline_transport(storage_path=store))


def make_logstash(dsn: str, store: Path) -> tuple[Capture, Flush]:
    """It sends log records to Logstash; the text of each is an id of ours."""
    from logstash_async.handler import AsynchronousLogstashHandler

    server = urlsplit(dsn)
    store.mkdir(exist_ok=True)
    handler = AsynchronousLogstashHandler(
        server.hostname,
        server.port,
        database_path=str(store / "events.db"),
        transport="logstash_async.transport.HttpTransport",
        ssl_enable=False,
    )
    logger = logging.getLogger("app")
    logger.addHandler(handler)

    def capture(text: str) -> str:
        event_id = uuid.uuid4().hex
        logger.error(event_id)
        return event_id

    return capture, lambda: None  # its end flushes


MAKERS: Mapping[str, Callable[[str, Path], tuple[Capture, Flush]]] = {
    "raven_spool": make_spooling,
    "raven": make_raven("raven.transport.threaded:ThreadedHTTPTransport"),
    "raven-sync": make_raven("raven.transport.http:HTTPTransport"),
    "sentry-sdk": make_sdk,
    "sentry-offline": make_offline,
    "logstash": make_logstash,
}


if __name__ == "__main__":
    main()
