"""raven.transport.threaded: a thread delivers. What raven uses where it is told nothing."""

from raven_spool.transport.base import AsyncTransport
from raven_spool.transport.http import HTTPTransport


class ThreadedHTTPTransport(HTTPTransport, AsyncTransport):
    """Commits the event and returns; a thread of the process delivers it.

    Takes what `HTTPTransport` takes; among its options is `shutdown_timeout`, the seconds that
    the process may take at its end to deliver what is left (default 2). What remains then stays
    in the spool.
    """

    is_async = True
    scheme = ["http", "https", "threaded+http", "threaded+https"]
    defaults = {"backend": "thread"}
