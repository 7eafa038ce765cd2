"""For asyncio; raven has none."""

from raven_spool.transport.base import AsyncTransport
from raven_spool.transport.spool import SpoolTransport


class AsyncioHTTPTransport(SpoolTransport, AsyncTransport):
    """Commits the event and returns; tasks of the running asyncio loop deliver it, with aiohttp.

    What is sent while no loop runs waits in the spool for the next send within one. Within the
    loop await `aflush` and `aclose`. Takes what `SpoolTransport` takes.

    Raises:
        BackendUnavailable: aiohttp is not installed.
        ConfigurationError: a keyword has a value that can't be used.
    """

    is_async = True
    scheme = ["asyncio+http", "asyncio+https"]
    defaults = {"backend": "asyncio"}
