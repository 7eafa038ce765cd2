"""A raven client per request, made, used once and forgotten; what grows?

    python -m tests.e2e.programs_frameworks.client_per_request KIND NUMBER

Prints, as a line of JSON each, what the process holds after a tenth of them and after all.
"""

import gc
import json
import os
import sys
import threading
from pathlib import Path

import raven

from raven_spool import SpoolTransport

DSN = "http://public:secret@127.0.0.1:9/1"
SPOOL = os.environ["RAVEN_SPOOL_PATH"]
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Discarding:
    """A transport of the application's own, which has nothing but what raven asks of one."""

    is_async = False

    def send(self, url, data, headers):
        return None


def make_client(kind):
    match kind:
        case "dsn":
            query = f"spool_path={SPOOL}&backend=none&fsync=no"
            return raven.Client(f"{DSN}?{query}", transport=SpoolTransport)
        case "instance":
            return raven.Client(DSN, transport=SpoolTransport(backend="none", fsync="no"))
        case "sender":
            return raven.Client(DSN, transport=SpoolTransport(sender=Discarding(), fsync="no"))
        case "raven":
            return raven.Client(DSN, transport=Discarding)
    raise ValueError(kind)


def serve(kind, number):
    client = make_client(kind)
    assert client.captureMessage(f"order {number} failed")
    # raven keeps the context of each client made in this thread, 44 kB each, and walks through
    # all of them at each log line, unless it is told that the request is over.
    client.context.clear(deactivate=True)


def measure(number):
    gc.collect()
    return {
        "clients": number,
        "rss_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES,
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(os.listdir("/proc/self/task")),
        "threads": threading.active_count(),
    }


def main():
    kind, count = sys.argv[1], int(sys.argv[2])
    for number in range(1, count + 1):
        serve(kind, number)
        if number in (count // 10, count):
            print(json.dumps(measure(number)), flush=True)
    if kind != "raven":
        stats = SpoolTransport(backend="none").stats()
        print(json.dumps({name: stats[name] for name in ("accepted", "dropped", "volatile")}))


if __name__ == "__main__":
    main()
