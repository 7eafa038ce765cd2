"""What a typed application writes. mypy reads it (`make types`); nothing runs it."""

from collections.abc import Mapping
from typing import Any

import raven_spool
from raven_spool import ConfigurationError, SpoolError, SpoolTransport
from raven_spool.model import Event
from raven_spool.transport import (
    AsyncioHTTPTransport,
    EventletHTTPTransport,
    GeventedHTTPTransport,
    HTTPTransport,
    RequestsHTTPTransport,
    ThreadedHTTPTransport,
    ThreadedRequestsHTTPTransport,
    TornadoHTTPTransport,
    Transport,
    TransportRegistry,
    TwistedHTTPTransport,
    default_transports,
)


def told(event: Event) -> None:
    print(event.event_id, event.category)


def lost(event: Event, reason: str) -> None:
    print(event.event_id, reason)


transport = SpoolTransport(
    spool_path="/var/spool/app",
    timeout=10,
    fsync="always",
    concurrency=1,
    on_delivered=told,
    on_dead=lost,
)
event_id: str = transport.send("https://sentry.example/api/1/store/", b"{}", {"X-Sentry-Auth": ""})
flushed: bool = transport.flush(timeout=5.0)
stats: dict[str, Any] = transport.stats()
transport.close()
transport.close(timeout=1.5)

try:
    SpoolTransport(concurrency=0)
except ConfigurationError as error:
    caught: SpoolError = error

raven_spool.register()
inline = HTTPTransport(timeout=3, spool_path="/var/spool/app")
threaded = ThreadedHTTPTransport(timeout=10, shutdown_timeout=5)
requesting = RequestsHTTPTransport(None, 5, False, "/etc/ca.pem", group="errors")
background = ThreadedRequestsHTTPTransport(verify_ssl=True)
event_id = inline.send("https://sentry.example/api/1/store/", b"{}", {"X-Sentry-Auth": ""})
threaded.async_send("https://sentry.example/api/1/store/", b"{}", {}, print, print)


green = GeventedHTTPTransport(None, 5, 10)
greener = EventletHTTPTransport(pool_size=5, maximum_outstanding_requests=100)
reactive = [TwistedHTTPTransport(timeout=3), TornadoHTTPTransport(spool_path="/var/spool/app")]


async def end(looping: AsyncioHTTPTransport) -> bool:
    emptied: bool = await looping.aflush(timeout=5)
    await looping.aclose()
    return emptied


class Mine(Transport):
    def send(self, url: str, data: bytes, headers: Mapping[str, str]) -> None:
        print(url, len(data), dict(headers))


spooled = SpoolTransport(sender=Mine())
registry = TransportRegistry([Mine])
registry.register("https", Mine)
default_transports.register("https", Mine)
classes: list[Any] = list(default_transports)
