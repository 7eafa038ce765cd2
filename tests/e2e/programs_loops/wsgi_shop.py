"""A WSGI application whose every order fails, reported by raven's middleware.

SHOP_DIARY gets a line "pid event_id" for each of the SHOP_IMPORT_CAPTURES events that are captured
while this module is imported.
"""

import os

from raven.middleware import Sentry

from tests.e2e.programs_loops.shop import OrderFailed, describe, make_client, stand_still

client = make_client()


def open_shop():
    with open(os.environ["SHOP_DIARY"], "a", buffering=1) as diary:
        for number in range(int(os.environ["SHOP_IMPORT_CAPTURES"])):
            event_id = client.captureMessage(f"the shop opens, {number}")
            diary.write(f"{os.getpid()} {event_id}\n")


def take_order(environ, start_response):
    raise OrderFailed(environ["PATH_INFO"])


def application(environ, start_response):
    if environ["PATH_INFO"] == "/":
        stand_still()
        start_response("200 OK", list(describe(client).items()))
        return []
    try:
        list(take_reported_order(environ, start_response))
    except OrderFailed:
        event_id = client.last_event_id
        client.context.clear()  # see `shop.report`
        headers = describe(client, event_id)
        start_response("500 Internal Server Error", list(headers.items()))
    return []


take_reported_order = Sentry(take_order, client)
open_shop()
