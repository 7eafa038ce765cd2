"""raven's transports over a spool, under raven's module and class names."""

from raven_spool.transport.asyncio import AsyncioHTTPTransport
from raven_spool.transport.base import AsyncTransport, Transport, has_newstyle_transports
from raven_spool.transport.eventlet import EventletHTTPTransport
from raven_spool.transport.exceptions import DuplicateScheme, InvalidScheme
from raven_spool.transport.gevent import GeventedHTTPTransport
from raven_spool.transport.http import HTTPTransport
from raven_spool.transport.registry import TransportRegistry, default_transports, register
from raven_spool.transport.requests import RequestsHTTPTransport, ThreadedRequestsHTTPTransport
from raven_spool.transport.spool import SpoolTransport
from raven_spool.transport.threaded import ThreadedHTTPTransport
from raven_spool.transport.tornado import TornadoHTTPTransport
from raven_spool.transport.twisted import TwistedHTTPTransport

__all__ = [
    "AsyncTransport",
    "AsyncioHTTPTransport",
    "DuplicateScheme",
    "EventletHTTPTransport",
    "GeventedHTTPTransport",
    "HTTPTransport",
    "InvalidScheme",
    "RequestsHTTPTransport",
    "SpoolTransport",
    "ThreadedHTTPTransport",
    "ThreadedRequestsHTTPTransport",
    "TornadoHTTPTransport",
    "Transport",
    "TransportRegistry",
    "TwistedHTTPTransport",
    "default_transports",
    "has_newstyle_transports",
    "register",
]
