"""Twisted's sender: its Agent in the application's reactor, kept alive."""
# mypy: allow-untyped-calls

from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead
from typing import Any, NoReturn, cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionClosed,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    ProxyAgent,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from raven_spool.model import MAX_ANSWER_BYTES, Request, Response
from raven_spool.senders._awaited import AwaitedChannelSender
from raven_spool.senders._common import build_response, headers_to_send
from raven_spool.senders._exchange import Exchange
from raven_spool.senders._route import find_route
from raven_spool.senders._twisted_tunnel import Body, Connection, Way, find_context, name_tls_error

# The server knows when to close. Twisted's own 240 s would cost a handshake for each event of a
# quiet application.
_KEPT_SECONDS = 3600

_WRAPPERS = (RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed)


class TwistedSender(AwaitedChannelSender):
    """An `AsyncSender` on twisted.web."""

    def __init__(self) -> None:
        super().__init__(_Channel, _find_reactor)


def _find_reactor() -> Any:
    from twisted.internet import reactor  # here: the application may be about to install its own

    return reactor


class _Channel:
    """An agent of one route; it keeps one connection, as there is one request at a time."""

    def __init__(self, request: Request, exchange: Exchange) -> None:
        route = find_route(request, find_context=find_context)
        self._reactor = reactor = _find_reactor()
        self._exchange = exchange
        self._way = Way(reactor, route)
        self._kept: Connection | None = None
        self._pool = HTTPConnectionPool(reactor)
        self._pool.retryAutomatically = False
        self._pool.cachedConnectionTimeout = _KEPT_SECONDS
        self._headers = {"Host": route.netloc, "Accept-Encoding": "identity"}
        if route.proxy and not route.tls:
            self._headers |= route.proxy.headers
            self._agent: Any = ProxyAgent(self._way, reactor, self._pool)
        else:
            self._agent = Agent.usingEndpointFactory(reactor, self._way, self._pool)

    async def post(self, request: Request) -> Response:
        work = Deferred.fromCoroutine(self._post(request))
        work.addTimeout(request.timeout_seconds, self._reactor, _name_timeout)
        return await work.addErrback(_raise_cause)

    async def close(self) -> None:
        self._pool.closeCachedConnections()

    async def _post(self, request: Request) -> Response:
        if self._kept and not self._kept.is_good:
            self._pool.closeCachedConnections()
        headers = _encode(headers_to_send(request) | self._headers)
        body = Body(request.body, self._exchange)
        answer = await self._agent.request(b"POST", request.url.encode("ascii"), headers, body)
        self._kept = connection = self._way.connection
        content = await _Content(connection).read(answer)
        if connection.is_deaf:
            self._pool.closeCachedConnections()
        return build_response(answer.code, _decode(answer.headers), content, missing_bytes=None)


class _Content(Protocol):
    """An answer's body, so far as anybody wants it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._content = b""
        self._whole: Deferred[bytes] = Deferred(lambda _: connection.abortConnection())

    def read(self, answer: Any) -> Deferred[bytes]:
        self._connection.head_left = float("inf")
        answer.deliverBody(self)
        return self._whole

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._content += data
        if len(self._content) > MAX_ANSWER_BYTES:
            self._connection.abortConnection()
            self._end(self._content)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override] # noqa: N802
        # A server of HTTP/1.0 may name no length: then the end of the stream is the answer's.
        is_whole = reason.check(ResponseDone, PotentialDataLoss)
        self._end(self._content if is_whole else reason)

    def _end(self, result: Any) -> None:
        if not self._whole.called:
            self._whole.callback(result)


def _encode(headers: dict[str, str]) -> Headers:
    pairs = {name.encode("latin-1"): [value.encode("latin-1")] for name, value in headers.items()}
    return Headers(pairs)


def _decode(headers: Headers) -> Iterator[tuple[str, str]]:
    for name, values in headers.getAllRawHeaders():
        for value in values:
            yield name.decode("latin-1"), value.decode("latin-1")


def _name_timeout(result: Any, _seconds: float) -> Any:
    if isinstance(result, Failure):  # each stage has another name for being cancelled
        raise TimeoutError
    return result


def _raise_cause(failure: Failure) -> NoReturn:
    raise _find_cause(cast(BaseException, failure.value))


def _find_cause(exc: BaseException) -> BaseException:
    """What the blocking senders would have raised."""
    cause: BaseException = exc.reasons[0].value if isinstance(exc, _WRAPPERS) else exc
    match cause:
        case CancelledError() | ConnectingCancelledError():
            return CancelledError()
        case SSL.Error():
            return name_tls_error(cause)
        case ConnectionAborted():  # by Twisted or by `Connection`
            return HTTPException("a line or all headers are too long")
        case ConnectionClosed() | ConnectError():
            is_half = isinstance(exc, ResponseFailed) and not isinstance(exc, ResponseNeverReceived)
            return IncompleteRead(b"") if is_half else OSError(str(cause))
        case _:
            return HTTPException(str(cause)) if isinstance(exc, ResponseFailed) else cause
