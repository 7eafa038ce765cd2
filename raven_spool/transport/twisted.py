"""raven.transport.twisted: the reactor delivers."""

from raven_spool.transport.base import AsyncTransport
from raven_spool.transport.spool import SpoolTransport


class TwistedHTTPTransport(SpoolTransport, AsyncTransport):
    """Commits the event and returns; Twisted's reactor delivers it, through an `Agent`.

    What is sent before the reactor runs waits for it. Within the reactor use `aflush` and `aclose`,
    which return Deferreds. Takes what `SpoolTransport` takes.

    Raises:
        BackendUnavailable: Twisted, or what it needs for TLS, is not installed.
        ConfigurationError: a keyword has a value that can't be used.
    """

    is_async = True
    scheme = ["twisted+http", "twisted+https"]
    defaults = {"backend": "twisted"}
