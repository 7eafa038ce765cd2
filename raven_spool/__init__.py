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
    "SpoolUncertain",
    "SpoolUnusable",
]


def __getattr__(name: str) -> Any:
    # The drain and tenacity behind it take most of an import; `raven-spool ls` needs neither.
    if name == "SpoolTransport":
        from raven_spool.transport import SpoolTransport

        return SpoolTransport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
