"""raven.transport.http: the sending thread delivers, with the standard library."""

from typing import Any

from raven_spool.transport.base import SpoolingTransport


class HTTPTransport(SpoolingTransport):
    """Commits the event, then sends it before `send` returns: at most `timeout` long.

    What could not be sent stays in the spool, and so does everything while the destination is
    limited or away: `send` then returns after the commit. A later send, another process on the
    same spool or `raven-spool flush` delivers it.

    Args:
        timeout: seconds for one whole HTTP exchange.
        verify_ssl: check the server's certificate and name.
        ca_certs: a file with the certificates to trust instead of the usual ones.
        parsed_url: accepted as raven's registry gives it; the address comes with each `send`.
        options: those of `SpoolTransport`.

    Raises:
        ConfigurationError: a keyword has a value that can't be used.
    """

    scheme = ["sync+http", "sync+https"]
    defaults = {"backend": "inline"}

    def __init__(
        self,
        timeout: float | str | None = None,
        verify_ssl: bool | str | None = None,
        ca_certs: str | None = None,
        *,
        parsed_url: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(timeout=timeout, verify_ssl=verify_ssl, ca_certs=ca_certs, **options)
