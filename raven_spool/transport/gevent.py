"""raven.transport.gevent: greenlets deliver."""

from contextlib import suppress
from typing import Any

from raven_spool.transport.base import AsyncTransport, SpoolingTransport
from raven_spool.transport.spool import SpoolTransport

_MOST_WORKERS = 64


class GeventedHTTPTransport(SpoolTransport, AsyncTransport):
    """Commits the event and returns; greenlets of gevent's hub deliver it.

    It needs no monkey patching. `flush` and `close` let other greenlets go on.

    Args:
        parsed_url: accepted as raven's registry gives it; the address comes with each `send`.
        timeout: seconds for one whole HTTP exchange.
        pool_size: requests under way at once (default 10, at most 64; more is taken for 64).
        maximum_outstanding_requests: raven's name for it.
        options: those of `SpoolTransport`.

    Raises:
        BackendUnavailable: the library is not installed.
        ConfigurationError: a keyword has a value that can't be used.
    """

    is_async = True
    scheme = ["gevent+http", "gevent+https"]
    defaults = {"backend": "gevent", "concurrency": "10"}

    def __init__(
        self,
        parsed_url: Any = None,
        timeout: float | str | None = None,
        pool_size: int | str | None = None,
        *,
        maximum_outstanding_requests: int | str | None = None,
        **options: Any,
    ) -> None:
        size = maximum_outstanding_requests if pool_size is None else pool_size
        super().__init__(parsed_url, timeout, **{**_workers(size), **options})

    def __call__(
        self,
        *,
        pool_size: int | str | None = None,
        maximum_outstanding_requests: int | str | None = None,
        **options: Any,
    ) -> SpoolingTransport:
        size = maximum_outstanding_requests if pool_size is None else pool_size
        return super().__call__(**{**_workers(size), **options})


def _workers(size: Any) -> dict[str, Any]:
    """raven's default was 100; what is no number is left for the option's reader to refuse."""
    if size is None:
        return {}
    with suppress(TypeError, ValueError):
        size = min(int(size), _MOST_WORKERS)
    return {"concurrency": size}
