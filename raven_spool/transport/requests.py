"""raven.transport.requests: the same with the requests library."""

from typing import Any

from raven_spool.transport.base import AsyncTransport
from raven_spool.transport.http import HTTPTransport


class RequestsHTTPTransport(HTTPTransport):
    """Commits the event, then sends it with requests before `send` returns.

    As `HTTPTransport`, with `parsed_url` as its first argument.
    """

    scheme = ["requests+http", "requests+https"]
    defaults = {"backend": "inline", "sender": "requests"}

    def __init__(
        self,
        parsed_url: Any = None,
        timeout: float | str | None = None,
        verify_ssl: bool | str | None = None,
        ca_certs: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(timeout, verify_ssl, ca_certs, parsed_url=parsed_url, **options)


class ThreadedRequestsHTTPTransport(RequestsHTTPTransport, AsyncTransport):
    """Commits the event and returns; a thread of the process delivers it with requests."""

    is_async = True
    scheme = ["threaded+requests+http", "threaded+requests+https"]
    defaults = {"backend": "thread", "sender": "requests"}
