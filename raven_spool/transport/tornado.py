"""raven.transport.tornado: the IOLoop delivers."""

from raven_spool.transport.base import AsyncTransport
from raven_spool.transport.spool import SpoolTransport


class TornadoHTTPTransport(SpoolTransport, AsyncTransport):
    """Commits the event and returns; tasks of the running IOLoop deliver it, with AsyncHTTPClient.

    The client is Tornado's curl client: the other keeps no connection and knows no proxy. What is
    sent while no loop runs waits in the spool for the next send within one. Within the loop await
    `aflush` and `aclose`. Takes what `SpoolTransport` takes.

    Raises:
        BackendUnavailable: Tornado or pycurl is not installed.
        ConfigurationError: a keyword has a value that can't be used.
    """

    is_async = True
    scheme = ["tornado+http", "tornado+https"]
    defaults = {"backend": "tornado"}
