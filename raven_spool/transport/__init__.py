"""raven's transports over a spool, under raven's module and class names."""

from raven_spool.transport.base import AsyncTransport, Transport
from raven_spool.transport.exceptions import DuplicateScheme, InvalidScheme
from raven_spool.transport.spool import SpoolTransport

__all__ = ["AsyncTransport", "DuplicateScheme", "InvalidScheme", "SpoolTransport", "Transport"]
