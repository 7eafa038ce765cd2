"""A WSGI application whose every order fails, reported as raven users do it: with the middleware.

Told by the environment: SENTRY_DSN, RAVEN_SPOOL_PATH, and SHOP_DIARY, a file that gets a line
"pid event_id" for each of the SHOP_IMPORT_CAPTURES events that are captured while this module is
imported. Each answer names the process, and the event if there is one.
"""

import os
import sys
import time

import raven
from raven.middleware import Sentry

from raven_spool import SpoolTransport


class OrderFailed(Exception):
    pass


def retry_soon(state):
    return 0.1


client = raven.Client(transport=SpoolTransport(wait=retry_soon, shutdown_timeout=1))


def open_shop():
    with open(os.environ["SHOP_DIARY"], "a", buffering=1) as diary:
        for number in range(int(os.environ["SHOP_IMPORT_CAPTURES"])):
            event_id = client.captureMessage(f"the shop opens, {number}")
            diary.write(f"{os.getpid()} {event_id}\n")


def take_order(environ, start_response):
    raise OrderFailed(environ["PATH_INFO"])


def application(environ, start_response):
    headers = [("X-Process", str(os.getpid())), ("X-Threads", runs_threads())]
    headers += [("Content-Length", "0")]
    if environ["PATH_INFO"] == "/":
        time.sleep(0.02)  # who comes meanwhile is served by another worker
        start_response("200 OK", headers)
        return []
    try:
        list(take_reported_order(environ, start_response))
    except OrderFailed:
        # raven takes a new exception at a freed one's address for one that it has seen.
        client.context.clear()
        headers += [("X-Event-ID", client.last_event_id)]
        start_response("500 Internal Server Error", headers)
    return []


def runs_threads():
    """Whether this server lets Python threads run: uWSGI may not."""
    uwsgi = sys.modules.get("uwsgi")
    return "yes" if uwsgi is None or uwsgi.has_threads else "no"


take_reported_order = Sentry(take_order, client)
open_shop()
