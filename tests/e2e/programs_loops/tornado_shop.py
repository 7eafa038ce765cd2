"""A Tornado application that makes a raven client for each order: tornado_shop DESCRIPTOR

GET /holdings tells, as JSON, what the process holds.
"""

import asyncio
import json
import signal
import socket
import sys

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from tests.e2e.programs_frameworks.client_per_request import measure
from tests.e2e.programs_loops.shop import OrderFailed, describe, make_client, report, stand_still


class Door(RequestHandler):
    def get(self):
        stand_still()
        say(self, 200, describe(None))


class Order(RequestHandler):
    async def post(self, number):
        client = make_client()
        try:
            await take_order(number)
        except OrderFailed:
            say(self, 500, describe(client, report(client)))
        finally:
            # raven keeps the context of each client that was not told that its request is over.
            client.context.clear(deactivate=True)


class Holdings(RequestHandler):
    def get(self, number):
        self.write(json.dumps(measure(int(number))))


async def take_order(number):
    await asyncio.sleep(0)
    raise OrderFailed(number)


def say(handler, status, headers):
    handler.set_status(status)
    for name, value in headers.items():
        handler.set_header(name, value)


async def main():
    ends = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ends.set)
    application = Application(
        [("/", Door), (r"/order/(\d+)", Order), (r"/holdings/(\d+)", Holdings)],
        log_function=lambda handler: None,
    )
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.setblocking(False)
    server = HTTPServer(application)
    server.add_socket(listener)
    await ends.wait()


if __name__ == "__main__":
    asyncio.run(main())
