"""Durable delivery of error events: raven's transport layer over an on-disk spool."""

from typing import TYPE_CHECKING, Any

from raven_spool.errors import (
    BackendUnavailable,
    ConfigurationError,
    EventNotFound,
    SchemaTooNew,
    SpoolBusy,
    SpoolCorrupt,
    SpoolError,
    SpoolFull,
    SpoolUncertain,
    SpoolUnusable,
)

if TYPE_CHECKING:
    from raven_spool.transport import SpoolTransport, register

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
    "SpoolUncertain",
    "SpoolUnusable",
    "register",
]


def __getattr__(name: str) -> Any:
    # The drain and tenacity behind it take most of an import; `raven-spool ls` needs neither.
    if name in ("SpoolTransport", "register"):
        from raven_spool import transport

        return getattr(transport, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
