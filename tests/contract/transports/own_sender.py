"""A transport of the user's own that is spooled: here raven's synchronous one."""

from typing import Any

from raven.transport.http import HTTPTransport

from raven_spool import SpoolTransport


def make_transport(**options: str) -> Any:
    sender = HTTPTransport(timeout=float(options.get("timeout", 5)))
    return SpoolTransport(sender=sender, **options)
