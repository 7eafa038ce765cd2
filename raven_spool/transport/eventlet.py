"""raven.transport.eventlet: greenthreads deliver."""

from raven_spool.transport.gevent import GeventedHTTPTransport


class EventletHTTPTransport(GeventedHTTPTransport):
    """As `GeventedHTTPTransport`, with greenthreads of eventlet's hub."""

    scheme = ["eventlet+http", "eventlet+https"]
    defaults = {"backend": "eventlet", "concurrency": "10"}
