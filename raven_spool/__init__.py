"""Durable delivery of error events: raven's transport layer over an on-disk spool."""

from raven_spool.errors import (
    BackendUnavailable,
    ConfigurationError,
    EventNotFound,
    SchemaTooNew,
    SpoolBusy,
    SpoolCorrupt,
    SpoolError,
    SpoolFull,
    SpoolUnusable,
)
from raven_spool.transport import SpoolTransport

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "ConfigurationError",
    "EventNotFound",
    "SchemaTooNew",
    "SpoolBusy",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolFull",
    "SpoolTransport",
    "SpoolUnusable",
]
