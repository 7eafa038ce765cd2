"""raven.transport.registry: which class serves which scheme of a DSN."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlparse

from raven_spool.senders.convention import adapt, make
from raven_spool.transport.asyncio import AsyncioHTTPTransport
from raven_spool.transport.eventlet import EventletHTTPTransport
from raven_spool.transport.exceptions import DuplicateScheme
from raven_spool.transport.gevent import GeventedHTTPTransport
from raven_spool.transport.http import HTTPTransport
from raven_spool.transport.requests import RequestsHTTPTransport, ThreadedRequestsHTTPTransport
from raven_spool.transport.spool import SpoolTransport
from raven_spool.transport.threaded import ThreadedHTTPTransport
from raven_spool.transport.tornado import TornadoHTTPTransport
from raven_spool.transport.twisted import TwistedHTTPTransport


class TransportRegistry:
    """raven's, and `register`. Iterates over the classes it has."""

    def __init__(self, transports: Iterable[Any] | None = None) -> None:
        self._schemes: dict[str, Any] = {}
        self._transports: dict[str, Any] = {}
        for transport in transports or ():
            self.register_transport(transport)

    def __iter__(self) -> Iterator[Any]:
        return iter(dict.fromkeys(self._schemes.values()))

    def __bool__(self) -> bool:
        return True  # raven asks whether it was given one

    def register(self, scheme: str, cls: Any) -> None:
        """From now on DSNs of this scheme are served by `cls`, whatever served them before.

        A class that was not written for raven 6 (it needs `parsed_url`, or its `send` takes
        `(data, headers)`) is adapted.
        """
        self._schemes[scheme] = cls
        self._transports.clear()  # what was made for the scheme is the old class's

    def register_scheme(self, scheme: str, cls: Any) -> None:
        """As `register`, for a scheme that nobody serves.

        Raises:
            DuplicateScheme: it is served already.
        """
        if scheme in self._schemes:
            raise DuplicateScheme(
                f"{scheme} is served by {self._schemes[scheme]!r}: `register` replaces it"
            )
        self.register(scheme, cls)

    def register_transport(self, transport: Any) -> None:
        """Register a class for the schemes it declares.

        Raises:
            AttributeError: it declares none.
            DuplicateScheme: one of them is served already.
        """
        schemes: Any = getattr(transport, "scheme", None)
        if not hasattr(schemes, "__iter__") or isinstance(schemes, str):
            raise AttributeError(f"Transport {transport!r} must have a scheme list")
        for scheme in schemes:
            self.register_scheme(scheme, transport)

    def supported_scheme(self, scheme: str) -> bool:
        return scheme in self._schemes

    def get_transport(self, parsed_url: Any, **options: Any) -> Any:
        """The transport of an address, made once; its class gets `parsed_url` if it takes it.

        Raises:
            KeyError: nobody serves its scheme.
        """
        address = parsed_url.geturl()
        if address not in self._transports:
            plain = urlparse(address.split("?")[0])
            self._transports[address] = make(self._schemes[plain.scheme], plain, options)
        return self._transports[address]

    def get_transport_cls(self, scheme: str) -> Any:
        """The class of a scheme, as raven 6 makes and calls it.

        Raises:
            KeyError: nobody serves it.
        """
        return adapt(self._schemes[scheme])


default_transports = TransportRegistry(
    [
        HTTPTransport,
        ThreadedHTTPTransport,
        RequestsHTTPTransport,
        ThreadedRequestsHTTPTransport,
        GeventedHTTPTransport,
        EventletHTTPTransport,
        TwistedHTTPTransport,
        TornadoHTTPTransport,
        AsyncioHTTPTransport,
        SpoolTransport,
    ]
)


def register() -> None:
    """Make every raven client that is made from now on spool, whatever its DSN's scheme.

    `default_transports` becomes raven's registry; schemes that others have added or replaced
    there stay theirs. May be called any number of times.
    """
    from raven.base import Client

    theirs = Client._registry
    if theirs is default_transports:
        return
    for scheme, cls in theirs._schemes.items():
        if not _is_ravens_own(cls):
            default_transports.register(scheme, cls)
        elif not default_transports.supported_scheme(scheme):
            default_transports.register(scheme, SpoolTransport)  # of another raven than 6.10
    Client._registry = default_transports


def _is_ravens_own(cls: Any) -> bool:
    module = sys.modules.get(getattr(cls, "__module__", ""))
    return module is not None and module.__name__.startswith("raven.transport.")
