"""From a TCP connection to HTTP: the proxy's tunnel, TLS, and what Twisted's client leaves open.

`twisted.web.client` takes a connection for usable before its TLS handshake is done, and knows no
CONNECT. It reads headers without end, and an early answer (413 to a body that is still being sent)
only when the rest of the body is out, which it may never be.
"""
# ruff: noqa: N802
# mypy: allow-untyped-calls

import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from raven_spool.model import Request
from raven_spool.senders._awaited import is_spoken_to
from raven_spool.senders._exchange import Exchange, say_where
from raven_spool.senders._network import Network
from raven_spool.senders._route import Route, ask_for_tunnel, load_ca

_MAX_HEAD_BYTES = 64 * 1024  # of an answer; http.client allows 100 headers
_NO_LIMIT_SECONDS = 24 * 3600  # the request's own ends it long before
_PIECE_BYTES = 64 * 1024  # what a transport buffers before it says pause


@implementer(IStreamClientEndpoint, IAgentEndpointFactory)
class Way:
    """The way to a route's server, for whatever address the agent asks."""

    connection: "Connection"  # the last one that was opened

    def __init__(self, reactor: Any, route: Route) -> None:
        self._reactor = reactor
        self._route = route

    def endpointForURI(self, uri: object) -> "Way":
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        route = self._route
        self.connection = await self._open(factory)
        try:
            if route.tls and route.proxy:
                await self.connection.open_tunnel(route)
            if route.tls:
                await self.connection.start_tls(_Tls(route))
        except BaseException:
            self.connection.abortConnection()
            raise
        return self.connection.wrappedProtocol

    async def _open(self, factory: Any) -> Any:
        factory.noisy = False  # else the application's log has two lines for each connection
        hop = self._route.proxy or self._route
        address = HostnameEndpoint(self._reactor, hop.host, hop.port, timeout=_NO_LIMIT_SECONDS)
        try:
            return await address.connect(cast(Any, _Connections(factory)))
        except ConnectError as exc:
            if not isinstance(exc.osError, int):
                raise
            error = OSError(exc.osError, os.strerror(exc.osError))
        raise say_where(error, hop.host, hop.port)


@implementer(IHandshakeListener)
class Connection(ProtocolWrapper):
    """Between TCP or TLS below and the agent's HTTP above."""

    transport: Any
    _step: Deferred[Any] | None = None  # of the opening: until it fires, HTTP hears nothing
    _heard = b""
    _body: "Body | None" = None  # on its way
    head_left: float = _MAX_HEAD_BYTES
    _is_aborted = False
    is_deaf = False  # an answer came before its request was out: nothing more is written

    async def open_tunnel(self, route: Route) -> None:
        self.transport.write(ask_for_tunnel(route))
        self._step = Deferred()
        head = await self._step
        version, _, words = head.partition(b"\r\n")[0].partition(b" ")
        if not version.startswith(b"HTTP/1.") or not words.startswith(b"2"):
            raise OSError(f"the proxy refused the tunnel: {words.decode('latin-1')}")

    async def start_tls(self, tls: "_Tls") -> None:
        self._step = Deferred()
        self.transport.startTLS(tls)
        await self._step
        tls.check_name()

    def handshakeCompleted(self) -> None:
        self._end_step(None)

    def dataReceived(self, data: bytes) -> None:
        if self._step:
            self._hear(data)
            return
        if self._body:
            self.is_deaf = True
            self._body.skip()  # until it is out, the agent would not look at the answer
        self.head_left -= len(data)
        super().dataReceived(data)
        if self.head_left < 0:
            self.abortConnection()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        self._end_step(reason)  # a Failure is raised where it is awaited
        super().connectionLost(reason)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._body = producer
        self._body.connection = self
        self.head_left = _MAX_HEAD_BYTES
        super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._body = None
        super().unregisterProducer()

    def write(self, data: bytes) -> None:
        if not self.is_deaf:
            super().write(data)

    def loseConnection(self) -> None:
        # In good order, TLS waits for the other side's goodbye, and a dead one says none.
        self.abortConnection()

    def abortConnection(self) -> None:
        self._is_aborted = True  # the agent hears of it a turn of the reactor later
        self.transport.abortConnection()

    @property
    def is_good(self) -> bool:
        """Whether it may take another request. -1: it has ended."""
        descriptor = self.transport.fileno()
        return descriptor >= 0 and not self._is_aborted and not is_spoken_to(descriptor)

    def _hear(self, data: bytes) -> None:
        self._heard += data
        if b"\r\n\r\n" in self._heard or len(self._heard) > _MAX_HEAD_BYTES:
            self._end_step(self._heard)

    def _end_step(self, result: Any) -> None:
        step, self._step = self._step, None
        if step and not step.called:
            step.callback(result)


