"""What the shops share: a client that reports, and what each answer tells of who delivers.

Told by the environment: SENTRY_DSN, RAVEN_SPOOL_PATH, and SHOP_TRANSPORT, the class to use. Where
that is the scheme of a DSN (`gevent+http`), the client is given nothing but such a DSN.
"""

import os
import sys

import raven

import raven_spool
from raven_spool import transport as transports
from raven_spool.spool import native

SHUTDOWN_SECONDS = 1


class OrderFailed(Exception):
    pass


def retry_soon(state):
    return 0.1


def make_client():
    kind = os.environ["SHOP_TRANSPORT"]
    if kind.endswith("+http"):
        raven_spool.register()
        plain = os.environ["SENTRY_DSN"].removeprefix("http")
        return raven.Client(f"{kind}{plain}?shutdown_timeout={SHUTDOWN_SECONDS}")
    make_transport = getattr(transports, kind)
    return raven.Client(
        transport=make_transport(wait=retry_soon, shutdown_timeout=SHUTDOWN_SECONDS)
    )


def report(client, error=None):
    """The error that is being handled, or that one; returns the event's id."""
    exc_info = (type(error), error, error.__traceback__) if error else sys.exc_info()
    event_id = client.captureException(exc_info=exc_info)
    # raven takes a new exception at a freed one's address for one that it has seen.
    client.context.clear()
    return event_id


def describe(client, event_id=None):
    """The headers of an answer."""
    headers = {"X-Process": str(os.getpid()), "X-Threads": "yes", "Content-Length": "0"}
    if event_id is not None:
        headers |= {"X-Event-ID": event_id, "X-Runtimes": name_runtimes(client)}
    return headers


def name_runtimes(client):
    """What was made in this process to deliver."""
    flusher = client.remote.get_transport().flusher
    return ",".join(target.partition(":")[2] for target in flusher._runtimes)


def stand_still():
    """The whole process does: who comes meanwhile is served by another worker."""
    native.sleep(0.02)
