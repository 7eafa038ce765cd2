"""A Tornado handler that fails; raven's mixin reports it, and the IOLoop delivers the reports.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=./spool python -m examples.tornado_handler

The program serves on a free port of its own, asks itself for ten orders, and ends.
"""

import asyncio
import logging

import raven
from raven.contrib.tornado import SentryMixin
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from raven_spool.transport.tornado import TornadoHTTPTransport

captured, delivered = [], []


class OrderHandler(SentryMixin, RequestHandler):
    def get(self, number):
        raise ValueError(f"order {number}: not found")

    def write_error(self, status_code, **kwargs):
        error, event_id = kwargs["exc_info"][1], self.get_sentry_client().last_event_id
        self.finish(f"{error}; reported as {event_id}")


def make_application():
    application = Application([(r"/order/(\d+)", OrderHandler)])
    # Not raven's AsyncSentryClient: that one sends by itself, past all transports.
    application.sentry_client = raven.Client(
        transport=TornadoHTTPTransport(on_delivered=delivered.append)
    )
    return application


async def take_orders(port):
    for number in range(1, 11):
        url = f"http://127.0.0.1:{port}/order/{number}"
        answer = (await AsyncHTTPClient().fetch(url, raise_error=False)).body.decode()
        print(answer)
        captured.append(answer.split()[-1])


async def main() -> None:
    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # it would print each traceback
    application = make_application()
    [listener] = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(application)
    server.add_socket(listener)
    await take_orders(listener.getsockname()[1])
    server.stop()
    await application.sentry_client.remote.get_transport().aclose()  # delivers what is left
    print(f"captured {len(captured)}, delivered {len(delivered)}")


if __name__ == "__main__":
    asyncio.run(main())