class _Connections(WrappingFactory):
    noisy = False
    protocol = Connection


@implementer(IBodyProducer)
class Body:
    """A request's body, which goes out as the connection takes it, and says how far it got."""

    connection: Connection

    def __init__(self, content: bytes, exchange: Exchange) -> None:
        self.length = len(content)
        self._content = content
        self._start = 0
        self._exchange = exchange
        self._may_write = True
        self._is_over = False
        self._out: Deferred[None] = Deferred()

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self._exchange.connected = True
        self._consumer = consumer
        self.resumeProducing()
        return self._out

    def pauseProducing(self) -> None:
        self._may_write = False

    def resumeProducing(self) -> None:
        self._may_write = True
        while self._may_write and self._start < self.length:
            piece = self._content[self._start : self._start + _PIECE_BYTES]
            self._start += len(piece)
            self._consumer.write(piece)
        if self._start == self.length:
            self._exchange.sent = True  # what the transport has taken it may yet deliver
            self._out.callback(None)

    def skip(self) -> None:
        """End it, for the agent: the connection lets nothing more out."""
        rest = memoryview(self._content)[self._start :]
        self._start = self.length
        self._consumer.write(rest)
        self._out.callback(None)

    def stopProducing(self) -> None:
        self._may_write = False
        if not self._is_over:
            self._is_over = True
            # The connection is lost, but its socket is not closed yet: an answer may be in it.
            self.connection.transport.doRead()


@implementer(IOpenSSLClientConnectionCreator)
class _Tls:
    """What `startTLS` makes its connection with."""

    def __init__(self, route: Route) -> None:
        self._context = cast(SSL.Context, route.tls)
        self._host = route.host
        self._is_address = isIPAddress(route.host) or isIPv6Address(route.host)

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:
        self._connection = SSL.Connection(self._context, None)
        if not self._is_address:
            self._connection.set_tlsext_host_name(self._host.encode("idna"))
        return self._connection

    def check_name(self) -> None:
        if self._context.get_verify_mode() == SSL.VERIFY_NONE:
            return
        check = verify_ip_address if self._is_address else verify_hostname
        try:
            check(self._connection, self._host.encode("idna").decode("ascii"))
        except (VerificationError, CertificateError):
            raise _tls_error(f"the server's certificate is not for {self._host}") from None


def find_context(request: Request, _network: Network) -> SSL.Context:
    """As `tls_context`, for pyOpenSSL."""
    if not request.verify_ssl:
        return _make_context()
    return load_ca(request.ca_certs, _verified_context)


@lru_cache(maxsize=16)
def _verified_context(path: str, _changed_ns: int) -> SSL.Context:
    context = _make_context()
    context.set_verify(SSL.VERIFY_PEER)
    file, directory = (None, path) if Path(path).is_dir() else (path, None)
    try:
        context.load_verify_locations(file, directory)
    except SSL.Error as exc:
        raise name_tls_error(exc) from exc
    return context


def _make_context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)  # as Python's default context
    return context


def name_tls_error(exc: SSL.Error) -> ssl.SSLError:
    """In OpenSSL's words."""
    errors = exc.args[0] if exc.args and isinstance(exc.args[0], list) else []
    return _tls_error("; ".join(reason for _, _, reason in errors) or "TLS failed")


def _tls_error(text: str) -> ssl.SSLError:
    return ssl.SSLError(ssl.SSL_ERROR_SSL, text)
